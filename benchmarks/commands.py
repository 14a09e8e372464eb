"""How long the commands take beside a training: help, doctor, a refusal, generation, installing.

    python -m benchmarks.commands PROJECT                   some ten minutes on two cores

PROJECT is a generated project that is installed (`make demo` leaves one in build/demo). What
installs does so into a new folder, with empty caches. The table in docs/speed.md is written by it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
from pathlib import Path

from . import figures
from .measuring import Program, machine, repro, turns

TEMPLATE = Path(__file__).resolve().parents[1]
BARE = "tensorflow-cpu keras numpy scikit-learn"
"""What a person would install, whose versions nobody chose."""


def shell(name: str, script: str, target: float | None = None) -> Program:
    """A script that runs in a new folder, which is removed afterwards; nothing is in its caches."""
    clean = 'folder=$(mktemp -d) && trap \'rm -rf "$folder"\' EXIT && cd "$folder" && set -e; '
    # pip and uv keep what they downloaded below the home or where these say.
    caches = 'export PIP_NO_CACHE_DIR=1 UV_CACHE_DIR="$folder/uv" XDG_CACHE_HOME="$folder/cache"; '
    return Program(name, ("sh", "-c", clean + caches + script), TEMPLATE, target)


def quick(project: Path) -> list[Program]:
    """What answers at once."""
    generate = '-m cookiecutter --no-input --output-dir "$folder"'
    return [
        repro("`repro --help`", project, "--help", target=0.5),
        repro("`repro doctor`", project, "doctor", target=6),
        repro("a parameter refused", project, "train", "training.epochs=-1", target=1, status=2),
        shell("a project generated", f"{sys.executable} {generate} {TEMPLATE}", target=1),
    ]


def slow() -> list[Program]:
    """What downloads and installs."""
    python = getattr(sys, "_base_executable", sys.executable)
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    generate = f"-m cookiecutter --no-input {TEMPLATE} project_slug=new; cd new"
    here = f"{sys.executable} {generate}"
    make = f"make PYTHON={python} UV={uv or ''}"
    return [
        shell("`pip install`, bare", f"{python} -m venv .venv; .venv/bin/pip install -q {BARE}"),
        shell("`make install`", f"{here}; {make} install"),
        shell("`make install`, pip alone", f"{here}; make PYTHON={python} UV= install"),
        shell(
            "an empty folder to a green gate",
            f"{python} -m venv .new; .new/bin/pip install -q cookiecutter uv; "
            f".new/bin/python {generate}; "
            f'make PYTHON={python} UV="$folder/.new/bin/uv" install verify',
            target=90,
        ),
    ]


def rows(programs: list[Program], repetitions: int) -> list[list[str]]:
    found = turns(programs, repetitions)
    told = []
    for program in programs:
        walls = [one.wall for one in found[program.name]]
        aim = "" if program.target is None else f"{program.target:g} s"
        spread = f"{min(walls):.2f} to {max(walls):.2f}"
        told.append([program.name, f"{statistics.median(walls):.2f} s ({spread})", aim])
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("project", type=Path)
    parser.add_argument(
        "--repetitions", type=int, default=5, help="of what is quick; three at most"
    )
    options = parser.parse_args()
    told = rows(quick(options.project), options.repetitions)
    told += rows(slow(), min(options.repetitions, 3))
    head = ["command", "seconds, median (smallest to largest)", "aimed at, at most"]
    figures.write("commands", f"\n\n{machine()}:{figures.table(head, told)}", file="speed.md")


if __name__ == "__main__":
    main()

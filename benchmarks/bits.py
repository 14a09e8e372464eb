"""Whether two versions of the template train the same bits: each preset on each backend, shortly.

.venv/bin/python -m benchmarks.bits COMMIT                    # compares it with what is here
.venv/bin/python -m benchmarks.bits COMMIT --backends jax

`REPRO_DATA` names the folder with mnist.npz. Each training has one epoch of 15 steps. Its state
has to be the same, by its digest. Its ledger and its recipe are compared as well: they may have got
new entries, and then have others than before. docs/design.md is written.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

from tests.real.conftest import TEMPLATE, Generated, bake, environment

from . import figures

BACKENDS = ("tensorflow", "jax", "torch")
SHORT = ("training.epochs=1", "training.steps_per_epoch=15")
COMPARED = {"digest": "digest", "ledger_head": "ledger", "recipe_digest": "recipe"}
"""By the field of a manifest: its name here."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("commit", help="of the template, such as v0.1.0 or HEAD^")
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=list(BACKENDS))
    asked = parser.parse_args()
    work = TEMPLATE / "build" / "bits"
    shutil.rmtree(work, ignore_errors=True)
    before = checked_out(asked.commit, work / "template")
    tried, differing, same = 0, [], dict.fromkeys(COMPARED.values(), 0)
    for backend in asked.backends:
        python = environment(backend)
        answers = {"starter": "all", "git_init": "no"}
        projects = [
            bake(work / name / backend, python, template, **answers | {"backend": backend})
            for name, template in (("before", before), ("now", TEMPLATE))
        ]
        for preset in sorted(path.stem for path in (projects[0].root / "presets").glob("*.yaml")):
            one, other = (trained(project, preset) for project in projects)
            equal = [told for field, told in COMPARED.items() if one[field] == other[field]]
            tried += 1
            for told in equal:
                same[told] += 1
            if "digest" not in equal:
                differing.append(f"{preset} {backend}")
            print(f"{backend:<10}  {preset:<20}  same: {', '.join(equal) or 'nothing'}", flush=True)
    if asked.backends == list(BACKENDS):
        of = ", ".join(f"{count} the same {told}" for told, count in same.items())
        figures.write("bits", f"of {tried} short trainings {of}", file="design.md")
    sys.exit(f"DIFFERS: {', '.join(differing)}" if differing else 0)


def checked_out(commit: str, folder: Path) -> Path:
    """Writes the files of a commit into a folder."""
    folder.mkdir(parents=True)
    command = ["git", "-C", str(TEMPLATE), "archive", commit]
    content = subprocess.run(command, check=True, capture_output=True).stdout
    subprocess.run(["tar", "-x", "-C", str(folder)], input=content, check=True)
    return folder


def trained(project: Generated, preset: str) -> dict[str, str]:
    """What the manifest of a short training has of what is compared."""
    run = Path(project.repro("train", f"preset={preset}", *SHORT)["run_dir"])
    content = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    return {name: content[name] for name in COMPARED}


if __name__ == "__main__":
    main()

"""How the cost of a training and of a study grows: with parameters, steps, folds and trials.

    python -m benchmarks.growth PROJECT [--trials 10 100 1000] [--only trials]    2 hours, 2 cores

PROJECT is a generated project that is installed (`make demo` leaves one in build/demo). Of each
cost the last column of a table says how much of a straight line from the row above it has become:
1 grows with the number itself, less than 1 slower. The tables in docs/speed.md are written by this.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from . import figures
from .cost import SIZES
from .measuring import Measured, machine, measure, repro

PARAMETERS = SIZES | {"10^8": 1_333_333}
"""Hidden units of a dense network of 64 inputs and 10 outputs, by its number of parameters."""
SMALL = ("model.units=1", "training.epochs=1", "training.steps_per_epoch=1")
"""A training that is nothing but its process."""


def run(project: Path, *arguments: str) -> Measured:
    """A command of the project, measured once, with the answer that it printed."""
    one = measure(repro(" ".join(arguments), project, *arguments, "--json"))
    print(f"{one.wall:8.1f} s  repro {' '.join(arguments)}", file=sys.stderr, flush=True)
    return one


def manifest(one: Measured) -> dict[str, Any]:
    path = Path(one.answer["run_dir"]) / "manifest.json"
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def slope(costs: Sequence[float], sizes: Sequence[float]) -> list[str]:
    """How many times the cost grew, over how many times the size did."""
    pairs = zip(costs, costs[1:], sizes, sizes[1:], strict=False)
    return ["", *(f"{(b / a) / (n / m):.2f}" for a, b, m, n in pairs)]


def parameters(project: Path, options: argparse.Namespace) -> str:
    """Two epochs of ten steps, with a checkpoint after each; and two runs to compare."""
    head = ["parameters", "a step", "ledger, an epoch", "a checkpoint", "peak memory"]
    head += ["`repro diff`", "`repro report`", "training, of linear", "memory, of linear"]
    rows, trainings, memories = [], [], []
    for name, units in PARAMETERS.items():
        settings = (f"model.units={units}", "training.epochs=2", "training.steps_per_epoch=10")
        train = ("train", "--fresh", "--checkpoint-seconds", "0", *settings)
        one, other = run(project, *train), run(project, *train)
        content, again = manifest(one), manifest(other)
        seconds = content["seconds"]
        diff = run(project, "diff", content["run"], again["run"])
        report = run(project, "report", content["run"])
        trainings.append(seconds["training"])
        memories.append(float(content["peak_memory_bytes"]))
        rest = seconds["training"] - seconds["ledger"] - seconds["checkpoints"]
        rows.append(
            [
                name,
                f"{1000 * rest / 20:.1f} ms",
                f"{1000 * seconds['ledger'] / 2:.0f} ms",
                f"{1000 * seconds['checkpoints'] / 4:.0f} ms",
                f"{memories[-1] / 1e6:.0f} MB",
                f"{diff.wall:.1f} s",
                f"{report.wall:.1f} s",
            ]
        )
    sizes = [10.0**n for n in range(5, 5 + len(rows))]
    columns = zip(rows, slope(trainings, sizes), slope(memories, sizes), strict=True)
    return figures.table(head, [[*row, one, two] for row, one, two in columns])


def steps(project: Path, options: argparse.Namespace) -> str:
    """Epochs of 79 steps of the default model, of 64 units."""
    head = [
        "steps",
        "training",
        "ledger",
        "size of the ledger",
        "`repro diff`",
        "training, of linear",
    ]
    rows, trainings, numbers = [], [], (1, 10, 100)
    for epochs in numbers:
        train = ("train", "--fresh", "model.units=64", f"training.epochs={epochs}")
        one, other = run(project, *train), run(project, *train)
        seconds = manifest(one)["seconds"]
        trainings.append(seconds["training"])
        size = (Path(one.answer["run_dir"]) / "ledger.jsonl").stat().st_size
        diff = run(project, "diff", manifest(one)["run"], manifest(other)["run"])
        told = [f"{79 * epochs:,}", f"{trainings[-1]:.2f} s", f"{seconds['ledger']:.3f} s"]
        rows.append([*told, f"{size / 1e3:.0f} kB", f"{diff.wall:.1f} s"])
    columns = zip(rows, slope(trainings, numbers), strict=True)
    return figures.table(head, [[*row, one] for row, one in columns])


def sized(size: int, workers: int, *command: str) -> list[str]:
    """The arguments of a study of so many trainings."""
    arguments = [part.replace("SIZE", str(size)) for part in command]
    return [*arguments, *SMALL, "--workers", str(workers), "--no-verify"]


def study(
    project: Path, name: str, sizes: Sequence[int], workers: int, *command: str
) -> list[list[str]]:
    """Studies of more and more trainings that are nothing but their processes."""
    rows, walls = [], []
    for size in sizes:
        arguments = sized(size, workers, *command)
        one = run(project, *arguments, "--fresh")
        walls.append(one.wall)
        report = run(project, "report", "--study", one.answer["study"])
        page = Path(report.answer["report"])
        files = sum(path.stat().st_size for path in page.parent.rglob("*") if path.is_file())
        rows.append(
            [
                f"{size:,} {name}, {workers}",
                f"{one.wall:.0f} s",
                f"{one.wall * workers / size:.2f} s",
                f"{one.memory / 1e6:.0f} MB",
                f"{report.wall:.1f} s",
                f"{files / 1e6:.1f} MB",
                f"{opened(page):.2f} s",
            ]
        )
    return [[*row, one] for row, one in zip(rows, slope(walls, sizes), strict=True)]


def opened(page: Path) -> float:
    """Seconds until Chromium, just started, has all of a page: more than a person waits for it."""
    if figures.BROWSER is None:
        return float("nan")
    walls = []
    for _ in range(3):
        begun = time.perf_counter()
        figures.browse(page, "--dump-dom")
        walls.append(time.perf_counter() - begun)
    return statistics.median(walls)


STUDY = ["of, workers", "study", "core's time each", "peak memory of a process"]
STUDY += ["`repro report`", "its size", "opened in a browser", "study, of linear"]


def folds(project: Path, options: argparse.Namespace) -> str:
    command = ("cross-validate", "--folds", "SIZE")
    return figures.table(STUDY, study(project, "folds", (2, 5, 10, 20, 50), 2, *command))


def trials(project: Path, options: argparse.Namespace) -> str:
    rates = "optimizer.learning_rate=1e-4..1e-1 log"
    command = ("sweep", "--method", "random", "--trials", "SIZE", rates)
    sizes: list[int] = options.trials
    rows = study(project, "trials", sizes[:2], 1, *command)
    rows += study(project, "trials", sizes, 2, *command)
    figures.write("workers", many_workers(project, sizes[-1], *command), file="speed.md")
    return figures.table(STUDY, rows)


def many_workers(project: Path, size: int, *command: str) -> str:
    """What a thousand workers would do, from the parts that can be measured on one machine.

    The newest study of that size loses what it noted of its trials, of all and then of one, and
    goes on: each is handed to a worker, which finds the finished run, and noted again. Nothing is
    trained.
    """
    directory = max(project.glob("studies/*-sweep-*"), key=lambda path: path.stat().st_mtime)
    results = directory / "results.jsonl"
    noted = results.read_text(encoding="utf-8").splitlines(keepends=True)
    arguments = sized(size, 2, *command)
    walls = []
    for kept in ([], [line for line in noted if "trial" in json.loads(line)][1:]):
        results.write_text("".join(kept), encoding="utf-8")
        walls.append(run(project, *arguments).wall)
    each = (walls[0] - walls[1]) / (size - 1)
    return (
        f"{1000 * each:.0f} ms a trial to hand it out, to look at the run and to note the result, "
        "which the study's process does one after the other. With trainings of a minute it keeps "
        f"{60 / each:,.0f} workers busy, with trainings of ten minutes {600 / each:,.0f}; and a "
        f"thousand workers end a thousand trainings of a minute in {60 + 1000 * each:.0f} s"
    )


GROWTH: dict[str, Callable[[Path, argparse.Namespace], str]] = {
    "parameters": parameters,
    "steps": steps,
    "folds": folds,
    "trials": trials,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("project", type=Path)
    parser.add_argument("--trials", nargs="+", type=int, default=[10, 100, 1000])
    parser.add_argument("--only", nargs="+", choices=GROWTH, default=list(GROWTH))
    options = parser.parse_args()
    for name in options.only:
        told = GROWTH[name](options.project, options)
        figures.write(name, f"\n\n{machine()}:{told}", file="speed.md")


if __name__ == "__main__":
    main()

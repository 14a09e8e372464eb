"""What a reproducible training costs, beside what a person would write instead.

    python -m benchmarks.speed PROJECT [--jax PROJECT] [--torch PROJECT]     an hour on two cores

Each PROJECT is a generated project whose environment is installed (`make demo` leaves one in
build/demo). MNIST is read from the folder that REPRO_DATA names. All programs take turns in each
repetition, each in a process of its own, so that a machine that gets slower slows all of them; a
ratio is between two programs of one repetition, and the median over the repetitions is told. The
tables in docs/speed.md, and those of the README, are written by this.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import figures

PLAIN = Path(__file__).with_name("plain")
REFERENCE = "Keras `fit`, as in the lecture"
"""What all ratios are to: without a seed, without deterministic operations."""


@dataclass(frozen=True)
class Program:
    """A program that takes part, and the largest ratio to the reference that is aimed at."""

    name: str
    command: tuple[str, ...]
    folder: Path
    target: float | None = None


@dataclass(frozen=True)
class Measured:
    """One run of a program; in seconds and bytes."""

    wall: float
    training: float
    memory: int
    answer: dict[str, Any]


def measure(program: Program) -> Measured:
    """Runs a program, which has to succeed and to print JSON last."""
    begun = time.perf_counter()
    with subprocess.Popen(
        program.command, cwd=program.folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        said = process.stdout.read()
        # The largest of the process and of all that it has started and waited for.
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    wall = time.perf_counter() - begun
    if process.returncode:
        raise SystemExit(f"{' '.join(program.command)}: exit status {process.returncode}")
    answer: dict[str, Any] = json.loads(said.splitlines()[-1])
    scale = 1 if sys.platform == "darwin" else 1024
    return Measured(wall, _training(answer), used.ru_maxrss * scale, answer)


def _training(answer: dict[str, Any]) -> float:
    """Seconds of the training loop alone; of several, the longest."""
    if "seconds" in answer:
        return float(answer["seconds"])
    runs = answer.get("runs") or [answer["run_dir"]]
    contents = (Path(run, "manifest.json").read_text(encoding="utf-8") for run in runs)
    return max(float(json.loads(content)["seconds"]["training"]) for content in contents)


def python(project: Path) -> str:
    environment = project.resolve() / ".venv"
    return str(environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))


def plain(name: str, project: Path, program: str, *arguments: str) -> Program:
    return Program(name, (python(project), str(PLAIN / program), *arguments), PLAIN)


def ours(
    name: str, project: Path, *arguments: str, target: float | None = None, command: str = "train"
) -> Program:
    fresh = ("--fresh",) if command == "train" else ()
    line = (python(project), "-m", "repro", command, *fresh, *arguments, "--json")
    return Program(name, line, project, target)


def programs(options: argparse.Namespace, model: str) -> list[Program]:
    """All that train one model, the reference first."""
    epochs, project = str(options.epochs), options.project
    settings = (f"preset=mnist_{model}", f"training.epochs={epochs}")
    targets = {"dense": (0.30, 0.5, 1.0), "lenet5": (0.60, 0.8, 1.5)}[model]
    found = [
        plain(REFERENCE, project, "keras_fit.py", model, epochs),
        plain("the same with its recipe", project, "keras_fit.py", model, epochs, "seeded"),
        plain("a hand-written graph", project, "graph_loop.py", model, epochs),
        plain("a hand-written graph, XLA", project, "graph_loop.py", model, epochs, "xla"),
        ours("`repro train`", project, *settings, target=targets[0]),
        ours("`portable`", project, *settings, "guarantee=portable", target=targets[1]),
        ours("`repro verify`", project, *settings, target=targets[2], command="verify"),
    ]
    if options.torch:
        found += [
            plain("plain PyTorch", options.torch, "torch_loop.py", model, epochs),
            plain("deterministic PyTorch", options.torch, "torch_loop.py", model, epochs, "seeded"),
            ours("`repro train`, PyTorch", options.torch, *settings, target=targets[0]),
        ]
    if options.jax:
        found.append(ours("`repro train`, JAX", options.jax, *settings, target=targets[0]))
    return found


def turns(chosen: Sequence[Program], repetitions: int) -> dict[str, list[Measured]]:
    """Measures all programs, one after the other, so many times, each time from another one on."""
    found: dict[str, list[Measured]] = {program.name: [] for program in chosen}
    for number in range(repetitions):
        shift = number * len(chosen) // repetitions
        for program in (*chosen[shift:], *chosen[:shift]):
            one = measure(program)
            found[program.name].append(one)
            told = f"{one.wall:7.1f} s, training {one.training:6.1f} s, {one.memory / 1e6:.0f} MB"
            print(f"{number + 1}/{repetitions} {program.name}: {told}", file=sys.stderr, flush=True)
    return found


def ratios(
    found: dict[str, list[Measured]], name: str, figure: Callable[[Measured], float]
) -> list[float]:
    pairs = zip(found[name], found[REFERENCE], strict=True)
    return [figure(one) / figure(other) for one, other in pairs]


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


HEAD = [
    "program",
    "whole command",
    "ratio",
    "aimed at",
    "training alone",
    "ratio",
    "memory, ratio",
    "test accuracy",
]


def table(chosen: Sequence[Program], found: dict[str, list[Measured]]) -> str:
    rows = []
    for program in chosen:
        runs = found[program.name]
        accuracy = runs[-1].answer.get("accuracy")
        if accuracy is None:
            accuracy = runs[-1].answer["metrics"]["test_accuracy"]
        rows.append(
            [
                program.name,
                f"{statistics.median(run.wall for run in runs):.1f} s",
                spread(ratios(found, program.name, lambda run: run.wall)),
                "" if program.target is None else f"{program.target:.2f}",
                f"{statistics.median(run.training for run in runs):.1f} s",
                spread(ratios(found, program.name, lambda run: run.training)),
                spread(ratios(found, program.name, lambda run: float(run.memory))),
                f"{accuracy:.4f}",
            ]
        )
    return figures.table(HEAD, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("project", type=Path)
    parser.add_argument("--jax", type=Path, help="a project on JAX")
    parser.add_argument("--torch", type=Path, help="a project on PyTorch")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--models", nargs="+", default=["dense", "lenet5"])
    options = parser.parse_args()
    os.environ["MNIST"] = str(Path(os.environ["REPRO_DATA"]) / "mnist.npz")
    for model in options.models:
        chosen = programs(options, model)
        figures.write(model, table(chosen, turns(chosen, options.repetitions)), file="speed.md")


if __name__ == "__main__":
    main()

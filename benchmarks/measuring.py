"""Programs measured in turns: seconds, memory, and ratios to the first of them."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Program:
    """A program that takes part."""

    name: str
    command: tuple[str, ...]
    folder: Path
    target: float | None = None
    """The largest time of the whole command aimed at: a ratio to the first's, or seconds."""
    status: int = 0
    """What it has to end with."""


@dataclass(frozen=True)
class Measured:
    """One run of a program: seconds, bytes, and the JSON that it printed last, if it did."""

    wall: float
    memory: int
    answer: dict[str, Any]


def measure(program: Program) -> Measured:
    """Runs a program with what it starts, all of which has to end as expected."""
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
    if process.returncode != program.status:
        command = " ".join(program.command)
        raise SystemExit(f"{command}: exit status {process.returncode}, not {program.status}")
    last = said.splitlines()[-1] if said else b""
    answer = json.loads(last) if last.startswith(b"{") else {}
    return Measured(wall, used.ru_maxrss * (1 if sys.platform == "darwin" else 1024), answer)


def turns(programs: Sequence[Program], repetitions: int) -> dict[str, list[Measured]]:
    """Measures all programs, one after the other, so many times, each time from another one on:
    a machine that gets slower slows all of them."""
    found: dict[str, list[Measured]] = {program.name: [] for program in programs}
    for number in range(repetitions):
        first = number * len(programs) // repetitions
        for program in (*programs[first:], *programs[:first]):
            one = measure(program)
            found[program.name].append(one)
            told = f"{one.wall:7.2f} s, {one.memory / 1e6:.0f} MB"
            print(f"{number + 1}/{repetitions} {program.name}: {told}", file=sys.stderr, flush=True)
    return found


def ratios(
    runs: Sequence[Measured], to: Sequence[Measured], figure: Callable[[Measured], float]
) -> list[float]:
    """Of a figure, within each repetition."""
    return [figure(one) / figure(other) for one, other in zip(runs, to, strict=True)]


def spread(values: Sequence[float]) -> str:
    """Median, smallest and largest."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def machine() -> str:
    """The processor and how many of its cores may be used."""
    name = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        name = names[0] if names else name
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    return f"{name}, {cores} cores, {platform.system()}"


def python(project: Path) -> str:
    """The Python of a generated project that is installed."""
    environment = project.resolve() / ".venv"
    return str(environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))


def repro(
    name: str, project: Path, *arguments: str, target: float | None = None, status: int = 0
) -> Program:
    """A command of a generated project."""
    line = (python(project), "-m", "repro", *arguments)
    return Program(name, line, project, target, status)

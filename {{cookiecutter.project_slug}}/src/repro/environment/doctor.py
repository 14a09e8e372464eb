"""Reads back what is in effect on this machine: libraries, threads and settings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pydantic

from repro import backends
from repro.basics.errors import RunFailed
from repro.environment import determinism, image, machine, provenance
from repro.environment.determinism import Promise
from repro.environment.machine import Machine
from repro.environment.provenance import Code, Origin
from repro.recipe.parameters import Parameters
from repro.recipe.project import Project
from repro.recipe.recipe import Lock, Recipe


@dataclass(frozen=True)
class ThreadPool:
    """A pool of threads that a library has started."""

    library: str
    threads: int
    kernels: str
    """The kernels that the library has chosen; empty if it does not tell."""


@dataclass(frozen=True)
class ReadBack:
    """What the libraries report in a process that was started as the process of a run is."""

    in_effect: dict[str, Any]
    environment: dict[str, str]
    versions: dict[str, str]
    machine: Machine
    gpus: list[str]
    thread_pools: list[ThreadPool]
    numpy_cpu_features: list[str]


@dataclass(frozen=True)
class Findings:
    """What is in effect, next to what was asked for."""

    read_back: ReadBack
    project: str
    origin: Origin
    code: Code
    lock: Lock
    asked: dict[str, Any]
    guarantee: Promise

    def as_json(self) -> dict[str, Any]:
        """Returns the findings as `--json` prints them."""
        content = asdict(self.read_back) | {
            "project": self.project,
            "origin": asdict(self.origin),
            "code": {"commit": self.code.commit, "dirty": self.code.dirty},
            "lock": self.lock.model_dump(mode="json"),
        }
        return content | {"asked": self.asked, "guarantee": asdict(self.guarantee)}

    def lines(self) -> list[str]:
        """Returns the findings as lines for a person."""
        read, lock, here = self.read_back, self.lock, self.read_back.machine
        text = [
            f"processor    {here.cpu}, {here.cores_available} of {here.cores} cores",
            f"GPUs         {', '.join(read.gpus) or 'none'}",
            f"system       {here.system}",
            f"image        {here.image or 'none'}",
            "libraries    " + ", ".join(f"{k} {v}" for k, v in read.versions.items()),
            f"machinery    {self.origin.told()}",
            f"lock         {lock.file} {lock.sha256[:12]}, "
            + ("NOT installed as locked" if lock.departures else "installed as locked"),
            "in effect",
        ]
        for name, value in read.in_effect.items():
            asked = self.asked.get(name, value)
            other = "" if asked == value else f"   (asked: {asked})"
            text.append(f"  {name:24} {value}{other}")
        for pool in read.thread_pools:
            text.append(f"  {pool.library:24} {pool.threads} threads {pool.kernels}")
        features = " ".join(read.numpy_cpu_features) or "its baseline"
        text.append(f"  {'NumPy uses':24} {features}")
        held = self.guarantee
        if not held.broken:
            return [*text, "", f"guarantee {held.asked} holds"]
        text += ["", f"guarantee {held.holds}; {held.asked} does NOT hold:"]
        return text + [f"  {reason}" for reason in held.broken]


def examine(project: Project, recipe: Recipe) -> Findings:
    """Starts a process as for a run, and returns what its libraries report.

    Raises:
        RunFailed: the libraries cannot be started.
        BadInput: `REPRO_IMAGE` is not a digest.
    """
    parameters = recipe.parameters
    image.current()  # A wrong REPRO_IMAGE is refused here, before the process starts.
    done = subprocess.run(
        (sys.executable, "-P", "-m", "repro.environment.doctor"),
        input=parameters.model_dump_json(),
        capture_output=True,
        text=True,
        cwd=project.root,
        env=determinism.of_process(project.root, parameters),
    )
    if done.returncode != 0:
        raise RunFailed(f"the libraries do not start:\n{done.stderr[-2000:]}")
    read = pydantic.TypeAdapter(ReadBack).validate_json(done.stdout.splitlines()[-1])
    held = determinism.guarantee(parameters, read.in_effect, recipe.lock.departures)
    return Findings(
        read,
        str(project.root),
        provenance.origin(project.root, provenance.code(project.root)),
        provenance.commit(project.root),
        recipe.lock,
        determinism.expected(parameters),
        held,
    )


def _read_back(parameters: Parameters) -> ReadBack:
    """Applies the settings, and returns what the libraries of this process report then."""
    determinism.apply(parameters, parameters.seed or 0)
    import numpy as np
    import sklearn.linear_model  # noqa: F401  # So that its thread pools are listed as well.
    import threadpoolctl

    simd: dict[str, Any] = np.show_config(mode="dicts")["SIMD Extensions"]  # type: ignore
    pools = [
        ThreadPool(
            Path(pool["filepath"]).name.split("-")[0],
            pool["num_threads"],
            pool.get("architecture", ""),
        )
        for pool in threadpoolctl.threadpool_info()
    ]
    return ReadBack(
        determinism.in_effect(parameters),
        determinism.environment(parameters),
        machine.versions(),
        machine.here(),
        backends.of(parameters.backend).gpus(),
        pools,
        simd.get("found", []),
    )


if __name__ == "__main__":
    # Libraries may print to stdout too. So stdout becomes stderr, and the answer keeps the old one.
    answer = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    found = _read_back(Parameters.model_validate_json(sys.stdin.read()))
    print(json.dumps(asdict(found)), file=answer)

"""What this machine, its libraries, threads and settings are, read back as in effect."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from repro import backends
from repro.basics.errors import RunFailed
from repro.environment import determinism, image, machine, provenance
from repro.recipe.parameters import Parameters
from repro.recipe.project import Project
from repro.recipe.recipe import Recipe


def examine(project: Project, recipe: Recipe) -> dict[str, Any]:
    """Starts a process as a run's would be, and returns what its libraries say there.

    Raises:
        RunFailed: the libraries cannot be started.
        BadInput: `REPRO_IMAGE` is no digest.
    """
    parameters = recipe.parameters
    image.current()  # Refused here, in one line.
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
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    departures = recipe.lock.departures
    code = provenance.commit(project.root)
    return found | {
        "project": str(project.root),
        "code": {"commit": code.commit, "dirty": code.dirty},
        "lock": recipe.lock.model_dump(mode="json"),
        "asked": determinism.expected(parameters),
        "guarantee": asdict(determinism.guarantee(parameters, found["in_effect"], departures)),
    }


def _read_back(parameters: Parameters) -> dict[str, Any]:
    determinism.apply(parameters, parameters.seed or 0)
    import numpy as np
    import sklearn.linear_model  # noqa: F401  # Its thread pools are to be listed as well.
    import threadpoolctl

    simd: dict[str, Any] = np.show_config(mode="dicts")["SIMD Extensions"]  # type: ignore
    return {
        "in_effect": determinism.in_effect(parameters),
        "environment": determinism.environment(parameters),
        "versions": machine.versions(),
        "machine": asdict(machine.here()),
        "gpus": backends.of(parameters.backend).gpus(),
        "thread_pools": [
            {
                "library": Path(pool["filepath"]).name.split("-")[0],
                "threads": pool["num_threads"],
                "kernels": pool.get("architecture", ""),
            }
            for pool in threadpoolctl.threadpool_info()
        ],
        "numpy_cpu_features": simd.get("found", []),
    }


def lines(found: dict[str, Any]) -> list[str]:
    """The findings for a person."""
    here, lock = found["machine"], found["lock"]
    text = [
        f"processor    {here['cpu']}, {here['cores_available']} of {here['cores']} cores",
        f"GPUs         {', '.join(found['gpus']) or 'none'}",
        f"system       {here['system']}",
        f"image        {here['image'] or 'none'}",
        "libraries    " + ", ".join(f"{k} {v}" for k, v in found["versions"].items()),
        f"lock         {lock['file']} {lock['sha256'][:12]}, "
        + ("installed as locked" if not lock["departures"] else "NOT installed as locked"),
        "in effect",
    ]
    for name, value in found["in_effect"].items():
        asked = found["asked"].get(name, value)
        text.append(f"  {name:24} {value}" + ("" if asked == value else f"   (asked: {asked})"))
    for pool in found["thread_pools"]:
        text.append(f"  {pool['library']:24} {pool['threads']} threads {pool['kernels']}")
    text.append(f"  {'NumPy uses':24} {' '.join(found['numpy_cpu_features']) or 'its baseline'}")
    guarantee = found["guarantee"]
    if guarantee["broken"]:
        text += ["", f"guarantee {guarantee['holds']}; {guarantee['asked']} does NOT hold:"]
        text += [f"  {reason}" for reason in guarantee["broken"]]
    else:
        text += ["", f"guarantee {guarantee['asked']} holds"]
    return text


if __name__ == "__main__":
    # The libraries' own messages are not the answer.
    answer = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    parameters = Parameters.model_validate_json(sys.stdin.read())
    print(json.dumps(_read_back(parameters)), file=answer)

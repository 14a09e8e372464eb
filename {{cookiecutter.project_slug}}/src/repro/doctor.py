"""What this machine, its libraries, threads and settings are, read back as in effect."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from . import determinism, launcher, manifest
from . import recipe as recipes
from .recipe import Project


def examine(project: Project, recipe: dict[str, Any]) -> dict[str, Any]:
    """Starts a process as a run's would be, and returns what its libraries say there.

    Raises:
        RunFailed: the libraries cannot be started.
    """
    parameters = recipe["parameters"]
    done = subprocess.run(
        (sys.executable, "-P", "-m", "repro.doctor"),
        input=json.dumps(parameters),
        capture_output=True,
        text=True,
        cwd=project.root,
        env=launcher.environment(parameters, [], 0),
    )
    if done.returncode != 0:
        raise launcher.RunFailed(f"the libraries do not start:\n{done.stderr[-2000:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    broken: list[str] = determinism.broken(parameters, found["in_effect"])
    broken += [f"{name}: {what}" for name, what in recipe["lock"]["departures"].items()]
    return found | {
        "project": str(project.root),
        "code": manifest.code(project.root),
        "lock": recipe["lock"],
        "asked": determinism.expected(parameters),
        "guarantee": {
            "asked": parameters["guarantee"],
            "holds": "none" if broken else parameters["guarantee"],
            "broken": broken,
        },
        "recipe_digest": recipes.digest(recipe),
    }


def _read_back(parameters: dict[str, Any]) -> dict[str, Any]:
    determinism.apply(parameters, parameters["seed"] or 0)
    import numpy as np
    import tensorflow as tf
    import threadpoolctl

    import sklearn.linear_model  # noqa: F401  # Its thread pools are to be listed as well.

    simd: dict[str, Any] = np.show_config(mode="dicts")["SIMD Extensions"]  # type: ignore
    return {
        "in_effect": determinism.in_effect(parameters),
        "environment": determinism.environment(parameters),
        "versions": manifest.versions(),
        "machine": manifest.machine(),
        "gpus": [
            tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name)
            for gpu in tf.config.list_physical_devices("GPU")
        ],
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
    machine, lock = found["machine"], found["lock"]
    text = [
        f"processor    {machine['cpu']}, {machine['cores_available']} of {machine['cores']} cores",
        f"GPUs         {', '.join(found['gpus']) or 'none'}",
        f"system       {machine['system']}",
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
        text += ["", f"guarantee {guarantee['asked']} does NOT hold:"]
        text += [f"  {reason}" for reason in guarantee["broken"]]
    else:
        text += ["", f"guarantee {guarantee['asked']} holds"]
    return text


if __name__ == "__main__":
    # The libraries' own messages are not the answer.
    answer = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    print(json.dumps(_read_back(json.load(sys.stdin))), file=answer)

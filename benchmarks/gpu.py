"""What determinism costs on a GPU.

    python -m benchmarks.gpu build/demo-jax [build/demo-torch build/demo]

Each is a project generated for a backend with starter=all and installed by `make install-cuda`.
Three models are trained in each: twice in changed surroundings, which has to end in the same bits,
then in pairs, under guarantee=machine and under guarantee=none with the same seed. The times are
those of the training alone; on JAX, XLA's compilation is part of it. LeNet-5 learns MNIST where
REPRO_DATA names its folder, else the digits. The table in docs/guarantees.md is written by this.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from . import figures
from .cost import repro

HEAD = ["backend", "model", "two runs", "`machine`", "`none`", "ratio (range)"]


def models() -> dict[str, tuple[str, ...]]:
    """What `repro` is told for each model."""
    told: dict[str, tuple[str, ...]] = {"lenet5, digits": ("model.name=lenet5",)}
    folder = os.environ.get("REPRO_DATA")
    if folder and Path(folder, "mnist.npz").is_file():
        told = {"lenet5, MNIST": ("preset=mnist_lenet5", "training.epochs=1")}
    return told | {name: (f"preset={name}",) for name in ("residual", "transformer")}


def answer(project: Path, *arguments: str) -> dict[str, Any]:
    """As `repro`, also where runs differ or a guarantee is broken, which is an answer as well."""
    try:
        return repro(project, *arguments)
    except subprocess.CalledProcessError as error:
        if error.returncode != 1 or not error.stdout:
            raise
        found: dict[str, Any] = json.loads(error.stdout)
        return found


def seconds(project: Path, *settings: str) -> float:
    """The time of one training, without the start of its process."""
    directory = Path(repro(project, "train", "--fresh", *settings)["run_dir"])
    manifest = json.loads((directory / "manifest.json").read_text(encoding="utf-8"))
    return float(manifest["seconds"]["training"])


def row(project: Path, settings: tuple[str, ...], repetitions: int) -> list[str]:
    """What two runs came to, the medians of the times, and the median of their ratios."""
    try:
        verified = answer(project, "verify", "--no-explain", *settings)
    except subprocess.CalledProcessError as error:
        if error.returncode != 4:
            raise
        return ["the training fails", "", "", ""]  # The reason was shown; the other models go on.
    told = "; ".join([verified["verdict"], *verified["guarantee"]["broken"]])
    times: dict[str, list[float]] = {"machine": [], "none": []}
    for number in range(repetitions):
        # Now the one first, now the other: neither always finds the GPU as the other left it.
        for guarantee in sorted(times, reverse=number % 2 == 1):
            times[guarantee].append(seconds(project, *settings, f"guarantee={guarantee}"))
    ratios = [one / other for one, other in zip(times["machine"], times["none"], strict=True)]
    spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    return [told, *(f"{statistics.median(some):.2f} s" for some in times.values()), spread]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("projects", nargs="+", type=Path)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument(
        "--anyway",
        action="store_true",
        help="measure also without a GPU; the table is printed and not written",
    )
    options = parser.parse_args()
    doctors = {project: answer(project, "doctor") for project in options.projects}
    without = [str(project) for project, found in doctors.items() if not found["gpus"]]
    if without and not options.anyway:
        print(f"no GPU in {', '.join(without)}: `repro doctor` says none", file=sys.stderr)
        return 2
    seen = {gpu for found in doctors.values() for gpu in found["gpus"]}
    processors = {found["machine"]["cpu"] for found in doctors.values()}
    device = ", ".join(sorted(seen)) or f"no GPU, {processors.pop()}"
    rows: list[list[str]] = []
    libraries: dict[str, None] = {}
    for project, found in doctors.items():
        backend, versions = found["in_effect"]["backend"], found["versions"]
        of_backend = {"keras", backend, f"{backend}-cpu"} & versions.keys()
        libraries |= dict.fromkeys(f"{name} {versions[name]}" for name in sorted(of_backend))
        for model, settings in models().items():
            rows.append([backend, model, *row(project, settings, options.repetitions)])
            print(*rows[-1], sep="  ", file=sys.stderr, flush=True)
            what = ", ".join([device, *libraries, f"medians of {options.repetitions} pairs"])
            table = f"{what}:{figures.table(HEAD, rows)}"
            if not options.anyway:  # A GPU that is hired may go before all is measured.
                figures.write("gpu", f"\n\n{table}")
    if options.anyway:
        print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What ledger, checkpoints and `portable` cost.

    python -m benchmarks.cost PROJECT       about 10 minutes on two cores

PROJECT is a generated project whose environment is installed (`make demo` leaves one in
build/demo). A dense network of one hidden layer with 10^5, 10^6 and 10^7 parameters is trained on
the built-in digits, with Adam; its manifest tells the seconds spent on the ledger, on checkpoints
and on all of the training. Then the two models are trained under both guarantees in turn. Medians
of five runs each; the figures in docs/guarantees.md are written by this.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import figures
from .measuring import python

# Hidden units, for 64 inputs and 10 outputs; and passes over 1,257 samples in batches of 16.
SIZES = {"10^5": 1_333, "10^6": 13_333, "10^7": 133_333}
EPOCHS = 5


def repro(project: Path, *arguments: str) -> dict[str, Any]:
    """The answer of a command of the project, which has to succeed and whose progress is shown."""
    command = [python(project), "-m", "repro", *arguments, "--json"]
    done = subprocess.run(command, cwd=project, stdout=subprocess.PIPE, check=True)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def run(project: Path, *settings: str) -> dict[str, Any]:
    """The manifest of one training."""
    answer = repro(project, "train", "--fresh", f"training.epochs={EPOCHS}", *settings)
    manifest = Path(answer["run_dir"]) / "manifest.json"
    content: dict[str, Any] = json.loads(manifest.read_text(encoding="utf-8"))
    return content


def row(name: str, runs: list[dict[str, Any]]) -> list[str]:
    """A line of the table: medians over the runs."""

    def median(figure: Callable[[dict[str, Any]], float]) -> float:
        return statistics.median(figure(content) for content in runs)

    def shares(part: str) -> str:
        of_run = median(lambda run: 100 * run["seconds"][part] / run["duration_seconds"])
        of_loop = median(lambda run: 100 * run["seconds"][part] / run["seconds"]["training"])
        return f"{of_run:.1f} % ({of_loop:.1f} %)"

    return [
        name,
        f"{median(lambda run: run['duration_seconds']):.1f} s",
        f"{median(lambda run: run['seconds']['training']):.1f} s",
        f"{median(lambda run: 1000 * run['seconds']['ledger'] / EPOCHS):.0f} ms",
        shares("ledger"),
        shares("checkpoints"),
    ]


HEAD = [
    "parameters, steps an epoch",
    "run",
    "of it training",
    "ledger, an epoch",
    "ledger, of the run (of the training)",
    "checkpoints, likewise",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("project", type=Path)
    parser.add_argument("--repetitions", type=int, default=5)
    options = parser.parse_args()
    cases: dict[str, tuple[str, ...]] = {
        f"{size}, 79 steps": (f"model.units={units}",) for size, units in SIZES.items()
    }
    # Twice the steps: were the cost to grow with steps times parameters, it would double.
    cases["10^7, 158 steps"] = (*cases["10^7, 79 steps"], "training.batch_size=8")
    rows = []
    for name, settings in cases.items():
        runs = [run(options.project, *settings) for _ in range(options.repetitions)]
        rows.append(row(name, runs))
        print(*rows[-1], sep="  ", file=sys.stderr, flush=True)
    here = runs[-1]["machine"]
    what = f"{here['cpu']}, {here['cores_available']} cores, {len(runs)} runs each, medians"
    figures.write("cost", f"\n\n{what}:{figures.table(HEAD, rows)}")
    told = []
    for model in ("dense", "lenet5"):
        ratios = []
        for _ in range(options.repetitions):
            machine, portable = (
                run(options.project, f"model.name={model}", f"guarantee={guarantee}")
                for guarantee in ("machine", "portable")
            )
            ratios.append(portable["seconds"]["training"] / machine["seconds"]["training"])
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        told.append(f"{model} {statistics.median(ratios):.2f} times the time ({spread})")
        print(told[-1], file=sys.stderr, flush=True)
    figures.write("portable cost", "; ".join(told))


if __name__ == "__main__":
    main()

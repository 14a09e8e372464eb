"""The tables of the lecture that this project comes from, on MNIST, beside its own.

    python -m benchmarks.tables PROJECT [a] [b] [c]         three quarters of an hour on two cores

PROJECT is a generated project whose environment is installed (`make demo` leaves one in
build/demo). MNIST is read from the project's `data/` or from the folder that REPRO_DATA names, else
downloaded. The tables in docs/tables.md, and the picture of a report there, are written by this.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

from . import figures
from .cost import repro

# J.-L. Charles, "Machine Learning feedbacks: Reproducibility, Meta-parameters", 2025: test accuracy
# and test loss for each batch size, with EarlyStopping(patience=1, restore_best_weights=True).
PUBLISHED = {
    16: (0.981, 0.064),
    32: (0.990, 0.035),
    64: (0.986, 0.044),
    256: (0.983, 0.050),
    512: (0.981, 0.054),
    1024: (0.987, 0.040),
}
SEEDS = {"b": 3, "c": 5}
SIZES = "training.batch_size=" + ",".join(map(str, PUBLISHED))


def write(name: str, head: list[str], rows: list[list[str]]) -> None:
    figures.write(name, figures.table(head, rows), file="tables.md")


def spread(mean: float, deviation: float | None) -> str:
    return f"{mean:.4f}" + (f" ± {deviation:.4f}" if deviation else "")


def over(values: list[float]) -> str:
    return spread(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


def mean(row: dict[str, Any], name: str) -> str:
    return spread(**row["metrics"][name])


def off(row: dict[str, Any], name: str, value: float) -> float:
    """How far a value is from the mean, in standard deviations."""
    found: dict[str, float] = row["metrics"][name]
    return (value - found["mean"]) / found["deviation"]


def gain(trials: list[dict[str, Any]], others: list[dict[str, Any]]) -> str:
    """Mean and standard error of the differences, trial by trial of the same size and seed."""
    told = []
    for name in ("test_accuracy", "test_loss"):
        pairs = zip(trials, others, strict=True)
        differences = [one["metrics"][name] - other["metrics"][name] for one, other in pairs]
        error = statistics.stdev(differences) / len(differences) ** 0.5
        told.append(f"{statistics.fmean(differences):+.4f} ± {error:.4f} in {name}")
    return " and ".join(told)


def dense(project: Path) -> None:
    """Table (a): five trainings without a seed, with one, and from a state that was saved."""
    rows = []
    for epochs, batch in ((1, 16), (10, 32)):
        what = ("preset=mnist_dense", f"training.batch_size={batch}")
        length = (f"training.epochs={epochs}",)
        none = ("seed=null", "guarantee=none", "--seeds", "5", "--no-verify")
        unseeded = repro(project, "sweep", *what, *length, *none)["trials"]
        seeded = repro(project, "verify", *what, *length, "--runs", "5")
        first = repro(project, "train", *what, "training.epochs=1")["run_dir"]
        on = (
            f"training.initial_state={first}",
            "training.initial_epoch=1",
            f"training.epochs={epochs + 1}",
        )
        reloaded = repro(project, "verify", *what, *on, "--runs", "5")
        for name, digests, metrics in (
            ("no seed", [t["digest"] for t in unseeded], [t["metrics"] for t in unseeded]),
            ("seed 1234", seeded["digests"], [seeded["metrics"]]),
            ("from a saved state", reloaded["digests"], [reloaded["metrics"]]),
        ):
            columns = [over([m[n] for m in metrics]) for n in ("val_accuracy", "val_loss")]
            different = f"{len(set(digests))} of {len(digests)}"
            rows.append([f"{epochs}", f"{batch}", name, different, *columns])
    head = ["epochs", "batch", "trainings", "different results", "val_accuracy", "val_loss"]
    write("dense", head, rows)


def batch_sizes(project: Path) -> None:
    """Table (b): 15 epochs for each size of a batch."""
    seeds = str(SEEDS["b"])
    answer = repro(project, "sweep", "preset=mnist_lenet5", SIZES, "--seeds", seeds)
    names = ("val_accuracy", "val_loss", "test_accuracy", "test_loss")
    rows = [
        [str(row["values"]["training.batch_size"]), *(mean(row, name) for name in names)]
        for row in answer["rows"]
    ]
    write("batch sizes", ["batch", *names], rows)


def early_stopping(project: Path) -> None:
    """Table (c): the same, ended by early stopping; shuffled, and with one order in all epochs."""
    study = ("sweep", "preset=mnist_lenet5_early_stopping", SIZES, "--seeds", str(SEEDS["c"]))
    answer = repro(project, *study)
    frozen = repro(project, *study, "training.shuffle=false", "--no-verify")
    rows = []
    for row, still in zip(answer["rows"], frozen["rows"], strict=True):
        size = row["values"]["training.batch_size"]
        accuracy, loss = PUBLISHED[size]
        trials = [t for t in answer["trials"] if t["configuration"] == row["configuration"]]
        seed_1234 = trials[0]["metrics"]
        published = {"test_accuracy": accuracy, "test_loss": loss}
        rows.append(
            [
                str(size),
                f"{accuracy:.3f} / {loss:.3f}",
                f"{seed_1234['test_accuracy']:.3f} / {seed_1234['test_loss']:.3f}",
                *(mean(row, name) for name in published),
                " / ".join(f"{off(row, name, value):+.1f}" for name, value in published.items()),
                *(mean(still, name) for name in published),
            ]
        )
    head = ["batch", "the lecture's", "ours, seed 1234", f"accuracy, {SEEDS['c']} seeds", "loss"]
    head += ["the lecture's, in deviations", "accuracy, order frozen", "loss, order frozen"]
    write("early stopping", head, rows)
    figures.write("shuffle", gain(answer["trials"], frozen["trials"]), file="tables.md")
    picture(Path(repro(project, "report", "--study", answer["study"])["report"]))


def picture(page: Path) -> None:
    """A screenshot of the beginning of a report."""
    if figures.BROWSER is None:
        print("no Chromium: docs/report.png is not renewed")
        return
    shot = f"--screenshot={figures.DOCS / 'report.png'}"
    figures.browse(page, "--window-size=1020,785", shot)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("project", type=Path)
    parser.add_argument("tables", nargs="*", help="of a, b and c; default: all")
    options = parser.parse_args()
    tables = options.tables or ["a", "b", "c"]
    if "a" in tables:
        dense(options.project)
    if "b" in tables:
        batch_sizes(options.project)
    if "c" in tables:
        early_stopping(options.project)


if __name__ == "__main__":
    main()

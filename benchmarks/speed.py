"""What a reproducible training costs, beside what a person would write instead.

    python -m benchmarks.speed PROJECT [--jax PROJECT] [--torch PROJECT]    an hour on two cores

Each PROJECT is a generated project that is installed (`make demo` leaves one in build/demo). MNIST
is read from the folder that REPRO_DATA names. All programs of a contest take turns in each
repetition, each in processes of its own; a ratio is between two programs of one repetition, and its
median is told. The tables in docs/speed.md, the picture there and the line in README.md are written
by this. `--only` chooses contests.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

from . import figures
from .measuring import Measured, Program, machine, measure, python, ratios, repro, spread, turns

PLAIN = Path(__file__).with_name("plain")
REFERENCE = "Keras `fit`, as in the lecture"
"""What all ratios are to: without a seed, without deterministic operations."""


def seconds(one: Measured) -> list[dict[str, float]]:
    """Of each training by its manifest: `training` and, in it, `ledger` and `checkpoints`."""
    runs = one.answer.get("runs") or [one.answer["run_dir"]]
    contents = (Path(run, "manifest.json").read_text(encoding="utf-8") for run in runs)
    return [json.loads(content)["seconds"] for content in contents]


def training(one: Measured) -> float:
    """Seconds of the training alone; of several at once, of the longest."""
    if "seconds" in one.answer:
        return float(one.answer["seconds"])
    return max(parts["training"] for parts in seconds(one))


def kept(runs: list[Measured]) -> str:
    """The share of ledger and checkpoints in the time without them."""
    if "seconds" in runs[0].answer:
        return ""
    shares = []
    for parts in (parts for one in runs for parts in seconds(one)):
        added = parts["ledger"] + parts["checkpoints"]
        shares.append(100 * added / (parts["training"] - added))
    return f"{statistics.median(shares):.1f} %"


def accuracy(one: Measured) -> float:
    """Of the 10,000 images that are not trained on: validation and test have half of them each."""
    if "accuracy" in one.answer:
        return float(one.answer["accuracy"])
    metrics = one.answer["metrics"]
    return float(metrics["val_accuracy"] + metrics["test_accuracy"]) / 2


def plain(name: str, project: Path, program: str, *arguments: str) -> Program:
    return Program(name, (python(project), str(PLAIN / program), *arguments), PLAIN)


def train(name: str, project: Path, *settings: str) -> Program:
    return repro(name, project, "train", "--fresh", *settings, "--json")


TRAIN, PORTABLE, VERIFY = "`repro train`", "`repro train`, `portable`", "`repro verify`"
AIMS = {
    "dense": {TRAIN: 0.30, PORTABLE: 0.5, VERIFY: 1.0},
    "lenet5": {TRAIN: 0.60, PORTABLE: 0.8, VERIFY: 1.5},
}
"""The largest ratios aimed at: of the training alone, but of the whole command `repro verify`."""


def one_model(model: str) -> Callable[[argparse.Namespace], list[Program]]:
    """A contest of all that train a model."""

    def programs(options: argparse.Namespace) -> list[Program]:
        epochs, project = str(options.epochs), options.project
        settings = (f"preset=mnist_{model}", f"training.epochs={epochs}")
        found = [
            plain(REFERENCE, project, "keras_fit.py", model, epochs),
            plain("the same with its recipe", project, "keras_fit.py", model, epochs, "seeded"),
            plain("a hand-written graph", project, "graph_loop.py", model, epochs),
        ]
        if model == "dense":  # XLA's convolutions take twice as long as `fit`.
            found.append(plain("the same, XLA", project, "graph_loop.py", model, epochs, "xla"))
        found.append(train(TRAIN, project, *settings))
        if model == "dense":
            xla = ("training.jit_compile=true", "threads=2")
            found.append(train("`repro train`, XLA, two threads", project, *settings, *xla))
        found += [
            train(PORTABLE, project, *settings, "guarantee=portable"),
            repro(VERIFY, project, "verify", *settings, "--json", target=AIMS[model][VERIFY]),
        ]
        if options.torch:
            loop = ("torch_loop.py", model, epochs)
            found += [
                plain("plain PyTorch", options.torch, *loop),
                plain("the same, deterministic", options.torch, *loop, "seeded"),
                train("`repro train`, PyTorch", options.torch, *settings),
            ]
        if options.jax:
            found.append(train("`repro train`, JAX", options.jax, *settings))
        return found

    return programs


def sizes(options: argparse.Namespace) -> list[Program]:
    """Six sizes of a batch, each training stopped early; the other trains as many epochs."""
    values = "16,32,64,256,512,1024"
    preset = "preset=mnist_lenet5_early_stopping"
    sweep = ("sweep", preset, f"training.batch_size={values}", "--fresh", "--json")
    ours = repro("`repro sweep`", options.project, *sweep, target=0.5)
    print("one sweep first, to learn how many epochs each size takes", file=sys.stderr, flush=True)
    runs = (options.project / "runs" / trial["run"] for trial in measure(ours).answer["trials"])
    histories = (json.loads((run / "history.json").read_text(encoding="utf-8")) for run in runs)
    epochs = ",".join(str(len(history)) for history in histories)
    name = f"Keras `fit`, {epochs} epochs"
    return [plain(name, options.project, "keras_fit.py", "lenet5", epochs), ours]


def folds(options: argparse.Namespace) -> list[Program]:
    """Five folds, of one epoch each."""
    settings = ("--folds", "5", "preset=mnist_dense", "--fresh", "--json")
    return [
        plain("scikit-learn's `cross_val_score`", options.project, "cross_validation.py"),
        repro("`repro cross-validate`", options.project, "cross-validate", *settings),
    ]


CONTESTS: dict[str, Callable[[argparse.Namespace], list[Program]]] = {
    "dense": one_model("dense"),
    "lenet5": one_model("lenet5"),
    "sizes": sizes,
    "cross-validation": folds,
}


def whole(program: Program, runs: list[Measured], first: list[Measured]) -> list[str]:
    """The columns of the whole command: its time, its ratio to the first's, the aim, and memory."""
    return [
        f"{statistics.median(one.wall for one in runs):.1f} s",
        spread(ratios(runs, first, wall)),
        aim(program.target),
        spread(ratios(runs, first, lambda one: one.memory)),
    ]


def table(programs: list[Program], found: dict[str, list[Measured]]) -> str:
    """Of programs that do the same in the end."""
    head = ["program", "whole command", "ratio", "aimed at", "peak memory, ratio"]
    rows, first = [], found[programs[0].name]
    for program in programs:
        rows.append([program.name, *whole(program, found[program.name], first)])
    return figures.table(head, rows)


def table_of_trainings(
    model: str, programs: list[Program], found: dict[str, list[Measured]]
) -> str:
    """Of programs that train one model."""
    aims = {name: ratio for name, ratio in AIMS[model].items() if name != VERIFY}
    head = ["program", "training alone", "ratio", "aimed at", "whole command", "ratio", "aimed at"]
    head += ["peak memory, ratio", "ledger and checkpoints", "accuracy"]
    rows, first = [], found[programs[0].name]
    for program in programs:
        runs = found[program.name]
        rows.append(
            [
                program.name,
                f"{statistics.median(map(training, runs)):.1f} s",
                spread(ratios(runs, first, training)),
                aim(aims.get(program.name)),
                *whole(program, runs, first),
                kept(runs),
                f"{accuracy(runs[-1]):.4f}",
            ]
        )
    return figures.table(head, rows)


def wall(one: Measured) -> float:
    return one.wall


def aim(target: float | None) -> str:
    return "" if target is None else f"{target:.2f}"


def picture(ratios_of: dict[str, list[float]], aims: dict[str, float], to: Path) -> None:
    """Bars of the ratios, the reference's at 1, with what is aimed at as a stroke."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"svg.hashsalt": "repro", "font.size": 11}):
        figure = Figure(figsize=(8, 0.4 * len(ratios_of) + 0.9), layout="constrained")
        axes = figure.add_subplot(
            xlabel="time of the training, of verify of the whole command, as a ratio"
        )
        for place, (name, values) in enumerate(ratios_of.items()):
            middle, ours = statistics.median(values), "repro" in name
            axes.barh(place, middle, color="#3987e5" if ours else "#b0b0b0")
            axes.plot([min(values), max(values)], [place, place], color="#404040", linewidth=1)
            axes.text(0.01, place, f"{middle:.2f}", va="center", color="white" if ours else "black")
            if name in aims:
                axes.plot([aims[name]] * 2, [place - 0.4, place + 0.4], color="#d8483f")
        axes.set_yticks(range(len(ratios_of)), [name.replace("`", "") for name in ratios_of])
        axes.invert_yaxis()
        axes.axvline(1, color="#404040", linestyle="--", linewidth=1)
        axes.spines[["top", "right"]].set_visible(False)
        metadata = {"Date": None, "Creator": None, "Title": "times as ratios"}
        figure.savefig(to, format="svg", facecolor="white", metadata=metadata)


def write(contest: str, told: str) -> None:
    figures.write(contest, told, file="speed.md")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("project", type=Path)
    parser.add_argument("--jax", type=Path, help="a project on JAX")
    parser.add_argument("--torch", type=Path, help="a project on PyTorch")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=CONTESTS, default=list(CONTESTS))
    options = parser.parse_args()
    mnist = Path(os.environ.get("REPRO_DATA", ""), "mnist.npz").resolve()
    if not mnist.is_file():
        parser.error(f"no {mnist}: REPRO_DATA has to name the folder with mnist.npz")
    os.environ["MNIST"] = str(mnist)
    where = f"\n\n{machine()}; {options.repetitions} repetitions"
    for contest in options.only:
        programs = CONTESTS[contest](options)
        found = turns(programs, options.repetitions)
        if contest not in AIMS:
            write(contest, f"{where}:{table(programs, found)}")
            continue
        told = table_of_trainings(contest, programs, found)
        write(contest, f"{where}, epochs: {options.epochs}:{told}")
        first = found[REFERENCE]
        ratios_of = {
            name: ratios(runs, first, wall if name == VERIFY else training)
            for name, runs in found.items()
        }
        picture(ratios_of, AIMS[contest], figures.DOCS / f"speed_{contest}.svg")
        for name in (TRAIN, VERIFY):
            ratio = f"{statistics.median(ratios_of[name]):.2f}"
            figures.write(f"{contest} {name.strip('`')}", ratio, file="../README.md")


if __name__ == "__main__":
    main()

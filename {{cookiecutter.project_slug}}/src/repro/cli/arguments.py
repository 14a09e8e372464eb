"""The arguments of the command `repro`, and what `--help` says of them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from repro.basics.files import MACHINERY

OVERRIDES: dict[str, Any] = {
    "nargs": "*",
    "metavar": "key=value",
    "help": "a parameter of params.yaml and its value, such as training.epochs=3",
}

RUN = "a run: its directory, its id, the beginning of its id, or latest"


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line; its result has the chosen command in `command`."""
    made = argparse.ArgumentParser(
        prog="repro",
        description="Train reproducibly, and prove it.",
        epilog="The exit status is 0 if all is identical or done, 1 if the runs differ or the "
        "guarantee does not hold, 2 for bad input, 3 if the runs are not comparable, 4 if the "
        "training failed, and 70 if the machinery failed: please report that. "
        "make turns every status but 0 into 2.",
    )
    made.add_argument(
        "--version",
        action=_Version,
        help="say which version of the template the machinery is from, and whether it was changed",
    )
    commands = made.add_subparsers(required=True, dest="command", metavar="command")
    for name, text, fill in (
        ("train", "train one recipe once, in one fresh process, into one run directory", _train),
        ("verify", "train the same recipe several times and compare the runs", _verify),
        ("diff", "compare two runs, and say where they first differ", _diff),
        (
            "cross-validate",
            "train once for each fold, and print mean and standard deviation",
            _cross_validate,
        ),
        ("sweep", "train with each of many values of parameters, and print a table", _sweep),
        (
            "cluster-keys",
            "make the keys by which the machines of a Dask cluster know each other",
            _cluster_keys,
        ),
        ("report", "make a page of runs or of a study, with curves, tables and pictures", _report),
        ("runs", "list the runs of the project, the newest last", _runs),
        ("presets", "list the presets, and say in a line what each one is", _presets),
        ("clean", "remove runs that nothing refers to", _clean),
        (
            "evaluate",
            "evaluate a finished run again, and compare the results with those it had",
            _evaluate,
        ),
        ("predict", "predict with a finished run for the samples of a file", _predict),
        (
            "export",
            "export the model of a finished run; the export is loaded again and compared",
            _export,
        ),
        ("image", "build the project's image, with the same bits each time", _image),
        (
            "doctor",
            "say what is in effect on this machine, and whether the guarantee holds",
            _doctor,
        ),
    ):
        fill(_add(commands, name, text))
    text = "manage the data files and data.lock, which says what each file is"
    _data(commands.add_parser("data", help=text, description=text))
    return made


class _Version(argparse.Action):
    """Prints where the machinery comes from, and ends the command."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str) -> None:
        super().__init__(option_strings, dest, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *given: object) -> None:
        from repro.environment import provenance  # It needs packages; `repro image` works without.

        root = MACHINERY.parents[1]
        print(f"repro {provenance.origin(root, provenance.code(root)).told()}")
        parser.exit()


def _add(to: Any, name: str, text: str) -> argparse.ArgumentParser:
    added: argparse.ArgumentParser = to.add_parser(name, help=text, description=text)
    added.add_argument("--json", action="store_true", help="print the answer as JSON")
    return added


def _train(made: argparse.ArgumentParser) -> None:
    made.add_argument("overrides", **OVERRIDES)
    again = made.add_mutually_exclusive_group()
    again.add_argument("--resume", metavar="RUN", help="go on with this interrupted run")
    again.add_argument(
        "--fresh",
        action="store_true",
        help="begin a new run, even if a run of this recipe can go on",
    )
    made.add_argument(
        "--checkpoint-seconds",
        type=float,
        default=60,
        metavar="S",
        help="write a checkpoint at least every S seconds (default: 60; 0: as often as possible)",
    )


def _verify(made: argparse.ArgumentParser) -> None:
    made.add_argument(
        "--runs", type=int, default=2, metavar="N", help="how many runs to make (default: 2)"
    )
    made.add_argument(
        "--vary",
        metavar="NAME,…",
        help="what to change in the surroundings of the further runs: names, all or none "
        "(default: all of them except caches, which take long)",
    )
    made.add_argument("overrides", **OVERRIDES)
    _script(made)
    recorded = made.add_mutually_exclusive_group()
    recorded.add_argument(
        "--locked",
        action="store_true",
        help="verify the recipes of results.lock and compare with what it has recorded",
    )
    recorded.add_argument(
        "--against",
        type=Path,
        metavar="FILE",
        help="do the same with another file like results.lock",
    )
    recorded.add_argument(
        "--update", action="store_true", help="verify, and record the results in results.lock"
    )
    made.add_argument(
        "--base",
        metavar="REF",
        help="with --locked: also verify the recipes that results.lock had at this commit and "
        "does not have any more (default: HEAD)",
    )
    made.add_argument(
        "--summary",
        type=Path,
        metavar="FOLDER",
        help="with --locked, --against or --update: write a summary, a report and the results "
        "into this folder",
    )
    made.add_argument(
        "--no-explain",
        action="store_true",
        help="if runs differ, do not run their steps again to find the first tensor that differs",
    )


def _script(made: argparse.ArgumentParser) -> None:
    """Adds the options of the gate for a script; it needs no project."""
    made.set_defaults(passed=[])
    given = made.add_argument_group(
        "a script of your own, in any folder",
        "repro verify --script train.py [options] -- ARGUMENTS OF THE SCRIPT",
    )
    given.add_argument(
        "--script", metavar="FILE", help="run this Python script twice as it is, and compare"
    )
    given.add_argument(
        "--output",
        action="append",
        default=[],
        metavar="PATTERN",
        help="also compare the files that it writes here, such as 'results/*.csv'; may be repeated",
    )
    given.add_argument(
        "--as-is",
        action="store_true",
        help="fix nothing; say whether it repeats by itself, and what it depends on",
    )
    given.add_argument("--python", metavar="PATH", help="the Python to run it with (default: ours)")
    given.add_argument(
        "--seed", type=int, metavar="N", help="the seed that it begins with (default: 1234)"
    )
    given.add_argument(
        "--threads",
        type=int,
        metavar="N",
        help="how many threads each library uses (default: the cores that may be used)",
    )
    given.add_argument(
        "--every",
        type=int,
        metavar="N",
        help="look at the weights each N steps, beside the first three (default: 100)",
    )
    given.add_argument(
        "--no-printed", action="store_true", help="do not compare what it prints, line by line"
    )


def _diff(made: argparse.ArgumentParser) -> None:
    made.add_argument("run_a", help=RUN)
    made.add_argument("run_b", help="the other run")
    made.add_argument(
        "--explain",
        action="store_true",
        help="run the steps again to find the first tensor that differs",
    )


def _study(made: argparse.ArgumentParser, folds: int | None) -> None:
    """Adds the options of both kinds of studies; `folds` is the default number of folds."""
    made.add_argument(
        "--folds",
        type=int,
        default=folds,
        metavar="N",
        help=f"how many folds to cut (default: {folds or 'none'})",
    )
    made.add_argument(
        "--strategy", metavar="NAME", help="how to cut: split.strategy of params.yaml"
    )
    made.add_argument(
        "--repeats",
        type=int,
        default=1,
        metavar="N",
        help="cut the folds in N ways (default: 1)",
    )
    made.add_argument(
        "--outer-folds",
        type=int,
        metavar="N",
        help="make a nested study: N folds are the test, one after the other",
    )
    made.add_argument(
        "--seeds",
        type=int,
        default=1,
        metavar="N",
        help="repeat each training with N seeds (default: 1)",
    )
    made.add_argument(
        "--monitor",
        default="val_loss",
        metavar="NAME",
        help="the result that the best is chosen by (default: val_loss)",
    )
    made.add_argument(
        "--mode",
        choices=("max", "min"),
        help="whether more or less of it is better (default: what Keras says of its metrics)",
    )
    _trainers(made)
    made.add_argument(
        "--fresh", action="store_true", help="begin a new study, even if this one can go on"
    )
    made.add_argument(
        "--no-verify", action="store_true", help="do not train the best once more to compare"
    )


def _trainers(made: argparse.ArgumentParser) -> None:
    """Adds the options that say where the trials of a study are trained."""
    made.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="how many trainings run at once on this machine (default: cores ÷ threads)",
    )
    made.add_argument(
        "--scheduler",
        metavar="URL",
        help="use the Dask cluster with this scheduler, tls://…, instead of this machine",
    )
    made.add_argument(
        "--keys",
        type=Path,
        metavar="FOLDER",
        help="the folder with the keys of the cluster (default: REPRO_CLUSTER_KEYS, or keys/)",
    )
    made.add_argument(
        "--insecure",
        action="store_true",
        help="accept a scheduler without TLS; everybody who reaches it can run code as you",
    )


def _cross_validate(made: argparse.ArgumentParser) -> None:
    _study(made, folds=5)
    made.add_argument("overrides", **OVERRIDES)


def _sweep(made: argparse.ArgumentParser) -> None:
    _study(made, folds=None)
    made.add_argument(
        "--method",
        default="grid",
        help="how to search: grid (default), random, latin_hypercube or sobol",
    )
    made.add_argument(
        "--trials", type=int, metavar="N", help="how many points to try, if the method is not grid"
    )
    made.add_argument(
        "overrides",
        nargs="*",
        metavar="key=values",
        help="a parameter with values, such as training.batch_size=16,32,64, or with a range, "
        "such as 'optimizer.learning_rate=1e-4..1e-1 log'",
    )


def _cluster_keys(made: argparse.ArgumentParser) -> None:
    made.add_argument(
        "folder", nargs="?", type=Path, metavar="FOLDER", help="where to put them (default: keys/)"
    )


def _report(made: argparse.ArgumentParser) -> None:
    made.add_argument("runs", nargs="*", metavar="run", help=RUN)
    made.add_argument(
        "--study", metavar="STUDY", help="the id of a study or latest, instead of runs"
    )
    made.add_argument(
        "--output", type=Path, metavar="FOLDER", help="where to (default: reports/<id>)"
    )


def _runs(made: argparse.ArgumentParser) -> None:
    made.add_argument(
        "--sort",
        metavar="KEY",
        help="sort by this: name, when, data, model, status, guarantee, digest, a result such as "
        "test_accuracy, or a parameter such as training.epochs (default: when)",
    )
    made.add_argument(
        "--where",
        nargs="+",
        action="extend",
        default=[],
        metavar="key=value",
        help="show only the runs for which all of this holds; the keys are those of --sort",
    )
    made.add_argument("--csv", action="store_true", help="print the list as CSV")
    made.add_argument(
        "--made",
        metavar="RUN",
        help="show instead what was made from this run: evaluations, predictions, exports",
    )


def _presets(made: argparse.ArgumentParser) -> None:
    """The command has no arguments of its own."""


def _clean(made: argparse.ArgumentParser) -> None:
    made.description = (
        "Remove the runs for which all that is given holds. A run stays in any case if a study, "
        "results.lock, params.yaml, a preset or another run refers to it, or if a process is at "
        "work on it."
    )
    made.add_argument("--keep", type=int, metavar="N", help="keep the N newest runs")
    made.add_argument("--failed", action="store_true", help="remove only runs that failed")
    made.add_argument(
        "--older", type=float, metavar="DAYS", help="remove only runs that are older than DAYS days"
    )
    made.add_argument(
        "--dry-run", action="store_true", help="say what would be removed, and remove nothing"
    )
    made.add_argument("--yes", action="store_true", help="do not ask")


def _evaluate(made: argparse.ArgumentParser) -> None:
    made.add_argument("run", help=RUN)
    made.add_argument(
        "--part",
        choices=("train", "validation", "test", "all"),
        help="the part of the data (default: test; with --data: all)",
    )
    made.add_argument(
        "--data", metavar="NAME", help="evaluate on other data: the name of their data function"
    )
    made.add_argument(
        "overrides",
        nargs="*",
        metavar="data.key=value",
        help="with --data: an argument of the data function, such as data.scaling=standard",
    )


def _predict(made: argparse.ArgumentParser) -> None:
    made.add_argument("run", help=RUN)
    made.add_argument(
        "file",
        type=Path,
        metavar="FILE",
        help="samples as the data function returns them in x: an .npy, an .npz with an array for "
        "each input, or a .csv with a row for each sample",
    )
    made.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="where to: an .npz or a .csv (default: an .npz in the run's directory)",
    )


def _export(made: argparse.ArgumentParser) -> None:
    made.add_argument("run", help=RUN)
    made.add_argument(
        "--format",
        choices=("keras", "savedmodel", "onnx"),
        default="keras",
        help="keras: an archive of Keras's (default); savedmodel: a folder of TensorFlow's; onnx: "
        "a file that other programs read, for which further packages are needed",
    )
    made.add_argument(
        "--output",
        type=Path,
        metavar="PATH",
        help="where to; it must not be there yet (default: in the run's directory)",
    )


def _image(made: argparse.ArgumentParser) -> None:
    made.add_argument(
        "device", nargs="?", default="cpu", help="cpu (default), or cuda for NVIDIA's GPUs"
    )
    made.add_argument(
        "--twice", action="store_true", help="build a second time from nothing, and compare"
    )
    made.usage = (
        "repro image [-h] [--json] [--twice] [cpu|cuda] [-- OPTION OF docker buildx build …]"
    )
    made.set_defaults(passed=[])


def _doctor(made: argparse.ArgumentParser) -> None:
    made.add_argument("overrides", **OVERRIDES)


def _data(made: argparse.ArgumentParser) -> None:
    actions = made.add_subparsers(dest="action", required=True, metavar="command")
    added = _add(actions, "add", "put a file, or each file of a folder, into data.lock")
    added.add_argument("path", type=Path, help="a file or a folder in data/")
    added.add_argument(
        "--source",
        action="append",
        default=[],
        metavar="URL",
        help="where to get it; give it again for further addresses, which are tried in order",
    )
    for action, text in (
        ("verify", "compare the files with data.lock"),
        ("fetch", "download missing files from the sources in data.lock"),
    ):
        paths = _add(actions, action, text)
        paths.add_argument(
            "paths", nargs="*", type=Path, metavar="path", help="the files (default: all)"
        )
    size = _add(actions, "check-size", "name files that are too large for git")
    size.add_argument("files", nargs="*", metavar="file", help="the files (default: all in git)")

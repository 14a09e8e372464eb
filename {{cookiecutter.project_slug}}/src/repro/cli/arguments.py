"""The arguments of the command `repro`, and what `--help` says of them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def parser() -> argparse.ArgumentParser:
    """Returns the parser. The name of the chosen command is in `command` of what it finds."""
    made = argparse.ArgumentParser(
        prog="repro",
        description="Train reproducibly, and prove it.",
        epilog="The exit status is 0 if all is identical or done, 1 if the runs differ or the "
        "guarantee does not hold, 2 for bad input, 3 if the runs are not comparable, 4 if the "
        "training failed, and 70 if the machinery failed: please report that. "
        "make turns every status but 0 into 2.",
    )
    commands = made.add_subparsers(required=True, dest="command", metavar="command")

    def add(name: str, text: str, to: Any = commands) -> argparse.ArgumentParser:
        added: argparse.ArgumentParser = to.add_parser(name, help=text, description=text)
        added.add_argument("--json", action="store_true", help="print the answer as JSON")
        return added

    overrides: dict[str, Any] = {
        "nargs": "*",
        "metavar": "key=value",
        "help": "a parameter of params.yaml and its value, such as training.epochs=3",
    }
    train = add("train", "train one recipe once, in one fresh process, into one run directory")
    train.add_argument("overrides", **overrides)
    again = train.add_mutually_exclusive_group()
    again.add_argument("--resume", metavar="RUN", help="go on with this interrupted run")
    again.add_argument(
        "--fresh",
        action="store_true",
        help="begin a new run, even if a run of this recipe can go on",
    )
    train.add_argument(
        "--checkpoint-seconds",
        type=float,
        default=60,
        metavar="S",
        help="write a checkpoint at least every S seconds (default: 60; 0: as often as possible)",
    )
    verify = add("verify", "train the same recipe several times and compare the runs")
    verify.add_argument(
        "--runs", type=int, default=2, metavar="N", help="how many runs to make (default: 2)"
    )
    verify.add_argument(
        "--vary",
        metavar="NAME,…",
        help="what to change in the surroundings of the further runs: names, all or none "
        "(default: all of them except caches, which take long)",
    )
    verify.add_argument("overrides", **overrides)
    recorded = verify.add_mutually_exclusive_group()
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
    verify.add_argument(
        "--base",
        metavar="REF",
        help="with --locked: also verify the recipes that results.lock had at this commit and "
        "does not have any more (default: HEAD)",
    )
    verify.add_argument(
        "--summary",
        type=Path,
        metavar="FOLDER",
        help="with --locked, --against or --update: write a summary, a report and the results "
        "into this folder",
    )
    verify.add_argument(
        "--no-explain",
        action="store_true",
        help="if runs differ, do not run their steps again to find the first tensor that differs",
    )
    diff = add("diff", "compare two runs, and say where they first differ")
    diff.add_argument("run_a", help="a run directory, or the beginning of a run's id")
    diff.add_argument("run_b")
    diff.add_argument(
        "--explain",
        action="store_true",
        help="run the steps again to find the first tensor that differs",
    )
    folds = add("cross-validate", "train once for each fold, and print mean and standard deviation")
    sweep = add("sweep", "train with each of many values of parameters, and print a table")
    for study in (folds, sweep):
        default = 5 if study is folds else None
        study.add_argument(
            "--folds",
            type=int,
            default=default,
            metavar="N",
            help=f"how many folds to cut (default: {default or 'none'})",
        )
        study.add_argument(
            "--strategy", metavar="NAME", help="how to cut: split.strategy of params.yaml"
        )
        study.add_argument(
            "--repeats",
            type=int,
            default=1,
            metavar="N",
            help="cut the folds in N ways (default: 1)",
        )
        study.add_argument(
            "--outer-folds",
            type=int,
            metavar="N",
            help="make a nested study: N folds are the test, one after the other",
        )
        study.add_argument(
            "--seeds",
            type=int,
            default=1,
            metavar="N",
            help="repeat each training with N seeds (default: 1)",
        )
        study.add_argument(
            "--monitor",
            default="val_loss",
            metavar="NAME",
            help="the result that the best is chosen by (default: val_loss)",
        )
        study.add_argument(
            "--mode",
            choices=("max", "min"),
            help="whether more or less of it is better (default: what Keras says of its metrics)",
        )
        study.add_argument(
            "--workers",
            type=int,
            metavar="N",
            help="how many trainings run at once on this machine (default: cores ÷ threads)",
        )
        study.add_argument(
            "--scheduler",
            metavar="URL",
            help="use the Dask cluster with this scheduler, tls://…, instead of this machine",
        )
        study.add_argument(
            "--keys",
            type=Path,
            metavar="FOLDER",
            help="the folder with the keys of the cluster (default: REPRO_CLUSTER_KEYS, or keys/)",
        )
        study.add_argument(
            "--insecure",
            action="store_true",
            help="accept a scheduler without TLS; everybody who reaches it can run code as you",
        )
        study.add_argument(
            "--fresh", action="store_true", help="begin a new study, even if this one can go on"
        )
        study.add_argument(
            "--no-verify", action="store_true", help="do not train the best once more to compare"
        )
    sweep.add_argument(
        "--method",
        default="grid",
        help="how to search: grid (default), random, latin_hypercube or sobol",
    )
    sweep.add_argument(
        "--trials", type=int, metavar="N", help="how many points to try, if the method is not grid"
    )
    sweep.add_argument(
        "overrides",
        nargs="*",
        metavar="key=values",
        help="a parameter with values, such as training.batch_size=16,32,64, or with a range, "
        "such as 'optimizer.learning_rate=1e-4..1e-1 log'",
    )
    folds.add_argument("overrides", **overrides)
    keys = add(
        "cluster-keys", "make the keys by which the machines of a Dask cluster know each other"
    )
    keys.add_argument(
        "folder", nargs="?", type=Path, metavar="FOLDER", help="where to put them (default: keys/)"
    )
    report = add("report", "make a page of runs or of a study, with curves, tables and pictures")
    report.add_argument("runs", nargs="*", metavar="run", help="a run directory or an id")
    report.add_argument("--study", metavar="STUDY", help="the id of a study, instead of runs")
    report.add_argument(
        "--output", type=Path, metavar="FOLDER", help="where to (default: reports/<id>)"
    )
    image = add("image", "build the project's image, with the same bits each time")
    image.add_argument(
        "device", nargs="?", default="cpu", help="cpu (default), or cuda for NVIDIA's GPUs"
    )
    image.add_argument(
        "--twice", action="store_true", help="build a second time from nothing, and compare"
    )
    image.usage = (
        "repro image [-h] [--json] [--twice] [cpu|cuda] [-- OPTION OF docker buildx build …]"
    )
    image.set_defaults(passed=[])
    doctor = add("doctor", "say what is in effect on this machine, and whether the guarantee holds")
    doctor.add_argument("overrides", **overrides)
    text = "manage the data files and data.lock, which says what each file is"
    of_data = commands.add_parser("data", help=text, description=text).add_subparsers(
        dest="action", required=True, metavar="command"
    )
    added = add("add", "put a file, or each file of a folder, into data.lock", of_data)
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
        paths = add(action, text, of_data)
        paths.add_argument(
            "paths", nargs="*", type=Path, metavar="path", help="the files (default: all)"
        )
    size = add("check-size", "name files that are too large for git", of_data)
    size.add_argument("files", nargs="*", metavar="file", help="the files (default: all in git)")
    return made

"""What can be asked of the command `repro`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def parser() -> argparse.ArgumentParser:
    """The parser; what it finds has the name of the `command`."""
    made = argparse.ArgumentParser(
        prog="repro",
        description="Train reproducibly, and prove it.",
        epilog="exit status: 0 identical or done, 1 the runs differ or the guarantee "
        "does not hold, 2 bad input, "
        "3 not comparable, 4 the training failed, 70 the machinery failed: report it; "
        "make knows only 0 and 2, and has 2 for all but 0",
    )
    commands = made.add_subparsers(required=True, dest="command", metavar="command")

    def add(name: str, text: str, to: Any = commands) -> argparse.ArgumentParser:
        added: argparse.ArgumentParser = to.add_parser(name, help=text, description=text)
        added.add_argument("--json", action="store_true", help="print the answer as JSON")
        return added

    overrides: dict[str, Any] = {
        "nargs": "*",
        "metavar": "key=value",
        "help": "a parameter of params.yaml, such as training.epochs=3",
    }
    train = add("train", "train once: one recipe, one fresh process, one run directory")
    train.add_argument("overrides", **overrides)
    again = train.add_mutually_exclusive_group()
    again.add_argument("--resume", metavar="RUN", help="go on with this interrupted run")
    again.add_argument(
        "--fresh", action="store_true", help="begin anew, though a run of this recipe can go on"
    )
    train.add_argument(
        "--checkpoint-seconds",
        type=float,
        default=60,
        metavar="S",
        help="time between two checkpoints at most (default: 60; 0: as many as can be)",
    )
    verify = add("verify", "train the same recipe several times and compare the runs")
    verify.add_argument("--runs", type=int, default=2, metavar="N", help="how many (default: 2)")
    verify.add_argument(
        "--vary",
        metavar="NAME,…",
        help="what the further runs have changed around them: names, all or none "
        "(default: all but caches, which take long)",
    )
    verify.add_argument("overrides", **overrides)
    recorded = verify.add_mutually_exclusive_group()
    recorded.add_argument(
        "--locked", action="store_true", help="also compare with what results.lock has recorded"
    )
    recorded.add_argument(
        "--against", type=Path, metavar="FILE", help="the same, with another such file"
    )
    recorded.add_argument(
        "--update", action="store_true", help="record in results.lock what was found"
    )
    verify.add_argument(
        "--base",
        metavar="REF",
        help="with --locked: also verify what results.lock had at this commit and has no longer "
        "(default: HEAD)",
    )
    verify.add_argument(
        "--summary",
        type=Path,
        metavar="FOLDER",
        help="with one of these three: write a summary, a report and what was found there",
    )
    verify.add_argument(
        "--no-explain",
        action="store_true",
        help="where runs differ, do not run the steps again to find the tensor",
    )
    diff = add("diff", "compare two runs: identical, or where they first differ")
    diff.add_argument("run_a", help="a run directory, or how a run's id begins")
    diff.add_argument("run_b")
    diff.add_argument(
        "--explain", action="store_true", help="run the steps again to find the tensor"
    )
    folds = add("cross-validate", "train once for each fold; mean and standard deviation")
    sweep = add("sweep", "train with each of many values of parameters; a table")
    for study in (folds, sweep):
        default = 5 if study is folds else None
        study.add_argument(
            "--folds",
            type=int,
            default=default,
            metavar="N",
            help=f"parts of a K-fold (default: {default or 'none'})",
        )
        study.add_argument("--strategy", metavar="NAME", help="split.strategy of params.yaml")
        study.add_argument(
            "--repeats", type=int, default=1, metavar="N", help="ways to cut the folds (default: 1)"
        )
        study.add_argument(
            "--outer-folds", type=int, metavar="N", help="nested: the test is a fold too"
        )
        study.add_argument(
            "--seeds", type=int, default=1, metavar="N", help="seeds for each training (default: 1)"
        )
        study.add_argument(
            "--monitor",
            default="val_loss",
            metavar="NAME",
            help="what the best is chosen by (default: val_loss)",
        )
        study.add_argument(
            "--mode",
            choices=("max", "min"),
            help="whether more or less of it is better (default: as Keras has it for its metrics)",
        )
        study.add_argument(
            "--workers",
            type=int,
            metavar="N",
            help="trainings side by side on this machine (default: cores ÷ threads)",
        )
        study.add_argument(
            "--scheduler",
            metavar="URL",
            help="of a Dask cluster, in place of this machine: tls://…",
        )
        study.add_argument(
            "--keys",
            type=Path,
            metavar="FOLDER",
            help="with the keys of the cluster (default: REPRO_CLUSTER_KEYS, else keys/)",
        )
        study.add_argument(
            "--insecure",
            action="store_true",
            help="use a scheduler without TLS, though whoever reaches it can run code as you",
        )
        study.add_argument(
            "--fresh", action="store_true", help="begin anew, though this study can go on"
        )
        study.add_argument(
            "--no-verify", action="store_true", help="do not train the best once more"
        )
    sweep.add_argument(
        "--method", default="grid", help="grid (default), random, latin_hypercube or sobol"
    )
    sweep.add_argument("--trials", type=int, metavar="N", help="how many points, without a grid")
    sweep.add_argument(
        "overrides",
        nargs="*",
        metavar="key=values",
        help="values, such as training.batch_size=16,32,64; or a range, such as "
        "'optimizer.learning_rate=1e-4..1e-1 log'",
    )
    folds.add_argument("overrides", **overrides)
    keys = add("cluster-keys", "make the keys by which a Dask cluster knows its own, once")
    keys.add_argument(
        "folder", nargs="?", type=Path, metavar="FOLDER", help="default: keys/ of the project"
    )
    report = add("report", "a page on runs, or on a study: curves, tables, pictures")
    report.add_argument("runs", nargs="*", metavar="run", help="a run directory or an id")
    report.add_argument("--study", metavar="STUDY", help="in place of runs, a study's id")
    report.add_argument("--output", type=Path, metavar="FOLDER", help="default: reports/<id>")
    image = add("image", "build the project's image; the same bits each time")
    image.add_argument(
        "device", nargs="?", default="cpu", help="cpu (default), or cuda for NVIDIA's GPUs"
    )
    image.add_argument(
        "--twice", action="store_true", help="build again, from nothing, and compare"
    )
    image.usage = (
        "repro image [-h] [--json] [--twice] [cpu|cuda] [-- OPTION OF docker buildx build …]"
    )
    image.set_defaults(passed=[])
    doctor = add("doctor", "what is in effect here, and whether the guarantee holds")
    doctor.add_argument("overrides", **overrides)
    text = "the data files, and data.lock, which says what each is"
    of_data = commands.add_parser("data", help=text, description=text).add_subparsers(
        dest="action", required=True, metavar="command"
    )
    added = add("add", "put a file, or each of a folder, into data.lock", of_data)
    added.add_argument("path", type=Path, help="a file or a folder in data/")
    added.add_argument(
        "--source",
        action="append",
        default=[],
        metavar="URL",
        help="where it can be had; given again, a further one, tried after it",
    )
    for action, text in (
        ("verify", "compare the files with data.lock"),
        ("fetch", "download what is missing, from the sources in data.lock"),
    ):
        paths = add(action, text, of_data)
        paths.add_argument("paths", nargs="*", type=Path, metavar="path", help="default: all")
    size = add("check-size", "name files that are too large for git", of_data)
    size.add_argument("files", nargs="*", metavar="file", help="default: all that git has")
    return made

"""The command `repro`. Exit status: 0 identical or done, 1 the runs differ, 2 bad input,
3 not comparable, 4 the training itself failed."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import BAD_INPUT, DIFFERS, FAILED, IDENTICAL, NOT_COMPARABLE, BadInput, RunFailed, console

if TYPE_CHECKING:
    from .recipe import Project
    from .search import Search

STATUS = {"identical": IDENTICAL, "diverged": DIFFERS, "not comparable": NOT_COMPARABLE}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status."""
    parser = _parser()
    given = list(sys.argv[1:] if arguments is None else arguments)
    # What stands behind `--` is for the program that the command calls.
    mark = given.index("--") if "--" in given else len(given)
    # Options may stand among the overrides: `repro train --json a=1` and `repro train a=1 --json`.
    options, rest = parser.parse_known_args(given[:mark])
    if given[mark + 1 :] and not hasattr(options, "passed"):
        parser.error("-- is for `repro image` alone")
    options.passed = given[mark + 1 :]
    if rest and (not hasattr(options, "overrides") or any(r.startswith("-") for r in rest)):
        parser.error(f"unknown argument: {rest[0]}")
    options.overrides = [*getattr(options, "overrides", ()), *rest]
    try:
        status: int = options.command(options)
    except BadInput as error:
        print(f"repro: {error}", file=sys.stderr)
        return BAD_INPUT
    except RunFailed as error:
        print(f"repro: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("repro: interrupted", file=sys.stderr)
        return 130
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="repro",
        description="Train reproducibly, and prove it.",
        epilog="exit status: 0 identical or done, 1 the runs differ, 2 bad input, "
        "3 not comparable, 4 the training failed",
    )
    commands = parser.add_subparsers(required=True, metavar="command")

    def add(name: str, command: Any, text: str, to: Any = commands) -> argparse.ArgumentParser:
        added: argparse.ArgumentParser = to.add_parser(name, help=text, description=text)
        added.add_argument("--json", action="store_true", help="print the answer as JSON")
        added.set_defaults(command=command)
        return added

    overrides: dict[str, Any] = {
        "nargs": "*",
        "metavar": "key=value",
        "help": "a parameter of params.yaml, such as training.epochs=3",
    }
    train = add("train", _train, "train once: one recipe, one fresh process, one run directory")
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
    verify = add("verify", _verify, "train the same recipe several times and compare the runs")
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
    diff = add("diff", _diff, "compare two runs: identical, or where they first differ")
    diff.add_argument("run_a", help="a run directory, or how a run's id begins")
    diff.add_argument("run_b")
    diff.add_argument(
        "--explain", action="store_true", help="run the steps again to find the tensor"
    )
    folds = add(
        "cross-validate", _cross_validate, "train once for each fold; mean and standard deviation"
    )
    sweep = add("sweep", _sweep, "train with each of many values of parameters; a table")
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
            help="processes that train side by side (default: cores ÷ threads)",
        )
        study.add_argument(
            "--scheduler", metavar="URL", help="of a Dask cluster, in place of local workers"
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
    report = add("report", _report, "a page on runs, or on a study: curves, tables, pictures")
    report.add_argument("runs", nargs="*", metavar="run", help="a run directory or an id")
    report.add_argument("--study", metavar="STUDY", help="in place of runs, a study's id")
    report.add_argument("--output", type=Path, metavar="FOLDER", help="default: reports/<id>")
    image = add("image", _image, "build the project's image; the same bits each time")
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
    doctor = add("doctor", _doctor, "what is in effect here, and whether the guarantee holds")
    doctor.add_argument("overrides", **overrides)
    text = "the data files, and data.lock, which says what each is"
    of_data = commands.add_parser("data", help=text, description=text).add_subparsers(
        dest="action", required=True, metavar="command"
    )
    added = add("add", _data, "put a file, or each of a folder, into data.lock", of_data)
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
        paths = add(action, _data, text, of_data)
        paths.add_argument("paths", nargs="*", type=Path, metavar="path", help="default: all")
    size = add("check-size", _data, "name files that are too large for git", of_data)
    size.add_argument("files", nargs="*", metavar="file", help="default: all that git has")
    return parser


def _train(options: argparse.Namespace) -> int:
    from . import launcher
    from . import recipe as recipes

    project = recipes.Project.find()
    if not options.checkpoint_seconds >= 0:
        raise BadInput(
            f"--checkpoint-seconds: expected 0 or more, got {options.checkpoint_seconds}"
        )
    resume: Path | None
    if options.resume:
        resume = run = recipes.find_run(project, options.resume)
        wanted = recipes.resumable(project, run, options.overrides)
    else:
        wanted = recipes.make(project, options.overrides)
        resume = None if options.fresh else launcher.interrupted(project, wanted)
    with console.Reporter() as reporter:
        directory = launcher.train(
            project,
            wanted,
            reporter,
            resume=resume,
            checkpoint_seconds=options.checkpoint_seconds,
            overrides=options.overrides,
        )
    content = recipes.read_manifest(directory)
    if options.json:
        answer = {key: content[key] for key in ("digest", "metrics", "guarantee", "recipe_digest")}
        print(json.dumps({"run_dir": str(directory)} | answer))
    else:
        print("  ".join(f"{name} {value:.4f}" for name, value in content["metrics"].items()))
        print(f"digest     {content['digest']}")
        print(f"guarantee  {console.guarantee(content)}")
        print(f"run        {directory}")
    return IDENTICAL


def _verify(options: argparse.Namespace) -> int:
    from . import gate
    from . import recipe as recipes

    recorded = options.locked or options.against or options.update
    # One run can be compared with what is recorded, but proves nothing that could be recorded.
    least = 2 if options.update or not recorded else 1
    if options.runs < least:
        raise BadInput(f"--runs: expected {least} or more, got {options.runs}")
    if options.summary and not recorded:
        raise BadInput("--summary: expected with --locked, --against or --update")
    project = recipes.Project.find()
    if recorded:
        return _verify_recorded(options, project)
    wanted = recipes.make(project, options.overrides)
    with console.Reporter() as reporter:
        answer = gate.verify(project, wanted, options.runs, reporter, options.vary, reporter.line)
    if answer["verdict"] == "diverged" and not options.no_explain:
        _explain(project, answer)
    if options.json:
        print(json.dumps(answer))
    else:
        console.print_gate(answer, f"{options.runs} runs")
    return STATUS[answer["verdict"]]


def _verify_recorded(options: argparse.Namespace, project: Project) -> int:
    """The gate for the recipes in `results.lock`, or for the one that is given."""
    from . import results

    path = options.against or project.root / results.FILE
    if options.against and not path.is_file():
        raise BadInput(f"--against: {path}: no such file; a `repro verify --summary` writes one")
    expected = results.read(path)
    given = options.overrides
    names = [results.name_of(given)] if given else list(expected) or [results.PLAIN]
    with console.Reporter() as reporter:
        outcomes = results.verify(
            project, names, expected, options.runs, reporter, options.vary, reporter.line
        )
    for outcome in outcomes:
        if outcome.answer["verdict"] == "diverged" and not options.no_explain:
            _explain(project, outcome.answer)
    found = {o.name: o.now for o in outcomes if o.now and o.answer["verdict"] == "identical"}
    if options.summary:
        from . import report

        report.write_gate(options.summary, outcomes)
        results.write(options.summary / results.FILE, found)
    if options.update and found:
        results.write(path, expected | found)
    if options.json:
        told = [
            {"recipe": o.name, "recorded": o.recorded, "lines": o.lines(), **o.answer}
            for o in outcomes
        ]
        print(json.dumps({"recipes": told, "updated": options.update}))
    else:
        console.print_outcomes(outcomes, options.runs, options.update)
    return results.status(outcomes, options.update)


def _diff(options: argparse.Namespace) -> int:
    from . import compare
    from . import recipe as recipes

    project = recipes.Project.find()
    one, other = (recipes.find_run(project, name) for name in (options.run_a, options.run_b))
    answer = compare.compare(one, other)
    if answer["verdict"] == "diverged" and options.explain:
        _explain(project, answer)
    if options.json:
        print(json.dumps(answer))
    else:
        console.print_verdict(answer, "2 runs")
        if answer["verdict"] == "diverged" and not options.explain:
            print("  to the tensor: repro diff --explain, which runs the steps again")
    return STATUS[answer["verdict"]]


def _cross_validate(options: argparse.Namespace) -> int:
    from .search import Search

    return _study(options, "cross-validate", Search(options.overrides))


def _sweep(options: argparse.Namespace) -> int:
    from .search import METHODS, Search

    if options.method not in METHODS:
        raise BadInput(f"--method: expected one of {', '.join(METHODS)}; got {options.method!r}")
    search = Search.read(options.overrides)
    return _study(options, "sweep", search, options.method, options.trials)


def _study(
    options: argparse.Namespace,
    kind: str,
    search: Search,
    method: str = "grid",
    points: int | None = None,
) -> int:
    from . import recipe as recipes
    from . import study
    from .search import Repetitions

    if options.workers is not None and options.workers < 1:
        raise BadInput(f"--workers: expected 1 or more, got {options.workers}")
    if options.strategy:
        search = search.fix(f"split.strategy={options.strategy}")
    project = recipes.Project.find()
    repetitions = Repetitions(options.seeds, options.folds, options.repeats, options.outer_folds)
    planned = study.plan(
        project, kind, search, repetitions, method, points, options.monitor, options.mode
    )
    trials = len(planned["trials"])
    with study.Study(project, planned, options.fresh) as one, console.Reporter(trials) as reporter:
        reporter.begin(one.done)
        answer = one.run(
            options.workers, options.scheduler, reporter, reporter.trial, not options.no_verify
        )
    verification = answer["verification"] or {"verdict": "identical"}
    if verification["verdict"] == "diverged":
        _explain(project, verification)
    if options.json:
        print(json.dumps(answer))
    else:
        console.print_study(answer)
    if answer["failed"] or verification["verdict"] == "failed":
        return FAILED
    return STATUS[verification["verdict"]]


def _report(options: argparse.Namespace) -> int:
    from . import recipe as recipes

    project = recipes.Project.find()
    if bool(options.runs) == bool(options.study):
        raise BadInput("expected one or more runs, or --study and a study's id")
    from . import report, study

    if options.study:
        title, sections = report.of_study(project, study.find(project, options.study))
    else:
        runs = [recipes.find_run(project, name) for name in options.runs]
        title, sections = report.of_runs(runs)
    folder = options.output or project.root / "reports" / title.replace(" ", "-")
    page = report.write(folder, title, sections)
    print(json.dumps({"report": str(page)}) if options.json else f"report     {page}")
    return IDENTICAL


def _image(options: argparse.Namespace) -> int:
    from . import image  # Needs the standard library alone: `make image` works without .venv.

    if options.device not in image.DEVICES:
        raise BadInput(f"image: expected {' or '.join(image.DEVICES)}, got {options.device!r}")
    answer = image.build(options.device, options.twice, options.passed)
    print(json.dumps(answer) if options.json else "\n".join(image.lines(answer)))
    return STATUS[answer.get("verdict", "identical")]


def _doctor(options: argparse.Namespace) -> int:
    from . import doctor
    from . import recipe as recipes

    project = recipes.Project.find()
    found = doctor.examine(project, recipes.make(project, options.overrides))
    print(json.dumps(found) if options.json else "\n".join(doctor.lines(found)))
    return DIFFERS if found["guarantee"]["broken"] else IDENTICAL


def _data(options: argparse.Namespace) -> int:
    from . import datafiles, recipe

    root = recipe.Project.find().root
    with console.Bytes() as bar:
        if options.action == "add":
            answer = datafiles.add(root, options.path, options.source, bar)
        elif options.action == "check-size":
            answer = datafiles.check_size(options.files)
        else:
            act = datafiles.verify if options.action == "verify" else datafiles.fetch
            answer = act(root, options.paths, bar)
    print(json.dumps(answer) if options.json else "\n".join(datafiles.lines(answer)))
    return DIFFERS if answer.get("verdict") == "differs" else IDENTICAL


def _explain(project: Project, answer: dict[str, Any]) -> None:
    """Adds to an answer which tensor was the first to differ."""
    from . import compare

    print("the runs differ; running the steps again to see where", file=sys.stderr)
    one, other = (Path(run) for run in answer.get("compared", answer["runs"]))
    with console.Reporter() as reporter:
        answer["explanation"] = compare.explain(
            project, one, other, answer["first_divergence"], reporter
        )


if __name__ == "__main__":
    sys.exit(main())

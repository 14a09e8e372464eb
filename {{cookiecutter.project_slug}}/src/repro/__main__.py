"""The command `repro`. Exit status: 0 identical or done, 1 the runs differ, 2 bad input,
3 not comparable, 4 the training itself failed."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import (
    BAD_INPUT,
    DIFFERS,
    FAILED,
    IDENTICAL,
    NOT_COMPARABLE,
    BadInput,
    RunFailed,
    arguments,
    console,
)

if TYPE_CHECKING:
    from .recipe import Project
    from .search import Search

STATUS = {"identical": IDENTICAL, "diverged": DIFFERS, "not comparable": NOT_COMPARABLE}


def main(command_line: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status."""
    parser = arguments.parser()
    given = list(sys.argv[1:] if command_line is None else command_line)
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
        status = COMMANDS[options.command](options)
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
    from . import keys, study
    from . import recipe as recipes
    from .search import Repetitions

    if options.workers is not None and options.workers < 1:
        raise BadInput(f"--workers: expected 1 or more, got {options.workers}")
    if options.strategy:
        search = search.fix(f"split.strategy={options.strategy}")
    project = recipes.Project.find()
    cluster = keys.cluster(options.scheduler, options.keys, options.insecure, project.root)
    repetitions = Repetitions(options.seeds, options.folds, options.repeats, options.outer_folds)
    planned = study.plan(
        project, kind, search, repetitions, method, points, options.monitor, options.mode
    )
    trials = len(planned["trials"])
    with study.Study(project, planned, options.fresh) as one, console.Reporter(trials) as reporter:
        reporter.begin(one.done)
        answer = one.run(options.workers, cluster, reporter, reporter.trial, not options.no_verify)
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


def _cluster_keys(options: argparse.Namespace) -> int:
    from . import keys
    from . import recipe as recipes

    made = keys.make(options.folder or recipes.Project.find().root / keys.FOLDER)
    answer = {"certificate": str(made.certificate), "key": str(made.key)}
    print(json.dumps(answer) if options.json else "\n".join(made.lines()))
    return IDENTICAL


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


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "train": _train,
    "verify": _verify,
    "diff": _diff,
    "cross-validate": _cross_validate,
    "sweep": _sweep,
    "cluster-keys": _cluster_keys,
    "report": _report,
    "image": _image,
    "doctor": _doctor,
    "data": _data,
}

if __name__ == "__main__":
    sys.exit(main())

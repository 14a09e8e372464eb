"""The command `repro`.

The exit status is 0 if all is identical or done, 1 if the runs differ or the guarantee does not
hold, 2 for bad input, 3 if the runs are not comparable, 4 if the training itself failed, and 70 for
a fault of the machinery; see `guard`.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from repro.basics import files
from repro.basics.errors import BAD_INPUT, DIFFERS, FAILED, IDENTICAL, NOT_COMPARABLE, BadInput
from repro.basics.text import printable
from repro.cli import after, arguments, console, guard
from repro.recipe.project import Project, own_machinery

if TYPE_CHECKING:
    from repro.compare.comparison import Verdict
    from repro.compare.gate_verdict import GateVerdict, Why
    from repro.study.planning import Design
    from repro.study.table import Answer

OF_SCRIPTS = ("output", "as-is", "python", "seed", "threads", "every", "no-printed")
"""The options of `verify` that are for scripts alone."""
STATUS = {"identical": IDENTICAL, "diverged": DIFFERS, "not comparable": NOT_COMPARABLE}


def main(command_line: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status, whatever happens."""
    return guard.guarded(lambda: _main(command_line))


def _main(command_line: Sequence[str] | None) -> int:
    parser = arguments.parser()
    given = list(sys.argv[1:] if command_line is None else command_line)
    # Arguments behind `--` are for the program that the command calls.
    mark = given.index("--") if "--" in given else len(given)
    # Options may stand before or after overrides: `train --json a=1` and `train a=1 --json`.
    options, rest = parser.parse_known_args(given[:mark])
    scripts = options.command == "verify" and options.script is None
    if given[mark + 1 :] and (scripts or not hasattr(options, "passed")):
        parser.error("-- is for `repro image` and `repro verify --script` alone")
    options.passed = given[mark + 1 :]
    if rest and (not hasattr(options, "overrides") or any(r.startswith("-") for r in rest)):
        parser.error(f"unknown argument: {rest[0]}")
    options.overrides = [*getattr(options, "overrides", ()), *rest]
    _end_in_order()
    if command_line is None and (source := _other_machinery(options.command)):
        return _run_with(source)
    return COMMANDS[options.command](options)


def _end_in_order() -> None:
    """Makes SIGTERM and SIGHUP end this process like Ctrl-C: what it has started is ended first."""
    if threading.current_thread() is not threading.main_thread():
        return

    def end(number: int, frame: object) -> None:
        signal.signal(number, signal.SIG_IGN)  # Ending takes a moment; a second signal is ignored.
        raise SystemExit(128 + number)

    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name) and signal.getsignal(getattr(signal, name)) is signal.SIG_DFL:
            signal.signal(getattr(signal, name), end)


def _other_machinery(command: str) -> str | None:
    """Returns the folder of the machinery of this project, if another one is running.

    It is None if the current folder is in no project; the command itself reports that.
    """
    if command == "image":  # It builds the project that its own machinery belongs to.
        return None

    try:
        project = Project.find()
    except BadInput:
        return None
    return own_machinery(project)


def _run_with(source: str) -> int:
    """Runs this command with the machinery at `source`, and returns its exit status.

    Otherwise a run of this project would be made by the code of another project.
    """
    if os.environ.get("PYTHONPATH") == source:
        raise BadInput(
            f"{source}: this project's machinery does not start; {__file__} starts instead"
        )
    command = (sys.executable, "-P", "-m", "repro", *sys.argv[1:])
    environment = {**os.environ, "PYTHONPATH": source}
    if os.name != "nt":
        os.execve(sys.executable, command, environment)
    return subprocess.run(command, env=environment).returncode


def _train(options: argparse.Namespace) -> int:
    from repro.run import launcher, manifest, recipes
    from repro.run.launcher import Launch

    project = Project.find()
    if not options.checkpoint_seconds >= 0:
        raise BadInput(
            f"--checkpoint-seconds: expected 0 or more, got {options.checkpoint_seconds}"
        )
    given = options.overrides
    with console.Reporter() as reporter:
        if options.resume:
            run = manifest.find_run(project, options.resume)
            recipe = recipes.resumable(project, run, given)
            launch = Launch(project, recipe, resume=run)
        else:
            launch = Launch(project, recipes.make(project, given), overrides=given)
        launch = replace(launch, checkpoint_seconds=options.checkpoint_seconds)
        if options.resume:
            directory = launcher.train(launch, reporter)
        else:
            directory = launcher.start(launch, reporter, options.fresh)
    content = manifest.of_finished(directory)
    if options.json:
        answer = {
            "run_dir": str(directory),
            "digest": content.digest,
            "metrics": content.metrics,
            "guarantee": asdict(content.guarantee),
            "recipe_digest": content.recipe_digest,
        }
        print(files.dumps(answer))
    else:
        console.show("  ".join(f"{name} {v:.4f}" for name, v in content.metrics.items()))
        console.show(f"digest     {content.digest}")
        console.show(f"guarantee  {console.guarantee(content.guarantee)}")
        for note in content.notes:
            console.show(printable(f"note       {note}"))
        console.show(f"run        {directory}")
    return IDENTICAL


def _verify(options: argparse.Namespace) -> int:
    if options.script is not None:
        return _verify_script(options)
    for option in OF_SCRIPTS:
        if getattr(options, option.replace("-", "_")):
            raise BadInput(f"--{option}: expected with --script")
    from repro.compare import gate
    from repro.run import recipes

    recorded = options.locked or options.against or options.update
    # One run can be compared with what is recorded, but proves nothing that could be recorded.
    least = 2 if options.update or not recorded else 1
    if options.runs < least:
        raise BadInput(f"--runs: expected {least} or more, got {options.runs}")
    if options.summary and not recorded:
        raise BadInput("--summary: expected with --locked, --against or --update")
    if options.base is not None and not options.locked:
        raise BadInput("--base: expected with --locked")
    project = Project.find()
    if recorded:
        return _verify_recorded(options, project)
    wanted = recipes.make(project, options.overrides)
    with console.Reporter() as reporter:
        asked = gate.Gate(project, wanted, options.runs, options.vary)
        answer = gate.verify(asked, reporter)
    # The verdict is printed before the search for an explanation, which takes longer.
    if not options.json:
        console.print_gate(answer, f"{options.runs} runs")
    try:
        for why in _explain(project, answer, options):
            answer = replace(answer, why=why)
    finally:
        if options.json:
            print(files.dumps(answer.as_json()))
    return _status(answer) or _fallen(answer.guarantee.broken)


def _fallen(broken: Sequence[str]) -> int:
    """Returns the exit status for runs that are identical: is the guarantee broken?"""
    return DIFFERS if broken else IDENTICAL


def _verify_script(options: argparse.Namespace) -> int:
    """Runs the gate for a script, in any folder."""
    from repro.script import asked, gate

    for option in ("locked", "against", "update", "base", "summary"):
        if getattr(options, option):
            raise BadInput(f"--{option}: expected without --script, since a recipe is recorded")
    if options.overrides:
        raise BadInput(f"{options.overrides[0]}: arguments of the script are expected after --")
    if options.runs < 2:
        raise BadInput(f"--runs: expected 2 or more, got {options.runs}")
    script = asked.script(
        options.script,
        options.passed,
        options.python,
        options.output,
        as_is=options.as_is,
        seed=options.seed,
        threads=options.threads,
        every=options.every,
    )
    wanted = gate.Gate(script, options.runs, options.vary, not options.no_printed)
    answer = gate.verify(wanted, console.tell)
    # The verdict is printed before the search for what makes runs differ, which takes longer.
    if not options.json:
        console.print_script(answer)
    try:
        if not options.no_explain:
            answer = gate.explain(wanted, answer, console.tell)
    finally:
        if options.json:
            print(files.dumps(answer.as_json()))
    if not options.json and (why := answer.why()):
        console.show("\n".join(why))
    return FAILED if answer.verdict == "failed" else STATUS[answer.verdict]


def _verify_recorded(options: argparse.Namespace, project: Project) -> int:
    """Runs the gate for the recipes in `results.lock`, or for the one that is given."""
    from repro.compare import results_lock, review
    from repro.compare.gate_verdict import GateVerdict

    path = options.against or project.root / results_lock.FILE
    if options.against and not path.is_file():
        raise BadInput(f"--against: {path}: no such file; a `repro verify --summary` writes one")
    expected = results_lock.read(path)
    given = options.overrides
    with console.Reporter() as reporter:
        base = (
            results_lock.at(project.root, options.base, reporter.line) if options.locked else None
        )
        known = {**expected, **(base.entries if base else {})}
        names = [results_lock.name_of(given)] if given else list(known) or [results_lock.PLAIN]
        asked = review.Review(project, names, expected, options.runs, options.vary, base, path.name)
        outcomes = review.verify(asked, reporter, reporter.line)
    found = {o.name: o.now for o in outcomes if o.now and o.answer.verdict == "identical"}
    # The results are printed and written before the search for explanations, which takes longer.
    if options.summary:
        from repro.report import pages

        pages.write_gate(options.summary, outcomes)
        results_lock.write(options.summary / results_lock.FILE, found)
    kept = {o.name: o.now for o in outcomes if o.now and o.can_be_recorded}
    if options.update and kept:
        results_lock.write(path, expected | kept)
    if not options.json:
        console.print_outcomes(outcomes, options.runs, options.update)
    try:
        for number, outcome in enumerate(outcomes):
            if not isinstance(outcome.answer, GateVerdict):
                continue
            for why in _explain(project, outcome.answer, options, of=outcome.name):
                outcomes[number] = replace(outcome, answer=replace(outcome.answer, why=why))
                if options.summary:
                    pages.write_gate(options.summary, outcomes)
    finally:
        if options.json:
            recipes_told = [outcome.as_json() for outcome in outcomes]
            print(files.dumps({"recipes": recipes_told, "updated": options.update}))
    return review.status(outcomes, options.update)


def _diff(options: argparse.Namespace) -> int:
    from repro.compare import comparison
    from repro.run import manifest

    project = Project.find()
    one, other = (manifest.find_run(project, name) for name in (options.run_a, options.run_b))
    found = comparison.compare(one, other)
    answer = found.as_json()
    if not options.json:
        console.print_verdict(found, "2 runs")
    try:
        if options.explain:
            for why in _explain(project, found, options):
                answer |= why.as_json()
        elif found.verdict == "diverged" and not options.json:
            print("  to the tensor: repro diff --explain, which runs the steps again")
    finally:
        if options.json:
            print(files.dumps(answer))
    return STATUS[found.verdict]


def _cross_validate(options: argparse.Namespace) -> int:
    from repro.study.planning import Design
    from repro.study.search import Search

    return _study(options, Design("cross-validate", Search(options.overrides)))


def _sweep(options: argparse.Namespace) -> int:
    from repro.study.planning import Design
    from repro.study.search import METHODS, Search

    if options.method not in METHODS:
        raise BadInput(f"--method: expected one of {', '.join(METHODS)}; got {options.method!r}")
    search = Search.read(options.overrides)
    return _study(options, Design("sweep", search, method=options.method, points=options.trials))


def _study(options: argparse.Namespace, design: Design) -> int:
    """Plans and runs a study of either kind, and prints its answer."""
    from repro.study import keys, planning, study
    from repro.study.search import Repetitions

    if options.workers is not None and options.workers < 1:
        raise BadInput(f"--workers: expected 1 or more, got {options.workers}")
    search = design.search
    if options.strategy:
        search = search.fix(f"split.strategy={options.strategy}")
    project = Project.find()
    cluster = keys.cluster(options.scheduler, options.keys, options.insecure, project.root)
    repetitions = Repetitions(options.seeds, options.folds, options.repeats, options.outer_folds)
    design = replace(design, search=search, repetitions=repetitions)
    design = replace(design, monitor=options.monitor, mode=options.mode)
    planned = planning.plan(project, design)
    trials = len(planned.recipes)
    with study.Study(project, planned, options.fresh) as one, console.Reporter(trials) as reporter:
        reporter.begin(one.done)
        answer = one.run(options.workers, cluster, reporter, reporter.trial, not options.no_verify)
    if not options.json:
        console.print_study(answer)
    why = None
    try:
        if answer.compared is not None:
            for found in _explain(project, answer.compared, options):
                why = found
    finally:
        if options.json:
            print(files.dumps(answer.as_json(why)))
    return _status_of_study(answer)


def _status_of_study(answer: Answer) -> int:
    """Returns the exit status for a study, from its trials and the one that was trained again."""
    if answer.table.failed or answer.not_verified:
        return FAILED
    again = STATUS[answer.compared.verdict] if answer.compared else IDENTICAL
    return again or _fallen(answer.table.broken)


def _cluster_keys(options: argparse.Namespace) -> int:
    from repro.study import keys

    made = keys.make(options.folder or Project.find().root / keys.FOLDER)
    answer = {"certificate": str(made.certificate), "key": str(made.key)}
    print(files.dumps(answer) if options.json else "\n".join(made.lines()))
    return IDENTICAL


def _report(options: argparse.Namespace) -> int:

    project = Project.find()
    if bool(options.runs) == bool(options.study):
        raise BadInput("expected one or more runs, or --study and a study's id")
    from repro.report import pages
    from repro.run import manifest
    from repro.study import study

    if options.study:
        title, sections = pages.of_study(project, study.find(project, options.study))
    else:
        runs = [manifest.find_run(project, name) for name in options.runs]
        title, sections = pages.of_runs(runs)
    folder = options.output or project.root / "reports" / title.replace(" ", "-")
    page = pages.write(folder, title, sections)
    print(files.dumps({"report": str(page)}) if options.json else f"report     {page}")
    return IDENTICAL


def _image(options: argparse.Namespace) -> int:
    from repro.environment import (
        image,  # It needs only the standard library: `make image` works without .venv.
    )

    if options.device not in image.DEVICES:
        raise BadInput(f"image: expected {' or '.join(image.DEVICES)}, got {options.device!r}")
    answer = image.build(options.device, options.twice, options.passed)
    print(files.dumps(answer) if options.json else "\n".join(image.lines(answer)))
    return STATUS[answer.get("verdict", "identical")]


def _doctor(options: argparse.Namespace) -> int:
    from repro.environment import doctor
    from repro.run import recipes

    project = Project.find()
    found = doctor.examine(project, recipes.make(project, options.overrides))
    print(files.dumps(found.as_json()) if options.json else "\n".join(found.lines()))
    return DIFFERS if found.guarantee.broken else IDENTICAL


def _data(options: argparse.Namespace) -> int:
    from repro.data import datafiles

    root = Project.find().root
    with console.Bytes() as bar:
        if options.action == "add":
            answer = datafiles.add(root, options.path, options.source, bar)
        elif options.action == "check-size":
            answer = datafiles.check_size(options.files)
        else:
            act = datafiles.verify if options.action == "verify" else datafiles.fetch_missing
            answer = act(root, options.paths, bar)
    print(files.dumps(answer) if options.json else "\n".join(datafiles.lines(answer)))
    return DIFFERS if answer.get("verdict") == "differs" else IDENTICAL


def _status(found: GateVerdict) -> int:
    """Returns the exit status for the verdict of a gate on one recipe."""
    if found.verdict == "failed":
        return BAD_INPUT if found.refused else FAILED
    return STATUS[found.verdict]


def _explain(
    project: Project, found: Verdict | GateVerdict, options: argparse.Namespace, of: str = ""
) -> Iterator[Why]:
    """Searches for the reason why runs differ; yields all that is known after each search.

    What is known at last is printed, also where the search was interrupted. If there is nothing to
    explain, nothing is yielded.

    A failure of the search does not change the verdict: it becomes one line in `unexplained`.

    Args:
        found: the verdict of a gate, or the verdict on two runs. For a gate, the search also tries
            its variations.
        of: the name of the recipe, if there are several.
    """
    from repro.compare.gate_verdict import GateVerdict
    from repro.compare.why import explain

    tensor = found.verdict == "diverged" and not getattr(options, "no_explain", False)
    variation = isinstance(found, GateVerdict) and found.index is not None
    if not (tensor or variation):
        return
    known = None
    try:
        with console.Reporter() as reporter:
            for known in explain(project, found, reporter, reporter.line, tensor):
                yield known
    finally:
        if known is not None and not options.json:
            console.show("\n".join([f"why        {of}"] * bool(of) + known.lines()))


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
    **after.COMMANDS,
}

"""The commands for what comes after a training: lists, evaluations, predictions, exports."""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from repro.basics import files, text
from repro.basics.errors import DIFFERS, IDENTICAL, BadInput
from repro.basics.text import printable
from repro.cli import console
from repro.recipe.project import Project

if TYPE_CHECKING:
    from repro.run.runs import Listed
    from repro.study.cleaning import Cleaning

SHORT = 12
"""How many digits of a digest are shown on a terminal."""


def _runs(options: argparse.Namespace) -> int:
    from repro.run import made, manifest, runs

    project = Project.find()
    if options.csv and options.json:
        raise BadInput("--csv: expected without --json")
    if options.made is not None:
        if options.csv or options.sort or options.where:
            raise BadInput("--made: expected without --csv, --sort and --where")
        found = made.read(manifest.find_run(project, options.made))
        if options.json:
            print(files.dumps([one.model_dump() for one in found]))
        else:
            console.show("\n".join(line for one in found for line in map(printable, one.lines())))
        return IDENTICAL
    listed = runs.chosen(runs.read(project), options.where, options.sort)
    if options.json:
        print(files.dumps([one.as_json() for one in listed]))
    elif options.csv:
        _print_csv(listed)
    else:
        _print_runs(listed)
    return IDENTICAL


def _print_csv(listed: Sequence[Listed]) -> None:
    from repro.run import runs

    names = runs.metrics(listed)
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow([*runs.FIELDS, *names, "problem"])
    for one in listed:
        fields = [one.value(key) for key in runs.FIELDS]
        writer.writerow([*fields, *(one.metrics.get(name, "") for name in names), one.problem])


def _print_runs(listed: Sequence[Listed]) -> None:
    """Prints a line for each run. Only on a terminal, numbers and digests are shortened."""
    from repro.run import runs

    short = sys.stdout.isatty()
    lines = [
        [
            *(str(one.value(key)) for key in runs.FIELDS[:-1]),
            one.digest[:SHORT] if short else one.digest,
            one.problem or _results(one, short),
        ]
        for one in listed
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        console.show(printable("  ".join(cells).rstrip()))


def _results(one: Listed, short: bool) -> str:
    """The results of a run: of all, or only of validation and test."""
    kept = {n: v for n, v in one.metrics.items() if not short or n.startswith(("val_", "test_"))}
    return "  ".join(f"{n} {text.result(v) if short else repr(v)}" for n, v in kept.items())


def _presets(options: argparse.Namespace) -> int:
    from repro.recipe import presets

    found = presets.read(Project.find())
    if options.json:
        print(files.dumps([one.as_json() for one in found]))
        return IDENTICAL
    width = max((len(one.name) for one in found), default=0)
    for one in found:
        console.show(printable(f"{one.name.ljust(width)}  {one.about}"))
    return IDENTICAL


def _clean(options: argparse.Namespace) -> int:
    from repro.study import cleaning

    asked = cleaning.Asked(options.keep, options.failed, options.older)
    project = Project.find()
    ask = not (options.dry_run or options.yes)
    if ask and (options.json or not _on_a_terminal()):
        raise BadInput("clean: expected --yes or --dry-run, since nobody can be asked here")
    found = cleaning.find(project, asked)
    if not options.json:
        _print_cleaning(found, "would be removed" if options.dry_run or ask else "removed")
    go = bool(found.runs) and not options.dry_run
    if go and ask:
        go = _agreed("Remove them? [y/N] ")
    if go:
        done = cleaning.remove(found)
        for name in done.kept.keys() - found.kept.keys():
            console.show(printable(f"kept       {name}: {done.kept[name]}"))
        found = done
    if options.json:
        print(files.dumps(found.as_json(removed=go)))
    elif ask and found.runs:
        print("removed" if go else "nothing was removed")
    return IDENTICAL


def _on_a_terminal() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()


def _agreed(question: str) -> bool:
    """Asks on the terminal; the end of the input is no agreement."""
    try:
        return input(question).strip().lower() in ("y", "yes")
    except EOFError:
        print()
        return False


def _print_cleaning(found: Cleaning, what: str) -> None:
    for name, why in found.kept.items():
        console.show(printable(f"kept       {name}: {why}"))
    for one in found.runs:
        console.show(printable(f"run        {one.name}  {one.status}"))
    number = len(found.runs)
    runs = "1 run" if number == 1 else f"{number} runs"
    console.show(f"{runs} with {found.size:,} bytes {what}" if number else "nothing to remove")


def _evaluate(options: argparse.Namespace) -> int:
    from repro.run import after, manifest

    project = Project.find()
    if options.overrides and options.data is None:
        raise BadInput(f"{options.overrides[0]}: expected with --data NAME, which it belongs to")
    run = manifest.find_run(project, options.run)
    data = after.other_data(project, options.data, options.overrides) if options.data else None
    with console.Reporter() as reporter:
        found = after.evaluate(project, run, options.part, data, reporter, reporter.line)
    if options.json:
        print(files.dumps(found.as_json()))
    else:
        console.show("  ".join(f"{name} {text.result(v)}" for name, v in found.results.items()))
        console.show(printable(f"compared   {found.found()}"))
        console.show(printable(f"run        {run}"))
    return IDENTICAL if found.same else DIFFERS


def _predict(options: argparse.Namespace) -> int:
    from repro.run import after, manifest

    project = Project.find()
    run = manifest.find_run(project, options.run)
    with console.Reporter() as reporter:
        found = after.predict(project, run, options.file, options.output, reporter, reporter.line)
    _print_made(
        options, found.as_json(), [f"samples    {found.samples}", f"sha256     {found.sha256}"]
    )
    return IDENTICAL


def _export(options: argparse.Namespace) -> int:
    from repro.run import after, manifest

    project = Project.find()
    run = manifest.find_run(project, options.run)
    with console.Reporter() as reporter:
        found = after.export(project, run, options.format, options.output, reporter, reporter.line)
    told = [f"compared   {found.compared}"]
    if found.custom:
        names = ", ".join(found.custom)
        told.append(f"note       a program that loads it needs custom_objects for {names}")
    told += [f"sha256     {digest}  {path}" for path, digest in found.files.items()]
    _print_made(options, found.as_json(), told)
    return IDENTICAL


def _print_made(options: argparse.Namespace, answer: dict[str, Any], told: list[str]) -> None:
    if options.json:
        print(files.dumps(answer))
        return
    for line in (*told, f"output     {answer['output']}", f"run        {answer['run']}"):
        console.show(printable(line))


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "runs": _runs,
    "presets": _presets,
    "clean": _clean,
    "evaluate": _evaluate,
    "predict": _predict,
    "export": _export,
}

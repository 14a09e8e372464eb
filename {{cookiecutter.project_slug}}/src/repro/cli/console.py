"""Shows a person what `repro` finds: the progress of runs, verdicts, tables."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from repro.basics.text import printable

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from repro.compare.comparison import Verdict
    from repro.compare.gate_verdict import Failure, GateVerdict
    from repro.compare.review import Outcome
    from repro.environment.determinism import Promise
    from repro.run.events import Progress as Event
    from repro.run.events import Start
    from repro.script.verdict import ScriptVerdict
    from repro.study.table import Answer


FALLEN = "this is red: mend what is named, or ask for the guarantee that holds"


def show(text: str) -> None:
    """Prints text of one or several lines; the terminal takes nothing in it for a command."""
    print(printable(text, lines=True))


def print_verdict(found: Verdict | Failure, what: str) -> None:
    """Prints a verdict on two runs; `what` says in words what was compared."""
    show(f"{found.verdict.upper()}  {printable(what)}")
    for line in found.lines():
        show(line)


def print_gate(found: GateVerdict, what: str) -> None:
    """Prints the verdict of a gate; `what` says in words what was compared."""
    print_verdict(found.between, what)
    show("\n".join(found.lines()))
    held = printable(guarantee(found.guarantee))
    show(f"guarantee  {held}")
    if found.guarantee.broken:
        show(f"           {FALLEN}")
    for run in found.runs:
        show(f"run        {printable(run)}")


def tell(text: str) -> None:
    """Prints on stderr what is done at present."""
    print(printable(text, lines=True), file=sys.stderr, flush=True)


NOTHING = "there was nothing to compare: add --output for the files that it writes"


def print_script(found: ScriptVerdict) -> None:
    """Prints the verdict of the gate on a script."""
    runs = found.further + 1
    if found.verdict == "not comparable":
        show("NOTHING TO COMPARE" if not found.script.outputs else "NOT COMPARABLE")
        show(f"  {NOTHING}")
    else:
        show(f"{found.verdict.upper()}  {printable(found.script.file.name)}, {runs} runs")
    show("\n".join(found.lines()))


def print_outcomes(outcomes: Sequence[Outcome], runs: int, updated: bool) -> None:
    """Prints the gate's outcomes for recipes that are, or should be, in `results.lock`."""
    from repro.compare.gate_verdict import GateVerdict

    for outcome in outcomes:
        answer = outcome.answer
        if isinstance(answer, GateVerdict):
            print_gate(answer, f"{outcome.name}, {runs} run{'s' if runs > 1 else ''}")
        else:
            show(f"{answer.verdict.upper()}  {printable(outcome.name)}")
            show(f"  {answer.message}")
        for line in outcome.lines():
            show(printable(f"recorded   {line}"))
        if updated and outcome.can_be_recorded:
            show("recorded   anew: commit results.lock")
        elif updated and isinstance(answer, GateVerdict) and outcome.broken:
            show(
                "recorded   NOT: its guarantee does not hold; record what does: guarantee="
                f"{answer.guarantee.holds}"
            )


def guarantee(found: Promise) -> str:
    """Returns in one line which guarantee holds, and why not the one that was asked for."""
    if not found.broken:
        return found.holds
    return f"{found.holds}; {found.asked} does NOT hold: " + "; ".join(found.broken)


def _unmarked(name: str) -> str:
    """Returns a name for the library rich, which would take `[red]` in it for a mark."""
    from rich.markup import escape

    return escape(printable(name))


class Reporter:
    """Shows on stderr how far each run is: bars on a terminal, in a log a line for each epoch.

    It is a `launcher.Listener` for any number of runs at once, for a `with` block. A study has one
    more bar on a terminal; in a log it has a line for each trial instead of each epoch.

    Args:
        trials: the number of a study's trials; 0: there is no study.
    """

    def __init__(self, trials: int = 0) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._running: set[str] = set()
        self._lock = threading.RLock()
        self._trials, self._begun = trials, time.monotonic()
        self._before = self._done = 0
        if sys.stderr.isatty():
            self._bars = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[text]}"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )

    def __enter__(self) -> Reporter:
        if self._bars:
            self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bars:
            self._bars.stop()

    def __call__(self, run: Path, event: Event) -> None:
        from repro.run.events import Epoch, Start, Step, Wait

        with self._lock:
            if isinstance(event, Wait):
                if not self._running:
                    self.line(f"{run.name}: waits for {event.needed}, which others train on")
            elif isinstance(event, Start):
                self._started(run.name, event)
            elif isinstance(event, Step):
                loss = "" if event.loss is None else f"loss {event.loss:.4f}"
                self._bar(
                    run.name,
                    f"{run.name}  epoch {event.epoch}/{event.epochs}",
                    f"steps  {loss}",
                    (event.epoch - 1) * event.steps + event.step,
                    event.steps * event.epochs,
                )
            elif isinstance(event, Epoch) and not self._bars and not self._trials:
                results = "  ".join(f"{k} {v:.4f}" for k, v in event.results.items())
                self.line(f"{run.name}  epoch {event.epoch}/{event.epochs}  {results}")

    def _started(self, run: str, event: Start) -> None:
        self._running.add(run)
        for line in event.refused:
            self.line(f"{run}: {line}")
        if event.epoch:
            self.line(f"{run}: goes on in epoch {event.epoch} after step {event.step}")
        for note in event.notes:
            self.line(f"{run}: {note}")
        if event.guarantee.broken:
            self.line(f"{run}: guarantee {guarantee(event.guarantee)}")
        self._bar(run, run, "steps", 0, None)
        self._count()

    def begin(self, done: int) -> None:
        """Is told that a study begins or goes on, and how many of its trials are done."""
        self._before = self._done = done
        self._count()
        if done:
            self.line(f"goes on: {done} of {self._trials} trials are done")

    def trial(self, run: str, text: str, done: int) -> None:
        """Is told that one more trial is over, and that now `done` trials have a result."""
        with self._lock:
            passed, made = time.monotonic() - self._begun, done - self._before
            left = passed / made * (self._trials - done) if made else 0
            self._running.discard(run)
            if self._bars and run in self._tasks:
                self._bars.remove_task(self._tasks.pop(run))
            self._done = done
            self._count()
            when = f"  ({left:.0f} s left)" if left and not self._bars else ""
            self.line(f"{done}/{self._trials}  {text}{when}")

    def line(self, text: str) -> None:
        """Prints a line above the bars."""
        text = printable(text, lines=True)
        if self._bars:
            self._bars.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=sys.stderr, flush=True)

    def _count(self) -> None:
        """Updates the bar of a study, which stands above those of its runs."""
        if self._trials:
            text = f"done, {len(self._running)} running"
            self._bar("", "trials", text, self._done, self._trials)

    def _bar(self, name: str, description: str, text: str, done: int, of: int | None) -> None:
        if self._bars is None:
            return
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task("", text="")
        self._bars.update(
            self._tasks[name],
            description=_unmarked(description),
            text=text,
            completed=done,
            total=of,
        )


class Bytes:
    """Shows how far a file is read or downloaded: by a bar on a terminal, not at all in a log.

    It is a `datalock.Tell` for a `with` block.
    """

    def __init__(self) -> None:
        self._bars: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Bytes:
        return self

    def __exit__(self, *error: object) -> None:
        if self._bars:
            self._bars.stop()

    def __call__(self, path: str, done: int, of: int) -> None:
        if not sys.stderr.isatty():
            return
        if self._bars is None:
            from rich.console import Console
            from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

            columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
            self._bars = Progress(*columns, console=Console(stderr=True), transient=True)
            self._bars.start()
        if self._task is None:
            self._task = self._bars.add_task("")
        self._bars.update(self._task, description=_unmarked(path), completed=done, total=of or None)


NOTES = 3
"""How many notes on the trials of a study are shown at most."""


def print_study(answer: Answer) -> None:
    """Prints the table of a study and what a person has to know about it."""
    from repro.study import table
    from repro.study.results import NotVerified

    found, verification = answer.table, answer.verification
    _print_table(*table.columns(found))
    if found.nested is not None and len(found.rows) > 1:
        print()
        _print_table(*table.nested_columns(found.nested, found.monitor))
    for line in table.lines(found):
        show(printable(line))
    for line in found.broken:
        show(printable(f"guarantee  does NOT hold: {line}"))
    if found.broken:
        show(f"           {FALLEN}")
    for note in found.notes[:NOTES]:
        show(printable(f"note       {note}"))
    if found.notes[NOTES:]:
        show(f"           and {len(found.notes) - NOTES} more, in the manifests of the runs")
    show(f"table      {found.digest}")
    show(printable(f"study      {answer.directory}"))
    for trial in found.trials:
        if trial.failed:
            show(f"failed     trial {trial.number}: {trial.failed}")
    what = found.again.what if found.again else "a trial"
    if isinstance(verification, NotVerified):
        show(f"failed     {what}, trained once more: {verification.failed}")
    elif verification is not None:
        run = verification.verdict.runs[0].name
        print_verdict(verification.verdict, f"{what}, {run}, trained once more")


def _print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    shown = Table(box=None, pad_edge=False)
    for column in columns:
        shown.add_column(printable(column), justify="right", no_wrap=True)
    for row in rows:
        shown.add_row(*map(printable, row))
    # A table is not cut, neither in a file nor on a narrow terminal.
    console = Console(highlight=False, markup=False, emoji=False)
    unbounded = console.options.update_width(10_000)
    console.width = max(console.width, console.measure(shown, options=unbounded).maximum)
    console.print(shown, crop=False, soft_wrap=True)

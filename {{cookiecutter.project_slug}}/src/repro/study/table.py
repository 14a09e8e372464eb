"""Makes the table of a study from the files in its folder, and shows it to people."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from repro.basics.errors import BadInput
from repro.basics.text import result
from repro.compare.comparison import Verdict
from repro.compare.gate_verdict import Why
from repro.study import choice, planning, results
from repro.study.choice import Again, Choice, Nested, Repeated, Row, Same, Spread, Trial
from repro.study.planning import OUTER_FOLD, Plan
from repro.study.results import NotVerified, Results, Verification
from repro.study.search import Values


@dataclass(frozen=True)
class Table:
    """The results of a study."""

    kind: str
    monitor: str
    rows: Sequence[Row]
    """One row for each configuration."""
    trials: Sequence[Trial]
    best: Choice | None
    """The row with the best mean of the monitored result, among those without failed trials. It is
    None if there is only one configuration, or if all rows end in the same state. It is also None
    in a nested study, which chooses in each outer fold."""
    nested: Nested | None
    """The choices of a nested study and their test results; None: the study is not nested."""
    same: Sequence[Same]
    repeated: Sequence[Repeated]
    again: Again | None
    """The trial that is trained once more; None: there is none yet."""

    @property
    def failed(self) -> int:
        """How many trials have no result."""
        return sum(not trial.done for trial in self.trials)

    @property
    def digest(self) -> str:
        """The digest of the final states of all trials.

        If two tables have the same digest, all their trials ended in the same bits.
        """
        states = (trial.done.digest if trial.done else None for trial in self.trials)
        return hashlib.sha256("".join(map(str, states)).encode()).hexdigest()

    @property
    def notes(self) -> list[str]:
        """The notes of all trials, each one once."""
        return sorted({note for one in self.trials if one.done for note in one.done.notes})

    @property
    def broken(self) -> list[str]:
        """Why the guarantee that was asked for does not hold; empty if it does."""
        done = [one.done for one in self.trials if one.done]
        return sorted({why for one in done for why in one.guarantee.broken})

    def as_json(self) -> dict[str, Any]:
        """Returns the table as answers have it."""
        return {
            "kind": self.kind,
            "monitor": self.monitor,
            "rows": [row.as_json() for row in self.rows],
            "trials": [trial.as_json() for trial in self.trials],
            "best": self.best.as_json() if self.best else None,
            "nested": self.nested.as_json() if self.nested else None,
            "same": [asdict(group) for group in self.same],
            "repeated": [asdict(found) for found in self.repeated],
            "again": asdict(self.again) if self.again else None,
            "failed": self.failed,
            "digest": self.digest,
            "notes": self.notes,
            "broken": self.broken,
        }


@dataclass(frozen=True)
class Answer:
    """The answer of a study: its table, and what became of the trial that was trained once more."""

    directory: Path
    table: Table
    verification: Verification | NotVerified | None

    @property
    def compared(self) -> Verdict | None:
        """The verdict on the trial and its further run, if there is one."""
        found = self.verification
        return found.verdict if isinstance(found, Verification) else None

    @property
    def not_verified(self) -> bool:
        """Whether the further run failed."""
        return isinstance(self.verification, NotVerified)

    def as_json(self, why: Why | None = None) -> dict[str, Any]:
        """Returns the answer as `--json` prints it.

        Args:
            why: why the further run differs, if this was searched for.
        """
        verified = self.verification.as_json() if self.verification else None
        if verified is not None and why is not None:
            verified |= why.as_json()
        where = {"study": self.directory.name, "study_dir": str(self.directory)}
        return where | self.table.as_json() | {"verification": verified}


def read(directory: Path) -> Answer:
    """Returns the answer of a study, which need not be finished.

    Raises:
        BadInput: its files are damaged; the message names the place.
    """
    plan, found = planning.read(directory), results.read(directory)
    try:
        return Answer(directory, table(plan, found), found.verification)
    except KeyError as error:
        raise BadInput(f"{directory}: not a readable study: {error} is missing") from None


def table(plan: Plan, found: Results) -> Table:
    """Makes the table of a study, which need not be finished."""
    trials = [Trial(one, found.trials.get(one.trial)) for one in plan.trials]
    by_configuration: dict[int, list[Trial]] = {}
    for trial in trials:
        by_configuration.setdefault(trial.configuration, []).append(trial)
    rows = [
        choice.row(number, values, by_configuration[number])
        for number, values in enumerate(plan.configurations)
    ]
    better = choice.Better(plan.monitor, plan.larger_is_better)
    same = choice.same(rows, trials)
    repetitions = [trial.repetition for trial in plan.trials]
    folds = sorted({one[OUTER_FOLD] for one in repetitions if OUTER_FOLD in one})
    nested = choice.nested(rows, trials, folds, better) if folds else None
    alone = len(rows) == 1 or any(len(group.numbers) == len(rows) for group in same)
    best = None
    if len(rows) > 1 and folds:
        rows = [_without_tests(row) for row in rows]
    elif not alone:
        best = better.of(rows, trials)
    chosen = nested.chosen if nested is not None and len(rows) > 1 else []
    return Table(
        kind=plan.kind,
        monitor=plan.monitor,
        rows=rows,
        trials=trials,
        best=best,
        nested=nested,
        same=same,
        repeated=choice.repeated(trials),
        again=choice.again(trials, best, chosen, alone),
    )


def _without_tests(row: Row) -> Row:
    """Returns a row of a nested study without test results, so that nobody chooses by them."""
    kept = {name: one for name, one in row.metrics.items() if not name.startswith("test_")}
    return replace(row, metrics=kept)


HIDDEN = ("split.folds", "split.outer_folds")
"""Parameters that repetitions set and that are the same in all of them, so they are not shown."""


def columns(table: Table) -> tuple[list[str], list[list[str]]]:
    """Returns the head and the rows of the table that people see.

    There is a row for each configuration. If there is only one, there is a row for each trial, and
    a row with the mean.
    """
    rows, trials = table.rows, table.trials
    measured = next((row.metrics for row in rows if row.metrics), {})
    names = [name for name in measured if name.startswith(("val_", "test_"))]
    if len(rows) > 1:
        keys = list(rows[0].values)
        lines = [
            [*(shown(row.values[key]) for key in keys), str(row.done)]
            + [_spread(row.metrics.get(name)) for name in names]
            for row in rows
        ]
        return [*map(short, keys), "trials", *names], lines
    keys = [key for key in trials[0].planned.repetition if key not in HIDDEN]
    lines = [
        [str(trial.number), *(shown(trial.planned.repetition[key]) for key in keys)]
        + [result(trial.done.metrics.get(name) if trial.done else None) for name in names]
        for trial in trials
    ]
    lines.append(["mean", *("" for _ in keys)] + [_spread(rows[0].metrics.get(n)) for n in names])
    return ["trial", *map(short, keys), *names], lines


def nested_columns(nested: Nested, monitor: str) -> tuple[list[str], list[list[str]]]:
    """Returns the same for the choices of a nested study: a row for each outer fold and a mean."""
    tests = list(nested.metrics)
    lines = [
        [str(one.outer_fold), describe(one.row.values) or "–"]
        + [_spread(one.row.metrics[name]) for name in (monitor, *tests)]
        for one in nested.chosen
    ]
    lines.append(["mean", "", "", *(_spread(nested.metrics[name]) for name in tests)])
    return ["outer_fold", "chosen", monitor, *tests], lines


def lines(table: Table) -> list[str]:
    """Returns what a person has to know beside the rows: what was chosen, and what is unusual."""
    best, rows, monitor = table.best, table.rows, table.monitor
    told = []
    if best is not None:
        told.append(f"Best by {monitor}: {assigned(best.row.values)}{_tied(best)}.")
    if table.nested is not None:
        chosen = f", chosen by {monitor} within each" if len(rows) > 1 else ""
        told += _told_of_nested(table.nested, chosen)
    for group in table.same:
        one = "rows" if len(rows) > 1 else "trials"
        numbers = [n + 1 if len(rows) > 1 else n for n in group.numbers]
        names = _listed([short(key) for key in group.parameters])
        told.append(
            f"{one.capitalize()} {_ranges(numbers)} end in the same state to the last bit: "
            f"{names or 'what sets them apart'} had no effect on the training."
        )
    for found in table.repeated:
        where = f"{assigned(rows[found.configuration].values)}: " if len(rows) > 1 else ""
        many, of = found.different, len(found.trials)
        results = "1 result" if many == 1 else f"{many} different results"
        told.append(f"{where}{results} of {of} trainings of one recipe.")
    if table.again is not None and table.again.why_not:
        told.append(f"Nothing is trained once more: {table.again.why_not}.")
    return told


def _told_of_nested(nested: Nested, chosen: str) -> list[str]:
    told = [
        f"In outer fold {one.outer_fold} the best is not alone: "
        f"{assigned(one.row.values)}{_tied(one)}."
        for one in nested.chosen
        if one.tied
    ]
    if not nested.metrics:
        done = len(nested.chosen)
        return [*told, f"Nested: {done} of {nested.folds} outer folds are done."]
    results = ", ".join(f"{name} {_spread(found)}" for name, found in nested.metrics.items())
    return [*told, f"Nested, over {nested.folds} outer folds{chosen}: {results}."]


def assigned(values: Values) -> str:
    """Returns values as the command line takes them, but without quotation marks."""
    return ", ".join(f"{name}={shown(value)}" for name, value in values.items())


def _tied(best: Choice) -> str:
    """Names the other rows that are equally good; empty if there is none."""
    if not best.tied:
        return ""
    rows = f"row{'s' * (len(best.tied) > 1)} {_ranges([n + 1 for n in best.tied])}"
    return f", tied with {rows}; the first of them is taken"


def _ranges(numbers: Sequence[int]) -> str:
    """Returns ascending numbers as people write them: 1–3, 5 and 7."""
    runs: list[list[int]] = []
    for one in numbers:
        if runs and one == runs[-1][-1] + 1:
            runs[-1].append(one)
        else:
            runs.append([one])
    words: list[str] = []
    for run in runs:
        words += [f"{run[0]}–{run[-1]}"] if len(run) > 2 else map(str, run)
    return _listed(words)


def _listed(words: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def short(key: str) -> str:
    """Returns the last word of a parameter's dotted name."""
    return key.rpartition(".")[2]


def shown(value: object) -> str:
    """Returns a value as people see it; it looks the same before and after it was kept as JSON."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {shown(one)}' for key, one in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(shown, value))}]"
    return str(value)


def _spread(found: Spread | None) -> str:
    if found is None:
        return result(None)
    if found.deviation is None:
        return result(found.mean)
    return f"{found.mean:.4f} ± {found.deviation:.4f}"


def describe(values: Values) -> str:
    """Returns in words the values in which a trial may differ from the others."""
    return "  ".join(f"{short(key)} {shown(v)}" for key, v in values.items() if key not in HIDDEN)

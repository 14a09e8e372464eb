"""Chooses the best of a study, and finds ties, equal final states and repeated recipes."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from repro.study.planning import OUTER_FOLD, PlannedTrial
from repro.study.results import Done, Result
from repro.study.search import Values

NOT_RUN = "not run"
"""The reason why a trial has no result if it has not begun, or has not ended."""


@dataclass(frozen=True)
class Trial:
    """A planned trial and its result."""

    planned: PlannedTrial
    result: Result | None
    """None: there is none yet."""

    @property
    def number(self) -> int:
        return self.planned.trial

    @property
    def configuration(self) -> int:
        return self.planned.configuration

    @property
    def done(self) -> Done | None:
        """The result, if the trial is done."""
        return self.result if isinstance(self.result, Done) else None

    @property
    def failed(self) -> str | None:
        """Why there is no result; None if there is one."""
        return NOT_RUN if self.result is None else self.result.failed

    def as_json(self) -> dict[str, Any]:
        """Returns the trial as answers have it."""
        told = self.planned.model_dump(include={"trial", "configuration", "repetition"})
        return told | (self.result.as_json() if self.result else {"failed": NOT_RUN})


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation of a result over trials."""

    mean: float
    deviation: float | None
    """The standard deviation of a sample (n - 1); None for a single trial."""

    @classmethod
    def of(cls, column: Sequence[float]) -> Spread:
        """Returns the spread of these values; both numbers are NaN if a value is not finite."""
        if not all(map(math.isfinite, column)):
            return cls(math.nan, math.nan)
        deviation = statistics.stdev(column) if len(column) > 1 else None
        return cls(statistics.fmean(column), deviation)


Spreads = dict[str, Spread]
"""By the names of results."""


@dataclass(frozen=True)
class Row:
    """A row of the table: a configuration, and the results of those of its trials that are done."""

    configuration: int
    values: Values
    trials: int
    done: int
    metrics: Spreads

    @property
    def whole(self) -> bool:
        """Whether all trials are done."""
        return self.done == self.trials

    def as_json(self) -> dict[str, Any]:
        """Returns the row as answers have it."""
        return asdict(self)


@dataclass(frozen=True)
class Choice:
    """The best row, and its first trial."""

    row: Row
    tied: list[int]
    """The other configurations that are equally good; the first one of all was chosen."""
    trial: int
    run: str
    outer_fold: int | None = None
    """In a nested study, the outer fold in which the row was chosen."""

    def as_json(self) -> dict[str, Any]:
        """Returns the choice as answers have it."""
        first = {"trial": self.trial, "run": self.run}
        if self.outer_fold is None:
            return self.row.as_json() | {"tied": self.tied} | first
        return {"outer_fold": self.outer_fold, **first} | self.row.as_json() | {"tied": self.tied}


@dataclass(frozen=True)
class Nested:
    """The choices of a nested study, one in each outer fold, and their test results."""

    folds: int
    """The number of outer folds."""
    chosen: list[Choice]
    metrics: Spreads
    """The test results over all outer folds; empty until all of them are done."""

    def as_json(self) -> dict[str, Any]:
        """Returns the same as answers have it."""
        return {
            "folds": self.folds,
            "chosen": [one.as_json() for one in self.chosen],
            "metrics": {name: asdict(found) for name, found in self.metrics.items()},
        }


@dataclass(frozen=True)
class Same:
    """Rows, or trials of a single row, that end in the same state to the last bit."""

    numbers: list[int]
    parameters: list[str]
    """The parameters in which they differ, which had no effect."""


@dataclass(frozen=True)
class Repeated:
    """A recipe that was trained more than once."""

    configuration: int
    trials: list[int]
    different: int
    """How many different results it gave."""


@dataclass(frozen=True)
class Again:
    """The trial that is trained once more, to show that it gives the same bits again."""

    trial: int
    run: str
    what: str
    """Which trial it is, in words."""
    why_not: str | None
    """Why it is not trained once more; None if it is."""


def row(number: int, values: Values, trials: Sequence[Trial]) -> Row:
    """Returns a configuration's row, with mean and deviation over its trials that are done."""
    done = [trial.done for trial in trials if trial.done]
    names = list(done[0].metrics) if done else []
    metrics = {name: Spread.of([one.metrics[name] for one in done]) for name in names}
    return Row(number, values, len(trials), len(done), metrics)


class Better:
    """Chooses rows by the mean of the monitored result."""

    def __init__(self, monitor: str, larger: bool) -> None:
        self.monitor, self._sign = monitor, -1 if larger else 1

    def of(
        self, rows: Iterable[Row], trials: Sequence[Trial], fold: int | None = None
    ) -> Choice | None:
        """Returns the first of the best rows, and names the rows that are tied with it.

        Rows with a failed trial, or whose mean is not finite, are left out.

        Args:
            trials: the trials of the rows.
            fold: in a nested study, the outer fold that all of them are in.
        """
        finite = [row for row in rows if row.whole and math.isfinite(self._mean(row))]
        best = min(finite, key=lambda row: self._sign * self._mean(row), default=None)
        if best is None:
            return None
        mean = self._mean(best)
        tied = [row.configuration for row in finite if self._mean(row) == mean and row is not best]
        first = next(one for one in trials if one.configuration == best.configuration)
        assert first.done is not None, "the row is whole"
        return Choice(best, tied, first.number, first.done.run, fold)

    def _mean(self, row: Row) -> float:
        return row.metrics[self.monitor].mean


def nested(
    rows: Sequence[Row], trials: Sequence[Trial], folds: Sequence[int], better: Better
) -> Nested:
    """Chooses a configuration in each outer fold, by the validations of this fold.

    The validation parts of one outer fold contain samples of the other folds' test parts, so
    nothing is chosen across outer folds. The test result of an outer fold is the mean over the
    trainings of its chosen configuration: one for each inner fold and seed.
    """
    chosen = []
    for fold in folds:
        inside = [trial for trial in trials if trial.planned.repetition[OUTER_FOLD] == fold]
        within = [
            row(
                one.configuration,
                one.values,
                [trial for trial in inside if trial.configuration == one.configuration],
            )
            for one in rows
        ]
        best = better.of(within, inside, fold)
        if best is not None:
            chosen.append(best)
    metrics: Spreads = {}
    if len(chosen) == len(folds):
        names = [name for name in chosen[0].row.metrics if name.startswith("test_")]
        columns = {n: [one.row.metrics[n].mean for one in chosen] for n in names}
        metrics = {name: Spread.of(column) for name, column in columns.items()}
    return Nested(len(folds), chosen, metrics)


def same(rows: Sequence[Row], trials: Sequence[Trial]) -> list[Same]:
    """Returns groups of rows that end in the same state to the last bit, the largest group first.

    Only rows whose trials are all done are compared. If there is only one configuration, its trials
    with different recipes are compared instead.
    """
    found: dict[str, list[tuple[int, Values]]] = {}
    for one in rows if len(rows) > 1 else []:
        mine = [t.done for t in trials if t.configuration == one.configuration and t.done]
        if one.whole:
            text = json.dumps([done.digest for done in mine])
            found.setdefault(text, []).append((one.configuration, one.values))
    recipes = {trial.number: trial.planned.recipe_digest for trial in trials}
    for trial in trials if len(rows) == 1 else []:
        if trial.done:
            others = found.setdefault(trial.done.digest, [])
            if recipes[trial.number] not in {recipes[number] for number, _ in others}:
                others.append((trial.number, trial.planned.repetition))
    groups = [
        Same([number for number, _ in group], _apart([values for _, values in group]))
        for group in found.values()
        if len(group) > 1
    ]
    return sorted(groups, key=lambda group: -len(group.numbers))


def _apart(group: Sequence[Values]) -> list[str]:
    """Returns the parameters that do not have the same value in the whole group."""
    return [
        key
        for key in group[0]
        if len({json.dumps(values[key], sort_keys=True) for values in group}) > 1
    ]


def repeated(trials: Sequence[Trial]) -> list[Repeated]:
    """Returns each recipe that was trained more than once, with the number of its results."""
    found: dict[str, list[tuple[Trial, Done]]] = {}
    for trial in trials:
        if trial.done:
            found.setdefault(trial.planned.recipe_digest, []).append((trial, trial.done))
    return [
        Repeated(
            configuration=group[0][0].configuration,
            trials=[trial.number for trial, _ in group],
            different=len({done.digest for _, done in group}),
        )
        for group in found.values()
        if len(group) > 1
    ]


def again(
    trials: Sequence[Trial],
    best: Choice | None,
    chosen: Sequence[Choice],
    alone: bool,
) -> Again | None:
    """Returns the trial to train once more; None: there is none, or it is not known yet.

    Args:
        best: the best row, if there is one.
        chosen: the choices of a nested study, if it has several configurations.
        alone: whether there is nothing to choose between, so that the first trial is taken.
    """
    if best is not None:
        number, what = best.trial, "the best"
    elif chosen:
        number, what = chosen[0].trial, f"what outer fold {chosen[0].outer_fold} chose"
    elif alone:
        over = next((t for t in trials if t.done or t.failed == NOT_RUN), None)
        if over is None or not over.done:
            return None
        number, what = over.number, "the first trial"
    else:
        return None
    done = next(trial.done for trial in trials if trial.number == number)
    assert done is not None, "what is chosen has a result"
    none = done.guarantee.asked == "none"
    why = "guarantee: none does not promise that it ends the same" if none else None
    return Again(number, done.run, what, why)

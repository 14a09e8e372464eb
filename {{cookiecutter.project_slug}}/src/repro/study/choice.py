"""What is chosen in a study and what its trials say beside that: ties, equal bits, what repeats.

Trials are those of `table.answer`: what was planned, and what came of each.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from repro.study.search import Values

Trials = Sequence[dict[str, Any]]
OUTER_FOLD = "split.outer_fold"
"""The parameter that a nested study repeats its configurations over."""
NOT_RUN = "not run"
"""What a trial failed with that has not begun or not ended."""


def row(number: int, values: Values, trials: Trials) -> dict[str, Any]:
    """A configuration, with mean and deviation over those of its trials that are done."""
    done = [trial for trial in trials if not trial["failed"]]
    names = list(done[0]["metrics"]) if done else []
    columns = {name: [trial["metrics"][name] for trial in done] for name in names}
    return {
        "configuration": number,
        "values": values,
        "trials": len(trials),
        "done": len(done),
        "metrics": {name: _statistics(column) for name, column in columns.items()},
    }


class Better:
    """Chooses by the mean of what is monitored."""

    def __init__(self, monitor: str, larger: bool) -> None:
        self.monitor, self._sign = monitor, -1 if larger else 1

    def of(self, rows: Iterable[dict[str, Any]]) -> dict[str, Any] | None:
        """The first of the best rows, with the numbers of those that are `tied` with it.

        Rows with a failed trial, or with a mean that is no number, are left out.
        """
        finite = [
            row
            for row in rows
            if row["done"] == row["trials"] and math.isfinite(row["metrics"][self.monitor]["mean"])
        ]
        best = min(
            finite, key=lambda row: self._sign * row["metrics"][self.monitor]["mean"], default=None
        )
        if best is None:
            return None
        mean = best["metrics"][self.monitor]["mean"]
        tied = [r["configuration"] for r in finite if r["metrics"][self.monitor]["mean"] == mean]
        return best | {"tied": [n for n in tied if n != best["configuration"]]}


def nested(rows: Trials, trials: Trials, folds: Sequence[int], better: Better) -> dict[str, Any]:
    """What is chosen in each outer fold by its own validations, and the test of what was chosen.

    The validations of one outer fold hold the tests of the others, so nothing is chosen across
    them. The test of an outer fold is the mean over the trainings of the chosen configuration in
    it, one for each inner fold and seed.
    """
    chosen = []
    for fold in folds:
        inside = [trial for trial in trials if trial["repetition"][OUTER_FOLD] == fold]
        within = [
            row(
                one["configuration"],
                one["values"],
                [trial for trial in inside if trial["configuration"] == one["configuration"]],
            )
            for one in rows
        ]
        best = better.of(within)
        if best is not None:
            first = next(t for t in inside if t["configuration"] == best["configuration"])
            chosen.append({"outer_fold": fold, "trial": first["trial"], "run": first["run"]} | best)
    metrics: dict[str, Any] = {}
    if len(chosen) == len(folds):
        names = [name for name in chosen[0]["metrics"] if name.startswith("test_")]
        columns = {n: [one["metrics"][n]["mean"] for one in chosen] for n in names}
        metrics = {name: _statistics(column) for name, column in columns.items()}
    return {"folds": len(folds), "chosen": chosen, "metrics": metrics}


def same(rows: Trials, trials: Trials, recipes: dict[int, str | None]) -> list[dict[str, Any]]:
    """Groups of rows that end in the same state to the last bit, and what sets them apart.

    The largest group is the first. Of several configurations these are the rows that are whole, of
    a single one its trials of different recipes.
    """
    found: dict[str, list[tuple[int, Values]]] = {}
    for one in rows if len(rows) > 1 else []:
        mine = [trial for trial in trials if trial["configuration"] == one["configuration"]]
        if one["done"] == one["trials"]:
            text = json.dumps([trial["digest"] for trial in mine])
            found.setdefault(text, []).append((one["configuration"], one["values"]))
    for trial in trials if len(rows) == 1 else []:
        if not trial["failed"]:
            others = found.setdefault(trial["digest"], [])
            if recipes[trial["trial"]] not in {recipes[number] for number, _ in others}:
                others.append((trial["trial"], trial["repetition"]))
    return sorted(
        (
            {
                "numbers": [number for number, _ in group],
                "parameters": [
                    key
                    for key in group[0][1]
                    if len({json.dumps(values[key], sort_keys=True) for _, values in group}) > 1
                ],
            }
            for group in found.values()
            if len(group) > 1
        ),
        key=lambda group: -len(group["numbers"]),
    )


def repeated(trials: Trials, recipes: dict[int, str | None]) -> list[dict[str, Any]]:
    """Of each recipe that was trained more than once: how many results it gave that differ."""
    found: dict[str, list[dict[str, Any]]] = {}
    for trial in trials:
        recipe = recipes[trial["trial"]]
        if recipe is not None and not trial["failed"]:
            found.setdefault(recipe, []).append(trial)
    return [
        {
            "configuration": group[0]["configuration"],
            "trials": [trial["trial"] for trial in group],
            "different": len({trial["digest"] for trial in group}),
        }
        for group in found.values()
        if len(group) > 1
    ]


def again(
    trials: Trials,
    best: dict[str, Any] | None,
    chosen: Trials | None,
    alone: bool,
) -> dict[str, Any] | None:
    """Which trial is trained once more to show that it can be, and what it is; None: there is none.

    Args:
        best: the best row, if there is one.
        chosen: what the outer folds of a nested study chose, else None.
        alone: whether there is nothing to choose between, so that the first trial will do.
    """
    if best is not None:
        number, what = best["trial"], "the best"
    elif chosen:
        number, what = chosen[0]["trial"], f"what outer fold {chosen[0]['outer_fold']} chose"
    elif alone:
        over = next((t for t in trials if not t["failed"] or t["failed"] == NOT_RUN), None)
        if over is None or over["failed"]:
            return None
        number, what = over["trial"], "the first trial"
    else:
        return None
    trial = next(trial for trial in trials if trial["trial"] == number)
    none = trial["guarantee"].get("asked") == "none"
    why = "guarantee: none does not promise that it ends the same" if none else None
    return {"trial": number, "run": trial["run"], "what": what, "why_not": why}


def _statistics(column: list[float]) -> dict[str, float | None]:
    if not all(map(math.isfinite, column)):
        return {"mean": math.nan, "deviation": math.nan}
    deviation = statistics.stdev(column) if len(column) > 1 else None
    return {"mean": statistics.fmean(column), "deviation": deviation}

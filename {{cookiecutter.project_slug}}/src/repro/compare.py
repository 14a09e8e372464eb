"""Two run directories: the same, different from some point on, or not comparable."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from . import BadInput, ledger
from . import recipe as recipes

EXPLAINED = {
    "settings": "a setting of the guarantee was not the same in both processes",
    "arrays": "the data the training read were not the same: something draws, lists or reads them "
    "in another way each time",
    "sources": "what the data were read from was not the same",
    "order": "the samples came in another order",
    "generators": "a random generator was in another state",
    "weights": "the weights were not the same",
    "optimizer": "the optimizer's state was not the same",
    "metrics": "loss or metrics were not the same over these steps, so the weights or what the "
    "layers computed were not either",
    "results": "the results were not the same",
    "length": "one run is longer than the other",
    "place": "the two runs did not do the same things in the same order",
}
"""What a first difference means, by the ledger's field in which it stands."""

# At the start, before a step was made, weights and generators have simpler causes.
AT_START = {
    "weights": "the initial weights were not the same: a layer draws them from a generator of its "
    "own, or the model was built in another way",
}
AT_END = {"arrays": "the predictions were not the same"}


def compare(a: Path, b: Path, one_recipe: bool = False) -> dict[str, Any]:
    """Returns the verdict on two finished runs.

    With `one_recipe` the two were started from the same recipe: should they have read other
    sources of data, they have diverged.

    The keys are `verdict` (`identical`, `diverged` or `not comparable`), `runs`, `digests` and,
    where they apply, `first_divergence` or `not_comparable`, the fields of the recipe that
    differ with both values.

    Raises:
        BadInput: a directory is no run, the run has not finished, or a ledger is damaged.
    """
    one, other = _finished(a), _finished(b)
    answer: dict[str, Any] = {
        "runs": [str(a), str(b)],
        "digests": [one["digest"], other["digest"]],
    }
    fields = recipes.changed(one["recipe"], other["recipe"])
    if fields and one_recipe:
        names = [field.removeprefix("data.") for field in fields]
        left, right = fields["data." + names[0]]
        where = {"stage": "data", "epoch": 0, "step": 0, "what": "sources", "name": names[0]}
        where |= {"a": left, "b": right, "names": names, "means": EXPLAINED["sources"]}
        return answer | {"verdict": "diverged", "first_divergence": where}
    if fields:
        return answer | {"verdict": "not comparable", "not_comparable": fields}
    found = ledger.first_difference(a / "ledger.jsonl", b / "ledger.jsonl")
    if found is None and one["digest"] == other["digest"]:
        return answer | {"verdict": "identical"}
    if found is None:
        raise BadInput(f"{a}, {b}: equal ledgers and unequal digests; a manifest was altered")
    return answer | {"verdict": "diverged", "first_divergence": found | {"means": _means(found)}}


def _finished(directory: Path) -> dict[str, Any]:
    content = recipes.read_manifest(directory)
    if content.get("status") != "finished":
        raise BadInput(f"{directory}: the run has not finished, it is {content.get('status')!r}")
    return content


def _means(found: dict[str, Any]) -> str:
    special = {"initial": AT_START, "final": AT_END}.get(found["stage"], {})
    return special.get(found["what"], EXPLAINED[found["what"]])


def describe(found: dict[str, Any]) -> str:
    """A first divergence in a few lines for a person."""
    place = {
        "environment": "before the training, in the settings in effect",
        "data": "before the training, in the data",
        "initial": "before the first step, in the initial state",
        "final": "after the training, in predictions and test results",
    }.get(found["stage"]) or f"in epoch {found['epoch']}, at step {found['step']}"
    others = len(found.get("names", [])) - 1
    more = f", and {others} more" if others > 0 else ""
    return (
        f"first difference: {place}\n"
        f"  {found['what']}: {found['name']}{more}\n"
        f"    {_short(found['a'])}\n    {_short(found['b'])}\n"
        f"  {found['means']}"
    )


def _short(value: Any) -> str:
    text = str(value)
    return text[:16] + "…" if len(text) == 64 else text

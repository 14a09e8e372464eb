"""Two run directories: the same, different from some point on, or not comparable."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from . import BadInput, files, launcher, ledger
from . import recipe as recipes
from .launcher import Listener
from .recipe import Project

EXPLAINED = {
    "settings": "a setting of the guarantee was not the same in both processes",
    "samples": "the data were not the same: something draws, lists or reads them in another way "
    "each time",
    "split": "other samples are in the parts",
    "arrays": "what the preprocessing made of the data was not the same",
    "sources": "what the data were read from was not the same",
    "order": "the samples came in another order",
    "generators": "a random generator was in another state",
    "weights": "the weights were not the same",
    "optimizer": "the optimizer's state was not the same",
    "outside": "what the code keeps outside of the model was not the same",
    "metrics": "loss or metrics were not the same over these steps, so the weights or what the "
    "layers computed were not either",
    "produced": "what the trained model made was not the same",
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
    fields = files.changed(one["recipe"], other["recipe"])
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
    means = _means(found) + _processors(one, other)
    return answer | {"verdict": "diverged", "first_divergence": found | {"means": means}}


def _finished(directory: Path) -> dict[str, Any]:
    content = recipes.read_manifest(directory)
    if content.get("status") != "finished":
        raise BadInput(f"{directory}: the run has not finished, it is {content.get('status')!r}")
    return content


def explain(
    project: Project, a: Path, b: Path, found: dict[str, Any], listener: Listener
) -> dict[str, Any] | None:
    """Runs the steps again between which two runs parted, and returns the first tensor to differ.

    The first pass makes a ledger entry for each of those steps, the second takes all tensors of
    the step found; both for each of the two recipes, in the surroundings that it had.

    Args:
        found: what `ledger.first_difference` said of the two runs.

    Returns:
        `again`: whether the runs parted again. If so `epoch`, `step`, `kind`, `tensor`, `index`,
        `a`, `b`, `ulps` (units in the last place between them) and `cause`. None where there is
        nothing to run again: settings or sources differ, or results alone.
    """
    stage = found["stage"]
    if found["what"] in ("settings", "sources", "place", "length") or stage == "final":
        return None
    probe = {"stage": stage, "epoch": found["epoch"], "after": 0, "record": None}
    place = {"epoch": found["epoch"], "step": found["step"]}
    if stage in ("step", "epoch"):
        # From the epoch's beginning: its entries until here were equal, but hold no weights.
        with _probes(project, (a, b), probe, listener) as again:
            finer = ledger.first_difference(*(run / "ledger.jsonl" for run in again))
        if finer is None:
            return {"again": False}
        place = {"epoch": finer["epoch"], "step": finer["step"]}
        probe |= place | {"stage": finer["stage"], "record": finer["step"]}
        probe["after"] = max(0, finer["step"] - 1)
    with _probes(project, (a, b), probe, listener) as again:
        difference = _first_tensor(*(run / "probe.npz" for run in again))
    if difference is None:
        return {"again": False} | place
    return {"again": True} | place | difference | {"cause": CAUSES[difference["kind"]]}


@contextlib.contextmanager
def _probes(
    project: Project, runs: Sequence[Path], probe: dict[str, Any], listener: Listener
) -> Iterator[list[Path]]:
    """Two runs made only to look; they are gone when that is done."""
    made: list[Path] = []
    try:
        for run in runs:
            content = recipes.read_manifest(run)
            recipe = {k: v for k, v in content["recipe"].items() if k != "data"}
            surroundings = content["surroundings"]
            made.append(launcher.train(project, recipe, listener, **surroundings, probe=probe))
        yield made
    finally:
        for run in made:
            shutil.rmtree(run)


def _first_tensor(a: Path, b: Path) -> dict[str, Any] | None:
    import numpy as np

    with np.load(a, allow_pickle=False) as one, np.load(b, allow_pickle=False) as other:
        for key in [*one.files, *(k for k in other.files if k not in one.files)]:
            kind, _, tensor = key.partition("/")
            if key not in one.files or key not in other.files:
                return {"kind": kind, "tensor": tensor, "index": None, "a": None, "b": None}
            left, right = one[key], other[key]
            if left.shape != right.shape:
                shapes = {"a": str(left.shape), "b": str(right.shape)}
                return {"kind": kind, "tensor": tensor, "index": None, **shapes}
            bits = [np.ascontiguousarray(x).reshape(-1).view(np.uint8) for x in (left, right)]
            if not np.array_equal(bits[0], bits[1]):
                size = left.dtype.itemsize
                flat = int(np.argmax(bits[0] != bits[1])) // size
                index = [int(i) for i in np.unravel_index(flat, left.shape)]
                x, y = left.reshape(-1)[flat], right.reshape(-1)[flat]
                return {
                    "kind": kind,
                    "tensor": tensor,
                    "index": index,
                    "a": x.item(),
                    "b": y.item(),
                    "ulps": _ulps(x, y),
                    "elements": int((left != right).sum()),
                    "of": int(left.size),
                }
    return None


def _ulps(x: Any, y: Any) -> int | None:
    """How many numbers of their type lie between two floating-point numbers; None for others."""
    import numpy as np

    if x.dtype.kind != "f":
        return None
    integer = f"i{x.dtype.itemsize}"
    lowest = int(np.iinfo(integer).min)

    def rank(value: Any) -> int:
        # The bits of positive numbers are in their order; those of negative ones in the reverse.
        bits = int(np.asarray(value).view(integer)[()])
        return bits if bits >= 0 else lowest - bits

    return abs(rank(x) - rank(y))


CAUSES = {
    "data": "the content of the data: something draws, lists or reads them in another way each "
    "time; seed what draws, sort what is listed",
    "batch indices": "the order of the data: it must follow from seed and epoch alone",
    "batch content": "the content of the data: samples change while the training reads them",
    "generator state": "a random generator: seed it, or leave its seed to `keras.utils."
    "set_random_seed`, which the machinery calls",
    "initial weight": "the initialisation: this tensor is drawn from a generator of its own; give "
    "its initializer no seed, or a fixed one",
    "weight before": "the weights were changed outside a training step",
    "generator state after": "a random generator: it was drawn from another number of times",
    "activation": "an operation in this layer, or a generator of its own that it draws from",
    "gradient": "an operation in the gradient with respect to this tensor",
    "optimizer slot": "the optimizer: its arithmetic or its learning rate",
    "weight after": "this weight is changed by something beside the optimizer",
}
"""What is likely where the first tensor to differ is of this kind."""


def _means(found: dict[str, Any]) -> str:
    special = {"initial": AT_START, "final": AT_END}.get(found["stage"], {})
    return special.get(found["what"], EXPLAINED[found["what"]])


def _processors(one: dict[str, Any], other: dict[str, Any]) -> str:
    """Says so where the runs were made on two models of processor and need not agree."""
    left, right = one["machine"]["cpu"], other["machine"]["cpu"]
    if left == right or one["guarantee"]["holds"] == other["guarantee"]["holds"] == "portable":
        return ""
    return (
        f"; the runs were made on different processors, {left} and {right}, "
        "which compute alike only under guarantee=portable"
    )


def describe_tensor(found: dict[str, Any]) -> str:
    """What `explain` found, in a few lines for a person."""
    if not found["again"]:
        return (
            "the same steps, run again, did not part: the difference comes from a race, or from "
            "something that changes from one start to the next"
        )
    place = f"epoch {found['epoch']}, step {found['step']}" if found["epoch"] else "the beginning"
    text = f"first tensor to differ, at {place}: {found['kind']} {found['tensor']}"
    if found["index"] is not None:
        text += f"\n  at {found['index']}: {found['a']!r} and {found['b']!r}"
        if found["ulps"] is not None:
            text += f", {found['ulps']} units in the last place apart"
        text += f"; {found['elements']} of {found['of']} elements differ"
    return text + f"\n  likely cause: {found['cause']}"


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

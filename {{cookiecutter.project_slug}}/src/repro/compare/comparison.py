"""Two run directories: the same, different from some point on, or not comparable."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from repro.basics import files
from repro.basics.text import printable
from repro.recipe.project import Project
from repro.run import launcher, ledger, manifest
from repro.run.launcher import Launch, Listener
from repro.run.manifest import Finished, Probe

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
    "results": "the training went the same way, only the results were not the same: what the "
    "model judges itself by (`judge`), or the evaluation, draws or computes otherwise each time",
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
UNSEEN = ("settings", "sources", "place", "length", "results")
"""Fields whose difference no step shows that is run again."""


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
    one, other = manifest.finished(a), manifest.finished(b)
    answer: dict[str, Any] = {
        "runs": [str(a), str(b)],
        "digests": [one.digest, other.digest],
    }
    fields = files.changed(one.recipe.as_json(), other.recipe.as_json())
    if fields and one_recipe:
        names = [field.removeprefix("data.") for field in fields]
        left, right = fields["data." + names[0]]
        where = {"stage": "data", "epoch": 0, "step": 0, "what": "sources", "name": names[0]}
        where |= {"a": left, "b": right, "names": names, "means": EXPLAINED["sources"]}
        return answer | {"verdict": "diverged", "first_divergence": where}
    if fields:
        return answer | {"verdict": "not comparable", "not_comparable": fields}
    found = ledger.first_difference(a / "ledger.jsonl", b / "ledger.jsonl")
    if found is None:  # In one run of a gate a process may have seen another beginning.
        found = one.parted or other.parted
    if found is None and one.digest == other.digest:
        return answer | {"verdict": "identical"}
    if found is None:
        found = _ends(one, other)
    means = _means(found) + _processors(one, other) + _made_of(one, other)
    return answer | {"verdict": "diverged", "first_divergence": found | {"means": means}}


def can_be_explained(found: dict[str, Any]) -> bool:
    """Whether steps that are run again may show why runs parted there."""
    return found["what"] not in UNSEEN and found["stage"] != "final"


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

    Raises:
        RunFailed, BadInput: a step cannot be made again, say because a layer works in a graph only.
    """
    if not can_be_explained(found):
        return None
    stage = found["stage"]
    probe = Probe(stage=stage, epoch=found["epoch"], after=0, record=None)
    place = {"epoch": found["epoch"], "step": found["step"]}
    if stage in ("step", "epoch"):
        # From the epoch's beginning: its entries until here were equal, but hold no weights.
        with _probes(project, (a, b), probe, listener) as again:
            finer = ledger.first_difference(*(run / "ledger.jsonl" for run in again))
        if finer is None:
            return {"again": False}
        place = {"epoch": finer["epoch"], "step": finer["step"]}
        probe = Probe(
            stage=finer["stage"],
            epoch=finer["epoch"],
            after=max(0, finer["step"] - 1),
            record=finer["step"],
        )
    with _probes(project, (a, b), probe, listener) as again:
        difference = _first_tensor(*(run / "probe.npz" for run in again))
    if difference is None:
        return {"again": False} | place
    return {"again": True} | place | difference | {"cause": CAUSES[difference["kind"]]}


@contextlib.contextmanager
def _probes(
    project: Project, runs: Sequence[Path], probe: Probe, listener: Listener
) -> Iterator[list[Path]]:
    """Two runs made only to look; they are gone when that is done."""
    made: list[Path] = []
    with launcher.made_to_look() as on_start:
        for run in runs:
            content = manifest.read(run)
            launch = Launch(project, content.recipe.asked, content.surroundings, probe=probe)
            made.append(launcher.train(launch, listener, on_start))
        yield made


def _first_tensor(a: Path, b: Path) -> dict[str, Any] | None:
    """The first tensor of two records whose bits differ, and the first element of it that does."""
    import numpy as np

    with np.load(a, allow_pickle=False) as one, np.load(b, allow_pickle=False) as other:
        for key in [*one.files, *(k for k in other.files if k not in one.files)]:
            kind, _, tensor = key.partition("/")
            named = {"kind": kind, "tensor": tensor}
            if key not in one.files or key not in other.files:
                return named | {"index": None, "a": None, "b": None}
            left, right = one[key], other[key]
            for what in ("shape", "dtype"):
                if (x := getattr(left, what)) != (y := getattr(right, what)):
                    return named | {"index": None, "a": str(x), "b": str(y)}
            differ = np.flatnonzero((_bits(left) != _bits(right)).any(axis=1))
            if len(differ):
                flat = int(differ[0])
                index = [int(i) for i in np.unravel_index(flat, left.shape)]
                x, y = left.reshape(-1)[flat], right.reshape(-1)[flat]
                return named | {
                    "index": index,
                    "a": _value(x),
                    "b": _value(y),
                    "bits": [_hexadecimal(x), _hexadecimal(y)],
                    "ulps": _ulps(x, y),
                    "elements": len(differ),
                    "of": int(left.size),
                }
    return None


def _bits(array: Any) -> Any:
    """The bytes of each element, of shape (elements, bytes): -0.0 and 0.0 are not the same there,
    and a NaN equals itself."""
    import numpy as np

    flat = np.ascontiguousarray(array).reshape(-1)
    return flat.view(np.uint8).reshape(len(flat), array.dtype.itemsize)


def _value(x: Any) -> Any:
    """An element as JSON has it; what JSON has no number for, as text."""
    if x.dtype.kind == "V":  # A type that NumPy does not know, such as bfloat16.
        return f"0x{_hexadecimal(x)}"
    value = x.item()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, bool | int | float | str) else str(value)


def _hexadecimal(x: Any) -> str:
    """The bits of an element, the most significant first."""
    content: bytes = x.tobytes()
    return (content if x.dtype.byteorder == ">" else content[::-1]).hex()


def _ulps(x: Any, y: Any) -> int | None:
    """How many numbers of their type lie between two floating-point numbers.

    None for others, where one is no number, and for -0.0 beside 0.0, between which there is none.
    """
    import numpy as np

    if x.dtype.kind != "f" or np.isnan(x) or np.isnan(y) or x == y:
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


MOST = 6
"""Things of which two runs were not made alike that are named."""


def _ends(one: Finished, other: Finished) -> dict[str, Any]:
    """Where two runs part that have equal ledgers: in their final states alone."""
    return {
        "stage": "final",
        "epoch": 0,
        "step": 0,
        "what": "weights",
        "name": "state",
        "a": one.digest,
        "b": other.digest,
        "names": ["state"],
    }


def _made_of(one: Finished, other: Finished) -> str:
    """Says what the runs were made of that was not the same, and what their code read."""
    found = []
    first, second = (asdict(run.made_of) if run.made_of else {} for run in (one, other))
    for field, (left, right) in files.changed(first, second).items():
        group, _, name = field.partition(".")
        if group == "code":
            found.append(f"src/{name}")
        elif group in ("packages", "python"):
            found.append(f"{name} {left} and {right}")
    for group, what in (("variables", "the variable "), ("files", "")):
        first, second = (getattr(run.reads, group, {}) for run in (one, other))
        named = files.changed(first, second)
        found += [f"{what}{name}, which the project's code read" for name in named]
    more = f" and {len(found) - MOST} more" if len(found) > MOST else ""
    return f"; not the same for both runs: {', '.join(found[:MOST])}{more}" if found else ""


def _processors(one: Finished, other: Finished) -> str:
    """Says so where the runs were made on two models of processor and need not agree."""
    left, right = one.machine.cpu, other.machine.cpu
    if left == right or one.guarantee.holds == other.guarantee.holds == "portable":
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
    text = f"first tensor to differ, at {place}: {found['kind']} {printable(found['tensor'])}"
    if found["index"] is None and found["a"] is not None:
        text += f", which is of {found['a']} in the first and of {found['b']} in the second"
    if found["index"] is not None:
        text += f"\n  at {found['index']}: {' and '.join(_told(found))}"
        if found["ulps"] is not None:
            text += f", {found['ulps']} units in the last place apart"
        text += f"; {found['elements']} of {found['of']} elements differ"
    return text + f"\n  likely cause: {found['cause']}"


def _told(found: dict[str, Any]) -> list[str]:
    """The two elements; with their bits where they read the same, as two NaNs do."""
    both = [str(found[side]) for side in "ab"]
    if both[0] != both[1]:
        return both
    return [f"{text} (0x{bits})" for text, bits in zip(both, found["bits"], strict=True)]


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
        f"  {found['what']}: {printable(found['name'])}{more}\n"
        f"    {_short(found['a'])}\n    {_short(found['b'])}\n"
        f"  {found['means']}"
    )


def _short(value: Any) -> str:
    text = printable(value)
    return text[:16] + "…" if len(text) == 64 else text

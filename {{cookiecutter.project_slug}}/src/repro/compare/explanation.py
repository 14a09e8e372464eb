"""Finds out why two runs differ: runs steps again, and names the first tensor that differs."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from repro.basics import npz
from repro.basics.text import printable
from repro.recipe.project import Project
from repro.run import launcher, ledger, manifest
from repro.run.launcher import Launch, Listener
from repro.run.ledger import Divergence
from repro.run.manifest import Probe

UNSEEN = ("settings", "sources", "vocabulary", "place", "length", "results")
"""Fields of the ledger whose difference cannot be found by running steps again."""
AGAIN = (
    "the same steps, run again, did not part: the difference comes from a race, or from "
    "something that changes from one start to the next"
)


KEYS = "batch keys/0"
"""Where a record has the keys of a batch's samples, if they are read one by one."""


@dataclass(frozen=True)
class Element:
    """The first element that differs in two tensors, and how many differ."""

    index: list[int]
    bits: list[str]
    """Its bits in the first and in the second run, in hexadecimal, the most significant first."""
    ulps: int | None
    """The units in the last place between the two values; None: see `_ulps`."""
    elements: int
    """How many elements differ."""
    of: int
    """How many elements there are."""


@dataclass(frozen=True)
class Tensor:
    """The first tensor whose bits differ."""

    kind: str
    """One of `CAUSES`."""
    name: str
    a: bool | int | float | str | None
    """In the first run: the first element that differs; or shape or type, if these differ. It is
    None if one of the runs does not have the tensor."""
    b: bool | int | float | str | None
    """The same in the second run."""
    element: Element | None = None
    """None if shape or type differ, or if one of the runs does not have the tensor."""
    sample: str | None = None
    """The key of the sample that the element is of, if samples are read one by one."""

    @property
    def cause(self) -> str:
        """The likely cause if the first tensor that differs is of this kind."""
        return CAUSES[self.kind]

    def as_json(self) -> dict[str, Any]:
        """Returns the tensor as answers have it."""
        one = asdict(self.element) if self.element else {"index": None}
        told = {"kind": self.kind, "tensor": self.name, "index": one.pop("index")}
        if self.sample is not None:
            told["sample"] = self.sample
        return told | {"a": self.a, "b": self.b} | one

    def lines(self) -> list[str]:
        """Returns the tensor and where it differs as lines for a person."""
        of = f" of sample {printable(self.sample)}" if self.sample is not None else ""
        first = f"{self.kind} {printable(self.name)}{of}"
        if self.element is None:
            if self.a is None:
                return [first]
            return [f"{first}, which is of {self.a} in the first and of {self.b} in the second"]
        one = self.element
        both = [str(self.a), str(self.b)]
        if both[0] == both[1]:  # Two NaNs look alike and may have different bits.
            both = [f"{text} (0x{bits})" for text, bits in zip(both, one.bits, strict=True)]
        apart = "" if one.ulps is None else f", {one.ulps} units in the last place apart"
        told = f"{' and '.join(both)}{apart}; {one.elements} of {one.of} elements differ"
        return [first, f"  at {one.index}: {told}"]


@dataclass(frozen=True)
class Explanation:
    """What was found by running the steps again."""

    epoch: int | None = None
    """None if the repeated runs did not differ, so that no step was recorded."""
    step: int | None = None
    tensor: Tensor | None = None
    """None if the repeated runs did not differ."""

    def as_json(self) -> dict[str, Any]:
        """Returns the explanation as answers have it, without what is not known."""
        content: dict[str, Any] = {"again": self.tensor is not None}
        if self.epoch is not None:
            content |= {"epoch": self.epoch, "step": self.step}
        if self.tensor is not None:
            content |= self.tensor.as_json() | {"cause": self.tensor.cause}
        return content

    def __str__(self) -> str:
        """Returns the same as a few lines for a person."""
        if self.tensor is None:
            return AGAIN
        place = f"epoch {self.epoch}, step {self.step}" if self.epoch else "the beginning"
        first, *rest = self.tensor.lines()
        told = [f"first tensor to differ, at {place}: {first}", *rest]
        return "\n".join([*told, f"  likely cause: {self.tensor.cause}"])


def possible(found: Divergence) -> bool:
    """Whether the cause of this divergence may be found by running the steps again."""
    return found.what not in UNSEEN and found.stage != "final"


def explain(
    project: Project, runs: Sequence[Path], found: Divergence, listener: Listener
) -> Explanation | None:
    """Runs again the steps in which two runs began to differ, and finds the first tensor.

    There are two passes, and each repeats both runs in their own surroundings. The first pass makes
    a ledger entry for each step of the epoch, which shows the step. The second pass records all
    tensors of this step.

    Args:
        found: the first place where the two runs differ.

    Returns:
        The explanation; None if no step can show it, since settings, sources or only results
        differ.

    Raises:
        RunFailed, BadInput: a step cannot be made again, for example because a layer works only in
            a graph.
    """
    if not possible(found):
        return None
    epoch, step = found.epoch, found.step
    probe = Probe(stage=found.stage, epoch=epoch, after=0, record=None)
    if found.stage in ("step", "epoch"):
        # From the beginning of the epoch: its entries up to the place found were equal, but they
        # have no weights, which may have differed before.
        with _probes(project, runs, probe, listener) as again:
            finer = ledger.first_difference(*(run / "ledger.jsonl" for run in again))
        if finer is None:
            return Explanation()
        epoch, step = finer.epoch, finer.step
        probe = Probe(stage=finer.stage, epoch=epoch, after=max(0, step - 1), record=step)
    with _probes(project, runs, probe, listener) as again:
        return Explanation(epoch, step, first_tensor(*(run / "probe.npz" for run in again)))


@contextlib.contextmanager
def _probes(
    project: Project, runs: Sequence[Path], probe: Probe, listener: Listener
) -> Iterator[list[Path]]:
    """Repeats the runs with a probe, yields their directories, and removes them after the block."""
    made: list[Path] = []
    with launcher.made_to_look() as on_start:
        for run in runs:
            content = manifest.read(run)
            launch = Launch(project, content.recipe.asked, content.surroundings, probe=probe)
            made.append(launcher.train(launch, listener, on_start))
        yield made


def first_tensor(a: Path, b: Path) -> Tensor | None:
    """Returns the first tensor whose bits differ in two records, with its first such element.

    Returns None if all bits are equal. `a` and `b` are files that `probing` has written.
    """
    import numpy as np

    # One array after the other, since a record may hold all of the data.
    with np.load(a, allow_pickle=False) as one, np.load(b, allow_pickle=False) as other:
        kinds = npz.types(one), npz.types(other)
        for key in [*one.files, *(k for k in other.files if k not in one.files)]:
            if key == npz.TYPES:
                continue
            kind, _, name = key.partition("/")
            if key not in one.files or key not in other.files:
                return Tensor(kind, name, None, None)
            left, right = npz.array(one, key, kinds[0]), npz.array(other, key, kinds[1])
            if found := _difference(kind, name, left, right):
                if kind == "batch content" and KEYS in one.files and found.element:
                    found = replace(found, sample=str(one[KEYS][found.element.index[0]]))
                return found
    return None


def _difference(kind: str, name: str, left: Any, right: Any) -> Tensor | None:
    """Says how two arrays of one name differ; None if they do not."""
    import numpy as np

    for what in ("shape", "dtype"):
        if (x := getattr(left, what)) != (y := getattr(right, what)):
            return Tensor(kind, name, str(x), str(y))
    differ = np.flatnonzero((_bits(left) != _bits(right)).any(axis=1))
    if not len(differ):
        return None
    flat = int(differ[0])
    x, y = left.reshape(-1)[flat], right.reshape(-1)[flat]
    element = Element(
        index=[int(i) for i in np.unravel_index(flat, left.shape)],
        bits=[_hexadecimal(x), _hexadecimal(y)],
        ulps=_ulps(x, y),
        elements=len(differ),
        of=int(left.size),
    )
    return Tensor(kind, name, _value(x), _value(y), element)


def _bits(array: Any) -> Any:
    """Returns the bytes of each element, of shape (elements, bytes).

    As bytes, -0.0 and 0.0 are not equal, and a NaN is equal to itself.
    """
    import numpy as np

    flat = np.ascontiguousarray(array).reshape(-1)
    return flat.view(np.uint8).reshape(len(flat), array.dtype.itemsize)


def _value(x: Any) -> bool | int | float | str:
    """Returns an element as a value of JSON; it is text if JSON has no such number."""
    if x.dtype.fields:
        return f"0x{_hexadecimal(x)}"
    value = float(x) if x.dtype.kind == "V" else x.item()  # `V` is bfloat16 and the like.
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, bool | int | float | str) else str(value)


def _hexadecimal(x: Any) -> str:
    """Returns the bits of an element in hexadecimal, the most significant first."""
    content: bytes = x.tobytes()
    return (content if x.dtype.byteorder == ">" else content[::-1]).hex()


def _ulps(x: Any, y: Any) -> int | None:
    """Returns the units in the last place between two floating-point numbers.

    It is None if they are of another type, if one of them is NaN, or if they are -0.0 and 0.0.
    """
    import numpy as np

    if x.dtype.kind != "f" or np.isnan(x) or np.isnan(y) or x == y:
        return None
    integer = f"i{x.dtype.itemsize}"
    lowest = int(np.iinfo(integer).min)

    def rank(value: Any) -> int:
        # Read as integers, the bits of positive numbers are in the order of the numbers, and those
        # of negative numbers are in the reverse order.
        bits = int(np.asarray(value).view(integer)[()])
        return bits if bits >= 0 else lowest - bits

    return abs(rank(x) - rank(y))


CAUSES = {
    "data": "the content of the data: something draws, lists or reads them in another way each "
    "time; seed what draws, sort what is listed",
    "batch indices": "the order of the data: it must follow from seed and epoch alone",
    "batch keys": "the order of the data: it must follow from seed and epoch alone",
    "batch content": "the content of the data: samples change while the training reads them, or "
    "`augment` draws from something else than its generator",
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
"""The likely cause, by the kind of the first tensor that differs."""

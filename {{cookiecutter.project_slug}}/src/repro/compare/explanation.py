"""Why two runs parted: the steps between are run again, down to the first tensor that differs."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from repro.basics.text import printable
from repro.recipe.project import Project
from repro.run import launcher, ledger, manifest
from repro.run.launcher import Launch, Listener
from repro.run.ledger import Divergence
from repro.run.manifest import Probe

UNSEEN = ("settings", "sources", "place", "length", "results")
"""Fields whose difference no step shows that is run again."""
AGAIN = (
    "the same steps, run again, did not part: the difference comes from a race, or from "
    "something that changes from one start to the next"
)


@dataclass(frozen=True)
class Element:
    """The first element of a tensor that differs, and how many others do."""

    index: list[int]
    bits: list[str]
    """Of both, the most significant first."""
    ulps: int | None
    """The units in the last place that lie between them; None where that has no meaning."""
    elements: int
    """How many differ."""
    of: int


@dataclass(frozen=True)
class Tensor:
    """The first tensor whose bits differ."""

    kind: str
    """One of `CAUSES`."""
    name: str
    a: bool | int | float | str | None
    """The first element that differs, of the first run; else the shape or the type that does. None
    where one of the runs has no such tensor."""
    b: bool | int | float | str | None
    """The same of the second run."""
    element: Element | None = None
    """None where the tensors differ as a whole."""

    @property
    def cause(self) -> str:
        """What is likely where the first tensor to differ is of this kind."""
        return CAUSES[self.kind]

    def as_json(self) -> dict[str, Any]:
        """As answers have it."""
        one = asdict(self.element) if self.element else {"index": None}
        told = {"kind": self.kind, "tensor": self.name, "index": one.pop("index")}
        return told | {"a": self.a, "b": self.b} | one

    def lines(self) -> list[str]:
        """The tensor and where it differs, for a person."""
        first = f"{self.kind} {printable(self.name)}"
        if self.element is None:
            if self.a is None:
                return [first]
            return [f"{first}, which is of {self.a} in the first and of {self.b} in the second"]
        one = self.element
        both = [str(self.a), str(self.b)]
        if both[0] == both[1]:  # As two NaNs do: their bits tell them apart.
            both = [f"{text} (0x{bits})" for text, bits in zip(both, one.bits, strict=True)]
        apart = "" if one.ulps is None else f", {one.ulps} units in the last place apart"
        told = f"{' and '.join(both)}{apart}; {one.elements} of {one.of} elements differ"
        return [first, f"  at {one.index}: {told}"]


@dataclass(frozen=True)
class Explanation:
    """What steps that were run again have shown."""

    epoch: int | None = None
    """None where the runs did not part again, and so no step was looked at."""
    step: int | None = None
    tensor: Tensor | None = None
    """None where the runs did not part again."""

    def as_json(self) -> dict[str, Any]:
        """As answers have it; what is not known is left out."""
        content: dict[str, Any] = {"again": self.tensor is not None}
        if self.epoch is not None:
            content |= {"epoch": self.epoch, "step": self.step}
        if self.tensor is not None:
            content |= self.tensor.as_json() | {"cause": self.tensor.cause}
        return content

    def __str__(self) -> str:
        """The same in a few lines for a person."""
        if self.tensor is None:
            return AGAIN
        place = f"epoch {self.epoch}, step {self.step}" if self.epoch else "the beginning"
        first, *rest = self.tensor.lines()
        told = [f"first tensor to differ, at {place}: {first}", *rest]
        return "\n".join([*told, f"  likely cause: {self.tensor.cause}"])


def possible(found: Divergence) -> bool:
    """Whether steps that are run again may show why runs parted there."""
    return found.what not in UNSEEN and found.stage != "final"


def explain(
    project: Project, runs: Sequence[Path], found: Divergence, listener: Listener
) -> Explanation | None:
    """Runs the steps again between which two runs parted, and looks for the first tensor.

    The first pass makes a ledger entry for each of those steps, the second takes all tensors of
    the step found; both for each of the two recipes, in the surroundings that it had.

    Args:
        found: where the two runs part.

    Returns:
        None where there is nothing to run again: settings or sources differ, or results alone.

    Raises:
        RunFailed, BadInput: a step cannot be made again, say because a layer works in a graph only.
    """
    if not possible(found):
        return None
    epoch, step = found.epoch, found.step
    probe = Probe(stage=found.stage, epoch=epoch, after=0, record=None)
    if found.stage in ("step", "epoch"):
        # From the epoch's beginning: its entries until here were equal, but hold no weights.
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
    """Runs made only to look; they are gone when that is done."""
    made: list[Path] = []
    with launcher.made_to_look() as on_start:
        for run in runs:
            content = manifest.read(run)
            launch = Launch(project, content.recipe.asked, content.surroundings, probe=probe)
            made.append(launcher.train(launch, listener, on_start))
        yield made


def first_tensor(a: Path, b: Path) -> Tensor | None:
    """The first tensor of two records whose bits differ, and the first element of it that does."""
    import numpy as np

    with np.load(a, allow_pickle=False) as one, np.load(b, allow_pickle=False) as other:
        for key in [*one.files, *(k for k in other.files if k not in one.files)]:
            kind, _, name = key.partition("/")
            if key not in one.files or key not in other.files:
                return Tensor(kind, name, None, None)
            if found := _difference(kind, name, one[key], other[key]):
                return found
    return None


def _difference(kind: str, name: str, left: Any, right: Any) -> Tensor | None:
    """How two arrays of one name differ, if they do."""
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
    """The bytes of each element, of shape (elements, bytes): -0.0 and 0.0 are not the same there,
    and a NaN equals itself."""
    import numpy as np

    flat = np.ascontiguousarray(array).reshape(-1)
    return flat.view(np.uint8).reshape(len(flat), array.dtype.itemsize)


def _value(x: Any) -> bool | int | float | str:
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

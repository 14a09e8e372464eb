"""Samples that are read one by one from a source, and their digests.

A source is anything with `__len__` and `__getitem__`: a list, a data set of PyTorch's or of Hugging
Face's, an array in a file, a folder of images. What it gives is the sample `x`, or the pair of
`x` and `y` where the targets are not in memory: each an array or a structure of arrays.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from repro.basics import seeds
from repro.basics.errors import BadInput
from repro.basics.text import said_by
from repro.data import structure

if TYPE_CHECKING:
    import numpy as np


class Source(Protocol):
    """Samples in an order, each of which can be had by its place."""

    def __len__(self) -> int:
        """The number of samples."""

    def __getitem__(self, place: int, /) -> Any:
        """The sample at a place, counted from 0."""


SAID = ("keys", "labels", "groups", "class_names")
"""What a source may say of its samples."""

Augment = Callable[[Any, "np.random.Generator"], Any]
"""Makes another sample of a sample; all that it draws comes from the generator."""


@dataclass(frozen=True)
class Field:
    """What an array of one sample is like, where the samples are not in memory."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]


@dataclass(frozen=True)
class Sample:
    """One sample, as a step gets it."""

    arrays: dict[str, np.ndarray]
    """By their flat names."""
    read: bytes
    """The digest of the sample as the source gave it, 16 bytes."""
    content: bytes
    """The digest of what became of it, 16 bytes."""
    number: int
    """Its place in the part."""
    skipped: tuple[int, ...] = ()
    """The places of those before it that could not be read, in whose stead it is."""


class Rows:
    """A source whose samples are the rows of arrays, in memory or in a mapped file."""

    def __init__(self, arrays: structure.Structure) -> None:
        """`arrays` is an array of shape (samples, …), or a structure of such."""
        self._arrays = arrays
        self._length = len(next(iter(structure.flat("x", arrays).values())))

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, place: int, /) -> structure.Structure:
        import numpy as np

        return structure.like(self._arrays, lambda _, array: np.array(array[place]), "x")


class Mapped:
    """A source of what a function makes of each sample of another one, such as a record's fields.

    The function draws nothing: what is drawn belongs into `augment`.
    """

    def __init__(self, source: Source, function: Callable[[Any], Any]) -> None:
        """Takes a source and a function of one of its samples."""
        self._source, self._function = source, function
        for name in SAID:
            if (said := getattr(source, name, None)) is not None and not callable(said):
                setattr(self, name, said)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, place: int, /) -> Any:
        return self._function(self._source[place])


@dataclass(frozen=True)
class Reader:
    """Reads the samples of one part from a source.

    Shapes: `places` and `keys` (samples of the part,).
    """

    source: Source
    places: np.ndarray
    """Where the part's samples are in the source."""
    keys: np.ndarray
    """What the samples are called."""
    pairs: bool
    """Whether the source gives `(x, y)`, and not `x` alone."""
    fields: dict[str, Field]
    """What each sample consists of, by flat names."""
    augment: Augment | None = None
    seed: int = 0
    """What the generators of `augment` are keyed by, beside epoch and key."""
    skip: bool = False
    """Whether the next sample stands for one that cannot be read."""

    def at(self, chosen: np.ndarray) -> Reader:
        """A reader of some of the part's samples, by their places in the part."""
        return replace(self, places=self.places[chosen], keys=self.keys[chosen])

    def read(self, number: int, epoch: int | None) -> Sample:
        """Returns a sample of the part; with `skip` the next one that can be read.

        Args:
            number: the sample's place in the part.
            epoch: the epoch that it is for; None where it is not to be augmented.

        Raises:
            BadInput: the sample cannot be read, or is not like the others.
        """
        skipped: list[int] = []
        while True:
            try:
                sample = self._read(number, epoch)
                return replace(sample, skipped=tuple(skipped)) if skipped else sample
            except Unreadable:
                skipped.append(number)
                if not self.skip or len(skipped) == len(self.places):
                    raise
                number = (number + 1) % len(self.places)

    def _read(self, number: int, epoch: int | None) -> Sample:
        key = self.keys[number]
        sample = _asked(self.source, int(self.places[number]), key)
        try:
            arrays = flat(sample, self.pairs)
            read = content = digest(arrays)
            if self.augment is not None and epoch is not None:
                generator = seeds.generator(self.seed, "augment", epoch, str(key))
                arrays = flat(self.augment(sample, generator), self.pairs)
                content = digest(arrays)
        except Exception as error:
            raise BadInput(_told(key, error)) from None
        found = fields(arrays)
        if found != self.fields:
            raise BadInput(f"data: sample {key}: {_unlike(self.fields, found)}")
        return Sample(arrays, read, content, number)


class Unreadable(BadInput):
    """A source cannot give a sample; only this may be skipped.

    A file that is not the locked one is none of these, and no fault of `augment` is.
    """


def first(source: Source, keys: np.ndarray, skip: bool) -> Any:
    """Returns the first sample of a source, or with `skip` the first that can be read.

    Raises:
        BadInput: it cannot be read, or none can.
    """
    for place, key in enumerate(keys):
        try:
            return _asked(source, place, key)
        except Unreadable:
            if not skip or place == len(keys) - 1:
                raise
    raise BadInput("data: expected samples, got a source that has none")


def _asked(source: Source, place: int, key: Any) -> Any:
    """Returns what a source gives for a place.

    Raises:
        Unreadable: it gives nothing.
        BadInput: it refuses to.
    """
    try:
        return source[place]
    except BadInput as error:
        raise BadInput(_told(key, error)) from None
    except Exception as error:
        raise Unreadable(_told(key, error)) from None


def _told(key: Any, error: Exception) -> str:
    return f"data: sample {key}: {said_by(error)}"


def flat(sample: Any, pairs: bool) -> dict[str, np.ndarray]:
    """Returns the arrays of what a source gives, by their flat names.

    Raises:
        ValueError: it is no pair, or not made of arrays.
    """
    import numpy as np

    if not pairs:
        named = structure.flat("x", sample)
    else:
        if not isinstance(sample, tuple | list) or len(sample) != 2:
            raise ValueError(
                "expected pairs of x and y from the source, since no y is given; got "
                f"{type(sample).__name__}; y of the Dataset would do, such as the source's labels"
            )
        named = structure.flat("x", sample[0]) | structure.flat("y", sample[1])
    found = {name: np.asarray(one) for name, one in named.items()}
    for name, array in found.items():
        if array.dtype.hasobject:
            raise ValueError(f"{name}: expected numbers or words, got {type(named[name]).__name__}")
    return found


def fields(arrays: dict[str, np.ndarray]) -> dict[str, Field]:
    """Returns what the arrays of a sample are like; words may have any length."""
    import numpy as np

    return {
        name: Field(a.shape, np.dtype(f"{a.dtype.kind}0") if a.dtype.kind in "SU" else a.dtype)
        for name, a in arrays.items()
    }


def digest(arrays: dict[str, np.ndarray]) -> bytes:
    """Returns 16 bytes over types, shapes and content of a sample's arrays."""
    import numpy as np

    found = hashlib.sha256()  # Processors have instructions for it, so that it takes least time.
    for name, array in arrays.items():
        found.update(f"{name} {array.dtype.str}{array.shape}".encode())
        found.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return found.digest()[:16]


def _unlike(expected: dict[str, Field], found: dict[str, Field]) -> str:
    for name, field in expected.items():
        if name not in found:
            return f"expected {name}, which the first sample has"
        if found[name] != field:
            return (
                f"{name}: expected shape {field.shape} and type {field.dtype}, as the first sample "
                f"has, got {found[name].shape} and {found[name].dtype}"
            )
    return f"got {', '.join(found.keys() - expected.keys())}, which the first sample has not"

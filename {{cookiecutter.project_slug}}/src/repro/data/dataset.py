"""What a data function returns, and the parts that it is cut into."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from repro.basics.digests import sha256
from repro.basics.errors import BadInput
from repro.basics.files import unreadable
from repro.data import datalock, sources, structure
from repro.data.sources import Augment, Field, Reader, Rows, Source
from repro.data.structure import Structure

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Part:
    """Samples and targets; `weight` is None or one weight for each sample.

    `x` and `y` are structures of arrays, each of shape (samples, …); `weight` is (samples,). A part
    without targets has None for `y`. Where
    samples are read one by one, a `Field` stands for each array that is not in memory.
    """

    x: Structure
    y: Structure
    weight: np.ndarray | None = None
    reader: Reader | None = None

    def __len__(self) -> int:
        if self.reader is not None:
            return len(self.reader.places)
        return len(next(iter(self.arrays().values())))

    def arrays(self) -> dict[str, np.ndarray]:
        """Every array that is in memory, by its flat name."""
        named = structure.flat("x", self.x) | structure.flat("y", self.y)
        if self.weight is not None:
            named["weight"] = self.weight
        read = self.reader.fields if self.reader else {}
        return {name: array for name, array in named.items() if name not in read}

    def fields(self) -> dict[str, Field]:
        """What each array of a sample is like, by its flat name."""
        found = {name: Field(a.shape[1:], a.dtype) for name, a in self.arrays().items()}
        return found | (self.reader.fields if self.reader else {})

    def packed(self, arrays: Mapping[str, Any]) -> Any:
        """What stands for the arrays, as Keras hands it to a step; see `for_step`."""
        return for_step(self.given(arrays))

    def given(self, arrays: Mapping[str, Any]) -> tuple[Any, ...]:
        """What stands for the arrays, as `fit` is given it: `(x, y)` or `(x, y, weight)`."""
        made = tuple(structure.packed(n, s, arrays) for n, s in (("x", self.x), ("y", self.y)))
        return made if self.weight is None else (*made, arrays["weight"])

    def rows(self, places: np.ndarray, epoch: int | None = None) -> tuple[Any, ...]:
        """The samples at these places, as `given` has them; what is not in memory is read.

        A sample that cannot be read and may be skipped is the next one; see `Reader.read`.

        Args:
            epoch: the epoch that they are augmented for; None where they are not.
        """
        import numpy as np

        read, fields = [], {}
        if self.reader is not None:
            read = [self.reader.read(int(place), epoch) for place in places]
            places, fields = np.array([sample.number for sample in read]), self.reader.fields
        found = {name: array[places] for name, array in self.arrays().items()}
        found |= {name: np.stack([sample.arrays[name] for sample in read]) for name in fields}
        return self.given(found)

    def batches(self, size: int) -> Iterator[tuple[Any, ...]]:
        """Yields all samples in the order of the part, so many at a time, as `rows` gives them.

        So `build(…, train)` can look at samples that do not fit in memory, to adapt a layer.
        """
        import numpy as np

        for start in range(0, len(self), size):
            yield self.rows(np.arange(start, min(start + size, len(self))))

    def augmented(self, keys: np.ndarray, augment: Augment, seed: int) -> Part:
        """The same samples, of which each epoch sees others that `augment` makes of them.

        Args:
            keys: what the samples are called, of shape (samples,).
            seed: what the generators are keyed by, beside epoch and key.
        """
        import numpy as np

        if self.reader is not None:
            return replace(self, reader=replace(self.reader, augment=augment, seed=seed))
        rows = Rows(self.x)
        fields = sources.fields(sources.flat(rows[0], pairs=False))
        made = Reader(rows, np.arange(len(self)), keys, False, fields, augment, seed)
        x = structure.like(self.x, lambda name, _: fields[name], "x")
        return replace(self, x=x, reader=made)

    def targets(self) -> Structure:
        """The targets that are known before the first step: all, or where they are read, one."""
        import numpy as np

        if self.reader is None or not self.reader.pairs:
            return self.y
        return self.rows(np.arange(1))[1]

    def at(self, places: np.ndarray) -> Part:
        """A part that has the samples at these places alone; nothing is read for it."""
        held = {name: array[places] for name, array in self.arrays().items()}
        if self.reader is None:
            return Part(*self.given(held))
        reader = self.reader.at(places)
        return replace(Part(*self.given(held | reader.fields)), reader=reader)


def for_step(batch: tuple[Any, ...]) -> Any:
    """Returns a batch as Keras hands it to a step, from what `Part.given` returned.

    This is `(x, y)` or `(x, y, weight)`; without targets it is `x`, or `(x,)` if x is a tuple or a
    list, as `fit` has it.
    """
    x, y, *weight = batch
    if y is None and not weight:
        return (x,) if isinstance(x, tuple | list) else x
    return batch


@dataclass(frozen=True)
class Dataset:
    """All samples of a data set, which the machinery splits, and the SHA-256 of what was read.

    `x` and `y` are what Keras takes: an array, or a dict, a tuple or a list of arrays, also nested.
    Where a model needs no targets, `y` is None. Each array has the shape (samples, …). `weight`,
    `groups`, `labels` and `keys` are None or have the shape (samples,).

    `labels` are the classes that a split keeps the proportions of; where they are not given, they
    are `y`, if that says one class for each sample. `groups` are what a split keeps together.
    `keys` name the samples, each with a name of its own; a split goes by them, so that neither the
    order nor the content of the samples changes it. Without keys it goes by the content.

    `classes` is the number of classes, or 1 where the targets are numbers. `class_names` say what
    the classes are called in tables and reports.

    `held_out` is the number of samples at the end that whoever published the data set aside; they
    are validation and test, and the others the training.

    `preprocessing` is fitted to the training part alone; see `preprocessing`. `padding` is the
    value that fills up the steps of a sequence that has fewer than others; preprocessing leaves
    such steps as they are, so that a mask still finds them.

    `x` may be a source instead, which gives one sample at a time; see `sources`. Where `y` is not
    given, the source gives pairs of `x` and `y`. A file that NumPy has mapped into memory is one.
    `augment(sample, rng)` makes another sample of what the source gives, in the training alone; all
    that it draws has to come from `rng`. A sample that cannot be read ends the training, and the
    message has its key. With `on_error="skip"` the next sample of its part that can be read stands
    for it; the manifest has the keys.

    `sources` belongs to the recipe: runs on other sources are not comparable. The arrays do not:
    two runs that made other arrays of the same sources have diverged.

    Raises:
        BadInput: an array is none, or of another length, or of a type that nothing can learn from;
            a target or weight is no number; a key is there twice; another value is not such.
    """

    x: Any
    y: Any = None
    classes: int = 1
    sources: dict[str, str] = field(default_factory=dict)
    weight: np.ndarray | None = None
    groups: np.ndarray | None = None
    held_out: int = 0
    preprocessing: Any = None
    labels: np.ndarray | None = None
    keys: np.ndarray | None = None
    class_names: Sequence[str] = ()
    padding: float | None = None
    augment: Augment | None = None
    on_error: Literal["fail", "skip"] = "fail"

    def __post_init__(self) -> None:
        if self.source is not None:
            _take_from(self, self.source)
        if self.classes == 1 and self.class_names:
            object.__setattr__(self, "classes", len(self.class_names))
        if wrong := _wrong(self):
            raise BadInput(f"data: {wrong}")

    @functools.cached_property
    def source(self) -> Source | None:
        """What the samples are read from one by one; None where they are in memory."""
        import numpy as np

        if isinstance(self.x, dict | tuple | list) or type(self.x) is np.ndarray:
            return None
        if isinstance(self.x, np.memmap):
            return Rows(self.x)
        has = all(hasattr(self.x, name) for name in ("__len__", "__getitem__"))
        if not has or hasattr(self.x, "__mul__"):  # What can be multiplied is in memory.
            return None
        if any(base.__name__ == "PyDataset" for base in type(self.x).__mro__):
            from repro.data.stored import Batched

            return Batched(self.x)
        # An array in a file, such as HDF5's and Zarr's, has a type.
        return Rows(self.x) if hasattr(self.x, "dtype") else self.x

    def __len__(self) -> int:
        return len(self.source if self.source is not None else self._first)

    @property
    def _first(self) -> np.ndarray:
        return next(iter(structure.flat("x", self.x).values()))

    @functools.cached_property
    def whole(self) -> Part:
        """All samples as one part."""
        if self.source is None:
            return Part(self.x, self.y, self.weight)
        import numpy as np

        pairs, skip = self.y is None, self.on_error == "skip"
        sample = sources.first(self.source, self.names, skip)
        fields = sources.fields(sources.flat(sample, pairs))
        places = np.arange(len(self))
        reader = Reader(self.source, places, self.names, pairs, fields, skip=skip)
        x, y = sample if pairs else (sample, self.y)
        x = structure.like(x, lambda name, _: fields[name], "x")
        y = structure.like(y, lambda name, _: fields[name], "y") if pairs else y
        return Part(x, y, self.weight, reader)

    def arrays(self) -> dict[str, np.ndarray]:
        """Every array by its flat name."""
        named = {"groups": self.groups, "labels": self.labels, "keys": self.keys}
        return self.whole.arrays() | {n: a for n, a in named.items() if a is not None}

    def class_labels(self) -> np.ndarray | None:
        """The class of each sample, of shape (samples,); None where there are no classes."""
        import numpy as np

        if self.labels is not None:
            return self.labels
        return class_labels(self.y) if isinstance(self.y, np.ndarray) else None

    @functools.cached_property
    def digests(self) -> dict[str, str]:
        """The SHA-256 of each array."""
        return {name: sha256(array) for name, array in self.arrays().items()}

    @functools.cached_property
    def row_digests(self) -> list[bytes]:
        """A digest of each sample, over all its arrays; its key is no part of it.

        Nothing where samples are read one by one: no pass over all of them comes first.
        """
        import numpy as np

        if self.source is not None:
            return []
        named = self.arrays()
        named.pop("keys", None)
        flat = [np.ascontiguousarray(a).reshape(len(a), -1) for a in named.values()]
        return [
            hashlib.blake2b(b"".join(row.tobytes() for row in rows), digest_size=16).digest()
            for rows in zip(*flat, strict=True)
        ]

    @functools.cached_property
    def names(self) -> np.ndarray:
        """What the samples are called: their keys, or else their places."""
        import numpy as np

        return np.arange(len(self)) if self.keys is None else self.keys

    def in_order(self) -> np.ndarray:
        """The places of the samples in an order that does not depend on how they are listed."""
        import numpy as np

        if self.source is not None or self.keys is not None:
            return np.argsort(self.names, kind="stable")
        return np.array(sorted(range(len(self)), key=self.row_digests.__getitem__))


def _take_from(data: Dataset, source: Source) -> None:
    """Takes what a source says of its samples, where the data function says nothing of it."""
    import numpy as np

    for name in sources.SAID:
        said = getattr(source, name, None)
        given = getattr(data, name)
        if said is not None and not callable(said) and (given is None or not len(given)):
            object.__setattr__(data, name, said if name == "class_names" else np.asarray(said))


def class_labels(y: np.ndarray) -> np.ndarray | None:
    """Returns the class of each sample, of shape (samples,); None: the targets are not classes.

    The targets are classes if they are integers, or if they have one column for each class with one
    1 in each row.
    """
    import numpy as np

    if y.ndim == 2 and y.shape[1] > 1:
        return y.argmax(axis=1) if np.isin(y, (0, 1)).all() and (y.sum(axis=1) == 1).all() else None
    return y.reshape(-1) if y.dtype.kind in "biu" and y.size == len(y) else None


def _wrong(data: Dataset) -> str:
    """What is wrong with a data set, or nothing."""
    import numpy as np

    if data.x is None:
        return "x: expected a NumPy array, got NoneType"
    try:
        named = data.arrays()
    except ValueError as error:
        return str(error)
    length = None if data.source is None else len(data.source)
    for name, array in named.items():
        if length is None and isinstance(array, np.ndarray) and array.ndim:
            length = len(array)
        if wrong := _wrong_array(name, array, length):
            return wrong
    if data.weight is not None and data.weight.dtype.kind in "SU":
        return f"weight: expected numbers, got an array of type {data.weight.dtype}"
    return _wrong_labels(data) or _wrong_numbers(data)


def _wrong_array(name: str, array: Any, length: int | None) -> str:
    """What is wrong with an array of a data set that has so many samples, or nothing."""
    import numpy as np

    if not isinstance(array, np.ndarray):
        kind = type(array).__name__
        if hasattr(array, "__iter__") and not hasattr(array, "__getitem__"):
            return (
                f"{name}: expected arrays, or a source that gives each sample by its place, with "
                f"__len__ and __getitem__; got {kind}, which gives them in its own order alone"
            )
        return f"{name}: expected a NumPy array, got {kind}"
    # A type that a library registered with NumPy, such as bfloat16, is one of numbers as well.
    if array.dtype.kind not in "biufSU" and array.dtype.isbuiltin != 2:
        return f"{name}: expected numbers or strings, got an array of type {array.dtype}"
    if array.ndim == 0:
        return f"{name}: expected an array of samples, got a single value"
    if name in ("weight", "groups", "labels", "keys") and array.ndim != 1:
        return f"{name}: expected shape (samples,), got {array.shape}"
    if len(array) != length:
        return f"{name}: expected as many as x has samples, {length}, got {len(array)}"
    if array.size == 0:
        return f"{name}: expected samples, got none: its shape is {array.shape}"
    ours = name == "x" or name.startswith("x/")
    if not ours and array.dtype.kind == "f" and not np.isfinite(array).all():
        place = np.argwhere(~np.isfinite(array))[0]
        return f"{name}: expected finite numbers, got {array[tuple(place)]} at {place.tolist()}"
    return ""


def _wrong_labels(data: Dataset) -> str:
    """What is wrong with what names samples and classes, or nothing."""
    import numpy as np

    if data.labels is not None and data.labels.dtype.kind not in "biuSU":
        return f"labels: expected whole numbers or words, got an array of type {data.labels.dtype}"
    if data.keys is not None:
        if data.keys.dtype.kind not in "iuSU":
            return f"keys: expected words or whole numbers, got an array of type {data.keys.dtype}"
        found, counts = np.unique(data.keys, return_counts=True)
        if len(found) < len(data.keys):
            return f"keys: expected each key once, {found[counts.argmax()]!r} is there twice"
    names = data.class_names
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        return f"class_names: expected a name for each class, got {names!r:.99}"
    if names and len(names) != data.classes:
        return f"class_names: expected {data.classes}, one for each class, got {len(names)}"
    return ""


def _wrong_numbers(data: Dataset) -> str:
    """What is wrong with the values of a data set that are no arrays, or nothing."""
    import numpy as np

    for name, number, least in (("classes", data.classes, 1), ("held_out", data.held_out, 0)):
        if not isinstance(number, (int, np.integer)) or isinstance(number, bool) or number < least:
            return f"{name}: expected a whole number of {least} or more, got {number!r}"
    if data.held_out >= len(data):
        return f"held_out: expected less than {len(data)}, got {data.held_out}"
    if not isinstance(data.sources, dict) or any(
        not isinstance(text, str) for pair in data.sources.items() for text in pair
    ):
        return f"sources: expected a SHA-256 by the name of each source, got {data.sources!r:.99}"
    made = [*asked.values()] if isinstance(asked := data.preprocessing, Mapping) else [asked]
    for one in made if asked is not None else ():
        if isinstance(one, type) or not (hasattr(one, "transform") or hasattr(one, "adapt")):
            return (
                "preprocessing: expected a transformer of scikit-learn's, or a dict of them, got "
                f"{one!r:.99}"
            )
    if data.on_error not in ("fail", "skip"):
        return f"on_error: expected fail or skip, got {data.on_error!r:.99}"
    if data.padding is not None and not isinstance(data.padding, (int, float)):
        return f"padding: expected the value that fills up a sequence, got {data.padding!r:.99}"
    return ""


@dataclass(frozen=True)
class Parts:
    """Three parts of a data set that share no sample."""

    train: Part
    validation: Part
    test: Part

    def parts(self) -> dict[str, Part]:
        return {"train": self.train, "validation": self.validation, "test": self.test}

    def arrays(self) -> dict[str, np.ndarray]:
        """Every array of every part, by `part/name`."""
        return {
            f"{part}/{name}": array
            for part, samples in self.parts().items()
            for name, array in samples.arrays().items()
        }


def arrays(path: Path, *names: str, what: str = "a file of arrays") -> dict[str, np.ndarray]:
    """Reads the arrays of these names from an `.npz`; nothing in it is ever executed.

    Of an `.npy`, which holds one array without a name, it is the one name given. `what` is what a
    refusal says that the file should be.

    Raises:
        BadInput: there is no such file, it is not readable as one, or an array is not in it. Also
            where an array is one of Python objects, which only executing the file would give.
    """
    import numpy as np

    datalock.no_pointer(path)
    try:
        with path.open("rb") as file:
            opened = np.load(file, allow_pickle=False)
            if isinstance(opened, np.ndarray):
                opened = dict.fromkeys(names, opened)
            return {name: opened[name] for name in names}
    except FileNotFoundError:
        raise BadInput(f"{path}: no such file") from None
    except Exception as error:  # zipfile, zlib and NumPy each raise their own for a torn file.
        raise BadInput(f"{path}: not {what}: {unreadable(error)}") from None

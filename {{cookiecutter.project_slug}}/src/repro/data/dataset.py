"""What a data function returns, and the parts that it is cut into."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repro.basics.digests import sha256
from repro.basics.errors import BadInput
from repro.basics.files import unreadable
from repro.data import datalock

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Part:
    """Samples and targets; `weight` is None or one weight for each sample.

    Shapes: `x` (samples, …), `y` (samples, …), `weight` (samples,).
    """

    x: np.ndarray
    y: np.ndarray
    weight: np.ndarray | None = None

    def arrays(self) -> dict[str, np.ndarray]:
        named = {"x": self.x, "y": self.y, "weight": self.weight}
        return {name: array for name, array in named.items() if array is not None}


@dataclass(frozen=True)
class Dataset:
    """All samples of a data set, which the machinery splits, and the SHA-256 of what was read.

    Shapes: `x` (samples, …), `y` (samples, …); `weight` and `groups` None or (samples,).

    `held_out` is the number of samples at the end that whoever published the data set aside; they
    are validation and test, and the others the training. `preprocessing` is a scikit-learn
    transformer, fitted to the training part alone, each sample flattened.

    `sources` belongs to the recipe: runs on other sources are not comparable. The arrays do not:
    two runs that made other arrays of the same sources have diverged.

    Raises:
        BadInput: an array is none, or of another length, or of a type that nothing can learn from;
            a target or weight is no number; `classes`, `held_out` or `sources` are not such.
    """

    x: np.ndarray
    y: np.ndarray
    classes: int
    sources: dict[str, str] = field(default_factory=dict)
    weight: np.ndarray | None = None
    groups: np.ndarray | None = None
    held_out: int = 0
    preprocessing: Any = None

    def __post_init__(self) -> None:
        if wrong := _wrong(self):
            raise BadInput(f"data: {wrong}")

    def arrays(self) -> dict[str, np.ndarray]:
        named = {"x": self.x, "y": self.y, "weight": self.weight, "groups": self.groups}
        return {name: array for name, array in named.items() if array is not None}

    @functools.cached_property
    def digests(self) -> dict[str, str]:
        """The SHA-256 of each array."""
        return {name: sha256(array) for name, array in self.arrays().items()}

    @functools.cached_property
    def row_digests(self) -> list[bytes]:
        """A digest of each sample, over all its arrays."""
        import numpy as np

        flat = [np.ascontiguousarray(a).reshape(len(a), -1) for a in self.arrays().values()]
        return [
            hashlib.blake2b(b"".join(row.tobytes() for row in rows), digest_size=16).digest()
            for rows in zip(*flat, strict=True)
        ]


def _wrong(data: Dataset) -> str:
    """What is wrong with a data set, or nothing."""
    import numpy as np

    for name, array in {"x": data.x, "y": data.y, **data.arrays()}.items():
        if not isinstance(array, np.ndarray):
            return f"{name}: expected a NumPy array, got {type(array).__name__}"
        # A type that a library registered with NumPy, such as bfloat16, is one of numbers as well.
        if array.dtype.kind not in "biufSU" and array.dtype.isbuiltin != 2:
            return f"{name}: expected numbers or strings, got an array of type {array.dtype}"
        if array.ndim == 0:
            return f"{name}: expected an array of samples, got a single value"
        if name in ("weight", "groups") and array.ndim != 1:
            return f"{name}: expected shape (samples,), got {array.shape}"
        if len(array) != len(data.x):
            return f"{name}: expected as many as x has samples, {len(data.x)}, got {len(array)}"
        if array.size == 0:
            return f"{name}: expected samples, got none: its shape is {array.shape}"
        if name != "x" and array.dtype.kind == "f" and not np.isfinite(array).all():
            place = np.argwhere(~np.isfinite(array))[0]
            return f"{name}: expected finite numbers, got {array[tuple(place)]} at {place.tolist()}"
    if data.weight is not None and data.weight.dtype.kind in "SU":
        return f"weight: expected numbers, got an array of type {data.weight.dtype}"
    for name, number, least in (("classes", data.classes, 1), ("held_out", data.held_out, 0)):
        if not isinstance(number, (int, np.integer)) or isinstance(number, bool) or number < least:
            return f"{name}: expected a whole number of {least} or more, got {number!r}"
    if data.held_out >= len(data.x):
        return f"held_out: expected less than {len(data.x)}, got {data.held_out}"
    if not isinstance(data.sources, dict) or any(
        not isinstance(text, str) for pair in data.sources.items() for text in pair
    ):
        return f"sources: expected a SHA-256 by the name of each source, got {data.sources!r:.99}"
    made = data.preprocessing
    if made is not None and (isinstance(made, type) or not hasattr(made, "transform")):
        return f"preprocessing: expected a transformer of scikit-learn's, got {made!r:.99}"
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

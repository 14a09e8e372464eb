"""The machinery: runs recipes in fresh processes and compares the runs.

Nothing here is yours to change for an experiment; see `params.yaml`, `data.py` and `models/`. What
those need is in this file: `Dataset`, `fetch`, `sha256`, `BadInput`; the types of
parameters are in `repro.parameters`. Importing it costs nothing: numerical libraries are imported
only inside the process that trains, whose environment was fixed before it started.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

IDENTICAL, DIFFERS, BAD_INPUT, NOT_COMPARABLE, FAILED = range(5)
"""Exit statuses of `repro`. FAILED: the training itself raised; its traceback is in the log."""
INTERNAL = 70
"""The machinery is at fault, neither an input nor the project (`EX_SOFTWARE` of sysexits.h)."""
ISSUES = "https://github.com/org/repro-dl/issues"
"""Where such a fault is to be reported."""


class BadInput(Exception):
    """A value somebody gave is wrong. The message is one line: what is wrong, what would do."""


class RunFailed(Exception):
    """The training raised, or its process was ended. The message names the log."""


class MachineryFailed(RunFailed):
    """The machinery itself raised in the process that trains, not the project's code."""


class RunEnded(RunFailed):
    """The process of a training was ended by a signal, which says nothing of the training itself.

    The message has three parts: `what` happened, what is to be done `then`, and the end of the
    log. The middle one differs by command.
    """

    def __init__(self, what: str, then: str, log: str) -> None:
        super().__init__(f"{what}; {then}{log}")
        self.what, self.log = what, log

    def advised(self, then: str) -> RunEnded:
        """The same failure, with something else to be done."""
        return RunEnded(self.what, then, self.log)


class Parted(BadInput):
    """A run that went on was not what it had been: its data, settings or initial state differ.

    `where` says so as `ledger.first_difference` does.
    """

    def __init__(self, message: str, where: dict[str, Any]) -> None:
        super().__init__(message)
        self.where = where


class Probed(Exception):
    """A run made only to look at one place has written what it found there, and is over."""


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


def sha256(content: bytes | np.ndarray | Path) -> str:
    """Of bytes, or those of a file; for an array, of its dtype, shape and little-endian content."""
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    if isinstance(content, Path):
        with content.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    import numpy as np

    if content.dtype.hasobject:
        raise BadInput("data: expected arrays of numbers or strings, got one of Python objects")
    array = np.ascontiguousarray(content, dtype=content.dtype.newbyteorder("<"))
    digest = hashlib.sha256(f"{array.dtype.str}{content.shape}".encode())
    # bfloat16 and other types outside NumPy export no buffer of their own.
    digest.update(array.view(np.uint8).data if array.ndim else array.tobytes())
    return digest.hexdigest()


def arrays(path: Path, *names: str, what: str = "a file of arrays") -> dict[str, np.ndarray]:
    """Reads the arrays of these names from an `.npz`; nothing in it is ever executed.

    Of an `.npy`, which holds one array without a name, it is the one name given. `what` is what a
    refusal says that the file should be.

    Raises:
        BadInput: there is no such file, it is not readable as one, or an array is not in it. Also
            where an array is one of Python objects, which only executing the file would give.
    """
    import numpy as np

    from . import datalock

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


def unreadable(error: Exception) -> str:
    """What to say in place of what NumPy says when it cannot read arrays.

    It advises to load what it does not know in an unsafe way, which would execute it.
    """
    said = " ".join(str(error).split()) or type(error).__name__
    if "pickle" in said.lower():
        return "expected arrays of numbers or strings in NumPy's format, and it is something else"
    return said


def fetch(
    name: str, url: str | None = None, sha256: str | None = None, *, size: int | None = None
) -> Path:
    """Returns the file `name` of the folder that `REPRO_DATA` names, or else of `data/`.

    `data.lock` says what it must be and where it can be had, once `repro data add` has put it
    there: the file is checked, and downloaded into `data/` when it is missing.

    What has been published somewhere needs no entry in the lock, when its address and SHA-256 are
    given here: it is downloaded when it is missing. A file that is there already is then the
    caller's to check, since archives of the same arrays differ in their bytes. `size` is how many
    bytes it may have at most, 10 GB where it is not given. A source that does not answer within a
    minute, or sends less than 10 kB a second, is given up.

    Raises:
        BadInput: no such file, and no source that has it; or not the one of the lock; or neither
            in the lock nor given a SHA-256; or a pointer of Git LFS in its place.
    """
    from . import datafiles

    return datafiles.provide(Path(), name, url, sha256, size)

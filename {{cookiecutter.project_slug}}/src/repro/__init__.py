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
        lengths = {len(array) for array in self.arrays().values()}
        if len(lengths) != 1 or 0 in lengths:
            raise BadInput(f"data: expected samples and as many targets, got {sorted(lengths)}")
        if not 0 <= self.held_out < len(self.x):
            raise BadInput(f"data: held_out: expected less than {len(self.x)}, got {self.held_out}")

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


def fetch(name: str, url: str | None = None, sha256: str | None = None) -> Path:
    """Returns the file `name` of the folder that `REPRO_DATA` names, or else of `data/`.

    `data.lock` says what it must be and where it can be had, once `repro data add` has put it
    there: the file is checked, and downloaded into `data/` when it is missing.

    What has been published somewhere needs no entry in the lock, when its address and SHA-256 are
    given here: it is downloaded when it is missing. A file that is there already is then the
    caller's to check, since archives of the same arrays differ in their bytes.

    Raises:
        BadInput: no such file, and no source that has it; or not the one of the lock; or neither
            in the lock nor given a SHA-256.
    """
    from . import datafiles

    return datafiles.provide(Path(), name, url, sha256)

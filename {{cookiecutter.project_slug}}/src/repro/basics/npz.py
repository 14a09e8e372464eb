"""Files of arrays that keep the types which are not NumPy's own.

NumPy writes an array of bfloat16 as two bytes without a meaning, and nothing can be computed with
what it reads back. So such an array is written as integers of the same bits, and another array,
`TYPES`, has its name and its type.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    import numpy as np

TYPES = "<types>"
"""The name of the array with `<type> <name>` for each array of such a type."""


def write(file: BinaryIO | Path, content: Mapping[str, np.ndarray]) -> None:
    """Writes arrays by their names; `typed` is the way back."""
    import numpy as np

    foreign = {n: a for n, a in content.items() if a.dtype.kind == "V" and a.dtype.fields is None}
    written = {**content}
    for name, array in foreign.items():
        written[name] = array.view(f"u{array.dtype.itemsize}")
    if foreign:
        written[TYPES] = np.array([f"{array.dtype.name} {name}" for name, array in foreign.items()])
    np.savez(file, allow_pickle=False, **written)


def read(path: Path) -> dict[str, np.ndarray]:
    """Returns the arrays of a file that this machine's own runs have written; nothing is unpickled.

    Raises:
        Exception: it is no such file; zipfile, zlib and NumPy each raise their own.
    """
    import numpy as np

    with np.load(path, allow_pickle=False) as file:
        return typed({name: file[name] for name in file.files})


def typed(found: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the arrays of a file, each of the type with which it was written.

    Raises:
        ValueError: the file names a type or an array that there is not.
    """
    arrays = {**found}
    for line in arrays.pop(TYPES, ()):
        kind, _, name = str(line).partition(" ")
        of = _type(kind)
        if name not in arrays or arrays[name].dtype != f"u{of.itemsize}":
            raise ValueError(f"there is no array {name} of {kind}")
        arrays[name] = arrays[name].view(of)
    return arrays


def _type(name: str) -> np.dtype:
    import ml_dtypes
    import numpy as np

    found = getattr(ml_dtypes, name, None)
    if not isinstance(found, type) or not issubclass(found, np.generic):
        raise ValueError(f"{name} is no type of numbers")
    return np.dtype(found)

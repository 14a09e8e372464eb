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
        ValueError: the file names a type that there is not, or one of another size.
    """
    kinds = types(found)
    return {name: array(found, name, kinds) for name in found if name != TYPES}


def types(found: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Returns the types that are not NumPy's own, by the names of their arrays."""
    lines = [str(line).partition(" ") for line in found[TYPES]] if TYPES in found else []
    return {name: kind for kind, _, name in lines}


def array(found: Mapping[str, np.ndarray], name: str, kinds: Mapping[str, str]) -> np.ndarray:
    """Returns one array of a file, which may be read only now; `kinds` is what `types` returned.

    Raises:
        ValueError: its type is none, or has another size.
    """
    content = found[name]
    if name not in kinds:
        return content
    kind = _type(kinds[name])
    if content.dtype != f"u{kind.itemsize}":
        raise ValueError(f"{name} is not an array of {kinds[name]}")
    return content.view(kind)


def _type(name: str) -> np.dtype:
    import ml_dtypes
    import numpy as np

    found = getattr(ml_dtypes, name, None)
    if not isinstance(found, type) or not issubclass(found, np.generic):
        raise ValueError(f"{name} is no type of numbers")
    return np.dtype(found)

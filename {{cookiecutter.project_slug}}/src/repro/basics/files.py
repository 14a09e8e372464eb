"""Files: whole or not there; JSON; arrays; in which fields two contents differ."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import secrets
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from repro.basics import npz
from repro.basics.errors import BadInput
from repro.basics.text import said_by

if TYPE_CHECKING:
    import numpy as np


MACHINERY = Path(__file__).resolve().parents[1]
"""The folder of the machinery, `src/repro`."""


@contextlib.contextmanager
def replacing(path: Path, *, shared: bool = False) -> Iterator[BinaryIO]:
    """Opens a file that takes its name when it is whole and on the disk, not before.

    `shared` is for what several processes may write at once. Else the new file has one name, so
    that what a killed process leaves is written over by the next.
    """
    name = f".{path.name}.{secrets.token_hex(4)}" if shared else path.name
    new = path.with_name(f"{name}.new")
    try:
        with new.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
    if hasattr(os, "O_DIRECTORY"):  # The name itself has to reach the disk as well.
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def settle(path: Path) -> None:
    """Waits until the content of a file is on the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def is_file(path: Path) -> bool:
    """Whether there is such a file; a name that no file can have (too long, a NUL) is none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


ARRAYS_MOST = 1 << 30
"""What a file of arrays may take in memory, in bytes: a few kilobytes of zip can say far more."""


def arrays(path: Path, what: str = "a readable file of arrays") -> dict[str, np.ndarray]:
    """Returns the arrays of an `.npz` file, by their names, once their sizes are known.

    Nothing is unpickled, and nothing is unpacked before what the zip's directory and the arrays'
    own headers declare was added up. `what` is what a refusal says that the file should be.

    Raises:
        BadInput: it is no such file, or would take more than `ARRAYS_MOST`.
        FileNotFoundError: there is no such file.
    """

    try:
        with zipfile.ZipFile(path) as archive:
            total = sum(one.file_size for one in archive.infolist())
            if total > ARRAYS_MOST:
                raise BadInput(
                    f"{path}: unpacks to {total:,} bytes; expected {ARRAYS_MOST:,} at most"
                )
            return npz.typed(
                {
                    one.filename.removesuffix(".npy"): _array(archive, one)
                    for one in archive.infolist()
                }
            )
    except (BadInput, FileNotFoundError):
        raise
    except Exception as error:  # zipfile, zlib and NumPy each raise their own.
        raise BadInput(f"{path}: not {what}: {unreadable(error)}") from None


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    """An array whose header claims no more than its member of the archive holds."""
    from numpy.lib import format as npy

    content = io.BytesIO(archive.read(member))
    shape, _, kind = array_header(content)
    if (
        kind.hasobject
        or math.prod(shape) * kind.itemsize != len(content.getvalue()) - content.tell()
    ):
        raise ValueError(f"{member.filename} is not the array that its header describes")
    content.seek(0)
    found: np.ndarray = npy.read_array(content, allow_pickle=False)
    return found


def array_header(file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Reads the header of an `.npy`: shape, whether columns come one after the other, and type.

    Raises:
        ValueError: the file does not begin with one.
    """
    from numpy.lib import format as npy

    version = npy.read_magic(file)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    found: tuple[tuple[int, ...], bool, np.dtype[Any]] = read(file)
    return found


def dumps(content: Any, **options: Any) -> str:
    """Returns content as JSON, which has no word for a number that is not finite.

    Such a number is written as the string `NaN`, `Infinity` or `-Infinity`; `numbers` takes it
    back. The text of everything else is that of `json.dumps`, which also takes the options.
    """
    return json.dumps(_spelled(content), allow_nan=False, **options)


def numbers(content: Any) -> Any:
    """Takes back what `dumps` made of numbers, in content that has no other strings than these.

    Such are results by their names, and lists of them; the keys of mappings stay as they are.
    """
    if isinstance(content, dict):
        return {key: numbers(value) for key, value in content.items()}
    if isinstance(content, list):
        return [numbers(value) for value in content]
    return float(content) if content in ("NaN", "Infinity", "-Infinity") else content


def _spelled(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _spelled(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_spelled(value) for value in content]
    if isinstance(content, float) and not math.isfinite(content):
        return "NaN" if math.isnan(content) else "Infinity" if content > 0 else "-Infinity"
    return content


def same(one: Any, other: Any) -> bool:
    """Whether two contents are equal, where a NaN is equal to a NaN."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float) and isinstance(other, float) and math.isnan(one):
        return math.isnan(other)
    return bool(one == other)


def flat(group: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns the values of nested groups by their dotted names; an empty group is a value."""
    found: dict[str, Any] = {}
    for name, value in group.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found


def changed(one: Any, other: Any, prefix: str = "") -> dict[str, list[Any]]:
    """Returns each field in which two contents differ, by its dotted name, with both values."""
    found: dict[str, list[Any]] = {}
    for key in sorted({**one, **other}):
        left, right = one.get(key), other.get(key)
        if isinstance(left, dict) and isinstance(right, dict):
            found |= changed(left, right, f"{prefix}{key}.")
        elif not same(left, right):
            found[f"{prefix}{key}"] = [left, right]
    return found


def unreadable(error: Exception) -> str:
    """What to say in place of what NumPy says when it cannot read arrays.

    It advises to load what it does not know in an unsafe way, which would execute it.
    """
    said = said_by(error)
    if "pickle" in said.lower():
        return "expected arrays of numbers or strings in NumPy's format, and it is something else"
    return said

"""Files: whole or not there; their digests; the fields in which the contents of two differ."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO


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


def is_file(path: Path) -> bool:
    """Whether there is such a file; a name that no file can have (too long, a NUL) is none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def digest(folder: Path, paths: Iterable[Path]) -> str:
    """The SHA-256 of text files in a folder, and their names; ends of lines do not count."""
    total = hashlib.sha256()
    for path in sorted(paths):
        content = path.read_bytes().replace(b"\r\n", b"\n")
        name = path.relative_to(folder).as_posix()
        total.update(f"{name} {hashlib.sha256(content).hexdigest()}\n".encode())
    return total.hexdigest()


def changed(one: Any, other: Any, prefix: str = "") -> dict[str, list[Any]]:
    """Returns each field in which two contents differ, by its dotted name, with both values."""
    found: dict[str, list[Any]] = {}
    for key in sorted({**one, **other}):
        left, right = one.get(key), other.get(key)
        if isinstance(left, dict) and isinstance(right, dict):
            found |= changed(left, right, f"{prefix}{key}.")
        elif left != right:
            found[f"{prefix}{key}"] = [left, right]
    return found

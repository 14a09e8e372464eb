"""Files: whole or not there; their digests; the fields in which the contents of two differ."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import secrets
import tokenize
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


def sha256(path: Path, settle: bool = False) -> str:
    """The SHA-256 of a file; with `settle` its content is on the disk when this returns."""
    with path.open("rb") as file:
        if settle:
            os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(folder: Path, paths: Iterable[Path]) -> str:
    """The SHA-256 of text files in a folder, and their names; ends of lines do not count."""
    total = hashlib.sha256()
    for path in sorted(paths):
        content = path.read_bytes().replace(b"\r\n", b"\n")
        name = path.relative_to(folder).as_posix()
        total.update(f"{name} {hashlib.sha256(content).hexdigest()}\n".encode())
    return total.hexdigest()


def code_digest(code: Path | bytes) -> str:
    """The SHA-256 of a Python file as it runs: without comments, blank lines and trailing spaces.

    Docstrings count, and so does each space inside a line. The digest is the same on every
    version of Python. A file that cannot be read as Python is taken as it is, except for the ends
    of its lines.

    Raises:
        OSError: the file cannot be read.
    """
    content = code if isinstance(code, bytes) else code.read_bytes()
    content = content.replace(b"\r\n", b"\n")
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(content).readline)
        text = _bare(content.decode(encoding))
    except (SyntaxError, ValueError):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha256(text.encode()).hexdigest()


# The module tokenize is not used for this: its tokens and their places differ between versions of
# Python, for f-strings and for strings with letters outside ASCII.
_COMMENT_OR_STRING = re.compile(
    r"""(?P<comment>\#[^\n]*)
    | (?:(?<!\w)(?P<formatted>r?[ft]r?))?  # Of the prefixes of strings only these matter.
      (?P<string> \"{3} (?:[^"\\]|\\.|"(?!""))* \"{3} | '{3} (?:[^'\\]|\\.|'(?!''))* '{3}
                | " (?:[^"\\\n]|\\.)* "              | ' (?:[^'\\\n]|\\.)* ')
    | (?P<open>["'])""",
    re.DOTALL | re.IGNORECASE | re.VERBOSE,
)


def _bare(text: str) -> str:
    """Python without comments, blank lines and trailing spaces; strings keep all of theirs.

    Raises:
        ValueError: a string does not end, or is one that only Python 3.12 and later can read: an
            f-string that holds its own quotes or new lines.
    """
    text = text.replace("\r", "\n")
    cuts: list[tuple[int, int]] = []
    held: set[int] = set()
    """Where lines end inside a string."""
    for found in _COMMENT_OR_STRING.finditer(text):
        if found["comment"]:
            cuts.append(found.span())
            continue
        braces = (found["string"] or "").replace("{{", "").replace("}}", "")
        if found["open"] or (found["formatted"] and braces.count("{") != braces.count("}")):
            raise ValueError("no string that every version of Python reads alike")
        held.update(end for end in range(*found.span()) if text[end] == "\n")
    kept = [""]
    start, comments = 0, dict(cuts)
    for end in [*(found.start() for found in re.finditer("\n", text)), len(text)]:
        line = text[start:end]
        if end not in held:
            cut = next((place for place in comments if start <= place < end), end)
            line = text[start:cut].rstrip(" \t\f")
        # An empty line that ends a continued one keeps the next line apart from it.
        if line or start - 1 in held or end in held or kept[-1].endswith("\\"):
            kept.append(line)
        start = end + 1
    return "\n".join(kept[1:])


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

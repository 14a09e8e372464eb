"""SHA-256 of bytes, of files, of arrays, of JSON and of Python source."""

from __future__ import annotations

import hashlib
import io
import json
import re
import tokenize
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repro.basics.errors import BadInput

if TYPE_CHECKING:
    import numpy as np


def sha256(content: bytes | np.ndarray | Path) -> str:
    """Returns the SHA-256 of bytes, of a file's content, or of an array, in hexadecimal digits.

    The digest of an array covers its dtype, its shape and its little-endian content.

    Raises:
        BadInput: the array holds Python objects.
        OSError: the file cannot be read.
    """
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
    # bfloat16 and other types that are not NumPy's own do not export a buffer.
    digest.update(array.view(np.uint8).data)
    return digest.hexdigest()


class Streamed:
    """The SHA-256 of an array of which the rows come one after the other; see `sha256`."""

    def __init__(self, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
        """`shape` is that of the whole array."""
        self._little = dtype.newbyteorder("<")
        self._digest = hashlib.sha256(f"{self._little.str}{shape}".encode())

    def update(self, rows: np.ndarray) -> None:
        """Takes the next rows."""
        import numpy as np

        array = np.ascontiguousarray(rows, dtype=self._little)
        self._digest.update(array.view(np.uint8).data)

    def hexdigest(self) -> str:
        """Returns the digest, once all rows were given."""
        return self._digest.hexdigest()


def of_json(content: Any) -> str:
    """Returns the SHA-256 of the content's JSON, which is written with sorted keys."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def of_python(source: Path | bytes) -> str:
    """The SHA-256 of a Python file as it runs: without comments, blank lines and trailing spaces.

    Docstrings count, and so does each space inside a line. The digest is the same on every
    version of Python. A file that cannot be read as Python is taken as it is, except for the ends
    of its lines.

    Raises:
        OSError: the file cannot be read.
    """
    content = source if isinstance(source, bytes) else source.read_bytes()
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
    strings: list[str] = []

    def stand_in(found: re.Match[str]) -> str:
        if found["comment"]:
            return ""
        if found["open"] or (found["formatted"] and not _closed(found["string"])):
            raise ValueError("no string that every version of Python reads alike")
        strings.append(found[0])
        return "\0"

    if "\0" in text:
        raise ValueError("no text of Python's")
    lines: list[str] = []
    for line in _COMMENT_OR_STRING.sub(stand_in, text.replace("\r", "\n")).split("\n"):
        line = line.rstrip(" \t\f")
        # An empty line that ends a continued one keeps the next line apart from it.
        if line or (lines and lines[-1].endswith("\\")):
            lines.append(line)
    kept = iter(strings)
    return re.sub("\0", lambda _: next(kept), "\n".join(lines))


def _closed(string: str) -> bool:
    """Whether each brace of an f-string is closed in it; two of a kind can be one for itself."""
    while (shorter := re.sub(r"\{[^{}]*\}", "", string)) != string:
        string = shorter
    return re.search("[{}]", re.sub(r"\{\{|\}\}", "", string)) is None

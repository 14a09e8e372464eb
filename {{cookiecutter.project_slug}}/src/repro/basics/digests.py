"""SHA-256 of bytes, of files and of arrays."""

from __future__ import annotations

import hashlib
import json
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
    digest.update(array.view(np.uint8).data if array.ndim else array.tobytes())
    return digest.hexdigest()


def of_json(content: Any) -> str:
    """Returns the SHA-256 of the content's JSON, which is written with sorted keys."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()

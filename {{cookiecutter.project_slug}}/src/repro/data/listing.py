"""Lists of files: `data/flowers.files.sha256` says what each of many files in `data/flowers` is.

A line for each of 20,000 images would make `data.lock` too large for git. So the lock has a line
for the list, and the list has one for each file, as the programs `sha256sum` and `shasum` write and
check it. The list lies beside the folder and is data like the files themselves. They are compared
with it when a training reads them, one by one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from repro.basics import files
from repro.basics.errors import BadInput
from repro.data import datalock

SUFFIX = ".files.sha256"
"""Two words, since a file ending in `.sha256` alone may be the checksum of an archive."""
MANY = 100
"""A folder with more files than this gets a list."""
LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")


@dataclass(frozen=True)
class Listing:
    """A folder of data files, and the SHA-256 of each by its path there."""

    folder: Path
    digests: Mapping[str, str]


def is_list(path: str) -> bool:
    """Whether a path of the lock is that of a list."""
    return path.endswith(SUFFIX)


def path_of(folder: str) -> str:
    """The path of the list of a folder."""
    return folder + SUFFIX


def folder_of(path: str) -> str:
    """The path of the folder that a list is of."""
    return path.removesuffix(SUFFIX)


def write(path: Path, digests: Mapping[str, str]) -> None:
    """Writes a list, in the order of the paths."""
    text = "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items()))
    try:
        with files.replacing(path, shared=True) as file:
            file.write(text.encode())
    except OSError as error:
        raise BadInput(f"{path}: cannot be written: {error.strerror}") from None


def read(path: Path) -> Listing:
    """Returns what a list says.

    Raises:
        BadInput: it is no list, or names a file outside of its folder or twice.
    """
    found: dict[str, str] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: not a list of files: {error}") from None
    for number, line in enumerate(lines, 1):
        parts = LINE.fullmatch(line)
        name = parts[2] if parts else ""
        if not parts or datalock.leads_out(name) or name in found:
            raise BadInput(
                f"{path}, line {number}: expected the SHA-256 and the path of another file in "
                f"{folder_of(path.name)}, got {line!r:.99}"
            )
        found[name] = parts[1]
    return Listing(path.with_name(folder_of(path.name)), found)

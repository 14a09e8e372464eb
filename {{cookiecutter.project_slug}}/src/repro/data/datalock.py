"""`data.lock`: says what each data file is and where to get it; compares the files here with it.

A file of the lock lies in the folder that `REPRO_DATA` names, or else in `data/`. Before a training
starts, the files that are there are checked. To avoid reading many gigabytes each time, the digest
of each file is kept outside git with the file's size, times and inode.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from repro.basics import files
from repro.basics.errors import BadInput

LOCK = "data.lock"
HEADER = """\
# Each line says what one data file is and where to get it. `repro data add` writes the lines. When
# you no longer want a file, delete its line. Paths start in data/, or in the folder of REPRO_DATA.
"""
CACHE = Path(".repro_cache", "data.json")
POINTER = b"version https://git-lfs.github.com/spec/"
"""The beginning of a pointer: a small file that Git LFS puts in the place of a file's content."""
POINTER_SIZE = 1024
"""The most bytes that a pointer has (Git LFS specification)."""
NOT_PULLED = "Git LFS has not brought its content yet: git lfs pull"
SETTLED = 2 * 10**9
"""After so many nanoseconds, another change gives a file another time on every file system."""
LONG = 10**9
"""If there are more bytes to read, a line says so, since it takes a while."""

Tell = Callable[[str, int, int], None]
"""Called with a file's path, the bytes of it that were read, and how many it has."""

_known: dict[str, Any] = {}  # By a file's path: its stamp, and the SHA-256 that it had then.
_checking = threading.Lock()  # So that runs side by side do not read the same files twice.


def silent(path: str, done: int, of: int) -> None:
    """A `Tell` that shows no progress."""


@dataclass(frozen=True)
class Entry:
    """One file of the lock."""

    path: str
    size: int
    sha256: str
    sources: tuple[str, ...]


FIELDS = [field.name for field in fields(Entry)]


def read(root: Path) -> dict[str, Entry]:
    """Returns the entries of a project's lock by their paths; empty if there is no lock.

    Raises:
        BadInput: the file cannot be read, or an entry is wrong or leads out of the data folder.
    """
    try:
        lines = (root / LOCK).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise BadInput(f"{LOCK}: not a lock of data: {error}") from None
    found: dict[str, Entry] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        try:
            item = json.loads(line)
        except ValueError:
            raise BadInput(f"{LOCK}, line {number}: expected JSON; got {line!r:.99}") from None
        if wrong := _wrong(item):
            raise BadInput(f"{LOCK}, line {number}: {wrong}")
        entry = Entry(**item | {"sources": tuple(item["sources"])})
        if entry.path in found:
            raise BadInput(f"{LOCK}: {entry.path} is there twice; delete one of the two lines")
        found[entry.path] = entry
    return found


def write(root: Path, entries: Iterable[Entry]) -> None:
    """Replaces the lock in one step; the same entries give the same bytes."""
    text = HEADER
    for entry in sorted(entries, key=lambda entry: entry.path):
        text += json.dumps(asdict(entry), ensure_ascii=False) + "\n"
    with files.replacing(root / LOCK, shared=True) as file:
        file.write(text.encode())


def _wrong(item: Any) -> str:
    """Says what is wrong with an entry; empty if nothing is."""
    if not isinstance(item, dict) or item.keys() != {*FIELDS}:
        return f"expected {', '.join(FIELDS)}; got {item!r:.99}"
    path, size, digest, sources = (item[name] for name in FIELDS)
    if not isinstance(path, str) or leads_out(path):
        return f"path: expected one inside the data folder, such as faces/a.png; got {path!r}"
    if type(size) is not int or size < 0:
        return f"{path}: size: expected a number of bytes; got {size!r}"
    if not isinstance(digest, str) or not re.fullmatch(r"[0-9a-f]{64}", digest):
        return f"{path}: sha256: expected 64 digits of 0-9 and a-f; got {digest!r}"
    if not isinstance(sources, list):
        return f"{path}: sources: expected a list of addresses; got {sources!r}"
    return next((f"{path}: {wrong}" for source in sources if (wrong := no_source(source))), "")


def leads_out(path: str) -> bool:
    """Whether a path could lead out of a folder on some system, or is not a plain path."""
    steps = path.split("/")  # The first step of an absolute path is empty.
    odd = any(step in ("", ".", "..") for step in steps) or "\\" in path or path[1:2] == ":"
    return odd or not path.isprintable()


def no_source(source: Any) -> str:
    """Says why something is not a good source for the lock; empty if it is one."""
    told = f"source: expected an address such as https://example.org/a.csv; got {source!r}"
    if not isinstance(source, str) or not source.isprintable() or " " in source:
        return told
    try:
        parts = urlsplit(source)
    except ValueError:
        return told
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return told
    if parts.username or parts.password:  # The message does not repeat them: logs would have them.
        return f"source: a user or password for {parts.hostname} would be committed; leave it out"
    return ""


def folders(root: Path) -> list[Path]:
    """Returns the folders of data files: the one that `REPRO_DATA` names, if any, and `data/`."""
    named = os.environ.get("REPRO_DATA")
    return [*([root / named] if named else []), root / "data"]


@dataclass(frozen=True)
class Found:
    """A data file that is there."""

    path: Path
    real: str
    """Its path without links; its digest is kept under this path."""
    stamp: list[int]
    """Size, times and inode: at least one of them changes when the file changes."""


def find(root: Path, path: str, resolved: dict[Path, str] | None = None) -> Found | None:
    """Returns the data file of this path, or None.

    Args:
        resolved: keeps the paths of folders without links. Give the same one to many calls.

    Raises:
        BadInput: the path leads out of its folder.
    """
    for folder in folders(root):
        with contextlib.suppress(OSError):
            if stat.S_ISREG((folder / path).stat().st_mode):
                return at(folder, folder / path, resolved)
    return None


def at(folder: Path, path: Path, resolved: dict[Path, str] | None = None) -> Found:
    """Returns a file of a data folder.

    Raises:
        BadInput: the path leads out of the folder.
    """
    return Found(path, inside(folder, path, resolved), _stamp(path))


def inside(folder: Path, path: Path, resolved: dict[Path, str] | None = None) -> str:
    """Returns a path without links.

    Raises:
        BadInput: the path leads out of the folder.
    """
    resolved = {} if resolved is None else resolved
    for one in (folder, path.parent):
        if one not in resolved:
            resolved[one] = os.path.realpath(one)
    link = path.is_symlink()
    real = os.path.realpath(path) if link else os.path.join(resolved[path.parent], path.name)
    # The folder itself may be a link, to a larger disk.
    if not real.startswith(os.path.join(resolved[folder], "")):
        raise BadInput(f"{path}: leads out of {folder}; put the file itself there")
    return real


def _stamp(path: Path) -> list[int]:
    found = path.stat()
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


def check(root: Path, paths: Sequence[str] | None = None) -> None:
    """Checks that the data files that are there are those of the lock.

    Args:
        paths: the files to check; None: all files of the lock.

    Raises:
        BadInput: a file is not the one of the lock; the message names the first one.
    """
    entries = read(root)
    resolved: dict[Path, str] = {}
    there: list[tuple[Entry, Found]] = []
    for path in entries if paths is None else paths:
        if (file := find(root, path, resolved)) is not None:
            there.append((entries[path], file))
    if not there:
        return
    with _checking, remembered(root):
        for entry, file in there:  # The sizes are compared first, since that costs nothing.
            if wrong := other_size(entry, file):
                raise BadInput(f"{file.path}: {wrong}; {_mend(root, file.path)}")
        new = sum(entry.size for entry, file in there if _digest_known(file) is None)
        if new > LONG:
            print(f"reading {new / 10**9:.1f} GB of new or changed data", file=sys.stderr)
        for entry, file in there:
            if _digest_known(file) is None:  # Else this was checked when the digest was taken.
                no_pointer(file.path)
            if wrong := other_content(entry, file):
                raise BadInput(f"{file.path}: {wrong}; {_mend(root, file.path)}")


def is_pointer(path: Path) -> bool:
    """Whether a file is a pointer of Git LFS, by its beginning; see `POINTER`."""
    with contextlib.suppress(OSError):
        if path.stat().st_size <= POINTER_SIZE:
            with path.open("rb") as content:
                return content.read(len(POINTER)) == POINTER
    return False


def no_pointer(path: Path) -> None:
    """Checks that a file is not a pointer of Git LFS, before it is read or locked as data.

    Raises:
        BadInput: it is a pointer.
    """
    if is_pointer(path):
        raise BadInput(f"{path}: {NOT_PULLED}")


def _mend(root: Path, file: Path) -> str:
    if is_pointer(file):
        return NOT_PULLED
    shown = os.path.relpath(file, root) if file.is_relative_to(root / "data") else file
    return f"put the locked file back, or lock this one: repro data add {shown}"


def other_size(entry: Entry, file: Found) -> str:
    """Says how a file's size differs from the lock's; empty if it does not."""
    size = file.stamp[0]
    return "" if size == entry.size else f"it has {size:,} bytes, {LOCK} says {entry.size:,}"


def other_content(entry: Entry, file: Found, tell: Tell = silent, again: bool = False) -> str:
    """Says how a file's content differs from the lock's; empty if it does not."""
    found = digest(file, tell, again)
    if found == entry.sha256:
        return ""
    return unequal(found, entry.sha256)


def unequal(found: str, expected: str, says: str = LOCK) -> str:
    """Says that a file has another SHA-256 than the lock, or another list, says."""
    return f"its SHA-256 is {found[:12]}…, {says} says {expected[:12]}…"


def _digest_known(file: Found) -> str | None:
    stamp, known = _known.get(file.real, (None, None))
    return known if stamp == file.stamp else None


def digest(file: Found, tell: Tell = silent, again: bool = False) -> str:
    """Returns the SHA-256 of a file; reads the file only if it is not known, or if `again`."""
    if not again and (known := _digest_known(file)):
        return known
    found = read_digest(file.path, tell)
    # A file that has just changed may change again and keep its times. So its digest is not kept.
    settled = all(abs(time.time_ns() - moment) > SETTLED for moment in file.stamp[1:3])
    if settled and _stamp(file.path) == file.stamp:
        _known[file.real] = [file.stamp, found]
    return found


def read_digest(path: Path, tell: Tell = silent) -> str:
    """Returns the SHA-256 of a file, which is read for it.

    Raises:
        BadInput: it cannot be read.
    """
    found, done = hashlib.sha256(), 0
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                found.update(chunk)
                done += len(chunk)
                tell(str(path), done, size)
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror}") from None
    return found.hexdigest()


@contextlib.contextmanager
def remembered(root: Path) -> Iterator[None]:
    """Reads the kept digests of files before the block, and keeps new ones after it."""
    kept: dict[str, Any] = {}
    # If the cache is missing or damaged, or cannot be written, this costs only time.
    with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
        content = json.loads((root / CACHE).read_text(encoding="utf-8"))
        kept = {path: [stamp, known] for path, (stamp, known) in content.items()}
    _known.update(kept)
    try:
        yield
    finally:
        if _known != kept:
            with contextlib.suppress(OSError):
                (root / CACHE).parent.mkdir(exist_ok=True)
                with files.replacing(root / CACHE, shared=True) as file:
                    file.write(json.dumps(_known).encode())

"""`data.lock`: what each data file is and where it can be had; and whether those here are the same.

A file of the lock lies in the folder that `REPRO_DATA` names, or else in `data/`. Before a training
starts, those that are there are checked. So that many gigabytes are not read each time, the digest
that a file had is kept, outside git, with its size, times and inode.
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
"""How the file begins that Git LFS leaves where it has not brought the content."""
POINTER_SIZE = 1024
"""Bytes that such a file has at most (Git LFS specification)."""
NOT_PULLED = "Git LFS has not brought its content yet: git lfs pull"
SETTLED = 2 * 10**9
"""Nanoseconds after which a change gives a file another time, on any file system."""
LONG = 10**9
"""Bytes that take a while to read, so that it is told."""

Tell = Callable[[str, int, int], None]
"""Called with a file's path, the bytes that were read of it, and how many it has."""

_known: dict[str, Any] = {}  # By a file's path: its stamp, and the SHA-256 it had then.
_checking = threading.Lock()  # Runs side by side do not read the same files twice.


def silent(path: str, done: int, of: int) -> None:
    """A `Tell` for where nobody looks on."""


@dataclass(frozen=True)
class Entry:
    """One file of the lock."""

    path: str
    size: int
    sha256: str
    sources: tuple[str, ...]


FIELDS = [field.name for field in fields(Entry)]


def read(root: Path) -> dict[str, Entry]:
    """Returns the entries of a project's lock by their paths; none where there is no lock.

    Raises:
        BadInput: it is no lock, an entry is wrong, or leads out of the data folder.
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
            raise BadInput(f"{LOCK}: {entry.path} is there twice; take one of the two lines out")
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
    """What is wrong with an entry, or nothing."""
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
    """Whether a path is not, on every system, the plain one of a file below a folder."""
    steps = path.split("/")  # Of an absolute path the first is empty.
    odd = any(step in ("", ".", "..") for step in steps) or "\\" in path or path[1:2] == ":"
    return odd or not path.isprintable()


def no_source(source: Any) -> str:
    """Why something is not an address that may stand in the lock, or nothing."""
    told = f"source: expected an address such as https://example.org/a.csv; got {source!r}"
    if not isinstance(source, str) or not source.isprintable() or " " in source:
        return told
    try:
        parts = urlsplit(source)
    except ValueError:
        return told
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return told
    if parts.username or parts.password:  # Not repeated here: it would reach a log.
        return f"source: a user or password for {parts.hostname} would be committed; leave it out"
    return ""


def folders(root: Path) -> list[Path]:
    """Where data files may lie: the folder that `REPRO_DATA` names, and `data/`."""
    named = os.environ.get("REPRO_DATA")
    return [*([root / named] if named else []), root / "data"]


@dataclass(frozen=True)
class Found:
    """A data file that is there."""

    path: Path
    real: str
    """Its path without links, by which it is known again."""
    stamp: list[int]
    """What changes when the file does, without a look into it: size, times, inode."""


def find(root: Path, path: str, resolved: dict[Path, str] | None = None) -> Found | None:
    """Returns the data file of this path, or None where there is none.

    `resolved` keeps what folders are without links, from one of many calls to the next.

    Raises:
        BadInput: it leads out of its folder.
    """
    for folder in folders(root):
        with contextlib.suppress(OSError):
            if stat.S_ISREG((folder / path).stat().st_mode):
                return at(folder, folder / path, resolved)
    return None


def at(folder: Path, path: Path, resolved: dict[Path, str] | None = None) -> Found:
    """Returns a file of a data folder. Raises `BadInput` where it leads out."""
    return Found(path, inside(folder, path, resolved), _stamp(path))


def inside(folder: Path, path: Path, resolved: dict[Path, str] | None = None) -> str:
    """Returns a path without links, if it does not lead out of the folder."""
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
    """Refuses data files that are there and are not what the lock says; all, or of these paths.

    Raises:
        BadInput: the first that is not.
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
        for entry, file in there:  # What costs nothing comes first.
            if wrong := other_size(entry, file):
                raise BadInput(f"{file.path}: {wrong}; {_mend(root, file.path)}")
        new = sum(entry.size for entry, file in there if _digest_known(file) is None)
        if new > LONG:
            print(f"reading {new / 10**9:.1f} GB of new or changed data", file=sys.stderr)
        for entry, file in there:
            if _digest_known(file) is None:  # Else it was looked at when its digest was taken.
                no_pointer(file.path)
            if wrong := other_content(entry, file):
                raise BadInput(f"{file.path}: {wrong}; {_mend(root, file.path)}")


def is_pointer(path: Path) -> bool:
    """Whether a file is what Git LFS leaves in place of the content; a look at its beginning."""
    with contextlib.suppress(OSError):
        if path.stat().st_size <= POINTER_SIZE:
            with path.open("rb") as content:
                return content.read(len(POINTER)) == POINTER
    return False


def no_pointer(path: Path) -> None:
    """Refuses a pointer of Git LFS with `BadInput`, before it is read or locked as data."""
    if is_pointer(path):
        raise BadInput(f"{path}: {NOT_PULLED}")


def _mend(root: Path, file: Path) -> str:
    if is_pointer(file):
        return NOT_PULLED
    shown = os.path.relpath(file, root) if file.is_relative_to(root / "data") else file
    return f"put the other one back, or take this one: repro data add {shown}"


def other_size(entry: Entry, file: Found) -> str:
    """How a file's size is not the lock's, or nothing."""
    size = file.stamp[0]
    return "" if size == entry.size else f"it has {size:,} bytes, {LOCK} says {entry.size:,}"


def other_content(entry: Entry, file: Found, tell: Tell = silent, again: bool = False) -> str:
    """How a file's content is not the lock's, or nothing."""
    found = digest(file, tell, again)
    if found == entry.sha256:
        return ""
    return f"its SHA-256 is {found[:12]}…, {LOCK} says {entry.sha256[:12]}…"


def _digest_known(file: Found) -> str | None:
    stamp, known = _known.get(file.real, (None, None))
    return known if stamp == file.stamp else None


def digest(file: Found, tell: Tell = silent, again: bool = False) -> str:
    """The SHA-256 of a file, which is read only where it is not known, or `again`."""
    if not again and (known := _digest_known(file)):
        return known
    found, done = hashlib.sha256(), 0
    try:
        with file.path.open("rb") as content:
            while chunk := content.read(1 << 20):
                found.update(chunk)
                done += len(chunk)
                tell(str(file.path), done, file.stamp[0])
    except OSError as error:
        raise BadInput(f"{file.path}: cannot be read: {error.strerror}") from None
    # Changed a moment ago, it could be changed once more and have the same times.
    settled = all(abs(time.time_ns() - moment) > SETTLED for moment in file.stamp[1:3])
    if settled and _stamp(file.path) == file.stamp:
        _known[file.real] = [file.stamp, found.hexdigest()]
    return found.hexdigest()


@contextlib.contextmanager
def remembered(root: Path) -> Iterator[None]:
    """What was known of files before is known inside, and what is new is kept."""
    kept: dict[str, Any] = {}
    # A cache that is not there, or torn, or cannot be written costs time and nothing else.
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

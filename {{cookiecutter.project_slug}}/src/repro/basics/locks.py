"""Locks on files, which show that a process is at work on a run, on a study or on a core.

A lock ends with the process that holds it, whatever ends that process. There are three kinds, and
the best one that the system has is used:

1. `flock` belongs to the open file. The process that trains inherits it from the process that
   started it, and keeps it even if it lives longer.
2. `lockf` is used on file systems that have no `flock` (some of Lustre and NFS). It belongs to one
   process, and is not inherited. So this module remembers what its own process has locked. A file
   can also hold the number of a process, as that of a run does; such a file counts as locked while
   that process lives on this machine.
3. On Windows, `msvcrt.locking` belongs to one open file.

If a file system has none of these, one line on stderr says so. Then only the number in the file
counts, and a process on another machine may be at work on the same run.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

_TAKEN = {errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK}
_UNKNOWN = {errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOLCK, errno.EINVAL}
"""The errors of a file system that does not have this kind of lock."""
_FAR = 1 << 30
"""The byte that is locked on Windows: far behind the content, so that others can read the file."""

_held: dict[tuple[int, int], weakref.ref[TextIO]] = {}
"""The files that this process has locked by `lockf`, by their device and inode."""
_told: set[int] = set()
"""The devices without locks for which the line was printed already."""


def lock(file: TextIO, patience: float = 0) -> bool:
    """Locks a file until the last process that has it open ends.

    Returns:
        Whether this process has the lock now. It is False if another process still has it after
        `patience` seconds.

    Raises:
        OSError: the file cannot be locked for another reason.
    """
    last = time.monotonic() + patience
    while not _try(file):
        if time.monotonic() >= last:
            return False
        time.sleep(0.05)
    return True


def _try(file: TextIO) -> bool:
    try:
        import fcntl
    except ImportError:
        return _on_windows(file)
    taken = _answer(lambda: fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB))
    if taken is not None:
        return taken
    here = os.fstat(file.fileno())
    place = (here.st_dev, here.st_ino)
    holder = _held.get(place, lambda: None)()
    if holder is not None and holder is not file and not holder.closed:
        return False
    # The number is read before `lockf`, since closing the file would give up this process's lock.
    if _lives(Path(file.name)):
        return False
    taken = _answer(lambda: fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB))
    if taken is False:
        return False
    if taken is None and place[0] not in _told:
        _told.add(place[0])
        print(
            f"repro: {Path(file.name).parent}: this file system has no locks, so repro cannot see "
            "whether another machine is at work here; make sure that none is",
            file=sys.stderr,
        )
    _held[place] = weakref.ref(file)
    return True


def _answer(attempt: Callable[[], None]) -> bool | None:
    """Whether the attempt got the lock; None if the file system does not have such locks."""
    try:
        attempt()
    except OSError as error:
        if error.errno in _TAKEN:
            return False
        if error.errno in _UNKNOWN:
            return None
        raise
    return True


def _lives(path: Path) -> bool:
    """Whether the file holds the number of another process of `repro` that is alive."""
    try:
        with path.open("rb") as file:
            number = int(file.readline(32))
        os.kill(number, 0)
    except (OSError, ValueError, OverflowError):
        return False
    if number == os.getpid():
        return False
    try:  # The system may have given the number to another program since.
        return b"repro" in Path(f"/proc/{number}/cmdline").read_bytes()
    except OSError:
        return True


def _on_windows(file: TextIO) -> bool:
    windows: Any = importlib.import_module("msvcrt")
    os.lseek(file.fileno(), _FAR, os.SEEK_SET)
    try:
        windows.locking(file.fileno(), windows.LK_NBLCK, 1)
    except OSError:  # EACCES or EDEADLOCK; both mean that another process has it.
        return False
    return True

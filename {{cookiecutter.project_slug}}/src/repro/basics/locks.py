"""Locks on files, which say that a process is at a run, a study or a core.

A lock ends with the process that has it, however that ends. Three kinds, the best that there is:

1. `flock`, which belongs to the open file: the process that trains inherits it from the one that
   started it, and keeps it where it outlives that one.
2. `lockf`, where a file system has no `flock` (some of Lustre and NFS). It belongs to one process.
   So within a process this module remembers what is locked; and a file that tells the number of a
   process, as that of a run does, is taken for locked while that process lives on this machine.
3. On Windows `msvcrt.locking`, which belongs to one open file.

Where a file system has none of these it is said, and what a number in the file tells is all that is
known: another machine may be at the same run.
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
"""What a file system that has no such locks answers."""
_FAR = 1 << 30
"""The byte that Windows locks: others may read what stands in the file."""

_held: dict[tuple[int, int], weakref.ref[TextIO]] = {}
"""What this process has locked by `lockf`: device and number of each file."""
_told: set[int] = set()
"""The devices without locks that were told of."""


def lock(file: TextIO, patience: float = 0) -> bool:
    """Locks a file until the last process that has it open ends.

    Returns False where another has it, and still has it after `patience` seconds.

    Raises:
        OSError: the file cannot be locked for a reason of another kind.
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
    # In this order: to read the file and close it would give up this process's lock on it.
    if _lives(Path(file.name)):
        return False
    taken = _answer(lambda: fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB))
    if taken is False:
        return False
    if taken is None and place[0] not in _told:
        _told.add(place[0])
        print(
            f"repro: {Path(file.name).parent}: this file system has no locks, so nobody can tell "
            "whether a process of another machine is at the same; see to it that none is",
            file=sys.stderr,
        )
    _held[place] = weakref.ref(file)
    return True


def _answer(attempt: Callable[[], None]) -> bool | None:
    """Whether a lock was had; None where there are no such locks."""
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
    """Whether a file tells the number of a process of this project that lives, and not this one."""
    try:
        with path.open("rb") as file:
            number = int(file.readline(32))
        os.kill(number, 0)
    except (OSError, ValueError, OverflowError):
        return False
    if number == os.getpid():
        return False
    try:  # The number may be another program's by now.
        return b"repro" in Path(f"/proc/{number}/cmdline").read_bytes()
    except OSError:
        return True


def _on_windows(file: TextIO) -> bool:
    windows: Any = importlib.import_module("msvcrt")
    os.lseek(file.fileno(), _FAR, os.SEEK_SET)
    try:
        windows.locking(file.fileno(), windows.LK_NBLCK, 1)
    except OSError:  # It says EACCES, or EDEADLOCK; both are that another has it.
        return False
    return True

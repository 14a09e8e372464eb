"""Whose fault it is: what a command or a training raises becomes a line and an exit status.

What somebody gave, or the machine around, is at fault in most cases: a full disk, a folder that is
read-only, a file that is not there. That is one line. What nobody foresaw is a fault of the
machinery: its traceback, where to report it, and a status that stands for nothing else.
"""

from __future__ import annotations

import contextlib
import errno
import os
import traceback
from collections.abc import Iterator
from pathlib import Path

from repro.backends import portable
from repro.basics.files import MACHINERY

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""What a write fails with where the disk, the quota or the largest size of a file is reached."""
_AROUND = FULL | {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ENOMEM, errno.EMFILE, errno.ENFILE),
    *(errno.ENAMETOOLONG, errno.ELOOP, errno.ENODEV, errno.ENXIO, errno.ESTALE, errno.ENOTCONN),
}
"""What no program can help, whatever it was about to do."""


def outside(error: BaseException) -> str | None:
    """The one line for an error that comes from the machine around; None for any other."""
    if isinstance(error, MemoryError):
        return "there is not enough memory for this"
    if isinstance(error, ModuleNotFoundError) and not str(error.name).startswith("repro"):
        return f"{error}; the packages of the lock are not all installed here: make install"
    if not isinstance(error, OSError):
        return None
    try:
        os.getcwd()
    except OSError:
        return "the folder in which this was started is gone; go to the project's folder"
    ours = error.filename is not None and MACHINERY in Path(os.fsdecode(error.filename)).parents
    if ours or (error.filename is None and error.errno not in _AROUND):
        return None
    where = "a file or the output" if error.filename is None else os.fsdecode(error.filename)
    return f"{where}: " + (error.strerror or str(error)) + _advice(error.errno)


def _advice(number: int | None) -> str:
    if number in FULL:
        return "; make room, and start the same command again"
    if number in (errno.EROFS, errno.EACCES, errno.EPERM):
        return "; the project's folder has to be one that you may write into"
    return ""


def of_machinery(error: BaseException) -> bool:
    """Whether the machinery raised this in the process that trains, and not the project.

    So it is where the innermost frame outside Python's own library is one of the machinery, unless
    the machinery had called the project (see `calling`). What a library raises is the project's:
    its model, its data and its parameters are what the library was given.
    """
    if outside(error) is not None or _MARK in "".join(getattr(error, "__notes__", ())):
        return False
    frames = [Path(frame.filename) for frame in traceback.extract_tb(error.__traceback__)]
    standard = Path(os.__file__).resolve().parent
    own = [
        path
        for path in (frame.resolve() for frame in frames)
        if standard not in path.parents or "site-packages" in path.parts
    ]
    return bool(own) and MACHINERY in own[-1].parents


_MARK = "the project's own code was running: "


@contextlib.contextmanager
def calling(place: str, watch: bool = True) -> Iterator[None]:
    """A block in which the project's own code runs: what is raised there is not the machinery's.

    Args:
        place: what is called, such as `judge`.
        watch: whether `portable` looks at what is computed there.
    """
    try:
        with portable.watching(place) if watch else contextlib.nullcontext():
            yield
    except Exception as error:
        error.add_note(f"{_MARK}{place}")
        raise

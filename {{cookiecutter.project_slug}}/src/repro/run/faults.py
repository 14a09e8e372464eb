"""Decides whose fault an exception is: the user's or the machine's, the project's, the machinery's.

In most cases the user's input or the machine is at fault: a disk is full, a folder is read-only, a
file is not there. The command then prints one line. An exception that nobody foresaw is a fault of
the machinery. The command then prints the traceback and where to report it, and has an exit status
of its own.
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
"""The errors of a write for which the disk, the quota or the size limit leaves no room."""
_AROUND = FULL | {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ENOMEM, errno.EMFILE, errno.ENFILE),
    *(errno.ENAMETOOLONG, errno.ELOOP, errno.ENODEV, errno.ENXIO, errno.ESTALE, errno.ENOTCONN),
}
"""Errors that come from the machine, whatever the program was doing."""


def outside(error: BaseException) -> str | None:
    """Returns the one line for an error that the user or the machine caused; None for another."""
    if isinstance(error, MemoryError):
        return "there is not enough memory for this command"
    if isinstance(error, ModuleNotFoundError) and not str(error.name).startswith("repro"):
        return (
            f"{error}; make install installs what the lock has; what it has not is added to "
            "requirements/cpu.in, then make lock sync"
        )
    if not isinstance(error, OSError):
        return None
    try:
        os.getcwd()
    except OSError:
        return "the folder in which the command was started is gone; go to the project's folder"
    ours = error.filename is not None and MACHINERY in Path(os.fsdecode(error.filename)).parents
    if ours or (error.filename is None and error.errno not in _AROUND):
        return None
    where = "a file or the output" if error.filename is None else os.fsdecode(error.filename)
    return f"{where}: " + (error.strerror or str(error)) + _advice(error.errno)


def _advice(number: int | None) -> str:
    if number in FULL:
        return "; make room, and start the same command again"
    if number in (errno.EROFS, errno.EACCES, errno.EPERM):
        return "; you need the right to write into the project's folder"
    return ""


def of_machinery(error: BaseException) -> bool:
    """Whether the machinery raised this error in the process that trains, and not the project.

    It did if the innermost frame is one of the machinery, where frames of Python's own library do
    not count, and if the machinery was not calling the project (see `calling`). An error that a
    library raises is the project's, because the library works on the project's model and data.
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
    """Marks exceptions in the block as the project's, because the project's own code runs there.

    Args:
        place: the function that is called, such as `judge`.
        watch: whether `portable` notes the operations that are computed there.
    """
    try:
        with portable.watching(place) if watch else contextlib.nullcontext():
            yield
    except Exception as error:
        error.add_note(f"{_MARK}{place}")
        raise

"""Whose fault it is: what a command or a training raises becomes a line and an exit status.

What somebody gave, or the machine around, is at fault in most cases: a full disk, a folder that is
read-only, a file that is not there. That is one line. What nobody foresaw is a fault of the
machinery: its traceback, where to report it, and a status that stands for nothing else.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import select
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from . import (
    BAD_INPUT,
    FAILED,
    INTERNAL,
    ISSUES,
    BadInput,
    MachineryFailed,
    RunFailed,
    portable,
)
from .text import printable

HERE = Path(__file__).resolve().parent
INTERRUPTED, UNHEARD = 130, 141
"""What a shell says of a program that SIGINT or SIGPIPE ended."""

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""What a write fails with where the disk, the quota or the largest size of a file is reached."""
_AROUND = FULL | {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ENOMEM, errno.EMFILE, errno.ENFILE),
    *(errno.ENAMETOOLONG, errno.ELOOP, errno.ENODEV, errno.ENXIO, errno.ESTALE, errno.ENOTCONN),
}
"""What no program can help, whatever it was about to do."""


def guarded(command: Callable[[], int]) -> int:
    """Runs a command and returns its exit status, whatever it raises or cannot write."""
    _open_streams()
    try:
        try:
            return _run(command)
        finally:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
    except OSError as error:
        # What was written has not arrived: nobody reads it any more, or there is no room for it.
        _drop_output()
        if error.errno == errno.EPIPE:
            return UNHEARD
        _say(f"repro: what was to be printed cannot be written: {error.strerror}")
        return BAD_INPUT


def _run(command: Callable[[], int]) -> int:
    try:
        return command()
    except BadInput as error:
        _say(f"repro: {printable(error)}")
        return BAD_INPUT
    except MachineryFailed as error:
        _say(f"repro: {printable(error, lines=True)}\n{_report()}")
        return INTERNAL
    except RunFailed as error:
        _say(f"repro: {printable(error, lines=True)}")
        return FAILED
    except KeyboardInterrupt:
        _say("repro: interrupted")
        return INTERRUPTED
    except SystemExit as error:
        if isinstance(error.__context__, BrokenPipeError):  # So it is when rich meets one.
            return UNHEARD
        raise
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _unheard():
            return UNHEARD
        told = outside(error)
        if told is None:
            _say("".join(traceback.format_exception(error)) + _report())
            return INTERNAL
        _say(f"repro: {printable(told)}")
        return BAD_INPUT


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
    ours = error.filename is not None and HERE in Path(os.fsdecode(error.filename)).parents
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
    return bool(own) and HERE in own[-1].parents


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


def _report() -> str:
    return (
        "repro: this is a fault of the machinery, not of your project; "
        f"please report it with what stands above: {ISSUES}"
    )


def _open_streams() -> None:
    """Makes standard input, output and error what a program may rely on.

    One that whoever called has closed is one that nobody reads: else the next file that is opened
    would take its place. What the terminal cannot show is written as an escape.
    """
    with contextlib.suppress(OSError):
        while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
            os.set_inheritable(descriptor, True)
        os.close(descriptor)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _unheard() -> bool:
    """Whether standard output or error is a pipe that nobody reads any more."""
    try:
        poll = select.poll()
    except AttributeError:  # Windows has none.
        return True
    for descriptor in (1, 2):
        poll.register(descriptor, 0)
    return any(events & select.POLLERR for _, events in poll.poll(0))


def _drop_output() -> None:
    """What is left to be written goes nowhere, or Python would complain of it as it ends."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError):
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, stream.fileno())
                os.close(null)


def _say(text: str) -> None:
    with contextlib.suppress(OSError):  # The status tells it all the same.
        print(text, file=sys.stderr)

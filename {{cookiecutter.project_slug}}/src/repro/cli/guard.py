"""Makes each command end with an exit status and a line or two, whatever it raises."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import select
import sys
import traceback
from collections.abc import Callable

from repro.basics.errors import (
    BAD_INPUT,
    FAILED,
    INTERNAL,
    ISSUES,
    BadInput,
    MachineryFailed,
    RunFailed,
)
from repro.basics.text import printable
from repro.run.faults import outside

INTERRUPTED, UNHEARD = 130, 141
"""The exit statuses that a shell gives to a program that SIGINT or SIGPIPE ended."""


def guarded(command: Callable[[], int]) -> int:
    """Runs a command and returns its exit status, even if it raises or cannot write its output."""
    _open_streams()
    try:
        try:
            return _run(command)
        finally:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
    except OSError as error:
        # The output cannot be written: nobody reads it any more, or the disk is full.
        _drop_output()
        if error.errno == errno.EPIPE:
            return UNHEARD
        _say(f"repro: the output cannot be written: {error.strerror}")
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
        if isinstance(error.__context__, BrokenPipeError):  # The library rich exits like this.
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


def _report() -> str:
    return (
        "repro: this is a fault of the machinery, not of your project; "
        f"please report it with the lines above: {ISSUES}"
    )


def _open_streams() -> None:
    """Makes sure that standard input, output and error are open and can take every character.

    If the caller has closed one of them, the null device takes its place; otherwise the next file
    that is opened would. A character that the terminal cannot show is written as an escape.
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
    except AttributeError:  # Windows does not have it.
        return True
    for descriptor in (1, 2):
        poll.register(descriptor, 0)
    return any(events & select.POLLERR for _, events in poll.poll(0))


def _drop_output() -> None:
    """Sends the rest of the output to the null device, or Python would report it when it ends."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError):
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, stream.fileno())
                os.close(null)


def _say(text: str) -> None:
    with contextlib.suppress(OSError):  # The exit status says it too.
        print(text, file=sys.stderr)

"""Explains to a person how the process of a training failed."""

from __future__ import annotations

import re
import signal
from pathlib import Path

from repro.basics.errors import RunEnded, RunFailed

SHOWN = 15
"""How many lines of the log a message shows."""
LONG = 400
"""How many characters of an exception one line shows."""

CHATTER = re.compile(
    "|".join(
        (
            # Information that TensorFlow and XLA print, in two formats.
            r"^I\d{4} ",
            r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+: I ",
            r"^WARNING: All log messages before absl::InitializeLog\(\) is called",
            r"^To enable the following instructions:",
            r"^INFO:(absl|tensorflow):",
            # Marked as errors, but harmless: on some machines every start prints them.
            r"Unable to register cu\w+ factory",
            r"computation placer already registered",
            r"Could not find (cuda drivers|TensorRT)",
            r"NodeDef mentions attribute \w+ which is not in the op definition",
        )
    )
)
"""Lines that also stand in the log of a training without any failure."""

COLOURS = re.compile(r"\x1b\[[0-9;]*m")
"""The escape sequences that Keras writes around a message to make it bold."""
RAISED = re.compile(r"^[\w.]*(Error|Exception|Exit|Interrupt|Refused)\b.*$", re.MULTILINE)
"""The first line of an exception, which stands below its traceback."""
ARGUMENTS = re.compile(r"\s*\nArguments received by .*", re.DOTALL)
"""The list of arguments that Keras adds to the exception of a layer."""

OUTSIDE = "somebody or something else ended it"
CRASHED = "code outside Python crashed"
REASONS = {
    "SIGKILL": "the memory may be full, or somebody ended it",
    "SIGTERM": OUTSIDE,
    "SIGINT": OUTSIDE,
    "SIGHUP": "the terminal that it was started from was closed, or somebody ended it",
    "SIGXCPU": "it had used up the time of a processor that it may use",
    "SIGXFSZ": "a file grew larger than it may",
    "SIGABRT": "a library found something wrong and stopped",
    "SIGBUS": "code outside Python crashed, or the disk or /dev/shm is full",
    "SIGSEGV": CRASHED,
    "SIGFPE": CRASHED,
    "SIGILL": "a library has instructions that this processor does not know",
}
"""For each signal, why it may have ended a process."""


def of(directory: Path, status: int, what: str = "training") -> RunFailed:
    """Returns the error for a run whose process has ended with this status, which is not 0.

    `what` names what has failed.

    If a signal ended the process, `subprocess` gives the signal's number as a negative status. A
    program between, such as a shell or an emulator, gives 128 plus the number instead.
    """
    number = -status if status < 0 else status - 128
    try:
        name = signal.Signals(number).name
    except ValueError:
        return RunFailed(f"the {what} failed with status {status}{end_of_log(directory)}")
    reason = REASONS.get(name, OUTSIDE)
    told = f"the {what} was ended by signal {number} ({name}): {reason}"
    return RunEnded(
        told, f"the same command started again {then(directory)}", end_of_log(directory)
    )


def then(directory: Path) -> str:
    """Returns what the same command does when it is started again, after "started again …"."""
    if any(directory.glob("checkpoints/*.json")):
        return "goes on from the last checkpoint"
    return "begins anew, there is no checkpoint yet"


def end_of_log(directory: Path) -> str:
    """Returns the end of a sentence that shows the log's last lines, without `CHATTER`."""
    path = directory / "log.txt"
    text = COLOURS.sub("", path.read_text(encoding="utf-8", errors="replace"))
    lines = [line for line in text.splitlines() if line.strip() and not CHATTER.search(line)]
    if not lines:
        return f"; its log, {path}, does not say why"
    return f"; its log, {path}, ends with:\n" + "\n".join(lines[-SHOWN:])


def reason(error: Exception) -> str:
    """Returns what an error says in one line; if a training raised, this is its exception."""
    if isinstance(error, RunEnded):
        return error.what
    text = str(error).strip() or type(error).__name__
    if isinstance(error, RunFailed):
        raised = list(RAISED.finditer(text))
        text = text[raised[-1].start() :] if raised else text
    text = " ".join(ARGUMENTS.sub("", text).split())
    return text if len(text) <= LONG else f"{text[:LONG]}…"

"""What a script has printed, line by line, without what only tells how long something took.

Three things are replaced before two texts are compared, and this is all that is replaced:

- a number with a unit of time after it (`12ms/step`, `3.4 s`, `0.5 seconds`) becomes `#`, and so
  does the time that tqdm tells (`00:03<00:00, 31.2it/s`);
- the path of the run's folder becomes `.`;
- of what a progress bar writes over itself, only the last state stays, as on a terminal.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
TIMES = re.compile(
    r"(?<![\w.])\d+(?:\.\d+)?\s?(?:ns|us|µs|ms|s|sec|secs|seconds?|minutes?|min|hours?|h)"
    r"(?:/\w+)?(?![\w.]\w)\b"
    r"|(?<![\w.])\d+(?:\.\d+)?\s?\w*/(?:s|sec|second)\b"
    r"|\d+:\d\d(?::\d\d)?(?=[<\]])|(?<=<)\d+:\d\d(?::\d\d)?"
)


@dataclass(frozen=True)
class Line:
    """The first line in which two texts differ."""

    number: int
    a: str
    """The line of the first run; empty if it has printed fewer."""
    b: str


def lines(path: Path, work: Path) -> list[str]:
    """Returns the lines of a file, with the replacements; `work` is the run's folder."""
    text = path.read_bytes().decode("utf-8", errors="backslashreplace").replace("\r\n", "\n")
    for place in sorted({str(work), str(work.resolve())}, key=len, reverse=True):
        text = text.replace(place, ".")
    return [_plain(line) for line in text.rstrip("\n").split("\n")] if text else []


def _plain(line: str) -> str:
    line = ESCAPES.sub("", line)
    line = re.split(r"[\x08\r]+", line.rstrip("\x08\r"))[-1]
    return TIMES.sub("#", line).rstrip()


def first_difference(one: list[str], other: list[str]) -> Line | None:
    """Returns the first line in which two texts differ; None if there is none."""
    for number in range(max(len(one), len(other))):
        left = one[number] if number < len(one) else ""
        right = other[number] if number < len(other) else ""
        if left != right:
            return Line(number + 1, left, right)
    return None

"""Text that comes from files, people and runs, made fit for where it is shown."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable

_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
"""Unicode's categories of what moves, hides or reorders text rather than being seen itself."""


def printable(text: object, lines: bool = False) -> str:
    """Returns text as it can be shown on a terminal, which it cannot command.

    Control characters, among them those that begin an escape sequence, and characters that change
    the direction of text are written as Python writes them in a string: `\\x1b`, `\\u202e`.

    Args:
        lines: whether ends of lines and tabs may stay, as in text of several lines. A name has
            none: with them it could look like a line of its own.
    """
    kept = "\n\t" if lines else ""
    return "".join(
        one if one in kept or unicodedata.category(one) not in _HIDDEN else _escaped(one)
        for one in str(text)
    )


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


def markdown(text: object) -> str:
    """Returns text that Markdown shows as it is, where it could be a link, HTML, code or a table.

    Ends of lines become spaces. What stands between the letters of a word stays, such as the
    underscore in `val_loss`: Markdown does not read it as a mark there.
    """
    shown = printable(" ".join(str(text).split("\n")))
    shown = re.sub(r"[\\`*<>\[\]|~$]|(?<![^\W_])_|_(?![^\W_])|!(?=\[)", r"\\\g<0>", shown)
    shown = re.sub(r"&(?=#?\w+;)", "&amp;", shown)
    # What at the beginning of a line would make a heading, a rule or a list.
    shown = re.sub(r"^(\s*)([#=]|[+-](?=[\s-]|$))", r"\1\\\2", shown)
    return re.sub(r"^(\s*\d+)([.)])(?=\s|$)", r"\1\\\2", shown)


def file_name(text: str, taken: set[str]) -> str:
    """Returns a name for a file that was not taken, made of a name that may hold anything.

    It is added to those that are taken. Two names that differ in capital letters alone are one
    file on some systems, and so are not both given.
    """
    plain = re.sub(r"[^\w=+.-]", "-", text).strip(".")[:100] or "picture"
    name, number = plain, 1
    while name.lower() in taken:
        number += 1
        name = f"{plain}-{number}"
    taken.add(name.lower())
    return name


def result(value: float | None) -> str:
    """A number that a training resulted in, as people see it."""
    return "–" if value is None else f"{value:.4f}"


def nearest(name: str, known: Iterable[str]) -> str:
    """What a refusal adds about a name that is close to a known one, or nothing."""
    known = list(known)
    close = difflib.get_close_matches(name, known, 1)
    if not close:  # A right name in the wrong group is near as well.
        close = [key for key in known if key.rpartition(".")[2] == name.rpartition(".")[2]]
    return f"; nearest valid name: {close[0]}" if close else ""

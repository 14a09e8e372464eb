"""Makes text that comes from files, people and runs fit for where it is shown."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable

_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
"""Unicode's categories of characters that are not seen, but move, hide or reorder other text."""


def printable(text: object, lines: bool = False) -> str:
    """Returns text that a terminal shows and never takes for a command.

    Two kinds of characters are written as Python writes them in a string, such as `\\x1b` and
    `\\u202e`: control characters, which can begin an escape sequence, and characters that change
    the direction of text.

    Args:
        lines: whether ends of lines and tabs stay, as in a text of several lines. In a name they
            do not stay, since the name could then look like two lines.
    """
    kept = "\n\t" if lines else ""
    return "".join(
        one if one in kept or unicodedata.category(one) not in _HIDDEN else _escaped(one)
        for one in str(text)
    )


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


def markdown(text: object) -> str:
    """Returns text that Markdown shows as it is, and not as a link, HTML, code or a table.

    Ends of lines become spaces. A mark between the letters of a word stays, such as the underscore
    in `val_loss`: Markdown does not read it as a mark there.
    """
    shown = printable(" ".join(str(text).split("\n")))
    shown = re.sub(r"[\\`*<>\[\]|~$]|(?<![^\W_])_|_(?![^\W_])|!(?=\[)", r"\\\g<0>", shown)
    shown = re.sub(r"&(?=#?\w+;)", "&amp;", shown)
    # These begin a heading, a rule or a list, if they stand at the beginning of a line.
    shown = re.sub(r"^(\s*)([#=]|[+-](?=[\s-]|$))", r"\1\\\2", shown)
    return re.sub(r"^(\s*\d+)([.)])(?=\s|$)", r"\1\\\2", shown)


def file_name(text: str, taken: set[str]) -> str:
    """Returns a name for a file, made of `text`, that is not in `taken`; adds it to `taken`.

    On some systems two names that differ only in capital letters are one file. So only one of two
    such names is given.
    """
    plain = re.sub(r"[^\w=+.-]", "-", text).strip(".")[:100] or "picture"
    name, number = plain, 1
    while name.lower() in taken:
        number += 1
        name = f"{plain}-{number}"
    taken.add(name.lower())
    return name


def result(value: float | None) -> str:
    """Returns a result of a training as people see it: with four digits, or a dash for None."""
    return "–" if value is None else f"{value:.4f}"


def said_by(error: Exception) -> str:
    """What an error says, in one line; of one that says nothing, what it is called."""
    return " ".join(str(error).split()) or type(error).__name__


def nearest(name: str, known: Iterable[str]) -> str:
    """What a refusal adds about a name that is close to a known one, or nothing."""
    known = list(known)
    close = difflib.get_close_matches(name, known, 1)
    if not close:  # A right name in the wrong group is near as well.
        close = [key for key in known if key.rpartition(".")[2] == name.rpartition(".")[2]]
    return f"; nearest valid name: {close[0]}" if close else ""

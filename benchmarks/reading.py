"""What a reader of the machinery has to carry, in numbers.

.venv/bin/python -m benchmarks.reading           # prints them and writes docs/design.md
.venv/bin/python -m benchmarks.reading FOLDER    # prints those of another checkout's src/repro
"""

from __future__ import annotations

import ast
import re
import sys
from dataclasses import astuple, dataclass
from pathlib import Path

from . import figures

MACHINERY = Path(__file__).resolve().parents[1] / "{{cookiecutter.project_slug}}" / "src" / "repro"


@dataclass(frozen=True)
class Reading:
    """Counts over all modules below a folder."""

    modules: int
    lines: int
    longest: int
    """Lines of the longest function."""
    parameters: int
    """Those of the function that takes most."""
    loose: int
    """How often a type is `Any`."""
    dictionaries: int
    """How often a type is `dict[str, Any]`."""


def read(folder: Path) -> Reading:
    """Counts what is in the Python files below a folder."""
    texts = [path.read_text(encoding="utf-8") for path in sorted(folder.rglob("*.py"))]
    functions = [
        node
        for text in texts
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef)
    ]
    whole = "".join(texts)
    return Reading(
        len(texts),
        whole.count("\n"),
        max((node.end_lineno or 0) - node.lineno + 1 for node in functions),
        max(map(taken, functions)),
        len(re.findall(r"\bAny\b", whole)),
        whole.count("dict[str, Any]"),
    )


def taken(function: ast.FunctionDef) -> int:
    """How many parameters a function takes; a method's own object is none."""
    given = function.args
    every = (*given.posonlyargs, *given.args, *given.kwonlyargs)
    return sum(one.arg not in ("self", "cls") for one in every)


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if sys.argv[1:] else MACHINERY
    found = read(folder)
    print(found)
    if folder == MACHINERY:
        row = " | ".join(f"{number:,}" for number in astuple(found))
        figures.write("reading", f"| {row} |", file="design.md")

"""Figures in the pages of docs/ are written by the commands that measure them.

The place of a figure is between two comments: `<!-- name -->figure<!-- / -->`.
"""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1] / "docs"


def write(name: str, figure: str, dry: bool = False, file: str = "guarantees.md") -> None:
    """Puts a figure into its place in a page; `dry` only makes sure that there is one.

    Raises:
        KeyError: the page has no such place, or two.
    """
    page = (DOCS / file).read_text(encoding="utf-8")
    place = re.compile(rf"(?<=<!-- {re.escape(name)} -->).*?(?=<!-- / -->)", re.DOTALL)
    if len(place.findall(page)) != 1:
        raise KeyError(name)
    if not dry:
        (DOCS / file).write_text(place.sub(lambda _: figure, page), encoding="utf-8")

"""Figures in the pages of docs/ are written by the commands that measure them.

The place of a figure is between two comments: `<!-- name -->figure<!-- / -->`.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from filelock import FileLock

DOCS = Path(__file__).resolve().parents[1] / "docs"


def write(name: str, figure: str, dry: bool = False, file: str = "guarantees.md") -> None:
    """Puts a figure into its place in a page; `dry` only makes sure that there is one.

    Raises:
        KeyError: the page has no such place, or two.
    """
    place = re.compile(rf"(?<=<!-- {re.escape(name)} -->).*?(?=<!-- / -->)", re.DOTALL)
    # Tests run side by side, and would write over each other's figures.
    with FileLock(DOCS.parent / "build" / "figures.lock"):
        page = (DOCS / file).read_text(encoding="utf-8")
        if len(place.findall(page)) != 1:
            raise KeyError(name)
        if not dry:
            (DOCS / file).write_text(place.sub(lambda _: figure, page), encoding="utf-8")


def table(head: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown, between blank lines."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n\n"


BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


def browse(page: Path, *options: str) -> str:
    """What Chromium says of a page, opened without a screen and by a user it does not know."""
    assert BROWSER is not None
    quiet = (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--no-first-run",
        "--hide-scrollbars",
    )
    with tempfile.TemporaryDirectory() as profile:
        command = [BROWSER, *quiet, f"--user-data-dir={profile}", *options, page.resolve().as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout

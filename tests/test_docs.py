"""What the pages of the template name is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from .conftest import TEMPLATE, TREE

# Where the tests are that `docs/guarantees.md` names without a star, with one and with two.
PLACES = {"": "tests/real/*.py", "*": f"{TREE}/tests/*.py", "**": "tests/machinery/*.py"}
PAGES = [*TEMPLATE.glob("*.md"), *TEMPLATE.glob("docs/*.md")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.name))
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
        if "://" not in link:
            assert (page.parent / link.partition("#")[0]).exists(), link


def test_the_tests_that_show_a_guarantee_exist() -> None:
    page = (TEMPLATE / "docs" / "guarantees.md").read_text(encoding="utf-8")
    sources = {
        stars: "".join(file.read_text(encoding="utf-8") for file in TEMPLATE.glob(files))
        for stars, files in PLACES.items()
    }
    named = set(re.findall(r"`(test_\w+)`(\**)", page))
    assert {stars for _, stars in named} == PLACES.keys()
    assert [name for name, stars in named if f"def {name}(" not in sources[stars]] == []


def test_each_door_of_the_walk_exists() -> None:
    page = (TEMPLATE / "docs" / "walk.md").read_text(encoding="utf-8")
    doors = re.findall(r"`([\w/]+\.py):([\w.]+)`", page)
    assert len(doors) > 15
    rooms = TEMPLATE / TREE / "src" / "repro"
    assert [door for door in doors if not defined(rooms / door[0], door[1])] == []


def defined(module: Path, name: str) -> bool:
    """Whether a module has this function or class, or a class in it this method."""
    body: list[ast.stmt] = ast.parse(module.read_text(encoding="utf-8")).body
    for part in name.split("."):
        found = [
            node
            for node in body
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == part
        ]
        if not found:
            return False
        body = found[0].body
    return True


def test_the_glossary_is_short() -> None:
    page = (TEMPLATE / "docs" / "glossary.md").read_text(encoding="utf-8")
    assert 10 < len(re.findall(r"^\| \*\*", page, re.MULTILINE)) <= 20

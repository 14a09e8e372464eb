"""What the pages of the template name is there."""

from __future__ import annotations

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

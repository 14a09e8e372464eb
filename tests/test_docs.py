"""What the pages of the template name is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from .conftest import TEMPLATE, TREE

PAGES = [*TEMPLATE.glob("*.md"), *TEMPLATE.glob("docs/*.md")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.name))
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
        if "://" not in link:
            assert (page.parent / link.partition("#")[0]).exists(), link


def test_the_tests_that_show_a_guarantee_exist() -> None:
    page = (TEMPLATE / "docs" / "guarantees.md").read_text(encoding="utf-8")
    files = [*TEMPLATE.glob("tests/real/*.py"), *TEMPLATE.glob(f"{TREE}/tests/*.py")]
    source = "".join(file.read_text(encoding="utf-8") for file in files)
    names = set(re.findall(r"`(test_\w+)`", page))
    assert len(names) > 5
    assert [name for name in sorted(names) if f"def {name}(" not in source] == []

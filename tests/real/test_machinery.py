"""The machinery's own tests, in `tests/machinery`: each file runs in a project with the defaults.

One of them alone: `.venv/bin/python -m pytest tests/real/test_machinery.py -k test_study`.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from .conftest import MACHINERY, Generated, environment

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def place(project: Generated, tmp_path_factory: pytest.TempPathFactory) -> Generated:
    return project.copy(tmp_path_factory.mktemp("machinery") / "project")


@pytest.mark.parametrize("file", sorted(MACHINERY.glob("test_*.py")), ids=lambda file: file.stem)
def test_the_machinery_passes(file: Path, place: Generated) -> None:
    if file.stem == "test_table":
        place = replace(place, python=environment(also=["tables"]))
    done = place.run("pytest", "-q", str(file))
    assert done.returncode == 0, done.stdout + done.stderr


SCRIPTS = [
    str(path)
    for path in sorted(Path(__file__).parent.glob("*.py"))
    if not path.name.startswith(("test_", "conftest"))
    and re.search("^from repro", path.read_text(encoding="utf-8"), re.MULTILINE)
]
"""What other tests run in a project, whose types only a project's environment knows."""


def test_what_runs_in_a_project_is_typed(place: Generated) -> None:
    assert SCRIPTS
    done = place.run("mypy", str(MACHINERY), *SCRIPTS)
    assert done.returncode == 0, done.stdout + done.stderr

"""The machinery's own tests, in `tests/machinery`: each file runs in a project with the defaults.

One of them alone: `.venv/bin/python -m pytest tests/real/test_machinery.py -k test_study`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import MACHINERY, Generated

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def place(project: Generated, tmp_path_factory: pytest.TempPathFactory) -> Generated:
    return project.copy(tmp_path_factory.mktemp("machinery") / "project")


@pytest.mark.parametrize("file", sorted(MACHINERY.glob("test_*.py")), ids=lambda file: file.stem)
def test_the_machinery_passes(file: Path, place: Generated) -> None:
    done = place.run("pytest", "-q", str(file))
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_machinerys_tests_are_typed(place: Generated) -> None:
    done = place.run("mypy", str(MACHINERY))
    assert done.returncode == 0, done.stdout + done.stderr

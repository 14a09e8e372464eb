"""The rooms of the machinery: one way down, and a test of the test."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import TEMPLATE, TREE


def lint(source: Path) -> subprocess.CompletedProcess[str]:
    """Looks at the imports of a machinery, as `make check` does."""
    command = (Path(sys.executable).with_name("lint-imports"), "--no-cache")
    env = {**os.environ, "PYTHONPATH": str(source)}
    return subprocess.run(command, cwd=TEMPLATE, env=env, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("file", "line", "told"),
    [
        ("basics/files.py", "", "2 kept, 0 broken"),
        ("basics/files.py", "from repro.run import state\n", "repro.basics is not allowed"),
        ("run/loop.py", "def f():\n    from repro.study import table\n", "repro.run is not"),
        ("backends/jax.py", "from repro.backends import torch\n", "1 kept, 1 broken"),
        ("cellar.py", "", "repro.cellar"),
    ],
    ids=["as it is", "upwards", "upwards, later", "beside", "no room"],
)
def test_no_import_runs_upwards(file: str, line: str, told: str, tmp_path: Path) -> None:
    shutil.copytree(TEMPLATE / TREE / "src" / "repro", tmp_path / "repro")
    with (tmp_path / "repro" / file).open("a", encoding="utf-8") as changed:
        changed.write(line)
    done = lint(tmp_path)
    assert told in done.stdout, done.stdout
    assert (done.returncode == 0) is (not line and file != "cellar.py")

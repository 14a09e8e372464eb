"""The rooms of the machinery: one way down, and a test of the test."""

from __future__ import annotations

import os
import re
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


SOURCE = TEMPLATE / TREE / "src"
# Imports in Python, and those in text: code that another process is given, notebooks, pages.
IMPORTS = re.compile(r"\bfrom (repro(?:\.\w+)*) import ((?:\w+(?: as \w+)?, )*\w+)")
MODULES = re.compile(r"""-m",? *"?(repro(?:\.\w+)+)|"(repro(?:\.\w+)+)"|`(repro(?:\.\w+)+)`""")


def there(module: str, name: str = "") -> bool:
    """Whether the machinery has a module and, if asked for, a name in it."""
    file = SOURCE.joinpath(*module.split("."))
    found = [path for path in (file.with_suffix(".py"), file / "__init__.py") if path.is_file()]
    if not found or not name:
        return bool(found)
    text = found[0].read_text(encoding="utf-8")
    return there(f"{module}.{name}") or bool(re.search(rf"\b{name}\b", text))


def test_what_is_imported_is_there() -> None:
    """Where a module moves, names of it in text stay behind, and no tool tells."""
    texts = [
        *SOURCE.rglob("*.py"),
        *TEMPLATE.glob("tests/**/*.py"),
        *TEMPLATE.glob("benchmarks/**/*.py"),
        *TEMPLATE.glob("docs/*.md"),
        *(TEMPLATE / TREE / "tests").glob("*.py"),
        *(TEMPLATE / TREE / "notebooks").iterdir(),
    ]
    seen, missing = 0, []
    for file in texts:
        if file == Path(__file__):
            continue
        text = file.read_text(encoding="utf-8")
        wanted = [
            (module, name.partition(" as ")[0].strip())
            for module, names in IMPORTS.findall(text)
            for name in names.split(",")
        ]
        for named in map(max, MODULES.findall(text)):  # A module, or something in one.
            module, _, name = named.rpartition(".")
            wanted.append((named, "") if there(named) else (module, name))
        seen += len(wanted)
        missing += [(file.name, *one) for one in wanted if not there(*one)]
    assert seen > 300
    assert missing == [("test_faults.py", "repro", "x")], "that one is meant to be missing"

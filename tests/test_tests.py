"""The tests tell the truth: each file of tests is run, and what `make test` leaves out is named."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import TEMPLATE, Bake

# Collects the real tests, and prints of each test function which of its cases are left out.
COLLECT = """
import json, sys
import pytest

class Cases:
    def pytest_collection_modifyitems(self, items):
        self.found = {}
        for item in items:
            reasons = [mark.kwargs["reason"] for mark in item.iter_markers("skipif")]
            out = any(reason.startswith("make proof tries it") for reason in reasons)
            case = item.callspec.id if hasattr(item, "callspec") else ""
            name = f"{item.path.name}::{item.originalname}"
            self.found.setdefault(name, {})[case] = out

cases = Cases()
options = ["--collect-only", "-qq", "-p", "no:cacheprovider", "tests/real"]
status = pytest.main(options, plugins=[cases])
print(json.dumps(cases.found))
sys.exit(status)
"""


@pytest.fixture(scope="module")
def cases() -> dict[str, dict[str, bool]]:
    """Of each real test its cases, and whether `make test` leaves them out."""
    env = {name: text for name, text in os.environ.items() if name != "REPRO_FULL"}
    command = [sys.executable, "-c", COLLECT]
    done = subprocess.run(command, cwd=TEMPLATE, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, dict[str, bool]] = json.loads(done.stdout.splitlines()[-1])
    return found


def functions(file: Path) -> Iterator[ast.FunctionDef]:
    """The functions of a file, those in classes and in other functions too."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef):
            yield node


def with_tests(folder: Path) -> set[Path]:
    """The files below a folder that have tests, whatever the files are called."""
    return {
        file
        for file in folder.rglob("*.py")
        if any(function.name.startswith("test_") for function in functions(file))
    }


def called(function: ast.FunctionDef) -> set[str]:
    """The names of what a function calls."""
    calls = (node.func for node in ast.walk(function) if isinstance(node, ast.Call))
    return {name.id for name in calls if isinstance(name, ast.Name)}


def test_each_file_of_the_machinerys_tests_is_run(cases: dict[str, dict[str, bool]]) -> None:
    run = cases["test_machinery.py::test_the_machinery_passes"]
    files = with_tests(TEMPLATE / "tests" / "machinery")
    assert files and {path.name for path in files} == {f"{name}.py" for name in run}
    assert not any(run.values())


def test_each_file_of_a_projects_tests_is_run(
    cases: dict[str, dict[str, bool]], bake: Bake
) -> None:
    """The test named here runs `make test`, and looks in the log for each file."""
    assert cases["test_gate.py::test_lint_and_every_test_are_green"] == {"": False}
    tests = bake().project.path / "tests"
    assert with_tests(tests) == {*tests.glob("test_*.py")} == {*tests.rglob("*.py")}


def test_each_file_of_the_templates_tests_is_collected(cases: dict[str, dict[str, bool]]) -> None:
    tests = TEMPLATE / "tests"
    collected = {tests / "real" / name.partition("::")[0] for name in cases}
    assert with_tests(tests / "real") == collected
    others = {file for file in with_tests(tests) if file.parent.name not in ("real", "machinery")}
    assert others == {*tests.glob("test_*.py")}


def test_the_readme_names_what_make_test_leaves_out(cases: dict[str, dict[str, bool]]) -> None:
    left_out = {}
    for name, out in cases.items():
        if any(out.values()):
            ran = len(out) - sum(out.values())
            left_out[name.partition("::")[2]] = f" ({ran} of {len(out)})" if ran else ""
    for file in (TEMPLATE / "tests" / "real").glob("test_*.py"):
        for function in functions(file):
            if "fewer" in called(function):
                left_out.setdefault(function.name, " (fewer)")
    page = (TEMPLATE / "README.md").read_text(encoding="utf-8")
    section = page.partition("## What `make test` leaves out\n")[2].partition("\n## ")[0]
    named = dict(re.findall(r"`(test_\w+)`((?:\s\([\w ]+\))?)", section))
    assert {name: more.replace("\n", " ") for name, more in named.items()} == left_out


def test_what_is_left_out_goes_through_what_is_looked_at() -> None:
    """Else the list above would not have it: only a test may ask for fewer, and none for FULL."""
    for file in (TEMPLATE / "tests" / "real").glob("test_*.py"):
        text = file.read_text(encoding="utf-8")
        assert not re.search(r"\bFULL\b|REPRO_FULL|\"make proof", text), file.name
        asks = [function.name for function in functions(file) if "fewer" in called(function)]
        assert all(name.startswith("test_") for name in asks), asks
        assert text.count("fewer(") == 0 or asks, f"{file.name}: fewer outside of a test"

"""What is not Python, in the template and in the projects, is clean for its linters."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from .conftest import TEMPLATE, TREE, Bake

FORGES = ("github", "gitlab", "none")
# Of check-jsonschema, which brings them along.
SCHEMAS = {
    ".github/workflows/*.yml": "vendor.github-workflows",
    ".github/dependabot.yml": "vendor.dependabot",
    ".gitlab-ci.yml": "vendor.gitlab-ci",
    "compose.yaml": "vendor.compose-spec",
}


def clean(program: str, *arguments: str | Path, stdin: str | None = None) -> None:
    """Runs a linter, which must find nothing."""
    command = [Path(sys.executable).with_name(program), *arguments]
    done = subprocess.run(command, input=stdin, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(params=["template", *FORGES])
def tree(request: pytest.FixtureRequest, bake: Bake) -> Path:
    return TEMPLATE if request.param == "template" else bake(ci=request.param).project.path


def test_workflows_ask_for_little_and_pin_all(tree: Path) -> None:
    if (tree / ".github").exists():
        clean("zizmor", "--offline", "--quiet", tree / ".github")
    for path in (tree / ".github").rglob("*.yml"):
        for action in re.findall(r"uses: (.*)", path.read_text(encoding="utf-8")):
            assert re.fullmatch(r"[\w/-]+@[0-9a-f]{40}  # v\d+\.\d+\.\d+", action), action


def test_an_action_has_one_version() -> None:
    pins: dict[str, set[str]] = {}
    for path in (*TEMPLATE.glob(".github/workflows/*"), *(TEMPLATE / TREE).glob(".github/*/*")):
        for action, pin in re.findall(r"uses: (.*)@(.*)", path.read_text(encoding="utf-8")):
            pins.setdefault(action, set()).add(pin)
    assert "actions/checkout" in pins
    assert {action: found for action, found in pins.items() if len(found) > 1} == {}


def test_files_follow_their_schemas(tree: Path) -> None:
    for pattern, schema in SCHEMAS.items():
        for path in tree.glob(pattern):
            clean("check-jsonschema", "--builtin-schema", schema, path)


def test_shell_is_clean(tree: Path) -> None:
    for path in (*tree.glob(".ci/run"), *(tree / "tests").rglob("*.sh")):
        clean("shellcheck", path)
    for script in scripts(tree):
        clean("shellcheck", "--shell=bash", "-", stdin=script)


def scripts(tree: Path) -> Iterator[str]:
    """What the steps of the workflows run; expressions are not there, but in `env`."""
    for path in (tree / ".github" / "workflows").glob("*.yml"):
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        for job in content["jobs"].values():
            for step in job["steps"]:
                if "run" in step:
                    assert "${{" not in step["run"], "a value in a shell's text is code"
                    yield step["run"]


@pytest.mark.skipif(sys.platform == "win32", reason="PyPI has no hadolint for Windows")
@pytest.mark.parametrize("backend", ["tensorflow", "jax", "torch"])
def test_dockerfiles_are_clean(backend: str, bake: Bake) -> None:
    clean("hadolint", bake(backend=backend).project.path / "Dockerfile")


@pytest.mark.parametrize("ci", FORGES)
def test_the_forge_is_the_one_asked_for(ci: str, bake: Bake) -> None:
    project = bake(ci=ci).project
    found = {name for name in FORGES if any(f".{name}" in file for file in project.files())}
    assert found == {ci} - {"none"}
    assert (project.path / ".github").exists() == (ci == "github"), "an empty folder is left"

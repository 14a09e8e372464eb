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


# What would run code that came with a package, with the checkout or with what was built.
RUNS_CODE = re.compile(
    r"(?<![\w./-])(?:pip|uv|make|python[\d.]*|repro|npm|npx|sh|bash|source|eval)\b"
)
HARMLESS = {"actions/checkout", "actions/download-artifact"}


@pytest.mark.parametrize("of", ["template", "project"])
def test_what_runs_newer_packages_has_no_right_to_write(of: str, bake: Bake) -> None:
    """And what has the right runs none of them: neither their code nor a hook left by them."""
    root = TEMPLATE if of == "template" else bake(ci="github").project.path
    text = (root / ".github" / "workflows" / "locks.yml").read_text(encoding="utf-8")
    workflow = yaml.safe_load(text)
    assert workflow["permissions"] == {} and "env" not in workflow
    writes, runs_code = set(), set()
    for name, job in workflow["jobs"].items():
        if "write" in str(job["permissions"]):
            writes.add(name)
        scripts = [step["run"] for step in job["steps"] if "run" in step]
        actions = {step["uses"].partition("@")[0] for step in job["steps"] if "uses" in step}
        if any(map(RUNS_CODE.search, scripts)):
            runs_code.add(name)
        # No job leaves a token where a later step finds it.
        for step in job["steps"]:
            if step.get("uses", "").startswith("actions/checkout@"):
                assert step["with"]["persist-credentials"] is False
        with_token = [step for step in job["steps"] if re.search("(?i)token|secrets", str(step))]
        assert "env" not in job
        if name in writes:
            assert actions <= HARMLESS
            assert with_token == job["steps"][-1:], "the token is there for the last step alone"
        else:
            assert job["permissions"] == {"contents": "read"}
            assert with_token == []
        for script in scripts:
            for line in script.replace("\\\n", " ").splitlines():
                if re.search(r"\bgit\b.*\b(?:commit|push)\b", line):
                    assert name in writes and " -c core.hooksPath=/dev/null " in line
    assert writes == {"propose"} and runs_code == {"locks"}


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

"""Projects generated from the template: `bake` in this process, `generate` by a program."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import hypothesis
import pytest
from click.testing import CliRunner
from cookiecutter.cli import main

TEMPLATE = Path(__file__).parents[1]
TREE = "{{cookiecutter.project_slug}}"

# They run in a generated project: see `real/test_machinery.py`.
collect_ignore = ["machinery"]

# The same examples in every run, and no time limit that a busy machine breaks.
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None)
hypothesis.settings.load_profile("repeatable")


@dataclass(frozen=True)
class Project:
    """A generated project."""

    path: Path

    def files(self) -> list[str]:
        """All files but git's own, sorted."""
        found = (p.relative_to(self.path) for p in self.path.rglob("*") if p.is_file())
        return sorted(p.as_posix() for p in found if p.parts[0] != ".git")

    def read(self, file: str) -> str:
        return (self.path / file).read_text(encoding="utf-8")

    def run(self, *command: str) -> str:
        """Runs a command in the project, and returns what it prints."""
        done = subprocess.run(command, cwd=self.path, capture_output=True, text=True, check=True)
        return done.stdout.strip()


@dataclass(frozen=True)
class Outcome:
    """What became of one generation."""

    status: int
    output: str
    projects: list[Project]

    @property
    def project(self) -> Project:
        assert self.status == 0, self.output
        (project,) = self.projects
        return project


class Bake(Protocol):
    """Generates a project with the defaults, but for these answers, in this process: quickly."""

    def __call__(self, **answers: object) -> Outcome: ...


class Generate(Protocol):
    """Runs a program that generates a project, as a person does."""

    def __call__(
        self, program: str, *arguments: str, output_option: str = ..., stdin: str = ...
    ) -> Outcome: ...


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a clone of the template has, without the caches that work in it leaves behind."""
    clone = tmp_path_factory.mktemp("template") / "repro-dl"
    caches = shutil.ignore_patterns("__pycache__", ".*_cache", "*.egg-info", "runs", "build")
    clone.mkdir()
    for name in ("cookiecutter.json", "template_checks.py"):
        shutil.copy(TEMPLATE / name, clone)
    for name in ("hooks", TREE):
        shutil.copytree(TEMPLATE / name, clone / name, ignore=caches)
    return clone


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home directory: nobody's settings, replay files or name and e-mail for git."""
    path = tmp_path / "home"
    path.mkdir()
    for name in [name for name in os.environ if name.startswith(("GIT_", "COOKIECUTTER_"))]:
        monkeypatch.delenv(name)
    for name in ("HOME", "USERPROFILE", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(path))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    return path


@pytest.fixture
def generate(tmp_path: Path, home: Path) -> Generate:
    def run(
        program: str, *arguments: str, output_option: str = "--output-dir", stdin: str = ""
    ) -> Outcome:
        output = tmp_path / f"generated-{len(list(tmp_path.glob('generated-*')))}"
        output.mkdir()
        done = subprocess.run(
            [sys.executable, "-m", program, *arguments, output_option, str(output)],
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=tmp_path,
            encoding="utf-8",
        )
        projects = [Project(path) for path in sorted(output.iterdir())]
        return Outcome(done.returncode, done.stdout, projects)

    return run


@pytest.fixture
def settings(home: Path) -> Path:
    """Settings of cookiecutter, which reads where the home directory is when it is imported."""
    file = home / "settings.yaml"  # JSON is YAML.
    file.write_text(json.dumps({"replay_dir": str(home), "default_context": {}}), encoding="utf-8")
    return file


@pytest.fixture
def bake(template: Path, tmp_path: Path, settings: Path) -> Bake:
    def run(**answers: object) -> Outcome:
        output = tmp_path / f"baked-{len(list(tmp_path.glob('baked-*')))}"
        output.mkdir()
        given = (f"{name}={value}" for name, value in answers.items())
        options = ("--no-input", "--config-file", str(settings), "--output-dir", str(output))
        done = CliRunner().invoke(main, [*options, str(template), *given])
        projects = [Project(path) for path in sorted(output.iterdir())]
        return Outcome(done.exit_code, done.output, projects)

    return run

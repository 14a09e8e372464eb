"""What a generated project consists of."""

from __future__ import annotations

import ast
import re
import time
import tomllib

import pytest

from .conftest import Bake

# Every file of a project with the default answers, sorted. Whoever adds one adds it here.
FILES = [
    ".gitattributes",
    ".gitignore",
    ".pre-commit-config.yaml",
    "LICENSE",
    "Makefile",
    "README.md",
    "notebooks/story.ipynb",
    "params.yaml",
    "presets/mnist_dense.yaml",
    "presets/mnist_lenet5.yaml",
    "presets/mnist_lenet5_early_stopping.yaml",
    "pyproject.toml",
    "requirements/cpu.in",
    "requirements/cpu.txt",
    "requirements/cuda.in",
    "requirements/cuda.txt",
    "requirements/dev.in",
    "requirements/dev.txt",
    "src/repro/__init__.py",
    "src/repro/__main__.py",
    "src/repro/compare.py",
    "src/repro/determinism.py",
    "src/repro/doctor.py",
    "src/repro/gate.py",
    "src/repro/launcher.py",
    "src/repro/ledger.py",
    "src/repro/loop.py",
    "src/repro/parameters.py",
    "src/repro/pictures.py",
    "src/repro/portable.py",
    "src/repro/recipe.py",
    "src/repro/report.html",
    "src/repro/report.md",
    "src/repro/report.py",
    "src/repro/run.py",
    "src/repro/search.py",
    "src/repro/splits.py",
    "src/repro/state.py",
    "src/repro/study.py",
    "src/repro/surroundings.py",
    "src/repro/workers.py",
    "src/reproducible_digits/__init__.py",
    "src/reproducible_digits/data.py",
    "src/reproducible_digits/models/dense.py",
    "src/reproducible_digits/models/lenet5.py",
    "tests/test_locks.py",
    "tests/test_machinery.py",
    "tests/test_notebook.py",
    "tests/test_project.py",
    "tests/test_splits.py",
    "tests/test_study.py",
]

# Each case states only what differs from the defaults, and what then differs in the project.
CASES: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "defaults": ({}, {"LICENSE": "MIT License"}),
    "BSD": ({"license": "BSD-3-Clause"}, {"LICENSE": "BSD 3-Clause License"}),
    "Apache": ({"license": "Apache-2.0"}, {"LICENSE": "Apache License"}),
    "not open": ({"license": "Not open source"}, {}),
    "license in short": ({"license": "bsd"}, {"LICENSE": "BSD 3-Clause License"}),
    "no git": ({"git_init": "no"}, {"LICENSE": "MIT License"}),
    "other names": (
        {"project_name": "Étude n° 3", "project_slug": "a-b", "author_name": "O'Brien 🙂"},
        {"LICENSE": "O'Brien 🙂"},
    ),
}
SPDX = {"bsd": "BSD-3-Clause", "Not open source": "LicenseRef-Proprietary"}


@pytest.mark.parametrize(("answers", "contents"), CASES.values(), ids=CASES)
def test_answers_arrive(bake: Bake, answers: dict[str, str], contents: dict[str, str]) -> None:
    project = bake(**answers).project
    slug = answers.get("project_slug", "reproducible-digits")
    package = slug.replace("-", "_")
    absent = {"LICENSE"} - set(contents)
    expected = sorted(f.replace("reproducible_digits", package) for f in {*FILES} - absent)
    assert project.path.name == slug
    assert project.files() == expected
    for file, text in contents.items():
        assert text in project.read(file)
    toml = tomllib.loads(project.read("pyproject.toml"))
    license = answers.get("license", "MIT")
    assert toml["project"]["name"] == slug
    assert toml["project"]["description"] == answers.get("project_name", "Reproducible digits")
    assert toml["project"]["authors"] == [{"name": answers.get("author_name", "Your name")}]
    assert toml["project"]["license"] == SPDX.get(license, license)
    assert toml["tool"]["repro"]["package"] == package
    assert (project.path / ".git").is_dir() == (answers.get("git_init") != "no")


def test_the_files_are_few() -> None:
    # 35 for a first whole project; `portable`, `splits`, `study`, `search`, `workers`, `report` and
    # `pictures` are ideas, and so files, of their own, with two more tests, two templates of the
    # report, three presets, and the notebook with its test.
    assert len(FILES) <= 51


def test_nothing_of_the_template_is_left(bake: Bake) -> None:
    project = bake().project
    for file in project.files():
        assert not re.search(r"\{\{|\{%|cookiecutter", file)
        text = project.read(file)
        assert "cookiecutter" not in text.lower(), file
        if file.endswith(".py"):
            ast.parse(text)  # Doubled braces belong to its f-strings.
        elif not file.startswith((".github/", "src/repro/report.")):  # Templates of their own.
            assert not re.search(r"\{\{|\{%|\{#", text), file


def test_generating_takes_less_than_a_second(bake: Bake) -> None:
    def seconds() -> float:
        start = time.perf_counter()
        assert bake().project
        return time.perf_counter() - start

    # About 0.2 s on an idle machine; the best of three does not measure its neighbours.
    assert min(seconds() for _ in range(3)) < 1

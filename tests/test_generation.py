"""What a generated project consists of."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
from packaging.version import Version

from template_checks import STARTERS

from .conftest import TEMPLATE, TREE, Bake

# Every file of a project with the default answers, sorted. Whoever adds one adds it here.
FILES = [
    ".devcontainer/cpu/devcontainer.json",
    ".devcontainer/cuda/devcontainer.json",
    ".dockerignore",
    ".gitattributes",
    ".github/dependabot.yml",
    ".github/workflows/locks.yml",
    ".github/workflows/reproducibility.yml",
    ".github/workflows/test.yml",
    ".gitignore",
    ".pre-commit-config.yaml",
    ".run/tests.run.xml",
    ".run/train.run.xml",
    ".run/verify.run.xml",
    ".vscode/launch.json",
    ".vscode/tasks.json",
    "Dockerfile",
    "LICENSE",
    "Makefile",
    "README.md",
    "compose.yaml",
    "data.lock",
    "notebooks/story.ipynb",
    "params.yaml",
    "presets/mnist_dense.yaml",
    "presets/mnist_lenet5.yaml",
    "presets/mnist_lenet5_early_stopping.yaml",
    "presets/regression.yaml",
    "pyproject.toml",
    "requirements/cpu.in",
    "requirements/cpu.txt",
    "requirements/cuda.in",
    "requirements/cuda.txt",
    "requirements/dev.in",
    "requirements/dev.txt",
    "requirements/keras.json",
    "requirements/overrides.txt",
    "results.lock",
    "src/repro/__init__.py",
    "src/repro/__main__.py",
    "src/repro/api.py",
    "src/repro/backends/__init__.py",
    "src/repro/backends/convolutions.py",
    "src/repro/backends/jax.py",
    "src/repro/backends/portable.py",
    "src/repro/backends/tensorflow.py",
    "src/repro/backends/torch.py",
    "src/repro/basics/__init__.py",
    "src/repro/basics/digests.py",
    "src/repro/basics/errors.py",
    "src/repro/basics/files.py",
    "src/repro/basics/locks.py",
    "src/repro/basics/npz.py",
    "src/repro/basics/seeds.py",
    "src/repro/basics/text.py",
    "src/repro/cli/__init__.py",
    "src/repro/cli/after.py",
    "src/repro/cli/arguments.py",
    "src/repro/cli/commands.py",
    "src/repro/cli/console.py",
    "src/repro/cli/guard.py",
    "src/repro/compare/__init__.py",
    "src/repro/compare/cause.py",
    "src/repro/compare/comparison.py",
    "src/repro/compare/explanation.py",
    "src/repro/compare/gate.py",
    "src/repro/compare/gate_verdict.py",
    "src/repro/compare/named_cause.py",
    "src/repro/compare/results_lock.py",
    "src/repro/compare/review.py",
    "src/repro/compare/why.py",
    "src/repro/data/__init__.py",
    "src/repro/data/arrow.py",
    "src/repro/data/conversion.py",
    "src/repro/data/datafiles.py",
    "src/repro/data/datalock.py",
    "src/repro/data/images.py",
    "src/repro/data/listing.py",
    "src/repro/data/stored.py",
    "src/repro/data/dataset.py",
    "src/repro/data/feed.py",
    "src/repro/data/preprocessing.py",
    "src/repro/data/samples.py",
    "src/repro/data/sources.py",
    "src/repro/data/splits.py",
    "src/repro/data/structure.py",
    "src/repro/data/table.py",
    "src/repro/environment/__init__.py",
    "src/repro/environment/changes.py",
    "src/repro/environment/determinism.py",
    "src/repro/environment/doctor.py",
    "src/repro/environment/image.py",
    "src/repro/environment/later.py",
    "src/repro/environment/machine.py",
    "src/repro/environment/provenance.py",
    "src/repro/environment/reads.py",
    "src/repro/environment/surroundings.py",
    "src/repro/environment/variables.py",
    "src/repro/recipe/__init__.py",
    "src/repro/recipe/catalogue.py",
    "src/repro/recipe/literals.py",
    "src/repro/recipe/objects.py",
    "src/repro/recipe/packages.py",
    "src/repro/recipe/parameters.py",
    "src/repro/recipe/presets.py",
    "src/repro/recipe/project.py",
    "src/repro/recipe/reading.py",
    "src/repro/recipe/recipe.py",
    "src/repro/recipe/registry.py",
    "src/repro/recipe/signatures.py",
    "src/repro/report/__init__.py",
    "src/repro/report/pages.py",
    "src/repro/report/pictures.py",
    "src/repro/report/report.html",
    "src/repro/report/report.md",
    "src/repro/run/__init__.py",
    "src/repro/run/__main__.py",
    "src/repro/run/after.py",
    "src/repro/run/boundary.py",
    "src/repro/run/callbacks.py",
    "src/repro/run/compiling.py",
    "src/repro/run/ending.py",
    "src/repro/run/events.py",
    "src/repro/run/exporting.py",
    "src/repro/run/failure.py",
    "src/repro/run/faults.py",
    "src/repro/run/judging.py",
    "src/repro/run/launcher.py",
    "src/repro/run/ledger.py",
    "src/repro/run/loop.py",
    "src/repro/run/made.py",
    "src/repro/run/manifest.py",
    "src/repro/run/needs.py",
    "src/repro/run/outside.py",
    "src/repro/run/preparing.py",
    "src/repro/run/probing.py",
    "src/repro/run/process.py",
    "src/repro/run/recipes.py",
    "src/repro/run/runs.py",
    "src/repro/run/state.py",
    "src/repro/run/steps.py",
    "src/repro/run/targets.py",
    "src/repro/run/use.py",
    "src/repro/run/using.py",
    "src/repro/script/__init__.py",
    "src/repro/script/asked.py",
    "src/repro/script/comparison.py",
    "src/repro/script/folder.py",
    "src/repro/script/gate.py",
    "src/repro/script/guarding.py",
    "src/repro/script/importing.py",
    "src/repro/script/outputs.py",
    "src/repro/script/printed.py",
    "src/repro/script/process.py",
    "src/repro/script/running.py",
    "src/repro/script/settings.py",
    "src/repro/script/start.py",
    "src/repro/script/verdict.py",
    "src/repro/script/watch_keras.py",
    "src/repro/script/watch_torch.py",
    "src/repro/script/watching.py",
    "src/repro/study/__init__.py",
    "src/repro/study/choice.py",
    "src/repro/study/cleaning.py",
    "src/repro/study/keys.py",
    "src/repro/study/planning.py",
    "src/repro/study/pool.py",
    "src/repro/study/results.py",
    "src/repro/study/search.py",
    "src/repro/study/slots.py",
    "src/repro/study/study.py",
    "src/repro/study/table.py",
    "src/repro/study/trials.py",
    "src/repro/study/workers.py",
    "src/reproducible_digits/__init__.py",
    "src/reproducible_digits/data.py",
    "src/reproducible_digits/models/dense.py",
    "src/reproducible_digits/models/lenet5.py",
    "tests/test_locks.py",
    "tests/test_notebook.py",
    "tests/test_project.py",
]

PACKAGE = "reproducible_digits"
# The files of the template that are in a project only where a condition in their name holds.
CONDITIONAL = {
    path.relative_to(TEMPLATE / TREE).as_posix(): path
    for path in (TEMPLATE / TREE).rglob("{% if *")
    if not path.name.endswith("LICENSE{% endif %}")
}
CONDITION = re.compile(
    r"\{% if (?:cookiecutter.__(?:backend|ci) == )?'(\w+)'.*? %\}(.+)\{% endif %\}"
)


def conditional(*answers: str) -> dict[str, Path]:
    """The files that come with a backend, a forge or a model, by their names in the project."""
    found = {}
    for name, path in CONDITIONAL.items():
        match = CONDITION.search(name)
        assert match, f"{name} has another condition than the others"
        if match[1] in answers:
            folder = name[: match.start()].replace("{{cookiecutter.__package_name}}", PACKAGE)
            found[folder + match[2]] = path
    return found


# Each case states only what differs from the defaults, and what then differs in the project.
CASES: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "defaults": ({}, {"LICENSE": "MIT License"}),
    "BSD": ({"license": "BSD-3-Clause"}, {"LICENSE": "BSD 3-Clause License"}),
    "Apache": ({"license": "Apache-2.0"}, {"LICENSE": "Apache License"}),
    "not open": ({"license": "Not open source"}, {}),
    "license in short": ({"license": "bsd"}, {"LICENSE": "BSD 3-Clause License"}),
    "JAX": ({"backend": "jax"}, {"LICENSE": "", "requirements/cpu.in": "\njax>=0.10\n"}),
    "PyTorch": ({"backend": "torch"}, {"LICENSE": "", "requirements/cpu.in": "\ntorch==2.13.0+"}),
    "GitLab": ({"ci": "gitlab"}, {"LICENSE": "", ".gitlab-ci.yml": "make gate"}),
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
    backend = answers.get("backend", "tensorflow")
    expected = {*FILES} - conditional("tensorflow", "github").keys()
    expected |= conditional(backend, answers.get("ci", "github")).keys()
    expected -= {"LICENSE"} - contents.keys()
    assert project.path.name == slug
    assert project.files() == sorted(f.replace(PACKAGE, package) for f in expected)
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


@pytest.mark.parametrize("backend", ["tensorflow", "jax", "torch"])
@pytest.mark.parametrize("starter", ["dense", "lstm", "dense, lenet5", "all"])
def test_a_project_has_the_files_of_its_answers(bake: Bake, backend: str, starter: str) -> None:
    models = STARTERS if starter == "all" else {"dense", *starter.split(", ")}
    project = bake(backend=backend, starter=starter).project
    found = conditional(backend, "github", *models)
    always = {*FILES} - conditional("tensorflow", "github", *STARTERS).keys()
    assert project.files() == sorted(always | found.keys())
    for name, path in found.items():  # Whatever stands in them is no template.
        assert project.read(name) == path.read_text(encoding="utf-8"), name


def test_the_models_to_start_with_are_there() -> None:
    models = {CONDITION.sub(r"\1", name) for name in CONDITIONAL if "/models/" in name}
    assert {name.rpartition("/")[2] for name in models} == {*STARTERS} - {"dense"}


def test_a_project_with_all_models_is_clean(bake: Bake) -> None:
    """ruff does not see files in the template whose names are conditions."""
    project = bake(starter="all").project
    for command in (("check",), ("format", "--check")):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--no-cache"],
            cwd=project.path,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("backend", ["tensorflow", "jax", "torch"])
def test_the_locks_are_what_is_asked_for(bake: Bake, backend: str) -> None:
    """The test of the project itself, which reads files alone."""
    project = bake(backend=backend).project
    project.run(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests/test_locks.py")


@pytest.mark.parametrize("managed", [False, True], ids=["as it is", "without the setting"])
def test_uv_sync_takes_no_package_away(managed: bool, bake: Bake) -> None:
    """It would bring what `dependencies` name, which is nothing: the locks say what is wanted."""
    project = bake().project
    uv = (sys.executable, "-m", "uv")
    project.run(*uv, "venv", "--quiet", "--offline", "--python", sys.executable)
    (there,) = project.path.glob(".venv/[lL]ib/**/site-packages")
    # A package as an installer leaves it.
    information = there / "kept-1.0.dist-info"
    information.mkdir()
    (there / "kept.py").touch()
    contents = {
        "METADATA": "Metadata-Version: 2.1\nName: kept\nVersion: 1.0\n",
        "INSTALLER": "pip\n",
        "RECORD": "kept.py,,\n"
        + "".join(f"kept-1.0.dist-info/{name},,\n" for name in ("METADATA", "INSTALLER", "RECORD")),
    }
    for name, text in contents.items():
        (information / name).write_text(text, encoding="utf-8")
    if managed:  # What the test is worth: then the package is gone.
        file = project.path / "pyproject.toml"
        text = file.read_text(encoding="utf-8")
        assert text.count("managed = false") == 1
        file.write_text(text.replace("managed = false", "managed = true"), encoding="utf-8")
    done = subprocess.run(
        [*uv, "sync", "--offline", "--no-install-project"],
        cwd=project.path,
        env={name: text for name, text in os.environ.items() if name != "VIRTUAL_ENV"},
        capture_output=True,
        text=True,
    )
    assert (there / "kept.py").exists() is not managed, done.stderr
    if not managed:
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert "unmanaged" in done.stderr


def test_what_backends_share_has_one_version() -> None:
    """And what the machinery's tests need has it as well: they run in a project of any backend."""
    versions: dict[str, set[str]] = {}
    tests = [TEMPLATE / "requirements" / f"{name}.txt" for name in ("machinery", "tables")]
    for path in (*TEMPLATE.glob(f"{TREE}/requirements/*.txt*"), *tests):
        pins = re.findall(r"^([\w.-]+)==([^\s;]+)", path.read_text(encoding="utf-8"), re.MULTILINE)
        for package, version in pins:
            versions.setdefault(package, set()).add(Version(version).public)
    assert versions["keras"]
    assert {package: found for package, found in versions.items() if len(found) > 1} == {}


def test_what_backends_share_is_asked_for_by_all() -> None:
    asked = {
        frozenset(
            line
            for line in path.read_text(encoding="utf-8").splitlines()
            if not line.startswith(("#", "-", "tensorflow", "jax", "torch"))
        )
        for path in TEMPLATE.glob(f"{TREE}/requirements/*c*.in*")
    }
    assert len(asked) == 1


def test_the_files_are_few() -> None:
    # 12 are the owner's: parameters, presets, data, models, the notebook, and what results.lock and
    # data.lock record. 3 test these. 8 lock the packages, 4 are the forge's, 10 are for editors and
    # containers, and 7 are what any project has. The machinery has 136: one for each idea, in
    # eleven rooms. Its tests are not in a project. Whoever adds a file adds it to its kind here.
    assert len(FILES) <= 12 + 3 + 8 + 4 + 10 + 7 + 136


@pytest.mark.parametrize(
    "answers", [{}, {"backend": "jax"}, {"backend": "torch", "starter": "all"}], ids=str
)
def test_nothing_of_the_template_is_left(bake: Bake, answers: dict[str, str]) -> None:
    project = bake(**answers).project
    for file in project.files():
        assert not re.search(r"\{\{|\{%|cookiecutter", file)
        text = project.read(file)
        assert "cookiecutter" not in text.lower(), file
        if file.endswith(".py"):
            ast.parse(text)  # Doubled braces belong to its f-strings.
        elif not file.startswith((".github/", "src/repro/report/report.")):  # Templates too.
            assert not re.search(r"\{\{|\{%|\{#", text), file


def test_generating_takes_less_than_a_second(bake: Bake) -> None:
    def seconds() -> float:
        start = time.perf_counter()
        assert bake().project
        return time.perf_counter() - start

    # About 0.2 s on an idle machine; the best of three does not measure its neighbours.
    assert min(seconds() for _ in range(3)) < 1

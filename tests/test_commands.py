"""Each way to call the template, and the first git commit."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import Bake, Generate, Outcome


def test_key_value_and_output(template: Path, generate: Generate) -> None:
    options = ("--no-input", str(template), "project_name=Étude n° 3", "license=bsd")
    project = generate("cookiecutter", *options, output_option="-o").project
    assert project.path.name == "etude-ndeg-3"
    assert "BSD 3-Clause" in project.read("LICENSE")


def test_a_refusal_is_one_line(template: Path, generate: Generate) -> None:
    outcome = generate("cookiecutter", "--no-input", str(template), "project_name={{ 1 / 0 }}")
    assert (outcome.status, outcome.projects) == (1, [])
    assert outcome.output == "Error: project_name '{{ 1 / 0 }}' contains '{'; '1 0' would do\n"


def test_questions_are_asked_one_after_the_other(template: Path, generate: Generate) -> None:
    typed = "My study\n\nO'Brien\nApache\nj\n\n\nn\n"
    outcome = generate("cookiecutter", str(template), stdin=typed)
    project = outcome.project
    assert project.path.name == "my-study"
    assert "Apache License" in project.read("LICENSE")
    assert project.read("requirements/cpu.in").count("\njax") == 1
    assert [f"[{n}/8]" in outcome.output for n in range(1, 10)] == [True] * 8 + [False]


@pytest.fixture
def replay(bake: Bake, home: Path) -> Callable[..., Path]:
    """A replay file of the default answers, but for these."""
    assert bake().project
    (recorded,) = home.glob("*.json")

    def edit(**answers: str) -> Path:
        content = json.loads(recorded.read_text(encoding="utf-8"))
        content["cookiecutter"] |= answers
        edited = home / "edited.json"
        edited.write_text(json.dumps(content), encoding="utf-8")
        return edited

    return edit


def test_replay(template: Path, generate: Generate) -> None:
    first = generate("cookiecutter", "--no-input", str(template), "license=bsd").project
    again = generate("cookiecutter", "--replay", str(template)).project
    assert again.path.name == first.path.name
    assert again.files() == first.files()
    assert all(again.read(file) == first.read(file) for file in first.files())


def test_an_edited_replay_file_derives_the_rest_anew(
    template: Path, generate: Generate, replay: Callable[..., Path]
) -> None:
    file = replay(project_slug="other", license="BSD-3-Clause")
    project = generate("cookiecutter", "--replay-file", str(file), str(template)).project
    assert (project.path / "src" / "other").is_dir()
    assert "BSD 3-Clause" in project.read("LICENSE")


@pytest.mark.parametrize(
    "answers",
    [
        {"project_name": "{{ 1 / 0 }}"},
        {"project_slug": "../a"},
        {"license": "GPL"},
        {"starter": "../a"},
    ],
    ids=lambda answers: next(iter(answers)),
)
def test_a_bad_replay_file_is_refused(
    template: Path, generate: Generate, replay: Callable[..., Path], answers: dict[str, str]
) -> None:
    file = replay(**answers)
    outcome = generate("cookiecutter", "--replay-file", str(file), str(template))
    assert (outcome.status, outcome.projects) == (1, [])
    assert outcome.output.startswith("Error: ")
    assert outcome.output.count("\n") == 1


def test_private_variables_cannot_be_given(bake: Bake) -> None:
    project = bake(__package_name="../a", __license="x", project_slug="b").project
    assert (project.path / "src" / "b").is_dir()


def test_a_users_own_defaults(bake: Bake, settings: Path) -> None:
    content = json.loads(settings.read_text(encoding="utf-8"))
    content["default_context"] = {"author_name": "O'Brien", "email": "of another template"}
    settings.write_text(json.dumps(content), encoding="utf-8")
    assert "(c) O'Brien" in bake().project.read("LICENSE")


@pytest.mark.parametrize("author", ['a"b', "{{", None])
def test_a_users_bad_defaults(bake: Bake, settings: Path, author: str | None) -> None:
    content = json.loads(settings.read_text(encoding="utf-8"))
    content["default_context"] = {"author_name": author}
    settings.write_text(json.dumps(content), encoding="utf-8")
    outcome = bake()
    assert (outcome.status, outcome.projects) == (1, [])
    assert outcome.output.startswith("Error: author_name")
    assert outcome.output.count("\n") == 1


def test_an_existing_folder_is_left_alone(template: Path, bake: Bake) -> None:
    project = bake().project
    (project.path / "README.md").write_text("mine")
    again = ("cookiecutter", "--no-input", "-o", str(project.path.parent), str(template))
    done = subprocess.run([sys.executable, "-m", *again], capture_output=True, text=True)
    assert (done.returncode, done.stdout.count("\n"), done.stderr) == (1, 1, "")
    assert project.read("README.md") == "mine"


@pytest.fixture
def repository(template: Path, tmp_path: Path, home: Path) -> Path:
    """The template as a git repository, as cruft needs it."""
    path = tmp_path / "repro-dl"
    shutil.copytree(template, path)
    person = ("-c", "user.name=somebody", "-c", "user.email=")
    for words in (("init", "-q"), ("add", "-A"), (*person, "commit", "-qm", "template")):
        subprocess.run(("git", *words), cwd=path, check=True)
    return path


def test_cruft(repository: Path, generate: Generate) -> None:
    answers = json.dumps({"project_name": "Étude n° 3"})
    command = ("cruft", "create", str(repository), "-y", "--extra-context", answers)
    project = generate(*command).project
    assert (project.path / "src" / "etude_ndeg_3").is_dir()
    assert ".cruft.json" in project.files()
    assert project.run("git", "log", "--format=%s") == "Generate project"


def test_cruft_refuses_in_one_line(repository: Path, generate: Generate) -> None:
    answers = json.dumps({"project_slug": "numpy"})
    outcome = generate("cruft", "create", str(repository), "-y", "--extra-context", answers)
    assert (outcome.status, outcome.projects) == (1, [])
    assert outcome.output.count("\n") == 1


def test_cruft_updates_a_project(repository: Path, generate: Generate, home: Path) -> None:
    identify(home)
    answers = json.dumps({"license": "not", "author_name": "O'Brien"})
    command = ("cruft", "create", str(repository), "-y", "--extra-context", answers)
    project = generate(*command).project
    # The next version derives an answer in another way, by a filter that is new.
    changes = {
        "cookiecutter.json": ("replace('Not open source', 'LicenseRef-Proprietary')", "closed"),
        "template_checks.py": (
            "class Answer",
            "def closed(text: str) -> str:\n"
            "    return text.replace('Not open source', 'LicenseRef-Closed')\n\n\nclass Answer",
        ),
    }
    for file, (old, new) in changes.items():
        text = (repository / file).read_text(encoding="utf-8")
        assert old in text
        text = text.replace(old, new).replace("one_of, escaped", "one_of, closed, escaped")
        (repository / file).write_text(text, encoding="utf-8")
    for path in (repository, project.path):
        subprocess.run(("git", "add", "-A"), cwd=path, check=True)
        subprocess.run(("git", "commit", "-qm", "next"), cwd=path, check=True)
    project.run(sys.executable, "-m", "cruft", "update", "-y")
    assert "LicenseRef-Closed" in project.read("pyproject.toml")
    assert project.run("git", "log", "--format=%s").splitlines() == ["next", "Generate project"]
    changed = project.run("git", "diff", "HEAD", "--name-only").splitlines()
    assert changed == [".cruft.json", "pyproject.toml"]


def identify(home: Path) -> None:
    (home / ".gitconfig").write_text("[user]\nname = Somebody\nemail = somebody@example.org\n")


@pytest.fixture
def commit(template: Path, generate: Generate) -> Callable[[], Outcome]:
    """Generates a project by a program: what a hook prints is seen only there."""
    return lambda: generate("cookiecutter", "--no-input", str(template))


def test_the_first_commit_has_everything(commit: Callable[[], Outcome], home: Path) -> None:
    identify(home)
    outcome = commit()
    git = outcome.project.run
    assert outcome.output == ""
    assert git("git", "status", "--porcelain") == ""
    assert git("git", "log", "--format=%an %ae %D") == "Somebody somebody@example.org HEAD -> main"
    assert sorted(git("git", "ls-files").splitlines()) == outcome.project.files()


def test_git_lfs_is_for_data_and_models(commit: Callable[[], Outcome], home: Path) -> None:
    """Without it git takes them as they are: .gitattributes names a filter that is not there."""
    identify(home)
    project = commit().project
    git = project.run
    assert "lfs" not in git("git", "config", "--list")
    # A new project has none: it can be pushed to a server that knows no LFS.
    assert ": lfs" not in git("git", "check-attr", "filter", "--", *project.files())
    files = {"model.keras": "lfs", "data/a.csv": "lfs", "splits/a.npz": "unspecified"}
    for name, tracked in files.items():
        (project.path / name).parent.mkdir(exist_ok=True)
        (project.path / name).write_bytes(b"a\r\n\0")
        assert git("git", "check-attr", "filter", name) == f"{name}: filter: {tracked}"
    git("git", "add", "--force", *files)
    git("git", "commit", "--quiet", "--message", "files")
    for name in files:  # The very bytes, with the ends of lines that they had.
        assert git("git", "cat-file", "-s", f"HEAD:{name}") == "4"


def test_without_an_identity_the_commit_has_a_neutral_one(commit: Callable[[], Outcome]) -> None:
    outcome = commit()
    assert outcome.output.count("\n") == 1
    assert "user.name" in outcome.output
    assert outcome.project.run("git", "log", "--format=%an <%ae>") == "repro-dl <>"
    assert outcome.project.run("git", "config", "--list", "--local").count("user.") == 0


def test_without_git_there_is_a_project_and_a_note(
    commit: Callable[[], Outcome], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    outcome = commit()
    assert outcome.output == "git is not installed; there is no first commit.\n"
    assert not (outcome.project.path / ".git").exists()


def test_a_git_that_fails_costs_the_commit_alone(
    commit: Callable[[], Outcome], monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    (home / ".gitconfig").write_text("[broken\n")
    outcome = commit()
    assert outcome.output.count("\n") == 1
    assert outcome.project.files()


def test_a_hook_of_git_that_generates_a_project_keeps_its_repository(
    commit: Callable[[], Outcome], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "outer" / ".git"))
    project = commit().project
    assert (project.path / ".git").is_dir()
    assert not (tmp_path / "outer").exists()


def test_make_says_what_to_do_with_an_environment_that_does_not_find_the_project(
    bake: Bake,
) -> None:
    """So it is in a folder that was moved: the environment tells where the project was."""
    project = bake().project
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    make = ("make", f"PY={sys.executable}")
    done = subprocess.run((*make, "train"), cwd=project.path, env=env, capture_output=True)
    told = f"{sys.executable} does not find this project; was it moved? make install, or make sync"
    assert (done.returncode, done.stderr.decode().splitlines()[0]) == (2, told)
    # What mends it is not refused for it.
    done = subprocess.run((*make, "-n", "sync"), cwd=project.path, env=env, capture_output=True)
    assert done.returncode == 0, done.stderr

"""The workflows of a generated project, each step as written: green, red, told why, green again."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import Generated, bake, proof
from .workflow import Job, Runner

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(sys.platform == "win32", reason="the workflows run on Linux"),
]


@pytest.fixture
def project(installed: Path, tmp_path: Path) -> Generated:
    return bake(tmp_path / "project", installed)


@pytest.fixture
def runner(project: Generated, tmp_path: Path) -> Runner:
    return Runner(tmp_path / "runner", project.root)


def commit(project: Generated) -> None:
    author = ("-c", "user.name=a", "-c", "user.email=")
    command = ["git", *author, "commit", "--quiet", "--all", "--message", "A change"]
    subprocess.run(command, cwd=project.root, check=True)


def passed(job: Job) -> None:
    assert job.failed == [], job.log


def recorded(project: Generated) -> tuple[str, str]:
    """The validation's loss and the digest that results.lock holds, as the summary has them."""
    content = json.loads((project.root / "results.lock").read_text(encoding="utf-8"))
    found = content["recipes"]["guarantee=portable"]
    return f"{found['metrics']['val_loss']:.4f}", found["digest"][:16]


def stand_in(folder: Path, name: str, does: str = "exit 0") -> Path:
    """A folder with a program of this name."""
    program = folder / "tools" / name
    program.parent.mkdir(exist_ok=True)
    program.write_text(f"#!/bin/sh\n{does}\n", encoding="utf-8")
    program.chmod(0o755)
    return program.parent


def test_a_clean_project_is_green_here_and_elsewhere(project: Generated, runner: Runner) -> None:
    loss, _ = recorded(project)
    job = runner.run("reproducibility", "gate")
    passed(job)
    assert "# Training is reproducible, and as recorded" in job.summary
    assert "guarantee=portable: identical, as recorded" in job.summary
    assert "though changed" not in job.summary, "run: make results"
    assert f"| val_loss | {loss} | {loss} |" in job.summary
    assert "varied     hash-seed" in job.summary and "guarantee: portable" in job.summary
    (report,) = (runner.folder / "artefacts").glob("*/report.html")
    assert f"]({report.parent.as_uri()})" in job.summary
    assert "<svg" in report.read_text(encoding="utf-8")

    job = runner.run("reproducibility", "elsewhere")
    passed(job)
    assert "as recorded" in job.summary


def test_a_planted_fault_is_red_and_named(project: Generated, runner: Runner) -> None:
    model = project.package / "models" / "dense.py"
    text = model.read_text(encoding="utf-8")
    place = "layers.Dense(units, "
    assert text.count(place) == 1
    fault = "kernel_initializer=keras.initializers.RandomNormal(seed=id(object()) % 9973), "
    model.write_text(text.replace(place, place + fault), encoding="utf-8")
    commit(project)
    job = runner.run("reproducibility", "gate")
    assert job.failed == ["gate"], job.log
    assert "# Training is NOT as it should be" in job.summary
    assert "guarantee=portable: diverged" in job.summary
    assert "initial weight dense/hidden/kernel" in job.summary
    assert "address-space" in job.summary, "the variation that does it"
    assert "[Report" in job.summary


def test_a_change_is_told_and_recorded(project: Generated, runner: Runner) -> None:
    params, (loss, digest) = project.root / "params.yaml", recorded(project)
    text = params.read_text(encoding="utf-8")
    changed = text.replace("learning_rate: 0.001", "learning_rate: 0.002")
    assert changed != text
    params.write_text(changed, encoding="utf-8")
    commit(project)
    job = runner.run("reproducibility", "gate")
    assert job.failed == ["gate"], job.log
    assert "guarantee=portable: identical, changed" in job.summary
    assert "cause: params.yaml optimizer.learning_rate 0.001 → 0.002" in job.summary
    assert f"val_loss {loss} → " in job.summary and f"digest {digest} → " in job.summary
    assert "if this is meant: repro verify --update guarantee=portable" in job.summary

    project.repro("verify", "--update")
    commit(project)
    job = runner.run("reproducibility", "gate")
    passed(job)
    assert "guarantee=portable: identical, as recorded" in job.summary


def test_a_change_without_its_record_is_red(project: Generated, tmp_path: Path) -> None:
    """Where the entry is gone too, the change is seen by what the commit before had recorded."""
    model = project.package / "models" / "dense.py"
    text = model.read_text(encoding="utf-8")
    model.write_text(text.replace("layers.Dense(units, ", "layers.Dense(units // 2, "), "utf-8")
    (project.root / "results.lock").unlink()
    commit(project)
    job = Runner(tmp_path / "runner", project.root, base="HEAD^1").run("reproducibility", "gate")
    assert job.failed == ["gate"], job.log
    assert "# Training is NOT as it should be" in job.summary
    assert "guarantee=portable: identical, changed" in job.summary
    assert "recorded in results.lock at HEAD^1, and dropped since" in job.summary
    assert "models/dense.py" in job.summary

    # What was never recorded is not told as recorded either.
    answer = project.repro("verify", "--locked", "--runs=1", "model.units=8", status=3)
    (told,) = answer["recipes"]
    assert told["recorded"] == "not recorded"
    assert told["lines"][0].endswith("to record it: repro verify --update model.units=8")


def test_a_training_that_ends_in_nan_is_as_recorded(project: Generated) -> None:
    """JSON has no such number; it is written and compared all the same."""
    recipe = ("optimizer.learning_rate=1e30", "training.epochs=1", "training.steps_per_epoch=20")
    answer = project.repro("verify", "--update", *recipe)
    assert answer["recipes"][0]["metrics"]["val_loss"] == "NaN"
    answer = project.repro("verify", "--locked", "--runs=1", *recipe)
    assert answer["recipes"][0]["recorded"] == "as recorded"

    def none(name: str) -> None:
        pytest.fail(f"{name} is not JSON")

    run = Path(answer["recipes"][0]["runs"][0])
    written = [run / "manifest.json", run / "history.json", project.root / "results.lock"]
    for path in written:
        json.loads(path.read_text(encoding="utf-8"), parse_constant=none)


def test_lint_and_every_test_are_green(project: Generated, runner: Runner) -> None:
    """All tests of a project as it is generated, the notebook's among them."""
    job = runner.run("test", "test")
    passed(job)
    said = dict(re.findall(r"^tests/(test_\w+\.py) (\S+)", job.log, re.MULTILINE))
    assert said.keys() == {path.name for path in (project.root / "tests").glob("*.py")}
    # The notebook tells results of x86-64 processors.
    skipped = set() if platform.machine() == "x86_64" else {"s"}
    assert {*"".join(said.values())} - skipped == {"."}, job.log


# Minutes each; what they do is done in other tests as well, but for the workflow's own words.
@proof("minutes")
def test_gitlab_does_the_same(installed: Path, tmp_path: Path) -> None:
    """`apt-get` alone is not real here: git and make are there."""
    project = bake(tmp_path / "project", installed, ci="gitlab")
    path = os.pathsep.join([str(stand_in(tmp_path, "apt-get")), os.environ["PATH"]])
    runner = Runner(tmp_path / "runner", project.root, path)
    for name in ("test", "gate", "elsewhere"):
        job = runner.run_gitlab(name)
        passed(job)
    assert "recorded   as recorded in results.lock" in job.log
    (summary,) = (runner.folder / "artefacts" / "gate").rglob("summary.md")
    assert "# Training is reproducible, and as recorded" in summary.read_text(encoding="utf-8")


def origin_of(project: Generated, runner: Runner) -> Path:
    """The repository that a workflow pushes to."""
    origin = runner.folder / "origin.git"
    subprocess.run(["git", "clone", "--quiet", "--bare", project.root, origin], check=True)
    return origin


def proposed(origin: Path) -> list[str]:
    """The files that the branch of newer packages changes; none where there is no branch."""
    command = ["git", "-C", str(origin), "diff", "--name-only", "main", "locks"]
    return subprocess.run(command, capture_output=True, text=True).stdout.split()


def test_newer_packages_reach_no_token(
    project: Generated, runner: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The packages of the first job do what they like there; `make` and `gh` stand in for them."""
    seen, asked = tmp_path / "seen", tmp_path / "asked"
    hook = f"#!/bin/sh\\necho hook $GH_TOKEN >> {seen}\\n"
    does = [
        f"env >> '{seen}'",
        f"printf '{hook}' > .git/hooks/post-commit",
        f"printf '{hook}' > .git/hooks/pre-push",
        "chmod +x .git/hooks/post-commit .git/hooks/pre-push",
        "echo '# newer' >> requirements/cpu.txt",
        "echo '# planted' >> Makefile",
    ]
    stand_in(tmp_path, "make", "\n".join(does))
    tools = stand_in(tmp_path, "gh", f"echo \"$@\" >> '{asked}'")
    # Even hooks that came with the checkout would not be run.
    hooks = tmp_path / "template" / "hooks"
    hooks.mkdir(parents=True)
    for name in ("post-commit", "pre-push"):
        (hooks / name).write_text(hook.replace("\\n", "\n"), encoding="utf-8")
        (hooks / name).chmod(0o755)
    monkeypatch.setenv("GIT_TEMPLATE_DIR", str(hooks.parent))
    origin = origin_of(project, runner)
    path = os.pathsep.join([str(tools), os.environ["PATH"]])
    workflow = Runner(runner.folder, project.root, path)
    passed(workflow.run("locks", "locks"))
    passed(workflow.run("locks", "propose"))
    assert proposed(origin) == ["requirements/cpu.txt"]
    assert "pr create --head locks" in asked.read_text()
    text = seen.read_text()
    assert "GITHUB_REPOSITORY=" in text, "the first job's environment was looked at"
    assert "TOKEN" not in text and "hook" not in text.replace("/hooks", "")


@pytest.mark.parametrize("planted", ["link", "folder", "large", "more"])
def test_only_small_plain_files_are_pushed(
    planted: str, project: Generated, runner: Runner, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret", encoding="utf-8")
    origin = origin_of(project, runner)
    made = runner.folder / "artefacts" / "locks"
    made.mkdir(parents=True)
    for name in ("cpu", "cuda", "dev"):
        (made / f"{name}.txt").write_text("# newer\n", encoding="utf-8")
    (made / "results.lock").write_text("{}\n", encoding="utf-8")
    place = made / "cpu.txt"
    if planted == "more":
        (made / "Makefile").write_text("all:\n", encoding="utf-8")
    else:
        place.unlink()
    if planted == "link":
        place.symlink_to(secret)
    elif planted == "folder":
        place.mkdir()
    elif planted == "large":
        place.write_bytes(bytes(5 << 20))
    path = os.pathsep.join([str(stand_in(tmp_path, "gh")), os.environ["PATH"]])
    job = Runner(runner.folder, project.root, path).run("locks", "propose")
    if planted == "more":  # It stays where it is.
        passed(job)
        locks = [f"requirements/{name}.txt" for name in ("cpu", "cuda", "dev")]
        assert proposed(origin) == [*locks, "results.lock"]
    else:
        assert job.failed == ["take what was built"], job.log
        assert proposed(origin) == []


@proof("minutes")
def test_newer_packages_come_with_what_they_do(
    project: Generated, runner: Runner, tmp_path: Path
) -> None:
    """`gh` alone is not real here: what it is asked for is written down."""
    asked = tmp_path / "asked"
    tools = stand_in(tmp_path, "gh", f"echo \"$@\" >> '{asked}'")
    origin = origin_of(project, runner)
    path = os.pathsep.join([str(tools), os.environ["PATH"]])
    workflow = Runner(runner.folder, project.root, path)
    passed(workflow.run("locks", "locks"))
    job = workflow.run("locks", "propose")
    passed(job)
    found = proposed(origin)
    if found:
        assert any(name.startswith("requirements/") for name in found)
        assert "pr create --head locks" in asked.read_text()
    else:
        assert not asked.exists()

"""What is said, and with which status, of a training that goes wrong: whose fault it is, and how to
go on."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import Generated, kill

pytestmark = pytest.mark.real

SHORT = ("training.epochs=20",)
ISSUES = "https://github.com/org/repro-dl/issues"


@pytest.fixture(scope="module")
def copy(project: Generated, tmp_path_factory: pytest.TempPathFactory) -> Generated:
    return project.copy(tmp_path_factory.mktemp("status") / "project")


@pytest.fixture
def planted(copy: Generated) -> Iterator[None]:
    """A fault in the machinery, and another one in the project's model."""
    files = {
        copy.root / "src" / "repro" / "data" / "splits.py": (
            "def describe(",
            "def describe(*arguments):\n    return {}['planted']\n\n\ndef _describe(",
        ),
        copy.package / "models" / "lenet5.py": (
            "    return keras",
            "    return {}['mine'] or keras",
        ),
    }
    before = {path: path.read_text(encoding="utf-8") for path in files}
    for path, (old, new) in files.items():
        assert before[path].count(old) == 1, path
        path.write_text(before[path].replace(old, new), encoding="utf-8")
    yield
    for path, text in before.items():
        path.write_text(text, encoding="utf-8")


@pytest.mark.usefixtures("planted")
def test_the_machinerys_fault_has_its_own_status_and_the_projects_has_not(copy: Generated) -> None:
    done = copy.run("repro", "train", *SHORT)
    assert done.returncode == 70, done.stderr
    assert "KeyError: 'planted'" in done.stderr
    assert done.stderr.endswith(f"please report it with the lines above: {ISSUES}\n")
    splits = copy.root / "src" / "repro" / "data" / "splits.py"
    text = splits.read_text(encoding="utf-8")
    splits.write_text(text.replace("return {}['planted']", "return {}"), encoding="utf-8")
    done = copy.run("repro", "train", *SHORT, "model.name=lenet5")
    assert done.returncode == 4, done.stderr
    assert "KeyError: 'mine'\nthe project's own code was running: build" in done.stderr
    assert ISSUES not in done.stderr
    for run in copy.root.glob("runs/*"):
        assert json.loads((run / "manifest.json").read_text())["status"] == "failed"


def killed(copy: Generated, *arguments: str) -> Path:
    """A run that was killed after its first checkpoint, launcher and training both."""
    before = set(copy.root.glob("runs/*"))
    process = copy.start("train", *arguments, "--fresh")
    while not any(copy.root.glob("runs/*/checkpoints/*.json")):
        assert process.poll() is None
        time.sleep(0.005)
    (run,) = set(copy.root.glob("runs/*")) - before
    kill(process, run)
    return run


def test_an_interrupted_run_says_what_is_left_of_it(copy: Generated) -> None:
    arguments = (*SHORT, "--checkpoint-seconds=0")
    run = killed(copy, *arguments)
    book = run / "ledger.jsonl"
    whole = book.read_bytes()
    book.write_bytes(b"")
    done = copy.run("repro", "train", *arguments)
    assert done.returncode == 2, done.stderr
    assert done.stderr.endswith("a new run is needed: repro train --fresh\n")
    assert done.stderr.count("\n") == 1
    book.write_bytes(whole)
    found = list(run.glob("checkpoints/*.npz"))
    assert found
    for path in found:
        path.write_bytes(path.read_bytes()[:-9])
    done = copy.run("repro", "train", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stderr.splitlines() if "checkpoint is whole" in line]
    assert said == [f"{run.name}: no checkpoint is whole, so this run begins again"]
    assert "goes on in epoch" not in done.stderr and "Traceback" not in done.stderr
    answer = json.loads(done.stdout)
    assert Path(answer["run_dir"]).name == run.name
    assert copy.repro("train", *SHORT, "--fresh")["digest"] == answer["digest"]

"""Whole trainings of the default model: what one leaves to the next, and what is refused."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repro.basics.digests import sha256
from repro.recipe import reading
from repro.recipe.project import Project
from repro.run import recipes

PROJECT = Project.find()
BACKEND = reading.parameters(PROJECT.source, PROJECT.root / "params.yaml").backend
GUARANTEES = ["machine", "portable"] if BACKEND == "tensorflow" else ["machine"]


def repro(*arguments: str, status: int = 0, **env: str) -> dict[str, Any]:
    """Runs the command with `--json`, which has to end with the status; returns its answer."""
    done = subprocess.run(
        [sys.executable, "-m", "repro", *arguments, "--json"],
        capture_output=True,
        text=True,
        cwd=PROJECT.root,
        env={**os.environ, **env},
    )
    assert done.returncode == status, done.stdout + done.stderr
    if status == 2:
        assert done.stderr.count("\n") == 1, done.stderr
        return {"message": done.stderr}
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_averaged_weights_are_kept_and_tested() -> None:
    answer = repro("verify", "training.epochs=2", "optimizer.use_ema=true")
    assert answer["verdict"] == "identical"
    plain = repro("train", "training.epochs=2")
    assert plain["metrics"]["test_loss"] != answer["metrics"]["test_loss"]


def test_another_seed_is_another_training() -> None:
    one = repro("train", "training.epochs=1")
    other = repro("train", "training.epochs=1", "seed=1")
    assert one["digest"] != other["digest"]
    answer = repro("diff", one["run_dir"], other["run_dir"], status=3)
    assert answer["not_comparable"] == {"parameters.seed": [1234, 1]}


def test_a_training_goes_on_from_a_saved_state() -> None:
    settings = ("model.name=dense", "model.dropout=0.5")
    whole = repro("train", *settings, "training.epochs=3")
    first = repro("train", *settings, "training.epochs=1")
    rest = repro(
        "train",
        *settings,
        "training.epochs=3",
        "training.initial_epoch=1",
        f"training.initial_state={first['run_dir']}",
    )
    assert rest["digest"] == whole["digest"]
    assert rest["metrics"] == whole["metrics"]


def test_weights_are_taken_from_another_run() -> None:
    first = repro("train", "model.name=dense", "training.epochs=1", "model.units=16")
    run = Path(
        repro(
            "train",
            *("model.name=dense", "training.epochs=1", "model.units=8", "seed=7"),
            f"training.initial_weights={first['run_dir']}",
        )["run_dir"]
    )
    content = json.loads((run / "manifest.json").read_text())
    # The hidden layer has another shape.
    assert content["transferred"] == ["dense/output/bias"]
    assert content["recipe"]["parameters"]["training"]["initial_weights"] == first["digest"]
    entries = [json.loads(line) for line in (run / "ledger.jsonl").read_text().splitlines()]
    (initial,) = (entry for entry in entries if entry["stage"] == "initial")
    with np.load(Path(first["run_dir"]) / "state.npz") as state:
        assert initial["weights"]["dense/output/bias"] == sha256(state["weights/dense/output/bias"])


def test_folds_share_data_and_test_and_a_split_is_used_again() -> None:
    def train(*settings: str) -> tuple[dict[str, Any], dict[str, Any]]:
        run = Path(repro("train", "training.epochs=1", *settings)["run_dir"])
        entries = map(json.loads, (run / "ledger.jsonl").read_text().splitlines())
        return json.loads((run / "manifest.json").read_text()), {e["stage"]: e for e in entries}

    (one, first), (other, second) = (
        train("split.folds=3", f"split.fold={fold}") for fold in range(2)
    )
    assert first["data"]["samples"] == second["data"]["samples"]
    assert first["data"]["split"]["test"] == second["data"]["split"]["test"]
    assert first["data"]["split"]["validation"] != second["data"]["split"]["validation"]
    assert first["initial"]["weights"] != second["initial"]["weights"]
    again, _ = train(f"split.file={one['run']}")
    assert again["split"] == one["split"] != other["split"]


# Runs a module as `python -P -m` does, and notes what it sends to the disk, moves and removes. A
# file keeps its number when it takes its name.
NOTING = """
import json, os, runpy, shutil, sys

def noted(name, does, what):
    def run(*given, **named):
        said = what(*given)
        done = does(*given, **named)
        with open(os.environ["NOTED"], "a") as file:
            print(json.dumps([name, said, os.path.isdir(sys.argv[1] + "/checkpoints")]), file=file)
        return done

    return run

os.fsync = noted("fsync", os.fsync, lambda file: os.fstat(file).st_ino)
os.replace = noted("replace", os.replace, lambda old, new: os.path.basename(new))
shutil.rmtree = noted("rmtree", shutil.rmtree, lambda path, *more: os.path.basename(path))
del sys.argv[:3]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


@pytest.mark.skipif(os.name == "nt", reason="a script of POSIX starts Python")
def test_a_run_counts_as_finished_once_all_of_it_is_on_the_disk(tmp_path: Path) -> None:
    """Wherever the power fails, there is a whole run or one that can go on."""
    (tmp_path / "noting.py").write_text(NOTING, encoding="utf-8")
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -P "{tmp_path}/noting.py" "$@"\n')
    python.chmod(0o755)
    noted = tmp_path / "noted"
    asked = ("training.epochs=1", "--checkpoint-seconds=0", "--fresh")
    answer = repro("train", *asked, REPRO_PYTHON=str(python), NOTED=str(noted))
    run = Path(answer["run_dir"])
    entries = [tuple(json.loads(line)) for line in noted.read_text().splitlines()]
    happened = [entry[:2] for entry in entries]
    finished = max(place for place, each in enumerate(happened) if each[1] == "manifest.json")
    content = json.loads((run / "manifest.json").read_text())
    assert {"state.npz", "ending.json", "history.json", "ledger.jsonl"} < content["files"].keys()
    for name in ("manifest.json", *content["files"]):
        number = (run / name).stat().st_ino
        assert ("fsync", number) in happened[:finished], name
    # The folder follows, so that the new name is on the disk; and only then the checkpoints go.
    assert happened[finished:] == [
        ("replace", "manifest.json"),
        ("fsync", run.stat().st_ino),
        ("rmtree", "checkpoints"),
    ]
    assert [there for *_, there in entries[finished:]] == [True, True, False]


def test_mnist_is_asked_for_in_one_line(tmp_path: Path) -> None:
    wrong = tmp_path / "mnist.npz"
    wrong.write_bytes(b"not an archive")
    before = set(PROJECT.runs.glob("*"))
    answer = repro("train", "data.name=mnist", status=2, REPRO_DATA=str(tmp_path))
    assert "not the archive of MNIST" in answer["message"]
    assert set(PROJECT.runs.glob("*")) == before


def test_settings_asked_for_too_late_are_refused() -> None:
    code = (
        f"import sys, {BACKEND}\n"
        "from repro.environment import determinism\n"
        "from repro.recipe.parameters import Parameters\n"
        "determinism.apply(Parameters.model_validate_json(sys.argv[1]), 1)\n"
    )
    parameters = recipes.make(PROJECT).parameters
    command = [sys.executable, "-c", code, parameters.model_dump_json()]
    done = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT.root)
    assert "TooLate" in done.stderr and "repro train" in done.stderr


def test_the_doctor_finds_every_setting_in_effect() -> None:
    for guarantee in GUARANTEES:
        found = repro("doctor", f"guarantee={guarantee}")
        assert found["guarantee"] == {"asked": guarantee, "holds": guarantee, "broken": []}
        assert found["asked"].items() <= found["in_effect"].items()


def test_the_machinery_says_where_it_comes_from(tmp_path: Path) -> None:
    """A copy of the project has its machinery changed by one character of a comment."""
    copy = tmp_path / "project"
    shutil.copytree(PROJECT.root, copy, ignore=shutil.ignore_patterns("runs", "studies", ".git"))

    def version(root: Path) -> str:
        command = [sys.executable, "-m", "repro", "--version"]
        env = {**os.environ, "PYTHONPATH": str(root / "src")}
        return subprocess.check_output(command, cwd=root, env=env, text=True).strip()

    assert re.fullmatch(
        r"repro \d+\.\d+\.\d+( \([0-9a-f]{12}(-dirty)?\))?, as it was generated", version(copy)
    )
    changed = copy / "src" / "repro" / "run" / "loop.py"
    changed.write_text(changed.read_text(encoding="utf-8") + "# mine\n", encoding="utf-8")
    assert version(copy).endswith(", changed since")
    (copy / "pyproject.toml").write_text('[tool.repro]\npackage = "any"\n')
    assert version(copy) == "repro of unknown origin"
    found = repro("doctor")["origin"]
    assert found["changed"] is False and found["version"] in version(PROJECT.root)

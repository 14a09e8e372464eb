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

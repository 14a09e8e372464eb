"""What is yours: models, data and presets. Every file in `models/` is trained twice, for real."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from repro.recipe import reading
from repro.recipe.project import Project

PROJECT = Project.find(Path(__file__).parent)
PARAMS = PROJECT.root / "params.yaml"
BACKEND = reading.parameters(PROJECT.source, PARAMS).backend
GUARANTEES = ["machine", "portable"] if BACKEND == "tensorflow" else ["machine"]
MODELS = sorted(p.stem for p in (PROJECT.source / "models").glob("*.py") if p.stem != "__init__")
PRESETS = sorted(path.stem for path in (PROJECT.root / "presets").glob("*.yaml"))


def settings(model: str) -> list[str]:
    """What a model is tried with: a preset of its own, if there is one, that needs no download."""
    for preset in PRESETS:
        found = reading.parameters(PROJECT.source, PARAMS, [f"preset={preset}"])
        if found.model.name == model and not preset.startswith("mnist"):
            return [f"preset={preset}"]
    return [f"model.name={model}"]


def repro(*arguments: str) -> tuple[int, dict[str, Any]]:
    """Runs the command with `--json`; returns its exit status and its answer."""
    done = subprocess.run(
        [sys.executable, "-m", "repro", *arguments, "--json"],
        capture_output=True,
        text=True,
        cwd=PROJECT.root,
    )
    assert done.stdout, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return done.returncode, answer


@pytest.mark.parametrize("guarantee", GUARANTEES)
@pytest.mark.parametrize("model", MODELS)
def test_two_runs_are_identical(model: str, guarantee: str) -> None:
    short = ("training.epochs=2", "training.steps_per_epoch=20")
    status, answer = repro("verify", *settings(model), f"guarantee={guarantee}", *short)
    assert answer["verdict"] == "identical", answer
    # Or what the layer is that does not allow it.
    unproved = [line for line in answer["guarantee"]["broken"] if "known to be portable" in line]
    assert answer["guarantee"]["holds"] == ("machine" if unproved else guarantee)
    assert answer["guarantee"]["broken"] == unproved
    assert status == (1 if unproved else 0), "a guarantee that fell is red"
    one, other = map(Path, answer["runs"])
    status, compared = repro("diff", str(one), str(other))
    assert (status, compared["verdict"]) == (0, "identical")
    # Equal states, though the archives hold a date and need not be equal.
    assert (one / "model.keras").is_file() and (other / "model.keras").is_file()


def test_the_default_training_learns() -> None:
    _, answer = repro("train")
    assert answer["metrics"]["test_accuracy"] > 0.9


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_can_be_read(preset: str) -> None:
    found = reading.parameters(PROJECT.source, PARAMS, [f"preset={preset}"])
    assert found.model.name in MODELS


def test_the_data_files_are_as_data_lock_says() -> None:
    """Those that are here; the others are fetched when a training asks for them."""
    _, answer = repro("data", "verify")
    assert answer["changed"] == {}, "put the old files back, or take these: repro data add"

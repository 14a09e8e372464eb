"""What a person sees: the suite of a generated project, the seed's experiment, real MNIST."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from .conftest import Generated, bake

pytestmark = pytest.mark.real

# Each bake differs from the defaults only in what is stated.
BAKES: dict[str, dict[str, str]] = {
    "defaults": {},
    "BSD, other name": {"license": "BSD-3-Clause", "project_name": "Étude de réseaux n° 3"},
    "Apache, other author": {"license": "Apache-2.0", "author_name": "Zoë O'Neill"},
    "closed, no git": {"license": "Not open source", "git_init": "no"},
}


@pytest.mark.parametrize("answers", BAKES.values(), ids=BAKES)
def test_the_generated_suite_passes(
    answers: dict[str, str], installed: Path, tmp_path: Path
) -> None:
    project = bake(tmp_path, installed, **answers)
    for command in (("ruff", "check", "."), ("ruff", "format", "--check", "."), ("mypy",)):
        done = project.run(*command)
        assert done.returncode == 0, done.stdout + done.stderr
    # The answers change no line of Python: all of the suite once, else what they could break.
    quick = ("tests/test_locks.py", "tests/test_machinery.py") if answers else ()
    done = project.run("pytest", "-q", *quick)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"\d+ passed", done.stdout)
    assert project.repro("verify", "training.epochs=1")["verdict"] == "identical"


def test_it_installs_and_gives_the_command(project: Generated, tmp_path: Path) -> None:
    # Beside the environment, which other tests are using.
    uv = ("uv", "pip", "install", "--no-deps", "--no-build-isolation", "--target", str(tmp_path))
    done = project.run(*uv, "--python", str(project.python), ".")
    assert done.returncode == 0, done.stdout + done.stderr
    (command,) = tmp_path.glob("[bS]*/repro*")  # bin/repro, or Scripts/repro.exe
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([command, "--help"], env=env, capture_output=True, text=True)
    assert done.returncode == 0 and "verify" in done.stdout, done.stderr


def test_the_seeds_experiment(project: Generated) -> None:
    """Charles (2025): unseeded trainings differ, seeded are the same, a reloaded model too.

    Here with dropout, which the seed's reloaded `.keras` file would not reproduce.
    """
    settings = ("model.dropout=0.5", "training.epochs=2")
    unseeded = project.repro(
        "verify", "--runs", "5", *settings, "guarantee=none", "seed=null", "--no-explain", status=1
    )
    assert len(set(unseeded["digests"])) == 5
    assert unseeded["first_divergence"]["name"] == "seed"

    seeded = project.repro("verify", "--runs", "5", *settings)
    assert seeded["verdict"] == "identical" and len(set(seeded["digests"])) == 1

    first = project.repro("train", settings[0], "training.epochs=1")
    on = ("training.initial_epoch=1", f"training.initial_state={first['run_dir']}")
    reloaded = project.repro("verify", "--runs", "5", *settings, *on)
    assert reloaded["verdict"] == "identical"
    assert set(reloaded["digests"]) == set(seeded["digests"])


@pytest.mark.parametrize("model", ["dense", "lenet5"])
def test_mnist_is_identical(model: str, project: Generated, mnist: Path) -> None:
    settings = ("data.name=mnist", f"model.name={model}", "training.epochs=1")
    answer = project.repro("verify", *settings, REPRO_DATA=str(mnist))
    assert answer["verdict"] == "identical"
    assert answer["metrics"]["test_accuracy"] > 0.95


def test_a_wrong_file_is_refused(project: Generated, tmp_path: Path) -> None:
    import zipfile

    with zipfile.ZipFile(tmp_path / "mnist.npz", "w") as file:
        file.writestr("x_train.npy", b"\x93NUMPY")
    done = project.run("repro", "train", "data.name=mnist", REPRO_DATA=str(tmp_path))
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr


def test_a_run_holds_what_is_promised(project: Generated) -> None:
    answer = project.repro("train", "training.epochs=1")
    run = Path(answer["run_dir"])
    assert {path.name for path in run.iterdir()} == {
        "manifest.json",
        "ledger.jsonl",
        "history.json",
        "predictions.npz",
        "split.npz",
        "state.npz",
        "model.keras",
        "log.txt",
    }
    content = json.loads((run / "manifest.json").read_text())
    promised = "recipe seed code in_effect versions machine environment started duration_seconds"
    for key in (*promised.split(), "peak_memory_bytes", "guarantee", "digest", "metrics"):
        assert content[key], key
    assert content["code"] == {"commit": content["code"]["commit"], "dirty": False}
    assert len(content["code"]["commit"]) == 40
    assert content["recipe"]["lock"]["departures"] == {}
    assert set(content["recipe"]["data"]) == {"digits images", "digits labels"}

"""What a project may add: callbacks of other packages that look on, and files of ONNX."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from .conftest import bake, environment, proof

pytestmark = pytest.mark.real
BACKENDS = pytest.mark.parametrize("backend", ["tensorflow", "jax", "torch"])

SHORT = ("training.epochs=2", "split.train_size=200", "model.units=16")
WATCHING = '''"""Weights & Biases offline; its own callback for Keras imports TensorFlow."""

import keras
import wandb


class Watching(keras.callbacks.Callback):
    def __init__(self, directory: str = "wandb") -> None:
        super().__init__()
        wandb.init(project="digits", mode="offline", dir=directory)

    def on_epoch_end(self, epoch: int, logs: object = None) -> None:
        wandb.log(logs, step=epoch)

    def on_train_end(self, logs: object = None) -> None:
        wandb.finish()
'''
BOARD = "board: {name: TensorBoard, log_dir: board, histogram_freq: 1, update_freq: batch}, "
CALLBACKS = "callbacks={%sother: {name: watching:Watching}}"
READ = """
import sys
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

for part in ("train", "validation"):
    found = EventAccumulator(str(Path(sys.argv[1], part)))
    found.Reload()
    print(part, len(found.Tags()["tensors"]) > 0)
"""


@proof()
@BACKENDS
def test_who_looks_on_is_shown_the_training_and_changes_no_bit(
    backend: str, tmp_path: Path
) -> None:
    project = bake(tmp_path, environment(backend, also=["more"]), backend=backend)
    (project.package / "watching.py").write_text(WATCHING, encoding="utf-8")
    plain = project.repro("train", *SHORT)
    # TensorBoard's files are written by TensorFlow, on each backend.
    board = BOARD if backend == "tensorflow" else ""
    answer = project.repro("verify", *SHORT, CALLBACKS % board)
    assert answer["verdict"] == "identical" and answer["digest"] == plain["digest"]
    for run in map(Path, answer["runs"]):
        assert [*run.glob("callbacks/wandb/wandb/offline-run-*/*.wandb")]
        if not board:
            continue
        read = [str(project.python), "-c", READ, str(run / "callbacks" / "board")]
        told = subprocess.run(read, capture_output=True, check=True, text=True).stdout.split()
        assert told == ["train", "True", "validation", "True"]
    if not board:
        done = project.run("repro", "train", *SHORT, CALLBACKS % BOARD)
        assert done.returncode == 2 and "needs the package tensorflow" in done.stderr
        assert done.stderr.count("\n") == 1


@proof()
@BACKENDS
def test_a_run_is_exported_to_onnx(backend: str, tmp_path: Path) -> None:
    also = "onnx-jax" if backend == "jax" else "more"
    project = bake(tmp_path, environment(backend, also=[also]), backend=backend, starter="lenet5")
    # ONNX's reference, which computes what was exported, cannot pool as JAX's files have it.
    for model in ("dense",) if backend == "jax" else ("dense", "lenet5"):
        run = project.repro("train", *SHORT[:2], f"model={{name: {model}}}")["run_dir"]
        answer = project.repro("export", run, "--format", "onnx")
        assert answer["largest"] < 1e-5
        (file,) = map(Path, answer["files"])
        assert file.suffix == ".onnx" and file.stat().st_size > 1000

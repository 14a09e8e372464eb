"""A run that was killed goes on, and ends as if it never had been.

`make proof` kills a hundred; otherwise one for each model.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
from pathlib import Path

import pytest

from .conftest import Generated, document, end, fewer, kill_when

pytestmark = pytest.mark.real

STOP = ("callbacks.early_stopping.patience=2", "callbacks.early_stopping.restore_best_weights=true")
SHRINK = "callbacks.reduce_lr_on_plateau.patience=1"
SCHEDULE = ("optimizer.schedule.name=cosine_decay", "optimizer.schedule.decay_steps=500")
MODELS: dict[str, tuple[str, ...]] = {
    "dense": ("model.dropout=0.5", *STOP, SHRINK),
    "lenet5": ("model.dropout=0.3", "model.translation=0.1", "optimizer.name=adamw", *SCHEDULE),
    "normalized": ("optimizer.name=sgd", "optimizer.momentum=0.9", SHRINK),
    "recurrent": (*STOP, "optimizer.name=rmsprop", "optimizer.use_ema=true"),
}
OFTEN = ("training.epochs=4", "training.batch_size=8", "--checkpoint-seconds", "0")


def test_killed_runs_end_as_if_they_had_not_been(models: Generated) -> None:
    kills = fewer(len(MODELS), 100)
    draw = random.Random(kills)
    whole, torn = {}, 0
    for number in range(kills):
        model = list(MODELS)[number % len(MODELS)]
        # Each model under one guarantee in one round and under the other in the next.
        guarantee = ("machine", "portable")[(number // len(MODELS) + number) % 2]
        arguments = (f"model.name={model}", f"guarantee={guarantee}", *MODELS[model], *OFTEN)
        if arguments not in whole:
            whole[arguments] = end(Path(models.repro("train", *arguments, "--fresh")["run_dir"]))
        size = len(whole[arguments]["ledger"])
        run = kill_when(models, arguments, draw.uniform(0.05, 0.95) * size)
        tensors, positions = (set(run.glob(f"checkpoints/*.{kind}")) for kind in ("npz", "json"))
        torn += any(run.glob("checkpoints/*.new")) or len(tensors) != len(positions)
        # Every second run goes on because it is named, the others because they are started again.
        how = ("--resume", run.name, *OFTEN[2:]) if number % 2 else arguments
        answer = models.repro("train", *how)
        assert Path(answer["run_dir"]) == run, f"kill {number}: began anew"
        assert end(run) == whole[arguments], f"kill {number} of {model}"
        assert len(json.loads((run / "manifest.json").read_text())["resumed"]) == 1
    document(
        "kills",
        f"{kills} of {kills} kills of {len(MODELS)} models under both guarantees ended in the "
        f"same bits; {torn} of them left a checkpoint half written",
    )


def test_a_run_killed_before_its_first_checkpoint_begins_again(models: Generated) -> None:
    arguments = ("model.name=dense", "training.epochs=2", "training.batch_size=32")
    run = kill_when(models, arguments, 1)
    assert not list(run.glob("checkpoints/*.json"))
    assert Path(models.repro("train", *arguments)["run_dir"]) == run
    again = models.repro("train", *arguments)
    assert Path(again["run_dir"]) != run
    assert end(Path(again["run_dir"])) == end(run)


def test_a_damaged_checkpoint_is_passed_over(models: Generated) -> None:
    arguments = ("model.name=dense", "model.dropout=0.5", *OFTEN)
    whole = end(Path(models.repro("train", *arguments)["run_dir"]))
    for damage in ("torn tensors", "altered tensors", "torn position"):
        run = kill_when(models, arguments, len(whole["ledger"]) / 2)
        newest = max((run / "checkpoints").glob("*.json"))
        target = newest if damage == "torn position" else newest.with_suffix(".npz")
        content = bytearray(target.read_bytes())
        if damage == "altered tensors":
            content[len(content) // 2] ^= 1
        target.write_bytes(content if damage == "altered tensors" else content[:-100])
        done = models.run("repro", "train", "--resume", str(run), "--json", *OFTEN[2:])
        assert done.returncode == 0, done.stderr
        assert f"{newest.stem}.npz: torn or altered, not used" in done.stderr
        assert end(run) == whole, damage


def test_a_changed_recipe_is_refused_by_name(models: Generated) -> None:
    arguments = ("model.name=dense", *OFTEN)
    run = kill_when(models, arguments, 20_000)
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    done = models.run("repro", "train", "--resume", run.name, "training.batch_size=16")
    assert done.returncode == 2
    assert "training.batch_size: expected 8 as when" in done.stderr and "got 16;" in done.stderr
    path = models.root / "params.yaml"
    content = path.read_text()
    path.write_text(content.replace("learning_rate: 0.001\n", "learning_rate: 0.002\n"))
    done = models.run("repro", "train", "--resume", run.name)
    path.write_text(content)
    assert done.returncode == 2
    assert "optimizer.learning_rate: expected 0.001 as when" in done.stderr
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before
    models.repro("train", "--resume", run.name)
    assert models.run("repro", "train", "--resume", run.name).returncode == 2


@pytest.mark.skipif(os.name == "nt", reason="a limit on the size of a file is set by a shell")
def test_a_full_disk_loses_nothing(models: Generated) -> None:
    # A limit on the size of a file stands in for a full disk: the checkpoints do not fit.
    arguments = ["model.name=dense", "training.epochs=3", "--checkpoint-seconds", "0"]
    command = f"ulimit -f 1000; {models.python} -m repro train {' '.join(arguments)}"
    env = {**os.environ, "PYTHONPATH": str(models.root / "src")}
    done = subprocess.run(
        ["sh", "-c", command], cwd=models.root, env=env, capture_output=True, text=True
    )
    assert done.returncode == 4 and "make room" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
    assert models.repro("train", *arguments)["metrics"]["test_accuracy"] > 0.8

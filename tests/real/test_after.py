"""A finished run is evaluated, predicts and is exported, in processes like that of the training."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from .conftest import Generated

pytestmark = pytest.mark.real

OF_TEST = """
import sys
import numpy as np
from sklearn.datasets import load_digits
places = np.load(sys.argv[1])["test"]
images = load_digits().data.reshape(-1, 8, 8, 1).astype(np.float32) / 16
np.save(sys.argv[2], images[places])
np.savez(sys.argv[3], x=images[places])
np.savetxt(sys.argv[4], images[places].reshape(len(places), -1), delimiter=",", fmt="%.9g")
"""
LOADED = """
import sys
import keras, numpy as np, tensorflow as tf
state = np.load(sys.argv[1])
model = keras.models.load_model(sys.argv[2])
kept = [state[name] for name in state.files if name.startswith("weights/")]
for weight, array in zip(model.weights, kept, strict=True):
    assert np.array_equal(weight, array), weight.path
x = np.load(sys.argv[4])
served = tf.saved_model.load(sys.argv[3])
assert np.allclose(served.serve(x), model.predict(x, verbose=0), 1e-4, 1e-5)
assert len(model.weights) == 4
"""
INTERFACE = """
import repro

small = {"training.epochs": 1, "model.units": 8}
run = repro.train(small, training={"batch_size": 64}, quiet=True)
assert run.recipe.parameters.training.batch_size == 64 and run.metrics["test_loss"] > 0
assert len(run.history) == 1 and run.history[0]["val_loss"] == run.metrics["val_loss"]
assert repro.find_run("latest").digest == run.digest
assert [one.name for one in repro.runs("model.units=8")] == [run.name]

found = repro.verify(small, "training.batch_size=64", vary="none")
assert found.identical and found.first_difference is None
assert {one.digest for one in found.runs} == {run.digest} and len(found.runs) == 2
assert repro.diff(run, found.runs[1]).verdict == "identical"

study = repro.sweep(small, {"training.batch_size": [32, 64]}, verify=False, quiet=True)
assert [one.recipe.parameters.training.batch_size for one in study.runs] == [32, 64]
assert study.runs[1].digest == run.digest
assert study.path.is_dir() and "batch_size" in str(study)
try:
    table = study.table()
except repro.BadInput as error:
    assert "pandas is not installed" in str(error)
else:
    assert table["training.batch_size"].tolist() == [32, 64]

answer = repro.evaluate(run, "validation", quiet=True)
assert answer.same and answer.compared == ("val_loss", "val_accuracy")

for wrong in ({"training.epoch": 1}, {"training.epochs": "many"}):
    try:
        repro.train(wrong)
    except repro.BadInput as error:
        assert len(str(error).splitlines()) == 1
    else:
        raise AssertionError(wrong)
try:
    repro.train(small, optimizer={"learning_rate": 1e30}, data={"name": "broken"}, quiet=True)
except repro.RunFailed as error:
    assert "no such thing" in str(error)
else:
    raise AssertionError("a training that raises did not fail")
print("done")
"""
BROKEN = """

def broken() -> Dataset:
    raise RuntimeError("no such thing")
"""


def execute(place: Generated, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs a script with the Python of a project, as somebody who uses the project would."""
    done = subprocess.run(
        [str(place.python), "-c", script, *arguments],
        cwd=place.root,
        env={**os.environ, "PYTHONPATH": str(place.root / "src")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


LUCKY = """
import random

import keras
import numpy as np


class Lucky(keras.Sequential):
    def judge(self, x: np.ndarray, y: np.ndarray) -> dict[str, float]:
        return {"luck": random.random() + float(np.random.random())}


def build(input_shape: tuple[int, ...], classes: int) -> keras.Model:
    moved = [keras.Input(input_shape), keras.layers.RandomTranslation(0.3, 0.3)]
    return Lucky([*moved, keras.layers.Flatten(), keras.layers.Dense(classes, "softmax")])
"""


@pytest.fixture(scope="module")
def place(project: Generated, tmp_path_factory: pytest.TempPathFactory) -> Generated:
    return project.copy(tmp_path_factory.mktemp("after") / "project")


@pytest.fixture(scope="module")
def run(place: Generated) -> Path:
    """A run whose samples are standardised, and whose model has dropout."""
    asked = ("training.epochs=2", "model.units=32", "model.dropout=0.3", "data.scaling=standard")
    return Path(place.repro("train", *asked)["run_dir"])


@pytest.fixture(scope="module")
def content(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    return found


@pytest.fixture(scope="module")
def samples(place: Generated, run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The samples of the test part as the data function returns them, in three kinds of files."""
    folder = tmp_path_factory.mktemp("samples")
    files = [str(folder / f"test.{end}") for end in ("npy", "npz", "csv")]
    execute(place, OF_TEST, str(run / "split.npz"), *files)
    return folder


def made(run: Path) -> list[dict[str, Any]]:
    lines = (run / "made.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_an_evaluation_has_the_bits_of_the_run(
    place: Generated, run: Path, content: dict[str, Any]
) -> None:
    for part, prefix in (("test", "test_"), ("validation", "val_")):
        answer = place.repro("evaluate", "latest", "--part", part)
        assert answer["same"] and not answer["changed"], answer
        wanted = {n: v for n, v in content["metrics"].items() if n.startswith(prefix)}
        assert answer["results"] == wanted and sorted(answer["compared"]) == sorted(wanted)
    line = made(run)[-1]
    assert line["digest"] == content["digest"] and line["results"] == wanted
    assert line["inputs"][str(run / "state.npz")] == content["files"]["state.npz"]
    assert json.loads((run / "manifest.json").read_text(encoding="utf-8")) == content
    assert [path.name for path in run.parent.iterdir()] == [run.name]


def test_what_is_drawn_is_drawn_again_or_not_at_all(place: Generated, tmp_path: Path) -> None:
    copy = place.copy(tmp_path / "project")
    (copy.package / "models" / "lucky.py").write_text(LUCKY, encoding="utf-8")
    copy.repro("train", "model.name=lucky", "training.epochs=1")
    answer = copy.repro("evaluate", "latest")
    assert "test_luck" in answer["compared"] and answer["same"], answer
    answer = copy.repro("evaluate", "latest", "--part", "validation")
    assert answer["compared"] == [] and "draws random numbers" in answer["why_not"]
    # Keras's own export would move each image at random.
    assert copy.repro("export", "latest", "--format", "savedmodel")["largest"] < 1e-5


def test_other_data_are_preprocessed_as_the_run_knows_it(
    place: Generated, run: Path, content: dict[str, Any]
) -> None:
    """The same images without scaling of their own: the run's is applied to them."""
    other = ("--data", "digits", "data.scaling=range", "--part", "test")
    answer = place.repro("evaluate", run.name, *other)
    assert answer["compared"] == [] and answer["same"]
    for name, value in answer["results"].items():
        assert content["metrics"][name] == value
    done = place.run("repro", "evaluate", run.name, "--data", "diabetes")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "expected samples with the shapes" in done.stderr


def test_predictions_have_the_bits_of_the_run(
    place: Generated, run: Path, content: dict[str, Any], samples: Path, tmp_path: Path
) -> None:
    for end in ("npy", "npz", "csv"):
        output = tmp_path / f"{end}.npz"
        file = str(samples / f"test.{end}")
        answer = place.repro("predict", run.name, file, "--output", str(output))
        assert answer["digests"] == content["predictions"], end
        assert made(run)[-1]["outputs"] == {str(output): answer["sha256"]}
    done = place.run("repro", "predict", run.name, str(samples / "no.npy"))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


def test_an_export_is_the_model(place: Generated, run: Path, samples: Path, tmp_path: Path) -> None:
    archive, folder = tmp_path / "model.keras", tmp_path / "served"
    answer = place.repro("export", run.name, "--output", str(archive))
    assert answer["compared"].startswith("4 weights") and str(archive) in answer["files"]
    form = ("--format", "savedmodel")
    answer = place.repro("export", run.name, *form, "--output", str(folder))
    assert answer["largest"] < 1e-5 and len(answer["files"]) >= 3
    files = (run / "state.npz", archive, folder, samples / "test.npy")
    execute(place, LOADED, *map(str, files))
    done = place.run("repro", "export", run.name, "--format", "onnx")
    assert done.returncode == 2 and "tf2onnx" in done.stderr and done.stderr.count("\n") == 1


def test_a_state_that_was_altered_is_refused(place: Generated, run: Path, tmp_path: Path) -> None:
    copy = tmp_path / run.name
    shutil.copytree(run, copy)
    content = bytearray((copy / "state.npz").read_bytes())
    content[len(content) // 2] ^= 1
    (copy / "state.npz").write_bytes(content)
    for command in (("evaluate", str(copy)), ("export", str(copy))):
        done = place.run("repro", *command)
        assert done.returncode == 2 and "state.npz: altered" in done.stderr
        assert done.stderr.count("\n") == 1
    # A state that belongs to another run is whole, and is not this run's.
    done = place.run("repro", "train", "training.epochs=1", "model.units=32", "--json")
    other = Path(json.loads(done.stdout)["run_dir"])
    for file in ("split.npz", "ending.json", "ledger.jsonl"):
        shutil.copy(run / file, copy)
    shutil.copy(other / "state.npz", copy)
    assert place.run("repro", "evaluate", str(copy)).returncode == 2
    shutil.rmtree(other)


def test_code_that_changed_is_told_first(place: Generated, run: Path, tmp_path: Path) -> None:
    copy = place.copy(tmp_path / "project")
    copy.insert("models/dense.py", "    return ", "    activation = 'tanh'\n")
    done = copy.run("repro", "evaluate", str(run))
    assert done.returncode == 1, done.stderr
    assert "models/dense.py has changed" in done.stderr.splitlines()[0]
    assert "other bits" in done.stdout
    copy.insert("models/dense.py", "    return ", "    units = 8\n")
    done = copy.run("repro", "evaluate", str(run))
    assert done.returncode == 2
    assert "expected the shape" in done.stderr.splitlines()[1]
    copy.insert("data.py", "    return Dataset(\n        x,\n        y,\n", "    x[0] = 0\n")
    done = copy.run("repro", "evaluate", str(run))
    assert done.returncode == 2 and "expected the data that it was trained on" in done.stderr


def test_the_interface_does_what_the_commands_do(place: Generated, tmp_path: Path) -> None:
    copy = place.copy(tmp_path / "project")
    copy.append("data.py", BROKEN)
    done = execute(copy, INTERFACE)
    assert done.stdout == "done\n", "only the script prints to standard output"
    assert done.stderr.count("epoch 1/1") == 2, "the two runs of the gate, which was not quiet"

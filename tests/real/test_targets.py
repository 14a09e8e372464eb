"""Targets, losses, metrics, class weights and models that do not go together, in real trainings."""

from __future__ import annotations

import json
import math
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from .conftest import Generated, environment, some

pytestmark = pytest.mark.real

DATA = """
def _digits(y, **changed):
    from dataclasses import replace

    return replace(digits(), **changed, y=y)


def beyond() -> Dataset:
    return _digits(digits().y + 1)


def one_hot() -> Dataset:
    return _digits(np.eye(10, dtype=np.float32)[digits().y])


def counted() -> Dataset:
    return _digits(digits().y, weight=np.ones(len(digits().y), np.int64))


"""
COMPILED = """
import keras

def build(shape, classes):
    model = keras.Sequential([keras.Input(shape), keras.layers.Flatten()])
    model.compile("sgd", "mean_squared_error")
    return model
"""


@pytest.fixture(scope="module")
def odd(project: Generated, tmp_path_factory: pytest.TempPathFactory) -> Generated:
    """A project with data and a model of which each has something that does not fit."""
    made = project.copy(tmp_path_factory.mktemp("odd") / "project")
    made.insert("data.py", "def diabetes(", DATA)
    (made.package / "models" / "done.py").write_text(COMPILED)
    return made


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("data.name=beyond", "the model has 10 outputs, and there is 10 in the train part"),
        ("model.name=done", "optimizer: expected null, got Adam: done comes compiled out of its"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(odd: Generated, override: str, told: str) -> None:
    before = set(odd.root.glob("runs/*"))
    done = odd.run("repro", "train", override)
    assert done.returncode == 2, done.stdout + done.stderr
    assert told in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert set(odd.root.glob("runs/*")) == before


@pytest.mark.parametrize(
    "overrides",
    [
        ["data.name=one_hot", "training.loss=categorical_crossentropy", "training.metrics="
         "[accuracy,f1_score,precision,recall,auc,r2_score,top_k_categorical_accuracy]"],
        ["data.name=counted"],
    ],
    ids=["one-hot", "whole weights"],
)  # fmt: skip
def test_class_weights_and_metrics_are_computed(odd: Generated, overrides: list[str]) -> None:
    few = ["split.train_size=200", "training.epochs=1", 'training.class_weight={"3": 0.0}']
    answer = odd.repro("train", *few, *overrides)
    content = json.loads((Path(answer["run_dir"]) / "manifest.json").read_text())
    assert all(math.isfinite(value) for value in content["metrics"].values())
    assert content["recipe"]["parameters"]["training"]["class_weight"] == {"3": 0.0}


@pytest.mark.parametrize("backend", some(("tensorflow", "jax", "torch"), ("tensorflow",)))
def test_each_loss_and_metric_is_computed_or_refused(backend: str, project: Generated) -> None:
    """Never with a traceback, and never one number for ten: NumPy and scikit-learn say the same."""
    script = Path(__file__).with_name("losses.py")
    python = environment(backend)
    environ = os.environ | {"PYTHONPATH": str(project.root / "src"), "KERAS_BACKEND": backend}
    command = [str(python), str(script)]
    done = subprocess.run(command, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    found = answer["needs"]
    trained = 0
    for where, told in found.items():
        assert all(("\n" not in line and " needs " in line) or " looks at " in line
                   for line in told["refused"].values()), where  # fmt: skip
        for loss, results in told["results"].items():
            trained += 1
            assert "loss" in results, (where, loss)
            assert all(math.isfinite(value) for value in results.values()), (where, loss, results)
        for name, value in told.get("expected", {}).items():
            assert told["measured"][name] == pytest.approx(value, abs=1e-5), (where, name)
    assert trained == 94
    # Sparse labels and ten outputs, say, are for two losses alone.
    assert found["sparse, classes"]["loss"] == [
        "SparseCategoricalCrossentropy",
        "CategoricalGeneralizedCrossEntropy",
    ]
    assert found["one-hot, classes"]["results"].keys() >= {"CategoricalCrossentropy", "Huber"}
    assert "f1_score" in found["one-hot, classes"]["expected"]
    assert "f1_score" in found["binary column, share"]["expected"]
    assert "f1_score" in found["multi-label, shares"]["expected"]
    assert not found["numbers, shares"]["loss"]
    for name, told_of in {
        "several": "needs one output for each array of targets, and the model has 2 outputs for 1",
        "one softmax": "is 1 for every sample; linear would do for numbers, sigmoid for 0 and 1",
        "linear": "softmax would do for classes",
        "linear of two": "BinaryCrossentropy needs probabilities, and layer ",
        "compiled": "optimizer: expected null, got SGD: small comes compiled out of its build()",
        "fixed": "takes only batches of 16 samples",
        "stateful": "stateful=False would do",
        "stateful within": "stateful=False would do",
    }.items():
        assert told_of in answer["models"].get(name, ""), name
        assert "\n" not in answer["models"][name]

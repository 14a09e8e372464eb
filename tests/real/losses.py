"""Run in a project's environment: every loss and every metric on offer, tried on each kind of
targets with each kind of outputs. What is let pass makes two steps. Prints what came of it as JSON.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from sklearn import metrics as reference

from repro import backends
from repro.basics import files
from repro.basics.errors import BadInput
from repro.data.dataset import Part, Parts
from repro.data.feed import Chunk, Feed
from repro.recipe import objects, registry
from repro.recipe.parameters import Named, Optimizer, Own, Parameters, Training
from repro.recipe.project import Project
from repro.run import compiling, judging, needs, steps, targets

SAMPLES, WIDTH, CLASSES = 48, 5, 7
RANDOM = np.random.default_rng(0)
LABELS = np.arange(SAMPLES) % CLASSES
BINARY = (np.arange(SAMPLES) % 2).astype(np.int32)
SEVERAL = RANDOM.integers(0, 2, (SAMPLES, 4)).astype(np.float32)
SEVERAL[:2] = [[1], [0]]
NUMBERS = RANDOM.normal(size=(SAMPLES, 3)).astype(np.float32)
TARGETS: dict[str, np.ndarray] = {
    "sparse": LABELS,
    "sparse column": LABELS[:, None],
    "one-hot": np.eye(CLASSES, dtype=np.float32)[LABELS],
    "binary": BINARY,
    "binary column": BINARY[:, None],
    "signs": 2 * BINARY - 1,
    "multi-label": SEVERAL,
    "number": NUMBERS[:, 0],
    "number column": NUMBERS[:, :1],
    "numbers": NUMBERS,
    "sequence": RANDOM.integers(0, CLASSES, (SAMPLES, 4)),
}
OUTPUTS: dict[str, tuple[tuple[int, ...], str]] = {
    "classes": ((CLASSES,), "softmax"),
    "two": ((2,), "softmax"),
    "share": ((1,), "sigmoid"),
    "flat": ((), "tanh"),
    "shares": ((4,), "sigmoid"),
    "number": ((1,), "linear"),
    "numbers": ((3,), "linear"),
    "sequence": ((4, CLASSES), "softmax"),
}
TRAINED = {
    ("sparse", "classes"),
    ("sparse column", "classes"),
    ("one-hot", "classes"),
    ("binary", "two"),
    ("binary", "share"),
    ("binary column", "share"),
    ("signs", "number"),
    ("multi-label", "shares"),
    ("number", "number"),
    ("number", "flat"),
    ("number column", "number"),
    ("numbers", "numbers"),
    ("sequence", "sequence"),
}
"""Others are of the same shapes, or nothing passes."""

PROJECT = Project(files.MACHINERY.parents[1], "repro")
KNOWN = registry.read(files.MACHINERY)
NEEDED = ("recall", "precision", "sensitivity", "specificity")


def named(kind: str, name: str, y: np.ndarray | None = None) -> Named:
    """A loss or a metric with what it has to be given for these targets."""
    given: dict[str, Any] = {}
    if signature := KNOWN.classes[kind].get(name):
        given = {argument: 0.5 for argument in NEEDED if argument in signature.required}
    if name in ("F1Score", "FBetaScore") and y is not None and not one_class(y):
        given["threshold"] = 0.5
    return Named(**objects.named(KNOWN, kind, kind, {"name": name, **given}))


def one_class(y: np.ndarray) -> bool:
    """Whether each row has one class."""
    return bool(y.ndim == 2 and y.shape[1] > 1 and (y.sum(axis=1) == 1).all())


def small(shape: tuple[int, ...], activation: str) -> Any:
    dense = keras.layers.Dense(int(np.prod(shape, dtype=int)))
    last = [keras.layers.Reshape(shape), keras.layers.Activation(activation)]
    return keras.Sequential([keras.Input((WIDTH,)), dense, *last])


def train(samples: Parts, model: Any, loss: str, metrics: list[str]) -> dict[str, float]:
    """Makes a model ready as a run does, makes two steps, and returns their results."""
    given: dict[str, Any] = {"optimizer": {"name": "SGD"}}
    objects.spelled_out(KNOWN, given)
    y = samples.train.y if isinstance(samples.train.y, np.ndarray) else None
    parameters = Parameters(
        backend=keras.backend.backend(),
        training=Training(
            loss=named("losses", loss), metrics=[named("metrics", name, y) for name in metrics]
        ),
        data=Own(name="any"),
        model=Own(name="small"),
        optimizer=Optimizer(**given["optimizer"]),
    )
    targets.fresh(model)
    if model.compiled:
        compiling.as_it_came(model, parameters)
    compiling.compile_model(model, parameters, samples, PROJECT)
    with targets.checking(model, samples, CLASSES, parameters.training):
        steps.ready(model, samples.train)
    train_on = backends.current().Steps(model, "train", samples.train, False)
    train_on(Chunk(np.arange(SAMPLES, dtype=np.int32).reshape(2, -1)))
    return steps.results(model)


def expected(y: np.ndarray, outputs: np.ndarray, names: list[str]) -> dict[str, float]:
    """What metrics are, by NumPy and scikit-learn, of targets brought to the outputs' shape."""
    found = {}
    whole = "accuracy" in names and outputs.shape[-1] > 1
    labels = outputs.argmax(axis=-1) if outputs.shape[-1] > 1 else (outputs > 0.5).astype(int)
    if whole:
        sparse = y.argmax(axis=-1) if y.shape == outputs.shape else y.reshape(labels.shape)
        found["accuracy"] = float((labels == sparse).mean())
    if "MeanSquaredError" in names:
        y = y.reshape(outputs.shape)
        found["mean_squared_error"] = float(np.square(y - outputs).mean())
        found["mean_absolute_error"] = float(np.abs(y - outputs).mean())
    if "R2Score" in names:
        found["r2_score"] = reference.r2_score(y, outputs)
    if "F1Score" in names:
        told = np.eye(y.shape[1])[labels] if one_class(y) else outputs > 0.5
        found["f1_score"] = reference.f1_score(
            y, told, average="macro" if y.shape[1] > 1 else "binary", zero_division=0
        )
    return found


def models() -> dict[str, str]:
    """What is said of models that cannot be trained as they are, by their names."""
    layers, x = keras.layers, np.zeros((SAMPLES, WIDTH), np.float32)
    samples, two = Part(x, BINARY), Part(x, {"one": BINARY[:, None], "other": BINARY[:, None]})

    def several() -> Any:
        inputs = keras.Input((WIDTH,))
        return keras.Model(inputs, [layers.Dense(2)(inputs), layers.Dense(2)(inputs)])

    def named() -> Any:
        inputs = keras.Input((WIDTH,))
        made = {"one": layers.Dense(1, activation="sigmoid"), "other": layers.Dense(1)}
        return keras.Model(inputs, {name: layer(inputs) for name, layer in made.items()})

    def recurrent(layer: Any, size: int | None) -> Any:
        return keras.Sequential([keras.Input(batch_shape=(size, 3, WIDTH)), layer])

    def compiled() -> Any:
        model = small((2,), "softmax")
        model.compile("rmsprop", "sparse_categorical_crossentropy")
        return model

    made: dict[str, Callable[[], Any]] = {
        "several": several,
        "linear of two": named,
        "one softmax": lambda: small((1,), "softmax"),
        "linear": lambda: small((2,), "linear"),
        "compiled": compiled,
        "fixed": lambda: recurrent(layers.LSTM(2), 16),
        "stateful": lambda: recurrent(layers.LSTM(2, stateful=True), None),
        "stateful within": lambda: recurrent(
            layers.Bidirectional(layers.GRU(2, stateful=True)), None
        ),
    }
    told = {}
    for name, make in made.items():
        part = two if name == "linear of two" else samples
        binary = part is two or name == "one softmax"
        loss = "BinaryCrossentropy" if binary else "SparseCategoricalCrossentropy"
        try:
            with targets.building():
                model = make()
            train(Parts(part, part, part), model, loss, [])
        except BadInput as error:
            told[name] = str(error)
    return told


def main() -> dict[str, Any]:
    x = RANDOM.normal(size=(SAMPLES, WIDTH)).astype(np.float32)
    found: dict[str, Any] = {}
    for kind, y in TARGETS.items():
        part = Part(x, y)
        samples = Parts(part, part, part)
        for head, (shape, activation) in OUTPUTS.items():
            told: dict[str, Any] = {"refused": {}, "results": {}}
            seen = needs.Seen({"train": y}, shape, CLASSES)
            for key, of in (("loss", needs.LOSSES), ("metrics", needs.METRICS)):
                told[key] = []
                for name in of:
                    asked = named("losses" if key == "loss" else key, name, y)
                    try:
                        needs.check(seen, key, [asked], of)
                        told[key].append(name)
                    except BadInput as error:
                        told["refused"][f"{key} {name}"] = str(error)
            if (kind, head) in TRAINED:
                for loss in told["loss"]:
                    model = small(shape, activation)
                    metrics = told["metrics"] if loss == told["loss"][-1] else []
                    try:
                        told["results"][loss] = train(samples, model, loss, metrics)
                    except BadInput as error:  # The last layer's, such as poisson's.
                        told["refused"][f"loss {loss}"] = str(error)
                        continue
                    if metrics:
                        make = backends.current().Steps(model, "test", part, False)
                        judge_on = steps.PartSteps("test", Feed(part), make)
                        told["measured"] = steps.evaluate(model, judge_on, SAMPLES // 3)
                        outputs = judging.predictions(model, judge_on, SAMPLES).arrays
                        told["expected"] = expected(y, outputs["output 0"], metrics)
            found[f"{kind}, {head}"] = told
    return found


if __name__ == "__main__":
    json.dump({"needs": main(), "models": models()}, sys.stdout)

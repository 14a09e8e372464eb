"""One step outside the graph, with models that are not quite ordinary, on the project's backend."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from repro.recipe import reading
from repro.recipe.project import Project

PROJECT = Project.find()
BACKEND = reading.parameters(PROJECT.source, PROJECT.root / "params.yaml").backend

SCRIPT = """
import json, sys
import keras, numpy as np
from keras import layers
from repro import Part
from repro.run import probing

part = Part(np.ones((4, 3), np.float32), np.arange(4, dtype=np.int32) % 2)
indices = np.array([2, 0], np.int32)


def built(model, loss):
    model.compile(optimizer=keras.optimizers.SGD(), loss=loss)
    model.build((None, 3))
    model.optimizer.build(model.trainable_variables)
    return model


class Pair(layers.Layer):
    def call(self, x):
        return x, None


class First(layers.Layer):
    def __init__(self):
        super().__init__()
        self.pair, self.table = Pair(), layers.Embedding(5, 2)

    def call(self, x):
        rows = keras.ops.cast(keras.ops.round(x), "int32")
        return self.pair(x)[0] + keras.ops.mean(self.table(rows))


class Own(keras.Sequential):
    # What compiles its step may make other types of the batch: TensorFlow by a signature, JAX of
    # all that has 64 bits.
    def learn(self, x, y):
        def step(x, y):
            seen.append(str(y.dtype))
            return self(x)

        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            kinds = [tf.TensorSpec((None, 3), tf.float32), tf.TensorSpec((None,), tf.int64)]
            step = tf.function(step, input_signature=kinds)
        elif keras.backend.backend() == "jax":
            import jax

            step = jax.jit(step)
        step(x, y)


pair = [keras.Input((3,)), First(), layers.Dense(2, activation="softmax")]
pair = built(keras.Sequential(pair), "sparse_categorical_crossentropy")
found = probing.record(pair, part, indices)
seen = []
own = built(Own([keras.Input((3,)), layers.Dense(2)]), "mse")
for kind in (np.int32, np.int64):
    typed = Part(part.x, part.y.astype(kind))
    own.learn(typed.x[indices], typed.y[indices])
    probing.record(own, typed, indices)
np.savez(sys.argv[1], allow_pickle=False, **found)
print(json.dumps({"keys": sorted(found), "seen": seen}))
"""


def test_a_step_is_recorded_of_models_that_are_not_quite_ordinary(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "record.npz")],
        capture_output=True,
        text=True,
        cwd=PROJECT.root,
        env={**os.environ, "KERAS_BACKEND": BACKEND, "PYTHONPATH": str(PROJECT.root / "src")},
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    layers = [key for key in found["keys"] if key.startswith("activation/")]
    # The None of `(x, None)` is no tensor, and hides none of the others.
    assert len([key for key in layers if "pair" in key]) == 1
    assert any("embedding" in key for key in found["keys"] if key.startswith("gradient/"))
    # A step that is recorded has the types of the compiled one.
    assert len(found["seen"]) == 4
    assert found["seen"][0::2] == found["seen"][1::2]

"""Prints what `portable.watching` sees of each of some computations, and checks that nothing in
them changes: `python watching.py` in the environment of a run under `portable`."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from repro.backends import portable
from repro.environment import determinism
from repro.recipe.parameters import Own, Parameters

NONE = Own(name="none")
determinism.apply(Parameters(guarantee="portable", data=NONE, model=NONE, optimizer=None), 1234)

import keras  # noqa: E402  (only now are the settings in effect)
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

x = tf.constant(np.linspace(-3, 3, 1001), tf.float32)
images = np.linspace(0, 1, 40 * 64).astype(np.float32).reshape(40, 8, 8, 1)
model = keras.Sequential(
    [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(3, "softmax", name="out")]
)
curved = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Activation("tanh", name="bend")])
curved.layers[0].activation = tf.atan


@tf.function  # type: ignore[untyped-decorator]
def arc(x: Any) -> Any:
    return tf.atan(x)


@tf.function  # type: ignore[untyped-decorator]
def within(x: Any) -> Any:
    return tf.cond(x[0] > 0, lambda: x, lambda: arc(x))


@tf.function(jit_compile=True)  # type: ignore[untyped-decorator]
def compiled(x: Any) -> Any:
    return tf.sin(x)


def gradient(function: Callable[[Any], Any]) -> Any:
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = function(x)
    return tape.gradient(y, x)


CASES: dict[str, Callable[[], Any]] = {
    "by itself": lambda: tf.atan(x),
    "in a function": lambda: arc(x),
    "in a function of a function": lambda: within(x),
    "in a pipeline": lambda: tf.stack(list(tf.data.Dataset.from_tensors(x).map(tf.atan))),
    "in a gradient": lambda: gradient(arc),
    "compiled by XLA": lambda: compiled(x),
    "in double precision": lambda: tf.exp(tf.cast(x, tf.float64)),
    "in a layer": lambda: curved.predict(images, verbose=0),
    "in no way": lambda: gradient(lambda x: tf.reduce_sum(tf.tanh(x) * x[0])),
    "in no prediction": lambda: model.predict(images, batch_size=7, verbose=0),
    "in no call": lambda: model(images) + keras.random.normal((40, 3), seed=1),
}

before = {name: np.asarray(case()).tobytes() for name, case in CASES.items()}
seen: dict[str, list[str]] = {}
told: set[str] = set()
for name, case in CASES.items():
    with portable.watching(name):
        assert np.asarray(case()).tobytes() == before[name], name
    seen[name] = [line for line in portable.watched(["bend"]) if line not in told]
    told.update(seen[name])
print(json.dumps(seen))

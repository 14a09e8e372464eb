"""A dense network that judges itself, and makes its series, by functions that TensorFlow computes
otherwise on other processors."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import layers, ops


@keras.saving.register_keras_serializable(package="judging")
class Judging(keras.Sequential):
    def judge(self, x: np.ndarray, y: np.ndarray) -> dict[str, Any]:
        return {"angle": ops.mean(ops.arctan(self(x)))}

    def produce(self) -> dict[str, np.ndarray]:
        return {"series": np.asarray(ops.erfinv(ops.linspace(-0.9, 0.9, 7)))}


def build(input_shape: tuple[int, ...], classes: int) -> keras.Model:
    return Judging(
        [
            keras.Input(input_shape),
            layers.Flatten(),
            layers.Dense(classes, activation="softmax"),
        ],
        name="judging",
    )

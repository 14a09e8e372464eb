"""An LSTM over the rows of an image, and layer normalization."""

from __future__ import annotations

import keras
from keras import layers


def build(input_shape: tuple[int, ...], classes: int) -> keras.Model:
    return keras.Sequential(
        [
            keras.Input(input_shape),
            layers.Reshape(input_shape[:2]),
            layers.LSTM(16, recurrent_dropout=0.1),
            layers.LayerNormalization(),
            layers.Dense(classes, activation="softmax"),
        ]
    )

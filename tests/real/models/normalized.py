"""A small CNN with augmentation, batch normalization and dropout."""

from __future__ import annotations

import keras
from keras import layers


def build(input_shape: tuple[int, ...], classes: int) -> keras.Model:
    return keras.Sequential(
        [
            keras.Input(input_shape),
            layers.RandomFlip("horizontal"),
            layers.Conv2D(8, 3),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Dropout(0.2),
            layers.Flatten(),
            layers.Dense(classes, activation="softmax"),
        ]
    )

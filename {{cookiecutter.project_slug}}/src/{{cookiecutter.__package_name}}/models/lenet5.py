"""LeNet-5: two convolutions, two poolings, three dense layers.

    repro train model.name=lenet5

Takes images. Source of the architecture: Y. LeCun, L. Bottou, Y. Bengio, P. Haffner,
"Gradient-Based Learning Applied to Document Recognition", 1998.
"""

from __future__ import annotations

from typing import Literal

import keras
from keras import layers

from repro.parameters import Fraction, PositiveInt


def build(
    input_shape: tuple[int, ...],
    classes: int,
    *,
    filters: PositiveInt = 6,
    kernel_size: PositiveInt = 5,
    activation: Literal["relu", "tanh", "sigmoid"] = "relu",
    pooling: Literal["max", "average"] = "max",
    dropout: Fraction = 0.0,
    translation: Fraction = 0.0,
) -> keras.Model:
    """Input (batch, height, width, channels), output (batch, classes), a probability each.

    `translation` moves each training image at random by up to that share of its size. The second
    convolution keeps the size of images too small to be cut, such as those of 8x8 pixels.
    """
    pool = layers.MaxPooling2D if pooling == "max" else layers.AveragePooling2D
    cut = "valid" if min(input_shape[:2]) // 2 > kernel_size else "same"
    augmentation = [layers.RandomTranslation(translation, translation)] if translation else []
    return keras.Sequential(
        [
            keras.Input(input_shape),
            *augmentation,
            layers.Conv2D(filters, kernel_size, padding="same", activation=activation, name="c1"),
            pool(name="s2"),
            layers.Conv2D(16, kernel_size, padding=cut, activation=activation, name="c3"),
            pool(name="s4"),
            layers.Flatten(),
            layers.Dense(120, activation=activation, name="c5"),
            layers.Dense(84, activation=activation, name="f6"),
            layers.Dropout(dropout, name="dropout"),
            layers.Dense(classes, activation="softmax", name="output"),
        ],
        name="lenet5",
    )

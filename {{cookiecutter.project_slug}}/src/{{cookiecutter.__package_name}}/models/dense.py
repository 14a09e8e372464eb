"""A dense network: 784 neurones, then one output a class.

    repro train model.name=dense

Takes images or vectors of any shape. Source of the architecture: J.-L. Charles, "Machine Learning
feedbacks: Reproducibility, Meta-parameters", 2025.
"""

from __future__ import annotations

from typing import Literal

import keras
from keras import layers

from repro import Fraction, PositiveInt


def build(
    input_shape: tuple[int, ...],
    classes: int,
    *,
    units: PositiveInt = 784,
    activation: Literal["relu", "tanh", "sigmoid", "gelu"] = "relu",
    dropout: Fraction = 0.0,
    output: Literal["softmax", "linear"] = "softmax",
) -> keras.Model:
    """Input (batch, *input_shape), output (batch, classes): the probability of each class, or so
    many numbers."""
    return keras.Sequential(
        [
            keras.Input(input_shape),
            layers.Flatten(),
            layers.Dense(units, activation=activation, name="hidden"),
            layers.Dropout(dropout, name="dropout"),
            layers.Dense(classes, activation=output, name="output"),
        ],
        name="dense",
    )

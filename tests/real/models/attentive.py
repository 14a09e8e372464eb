"""A block of a Transformer over the rows of an image: attention, layer normalization, GELU."""

from __future__ import annotations

import keras
from keras import layers


def build(input_shape: tuple[int, ...], classes: int) -> keras.Model:
    image = keras.Input(input_shape)
    rows = layers.Dense(16)(layers.Reshape(input_shape[:2])(image))
    attended = layers.MultiHeadAttention(2, 8, dropout=0.1)(rows, rows)
    rows = layers.LayerNormalization()(rows + attended)
    inner = layers.Dense(16)(layers.Dense(32, activation="gelu")(rows))
    rows = layers.LayerNormalization()(rows + inner)
    pooled = layers.GlobalAveragePooling1D()(rows)
    return keras.Model(image, layers.Dense(classes, activation="softmax")(pooled))

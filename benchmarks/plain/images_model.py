"""The small network that all readers of images feed."""

import keras
from keras import layers


def network(input_shape, classes):
    return keras.Sequential(
        [
            keras.Input(input_shape),
            layers.Rescaling(1 / 255),
            layers.Conv2D(8, 5, strides=4, activation="relu"),
            layers.Conv2D(16, 3, strides=2, activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(classes, activation="softmax"),
        ]
    )


def build(input_shape, classes):
    model = network(input_shape, classes)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model

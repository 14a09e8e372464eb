"""The lecture's code: Keras's `fit`, `seeded` with its recipe for reproducibility; with six numbers
of epochs, its loop over six sizes of a batch, keeping the best weights of each.

Early stopping ends the loop of the lecture elsewhere each time. Here the epochs are given, so that
two programs train the same number of them.

Source: J.-L. Charles, "Machine Learning feedbacks: Reproducibility, Meta-parameters", 2025.
"""

import json
import os
import sys
import time

import keras
import numpy as np
import tensorflow as tf
from keras import layers

SEED = 1234
BATCH = {"dense": 16, "lenet5": 32}
SIZES = (16, 32, 64, 256, 512, 1024)


def build(name, seed):
    if seed is not None:
        keras.utils.set_random_seed(seed)
        tf.config.experimental.enable_op_determinism()
    if name == "dense":
        parts = [layers.Flatten(), layers.Dense(784, activation="relu")]
    else:
        parts = [
            layers.Conv2D(6, 5, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(16, 5, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(120, activation="relu"),
            layers.Dense(84, activation="relu"),
        ]
    model = keras.Sequential(
        [keras.Input((28, 28, 1)), *parts, layers.Dense(10, activation="softmax")]
    )
    model.compile(loss="categorical_crossentropy", optimizer="adam", metrics=["accuracy"])
    return model


def main(name, epochs, *options):
    with np.load(os.environ["MNIST"]) as file:
        data = {key: file[key] for key in file.files}
    x, x_held = (data[key][..., None].astype("float32") / 255 for key in ("x_train", "x_test"))
    y, y_held = (keras.utils.to_categorical(data[key], 10) for key in ("y_train", "y_test"))
    seed = SEED if "seeded" in options else None
    numbers = [int(number) for number in epochs.split(",")]
    sizes = SIZES if len(numbers) > 1 else (BATCH[name],)
    begun = time.perf_counter()
    for size, number in zip(sizes, numbers, strict=True):
        best = keras.callbacks.EarlyStopping(patience=number, restore_best_weights=True)
        model = build(name, seed)
        history = model.fit(
            x,
            y,
            epochs=number,
            batch_size=size,
            validation_data=(x_held[:5000], y_held[:5000]),
            callbacks=[best] if len(numbers) > 1 else [],
            verbose=0,
        )
    seconds = time.perf_counter() - begun
    _, accuracy = model.evaluate(x_held[5000:], y_held[5000:], batch_size=sizes[-1], verbose=0)
    validated = history.history["val_accuracy"][-1]
    print(json.dumps({"seconds": seconds, "accuracy": (validated + accuracy) / 2}))


main(*sys.argv[1:])

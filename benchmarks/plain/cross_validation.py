"""scikit-learn's `cross_val_score` with Keras's wrapper: five folds of MNIST, one epoch each."""

import json
import os
import time

import keras
import numpy as np
from keras import layers
from keras.wrappers import SKLearnClassifier
from sklearn.model_selection import StratifiedKFold, cross_val_score


def build(X, y):
    model = keras.Sequential(
        [
            keras.Input(X.shape[1:]),
            layers.Flatten(),
            layers.Dense(784, activation="relu"),
            layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(loss="categorical_crossentropy", optimizer="adam", metrics=["accuracy"])
    return model


def main():
    with np.load(os.environ["MNIST"]) as file:
        x, y = file["x_train"].reshape(60_000, 784).astype("float32") / 255, file["y_train"]
    classifier = SKLearnClassifier(build, fit_kwargs={"epochs": 1, "batch_size": 16, "verbose": 0})
    begun = time.perf_counter()
    folds = StratifiedKFold(5, shuffle=True, random_state=1234)
    scores = cross_val_score(classifier, x, y, cv=folds)
    print(json.dumps({"seconds": time.perf_counter() - begun, "accuracy": scores.mean()}))


main()

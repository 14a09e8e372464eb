"""A functional model on a frozen part, saved as `.keras`, with a table of its history."""

import csv
import os

import keras
import numpy as np

keras.utils.set_random_seed(11)
x = np.random.normal(size=(48, 8, 8, 1)).astype("float32")
y = np.random.randint(0, 3, 48)

image = keras.Input((8, 8, 1))
base = keras.Sequential([keras.layers.Conv2D(4, 3, activation="relu"), keras.layers.Flatten()])
base.trainable = False
hidden = keras.layers.BatchNormalization()(base(image))
model = keras.Model(image, keras.layers.Dense(3, activation="softmax")(hidden))
model.compile("adam", "sparse_categorical_crossentropy")
history = model.fit(x, y, batch_size=16, epochs=2, validation_split=0.25, verbose=0)

model.save("model.keras")
os.makedirs("results", exist_ok=True)
with open("results/history.csv", "w", newline="") as file:
    table = csv.writer(file)
    table.writerow(history.history)
    table.writerows(zip(*history.history.values(), strict=True))

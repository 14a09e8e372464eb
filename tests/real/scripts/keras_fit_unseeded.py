"""A small classifier by `fit`, as many first scripts are: nothing is seeded."""

import keras
import numpy as np

x = np.linspace(-1, 1, 96 * 4, dtype="float32").reshape(96, 4)
y = (x.sum(axis=1) > 0).astype("int32")

model = keras.Sequential(
    [keras.layers.Dense(8, activation="relu"), keras.layers.Dropout(0.2), keras.layers.Dense(2)]
)
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model.compile("adam", loss, metrics=["accuracy"])
history = model.fit(x, y, batch_size=16, epochs=2)
print("loss", history.history["loss"][-1])

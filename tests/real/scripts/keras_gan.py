"""Two networks against each other by `train_on_batch`."""

import keras
import numpy as np

real = np.random.default_rng(5).normal(2, 0.5, size=(64, 2)).astype("float32")
generator = keras.Sequential(
    [keras.Input((3,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(2)]
)
judge = keras.Sequential([keras.Input((2,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(1)])
judge.compile("adam", keras.losses.BinaryCrossentropy(from_logits=True))

judge.trainable = False
noise = keras.Input((3,))
both = keras.Model(noise, judge(generator(noise)))
both.compile("adam", keras.losses.BinaryCrossentropy(from_logits=True))
judge.trainable = True

for step in range(6):
    drawn = np.random.normal(size=(16, 3)).astype("float32")
    made = np.asarray(keras.ops.convert_to_numpy(generator(drawn)))
    chosen = real[np.random.randint(0, 64, 16)]
    first = judge.train_on_batch(np.concatenate([chosen, made]), np.repeat([[1.0], [0.0]], 16, 0))
    second = both.train_on_batch(drawn, np.ones((16, 1)))
    print(step, float(np.ravel(first)[0]), float(np.ravel(second)[0]))

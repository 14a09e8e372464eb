"""A loop of one's own: a compiled step with GradientTape, on TensorFlow."""

import keras
import numpy as np
import tensorflow as tf

x = np.random.default_rng(3).normal(size=(64, 6)).astype("float32")
y = x[:, :1] * 2 - x[:, 1:2]
data = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(64).batch(16)

model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(5, "tanh"), keras.layers.Dense(1)])
optimizer = keras.optimizers.Adam(1e-2)


@tf.function
def step(batch, target):
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean((model(batch, training=True) - target) ** 2)
    gradients = tape.gradient(loss, model.trainable_weights)
    optimizer.apply_gradients(zip(gradients, model.trainable_weights, strict=True))
    return loss


for epoch in range(3):
    for batch, target in data:
        loss = step(batch, target)
    print(f"epoch {epoch + 1}: {float(loss):.6f}")

"""The practical limit: an epoch in one call of one hand-written graph, without Keras; `xla` too.

No metrics but the loss, no callbacks, no custom step: less than any of the others does.
"""

import json
import os
import sys
import time

import numpy as np
import tensorflow as tf

BATCH = {"dense": 16, "lenet5": 32}
SHAPES = {
    "dense": [(784, 784), (784, 10)],
    "lenet5": [(5, 5, 1, 6), (5, 5, 6, 16), (400, 120), (120, 84), (84, 10)],
}


def outputs(name, weights, x):
    if name == "dense":
        (w1, b1), (w2, b2) = weights
        return tf.nn.relu(tf.reshape(x, (-1, 784)) @ w1 + b1) @ w2 + b2
    (k1, b1), (k2, b2), *dense = weights
    x = tf.nn.max_pool2d(tf.nn.relu(tf.nn.conv2d(x, k1, 1, "SAME") + b1), 2, 2, "VALID")
    x = tf.nn.max_pool2d(tf.nn.relu(tf.nn.conv2d(x, k2, 1, "VALID") + b2), 2, 2, "VALID")
    x = tf.reshape(x, (-1, 400))
    for w, b in dense[:-1]:
        x = tf.nn.relu(x @ w + b)
    w, b = dense[-1]
    return x @ w + b


def main(name, epochs, *options):
    with np.load(os.environ["MNIST"]) as file:
        data = {key: file[key] for key in file.files}
    x, x_held = (
        tf.constant(data[key][..., None].astype("float32") / 255) for key in ("x_train", "x_test")
    )
    y, y_held = (tf.constant(data[key].astype("int32")) for key in ("y_train", "y_test"))
    generator = np.random.default_rng(1234)
    size, begun = BATCH[name], time.perf_counter()
    variables = []
    for shape in SHAPES[name]:
        limit = np.sqrt(6 / (np.prod(shape[:-2]) * (shape[-2] + shape[-1])))
        kernel = generator.uniform(-limit, limit, shape).astype("float32")
        variables += [tf.Variable(kernel), tf.Variable(tf.zeros(shape[-1]))]
    first, second = ([tf.Variable(tf.zeros_like(v)) for v in variables] for _ in range(2))
    steps = tf.Variable(0.0)

    def pairs(values):
        return list(zip(values[::2], values[1::2], strict=True))

    @tf.function(autograph=False, jit_compile="xla" in options)
    def epoch(order):
        def body(number):
            rows = order[number]
            with tf.GradientTape() as tape:
                logits = outputs(name, pairs(variables), tf.gather(x, rows))
                loss = tf.reduce_mean(
                    tf.nn.sparse_softmax_cross_entropy_with_logits(tf.gather(y, rows), logits)
                )
            steps.assign_add(1.0)
            rate = 0.001 * tf.sqrt(1 - 0.999**steps) / (1 - 0.9**steps)
            gradients = tape.gradient(loss, variables)
            for v, g, m, n in zip(variables, gradients, first, second, strict=True):
                m.assign_add((g - m) * 0.1)
                n.assign_add((g * g - n) * 0.001)
                v.assign_sub(rate * m / (tf.sqrt(n) + 1e-7))
            return [number + 1]

        tf.while_loop(lambda number: number < order.shape[0], body, [0], parallel_iterations=1)

    @tf.function(autograph=False, jit_compile="xla" in options)
    def right(images, labels):
        found = tf.argmax(outputs(name, pairs(variables), images), 1, tf.int32)
        return tf.reduce_mean(tf.cast(found == labels, tf.float32))

    for _ in range(int(epochs)):
        order = generator.permutation(len(x)).astype("int32")
        epoch(tf.constant(order[: len(x) // size * size].reshape(-1, size)))
        validated = float(right(x_held[:5000], y_held[:5000]))
    seconds = time.perf_counter() - begun
    accuracy = float(right(x_held[5000:], y_held[5000:]))
    print(json.dumps({"seconds": seconds, "accuracy": (validated + accuracy) / 2}))


main(*sys.argv[1:])

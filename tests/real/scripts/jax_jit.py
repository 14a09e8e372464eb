"""A step of one's own under `jax.jit`, with a key of its own."""

import jax
import jax.numpy as jnp
import numpy as np


@jax.jit
def step(weights, x, y):
    loss, gradient = jax.value_and_grad(lambda w: jnp.mean((jnp.tanh(x @ w) - y) ** 2))(weights)
    return weights - 0.1 * gradient, loss


key = jax.random.key(5)
x = jax.random.normal(key, (64, 8))
y = jnp.sin(x.sum(axis=1, keepdims=True))
weights = jax.random.normal(jax.random.fold_in(key, 1), (8, 1))
for number in range(5):
    weights, loss = step(weights, x, y)
    print(f"step {number + 1}: {float(loss):.8f}")
np.savez("weights.npz", weights=weights)

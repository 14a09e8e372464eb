"""Convolutions of grey images without and with `portable`: other operations, the same bits."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from repro.backends import portable
from repro.backends import tensorflow as backend
from repro.recipe.parameters import Own, Parameters

CASES = (
    ((5, 5), "SAME", 6),
    ((2, 3), "VALID", 4),
    ((4, 1), "SAME", 3),
    ((13, 11), "VALID", 2),
)


def convolve(size: tuple[int, int], padding: str, filters: int) -> tuple[set[str], list[bytes]]:
    """The kinds of operations, and the bits of the result and of both gradients."""
    images = tf.random.stateless_normal((8, 13, 11, 1), (1, 2))
    kernel = tf.random.stateless_normal((*size, 1, filters), (3, 4))

    @tf.function  # type: ignore[untyped-decorator]
    def graph() -> tuple[Any, ...]:
        with tf.GradientTape() as tape:
            tape.watch([images, kernel])
            result = tf.nn.convolution(images, kernel, 1, padding)
            loss = tf.reduce_sum(result**2)
        return result, *tape.gradient(loss, (images, kernel))

    kinds = portable.kinds(graph.get_concrete_function().graph)
    return kinds, [tensor.numpy().tobytes() for tensor in graph()]


def main() -> None:
    none = Own(name="none")
    backend.apply(Parameters(data=none, model=none, optimizer=None))
    portable._fix_cache_sizes()  # on which TensorFlow's sums depend as well
    before = [convolve(*case) for case in CASES]
    portable.apply()
    after = [convolve(*case) for case in CASES]
    assert all("Conv2D" in kinds for kinds, _ in before)
    assert not any("Conv2D" in kinds for kinds, _ in after)
    assert [bits for _, bits in before] == [bits for _, bits in after]


if __name__ == "__main__":
    main()

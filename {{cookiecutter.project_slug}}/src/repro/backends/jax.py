"""JAX: step after step, each compiled by XLA."""

from __future__ import annotations

import contextlib
import os
from typing import Any, Literal

import numpy as np

from repro.data.dataset import Part
from repro.recipe.parameters import Parameters

FLAGS = {
    "--xla_gpu_deterministic_ops": "true",
    # A product of matrices is cut by the number of threads, and that is the number of cores.
    "--xla_cpu_multi_thread_eigen": "false",
}


def environment(parameters: Parameters) -> dict[str, str]:
    """XLA reads its flags, and the number of its threads, when it starts."""
    values = {"JAX_ENABLE_X64": "1"} if parameters.training.dtype == "float64" else {}
    if parameters.guarantee == "none":
        return values
    return values | {
        "XLA_FLAGS": " ".join(f"{name}={value}" for name, value in FLAGS.items()),
        "NPROC": str(parameters.threads),
    }


def apply(parameters: Parameters) -> None:
    """The way random numbers are drawn, which changed from one version to another."""
    import jax

    if parameters.guarantee != "none":
        jax.config.update("jax_default_prng_impl", "threefry2x32")
        jax.config.update("jax_threefry_partitionable", True)


def in_effect() -> dict[str, Any]:
    """What JAX says it does. XLA does not tell its flags: what it was started with stands here."""
    import jax

    return {
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "xla_threads": int(os.environ.get("NPROC", "0")),
        "random_generator": jax.config.jax_default_prng_impl,
        "threefry_partitionable": bool(jax.config.jax_threefry_partitionable),
    }


def expected(parameters: Parameters, guarantee: str) -> dict[str, Any]:
    """What `in_effect` returns where the guarantee holds."""
    started = environment(parameters)
    return {
        "xla_flags": started["XLA_FLAGS"],
        "xla_threads": int(started["NPROC"]),
        "random_generator": "threefry2x32",
        "threefry_partitionable": True,
    }


def gpus() -> list[str]:
    """The names of the GPUs that JAX may use."""
    import jax

    return [str(device.device_kind) for device in jax.devices() if device.platform == "gpu"]


def generators() -> dict[str, np.ndarray]:
    """None: JAX has no generator of its own, only keys that are handed on."""
    return {}


def restore(found: dict[str, np.ndarray]) -> None:
    """See `generators`."""


class Steps:
    """A function that makes a step on each batch of a chunk of indices, of shape (steps, batch)."""

    graph: Any = None

    def __init__(
        self, model: Any, kind: Literal["train", "test"], part: Part, jit_compile: bool
    ) -> None:
        """`part` is what the indices are of; XLA compiles in any case."""
        import jax

        arrays = [jax.numpy.asarray(array) for array in part.arrays().values()]
        step = model.train_step if kind == "train" else model.test_step
        self.part, self._model, self._kind = part, model, kind

        # Not one compiled loop over the chunk: XLA's convolutions are many times slower in a loop.
        def run(state: Any, arrays: Any, rows: Any) -> Any:
            return step(state, tuple(array[rows] for array in arrays))[1]

        # A test leaves the weights as they are, and they may be shared: with `use_ema` they are, at
        # the end, the very arrays of their averages.
        donated = 0 if kind == "train" else ()
        self._arrays, self._run = arrays, jax.jit(run, donate_argnums=donated)

    def __call__(self, indices: np.ndarray) -> None:
        import jax

        variables = _variables(self._model, self._kind)
        state = tuple([variable.value for variable in group] for group in variables)
        for rows in indices:
            state = self._run(state, self._arrays, rows)
        # Asked for is not made: the ledger would wait, and its time be that of the steps.
        _assign(variables, jax.block_until_ready(state))


def _variables(model: Any, kind: str) -> tuple[list[Any], ...]:
    """The groups of variables of Keras's stateless steps on JAX (`JAXTrainer.train_step`)."""
    optimizer = (model.optimizer.variables,) if kind == "train" else ()
    return (
        model.trainable_variables,
        model.non_trainable_variables,
        *optimizer,
        model.metrics_variables,
    )


def _assign(variables: tuple[list[Any], ...], state: Any) -> None:
    for group, values in zip(variables, state, strict=True):
        for variable, value in zip(group, values, strict=True):
            variable.assign(value)


def one_step(model: Any, batch: tuple[np.ndarray, ...]) -> None:
    """Makes a training step on a batch without compiling it."""
    import jax

    with uncompiled():
        variables = _variables(model, "train")
        state = tuple([variable.value for variable in group] for group in variables)
        _, state = model.train_step(state, tuple(jax.numpy.asarray(array) for array in batch))
        _assign(variables, state)


def uncompiled() -> contextlib.AbstractContextManager[None]:
    """A block in which JAX compiles nothing."""
    import jax

    block: contextlib.AbstractContextManager[None] = jax.disable_jit()
    return block


def as_compiled(batch: tuple[np.ndarray, ...]) -> tuple[Any, ...]:
    """A batch as the functions of a model's own `learn` get it: of JAX's types.

    A compiled function makes int32 of int64, say; one that is not compiled takes what it is given.
    """
    import jax

    return tuple(jax.numpy.asarray(array) for array in batch)


def concrete(tensor: Any) -> np.ndarray:
    """The content of a tensor, also of one that a gradient is being taken with respect to."""
    while hasattr(tensor, "primal"):
        tensor = tensor.primal
    return np.asarray(tensor)

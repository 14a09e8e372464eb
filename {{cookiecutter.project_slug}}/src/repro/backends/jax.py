"""JAX: makes one step after the other, each compiled by XLA."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from repro.data.dataset import Part
from repro.data.feed import Chunk

if TYPE_CHECKING:
    from repro.recipe.parameters import Parameters

FLAGS = {
    "--xla_gpu_deterministic_ops": "true",
    # Else XLA cuts a matrix product by the number of its threads, which is the number of cores.
    "--xla_cpu_multi_thread_eigen": "false",
}


def environment(parameters: Parameters) -> dict[str, str]:
    """Returns XLA's flags and the number of its threads, which it reads when it starts."""
    values = {"JAX_ENABLE_X64": "1"} if parameters.training.dtype == "float64" else {}
    if parameters.guarantee == "none":
        return values
    return values | {
        "XLA_FLAGS": " ".join(f"{name}={value}" for name, value in FLAGS.items()),
        "NPROC": str(parameters.threads),
    }


def apply(parameters: Parameters) -> None:
    """Sets how random numbers are drawn, since JAX's default has changed between versions."""
    import jax

    if parameters.guarantee != "none":
        jax.config.update("jax_default_prng_impl", "threefry2x32")
        jax.config.update("jax_threefry_partitionable", True)


def in_effect() -> dict[str, Any]:
    """Returns the settings that JAX reports, with the keys of `expected`.

    XLA does not report its flags. The variables that it was started with stand for them.
    """
    import jax

    return {
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "xla_threads": int(os.environ.get("NPROC", "0")),
        "random_generator": jax.config.jax_default_prng_impl,
        "threefry_partitionable": bool(jax.config.jax_threefry_partitionable),
    }


def expected(parameters: Parameters, guarantee: str) -> dict[str, Any]:
    """Returns what `in_effect` has to return if the guarantee holds."""
    started = environment(parameters)
    return {
        "xla_flags": started["XLA_FLAGS"],
        "xla_threads": int(started["NPROC"]),
        "random_generator": "threefry2x32",
        "threefry_partitionable": True,
    }


def gpus() -> list[str]:
    """Returns the names of the GPUs that JAX may use."""
    import jax

    return [str(device.device_kind) for device in jax.devices() if device.platform == "gpu"]


def generators() -> dict[str, np.ndarray]:
    """Returns nothing: JAX has no generator of its own, only keys that functions pass on."""
    return {}


def restore(found: dict[str, np.ndarray]) -> None:
    """Does nothing; see `generators`."""


class Steps:
    """Makes a step on each batch of a chunk."""

    graph: Any = None

    def __init__(
        self, model: Any, kind: Literal["train", "test"], part: Part, jit_compile: bool
    ) -> None:
        """Compiles the step.

        Args:
            part: the samples that the chunks are of.
            jit_compile: has no effect here, since XLA compiles in any case.
        """
        import jax

        held = part.arrays() if part.reader is None else {}
        arrays = {name: jax.numpy.asarray(array) for name, array in held.items()}
        step = model.train_step if kind == "train" else model.test_step
        self._model, self._kind = model, kind

        # This compiles one step and not a loop over the chunk, since XLA's convolutions are many
        # times slower in a loop.
        def gathered(state: Any, arrays: Any, rows: Any) -> Any:
            return step(state, part.packed({n: array[rows] for n, array in arrays.items()}))[1]

        def run(state: Any, batch: Any) -> Any:
            return step(state, part.packed(batch))[1]

        # A training step may overwrite the arrays of the old state. A test step may not: the
        # weights stay in use, and with `use_ema` they are, at the end, the arrays of the averages.
        donated = 0 if kind == "train" else ()
        self._arrays = arrays
        self._gathered, self._run = (jax.jit(f, donate_argnums=donated) for f in (gathered, run))

    def __call__(self, chunk: Chunk) -> None:
        import jax

        variables = _variables(self._model, self._kind)
        state = tuple([variable.value for variable in group] for group in variables)
        for number in range(chunk.steps):
            if chunk.content is None:
                state = self._gathered(state, self._arrays, chunk.indices[number])
            else:
                state = self._run(state, chunk.batch(number))
        # Waits until the steps are made. Else the ledger would wait, and the time of the steps
        # would be counted as the ledger's.
        _assign(variables, jax.block_until_ready(state))


def _variables(model: Any, kind: str) -> tuple[list[Any], ...]:
    """Returns the groups of variables that Keras's steps on JAX take (`JAXTrainer.train_step`)."""
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


def one_step(model: Any, batch: tuple[Any, ...]) -> None:
    """Makes a training step on a batch without compiling it."""
    import jax
    import keras

    with uncompiled():
        variables = _variables(model, "train")
        state = tuple([variable.value for variable in group] for group in variables)
        _, state = model.train_step(state, keras.tree.map_structure(jax.numpy.asarray, batch))
        _assign(variables, state)


def uncompiled() -> contextlib.AbstractContextManager[None]:
    """A block in which JAX compiles nothing."""
    import jax

    block: contextlib.AbstractContextManager[None] = jax.disable_jit()
    return block


def as_compiled(batch: tuple[Any, ...]) -> tuple[Any, ...]:
    """Returns a batch as the compiled functions of a model's own `learn` get it: with JAX's types.

    A compiled function turns int64 into int32, for example. A function that is not compiled takes
    what it is given, so the types are changed here.
    """
    import jax
    import keras

    made: tuple[Any, ...] = keras.tree.map_structure(jax.numpy.asarray, batch)
    return made


def concrete(tensor: Any) -> np.ndarray:
    """Returns the content of a tensor, even while JAX takes a gradient with respect to it."""
    while hasattr(tensor, "primal"):
        tensor = tensor.primal
    return np.asarray(tensor)

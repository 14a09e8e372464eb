"""TensorFlow: makes the steps of a chunk in a loop inside one graph."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from repro.backends import portable
from repro.data.dataset import Part
from repro.data.feed import Chunk

if TYPE_CHECKING:
    from repro.recipe.parameters import Parameters


def environment(parameters: Parameters) -> dict[str, str]:
    """Returns the variables that TensorFlow reads when it starts.

    `portable` also switches off GPUs, and libraries that pick kernels by the processor's model.
    """
    values = {"TF_CPP_MIN_LOG_LEVEL": "2"}
    if parameters.guarantee == "none":
        return values
    threads = str(parameters.threads)
    values |= {
        "TF_NUM_INTRAOP_THREADS": threads,
        "TF_NUM_INTEROP_THREADS": threads,
        "TF_DETERMINISTIC_OPS": "1",
        "TF_ENABLE_ONEDNN_OPTS": "1",
    }
    if parameters.guarantee == "portable":
        values |= {
            "TF_ENABLE_ONEDNN_OPTS": "0",
            "TENSORFLOW_USE_CUSTOM_CONTRACTION_KERNEL": "0",
            "CUDA_VISIBLE_DEVICES": "-1",
        }
    return values


def apply(parameters: Parameters) -> None:
    """Sets threads and deterministic kernels; XLA is used only if a parameter asks for it."""
    import tensorflow as tf

    if parameters.guarantee != "none":
        tf.config.threading.set_intra_op_parallelism_threads(parameters.threads)
        tf.config.threading.set_inter_op_parallelism_threads(parameters.threads)
        tf.config.experimental.enable_op_determinism()
        tf.config.optimizer.set_jit(False)
    if parameters.guarantee == "portable":
        portable.apply()


def in_effect() -> dict[str, Any]:
    """Returns the settings that TensorFlow reports, with the keys of `expected`."""
    import tensorflow as tf
    from tensorflow.python.framework import config
    from tensorflow.python.util import _pywrap_util_port

    return {
        "intra_op_threads": tf.config.threading.get_intra_op_parallelism_threads(),
        "inter_op_threads": tf.config.threading.get_inter_op_parallelism_threads(),
        "op_determinism": bool(config.is_op_determinism_enabled()),
        "onednn": bool(_pywrap_util_port.IsMklEnabled()),
        "graph_jit": str(tf.config.optimizer.get_jit() or "off"),
        "mathematics": portable.mathematics(),
        "cache_sizes": portable.cache_sizes(),
    }


def expected(parameters: Parameters, guarantee: str) -> dict[str, Any]:
    """Returns what `in_effect` has to return if a guarantee holds."""
    wanted = {
        "intra_op_threads": parameters.threads,
        "inter_op_threads": parameters.threads,
        "op_determinism": True,
        "graph_jit": "off",
    }
    if guarantee == "portable":
        wanted |= {
            "onednn": False,
            "mathematics": "plain",
            "cache_sizes": list(portable.CACHES),
        }
    return wanted


def gpus() -> list[str]:
    """Returns the names of the GPUs that TensorFlow may use."""
    import tensorflow as tf

    return [
        str(tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name))
        for gpu in tf.config.list_physical_devices("GPU")
    ]


def generators() -> dict[str, np.ndarray]:
    """Returns nothing: Keras's layers draw from variables, which are kept with the state."""
    return {}


def restore(found: dict[str, np.ndarray]) -> None:
    """Does nothing; see `generators`."""


def fuse(optimizer: Any) -> None:
    """Makes Keras's Adam or AdamW update each weight by TensorFlow's own kernel.

    Keras writes the update as eleven operations, and each is a pass over memory. The kernel makes
    one pass with the same formula in the same order (TensorFlow, `ApplyAdam` in `training_ops.cc`).
    The last bits differ: the kernel computes 1 - beta in float32, and Keras computes it in float64
    and rounds it.
    """
    import tensorflow as tf

    def update_step(gradient: Any, variable: Any, learning_rate: Any) -> None:
        dtype = variable.dtype
        first, second = (tf.constant(b, dtype) for b in (optimizer.beta_1, optimizer.beta_2))
        step = tf.cast(optimizer.iterations + 1, dtype)
        place = optimizer._get_variable_index(variable)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=optimizer._momentums[place].value.handle,
            v=optimizer._velocities[place].value.handle,
            beta1_power=tf.pow(first, step),
            beta2_power=tf.pow(second, step),
            lr=tf.cast(learning_rate, dtype),
            beta1=first,
            beta2=second,
            epsilon=tf.constant(optimizer.epsilon, dtype),
            # The gradient of an embedding has only some rows. Adam moves all rows, so it is made
            # whole.
            grad=tf.cast(tf.convert_to_tensor(gradient), dtype),
        )

    optimizer.update_step = update_step


class Steps:
    """Makes a step on each batch of a chunk."""

    def __init__(
        self, model: Any, kind: Literal["train", "test"], part: Part, jit_compile: bool
    ) -> None:
        """Traces the graph; the chunks are of the samples of `part`."""
        import tensorflow as tf

        if part.reader is None:
            tensors = {name: tf.constant(array) for name, array in part.arrays().items()}
            given = {"rows": tf.TensorSpec((None, None), tf.int32)}
        else:
            given = {
                name: tf.TensorSpec(
                    (None, None, *field.shape),
                    tf.string if field.dtype.kind in "SU" else field.dtype,
                )
                for name, field in part.fields().items()
            }
        step = model.train_step if kind == "train" else model.test_step

        @tf.function(  # type: ignore[untyped-decorator]
            input_signature=[given],
            autograph=False,
            jit_compile=jit_compile or None,
        )
        def run(chunk: dict[str, Any]) -> None:
            def body(number: Any) -> list[Any]:
                batch = {name: one[number] for name, one in chunk.items()}
                if part.reader is None:
                    rows = batch["rows"]
                    batch = {name: tf.gather(one, rows) for name, one in tensors.items()}
                step(part.packed(batch))
                return [number + 1]

            # One step after the other, since each reads what the one before has written.
            made = next(iter(chunk.values()))
            tf.while_loop(
                lambda number: number < tf.shape(made)[0], body, [0], parallel_iterations=1
            )

        self._run = run
        # The graph is traced now: a run that goes on must not trace it after its generators were
        # restored.
        self.graph: Any = run.get_concrete_function().graph

    def __call__(self, chunk: Chunk) -> None:
        import tensorflow as tf

        self._run({name: tf.constant(array) for name, array in chunk.arrays.items()})


def one_step(model: Any, batch: tuple[Any, ...]) -> None:
    """Makes a training step on a batch without a graph."""
    import keras
    import tensorflow as tf

    model.train_step(keras.tree.map_structure(tf.constant, batch))


@contextlib.contextmanager
def uncompiled() -> Iterator[None]:
    """A block in which TensorFlow's functions run operation by operation.

    A compiled function casts arrays to the types of its `input_signature`, for example from int32
    to int64. A function that is not compiled does not, so the block does it instead.
    """
    import tensorflow as tf

    kind = type(tf.function(lambda: None))
    call = kind.__call__

    def cast(value: Any, wanted: Any) -> Any:
        plain = isinstance(value, np.ndarray | np.generic | bool | int | float)
        return tf.constant(value, wanted.dtype) if plain and hasattr(wanted, "dtype") else value

    def called(function: Any, *arguments: Any, **keywords: Any) -> Any:
        signature = function.input_signature or ()
        some = [cast(value, one) for value, one in zip(arguments, signature, strict=False)]
        return call(function, *some, *arguments[len(some) :], **keywords)

    tf.config.run_functions_eagerly(True)
    kind.__call__ = called
    try:
        yield
    finally:
        kind.__call__ = call
        tf.config.run_functions_eagerly(False)


def as_compiled(batch: tuple[Any, ...]) -> tuple[Any, ...]:
    """Returns a batch as a model's own `learn` gets it: unchanged; `uncompiled` casts the types."""
    return batch


def concrete(tensor: Any) -> np.ndarray:
    """Returns the content of a tensor; the gradient of an embedding, with some rows, is made whole.

    The rows that it does not have are 0.
    """
    import tensorflow as tf

    if isinstance(tensor, tf.IndexedSlices):
        tensor = tf.convert_to_tensor(tensor)
    return np.asarray(tensor)

"""What differs between Keras's backends: a module each, with the same functions.

    environment   variables that a run's process has to be started with
    apply         what is set in the library once it has started
    in_effect     what the library says of its settings, by name
    expected      what it is to say where a guarantee holds
    fuse          a faster update of the weights, where `optimizer.fused` may ask for it
    gpus          names of the GPUs that the process may use
    generators    the library's own random generators, by name, and `restore` for them
    Steps         training or test steps on chunks of batches
    one_step      one of Keras's training steps outside any graph, each layer's values at hand
    uncompiled    a block in which a model's own step runs outside any graph as well
    as_compiled   a batch of the types that it has in a compiled step
    concrete      the content of a tensor in such a step

Nothing of a library is imported before one of its functions is called.
"""

from __future__ import annotations

import importlib
from typing import Any

BACKENDS = ("tensorflow", "jax", "torch")


def of(name: str) -> Any:
    """The module of a backend."""
    return importlib.import_module(f"{__name__}.{name}")


def current() -> Any:
    """The module of the backend that Keras runs on in this process."""
    import keras

    return of(keras.backend.backend())

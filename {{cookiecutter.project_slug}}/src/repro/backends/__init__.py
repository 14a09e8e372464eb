"""What differs between Keras's backends: one module for each, with the same functions.

    environment   returns the variables that the process of a run has to start with
    apply         sets what the library has to do, after it has started
    in_effect     returns the settings that the library reports, by name
    expected      returns what `in_effect` has to return if a guarantee holds
    fuse          makes the update of the weights faster, if `optimizer.fused` asks for it
    gpus          returns the names of the GPUs that the process may use
    generators    returns the library's own random generators, by name; `restore` sets them
    Steps         makes training or test steps on chunks of batches
    one_step      makes one of Keras's training steps outside any graph, so that values can be seen
    uncompiled    a block in which a model's own step runs outside any graph as well
    as_compiled   returns a batch with the types that it has in a compiled step
    concrete      returns the content of a tensor in such a step

A library is imported only when a function of its module is called.
"""

from __future__ import annotations

import importlib
from typing import Any

BACKENDS = ("tensorflow", "jax", "torch")


def of(name: str) -> Any:
    """Returns the module of a backend."""
    return importlib.import_module(f"{__name__}.{name}")


def current() -> Any:
    """Returns the module of the backend that Keras runs on in this process."""
    import keras

    return of(keras.backend.backend())

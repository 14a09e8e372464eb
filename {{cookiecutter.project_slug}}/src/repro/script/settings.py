"""What is fixed around a script: variables before its process starts, the rest inside of it.

The guarantee is `machine`: the same bits on the same machine. The settings are those that a
training of a project has. A library is set up at the moment in which the script imports it.
"""

from __future__ import annotations

import os
import random
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import numpy as np

from repro import backends
from repro.environment.variables import CLEARED, of_all_libraries

KEPT = ("PYTHONPATH", "PYTHONUSERBASE", "KERAS_BACKEND", "KERAS_HOME", "TORCH_HOME")
"""Variables that say what the script runs on, and where packages and data are."""


@dataclass(frozen=True)
class _Training:
    dtype: str = "float32"


@dataclass(frozen=True)
class Machine:
    """The guarantee, in the words of the parameters that the backends' modules read."""

    threads: int
    guarantee: str = "machine"
    training: _Training = field(default_factory=_Training)


def variables(threads: int | None) -> dict[str, str]:
    """Returns the variables that the process of a script starts with, without variations.

    Data sets and weights that libraries have downloaded into the home directory are found also
    from a run with another home directory.

    Args:
        threads: how many threads each library uses; None: nothing is fixed.
    """
    home = Path.home()
    places = {
        "KERAS_HOME": home / ".keras",
        "TORCH_HOME": home / ".cache" / "torch",
        "HF_HOME": home / ".cache" / "huggingface",
        "TFDS_DATA_DIR": home / "tensorflow_datasets",
    }
    found = {name: str(place) for name, place in places.items() if place.is_dir()}
    if threads is None:
        return found | dict(os.environ)
    found |= {
        name: value
        for name, value in os.environ.items()
        if name in KEPT or not name.upper().startswith(CLEARED)
    }
    for name in backends.BACKENDS:
        found |= backends.of(name).environment(Machine(threads))
    return found | of_all_libraries(threads)


def seed(number: int) -> None:
    """Seeds Python and NumPy, before the script begins.

    Keras draws its own seeds from Python's generator. Its global seed is not set: with it, `fit`
    would show the samples in one and the same order in each epoch.
    """
    random.seed(number)
    np.random.seed(number)


def fix(name: str, module: ModuleType, threads: int, number: int) -> None:
    """Sets up a backend that the script has just imported, and seeds it."""
    if name == "tensorflow":
        backends.of(name).apply(Machine(threads))
        module.random.set_seed(number)
    elif name == "torch":
        backends.of(name).make_deterministic(threads)
        module.manual_seed(number)
    elif name == "jax":
        backends.of(name).apply(Machine(threads))

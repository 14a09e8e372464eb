"""Fixes what a training needs in order to repeat, and reads back that it is fixed.

There are three steps, each in its own place:

1. `environment`, in the launcher: sets variables, which libraries read once, when they start.
2. `apply`, in the fresh process before data and model: sets threads, deterministic kernels, seeds.
3. `in_effect`, in the fresh process: asks the libraries what is in effect afterwards.
"""

from __future__ import annotations

import gc
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repro import backends
from repro.backends import portable
from repro.basics import seeds
from repro.environment import later
from repro.environment.variables import CLEARED, of_all_libraries
from repro.recipe.parameters import Guarantee, Parameters


class TooLate(RuntimeError):
    """A setting came too late: the library that reads it had started already."""


@dataclass(frozen=True)
class Promise:
    """The guarantee that was asked for, the one that holds, and why they differ if they do."""

    asked: Guarantee
    holds: Guarantee
    broken: list[str]


def environment(parameters: Parameters) -> dict[str, str]:
    """Returns the variables that the process of a run has to start with.

    NumPy, OpenBLAS, the C library and the backend pick some kernels by the processor's model. With
    `portable` the variables also switch this off.
    """
    values: dict[str, str] = {"KERAS_BACKEND": parameters.backend}
    values |= backends.of(parameters.backend).environment(parameters)
    if parameters.guarantee == "none":
        return values
    values |= of_all_libraries(parameters.threads)
    if parameters.guarantee == "portable" and platform.machine().lower() in ("x86_64", "amd64"):
        values |= {
            "NPY_DISABLE_CPU_FEATURES": "X86_V3 X86_V4 AVX512_ICL AVX512_SPR",
            "OPENBLAS_CORETYPE": "Nehalem",
        } | portable.environment()
    return values


def of_process(root: Path, parameters: Parameters, gpu: str | None = None) -> dict[str, str]:
    """Returns all variables of a run's process: the caller's, and fixed ones that decide results.

    The process imports the machinery and the package of the project at `root`, even if they are not
    installed.

    Args:
        gpu: the GPU that the process may use, as `CUDA_VISIBLE_DEVICES` names it; None: as the
            caller's variables say. `portable` hides all GPUs, the given one too.
    """
    inherited = {
        name: value for name, value in os.environ.items() if not name.upper().startswith(CLEARED)
    }
    seen = {} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu}
    fixed = environment(parameters)
    return inherited | seen | fixed | {"PYTHONPATH": str(root / "src")}


def apply(parameters: Parameters, recipe_seed: int) -> None:
    """Fixes threads, kernels, Keras's settings and every seed in a fresh process.

    Raises:
        TooLate: a library has started already, or a variable of `environment` is not set. A
            setting would then look fixed without being in effect.
    """
    if started := {"keras", *backends.BACKENDS} & sys.modules.keys():
        raise TooLate(
            f"determinism.apply must come before {' and '.join(sorted(started))} are imported: "
            "start the training with `repro train`"
        )
    for name, value in environment(parameters).items():
        # PYTHONHASHSEED may have any value, since `verify` varies it: results must not depend on
        # it. It only has to be set before the interpreter starts.
        if os.environ.get(name) != value and (name != "PYTHONHASHSEED" or name not in os.environ):
            raise TooLate(
                f"{name} has to be {value!r} before the interpreter starts, and is "
                f"{os.environ.get(name)!r}: start the training with `repro train`"
            )
    # The libraries' objects all stay. It takes a second to look for garbage among them, during the
    # import and once more when Python ends.
    gc.disable()
    with later.pictures():
        import keras

    gc.freeze()
    gc.enable()

    # The file ~/.keras/keras.json may have set these to something else.
    keras.config.set_floatx("float32")
    keras.config.set_epsilon(1e-7)
    keras.config.set_image_data_format("channels_last")
    keras.config.set_dtype_policy(parameters.training.dtype)
    backends.of(parameters.backend).apply(parameters)
    reseed(recipe_seed)


def reseed(recipe_seed: int, *purpose: str | int) -> None:
    """Seeds Python, NumPy and Keras (with its backend) for one purpose."""
    import keras

    keras.utils.set_random_seed(seeds.seed(recipe_seed, *purpose))


def in_effect(parameters: Parameters) -> dict[str, Any]:
    """Returns the settings that the libraries of this process report, with the keys of `expected`.

    It may have further keys, for settings that are only reported.
    """
    import keras
    import threadpoolctl

    backend = backends.current()
    pools = [p["num_threads"] for p in threadpoolctl.threadpool_info()]
    found: dict[str, Any] = backend.in_effect()
    return found | {
        "blas_and_openmp_threads": max(pools, default=parameters.threads),
        "backend": keras.backend.backend(),
        "floatx": keras.config.floatx(),
        "epsilon": keras.config.epsilon(),
        "image_data_format": keras.config.image_data_format(),
        "dtype": keras.config.dtype_policy().name,
        "hash_seed_fixed": os.environ.get("PYTHONHASHSEED", "random") != "random",
        "gpus": len(backend.gpus()),
    }


def expected(parameters: Parameters, guarantee: str | None = None) -> dict[str, Any]:
    """Returns what `in_effect` has to return if a guarantee holds.

    Args:
        guarantee: the guarantee; None: the one that the parameters ask for.
    """
    guarantee = guarantee or parameters.guarantee
    if guarantee == "none":
        return {}
    wanted: dict[str, Any] = backends.of(parameters.backend).expected(parameters, guarantee)
    wanted |= {
        "blas_and_openmp_threads": parameters.threads,
        "backend": parameters.backend,
        "floatx": "float32",
        "epsilon": 1e-7,
        "image_data_format": "channels_last",
        "dtype": parameters.training.dtype,
        "hash_seed_fixed": True,
    }
    return wanted | ({"gpus": 0} if guarantee == "portable" else {})


def guarantee(
    parameters: Parameters,
    found: dict[str, Any],
    departures: Mapping[str, str],
    unproved: Sequence[str] = (),
) -> Promise:
    """Says which guarantee holds, and why it is not the one that was asked for.

    Args:
        found: what `in_effect` returned.
        departures: by package: how what is installed differs from the lock.
        unproved: the operations that `portable.unproved` named in the training's graphs.
    """
    asked = parameters.guarantee
    if asked == "none":
        return Promise(asked, asked, [])

    def missed(wanted: dict[str, Any]) -> list[str]:
        return [
            f"{name}: {value!r} asked, {found[name]!r} in effect"
            for name, value in wanted.items()
            if found[name] != value
        ]

    wanted, machine = expected(parameters), expected(parameters, "machine")
    broken = missed(machine) + [f"{package}: {what}" for package, what in departures.items()]
    further = missed({name: value for name, value in wanted.items() if name not in machine})
    if asked == "portable":
        further += [f"{operation} is not known to be portable" for operation in unproved]
    holds: Guarantee = "none" if broken else "machine" if further else asked
    return Promise(asked, holds, broken + further)

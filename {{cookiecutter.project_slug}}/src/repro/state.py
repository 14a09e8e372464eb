"""The state of a training: named tensors, their digests, and how they are kept.

`.keras` archives hold a date and leave out the random generators of layers such as Dropout; the
state here holds all that the next step depends on, and equal states have equal digests.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from . import BadInput
from .dataset import sha256

KINDS = ("generators", "weights", "optimizer", "metrics")
KEPT = KINDS[:3]
"""What a training goes on from; metrics begin anew in each epoch."""


def variables(model: Any) -> dict[str, dict[str, Any]]:
    """Returns the Keras variables of a compiled, built model: kind, then path.

    `generators` are the seed generators of layers, and Keras's global one.
    """
    from keras.src.random.seed_generator import global_seed_generator

    weights = {id(v) for v in model.weights}
    metrics = {id(v) for v in model.metrics_variables}
    kinds: dict[str, list[Any]] = {
        "generators": [v for v in model.variables if id(v) not in weights | metrics],
        "weights": list(model.weights),
        "optimizer": list(model.optimizer.variables),
        "metrics": list(model.metrics_variables),
    }
    named = {kind: _named(members) for kind, members in kinds.items()}
    named["generators"]["keras"] = global_seed_generator().state
    return named


def _named(members: list[Any]) -> dict[str, Any]:
    named: dict[str, Any] = {}
    for variable in members:
        path, copy = variable.path, 1
        while path in named:  # Layers that share a name, in models nested in each other.
            copy += 1
            path = f"{variable.path}#{copy}"
        named[path] = variable
    return named


def digests(model: Any, *kinds: str) -> dict[str, dict[str, str]]:
    """The SHA-256 of type, shape and content of each variable of these kinds."""
    named = variables(model)
    return {
        kind: {path: sha256(np.asarray(variable)) for path, variable in named[kind].items()}
        for kind in kinds
    }


def digest(kinds: dict[str, dict[str, str]]) -> str:
    """One SHA-256 over the digests of a whole state."""
    lines = [f"{kind}/{path} {value}\n" for kind in kinds for path, value in kinds[kind].items()]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def save(path: Path, model: Any) -> None:
    """Writes generators, weights and optimizer as an `.npz` of plain arrays."""
    named = variables(model)
    arrays = {
        f"{kind}/{name}": np.asarray(variable)
        for kind in KEPT
        for name, variable in named[kind].items()
    }
    np.savez(path, allow_pickle=False, **arrays)


def load(path: Path, model: Any, expected_digest: str) -> None:
    """Gives a compiled, built model the state in `path`.

    Raises:
        BadInput: the file holds another state than `expected_digest` or is damaged, or belongs
            to another model.
    """
    named = variables(model)
    wanted = {f"{kind}/{name}": v for kind in KEPT for name, v in named[kind].items()}
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except Exception as error:  # zipfile, zlib and NumPy each raise their own for a torn file.
        raise BadInput(f"{path}: not a readable state: {error}") from None
    kinds = {
        kind: {k.partition("/")[2]: sha256(a) for k, a in arrays.items() if k.startswith(kind)}
        for kind in KEPT
    }
    if digest(kinds) != expected_digest:
        raise BadInput(f"{path}: its content is not the state {expected_digest}")
    for key in sorted(wanted.keys() ^ arrays.keys()):
        where = "this model has no" if key in arrays else "the saved state has no"
        raise BadInput(f"{path}: {where} {key}; it belongs to another model or optimizer")
    for key, variable in wanted.items():
        if tuple(variable.shape) != arrays[key].shape:
            raise BadInput(
                f"{path}: {key} has the shape {arrays[key].shape}, expected {tuple(variable.shape)}"
            )
    for key, variable in wanted.items():
        variable.assign(arrays[key])

"""Exports a trained model, and loads what was exported again to compare it with the model."""

from __future__ import annotations

import importlib.util
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from repro.basics.digests import sha256
from repro.basics.errors import BadInput
from repro.basics.text import said_by
from repro.data import structure
from repro.environment import machine
from repro.recipe.project import Project
from repro.run import failure
from repro.run.preparing import Ready
from repro.run.use import Exported, Format

SAMPLES = 8
"""How many samples of the test part both models predict for."""
RELATIVE, ABSOLUTE = 1e-4, 1e-5
"""How far a prediction of the exported model may be from the model's own: another program may add
the same numbers in another order."""
LONG = 200
"""How many characters are shown of what a library says."""


@dataclass(frozen=True)
class _Compared:
    """What was compared, in words, and the largest difference of two predictions."""

    what: str
    largest: float | None = None


def export(project: Project, folder: Path, ready: Ready, asked: Format) -> Exported:
    """Writes the model into a folder, loads it again and compares it.

    Raises:
        BadInput: the backend or the model cannot be exported like this, a package is missing, or
            what was exported is not the model.
    """
    backend = keras.backend.backend()
    name, make = EXPORTS[asked]
    folder.mkdir()
    custom = _custom(project, ready.model)
    found = make(folder / name, ready, backend, custom)
    return Exported(
        sources={},
        versions=machine.versions(),
        name=name,
        compared=found.what,
        largest=found.largest,
        custom=tuple(sorted(custom)) if asked == "keras" else (),
    )


def _custom(project: Project, model: Any) -> dict[str, Any]:
    """The classes of the project of which a model consists, by their names.

    Those that the project has registered with Keras are left out, since Keras finds them.
    """
    kinds = {type(layer) for layer in model._flatten_layers()}
    return {
        kind.__name__: kind
        for kind in kinds
        if kind.__module__.partition(".")[0] == project.package
        and keras.saving.get_registered_name(kind) == kind.__name__
    }


@contextmanager
def _library(asked: str) -> Iterator[None]:
    """Makes of what a library raises one line, since the model is what it cannot deal with."""
    try:
        yield
    except (BadInput, MemoryError, OSError):
        raise
    except Exception as error:
        said = failure.COLOURS.sub("", said_by(error))
        said = said if len(said) <= LONG else f"{said[:LONG]}…"
        raise BadInput(
            f"export: this model cannot be exported as {asked}: {type(error).__name__}: {said}"
        ) from error


def _keras(path: Path, ready: Ready, backend: str, custom: dict[str, Any]) -> _Compared:
    """An archive of Keras's: its weights have to be the run's, bit for bit."""
    model = ready.model
    with _library("keras"):
        model.save(path)
        loaded = keras.models.load_model(path, custom, compile=False, safe_mode=True)
    one, other = ([sha256(np.asarray(w)) for w in each.weights] for each in (model, loaded))
    if one != other:
        raise BadInput("export: the weights of the exported file are not those of the run")
    return _Compared(f"{len(one)} weights were loaded again and have the bits of the run")


def _saved_model(path: Path, ready: Ready, backend: str, custom: dict[str, Any]) -> _Compared:
    """A folder of TensorFlow's: the weights have to be the run's, and the predictions close."""
    if backend != "tensorflow":
        raise BadInput(
            f"export: expected keras or onnx: Keras writes a SavedModel on tensorflow, and this "
            f"run's backend is {backend}"
        )
    import tensorflow as tf

    with _library("savedmodel"):
        given, own = _predicted(ready)
        served = _served(ready.model, given)
        served.export(path, format="tf_saved_model", verbose=False)
        loaded = tf.saved_model.load(path)
        one = Counter(sha256(np.asarray(weight)) for weight in ready.model.weights)
        other = Counter(sha256(np.asarray(variable)) for variable in loaded.variables)
        outputs = loaded.serve(keras.tree.map_structure(tf.convert_to_tensor, given))
    if one - other:
        raise BadInput("export: the weights of the exported folder are not those of the run")
    found = _close(own, [np.asarray(array) for array in keras.tree.flatten(outputs)])
    return _Compared(
        f"{one.total()} weights were loaded again and have the bits of the run; {found.what}",
        found.largest,
    )


NEEDED = {
    "tensorflow": ("onnx", "tf2onnx"),
    "jax": ("onnx", "jax2onnx"),
    "torch": ("onnx", "onnxscript"),
}
"""By backend, the packages that write a file of ONNX."""


def _onnx(path: Path, ready: Ready, backend: str, custom: dict[str, Any]) -> _Compared:
    """A file of ONNX: its predictions, computed by ONNX's own reference, have to be close."""
    missing = [name for name in NEEDED[backend] if importlib.util.find_spec(name) is None]
    if missing:
        raise BadInput(
            f"export: onnx needs the packages {' and '.join(missing)}, which are not installed: add"
            " to requirements/cpu.in, then make lock and make install"
        )
    import onnx
    from onnx.reference import ReferenceEvaluator

    logging.getLogger("tf2onnx").setLevel(logging.ERROR)
    with _library("onnx"):
        given, own = _predicted(ready)
        _served(ready.model, given).export(path, format="onnx", verbose=False)
        proto = onnx.load(path)
        onnx.checker.check_model(proto)
        names = [one.name for one in proto.graph.input]
        arrays = [np.asarray(array) for array in structure.flat("x", given).values()]
        outputs = ReferenceEvaluator(proto).run(None, dict(zip(names, arrays, strict=True)))
    return _close(own, [np.asarray(one) for one in outputs])


def _predicted(ready: Ready) -> tuple[Any, list[np.ndarray]]:
    """Samples of the test part as the model takes them, and what it predicts for them."""
    part = ready.data.parts.test
    given = part.rows(np.arange(min(SAMPLES, len(part))))[0]
    tensors = keras.tree.map_structure(keras.ops.convert_to_tensor, given)
    made = keras.tree.flatten(ready.model(tensors, training=False))
    return given, [keras.ops.convert_to_numpy(one) for one in made]


def _served(model: Any, given: Any) -> Any:
    """A model that computes what another one computes where nothing is trained.

    Layers such as `RandomTranslation` change samples unless they are told that this is no training,
    and `keras.Model.export` does not tell them.
    """

    def placeholder(name: str, array: np.ndarray) -> Any:
        kind = "string" if array.dtype.kind in "SU" else array.dtype.name
        word = name.replace("/", "_").removeprefix("x_")
        return keras.Input(array.shape[1:], dtype=kind, name=word)

    inputs = structure.like(given, placeholder, "x")
    served = keras.Model(inputs, model(inputs, training=False), name=model.name)
    served(keras.tree.map_structure(keras.ops.convert_to_tensor, given))  # Else Keras refuses it.
    return served


def _close(own: list[np.ndarray], outputs: list[np.ndarray]) -> _Compared:
    """Compares predictions of what was exported with the model's own.

    Raises:
        BadInput: they are further from each other than rounding explains.
    """
    shapes = [[array.shape for array in each] for each in (own, outputs)]
    if shapes[0] != shapes[1]:
        raise BadInput(f"export: expected predictions of the shapes {shapes[0]}, got {shapes[1]}")
    pairs = list(zip(own, outputs, strict=True))
    largest = max(float(np.abs(one - two.astype(one.dtype)).max()) for one, two in pairs)
    if not all(np.allclose(two, one, RELATIVE, ABSOLUTE, equal_nan=True) for one, two in pairs):
        raise BadInput(
            f"export: the predictions of what was exported are up to {largest:.3g} from the run's"
        )
    number = len(own[0])
    return _Compared(f"{number} predictions differ by {largest:.3g} at most", largest)


Make = Callable[[Path, Ready, str, dict[str, Any]], _Compared]
EXPORTS: dict[Format, tuple[str, Make]] = {
    "keras": ("model.keras", _keras),
    "savedmodel": ("savedmodel", _saved_model),
    "onnx": ("model.onnx", _onnx),
}
"""By format: what the file is called, and what writes it and compares it."""

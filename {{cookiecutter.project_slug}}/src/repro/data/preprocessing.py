"""What is fitted to the training part, and then changes the samples of every part.

A data set's `preprocessing` is one of these:

- a transformer of scikit-learn's, or a preprocessing layer of Keras's, for the one array `x`;
- a dict of these, for the arrays of these names: `{"age": StandardScaler()}`;
- a transformer that takes a table, such as `ColumnTransformer`, where `x` is a dict of columns. The
  result is one array: `x` has the columns that the transformer makes.

A result may have other columns and another type. Floating-point samples keep their type; what a
transformer makes of others, in floating point, has the type in which the training computes.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.utils import get_tags

from repro.basics.errors import BadInput
from repro.data import structure
from repro.data.structure import Structure

Parts = dict[str, Structure]
"""The samples of each part, by the part's name; `train` is what is fitted to."""


def preprocessed(asked: Any, x: Parts, floating: str, padding: float | None = None) -> Parts:
    """Fits what a data set asks for to the training part, and returns every part's samples.

    Args:
        asked: the data set's `preprocessing`.
        floating: the type of what is made of samples that are not floating-point numbers.
        padding: the value that fills up a sequence; steps that consist of it stay as they are.

    Raises:
        BadInput: it cannot be fitted, or there is no array for it.
    """
    if isinstance(asked, Mapping):
        return _by_name(asked, x, floating, padding)
    if isinstance(x["train"], np.ndarray):
        return _transformed(asked, x, floating, padding)
    return _of_columns(asked, x, floating)


def _by_name(asked: Mapping[str, Any], x: Parts, floating: str, padding: float | None) -> Parts:
    """Each array of `x` by the transformer that has its name, if there is one."""
    flat = {part: structure.flat("x", samples) for part, samples in x.items()}
    for name, transformer in asked.items():
        path = f"x/{name}"
        if path not in flat["train"]:
            known = ", ".join(key.removeprefix("x/") for key in flat["train"])
            raise BadInput(f"data: preprocessing: expected names among {known}, got {name!r}")
        one = {part: arrays[path] for part, arrays in flat.items()}
        for part, array in _transformed(transformer, one, floating, padding).items():
            flat[part][path] = array
    return {part: structure.packed("x", x[part], flat[part]) for part in x}


def _of_columns(asked: Any, x: Parts, floating: str) -> Parts:
    """One array of what a transformer makes of a table, whose columns are the arrays of `x`."""
    names = structure.flat("x", x["train"])
    wide = [name for name, array in names.items() if array.size != len(array)]
    if not isinstance(x["train"], dict) or wide:
        what = f"{wide[0]} has shape {names[wide[0]].shape}" if wide else "x has no names"
        raise BadInput(
            f"data: preprocessing: {_name(asked)} needs a table, which x as a dict of columns of "
            f"shape (samples,) is, and {what}; a dict with a transformer for each name would do"
        )
    try:
        pandas = importlib.import_module("pandas")
    except ImportError:
        raise BadInput(
            f"data: preprocessing: {_name(asked)} names columns, for which pandas is needed: add "
            "it to requirements/cpu.in, then make lock and make install"
        ) from None
    tables: Parts = {
        part: pandas.DataFrame({key: array.reshape(-1) for key, array in columns.items()})
        for part, columns in x.items()
    }
    made = _fitted(asked, tables["train"], tables)
    return {part: _floating(_dense(array), floating) for part, array in made.items()}


def _transformed(asked: Any, x: Parts, floating: str, padding: float | None) -> Parts:
    """What a transformer makes of one array; its fit and its results see each sample as a row.

    One that takes texts sees each sample as a text.
    """
    train = x["train"]
    if hasattr(asked, "adapt"):
        return _adapted(asked, x)
    if padding is not None and train.ndim > 2:
        return _steps_transformed(asked, x, floating, padding)
    rows = {part: _rows(asked, array) for part, array in x.items()}
    found = {}
    for part, made in _fitted(asked, rows["train"], rows).items():
        array = _typed(_dense(made), train.dtype, floating)
        same = array.shape == rows[part].shape
        found[part] = array.reshape(x[part].shape) if same else array
    return found


def _rows(asked: Any, array: np.ndarray) -> np.ndarray:
    """The samples as a transformer takes them: a row for each, or a text for each."""
    first = asked.steps[0][1] if hasattr(asked, "steps") else asked
    if hasattr(first, "__sklearn_tags__") and array.size == len(array):
        takes = get_tags(first).input_tags
        if takes.string and not takes.two_d_array:  # TfidfVectorizer is one.
            return array.reshape(-1)
    return array.reshape(len(array), -1)


def _steps_transformed(asked: Any, x: Parts, floating: str, padding: float) -> Parts:
    """What a transformer makes of the steps of sequences, of shape (samples, steps, features).

    It is fitted to the steps that are not padding, each a row of its features.
    """
    real = {part: (array != padding).any(axis=-1) for part, array in x.items()}
    rows = {part: array[real[part]] for part, array in x.items()}
    found = {}
    for part, made in _fitted(asked, rows["train"], rows).items():
        steps = _typed(_dense(made), x["train"].dtype, floating)
        shape = (*x[part].shape[:-1], steps.shape[-1])
        found[part] = np.full(shape, padding, steps.dtype)
        found[part][real[part]] = steps
    return found


def _adapted(layer: Any, x: Parts) -> Parts:
    """What a preprocessing layer of Keras's makes of one array, once adapted to the training."""
    try:
        layer.adapt(x["train"])
        return {part: np.asarray(layer(array)) for part, array in x.items()}
    except (TypeError, ValueError) as error:
        raise _unusable(layer, error) from None


def _fitted(asked: Any, train: Any, parts: Mapping[str, Any]) -> dict[str, Any]:
    """What a transformer returns for each part, once fitted to the training."""
    try:
        fitted = clone(asked).fit(train)
        return {part: fitted.transform(samples) for part, samples in parts.items()}
    except (TypeError, ValueError) as error:
        raise _unusable(asked, error) from None


def _unusable(asked: Any, error: Exception) -> BadInput:
    said = str(error).strip().splitlines() or [type(error).__name__]
    return BadInput(f"data: preprocessing: {_name(asked)} cannot be used: {said[0]}")


def _dense(made: Any) -> np.ndarray:
    """A result as an array; of a one-hot encoder it may be sparse."""
    found: np.ndarray = np.asarray(made.toarray() if hasattr(made, "toarray") else made)
    if found.dtype.hasobject:
        raise BadInput(
            "data: preprocessing: expected numbers or words, got Python objects; a column of words "
            "needs an encoder, such as OneHotEncoder"
        )
    return found


def _typed(made: np.ndarray, before: np.dtype[Any], floating: str) -> np.ndarray:
    return made.astype(before) if before.kind == "f" else _floating(made, floating)


def _floating(made: np.ndarray, floating: str) -> np.ndarray:
    return made.astype(floating) if made.dtype.kind == "f" else made


def _name(asked: Any) -> str:
    return type(asked).__name__

"""Samples for a trained model: read from a file, or of other data, and preprocessed as it knows it.

A file has the samples as the data function of the run returns them in `x`, before preprocessing.
What is fitted to data is fitted again to the training part of the run, since the fit is a function
of the recipe, and then applied to these samples.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from repro.basics import files
from repro.basics.errors import BadInput
from repro.basics.text import nearest
from repro.data import dataset as datasets
from repro.data import preprocessing, structure
from repro.data.dataset import Dataset
from repro.data.sources import Field
from repro.data.splits import Split
from repro.data.structure import Structure

ENDINGS = (".npy", ".npz", ".csv")


def read(path: Path, like: Dataset) -> Structure:
    """Returns the samples of a file, in the structure and with the types of the data set's `x`.

    An `.npy` has one array. An `.npz` has an array for each input, by the input's name. A `.csv`
    has a row for each sample; its columns are those of one array, or have the names of the inputs.
    Each array has the shape (samples, *of one sample).

    Raises:
        BadInput: the file is not readable, or its samples are not like those of the data set.
    """
    fields = inputs(like)
    if path.suffix not in ENDINGS:
        raise BadInput(f"{path}: expected a file that ends in {', '.join(ENDINGS)}")
    if path.suffix == ".csv":
        given = _of_table(path, fields)
    elif path.suffix == ".npy":
        if len(fields) > 1:
            raise BadInput(
                f"{path}: expected an .npz with the arrays {_words(fields)}; an .npy has one array"
            )
        given = datasets.arrays(path, *fields)
    else:
        given = _of_archive(path, fields)
    made = {name: _like(path, name, given[name], field) for name, field in fields.items()}
    lengths = {name: len(array) for name, array in made.items()}
    if len(set(lengths.values())) > 1 or not min(lengths.values()):
        told = ", ".join(f"{_word(name)} {length}" for name, length in lengths.items())
        raise BadInput(f"{path}: expected the same number of samples in each array, got {told}")
    return structure.packed("x", like.whole.x, made)


def inputs(data: Dataset) -> dict[str, Field]:
    """Returns what one sample has in each array of `x`, by the array's flat name."""
    return {name: f for name, f in data.whole.fields().items() if _is_input(name)}


def fitted(data: Dataset, split: Split, x: Structure, dtype: str) -> Structure:
    """Returns samples as the model takes them: what was fitted to the training part is applied.

    Args:
        data: the data set of the run.
        split: the split of the run; its training part is what is fitted to.
        x: the samples, as the data function returns them.
        dtype: `training.dtype`.

    Raises:
        BadInput: see `preprocessing.preprocessed`.
    """
    if data.preprocessing is None:
        return x
    parts = {"train": data.whole.at(split.train).x, "given": x}
    floating = "float64" if dtype == "float64" else "float32"
    return preprocessing.preprocessed(data.preprocessing, parts, floating, data.padding)["given"]


def same_inputs(ours: Dataset, other: Dataset) -> None:
    """Checks that a model which knows the samples of one data set takes those of another one.

    Raises:
        BadInput: the arrays, their shapes or the number of classes differ.
    """
    one, two = ({n: f.shape for n, f in inputs(data).items()} for data in (ours, other))
    if one != two:
        raise BadInput(f"--data: expected samples with the shapes {one}, got {two}")
    if ours.classes != other.classes:
        raise BadInput(f"--data: expected {ours.classes} classes, got {other.classes}")


def _is_input(name: str) -> bool:
    return name == "x" or name.startswith("x/")


def _word(name: str) -> str:
    """The name of an array in a file: `age` for `x/age`."""
    return name.removeprefix("x/")


def _words(fields: Mapping[str, Field]) -> str:
    return ", ".join(map(_word, fields))


def _of_archive(path: Path, fields: Mapping[str, Field]) -> dict[str, Any]:
    try:
        found = files.arrays(path)
    except FileNotFoundError:
        raise BadInput(f"{path}: no such file") from None
    if len(fields) == 1 and len(found) == 1:
        return dict(zip(fields, found.values(), strict=True))
    named = {name: found.get(_word(name)) for name in fields}
    missing = [_word(name) for name, array in named.items() if array is None]
    if missing:
        raise BadInput(
            f"{path}: expected the arrays {_words(fields)}; {', '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} missing"
        )
    return named


def _of_table(path: Path, fields: Mapping[str, Field]) -> dict[str, Any]:
    """The columns of a CSV file, which has a head with names or none."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [row for row in csv.reader(file) if row]
    except FileNotFoundError:
        raise BadInput(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadInput(f"{path}: not a readable CSV file: {error}") from None
    head = rows.pop(0) if rows and not all(map(_is_number, rows[0])) else None
    if not rows:
        raise BadInput(f"{path}: expected a row for each sample, got none")
    width = len(rows[0] if head is None else head)
    for number, row in enumerate(rows, 1 if head is None else 2):
        if len(row) != width:
            raise BadInput(f"{path}, row {number}: expected {width} values, got {len(row)}")
    if len(fields) > 1 or [*fields] != ["x"]:
        return _by_column(path, head, rows, fields)
    ((name, field),) = fields.items()
    if width != math.prod(field.shape):
        raise BadInput(
            f"{path}: expected {math.prod(field.shape)} columns, which the data function's x of "
            f"shape (samples, {', '.join(map(str, field.shape))}) has; got {width}"
        )
    return {name: _array(path, rows, field).reshape(len(rows), *field.shape)}


def _by_column(
    path: Path, head: Sequence[str] | None, rows: list[list[str]], fields: Mapping[str, Field]
) -> dict[str, Any]:
    """An array for each column that is an input; further columns are passed over."""
    wide = [_word(name) for name, field in fields.items() if math.prod(field.shape) != 1]
    if wide:
        raise BadInput(f"{path}: {wide[0]} has several values for each sample; an .npz has room")
    known = [name.strip() for name in head or ()]
    found = {}
    for name, field in fields.items():
        if _word(name) not in known:
            raise BadInput(
                f"{path}: expected a head with the columns {_words(fields)}; there is no "
                f"{_word(name)}{nearest(_word(name), known)}"
            )
        place = known.index(_word(name))
        column = [[row[place]] for row in rows]
        found[name] = _array(path, column, field).reshape(len(rows), *field.shape)
    return found


def _array(path: Path, rows: list[list[str]], field: Field) -> np.ndarray:
    """The values of rows, of shape (rows, columns)."""
    if field.dtype.kind in "SU":
        return np.array(rows)
    try:
        return np.array([[_number(cell) for cell in row] for row in rows])
    except (ValueError, OverflowError) as error:
        raise BadInput(f"{path}: expected numbers: {error}") from None


def _number(cell: str) -> float | int:
    text = cell.strip()
    try:
        return int(text)
    except ValueError:
        return float(text) if text else math.nan


def _is_number(cell: str) -> bool:
    try:
        _number(cell)
    except ValueError:
        return False
    return True


def _like(path: Path, name: str, given: Any, field: Field) -> np.ndarray:
    """An array with the type of the data set's, if it has the shape and the values go into it."""
    array, word = np.asarray(given), _word(name)
    if array.ndim == 0 or array.shape[1:] != field.shape:
        wanted = ", ".join(["samples", *map(str, field.shape)])
        raise BadInput(f"{path}: {word}: expected the shape ({wanted}), got {array.shape}")
    if (array.dtype.kind in "SU") != (field.dtype.kind in "SU"):
        what = "words" if field.dtype.kind in "SU" else "numbers"
        raise BadInput(f"{path}: {word}: expected {what}, got an array of type {array.dtype}")
    if array.dtype.kind in "SU":
        return array
    with np.errstate(invalid="ignore", over="ignore"):
        made: np.ndarray = array.astype(field.dtype)
    if field.dtype.kind in "biu" and not np.array_equal(made, array):
        raise BadInput(
            f"{path}: {word}: expected values of the type {field.dtype}, as the data function "
            f"returns them; got other ones of the type {array.dtype}"
        )
    return made

"""Converts a table in a CSV or Parquet file into rows of one width, a batch after the other.

No row of a text can be found without reading all of it up to there, and Parquet keeps the values of
a column together, and compressed. So a table is read once, from its beginning to its end, and is
written as rows of a NumPy type that has a field for each column.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from repro.basics import files
from repro.basics.errors import BadInput
from repro.basics.text import nearest, said_by
from repro.data import arrow, structure

FORMAT = 1
"""The version of what this module writes. Where it is another one, tables are converted again."""
WHOLE = [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]
TYPES = ("bool", *WHOLE, "float16", "float32", "float64", "str")
"""The types that a column can be asked for in."""
PIECE = 16 * 2**20
"""What the rows may take, in bytes, that are converted at once."""
ROWS = "rows"
"""The name of the file that has the columns of `x` and `y`."""


@dataclass(frozen=True)
class Asked:
    """What is asked for of a table."""

    x: tuple[str, ...] | None
    """Columns; None: all that are nothing else."""
    y: tuple[str, ...]
    whole: dict[str, str]
    """Columns that get a file each, by what they are: `labels`, `groups` or `keys`."""
    types: dict[str, str]
    """One of `TYPES` for each column that is not to have the type that it has in the file."""
    delimiter: str | None
    """What stands between two values of a text; None: the file is one of Parquet."""


@dataclass(frozen=True)
class Written:
    """What a file consists of: so many rows of a type, one after the other."""

    rows: int
    dtype: np.dtype[Any]
    sha256: str


def convert(path: Path, asked: Asked, place: Callable[[str], Path]) -> dict[str, Written]:
    """Writes what is asked for of a table; returns what is in each file, by the file's name.

    Args:
        place: returns where the file of a name is to be: `ROWS`, and the names in `asked.whole`.

    Raises:
        BadInput: the table cannot be read, lacks a column, or has a type or a value that the rows
            cannot have.
        OSError: a file cannot be written.
    """
    table = _Table(path, asked)
    dtypes = table.dtypes()
    fields = [*table.x, *asked.y]
    row = np.dtype([(name, dtypes[name]) for name in fields])
    with contextlib.ExitStack() as stack:

        def begin(name: str, dtype: np.dtype[Any]) -> _Writing:
            return _Writing(stack.enter_context(files.replacing(place(name))), dtype)

        rows = begin(ROWS, row)
        whole = {name: begin(name, dtypes[column]) for name, column in asked.whole.items()}
        width = row.itemsize + sum(dtypes[column].itemsize for column in asked.whole.values())
        for columns in table.pieces(dtypes, max(1, PIECE // width)):
            made = np.empty(len(columns[fields[0]]), row)
            for name in fields:
                made[name] = columns[name]
            rows.write(made)
            for name, column in asked.whole.items():
                whole[name].write(columns[column])
        if not rows.written:
            raise BadInput(f"{path}: expected a table that has rows, got one that has none")
    return {name: file.done() for name, file in {ROWS: rows, **whole}.items()}


class _Writing:
    """A file that rows are written into."""

    def __init__(self, file: BinaryIO, dtype: np.dtype[Any]) -> None:
        self.written = 0
        self._file, self._dtype, self._digest = file, dtype, hashlib.sha256()

    def write(self, rows: np.ndarray) -> None:
        content = np.ascontiguousarray(rows, self._dtype).view(np.uint8).data
        self._digest.update(content)
        self._file.write(content)
        self.written += len(rows)

    def done(self) -> Written:
        return Written(self.written, self._dtype, self._digest.hexdigest())


class _Table:
    """The columns of a table that are asked for, as arrays of NumPy's."""

    def __init__(self, path: Path, asked: Asked) -> None:
        """Reads which columns there are.

        Raises:
            BadInput: the table cannot be read, or a column is not there or cannot be used.
        """
        self._path, self._asked = path, asked
        self._pyarrow = importlib.import_module("pyarrow")
        types = {name: self._arrow_type(np.dtype(kind)) for name, kind in asked.types.items()}
        self._file = (
            arrow.Parquet(path)
            if asked.delimiter is None
            else arrow.Text(path, asked.delimiter, types)
        )
        names = self._file.schema.names
        self.x = _columns_of_x(path, names, asked)
        self._read = list(dict.fromkeys((*self.x, *asked.y, *asked.whole.values())))
        _check_names(path, names, self.x, asked)

    def _arrow_type(self, dtype: np.dtype[Any]) -> Any:
        if dtype.kind == "U":
            return self._pyarrow.large_string()
        return self._pyarrow.from_numpy_dtype(dtype)

    def dtypes(self) -> dict[str, np.dtype[Any]]:
        """Returns the type of each column; words are as wide as the longest, which is looked for.

        Raises:
            BadInput: a column is of a type that a sample cannot have.
        """
        found = {name: self._kind(name) for name in self._read}
        longest = {name: 1 for name, kind in found.items() if kind.kind == "U"}
        if longest:
            compute = importlib.import_module("pyarrow.compute")
            for row, batch in self._numbered([*longest]):
                for name in longest:
                    lengths = compute.utf8_length(self._column(batch, name, found[name], row))
                    longest[name] = max(longest[name], compute.max(lengths).as_py() or 0)
        return found | {name: np.dtype(f"U{length}") for name, length in longest.items()}

    def _kind(self, name: str) -> np.dtype[Any]:
        """The type of a column; that of words has no width yet."""
        if name in self._asked.types:
            return np.dtype(self._asked.types[name])
        types, found = self._pyarrow.types, self._file.schema.field(name).type
        if types.is_dictionary(found):  # pandas calls it a category.
            found = found.value_type
        if types.is_boolean(found) or types.is_integer(found) or types.is_floating(found):
            kind: np.dtype[Any] = np.dtype(found.to_pandas_dtype())
            return kind
        if types.is_string(found) or types.is_large_string(found) or types.is_string_view(found):
            return np.dtype("U")
        odd = self._asked.delimiter is not None and types.is_binary(found)
        raise BadInput(
            f"{self._path}: column {name!r}: expected numbers, words or truth values, got "
            f"{'text that is not in UTF-8' if odd else found}; leave it out, or say what to read "
            f"it as, such as types={{{name!r}: 'str'}}"
        )

    def pieces(
        self, dtypes: Mapping[str, np.dtype[Any]], most: int
    ) -> Iterator[dict[str, np.ndarray]]:
        """Yields all rows in order, as arrays by the names of the columns.

        Args:
            most: the most rows of a piece.

        Raises:
            BadInput: a value is missing, or cannot be kept.
        """
        for first, batch in self._numbered(self._read):
            for start in range(0, batch.num_rows, most):
                piece, row = batch.slice(start, most), first + start
                yield {name: self._array(piece, name, dtypes[name], row) for name in self._read}

    def _numbered(self, columns: Sequence[str]) -> Iterator[tuple[int, Any]]:
        """The batches of these columns, each with the number of its first row."""
        row = self._file.first
        for batch in self._file.batches(columns):
            yield row, batch
            row += batch.num_rows

    def _array(self, piece: Any, name: str, dtype: np.dtype[Any], row: int) -> np.ndarray:
        """A column of a piece, whose first row has the number `row`."""

        def refuse_where(wrong: np.ndarray, why: str) -> None:
            if wrong.any():
                where = f"column {name!r}, row {row + int(wrong.argmax())}"
                raise BadInput(f"{self._path}: {where}: {why}")

        column = self._column(piece, name, dtype, row)
        if dtype.kind != "f":
            no_number = dtype.kind == "U" or name in self._asked.whole.values()
            mend = "" if no_number else f", or say types={{{name!r}: 'float32'}}"
            missing = column.is_null().to_numpy(zero_copy_only=False)
            refuse_where(missing, f"a value is missing; fill it in{mend}")
        if dtype.kind == "U":
            compute = importlib.import_module("pyarrow.compute")
            odd = compute.ends_with(column, "\0").to_numpy(zero_copy_only=False)
            refuse_where(odd, "a word ends in a character NUL, which NumPy cannot keep")
        array: np.ndarray = column.to_numpy(zero_copy_only=False)
        if dtype.kind == "f" and name in self._asked.y:
            refuse_where(~np.isfinite(array), "expected a finite number, since it is a target")
        return array.astype(dtype)

    def _column(self, batch: Any, name: str, dtype: np.dtype[Any], row: int) -> Any:
        """A column of a batch, in Arrow's type for the one that it is to have."""
        column, target = batch.column(name), self._arrow_type(dtype)
        if self._pyarrow.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        try:
            return column.cast(target)
        except self._pyarrow.ArrowException as error:
            said = said_by(error)
        # It names some value that it cannot cast, and not the place of the first one.
        for place, value in enumerate(column):
            try:
                value.cast(target)
            except self._pyarrow.ArrowException as error:
                row, said = row + place, said_by(error)
                break
        kind = self._asked.types.get(name)
        raise BadInput(
            f"{self._path}: column {name!r}, row {row}: cannot be read as {kind}: {said}"
        )


def _columns_of_x(path: Path, names: Sequence[str], asked: Asked) -> tuple[str, ...]:
    """The columns that a sample's x has.

    Raises:
        BadInput: nobody has said which, and they would be none, or one is an index of pandas's.
    """
    if asked.x is not None:
        return asked.x
    others = {*asked.y, *asked.whole.values()}
    left = tuple(name for name in names if name not in others)
    if not left:
        raise BadInput(f"{path}: x: expected columns, and none is left")
    if index := [name for name in left if name.startswith("__index_level_")]:
        raise BadInput(f"{path}: {index[0]} is an index that pandas wrote; say which columns x has")
    return left


def _check_names(path: Path, names: Sequence[str], x: Sequence[str], asked: Asked) -> None:
    """Checks that what is asked for is there once, and can be the key of a dict in a sample.

    Raises:
        BadInput: it is not, or cannot.
    """
    roles = {"x": x, "y": asked.y, **{role: [name] for role, name in asked.whole.items()}}
    for role, wanted in (roles | {"types": [*asked.types]}).items():
        for name in wanted:
            if name not in names:
                near = nearest(name, names) or f"; its columns: {', '.join(names):.200}"
                raise BadInput(f"{path}: {role}: it has no column {name!r}{near}")
            if names.count(name) > 1:
                raise BadInput(f"{path}: {role}: it has more than one column {name!r}")
    read = {name for wanted in roles.values() for name in wanted}
    if unread := sorted(asked.types.keys() - read):
        raise BadInput(f"{path}: types: {unread[0]!r} is in no sample; leave it out")
    try:
        structure.flat("x", dict.fromkeys(x))
        structure.flat("y", dict.fromkeys(asked.y))
    except ValueError as error:
        raise BadInput(f"{path}: {error}; give the column another name, or leave it out") from None

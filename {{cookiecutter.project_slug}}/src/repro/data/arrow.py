"""Tables in CSV and Parquet files, as pyarrow reads them: their columns, and batches of their rows.

However large a table is, a few batches of it are in memory. Nothing that is in a file is executed.
pyarrow starts no threads: they would take cores from other trainings, and without them it can say
in which row a value is wrong.
"""

from __future__ import annotations

import contextlib
import importlib
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from repro.basics.errors import BadInput
from repro.basics.text import said_by

BLOCK = 2 * 2**20
"""The bytes of a text that are read at once. The first of them decide the types of its columns."""
BATCH, VALUE = 16 * 2**20, 16
"""What a batch of a Parquet file may take, and what a value in it takes, about, in bytes."""
MOST = 1 << 16
"""The most rows of such a batch."""


def version() -> str:
    """Returns the version of pyarrow, which is not imported for it.

    Raises:
        BadInput: it is not installed.
    """
    try:
        return metadata.version("pyarrow")
    except metadata.PackageNotFoundError:
        raise BadInput(
            "data: a Table is read by pyarrow, which is not installed: add it to "
            "requirements/cpu.in, then make lock and make install"
        ) from None


class Parquet:
    """A table in a Parquet file."""

    first = 1
    """The number of the first row that has values."""

    def __init__(self, path: Path) -> None:
        """Reads which columns there are.

        Raises:
            BadInput: it is no such file.
        """
        self._path = path
        with _one_line(path), self._opened() as file:
            self.schema = file.schema_arrow

    def _opened(self) -> Any:
        parquet = importlib.import_module("pyarrow.parquet")
        return parquet.ParquetFile(self._path, pre_buffer=False, buffer_size=1 << 20)

    def batches(self, columns: Sequence[str]) -> Iterator[Any]:
        """Yields all rows in order, with these columns alone, as batches of Arrow's.

        Raises:
            BadInput: the file is damaged.
        """
        rows = max(1, min(MOST, BATCH // (VALUE * len(columns))))
        with _one_line(self._path), self._opened() as file:
            yield from file.iter_batches(rows, columns=list(columns), use_threads=False)


class Text:
    """A table in a CSV file. Where nothing stands, a number is missing, and a word is empty."""

    first = 2
    """The number of the first row that has values; the names of the columns are the row before."""

    def __init__(self, path: Path, delimiter: str, types: Mapping[str, Any]) -> None:
        """Reads which columns there are.

        Args:
            delimiter: what stands between two values of a row.
            types: the types of columns, as Arrow has them; those of the others are inferred.

        Raises:
            BadInput: it is no such file.
        """
        self._path, self._delimiter, self._types = path, delimiter, dict[str, Any]()
        with _one_line(path), self._opened() as file:
            self.schema = file.schema
        pyarrow = importlib.import_module("pyarrow")
        for name, kind in types.items():  # Only now, so that a value is refused with its column.
            # pyarrow reads no number of 16 bits from a text.
            self._types[name] = pyarrow.float64() if kind == pyarrow.float16() else kind

    def _opened(self, columns: Sequence[str] = ()) -> Any:
        """A reader of these columns; of all, where none is named."""
        csv = importlib.import_module("pyarrow.csv")
        return csv.open_csv(
            self._path,
            csv.ReadOptions(use_threads=False, block_size=BLOCK),
            csv.ParseOptions(delimiter=self._delimiter, newlines_in_values=True),
            csv.ConvertOptions(column_types=self._types, include_columns=list(columns)),
        )

    def batches(self, columns: Sequence[str]) -> Iterator[Any]:
        """Yields all rows in order, with these columns alone, as batches of Arrow's.

        Raises:
            BadInput: a row has too many or too few values, or a value is not of its column's type.
        """
        with _one_line(self._path, self.schema.names), self._opened(columns) as file:
            yield from file


@contextlib.contextmanager
def _one_line(path: Path, names: Sequence[str] = ()) -> Iterator[None]:
    """Makes one line of what pyarrow raises.

    Args:
        names: what the columns of a text are called, of which pyarrow says the place.
    """
    pyarrow = importlib.import_module("pyarrow")
    try:
        yield
    except FileNotFoundError:
        raise BadInput(f"{path}: no such file") from None
    except (pyarrow.ArrowException, OSError) as error:
        raise BadInput(f"{path}: {_wrong(said_by(error), names)}") from None


def _wrong(said: str, names: Sequence[str]) -> str:
    """What is wrong with a table, of which pyarrow said this; it knows columns by their places."""
    column = re.match(r"In CSV column #(\d+): ", said)
    if column is None:
        return f"cannot be read: {said}"
    name = names[int(column[1])]
    return (
        f"column {name!r}: {said[column.end() :]}; where `types` does not say the type, it is that "
        f"of the first {BLOCK >> 20} MB; types={{{name!r}: 'str'}} would read every value"
    )

"""Tables that are too large for memory, in CSV or Parquet files, read row by row.

Such a file gives no single row at a reasonable cost. So a table is converted once (`conversion`),
and its rows are kept in `.repro_cache/tables`, in a folder for each content of the file and choice
of columns. A later start finds them. The folder can be deleted at any time.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from repro.basics import digests, files, locks
from repro.basics.errors import BadInput
from repro.basics.text import nearest
from repro.data import arrow, conversion, datalock
from repro.data.conversion import ROWS, TYPES, Asked, Written
from repro.data.datalock import Found

FOLDER = datalock.CACHE.with_name("tables")
"""Where the rows of tables are kept in a project."""
HEADER = "header.json"
"""Says what each file in the same folder consists of. It is written after them."""
DELIMITERS = {".csv": ",", ".tsv": "\t", ".txt": ",", ".parquet": None, ".pq": None}
"""By the end of a file's name, what stands between two values; None: the file is no text."""


class Table:
    """A source of the rows of a table in a file; each x is a dict of values by column.

    A number or a truth value has the type that it has in the file, unless `types` says another. A
    missing value is NaN in a column of floating-point numbers, and is refused in another one. Types
    that no array has, such as dates, are refused unless `types` says what to read them as.

    A CSV file does not say of which types its columns are. They are inferred from its first 2 MB; a
    value further on that is not of this type is refused.
    """

    def __init__(
        self,
        path: Path,
        x: Sequence[str] | None = None,
        y: str | Sequence[str] | None = None,
        *,
        labels: str | None = None,
        groups: str | None = None,
        keys: str | None = None,
        types: Mapping[str, str] | None = None,
        delimiter: str | None = None,
    ) -> None:
        """Finds the rows that the table was converted into, or converts it.

        Args:
            path: a file whose name ends in `.parquet`, `.pq`, `.csv`, `.tsv` or `.txt`.
            x: the columns that the x of a sample has; None: all that are nothing else.
            y: the column that is the y of a sample, or the columns that it has, as a dict. Where it
                is not given, the table gives x alone, and else pairs of x and y.
            labels, groups, keys: the columns of which these attributes are made.
            types: what to read some columns as: `bool`, `int8` to `int64`, `uint8` to `uint64`,
                `float16` to `float64`, or `str`.
            delimiter: what stands between two values of a text; None: a tab in `.tsv`, else a
                comma.

        Raises:
            BadInput: pyarrow is not installed; or the file is no table, or has not these columns,
                or has a type or a value that a sample cannot have.
        """
        path = Path(path)
        roles = {"labels": labels, "groups": groups, "keys": keys}
        asked = Asked(
            x=None if x is None else _columns(path, "x", x),
            y=() if y is None else (y,) if isinstance(y, str) else _columns(path, "y", y),
            whole={role: column for role, column in roles.items() if column is not None},
            types=dict(types or {}),
            delimiter=_delimiter(path, delimiter),
        )
        if wrong := _wrong(asked):
            raise BadInput(f"{path}: {wrong}")
        kept = _kept(path, asked)
        self._rows = kept[ROWS]
        self._y = y if y is None or isinstance(y, str) else asked.y
        self._x = [name for name in self._rows.dtype.names or () if name not in asked.y]
        read = {role: kept[role].read(0, len(self)) for role in asked.whole}
        self.labels, self.groups, self.keys = (read.get(role) for role in roles)
        """One value for each sample, of shape (samples,); None where no column was named."""

    def __len__(self) -> int:
        return self._rows.length

    def __getitem__(self, place: int, /) -> Any:
        if not 0 <= place < len(self):
            raise IndexError(place)
        row = self._rows.read(place, 1)[0]
        # A word that is taken out of the row is as wide as itself, and not as the longest one.
        x = {name: np.array(row[name]) for name in self._x}
        if self._y is None:
            return x
        if isinstance(self._y, str):
            return x, np.array(row[self._y])
        return x, {name: np.array(row[name]) for name in self._y}


def _columns(path: Path, what: str, names: Sequence[str]) -> tuple[str, ...]:
    if isinstance(names, str) or not names or not all(isinstance(name, str) for name in names):
        raise BadInput(f"{path}: {what}: expected a list of columns, got {names!r:.99}")
    return tuple(names)


def _delimiter(path: Path, asked: str | None) -> str | None:
    """What stands between two values of a text; None for a Parquet file."""
    suffix = path.suffix.lower()
    if suffix not in DELIMITERS:
        raise BadInput(f"{path}: expected a file that ends in one of {', '.join(DELIMITERS)}")
    if asked is None or DELIMITERS[suffix] is None:
        return DELIMITERS[suffix]
    if len(asked) != 1 or not asked.isascii():
        raise BadInput(f"{path}: delimiter: expected one character, got {asked!r:.99}")
    return asked


def _wrong(asked: Asked) -> str:
    """What is wrong with what is asked for, whatever the table has; or nothing."""
    names = [*(asked.x or ()), *asked.y]
    for name in names:
        if names.count(name) > 1:
            both = asked.x is not None and name in asked.x and name in asked.y
            return f"{name!r} is {'in x and in y' if both else 'named twice'}; take one out"
    for name, kind in asked.types.items():
        if kind not in TYPES:
            near = nearest(str(kind), TYPES) or f"; expected one of {', '.join(TYPES)}"
            return f"types: {name!r}: {kind!r:.99} is no type of a column{near}"
    return ""


@dataclass(frozen=True)
class _Rows:
    """A file of rows of a type, one after the other."""

    path: Path
    dtype: np.dtype[Any]
    length: int

    def read(self, start: int, count: int) -> np.ndarray:
        """Returns so many rows, from that one on."""
        found = np.fromfile(self.path, self.dtype, count, offset=start * self.dtype.itemsize)
        if len(found) != count:
            raise ValueError(f"{self.path} ends before it")
        return found


def _kept(path: Path, asked: Asked) -> dict[str, _Rows]:
    """Returns the files that a table was converted into, by their names; converts it if need be."""
    version = arrow.version()
    datalock.no_pointer(path)
    with datalock.remembered(Path()):
        about = {
            "content": datalock.digest(_found(path)),
            "asked": asdict(asked),
            # Another version may infer another type.
            "versions": [conversion.FORMAT, version],
        }
        folder = (FOLDER / digests.of_json(about)).absolute()
        if (found := _whole(folder, asked)) is not None:
            return found
        try:
            return _converted(path, asked, folder)
        except OSError as error:
            raise BadInput(f"{folder}: cannot be written: {error.strerror}") from None


def _found(path: Path) -> Found:
    """A file as it is now."""
    try:
        real = path.resolve(strict=True)
        return replace(datalock.at(real.parent, real), path=path)
    except FileNotFoundError:
        raise BadInput(f"{path}: no such file") from None
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror}") from None


def _converted(path: Path, asked: Asked, folder: Path) -> dict[str, _Rows]:
    """Converts a table, or waits until another process that does so has ended."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a", encoding="utf-8") as lock:
        locks.lock(lock, math.inf)
        if (found := _whole(folder, asked)) is not None:
            return found
        before = _found(path).stamp
        if before[0] > datalock.LONG:
            print(f"converting {path}, {before[0] / 10**9:.1f} GB", file=sys.stderr)
        written = conversion.convert(path, asked, lambda name: _file(folder, name))
        if _found(path).stamp != before:
            raise BadInput(f"{path}: it was changed while it was read; start again")
        header = {name: _told(folder, name, one) for name, one in written.items()}
        with files.replacing(folder / HEADER) as file:
            file.write(json.dumps(header).encode())
    return {name: _Rows(_file(folder, name), w.dtype, w.rows) for name, w in written.items()}


def _file(folder: Path, name: str) -> Path:
    return folder / f"{name}.bin"


def _told(folder: Path, name: str, written: Written) -> dict[str, Any]:
    """What the header says of a file."""
    dtype = written.dtype
    return {
        "rows": written.rows,
        "dtype": dtype.str if dtype.names is None else dtype.descr,
        "sha256": written.sha256,
        "stamp": datalock.at(folder, _file(folder, name)).stamp,
    }


def _whole(folder: Path, asked: Asked) -> dict[str, _Rows] | None:
    """The files in a folder, by their names; None if one is missing, or not as it was written.

    A file that has kept its size, times and inode is not read. One that has not, as after a copy of
    the project, is compared by its digest.
    """
    kept = {}
    try:
        header = json.loads((folder / HEADER).read_text(encoding="utf-8"))
        for name in (ROWS, *asked.whole):
            told, found = header[name], datalock.at(folder, _file(folder, name))
            dtype = _dtype(told["dtype"])
            if found.stamp[0] != told["rows"] * dtype.itemsize:
                return None
            if found.stamp != told["stamp"] and datalock.digest(found) != told["sha256"]:
                return None
            kept[name] = _Rows(found.path, dtype, told["rows"])
    except (OSError, ValueError, TypeError, LookupError, BadInput):
        return None
    return kept


def _dtype(told: Any) -> np.dtype[Any]:
    """The type that a header tells.

    Raises:
        ValueError, TypeError: it tells none of those that are written.
    """
    if not isinstance(told, str):
        return np.dtype([(name, _dtype(kind)) for name, kind in told])
    if not re.fullmatch(r"[<>|][biufU]\d+", told):
        raise ValueError(told)
    return np.dtype(told)

"""Samples that are stored as arrays in a file, or in batches, and had one by one."""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import Any

import numpy as np

from repro.basics.errors import BadInput
from repro.basics.files import array_header, unreadable
from repro.data import datalock, structure


class ArrayFile:
    """The array of an `.npy` file, of which each row is read when it is asked for.

    It is not mapped into memory, so that neither the file's size nor a limit on the memory that a
    process may address matters.
    """

    def __init__(self, path: Path) -> None:
        """Reads the header.

        Raises:
            BadInput: it is no such file, or is one of Python objects or in the order of Fortran.
        """
        datalock.no_pointer(path)
        try:
            with path.open("rb") as file:
                self.shape, by_columns, self._stored = array_header(file)
                self._start = file.tell()
        except FileNotFoundError:
            raise BadInput(f"{path}: no such file") from None
        except Exception as error:
            raise BadInput(f"{path}: not an .npy file: {unreadable(error)}") from None
        if by_columns or self._stored.hasobject or not self.shape:
            what = "an array of Python objects" if self._stored.hasobject else "columns"
            what = what if self.shape else "a single value"
            raise BadInput(f"{path}: expected the rows of an array one after the other, got {what}")
        self._path, self._row = path, math.prod(self.shape[1:])
        self.dtype = self._stored.newbyteorder("=")

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, place: int, /) -> np.ndarray:
        if not 0 <= place < len(self):
            raise IndexError(place)
        offset = self._start + place * self._row * self._stored.itemsize
        found = np.fromfile(self._path, self._stored, self._row, offset=offset)
        if len(found) != self._row:
            raise ValueError(f"{self._path} ends before it")
        return found.astype(self.dtype, copy=False).reshape(self.shape[1:])


class Batched:
    """A source of the samples in the batches of a `keras.utils.PyDataset`.

    A batch is made for each of its samples that is asked for, unless it is one of the last few.
    """

    def __init__(self, batches: Any) -> None:
        """Takes anything that gives batches `(x, y)`; all but the last have the same size."""
        self._batch = functools.lru_cache(8)(batches.__getitem__)
        self._size = _length(self._batch(0))
        last = len(batches) - 1
        self._length = last * self._size + _length(self._batch(last))

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, place: int, /) -> structure.Structure:
        number, row = divmod(place, self._size)
        return structure.like(self._batch(number), lambda _, array: np.asarray(array)[row], "x")


def _length(batch: Any) -> int:
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise BadInput(
            f"data: expected batches of x and y, got {type(batch).__name__}"
            f"{f' of {len(batch)}' if isinstance(batch, tuple | list) else ''}; weights are given "
            "as `weight` of the Dataset"
        )
    return len(next(iter(structure.flat("x", batch[0]).values())))

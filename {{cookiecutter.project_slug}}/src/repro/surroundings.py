"""What must not matter to a result, changed on purpose between the runs of a gate.

Two runs in the same surroundings agree on much that is luck: the order in which a set of strings
or a folder is listed, the time of day. The first run of a gate has the ordinary surroundings;
each further one has these changed, and must give the same bits.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from typing import Any

VARIATIONS = {
    "hash-seed": "the order of sets of strings (PYTHONHASHSEED)",
    "directory-order": "the order in which folders list their files",
    "clock": "the time of day, by some months",
}


def environment(varied: list[str], index: int) -> dict[str, str]:
    """Variables for the process of the gate's run number `index`, from 1."""
    return {"PYTHONHASHSEED": str(4000 + index)} if "hash-seed" in varied else {}


def enter(varied: list[str], index: int) -> None:
    """Changes this process's surroundings, before anything of the project is imported."""
    if "directory-order" in varied:
        _reverse_directories()
    if "clock" in varied:
        _shift_clock(index * 10_000_019)  # Seconds; prime, so that no unit of time divides it.


def _shift_clock(seconds: int) -> None:
    def later(clock: Callable[[], Any], shift: int) -> Callable[[], Any]:
        return lambda: clock() + shift

    time.time = later(time.time, seconds)
    time.time_ns = later(time.time_ns, seconds * 10**9)


def _reverse_directories() -> None:
    listdir, scandir = os.listdir, os.scandir

    class Reversed:
        """What `os.scandir` returns, from the last entry to the first."""

        def __init__(self, *path: Any) -> None:
            with scandir(*path) as entries:
                self._entries = iter(list(entries)[::-1])

        def __iter__(self) -> Iterator[os.DirEntry[Any]]:
            return self

        def __next__(self) -> os.DirEntry[Any]:
            return next(self._entries)

        def __enter__(self) -> Reversed:
            return self

        def __exit__(self, *exception: object) -> None:
            self.close()

        def close(self) -> None:
            self._entries = iter([])

    os.listdir = lambda *path: listdir(*path)[::-1]  # type: ignore[assignment]
    os.scandir = Reversed  # type: ignore[assignment]

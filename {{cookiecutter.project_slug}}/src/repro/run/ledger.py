"""The ledger: digests along a run, so that two runs can be compared where they were equal.

`ledger.jsonl` holds an entry a line, each with a `head`: the SHA-256 of the head before it and
of the entry. Equal heads mean equal runs up to there. Stages, in order:

    environment   what is in effect for the guarantee
    data          all samples, which of them are in which part, and what preprocessing made of them
    initial       weights, optimizer and generators before the first step
    step          after each chunk of steps: data order, generators, metrics
    epoch         after each epoch: order, generators, metrics, weights, optimizer, results
    final         predictions, what the model produced, and test results

Weights are read once an epoch, not once a step, so the cost grows with their number and not with
the number of steps.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from repro.basics.errors import BadInput
from repro.basics.files import dumps, replacing

# What differs first in an entry is what stands first here: an order or a generator is a cause,
# weights and metrics are effects.
FIELDS = (
    "settings",
    "samples",
    "split",
    "arrays",
    "order",
    "generators",
    "weights",
    "optimizer",
    "outside",
    "metrics",
    "produced",
    "results",
)


FRESH = "; a new run is needed: repro train --fresh"
"""What to do where a run cannot go on with its ledger."""


@dataclass(frozen=True)
class Entry:
    """What a run was at one place."""

    stage: str
    epoch: int
    step: int
    fields: dict[str, dict[str, Any]]
    """Of `FIELDS`, each names with a digest or a value."""

    @property
    def place(self) -> tuple[str, int, int]:
        """Where in the run this is."""
        return self.stage, self.epoch, self.step

    def field(self, name: str) -> dict[str, Any]:
        """The names and digests or values of a field; none where the entry does not have it."""
        return self.fields.get(name, {})

    def __str__(self) -> str:
        return f"{self.stage}, epoch {self.epoch}, step {self.step}"


@dataclass(frozen=True)
class Divergence:
    """Where two runs part first."""

    stage: str
    epoch: int
    step: int
    what: str
    """The field of the entry, one of `FIELDS`; `place` or `length` where the entries differ as a
    whole, `sources` where the data were read from other content."""
    name: str
    """Of the tensor, generator, setting or source."""
    a: object
    """Its digest or value in the first run; None where it has none."""
    b: object
    """The same in the second run."""
    names: list[str] | None = None
    """All that differ at this place, where what differs has names."""
    means: str | None = None
    """What such a difference means, where a comparison has said it."""

    def as_json(self) -> dict[str, Any]:
        """As answers and manifests have it; what is not known is left out."""
        content = asdict(self)
        return {k: v for k, v in content.items() if k not in ("names", "means") or v is not None}


class Parted(BadInput):
    """A run that went on was not what it had been: its data, settings or initial state differ."""

    def __init__(self, message: str, where: Divergence) -> None:
        super().__init__(message)
        self.where = where


class Ledger:
    """Appends entries to a file.

    Where the file exists, the ledger goes on with it: it keeps the first `keep` entries and removes
    all later ones. A kill may have left the last entry half written; that one is removed too.
    """

    def __init__(self, path: Path, keep: int = 0, head: str = "") -> None:
        """`head` is that of the last entry to keep.

        Raises:
            BadInput: the entries to keep are not all there, or were altered; all stays as it is.
        """
        lines = path.read_bytes().splitlines(keepends=True)[:keep] if keep else []
        found = [head for head, _ in _chain(path, lines, whole=False)]
        if len(found) != keep or (found and found[-1] != head):
            raise BadInput(
                f"{path}: not the ledger that the checkpoint was written with, it was cut or "
                f"altered{FRESH}"
            )
        with replacing(path) as file:
            file.write(b"".join(lines))
        self._file = path.open("a", encoding="utf-8")
        self.entries = len(lines)
        self.head = head
        self.seconds = 0.0
        """Spent on the entries made in a `timed` block."""

    def append(
        self, stage: str, fields: Mapping[str, Mapping[str, Any]], epoch: int = 0, step: int = 0
    ) -> None:
        """Writes one entry; `fields` are of `FIELDS`, each names with a digest or a value."""
        entry = {"stage": stage, "epoch": epoch, "step": step, **fields}
        text = dumps(entry, sort_keys=True)
        self.head = hashlib.sha256((self.head + text).encode()).hexdigest()
        self._file.write(dumps(entry | {"head": self.head}) + "\n")
        self._file.flush()
        self.entries += 1

    @contextlib.contextmanager
    def timed(self) -> Iterator[None]:
        """Adds the time of a block, in which an entry is made, to `seconds`."""
        start = time.monotonic()
        yield
        self.seconds += time.monotonic() - start

    def sync(self) -> None:
        """Returns when all entries are on the disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Closes the file, all of which is on the disk then."""
        self.sync()
        self._file.close()


def read(path: Path, whole: bool = True) -> Iterator[Entry]:
    """Yields the entries, checking the chain; of an interrupted run the last may be torn.

    Args:
        whole: whether the run has finished; else somebody wants to go on with it, and is told how
            to begin anew where that cannot be.

    Raises:
        BadInput: the file is not there, empty, torn or altered.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError:
        raise BadInput(f"{path}: no readable ledger{'' if whole else FRESH}") from None
    if not lines:
        told = "it is empty, and was not when the run wrote it"
        raise BadInput(f"{path}: {told}{'' if whole else FRESH}")
    for _, entry in _chain(path, lines, whole):
        yield entry


def _chain(path: Path, lines: list[bytes], whole: bool = True) -> Iterator[tuple[str, Entry]]:
    """Yields the entries that lines hold, each behind its head; see `read`."""
    head = ""
    for number, line in enumerate(lines, 1):
        try:
            content = json.loads(line)
            found = content.pop("head")
            text = dumps(content, sort_keys=True)
            entry = Entry(content.pop("stage"), content.pop("epoch"), content.pop("step"), content)
        except (ValueError, KeyError, TypeError, AttributeError):
            if not whole and number == len(lines):
                return
            advice = "" if whole else FRESH
            raise BadInput(f"{path}, line {number}: not an entry of a ledger{advice}") from None
        head = hashlib.sha256((head + text).encode()).hexdigest()
        if head != found:
            advice = "" if whole else FRESH
            raise BadInput(f"{path}, line {number}: altered since it was written{advice}")
        yield head, entry


def first_difference(a: Path, b: Path) -> Divergence | None:
    """Returns where two ledgers part, or None."""
    entries_a, entries_b = list(read(a)), list(read(b))
    for one, other in zip(entries_a, entries_b, strict=False):
        if one != other:
            return _difference(one, other)
    number, of = len(entries_a), len(entries_b)
    if number == of:
        return None
    more = max(entries_a, entries_b, key=len)[min(number, of)]
    return Divergence(*more.place, "length", "entries", number, of)


def _difference(one: Entry, other: Entry) -> Divergence:
    """How two entries differ that stand at one place of two ledgers."""
    for what in FIELDS:
        left, right = one.field(what), other.field(what)
        names = [n for n in {**left, **right} if left.get(n) != right.get(n)]
        if names:
            first = names[0]
            found = left.get(first), right.get(first)
            return Divergence(*one.place, what, first, *found, names)
    return Divergence(*one.place, "place", "stage", str(one), str(other))

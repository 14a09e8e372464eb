"""The ledger: digests along a run, which show up to which place two runs were equal.

`ledger.jsonl` has one entry on each line. Each entry has a `head`: the SHA-256 of the head before
it and of the entry. Equal heads mean that two runs were equal up to there. The stages, in order:

    environment   what is in effect for the guarantee
    data          all samples, which of them are in which part, and what preprocessing made of them
    initial       weights, optimizer and generators before the first step
    step          after each chunk of steps: data order, generators, metrics
    epoch         after each epoch: order, generators, metrics, weights, optimizer, results
    final         predictions, what the model produced, and test results

Weights are read once in each epoch and not after each step. So the cost depends on the number of
weights and not on the number of steps.
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

# The fields of an entry, in the order in which they are compared: causes such as the data order
# and the generators come before effects such as weights and metrics.
FIELDS = (
    "settings",
    "samples",
    "split",
    "order",
    "content",
    "arrays",
    "vocabulary",
    "generators",
    "weights",
    "optimizer",
    "outside",
    "metrics",
    "produced",
    "results",
)


FRESH = "; a new run is needed: repro train --fresh"
"""The advice if a run cannot go on with its ledger."""


@dataclass(frozen=True)
class Entry:
    """The digests and values of a run at one place."""

    stage: str
    epoch: int
    step: int
    fields: dict[str, dict[str, Any]]
    """By field, one of `FIELDS`: digests or values by name."""

    @property
    def place(self) -> tuple[str, int, int]:
        """The place in the run: stage, epoch and step."""
        return self.stage, self.epoch, self.step

    def field(self, name: str) -> dict[str, Any]:
        """Returns a field's digests or values by name; empty if the entry has no such field."""
        return self.fields.get(name, {})

    def __str__(self) -> str:
        return f"{self.stage}, epoch {self.epoch}, step {self.step}"


@dataclass(frozen=True)
class Divergence:
    """The first place where two runs differ."""

    stage: str
    epoch: int
    step: int
    what: str
    """The field of the entry, one of `FIELDS`. It is `place` or `length` if whole entries differ,
    and `sources` if the data were read from other content."""
    name: str
    """The name of the tensor, generator, setting or source that differs."""
    a: object
    """Its digest or value in the first run; None if the run does not have it."""
    b: object
    """The same in the second run."""
    names: list[str] | None = None
    """The names of all that differ in this field; None if they have no names."""
    means: str | None = None
    """What such a difference means, in words, if a comparison has added it."""

    def as_json(self) -> dict[str, Any]:
        """Returns the divergence as answers and manifests have it, without unknown fields."""
        content = asdict(self)
        return {k: v for k, v in content.items() if k not in ("names", "means") or v is not None}


class Parted(BadInput):
    """A run cannot go on: its data, settings or initial state differ from those it began with."""

    def __init__(self, message: str, where: Divergence) -> None:
        super().__init__(message)
        self.where = where


class Ledger:
    """Appends entries to a file."""

    def __init__(self, path: Path, keep: int = 0, head: str = "") -> None:
        """Begins a ledger, or goes on with one.

        Args:
            keep: how many entries of an existing file to keep. All later ones are removed, and so
                is a last entry that a kill has left half written. 0: begins a new file.
            head: the head of the last entry to keep.

        Raises:
            BadInput: the entries to keep are not all there, or were altered. The file stays as it
                is.
        """
        lines = path.read_bytes().splitlines(keepends=True)[:keep] if keep else []
        found = [head for head, _ in _chain(path, lines, whole=False)]
        if len(found) != keep or (found and found[-1] != head):
            raise BadInput(
                f"{path}: this is not the ledger that belongs to the checkpoint; it was cut or "
                f"altered{FRESH}"
            )
        with replacing(path) as file:
            file.write(b"".join(lines))
        self._file = path.open("a", encoding="utf-8")
        self.entries = len(lines)
        self.head = head
        self.seconds = 0.0
        """The seconds that `timed` blocks have taken."""

    def append(
        self, stage: str, fields: Mapping[str, Mapping[str, Any]], epoch: int = 0, step: int = 0
    ) -> None:
        """Writes one entry; see `Entry`."""
        entry = {"stage": stage, "epoch": epoch, "step": step, **fields}
        text = dumps(entry, sort_keys=True)
        self.head = linked(self.head, text)
        self._file.write(dumps(entry | {"head": self.head}) + "\n")
        self._file.flush()
        self.entries += 1

    @contextlib.contextmanager
    def timed(self) -> Iterator[None]:
        """Adds the time of the block to `seconds`."""
        start = time.monotonic()
        yield
        self.seconds += time.monotonic() - start

    def sync(self) -> None:
        """Flushes all entries to the disk, and waits until they are there."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Flushes all entries to the disk and closes the file."""
        self.sync()
        self._file.close()


def read(path: Path, whole: bool = True) -> Iterator[Entry]:
    """Yields the entries of a ledger, and checks the chain.

    Args:
        whole: whether the run has finished. If it has not, it is about to go on: then the last
            entry may be half written, and messages advise how to begin anew.

    Raises:
        BadInput: the file is missing, empty, cut or altered.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError:
        raise BadInput(f"{path}: the ledger cannot be read{'' if whole else FRESH}") from None
    if not lines:
        told = "the ledger is empty; it was emptied after the run had written it"
        raise BadInput(f"{path}: {told}{'' if whole else FRESH}")
    for _, entry in _chain(path, lines, whole):
        yield entry


def linked(head: str, text: str) -> str:
    """Returns the head of a line: the SHA-256 of the head before it and of the line's text."""
    return hashlib.sha256((head + text).encode()).hexdigest()


def _chain(path: Path, lines: list[bytes], whole: bool = True) -> Iterator[tuple[str, Entry]]:
    """Yields the head and the entry of each line; see `read`."""
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
        head = linked(head, text)
        if head != found:
            advice = "" if whole else FRESH
            raise BadInput(f"{path}, line {number}: altered since it was written{advice}")
        yield head, entry


def first_difference(a: Path, b: Path) -> Divergence | None:
    """Returns the first place where two ledgers differ; None if they are equal."""
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
    """Says how two entries differ that stand at the same place of two ledgers."""
    for what in FIELDS:
        left, right = one.field(what), other.field(what)
        names = [n for n in {**left, **right} if left.get(n) != right.get(n)]
        if names:
            first = names[0]
            found = left.get(first), right.get(first)
            return Divergence(*one.place, what, first, *found, names)
    return Divergence(*one.place, "place", "stage", str(one), str(other))

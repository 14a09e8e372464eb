"""Chunks of batches, in order: of samples in memory their places, of others what was read of them.

Readers are threads that read ahead of the training. How many there are changes no bit: each sample
is a function of its key and the epoch, and the chunks come in their order.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from repro.basics.errors import BadInput
from repro.data.dataset import Part

CHUNK = 125
"""Steps in one call: long enough that the call costs nothing, short enough to show progress."""
CHUNK_BYTES = 32 * 2**20
"""What the samples of a chunk may take that are read: several chunks are in memory at once."""
BLOCK = 16
"""Samples that a reader takes at once."""
AHEAD = 2
"""Chunks that are read ahead of the one in use."""


@dataclass(frozen=True)
class Chunk:
    """Batches that one call makes steps on."""

    indices: np.ndarray
    """The places of the samples in their part, int32 of shape (steps, batch)."""
    content: dict[str, np.ndarray] | None = None
    """What was read, by flat names, each of shape (steps, batch, …); None for a part in memory."""
    digest: str | None = None
    """One SHA-256 over the digests of the samples that were read."""
    read: np.ndarray | None = None
    """The places of the samples that were read, of the shape of `indices`. They are those of
    `indices`, except where a sample was skipped; see `Reader.skip`."""

    @property
    def steps(self) -> int:
        """How many steps are made on it."""
        return len(self.indices)

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """What a backend is given: the content, or the indices as `rows`."""
        return {"rows": self.indices} if self.content is None else self.content

    def batch(self, number: int) -> dict[str, np.ndarray]:
        """The part of `arrays` that one of its steps is made on."""
        return {name: array[number] for name, array in self.arrays.items()}


def steps_of_chunk(part: Part, batch_size: int) -> int:
    """How many steps a chunk of a part has at most."""
    if part.reader is None:
        return CHUNK
    size = sum(max(1, f.dtype.itemsize) * int(np.prod(f.shape)) for f in part.fields().values())
    return max(1, min(CHUNK, CHUNK_BYTES // (size * batch_size)))


SEEN, NAMED = "samples.bin", "samples.txt"
"""The files of a run that have, in the order of the data set, the digest of each sample, zeros for
one that was not read; and the key of each."""
SKIPPED = 255
"""Each byte in the place of a digest, for a sample that could not be read and was skipped."""


class Seen:
    """The digests that samples had when they were read, kept in a file of the run.

    A sample that has another digest later has changed while the run went on. Two runs whose chunks
    differ are compared by these files, so that the sample is named; see `changed`.
    """

    def __init__(self, directory: Path, keys: np.ndarray) -> None:
        """Begins the files in a run's directory, or goes on with them.

        Args:
            keys: what all samples of the data set are called, of shape (samples,).
        """
        path, size = directory / SEEN, len(keys) * 16
        if not path.is_file() or path.stat().st_size != size:
            with path.open("wb") as file:
                file.truncate(size)
        (directory / NAMED).write_text("".join(f"{key}\n" for key in keys), encoding="utf-8")
        self._known = np.memmap(path, np.uint8, "r+", shape=(len(keys), 16))
        self._keys = keys

    def skipped(self) -> tuple[str, ...]:
        """Returns the keys of the samples that could not be read and were skipped."""
        return tuple(str(key) for key in self._keys[(self._known == SKIPPED).all(axis=1)])

    def notes(self) -> list[str]:
        """Returns what a person has to know about it, one line or none."""
        keys = self.skipped()
        if not keys:
            return []
        shown = ", ".join(keys[:5]) + (f" and {len(keys) - 5} more" if keys[5:] else "")
        count = f"{len(keys)} sample{'' if len(keys) == 1 else 's'}"
        return [f"{count} could not be read, and the next ones stood for them: {shown}"]

    def note(self, part: Part, indices: np.ndarray, digests: np.ndarray) -> None:
        """Notes digests of shape (samples, 16).

        Raises:
            BadInput: one is not what it was.
        """
        assert part.reader is not None
        places = part.reader.places[indices]
        before = self._known[places]
        wrong = (before != digests).any(axis=1) & before.any(axis=1)
        if wrong.any():
            key = part.reader.keys[int(indices[int(np.argmax(wrong))])]
            raise BadInput(f"data: sample {key}: it was changed while this run went on")
        self._known[places] = digests


def changed(one: Path, other: Path) -> list[str]:
    """Returns the keys of the samples that two runs read from a source with another content."""
    if not all((run / SEEN).is_file() for run in (one, other)):
        return []  # The samples were in memory, where the ledger has the digest of each array.
    found = [np.fromfile(run / SEEN, np.uint8).reshape(-1, 16) for run in (one, other)]
    keys = (one / NAMED).read_text(encoding="utf-8").splitlines()
    if len(found[0]) != len(found[1]):
        return []
    differ = (found[0] != found[1]).any(axis=1) & found[0].any(axis=1) & found[1].any(axis=1)
    return [keys[place] for place in np.flatnonzero(differ)]


class Feed:
    """Gives the chunks of a part, and reads those of a source ahead."""

    def __init__(
        self,
        part: Part,
        readers: int = 0,
        seen: Seen | None = None,
        around: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """Sets up what a part is read by.

        Args:
            readers: the number of threads that read; with 0 who asks for a chunk reads it.
            seen: what the samples that are read are compared with.
            around: makes a block in which samples are read, in whichever thread that is.
        """
        self.part, self._readers, self._seen, self._around = part, readers, seen, around
        self.digest: str | None = None
        """One SHA-256 over what was read in the last pass; None for a part in memory."""

    def chunks(self, cut: Iterable[np.ndarray], epoch: int | None = None) -> Iterator[Chunk]:
        """Yields a chunk for each array of places, of shape (steps, batch).

        Args:
            epoch: the epoch that samples are augmented for; None where they are not.

        Raises:
            BadInput: a sample cannot be read, is not like the others, or has changed.
        """
        if self.part.reader is None:
            yield from map(Chunk, cut)
            return
        passed = hashlib.sha256()
        for chunk in self._read(cut, epoch):
            passed.update(str(chunk.digest).encode())
            yield chunk
        self.digest = passed.hexdigest()

    def _read(self, cut: Iterable[np.ndarray], epoch: int | None) -> Iterator[Chunk]:
        if not self._readers:
            for indices in cut:
                pending = _Pending(self.part, indices)
                for block in pending.blocks:
                    self._read_block(pending, block, epoch)
                yield self._done(pending)
        else:
            yield from self._ahead(iter(cut), epoch)

    def _ahead(self, cut: Iterator[np.ndarray], epoch: int | None) -> Iterator[Chunk]:
        pool = ThreadPoolExecutor(self._readers, thread_name_prefix="reader")
        waiting: deque[tuple[_Pending, list[Future[None]]]] = deque()

        def begin() -> None:
            if (indices := next(cut, None)) is not None:
                pending = _Pending(self.part, indices)
                read = (
                    pool.submit(self._read_block, pending, block, epoch) for block in pending.blocks
                )
                waiting.append((pending, list(read)))

        try:
            for _ in range(AHEAD + 1):
                begin()
            while waiting:
                pending, futures = waiting.popleft()
                for future in futures:  # In order, so that of two faults the first is told.
                    future.result()
                yield self._done(pending)
                begin()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _read_block(self, pending: _Pending, block: slice, epoch: int | None) -> None:
        with self._around():
            pending.read(block, epoch)

    def _done(self, pending: _Pending) -> Chunk:
        if self._seen is not None:
            skipped = np.fromiter(pending.skipped, np.int64)
            self._seen.note(self.part, pending.numbers, pending.read_digests)
            self._seen.note(self.part, skipped, np.full((len(skipped), 16), SKIPPED, np.uint8))
        digest = hashlib.sha256(pending.content_digests.tobytes()).hexdigest()
        read = pending.numbers.reshape(pending.indices.shape)
        return Chunk(pending.indices, pending.made(), digest, read)


class _Pending:
    """A chunk that is being read, a block of samples at a time."""

    def __init__(self, part: Part, indices: np.ndarray) -> None:
        self.part, self.indices = part, indices
        self.numbers, self.skipped = indices.reshape(-1).copy(), set[int]()
        assert part.reader is not None
        self._read = {
            # Words may have any length until all of them are there.
            name: np.empty((indices.size, *f.shape), object if f.dtype.kind in "SU" else f.dtype)
            for name, f in part.reader.fields.items()
        }
        self.read_digests, self.content_digests = np.zeros((2, indices.size, 16), np.uint8)
        self.blocks = [slice(start, start + BLOCK) for start in range(0, indices.size, BLOCK)]

    def made(self) -> dict[str, np.ndarray]:
        """The content of the chunk, once all of it was read."""
        assert self.part.reader is not None
        numbers = self.numbers.reshape(self.indices.shape)
        found = {name: array[numbers] for name, array in self.part.arrays().items()}
        for name, array in self._read.items():
            kind = self.part.reader.fields[name].dtype.kind
            whole = array.astype(kind) if kind in "SU" else array
            found[name] = whole.reshape(*self.indices.shape, *array.shape[1:])
        return found

    def read(self, block: slice, epoch: int | None) -> None:
        """Reads a block of the chunk's samples into their places."""
        assert self.part.reader is not None
        numbers = self.indices.reshape(-1)[block]
        for place, number in enumerate(numbers, block.start):
            sample = self.part.reader.read(int(number), epoch)
            self.numbers[place] = sample.number
            self.skipped.update(sample.skipped)
            for name, array in sample.arrays.items():
                self._read[name][place] = array
            self.read_digests[place] = np.frombuffer(sample.read, np.uint8)
            self.content_digests[place] = np.frombuffer(sample.content, np.uint8)

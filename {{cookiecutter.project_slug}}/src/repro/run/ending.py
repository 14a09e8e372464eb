"""How a training ended, for another one that goes on from there (`training.initial_state`).

The final state of a run need not be what its next step would have started from: an average may have
taken the place of the weights, or a callback brought back those of its best epoch. And callbacks
remember. So a run leaves two things: its final state, `state.npz`, and its ending. Two epochs, and
two more that go on from their ending, are then the same as four.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from repro.basics import files
from repro.basics.digests import sha256
from repro.basics.errors import BadInput
from repro.basics.files import replacing
from repro.run import state


@dataclass(frozen=True)
class Memory:
    """What is remembered beside the tensors."""

    epochs: int
    """Made so far, counted from the very beginning."""
    learning_rate: float
    """The recipe's. A callback may have changed the optimizer's since."""
    callbacks: dict[str, dict[str, Any]]
    history: list[dict[str, float]]
    host: dict[str, Any]
    """The generators of Python and NumPy; see `state.host`."""


@dataclass(frozen=True)
class Ending:
    """A memory, the tensors that the next step would have started from, and a callback's best."""

    memory: Memory
    tensors: dict[str, np.ndarray]
    best: list[np.ndarray]

    def digest(self) -> str:
        """SHA-256 over all of it: what a recipe that goes on from here names."""
        found = hashlib.sha256(state.digest_of(self.tensors).encode())
        found.update(_text(self.memory).encode())
        for array in self.best:
            found.update(sha256(array).encode())
        return found.hexdigest()

    def save(self, directory: Path, final: str) -> None:
        """Writes `ending.json`; and `ending.npz`, where the state of the digest `final`, which lies
        there already, does not have all of it."""
        with replacing(directory / "ending.json") as file:
            file.write(_text(self.memory).encode())
        if self.best or state.digest_of(self.tensors) != final:
            state.save(directory / "ending.npz", state.with_best(self.tensors, self.best))


def load(run: Path, expected: str) -> Ending:
    """Returns the ending of a finished run.

    Raises:
        BadInput: it has not the digest `expected`, or is damaged.
    """
    path = run / "ending.npz"
    if not path.is_file():
        path = run / "state.npz"
    tensors = state.read(path)
    best = state.take_best(tensors)
    try:
        content = json.loads((run / "ending.json").read_text(encoding="utf-8"))
        content["history"] = files.numbers(content["history"])
        memory = Memory(**{field.name: content[field.name] for field in fields(Memory)})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{run / 'ending.json'}: not a readable ending: {error}") from None
    found = Ending(memory, tensors, best)
    if found.digest() != expected:
        raise BadInput(f"{run}: it does not end as {expected}; its files were altered")
    return found


def _text(memory: Memory) -> str:
    return files.dumps(asdict(memory), sort_keys=True)

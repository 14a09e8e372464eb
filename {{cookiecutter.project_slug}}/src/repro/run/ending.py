"""How a training ended, for another one that goes on from there (`training.initial_state`).

The final state of a run need not be what its next step would have started from: an average may have
replaced the weights, or a callback may have brought back those of its best epoch. Callbacks also
have a state of their own. So a run leaves two things: its final state, `state.npz`, and its ending.
A training of two epochs, and one of two more epochs that goes on from its ending, give the same as
one training of four epochs.
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
    """What an ending holds beside the tensors."""

    epochs: int
    """The epochs made so far, those of earlier trainings included."""
    learning_rate: float | None
    """The recipe's learning rate; a callback may have changed that of the optimizer since."""
    callbacks: dict[str, Any]
    """See `callbacks.Watchers.states`."""
    history: list[dict[str, float]]
    host: dict[str, Any]
    """The generators of Python and NumPy; see `state.host`."""


@dataclass(frozen=True)
class Ending:
    """All that the next step of a finished training would have started from."""

    memory: Memory
    tensors: dict[str, np.ndarray]
    """By `kind/path`; see `state.arrays`."""
    kept: dict[str, np.ndarray]
    """The arrays that callbacks keep, such as the weights of the best epoch."""

    def digest(self) -> str:
        """Returns the SHA-256 over all of it; a recipe that goes on from here has this digest."""
        found = hashlib.sha256(state.digest_of(self.tensors).encode())
        found.update(_text(self.memory).encode())
        for name, array in self.kept.items():
            found.update(f"{name} {sha256(array)}".encode())
        return found.hexdigest()

    def save(self, directory: Path, final: str) -> None:
        """Writes `ending.json`, and `ending.npz` if its tensors are not those of `state.npz`.

        Args:
            final: the digest of the final state, which `state.npz` in this directory holds.
        """
        with replacing(directory / "ending.json") as file:
            file.write(_text(self.memory).encode())
        if self.kept or state.digest_of(self.tensors) != final:
            state.save(directory / "ending.npz", self.tensors | self.kept)


def load(run: Path, expected: str) -> Ending:
    """Returns the ending of a finished run.

    Raises:
        BadInput: its digest is not `expected`, or a file is damaged.
    """
    path = run / "ending.npz"
    if not path.is_file():
        path = run / "state.npz"
    tensors = state.read(path)
    kept = state.take_kept(tensors)
    try:
        content = json.loads((run / "ending.json").read_text(encoding="utf-8"))
        content["history"] = files.numbers(content["history"])
        memory = Memory(**{field.name: content[field.name] for field in fields(Memory)})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{run / 'ending.json'}: not a readable ending: {error}") from None
    found = Ending(memory, tensors, kept)
    if found.digest() != expected:
        raise BadInput(
            f"{run}: expected an ending with the digest {expected}, got another: its files were "
            "altered"
        )
    return found


def _text(memory: Memory) -> str:
    return files.dumps(asdict(memory), sort_keys=True)

"""What is noted of a script while it runs: the ledger, its generators, its states.

Watching reads and never writes: no generator draws, and no weight changes. Whatever cannot be
watched is told, and does not disturb the script.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import sys
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from repro.basics.digests import sha256
from repro.run.ledger import Ledger
from repro.script.start import LEDGER, Seen

FIRST = 3
"""How many of the first steps are looked at in any case."""
HELD = 4
"""How many models and optimizers are held to be looked at when the script ends."""
BEGIN, END = "states at the beginning", "states at the end"
"""What was watched beside steps, in words."""

Fields = dict[str, dict[str, Any]]
State = Callable[[], Fields]
"""Returns weights and optimizer of what is watched, as fields of the ledger's entries."""


class Recorder:
    """Writes the ledger of a script."""

    def __init__(self, run: Path, every: int, generators: bool = True) -> None:
        """Begins the ledger of a run.

        Args:
            every: how many steps lie between two looks, after the first few.
            generators: whether generators count. Where nothing is fixed, Python's and NumPy's begin
                otherwise in each process, also if the script draws from neither.
        """
        self.seen = Seen()
        self._ledger = Ledger(run / LEDGER)
        self._every = every
        self._with_generators = generators
        self._process = os.getpid()
        self._inside = 0
        # By what is watched, and not by its `id`, which another object may get once this is gone.
        self._steps: weakref.WeakKeyDictionary[Any, dict[str, int]] = weakref.WeakKeyDictionary()
        self._held: dict[tuple[str, int], tuple[Any, State]] = {}
        self._generators: list[weakref.ref[Any]] = []

    @property
    def busy(self) -> bool:
        """Whether steps are watched from further outside at present, or in another process."""
        return self._inside > 0 or os.getpid() != self._process

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Within the block, steps are not counted: who opened it counts them."""
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1

    @contextlib.contextmanager
    def safely(self, what: str) -> Iterator[None]:
        """Goes on where something cannot be watched, and tells it."""
        try:
            yield
        except Exception as error:
            said = " ".join(str(error).split())[:200] or type(error).__name__
            self.unwatched(f"{what}: {said}")

    def unwatched(self, what: str) -> None:
        """Tells that something was there and could not be watched."""
        if what not in self.seen.unwatched:
            self.seen.unwatched.append(what)

    def note(self, what: str) -> None:
        """Tells something that a person has to know about the promise."""
        if what not in self.seen.notes:
            self.seen.notes.append(what)

    def count(self, kind: str, one: Any) -> int:
        """Counts one more step of a model or an optimizer, and returns its number, from 1."""
        steps = self._steps.setdefault(one, {})
        steps[kind] = steps.get(kind, 0) + 1
        return steps[kind]

    def due(self, step: int) -> bool:
        """Whether a step is looked at: one of the first, or one of each `every`."""
        return step <= FIRST or step % self._every == 0

    def enter(
        self, kind: str, stage: str, fields: Mapping[str, Mapping[str, Any]], epoch: int, step: int
    ) -> None:
        """Writes an entry of the ledger; `kind` says in words what was watched."""
        if os.getpid() == self._process:
            self.seen.watched[kind] = self.seen.watched.get(kind, 0) + 1
            content = dict(fields)
            if self._with_generators:
                content["generators"] = self.generators()
            named = {name: values for name, values in content.items() if values}
            self._ledger.append(stage, named, epoch, step)

    def begin(self, kind: str, one: Any, state: State) -> None:
        """Looks at something before its first step, and holds it to look at it at the end."""
        key = kind, id(one)  # What is held keeps its `id`.
        self._held.pop(key, None)
        self._held[key] = one, state
        while len(self._held) > HELD:
            _, last = self._held.pop(next(iter(self._held)))
            self._end(last)
        self._steps.setdefault(one, {}).setdefault(kind, 0)
        self.enter(BEGIN, "initial", state(), 0, 0)

    def begun(self, kind: str, one: Any) -> bool:
        """Whether `begin` was called for this."""
        return kind in self._steps.get(one, {})

    def close(self) -> None:
        """Looks at all that is held once more, since the script has ended."""
        for _, state in [*self._held.values()]:
            self._end(state)
        self._held.clear()
        if os.getpid() == self._process:
            self._ledger.close()

    def _end(self, state: State) -> None:
        with self.safely("the final state"):
            self.enter(END, "final", state(), 0, 0)

    def generator(self, one: Any) -> None:
        """Is told of a seed generator of Keras that was made."""
        self._generators.append(weakref.ref(one))

    def generators(self) -> dict[str, str]:
        """The digests of the states of Python's, NumPy's, Keras's and PyTorch's generators."""
        found = {"python": _text(random.getstate()), "numpy": _text(_numpy())}
        torch = sys.modules.get("torch")
        if torch is not None and hasattr(torch, "get_rng_state"):
            found["torch"] = sha256(torch.get_rng_state().numpy())
            if torch.cuda.is_available() and torch.cuda.is_initialized():
                for number, state in enumerate(torch.cuda.get_rng_state_all()):
                    found[f"torch cuda {number}"] = sha256(state.numpy())
        for number, ref in enumerate(self._generators):
            state = getattr(ref(), "state", None)
            with contextlib.suppress(Exception):  # Within a graph it has no value.
                if state is not None:
                    found[f"seed generator {number}"] = sha256(np.asarray(_array(state)))
        return found


def _text(state: object) -> str:
    return hashlib.sha256(repr(state).encode()).hexdigest()


def _numpy() -> tuple[object, ...]:
    name, words, *rest = np.random.get_state(legacy=True)
    return name, sha256(np.asarray(words)), *rest


def _array(variable: Any) -> Any:
    """The content of a variable of Keras, as an array of NumPy's."""
    from keras import ops

    return ops.convert_to_numpy(variable)


def arrays(named: Sequence[tuple[str, Any]]) -> dict[str, str]:
    """The digests of Keras's variables, by their names; a name that comes again gets a number."""
    found: dict[str, str] = {}
    for name, variable in named:
        unique, number = name, 1
        while unique in found:
            number += 1
            unique = f"{name} {number}"
        found[unique] = sha256(np.asarray(_array(variable)))
    return found


def numbers(logs: Mapping[str, Any] | None) -> dict[str, float | str]:
    """Metrics as plain numbers; what is none is told by its digest."""
    found: dict[str, float | str] = {}
    for name, value in (logs or {}).items():
        array = np.asarray(_plain(value))
        if array.size == 1 and array.dtype.kind in "fiub":
            found[name] = float(array.reshape(()))
        elif array.dtype.kind in "fiub":
            found[name] = sha256(array)
    return found


def _plain(value: Any) -> Any:
    return value.detach().cpu().numpy() if hasattr(value, "detach") else value

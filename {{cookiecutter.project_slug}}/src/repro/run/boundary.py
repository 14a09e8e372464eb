"""What happens between two chunks of steps, where everything is at rest.

There the ledger gets an entry, the launcher is told the progress, and a checkpoint may be written.
The moment at which this happens changes no result.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from repro.basics.digests import sha256
from repro.data.feed import Chunk
from repro.run import state
from repro.run.callbacks import Watchers
from repro.run.events import Epoch, Event, Step
from repro.run.ledger import Ledger
from repro.run.state import Checkpoints, Position

Results = dict[str, float]

Send = Callable[[Event], None]
"""Called with each event of the run."""


@dataclass(frozen=True)
class Length:
    """How long a training is."""

    begun: int
    """The epochs that were made before this training."""
    epochs: int
    """The number of the last epoch."""
    samples: int
    """The samples that one epoch sees."""
    batch_size: int
    chunk: int
    """The steps of a chunk, at most."""

    @property
    def steps(self) -> int:
        """The steps of one epoch; the last step may have fewer samples."""
        return -(-self.samples // self.batch_size)

    @property
    def middle(self) -> tuple[int, int]:
        """An epoch and a step in the middle of the training, where a chunk ends."""
        whole = self.samples // self.batch_size
        half = -(-(self.epochs - self.begun) * self.steps // 2)
        epoch, step = divmod(half - 1, self.steps)
        chunk = step // self.chunk + 1
        ends = min(chunk * self.chunk, whole) if step < whole else self.steps
        return self.begun + 1 + epoch, ends


class Boundary:
    """Writes ledger and checkpoints at the boundaries of one training, and sends its events."""

    here: Position
    """Where the training stands; `begin` says where it begins."""
    _length: Length
    _watchers: Watchers

    def __init__(
        self,
        model: Any,
        ledger: Ledger,
        checkpoints: Checkpoints,
        send: Send,
        killed: bool = False,
    ) -> None:
        """Sets up the boundaries.

        Args:
            killed: whether this process kills itself in the middle (the variation `killed`).
        """
        self._model, self._ledger, self._checkpoints = model, ledger, checkpoints
        self._send, self._killed = send, killed

    def begin(self, here: Position, length: Length, watchers: Watchers) -> None:
        """Is told where the training stands, how long it is, and which callbacks watch it."""
        self.here, self._length, self._watchers = here, length, watchers

    def one_by_one(self, epoch: int) -> int | None:
        """Returns after which step of this epoch steps are made one by one; None: in chunks."""
        return None

    def before(self, epoch: int, step: int, chunk: Chunk) -> None:
        """Is called before a chunk of steps; `step` is the number of its last one."""

    def kinds(self, epoch: int) -> tuple[str, ...]:
        """Returns the kinds of variables that have digests in this epoch's entries of steps."""
        return ("generators", "metrics")

    def steps_made(self, epoch: int, step: int, chunk: Chunk, loss: float | None) -> None:
        """Is called after a chunk of steps.

        Args:
            step: the number of the chunk's last step.
            loss: the mean loss of the epoch so far; None if none was computed.
        """
        with self._ledger.timed():
            entry = state.with_host(state.digests(self._model, *self.kinds(epoch)))
            entry["order"] = {"indices": sha256(chunk.indices)}
            if chunk.digest is not None:
                entry["content"] = {"samples": chunk.digest}
            self._ledger.append("step", entry, epoch, step)
        of = self._length
        self._send(Step(epoch, of.epochs, step, of.steps, loss))
        if not self._watchers.stopped:  # Else the epoch ends here, and is not gone on with.
            self._rest(epoch, step)

    def epoch_made(
        self,
        epoch: int,
        metrics: dict[str, dict[str, str]],
        found: Results,
        content: dict[str, str],
    ) -> None:
        """Is called after an epoch was made, evaluated and shown to the callbacks.

        Args:
            metrics: the digests of the metrics' variables, from before the evaluation reset them.
            found: the results of the epoch.
            content: the digest of the samples that were read for the evaluation, if any were.
        """
        with self._ledger.timed():
            entry = state.with_host(state.digests(self._model, *state.KEPT) | metrics)
            fields = entry | {"results": exact(found)} | ({"content": content} if content else {})
            if kept := self._watchers.digests():
                fields["callbacks"] = kept
            self._ledger.append("epoch", fields, epoch, self._length.steps)
        history = [*self.here.history, found]
        self.here = replace(self.here, stopped=self._watchers.stopped, history=history)
        self._send(Epoch(epoch, self._length.epochs, found))
        self._rest(epoch + 1, 0)

    def _rest(self, epoch: int, step: int) -> None:
        """Writes a checkpoint if one is due. Then kills this process if it has to die here."""
        ended = step == 0
        last = ended and (self.here.stopped or epoch > self._length.epochs)
        dies = self._killed and (last or (epoch, step) == self._length.middle)
        if self._checkpoints.due(ended, wanted=dies):
            self.here = replace(
                self.here,
                epoch=epoch,
                step=step,
                callbacks=self._watchers.states(),
                entries=self._ledger.entries,
                head=self._ledger.head,
            )
            self._ledger.sync()
            self._checkpoints.write(self._model, self.here, self._watchers.kept())
        if dies:
            os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))


def exact(found: Results) -> dict[str, str]:
    """Returns results as hexadecimal text: it has every bit, and a NaN is equal to itself."""
    return {name: value.hex() for name, value in found.items()}

"""Events: the process of a run tells with them how far it is, each as one line of JSON.

The process writes them, and the launcher reads them. A worker of a cluster passes them on.
"""

from __future__ import annotations

import functools
import json
from dataclasses import asdict, dataclass

import pydantic

from repro.basics import files
from repro.environment.determinism import Promise
from repro.run.ledger import Divergence
from repro.run.use import Number


@dataclass(frozen=True)
class Start:
    """The training begins, or goes on after this step of this epoch."""

    guarantee: Promise
    refused: list[str]
    """A line for each checkpoint that is torn or altered."""
    notes: list[str]
    epoch: int
    """The epoch in which the training goes on; 0 if it begins."""
    step: int


@dataclass(frozen=True)
class Step:
    """A chunk of steps has been made."""

    epoch: int
    epochs: int
    step: int
    """The number of the chunk's last step."""
    steps: int
    """The number of steps in one epoch."""
    loss: Number | None


@dataclass(frozen=True)
class Epoch:
    """An epoch has been made and evaluated."""

    epoch: int
    epochs: int
    results: dict[str, Number]


@dataclass(frozen=True)
class Wait:
    """A trial of a study waits until other trainings leave enough cores or a GPU free."""

    needed: str
    """What it waits for, in words."""


@dataclass(frozen=True)
class Refused:
    """The process ends, because an input is wrong in a way that only this process can see."""

    message: str
    changed: bool
    """Whether the reason is that something has changed since the run began."""
    parted: Divergence | None
    """Where the run differs from what it was before it was interrupted, if that is the reason."""


@dataclass(frozen=True)
class Failed:
    """The process ends with a failure that this message explains better than the log."""

    message: str


Progress = Start | Step | Epoch | Wait
"""An event that tells how far a run is."""
Event = Progress | Refused | Failed

_KINDS: dict[str, type[Event]] = {
    "start": Start,
    "step": Step,
    "epoch": Epoch,
    "wait": Wait,
    "refused": Refused,
    "failed": Failed,
}
_NAMES = {kind: name for name, kind in _KINDS.items()}


def line(event: Event) -> str:
    """Returns an event as one line of JSON, without the end of the line."""
    return files.dumps({"event": _NAMES[type(event)], **asdict(event)})


def read(text: str) -> Event:
    """Returns the event that `line` has written."""
    content = json.loads(text)
    return _reader(content.pop("event")).validate_python(content)


@functools.cache
def _reader(name: str) -> pydantic.TypeAdapter[Event]:
    return pydantic.TypeAdapter(_KINDS[name])

"""What the process of a run says while it goes on: events, one line of JSON each.

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
from repro.run.manifest import Number


@dataclass(frozen=True)
class Start:
    """The training begins, or goes on behind this step of this epoch."""

    guarantee: Promise
    refused: list[str]
    """What is said of checkpoints that are not whole."""
    notes: list[str]
    epoch: int
    """0 where the training begins."""
    step: int


@dataclass(frozen=True)
class Step:
    """A chunk of steps has been made, this being its last one."""

    epoch: int
    epochs: int
    step: int
    steps: int
    """Those of one epoch."""
    loss: Number | None


@dataclass(frozen=True)
class Epoch:
    """An epoch has been made and evaluated."""

    epoch: int
    epochs: int
    results: dict[str, Number]


@dataclass(frozen=True)
class Wait:
    """A trial of a study waits until other trainings have left it room."""

    needed: str
    """What it waits for, in words."""


@dataclass(frozen=True)
class Refused:
    """The process has ended, since something is wrong that only it can see."""

    message: str
    changed: bool
    """Whether what the run was begun with has changed."""
    parted: Divergence | None
    """Where the run is not what it was, if that is why."""


@dataclass(frozen=True)
class Failed:
    """The process has ended, and this says why better than its log does."""

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
    """An event as one line of JSON, without its end."""
    return files.dumps({"event": _NAMES[type(event)], **asdict(event)})


def read(text: str) -> Event:
    """Returns the event that a line tells."""
    content = json.loads(text)
    return _reader(content.pop("event")).validate_python(content)


@functools.cache
def _reader(name: str) -> pydantic.TypeAdapter[Event]:
    return pydantic.TypeAdapter(_KINDS[name])

"""What the process of a script is told when it starts, and what it says when it ends."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from repro.basics.files import dumps

START, SEEN, LEDGER = "start.json", "seen.json", "ledger.jsonl"
"""The files of a run's directory that hold these."""
PRINTED, LOG = "printed.txt", "log.txt"
"""What the script wrote to standard output, and to standard error."""


@dataclass(frozen=True)
class Start:
    """How the process has to begin, and where it has to write."""

    script: str
    """The script in the copy of the folder."""
    arguments: Sequence[str]
    seed: int | None
    threads: int
    every: int
    varied: Sequence[str]
    index: int
    guarded: Sequence[str]
    """Folders and files in which the script may not write: they are the person's own."""
    allowed: Sequence[str]
    """Folders inside of these in which it may."""
    clock: int | None = None
    """The date at which the clock stands still, in seconds since 1970; None: it goes on."""
    watched: bool = True
    """Whether there is a ledger; a test compares the bits with and without one."""

    def write(self, run: Path) -> None:
        """Writes it into a run's directory."""
        (run / START).write_text(dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, run: Path) -> Start:
        """Reads it from a run's directory."""
        return cls(**json.loads((run / START).read_text(encoding="utf-8")))


@dataclass
class Seen:
    """What was watched in a process."""

    watched: dict[str, int] = field(default_factory=dict)
    """By kind, such as `steps of Keras's fit`: how many entries of the ledger there are of it."""
    unwatched: list[str] = field(default_factory=list)
    """What was there and could not be watched."""
    notes: list[str] = field(default_factory=list)
    """What a person has to know about the promise."""
    versions: dict[str, str] = field(default_factory=dict)
    """By the name of a library that the script has imported: its version."""
    ended: bool = False
    """Whether the script came to its end under watch, and did not end the process itself."""

    def write(self, run: Path) -> None:
        """Writes it into a run's directory."""
        (run / SEEN).write_text(dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, run: Path) -> Seen:
        """Reads it from a run's directory; a process that was ended has said nothing."""
        try:
            return cls(**json.loads((run / SEEN).read_text(encoding="utf-8")))
        except FileNotFoundError:
            return cls()

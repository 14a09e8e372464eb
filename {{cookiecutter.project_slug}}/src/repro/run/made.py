"""What was made from a run after its training: one line for each evaluation, prediction, export.

`made.jsonl` lies in the run's directory. Each line names the command, what it read and what it
wrote, with their SHA-256. As in a ledger, a line has a `head`: the SHA-256 of the head before it
and of the line. So a line that was altered or taken out is noticed. The file is no part of the run:
neither the digest of the run nor its seal covers it.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pydantic

from repro.basics import files, locks
from repro.basics.errors import BadInput
from repro.recipe.parameters import Group
from repro.run.ledger import linked
from repro.run.use import Number

FILE = "made.jsonl"
PATIENCE = 10.0
"""Seconds to wait until another command has written its line."""


class Made(Group):
    """One line: what a command made from a run."""

    model_config = pydantic.ConfigDict(allow_inf_nan=True)

    command: str
    """`evaluate`, `predict` or `export`."""
    when: str
    digest: str
    """The digest of the run's final state."""
    asked: dict[str, Any]
    """What was asked for: the part, the data, the file or the format."""
    inputs: dict[str, str]
    """The SHA-256 of each file or source that was read, by its path or name."""
    outputs: dict[str, str]
    """The SHA-256 of each file that was written, by its path."""
    results: dict[str, Number] = pydantic.Field(default_factory=dict)
    """What an evaluation measured."""
    found: str
    """What the comparison with the run has shown, in words."""
    changed: tuple[str, ...] = ()
    """What has changed since the run was trained, in a few words each."""
    versions: dict[str, str]

    def lines(self) -> list[str]:
        """Returns the same for a person."""
        asked = "  ".join(f"{name} {value}" for name, value in self.asked.items())
        told = [f"{self.when}  {self.command}  {asked}"]
        told += [f"  read     {digest[:12]}  {name}" for name, digest in self.inputs.items()]
        told += [f"  wrote    {digest[:12]}  {name}" for name, digest in self.outputs.items()]
        if self.results:
            told.append("  results  " + "  ".join(f"{k} {v:.4f}" for k, v in self.results.items()))
        told.append(f"  found    {self.found}")
        return told + [f"  changed  {line}" for line in self.changed]


def append(run: Path, made: Made) -> None:
    """Adds a line to the file of a run, after the lines before it were checked.

    Raises:
        BadInput: a line before it is damaged or was altered, or the file cannot be written.
    """
    path = run / FILE
    try:
        with path.open("a+", encoding="utf-8") as file:
            if not locks.lock(file, PATIENCE):
                raise BadInput(f"{path}: another command is writing it; start this one again")
            _, head = _read(path)
            content = made.model_dump(mode="json")
            text = files.dumps(content, sort_keys=True)
            file.write(files.dumps(content | {"head": linked(head, text)}) + "\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise BadInput(f"{path}: cannot be written: {error.strerror}") from None


def read(run: Path) -> list[Made]:
    """Returns what was made from a run, in order; nothing if nothing was.

    Raises:
        BadInput: a line is damaged or was altered.
    """
    return _read(run / FILE)[0]


def _read(path: Path) -> tuple[list[Made], str]:
    found, head = [], ""
    try:
        lines = path.read_bytes().splitlines() if path.is_file() else []
        for number, line in enumerate(lines, 1):
            content = json.loads(line)
            said = content.pop("head")
            head = linked(head, files.dumps(content, sort_keys=True))
            if said != head:
                raise BadInput(
                    f"{path}, line {number}: altered since it was written; move the file away to "
                    "begin a new one"
                )
            found.append(Made.model_validate_json(json.dumps(content)))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise BadInput(
            f"{path}: not a readable record of what was made; move the file away to begin a new one"
        ) from None
    return found, head

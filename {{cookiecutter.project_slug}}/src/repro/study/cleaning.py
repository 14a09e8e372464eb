"""Removes runs that nothing refers to.

A run stays if a study has it among its trials, if `results.lock`, `params.yaml` or a preset names
it or its digest, if another run began with its state or its weights, or if a process is at work on
it. A directory that is no readable run stays as well.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from repro.basics import locks
from repro.basics.errors import BadInput
from repro.compare import results_lock
from repro.recipe.project import Project
from repro.run import runs
from repro.run.runs import Listed
from repro.study import planning

SHORTEST = 8
"""A word of so many letters that a name begins with stands for this run, as on a command line."""


@dataclass(frozen=True)
class Asked:
    """Which runs to remove: those for which all that is given holds.

    Raises:
        BadInput: nothing is given, or a number is too small.
    """

    keep: int | None = None
    """So many of the newest runs stay."""
    failed: bool = False
    """Only runs that have failed are removed, and what killed commands have left."""
    older: float | None = None
    """Only runs that began more than so many days ago are removed."""

    def __post_init__(self) -> None:
        if self.keep is None and self.older is None and not self.failed:
            raise BadInput("clean: expected --failed, --keep N or --older DAYS, which say what")
        if self.keep is not None and self.keep < 0:
            raise BadInput(f"--keep: expected 0 or more, got {self.keep}")
        if self.older is not None and not self.older >= 0:
            raise BadInput(f"--older: expected 0 or more days, got {self.older}")


@dataclass(frozen=True)
class Cleaning:
    """What would be removed, or was removed."""

    runs: Sequence[Listed]
    size: int
    """The bytes of their files."""
    kept: dict[str, str]
    """The runs that were asked for and stay, by name, and why."""

    def as_json(self, removed: bool) -> dict[str, Any]:
        """Returns the same as `--json` prints it."""
        names = [one.name for one in self.runs]
        return {"runs": names, "bytes": self.size, "kept": self.kept, "removed": removed}


def find(project: Project, asked: Asked, now: datetime | None = None) -> Cleaning:
    """Returns which runs to remove, and which of those asked for have to stay.

    Args:
        now: the time by which the age of a run is measured; None: the present.
    """
    every = runs.read(project)
    wanted = _wanted(every, asked, now or datetime.now(UTC))
    why = _References(project, every)
    kept, removable = {}, []
    for one in wanted:
        if reason := why(one):
            kept[one.name] = reason
        else:
            removable.append(one)
    return Cleaning(removable, sum(_size(one.path) for one in removable), kept)


def remove(found: Cleaning) -> Cleaning:
    """Removes the runs, and returns what was removed.

    A run on which a process has begun to work in the meantime stays.
    """
    gone, kept, size = [], dict(found.kept), 0
    for one in found.runs:
        bytes_of = _size(one.path)
        with (one.path / "lock").open("a", encoding="utf-8") as file:
            free = locks.lock(file)
            if free and os.name != "nt":
                shutil.rmtree(one.path)
        if free and os.name == "nt":  # There an open file cannot be removed.
            shutil.rmtree(one.path)
        if free:
            gone.append(one)
            size += bytes_of
        else:
            kept[one.name] = "a process is at work on it"
    return Cleaning(gone, size, kept)


def _wanted(every: Sequence[Listed], asked: Asked, now: datetime) -> list[Listed]:
    """The runs that are asked for, whether they may be removed or not."""
    known = [one for one in every if not one.problem]
    ordinary = [one for one in known if not one.temporary]
    newest = {one.name for one in ordinary[len(ordinary) - asked.keep :]} if asked.keep else set()
    return [
        one
        for one in known
        if one.name not in newest
        and (not asked.failed or one.status == "failed" or one.temporary)
        and (asked.older is None or _age(one, now) > timedelta(days=asked.older))
    ]


def _age(one: Listed, now: datetime) -> timedelta:
    try:
        return now - datetime.fromisoformat(one.when)
    except (ValueError, TypeError):
        return timedelta(0)


class _References:
    """Says what refers to a run; empty if nothing does."""

    def __init__(self, project: Project, every: Sequence[Listed]) -> None:
        plans = (project.root / "studies").glob(f"*/{planning.FILE}")
        self._studies = [path.parent.name for path in plans]
        self._begun = {one.beginning: one.name for one in every if one.beginning}
        self._files = [(path.name, _words(path)) for path in _naming(project)]

    def __call__(self, one: Listed) -> str:
        for study in self._studies if not one.temporary else ():
            if one.name.startswith(f"{study}-"):
                return f"the study {study} has it"
        for digest in filter(None, (one.digest, one.ending)):
            if digest in self._begun:
                return f"{self._begun[digest]} began with its state"
        for name, words in self._files:
            if _named(one, words):
                return f"{name} names it"
        return "" if runs.idle(one.path) else "a process is at work on it"


def _naming(project: Project) -> Iterator[Path]:
    """The files of a project that may name a run."""
    yield project.root / results_lock.FILE
    yield project.root / "params.yaml"
    yield from (project.root / "presets").glob("*.yaml")


def _words(path: Path) -> set[str]:
    try:
        return set(re.findall(r"[\w.+-]+", path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError):
        return set()


def _named(one: Listed, words: set[str]) -> bool:
    if {one.name, *filter(None, (one.digest, one.ending))} & words:
        return True
    return any(len(word) >= SHORTEST and one.name.startswith(word) for word in words)


def _size(directory: Path) -> int:
    """The bytes of all files in a directory."""
    total = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            try:
                total += os.lstat(os.path.join(folder, name)).st_size
            except OSError:
                continue
    return total

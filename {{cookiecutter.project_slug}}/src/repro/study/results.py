"""What came of the trials of a study: the lines of its `results.jsonl`.

A line is written when a trial is over, when one was verified, and when the study has ended.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pydantic

from repro.basics.errors import BadInput
from repro.compare.comparison import Verdict
from repro.environment.determinism import Promise
from repro.recipe.parameters import Group
from repro.run import manifest
from repro.run.manifest import Number
from repro.study.planning import one_line

FILE = "results.jsonl"


class Failed(Group):
    """A trial that has no result."""

    trial: int
    worker: str
    failed: str
    """Why."""

    def as_json(self) -> dict[str, Any]:
        """As it stands in its line."""
        return self.model_dump()


class Done(Group):
    """A trial with a result: what its manifest says."""

    model_config = pydantic.ConfigDict(allow_inf_nan=True)

    trial: int
    worker: str
    failed: None = None
    run: str
    digest: str
    """Of the final state."""
    metrics: dict[str, Number]
    guarantee: Promise
    notes: list[str]
    recipe_digest: str
    """Of the recipe with what its data were read from."""
    duration_seconds: float

    def as_json(self) -> dict[str, Any]:
        """As it stands in its line."""
        return self.model_dump()


Result = Done | Failed
"""What came of a trial that is over."""


@dataclass(frozen=True)
class Verification:
    """What became of a trial that was trained once more."""

    trial: int
    verdict: Verdict
    """On its run and the further one."""

    def as_json(self) -> dict[str, Any]:
        """As answers and the line have it."""
        return {"trial": self.trial, **self.verdict.as_json()}


@dataclass(frozen=True)
class NotVerified:
    """The further training of a trial failed; it is tried again when the study goes on."""

    failed: str
    """Why."""
    verdict: Literal["failed"] = "failed"

    def as_json(self) -> dict[str, Any]:
        """As answers have it."""
        return {"verdict": self.verdict, "failed": self.failed}


@dataclass
class Results:
    """What a study has so far."""

    trials: dict[int, Result] = field(default_factory=dict)
    """The last result of each trial, by its number."""
    verification: Verification | None = None

    def done(self, trial: int) -> Done | None:
        """The result of a trial, where it has one."""
        found = self.trials.get(trial)
        return found if isinstance(found, Done) else None


def read(directory: Path) -> Results:
    """Returns what the lines of a study's file say.

    Raises:
        BadInput: a line is damaged. A last one that is not whole is passed over.
    """
    results = Results()
    path = directory / FILE
    place = f"{path}"
    try:
        lines = path.read_bytes().splitlines(keepends=True) if path.is_file() else []
        for number, line in enumerate(lines, 1):
            place = f"{path}, line {number}"
            if line.endswith(b"\n"):  # Else the study was killed while it was written.
                _add(results, json.loads(line))
    except (OSError, ValueError, TypeError) as error:
        raise BadInput(f"{place}: not a readable result: {one_line(error)}") from None
    return results


def _add(results: Results, content: Any) -> None:
    """Adds what a line says.

    Raises:
        ValueError, TypeError: it is not as it was written.
    """
    if not isinstance(content, dict):
        raise TypeError("expected an object")
    if "verification" in content:
        said = manifest.unsealed(content)["verification"]
        if not isinstance(said, dict):
            raise TypeError("verification: expected an object")
        text = json.dumps({k: v for k, v in said.items() if k != "trial"})
        verdict = _VERDICT.validate_json(text, strict=True)
        if not isinstance(said.get("trial"), int):
            raise TypeError("verification.trial: expected a number")
        results.verification = Verification(said["trial"], verdict)
    elif "trial" in content:
        kind = Done if content.get("failed") is None else Failed
        found = kind.model_validate_json(json.dumps(manifest.unsealed(content)))
        results.trials[found.trial] = found


_VERDICT = pydantic.TypeAdapter(Verdict)


def cut(path: Path) -> None:
    """Takes away a last line of which a killed study wrote a part, so that another can follow."""
    with path.open("r+b") as file:
        content = file.read()
        file.truncate(content.rfind(b"\n") + 1)

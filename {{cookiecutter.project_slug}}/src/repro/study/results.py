"""The results of a study: the lines of its `results.jsonl`.

A line is written when a trial is over, when a trial was verified, and when the study has finished.
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
from repro.run.use import Number
from repro.study.planning import one_line

FILE = "results.jsonl"


class Failed(Group):
    """A trial that has no result."""

    trial: int
    worker: str
    failed: str
    """Why there is no result."""

    def as_json(self) -> dict[str, Any]:
        """Returns the same as its line has it."""
        return self.model_dump()


class Done(Group):
    """A trial with a result, taken from the manifest of its run."""

    model_config = pydantic.ConfigDict(allow_inf_nan=True)

    trial: int
    worker: str
    failed: None = None
    run: str
    digest: str
    """The digest of the final state."""
    metrics: dict[str, Number]
    guarantee: Promise
    notes: list[str]
    recipe_digest: str
    """The digest of the recipe, with what its data were read from."""
    duration_seconds: float

    def as_json(self) -> dict[str, Any]:
        """Returns the same as its line has it."""
        return self.model_dump()


Result = Done | Failed
"""The result of a trial that is over, or why it has none."""


@dataclass(frozen=True)
class Verification:
    """The comparison of a trial with its further run: the trial was trained once more."""

    trial: int
    verdict: Verdict
    """The verdict on the trial's run and the further run."""

    def as_json(self) -> dict[str, Any]:
        """Returns the same as answers and the line have it."""
        return {"trial": self.trial, **self.verdict.as_json()}


@dataclass(frozen=True)
class NotVerified:
    """The further run of a trial failed; it is tried again when the study goes on."""

    failed: str
    """Why it failed."""
    verdict: Literal["failed"] = "failed"

    def as_json(self) -> dict[str, Any]:
        """Returns the same as answers have it."""
        return {"verdict": self.verdict, "failed": self.failed}


@dataclass
class Results:
    """The results that a study has so far."""

    trials: dict[int, Result] = field(default_factory=dict)
    """The last result of each trial, by the trial's number."""
    verification: Verification | None = None

    def done(self, trial: int) -> Done | None:
        """Returns the result of a trial, if the trial is done."""
        found = self.trials.get(trial)
        return found if isinstance(found, Done) else None


def read(directory: Path) -> Results:
    """Returns the results in a study's file; a half-written last line is passed over.

    Raises:
        BadInput: a line is damaged.
    """
    results = Results()
    path = directory / FILE
    place = f"{path}"
    try:
        lines = path.read_bytes().splitlines(keepends=True) if path.is_file() else []
        for number, line in enumerate(lines, 1):
            place = f"{path}, line {number}"
            if line.endswith(b"\n"):  # Else the study was killed while it wrote this line.
                _add(results, json.loads(line))
    except (OSError, ValueError, TypeError) as error:
        raise BadInput(f"{place}: not a readable result: {one_line(error)}") from None
    return results


def _add(results: Results, content: Any) -> None:
    """Adds the result in a line.

    Raises:
        ValueError, TypeError: the line was altered or is not a result.
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
    """Removes a last line that a killed study has left half written, so that lines can follow."""
    with path.open("r+b") as file:
        content = file.read()
        file.truncate(content.rfind(b"\n") + 1)

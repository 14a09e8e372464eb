"""Lists runs by their manifests alone, so that thousands of them take less than a second."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml.error import YAMLError

from repro.basics import files, locks
from repro.basics.errors import BadInput
from repro.basics.text import nearest
from repro.recipe import literals
from repro.recipe.project import Project
from repro.run import manifest

FIELDS = ("name", "when", "data", "model", "status", "guarantee", "digest")
"""What each run has in the list beside its metrics, in the order of the columns."""


@dataclass(frozen=True)
class Listed:
    """A run in a list, or a directory that is no readable run."""

    name: str
    path: Path
    when: str = ""
    """The time at which it began, in UTC."""
    data: str = ""
    model: str = ""
    status: str = "damaged"
    """`finished`, `running`, `interrupted`, `failed`; `damaged`: the manifest is not readable."""
    guarantee: str = ""
    """The guarantee that holds; before the end of a run the one that was asked for."""
    metrics: dict[str, float] = field(default_factory=dict)
    digest: str = ""
    """The digest of the final state; empty before the end."""
    ending: str = ""
    """The digest of the ending; see `ending`."""
    beginning: str = ""
    """The digest of the state or of the weights of another run that it began with."""
    parameters: dict[str, Any] = field(default_factory=dict)
    """Every parameter of its recipe, in groups."""
    temporary: bool = False
    """Whether it was made only to look at something; a killed command has left it."""
    problem: str = ""
    """What is wrong with the manifest; empty if nothing is."""

    def value(self, key: str) -> Any:
        """Returns what a key stands for: a field, a metric, or a parameter by its dotted name.

        It is None if the run has no such value.
        """
        if key in FIELDS:
            return getattr(self, key)
        if key in self.metrics:
            return self.metrics[key]
        found: Any = self.parameters
        for word in key.split("."):
            found = found.get(word) if isinstance(found, dict) else None
        return found

    def as_json(self) -> dict[str, Any]:
        """Returns the run as `--json` prints it."""
        content = asdict(self) | {"path": str(self.path)}
        if not self.problem:
            del content["problem"]
        return content


def read(project: Project) -> list[Listed]:
    """Returns all runs of a project, the newest last. A directory without a manifest is none."""
    found = [_listed(path.parent) for path in project.runs.glob("*/manifest.json")]
    return sorted(found, key=lambda one: (one.when, one.name))


def chosen(
    found: Sequence[Listed], where: Sequence[str] = (), sort: str | None = None
) -> list[Listed]:
    """Returns those runs for which all conditions hold, in the order that is asked for.

    Args:
        where: conditions such as `model=dense` or `training.epochs=2`; see `Listed.value`.
        sort: the key to sort by, ascending. Runs that do not have it come first. None: as given.

    Raises:
        BadInput: a condition is none, or no run has such a key.
    """
    for text in where:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise BadInput(f"--where: expected key=value, such as model=dense; got {text}")
        _known(found, key, "--where")
        found = [one for one in found if _equal(one.value(key), value)]
    if sort is not None:
        _known(found, sort, "--sort")
        key = sort
        found = sorted(found, key=lambda one: _rank(one.value(key)))
    return list(found)


def _listed(directory: Path) -> Listed:
    """Reads a manifest as far as the list needs it, and checks its seal."""
    path = directory / "manifest.json"
    try:
        content = manifest.unsealed(json.loads(path.read_bytes()))
        if content.get("format") != manifest.FORMAT:
            problem = (
                f"another version of the machinery wrote it, in format {content.get('format')}"
            )
            return Listed(directory.name, directory, problem=problem)
        return _of_manifest(directory, content)
    except OSError as error:
        return Listed(directory.name, directory, problem=f"not readable: {error.strerror}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        altered = "altered" in str(error)
        problem = "altered since it was written" if altered else "not the manifest of a run"
        return Listed(directory.name, directory, problem=problem)


def _of_manifest(directory: Path, content: dict[str, Any]) -> Listed:
    """Returns what the list says of a manifest.

    Raises:
        KeyError, TypeError, AttributeError: it is not the manifest of a run.
    """
    parameters = content["recipe"]["parameters"]
    training, status = parameters["training"], str(content["status"])
    if status == "running" and idle(directory):
        status = "interrupted"
    promise = content.get("guarantee") or {"holds": parameters["guarantee"]}
    begins = training.get("initial_state") or training.get("initial_weights")
    return Listed(
        name=directory.name,
        path=directory,
        when=str(content["started"]),
        data=str(parameters["data"]["name"]),
        model=str(parameters["model"]["name"]),
        status=status,
        guarantee=str(promise["holds"]),
        metrics={str(k): float(files.numbers(v)) for k, v in content.get("metrics", {}).items()},
        digest=str(content.get("digest", "")),
        ending=str(content.get("ending", "")),
        beginning=str(begins or ""),
        parameters=parameters,
        temporary=bool(content.get("probe") or content.get("use")),
    )


def idle(directory: Path) -> bool:
    """Whether no process is at work on a run; nothing is written."""
    try:
        with (directory / "lock").open("r+", encoding="utf-8") as file:
            return locks.lock(file)
    except OSError:
        return not os.path.lexists(directory / "lock")


def _equal(value: Any, text: str) -> bool:
    try:
        wanted = literals.read(text)
    except YAMLError:
        wanted = text
    return str(value) == text or (value is not None and files.same(value, wanted))


def _rank(value: Any) -> tuple[int, float, str]:
    """Sorts nothing before numbers, and numbers before words."""
    if value is None or value == "":
        return 0, 0.0, ""
    if isinstance(value, int | float):
        return 1, float(value), ""
    return 2, 0.0, str(value)


def _known(found: Sequence[Listed], key: str, option: str) -> None:
    if found and key not in FIELDS and all(one.value(key) is None for one in found):
        keys = dict.fromkeys(key for one in found for key in files.flat(one.parameters))
        known = [*FIELDS, *metrics(found), *keys]
        raise BadInput(f"{option}: no run has {key}{nearest(key, known)}")


def metrics(found: Sequence[Listed]) -> list[str]:
    """Returns the names of all metrics of these runs, each one once."""
    return list(dict.fromkeys(name for one in found for name in one.metrics))

"""The recipe: all that decides the result of a run."""

from __future__ import annotations

import json
from typing import Any, Literal

from repro.basics import digests
from repro.recipe.parameters import Group, Parameters


class Lock(Group):
    """The lock that is installed."""

    file: str
    sha256: str
    departures: dict[str, str]
    """By package: what is wrong, if it is missing or has another version than the lock says."""


class Recipe(Group):
    """All that decides a result: parameters, lock, and what the data were read from."""

    format: Literal[1] = 1
    parameters: Parameters
    lock: Lock
    data: dict[str, str] | None = None
    """The SHA-256 of each source of the data, by name. It is None before the recipe was run, since
    only the process that reads the data knows it."""
    compiled: dict[str, Any] | None = None
    """What trains a model that came compiled out of its `build`, or has a `compile` of its own; see
    `compiling.found`. It is None before the recipe was run, and where the parameters say all."""

    def as_json(self) -> dict[str, Any]:
        """Returns the recipe as manifests, studies and `results.lock` have it."""
        content = self.model_dump(mode="json")
        for name in ("data", "compiled"):
            if content[name] is None:
                del content[name]
        return content

    @classmethod
    def of_json(cls, content: dict[str, Any]) -> Recipe:
        """Returns the recipe from what `as_json` returned."""
        return cls.model_validate_json(json.dumps(content))

    @property
    def digest(self) -> str:
        """The SHA-256 of the recipe's JSON."""
        return digests.of_json(self.as_json())

    @property
    def asked(self) -> Recipe:
        """The recipe as it was asked for, before the data were read."""
        return self.model_copy(update={"data": None, "compiled": None})

    def reading(self, sources: dict[str, str], compiled: dict[str, Any] | None = None) -> Recipe:
        """Returns the same recipe, with what its data were read from.

        Args:
            compiled: what trains a model that came compiled.
        """
        return self.model_copy(update={"data": sources, "compiled": compiled})

"""The recipe: all that a run is a function of."""

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
    """Packages that are missing, or installed in another version, and what is wrong with each."""


class Recipe(Group):
    """Parameters, lock, and what the data were read from.

    `data` has the SHA-256 of each source by its name. Only the process that reads them knows them:
    None in a recipe that was not run yet.
    """

    format: Literal[1] = 1
    parameters: Parameters
    lock: Lock
    data: dict[str, str] | None = None

    def as_json(self) -> dict[str, Any]:
        """As it stands in manifests, studies and `results.lock`."""
        content = self.model_dump(mode="json")
        if self.data is None:
            del content["data"]
        return content

    @classmethod
    def of_json(cls, content: dict[str, Any]) -> Recipe:
        """The recipe that `as_json` told."""
        return cls.model_validate_json(json.dumps(content))

    @property
    def digest(self) -> str:
        """The SHA-256 of its JSON."""
        return digests.of_json(self.as_json())

    @property
    def asked(self) -> Recipe:
        """The recipe as it was asked for, before the data were read."""
        return self.model_copy(update={"data": None})

    def reading(self, sources: dict[str, str]) -> Recipe:
        """The same recipe, with what its data were read from."""
        return self.model_copy(update={"data": sources})

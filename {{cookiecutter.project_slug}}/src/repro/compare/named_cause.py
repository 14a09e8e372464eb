"""The cause that was found for a difference, in words for a person."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from repro.compare.cause import Cause
from repro.environment import surroundings


@dataclass(frozen=True)
class NamedCause:
    """The cause that was found, in words for a person."""

    cause: Cause
    means: str
    mend: str

    def as_json(self) -> dict[str, Any]:
        """As answers have it."""
        return asdict(self.cause) | {"means": self.means, "mend": self.mend}

    def lines(self) -> list[str]:
        """The same for a person."""
        return [f"cause      {self.means}", f"           {self.mend}"]


def named(found: Cause) -> NamedCause:
    """Says in words which variations make runs differ, or that the fault is random."""
    names = found.variation
    if names:
        means = "; ".join(f"{name} ({surroundings.VARIATIONS[name].what})" for name in names)
        means += ", only together" if len(names) > 1 else ""
        mend = "; ".join(surroundings.VARIATIONS[name].mend for name in names)
    else:
        means = f"no variation, the fault is random: seen in {found.seen} of {found.starts} starts"
        mend = "look for what is not seeded, and for threads or processes that race"
    return NamedCause(found, f"{means}: {found.why}", mend)

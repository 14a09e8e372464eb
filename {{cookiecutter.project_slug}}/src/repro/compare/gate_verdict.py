"""What a gate says of one recipe, and why runs differ, as far as it was found out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from repro.compare.comparison import Verdict
from repro.compare.explanation import Explanation
from repro.compare.named_cause import NamedCause
from repro.environment.determinism import Promise
from repro.run.ledger import Divergence
from repro.run.manifest import Finished


@dataclass(frozen=True)
class Failure:
    """A further run that failed, where the first one finished."""

    first: Path
    message: str
    refused: bool
    """Whether it was bad input."""
    verdict: Literal["failed"] = "failed"

    @property
    def compared(self) -> tuple[Path, ...]:
        """The runs that this is about and that have finished."""
        return (self.first,)

    def as_json(self) -> dict[str, Any]:
        """As answers have it."""
        return {"verdict": self.verdict, "message": self.message}

    def lines(self) -> list[str]:
        """What there is to say beside the verdict itself, for a person."""
        return [f"  {self.message}"]


@dataclass(frozen=True)
class Why:
    """Why runs differ, as far as it was found out."""

    cause: NamedCause | None = None
    """The variation that makes them differ, or chance; None where it was not looked for."""
    explanation: Explanation | None = None
    """The first tensor; None where it was not looked for."""
    unexplained: Sequence[str] = ()
    """What was not found and why, a line each."""

    def as_json(self) -> dict[str, Any]:
        """As answers have it; what was not found is left out."""
        content: dict[str, Any] = {"unexplained": [*self.unexplained]}
        if self.cause is not None:
            content["cause"] = self.cause.as_json()
        if self.explanation is not None:
            content["explanation"] = self.explanation.as_json()
        return content

    def lines(self) -> list[str]:
        """The same for a person."""
        text = []
        if self.cause is not None:
            text += self.cause.lines()
        if self.explanation is not None:
            text.append(str(self.explanation))
        return text + [f"           {line}" for line in self.unexplained]


@dataclass(frozen=True)
class GateVerdict:
    """What a gate says of one recipe."""

    between: Verdict | Failure
    """The verdict on the first two runs that differ, or on the first two; or that one failed."""
    runs: Sequence[Path]
    """All that have finished."""
    digests: Sequence[str]
    first: Finished
    """What the first run says of itself."""
    varied: Sequence[str]
    not_varied: dict[str, str]
    """What was not varied, and why."""
    differing: int
    """How many runs differ from the first, or failed."""
    further: int
    """Out of how many."""
    index: int | None = None
    """The number of the first that differs."""
    why: Why | None = None
    """Why runs differ, once that was looked for."""

    @property
    def verdict(self) -> str:
        """`identical`, `diverged` or `failed`."""
        return self.between.verdict

    @property
    def first_divergence(self) -> Divergence | None:
        """Where two runs part, if they do."""
        return self.between.first_divergence if isinstance(self.between, Verdict) else None

    @property
    def refused(self) -> bool:
        """Whether a further run failed by bad input."""
        return isinstance(self.between, Failure) and self.between.refused

    @property
    def guarantee(self) -> Promise:
        """What became of the guarantee in the first run."""
        return self.first.guarantee

    def as_json(self) -> dict[str, Any]:
        """As answers have it; what does not apply is left out."""
        content = self.between.as_json()
        content["compared"] = [str(run) for run in self.between.compared]
        if isinstance(self.between, Failure):
            content["refused"] = self.between.refused
        content |= {
            "runs": [str(run) for run in self.runs],
            "digests": [*self.digests],
            "digest": self.first.digest,
            "guarantee": asdict(self.guarantee),
            "metrics": self.first.metrics,
            "notes": self.first.notes,
            "varied": [*self.varied],
            "not_varied": self.not_varied,
            "differing": self.differing,
            "further": self.further,
        }
        if self.index is not None:
            content["index"] = self.index
        return content | (self.why.as_json() if self.why else {})

    def lines(self) -> list[str]:
        """What was varied and what that showed, for a person."""
        text = []
        if self.differing:
            what = "fail or differ" if self.verdict == "failed" else "differ"
            text.append(f"  {self.differing} of {self.further} further runs {what}")
        text.append(f"varied     {', '.join(self.varied) or 'nothing'}")
        asked = {k: why for k, why in self.not_varied.items() if why != "not asked for"}
        text += [f"not varied {name}: {why}" for name, why in asked.items()]
        return text + [f"note       {note}" for note in self.first.notes]

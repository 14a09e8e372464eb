"""What the gate says of a script, and what is not promised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from repro.basics.text import printable
from repro.compare.named_cause import NamedCause
from repro.environment.surroundings import VARIATIONS
from repro.script.asked import Script
from repro.script.comparison import Compared
from repro.script.start import Seen

NO_RESUME = "a script that is ended begins anew: it has no checkpoints that repro knows of"
SHOWN = 5
"""How many files that were not compared are named."""


@dataclass(frozen=True)
class Broken:
    """A further run that failed, where the first one finished."""

    message: str
    verdict: str = "failed"

    def as_json(self) -> dict[str, Any]:
        """As answers have it."""
        return {"verdict": self.verdict, "message": self.message}

    def told(self) -> list[str]:
        """The same for a person."""
        return [f"  {self.message}"]


@dataclass(frozen=True)
class Depends:
    """What the result of a script depends on, looked at variation by variation."""

    on: Sequence[str]
    not_on: Sequence[str]
    by_itself: bool
    """Whether it also differs where nothing is varied."""

    def as_json(self) -> dict[str, Any]:
        """As answers have it."""
        return {
            "depends_on": [*self.on],
            "does_not_depend_on": [*self.not_on],
            "repeats_by_itself": not self.by_itself,
        }

    def lines(self) -> list[str]:
        """The same for a person."""
        text = []
        if self.by_itself and not self.on:
            text = [
                "depends on chance: it differs in the same surroundings too",
                "           look for what is not seeded, and for threads or processes that race; "
                "without --as-is the usual generators are seeded",
            ]
        for name in self.on:
            text += [
                f"depends on {name}: {VARIATIONS[name].what}",
                f"           {mend(VARIATIONS[name].mend)}",
            ]
        if self.not_on:
            text.append(f"not on     {', '.join(self.not_on)}")
        return text


def mend(text: str) -> str:
    """What to do, in the words of somebody who has a script and no project."""
    return text.replace("params.yaml", "the script's arguments")


@dataclass(frozen=True)
class ScriptVerdict:
    """What the gate says of one script."""

    script: Script
    between: Compared | Broken
    """The comparison of the first run with the first one that differs, or else with the second."""
    runs: Sequence[Path]
    seen: Seen
    """What was watched in the first run."""
    written: Sequence[str]
    """The files that the first run has written."""
    seconds: float
    """How long the first run took."""
    varied: Sequence[str]
    """What was changed around the further runs, taken together."""
    not_varied: dict[str, str]
    differing: int
    further: int
    index: int | None = None
    """The number of the first run that differs."""
    varied_then: Sequence[str] = ()
    """What was varied in that run."""
    cause: NamedCause | None = None
    depends: Depends | None = None
    unexplained: Sequence[str] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        """`identical`, `diverged`, `not comparable` or `failed`."""
        return self.between.verdict

    def not_compared(self) -> list[str]:
        """The files that the first run has written and that no pattern names."""
        compared = self.between.files if isinstance(self.between, Compared) else ()
        return [name for name in self.written if name not in compared]

    def as_json(self) -> dict[str, Any]:
        """As answers have it; what does not apply is left out."""
        content = self.between.as_json() | {
            "runs": [str(run) for run in self.runs],
            "fixed": self.fixed(),
            "watched": self.seen.watched,
            "not_watched": self.seen.unwatched,
            "not_promised": self.not_promised(),
            "not_compared": self.not_compared(),
            "versions": self.seen.versions,
            "varied": [*self.varied],
            "not_varied": self.not_varied,
            "differing": self.differing,
            "further": self.further,
            "unexplained": [*self.unexplained],
        }
        if self.index is not None:
            content["index"] = self.index
        if self.cause is not None:
            content["cause"] = self.cause.as_json()
        return content | (self.depends.as_json() if self.depends else {})

    def fixed(self) -> dict[str, Any]:
        """What was fixed around the script; empty if nothing was."""
        if not self.script.fixed:
            return {}
        return {
            "guarantee": "machine",
            "seed": self.script.seed,
            "threads": self.script.threads,
            "kernels": "deterministic",
        }

    def not_promised(self) -> list[str]:
        """What a green answer does not say, a line each."""
        return [*self.seen.notes, NO_RESUME]

    def lines(self) -> list[str]:
        """All that there is to say beside the verdict itself, for a person."""
        text = self.between.told()
        if self.differing:
            what = "fail or differ" if self.verdict == "failed" else "differ"
            text.append(f"  {self.differing} of {self.further} further runs {what}")
        text += self._looked_at()
        text.append(f"varied     {', '.join(self.varied) or 'nothing'}")
        asked = {k: why for k, why in self.not_varied.items() if why != "not asked for"}
        text += [f"not varied {name}: {why}" for name, why in asked.items()]
        text.append(
            f"fixed      seed {self.script.seed}, {self.script.threads} threads, "
            "deterministic kernels"
            if self.script.fixed
            else "fixed      nothing (--as-is)"
        )
        text += [f"no promise {line}" for line in self.not_promised()]
        return text + [f"run        {printable(run)}" for run in self.runs]

    def _looked_at(self) -> list[str]:
        """What was compared, and what was not."""
        watched = [f"{kind} ({number})" for kind, number in self.seen.watched.items()]
        if isinstance(self.between, Compared):
            files, lines = self.between.files, self.between.lines
            watched += [f"outputs ({len(files)})"] if files else []
            watched += [f"printed lines ({lines})"] if lines else []
        text = [f"watched    {', '.join(watched) or 'nothing'}"]
        if not self.seen.watched:
            text.append(
                "not seen   weights along the run: no Keras model and no PyTorch optimizer made a "
                "step that can be seen"
            )
        text += [f"not seen   {printable(line)}" for line in self.seen.unwatched]
        if not self.seen.ended:
            text.append("not seen   the end: the script ended its process by itself")
        others = self.not_compared()
        if others:
            more = f" and {len(others) - SHOWN} more" if len(others) > SHOWN else ""
            named = ", ".join(map(printable, others[:SHOWN]))
            text.append(f"not seen   {named}{more}: --output '{others[0]}' compares it")
        return text

    def why(self) -> list[str]:
        """Why runs differ, as far as it was found out, for a person."""
        text = self.cause.lines() if self.cause is not None else []
        text += self.depends.lines() if self.depends is not None else []
        return text + [f"           {line}" for line in self.unexplained]

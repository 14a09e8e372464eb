"""Compares what the gate finds for recipes with what `results.lock` has recorded of them."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from repro.basics import files
from repro.basics.errors import DIFFERS, FAILED, IDENTICAL, NOT_COMPARABLE, BadInput, RunFailed
from repro.basics.text import printable, result
from repro.compare import gate
from repro.compare.gate import Gate
from repro.compare.gate_verdict import GateVerdict
from repro.compare.results_lock import FILE, Base, Entry, of_run, overrides
from repro.recipe.project import Project
from repro.recipe.recipe import Recipe
from repro.run import recipes
from repro.run.launcher import Listener

UNKNOWN = (
    "not found in what is recorded: the parameters, the sources that the data function names, the "
    "project's code and the versions of the libraries are the same"
)
UNNAMED = (
    "the data function returned other samples from the same named sources: it reads or draws "
    "something that it does not name"
)


@dataclass(frozen=True)
class NoVerdict:
    """The answer for a recipe without a verdict: its first run failed, or it could not be made."""

    verdict: Literal["failed", "not made"]
    message: str

    def as_json(self) -> dict[str, Any]:
        """Returns the same as answers have it."""
        return asdict(self)


@dataclass(frozen=True)
class Outcome:
    """What the gate has found for one recipe, and what was recorded of the recipe."""

    name: str
    answer: GateVerdict | NoVerdict
    before: Entry | None = None
    """The entry that was recorded."""
    now: Entry | None = None
    """The entry for the run that the gate has made."""
    dropped: str | None = None
    """The commit, such as `HEAD`, that has recorded the recipe, if the file no longer has it."""
    file: str = FILE
    """The name of the file with the recorded results."""

    @property
    def recorded(self) -> str:
        """How the result compares with the recorded one, in a word or two.

        - `as recorded`: they are equal.
        - `changed`: they differ, although they have to be equal.
        - `not recorded`: there is no recorded result.
        - `dropped`: it was recorded before and is not any more, and no change was found.
        - `elsewhere`: they differ, and the recorded one is from another processor; recipe and code
          are the same, and the guarantee does not hold across processors.
        - `not comparable`: the same, but recipe or code is another one.
        - `unknown`: the gate has made no run.
        """
        if self.now is None:
            return "dropped" if self.dropped else "unknown"
        if self.before is None:
            return "not recorded"
        found = _compared(self.before, self.now)
        return "dropped" if self.dropped and found != "changed" else found

    @property
    def broken(self) -> list[str]:
        """Why the guarantee that was asked for does not hold; empty if it does."""
        return self.answer.guarantee.broken if isinstance(self.answer, GateVerdict) else []

    def lines(self) -> list[str]:
        """Returns the comparison with the recorded result as lines for a person."""
        before, now = self.before, self.now
        gone = [
            f"recorded in {FILE} at {self.dropped}, and dropped since: put the entry back from "
            f"git, or record the recipe again: {self.update}"
        ] * bool(self.dropped)
        if now is None:
            return gone
        if before is None:
            return [f"not in {self.file} yet; to record it: {self.update}"]
        return gone + self._compared(before, now)

    def _compared(self, before: Entry, now: Entry) -> list[str]:
        recorded = _compared(before, now)
        if recorded == "as recorded":
            more = causes(before, now)
            there = "" if before.cpu == now.cpu else f", there on {before.cpu}, here on {now.cpu}"
            return [f"as recorded in {self.file}{there}"] + [
                f"though changed: {'; '.join(more)}"
            ] * bool(more)
        if recorded == "elsewhere":
            return [
                f"recorded on {before.cpu}, and this is {now.cpu}: not compared, since only "
                "guarantee=portable promises the same bits there; recipe and code are as recorded"
            ]
        found = [
            f"{name} {result(before.metrics.get(name))} → {result(now.metrics.get(name))}"
            for name in {**before.metrics, **now.metrics}
            if not files.same(before.metrics.get(name), now.metrics.get(name))
        ]
        if before.digest != now.digest:
            found.append(f"digest {before.digest[:16]} → {now.digest[:16]}")
        stage = first_stage(before, now)
        text = ["; ".join(found)] if found else []
        text.append(f"cause: {'; '.join(causes(before, now)) or UNKNOWN}")
        if stage:
            text.append(f"first difference: {stage}")
        if recorded == "not comparable":
            text.append(
                f"recorded on {before.cpu}, and this is {now.cpu}: this alone may be the cause"
            )
        return [*text, f"if this is meant: {self.update}"]

    @property
    def update(self) -> str:
        """The command that records the new result."""
        return shlex.join(["repro", "verify", "--update", *overrides(self.name)])

    def as_json(self) -> dict[str, Any]:
        """Returns the outcome as answers have it."""
        told = {"recipe": self.name, "recorded": self.recorded, "lines": self.lines()}
        return told | self.answer.as_json()

    @property
    def can_be_recorded(self) -> bool:
        """Whether the runs are identical and the guarantee that was asked for holds."""
        good = self.answer.verdict == "identical" and not self.broken
        return self.now is not None and good


@dataclass(frozen=True)
class Review:
    """Recipes to verify, and what was recorded of them."""

    project: Project
    names: Iterable[str]
    """The names of the recipes."""
    expected: Mapping[str, Entry]
    """By recipe: the recorded result."""
    runs: int = 2
    vary: str | None = None
    """Which variations to make; see `surroundings.choose`."""
    base: Base | None = None
    """The results that an earlier commit had recorded. A recipe that is only there counts as
    dropped, and is compared with it."""
    file: str = FILE
    """The name of the file with the recorded results."""

    def begun(self, name: str) -> _Begun:
        """Returns a recipe that is ready to be verified.

        Raises:
            BadInput: the recipe cannot be made, and is not one that was dropped.
        """
        gone = None
        if self.base is not None and name not in self.expected:
            gone = self.base.entries.get(name)
        dropped = self.base.name if self.base and gone else None
        before = self.expected.get(name) or gone
        try:
            recipe: Recipe | str = recipes.make(self.project, overrides(name))
        except BadInput as error:
            if not gone:
                raise BadInput(f"recipe {name}: {error}") from None
            recipe = str(error)
        return _Begun(name, recipe, before, dropped, self.file)


@dataclass(frozen=True)
class _Begun:
    """A recipe that is about to be verified."""

    name: str
    recipe: Recipe | str
    """The recipe, or in words why it cannot be made."""
    before: Entry | None
    dropped: str | None
    file: str

    def ended(self, answer: GateVerdict | NoVerdict, now: Entry | None = None) -> Outcome:
        return Outcome(self.name, answer, self.before, now, self.dropped, self.file)


def verify(
    asked: Review, listener: Listener, tell: Callable[[str], None] = lambda line: None
) -> list[Outcome]:
    """Verifies each recipe (see `gate.verify`) and compares it with the recorded result.

    Args:
        tell: called with a line for each recipe before it is verified.

    Raises:
        BadInput: a recipe cannot be made; then none has been trained. A dropped recipe that cannot
            be made any more is not an error.
    """
    begun = [asked.begun(name) for name in asked.names]
    return [_verified(asked, one, listener, tell) for one in begun]


def _verified(
    asked: Review, one: _Begun, listener: Listener, tell: Callable[[str], None]
) -> Outcome:
    if isinstance(one.recipe, str):
        return one.ended(NoVerdict("not made", one.recipe))
    tell(f"recipe {printable(one.name)}")
    try:
        answer = gate.verify(Gate(asked.project, one.recipe, asked.runs, asked.vary), listener)
    except RunFailed as error:
        return one.ended(NoVerdict("failed", str(error)))
    return one.ended(answer, of_run(asked.project, answer.runs[0]))


def status(outcomes: Sequence[Outcome], updated: bool = False) -> int:
    """Returns the exit status for these outcomes.

    A guarantee that was asked for and does not hold counts as a difference.

    Args:
        updated: whether the new results were recorded, so that the old ones do not count.
    """
    verdicts = {outcome.answer.verdict for outcome in outcomes}
    recorded = set() if updated else {outcome.recorded for outcome in outcomes}
    if "failed" in verdicts:
        return FAILED
    if "diverged" in verdicts or "changed" in recorded or any(one.broken for one in outcomes):
        return DIFFERS
    return IDENTICAL if recorded <= {"as recorded", "elsewhere"} else NOT_COMPARABLE


def headline(outcomes: Sequence[Outcome]) -> str:
    """Returns the line that a reviewer reads first. It promises no more than was compared."""
    recorded = {outcome.recorded for outcome in outcomes}
    if status(outcomes) not in (IDENTICAL, NOT_COMPARABLE):
        return "Training is NOT as it should be"
    said = {
        "dropped": "a recipe is recorded no longer",
        "not recorded": "nothing is recorded yet of a recipe",
        "not comparable": "not comparable with what was recorded on another processor",
        "elsewhere": "not compared with what was recorded on another processor",
    }
    told = [text for name, text in said.items() if name in recorded]
    return "Training is reproducible" + (f"; {'; '.join(told)}" if told else ", and as recorded")


def causes(before: Entry, now: Entry) -> list[str]:
    """Returns all that has changed and that the result depends on, each in a few words."""
    found = []
    fields = files.changed(before.recipe, now.recipe)
    for field, (one, other) in fields.items():
        if field.startswith("parameters."):
            found.append(f"params.yaml {field.removeprefix('parameters.')} {one} → {other}")
        elif field.startswith("data."):
            found.append(f"the data: {field.removeprefix('data.')} has other content")
        elif field != "lock.sha256":
            found.append(f"{field.replace('.', ': ')} {one} → {other}")
    for file in sorted({**before.code, **now.code}):
        if before.code.get(file) != now.code.get(file):
            found.append(file + (_of_template(before, now) if file == "src/repro" else ""))
    versions = files.changed(before.versions, now.versions)
    found += [f"{library} {one} → {other}" for library, (one, other) in versions.items()]
    if before.recipe["lock"]["sha256"] != now.recipe["lock"]["sha256"] and not versions:
        found.append(f"other packages in {now.recipe['lock']['file']}")
    asked = ("data.", "parameters.data.", "parameters.seed")
    if first_stage(before, now) == "samples" and not any(f.startswith(asked) for f in fields):
        found.append(UNNAMED)
    return found


def _of_template(before: Entry, now: Entry) -> str:
    """What an update of the project from its template changed, which a changed machinery may be."""
    if before.template == now.template:
        return ""
    return f" (template {before.template or 'unknown'} → {now.template or 'unknown'})"


def first_stage(before: Entry, now: Entry) -> str | None:
    """Returns the name of the first digest along the run that differs; None if none does."""
    both = {**before.stages, **now.stages}
    return next((s for s in both if before.stages.get(s) != now.stages.get(s)), None)


def _compared(before: Entry, now: Entry) -> str:
    if _same(before, now):
        return "as recorded"
    both = {before.guarantee, now.guarantee}
    if both != {"portable"} and before.cpu != now.cpu:
        told = (before.recipe, before.code) == (now.recipe, now.code)
        return "elsewhere" if told else "not comparable"
    return "changed"


RESULTS = ("predictions", "what the model produced")
"""The stages that count as results, together with the metrics and the final state."""


def _same(before: Entry, now: Entry) -> bool:
    return (
        before.digest == now.digest
        and files.same(before.metrics, now.metrics)
        and all(before.stages.get(stage) == now.stages.get(stage) for stage in RESULTS)
    )

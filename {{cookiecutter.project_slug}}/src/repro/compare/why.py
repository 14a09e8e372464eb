"""Why runs differ: the variation that makes them differ, and the first tensor that does.

Both are looked for by making runs, or steps of runs, again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from repro.compare import cause, explanation, gate
from repro.compare.comparison import Verdict
from repro.compare.explanation import Explanation
from repro.compare.gate_verdict import GateVerdict, Why
from repro.compare.named_cause import NamedCause, named
from repro.environment import surroundings
from repro.recipe.project import Project
from repro.run import failure, launcher, manifest
from repro.run.events import Progress
from repro.run.launcher import Launch, Listener, OnStart
from repro.run.ledger import Divergence
from repro.run.manifest import Surroundings

Tell = Callable[[str], None]
"""Called with a line on what is done."""


def explain(
    project: Project,
    verdict: Verdict | GateVerdict,
    listener: Listener,
    tell: Tell,
    tensor: bool = True,
) -> Iterator[Why]:
    """Looks for the variation that makes runs differ, then for the first tensor that differs.

    The verdict has been told by then, and stands whatever comes of this. All that is known is
    given after each search, so that who interrupts the second keeps what the first has found.

    Args:
        verdict: that of a gate; or that on two runs, whose variations are not looked at.
        tensor: whether to look for the tensor, where runs have diverged.
    """
    why = Why()
    if isinstance(verdict, GateVerdict) and verdict.index is not None:
        try:
            why = replace(why, cause=find_cause(project, verdict, listener, tell))
        except Exception as error:
            why = _without("the variation", why, error)
        yield why
    between = verdict.between if isinstance(verdict, GateVerdict) else verdict
    if tensor and isinstance(between, Verdict) and between.first_divergence is not None:
        runs, place = between.runs, between.first_divergence
        try:
            why = replace(why, explanation=_find_tensor(project, runs, place, listener, tell))
        except Exception as error:
            why = _without("the tensor", why, error)
    yield why


def _without(what: str, why: Why, error: Exception) -> Why:
    """What is known without what was not found: whatever the error is, the verdict stands."""
    said = f"{what} was not found: {failure.reason(error)}"
    return replace(why, unexplained=[*why.unexplained, said])


def _find_tensor(
    project: Project, runs: Sequence[Path], place: Divergence, listener: Listener, tell: Tell
) -> Explanation | None:
    if not explanation.possible(place):
        return None
    tell("the runs differ; running the steps again to see where")
    return explanation.explain(project, runs, place, listener)


def find_cause(
    project: Project, verdict: GateVerdict, listener: Listener, tell: Tell
) -> NamedCause:
    """Looks for the variations that make runs differ, or fail.

    Raises:
        RunEnded: the process of a run made to look was ended.
    """
    looking = _Looking(project, verdict, listener)
    before = (verdict.differing, verdict.further)
    found = cause.find(verdict.varied, looking, looking.slots, before, tell)
    return named(found)


class _Parted(Exception):
    """A run has come to where the other one had parted from the first; that is all to be seen."""


class _Looking:
    """Makes runs with sets of variations, and says which differ from the first run of a gate."""

    def __init__(self, project: Project, verdict: GateVerdict, listener: Listener) -> None:
        first, *other = verdict.between.compared
        self._project, self._first, self._listener = project, first, listener
        self._recipe = manifest.read(first).recipe.asked
        # The number of the run that differed: each variation does again what it did there.
        self._index = 1 if verdict.index is None else verdict.index
        self._heads = _heads(first)
        # A run is ended where the other one had parted from the first. Without a place, where a
        # run failed or read other sources, it is made to the end.
        pairs = zip(self._heads, _heads(other[0]) if other else self._heads, strict=False)
        self._place = next((n for n, (one, two) in enumerate(pairs) if one != two), None)
        self.slots = gate.slots(self._recipe)

    def __call__(self, sets: list[list[str]]) -> list[bool]:
        def one(names: list[str]) -> Callable[[OnStart], bool]:
            return lambda started: self._differs(names, started)

        return gate.side_by_side(self.slots, [one(names) for names in sets])

    def _differs(self, names: list[str], started: OnStart) -> bool:
        whole = any(surroundings.VARIATIONS[name].whole for name in names)
        place = None if whole else self._place
        heads: list[str] = []

        def watch(run: Path, event: Progress) -> None:
            self._listener(run, event)
            if place is not None and len(found := _heads(run)) > place:
                heads[:] = found
                raise _Parted

        with launcher.made_to_look(started) as on_start:
            try:
                around = Surroundings(varied=names, index=self._index)
                launch = Launch(self._project, self._recipe, around)
                outcome = gate.train(launch, watch, on_start)
            except _Parted:
                assert place is not None
                return heads[place] != self._heads[place]
            return gate.judge(self._first, outcome).verdict != "identical"


def _heads(run: Path) -> list[str]:
    """The chained digests of a ledger, as far as it is written."""
    lines = (run / "ledger.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line)["head"] for line in lines if line.endswith("\n")]

"""What makes runs differ: a search among variations that does not take chance for a cause.

A search knows nothing of trainings. It is given a function that says, of sets of variations,
whether a run with each of them differs from the first run of a gate.

A fault that is random shows now and then, whatever is varied. So before a variation is named, runs
without any are repeated, and runs with what was found are repeated; and a variation is named only
where all of them agree.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

REPEATS = 5
"""Runs of one set of variations before something is said of it."""

Names = list[str]
Look = Callable[[list[Names]], list[bool]]
"""Makes a run with each of these sets of variations, and says which differ from the first run."""


@dataclass(frozen=True)
class Tried:
    """A run that was made to look."""

    varied: Names
    differs: bool


@dataclass(frozen=True)
class Cause:
    """What a search found.

    `variation` holds the names of which none can be left out; it is empty where the fault is
    random. `sure` says whether variations are named: they are only where every repetition agreed.
    `confidence` is then 1 minus the probability of the same pattern under a random fault, at most;
    else None. `seen` is in how many of how many `starts` the difference showed, the first start,
    which the others are compared with, left out.
    """

    variation: Names
    sure: bool
    confidence: float | None
    why: str
    """What was seen, in a few words."""
    seen: int
    starts: int
    probes: list[Tried] = field(default_factory=list)
    """Each run made to look, in order."""


def find(
    names: Sequence[str],
    look: Look,
    at_once: int = 1,
    before: tuple[int, int] = (1, 1),
    tell: Callable[[str], None] = lambda line: None,
) -> Cause:
    """Looks for the variations that make runs differ.

    Args:
        names: what was varied in the run that differed.
        look: called with up to `at_once` sets of names; no set varies anything where it is empty.
        before: how many runs of the gate differ from the first, and of how many.
        tell: called with a line on what is tried.
    """
    return _Search(look, at_once, before, tell).find([*names])


class _Search:
    def __init__(
        self, look: Look, at_once: int, before: tuple[int, int], tell: Callable[[str], None]
    ) -> None:
        self._look, self._at_once, self._before, self._tell = look, at_once, before, tell
        self._probes: list[Tried] = []

    def find(self, names: Names) -> Cause:
        if not names:
            seen, starts = self._before
            return self._random(f"runs differ also without variation, {seen} of {starts}")
        without = self._repeat([], until=True)
        if any(without):
            told = f"runs differ also without variation, {sum(without)} of {len(without)}"
            return self._random(told)
        found = minimal(names, lambda some: self._once(some))
        if not found:
            return self._random("the difference did not show again with the same variations")
        with_it = self._repeat(found, until=False)
        told = f"with {', '.join(found)} {sum(with_it)} of {len(with_it)} runs differ"
        if not all(with_it):
            return self._random(told)
        same = len(without)
        for name in found if len(found) > 1 else ():
            left = [other for other in found if other != name]
            fewer = self._repeat(left, until=True)
            if any(fewer):
                return self._random(f"{told}, and {sum(fewer)} of {len(fewer)} without {name}")
            same += len(fewer)
        chance = by_chance(same, len(with_it))
        told = (
            f"{sum(with_it)} of {len(with_it)} runs differ with it, 0 of {same} without; a random "
            f"fault would show so at most once in {round(1 / chance)}"
        )
        return self._cause(found, told, 1 - chance)

    def _repeat(self, names: Names, until: bool) -> list[bool]:
        """Makes runs with one set until one of them answers so, or enough do not."""
        found: list[bool] = []
        while len(found) < REPEATS and until not in found:
            number = min(self._at_once, REPEATS - len(found))
            found += self._made([names] * number)
        return found

    def _once(self, names: Names) -> bool:
        """One run with a set; what was tried before is not tried again."""
        for tried in self._probes:
            if tried.varied == names:
                return tried.differs
        return self._made([names])[0]

    def _made(self, sets: list[Names]) -> list[bool]:
        tried = ", ".join(sets[0]) or "none"
        times = f", {len(sets)} times" if len(sets) > 1 else ""
        self._tell(f"which variation does it? Tried: {tried}{times}")
        # Copies, since a list that changed later would stand for another answer.
        found = self._look([[*names] for names in sets])
        self._probes += [Tried([*one], differs) for one, differs in zip(sets, found, strict=True)]
        return found

    def _random(self, why: str) -> Cause:
        return self._cause([], why, None)

    def _cause(self, found: Names, why: str, confidence: float | None) -> Cause:
        seen, starts = self._before
        seen += sum(tried.differs for tried in self._probes)
        starts += len(self._probes)
        return Cause(found, bool(found), confidence, why, seen, starts, [*self._probes])


def by_chance(same: int, different: int) -> float:
    """How probable, at most, a fault that is random is to show in just the last runs of these.

    A fault with the probability p in each start does so with (1 - p)^same · p^different, which is
    largest for p = different / (same + different).
    """
    both = same + different
    return float((same / both) ** same * (different / both) ** different)


def minimal(names: Names, differs: Callable[[Names], bool]) -> Names:
    """Returns names that suffice to make runs differ, and of which none can be left out.

    Runs have differed with all of them varied, and do not with none. The last name of the shortest
    beginning of the list that makes them differ is needed; halving finds it. Where it does not
    suffice alone, the next one is looked for in what stands before it, and so on. One name out of
    n takes about log2(n) + 1 calls. Where several suffice, each on its own, one of them is found;
    none where the difference does not show again.
    """
    found: Names = []
    while names and not (found and differs([*found])):
        low, high = 0, len(names)
        while high - low > 1:
            middle = (low + high) // 2
            if differs([*names[:middle], *found]):
                high = middle
            else:
                low = middle
        if high == len(names) and not differs([*names, *found]):
            return []
        found.insert(0, names[high - 1])
        names = names[: high - 1]
    return found

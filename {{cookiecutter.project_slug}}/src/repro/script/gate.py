"""The gate for a script: it is run several times, and each run is compared with the first.

With a guarantee, each run after the first has changed surroundings, as in the gate for a recipe. As
it is, a script is first run twice in the same surroundings, and only then in changed ones.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from repro.basics.errors import BadInput, RunFailed
from repro.compare import cause
from repro.compare.cause import Cause
from repro.compare.named_cause import named
from repro.environment import surroundings
from repro.run import failure
from repro.script import comparison, running
from repro.script.asked import Script
from repro.script.comparison import Compared
from repro.script.running import Ran, Stopped
from repro.script.start import LEDGER
from repro.script.verdict import Broken, Depends, ScriptVerdict, mend

Tell = Callable[[str], None]
"""Called with a line on what is done."""

SOURCE = Path(surroundings.__file__).parents[2]
WITHOUT = {"killed": "a script has no checkpoints to go on from"}
"""Variations that are for recipes alone."""
HELD = ("clock", "hash-seed", "address-space")
"""What differs from process to process also where nothing is varied, and can be held still."""
LONGER = 20
"""How many times as long as the first run may take what is made to look at this, all together."""


@dataclass(frozen=True)
class Gate:
    """A script to run several times, and what to change around it."""

    script: Script
    runs: int = 2
    vary: str | None = None
    """What `surroundings.choose` takes."""
    printed: bool = True
    """Whether printed lines are compared."""


def verify(asked: Gate, tell: Tell) -> ScriptVerdict:
    """Runs a script several times and compares each run with the first.

    Why runs differ is not looked for here, so that the verdict is there first: see `explain`.

    Raises:
        RunFailed: the first run has failed.
        BadInput: the folder cannot be copied, or a variation is not possible.
    """
    script = asked.script
    varied, others = choose(script, asked.vary)
    sets = [varied] * (asked.runs - 1) if script.fixed else [[], *[varied] * (asked.runs - 1)]
    session = running.new_session(script)
    try:
        first = _ran(script, session, 0, (), tell)
    except BadInput:
        shutil.rmtree(session, ignore_errors=True)
        raise
    found: list[Compared | Broken] = []
    runs = [first.directory]
    for index, names in enumerate(sets, 1):
        outcome, directory = _compared(asked, first, session, index, names, tell)
        found.append(outcome)
        runs.append(directory)
        if not script.fixed and index == 1 and outcome.verdict in ("diverged", "failed"):
            break  # It does not even repeat where nothing is varied.
    differing = [n for n, one in enumerate(found, 1) if one.verdict in ("diverged", "failed")]
    differing.sort(key=lambda number: found[number - 1].verdict != "failed")
    shown = differing[0] if differing else 1
    return ScriptVerdict(
        script=script,
        between=found[shown - 1],
        runs=runs,
        seen=first.seen,
        written=first.written,
        seconds=first.seconds,
        varied=[name for name in varied if any(name in names for names in sets[: len(found)])],
        not_varied=others,
        differing=len(differing),
        further=len(found),
        index=differing[0] if differing else None,
        varied_then=sets[shown - 1] if differing else (),
    )


def choose(script: Script, vary: str | None) -> tuple[list[str], dict[str, str]]:
    """Returns what to vary and why each other thing is not, after surroundings have been tried.

    Raises:
        BadInput: as `surroundings.choose`; or what is asked for by name cannot be had here.
    """
    varied, others = surroundings.choose(vary)
    for name, why in WITHOUT.items():
        if name in varied:
            if vary not in (None, "all"):
                raise BadInput(f"--vary: {name}: not possible here: {why}")
            varied.remove(name)
            others[name] = why
    # The place is varied by `running`, since only it knows what belongs to the folder.
    inside = [name for name in varied if name != "path"]
    # The process that tries them is the machinery's own, and leaves no byte code beside it.
    own = {"PYTHONPATH": str(SOURCE), "PYTHONDONTWRITEBYTECODE": "1"}
    ordinary = running.variables(script) | own
    working, problems = surroundings.possible(SOURCE, inside, ordinary)
    for name, problem in problems.items():
        if vary not in (None, "all"):
            raise BadInput(f"--vary: {name}: not possible here: {problem}")
        others[name] = f"not possible here: {problem}"
    return [name for name in varied if name == "path" or name in working], others


def _ran(script: Script, session: Path, index: int, names: Sequence[str], tell: Tell) -> Ran:
    directory = session / str(index + 1)
    directory.mkdir()
    around = "in changed surroundings" if names else "in ordinary surroundings"
    tell(f"run {index + 1}: {script.file.name} {around}; it prints to {directory}")
    ran = running.run(script, directory, names, index)
    tell(f"run {index + 1}: {ran.seconds:.1f} s")
    return ran


def _compared(
    asked: Gate, first: Ran, session: Path, index: int, names: Sequence[str], tell: Tell
) -> tuple[Compared | Broken, Path]:
    directory = session / str(index + 1)
    try:
        ran = _ran(asked.script, session, index, names, tell)
    except RunFailed as error:
        return Broken(str(error)), directory
    return comparison.compare(asked.script, first, ran, asked.printed), directory


def explain(asked: Gate, verdict: ScriptVerdict, tell: Tell) -> ScriptVerdict:
    """Looks for what makes runs differ, and returns the verdict with what was found.

    A failure of the search does not change the verdict: it becomes one line.
    """
    if verdict.index is None:
        alone = Depends((), verdict.varied, by_itself=False)
        whole = verdict.verdict == "identical" and not verdict.script.fixed
        return replace(verdict, depends=alone) if whole else verdict
    looking = _Looking(asked, verdict)
    try:
        if not verdict.script.fixed and verdict.index != 1:
            verdict = replace(verdict, depends=_each(verdict, looking, tell))
        if verdict.depends is None or not verdict.depends.on:
            before = (verdict.differing, verdict.further)
            found = cause.find(verdict.varied_then, looking, 1, before, tell)
            if not found.variation:
                found = looking.held(found, tell)
            words = named(found)
            verdict = replace(verdict, cause=replace(words, mend=mend(words.mend)))
    except Exception as error:
        said = f"what makes the runs differ was not found: {failure.reason(error)}"
        verdict = replace(verdict, unexplained=[said])
    finally:
        looking.close()
    if not verdict.script.fixed and verdict.index == 1:
        on = verdict.cause.cause.variation if verdict.cause else ()
        return replace(verdict, cause=None, depends=Depends(on, (), by_itself=True))
    return verdict


def _each(verdict: ScriptVerdict, looking: _Looking, tell: Tell) -> Depends:
    """Varies each thing alone."""
    on: list[str] = []
    not_on: list[str] = []
    for name in verdict.varied_then:
        tell(f"does it depend on {name}?")
        (on if looking([[name]])[0] else not_on).append(name)
    return Depends(on, not_on, by_itself=False)


class _Looking:
    """Runs a script with sets of variations, and says which runs differ from the first one."""

    def __init__(self, asked: Gate, verdict: ScriptVerdict) -> None:
        self._asked = asked
        self._index = verdict.index or 1
        first, other = verdict.runs[0], verdict.runs[self._index]
        self._session = first.parent
        self._fixed = verdict.script.fixed
        self._seconds = verdict.seconds
        self._first = Ran(first, verdict.seen, verdict.written, first.parent / "work", 0)
        self._lines = _lines(first)
        # A run may be ended where the other one had parted from the first along the run.
        pairs = zip(self._lines, _lines(other), strict=False)
        self._place = next((n for n, (one, two) in enumerate(pairs) if one != two), None)
        self._made = self._session / "look"

    def __call__(self, sets: list[list[str]]) -> list[bool]:
        return [self._differs(names) for names in sets]

    def _differs(self, names: list[str]) -> bool:
        self.close()
        self._made.mkdir()
        try:
            ran = running.run(self._asked.script, self._made, names, self._index, self._parted)
        except Stopped:
            assert self._place is not None  # Else it is not stopped.
            return _lines(self._made)[self._place] != self._lines[self._place]
        except RunFailed:
            return True
        found = comparison.compare(self._asked.script, self._first, ran, self._asked.printed)
        return found.verdict == "diverged"

    def _parted(self, run: Path) -> bool:
        """Whether the run has come to where the other one had parted from the first."""
        return self._place is not None and len(_lines(run)) > self._place

    def held(self, found: Cause, tell: Tell) -> Cause:
        """Looks whether a random fault goes away where something random is held still.

        What is random in ordinary surroundings too, such as the time, shows in each run, whatever
        is varied. So runs are made in which it is the same, and compared with each other.
        """
        for name in HELD:
            # A guarantee fixes the hash seed already.
            if surroundings.VARIATIONS[name].impossible() or (name == "hash-seed" and self._fixed):
                continue
            tell(f"does the difference go away where {name} is held still?")
            same = self._agree(name)
            # A random fault may stay away by chance; so it has to show each time without.
            if same and all(self._differs([]) for _ in range(cause.REPEATS)):
                chance = cause.by_chance(same, cause.REPEATS)
                why = (
                    f"{same} of {same} runs agree where it is held still, and "
                    f"{cause.REPEATS} of {cause.REPEATS} differ where it is not; a random fault "
                    f"would show so at most once in {round(1 / chance)}"
                )
                sure = replace(found, variation=[name], sure=True)
                return replace(sure, confidence=1 - chance, why=why)
        return found

    def _agree(self, name: str) -> int:
        """How many runs agree with a first one, with something held still; 0: not all of them."""
        clock = int(time.time()) if name == "clock" else None
        varied = [] if name == "clock" else [name]
        limit = time.monotonic() + LONGER * max(self._seconds, 1)

        def late(run: Path) -> bool:  # A script may wait for a clock that stands still.
            return time.monotonic() > limit

        reference: Ran | None = None
        try:
            for number in range(cause.REPEATS + 1):
                place = self._session / f"held-{min(number, 1)}"
                shutil.rmtree(place, ignore_errors=True)
                place.mkdir()
                ran = running.run(self._asked.script, place, varied, 1, late, clock)
                if reference is None:
                    reference = ran
                    continue
                found = comparison.compare(self._asked.script, reference, ran, self._asked.printed)
                if found.verdict == "diverged":
                    return 0
        except (Stopped, RunFailed):
            return 0
        finally:
            for number in range(2):
                shutil.rmtree(self._session / f"held-{number}", ignore_errors=True)
        return cause.REPEATS

    def close(self) -> None:
        """Removes the run that was made to look."""
        shutil.rmtree(self._made, ignore_errors=True)


def _lines(run: Path) -> list[bytes]:
    """The entries of a ledger, as far as it is written."""
    path = run / LEDGER
    if not path.is_file():
        return []
    return [line for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]

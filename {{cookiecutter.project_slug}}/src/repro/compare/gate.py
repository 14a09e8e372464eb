"""The gate: one recipe several times in changed surroundings; where runs differ, what did it."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from repro.basics.errors import BadInput, RunEnded, RunFailed
from repro.compare import cause, comparison, explanation
from repro.compare.cause import Cause
from repro.compare.comparison import Verdict
from repro.compare.explanation import Explanation
from repro.environment import determinism, machine, surroundings
from repro.environment.determinism import Promise
from repro.recipe.parameters import Parameters
from repro.recipe.project import Project
from repro.recipe.recipe import Recipe
from repro.run import failure, launcher, manifest
from repro.run.events import Progress
from repro.run.launcher import Launch, Listener, OnStart
from repro.run.ledger import Divergence
from repro.run.manifest import Finished, Surroundings

Ended = Path | RunFailed | BadInput
"""A finished run, or what it failed with."""

Tell = Callable[[str], None]
"""Called with a line on what is done."""

Given = TypeVar("Given")


@dataclass(frozen=True)
class Gate:
    """A recipe to run several times, each run after the first in changed surroundings."""

    project: Project
    recipe: Recipe
    runs: int = 2
    vary: str | None = None
    """What `surroundings.choose` takes."""


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
class NamedCause:
    """The cause that was found, in words for a person."""

    cause: Cause
    means: str
    mend: str

    def as_json(self) -> dict[str, Any]:
        """As answers have it."""
        return asdict(self.cause) | {"means": self.means, "mend": self.mend}


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
            text += [f"cause      {self.cause.means}", f"           {self.cause.mend}"]
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


def verify(asked: Gate, listener: Listener) -> GateVerdict:
    """Trains a recipe several times and compares each run with the first.

    Why runs differ is not looked for here, so that the verdict is there first: see `explain`.

    Raises:
        RunFailed, BadInput: the first run did not finish, or the process of any was ended.
    """
    varied, others = choose(asked.project, asked.recipe.parameters, asked.vary)
    outcomes = train_all(asked.project, asked.recipe, asked.runs, listener, varied)
    first = outcomes[0]
    assert isinstance(first, Path)  # Else it was raised.
    judged = {number: _judge(first, one) for number, one in enumerate(outcomes) if number}
    differing = [number for number, one in judged.items() if one.verdict != "identical"]
    # A failure counts for more than a difference.
    differing.sort(key=lambda number: judged[number].verdict != "failed")
    # Of a single run, which something else is compared with, there is nothing to say yet.
    shown = differing[0] if differing else min(1, asked.runs - 1)
    runs = [outcome for outcome in outcomes if isinstance(outcome, Path)]
    return GateVerdict(
        between=judged[shown] if shown else _judge(first, first),
        runs=runs,
        digests=[manifest.of_finished(run).digest for run in runs],
        first=manifest.of_finished(first),
        varied=varied,
        not_varied=others,
        differing=len(differing),
        further=asked.runs - 1,
        index=differing[0] if differing else None,
    )


def choose(
    project: Project, parameters: Parameters, vary: str | None
) -> tuple[list[str], dict[str, str]]:
    """Returns what to vary and why each other thing is not, after surroundings have been tried.

    Raises:
        BadInput: as `surroundings.choose`; or what is asked for by name cannot be had here.
    """
    varied, others = surroundings.choose(vary)
    ordinary = determinism.of_process(project.root, parameters)
    varied, problems = surroundings.possible(project.root, varied, ordinary)
    for name, problem in problems.items():
        if vary not in (None, "all"):
            raise BadInput(f"--vary: {name}: not possible here: {problem}")
        others[name] = f"not possible here: {problem}"
    return varied, others


def train_all(
    project: Project,
    recipe: Recipe,
    runs: int,
    listener: Listener,
    varied: Sequence[str] = (),
) -> list[Ended]:
    """Runs a recipe several times, each after the first varied.

    As many run at once as cores allow, or one where they use a GPU, all of whose memory a library
    takes for itself.

    Raises:
        RunFailed, BadInput: the first run did not finish. The others' failures are returned, but
            for a process that was ended: that says nothing of its surroundings.
    """

    def one(index: int) -> Callable[[OnStart], Ended]:
        if index == 0:
            return lambda started: launcher.train(Launch(project, recipe), listener, started)
        around = Surroundings(varied=varied, index=index)
        return lambda started: _train(Launch(project, recipe, around), listener, started)

    try:
        return _side_by_side(_slots(recipe), [one(index) for index in range(runs)])
    except RunEnded as error:
        raise error.advised(
            "nothing was compared; the same command started again makes all runs anew"
        ) from None


def _slots(recipe: Recipe) -> int:
    parameters = recipe.parameters
    if machine.gpus(parameters.guarantee):
        return 1
    return max(1, machine.available_cores() // parameters.threads)


def _side_by_side(slots: int, jobs: Sequence[Callable[[OnStart], Given]]) -> list[Given]:
    """Calls functions in threads, up to `slots` at once, and returns what each returned.

    Each is given what it has to tell of a process that it starts. Where one raises, the others'
    processes are ended, those that have not begun do not, and its exception is raised.
    """
    processes: list[subprocess.Popen[str]] = []
    stopping = threading.Event()

    def started(process: subprocess.Popen[str]) -> None:
        processes.append(process)
        if stopping.is_set():  # It was on its way while the others were ended.
            process.terminate()

    def call(job: Callable[[OnStart], Given]) -> Given:
        if stopping.is_set():
            raise _NotBegun
        try:
            return job(started)
        except BaseException:
            stopping.set()
            raise

    with ThreadPoolExecutor(min(slots, len(jobs))) as pool:
        futures = [pool.submit(call, job) for job in jobs]
        try:
            done = wait(futures, return_when=FIRST_EXCEPTION).done
            errors = [future.exception() for future in futures if future in done]
            for error in errors:
                if error is not None and not isinstance(error, _NotBegun):
                    raise error
            return [future.result() for future in futures]
        except BaseException:
            stopping.set()
            for process in processes:
                process.terminate()
            raise


def explain(
    project: Project,
    verdict: Verdict | GateVerdict,
    listener: Listener,
    tell: Tell,
    tensor: bool = True,
) -> Why:
    """Looks for the variation that makes runs differ, and for the first tensor that differs.

    The verdict has been told by then, and stands whatever comes of this.

    Args:
        verdict: that of a gate; or that on two runs, whose variations are not looked at.
        tensor: whether to look for the tensor, where runs have diverged.
    """
    unexplained: list[str] = []

    def attempt(what: str, action: Callable[[], Given]) -> Given | None:
        try:
            return action()
        except Exception as error:  # Whatever it is, the verdict is not lost for it.
            unexplained.append(f"{what} was not found: {failure.reason(error)}")
            return None

    named = found = None
    if isinstance(verdict, GateVerdict) and verdict.index is not None:
        gated = verdict
        named = attempt("the variation", lambda: find_cause(project, gated, listener, tell))
    between = verdict.between if isinstance(verdict, GateVerdict) else verdict
    if tensor and isinstance(between, Verdict) and between.first_divergence is not None:
        runs, place = between.runs, between.first_divergence
        found = attempt("the tensor", lambda: _find_tensor(project, runs, place, listener, tell))
    return Why(named, found, unexplained)


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
    names = found.variation
    if names:
        means = "; ".join(f"{name} ({surroundings.VARIATIONS[name].what})" for name in names)
        means += ", only together" if len(names) > 1 else ""
        mend = "; ".join(surroundings.VARIATIONS[name].mend for name in names)
    else:
        means = f"no variation, the fault is random: seen in {found.seen} of {found.starts} starts"
        mend = "look for what is not seeded, and for threads or processes that race"
    return NamedCause(found, f"{means}: {found.why}", mend)


class _NotBegun(Exception):
    """What another thread was to do is not wanted any more."""


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
        self.slots = _slots(self._recipe)

    def __call__(self, sets: list[list[str]]) -> list[bool]:
        def one(names: list[str]) -> Callable[[OnStart], bool]:
            return lambda started: self._differs(names, started)

        return _side_by_side(self.slots, [one(names) for names in sets])

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
                outcome = _train(launch, watch, on_start)
            except _Parted:
                assert place is not None
                return heads[place] != self._heads[place]
            return _judge(self._first, outcome).verdict != "identical"


def _train(launch: Launch, listener: Listener, on_start: OnStart) -> Ended:
    """Trains, and returns the failure where the training or the input is at fault."""
    try:
        return launcher.train(launch, listener, on_start)
    except RunEnded:
        raise
    except (RunFailed, BadInput) as error:
        return error


def _heads(run: Path) -> list[str]:
    """The chained digests of a ledger, as far as it is written."""
    lines = (run / "ledger.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line)["head"] for line in lines if line.endswith("\n")]


def _judge(first: Path, outcome: Ended) -> Verdict | Failure:
    if not isinstance(outcome, Path):
        return Failure(first, str(outcome), isinstance(outcome, BadInput))
    return comparison.compare(first, outcome, one_recipe=True)

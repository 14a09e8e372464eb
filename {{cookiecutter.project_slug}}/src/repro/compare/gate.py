"""The gate: one recipe several times in changed surroundings; where runs differ, what did it."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from repro.basics.errors import BadInput, RunEnded, RunFailed
from repro.compare import cause, comparison
from repro.environment import determinism, machine, surroundings
from repro.recipe.parameters import Parameters
from repro.recipe.project import Project
from repro.recipe.recipe import Recipe
from repro.run import failure, launcher, manifest
from repro.run.launcher import Launch, Listener, OnStart
from repro.run.manifest import Surroundings

Outcome = Path | RunFailed | BadInput
"""A finished run, or what it failed with."""

Answer = TypeVar("Answer")


def verify(
    project: Project,
    recipe: Recipe,
    runs: int,
    listener: Listener,
    vary: str | None = None,
) -> dict[str, Any]:
    """Trains a recipe several times and compares each run with the first.

    Why runs differ is not looked for here, so that the verdict is there first: see `find_cause`.

    Args:
        vary: what `surroundings.choose` takes.

    Returns:
        The verdict of `comparison.compare` on the first two runs that differ, or on the first two;
        with these as `compared`, all `runs` and `digests`, what was `varied` and `not_varied`,
        and how many runs were `differing`, of which `index` is the first. Where this one failed,
        the verdict is `failed`, with a `message`; `refused` says whether it was bad input.

    Raises:
        RunFailed, BadInput: the first run did not finish, or the process of any was ended.
    """
    varied, others = choose(project, recipe.parameters, vary)
    outcomes = train_all(project, recipe, runs, listener, varied)
    first = outcomes[0]
    assert isinstance(first, Path)  # Else it was raised.
    judged = {number: _judge(first, one) for number, one in enumerate(outcomes) if number}
    differing = [number for number, verdict in judged.items() if verdict != "identical"]
    # A failure counts for more than a difference.
    differing.sort(key=lambda number: judged[number] != "failed")
    paths = [outcome for outcome in outcomes if isinstance(outcome, Path)]
    # Of a single run, which something else is compared with, there is nothing to say yet.
    other = outcomes[differing[0] if differing else min(1, runs - 1)]
    content = manifest.of_finished(first)
    answer: dict[str, Any]
    if isinstance(other, Path):
        answer = comparison.compare(first, other, one_recipe=True)
        answer["compared"] = answer["runs"]
    else:
        answer = {"verdict": "failed", "message": str(other), "compared": [str(first)]}
        answer["refused"] = isinstance(other, BadInput)
    return answer | {
        "runs": [str(run) for run in paths],
        "digests": [manifest.of_finished(run).digest for run in paths],
        "digest": content.digest,
        "guarantee": asdict(content.guarantee),
        "metrics": content.metrics,
        "notes": content.notes,
        "varied": varied,
        "not_varied": others,
        "differing": len(differing),
        "further": runs - 1,
        **({"index": differing[0]} if differing else {}),
    }


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


def lines(answer: dict[str, Any]) -> list[str]:
    """What was varied and what that showed, for a person."""
    text = []
    if answer["differing"]:
        what = "fail or differ" if answer["verdict"] == "failed" else "differ"
        text.append(f"  {answer['differing']} of {answer['further']} further runs {what}")
    text.append(f"varied     {', '.join(answer['varied']) or 'nothing'}")
    asked = {k: why for k, why in answer["not_varied"].items() if why != "not asked for"}
    text += [f"not varied {name}: {why}" for name, why in asked.items()]
    return text + [f"note       {note}" for note in answer["notes"]]


def why(answer: dict[str, Any]) -> list[str]:
    """What `explain` found, for a person."""
    text = []
    if "cause" in answer:
        found = answer["cause"]
        text += [f"cause      {found['means']}", f"           {found['mend']}"]
    if answer.get("explanation"):
        text.append(comparison.describe_tensor(answer["explanation"]))
    return text + [f"           {line}" for line in answer.get("unexplained", [])]


def train_all(
    project: Project,
    recipe: Recipe,
    runs: int,
    listener: Listener,
    varied: Sequence[str] = (),
) -> list[Outcome]:
    """Runs a recipe several times, each after the first varied.

    As many run at once as cores allow, or one where they use a GPU, all of whose memory a library
    takes for itself.

    Raises:
        RunFailed, BadInput: the first run did not finish. The others' failures are returned, but
            for a process that was ended: that says nothing of its surroundings.
    """

    def one(index: int) -> Callable[[OnStart], Outcome]:
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


def _side_by_side(slots: int, jobs: Sequence[Callable[[OnStart], Answer]]) -> list[Answer]:
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

    def call(job: Callable[[OnStart], Answer]) -> Answer:
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
    answer: dict[str, Any],
    listener: Listener,
    tell: Callable[[str], None],
    variation: bool = True,
    tensor: bool = True,
) -> list[str]:
    """Adds to an answer the `cause`, a variation, and the `explanation`, the first tensor.

    The verdict has been told by then, and stands whatever comes of this.

    Args:
        answer: of `gate.verify`; or of `comparison.compare`, which knows of no variations.
        tell: called with a line on what is done.
        variation: whether to look for the variation; in an answer of `gate.verify` alone.
        tensor: whether to look for the tensor; not where a run failed.

    Returns:
        The same for a person. What could not be found is in `unexplained`, a line each.
    """
    answer["unexplained"] = []

    def attempt(what: str, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # Whatever it is, the verdict is not lost for it.
            answer["unexplained"].append(f"{what} was not found: {failure.reason(error)}")

    if variation:
        attempt("the variation", lambda: find_cause(project, answer, listener, tell))
    if tensor:
        attempt("the tensor", lambda: _find_tensor(project, answer, listener, tell))
    return why(answer)


def _find_tensor(
    project: Project, answer: dict[str, Any], listener: Listener, tell: Callable[[str], None]
) -> None:
    one, other = (Path(run) for run in answer.get("compared", answer["runs"]))
    found = answer["first_divergence"]
    if comparison.can_be_explained(found):
        tell("the runs differ; running the steps again to see where")
        answer["explanation"] = comparison.explain(project, one, other, found, listener)


def find_cause(
    project: Project,
    answer: dict[str, Any],
    listener: Listener,
    tell: Callable[[str], None] = lambda line: None,
) -> None:
    """Looks for the variations that make runs differ, or fail, and adds the `cause` to an answer.

    The cause is that of `cause.find`, with what it `means` and how to `mend` it.

    Args:
        answer: what `verify` returned.
        tell: called with a line on what is tried.

    Raises:
        RunEnded: the process of a run made to look was ended.
    """
    looking = _Looking(project, answer, listener)
    before = (answer["differing"], answer["further"])
    found = cause.find(answer["varied"], looking, looking.slots, before, tell)
    names = found.variation
    if names:
        means = "; ".join(f"{name} ({surroundings.VARIATIONS[name].what})" for name in names)
        means += ", only together" if len(names) > 1 else ""
        mend = "; ".join(surroundings.VARIATIONS[name].mend for name in names)
    else:
        means = f"no variation, the fault is random: seen in {found.seen} of {found.starts} starts"
        mend = "look for what is not seeded, and for threads or processes that race"
    answer["cause"] = found.told() | {"means": f"{means}: {found.why}", "mend": mend}


class _NotBegun(Exception):
    """What another thread was to do is not wanted any more."""


class _Parted(Exception):
    """A run has come to where the other one had parted from the first; that is all to be seen."""


class _Looking:
    """Makes runs with sets of variations, and says which differ from the first run of a gate."""

    def __init__(self, project: Project, answer: dict[str, Any], listener: Listener) -> None:
        first, *other = (Path(run) for run in answer["compared"])
        self._project, self._first, self._listener = project, first, listener
        self._recipe = manifest.read(first).recipe.asked
        # The number of the run that differed: each variation does again what it did there.
        self._index = answer.get("index", 1)
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

        def watch(run: Path, event: dict[str, Any]) -> None:
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
            return _judge(self._first, outcome) != "identical"


def _train(launch: Launch, listener: Listener, on_start: OnStart) -> Outcome:
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


def _judge(first: Path, outcome: Outcome) -> str:
    if not isinstance(outcome, Path):
        return "failed"
    return str(comparison.compare(first, outcome, one_recipe=True)["verdict"])

"""The gate: one recipe several times, in changed surroundings; each run is compared with the first.

Why runs differ is looked for in `why`.
"""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from repro.basics.errors import BadInput, RunEnded, RunFailed
from repro.compare import comparison
from repro.compare.comparison import Verdict
from repro.compare.gate_verdict import Failure, GateVerdict
from repro.environment import determinism, machine, surroundings
from repro.recipe.parameters import Parameters
from repro.recipe.project import Project
from repro.recipe.recipe import Recipe
from repro.run import launcher, manifest
from repro.run.launcher import Launch, Listener, OnStart
from repro.run.manifest import Surroundings

Ended = Path | RunFailed | BadInput
"""A finished run, or what it failed with."""

Given = TypeVar("Given")


@dataclass(frozen=True)
class Gate:
    """A recipe to run several times, each run after the first in changed surroundings."""

    project: Project
    recipe: Recipe
    runs: int = 2
    vary: str | None = None
    """What `surroundings.choose` takes."""


def verify(asked: Gate, listener: Listener) -> GateVerdict:
    """Trains a recipe several times and compares each run with the first.

    Why runs differ is not looked for here, so that the verdict is there first: see `why.explain`.

    Raises:
        RunFailed, BadInput: the first run did not finish, or the process of any was ended.
    """
    varied, others = choose(asked.project, asked.recipe.parameters, asked.vary)
    outcomes = train_all(asked.project, asked.recipe, asked.runs, listener, varied)
    first = outcomes[0]
    assert isinstance(first, Path)  # Else it was raised.
    judged = {number: judge(first, one) for number, one in enumerate(outcomes) if number}
    differing = [number for number, one in judged.items() if one.verdict != "identical"]
    # A failure counts for more than a difference.
    differing.sort(key=lambda number: judged[number].verdict != "failed")
    # Of a single run, which something else is compared with, there is nothing to say yet.
    shown = differing[0] if differing else min(1, asked.runs - 1)
    runs = [outcome for outcome in outcomes if isinstance(outcome, Path)]
    return GateVerdict(
        between=judged[shown] if shown else judge(first, first),
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
        return lambda started: train(Launch(project, recipe, around), listener, started)

    try:
        return side_by_side(slots(recipe), [one(index) for index in range(runs)])
    except RunEnded as error:
        raise error.advised(
            "nothing was compared; the same command started again makes all runs anew"
        ) from None


def slots(recipe: Recipe) -> int:
    """How many runs of a recipe may go on at once."""
    parameters = recipe.parameters
    if machine.gpus(parameters.guarantee):
        return 1
    return max(1, machine.available_cores() // parameters.threads)


def side_by_side(slots: int, jobs: Sequence[Callable[[OnStart], Given]]) -> list[Given]:
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


class _NotBegun(Exception):
    """What another thread was to do is not wanted any more."""


def train(launch: Launch, listener: Listener, on_start: OnStart) -> Ended:
    """Trains, and returns the failure where the training or the input is at fault."""
    try:
        return launcher.train(launch, listener, on_start)
    except RunEnded:
        raise
    except (RunFailed, BadInput) as error:
        return error


def judge(first: Path, outcome: Ended) -> Verdict | Failure:
    """Compares a further run of the same recipe with the first."""
    if not isinstance(outcome, Path):
        return Failure(first, str(outcome), isinstance(outcome, BadInput))
    return comparison.compare(first, outcome, one_recipe=True)

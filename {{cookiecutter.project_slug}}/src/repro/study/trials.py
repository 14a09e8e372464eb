"""One trial of a study, wherever it runs: what is asked for, what came of it, and the training.

A trial is trained in a process of its own, as everything here is, so that nothing of one reaches
the next. What gives the trials room and threads is `pool.py` on this machine, and `workers.py` on a
Dask cluster.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from repro.basics.errors import BadInput, RunFailed
from repro.compare import gate
from repro.environment.provenance import Changed
from repro.recipe.project import Project
from repro.recipe.recipe import Recipe
from repro.run import launcher, manifest
from repro.run.launcher import Launch, Listener
from repro.run.manifest import Manifest, Surroundings


@dataclass(frozen=True)
class Task:
    """One training that is asked for; what it holds travels over the network."""

    study: str
    name: str
    recipe: Recipe
    overrides: Sequence[str]
    root: str
    code: str
    """The digest that a worker's own code must have; see `provenance.digest`."""
    varied: bool = False
    """In changed surroundings, as the further runs of the gate."""


@dataclass(frozen=True)
class Outcome:
    """What came of a task: a run in the caller's `runs/`, or why there is none."""

    task: Task
    worker: str = ""
    refused: str | None = None
    failed: str | None = None
    archive: bytes | None = None
    """The run, from a worker with another copy of the project."""


def attempt(task: Task, worker: str, train: Callable[[], object]) -> Outcome:
    """What came of a task that `train` trains.

    What goes wrong is the trial's own: a full disk and a folder that cannot be written too.
    """
    try:
        train()
    except BadInput as error:
        return Outcome(task, worker, refused=str(error))
    except RunFailed as error:
        return Outcome(task, worker, failed=str(error))
    except OSError as error:
        return Outcome(task, worker, failed=told(error))
    return Outcome(task, worker)


def told(error: BaseException) -> str:
    """An error in one line, with its kind."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def train(
    project: Project,
    task: Task,
    listener: Listener,
    gpu: str | None,
    on_start: Callable[[subprocess.Popen[str]], None],
    ended: Callable[[], bool],
) -> Path:
    """Trains what a task asks for, or goes on with what is there of it; returns the run.

    A run of the task's name that another process is at, whose study was killed, is waited for.

    Args:
        gpu: the one that the process may see; see `launcher.train`.
        on_start: called with each process, so that the caller can end it.
        ended: asked again and again whether the wait is to be given up.

    Raises:
        BadInput, RunFailed: see `launcher.train`; or the wait was given up.
        OSError: the runs cannot be written here, which is not what the study asks for.
    """
    run = project.runs / task.name
    while run.exists() and not launcher.idle(run):  # `idle` itself waits a while.
        if ended():
            raise RunFailed("the study was ended")
    resume = None
    if run.exists():
        content = _manifest(run)
        if content and content.status == "finished" and content.recipe.asked == task.recipe:
            return run
        if content and launcher.can_go_on(run, content, task.recipe):
            resume = run
        else:
            shutil.rmtree(run)
    if resume is None:
        _check_writable(project.runs)
    varied = gate.choose(project, task.recipe.parameters, None)[0] if task.varied else ()
    launch = Launch(
        project,
        task.recipe,
        Surroundings(varied=varied, index=int(task.varied)),
        resume=resume,
        overrides=task.overrides,
        name=task.name,
        gpu=gpu,
    )
    try:
        return launcher.train(launch, listener, on_start)
    except Changed:  # Another processor, say: the finished part would not be this machine's.
        shutil.rmtree(run)
        return launcher.train(replace(launch, resume=None), listener, on_start)


def _manifest(run: Path) -> Manifest | None:
    """That of a run; None where the run was killed before it was written."""
    try:
        return manifest.read(run)
    except BadInput:
        return None


def _check_writable(folder: Path) -> None:
    """Makes a file that has no name, and so leaves nothing behind."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass

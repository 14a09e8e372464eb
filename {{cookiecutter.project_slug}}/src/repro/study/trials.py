"""One trial of a study, on whatever machine: its task, its training and its outcome.

Each trial is trained in a fresh process, like every run. `pool.py` gives the trials threads on this
machine, and `workers.py` gives them workers on a Dask cluster.
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
    """One training to be made. It travels over the network, so it holds only plain data."""

    study: str
    name: str
    recipe: Recipe
    overrides: Sequence[str]
    root: str
    code: str
    """The digest that the code of a worker must have; see `provenance.digest`."""
    varied: bool = False
    """Whether to train in changed surroundings, like the further runs of the gate."""


@dataclass(frozen=True)
class Outcome:
    """The end of a task: a run in the caller's `runs/`, or why there is none."""

    task: Task
    worker: str = ""
    refused: str | None = None
    failed: str | None = None
    archive: bytes | None = None
    """The files of the run, if the worker has another copy of the project."""


def attempt(task: Task, worker: str, train: Callable[[], object]) -> Outcome:
    """Calls `train` for a task and returns the outcome.

    An error is a failure of this trial alone. This holds even for a full disk, or for a folder that
    cannot be written.
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
    """Returns an error as one line, with its type."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def train(
    project: Project,
    task: Task,
    listener: Listener,
    gpu: str | None,
    on_start: Callable[[subprocess.Popen[str]], None],
    ended: Callable[[], bool],
) -> Path:
    """Trains the recipe of a task, or goes on with its run; returns the run directory.

    If the study was killed, another process may still be at work on the run. Then this function
    waits for it.

    Args:
        gpu: the GPU that the process may see; see `launcher.Launch`.
        on_start: is called with each process, so that the caller can end it.
        ended: is asked again and again whether to give up waiting.

    Raises:
        BadInput, RunFailed: see `launcher.train`; or `ended` has said to give up.
        OSError: `runs/` cannot be written, which is no fault of the study's input.
    """
    run = project.runs / task.name
    while run.exists() and not launcher.idle(run):  # `idle` waits up to three seconds itself.
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
    except Changed:  # For example, this machine has another processor. The run begins again.
        shutil.rmtree(run)
        return launcher.train(replace(launch, resume=None), listener, on_start)


def _manifest(run: Path) -> Manifest | None:
    """Returns the manifest of a run; None if the run was killed before it was written."""
    try:
        return manifest.read(run)
    except BadInput:
        return None


def _check_writable(folder: Path) -> None:
    """Checks that a folder can be written, by a temporary file that leaves nothing behind.

    Raises:
        OSError: it cannot.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass

"""Starts each run: one recipe goes into one fresh process, which leaves one run directory.

Some settings work only if they are set before the interpreter starts, and a process that has
trained once is not fresh any more. So every training of this project starts here.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import queue
import secrets
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from repro.basics import locks
from repro.basics.errors import BAD_INPUT, INTERNAL, BadInput, MachineryFailed, RunFailed
from repro.data import datalock
from repro.environment import determinism, image, machine, provenance, surroundings
from repro.environment.variables import CLEARED
from repro.recipe.parameters import Parameters
from repro.recipe.project import Project
from repro.recipe.recipe import Recipe
from repro.run import events, failure, manifest
from repro.run.events import Event, Failed, Progress, Refused
from repro.run.manifest import ORDINARY, Manifest, Probe, Surroundings
from repro.run.use import Use

Listener = Callable[[Path, Progress], None]
"""Called with the run directory and each event that tells how far the run is."""

OnStart = Callable[[subprocess.Popen[str]], None]
"""Called with the process of a run, so that the caller can end it."""


ENDING = 3.0
"""Seconds to wait for a process that was just killed: until it is gone it holds its run locked."""


@dataclass(frozen=True)
class Launch:
    """A recipe to run, and how to run it; only the recipe decides the bits of the result."""

    project: Project
    recipe: Recipe
    surroundings: Surroundings = ORDINARY
    """What is changed around the run on purpose."""
    resume: Path | None = None
    """An interrupted run of this recipe, to go on with in its directory."""
    checkpoint_seconds: float = 60
    """The most seconds between two checkpoints; 0: one checkpoint after each chunk of steps."""
    overrides: Sequence[str] = ()
    """The overrides of `params.yaml` in the recipe, so that it can be made again and compared."""
    probe: Probe | None = None
    """What to look at, if the run is made only to look at one place."""
    use: Use | None = None
    """What to do with a finished run, if the process is made for that and does not train."""
    name: str | None = None
    """The name of the run if it is a trial of a study; such a run is not found by its recipe."""
    gpu: str | None = None
    """The GPU that the process may see, as `CUDA_VISIBLE_DEVICES` names it; None: all."""


def _ignored(process: subprocess.Popen[str]) -> None:
    """Does nothing with the process of a run."""


def train(launch: Launch, listener: Listener, on_start: OnStart = _ignored) -> Path:
    """Runs a recipe in a fresh process and returns the run directory.

    Args:
        on_start: called with each process, so that the caller can end it.

    Raises:
        BadInput: a data file is not what `data.lock` says, or something is wrong that only the
            process can see. A new run leaves nothing behind; a run that went on loses nothing.
        Changed: the run cannot go on, since something has changed since it began.
        Busy: another process is at work on the run that was to go on.
        RunFailed: the training raised an error or was ended. The run directory stays, with the log.
    """
    interpreter = _interpreter()
    image.current()  # A wrong REPRO_IMAGE is refused before there is a run.
    datalock.check(launch.project.root)
    directory = launch.resume or _new_directory(launch)
    with _locked(directory) as locked:
        content = _begun(launch, directory, interpreter)
        before = (directory / "manifest.json").read_bytes() if launch.resume else b""
        around = surroundings.Around(
            launch.project.root, content.surroundings.varied, content.surroundings.index
        )
        env = around.variables(_variables(launch))
        content = content.but(environment=_deciding(env, launch.recipe.parameters))
        start = _Start(
            (*around.command, interpreter, "-P", "-m", "repro.run", str(directory)),
            around.root,
            env,
            directory,
            locked,
        )
        with around:
            said, status = _to_the_end(start, content, listener, on_start)
    if isinstance(said, Refused) and status == BAD_INPUT:
        if any(directory.glob("checkpoints/*.json")) and launch.resume is None:
            # What was made is kept: a sample that could not be read may be put back.
            manifest.write(directory, manifest.read(directory).but(status="failed"))
        elif launch.resume is None:
            shutil.rmtree(directory)
        else:
            (directory / "manifest.json").write_bytes(before)
        raise (provenance.Changed if said.changed else BadInput)(said.message)
    if status != 0:
        manifest.write(directory, manifest.read(directory).but(status="failed"))
        why = said.message if isinstance(said, Failed) else None
        if status == INTERNAL:
            raise MachineryFailed(why or failure.end_of_log(directory))
        raise RunFailed(why) if why else failure.of(directory, status)
    return directory


def _variables(launch: Launch) -> dict[str, str]:
    """Returns the variables that the process would have without variations."""
    return determinism.of_process(launch.project.root, launch.recipe.parameters, launch.gpu)


def _deciding(env: dict[str, str], parameters: Parameters) -> dict[str, str]:
    """Returns those variables of a process that decide results."""
    fixed = determinism.environment(parameters)
    return {n: v for n, v in env.items() if n.startswith(CLEARED) or n in fixed}


def _begun(launch: Launch, directory: Path, interpreter: str) -> Manifest:
    """Returns the manifest as it is before the process starts."""
    code = provenance.commit(launch.project.root)
    if launch.resume is not None:
        content = manifest.read(directory)
        content = content.but(resumed=[*content.resumed, _now()])
    else:
        seed = launch.recipe.parameters.seed
        content = Manifest(
            run=directory.name,
            recipe=launch.recipe,
            project={"package": launch.project.package},
            # If the recipe has no seed, the run draws one. The manifest has it, to repeat the run.
            seed=secrets.randbits(32) if seed is None else seed,
            overrides=launch.overrides,
            trial=launch.name is not None,
            started=_now(),
            surroundings=launch.surroundings,
            code=code,
            interpreter=interpreter,
            environment={},
        )
    return content.but(
        status="running",
        checkpoint_seconds=launch.checkpoint_seconds,
        readers=_readers(),
        probe=launch.probe,
        use=launch.use,
        code=code,
        interpreter=interpreter,
    )


def _to_the_end(
    start: _Start, content: Manifest, listener: Listener, on_start: OnStart
) -> tuple[Said, int]:
    """Runs a process to its end, and once more if the variation `killed` has made it kill itself.

    Returns:
        What the last process said about its end, and its exit status.
    """
    directory = start.directory
    while True:
        manifest.write(directory, content)
        said, status = _run(start, listener, on_start)
        if "killed" not in content.surroundings.varied or status == 0:
            return said, status
        parted = said.parted if isinstance(said, Refused) else None
        if parted is not None and content.parted is None:
            # It differs from what it was when it began, so it cannot go on. It begins again and
            # makes a whole run, in which the comparison finds the difference.
            content = manifest.read(directory).but(parted=parted)
            shutil.rmtree(directory / "checkpoints")
        elif content.resumed or status not in KILLED:
            return said, status
        else:
            content = manifest.read(directory).but(resumed=[_now()])


def _readers() -> int:
    """Returns how many threads read samples: what `REPRO_READERS` says, or one for each core.

    They wait when they are a few chunks ahead, and so leave the cores to the training.
    """
    said = os.environ.get("REPRO_READERS")
    if said is None:
        return machine.available_cores()
    if not said.isdecimal() or int(said) > 64:
        raise BadInput(f"REPRO_READERS: expected a number from 0 to 64, got {said!r}")
    return int(said)


KILLED = (-9, 128 + 9, 15)
"""The exit statuses of a process that killed itself in the variation `killed`: as `subprocess`
gives it, as a program between the two processes gives it, and on Windows."""


class Busy(BadInput):
    """Another process is at work on the run that was to go on."""


def _interpreter() -> str:
    named = surroundings.interpreter()
    if shutil.which(named) is None:
        raise BadInput(
            f"REPRO_PYTHON: expected a Python, or a program that starts one; {named} cannot be run"
        )
    return named


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[TextIO]:
    """Holds a run locked.

    The process that trains inherits the lock, and keeps it even if it lives longer than this one.
    """
    with (directory / "lock").open("a", encoding="utf-8") as file:
        if not locks.lock(file, ENDING):
            raise Busy(f"{directory}: this run is still going on, in another process")
        yield file


@dataclass(frozen=True)
class _Start:
    """How to start the process of a run."""

    command: Sequence[str]
    root: Path
    """The working directory of the process."""
    env: dict[str, str]
    directory: Path
    """The run directory."""
    locked: TextIO
    """The file whose lock shows that the run is going on."""


Said = Refused | Failed | None
"""The event in which a process said why it ended; None if it said nothing."""


def _run(start: _Start, listener: Listener, on_start: OnStart) -> tuple[Said, int]:
    """Runs one process to its end; returns what it said about its end, and its exit status.

    Processes that it has left running are ended too, such as one that a data function forked.
    """
    posix = os.name != "nt"
    lock = start.locked.fileno()
    with (start.directory / "log.txt").open("a", encoding="utf-8") as log:
        process = subprocess.Popen(
            (*start.command, *([str(lock)] if posix else ())),
            cwd=start.root,
            env=start.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            encoding="utf-8",
            pass_fds=(lock,) if posix else (),
            start_new_session=posix,
        )
    on_start(process)
    said: Said = None
    try:
        for event in _events(process):
            if isinstance(event, Refused | Failed):
                said = event
            else:
                listener(start.directory, event)
    except BaseException:
        process.terminate()
        raise
    finally:
        status = process.wait()
        if posix:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
    return said, status


def _events(process: subprocess.Popen[str]) -> Iterator[Event]:
    """Yields the events of a process until the process has ended.

    It does not wait until the pipe is closed, since a forked process may hold the pipe open.
    """
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    assert process.stdout is not None
    out = process.stdout

    def read() -> None:
        for line in out:
            lines.put(line)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    while True:
        try:
            yield events.read(lines.get(timeout=0.1))
        except queue.Empty:
            if process.poll() is not None:
                reader.join(timeout=1)
                break
    while not lines.empty():
        yield events.read(lines.get())


def start(launch: Launch, listener: Listener, fresh: bool = False) -> Path:
    """Goes on with an interrupted run of the recipe, or begins a new run; see `train`.

    Args:
        fresh: whether to begin a new run in any case.
    """
    found = None if fresh else interrupted(launch.project, launch.recipe)
    if found is not None:
        with contextlib.suppress(Busy):  # Another process went on with it a moment ago.
            return train(replace(launch, resume=found), listener)
    return train(launch, listener)


@contextlib.contextmanager
def made_to_look(
    on_start: OnStart = lambda process: None, keep_failed: bool = False
) -> Iterator[OnStart]:
    """Removes, after the block, the runs that were made in it only to look at something.

    Args:
        keep_failed: whether they stay if one of them failed, since its log says why.

    Yields:
        The function to give to `train` as `on_start`. It also calls the `on_start` given here.
    """
    runs: list[Path] = []

    def started(process: subprocess.Popen[str]) -> None:
        words = [str(word) for word in process.args]  # type: ignore[union-attr]
        runs.append(Path(words[words.index("repro.run") + 1]))
        on_start(process)

    try:
        yield started
    except RunFailed:
        if keep_failed:
            runs.clear()
        raise
    finally:
        for run in runs:
            shutil.rmtree(run, ignore_errors=True)


def interrupted(project: Project, recipe: Recipe) -> Path | None:
    """Returns the newest interrupted run of this recipe that can go on, or None.

    A run that was killed before its first checkpoint begins again in its directory. A run that
    failed before its first checkpoint is left as it is, since its log says why it failed.
    """
    for path in sorted(project.runs.glob(f"*-{recipe.digest[:6]}*"), reverse=True):
        with contextlib.suppress(BadInput, OSError):
            content = manifest.read(path)
            ordinary = not content.surroundings.varied and content.probe is None
            if ordinary and not content.trial and can_go_on(path, content, recipe):
                return path
    return None


def can_go_on(run: Path, content: Manifest, recipe: Recipe) -> bool:
    """Whether a run has this recipe and was interrupted, and no process is at work on it."""
    begun = content.status == "running" or any(run.glob("checkpoints/*.json"))
    unfinished = begun and content.status != "finished" and content.recipe == recipe
    return unfinished and idle(run)


def idle(run: Path) -> bool:
    """Whether no process is at work on a run: such a process holds the run locked."""
    with (run / "lock").open("a") as file:
        return locks.lock(file, ENDING)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def new_name(*words: str) -> str:
    """Returns a name for a directory: the time in UTC, then these words."""
    return "-".join((datetime.now(UTC).strftime("%Y%m%d-%H%M%S"), *words))


def _new_directory(launch: Launch) -> Path:
    asked = launch.recipe.parameters
    name = launch.name or new_name(asked.data.name, asked.model.name, launch.recipe.digest[:6])
    return new_directory(launch.project.runs, name, "a run")


def new_directory(folder: Path, name: str, what: str) -> Path:
    """Makes a new directory and returns its path; if the name is taken, adds a number to it.

    Args:
        what: what the directory is for, for the message of an error.

    Raises:
        BadInput: the folder cannot hold a new directory.
    """
    for number in itertools.count(1):
        directory = folder / (name if number == 1 else f"{name}-{number}")
        try:
            directory.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise BadInput(f"{folder}: cannot hold {what}: {error.strerror}") from None
        return directory
    raise AssertionError("numbers do not end")

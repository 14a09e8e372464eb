"""Workers of Dask that run the trials of a study, on this machine or on others.

A worker starts the training's own process, as everything here does, so that nothing of one trial
reaches the next. A worker with another copy of the project uses that, if its code and lock are the
same, and sends the run back. At most cores ÷ threads trainings run on a machine at once, or one on
each GPU, whatever number of workers there are.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dask.system import cpu_count
from distributed import Client, KilledWorker, LocalCluster, as_completed, get_worker

from . import BadInput, RunFailed, gate, launcher
from . import recipe as recipes
from .launcher import Listener
from .recipe import Project

WAIT_FOR_WORKERS = 30
"""Seconds after which a scheduler without workers is given up."""
LONG_WAIT = 10
"""Seconds after which a trial that waits for room says so."""

# In a worker: the processes it has started, by the caller's session; the sessions that were ended.
_running: dict[str, set[subprocess.Popen[str]]] = {}
_stopped: set[str] = set()
_adding = threading.Lock()


@dataclass(frozen=True)
class Task:
    """One training that a worker is asked for; what it holds travels over the network."""

    study: str
    name: str
    recipe: dict[str, Any]
    overrides: Sequence[str]
    root: str
    code: str
    """The digest that the worker's own code must have; see `recipe.code_digest`."""
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


class Workers:
    """Workers to give tasks to, used in a `with` block.

    Args:
        number: of local workers to start.
        scheduler: in place of these, the address of a running Dask scheduler.

    Raises:
        BadInput: the scheduler cannot be reached, or has no workers.
    """

    def __init__(self, number: int, scheduler: str | None, listener: Listener) -> None:
        self._stack = contextlib.ExitStack()
        self._listener = listener
        self._session = f"repro-{secrets.token_hex(8)}"  # Its events have this topic.
        self._apart = scheduler is not None
        # The addresses of local workers are this machine's own, and there is no web page.
        if scheduler is None:
            scratch = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="repro-"))
            with _unheard(signal.SIGINT):
                cluster = LocalCluster(  # type: ignore[no-untyped-call]
                    n_workers=number,
                    threads_per_worker=1,
                    host="127.0.0.1",
                    dashboard_address=None,
                    memory_limit=0,  # The trainings are processes of their own.
                    local_directory=scratch,
                    silence_logs="CRITICAL",
                )
            self._stack.enter_context(cluster)
            scheduler = cluster.scheduler_address
        try:
            self._client = self._stack.enter_context(
                Client(scheduler, timeout="10s")  # type: ignore[no-untyped-call]
            )
            self._client.wait_for_workers(1, timeout=WAIT_FOR_WORKERS)
        except TimeoutError:
            self._stack.close()
            raise BadInput(
                f"--scheduler: {scheduler} has no workers; start some: dask worker {scheduler}"
            ) from None
        except (OSError, ValueError) as error:
            self._stack.close()
            raise BadInput(f"--scheduler: {scheduler}: {error}") from None

    def __enter__(self) -> Workers:
        self._client.subscribe_topic(self._session, self._heard)
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def run(
        self,
        project: Project,
        every: Sequence[dict[str, Any]],
        tasks: Sequence[Task],
        further: Callable[[], Task | None] = lambda: None,
    ) -> Iterator[Outcome]:
        """Yields the outcome of each task, as they come; the runs are then in `runs/`.

        When the caller stops before the end, what is running is ended.

        Args:
            every: the recipes that tasks may have; each worker gets the files that they name.
            further: asked for a task more, while workers have nothing to do.
        """
        files = _archive(project.root, _inputs(project, every)) if self._apart else b""
        # On all workers: one of them may be killed.
        sent = self._client.scatter(files, broadcast=True, hash=False) if files else files

        def submit(task: Task) -> Any:
            return self._client.submit(work, task, sent, self._session, key=task.name, pure=False)

        waiting = {submit(task): task for task in tasks}
        done = False
        try:
            coming = as_completed(waiting)  # type: ignore[no-untyped-call]
            while True:
                if self._idle(len(waiting)) and (more := further()):
                    future = submit(more)
                    waiting[future] = more
                    coming.add(future)  # type: ignore[no-untyped-call]
                if not waiting:
                    break
                future = next(coming)
                task = waiting.pop(future)
                try:
                    outcome: Outcome = future.result()
                except KilledWorker:
                    outcome = Outcome(task, failed="each worker that tried it was killed")
                except (CancelledError, OSError) as error:
                    raise RunFailed(
                        f"the scheduler was lost: {error}; the same study started again goes on"
                    ) from None
                if outcome.archive is not None:
                    _unpack(outcome.archive, project.runs / task.name)
                future.release()
                yield outcome
            done = True
        finally:
            if not done:
                with contextlib.suppress(CancelledError, OSError):
                    self._client.cancel(list(waiting), force=True)
                    self._client.run(stop, self._session)

    def _idle(self, tasks: int) -> bool:
        """Whether there are more workers than tasks; also where none are left, of no tasks."""
        if not tasks:
            return True
        with contextlib.suppress(CancelledError, OSError):  # The next task tells what is lost.
            threads: dict[str, int] = self._client.nthreads()
            return tasks < sum(threads.values())
        return False

    def _heard(self, event: tuple[float, Any]) -> None:
        run, content = event[1]
        self._listener(Path(run), content)


@contextlib.contextmanager
def _unheard(number: signal.Signals) -> Iterator[None]:
    """Processes started here do not hear a signal: Ctrl-C is for the caller, which ends them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(number, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(number, before)


def slots(parameters: dict[str, Any]) -> int:
    """How many trainings with these parameters this machine can run at once."""
    cores = cpu_count() // parameters["threads"]
    return len(launcher.gpus(parameters["guarantee"])) or max(1, cores)


def work(task: Task, files: bytes, session: str) -> Outcome:
    """In a worker: runs a task, or goes on with it where another worker was killed."""
    worker = get_worker()
    host = f"{socket.gethostname()} {worker.address}"
    last = 0.0

    def tell(run: Path, event: dict[str, Any]) -> None:
        nonlocal last
        if event["event"] != "step" or time.monotonic() - last > 0.5:
            last = time.monotonic()
            worker.log_event(session, (str(run), event))

    try:
        mine = Project.find(Path(__file__))
        # Where the caller's folder can be seen from here, the run is made in it.
        root = Path(task.root)
        shared = (root / "studies" / task.study).is_dir()
        project = Project.find(root) if shared else mine
        if recipes.code_digest(mine) != task.code:
            raise BadInput(f"worker {host}: {mine.root} has other code; update it")
        if recipes.lock(project.root) != task.recipe["lock"]:
            raise BadInput(f"worker {host}: {mine.root} has other packages; install the lock")
        if not shared:
            _add(files, project.root)
        with _slot(task, session, lambda event: tell(project.runs / task.name, event)) as gpu:
            run = _train(project, task, session, tell, gpu)
    except BadInput as error:
        return Outcome(task, host, refused=str(error))
    except RunFailed as error:
        return Outcome(task, host, failed=str(error))
    if shared:
        return Outcome(task, host)
    archive = _archive(run, run.rglob("*"))
    shutil.rmtree(run)
    return Outcome(task, host, archive=archive)


def stop(session: str) -> None:
    """In a worker: ends the trainings of a session, and lets no other begin."""
    _stopped.add(session)
    for process in list(_running.get(session, ())):
        process.terminate()


def _train(project: Project, task: Task, session: str, listener: Listener, gpu: str | None) -> Path:
    run = project.runs / task.name
    while run.exists() and not launcher.idle(run):
        pass  # The worker was killed, and its training goes on without it; `idle` waits a while.
    resume = None
    if run.exists():
        try:
            content = recipes.read_manifest(run)
        except BadInput:  # Killed before it was written.
            content = {"status": "failed", "recipe": {}}
        recipe = {name: content["recipe"].get(name) for name in task.recipe}
        if content["status"] == "finished" and recipe == task.recipe:
            return run
        if launcher.can_go_on(run, content, task.recipe):
            resume = run
        else:
            shutil.rmtree(run)
    varied = gate.choose(project, task.recipe["parameters"], None)[0] if task.varied else ()
    processes = _running.setdefault(session, set())
    try:
        return launcher.train(
            project,
            task.recipe,
            listener,
            varied,
            index=int(task.varied),
            on_start=processes.add,
            resume=resume,
            overrides=task.overrides,
            name=task.name,
            gpu=gpu,
        )
    finally:
        processes -= {one for one in processes if one.poll() is not None}


@contextlib.contextmanager
def _slot(task: Task, session: str, tell: Callable[[dict[str, Any]], None]) -> Iterator[str | None]:
    """Waits until this machine has room for a training; yields its GPU, where there are any.

    A wait that is long is told, once.

    The room is files in the temporary folder that workers lock, so that it does not matter which
    worker, thread, scheduler or study a training belongs to.
    """
    parameters = task.recipe["parameters"]
    devices = launcher.gpus(parameters["guarantee"])
    places = [f"gpu-{name}" for name in devices] or [f"core-{n}" for n in range(cpu_count())]
    needed = 1 if devices else min(parameters["threads"], len(places))
    user = os.getuid() if hasattr(os, "getuid") else "user"
    folder = Path(tempfile.gettempdir()) / f"repro-slots-{user}"
    folder.mkdir(mode=0o700, exist_ok=True)
    long = time.monotonic() + LONG_WAIT
    while session not in _stopped:
        with contextlib.ExitStack() as held:
            taken: list[str] = []
            for place in places:
                if launcher.lock(held.enter_context((folder / place).open("a"))):
                    taken.append(place)
                if len(taken) == needed:
                    yield devices[places.index(taken[0])] if devices else None
                    return
        if long < time.monotonic():
            long = math.inf
            room = "a GPU" if devices else f"{needed} of {len(places)} cores"
            tell({"event": "wait", "needed": room})
        time.sleep(0.2)
    raise RunFailed("the study was ended")


def _inputs(project: Project, every: Iterable[dict[str, Any]]) -> set[Path]:
    """The files, beside code and data, that recipes name by their digest."""
    named = {}  # One recipe of many that name the same.
    for recipe in every:
        split, training = (recipe["parameters"][group] for group in ("split", "training"))
        named[split["file"], *(training[name] for name in recipes.BEGINNINGS)] = recipe
    found = set()
    for (split, *_), recipe in named.items():
        if split is not None:
            found.add(recipes.split_file(project, split))
        beginning = recipes.beginning(project, recipe)
        if beginning is not None:
            found |= {beginning[1] / "manifest.json", beginning[1] / "state.npz"}
    return found


def _archive(folder: Path, paths: Iterable[Path]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for path in sorted(paths):
            if path.is_file():
                archive.write(path, path.relative_to(folder))
    return content.getvalue()


def _unpack(archive: bytes, folder: Path) -> None:
    """The folder gets its name when all of it is there."""
    part = folder.with_name(folder.name + ".part")
    for old in (part, folder):  # Of a study that was killed as it took the run over.
        shutil.rmtree(old, ignore_errors=True)
    with zipfile.ZipFile(io.BytesIO(archive)) as file:
        file.extractall(part)  # Names that lead out of the folder are made harmless by it.
    part.rename(folder)


def _add(archive: bytes, root: Path) -> None:
    """Adds the files that are not there yet."""
    with _adding, zipfile.ZipFile(io.BytesIO(archive)) as file:
        for name in file.namelist():
            if not (root / name).exists():
                file.extract(name, root)

"""Runs the trials of a study on the workers of a Dask cluster, on this machine or on others.

Only a study with `--scheduler` imports this module and Dask. A worker may have another copy of the
project. It uses this copy if code and lock are the same, and sends the run back. However many
workers a machine has, it runs at most cores ÷ threads trainings at once, or one on each GPU.
"""

from __future__ import annotations

import contextlib
import io
import secrets
import shutil
import socket
import subprocess
import threading
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError
from dataclasses import replace
from pathlib import Path
from typing import Any

from distributed import Client, KilledWorker, as_completed, get_worker
from distributed.security import Security

from repro.basics.errors import BadInput, RunFailed
from repro.environment import provenance
from repro.recipe import packages
from repro.recipe.project import Project
from repro.recipe.recipe import Recipe
from repro.run import events, recipes
from repro.run.events import Failed, Progress, Refused, Step, Wait
from repro.run.launcher import Listener
from repro.study import slots, trials
from repro.study.keys import Cluster
from repro.study.trials import Outcome, Task

WAIT_FOR_WORKERS = 30
"""A scheduler that has no workers after so many seconds is given up."""

# In a worker: the processes that it has started, by session, and the sessions that were ended. A
# session is one use of `Workers` by a study.
_running: dict[str, set[subprocess.Popen[str]]] = {}
_stopped: set[str] = set()
_adding = threading.Lock()


class Workers:
    """The workers of a cluster, for a `with` block.

    Args:
        cluster: the address of a running Dask scheduler, and the keys to it.

    Raises:
        BadInput: the scheduler cannot be reached, refuses the keys, or has no workers.
    """

    def __init__(self, cluster: Cluster, listener: Listener) -> None:
        self._stack = contextlib.ExitStack()
        self._listener = listener
        self._session = f"repro-{secrets.token_hex(8)}"  # Dask's topic for the events, too.
        address = cluster.address
        try:
            self._client = self._stack.enter_context(
                Client(address, timeout="10s", security=_security(cluster))  # type: ignore[no-untyped-call]
            )
            self._client.wait_for_workers(1, timeout=WAIT_FOR_WORKERS)
        except TimeoutError:
            self._stack.close()
            raise BadInput(
                f"--scheduler: {address} has no workers; start some: dask worker {address}"
            ) from None
        except (OSError, ValueError) as error:
            self._stack.close()
            raise BadInput(f"--scheduler: {address}: {' '.join(str(error).split())}") from None

    def __enter__(self) -> Workers:
        self._client.subscribe_topic(self._session, self._heard)
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def run(
        self,
        project: Project,
        every: Sequence[Recipe],
        tasks: Sequence[Task],
        further: Callable[[], Task | None] = lambda: None,
    ) -> Iterator[Outcome]:
        """Yields the outcome of each task as soon as it is over; its run is then in `runs/`.

        If the caller stops before the end, the trainings that still run are ended.

        Args:
            every: all recipes that tasks may have; each worker gets the files that they name.
            further: is asked for one more task while a worker has nothing to do.

        Raises:
            RunFailed: the connection to the scheduler was lost, or a run cannot be kept here.
        """
        files = _archive(project.root, _inputs(project, every))
        # All workers get the files, since the one that has them might be killed.
        sent = self._client.scatter(files, broadcast=True, hash=False)

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
                outcome = _outcome(future, task)
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
        """Whether there are more workers than tasks, or no tasks at all."""
        if not tasks:
            return True
        with contextlib.suppress(CancelledError, OSError):  # The next task raises the error.
            threads: dict[str, int] = self._client.nthreads()
            return tasks < sum(threads.values())
        return False

    def _heard(self, message: tuple[float, tuple[str, str]]) -> None:
        run, line = message[1]
        event = events.read(line)
        if not isinstance(event, Refused | Failed):
            self._listener(Path(run), event)


def _outcome(future: Any, task: Task) -> Outcome:
    """Returns the outcome of a task from Dask's future.

    An error on the worker is the failure of its trial.

    Raises:
        RunFailed: the connection to the scheduler was lost.
    """
    try:
        outcome: Outcome = future.result()
    except KilledWorker:
        return Outcome(task, failed="each worker that tried it was killed")
    except (CancelledError, OSError) as error:
        if future.status == "error":
            return Outcome(task, failed=trials.told(error))
        raise RunFailed(
            f"the connection to the scheduler was lost: {error}; the same study started again "
            "goes on"
        ) from None
    return outcome


def _security(cluster: Cluster) -> Security | None:
    """Returns the settings with which Dask uses only TLS; None if the cluster has no keys."""
    if cluster.keys is None:
        return None
    return Security(  # type: ignore[no-untyped-call]
        require_encryption=True,
        tls_ca_file=str(cluster.keys.certificate),
        tls_client_cert=str(cluster.keys.certificate),
        tls_client_key=str(cluster.keys.key),
    )


def work(task: Task, files: bytes, session: str) -> Outcome:
    """Runs a task in a worker, or goes on with a run that a killed worker has left."""
    worker = get_worker()
    host = f"{socket.gethostname()} {worker.address}"
    last = 0.0

    def tell(run: Path, event: Progress) -> None:
        nonlocal last
        if not isinstance(event, Step) or time.monotonic() - last > 0.5:
            last = time.monotonic()
            worker.log_event(session, (str(run), events.line(event)))

    archive = b""

    def train() -> None:
        nonlocal archive
        mine = Project.find(Path(__file__))
        # If this machine sees the caller's folder, the run is made there.
        root = Path(task.root)
        shared = (root / "studies" / task.study).is_dir()
        project = Project.find(root) if shared else mine
        if provenance.digest(provenance.code(mine.root)) != task.code:
            raise BadInput(f"worker {host}: {mine.root} has other code; update it")
        if packages.lock(project.root) != task.recipe.lock:
            raise BadInput(f"worker {host}: {mine.root} has other packages; install the lock")
        if not shared:
            _add(files, project.root)
        run = _train(project, task, session, tell)
        if not shared:
            archive = _archive(run, run.rglob("*"))
            shutil.rmtree(run)

    outcome = trials.attempt(task, host, train)
    return replace(outcome, archive=archive or None)


def stop(session: str) -> None:
    """Ends, in a worker, the trainings of a session, and lets no other training of it begin."""
    _stopped.add(session)
    for process in list(_running.get(session, ())):
        process.terminate()


def _train(project: Project, task: Task, session: str, tell: Listener) -> Path:
    """Waits for room on this machine and trains; see `trials.train`."""
    processes = _running.setdefault(session, set())

    def ended() -> bool:
        return session in _stopped

    def wait(event: Wait) -> None:
        tell(project.runs / task.name, event)

    def started(process: subprocess.Popen[str]) -> None:
        processes.add(process)
        if ended():  # It was started while the others were being ended.
            process.terminate()

    try:
        with slots.held(task.recipe.parameters, ended, wait) as gpu:
            return trials.train(project, task, tell, gpu, started, ended)
    finally:
        processes -= {one for one in list(processes) if one.poll() is not None}


def _inputs(project: Project, every: Iterable[Recipe]) -> set[Path]:
    """Returns the files, beside code and data, that recipes name by their digests."""
    named = {}  # By what recipes name: one of the recipes that name it.
    for recipe in every:
        split, training = recipe.parameters.split, recipe.parameters.training
        begun = (getattr(training, name) for name in recipes.BEGINNINGS)
        named[split.file, *begun] = recipe
    found = set()
    for (file, *_), recipe in named.items():
        if file is not None:
            found.add(project.split_file(file))
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
    """Unpacks a run into a folder, which gets its name only when all files are there.

    Raises:
        RunFailed: the folder cannot be written.
    """
    part = folder.with_name(folder.name + ".part")
    try:
        for old in (part, folder):  # A study that was killed here may have left them.
            shutil.rmtree(old, ignore_errors=True)
        with zipfile.ZipFile(io.BytesIO(archive)) as file:
            file.extractall(part)  # It makes names harmless that would lead out of the folder.
        part.rename(folder)
    except OSError as error:
        shutil.rmtree(part, ignore_errors=True)
        raise RunFailed(
            f"{folder}: cannot be kept: {error.strerror}; the same study started again goes on"
        ) from None


def _add(archive: bytes, root: Path) -> None:
    """Unpacks those files of an archive that are not there yet."""
    with _adding, zipfile.ZipFile(io.BytesIO(archive)) as file:
        for name in file.namelist():
            if not (root / name).exists():
                file.extract(name, root)

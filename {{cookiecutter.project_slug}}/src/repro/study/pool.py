"""Runs the trials of a study on this machine: threads of the command start training processes.

There is no port, no server and no process beside the trainings, so nobody else on the machine can
reach a study. For a cluster there is `workers.py`.
"""

from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from repro.recipe.project import Project
from repro.recipe.recipe import Recipe
from repro.run.events import Wait
from repro.run.launcher import Listener
from repro.study import slots, trials
from repro.study.trials import Outcome, Task


class Pool:
    """Threads that run tasks, for a `with` block.

    At the end of the block, even after an error or Ctrl-C, it ends the trainings that still run,
    and waits for them. They can go on later.

    Args:
        number: the most trainings side by side. `slots` may allow fewer on this machine.
    """

    def __init__(self, number: int, listener: Listener) -> None:
        self._number, self._listener = number, listener
        self._executor = ThreadPoolExecutor(number, thread_name_prefix="trial")
        self._running: set[subprocess.Popen[str]] = set()
        self._lock = threading.Lock()  # Held while the set is changed or read.
        self._stopped = threading.Event()

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *error: object) -> None:
        self._stopped.set()
        with self._lock:
            for process in self._running:
                process.terminate()
        self._executor.shutdown(wait=True, cancel_futures=True)

    def run(
        self,
        project: Project,
        every: Sequence[Recipe],
        tasks: Sequence[Task],
        further: Callable[[], Task | None] = lambda: None,
    ) -> Iterator[Outcome]:
        """Yields the outcome of each task as soon as it is over; its run is then in `runs/`.

        Args:
            every: all recipes that tasks may have; not needed here, since their files are here.
            further: is asked for one more task while a thread has nothing to do.
        """

        def submit(task: Task) -> Future[Outcome]:
            return self._executor.submit(self._work, project, task)

        waiting = {submit(task) for task in tasks}
        while True:
            while len(waiting) < self._number and (more := further()):
                waiting.add(submit(more))
            if not waiting:
                return
            over, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in over:
                yield future.result()

    def _work(self, project: Project, task: Task) -> Outcome:
        """Runs a task in a thread, or goes on with a run that a killed study has left."""

        def tell(event: Wait) -> None:
            self._listener(project.runs / task.name, event)

        def train() -> None:
            with slots.held(task.recipe.parameters, self._stopped.is_set, tell) as gpu:
                trials.train(
                    project, task, self._listener, gpu, self._started, self._stopped.is_set
                )

        return trials.attempt(task, socket.gethostname(), train)

    def _started(self, process: subprocess.Popen[str]) -> None:
        with self._lock:
            self._running = {one for one in self._running if one.poll() is None} | {process}
        if self._stopped.is_set():  # It was started while the others were being ended.
            process.terminate()

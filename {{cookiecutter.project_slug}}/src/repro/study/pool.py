"""The trials of a study on this machine: threads of the command that start training processes.

There is no port, no server and no process beside the trainings, so nobody else on the machine can
reach a study. `workers.py` is what a cluster takes.
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
    """Threads to give tasks to, used in a `with` block.

    At its end, also by an error or Ctrl-C, the trainings that still run are ended and
    waited for; they can go on later.

    Args:
        number: of trainings side by side at most. How many the machine has room for is a matter of
            `slots`, whatever the number is.
    """

    def __init__(self, number: int, listener: Listener) -> None:
        self._number, self._listener = number, listener
        self._executor = ThreadPoolExecutor(number, thread_name_prefix="trial")
        self._running: set[subprocess.Popen[str]] = set()
        self._lock = threading.Lock()  # Held while the set is changed or gone through.
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
        """Yields the outcome of each task, as they come; the runs are then in `runs/`.

        Args:
            every: the recipes that tasks may have. All that they name is here already.
            further: asked for a task more, while threads have nothing to do.
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
        """In a thread: runs a task, or goes on with it where another study was killed."""

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
        if self._stopped.is_set():  # It was started while all others were ended.
            process.terminate()

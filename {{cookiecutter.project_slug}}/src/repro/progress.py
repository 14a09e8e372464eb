"""How far each run is: bars on a terminal, a line for each epoch in a log; always on stderr."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)


class Reporter:
    """A `launcher.Listener` for any number of runs at once, used in a `with` block."""

    def __init__(self) -> None:
        self._bars: Progress | None = None
        self._tasks: dict[Path, TaskID] = {}
        self._lock = threading.Lock()
        if sys.stderr.isatty():
            self._bars = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("steps  {task.fields[loss]}"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )

    def __enter__(self) -> Reporter:
        if self._bars:
            self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bars:
            self._bars.stop()

    def __call__(self, run: Path, event: dict[str, Any]) -> None:
        with self._lock:
            if event["event"] == "start" and event["broken"]:
                self._line(f"{run.name}: the guarantee does NOT hold: " + "; ".join(event["broken"]))
            elif event["event"] == "step" and self._bars:
                self._advance(run, event)
            elif event["event"] == "epoch" and not self._bars:
                results = "  ".join(f"{k} {v:.4f}" for k, v in event["results"].items())
                self._line(f"{run.name}  epoch {event['epoch']}/{event['epochs']}  {results}")

    def _line(self, text: str) -> None:
        if self._bars:
            self._bars.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=sys.stderr, flush=True)

    def _advance(self, run: Path, event: dict[str, Any]) -> None:
        assert self._bars is not None
        if run not in self._tasks:
            total = event["steps"] * event["epochs"]
            self._tasks[run] = self._bars.add_task("", total=total, loss="")
        loss = "" if event["loss"] is None else f"loss {event['loss']:.4f}"
        self._bars.update(
            self._tasks[run],
            completed=(event["epoch"] - 1) * event["steps"] + event["step"],
            description=f"{run.name}  epoch {event['epoch']}/{event['epochs']}",
            loss=loss,
        )

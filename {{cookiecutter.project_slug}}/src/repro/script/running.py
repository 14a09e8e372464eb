"""Runs a script once: a copy of its folder, a fresh process in surroundings, what it has left."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from repro.basics.errors import BadInput
from repro.environment import surroundings
from repro.run import failure
from repro.script import folder, process, settings
from repro.script.asked import OWN, Script
from repro.script.start import LOG, PRINTED, Seen, Start

FILES = "files"
"""The folder of a run that holds what the script has written into its folder."""
ENDING = 3.0
"""Seconds between asking a process to end and ending it."""


@dataclass(frozen=True)
class Ran:
    """What a finished run has left."""

    directory: Path
    seen: Seen
    written: Sequence[str]
    """The files that the script has written, relative to its folder; they lie in `FILES`."""
    work: Path
    """Where the folder's copy was, which the script may have printed."""
    seconds: float


class Stopped(Exception):
    """The run was ended because all was seen that was to be seen."""


def run(
    script: Script,
    directory: Path,
    varied: Sequence[str] = (),
    index: int = 0,
    stop: Callable[[Path], bool] = lambda run: False,
    clock: int | None = None,
    watched: bool = True,
) -> Ran:
    """Runs a script to its end.

    Args:
        directory: a new directory for what the run leaves.
        varied: the variations of its surroundings.
        index: the number of the run, which decides how each of them is varied.
        stop: asked again and again whether the run may be ended.
        clock: the date at which the process's clock stands still, in seconds since 1970.

    Raises:
        RunFailed: the script has failed; the message has the end of its log.
        Stopped: `stop` has said so.
        BadInput: the folder cannot be copied.
    """
    # Without the variation, each run is in a place of the same name.
    place = f"elsewhere-{index}" if "path" in varied else "work"
    work = directory.parent / place
    begun = time.monotonic()
    try:
        copy = folder.copy(script, work)
        start = _start(script, copy, varied, index)
        replace(start, clock=clock, watched=watched).write(directory)
        status = _process(script, directory, copy, varied, index, stop)
        if status:
            raise failure.of(directory, status, "script")
        written = copy.written()
        _keep(copy, written, directory / FILES)
    except OSError as error:
        told = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        raise BadInput(f"{script.folder}: a copy for the run cannot be made: {told}") from None
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return Ran(directory, Seen.read(directory), written, work, time.monotonic() - begun)


def _start(script: Script, copy: folder.Copy, varied: Sequence[str], index: int) -> Start:
    inside = script.file.is_relative_to(script.folder)
    file = copy.root / script.file.relative_to(script.folder) if inside else script.file
    environment = Path(script.python).parent.parent
    return Start(
        script=str(file if file.is_file() else script.file),
        arguments=script.arguments,
        seed=script.seed,
        threads=script.threads,
        every=script.every,
        varied=[name for name in varied if name != "path"],
        index=index,
        guarded=[str(script.folder), *map(str, copy.linked)],
        allowed=[str(copy.root.resolve()), str(environment)],
    )


def variables(script: Script) -> dict[str, str]:
    """The variables of the script's process, without variations."""
    return settings.variables(script.threads if script.fixed else None)


def _process(
    script: Script,
    directory: Path,
    copy: folder.Copy,
    varied: Sequence[str],
    index: int,
    stop: Callable[[Path], bool],
) -> int:
    """Runs the process to its end, with all that it has started; returns its status."""
    others = [name for name in varied if name != "path"]
    here = copy.root / script.here
    here.mkdir(parents=True, exist_ok=True)
    posix = os.name != "nt"
    with (
        surroundings.Around(here, others, index) as around,
        (directory / PRINTED).open("wb") as printed,
        (directory / LOG).open("wb") as log,
    ):
        command = (*around.command, script.python, "-P", process.__file__, str(directory))
        child = subprocess.Popen(
            command,
            cwd=here,
            env=around.variables(variables(script)),
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=log,
            start_new_session=posix,
        )
        try:
            while True:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    return child.wait(timeout=0.1)
                if stop(directory):
                    raise Stopped
        finally:
            _end(child, posix)


def _end(child: subprocess.Popen[bytes], posix: bool) -> None:
    """Ends a process, and those that it has left running."""
    if child.poll() is None:
        child.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(timeout=ENDING)
    if posix:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
    elif child.poll() is None:
        child.kill()
    child.wait()


def _keep(copy: folder.Copy, written: Sequence[str], to: Path) -> None:
    """Moves what the script has written to where it is kept."""
    for name in written:
        aim = to / name
        aim.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(copy.root / name, aim)


def new_session(script: Script) -> Path:
    """Makes a directory for the runs of one command, in a folder that git does not see.

    Raises:
        BadInput: the script's folder cannot hold one.
    """
    from datetime import UTC, datetime

    own = script.folder / OWN
    name = f"{datetime.now(UTC).strftime('%Y%m%d-%H%M%S')}-{script.file.stem}"
    try:
        own.mkdir(exist_ok=True)
        (own / ".gitignore").write_text("*\n", encoding="utf-8")
        number, session = 1, own / name
        while session.exists():
            number += 1
            session = own / f"{name}-{number}"
        session.mkdir()
    except OSError as error:
        raise BadInput(f"{own}: cannot hold the runs: {error.strerror}") from None
    return session

"""Limits how many trainings run on a machine at once, by a file for each core or GPU.

The files lie in a folder that only this user can enter. A training holds the files of its cores or
of its GPU locked. So all trainings on the machine are counted, whatever process, thread, worker or
study they belong to.
"""

from __future__ import annotations

import contextlib
import math
import os
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

from repro.basics import locks
from repro.basics.errors import BadInput, RunFailed
from repro.environment import machine
from repro.recipe.parameters import Parameters
from repro.run.events import Wait

LONG_WAIT = 10
"""After so many seconds, a training that waits for room says so."""


def room(parameters: Parameters) -> int:
    """Returns how many trainings with these parameters this machine can run at once."""
    cores = machine.available_cores() // parameters.threads
    return len(machine.gpus(parameters.guarantee)) or max(1, cores)


@contextlib.contextmanager
def held(
    parameters: Parameters,
    ended: Callable[[], bool],
    tell: Callable[[Wait], None],
) -> Iterator[str | None]:
    """Waits until this machine has room for a training, and holds the room while the block runs.

    Args:
        parameters: the parameters of the training.
        ended: is asked again and again whether to give up.
        tell: is called once with an event if the wait is long.

    Yields:
        The GPU to use, as `CUDA_VISIBLE_DEVICES` names it; None: the training uses no GPU.

    Raises:
        BadInput: the folder of the files belongs to somebody else, or others can enter it.
        RunFailed: `ended` has said to give up.
    """
    devices = machine.gpus(parameters.guarantee)
    cores = machine.available_cores()
    places = [f"gpu-{name}" for name in devices] or [f"core-{n}" for n in range(cores)]
    needed = 1 if devices else min(parameters.threads, len(places))
    long = time.monotonic() + LONG_WAIT
    with _folder() as opened:
        while not ended():
            with contextlib.ExitStack() as files:
                taken: list[str] = []
                for place in places:
                    if locks.lock(files.enter_context(opened(place))):
                        taken.append(place)
                    if len(taken) == needed:
                        yield devices[places.index(taken[0])] if devices else None
                        return
            if long < time.monotonic():
                long = math.inf
                what = "a GPU" if devices else f"{needed} of {len(places)} cores"
                tell(Wait(what))
            time.sleep(0.2)
    raise RunFailed("the study was ended")


@contextlib.contextmanager
def _folder() -> Iterator[Callable[[str], TextIO]]:
    """Opens this user's own folder, and yields a function that opens a file in it.

    Everybody can write into the temporary folder, so somebody else may have made a folder or a link
    of this name before. So no link is followed, and the owner and the mode are checked.

    Raises:
        BadInput: the folder is a link, belongs to another user, or is open to others.
    """
    if not hasattr(os, "getuid"):  # On Windows the temporary folder is the user's own.
        folder = Path(tempfile.gettempdir()) / "repro-slots"
        folder.mkdir(exist_ok=True)
        yield lambda name: (folder / name).open("a")
        return
    path = Path(tempfile.gettempdir()) / f"repro-slots-{os.getuid()}"
    private = f"{path}: expected a folder of your own that nobody else can enter"
    another = "remove it, or name another temporary folder in TMPDIR"
    with contextlib.ExitStack() as opened:
        try:
            with contextlib.suppress(FileExistsError):
                path.mkdir(mode=0o700)
            folder_fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            opened.callback(os.close, folder_fd)
            about = os.fstat(folder_fd)
        except OSError as error:
            raise BadInput(f"{private}: {error.strerror}; {another}") from None
        if about.st_uid != os.getuid():
            raise BadInput(f"{private}; it belongs to user {about.st_uid}; {another}")
        if stat.S_IMODE(about.st_mode) & 0o077:
            raise BadInput(f"{private}; its mode is {stat.S_IMODE(about.st_mode):o}; {another}")

        def open_in_it(name: str) -> TextIO:
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
            try:
                return os.fdopen(os.open(name, flags, 0o600, dir_fd=folder_fd), "r+")
            except OSError as error:
                raise BadInput(f"{path / name}: {error.strerror}; {another}") from None

        yield open_in_it

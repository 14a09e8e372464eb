"""One recipe into one fresh process; one run directory comes out.

Some settings work only when they are set before the interpreter starts, and a process that has
trained once is not fresh any more. So every training of this project starts here.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import math
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from . import BAD_INPUT, BadInput, RunFailed, datalock, determinism, image, surroundings
from . import recipe as recipes
from .recipe import Project

Listener = Callable[[Path, dict[str, Any]], None]
"""Called with the run directory and each event: `epoch`, `step`, …, as `run.py` sends them."""


ENDING = 3.0
"""Seconds for a process that was just killed to be gone: until then it holds its log locked."""


def environment(parameters: dict[str, Any], gpu: str | None = None) -> dict[str, str]:
    """The whole environment of a run's process: the caller's, with what decides results fixed.

    `portable` hides all GPUs, also the given one.
    """
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.upper().startswith(determinism.CLEARED)
    }
    seen = {} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu}
    fixed = determinism.environment(parameters)
    # The machinery and the project's package, found also where the project is not installed.
    return inherited | seen | fixed | {"PYTHONPATH": str(Path(__file__).parents[1])}


def train(
    project: Project,
    recipe: dict[str, Any],
    listener: Listener,
    varied: Sequence[str] = (),
    index: int = 0,
    on_start: Callable[[subprocess.Popen[str]], None] = lambda process: None,
    resume: Path | None = None,
    checkpoint_seconds: float = 60,
    overrides: Sequence[str] = (),
    probe: dict[str, Any] | None = None,
    name: str | None = None,
    gpu: str | None = None,
) -> Path:
    """Runs a recipe in a fresh process and returns the run directory.

    Args:
        varied: which of `surroundings.VARIATIONS` to change; `index` tells runs of a gate apart.
        on_start: called with the process, so that the caller can end it.
        resume: an interrupted run of this recipe, to go on with in its directory.
        overrides: what the recipe was made from beside `params.yaml`, to check it again later.
        probe: what to look at; see `loop.train`. The run is only for that.
        checkpoint_seconds: between two checkpoints, at most; 0: one after each chunk of steps.
        name: the run's, where it is a trial of a study and not found by its recipe.
        gpu: the one that the process may see, as `CUDA_VISIBLE_DEVICES` names it; None: all.

    Raises:
        BadInput: a data file is not what `data.lock` says, or what only the process can see is
            wrong (no data, say). Of a new run nothing is left behind; of one that went on nothing
            is lost.
        RunFailed: the run directory stays, with the log.
    """
    parameters = recipe["parameters"]
    interpreter = os.environ.get("REPRO_PYTHON") or sys.executable
    if shutil.which(interpreter) is None:
        raise BadInput(
            f"REPRO_PYTHON: {interpreter} cannot be run; "
            "name a Python, or a program that starts one"
        )
    image.current()  # A wrong one is refused before there is a run.
    datalock.check(project.root)
    directory = resume or _new_directory(project, recipe, name)
    content: dict[str, Any] = {
        "format": 1,
        "run": directory.name,
        "recipe": recipe,
        "project": {"package": project.package},
        "surroundings": {"varied": list(varied), "index": index},
        # Without a seed every run draws its own; written down, even such a run can be repeated.
        "seed": secrets.randbits(32) if parameters["seed"] is None else parameters["seed"],
        "overrides": list(overrides),
        "trial": name is not None,
        "started": _now(),
        "resumed": [],
    }
    if resume is not None:
        content = recipes.read_manifest(directory)
        content["resumed"].append(_now())
    around = surroundings.Around(project.root, **content["surroundings"])
    env = environment(parameters, gpu) | around.environment
    content |= {
        "status": "running",
        "checkpoint_seconds": checkpoint_seconds,
        "probe": probe,
        "code": recipes.code(project.root),
        "interpreter": interpreter,
        "environment": {
            name: value
            for name, value in env.items()
            if name.startswith(determinism.CLEARED) or name in determinism.environment(parameters)
        },
    }
    with around, (directory / "log.txt").open("a", encoding="utf-8") as log:
        if not lock(log, ENDING):
            raise BadInput(f"{directory}: this run is still going on, in another process")
        recipes.write_manifest(directory, content)
        process = subprocess.Popen(
            (*around.command, interpreter, "-P", "-m", "repro.run", str(directory)),
            cwd=around.root,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            encoding="utf-8",
        )
        on_start(process)
        refused = failed = None
        try:
            assert process.stdout is not None
            for line in process.stdout:
                event = json.loads(line)
                if event["event"] == "refused":
                    refused = event["message"]
                elif event["event"] == "failed":
                    failed = event["message"]
                else:
                    listener(directory, event)
        except BaseException:
            process.terminate()
            raise
        finally:
            status = process.wait()
    if status == BAD_INPUT and refused is not None:
        if resume is None:
            shutil.rmtree(directory)
        raise BadInput(refused)
    if status != 0:
        recipes.write_manifest(directory, recipes.read_manifest(directory) | {"status": "failed"})
        raise RunFailed(failed or _failure(directory, status))
    return directory


def interrupted(project: Project, recipe: dict[str, Any]) -> Path | None:
    """Returns the newest run of this recipe that was interrupted and can go on, or None.

    One that was killed before its first checkpoint is begun again, in its directory. One that
    failed then is not: what it left says why.
    """
    name = recipes.digest(recipe)[:6]
    for path in sorted(project.runs.glob(f"*-{name}*"), reverse=True):
        with contextlib.suppress(BadInput, OSError):
            content = recipes.read_manifest(path)
            ordinary = not content["surroundings"]["varied"] and content["probe"] is None
            if ordinary and not content["trial"] and can_go_on(path, content, recipe):
                return path
    return None


def can_go_on(run: Path, content: dict[str, Any], recipe: dict[str, Any]) -> bool:
    """Whether a run of this recipe was interrupted, and no process is at it."""
    begun = content["status"] == "running" or any(run.glob("checkpoints/*.json"))
    unfinished = begun and content["status"] != "finished" and content["recipe"] == recipe
    return unfinished and idle(run)


def idle(run: Path) -> bool:
    """Whether no process is at a run, which holds its log locked."""
    with (run / "log.txt").open("a") as log:
        return lock(log, ENDING)


def lock(file: TextIO, patience: float = 0) -> bool:
    """Locks a file until the last process that has it open ends.

    Returns False where another has it, and still has it after `patience` seconds.
    """
    try:
        import fcntl
    except ImportError:  # Windows lets nobody else write into an open log in the first place.
        return True
    last = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if time.monotonic() >= last:
                return False
            time.sleep(0.05)
        else:
            return True


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def available_cores() -> int:
    """Those this process may run on: affinity and a container's limit can make them fewer."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return max(1, math.ceil(min(cores, _quota())))


def _quota(groups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> float:
    """The share of processors that Linux's control group allows, such as 1.5; infinite: all."""
    with contextlib.suppress(OSError, ValueError):
        group = own.read_text().rpartition(":")[2].strip().lstrip("/")
        second = groups / group / "cpu.max"
        first = [groups / "cpu" / f"cpu.cfs_{name}_us" for name in ("quota", "period")]
        files = [second] if second.is_file() else first
        quota, period = " ".join(file.read_text() for file in files).split()
        if quota.isdigit() and int(period) > 0:
            return int(quota) / int(period)
    return math.inf


def gpus(guarantee: str) -> list[str]:
    """The NVIDIA GPUs that a run may use here, as `CUDA_VISIBLE_DEVICES` names them.

    `portable` uses none.
    """
    if guarantee == "portable":
        return []
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is not None:
        return [] if allowed.strip() in ("", "-1") else allowed.split(",")
    return [str(number) for number in range(_installed_gpus())]


@functools.cache  # A study asks for each of its trials.
def _installed_gpus() -> int:
    try:
        listed = subprocess.run(("nvidia-smi", "-L"), capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return 0 if listed.returncode else len(listed.stdout.splitlines())


def new_name(*words: str) -> str:
    """A name for a directory, which begins with the time."""
    return "-".join((datetime.now(UTC).strftime("%Y%m%d-%H%M%S"), *words))


def _new_directory(project: Project, recipe: dict[str, Any], name: str | None) -> Path:
    if name is None:
        chosen = (recipe["parameters"][group]["name"] for group in ("data", "model"))
        name = new_name(*chosen, recipes.digest(recipe)[:6])
    return new_directory(project.runs, name, "a run")


def new_directory(folder: Path, name: str, what: str) -> Path:
    """Makes a directory that was not there, with a number behind its name where that is taken."""
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


def _failure(directory: Path, status: int) -> str:
    log = directory / "log.txt"
    lines = log.read_text(encoding="utf-8", errors="replace").rstrip().splitlines()
    how = f"ended by signal {-status}" if status < 0 else f"failed with status {status}"
    return f"the training {how}; its log, {log}, ends so:\n" + "\n".join(lines[-15:])

"""Runs tests in a process forked for each question, from one that has TensorFlow imported.

It runs with the Python of a project, and imports nothing of the project itself: each process that
it forks imports `repro` from the disk, as it stands there at that moment. A question is a line of
JSON on standard input: the seconds that the tests may take, and their files. The answer is a line
with the exit status of the process, a negative number for a signal, and the seconds it took.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import resource
import signal
import sys
import time

# What the tests import takes longer than they do. Nothing is computed here: a process in which
# TensorFlow has computed has threads, which a process that is forked from it would wait for.
BEFORE = (
    *("keras", "tensorflow", "pytest", "sklearn.model_selection", "ruamel.yaml"),
    *("pydantic.main", "pydantic.fields", "pydantic.functional_validators", "pydantic.json_schema"),
)

WITHOUT = ("cacheprovider", "unraisableexception", "threadexception")
"""Of pytest's own plugins. They look for garbage again and again, among all of TensorFlow."""

MEMORY = 8 * 1024**3
"""Bytes that the tests may ask for, far more than they need."""


def answer(seconds: float, files: list[str]) -> str:
    """Forks a process that runs the tests until one fails; returns its status and its CPU time.

    It is ended where it takes more than these seconds of a core, or ten times as long by the clock.
    """
    child = os.fork()
    if child == 0:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_CPU, (round(seconds), round(seconds)))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))  # A mutant may never end.
        quiet = os.open(os.devnull, os.O_RDWR)
        for stream in range(3):
            os.dup2(quiet, stream)
        status = 70
        try:
            without = [f"-pno:{plugin}" for plugin in WITHOUT]
            status = int(importlib.import_module("pytest").main(["-qx", *without, *files]))
        finally:
            os._exit(status)
    end = time.monotonic() + 10 * seconds
    while True:
        done, status, used = os.wait4(child, os.WNOHANG)
        if done:
            return f"{os.waitstatus_to_exitcode(status)} {used.ru_utime + used.ru_stime:.1f}"
        if time.monotonic() > end:
            os.killpg(child, signal.SIGKILL)
        time.sleep(0.02)


if __name__ == "__main__":
    for name in BEFORE:
        importlib.import_module(name)
    gc.freeze()
    print("ready", flush=True)
    for line in sys.stdin:
        print(answer(*json.loads(line)), flush=True)

"""Runs tests in a process forked for each question, from one that has TensorFlow imported.

It runs with the Python of a project, and imports nothing of the project itself: each process that
it forks imports `repro` from the disk, as it stands there at that moment. A question is a line of
JSON on standard input: the seconds that the tests may take, and their files. The answer is a line
with the exit status of pytest, or `timeout`.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
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


def answer(seconds: float, files: list[str]) -> str:
    """Forks a process that runs the tests until one fails, and waits for it."""
    child = os.fork()
    if child == 0:
        os.setsid()
        quiet = os.open(os.devnull, os.O_RDWR)
        for stream in range(3):
            os.dup2(quiet, stream)
        status = 70
        try:
            without = [f"-pno:{plugin}" for plugin in WITHOUT]
            status = int(importlib.import_module("pytest").main(["-qx", *without, *files]))
        finally:
            os._exit(status)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return str(os.waitstatus_to_exitcode(status))
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "timeout"


if __name__ == "__main__":
    for name in BEFORE:
        importlib.import_module(name)
    gc.freeze()
    print("ready", flush=True)
    for line in sys.stdin:
        print(answer(*json.loads(line)), flush=True)

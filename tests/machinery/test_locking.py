"""Locks where a file system, or the system, has others than Linux: quick."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TextIO

import pytest

from repro.basics import locks

fcntl = pytest.importorskip("fcntl", reason="what is imitated here is imitated on POSIX")


@pytest.fixture
def file(tmp_path: Path) -> Iterator[TextIO]:
    with (tmp_path / "lock").open("a") as opened:
        yield opened


def without(monkeypatch: pytest.MonkeyPatch, number: int, *functions: str) -> None:
    """A file system that answers so to each of these functions."""

    def refuse(*arguments: Any) -> None:
        raise OSError(number, os.strerror(number))

    for name in functions:
        monkeypatch.setattr(fcntl, name, refuse)
    monkeypatch.setattr(locks, "_held", {})
    monkeypatch.setattr(locks, "_told", set())


def elsewhere(path: Path) -> str:
    """What another process is told that asks for the lock, by what is not `flock`."""
    code = (
        "import fcntl, sys\nfile = open(sys.argv[1], 'a')\n"
        "try: fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
        "except OSError: print('taken')\nelse: print('free')"
    )
    return subprocess.check_output((sys.executable, "-c", code, str(path)), text=True).strip()


NUMBERS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)


@pytest.mark.parametrize("number", NUMBERS)
def test_a_file_system_without_flock_has_another_lock(
    file: TextIO, number: int, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    without(monkeypatch, number, "flock")
    path = Path(file.name)
    assert locks.lock(file)
    assert elsewhere(path) == "taken"
    with path.open("a") as again:  # In the same process, whose locks do not exclude each other.
        assert not locks.lock(again)
    file.close()
    assert elsewhere(path) == "free"
    with path.open("a") as again:
        assert locks.lock(again)
    assert capsys.readouterr().err == ""


def test_a_lock_that_another_process_has_is_not_had_without_flock(
    file: TextIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    without(monkeypatch, errno.ENOSYS, "flock")
    code = (
        "import fcntl, sys\nfile = open(sys.argv[1], 'a')\n"
        "fcntl.lockf(file, fcntl.LOCK_EX)\nprint(flush=True)\nsys.stdin.read()"
    )
    command = (sys.executable, "-c", code, file.name)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        assert not locks.lock(file)
        other.communicate()
    assert locks.lock(file)


def test_without_any_lock_it_is_said_once_and_nobody_is_refused_for_ever(
    file: TextIO, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    without(monkeypatch, errno.ENOSYS, "flock", "lockf")
    path = Path(file.name)
    assert locks.lock(file)
    told = capsys.readouterr().err
    assert told.startswith(f"repro: {path.parent}: this file system has no locks")
    assert told.count("\n") == 1
    file.close()
    with path.open("a") as again:
        assert locks.lock(again)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("functions", [("flock",), ("flock", "lockf")])
def test_a_training_that_outlived_its_launcher_is_seen_by_its_number(
    file: TextIO, functions: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    without(monkeypatch, errno.ENOSYS, *functions)
    code = "import sys; print(flush=True); sys.stdin.read()"
    command = (sys.executable, "-c", code, "repro.run")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as training:
        assert training.stdout is not None
        training.stdout.readline()
        Path(file.name).write_text(f"{training.pid}\n", encoding="utf-8")
        assert not locks.lock(file)
        training.communicate()
    assert locks.lock(file)


def test_an_error_of_another_kind_is_not_a_lock_that_is_taken(
    file: TextIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    without(monkeypatch, errno.EIO, "flock")
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        locks.lock(file)


def test_windows_locks_a_byte_far_from_what_others_read(
    file: TextIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: set[int] = set()

    def locking(descriptor: int, mode: int, count: int) -> None:
        place = os.lseek(descriptor, 0, os.SEEK_CUR)
        if place in taken:
            raise OSError(errno.EACCES, "Permission denied")
        taken.update(range(place, place + count))

    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.setitem(sys.modules, "msvcrt", SimpleNamespace(locking=locking, LK_NBLCK=2))
    assert locks.lock(file)
    assert min(taken) > 10**6
    with Path(file.name).open("a") as again:
        assert not locks.lock(again)
        again.write("what is written stands at the end")
    assert Path(file.name).read_text(encoding="utf-8").startswith("what is written")

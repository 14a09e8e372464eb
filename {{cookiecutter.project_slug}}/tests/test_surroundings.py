"""Variations: each changes what it says, and the ones needed are found. Takes no training."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from repro import BadInput, gate, launcher, surroundings
from repro.recipe import Project

PROJECT = Project.find(Path(__file__).parent)

SEEN = """
import datetime, getpass, glob, json, locale, logging, os, pathlib, platform, socket, sys, tempfile
import time
from repro import surroundings

index, varied = int(sys.argv[1]), sys.argv[2:]
surroundings.enter(varied, index)

mask = os.umask(0)
os.umask(mask)
folder = pathlib.Path(os.environ["FOLDER"])
with os.scandir(folder) as entries:
    scanned = [entry.name for entry in entries]
now = datetime.datetime.now
dates = [now(), now(datetime.UTC), now().today(), datetime.date.today()]
times = [time.gmtime(), time.localtime(), time.gmtime(time.time()), time.localtime(None)]
personality = pathlib.Path("/proc/self/personality")
print(json.dumps({
    "hash-seed": [list({"a", "b", "c", "d", "e", "f", "g", "h"})],
    "directory-order": [
        os.listdir(folder), scanned, next(os.walk(folder))[2],
        [path.name for path in folder.iterdir()], [path.name for path in folder.glob("*")],
        [os.path.basename(path) for path in glob.glob(str(folder / "*"))],
    ],
    "clock": [
        *(date.year for date in dates), *(moment.tm_year for moment in times),
        time.time() // 3e7, time.time_ns() // 3e16, time.clock_gettime(time.CLOCK_REALTIME) // 3e7,
        time.strftime("%Y"), time.ctime()[-4:], time.asctime()[-4:],
        logging.Formatter().formatTime(logging.makeLogRecord({}))[:4],
    ],
    "path": [os.getcwd(), surroundings.__file__],
    "home": [os.path.expanduser("~"), str(pathlib.Path.home())],
    "temporary-folder": [tempfile.gettempdir(), os.environ.get("TMPDIR")],
    "user": [getpass.getuser(), os.environ.get("USER")],
    "host": [socket.gethostname(), platform.node(), os.environ.get("HOSTNAME")],
    "locale": [os.environ.get("LC_ALL"), locale.setlocale(locale.LC_ALL, "")],
    "time-zone": [time.timezone, time.tzname],
    "umask": [mask],
    "environment": [os.environ.get(name) for name in ("REPRO_NOISE_1", "COLUMNS", "TERM", "PATH")],
    "address-space": [personality.read_text() if personality.exists() else ""],
    "cores": [len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0,
              os.cpu_count()],
    "caches": [sys.pycache_prefix],
}))
"""


def look(folder: Path, *varied: str, index: int = 1) -> dict[str, list[Any]]:
    for name in "abcdefgh":
        (folder / name).touch()
    with surroundings.Around(PROJECT.root, varied, index) as around:
        plain = {"PYTHONHASHSEED": "0", "PYTHONPATH": str(PROJECT.root / "src")}
        done = subprocess.run(
            [*around.command, sys.executable, "-P", "-c", SEEN, str(index), *varied],
            capture_output=True,
            text=True,
            cwd=around.root,
            env={**os.environ, **plain, "FOLDER": str(folder), **around.environment},
        )
    assert done.returncode == 0, done.stderr
    found: dict[str, list[Any]] = json.loads(done.stdout)
    assert set(found) == set(surroundings.VARIATIONS)
    return found


@pytest.mark.skipif(os.name == "nt", reason="asks for what Windows has not")
@pytest.mark.parametrize("name", surroundings.VARIATIONS)
def test_a_variation_changes_what_it_says_and_nothing_else(name: str, tmp_path: Path) -> None:
    if reason := surroundings.VARIATIONS[name].impossible():
        pytest.skip(reason)
    ordinary, varied = look(tmp_path), look(tmp_path, name)
    for one, other in zip(ordinary[name], varied[name], strict=True):
        assert one != other
        if name == "directory-order":
            assert one == other[::-1]
    changed = [other for other in ordinary if ordinary[other] != varied[other]]
    assert changed == [name]


@pytest.mark.skipif(os.name == "nt", reason="asks for what Windows has not")
def test_all_variations_go_together_and_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "temporary"
    here.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(here))
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    names, _ = surroundings.choose("all")
    ordinary, varied = look(tmp_path), look(tmp_path, *names)
    assert [name for name in ordinary if ordinary[name] != varied[name]] == names
    assert list(here.iterdir()) == []
    assert look(tmp_path, *names, index=2)["user"] != varied["user"]


def test_variations_are_chosen_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    everything = list(surroundings.VARIATIONS)
    varied, others = surroundings.choose(None)
    assert "caches" not in varied and "--vary all" in others["caches"]
    assert sorted([*varied, *others]) == sorted(everything)
    assert surroundings.choose("none")[0] == []
    assert surroundings.choose("umask, clock") == (
        ["clock", "umask"],
        {name: "not asked for" for name in everything if name not in ("clock", "umask")},
    )
    for wrong, told in {
        "clocks": "clocks: no such variation; nearest valid name: clock",
        "clock,timezone": "timezone: no such variation; nearest valid name: time-zone",
        "clock,": "no such variation; expected hash-seed, ",
        "all,clock": "all: no such variation",
    }.items():
        with pytest.raises(BadInput) as refusal:
            surroundings.choose(wrong)
        assert told in str(refusal.value)
        assert "\n" not in str(refusal.value)
    # What cannot be done is told, and refused where it is asked for by name.
    host = dataclasses.replace(surroundings.VARIATIONS["host"], impossible=lambda: "no")
    monkeypatch.setitem(surroundings.VARIATIONS, "host", host)
    varied, others = surroundings.choose("all")
    assert "host" not in varied and others["host"] == "not possible here: no"
    with pytest.raises(BadInput):
        surroundings.choose("host")


NAMES = [str(number) for number in range(14)]


@pytest.mark.parametrize("needed", [*([name] for name in NAMES), ["3", "4"], ["0", "7", "13"]])
def test_the_variations_needed_are_found(needed: list[str]) -> None:
    tried: list[list[str]] = []

    def differs(names: list[str]) -> bool:
        tried.append(names)
        return set(needed) <= set(names)

    assert gate.minimal(NAMES, differs) == needed
    # A list that changed after it was tried would stand for another answer.
    assert not any(one is other for one, other in itertools.combinations(tried, 2))
    assert len(tried) <= 6 * len(needed)


def test_one_of_several_causes_is_found() -> None:
    assert gate.minimal(NAMES, lambda names: bool({"5", "9"} & set(names))) == ["5"]


def test_a_difference_that_does_not_show_again_has_no_variation() -> None:
    assert gate.minimal(NAMES, lambda names: False) == []
    once = iter([True, True])
    assert gate.minimal(NAMES, lambda names: next(once, False)) == []


@pytest.mark.parametrize(
    ("gpus", "guarantee", "at_once"),
    [("", "machine", 2), ("0", "machine", 1), ("0", "portable", 2)],
)
def test_runs_do_not_share_a_gpu(
    gpus: str,
    guarantee: str,
    at_once: int,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    running: list[int] = []
    most: list[int] = []

    def train(*arguments: object, **options: object) -> Path:
        running.append(1)
        most.append(len(running))
        time.sleep(0.1)
        running.pop()
        return tmp_path

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
    monkeypatch.setattr(launcher, "available_cores", lambda: 4)
    monkeypatch.setattr(launcher, "train", train)
    recipe = {"parameters": {"threads": 2, "guarantee": guarantee}}
    outcomes = gate.train_all(Project(tmp_path, "any"), recipe, 4, lambda run, event: None)
    assert outcomes == [tmp_path] * 4 and max(most) == at_once

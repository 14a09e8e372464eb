"""Variations: each changes what it says, and the ones needed are found. Takes no training."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from typing import Any

import examples
import pytest

from repro.basics.errors import BadInput, RunEnded, RunFailed
from repro.compare import gate
from repro.environment import changes, machine, surroundings
from repro.recipe.project import Project
from repro.run import launcher
from repro.run.launcher import Launch

PROJECT = Project.find()

SEEN = """
import datetime, getpass, glob, json, locale, logging, os, pathlib, platform, socket, sys, tempfile
import time
from repro.environment import surroundings

index, varied = int(sys.argv[1]), sys.argv[2:]
surroundings.enter(varied, index)

mask = os.umask(0)
os.umask(mask)
folder = pathlib.Path(os.environ["REPRO_FOLDER"])
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
    "environment": [
        os.environ.get(name) for name in ("REPRO_NOISE_1", "COLUMNS", "TERM", "PATH", "AUGMENT")
    ],
    "address-space": [personality.read_text() if personality.exists() else ""],
    "cores": [len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0,
              os.cpu_count(), os.sysconf("SC_NPROCESSORS_ONLN"),
              os.sysconf(os.sysconf_names["SC_NPROCESSORS_CONF"])],
    "memory": [os.sysconf("SC_PHYS_PAGES"), os.sysconf(os.sysconf_names["SC_PHYS_PAGES"])],
    "caches": [sys.pycache_prefix],
}))
"""
UNSEEN = {"killed"}
"""What happens to a run, and is nothing that its code can look at."""


def look(folder: Path, *varied: str, index: int = 1) -> dict[str, list[Any]]:
    for name in "abcdefgh":
        (folder / name).touch()
    with surroundings.Around(PROJECT.root, varied, index) as around:
        plain = {"PYTHONHASHSEED": "0", "PYTHONPATH": str(PROJECT.root / "src")}
        plain |= {"REPRO_FOLDER": str(folder), "AUGMENT": "0.25"}
        done = subprocess.run(
            [*around.command, sys.executable, "-P", "-c", SEEN, str(index), *varied],
            capture_output=True,
            text=True,
            cwd=around.root,
            env=around.variables({**os.environ, **plain}),
        )
    assert done.returncode == 0, done.stderr
    found: dict[str, list[Any]] = json.loads(done.stdout)
    assert found.keys() == surroundings.VARIATIONS.keys() - UNSEEN
    return found


@pytest.mark.skipif(os.name == "nt", reason="asks for what Windows has not")
@pytest.mark.parametrize("name", surroundings.VARIATIONS)
def test_a_variation_changes_what_it_says_and_nothing_else(name: str, tmp_path: Path) -> None:
    if reason := surroundings.VARIATIONS[name].impossible():
        pytest.skip(reason)
    ordinary, varied = look(tmp_path), look(tmp_path, name)
    changed = [other for other in ordinary if ordinary[other] != varied[other]]
    assert changed == sorted({name} - UNSEEN)
    for one, other in zip(ordinary.get(name, []), varied.get(name, []), strict=True):
        assert one != other
        if name == "directory-order":
            assert one == other[::-1]


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
    seen = [name for name in names if name not in UNSEEN]
    assert [name for name in ordinary if ordinary[name] != varied[name]] == seen
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


@pytest.mark.parametrize(
    ("name", "stays"),
    [
        *((name, True) for name in ("PATH", "HOME", "TMPDIR", "LC_ALL", "LD_LIBRARY_PATH", "TZ")),
        *((name, True) for name in ("CUDA_VISIBLE_DEVICES", "VIRTUAL_ENV", "https_proxy")),
        *((name, True) for name in ("REPRO_DATA", "SSL_CERT_FILE", "SystemRoot", "HF_HOME")),
        # Fixed by the machinery, or cleared by it before.
        *((name, True) for name in ("PYTHONPATH", "TF_DETERMINISTIC_OPS", "OMP_NUM_THREADS")),
        *((name, False) for name in ("AUGMENT", "LEARNING_RATE", "DEBUG", "PWD", "SLURM_NTASKS")),
    ],
)
def test_what_locates_nothing_is_taken_away(name: str, stays: bool) -> None:
    assert changes.dropped(name) != stays
    with surroundings.Around(PROJECT.root, ["environment"], 1) as around:
        assert (name in around.variables({name: "x"})) == stays
    with surroundings.Around(PROJECT.root, [], 0) as around:
        assert around.variables({name: "x"})[name] == "x"


def test_the_clock_stays_near_and_differs_between_runs() -> None:
    shifts = [changes.clock_shift(index) for index in range(1, 10_000)]
    assert shifts[0] == 34_567_891
    assert len(set(shifts)) == len(shifts)
    year = 365.25 * 24 * 3600
    assert all(year < shift < 20 * year for shift in shifts)


@pytest.mark.skipif(os.name == "nt", reason="`path` needs links")
def test_a_folder_named_from_the_root_is_the_same_from_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REPRO_DATA", "../shared")
    root = tmp_path / "project"
    (root / "src").mkdir(parents=True)
    for varied in ([], ["path"]):
        with surroundings.Around(root, varied, 1) as around:
            found = around.variables({"REPRO_DATA": "../shared"})["REPRO_DATA"]
            assert (around.root / found).resolve() == tmp_path / "shared"


def test_a_program_named_by_a_path_is_found_from_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REPRO_PYTHON", os.path.join("tools", "python"))
    assert surroundings.interpreter() == str(tmp_path / "tools" / "python")
    monkeypatch.setenv("REPRO_PYTHON", "python3")
    assert surroundings.interpreter() == "python3"


PARAMETERS = examples.parameters(backend="jax", guarantee="none")


def test_surroundings_that_work_are_all_varied() -> None:
    for wanted in (None, "all"):
        assert gate.choose(PROJECT, PARAMETERS, wanted) == surroundings.choose(wanted)


def test_what_does_not_work_here_is_left_out_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(variable: str) -> surroundings.Variation:
        return surroundings.Variation("w", "m", environment=lambda index, folder: {variable: "x"})

    # Python does not start with it; and a program in its stead that is not there.
    monkeypatch.setitem(surroundings.VARIATIONS, "user", broken("PYTHONHOME"))
    missing = surroundings.Variation("w", "m", command=("no-such-program",))
    monkeypatch.setitem(surroundings.VARIATIONS, "host", missing)
    varied, others = gate.choose(PROJECT, PARAMETERS, None)
    expected, _ = surroundings.choose(None)
    assert varied == [name for name in expected if name not in ("user", "host")]
    assert others["user"].startswith("not possible here: ")
    assert "no-such-program" in others["host"]
    with pytest.raises(BadInput, match="--vary: user: not possible here: "):
        gate.choose(PROJECT, PARAMETERS, "clock,user")


def test_of_two_variations_that_work_only_apart_the_first_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(surroundings, "_problem", lambda root, names, env: "no" * (len(names) > 1))
    assert surroundings.possible(PROJECT.root, ["one", "other"], {}) == (["one"], {"other": "no"})


def test_where_nothing_starts_no_surrounding_is_at_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPRO_PYTHON", "no-such-program")
    assert gate.choose(PROJECT, PARAMETERS, None) == surroundings.choose(None)


@pytest.mark.skipif(
    os.name == "nt" or sys.version_info >= (3, 12),
    reason="Python 3.11 alone reads the paths of packages in the encoding of the locale",
)
def test_a_path_with_an_accent_does_not_turn_the_gate_red(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "é"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    # The second line has what the process imports before it changes anything.
    places = f"{folder}\n{sysconfig.get_path('purelib')}\n"
    (packages / "__editable__.pth").write_text(places, encoding="utf-8")
    monkeypatch.setenv("REPRO_PYTHON", str(folder / "bin" / "python"))
    # On a machine whose locale is C.UTF-8, the other one is C.
    other = dataclasses.replace(
        surroundings.VARIATIONS["locale"], environment=lambda index, folder: {"LC_ALL": "C"}
    )
    monkeypatch.setitem(surroundings.VARIATIONS, "locale", other)
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    varied, others = gate.choose(PROJECT, PARAMETERS, None)
    assert "locale" not in varied and "path" in varied
    assert "not possible here: " in others["locale"] and "decode" in others["locale"]


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
    monkeypatch.setattr(machine, "available_cores", lambda: 4)
    monkeypatch.setattr(launcher, "train", train)
    recipe = examples.recipe(threads=2, guarantee=guarantee)
    outcomes = gate.train_all(Project(tmp_path, "any"), recipe, 4, lambda run, event: None)
    assert outcomes == [tmp_path] * 4 and max(most) == at_once


@pytest.mark.parametrize("ended", [0, 2])
def test_a_run_that_was_ended_ends_the_gate_at_once(
    ended: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    begun: list[int] = []

    def train(launch: Launch, listener: object, on_start: object) -> Path:
        index = launch.surroundings.index
        begun.append(index)
        if index == ended:
            raise RunEnded("ended by signal 9", "it goes on", "; its log")
        if index == 1:
            raise RunFailed("an exception in it")
        return tmp_path

    monkeypatch.setattr(machine, "available_cores", lambda: 1)
    monkeypatch.setattr(launcher, "train", train)
    recipe = examples.recipe(guarantee="portable")
    with pytest.raises(RunEnded) as error:
        gate.train_all(Project(tmp_path, "any"), recipe, 9, lambda run, event: None, ["user"])
    assert str(error.value) == (
        "ended by signal 9; nothing was compared; the same command started again makes all runs "
        "anew; its log"
    )
    assert len(begun) < 9

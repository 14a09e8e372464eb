"""The machinery on its own, without the backend: quick."""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repro import (
    BadInput,
    Dataset,
    backends,
    compare,
    determinism,
    gate,
    ledger,
    sha256,
    state,
    surroundings,
)
from repro import recipe as recipes
from repro.resolve import data_module
from repro.resolve import parameters as resolve_file

PROJECT = recipes.Project.find(Path(__file__).parent)


def resolve(*overrides: str) -> dict[str, Any]:
    return resolve_file(PROJECT.source, PROJECT.root / "params.yaml", overrides)


def test_the_file_spells_out_every_default(tmp_path: Path) -> None:
    bare = tmp_path / "params.yaml"
    names = {group: resolve()[group]["name"] for group in ("data", "model", "optimizer")}
    text = "".join(f"{group}: {{name: {name}}}\n" for group, name in names.items())
    bare.write_text(text + f"backend: {resolve()['backend']}\n")
    assert resolve_file(PROJECT.source, bare) == resolve()


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("training.batch_sise=3", "nearest valid name: training.batch_size"),
        ("batch_size=3", "nearest valid name: training.batch_size"),
        ("optimiser.name=adam", "nearest valid name: optimizer"),
        ("model.unit=3", "unknown parameter; nearest valid name: model.units"),
        ("training.epochs=0", "training.epochs: expected greater than 0; got 0"),
        ("training.epochs=2.5", "training.epochs: expected a valid integer; got 2.5"),
        ("training.batch_size=sixteen", "training.batch_size: expected a valid integer"),
        ("training.shuffle=1", "training.shuffle: expected a valid boolean; got 1"),
        ("training.loss=mse", "training.loss: expected 'sparse_categorical_crossentropy'"),
        ("training.initial_epoch=5", "training.initial_epoch: expected less than"),
        ("training={initial_state: a, initial_weights: b}", "at most one of initial_state and"),
        ("backend=pytorch", "backend: expected 'tensorflow', 'jax' or 'torch'; got 'pytorch'"),
        ("training=3", "training: expected"),
        ("optimizer.learning_rate=-1e-3", "learning_rate: expected greater than 0; got -0.001"),
        ("optimizer.learning_rate=.inf", "optimizer.learning_rate: expected a finite number"),
        ("optimizer.name=adan", "expected one of adam, adamw, rmsprop, sgd; got 'adan'"),
        ("model.name=densee", "nearest valid name: dense"),
        ("model.dropout=1.0", "model.dropout: expected less than 1; got 1.0"),
        ("model.activation=rel", "model.activation: expected 'relu', 'tanh'"),
        ("guarantee=maschine", "guarantee: expected 'portable', 'machine' or 'none'"),
        ("seed=null", "seed: null draws a new seed for each run"),
        ("seed=-1", "seed: expected greater than or equal to 0; got -1"),
        ("threads=0", "threads: expected greater than 0; got 0"),
        ("epochs", "expected key=value"),
        ("training..epochs=3", "expected key=value"),
        ("seed.x=3", "seed is a single value, not a group"),
        ("training.metrics=[", "not a valid value"),
    ],
)
def test_a_wrong_parameter_is_refused_in_one_line(override: str, told: str) -> None:
    with pytest.raises(BadInput) as refusal:
        resolve(override)
    assert told in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("training: {epochs: 1}\ntraining: {epochs: 2}\n", "line 2: not valid YAML"),
        ("training: [\n", "not valid YAML"),
        ("3\n", "expected groups"),
        ("data: 3\n", "data: expected a group with a `name`"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(BadInput) as refusal:
        resolve_file(PROJECT.source, path)
    assert told in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_overrides_are_numbers_as_people_write_them() -> None:
    resolved = resolve("optimizer.learning_rate=1e-3", "training.class_weight={0: 1.0, 1: 2}")
    assert resolved["optimizer"]["learning_rate"] == 1e-3
    assert resolved["training"]["class_weight"] == {"0": 1.0, "1": 2.0}


def test_another_choice_starts_from_its_own_defaults() -> None:
    chosen = resolve("optimizer.momentum=0.9", "optimizer.name=sgd")["optimizer"]
    assert (chosen["learning_rate"], chosen["momentum"]) == (0.01, 0.9)
    assert "beta_1" not in chosen


def test_a_kernel_for_the_optimizer_is_chosen_where_there_is_one() -> None:
    for backend, amsgrad, fused in (
        ("tensorflow", "false", True),
        ("tensorflow", "true", False),
        ("jax", "false", False),
        ("torch", "false", False),
    ):
        settings = f"backend={backend}", f"optimizer.amsgrad={amsgrad}"
        assert resolve(*settings)["optimizer"]["fused"] is fused
        if not fused:
            with pytest.raises(BadInput, match="fused: expected null or false"):
                resolve(*settings, "optimizer.fused=true")
    assert resolve("optimizer.fused=false")["optimizer"]["fused"] is False


def test_data_may_stand_beside_a_model(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    function = "def {}(*, length: PositiveInt = 3) -> Dataset: ...\n"
    (tmp_path / "data.py").write_text(function.format("digits"))
    model = tmp_path / "models" / "waves.py"
    model.write_text(function.format("series") + "def build(shape, classes): ...\n")
    params = tmp_path / "params.yaml"
    params.write_text("data: {name: series}\nmodel: {name: waves}\noptimizer: {name: adam}\n")
    assert resolve_file(tmp_path, params)["data"] == {"name": "series", "length": 3}
    assert data_module(tmp_path, "series") == "models.waves"
    assert data_module(tmp_path, "digits") == "data"
    (tmp_path / "models" / "other.py").write_text(function.format("digits"))
    with pytest.raises(BadInput, match=r"other\.py: the data digits are in data already"):
        resolve_file(tmp_path, params)


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_a_backend_says_what_it_cannot(backend: str) -> None:
    assert resolve(f"backend={backend}", "guarantee=machine")["backend"] == backend
    with pytest.raises(BadInput, match=f"shown for tensorflow alone, not for {backend}; machine"):
        resolve(f"backend={backend}", "guarantee=portable")
    with pytest.raises(BadInput, match=f"jit_compile: expected false, since {backend}"):
        resolve(f"backend={backend}", "guarantee=machine", "training.jit_compile=true")


def test_a_backend_that_is_not_installed_is_refused() -> None:
    there = [name for name in backends.BACKENDS if importlib.util.find_spec(name)]
    for name in set(backends.BACKENDS) - set(there):
        with pytest.raises(BadInput, match=f"backend: {name} is not installed here, .* is;"):
            recipes.make(PROJECT, [f"backend={name}"])
    assert there


def test_a_refusal_takes_no_heavy_import() -> None:
    code = "import sys; from repro.__main__ import main; main(['train', 'a=1']); "
    code += "print(sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=PROJECT.root
    )
    assert "a: unknown parameter" in done.stderr
    heavy = {f"'{name}'" for name in (*backends.BACKENDS, "keras", "numpy")}
    assert not heavy & set(done.stdout.strip("[]\n").split(", "))


def test_the_data_order_is_a_pure_function() -> None:
    order = determinism.permutation(1234, epoch=1, size=1000)
    assert sorted(order) == list(range(1000))
    assert (order == determinism.permutation(1234, epoch=1, size=1000)).all()
    others = [(1234, 2, 0), (1235, 1, 0), (1234, 1, 1)]
    for seed, epoch, fold in others:
        assert (order != determinism.permutation(seed, epoch, 1000, fold)).any()
    # Written down once: no version of Python, NumPy or Keras may change it.
    assert determinism.permutation(1234, epoch=1, size=8).tolist() == [1, 0, 3, 4, 5, 7, 2, 6]


def test_a_purpose_has_its_own_seed() -> None:
    seeds = {determinism.seed(s, p) for s in (1, 2) for p in ("data", "model", "training")}
    assert len(seeds) == 6
    assert all(0 <= seed < 2**32 for seed in seeds)


def test_digests_tell_content_shape_and_type_apart() -> None:
    a = np.arange(6, dtype=np.float32)
    one_ulp = a.copy()
    one_ulp[3] = np.nextafter(one_ulp[3], np.float32(9))
    different: list[np.ndarray] = [a, a.reshape(2, 3), a.astype(np.float64), one_ulp, a[::-1]]
    assert len({sha256(array) for array in different}) == len(different)
    assert sha256(np.asfortranarray(a.reshape(2, 3))) == sha256(a.reshape(2, 3))
    assert sha256(a.astype(">f4")) == sha256(a)
    assert sha256(np.array(1.0)) != sha256(np.array(2.0))
    with pytest.raises(BadInput):
        sha256(np.array([{}], dtype=object))


@pytest.mark.parametrize(
    ("samples", "targets", "held_out"), [(3, 4, 0), (0, 0, 0), (3, 3, 3), (3, 3, -1)]
)
def test_data_that_cannot_be_are_refused(samples: int, targets: int, held_out: int) -> None:
    with pytest.raises(BadInput):
        Dataset(np.zeros((samples, 2)), np.zeros(targets), classes=1, held_out=held_out)


def entries(path: Path, changed: int | None = None) -> Path:
    book = ledger.Ledger(path)
    for step in range(5):
        values = {"kernel": "a" if step == changed else "b", "bias": "c"}
        book.append("step", {"weights": values, "order": {"indices": str(step)}}, 1, step)
    book.close()
    return path


def test_a_ledger_says_where_two_runs_part(tmp_path: Path) -> None:
    one, same = entries(tmp_path / "1"), entries(tmp_path / "2")
    assert ledger.first_difference(one, same) is None
    found = ledger.first_difference(one, entries(tmp_path / "3", changed=3))
    assert found is not None
    assert (found["epoch"], found["step"], found["what"]) == (1, 3, "weights")
    assert (found["name"], found["a"], found["b"], found["names"]) == (
        "kernel",
        "b",
        "a",
        ["kernel"],
    )


def test_a_shorter_ledger_is_a_difference(tmp_path: Path) -> None:
    one, other = entries(tmp_path / "1"), entries(tmp_path / "2")
    other.write_text("".join(other.read_text().splitlines(keepends=True)[:3]))
    found = ledger.first_difference(one, other)
    assert found is not None
    assert (found["what"], found["step"]) == ("length", 3)


@pytest.mark.parametrize("damage", ["torn", "altered", "missing"])
def test_a_damaged_ledger_is_refused(tmp_path: Path, damage: str) -> None:
    path = entries(tmp_path / "1")
    if damage == "torn":
        path.write_text(path.read_text()[:-40])
    elif damage == "altered":
        path.write_text(path.read_text().replace('"indices": "2"', '"indices": "7"'))
    else:
        path.unlink()
    with pytest.raises(BadInput):
        list(ledger.read(path))


def test_checkpoints_keep_to_their_share_of_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def due(seconds: float, ended: bool, interval: float = 60, size: float = 0) -> bool:
        clock = iter([0.0, seconds])
        monkeypatch.setattr("time.monotonic", lambda: next(clock))
        return state.Checkpoints(tmp_path, interval, "", int(size)).due(ended)

    assert due(1, ended=True)
    assert not due(59, ended=False)
    assert due(61, ended=False)
    # 3 s to write, before one was written: at most 3 % of 100 s.
    big = 3 * state.SPEED
    assert not due(99, ended=True, size=big)
    assert due(101, ended=True, size=big)
    assert due(0, ended=False, interval=0, size=big)


def test_other_processors_are_named(tmp_path: Path) -> None:
    def run(name: str, cpu: str, changed: int | None, holds: str = "machine") -> Path:
        directory = tmp_path / name
        directory.mkdir()
        entries(directory / "ledger.jsonl", changed)
        content = {"recipe": {}, "status": "finished", "digest": name}
        content |= {"machine": {"cpu": cpu}, "guarantee": {"holds": holds}}
        recipes.write_manifest(directory, content)
        return directory

    def means(one: Path, other: Path) -> str:
        return str(compare.compare(one, other)["first_divergence"]["means"])

    here = run("1", "Zen", None)
    assert "processors" not in means(here, run("2", "Zen", 3))
    assert "different processors, Zen and Haswell" in means(here, run("3", "Haswell", 3))
    here = run("4", "Zen", None, "portable")
    assert "processors" not in means(here, run("5", "Haswell", 3, "portable"))


def test_no_setting_of_the_shell_reaches_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    from repro import launcher

    names = ("TF_ENABLE_ONEDNN_OPTS", "OMP_NUM_THREADS", "PYTHONHASHSEED", "XLA_FLAGS", "NPROC")
    for name in (*names, "JAX_ENABLE_X64", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE"):
        monkeypatch.setenv(name, "7")
    monkeypatch.setenv("MY_OWN", "kept")
    for backend in backends.BACKENDS:
        for guarantee in ("machine", "none", *(["portable"] if backend == "tensorflow" else [])):
            env = launcher.environment(resolve(f"guarantee={guarantee}", f"backend={backend}"))
            assert env["MY_OWN"] == "kept"
            assert env["KERAS_BACKEND"] == backend
            assert "7" not in [env.get(name) for name in names]
            assert ("XLA_FLAGS" in env) == (backend == "jax" and guarantee != "none")
            assert env.get("PYTHONHASHSEED") == (None if guarantee == "none" else "0")


@pytest.mark.parametrize(
    ("asked", "changed", "operations", "departures", "holds"),
    [
        ("portable", {}, [], {}, "portable"),
        ("portable", {}, ["curved: Atan"], {}, "machine"),
        ("portable", {"mathematics": "fma"}, [], {}, "machine"),
        ("portable", {"cache_sizes": None}, [], {}, "machine"),
        ("portable", {"onednn": True}, [], {}, "machine"),
        ("portable", {"intra_op_threads": 2}, [], {}, "none"),
        ("portable", {}, ["curved: Atan"], {"numpy": "1 locked, 2 installed"}, "none"),
        ("machine", {"mathematics": "fma", "gpus": 1}, ["curved: Atan"], {}, "machine"),
        ("machine", {"op_determinism": False}, [], {}, "none"),
        ("none", {"op_determinism": False}, [], {}, "none"),
    ],
)
def test_a_guarantee_falls_as_far_as_it_must(
    asked: str,
    changed: dict[str, Any],
    operations: list[str],
    departures: dict[str, str],
    holds: str,
) -> None:
    asked_for = resolve("backend=tensorflow", f"guarantee={asked}")
    found = determinism.expected(asked_for, "portable") | changed
    told = determinism.guarantee(asked_for, found, departures, operations)
    assert (told["asked"], told["holds"]) == (asked, holds)
    assert bool(told["broken"]) == (asked != holds)
    if asked == "portable":
        reasons = [*changed, *operations, *departures]
        assert all(any(reason in line for line in told["broken"]) for reason in reasons)


# What a process sees of each variation; a list has several ways to the same.
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


def test_runs_are_found_by_the_beginning_of_their_id(tmp_path: Path) -> None:
    project = recipes.Project(tmp_path, "any")
    for name in ("20260101-a", "20260101-b", "20260202-c"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        recipes.write_manifest(tmp_path / "runs" / name, {"recipe": {}})
    assert recipes.find_run(project, "20260202").name == "20260202-c"
    for name in ("20260101", "2027"):
        with pytest.raises(BadInput):
            recipes.find_run(project, name)


@pytest.mark.skipif(os.name == "nt", reason="a log is not locked there")
def test_a_run_that_was_just_killed_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from repro import launcher

    ending = (tmp_path / "log.txt").open("a")
    assert launcher.lock(ending)
    monkeypatch.setattr(launcher, "ENDING", 0.1)
    assert not launcher.idle(tmp_path)
    monkeypatch.setattr(launcher, "ENDING", 60)
    threading.Timer(0.3, ending.close).start()
    assert launcher.idle(tmp_path)

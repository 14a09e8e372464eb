"""The machinery on its own, without the backend: quick."""

from __future__ import annotations

import os
import platform
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
    ledger,
    packages,
    sha256,
    state,
)
from repro import recipe as recipes
from repro.resolve import parameters

PROJECT = recipes.Project.find(Path(__file__).parent)


def resolve(*overrides: str) -> dict[str, Any]:
    return parameters(PROJECT.source, PROJECT.root / "params.yaml", overrides)


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


# Which lock is installed, and where the environment departs from it.
CPU = f"""
# A comment; other==1
click==8.4.2 \\
    --hash=sha256:{"0" * 64}
Dask[distributed]==2026.7 ; sys_platform == '{sys.platform}' \\
    --hash=sha256:{"0" * 64}
torch==2.13.0 ; sys_platform == 'nowhere' \\
    --hash=sha256:{"0" * 64}
torch==2.13.0+cpu ; sys_platform != 'nowhere' \\
    --hash=sha256:{"0" * 64}
colorama==0.4 ; python_full_version < '3' or platform_machine == 'not-{platform.machine()}'
"""
CUDA = """
click==8.4.2
torch==2.13.0
nvidia-cublas-cu12==12.9 ; sys_platform != 'nowhere'
nvidia-cudnn-cu12==9.28
nvidia-nccl-cu12==2.32
nvidia-elsewhere==1 ; sys_platform == 'nowhere'
"""
THERE = {"click": "8.4.2", "dask": "2026.7", "torch": "2.13.0+cpu", "any-other": "1"}


def test_a_lock_pins_what_is_for_this_system() -> None:
    pins = packages.pins(CPU)
    assert pins == {"click": ["8.4.2"], "dask": ["2026.7"], "torch": ["2.13.0+cpu"]}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({}, {}),
        ({"click": "8.4.1"}, {"click": "8.4.2 locked, 8.4.1 installed"}),
        ({"click": None}, {"click": "8.4.2 locked, not installed"}),
        # The build for another system.
        ({"torch": "2.13.0"}, {"torch": "2.13.0+cpu locked, 2.13.0 installed"}),
        ({"colorama": "1"}, {}),
    ],
)
def test_what_is_missing_or_another_is_a_departure(
    change: dict[str, str | None], told: dict[str, str]
) -> None:
    there = {name: version for name, version in {**THERE, **change}.items() if version}
    assert packages.departures(CPU, there) == told


@pytest.mark.parametrize(
    ("more", "lock"),
    [
        ([], "cpu"),
        # It comes with monitors, and the second with other libraries; neither is this lock's.
        (["nvidia-ml-py"], "cpu"),
        (["nvidia-nccl-cu12"], "cpu"),
        (["nvidia-cublas-cu12", "nvidia-cudnn-cu12", "nvidia-nccl-cu12"], "cuda"),
        # One of them was taken away: a departure from that lock.
        (["nvidia-cublas-cu12", "nvidia-cudnn-cu12"], "cuda"),
    ],
)
def test_the_lock_is_the_one_that_was_installed(more: list[str], lock: str, tmp_path: Path) -> None:
    (tmp_path / "cpu.txt").write_text(CPU)
    (tmp_path / "cuda.txt").write_text(CUDA)
    assert packages.locked(tmp_path, THERE | dict.fromkeys(more, "1")) == lock


@pytest.mark.parametrize("lock", ["cpu", "cuda"])
def test_a_package_that_is_taken_away_is_named(lock: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (PROJECT.root / "requirements" / f"{lock}.txt").read_text(encoding="utf-8")
    there = {name: versions[0] for name, versions in packages.pins(text).items()}
    monkeypatch.setattr(packages, "installed", lambda: there)
    found = recipes.lock(PROJECT.root)
    if found["file"] != f"requirements/{lock}.txt":
        pytest.skip("without NVIDIA's packages for this system, the locks are one")
    assert found["departures"] == {}
    version = there.pop("click")
    assert recipes.lock(PROJECT.root)["departures"] == {"click": f"{version} locked, not installed"}

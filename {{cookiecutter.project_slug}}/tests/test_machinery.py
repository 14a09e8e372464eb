"""The machinery on its own, without the backend: quick."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repro import (
    BadInput,
    Dataset,
    arrays,
    backends,
    compare,
    determinism,
    ledger,
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


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"x": None}, "x: expected a NumPy array, got NoneType"),
        ({"x": [1, 2, 3]}, "x: expected a NumPy array, got list"),
        ({"y": [1, 2, 3]}, "y: expected a NumPy array, got list"),
        ({"y": np.zeros(4)}, "y: expected as many as x has samples, 3, got 4"),
        ({"y": np.array(1)}, "y: expected an array of samples, got a single value"),
        ({"x": np.float32(1)}, "x: expected a NumPy array, got float32"),
        ({"x": np.zeros((3, 0))}, "x: expected samples, got none: its shape is (3, 0)"),
        ({"x": np.array([{}, 1, "a"])}, "x: expected numbers or strings, got an array of type obj"),
        ({"x": np.zeros(3, complex)}, "x: expected numbers or strings, got an array of type compl"),
        ({"y": np.zeros(3, "M8[s]")}, "y: expected numbers or strings, got an array of type datet"),
        ({"y": np.array([0, np.nan, 1])}, "y: expected finite numbers, got nan at [1]"),
        ({"y": np.array([[0], [1], [np.inf]])}, "y: expected finite numbers, got inf at [2, 0]"),
        ({"weight": [1, 1, 1]}, "weight: expected a NumPy array, got list"),
        ({"weight": np.ones((3, 1))}, "weight: expected shape (samples,), got (3, 1)"),
        ({"weight": np.array([1, np.nan, 1])}, "weight: expected finite numbers, got nan at [1]"),
        ({"weight": np.array(["a"] * 3)}, "weight: expected numbers, got an array of type <U1"),
        ({"groups": np.zeros(2, int)}, "groups: expected as many as x has samples, 3, got 2"),
        ({"classes": 0}, "classes: expected a whole number of 1 or more, got 0"),
        ({"classes": 2.0}, "classes: expected a whole number of 1 or more, got 2.0"),
        ({"held_out": None}, "held_out: expected a whole number of 0 or more, got None"),
        ({"held_out": 3}, "held_out: expected less than 3, got 3"),
        ({"sources": None}, "sources: expected a SHA-256 by the name of each source, got None"),
        ({"sources": {"a": b"1"}}, "sources: expected a SHA-256 by the name of each source"),
        ({"preprocessing": "standard"}, "preprocessing: expected a transformer of scikit-learn's"),
    ],
)
def test_what_is_wrong_with_data_is_one_line(changed: dict[str, Any], told: str) -> None:
    good: dict[str, Any] = {"x": np.zeros((3, 2)), "y": np.zeros(3, int), "classes": 2}
    Dataset(**good, groups=np.array(["a", "b", "c"]), weight=np.array([-1, 0, 2]))
    with pytest.raises(BadInput) as refusal:
        Dataset(**good | changed)
    assert str(refusal.value).startswith(f"data: {told}") and "\n" not in str(refusal.value)


def test_arrays_are_read_without_executing_them(tmp_path: Path) -> None:
    file = tmp_path / "a.npz"
    np.savez(file, x=np.arange(3), y=np.array([{}], dtype=object))
    assert arrays(file, "x")["x"].tolist() == [0, 1, 2]
    np.save(tmp_path / "b.npy", np.arange(2))
    assert arrays(tmp_path / "b.npy", "all")["all"].tolist() == [0, 1]
    (tmp_path / "c.npz").write_bytes(b"a,b\n1,2\n")
    (tmp_path / "d.npz").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    for name, array, told in (
        ("a.npz", "y", "not a file of arrays: expected arrays of numbers or strings"),
        ("a.npz", "z", "z is not a file in the archive"),
        ("c.npz", "x", "not a file of arrays: expected arrays of numbers or strings"),
        ("d.npz", "x", "Git LFS has not brought its content yet: git lfs pull"),
        ("e.npz", "x", "no such file"),
    ):
        with pytest.raises(BadInput) as refusal:
            arrays(tmp_path / name, array)
        said = str(refusal.value)
        assert told in said and "\n" not in said
        assert "pickle" not in said and "unsafe" not in said


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

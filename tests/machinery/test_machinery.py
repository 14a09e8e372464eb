"""The machinery on its own, without the backend: quick."""

from __future__ import annotations

import json
import math
import os
import platform
import sys
import threading
from pathlib import Path
from typing import Any

import examples
import ml_dtypes
import numpy as np
import pytest

from repro import backends
from repro.basics import npz, seeds
from repro.basics.digests import sha256
from repro.basics.errors import BadInput, RunEnded
from repro.compare import comparison, explanation
from repro.compare.explanation import Explanation
from repro.data.dataset import Dataset, arrays
from repro.environment import determinism
from repro.environment.determinism import Promise
from repro.recipe import packages
from repro.recipe.parameters import Guarantee, Parameters
from repro.recipe.project import Project
from repro.recipe.reading import parameters
from repro.run import events, failure, ledger, manifest, state
from repro.run.events import Event
from repro.run.ledger import Divergence

PROJECT = Project.find()


def resolve(*overrides: str) -> Parameters:
    return parameters(PROJECT.source, PROJECT.root / "params.yaml", overrides)


def test_the_data_order_is_a_pure_function() -> None:
    order = seeds.permutation(1234, epoch=1, size=1000)
    assert sorted(order) == list(range(1000))
    assert (order == seeds.permutation(1234, epoch=1, size=1000)).all()
    for seed, epoch in ((1234, 2), (1235, 1)):
        assert (order != seeds.permutation(seed, epoch, 1000)).any()
    # Written down once: no version of Python, NumPy or Keras may change it.
    assert seeds.permutation(1234, epoch=1, size=8).tolist() == [1, 0, 3, 4, 5, 7, 2, 6]


def test_a_purpose_has_its_own_seed() -> None:
    found = {seeds.seed(s, p) for s in (1, 2) for p in ("data", "model", "training")}
    assert len(found) == 6
    assert all(0 <= seed < 2**32 for seed in found)


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
        ({"x": [1, 2, 3]}, "x/0: expected a NumPy array, got int"),
        ({"y": [1, 2, 3]}, "y/0: expected a NumPy array, got int"),
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
    assert (found.epoch, found.step, found.what) == (1, 3, "weights")
    assert (found.name, found.a, found.b, found.names) == ("kernel", "b", "a", ["kernel"])
    place = {"stage": "step", "epoch": 1, "step": 3, "what": "weights", "name": "kernel"}
    assert found.as_json() == place | {"a": "b", "b": "a", "names": ["kernel"]}


def test_an_event_is_read_as_it_was_sent() -> None:
    fallen = Promise("portable", "machine", ["curved: Atan"])
    parted = Divergence("data", 0, 0, "samples", "x", "1", None, ["x"])
    sent: dict[str, Event] = {
        "start": events.Start(fallen, ["torn"], [], 2, 125),
        "step": events.Step(1, 2, 125, 300, math.inf),
        "epoch": events.Epoch(1, 2, {"loss": 0.5, "val_loss": -math.inf}),
        "wait": events.Wait("a GPU"),
        "refused": events.Refused("no data", True, parted),
        "failed": events.Failed("no memory"),
    }
    for name, event in sent.items():
        line = events.line(event)
        content = json.loads(line, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
        assert content["event"] == name and "\n" not in line
        assert events.read(line) == event
    lost = events.read(events.line(events.Step(1, 1, 1, 1, math.nan)))
    assert isinstance(lost, events.Step) and lost.loss is not None and math.isnan(lost.loss)


def test_where_a_run_is_not_what_it_was_stands_in_its_manifest(tmp_path: Path) -> None:
    parted = Divergence("data", 0, 0, "samples", "x", True, 1.5, ["x"])
    manifest.write(tmp_path, examples.begun(parted=parted))
    assert json.loads((tmp_path / "manifest.json").read_text())["parted"] == parted.as_json()
    assert manifest.read(tmp_path).parted == parted


def test_a_shorter_ledger_is_a_difference(tmp_path: Path) -> None:
    one, other = entries(tmp_path / "1"), entries(tmp_path / "2")
    other.write_text("".join(other.read_text().splitlines(keepends=True)[:3]))
    found = ledger.first_difference(one, other)
    assert found is not None
    assert (found.what, found.step) == ("length", 3)
    assert "names" not in found.as_json()


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
    def run(name: str, cpu: str, changed: int | None, holds: Guarantee = "machine") -> Path:
        directory = tmp_path / name
        directory.mkdir()
        entries(directory / "ledger.jsonl", changed)
        content = examples.finished(
            name,
            digest=name,
            machine=examples.machine(cpu),
            guarantee=Promise(holds, holds, []),
        )
        manifest.write(directory, content)
        return directory

    def means(one: Path, other: Path) -> str:
        found = comparison.compare(one, other).first_divergence
        assert found is not None and found.means is not None
        return found.means

    here = run("1", "Zen", None)
    assert "processors" not in means(here, run("2", "Zen", 3))
    assert "different processors, Zen and Haswell" in means(here, run("3", "Haswell", 3))
    here = run("4", "Zen", None, "portable")
    assert "processors" not in means(here, run("5", "Haswell", 3, "portable"))


def test_no_setting_of_the_shell_reaches_a_run(monkeypatch: pytest.MonkeyPatch) -> None:

    names = ("TF_ENABLE_ONEDNN_OPTS", "OMP_NUM_THREADS", "PYTHONHASHSEED", "XLA_FLAGS", "NPROC")
    for name in (*names, "JAX_ENABLE_X64", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE"):
        monkeypatch.setenv(name, "7")
    monkeypatch.setenv("MY_OWN", "kept")
    for backend in backends.BACKENDS:
        for guarantee in ("machine", "none", *(["portable"] if backend == "tensorflow" else [])):
            parameters = resolve(f"guarantee={guarantee}", f"backend={backend}")
            env = determinism.of_process(PROJECT.root, parameters)
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
    assert (told.asked, told.holds) == (asked, holds)
    assert bool(told.broken) == (asked != holds)
    if asked == "portable":
        reasons = [*changed, *operations, *departures]
        assert all(any(reason in line for line in told.broken) for reason in reasons)


def test_runs_are_found_by_the_beginning_of_their_id(tmp_path: Path) -> None:
    project = Project(tmp_path, "any")
    for name in ("20260101-a", "20260101-b", "20260202-c"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        manifest.write(tmp_path / "runs" / name, examples.begun(name))
    assert manifest.find_run(project, "20260202").name == "20260202-c"
    for name in ("20260101", "2027"):
        with pytest.raises(BadInput):
            manifest.find_run(project, name)


@pytest.mark.skipif(os.name == "nt", reason="a run is not locked there")
def test_a_run_that_was_just_killed_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from repro.basics import locks
    from repro.run import launcher

    ending = (tmp_path / "lock").open("a")
    assert locks.lock(ending)
    monkeypatch.setattr(launcher, "ENDING", 0.1)
    assert not launcher.idle(tmp_path)
    monkeypatch.setattr(launcher, "ENDING", 60)
    threading.Timer(0.3, ending.close).start()
    assert launcher.idle(tmp_path)


CHATTER = """\
2026-11-26 18:37:30.360305: I tensorflow/core/util/port.cc:153] oneDNN custom operations are on. \
You may see slightly different numerical results due to floating-point round-off errors
2026-11-26 18:37:30.360305: I tensorflow/core/platform/cpu_feature_guard.cc:210] This TensorFlow \
binary is optimized to use available CPU instructions in performance-critical operations.
To enable the following instructions: AVX2 FMA, in other operations, rebuild TensorFlow with the \
appropriate compiler flags.
WARNING: All log messages before absl::InitializeLog() is called are written to STDERR
I0000 00:00:1795718250.360305    5428 port.cc:153] oneDNN custom operations are on.
E0000 00:00:1795718264.820854    5428 node_def_util.cc:682] NodeDef mentions attribute \
use_unbounded_threadpool which is not in the op definition: Op<name=MapDataset>
INFO:absl:something

"""


@pytest.fixture
def logged(tmp_path: Path) -> Path:
    (tmp_path / "log.txt").write_text(CHATTER, encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("status", [-9, 137], ids=["signal", "as-a-shell-has-it"])
def test_a_process_that_was_ended_is_told_as_such(status: int, logged: Path) -> None:
    error = failure.of(logged, status)
    assert isinstance(error, RunEnded)
    what = "the training was ended by signal 9 (SIGKILL): the memory may be full, or somebody "
    what += "ended it"
    nothing = f"; its log, {logged / 'log.txt'}, does not say why"
    assert str(error) == (
        f"{what}; the same command started again begins anew, there is no checkpoint yet{nothing}"
    )
    (logged / "checkpoints").mkdir()
    (logged / "checkpoints" / "1-0.json").touch()
    error = failure.of(logged, status)
    assert isinstance(error, RunEnded)
    assert str(error) == (
        f"{what}; the same command started again goes on from the last checkpoint{nothing}"
    )
    assert str(error.advised("nothing was compared")) == f"{what}; nothing was compared{nothing}"


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (-15, "signal 15 (SIGTERM): somebody or something else ended it"),
        (-11, "signal 11 (SIGSEGV): code outside Python crashed"),
        (134, "signal 6 (SIGABRT): a library found something wrong and stopped"),
    ],
)
def test_each_signal_has_its_reason(status: int, told: str, logged: Path) -> None:
    assert told in str(failure.of(logged, status))


def test_a_log_is_shown_where_it_says_something(logged: Path) -> None:
    lines = [f"line {number}" for number in range(30)]
    text = CHATTER + "\n".join([*lines, "I am no chatter", "ValueError: wrong"]) + "\n" + CHATTER
    (logged / "log.txt").write_text(text, encoding="utf-8")
    error = failure.of(logged, 1)
    assert not isinstance(error, RunEnded)
    first, *rest = str(error).splitlines()
    assert first == f"the training failed with status 1; its log, {logged / 'log.txt'}, ends with:"
    assert rest == [*lines[-13:], "I am no chatter", "ValueError: wrong"]
    for status in (1, 70, 128, 255):
        assert f"failed with status {status};" in str(failure.of(logged, status))


def test_an_exception_is_told_in_one_line(logged: Path) -> None:
    text = (
        "Traceback (most recent call last):\n  File x\nKeyError: 'first'\n\nDuring the handling:\n"
    )
    text += "AttributeError: Exception encountered when calling Inner.call().\n\n"
    text += "\x1b[1mTensor.graph is undefined when eager execution is enabled.\x1b[0m\n\n"
    text += "Arguments received by Inner.call():\n  • x=tf.Tensor(shape=(16, 784))\n"
    (logged / "log.txt").write_text(text, encoding="utf-8")
    error = failure.of(logged, 1)
    assert "\x1b" not in str(error)
    assert failure.reason(error) == (
        "AttributeError: Exception encountered when calling Inner.call(). Tensor.graph is "
        "undefined when eager execution is enabled."
    )
    assert failure.reason(failure.of(logged, -9)).endswith("or somebody ended it")
    assert failure.reason(ValueError("a\nb")) == "a b"
    assert failure.reason(ValueError()) == "ValueError"


def record_of(folder: Path, name: str, **arrays: Any) -> Path:
    written = {f"activation/{key}": np.asarray(a) for key, a in arrays.items()}
    npz.write(folder / f"{name}.npz", written)
    return folder / f"{name}.npz"


def nan(bits: int) -> np.ndarray:
    return np.array([1, bits], np.uint32).view(np.float32)


@pytest.mark.parametrize(
    ("one", "other", "told", "ulps"),
    [
        (
            np.array([1, 0, 2], np.float32),
            np.array([1, -0.0, 2], np.float32),
            "at [1]: 0.0 and -0.0; 1 of 3",
            None,
        ),
        (
            nan(0x7FC00000),
            nan(0x7FC00001),
            "at [1]: nan (0x7fc00000) and nan (0x7fc00001); 1 of 2 elements differ",
            None,
        ),
        (
            np.array([[0.5, np.inf]], np.float64),
            np.array([[0.5, -np.inf]], np.float64),
            "at [0, 1]: inf and -inf",
            2 * 0x7FF0000000000000,
        ),
        (np.array([3, 4], np.int64), np.array([3, 5], np.int64), "at [1]: 4 and 5; 1 of 2", None),
        (np.array([True], np.bool_), np.array([False], np.bool_), "at [0]: True and False", None),
        (np.array([1j], np.complex64), np.array([2j], np.complex64), "at [0]: 1j and 2j", None),
        (
            np.array([1, 2], ml_dtypes.bfloat16),
            np.array([1, 2.5], ml_dtypes.bfloat16),
            "at [1]: 2.0 and 2.5; 1 of 2 elements differ",
            None,
        ),
        (
            np.array([1], ml_dtypes.bfloat16),
            np.array([1], np.uint16),
            "is of bfloat16 in the first and of uint16 in the second",
            0,
        ),
        (np.float32(1), np.nextafter(np.float32(1), np.float32(2)), "1 units in the last", 1),
        (
            np.array([3], np.int32),
            np.array([3], np.int64),
            "is of int32 in the first and of int64 in the second",
            0,
        ),
        (
            np.array([3], np.int32),
            np.array([3, 3], np.int32),
            "of (1,) in the first and of (2,) in the second",
            0,
        ),
    ],
)
def test_elements_are_told_apart_by_their_bits(
    one: np.ndarray, other: np.ndarray, told: str, ulps: int | None, tmp_path: Path
) -> None:
    records = {"a": one, "b": other}
    files = [record_of(tmp_path, name, first=np.ones(3), x=x) for name, x in records.items()]
    found = explanation.first_tensor(*files)
    assert found is not None and (found.kind, found.name) == ("activation", "x")
    whole = Explanation(0, 0, found)
    assert told in str(whole)
    content = whole.as_json()
    assert (content["tensor"], content.get("ulps", 0)) == ("x", ulps)
    json.loads(json.dumps(content), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert explanation.first_tensor(files[0], files[0]) is None


def test_what_only_the_results_show_is_not_run_again(tmp_path: Path) -> None:
    entry = {"weights": {"w": "1"}, "metrics": {"m": "2"}}
    for name in "ab":
        made = ledger.Ledger(tmp_path / name)
        made.append("epoch", entry | {"results": {"val_luck": name}}, 1, 3)
        made.close()
    found = ledger.first_difference(tmp_path / "a", tmp_path / "b")
    assert found is not None and found.what == "results"
    assert not explanation.possible(found)
    nobody, runs = Project(tmp_path, "any"), (tmp_path, tmp_path)
    assert explanation.explain(nobody, runs, found, lambda run, event: None) is None
    means = comparison.means_of(found)
    assert "judges itself by" in means and "race" not in means


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
    found = packages.lock(PROJECT.root)
    if found.file != f"requirements/{lock}.txt":
        pytest.skip("without NVIDIA's packages for this system, the locks are one")
    assert found.departures == {}
    version = there.pop("click")
    assert packages.lock(PROJECT.root).departures == {"click": f"{version} locked, not installed"}

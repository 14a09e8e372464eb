"""The state of a training: what it is called, how it is digested, kept and given back."""

from __future__ import annotations

import hashlib
import json
import random
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import ml_dtypes
import numpy as np
import pytest
from trainings import Variable

from repro import backends
from repro.basics import files, npz
from repro.basics.errors import BadInput
from repro.run import outside, state
from repro.run.ledger import Divergence, Parted
from repro.run.state import Checkpoints, Position


def variable(path: str | None, value: Any, name: str = "") -> Variable:
    return Variable(path, np.asarray(value, np.float32), name)


def model(*weights: Variable) -> Any:
    drawn, metric, slot = variable("seed", 1), variable("mean", 2), variable("adam/m", 3)
    given = list(weights) or [variable("a/kernel", [[1, 2]]), variable("a/bias", [3])]
    return SimpleNamespace(
        weights=given,
        metrics_variables=[metric],
        variables=[*given, drawn, metric],
        optimizer=SimpleNamespace(variables=[slot]),
    )


def names(found: dict[str, dict[str, Any]]) -> dict[str, list[str]]:
    return {kind: list(members) for kind, members in found.items()}


@pytest.fixture(autouse=True)
def nothing(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is outside the model: nothing, but for what a test puts there."""
    there: list[Any] = []
    monkeypatch.setattr(outside, "variables", lambda: list(there))
    return there


def test_each_variable_has_its_kind_and_its_path(nothing: list[Any]) -> None:
    of = model()
    assert names(state.variables(of)) == {
        "generators": ["seed", "keras"],
        "weights": ["a/kernel", "a/bias"],
        "optimizer": ["adam/m"],
        "metrics": ["mean"],
        "outside": [],
    }
    assert state.variables(of)["weights"]["a/bias"] is of.weights[1]
    nothing.append(variable(None, 1, name="counter:0"))
    assert names(state.variables(of))["outside"] == ["counter:0"]


def test_names_that_are_shared_are_numbered() -> None:
    given = [variable(path, n) for n, path in enumerate(("a", "a", "b", "a", "b"))]
    found = state.variables(model(*given))["weights"]
    assert list(found) == ["a", "a#2", "b", "a#3", "b#2"]
    assert list(found.values()) == given


def hashed(array: np.ndarray) -> str:
    return hashlib.sha256(f"{array.dtype.str}{array.shape}".encode() + array.tobytes()).hexdigest()


def test_a_state_is_digested_by_name_and_content(nothing: list[Any]) -> None:
    of = model()
    weights = {"a/kernel": hashed(of.weights[0].value), "a/bias": hashed(of.weights[1].value)}
    assert state.digests(of, "weights", "metrics") == {
        "weights": weights,
        "metrics": {"mean": hashed(np.array(2, np.float32))},
    }
    # What is outside has a place only where there is something; other kinds always.
    assert list(state.digests(of, "outside", "weights")) == ["weights"]
    of.optimizer.variables = []
    assert state.digests(of, "optimizer") == {"optimizer": {}}
    nothing.append(variable("x", 1))
    assert list(state.digests(of, "outside")) == ["outside"]
    lines = f"weights/a/kernel {weights['a/kernel']}\nweights/a/bias {weights['a/bias']}\n"
    digest = hashlib.sha256(lines.encode()).hexdigest()
    assert state.digest({"weights": weights}) == digest
    assert state.digest_of(state.arrays(of, ("weights", "metrics"))) == digest
    kept = state.arrays(of, state.KEPT)
    assert list(kept)[:3] == ["generators/seed", "generators/keras", "weights/a/kernel"]
    assert state.digest_of(kept) == state.digest(state.digests(of, *state.KEPT))
    of.weights = []
    assert state.digests(of, "weights") == {"weights": {}}
    assert kept["weights/a/bias"].tolist() == [3.0]


def test_a_saved_state_is_read_back_or_refused(tmp_path: Path) -> None:
    content: dict[str, np.ndarray] = {
        "weights/a": np.arange(3),
        "metrics/b": np.array(1, np.float32),
    }
    state.save(tmp_path / "state.npz", content)
    found = state.read(tmp_path / "state.npz")
    assert {name: array.tolist() for name, array in found.items()} == {
        "weights/a": [0, 1, 2],
        "metrics/b": 1.0,
    }
    digest = state.digest_of(content)
    assert list(state.checked(tmp_path / "state.npz", digest)) == list(content)
    for other in ("0" * 64, "f" * 64):
        with pytest.raises(
            BadInput, match=f"expected the state with the digest {other}, got another"
        ):
            state.checked(tmp_path / "state.npz", other)
    with pytest.raises(ValueError):
        state.save(tmp_path / "objects.npz", {"weights/a": np.array([{}])})
    assert not (tmp_path / "objects.npz").exists()
    np.savez(tmp_path / "objects.npz", a=np.array([{}]))
    (tmp_path / "torn.npz").write_bytes((tmp_path / "state.npz").read_bytes()[:-30])
    for name in ("objects", "torn", "gone"):
        with pytest.raises(BadInput, match=f"{name}.npz: not a readable state: "):
            state.read(tmp_path / f"{name}.npz")


@pytest.mark.parametrize("kind", ["bfloat16", "float8_e4m3fn", "int4"])
def test_a_state_of_types_that_numpy_does_not_know_is_read_back(kind: str, tmp_path: Path) -> None:
    """NumPy's own file has no name for them, and gives back bytes that nothing can be done with."""
    array = np.arange(-3, 3).reshape(2, 3).astype(getattr(ml_dtypes, kind))
    content: dict[str, np.ndarray] = {
        "weights/a": array,
        "weights/b": np.array(1, array.dtype),
        "weights/c": np.ones(2, np.float32),
    }
    state.save(tmp_path / "state.npz", content)
    found = state.checked(tmp_path / "state.npz", state.digest_of(content))
    assert {name: a.dtype for name, a in found.items()} == {n: a.dtype for n, a in content.items()}
    assert found["weights/a"].astype(float).tolist() == array.astype(float).tolist()
    assert files.arrays(tmp_path / "state.npz").keys() == content.keys()


def test_an_array_with_fields_is_written_as_numpy_does(tmp_path: Path) -> None:
    array = np.array([(1, 2.5)], dtype=[("a", np.int8), ("b", np.float32)])
    npz.write(tmp_path / "a.npz", {"a": array, "0": np.ones(2, ml_dtypes.bfloat16)})
    found = npz.read(tmp_path / "a.npz")
    assert found.keys() == {"a", "0"}
    assert found["a"].tolist() == [(1, 2.5)] and found["0"].dtype == ml_dtypes.bfloat16


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        *(("bfloat16 a", "u1"), ("bfloat16 a", "u4"), ("bfloat16 a", "f2"), ("int4 a", "u2")),
        *(("nothing a", "u8"), ("__doc__ a", "u8"), ("finfo a", "u8"), ("ndarray a", "u8")),
    ],
)
def test_a_type_that_there_is_not_is_refused(line: str, kind: str) -> None:
    with pytest.raises(ValueError, match=r"is not an array of|is no type of numbers"):
        npz.typed({"a": np.zeros(4, kind), npz.TYPES: np.array([line])})


@pytest.mark.parametrize("line", ["int4 a", "nothing a"])
def test_a_file_of_types_that_there_are_not_is_refused(line: str, tmp_path: Path) -> None:
    content: Any = {"a": np.zeros(3, np.uint16), npz.TYPES: np.array([line])}
    np.savez(tmp_path / "a.npz", **content)
    with pytest.raises(BadInput, match=r"a\.npz: not a readable state: "):
        state.read(tmp_path / "a.npz")
    with pytest.raises(BadInput, match=r"a\.npz: not a readable file of arrays: "):
        files.arrays(tmp_path / "a.npz")


def test_a_state_of_bfloat16_is_given_back() -> None:
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, dtype="bfloat16")])
    model.compile(optimizer="adam")
    model.optimizer.build(model.trainable_variables)
    before = state.arrays(model, state.KEPT)
    assert {str(a.dtype) for k, a in before.items() if k.startswith("weights/")} == {"bfloat16"}
    model.set_weights([np.zeros_like(weight) for weight in model.get_weights()])
    state.assign(Path("state.npz"), model, before, state.KEPT)
    assert state.digest_of(state.arrays(model, state.KEPT)) == state.digest_of(before)


def test_a_state_is_given_whole_or_not_at_all() -> None:
    of, path, kinds = model(), Path("state.npz"), ("weights", "optimizer")
    good = {
        "weights/a/kernel": np.array([[5, 6]], np.float32),
        "weights/a/bias": np.array([7], np.float32),
        "optimizer/adam/m": np.array(8, np.float32),
    }
    before = state.arrays(of, kinds)
    more = good | {"weights/b": np.zeros(1), "weights/c": np.zeros(1)}
    less = {name: array for name, array in good.items() if name != "weights/a/bias"}
    for found, told in (
        (more, "this model has no weights/b; it belongs to another model or optimizer"),
        (less, "the saved state has no weights/a/bias; it belongs to another"),
        (
            good | {"weights/a/bias": np.zeros((1, 1))},
            r"a/bias: expected the shape \(1,\), got \(1, 1\)",
        ),
        (good | {"weights/a/bias": np.zeros(0)}, r"a/bias: expected the shape \(1,\), got \(0,\)"),
        (good | {"optimizer/adam/m": np.zeros(2)}, r"adam/m: expected the shape \(\), got \(2,\)"),
    ):
        with pytest.raises(BadInput, match=f"^state.npz: .*{told}"):
            state.assign(path, of, found, kinds)
        after = state.arrays(of, kinds)
        assert all((after[name] == before[name]).all() for name in before)
    state.assign(path, of, good, kinds)
    after = state.arrays(of, kinds)
    assert all((after[name] == good[name]).all() for name in good)
    assert of.metrics_variables[0].value == 2


def test_weights_are_taken_where_path_and_shape_are_the_same(tmp_path: Path) -> None:
    saved = {
        "weights/a/kernel": np.array([[5, 6]], np.float32),
        "weights/a/bias": np.array([7, 8], np.float32),
        "optimizer/adam/m": np.array(8, np.float32),
    }
    path, digest = tmp_path / "state.npz", state.digest_of(saved)
    state.save(path, saved)
    of = model()
    assert state.transfer(path, of, digest) == ["a/kernel"]
    assert of.weights[0].value.tolist() == [[5, 6]] and of.weights[1].value.tolist() == [3]
    assert of.optimizer.variables[0].value == 3
    for other in (variable("a/bias", 1), variable("a/bias", [1]), variable("a/bias", [1, 2, 3])):
        with pytest.raises(BadInput, match="no weight has path and shape in common"):
            state.transfer(path, model(variable("b", 1), other), digest)
    with pytest.raises(BadInput, match=r"expected the state with the digest .*, got another"):
        state.transfer(path, of, "0" * 64)


def test_what_callbacks_keep_is_taken_out_of_the_rest() -> None:
    kept = {f"callbacks/a/{n}": np.array(n) for n in range(12)}
    content = {"weights/a": np.array(9), **kept}
    assert [int(array) for array in state.take_kept(content).values()] == list(range(12))
    assert list(content) == ["weights/a"]
    assert state.take_kept(content) == {}


class Own:
    """Generators of a library and of a project, which have a state of their own."""

    def __init__(self) -> None:
        self.state, self.project = np.array([1, 2], np.uint8), {"any": [3, 4]}

    def generators(self) -> dict[str, np.ndarray]:
        return {"library": self.state}

    def restore(self, found: dict[str, np.ndarray]) -> None:
        (self.state,) = found.values()
        assert list(found) == ["library"]


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> Own:
    found = Own()
    monkeypatch.setattr(backends, "current", lambda: found)
    monkeypatch.setattr(outside, "states", lambda: found.project)
    monkeypatch.setattr(outside, "restore", lambda project: setattr(found, "project", project))
    monkeypatch.setattr(outside, "generators", lambda: {"own": np.array([5], np.uint8)})
    return found


def test_generators_outside_the_model_are_digested(own: Own) -> None:
    random.seed(1)
    np.random.seed(1)
    found = state.generators()
    # Written down once: what `random.seed(1)` and `np.random.seed(1)` leave.
    assert found == {
        "python": PYTHON,
        "numpy": NUMPY,
        "library": hashed(np.array([1, 2], np.uint8)),
        "own": hashed(np.array([5], np.uint8)),
    }
    with_host = state.with_host({"weights": {"w": "1"}, "generators": {"inside": "2", "own": "3"}})
    assert with_host == {"weights": {"w": "1"}, "generators": found | {"inside": "2", "own": "3"}}
    np.random.standard_normal()  # It keeps a second number for the next call.
    once = state.generators()
    np.random.standard_normal()
    assert len({found["numpy"], once["numpy"], state.generators()["numpy"]}) == 3


PYTHON = "b55f01246d4598a89048ef23011391ca54de147be40488b768da38e08df9ce74"
NUMPY = "e0bb2c4bd5b445b3be7e28794563dae5d80aa13c58eb507f5563f210d6de27c5"


def test_generators_outside_the_model_are_given_back(own: Own) -> None:
    random.seed(2)
    np.random.seed(2)
    random.gauss(0, 1)
    np.random.standard_normal()
    found = json.loads(json.dumps(state.host()))
    assert [*found] == ["python", "numpy", "project"] and found["project"] == {"any": [3, 4]}

    def draw() -> list[float]:
        return [random.gauss(0, 1), random.random(), np.random.standard_normal(), np.random.rand()]

    right = draw()
    random.seed(3)
    np.random.seed(3)
    own.project = {}
    state.restore_host(found)
    assert draw() == right
    assert own.project == {"any": [3, 4]}


# Checkpoints.


def test_a_checkpoint_is_two_files_that_are_read_back(tmp_path: Path, own: Own) -> None:
    of = model()
    folder = tmp_path / "checkpoints"
    checkpoints = Checkpoints(folder, 60, "recipe", 0)
    assert checkpoints.refused == []
    assert checkpoints.newest() is None and checkpoints.refused == []
    position = Position(
        3, 40, False, [{"loss": 0.5, "nan": float("inf")}], {"c": {"wait": 1}}, 7, "head"
    )
    kept = {"callbacks/c/0": np.array([1.5]), "callbacks/c/1": np.array([2.5])}
    random.seed(4)
    checkpoints.write(of, position, kept)
    assert sorted(path.name for path in folder.iterdir()) == [
        "000003-000000040.json",
        "000003-000000040.npz",
    ]
    tensors = folder / "000003-000000040.npz"
    assert sorted(state.read(tensors)) == sorted(
        [
            *("generators/seed", "generators/keras", "weights/a/kernel", "weights/a/bias"),
            *("optimizer/adam/m", "metrics/mean", *kept, "backend/library"),
        ]
    )
    digest, text = json.loads(tensors.with_suffix(".json").read_text())
    assert digest == hashlib.sha256(text.encode()).hexdigest()
    content = json.loads(text)
    assert content["sha256"] == hashlib.sha256(tensors.read_bytes()).hexdigest()
    assert content["recipe"] == "recipe"
    found = Checkpoints(folder, 60, "recipe", 0).newest()
    assert found is not None and found.position == position
    assert (found.tensors, found.refused) == (tensors, [])
    right = random.random()
    random.seed(5)
    own.state, own.project = np.array([9, 9], np.uint8), {}
    for one in (*of.variables, *of.optimizer.variables):
        one.value = one.value + 1
    again = found.restore(of)
    assert {name: array.tolist() for name, array in again.items()} == {
        "callbacks/c/0": [1.5],
        "callbacks/c/1": [2.5],
    }
    assert random.random() == right
    assert own.state.tolist() == [1, 2] and own.project == {"any": [3, 4]}
    assert [v.value.tolist() for v in of.variables] == [[[1, 2]], [3], 1, 2]
    assert of.optimizer.variables[0].value == 3


def written(folder: Path, *places: tuple[int, int], recipe: str = "recipe") -> Checkpoints:
    checkpoints = Checkpoints(folder, 60, recipe, 0)
    for epoch, step in places:
        checkpoints.write(model(), Position(epoch, step), {})
    return checkpoints


def test_the_newest_two_stay_and_the_newest_whole_one_is_taken(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    checkpoints = written(folder, (1, 125), (2, 0), (9, 5), (10, 0))
    stay = ["000009-000000005", "000010-000000000"]
    assert sorted(p.name for p in folder.iterdir()) == [
        f"{n}.{e}" for n in stay for e in ("json", "npz")
    ]
    found = checkpoints.newest()
    assert found is not None and (found.position.epoch, found.refused) == (10, [])
    newest = folder / "000010-000000000.npz"
    whole = newest.read_bytes()
    told = ["000010-000000000.npz: torn or altered, not used"]
    record = newest.with_suffix(".json")
    text = record.read_text()
    damages: list[tuple[Path, bytes]] = [
        (newest, whole[:-1]),
        (newest, whole[:-1] + bytes([whole[-1] ^ 1])),
        (record, text.encode()[:-1]),
        (record, b"[]"),
        (record, b"7"),
        (record, b'["0", 7]'),
        (record, text.replace('\\"epoch\\": 10', '\\"epoch\\": 11').encode()),
    ]
    for content in ("{}", "[]", "7"):
        seal = hashlib.sha256(content.encode()).hexdigest()
        damages.append((record, json.dumps([seal, content]).encode()))
    for digest in ("0" * 64, "f" * 64):
        damages.append((record, json.dumps([digest, json.loads(text)[1]]).encode()))
        content = json.dumps(json.loads(json.loads(text)[1]) | {"sha256": digest})
        seal = hashlib.sha256(content.encode()).hexdigest()
        damages.append((record, json.dumps([seal, content]).encode()))
    for path, damaged in damages:
        before = path.read_bytes()
        assert damaged != before
        path.write_bytes(damaged)
        found = checkpoints.newest()
        assert found is not None and (found.position.epoch, found.refused) == (9, told), damaged
        assert checkpoints.refused == told
        path.write_bytes(before)
    newest.unlink()
    found = checkpoints.newest()
    assert found is not None and (found.position.epoch, found.position.step) == (9, 5)


@pytest.mark.parametrize("recipe", ["another", "zzz"])
def test_the_checkpoint_of_another_recipe_is_refused(recipe: str, tmp_path: Path) -> None:
    written(tmp_path, (1, 0))
    with pytest.raises(
        Parted, match=re.escape(f"{tmp_path}") + ".*belongs to another recipe"
    ) as refused:
        Checkpoints(tmp_path, 60, recipe, 0).newest()
    assert refused.value.where == Divergence(
        "data", 0, 0, "sources", "recipe", "recipe", recipe, ["recipe"]
    )


def test_what_a_kill_left_of_a_checkpoint_goes(tmp_path: Path) -> None:
    torn, other = tmp_path / "000000-000000125.npz.new", tmp_path / "kept.txt"
    torn.touch()
    other.touch()
    (tmp_path / "000001-000000000.npz").touch()
    checkpoints = written(tmp_path, (1, 0), (1, 5))
    assert not torn.exists() and other.exists()
    # Of one of those that go, the tensors may have gone already.
    (tmp_path / "000001-000000000.npz").unlink()
    checkpoints.write(model(), Position(2, 0), {})
    assert len(list(tmp_path.glob("*.json"))) == 2


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr("time.monotonic", found)
    return found


def test_a_checkpoint_is_due_when_its_time_has_come(tmp_path: Path, clock: Clock) -> None:
    def due(
        seconds: float, ended: bool, interval: float = 60, size: float = 0, enough: bool = True
    ) -> bool:
        clock.now = 100.0
        checkpoints = Checkpoints(tmp_path, interval, "", int(size), enough)
        clock.now += seconds
        assert checkpoints.due(ended, wanted=True) is enough
        return checkpoints.due(ended)

    assert due(0, ended=True) and due(60, ended=False)
    assert not due(59.9, ended=False)
    # 3 s to write, as long as nothing is known but its size: at most 3 % of 100 s.
    big = 300e6
    assert not due(99.9, ended=True, size=big) and not due(99.9, ended=False, size=big)
    assert due(100.1, ended=True, size=big) and due(100.1, ended=False, size=big)
    assert not due(100.1, ended=False, size=big, interval=200)
    assert due(0, ended=False, interval=0, size=big) and due(0, ended=True, interval=0)
    assert not due(0, ended=True, enough=False) and not due(0, False, interval=0, enough=False)


def test_what_a_checkpoint_took_decides_when_the_next_is_due(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = Checkpoints(tmp_path, 60, "", 0)
    save = state.save

    def slow(path: Path, content: dict[str, np.ndarray]) -> None:
        save(path, content)
        clock.now += 6

    monkeypatch.setattr(state, "save", slow)
    clock.now = 50
    checkpoints.write(model(), Position(1), {})
    assert checkpoints.seconds == 6
    clock.now = 56 + 199
    assert not checkpoints.due(True)
    clock.now = 56 + 201
    assert checkpoints.due(True)
    checkpoints.write(model(), Position(2), {})
    assert checkpoints.seconds == 12


def test_nothing_is_refused_where_nothing_is_torn(tmp_path: Path) -> None:
    checkpoints = written(tmp_path, (1, 0))
    (tmp_path / "000002-000000000.json").write_text("[]")
    assert checkpoints.newest() is not None
    assert len(checkpoints.refused) == 1
    (tmp_path / "000002-000000000.json").unlink()
    assert checkpoints.newest() is not None
    assert checkpoints.refused == []


def test_a_vocabulary_is_digested_by_the_path_of_its_layer() -> None:
    plain = SimpleNamespace(path="a/dense")
    words = SimpleNamespace(path="a/words", get_vocabulary=lambda: ["", "[UNK]", np.str_("one")])
    of: Any = SimpleNamespace(_flatten_layers=lambda: [plain, words])
    digest = hashlib.sha256(b'["","[UNK]","one"]').hexdigest()
    assert state.vocabularies(of) == {"vocabulary": {"a/words": digest}}
    of = SimpleNamespace(_flatten_layers=lambda: [plain])
    assert state.vocabularies(of) == {}


def test_a_layer_that_was_never_built_is_called_by_its_name() -> None:
    """As the one within a TextVectorization, which has no path."""
    layers = [
        SimpleNamespace(path=None, name="lookup", get_vocabulary=lambda word=word: [word])
        for word in ("one", "other")
    ]
    of: Any = SimpleNamespace(_flatten_layers=lambda: layers)
    assert state.vocabularies(of)["vocabulary"] == {
        "lookup": hashlib.sha256(b'["one"]').hexdigest(),
        "lookup#2": hashlib.sha256(b'["other"]').hexdigest(),
    }


def test_it_is_said_where_no_checkpoint_is_whole(tmp_path: Path) -> None:
    checkpoints = written(tmp_path, (1, 0))
    (tmp_path / "000001-000000000.npz").unlink()
    assert checkpoints.newest() is None
    assert checkpoints.refused == [
        "000001-000000000.npz: torn or altered, not used",
        "no checkpoint is whole, so this run begins again",
    ]

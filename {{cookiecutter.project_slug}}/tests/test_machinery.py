"""The machinery on its own, without TensorFlow: quick."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repro import BadInput, Part, determinism, ledger, parameters, sha256, surroundings
from repro import recipe as recipes

PROJECT = recipes.Project.find(Path(__file__).parent)


def resolve(*overrides: str) -> dict[str, Any]:
    return parameters.resolve(PROJECT.source, PROJECT.root / "params.yaml", overrides)


def test_the_file_spells_out_every_default(tmp_path: Path) -> None:
    bare = tmp_path / "params.yaml"
    names = {group: resolve()[group]["name"] for group in ("data", "model", "optimizer")}
    bare.write_text("".join(f"{group}: {{name: {name}}}\n" for group, name in names.items()))
    assert parameters.resolve(PROJECT.source, bare) == resolve()


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
        parameters.resolve(PROJECT.source, path)
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


def test_a_refusal_takes_no_heavy_import() -> None:
    code = "import sys; from repro.__main__ import main; main(['train', 'a=1']); "
    code += "print(sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=PROJECT.root
    )
    assert "a: unknown parameter" in done.stderr
    assert not {"'tensorflow'", "'keras'", "'numpy'"} & set(done.stdout.strip("[]\n").split(", "))


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


def test_parts_have_as_many_targets_as_samples() -> None:
    with pytest.raises(BadInput):
        Part(np.zeros((3, 2)), np.zeros(4))
    with pytest.raises(BadInput):
        Part(np.zeros((0, 2)), np.zeros(0))


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


def test_no_setting_of_the_shell_reaches_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    from repro import launcher

    for name in ("TF_ENABLE_ONEDNN_OPTS", "OMP_NUM_THREADS", "PYTHONHASHSEED", "XLA_FLAGS"):
        monkeypatch.setenv(name, "7")
    monkeypatch.setenv("MY_OWN", "kept")
    for guarantee in ("portable", "machine", "none"):
        env = launcher.environment(resolve(f"guarantee={guarantee}"), [], 0)
        assert env["MY_OWN"] == "kept"
        assert "XLA_FLAGS" not in env
        assert env.get("PYTHONHASHSEED") == (None if guarantee == "none" else "0")


def test_the_surroundings_really_change(tmp_path: Path) -> None:
    code = (
        "import glob, json, os, pathlib, sys, time\n"
        "from repro import surroundings\n"
        "surroundings.enter(json.loads(sys.argv[1]), 1)\n"
        "here = pathlib.Path(sys.argv[2])\n"
        "with os.scandir(here) as found:\n"
        "    scanned = [entry.name for entry in found]\n"
        "walked = next(os.walk(here))[2]\n"
        "print(json.dumps([os.listdir(here), scanned, walked, [p.name for p in here.iterdir()],\n"
        "    time.time(), list({'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h'})]))\n"
    )
    for name in "abcdefgh":
        (tmp_path / name).touch()

    def look(*varied: str) -> list[Any]:
        env = {**surroundings.environment([], 0), "PYTHONHASHSEED": "0", "PATH": ""}
        env |= {"PYTHONPATH": str(PROJECT.root / "src")}
        env |= surroundings.environment(list(varied), 1)
        command = [sys.executable, "-c", code, json.dumps(varied), str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, env=env, check=True)
        found: list[Any] = json.loads(done.stdout)
        return found

    ordinary, varied = look(), look(*surroundings.VARIATIONS)
    for one, other in zip(ordinary[:4], varied[:4], strict=True):
        assert list(one) == list(other)[::-1]
    assert abs(varied[4] - ordinary[4]) > 1e6
    assert sorted(ordinary[5]) == sorted(varied[5])
    assert ordinary[5] != varied[5]


def test_runs_are_found_by_the_beginning_of_their_id(tmp_path: Path) -> None:
    project = recipes.Project(tmp_path, "any")
    for name in ("20260101-a", "20260101-b", "20260202-c"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        recipes.write_manifest(tmp_path / "runs" / name, {"recipe": {}})
    assert recipes.find_run(project, "20260202").name == "20260202-c"
    for name in ("20260101", "2027"):
        with pytest.raises(BadInput):
            recipes.find_run(project, name)

"""Studies: what is planned, what the table says, and that a row is an ordinary training."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from repro import BadInput, launcher, study, table
from repro import recipe as recipes
from repro.search import METHODS, Repetitions, Search

PROJECT = recipes.Project.find(Path(__file__).parent)


def points(method: str, number: int, *texts: str, seed: int = 1) -> list[dict[str, Any]]:
    return Search.read(texts).configurations(method, number, seed)


def test_a_grid_is_every_combination_and_keeps_what_is_fixed() -> None:
    search = Search.read(["training.batch_size=16, 32", "seed=[1], 2", "threads=1"])
    assert search.fixed == ["threads=1"]
    assert search.configurations("grid", None, 1) == [
        {"training.batch_size": 16, "seed": [1]},
        {"training.batch_size": 16, "seed": 2},
        {"training.batch_size": 32, "seed": [1]},
        {"training.batch_size": 32, "seed": 2},
    ]
    assert Search.read(["training.metrics=[accuracy]"]).choices == {}
    assert Search.read(["a=1,1"]).configurations("grid", None, 1) == [{"a": 1}]


@settings(deadline=None)
@given(
    method=st.sampled_from(METHODS[1:]),
    number=st.integers(1, 40),
    low=st.floats(1e-6, 1),
    factor=st.floats(1.01, 1e6),
    log=st.booleans(),
    whole=st.integers(1, 50),
    seed=st.integers(0, 2**32 - 1),
)
def test_points_lie_in_their_ranges(
    method: str, number: int, low: float, factor: float, log: bool, whole: int, seed: int
) -> None:
    high = low * factor
    texts = (f"a={low!r}..{high!r}{' log' * log}", f"b={whole}..{whole + 3}", "c=x,y")
    found = points(method, number, *texts, seed=seed)
    assert found == points(method, number, *texts, seed=seed)
    assert 1 <= len(found) <= number
    for one in found:
        assert low * 0.999 <= one["a"] <= high * 1.001  # Four digits are kept.
        assert isinstance(one["b"], int) and whole <= one["b"] <= whole + 3
        assert one["c"] in ("x", "y")


def test_a_latin_hypercube_has_a_point_in_every_slice() -> None:
    found = points("latin_hypercube", 10, "a=0.0..1.0", "b=1e-5..1.0 log")
    assert sorted(int(one["a"] * 10) for one in found) == list(range(10))


def test_more_random_points_keep_the_first_ones() -> None:
    texts = ("a=0.0..1.0", "b=1,2,3")
    assert points("random", 20, *texts)[:5] == points("random", 5, *texts)
    assert points("random", 5, *texts) != points("random", 5, *texts, seed=2)


def test_repetitions_share_the_recipes_seed_and_derive_the_others() -> None:
    assert Repetitions().values(7) == [{}]
    seeds = [one["seed"] for one in Repetitions(seeds=4).values(7)]
    assert seeds[0] == 7 and len(set(seeds)) == 4
    assert seeds[:3] == [one["seed"] for one in Repetitions(seeds=3).values(7)]
    assert Repetitions(seeds=3).values(None) == [{}, {}, {}]
    folds = Repetitions(folds=3, repeats=2, outer_folds=2, seeds=2).values(7)
    assert len(folds) == 3 * 2 * 2 * 2 == len({json.dumps(one) for one in folds})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("sweep", "training.batchsize=1,2"), "nearest valid name: training.batch_size"),
        (("sweep", "training.batch_size=16,0"), "training.batch_size: expected"),
        (("sweep", "training.batch_size=16..64"), "a grid needs values"),
        (("sweep", "training.batch_size"), "expected key=value,value"),
        (("sweep", "seed=1,{"), "not valid values"),
        (("sweep", "--method", "sobol", "seed=1..9"), "--trials: expected how many"),
        (("sweep", "--method", "sobol", "--trials", "3"), "expected a parameter with values"),
        (("sweep", "--method", "gird"), "expected one of grid"),
        (("sweep", "--method", "random", "--trials", "3", "seed=9..1"), "lowest..highest"),
        (("sweep", "--method", "random", "--trials", "3", "seed=0..9 log"), "more than 0"),
        (("sweep", "--trials", "3", "seed=1,2"), "grid, which tries all"),
        (("sweep", "--seeds", "0", "seed=1,2"), "--seeds: expected 1 or more"),
        (("sweep", "--workers", "0", "seed=1,2"), "--workers: expected 1 or more"),
        (("sweep", "--monitor", "test_loss", "seed=1,2"), "val_loss would do"),
        (("sweep", "--monitor", "val_return", "seed=1,2"), "whether more of it is better is not"),
        (("sweep", "--monitor", "val_acuracy", "seed=1,2"), "nearest valid name: accuracy"),
        (("sweep", "preset=mnist_dens", "seed=1,2"), "nearest valid name: mnist_dense"),
        (("sweep", "--scheduler", "nowhere", "seed=1,2"), "--scheduler: nowhere"),
        (("sweep", "--scheduler", "tcp://127.0.0.1:9", "seed=1,2"), "tcp://127.0.0.1:9"),
        (("cross-validate", "--folds", "1"), "--folds: expected 2 or more"),
        (("cross-validate", "--strategy", "stratifed"), "split.strategy: expected"),
    ],
)
def test_a_wrong_study_is_refused_in_one_line(arguments: tuple[str, ...], message: str) -> None:
    before = set(PROJECT.root.glob("studies/*")) | set(PROJECT.runs.glob("*"))
    done = subprocess.run(
        [sys.executable, "-m", "repro", *arguments],
        capture_output=True,
        text=True,
        cwd=PROJECT.root,
    )
    assert done.returncode == 2, done.stdout + done.stderr
    assert message in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert set(PROJECT.root.glob("studies/*")) | set(PROJECT.runs.glob("*")) == before


def spelt_out(preset: dict[str, Any], group: str = "") -> Iterator[str]:
    """The values of a preset as they would stand on the command line."""
    for name, value in preset.items():
        if isinstance(value, dict) and not group:
            yield from spelt_out(value, f"{name}.")
        else:
            yield f"{group}{name}={json.dumps(value)}"


def test_every_preset_is_a_recipe_and_overrides_come_after_it() -> None:
    for path in sorted(PROJECT.root.glob("presets/*.yaml")):
        recipe = recipes.make(PROJECT, ["training.epochs=7", f"preset={path.stem}"])
        assert recipe["parameters"]["training"]["epochs"] == 7
        # What a preset does not name stays what params.yaml says.
        values = spelt_out(YAML(typ="safe", pure=True).load(path))
        assert recipe == recipes.make(PROJECT, [*values, "training.epochs=7"]), path.stem


def planned(configurations: int, repetitions: int, monitor: str = "val_loss") -> dict[str, Any]:
    return {
        "kind": "sweep",
        "monitor": monitor,
        "larger_is_better": study.maximised(monitor),
        "configurations": [{"training.batch_size": 2**n} for n in range(configurations)],
        "trials": [
            {"trial": c * repetitions + r, "configuration": c, "repetition": {"seed": r}}
            for c in range(configurations)
            for r in range(repetitions)
        ],
    }


def result(trial: int, value: float, failed: str | None = None) -> dict[str, Any]:
    if failed:
        return {"trial": trial, "failed": failed}
    return {
        "trial": trial,
        "failed": None,
        "run": f"run-{trial}",
        "digest": f"{trial}",
        "metrics": {"loss": 0.0, "val_loss": value, "val_accuracy": 1 - value},
        "guarantee": {"holds": "machine", "broken": []},
    }


def test_a_table_has_mean_and_deviation_and_the_best_by_what_is_watched() -> None:
    values = [0.5, 0.7, 0.2, 0.3, 0.1, float("nan")]
    results = {n: result(n, value) for n, value in enumerate(values)}
    for monitor in ("val_loss", "val_accuracy"):
        answer = table.answer(planned(3, 2, monitor), results)
        assert answer["rows"][0]["metrics"]["val_loss"]["mean"] == pytest.approx(0.6)
        assert answer["rows"][0]["metrics"]["val_loss"]["deviation"] == pytest.approx(0.02**0.5)
        assert answer["best"]["configuration"] == 1 and answer["best"]["run"] == "run-2"
        heads, rows = table.columns(answer)
        assert heads == ["batch_size", "trials", "val_loss", "val_accuracy"]
        assert rows[1] == ["2", "2", "0.2500 ± 0.0707", "0.7500 ± 0.0707"]


def test_a_configuration_with_a_failed_trial_is_not_the_best() -> None:
    results = {
        0: result(0, 0.9),
        1: result(1, 0.8),
        2: result(2, 0.1),
        3: result(3, 0, "no memory"),
    }
    answer = table.answer(planned(2, 2), results)
    assert answer["failed"] == 1 and answer["best"]["configuration"] == 0
    assert table.answer(planned(2, 2), {})["best"] is None


@pytest.mark.parametrize(
    ("guarantee", "devices"),
    [("machine", []), ("machine", ["0", "3"]), ("portable", [])],
    ids=["cores", "GPUs", "GPUs that are not used"],
)
def test_a_machine_is_not_given_more_than_it_holds(
    guarantee: str, devices: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from repro import workers

    monkeypatch.setattr(workers, "cpu_count", lambda: 4)
    visible = "0,3" if guarantee == "portable" else ",".join(devices)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(workers, "LONG_WAIT", 0)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    told: list[dict[str, Any]] = []
    now: list[tuple[int, str | None]] = []
    seen: list[list[tuple[int, str | None]]] = []

    def train(threads: int) -> None:
        recipe = {"parameters": {"threads": threads, "guarantee": guarantee}}
        assert workers.slots(recipe["parameters"]) == (len(devices) or max(1, 4 // threads))
        task = workers.Task("study", "run", recipe, (), "root", "code")
        with workers._slot(task, "session", told.append) as gpu:
            now.append((threads, gpu))
            seen.append(list(now))
            time.sleep(0.05)
            now.remove((threads, gpu))

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(train, [1, 2, 3, 1, 9, 3] * 2))  # More threads than cores have them all.
    assert len(seen) == 12 and max(map(len, seen)) > 1
    waited = {event["needed"] for event in told}
    possible = {"a GPU"} if devices else {f"{needed} of 4 cores" for needed in (1, 2, 3, 4)}
    assert waited and waited <= possible
    for running in seen:
        if devices:
            assert len({gpu for _, gpu in running}) == len(running)
            assert {gpu for _, gpu in running} <= set(devices)
        else:
            assert sum(min(threads, 4) for threads, _ in running) <= 4
            assert {gpu for _, gpu in running} == {None}


def test_a_row_is_an_ordinary_training_and_early_stopping_ends_with_its_best_epoch() -> None:
    def repro(*arguments: str) -> dict[str, Any]:
        done = subprocess.run(
            [sys.executable, "-m", "repro", *arguments, "--json"],
            capture_output=True,
            text=True,
            cwd=PROJECT.root,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    stop = (
        "callbacks.early_stopping.patience=1",
        "callbacks.early_stopping.restore_best_weights=true",
        "optimizer.learning_rate=0.03",
        "training.epochs=4",
    )
    answer = repro("sweep", "training.batch_size=64,128", *stop)
    assert answer["verification"]["verdict"] == "identical"
    assert answer["failed"] == 0 and len(answer["trials"]) == 2
    best = answer["best"]
    alone = repro("train", f"training.batch_size={best['values']['training.batch_size']}", *stop)
    (row,) = (t for t in answer["trials"] if t["run"] == best["run"])
    assert (alone["digest"], alone["metrics"]) == (row["digest"], row["metrics"])
    history = json.loads((PROJECT.runs / best["run"] / "history.json").read_text())
    assert not any(name.startswith("test_") for epoch in history for name in epoch)
    assert row["metrics"]["val_loss"] == min(epoch["val_loss"] for epoch in history)


@pytest.mark.skipif(os.name == "nt", reason="its results are not locked there")
def test_a_study_that_was_just_killed_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = recipes.Project(tmp_path, "any")
    planned = {"kind": "sweep", "digest": "abcdef", "trials": []}
    ending = study.Study(project, planned)
    monkeypatch.setattr(launcher, "ENDING", 0.1)
    with pytest.raises(BadInput, match="still going on"):
        study.Study(project, planned)
    monkeypatch.setattr(launcher, "ENDING", 60)
    threading.Timer(0.3, ending.__exit__, (None, None)).start()
    with study.Study(project, planned) as again:
        assert again.directory == ending.directory

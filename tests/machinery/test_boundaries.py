"""The loop and its boundaries, with a model in NumPy: its trainings are computed by hand beside it,
and interrupted. `test_loop.py` does the same with models of Keras."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import examples
import keras
import numpy as np
import pytest
import trainings
from keras.src.random import seed_generator
from trainings import (
    ALL,
    CHUNK,
    ORDERS,
    PARTS,
    SLOW,
    Bench,
    Killed,
    Variable,
    batches,
    by_hand,
    digest,
    entries,
)

from repro.basics.errors import BadInput
from repro.data import feed
from repro.environment.determinism import Promise
from repro.recipe.parameters import Named, Training
from repro.run import boundary, loop, outside, state, steps
from repro.run.callbacks import Watcher, Watchers
from repro.run.ending import Ending, Memory
from repro.run.events import Epoch, Event, Start, Step
from repro.run.ledger import Ledger
from repro.run.manifest import Surroundings

OF_KERAS = Variable("keras", np.array([1, 2], np.uint32))
"""In place of the state of Keras's global generator."""


AS_IT_IS = feed.CHUNK


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "CHUNK", CHUNK)
    generator = SimpleNamespace(state=OF_KERAS)
    monkeypatch.setattr(seed_generator, "global_seed_generator", lambda: generator)
    monkeypatch.setattr(outside, "_kept", [])
    monkeypatch.setattr(outside, "_generators", {})


@pytest.fixture
def linear() -> Bench:
    return trainings.plain(OF_KERAS)


@pytest.fixture
def whole(monkeypatch: pytest.MonkeyPatch) -> Bench:
    """With all that a training remembers."""
    drawn = np.random.default_rng(3)
    bench = trainings.plain(OF_KERAS, drawn, noise=0.5, momentum=0.5)
    monkeypatch.setattr(outside, "_kept", [bench.model.outside])
    monkeypatch.setattr(outside, "_generators", {"drawn": drawn.bit_generator})
    return bench


@pytest.mark.parametrize(
    ("training", "orders"),
    [
        ({}, [ORDERS[epoch] for epoch in (1, 2, 3)]),
        ({"shuffle": False}, [[*range(7)]] * 3),
        ({"steps_per_epoch": 2}, [ORDERS[epoch][:4] for epoch in (1, 2, 3)]),
        ({"steps_per_epoch": 9}, [ORDERS[epoch] for epoch in (1, 2, 3)]),
        ({"initial_epoch": 1}, [ORDERS[epoch] for epoch in (2, 3)]),
        ({"batch_size": 7}, [ORDERS[epoch] for epoch in (1, 2, 3)]),
        ({"batch_size": 9}, [ORDERS[epoch] for epoch in (1, 2, 3)]),
        ({"batch_size": 1}, [ORDERS[epoch] for epoch in (1, 2, 3)]),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, dict) else "",
)
def test_a_training_is_what_numpy_makes_of_it(
    training: dict[str, Any], orders: list[list[int]], linear: Bench, tmp_path: Path
) -> None:
    linear.fresh()
    made = linear.train(tmp_path, linear.parameters(epochs=3, **training))
    size = training.get("batch_size", 2)
    seen = [batch for chunk in linear.steps_of["train"].indices for batch in chunk]
    assert seen == [batch for order in orders for batch in batches(order, size)]
    assert max(map(len, linear.steps_of["train"].indices)) <= CHUNK
    expected = list(by_hand(orders, size=size))
    for found, right in zip(made.history, expected, strict=True):
        assert found == pytest.approx({n: right[n] for n in ("loss", "val_loss")}, rel=1e-5)
    assert made.results == made.history[-1]
    weights, bias = linear.model.get_weights()
    assert weights == pytest.approx(expected[-1]["weights"], rel=1e-5)
    assert bias == pytest.approx(expected[-1]["bias"], rel=1e-5)
    assert made.ending.memory.history == made.history
    assert made.ending.memory.epochs == 3
    assert made.ending.memory.learning_rate == 0.125


def test_an_epoch_without_a_validation_has_none_but_the_last_one(
    linear: Bench, tmp_path: Path
) -> None:
    linear.fresh()
    made = linear.train(tmp_path, linear.parameters(epochs=3, validation_freq=2))
    expected = list(by_hand([ORDERS[epoch] for epoch in (1, 2, 3)]))
    assert [list(found) for found in made.history] == [["loss"], ["loss", "val_loss"], ["loss"]]
    last = {name: expected[2][name] for name in ("loss", "val_loss")}
    assert made.results == pytest.approx(last, rel=1e-5)


@pytest.mark.parametrize(("size", "seen"), [(None, [2, 2, 1]), (4, [4, 1]), (1, [1] * 5)])
def test_a_validation_has_batches_of_its_own(
    size: int | None, seen: list[int], linear: Bench, tmp_path: Path
) -> None:
    linear.fresh()
    linear.train(tmp_path, linear.parameters(epochs=1, validation_batch_size=size))
    calls = linear.steps_of["validation"].indices
    found = [batch for chunk in calls for batch in chunk]
    assert [index for batch in found for index in batch] == [0, 1, 2, 3, 4]
    assert [len(batch) for batch in found] == seen
    assert linear.steps_of["test"].indices == []


def test_what_a_training_says_while_it_goes_on(linear: Bench, tmp_path: Path) -> None:
    linear.fresh()
    said: list[Event] = []
    made = linear.train(tmp_path, linear.parameters(epochs=2), said.append)
    losses = [event.loss for event in said if isinstance(event, Step)]
    steps_said: list[Event] = [
        Step(epoch, 2, step, 4, loss)
        for (epoch, step), loss in zip(
            [(e, s) for e in (1, 2) for s in (2, 3, 4)], losses, strict=True
        )
    ]
    epochs: list[Event] = [Epoch(n + 1, 2, found) for n, found in enumerate(made.history)]
    start = Start(Promise("machine", "machine", []), [], [], 0, 0)
    assert said == [start, *steps_said[:3], epochs[0], *steps_said[3:], epochs[1]]
    # The loss of an epoch so far; at its end, that of the epoch.
    assert [losses[2], losses[5]] == [found["loss"] for found in made.history]
    first = batches(ORDERS[1])[:2]
    w, b, total = np.zeros((2, 1)), np.zeros(1), 0.0
    for batch in first:
        error = PARTS.train.x[batch] @ w + b - PARTS.train.y[batch]
        total += float((error**2).mean()) / 2
        w, b = w - 0.125 * PARTS.train.x[batch].T @ error, b - 0.125 * error.sum(0)
    assert losses[0] == pytest.approx(total, rel=1e-5)


def test_the_ledger_has_each_boundary(linear: Bench, tmp_path: Path) -> None:
    linear.fresh()
    made = linear.train(tmp_path, linear.parameters(epochs=2))
    found = entries(tmp_path)
    places = [(e["stage"], e["epoch"], e["step"]) for e in found]
    expected = [("environment", 0, 0)]
    for epoch in (1, 2):
        expected += [("step", epoch, 2), ("step", epoch, 3), ("step", epoch, 4)]
        expected += [("epoch", epoch, 4)]
    assert places == expected
    chunks = [[[0, 1], [2, 3]], [[4, 5]], [[6]]]
    for number, epoch in ((1, 1), (5, 2)):
        order = np.array(ORDERS[epoch], np.int32)
        for entry, chunk in zip(found[number : number + 3], chunks, strict=True):
            assert entry["order"] == {"indices": digest(order[np.array(chunk)])}
    head = ""
    for entry in found:
        given = entry.pop("head")
        text = json.dumps(entry, sort_keys=True)
        head = hashlib.sha256((head + text).encode()).hexdigest()
        assert given == head
    common = {"stage", "epoch", "step", "generators", "metrics"}
    assert {*found[1]} == common | {"order"}
    assert {*found[4]} == common | {"weights", "optimizer", "results"}
    (kernel, bias), (paths) = linear.model.weights, [v.path for v in linear.model.weights]
    assert found[-1]["weights"] == dict(zip(paths, map(digest, (kernel, bias)), strict=True))
    optimizer = {v.path: digest(v) for v in linear.model.optimizer.variables}
    assert found[-1]["optimizer"] == optimizer
    last = made.history[-1]
    assert found[-1]["results"] == {name: value.hex() for name, value in last.items()}
    # The metrics of an epoch are those of its training, before the validation began them anew.
    assert found[-1]["metrics"] == found[-2]["metrics"] != found[-3]["metrics"]
    assert {*found[-1]["generators"]} == {"plain/drawn", "keras", "python", "numpy"}


def test_a_boundary_is_told_before_each_chunk(
    linear: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[int, int, Any, int]] = []

    def before(self: Any, epoch: int, step: int, chunk: feed.Chunk) -> None:
        told.append((epoch, step, chunk.indices.tolist(), len(linear.steps_of["train"].indices)))

    monkeypatch.setattr(boundary.Boundary, "before", before)
    linear.fresh()
    linear.train(tmp_path, linear.parameters(epochs=2))
    made = linear.steps_of["train"].indices
    ends = [(epoch, step) for epoch in (1, 2) for step in (2, 3, 4)]
    assert told == [(*end, chunk, n) for n, (end, chunk) in enumerate(zip(ends, made, strict=True))]


@pytest.mark.parametrize("shuffle", [True, False])
def test_an_order_has_one_type(shuffle: bool) -> None:
    """Else the digest in the ledger would be another."""
    order = loop.order_of(Training(shuffle=shuffle), 1234, 1, 7)
    assert order.dtype == np.int32
    assert order.tolist() == (ORDERS[1] if shuffle else [*range(7)])


def test_in_an_epoch_no_checkpoint_is_written_before_its_time(
    linear: Bench, tmp_path: Path
) -> None:
    linear.fresh()
    linear.train(tmp_path, linear.parameters(epochs=1), seconds=1e9)
    (kept,) = (tmp_path / "checkpoints").glob("*.json")
    assert kept.stem == "000002-000000000"


def test_nothing_is_killed_that_was_not_asked_for() -> None:
    assert inspect.signature(boundary.Boundary).parameters["killed"].default is False


def test_a_chunk_has_125_steps() -> None:
    """The ledgers of recorded runs have their entries there."""
    assert AS_IT_IS == 125


def test_the_ledger_is_on_the_disk_before_the_checkpoint(
    linear: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    sync, write = Ledger.sync, state.Checkpoints.write

    def synced(self: Ledger) -> None:
        calls.append("sync")
        sync(self)

    def written(self: state.Checkpoints, *arguments: Any) -> None:
        calls.append("write")
        write(self, *arguments)

    monkeypatch.setattr(Ledger, "sync", synced)
    monkeypatch.setattr(state.Checkpoints, "write", written)
    linear.fresh()
    linear.train(tmp_path, linear.parameters(epochs=1), seconds=0)
    assert calls == ["sync", "write"] * 4 + ["sync"]


@pytest.mark.parametrize(("callbacks", "epochs"), [((), 2), (ALL, 9)], ids=["plain", "callbacks"])
def test_a_training_that_is_interrupted_at_each_boundary_ends_in_the_same_bits(
    callbacks: Sequence[Named], epochs: int, whole: Bench, tmp_path: Path
) -> None:
    trainings.interrupted(whole, whole.parameters(callbacks, epochs=epochs), tmp_path)


@pytest.mark.parametrize("callbacks", [(), SLOW], ids=["plain", "callbacks"])
def test_one_epoch_and_two_that_go_on_from_it_are_three(
    callbacks: Sequence[Named], whole: Bench, tmp_path: Path
) -> None:
    trainings.in_two_parts(whole, callbacks, tmp_path)


@pytest.mark.parametrize(
    ("samples", "single_after", "right"),
    [
        (7, None, [[[0, 1], [2, 3]], [[4, 5]], [[6]]]),
        (8, None, [[[0, 1], [2, 3]], [[4, 5], [6, 7]]]),
        (7, 0, [[[0, 1]], [[2, 3]], [[4, 5]], [[6]]]),
        (9, 1, [[[0, 1]], [[2, 3]], [[4, 5]], [[6, 7]], [[8]]]),
        (8, 2, [[[0, 1], [2, 3]], [[4, 5]], [[6, 7]]]),
        (8, 3, [[[0, 1], [2, 3]], [[4, 5]], [[6, 7]]]),
        (8, 4, [[[0, 1], [2, 3]], [[4, 5], [6, 7]]]),
        (1, None, [[[0]]]),
        (0, None, []),
    ],
)
def test_an_order_is_cut_into_chunks_of_batches(
    samples: int, single_after: int | None, right: list[list[list[int]]]
) -> None:
    found = list(steps.chunks(np.arange(samples), 2, CHUNK, single_after))
    assert [chunk.tolist() for chunk in found] == right


@pytest.mark.parametrize(("samples", "batch_size"), [(7, 2), (8, 2), (10, 2), (11, 1), (3, 5)])
@pytest.mark.parametrize(("begun", "epochs"), [(0, 1), (0, 2), (0, 3), (2, 5), (4, 5)])
def test_the_middle_of_a_training_is_the_end_of_the_chunk_that_has_its_middle_step(
    samples: int, batch_size: int, begun: int, epochs: int
) -> None:
    ends = []
    for epoch in range(begun + 1, epochs + 1):
        step = 0
        for chunk in steps.chunks(np.arange(samples), batch_size, CHUNK):
            step += len(chunk)
            ends += [(epoch, step)] * len(chunk)
    length = boundary.Length(begun, epochs, samples, batch_size, CHUNK)
    assert length.steps == len(ends) / (epochs - begun)
    assert length.middle == ends[(len(ends) + 1) // 2 - 1]


def killing(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Has a process that would kill itself raise `Killed`, and notes what it was to do."""
    found: list[tuple[int, int]] = []

    def kill(process: int, number: int) -> None:
        found.append((process, number))
        raise Killed

    monkeypatch.setattr(boundary.os, "kill", kill)  # type: ignore[attr-defined]
    return found


STOPPED = (
    examples.named("callbacks", "EarlyStopping", patience=1, min_delta=99.0, monitor="loss"),
)


@pytest.mark.parametrize(
    ("callbacks", "epochs", "where"),
    [
        ((), 2, (1, 4, False)),
        ((), 1, (1, 2, False)),
        # It ends before the middle of its nine epochs.
        (STOPPED, 9, (3, 0, True)),
    ],
)
def test_a_run_that_is_to_be_killed_is_killed_once_and_goes_on(
    callbacks: Sequence[Named],
    epochs: int,
    where: tuple[int, int, bool],
    linear: Bench,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parameters = linear.parameters(callbacks, epochs=epochs)
    linear.fresh()
    right = linear.train(tmp_path / "whole", parameters)
    killed = killing(monkeypatch)
    varied = Surroundings(varied=["killed"])
    linear.fresh()
    with pytest.raises(Killed):
        linear.train(tmp_path / "run", parameters, surroundings=varied, seconds=1e9)
    assert killed == [(os.getpid(), signal.SIGKILL)]
    kept = max((tmp_path / "run" / "checkpoints").glob("*.json"))
    position = json.loads(json.loads(kept.read_text())[1])["position"]
    assert (position["epoch"], position["step"], position["stopped"]) == where
    linear.other()
    made = linear.train(
        tmp_path / "run", parameters, surroundings=varied, resumed=["now"], seconds=1e9
    )
    assert len(killed) == 1
    assert made.history == right.history
    assert entries(tmp_path / "run") == entries(tmp_path / "whole")
    linear.fresh()
    linear.train(tmp_path / "another", parameters, seconds=1e9)
    assert len(killed) == 1


def test_the_best_weights_come_back_with_the_results_of_their_epoch(
    whole: Bench, tmp_path: Path
) -> None:
    whole.fresh()
    made = whole.train(tmp_path, whole.parameters(ALL, epochs=9))
    losses = [found["val_loss"] for found in made.history]
    best = losses.index(min(losses))
    assert len(losses) == best + 3 < 9  # Else the case shows nothing.
    assert made.results == made.history[best]
    epochs = [entry for entry in entries(tmp_path) if entry["stage"] == "epoch"]
    weights = {v.path: digest(v) for v in whole.model.weights}
    assert weights == epochs[best]["weights"] != epochs[-1]["weights"]
    # What another training would go on from is as it was at the end.
    last = {k.partition("/")[2]: digest(a) for k, a in made.ending.tensors.items()}
    assert {name: last[name] for name in weights} == epochs[-1]["weights"]
    assert made.ending.memory.callbacks["EarlyStopping"]["best_epoch"] == best
    # The learning rate is halved after each epoch that was not better.
    (rate,) = [v for v in whole.model.optimizer.variables if v.path.endswith("learning_rate")]
    assert made.history[best]["learning_rate"] == 0.125
    assert float(np.asarray(rate)) == 0.125 / 4


def remembered(rate: float = 0.5, epochs: int = 2, **early: Any) -> Ending:
    """How a training ended, with what early stopping remembers of it."""
    watched = {"EarlyStopping": {"best": 1.0, "wait": 0, "stopped_epoch": 0, **early}}
    return Ending(Memory(epochs, rate, watched, [], state.host()), {}, {})


@pytest.mark.parametrize("initial", [1, 3])
def test_callbacks_that_remember_epochs_go_on_from_the_last_of_them(initial: int) -> None:
    model: Any = SimpleNamespace(optimizer=SimpleNamespace())
    watcher = keras.callbacks.EarlyStopping()
    watchers = Watchers([Watcher("EarlyStopping", watcher)])
    asked = examples.parameters(
        training=Training(initial_epoch=initial),
        optimizer=examples.optimizer("SGD", learning_rate=0.5),
    )
    told = f"training.initial_epoch: expected 2, .* remember them; got {initial}$"
    with pytest.raises(BadInput, match=told):
        loop.go_on_from(remembered(), model, watchers, asked)
    loop.go_on_from(remembered(), model, Watchers(), asked)
    nothing = Ending(Memory(2, 0.5, {}, [], state.host()), {}, {})
    loop.go_on_from(nothing, model, watchers, asked)
    loop.go_on_from(remembered(epochs=initial), model, watchers, asked)
    assert watcher.best == 1.0


def test_early_stopping_that_has_waited_long_enough_is_refused() -> None:
    model: Any = SimpleNamespace(optimizer=SimpleNamespace())
    watchers = Watchers([Watcher("EarlyStopping", keras.callbacks.EarlyStopping(patience=3))])
    asked = examples.parameters(
        training=Training(initial_epoch=2), optimizer=examples.optimizer("SGD", learning_rate=0.5)
    )
    with pytest.raises(BadInput, match="would be stopped at once; raise callbacks"):
        loop.go_on_from(remembered(wait=3, stopped_epoch=1), model, watchers, asked)
    loop.go_on_from(remembered(wait=2, stopped_epoch=1), model, watchers, asked)


@pytest.mark.parametrize(
    ("rate", "schedule", "right"),
    [(0.5, None, 0.1), (0.25, None, 0.25), (0.75, None, 0.75), (0.25, "exponential", 0.1)],
)
def test_a_learning_rate_that_the_recipe_changed_is_the_recipes(
    rate: float, schedule: str | None, right: float
) -> None:
    """The other training had 0.5, which a callback reduced to 0.1."""
    model: Any = SimpleNamespace(optimizer=SimpleNamespace(learning_rate=0.1))
    decay = {"name": "ExponentialDecay", "decay_steps": 1, "decay_rate": 0.5}
    asked = examples.parameters(
        training=Training(initial_epoch=2),
        optimizer=examples.optimizer(
            "SGD", learning_rate=rate, schedule=decay if schedule else None
        ),
    )
    loop.go_on_from(remembered(), model, Watchers(), asked)
    assert model.optimizer.learning_rate == right

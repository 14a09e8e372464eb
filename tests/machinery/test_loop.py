"""Trainings in this process, on few samples: computed by hand beside it, and interrupted.

Each model and its steps are made once. A process that has just started is stood in for by other
values in all that a training can remember; a test sees to it that these show.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import examples
import numpy as np
import pytest

from repro.basics.errors import BadInput
from repro.data.dataset import Part, Parts
from repro.environment.determinism import Promise
from repro.recipe import reading
from repro.recipe.parameters import (
    SGD,
    Adam,
    Callbacks,
    EarlyStopping,
    ExponentialDecay,
    Parameters,
    ReduceLROnPlateau,
    Training,
)
from repro.recipe.project import Project
from repro.run.events import Epoch, Event, Start, Step
from repro.run.manifest import Surroundings

PROJECT = Project.find()
os.environ["KERAS_BACKEND"] = reading.parameters(
    PROJECT.source, PROJECT.root / "params.yaml"
).backend

import keras  # noqa: E402

from repro.run import boundary, loop, outside, preparing, process, state, steps  # noqa: E402
from repro.run.ending import Ending, Memory  # noqa: E402

outside.watch()

SEED = 1234
# Seven samples of this seed, epoch by epoch; written down once, as they have to stay.
ORDERS = {
    1: [1, 0, 3, 4, 5, 2, 6],
    2: [5, 0, 4, 3, 1, 6, 2],
    3: [0, 5, 4, 3, 1, 6, 2],
}
CHUNK = 2
"""Steps in a chunk, so that few samples have several."""

DRAWN = np.random.Generator(np.random.Philox(7))


def part(samples: int) -> Part:
    x = DRAWN.standard_normal((samples, 2)).astype(np.float32)
    y = (x @ np.array([[1.0], [-2.0]]) + DRAWN.standard_normal((samples, 1))).astype(np.float32)
    return Part(x, y)


PARTS = Parts(part(7), part(5), part(3))


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "CHUNK", CHUNK)
    monkeypatch.setattr(boundary, "CHUNK", CHUNK)


class Seen:
    """Steps, and the indices that they were called with."""

    def __init__(self, made: Any, drawn: np.random.Generator | None) -> None:
        self.part, self.graph, self._made, self._drawn = made.part, made.graph, made, drawn
        self.indices: list[list[list[int]]] = []

    def __call__(self, indices: np.ndarray) -> None:
        self.indices.append(indices.tolist())
        self._made(indices)
        if self._drawn is not None:  # What a project's own code may do in a step.
            random.random()
            np.random.random()
            self._drawn.random()


class Bench:
    """A model with its steps, and trainings of it."""

    def __init__(
        self,
        model: Any,
        optimizer: Any,
        drawn: np.random.Generator | None = None,
        parts: Parts | None = None,
        loss: str | None = "mean_squared_error",
    ) -> None:
        self.model, self.optimizer = model, optimizer
        model.drawn = drawn
        parameters, parts = self.parameters(loss=loss), parts or PARTS
        preparing.compile_model(model, parameters, parts)
        steps.ready(model, parts.train)
        made = steps.compiled(model, parts, parameters.training)
        own = hasattr(model, "learn")
        self.steps_of = made if own else {name: Seen(made[name], drawn) for name in made}
        known = [v for kind in state.variables(model).values() for v in kind.values()]
        outside.settle(known, [one.graph for one in made.values() if one.graph], "nobody", model)
        self.before = self.content()
        self.drawn = drawn

    def parameters(self, callbacks: Callbacks | None = None, **training: Any) -> Parameters:
        given = {"batch_size": 2, "loss": "mean_squared_error", "metrics": []}
        return examples.parameters(
            training=Training(**given | training),
            optimizer=self.optimizer,
            callbacks=callbacks or Callbacks(),
        )

    def variables(self) -> list[Any]:
        from keras.src.random.seed_generator import global_seed_generator

        found = [*self.model.variables, *self.model.optimizer.variables]
        return [*found, *self.model.metrics_variables, global_seed_generator().state]

    def content(self) -> list[np.ndarray]:
        return [np.asarray(variable).copy() for variable in self.variables()]

    def fresh(self) -> None:
        """As it is where a training begins."""
        for variable, value in zip(self.variables(), self.before, strict=True):
            variable.assign(value)
        self.draw(5)
        for one in self.steps_of.values():
            vars(one)["indices"] = []

    def other(self) -> None:
        """As no training has left it."""
        for variable in self.variables():
            variable.assign(np.asarray(variable) + np.ones((), variable.dtype))
        self.draw(6)

    def draw(self, seed: int) -> None:
        random.seed(seed)
        np.random.seed(seed)
        if self.drawn is not None:
            self.drawn.bit_generator.state = np.random.PCG64(seed).state

    def train(
        self,
        directory: Path,
        parameters: Parameters,
        send: Callable[[Event], None] = lambda event: None,
        before: Any = None,
        seconds: float = 60,
        **content: Any,
    ) -> Any:
        """What the process of a run does once all is ready."""
        directory.mkdir(exist_ok=True)
        recipe = examples.recipe().model_copy(update={"parameters": parameters}).reading({})
        ready: Any = SimpleNamespace(
            recipe=recipe,
            model=self.model,
            steps_of=self.steps_of,
            unkept=[],
            guarantee=Promise("machine", "machine", []),
            notes=[],
            before=before,
            beginning=[("environment", {"settings": {"seed": SEED}})],
        )
        manifest = examples.begun(recipe=recipe, checkpoint_seconds=seconds, **content)
        made = process._trained(directory, manifest, ready, SEED, send)
        made.ledger.close()
        return made.trained


@pytest.fixture(scope="module")
def linear() -> Bench:
    keras.utils.set_random_seed(1)
    layer = keras.layers.Dense(1, kernel_initializer="zeros")
    model = keras.Sequential([keras.Input((2,)), layer])
    return Bench(model, SGD(learning_rate=0.125))


@pytest.fixture(scope="module")
def deep() -> Bench:
    """With all that a training remembers: dropout, momenta, an average, generators."""
    keras.utils.set_random_seed(1)
    layers = [
        keras.layers.Dense(4, activation="tanh"),
        keras.layers.Dropout(0.25),
        keras.layers.Dense(1),
    ]
    model = keras.Sequential([keras.Input((2,)), *layers])
    optimizer = Adam(learning_rate=0.5, fused=False, use_ema=True, ema_momentum=0.5)
    return Bench(model, optimizer, np.random.default_rng(3))


def entries(directory: Path) -> list[dict[str, Any]]:
    lines = (directory / "ledger.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def batches(order: list[int], size: int = 2) -> list[list[int]]:
    return [order[start : start + size] for start in range(0, len(order), size)]


def by_hand(
    orders: list[list[int]], rate: float = 0.125, size: int = 2
) -> Iterator[dict[str, Any]]:
    """A linear model that learns by gradient descent, in NumPy: what it has after each epoch."""
    x, y = PARTS.train.x.astype(float), PARTS.train.y.astype(float)
    weights, bias = np.zeros((2, 1)), np.zeros(1)

    def loss(x: np.ndarray, y: np.ndarray) -> float:
        return float(((x @ weights + bias - y) ** 2).mean())

    for order in orders:
        total = 0.0
        for batch in batches(order, size):
            total += loss(x[batch], y[batch]) * len(batch)
            gradient = 2 * (x[batch] @ weights + bias - y[batch]) / len(batch)
            weights, bias = weights - rate * x[batch].T @ gradient, bias - rate * gradient.sum(0)
        yield {
            "loss": total / len(order),
            "val_loss": loss(PARTS.validation.x, PARTS.validation.y),
            "weights": weights,
            "bias": bias,
        }


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


def digest(array: Any) -> str:
    """The SHA-256 of an array of the machine's own order of bytes."""
    array = np.asarray(array)
    described = f"{array.dtype.newbyteorder('<').str}{array.shape}".encode()
    return hashlib.sha256(described + array.tobytes()).hexdigest()


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
    assert {*found[-1]["generators"]} == {"keras", "python", "numpy"}


class Killed(Exception):
    """Stands in for a kill."""


ALL = Callbacks(
    early_stopping=EarlyStopping(patience=2, restore_best_weights=True),
    reduce_lr_on_plateau=ReduceLROnPlateau(patience=1, factor=0.5),
)


def end(bench: Bench, directory: Path, made: Any) -> dict[str, Any]:
    """All that two equal trainings have in common."""
    return {
        "ledger": (directory / "ledger.jsonl").read_bytes(),
        "state": {name: a.tolist() for name, a in state.read(directory / "state.npz").items()},
        "content": [array.tolist() for array in bench.content()],
        "history": made.history,
        "results": made.results,
        "ending": made.ending.digest(),
        "python": random.getstate(),
        "numpy": np.random.get_state()[1].tolist(),
        "project": bench.drawn and bench.drawn.bit_generator.state,
    }


def place(event: Event) -> tuple[int, int]:
    """Where a training goes on from the boundary that an event tells of."""
    if isinstance(event, Step):
        return event.epoch, event.step
    if isinstance(event, Epoch):
        return event.epoch + 1, 0
    assert isinstance(event, Start)
    return event.epoch, event.step


@pytest.mark.parametrize(
    ("callbacks", "training"),
    [(Callbacks(), {"epochs": 2}), (ALL, {"epochs": 9})],
    ids=["plain", "callbacks"],
)
def test_a_training_that_is_interrupted_at_each_boundary_ends_in_the_same_bits(
    callbacks: Callbacks, training: dict[str, Any], deep: Bench, tmp_path: Path
) -> None:
    parameters = deep.parameters(callbacks, **training)
    deep.fresh()
    said: list[Event] = []
    whole = deep.train(tmp_path / "whole", parameters, said.append)
    right = end(deep, tmp_path / "whole", whole)
    run, starts = tmp_path / "run", list[tuple[int, int]]()
    for last in [*said[1:], None, None]:

        def send(event: Event, last: Event | None = last) -> None:
            if isinstance(event, Start):
                starts.append(place(event))
            elif last is not None and place(event) == place(last):
                raise Killed  # The ledger has this boundary, and no checkpoint.

        # Without a checkpoint, the process of a run makes model and generators anew.
        (deep.fresh if len(starts) < 2 else deep.other)()
        if last is not None:
            with pytest.raises(Killed):
                deep.train(run, parameters, send, seconds=0)
        else:  # The second time it is over when it begins.
            made = deep.train(run, parameters, send, seconds=0)
            found = end(deep, run, made)
            for name, value in right.items():
                assert found[name] == value, name
    assert starts == [(0, 0), (0, 0), *map(place, said[1:])]


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
    found = list(steps.chunks(np.arange(samples), 2, single_after))
    assert [chunk.tolist() for chunk in found] == right


@pytest.mark.parametrize(("samples", "batch_size"), [(7, 2), (8, 2), (10, 2), (11, 1), (3, 5)])
@pytest.mark.parametrize(("begun", "epochs"), [(0, 1), (0, 2), (0, 3), (2, 5), (4, 5)])
def test_the_middle_of_a_training_is_the_end_of_the_chunk_that_has_its_middle_step(
    samples: int, batch_size: int, begun: int, epochs: int
) -> None:
    ends = []
    for epoch in range(begun + 1, epochs + 1):
        step = 0
        for chunk in steps.chunks(np.arange(samples), batch_size):
            step += len(chunk)
            ends += [(epoch, step)] * len(chunk)
    length = boundary.Length(begun, epochs, samples, batch_size)
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


STOPPED = Callbacks(early_stopping=EarlyStopping(patience=1, min_delta=99.0, monitor="loss"))


@pytest.mark.parametrize(
    ("callbacks", "epochs", "where"),
    [
        (Callbacks(), 2, (1, 4, False)),
        (Callbacks(), 1, (1, 2, False)),
        # It ends before the middle of its nine epochs.
        (STOPPED, 9, (3, 0, True)),
    ],
)
def test_a_run_that_is_to_be_killed_is_killed_once_and_goes_on(
    callbacks: Callbacks,
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
    deep: Bench, tmp_path: Path
) -> None:
    deep.fresh()
    made = deep.train(tmp_path, deep.parameters(ALL, epochs=9))
    losses = [found["val_loss"] for found in made.history]
    best = losses.index(min(losses))
    assert len(losses) == best + 3 < 9  # Else the case shows nothing.
    assert made.results == made.history[best]
    epochs = [entry for entry in entries(tmp_path) if entry["stage"] == "epoch"]
    weights = {v.path: digest(v) for v in deep.model.weights}
    assert weights == epochs[best]["weights"] != epochs[-1]["weights"]
    # What another training would go on from is as it was at the end.
    last = {k.partition("/")[2]: digest(a) for k, a in made.ending.tensors.items()}
    assert {name: last[name] for name in weights} == epochs[-1]["weights"]
    assert made.ending.memory.callbacks["early_stopping"]["best_epoch"] == best
    # The learning rate is halved after each epoch that was not better.
    (rate,) = [v for v in deep.model.optimizer.variables if v.path.endswith("learning_rate")]
    assert made.history[best]["learning_rate"] == 0.5
    assert float(rate) == 0.125


def test_an_average_of_the_weights_takes_their_place_and_is_validated(
    deep: Bench, tmp_path: Path
) -> None:
    deep.fresh()
    made = deep.train(tmp_path, deep.parameters(epochs=2))
    # After each step, the average is half of itself and half of the weights.
    kernels = [k for k in made.ending.tensors if k.endswith("kernel") and k.startswith("weights")]
    assert kernels
    averages = {v.path: np.asarray(v) for v in deep.model.optimizer.variables}
    for key in kernels:
        name = key.removeprefix("weights/")
        (average,) = [
            a
            for path, a in averages.items()
            if name.replace("/", "_") in path and "average" in path
        ]
        (now,) = [np.asarray(v) for v in deep.model.weights if v.path == name]
        assert (now == average).all()
        assert (now != made.ending.tensors[key]).any()
    expected = deep.model.evaluate(PARTS.validation.x, PARTS.validation.y, verbose=0)
    assert made.results["val_loss"] == pytest.approx(expected, rel=1e-5)
    assert made.results["val_loss"] != made.history[-1]["val_loss"]
    assert made.results["loss"] == made.history[-1]["loss"]


SLOW = Callbacks(
    early_stopping=EarlyStopping(patience=9, restore_best_weights=True),
    reduce_lr_on_plateau=ReduceLROnPlateau(patience=1, factor=0.5),
)


@pytest.mark.parametrize("callbacks", [Callbacks(), SLOW], ids=["plain", "callbacks"])
def test_one_epoch_and_two_that_go_on_from_it_are_three(
    callbacks: Callbacks, deep: Bench, tmp_path: Path
) -> None:
    deep.fresh()
    whole = deep.train(tmp_path / "whole", deep.parameters(callbacks, epochs=3))
    right = end(deep, tmp_path / "whole", whole)
    deep.fresh()
    before = deep.train(tmp_path / "first", deep.parameters(callbacks, epochs=1)).ending
    deep.other()
    state.assign(tmp_path, deep.model, before.tensors, state.KEPT)
    asked = deep.parameters(callbacks, epochs=3, initial_epoch=1)
    made = deep.train(tmp_path / "rest", asked, before=before)
    assert made.history == whole.history[1:]
    found = end(deep, tmp_path / "rest", made)
    for name in ("state", "results", "ending", "python", "numpy"):
        assert found[name] == right[name], name
    heads = [{k: v for k, v in e.items() if k != "head"} for e in entries(tmp_path / "whole")]
    rest = [{k: v for k, v in e.items() if k != "head"} for e in entries(tmp_path / "rest")]
    assert rest[1:] == heads[5:]


def remembered(rate: float = 0.5, epochs: int = 2, **early: Any) -> Ending:
    """How a training ended, with what early stopping remembers of it."""
    watched = {"early_stopping": {"best": 1.0, "wait": 0, "stopped_epoch": 0, **early}}
    return Ending(Memory(epochs, rate, watched, [], state.host()), {}, [])


@pytest.mark.parametrize("initial", [1, 3])
def test_callbacks_that_remember_epochs_go_on_from_the_last_of_them(initial: int) -> None:
    model: Any = SimpleNamespace(optimizer=SimpleNamespace())
    watcher = keras.callbacks.EarlyStopping()
    asked = examples.parameters(
        training=Training(initial_epoch=initial), optimizer=SGD(learning_rate=0.5)
    )
    told = f"training.initial_epoch: expected 2, .* remember them; got {initial}$"
    with pytest.raises(BadInput, match=told):
        loop.go_on_from(remembered(), model, [watcher], asked)
    loop.go_on_from(remembered(), model, [], asked)
    nothing = Ending(Memory(2, 0.5, {}, [], state.host()), {}, [])
    loop.go_on_from(nothing, model, [watcher], asked)
    loop.go_on_from(remembered(epochs=initial), model, [watcher], asked)
    assert watcher.best == 1.0


def test_early_stopping_that_has_waited_long_enough_is_refused() -> None:
    model: Any = SimpleNamespace(optimizer=SimpleNamespace())
    watcher = keras.callbacks.EarlyStopping(patience=3)
    asked = examples.parameters(
        training=Training(initial_epoch=2), optimizer=SGD(learning_rate=0.5)
    )
    with pytest.raises(BadInput, match="would be stopped at once; raise callbacks"):
        loop.go_on_from(remembered(wait=3, stopped_epoch=1), model, [watcher], asked)
    loop.go_on_from(remembered(wait=2, stopped_epoch=1), model, [watcher], asked)


@pytest.mark.parametrize(
    ("rate", "schedule", "right"),
    [(0.5, None, 0.1), (0.25, None, 0.25), (0.75, None, 0.75), (0.25, "exponential", 0.1)],
)
def test_a_learning_rate_that_the_recipe_changed_is_the_recipes(
    rate: float, schedule: str | None, right: float
) -> None:
    """The other training had 0.5, which a callback reduced to 0.1."""
    model: Any = SimpleNamespace(optimizer=SimpleNamespace(learning_rate=0.1))
    decay = ExponentialDecay(name="exponential_decay", decay_steps=1, decay_rate=0.5)
    asked = examples.parameters(
        training=Training(initial_epoch=2),
        optimizer=SGD(learning_rate=rate, schedule=decay if schedule else None),
    )
    loop.go_on_from(remembered(), model, [], asked)
    assert model.optimizer.learning_rate == right


class Learner(keras.Model):  # type: ignore[misc]
    """A model with steps of its own: it adds up what it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.total = self.add_weight(shape=(2,), initializer="zeros", name="total")
        self.seen: list[Any] = []

    def call(self, x: Any) -> Any:
        return x

    def learn(self, x: np.ndarray, y: np.ndarray, weight: np.ndarray | None = None) -> None:
        self.seen.append([a.tolist() for a in (x, y, weight) if a is not None])
        self.total.assign_add(x.sum(axis=0))


class Judging(Learner):
    def judge(self, x: np.ndarray, y: np.ndarray) -> dict[str, Any]:
        return {"samples": np.float32(len(x)), "first": y[0, 0]}


def test_a_model_with_its_own_steps_makes_them_one_by_one(tmp_path: Path) -> None:
    x = np.arange(14, dtype=np.float32).reshape(7, 2)
    weights = np.arange(7, dtype=np.float32)
    mine = Part(x, -x, weights)
    model = Judging()
    model.build((None, 2))
    bench = Bench(model, SGD(), parts=Parts(mine, part(5), part(3)), loss=None)
    assert [type(one) for one in bench.steps_of.values()] == [steps.OwnSteps] * 3
    bench.fresh()
    bench.model.seen = []
    made = bench.train(tmp_path, bench.parameters(loss=None, epochs=2))
    right = [
        [x[batch].tolist(), (-x[batch]).tolist(), weights[batch].tolist()]
        for epoch in (1, 2)
        for batch in batches(ORDERS[epoch])
    ]
    assert bench.model.seen == right
    found = entries(tmp_path)[1:]
    assert [e["step"] for e in found] == [1, 2, 3, 4, 4] * 2
    assert np.asarray(bench.model.total).tolist() == (2 * x.sum(axis=0)).tolist()
    first = float(bench.steps_of["validation"].part.y[0, 0])
    assert made.history == [{"val_samples": 5.0, "val_first": first}] * 2
    assert all(type(value) is float for value in made.results.values())


def test_a_loss_that_no_step_of_its_own_has_computed_is_none() -> None:
    model = Learner()
    model.compile(optimizer="sgd")
    steps.ready(model, part(3))
    assert model.optimizer.built
    assert steps.results(model) == {}
    model._loss_tracker.update_state(0.5)
    assert steps.results(model) == {"loss": 0.5}
    assert type(steps.results(model)["loss"]) is float
    assert steps.evaluate(model, SimpleNamespace(part=part(3)), 2) == {}


def test_a_model_is_judged_after_it_was_evaluated(linear: Bench) -> None:
    class Also(keras.Sequential):  # type: ignore[misc]
        def judge(self, x: np.ndarray, y: np.ndarray) -> dict[str, Any]:
            return {"rows": len(x)}

    layer = keras.layers.Dense(1, kernel_initializer="zeros")
    bench = Bench(Also([keras.Input((2,)), layer]), SGD())
    found = steps.evaluate(bench.model, bench.steps_of["validation"], 2)
    loss = float((PARTS.validation.y.astype(float) ** 2).mean())
    assert found == {"loss": pytest.approx(loss, rel=1e-5), "rows": 5.0}
    assert type(found["rows"]) is float


def test_classes_weigh_in_the_training_alone() -> None:
    x = np.zeros((4, 2), np.float32)
    labels = Part(x, np.array([0, 1, 1, 0]))
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, activation="softmax")])
    model.compile(optimizer="sgd", loss="sparse_categorical_crossentropy")
    steps.ready(model, labels)
    made = steps.compiled(
        model, Parts(labels, labels, labels), Training(class_weight={0: 3.0, 1: 0.5})
    )
    assert made["train"].part.weight.tolist() == [3.0, 0.5, 0.5, 3.0]
    assert made["validation"].part.weight is made["test"].part.weight is None


def test_all_is_there_before_the_first_step_and_nothing_is_counted(deep: Bench) -> None:
    deep.fresh()
    assert deep.model.optimizer.built
    metrics = [np.asarray(variable) for variable in deep.model.metrics_variables]
    assert metrics and not any(array.any() for array in metrics)

"""Trainings of models of Keras in this process, on few samples: compared with NumPy, interrupted.

`test_boundaries.py` has more of this with a model in NumPy, which is quicker.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import examples
import keras
import numpy as np
import pytest
import trainings
from keras.src.random.seed_generator import global_seed_generator
from trainings import (
    ALL,
    CHUNK,
    ORDERS,
    PARTS,
    PROJECT,
    SLOW,
    Bench,
    Seen,
    batches,
    by_hand,
    entries,
    part,
)

from repro import backends
from repro.backends import portable
from repro.basics.errors import BadInput
from repro.data import feed
from repro.data.dataset import Dataset, Part, Parts
from repro.data.feed import Chunk, Feed
from repro.data.sources import Rows
from repro.recipe.parameters import Named, Training
from repro.run import boundary, compiling, loop, outside, state, steps
from repro.run.steps import PartSteps

outside.watch()


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "CHUNK", CHUNK)


def bench(
    model: Any,
    optimizer: Any,
    drawn: np.random.Generator | None = None,
    parts: Parts = PARTS,
    own: bool = False,
) -> Bench:
    """A model of Keras with its steps, as the process of a run makes them."""
    model.drawn = drawn
    made = Bench(model, {}, [], optimizer, drawn)
    parameters = made.parameters(loss=None) if own else made.parameters()
    compiling.compile_model(model, parameters, parts, PROJECT)
    steps.ready(model, parts.train)
    steps_of = steps.compiled(model, parts, parameters.training, readers=0)
    learns = hasattr(model, "learn")
    known = [v for kind in state.variables(model).values() for v in kind.values()]
    graphs = [one.make.graph for one in steps_of.values() if one.make.graph]
    outside.settle(known, graphs, "nobody", model)
    variables = [*model.variables, *model.optimizer.variables, *model.metrics_variables]
    return Bench(
        model,
        steps_of if learns else {name: Seen(one, drawn) for name, one in steps_of.items()},
        [*variables, global_seed_generator().state],
        optimizer,
        drawn,
    )


@pytest.fixture(scope="module")
def linear() -> Bench:
    layer = keras.layers.Dense(1, kernel_initializer="zeros")
    model = keras.Sequential([keras.Input((2,)), layer])
    return bench(model, examples.optimizer("SGD", learning_rate=0.125))


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
    optimizer = examples.optimizer(
        "Adam", learning_rate=0.5, fused=False, use_ema=True, ema_momentum=0.5
    )
    return bench(model, optimizer, np.random.default_rng(3))


def test_a_training_is_what_numpy_makes_of_it(linear: Bench, tmp_path: Path) -> None:
    linear.fresh()
    made = linear.train(tmp_path, linear.parameters(epochs=3))
    orders = [ORDERS[epoch] for epoch in (1, 2, 3)]
    seen = [batch for chunk in linear.steps_of["train"].indices for batch in chunk]
    assert seen == [batch for order in orders for batch in batches(order)]
    expected = list(by_hand(orders))
    for found, right in zip(made.history, expected, strict=True):
        assert found == pytest.approx({n: right[n] for n in ("loss", "val_loss")}, rel=1e-5)
    weights, bias = linear.model.get_weights()
    assert weights == pytest.approx(expected[-1]["weights"], rel=1e-5)
    assert bias == pytest.approx(expected[-1]["bias"], rel=1e-5)


def read_parts() -> Parts:
    """The same samples, read one by one."""
    return Parts(**{n: Dataset(Rows(one.x), one.y).whole for n, one in PARTS.parts().items()})


def test_what_is_read_is_in_the_ledger_and_trains_like_what_is_in_memory(
    linear: Bench, tmp_path: Path
) -> None:
    linear.fresh()
    expected = linear.train(tmp_path / "memory", linear.parameters(epochs=2))
    read = read_parts()
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, kernel_initializer="zeros")])
    other = bench(model, examples.optimizer("SGD", learning_rate=0.125), parts=read)
    other.fresh()
    made = other.train(tmp_path / "read", other.parameters(epochs=2, validation_freq=2))
    assert made.history[1] == expected.history[1]
    for one, same in zip(model.weights, linear.model.weights, strict=True):
        np.testing.assert_array_equal(one, same)
    found = [e for e in entries(tmp_path / "read") if e["stage"] in ("step", "epoch")]
    assert all(("content" in entry) == (entry["stage"] == "step") for entry in found[:-1])
    (first, *_) = Feed(read.train).chunks([np.array(ORDERS[1][:4]).reshape(2, 2)])
    assert found[0]["content"] == {"samples": first.digest}
    # The second epoch is validated, in chunks of two steps and what is left.
    feed_of = Feed(read.validation)
    order = np.arange(5)
    seen = hashlib.sha256()
    for chunk in feed_of.chunks([order[:4].reshape(2, 2), order[4:].reshape(1, 1)]):
        seen.update(str(chunk.digest).encode())
    assert found[-1]["content"] == {"validation": seen.hexdigest()}


def test_a_training_that_is_interrupted_at_each_boundary_ends_in_the_same_bits(
    deep: Bench, tmp_path: Path
) -> None:
    trainings.interrupted(deep, deep.parameters(ALL, epochs=9), tmp_path)


@pytest.mark.parametrize("callbacks", [(), SLOW], ids=["plain", "callbacks"])
def test_one_epoch_and_two_that_go_on_from_it_are_three(
    callbacks: Sequence[Named], deep: Bench, tmp_path: Path
) -> None:
    trainings.in_two_parts(deep, callbacks, tmp_path)


def test_a_model_that_came_compiled_goes_on_with_its_own_learning_rate(
    deep: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deep, "optimizer", None)
    trainings.in_two_parts(deep, (), tmp_path)


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


class Learner(keras.Model):
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
    made_of = bench(model, examples.optimizer("SGD"), parts=Parts(mine, part(5), part(3)), own=True)
    assert [type(one.make) for one in made_of.steps_of.values()] == [steps.OwnSteps] * 3
    made_of.fresh()
    made_of.model.seen = []
    made = made_of.train(tmp_path, made_of.parameters(loss=None, epochs=2))
    right = [
        [x[batch].tolist(), (-x[batch]).tolist(), weights[batch].tolist()]
        for epoch in (1, 2)
        for batch in batches(ORDERS[epoch])
    ]
    assert made_of.model.seen == right
    found = entries(tmp_path)[1:]
    assert [e["step"] for e in found] == [1, 2, 3, 4, 4] * 2
    assert np.asarray(made_of.model.total).tolist() == (2 * x.sum(axis=0)).tolist()
    first = float(made_of.steps_of["validation"].part.y[0, 0])
    assert made.history == [{"val_samples": 5.0, "val_first": first}] * 2
    assert all(type(value) is float for value in made.results.values())


def test_steps_of_ones_own_come_one_by_one_after_the_step_that_a_boundary_asks_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(boundary.Boundary, "one_by_one", lambda self, epoch: 2)
    model = Judging()
    model.build((None, 2))
    made_of = bench(model, examples.optimizer("SGD"), own=True)
    made_of.fresh()
    made_of.train(tmp_path, made_of.parameters(loss=None, epochs=1))
    assert [entry["step"] for entry in entries(tmp_path)[1:]] == [2, 3, 4, 4]


@pytest.mark.parametrize("asked", [None, 2])
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("watched", [False, True])
def test_steps_come_one_by_one_where_somebody_has_to_see_each(
    asked: int | None, own: bool, watched: bool
) -> None:
    made: Any = SimpleNamespace(one_by_one=own)
    watchers: Any = SimpleNamespace(each_step=watched)
    asks: Any = SimpleNamespace(one_by_one=lambda epoch: asked if epoch == 3 else -1)
    right = 0 if watched or (own and asked is None) else asked
    assert loop._one_by_one(made, watchers, asks, 3) == right


def test_a_metric_with_a_value_for_each_class_has_a_result_for_each() -> None:
    layer = keras.layers.Dense(3, "softmax")
    model = keras.Sequential([keras.Input((2,)), layer])
    measures = [keras.metrics.F1Score(average=None), "accuracy"]
    model.compile("sgd", "categorical_crossentropy", metrics=measures)
    model.evaluate(np.ones((3, 2), np.float32), np.eye(3, dtype=np.float32), verbose=0)
    found = steps.results(model)
    assert [*found] == ["loss", "f1_score/0", "f1_score/1", "f1_score/2", "accuracy"]
    # All three are taken for the same class: one is right, of three that were said to be it.
    assert sorted(found.values())[:2] == [0, 0] and found["accuracy"] == pytest.approx(1 / 3)
    assert max(found[f"f1_score/{n}"] for n in range(3)) == pytest.approx(0.5)


def test_the_steps_of_ones_own_are_not_among_what_portable_names_beside_the_graphs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    noted: dict[str, set[tuple[str, str]]] = {}
    monkeypatch.setattr(portable, "_seen", noted)
    model = Judging()
    steps.OwnSteps(model, part(3))(Chunk(np.array([[0, 1], [2, 0]])))
    assert len(model.seen) == 2 and "learn" not in noted
    steps.evaluate(model, PartSteps("test", Feed(part(3)), None), 2)
    assert "judge" in noted


def test_a_step_of_ones_own_is_given_what_there_is() -> None:
    x, weight = np.arange(4, dtype=np.float32).reshape(2, 2), np.ones(2, np.float32)
    cases: list[tuple[Part, list[Any]]] = [
        (Part(x, None), [x]),
        (Part(x, None, weight), [x, None, weight]),
        (Part(x, -x), [x, -x]),
        (Part(x, -x, weight), [x, -x, weight]),
    ]
    for mine, right in cases:
        given: list[Any] = []
        model = SimpleNamespace(learn=lambda *words, given=given: given.extend(words))
        steps.OwnSteps(model, mine)(Chunk(np.array([[0, 1]])))
        assert len(given) == len(right)
        assert all(np.array_equal(a, b) for a, b in zip(given, right, strict=True))


class Alone(keras.Model):
    """A model that trains itself, and that Keras cannot evaluate."""

    def train_step(self, *given: Any) -> Any:
        raise NotImplementedError


def test_what_cannot_be_evaluated_has_no_step_for_that(
    linear: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends.current(), "Steps", lambda model, kind, *rest: kind)
    alone, plain = Alone(), linear.model
    training = linear.parameters().training
    made = {
        model: {name: one.make for name, one in steps.compiled(model, PARTS, training, 0).items()}
        for model in (alone, plain)
    }
    assert made[alone] == {"train": "train", "validation": None, "test": None}
    assert made[plain] == {"train": "train", "validation": "test", "test": "test"}
    assert steps.has_own_step(alone) and not steps.has_own_step(plain)


def test_an_optimizer_that_is_not_used_is_not_built_but_on_jax() -> None:
    """There Keras's own step takes its variables, whether it uses them or not."""
    model = Alone()
    model.compile("adam")
    steps.ready(model, part(3), optimizer=False)
    assert model.optimizer.built == (keras.backend.backend() == "jax")


def test_a_rehearsal_leaves_new_variables_and_nothing_else(
    linear: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    linear.fresh()
    late, given, asked = list[Any](), list[Any](), list[Any]()

    class Asked(Part):
        def rows(self, places: np.ndarray, epoch: int | None = None) -> Any:
            asked.append((places.tolist(), epoch))
            return super().rows(places, epoch)

    def one_step(model: Any, batch: Any) -> None:
        given.append(batch)
        late.append(keras.Variable(np.ones(2), name="late"))
        late[0].assign([3, 4])
        model.weights[0].assign_add(np.ones((2, 1)))
        np.random.random()
        keras.random.normal((2,))

    monkeypatch.setattr(backends.current(), "one_step", one_step)
    host, before = state.host(), linear.content()
    steps.rehearse(linear.model, Asked(PARTS.train.x, PARTS.train.y))
    assert asked == [([0], 1)]  # The first epoch's, since `augment` may be of the epoch.
    assert [len(np.asarray(one)) for one in keras.tree.flatten(given)] == [1, 1]
    assert np.asarray(late[0]).tolist() == [1, 1]
    assert state.host() == host
    for old, new in zip(before, linear.content(), strict=True):
        assert np.array_equal(old, new)


def test_a_loss_that_no_step_of_its_own_has_computed_is_none() -> None:
    model = Learner()
    model.compile(optimizer="sgd")
    steps.ready(model, part(3))
    assert model.optimizer.built
    assert steps.results(model) == {}
    model._loss_tracker.update_state(0.5)
    assert steps.results(model) == {"loss": 0.5}
    assert type(steps.results(model)["loss"]) is float
    assert steps.evaluate(model, PartSteps("test", Feed(part(3)), None), 2) == {}


@pytest.mark.parametrize("name", ["validation", "test"])
def test_an_evaluation_learns_nothing(name: str, linear: Bench) -> None:
    linear.fresh()
    found = steps.evaluate(linear.model, linear.steps_of[name], 2)
    y = PARTS.parts()[name].y
    assert found["loss"] == pytest.approx(float((y**2).mean()), rel=1e-5)  # It predicts zeros.
    for variable, before in zip(linear.model.weights, linear.before, strict=False):
        np.testing.assert_array_equal(variable, before)


def test_a_model_is_judged_after_it_was_evaluated() -> None:
    class Also(keras.Sequential):
        def judge(self, x: np.ndarray, y: np.ndarray) -> dict[str, Any]:
            return {"rows": len(x)}

    layer = keras.layers.Dense(1, kernel_initializer="zeros")
    also = bench(Also([keras.Input((2,)), layer]), examples.optimizer("SGD"))
    found = steps.evaluate(also.model, also.steps_of["validation"], 2)
    loss = float((PARTS.validation.y.astype(float) ** 2).mean())
    assert found == {"loss": pytest.approx(loss, rel=1e-5), "rows": 5.0}
    assert type(found["rows"]) is float


@pytest.mark.parametrize("judges", [True, False])
def test_a_model_that_judges_whole_arrays_has_them_in_memory(judges: bool) -> None:
    """A model with steps of its own takes what is read, a batch after the other."""
    model = Judging() if judges else Learner()
    model.build((None, 2))
    if judges:
        with pytest.raises(BadInput, match="model: `judge` needs the samples in memory, and these"):
            bench(model, examples.optimizer("SGD"), parts=read_parts(), own=True)
        return
    made_of = bench(model, examples.optimizer("SGD"), parts=read_parts(), own=True)
    made_of.model.seen = []
    (chunk,) = made_of.steps_of["train"].feed.chunks([np.array([[4, 1], [0, 6]])])
    made_of.steps_of["train"](chunk)
    x, y = PARTS.train.x, PARTS.train.y
    assert made_of.model.seen == [[x[b].tolist(), y[b].tolist()] for b in ([4, 1], [0, 6])]


def test_classes_weigh_in_the_training_alone() -> None:
    x = np.zeros((4, 2), np.float32)
    labels = Part(x, np.array([0, 1, 1, 0]))
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, activation="softmax")])
    model.compile(optimizer="sgd", loss="sparse_categorical_crossentropy")
    steps.ready(model, labels)
    training = Training(class_weight={0: 3.0, 1: 0.5})
    made = steps.compiled(model, Parts(labels, labels, labels), training, readers=0)
    weight = made["train"].part.weight
    assert weight is not None and weight.tolist() == [3.0, 0.5, 0.5, 3.0]
    assert made["validation"].part.weight is made["test"].part.weight is None


def test_all_is_there_before_the_first_step_and_nothing_is_counted(deep: Bench) -> None:
    deep.fresh()
    assert deep.model.optimizer.built
    metrics = [np.asarray(variable) for variable in deep.model.metrics_variables]
    assert metrics and not any(array.any() for array in metrics)


def test_one_sample_is_enough_to_make_all_that_a_model_has() -> None:
    seen = []

    class Looking(keras.Sequential):
        def test_step(self, data: Any) -> Any:
            seen.append(data[0].shape)
            return super().test_step(data)

    model = Looking([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(loss="mean_squared_error", run_eagerly=True)
    steps.ready(model, part(1))
    assert [tuple(shape) for shape in seen] == [(1, 2)]


def test_the_metrics_are_there_before_the_first_step() -> None:
    """A checkpoint and a digest have their variables from the beginning."""
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(loss="mean_squared_error", metrics=["mean_absolute_error"])
    before = len(model.metrics_variables)
    steps.ready(model, PARTS.train)
    assert len(model.metrics_variables) == before + 2  # A sum and a count.
    assert all((np.asarray(variable) == 0).all() for variable in model.metrics_variables)

"""Trainings on a few samples, for the tests of the loop: what they need, and what is compared.

Each model and its steps are made once. A process that has just started is stood in for by other
values in all that a training can remember.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import examples
import numpy as np

from repro.data.dataset import Part, Parts
from repro.data.feed import Chunk, Feed
from repro.environment.determinism import Promise
from repro.recipe import reading
from repro.recipe.parameters import Named, Parameters, Training
from repro.recipe.project import Project
from repro.run.events import Epoch, Event, Start, Step

PROJECT = Project.find()
BACKEND = reading.parameters(PROJECT.source, PROJECT.root / "params.yaml").backend
os.environ["KERAS_BACKEND"] = BACKEND

from repro.run import callbacks, process, state  # noqa: E402
from repro.run.callbacks import Watchers  # noqa: E402
from repro.run.steps import PartSteps  # noqa: E402

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


class Seen(PartSteps):
    """Steps, and the indices that they were called with."""

    indices: list[list[list[int]]]

    def __init__(self, made: PartSteps, drawn: np.random.Generator | None) -> None:
        vars(self).update(vars(made), _drawn=drawn, indices=[])

    def __call__(self, chunk: Chunk) -> None:
        self.indices.append(chunk.indices.tolist())
        super().__call__(chunk)
        drawn = vars(self)["_drawn"]
        if drawn is not None:  # What a project's own code may do in a step.
            random.random()
            np.random.random()
            drawn.random()


class Bench:
    """A model with its steps, and trainings of it."""

    def __init__(
        self,
        model: Any,
        steps_of: dict[str, Any],
        variables: list[Any],
        optimizer: Any,
        drawn: np.random.Generator | None = None,
    ) -> None:
        self.model, self.steps_of, self.optimizer = model, steps_of, optimizer
        self.variables, self.drawn = variables, drawn
        self.before = self.content()

    def parameters(self, callbacks: Sequence[Named] = (), **training: Any) -> Parameters:
        loss = examples.named("losses", "mean_squared_error")
        given: dict[str, Any] = {"batch_size": 2, "loss": loss, "metrics": []}
        return examples.parameters(
            training=Training(**given | training),
            optimizer=self.optimizer,
            callbacks=tuple(callbacks),
        )

    def content(self) -> list[np.ndarray]:
        return [np.asarray(variable).copy() for variable in self.variables]

    def fresh(self) -> None:
        """As it is where a training begins."""
        for variable, value in zip(self.variables, self.before, strict=True):
            variable.assign(value)
        self.draw(5)
        for one in self.steps_of.values():
            vars(one)["indices"] = []

    def other(self) -> None:
        """As no training has left it."""
        for variable in self.variables:
            array = np.asarray(variable)
            variable.assign(array + np.ones((), array.dtype))
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
        watchers: Watchers | None = None,
        **content: Any,
    ) -> Any:
        """What the process of a run does once all is ready."""
        directory.mkdir(exist_ok=True)
        recipe = examples.recipe().model_copy(update={"parameters": parameters}).reading({})
        ready: Any = SimpleNamespace(
            recipe=recipe,
            model=self.model,
            steps_of=self.steps_of,
            watchers=watchers
            or callbacks.watch(PROJECT, parameters.callbacks, directory, goes_on=False),
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


class Variable:
    """As far as a training needs one of Keras's."""

    def __init__(self, path: str | None, value: Any, name: str = "") -> None:
        self.path, self.name = path, name
        self.value = np.asarray(value)

    @property
    def shape(self) -> list[int]:
        return list(self.value.shape)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self.value

    def assign(self, value: Any) -> None:
        value = np.asarray(value)
        assert value.shape == self.value.shape
        self.value = value.astype(self.value.dtype)


class Descent:
    """Gradient descent with an optional momentum, as far as a training needs Keras's."""

    def __init__(self, momentum: float) -> None:
        self.momentum, self.finalized, self.use_ema = momentum, 0, False
        self._rate = Variable("descent/learning_rate", 0.125)
        self.velocity = Variable("descent/velocity", np.zeros(3))
        self.variables = [self._rate, self.velocity]

    @property
    def learning_rate(self) -> float:
        return float(self._rate.value)

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        self._rate.assign(value)

    def finalize_variable_values(self, weights: list[Variable]) -> None:
        self.finalized += 1


class Plain:
    """A linear model in NumPy that learns by gradient descent.

    With noise it draws from a generator of its own in each step, and takes its weights away by
    what is outside of it, so that nothing may be forgotten.
    """

    test_step = None
    """It has one of its own, which `PlainSteps` makes."""

    def __init__(self, noise: float = 0.0, momentum: float = 0.0) -> None:
        self.noise, self.stop_training = noise, False
        self.w = Variable("plain/w", np.zeros((2, 1)))
        self.b = Variable("plain/b", np.zeros(1))
        self.drawn = Variable("plain/drawn", np.zeros((), np.int64))
        self.total, self.count = Variable("loss/total", 0.0), Variable("loss/count", 0.0)
        self.outside = Variable("counter", 1.0)
        self.optimizer = Descent(momentum)
        self.weights = self.trainable_weights = [self.w, self.b]
        self.metrics_variables = [self.total, self.count]
        self.variables = [self.w, self.b, self.drawn, self.total, self.count]

    def get_weights(self) -> list[np.ndarray]:
        return [variable.value for variable in self.weights]

    def set_weights(self, values: list[np.ndarray]) -> None:
        for variable, value in zip(self.weights, values, strict=True):
            variable.assign(value)

    def save(self, path: Path) -> None:
        path.touch()

    def reset_metrics(self) -> None:
        for variable in self.metrics_variables:
            variable.assign(0.0)

    def get_metrics_result(self) -> dict[str, float]:
        return {"loss": self.total.value / self.count.value if self.count.value else 0.0}

    def step(self, x: np.ndarray, y: np.ndarray, learns: bool) -> None:
        error = x @ self.w.value + self.b.value - y
        self.total.assign(self.total.value + (error**2).sum())
        self.count.assign(self.count.value + len(x))
        if not learns:
            return
        self.drawn.assign(self.drawn.value + 1)
        self.outside.assign(self.outside.value * 1.125)
        gradient = 2 / len(x) * np.concatenate([(x.T @ error)[:, 0], error.sum(axis=0)])
        gradient += self.noise * np.sin(float(self.drawn.value) + float(self.outside.value))
        velocity = self.optimizer.velocity
        velocity.assign(self.optimizer.momentum * velocity.value + gradient)
        change = self.optimizer.learning_rate * velocity.value
        self.w.assign(self.w.value - change[:2, None])
        self.b.assign(self.b.value - change[2:])


class PlainSteps:
    """The steps of such a model on a part."""

    graph = None

    def __init__(self, model: Plain, part: Part, learns: bool) -> None:
        self._part, self._model, self._learns = part, model, learns

    def __call__(self, chunk: Chunk) -> None:
        for rows in chunk.indices:
            self._model.step(self._part.x[rows].astype(float), self._part.y[rows], self._learns)


def plain(
    state_of_keras: Variable, drawn: np.random.Generator | None = None, **given: float
) -> Bench:
    """A training of a model in NumPy; `drawn` is the project's own generator."""
    model = Plain(**given)
    steps_of = {
        name: Seen(PartSteps(name, Feed(part), PlainSteps(model, part, name == "train")), drawn)
        for name, part in PARTS.parts().items()
    }
    variables = [*model.variables, *model.optimizer.variables, model.outside, state_of_keras]
    return Bench(model, steps_of, variables, examples.optimizer("SGD", learning_rate=0.125), drawn)


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


def digest(array: Any) -> str:
    """The SHA-256 of an array of the machine's own order of bytes."""
    array = np.asarray(array)
    described = f"{array.dtype.newbyteorder('<').str}{array.shape}".encode()
    return hashlib.sha256(described + array.tobytes()).hexdigest()


class Killed(Exception):
    """Stands in for a kill."""


PLATEAU = examples.named("callbacks", "ReduceLROnPlateau", patience=1, factor=0.5)
ALL = (
    examples.named("callbacks", "EarlyStopping", patience=2, restore_best_weights=True),
    PLATEAU,
)


def end(bench: Bench, directory: Path, made: Any) -> dict[str, Any]:
    """All that two equal trainings have in common."""
    numpy: Any = np.random.get_state()
    return {
        "ledger": (directory / "ledger.jsonl").read_bytes(),
        "state": {name: a.tolist() for name, a in state.read(directory / "state.npz").items()},
        "content": [array.tolist() for array in bench.content()],
        "history": made.history,
        "results": made.results,
        "ending": made.ending.digest(),
        "python": random.getstate(),
        "numpy": [numpy[1].tolist(), *numpy[2:]],
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


def interrupted(bench: Bench, parameters: Parameters, folder: Path) -> None:
    """Interrupts a training at each boundary, before its checkpoint; it ends as if it had not."""
    bench.fresh()
    said: list[Event] = []
    whole = bench.train(folder / "whole", parameters, said.append)
    right = end(bench, folder / "whole", whole)
    run, starts = folder / "run", list[tuple[int, int]]()
    for last in [*said[1:], None, None]:

        def send(event: Event, last: Event | None = last) -> None:
            if isinstance(event, Start):
                starts.append(place(event))
            elif last is not None and place(event) == place(last):
                raise Killed  # The ledger has this boundary, and no checkpoint.

        # Without a checkpoint, the process of a run makes model and generators anew.
        (bench.fresh if len(starts) < 2 else bench.other)()
        try:
            made = bench.train(run, parameters, send, seconds=0)
        except Killed:
            assert last is not None
        else:  # The second time it is over when it begins.
            assert last is None
            found = end(bench, run, made)
            for name, value in right.items():
                assert found[name] == value, name
    assert starts == [(0, 0), (0, 0), *map(place, said[1:])]


SLOW = (
    examples.named("callbacks", "EarlyStopping", patience=9, restore_best_weights=True),
    PLATEAU,
)


def in_two_parts(bench: Bench, callbacks: Sequence[Named], folder: Path) -> None:
    """One epoch, and two that go on from its ending, are the same as three."""
    bench.fresh()
    whole = bench.train(folder / "whole", bench.parameters(callbacks, epochs=3))
    right = end(bench, folder / "whole", whole)
    bench.fresh()
    before = bench.train(folder / "first", bench.parameters(callbacks, epochs=1)).ending
    bench.other()
    state.assign(folder, bench.model, before.tensors, state.KEPT)
    asked = bench.parameters(callbacks, epochs=3, initial_epoch=1)
    made = bench.train(folder / "rest", asked, before=before)
    assert made.history == whole.history[1:]
    found = end(bench, folder / "rest", made)
    for name in ("state", "results", "ending", "python", "numpy"):
        assert found[name] == right[name], name
    one, other = (
        [{k: v for k, v in entry.items() if k != "head"} for entry in entries(folder / name)]
        for name in ("whole", "rest")
    )
    assert other[1:] == one[5:]

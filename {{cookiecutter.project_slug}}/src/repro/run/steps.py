"""The steps of a training and of its evaluations, a chunk of batches in each call.

One call of a backend's `Steps` takes a chunk. It gathers each batch from arrays in memory, or takes
what was read, and calls Keras's own `model.train_step` or `model.test_step` on it. A model with a
`learn` of its own makes its steps itself, one by one.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from repro import backends
from repro.basics.errors import BadInput
from repro.data.dataset import Part, Parts, for_step
from repro.data.feed import Chunk, Feed, Seen, steps_of_chunk
from repro.recipe.parameters import Training
from repro.run import faults, outside, state, targets
from repro.run.boundary import Results


def chunks(
    order: np.ndarray,
    batch_size: int,
    most: int,
    single_after: int | None = None,
    made: int = 0,
) -> Iterator[np.ndarray]:
    """Cuts the order of the samples into chunks.

    The whole batches come first, in chunks of up to `most` steps. The samples that are left are
    one smaller batch, as in Keras.

    Args:
        order: the positions of the samples, of shape (samples,).
        most: the steps of a chunk, at most.
        single_after: each step after this one is a chunk of its own; None: no step is.
        made: the steps at the beginning that are made already, up to where a chunk ended.

    Yields:
        Arrays of shape (steps, batch).
    """
    whole = len(order) // batch_size
    batches = order[: whole * batch_size].reshape(whole, batch_size)
    start = made
    while start < whole:
        single = single_after is not None and start >= single_after
        stop = start + (1 if single else most)
        if single_after is not None and start < single_after:
            stop = min(stop, single_after)
        yield batches[start:stop]
        start = stop
    rest = len(order) % batch_size
    if rest and made <= whole:
        yield order[-rest:].reshape(1, rest)


class OwnSteps:
    """The steps of a model that makes them itself, on the host: `model.learn(x, y[, weight])`.

    Their operations are not known before they are made. Such a model is evaluated only by its own
    `judge`.
    """

    graph = None

    def __init__(self, model: Any, part: Part) -> None:
        self._model, self._part = model, part

    def __call__(self, chunk: Chunk) -> None:
        for number, rows in enumerate(chunk.indices):
            if chunk.content is None:
                batch = self._part.rows(rows)
            else:
                batch = self._part.given(chunk.batch(number))
            x, y, *weight = batch
            with faults.calling("learn", watch=False):
                self._model.learn(x, *([] if y is None and not weight else [y]), *weight)


@dataclass(frozen=True)
class PartSteps:
    """What gives the chunks of a part, and makes steps on them."""

    name: str
    """Of the part: train, validation or test."""
    feed: Feed
    make: Any
    """A backend's `Steps`, or `OwnSteps`; None: the model is not evaluated."""

    @property
    def part(self) -> Part:
        """The samples that the steps are made on."""
        return self.feed.part

    @property
    def one_by_one(self) -> bool:
        """Whether a model makes its steps itself, each of which is a chunk of its own."""
        return isinstance(self.make, OwnSteps)

    def most(self, batch_size: int) -> int:
        """The steps of a chunk, at most."""
        return steps_of_chunk(self.part, batch_size)

    def in_order(self, batch_size: int) -> Iterator[Chunk]:
        """Yields the chunks of all samples in the order of the part, as an evaluation has them."""
        order = np.arange(len(self.part), dtype=np.int32)
        return self.feed.chunks(chunks(order, batch_size, self.most(batch_size)))

    @property
    def content(self) -> dict[str, str]:
        """The digest of the samples that were read in the last evaluation, by its part's name."""
        return {self.name: self.feed.digest} if self.feed.digest else {}

    def __call__(self, chunk: Chunk) -> None:
        self.make(chunk)


def results(model: Any) -> Results:
    """Returns the present values of the model's metrics, without the loss if none was computed.

    A metric with a value for each class, such as `F1Score` without an average, has each of them as
    a result of its own, under the names `f1_score/0`, `f1_score/1` and so on.
    """
    found = {}
    for name, value in model.get_metrics_result().items():
        if getattr(value, "shape", ()) == ():
            found[name] = float(value)
        else:
            found |= {f"{name}/{n}": float(one) for n, one in enumerate(np.ravel(value))}
    if not evaluable(model) and not float(model._loss_tracker.count):
        found.pop("loss", None)
    return found


def evaluate(model: Any, steps: PartSteps, batch_size: int) -> Results:
    """Returns loss and metrics over all samples of a part, and the results of the model's `judge`.

    The samples are taken in the order of the part.
    """
    found = {}
    if evaluable(model):
        model.reset_metrics()
        for chunk in steps.in_order(batch_size):
            steps(chunk)
        found = results(model)
    if hasattr(model, "judge"):
        with faults.calling("judge"):
            judgement = model.judge(steps.part.x, steps.part.y)
            found |= {name: float(value) for name, value in judgement.items()}
    return found


def evaluable(model: Any) -> bool:
    """Whether Keras can evaluate a model.

    It cannot if the model makes its steps itself (`learn`), or has no `call` and no `test_step` of
    its own, as a generative network of two models may have none. Its own `judge` evaluates it.
    """
    if hasattr(model, "learn"):
        return False
    own = type(model).test_step is not keras.Model.test_step
    return own or type(model).call is not keras.Model.call


def ready(model: Any, part: Part, optimizer: bool = True) -> None:
    """Makes every variable of a compiled model, so that all exist before the first step.

    Args:
        optimizer: whether the model uses the optimizer that Keras holds for it.
    """
    if optimizer or keras.backend.backend() == "jax":
        model.optimizer.build(model.trainable_variables)
    if evaluable(model):
        # The sample is given as tensors, since a model's own loss gets tensors in each step too.
        sample = keras.tree.map_structure(keras.ops.convert_to_tensor, part.rows(np.arange(1)))
        with faults.calling("the model"):
            model.test_on_batch(*sample)
    model.reset_metrics()


def has_own_step(model: Any) -> bool:
    """Whether a model makes Keras's training steps in a way of its own (`train_step`)."""
    own: bool = type(model).train_step is not keras.Model.train_step
    return own


def rehearse(model: Any, part: Part) -> None:
    """Makes a training step and takes it back, so that all variables exist that it makes.

    A step of the model's own may make variables when it is made for the first time, as a second
    optimizer does. On TensorFlow the tracing makes them. Elsewhere nobody would know of them before
    the first step. Each variable gets the value that it had before, a new one the value that it was
    made with; and so do the generators.
    """
    host, own = state.host(), backends.current().generators()
    before = [(variable, np.array(variable)) for variable in outside.alive()]
    with outside.making() as new, faults.calling("train_step"):
        backends.current().one_step(model, for_step(part.rows(np.arange(1), 1)))
    for variable, value in [*before, *new]:
        variable.assign(value)
    backends.current().restore(own)
    state.restore_host(host)


def compiled(
    model: Any, samples: Parts, training: Training, readers: int, seen: Seen | None = None
) -> dict[str, PartSteps]:
    """Returns, by the name of a part, what makes the steps on it: training or evaluation.

    Args:
        readers: how many threads read samples that are not in memory.
        seen: what the samples that are read are compared with.

    Raises:
        BadInput: the model judges whole arrays, and the samples are not in memory.
    """
    parts = samples.parts() | {"train": targets.weighted(samples.train, training.class_weight)}
    if hasattr(model, "judge") and samples.validation.reader is not None:
        raise BadInput(
            "model: `judge` needs the samples in memory, and these are read one by one; "
            "training.metrics says what can be measured batch by batch"
        )
    # What a source or `augment` computes is looked at as well, in the thread that reads.
    reading = functools.partial(faults.calling, "what is read")

    def steps(name: str, part: Part) -> Any:
        if hasattr(model, "learn"):
            return OwnSteps(model, part)
        kind = "train" if name == "train" else "test"
        if kind == "test" and not evaluable(model):
            return None
        return backends.current().Steps(model, kind, part, training.jit_compile)

    return {
        name: PartSteps(name, Feed(part, readers, seen, reading), steps(name, part))
        for name, part in parts.items()
    }

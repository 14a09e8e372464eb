"""The steps of a training and of its evaluations, a chunk of batches in each call.

One call of a backend's `Steps` takes the indices of a chunk. It gathers each batch from arrays in
memory, and calls Keras's own `model.train_step` or `model.test_step` on it. A model with a `learn`
of its own makes its steps itself, one by one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from repro import backends
from repro.data.dataset import Part, Parts
from repro.recipe.parameters import Training
from repro.run import faults, targets
from repro.run.boundary import CHUNK, Results


def chunks(
    order: np.ndarray, batch_size: int, single_after: int | None = None
) -> Iterator[np.ndarray]:
    """Cuts the order of the samples into chunks.

    The whole batches come first, in chunks of up to `CHUNK` steps. The samples that are left are
    one smaller batch, as in Keras.

    Args:
        order: the positions of the samples, of shape (samples,).
        single_after: each step after this one is a chunk of its own; None: no step is.

    Yields:
        Arrays of shape (steps, batch).
    """
    whole = len(order) // batch_size
    batches = order[: whole * batch_size].reshape(whole, batch_size)
    start = 0
    while start < whole:
        single = single_after is not None and start >= single_after
        stop = start + (1 if single else CHUNK)
        if single_after is not None and start < single_after:
            stop = min(stop, single_after)
        yield batches[start:stop]
        start = stop
    if rest := len(order) % batch_size:
        yield order[-rest:].reshape(1, rest)


class OwnSteps:
    """The steps of a model that makes them itself, on the host: `model.learn(x, y[, weight])`.

    Their operations are not known before they are made. Such a model is evaluated only by its own
    `judge`.
    """

    graph = None

    def __init__(self, model: Any, part: Part) -> None:
        self.part = part
        self._model = model

    def __call__(self, indices: np.ndarray) -> None:
        for rows in indices:
            with faults.calling("learn", watch=False):
                self._model.learn(*(array[rows] for array in self.part.arrays().values()))


def results(model: Any) -> Results:
    """Returns the present values of the model's metrics, without the loss if none was computed."""
    found = {name: float(value) for name, value in model.get_metrics_result().items()}
    if hasattr(model, "learn") and not float(model._loss_tracker.count):
        found.pop("loss", None)
    return found


def evaluate(model: Any, steps: Any, batch_size: int) -> Results:
    """Returns loss and metrics over all samples of a part, and the results of the model's `judge`.

    The samples are taken in the order of the part.
    """
    found = {}
    if not hasattr(model, "learn"):
        model.reset_metrics()
        for indices in chunks(np.arange(len(steps.part.x), dtype=np.int32), batch_size):
            steps(indices)
        found = results(model)
    if hasattr(model, "judge"):
        with faults.calling("judge"):
            judgement = model.judge(steps.part.x, steps.part.y)
            found |= {name: float(value) for name, value in judgement.items()}
    return found


def ready(model: Any, part: Part) -> None:
    """Makes every variable of a compiled model, so that all exist before the first step."""
    model.optimizer.build(model.trainable_variables)
    if not hasattr(model, "learn"):
        # The sample is given as tensors, since a model's own loss gets tensors in each step too.
        sample = {n: keras.ops.convert_to_tensor(a[:1]) for n, a in part.arrays().items()}
        with faults.calling("the model"):
            model.test_on_batch(sample["x"], sample["y"], sample.get("weight"))
    model.reset_metrics()


def compiled(model: Any, samples: Parts, training: Training) -> dict[str, Any]:
    """Returns, by the name of a part, what makes the steps on it: training or evaluation."""
    parts = samples.parts() | {"train": targets.weighted(samples.train, training.class_weight)}
    if hasattr(model, "learn"):
        return {name: OwnSteps(model, part) for name, part in parts.items()}
    steps = backends.current().Steps
    return {
        name: steps(model, "train" if name == "train" else "test", part, training.jit_compile)
        for name, part in parts.items()
    }

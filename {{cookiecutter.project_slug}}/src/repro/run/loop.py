"""The training loop: epochs, chunks of steps, and a boundary after each chunk.

This is what `keras.Model.fit` does, written out, so that you can read and change it. The order of
an epoch is cut into chunks of batches, and one call of the backend's steps makes a whole chunk (see
`steps`). Between two chunks everything is at rest. There `boundary` writes the ledger, tells the
progress and writes checkpoints. Keras's callbacks see the results of each epoch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from repro.basics import seeds
from repro.basics.errors import BadInput
from repro.recipe.parameters import Parameters, Training
from repro.run import state
from repro.run.boundary import Boundary, Length, Results
from repro.run.callbacks import Watchers
from repro.run.ending import Ending, Memory
from repro.run.state import Checkpoint, Position
from repro.run.steps import PartSteps, chunks, evaluate, results


@dataclass(frozen=True)
class Trained:
    """The results of a training."""

    history: list[Results]
    """The results of each epoch."""
    results: Results
    """The results of the final model, which need not be the model of the last epoch."""
    ending: Ending
    """What the next step would have started from."""


@dataclass(frozen=True)
class Beginning:
    """What a training begins with, or goes on from."""

    before: Ending | None = None
    """The ending of another training that this one goes on from."""
    checkpoint: Checkpoint | None = None
    """The checkpoint of this run, if it was interrupted."""


def train(
    model: Any,
    steps_of: dict[str, PartSteps],
    watchers: Watchers,
    parameters: Parameters,
    seed: int,
    boundary: Boundary,
    beginning: Beginning,
) -> Trained:
    """Trains a compiled model whose variables exist.

    Args:
        steps_of: by part, what makes its steps; see `steps.compiled`.
        watchers: the callbacks.
        parameters: the parameters of the recipe.
        seed: the seed of the data order.
        boundary: is called before and after each chunk of steps, and after each epoch.
        beginning: the ending or the checkpoint to go on from, if there is one.

    Raises:
        BadInput: a callback watches a value that is not measured, or the checkpoint does not fit
            the model any more.
    """
    training, steps = parameters.training, steps_of["train"]
    of = Length(
        training.initial_epoch,
        training.epochs,
        samples_of(training, len(steps.part)),
        training.batch_size,
        steps.most(training.batch_size),
    )
    watchers.begin(model, of.steps, training.epochs)
    here = begin(model, watchers, parameters, beginning)
    boundary.begin(here, of, watchers)
    for epoch in range(here.epoch, training.epochs + 1):
        if boundary.here.stopped:
            break
        step = here.step if epoch == here.epoch else 0
        if not step:
            model.reset_metrics()
            watchers.epoch_begins(epoch)
        order = order_of(training, seed, epoch, len(steps.part))
        single_after = _one_by_one(steps, watchers, boundary, epoch)
        cut = chunks(order, training.batch_size, of.chunk, single_after, made=step)
        for chunk in steps.feed.chunks(cut, epoch):
            step += chunk.steps
            boundary.before(epoch, step, chunk)
            watchers.step_begins(step)
            steps(chunk)
            found = results(model)
            watchers.step_made(step, found)
            boundary.steps_made(epoch, step, chunk, found.get("loss"))
            if watchers.stopped:
                break
        found, metrics, content = results(model), state.digests(model, "metrics"), {}
        if epoch % training.validation_freq == 0:
            found |= validate(model, steps_of, training, watchers)
            content = steps_of["validation"].content
        watchers.epoch_made(epoch, found)
        boundary.epoch_made(epoch, metrics, found, content)
    return end(model, steps_of, parameters, watchers, boundary.here.history, beginning.before)


def order_of(training: Training, seed: int, epoch: int, size: int) -> np.ndarray:
    """Returns the positions of an epoch's samples, in order: int32 of shape (samples,)."""
    if training.shuffle:
        order = seeds.permutation(seed, epoch, size)
    else:
        order = np.arange(size, dtype=np.int32)
    return order[: samples_of(training, size)]


def samples_of(training: Training, size: int) -> int:
    """Returns how many of the `size` samples one epoch sees."""
    if training.steps_per_epoch:
        return min(size, training.steps_per_epoch * training.batch_size)
    return size


def validate(
    model: Any, steps_of: dict[str, Any], training: Training, watchers: Watchers
) -> Results:
    """Returns the results on the validation part, under the names that the history has."""
    batch_size = training.validation_batch_size or training.batch_size
    watchers.test_begins()
    found = evaluate(model, steps_of["validation"], batch_size)
    watchers.test_made(found)
    return {f"val_{name}": value for name, value in found.items()}


def _one_by_one(steps: PartSteps, watchers: Watchers, boundary: Boundary, epoch: int) -> int | None:
    """Returns after which step of an epoch the steps are made one by one; None: in chunks.

    A model with a `learn` of its own makes all its steps one by one, and a callback may have to see
    each of them.
    """
    asked = boundary.one_by_one(epoch)
    if watchers.each_step or (steps.one_by_one and asked is None):
        return 0
    return asked


def begin(model: Any, watchers: Watchers, parameters: Parameters, beginning: Beginning) -> Position:
    """Gives model, callbacks and generators their state; returns where the training begins.

    Raises:
        BadInput: the checkpoint, or the ending of the other training, does not fit this one.
    """
    if beginning.before is not None:
        go_on_from(beginning.before, model, watchers, parameters)
    if beginning.checkpoint is None:
        return Position(parameters.training.initial_epoch + 1)
    # The generators are restored only now, after the graphs were traced. Tracing may draw from
    # Python's or NumPy's generators, and in the interrupted run it did so before the first step.
    here = beginning.checkpoint.position
    watchers.restore(here.callbacks, beginning.checkpoint.restore(model))
    return here


def end(
    model: Any,
    steps_of: dict[str, PartSteps],
    parameters: Parameters,
    watchers: Watchers,
    history: list[Results],
    before: Ending | None,
) -> Trained:
    """Brings the model into the state in which `keras.Model.fit` leaves it; returns the results.

    With `use_ema` the averaged weights replace the last ones. After that a callback may bring back
    the weights of its best epoch.
    """
    training, optimizer = parameters.training, model.optimizer
    ending = Ending(
        Memory(
            epochs=training.initial_epoch + len(history),
            learning_rate=parameters.optimizer.learning_rate if parameters.optimizer else None,
            callbacks=watchers.states(),
            history=[*(before.memory.history if before else ()), *history],
            host=state.host(),
        ),
        state.arrays(model, state.KEPT),
        watchers.kept(),
    )
    optimizer.finalize_variable_values(model.trainable_weights)
    ended = watchers.end()
    final = history[-1]
    if ended.best is not None:
        final = ending.memory.history[ended.best - ending.memory.epochs]
    other = ended.changed or (ended.best is None and optimizer.use_ema)
    # The final model has to be validated, unless its epoch was. It was not if the weights are an
    # average, or others that a callback has set, or if the epoch had no validation
    # (`validation_freq`).
    if other or not any(name.startswith("val_") for name in final):
        final = final | validate(model, steps_of, training, watchers)
    return Trained(history, final, ending)


def go_on_from(before: Ending, model: Any, watchers: Watchers, parameters: Parameters) -> None:
    """Gives callbacks and generators the state that they had when another training ended.

    The model has its tensors already. If the recipe's learning rate was changed since, the recipe's
    is used. If not, the optimizer keeps the one of the other training, which a callback may have
    reduced.

    Raises:
        BadInput: the callbacks remember numbers of epochs, and `training.initial_epoch` does not
            fit them; or early stopping would end the training at once.
    """
    memory, training = before.memory, parameters.training
    if memory.callbacks and watchers.states() and training.initial_epoch != memory.epochs:
        raise BadInput(
            f"training.initial_epoch: expected {memory.epochs}, the epochs that the run of "
            "training.initial_state has made, since callbacks remember them; "
            f"got {training.initial_epoch}"
        )
    watchers.restore(memory.callbacks, before.kept)
    if watchers.exhausted():
        raise BadInput(
            "training.initial_state: that run was stopped early, and this one would be stopped at "
            "once; raise callbacks.EarlyStopping.patience, or take training.initial_weights"
        )
    state.restore_host(memory.host)
    asked = parameters.optimizer
    if asked and asked.learning_rate != memory.learning_rate and not asked.schedule:
        model.optimizer.learning_rate = asked.learning_rate

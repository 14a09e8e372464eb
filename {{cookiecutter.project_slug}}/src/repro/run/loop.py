"""The training loop: epochs, chunks of steps, and a boundary after each chunk.

This is what `keras.Model.fit` does, written out, so that it can be read and changed. The order of
an epoch is cut into chunks of batches; one call of the backend's steps makes all of a chunk (see
`steps`). Between two chunks everything is at rest: what happens there (ledger, progress,
checkpoints) is in `boundary`. Keras's callbacks see the results of each epoch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from repro.basics import seeds
from repro.basics.errors import BadInput
from repro.recipe.parameters import Parameters, Training
from repro.run import callbacks, state
from repro.run.boundary import Boundary, Length, Results
from repro.run.ending import Ending, Memory
from repro.run.state import Checkpoint, Position
from repro.run.steps import OwnSteps, chunks, evaluate, results


@dataclass(frozen=True)
class Trained:
    """What came of a training."""

    history: list[Results]
    """The results of each epoch."""
    results: Results
    """Those of the model as it is at the end, which need not be the last ones."""
    ending: Ending


@dataclass(frozen=True)
class Beginning:
    """Where a training begins, or goes on."""

    before: Ending | None = None
    """How the training ended that this one goes on from."""
    checkpoint: Checkpoint | None = None
    """That of the same run, which was interrupted."""


def train(
    model: Any,
    steps_of: dict[str, Any],
    parameters: Parameters,
    seed: int,
    boundary: Boundary,
    beginning: Beginning,
) -> Trained:
    """Trains a compiled model whose variables exist.

    Args:
        steps_of: see `compiled`.
        parameters: those of the recipe.
        seed: what the data order is keyed by.
        boundary: what happens between two chunks of steps.

    Raises:
        BadInput: a callback watches what is not measured, or the checkpoint fits no longer.
    """
    training, steps = parameters.training, steps_of["train"]
    watchers = callbacks.watch(parameters.callbacks, model)
    here = begin(model, watchers, parameters, beginning)
    of = Length(
        training.initial_epoch,
        training.epochs,
        samples_of(training, len(steps.part.x)),
        training.batch_size,
    )
    boundary.begin(here, of, watchers)
    for epoch in range(here.epoch, training.epochs + 1):
        if boundary.here.stopped:
            break
        made, step = here.step if epoch == here.epoch else 0, 0
        if not made:
            model.reset_metrics()
        order = order_of(training, seed, epoch, len(steps.part.x))
        for indices in chunks(order, training.batch_size, _one_by_one(steps, boundary, epoch)):
            step += len(indices)
            if step <= made:
                continue
            boundary.before(epoch, step, indices)
            steps(indices)
            boundary.steps_made(epoch, step, indices, results(model).get("loss"))
        found, metrics = results(model), state.digests(model, "metrics")
        if epoch % training.validation_freq == 0:
            found |= validate(model, steps_of, training)
        stopped = callbacks.epoch_ended(watchers, epoch, found)
        boundary.epoch_made(epoch, metrics, found, stopped)
    return end(model, steps_of, parameters, watchers, boundary.here.history, beginning.before)


def order_of(training: Training, seed: int, epoch: int, size: int) -> np.ndarray:
    """The samples of an epoch in their order: their positions, int32 of shape (samples,)."""
    if training.shuffle:
        order = seeds.permutation(seed, epoch, size)
    else:
        order = np.arange(size, dtype=np.int32)
    return order[: samples_of(training, size)]


def samples_of(training: Training, size: int) -> int:
    """How many samples an epoch sees, of those that there are."""
    if training.steps_per_epoch:
        return min(size, training.steps_per_epoch * training.batch_size)
    return size


def validate(model: Any, steps_of: dict[str, Any], training: Training) -> Results:
    """The results on the validation, as they stand in the history."""
    batch_size = training.validation_batch_size or training.batch_size
    found = evaluate(model, steps_of["validation"], batch_size)
    return {f"val_{name}": value for name, value in found.items()}


def _one_by_one(steps: Any, boundary: Boundary, epoch: int) -> int | None:
    """After which step of an epoch the steps come one by one; a model's own always do."""
    asked = boundary.one_by_one(epoch)
    return 0 if isinstance(steps, OwnSteps) and asked is None else asked


def begin(
    model: Any, watchers: list[Any], parameters: Parameters, beginning: Beginning
) -> Position:
    """Gives model, callbacks and generators what they had where the training begins or goes on.

    Raises:
        BadInput: the checkpoint, or the other training's ending, does not fit this one.
    """
    if beginning.before is not None:
        go_on_from(beginning.before, model, watchers, parameters)
    if beginning.checkpoint is None:
        return Position(parameters.training.initial_epoch + 1)
    # Only now, after the graphs were traced: what that drew from Python's or NumPy's
    # generators, it drew before the first step of the run that was interrupted as well.
    here = beginning.checkpoint.position
    callbacks.restore(watchers, here.callbacks, beginning.checkpoint.restore(model))
    return here


def end(
    model: Any,
    steps_of: dict[str, Any],
    parameters: Parameters,
    watchers: list[Any],
    history: list[Results],
    before: Ending | None,
) -> Trained:
    """Makes of the model what `keras.Model.fit` leaves, and tells what came of the training.

    With `use_ema` the averaged weights take the place of the last ones; then a callback may bring
    back those of its best epoch.
    """
    training, optimizer = parameters.training, parameters.optimizer
    ending = Ending(
        Memory(
            epochs=training.initial_epoch + len(history),
            learning_rate=optimizer.learning_rate,
            callbacks=callbacks.states(watchers),
            history=[*(before.memory.history if before else ()), *history],
            host=state.host(),
        ),
        state.arrays(model, state.KEPT),
        callbacks.best_weights(watchers),
    )
    model.optimizer.finalize_variable_values(model.trainable_weights)
    best = callbacks.training_ended(watchers)
    final = history[-1]
    if best is not None:
        final = ending.memory.history[best - ending.memory.epochs]
    averaged = best is None and optimizer.use_ema
    # The epoch that the model is of need not be one with a validation (`validation_freq`).
    if averaged or not any(name.startswith("val_") for name in final):
        final = final | validate(model, steps_of, training)
    return Trained(history, final, ending)


def go_on_from(before: Ending, model: Any, watchers: list[Any], parameters: Parameters) -> None:
    """Gives callbacks and generators what they remembered when another training ended.

    The tensors are there already. A learning rate that the recipe has changed since is the
    recipe's; else it stays what the other training had, which a callback may have reduced.

    Raises:
        BadInput: callbacks remember epochs, and the recipe counts them otherwise; or early
            stopping has nothing to wait for any more.
    """
    memory, training = before.memory, parameters.training
    if memory.callbacks and watchers and training.initial_epoch != memory.epochs:
        raise BadInput(
            f"training.initial_epoch: expected {memory.epochs}, the epochs that the run of "
            "training.initial_state has made, since callbacks remember them; "
            f"got {training.initial_epoch}"
        )
    callbacks.restore(watchers, memory.callbacks, before.best)
    if callbacks.exhausted(watchers):
        raise BadInput(
            "training.initial_state: that run was stopped early, and this one would be stopped at "
            "once; raise callbacks.early_stopping.patience, or take training.initial_weights"
        )
    state.restore_host(memory.host)
    rate = parameters.optimizer.learning_rate
    if rate != memory.learning_rate and not parameters.optimizer.schedule:
        model.optimizer.learning_rate = rate

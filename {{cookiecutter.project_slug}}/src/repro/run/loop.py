"""The training loop: chunks of steps, and a boundary after each.

An epoch's order of samples is cut into chunks of up to `CHUNK` batches. One call of a backend's
`Steps` takes a chunk's indices, gathers each batch from arrays in memory and makes Keras's own
`model.train_step` on it; a model with a `learn` of its own makes its steps itself, one by one.
Between two chunks everything is at rest: there the ledger and the checkpoints are written and the
progress shown. Keras's callbacks see the results of an epoch.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from repro import backends
from repro.basics import seeds
from repro.basics.digests import sha256
from repro.basics.errors import BadInput, Probed
from repro.data import splits
from repro.data.dataset import Part, Parts
from repro.run import callbacks, faults, probing, state, targets
from repro.run.ending import Ending, Memory
from repro.run.ledger import Ledger
from repro.run.state import Checkpoint, Checkpoints, Position

CHUNK = 125
"""Steps in one call: long enough that the call costs nothing, short enough to show progress."""

Results = dict[str, float]


def chunks(
    order: np.ndarray, batch_size: int, single_after: int | None = None
) -> Iterator[np.ndarray]:
    """Cuts an order of shape (samples,) into arrays of shape (steps, batch): whole batches first,
    up to `CHUNK` steps each, then what is left as one smaller batch, as Keras does.

    Steps after `single_after` come one by one.
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

    Nothing is known of their operations before they are made, and nothing is evaluated but what
    the model judges itself by.
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
    """The model's metrics as they stand; no loss where none was computed."""
    found = {name: float(value) for name, value in model.get_metrics_result().items()}
    if hasattr(model, "learn") and not float(model._loss_tracker.count):
        found.pop("loss", None)
    return found


def evaluate(model: Any, steps: Any, batch_size: int) -> Results:
    """Loss and metrics over all samples of a part, in the order they have, and what the model
    judges itself by."""
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
    """Makes every variable of a compiled model, so that all are there before the first step."""
    model.optimizer.build(model.trainable_variables)
    if not hasattr(model, "learn"):
        # As tensors, which is what a model's own loss is given in each step as well.
        sample = {n: keras.ops.convert_to_tensor(a[:1]) for n, a in part.arrays().items()}
        with faults.calling("the model"):
            model.test_on_batch(sample["x"], sample["y"], sample.get("weight"))
    model.reset_metrics()


def compiled(model: Any, samples: Parts, training: dict[str, Any]) -> dict[str, Any]:
    """What makes the steps of the training and of the evaluations, by the name of its part."""
    parts = samples.parts() | {"train": targets.weighted(samples.train, training["class_weight"])}
    if hasattr(model, "learn"):
        return {name: OwnSteps(model, part) for name, part in parts.items()}
    steps = backends.current().Steps
    return {
        name: steps(model, "train" if name == "train" else "test", part, training["jit_compile"])
        for name, part in parts.items()
    }


@dataclass(frozen=True)
class Trained:
    """What came of a training."""

    history: list[Results]
    """The results of each epoch."""
    results: Results
    """Those of the model as it is at the end, which need not be the last ones."""
    ending: Ending


def train(
    model: Any,
    steps_of: dict[str, Any],
    parameters: dict[str, Any],
    seed: int,
    ledger: Ledger,
    checkpoints: Checkpoints,
    checkpoint: Checkpoint | None,
    before: Ending | None,
    listener: Callable[..., None],
    probe: dict[str, Any] | None = None,
    found_here: Path = Path("probe.npz"),
    killed: bool = False,
) -> Trained:
    """Trains a compiled model whose variables exist.

    Args:
        steps_of: see `compiled`.
        parameters: the resolved parameters of the recipe.
        seed: what the data order is keyed by.
        checkpoint: where to go on; None to begin.
        before: how the training ended that this one goes on from, or None.
        killed: whether this process is to end itself in the middle; see `killing_place`.
        listener: called with the keywords of an event, after each chunk and each epoch.
        probe: an `epoch`, of which the steps after `after` get whole entries in the ledger, one
            each; and a step to `record` into the file `found_here`, or None.

    Raises:
        Probed: the step to record has been, or the epoch to look at.
        BadInput: a callback watches what is not measured, or the checkpoint fits no longer.
    """
    training = parameters["training"]
    part = steps_of["train"].part
    batch_size, epochs = training["batch_size"], training["epochs"]
    validation_batch = training["validation_batch_size"] or batch_size
    size = len(part.x)
    watchers = callbacks.watch(parameters["callbacks"], model)
    here = Position(training["initial_epoch"] + 1)
    if before is not None:
        go_on_from(before, model, watchers, parameters)
    if checkpoint is not None:
        # Only now, after the graphs were traced: what that drew from Python's or NumPy's
        # generators, it drew before the first step of the run that was interrupted as well.
        here = checkpoint.position
        callbacks.restore(watchers, here.callbacks, checkpoint.restore(model))

    begin = here

    def rest(**place: Any) -> None:
        """A boundary: everything is at rest, and a checkpoint may be written."""
        nonlocal here
        ended = place["step"] == 0
        last = ended and (here.stopped or place["epoch"] > epochs)
        dies = killed and (last or (place["epoch"], place["step"]) == killing_place(*of))
        if checkpoints.due(ended, wanted=dies):
            here = replace(
                here,
                **place,
                callbacks=callbacks.states(watchers),
                entries=ledger.entries,
                head=ledger.head,
            )
            ledger.sync()
            checkpoints.write(model, here, callbacks.best_weights(watchers))
        if dies:
            os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))

    for epoch in range(begin.epoch, epochs + 1):
        if here.stopped:
            break
        done = begin.step if epoch == begin.epoch else 0
        if training["shuffle"]:
            order = seeds.permutation(seed, epoch, size)
        else:
            order = np.arange(size, dtype=np.int32)
        if training["steps_per_epoch"]:
            order = order[: training["steps_per_epoch"] * batch_size]
        steps, step = -(-len(order) // batch_size), 0
        of = (training["initial_epoch"], epochs, len(order), batch_size)
        if not done:
            model.reset_metrics()
        fine = probe is not None and probe["epoch"] == epoch
        single_after = 0 if isinstance(steps_of["train"], OwnSteps) else None
        if probe and fine:
            single_after = probe["after"]
        for indices in chunks(order, batch_size, single_after):
            step += len(indices)
            if step <= done:
                continue
            if probe and fine and probe["record"] == step:
                np.savez(found_here, allow_pickle=False, **probing.step(model, part, indices[0]))
                raise Probed
            steps_of["train"](indices)
            kinds = state.KINDS if fine else ("generators", "metrics")
            with ledger.timed():
                entry = _with_host(state.digests(model, *kinds))
                ledger.append("step", entry | {"order": {"indices": sha256(indices)}}, epoch, step)
            loss = results(model).get("loss")
            listener(event="step", epoch=epoch, epochs=epochs, step=step, steps=steps, loss=loss)
            rest(epoch=epoch, step=step)
        found = results(model)
        metrics = state.digests(model, "metrics")
        if epoch % training["validation_freq"] == 0:
            validated = evaluate(model, steps_of["validation"], validation_batch)
            found |= {f"val_{name}": value for name, value in validated.items()}
        stopped = callbacks.epoch_ended(watchers, epoch, found)
        with ledger.timed():
            entry = _with_host(state.digests(model, *state.KEPT) | metrics)
            ledger.append("epoch", entry | {"results": exact(found)}, epoch, step)
        if fine:  # Nobody looks at what comes after.
            raise Probed
        here = replace(here, stopped=stopped, history=[*here.history, found])
        listener(event="epoch", epoch=epoch, epochs=epochs, results=found)
        rest(epoch=epoch + 1, step=0)
    ending = Ending(
        Memory(
            epochs=training["initial_epoch"] + len(here.history),
            learning_rate=parameters["optimizer"]["learning_rate"],
            callbacks=callbacks.states(watchers),
            history=[*(before.memory.history if before else ()), *here.history],
            host=state.host(),
        ),
        state.arrays(model, state.KEPT),
        callbacks.best_weights(watchers),
    )
    # As at the end of `fit`: with `use_ema` the averaged weights take the place of the last ones;
    # then a callback may bring back those of its best epoch.
    model.optimizer.finalize_variable_values(model.trainable_weights)
    best = callbacks.training_ended(watchers)
    final = here.history[-1]
    if best is not None:
        final = ending.memory.history[best - ending.memory.epochs]
    averaged = best is None and parameters["optimizer"]["use_ema"]
    # The epoch that the model is of need not be one with a validation (`validation_freq`).
    if averaged or not any(name.startswith("val_") for name in final):
        validated = evaluate(model, steps_of["validation"], validation_batch)
        final = final | {f"val_{name}": value for name, value in validated.items()}
    return Trained(here.history, final, ending)


def go_on_from(before: Ending, model: Any, watchers: list[Any], parameters: dict[str, Any]) -> None:
    """Gives callbacks and generators what they remembered when another training ended.

    The tensors are there already. A learning rate that the recipe has changed since is the
    recipe's; else it stays what the other training had, which a callback may have reduced.

    Raises:
        BadInput: callbacks remember epochs, and the recipe counts them otherwise; or early
            stopping has nothing to wait for any more.
    """
    memory, training = before.memory, parameters["training"]
    if memory.callbacks and watchers and training["initial_epoch"] != memory.epochs:
        raise BadInput(
            f"training.initial_epoch: expected {memory.epochs}, the epochs that the run of "
            "training.initial_state has made, since callbacks remember them; "
            f"got {training['initial_epoch']}"
        )
    callbacks.restore(watchers, memory.callbacks, before.best)
    if callbacks.exhausted(watchers):
        raise BadInput(
            "training.initial_state: that run was stopped early, and this one would be stopped at "
            "once; raise callbacks.early_stopping.patience, or take training.initial_weights"
        )
    state.restore_host(memory.host)
    rate = parameters["optimizer"]["learning_rate"]
    if rate != memory.learning_rate and not parameters["optimizer"]["schedule"]:
        model.optimizer.learning_rate = rate


def killing_place(begun: int, epochs: int, size: int, batch_size: int) -> tuple[int, int]:
    """The epoch and the step in the middle of a training, at the end of a chunk.

    Args:
        begun: epochs made before.
        size: samples in an epoch.
    """
    steps, whole = -(-size // batch_size), size // batch_size
    half = -(-(epochs - begun) * steps // 2)
    epoch, step = divmod(half - 1, steps)
    ends = min(step // CHUNK * CHUNK + CHUNK, whole) if step < whole else steps
    return begun + 1 + epoch, ends


def _with_host(entry: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
    """Adds the generators outside the model to those inside it."""
    return entry | {"generators": state.generators() | entry["generators"]}


def exact(found: Results) -> dict[str, str]:
    """Results to the last bit, in a form in which a NaN equals itself."""
    return {name: value.hex() for name, value in found.items()}


def predictions(model: Any, part: Part, batch_size: int) -> dict[str, np.ndarray]:
    """The outputs of the model on a part; none where a sample is not what the model sees."""
    if hasattr(model, "learn"):
        return {}
    with faults.calling("predictions"):
        outputs = keras.tree.flatten(model.predict(part.x, batch_size=batch_size, verbose=0))
    return {f"output {number}": np.asarray(one) for number, one in enumerate(outputs)}


SHOWN = 12
"""Samples of each kind that a report shows."""


def judged(part: Part, outputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What a report needs of a part: targets and predictions, and some samples to look at.

    Shapes: `targets` and `predicted` (samples,), classes or numbers; of classes also `confidence`
    (samples,), the probability of the class predicted. `shown` are positions: of the samples whose
    own class has the smallest probability, or which are furthest from their target, and then of
    the first ones; `x` are these samples. A model with none or several outputs has none of these.
    """
    if len(outputs) != 1 or outputs["output 0"].ndim > 2 or part.y.ndim > 2:
        return {}
    first, y = outputs["output 0"], part.y
    first = first.reshape(len(first), -1).astype(np.float64)
    labels = splits.class_labels(y)
    targets = y.reshape(-1) if labels is None else labels
    if len(targets) != len(y):  # Several numbers for each sample.
        return {}
    if first.shape[1] > 1 and labels is not None:
        own = np.take_along_axis(first, targets[:, None].astype(np.int64), 1)[:, 0]
        found = {"predicted": first.argmax(axis=1), "confidence": first.max(axis=1)}
    elif first.shape[1] == 1 and np.isin(targets, (0, 1)).all():
        one = first[:, 0]
        own = np.where(targets == 1, one, 1 - one)
        found = {"predicted": (one > 0.5).astype(np.int64), "confidence": np.maximum(one, 1 - one)}
    else:
        own = -np.abs(first[:, 0] - targets)
        found = {"predicted": first[:, 0]}
    worst = np.argsort(own, kind="stable")[:SHOWN]
    shown = np.concatenate([worst, np.setdiff1d(np.arange(len(y)), worst)[:SHOWN]])
    found |= {"targets": targets, "shown": shown}
    if part.x[0].size <= 1_000_000:
        found["x"] = part.x[shown]
    return found

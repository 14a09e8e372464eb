"""The training loop: chunks of steps in one compiled graph, and a boundary after each.

An epoch's order of samples is cut into chunks of up to `CHUNK` batches. One call of a compiled
graph takes a chunk's indices, gathers each batch from arrays in memory and makes Keras's own
`model.train_step` on it. Between two chunks everything is at rest: there the ledger and the
checkpoints are written and the progress shown. Keras's callbacks see the results of an epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from . import BadInput, Dataset, Part, Parts, Probed, determinism, sha256, splits, state
from .ledger import Ledger
from .state import Checkpoint, Checkpoints, Position

CHUNK = 125
"""Steps in one call: long enough that the call costs nothing, short enough to show progress."""

Results = dict[str, float]

_KINDS = {
    "early_stopping": keras.callbacks.EarlyStopping,
    "reduce_lr_on_plateau": keras.callbacks.ReduceLROnPlateau,
}
# What changes while a callback watches a training; the rest follows from its arguments.
_STATE = ("best", "wait", "best_epoch", "stopped_epoch", "cooldown_counter")


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


class Compiled:
    """A graph that makes a step on each batch of a chunk of indices, of shape (steps, batch)."""

    def __init__(self, step: Callable[..., Any], part: Part, jit_compile: bool) -> None:
        """`step` is `model.train_step` or `model.test_step`; `part` is what the indices are of."""
        self.part = part
        tensors = [tf.constant(array) for array in part.arrays().values()]

        @tf.function(  # type: ignore[untyped-decorator]
            input_signature=[tf.TensorSpec((None, None), tf.int32)],
            autograph=False,
            jit_compile=jit_compile or None,
        )
        def run(indices: Any) -> None:
            def body(number: Any) -> list[Any]:
                step(tuple(tf.gather(tensor, indices[number]) for tensor in tensors))
                return [number + 1]

            # One step after the other: the next reads what this one wrote.
            tf.while_loop(
                lambda number: number < tf.shape(indices)[0], body, [0], parallel_iterations=1
            )

        self._run = run
        # Traced here, not in the middle of a run that goes on.
        self.graph = run.get_concrete_function().graph

    def __call__(self, indices: np.ndarray) -> None:
        self._run(tf.constant(indices))


def results(model: Any) -> Results:
    """The model's metrics as they stand."""
    return {name: float(value) for name, value in model.get_metrics_result().items()}


def evaluate(model: Any, test: Compiled, batch_size: int) -> Results:
    """Loss and metrics over all samples of a part, in the order they have."""
    model.reset_metrics()
    for indices in chunks(np.arange(len(test.part.x), dtype=np.int32), batch_size):
        test(indices)
    return results(model)


def ready(model: Any, part: Part) -> None:
    """Makes every variable of a compiled model, so that all are there before the first step."""
    model.optimizer.build(model.trainable_variables)
    sample = {name: array[:1] for name, array in part.arrays().items()}
    model.test_on_batch(sample["x"], sample["y"], sample.get("weight"))
    model.reset_metrics()


def compiled(model: Any, samples: Parts, training: dict[str, Any]) -> dict[str, Compiled]:
    """The graphs of the training steps and of the evaluations, by the name of their part."""
    parts = samples.parts() | {"train": weighted(samples.train, training["class_weight"])}
    steps = {"train": model.train_step, "validation": model.test_step, "test": model.test_step}
    return {
        name: Compiled(steps[name], part, training["jit_compile"]) for name, part in parts.items()
    }


def train(
    model: Any,
    graphs: dict[str, Compiled],
    parameters: dict[str, Any],
    seed: int,
    ledger: Ledger,
    checkpoints: Checkpoints,
    checkpoint: Checkpoint | None,
    listener: Callable[..., None],
    probe: dict[str, Any] | None = None,
    found_here: Path = Path("probe.npz"),
) -> tuple[list[Results], Results]:
    """Trains a compiled model whose variables exist.

    Returns the results of each epoch, and those of the model as it is at the end, which need not
    be the last ones.

    Args:
        graphs: see `compiled`.
        parameters: the resolved parameters of the recipe.
        seed: what the data order is keyed by.
        checkpoint: where to go on; None to begin.
        listener: called with the keywords of an event, after each chunk and each epoch.
        probe: an `epoch`, of which the steps after `after` get whole entries in the ledger, one
            each; and a step to `record` into the file `found_here`, or None.

    Raises:
        Probed: the step to record has been, or the epoch to look at.
        BadInput: a callback watches what is not measured, or the checkpoint fits no longer.
    """
    training = parameters["training"]
    part = graphs["train"].part
    batch_size, epochs = training["batch_size"], training["epochs"]
    validation_batch = training["validation_batch_size"] or batch_size
    size = len(part.x)
    watchers = watch(parameters["callbacks"], model)
    here = Position(training["initial_epoch"] + 1)
    if checkpoint is not None:
        # Only now, after the graphs were traced: what that drew from Python's or NumPy's
        # generators, it drew before the first step of the run that was interrupted as well.
        here = checkpoint.position
        restore_watchers(watchers, here.callbacks, checkpoint.restore(model))

    begin = here

    def rest(**place: Any) -> None:
        """A boundary: everything is at rest, and a checkpoint may be written."""
        nonlocal here
        ended = place["step"] == 0
        if checkpoints.due(ended):
            here = replace(
                here,
                **place,
                callbacks=watcher_states(watchers),
                entries=ledger.entries,
                head=ledger.head,
            )
            ledger.sync()
            checkpoints.write(model, here, best_weights(watchers))

    for epoch in range(begin.epoch, epochs + 1):
        if here.stopped:
            break
        done = begin.step if epoch == begin.epoch else 0
        if training["shuffle"]:
            order = determinism.permutation(seed, epoch, size)
        else:
            order = np.arange(size, dtype=np.int32)
        if training["steps_per_epoch"]:
            order = order[: training["steps_per_epoch"] * batch_size]
        steps, step = -(-len(order) // batch_size), 0
        if not done:
            model.reset_metrics()
        fine = probe is not None and probe["epoch"] == epoch
        for indices in chunks(order, batch_size, probe["after"] if probe and fine else None):
            step += len(indices)
            if step <= done:
                continue
            if probe and fine and probe["record"] == step:
                np.savez(found_here, allow_pickle=False, **record(model, part, indices[0]))
                raise Probed
            graphs["train"](indices)
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
            validated = evaluate(model, graphs["validation"], validation_batch)
            found |= {f"val_{name}": value for name, value in validated.items()}
        stopped = epoch_ended(watchers, epoch, found)
        with ledger.timed():
            entry = _with_host(state.digests(model, *state.KEPT) | metrics)
            ledger.append("epoch", entry | {"results": exact(found)}, epoch, step)
        if fine:  # Nobody looks at what comes after.
            raise Probed
        here = replace(here, stopped=stopped, history=[*here.history, found])
        listener(event="epoch", epoch=epoch, epochs=epochs, results=found)
        rest(epoch=epoch + 1, step=0)
    # As at the end of `fit`: with `use_ema` the averaged weights take the place of the last ones;
    # then a callback may bring back those of its best epoch.
    model.optimizer.finalize_variable_values(model.trainable_weights)
    best = training_ended(watchers)
    if best is not None:
        return here.history, here.history[best - training["initial_epoch"]]
    if parameters["optimizer"]["use_ema"]:
        validated = evaluate(model, graphs["validation"], validation_batch)
        return here.history, here.history[-1] | {f"val_{k}": v for k, v in validated.items()}
    return here.history, here.history[-1]


def beginning(model: Any, dataset: Dataset, samples: Parts, stage: str) -> dict[str, np.ndarray]:
    """The arrays of the data, whole and in parts, or the state before the first step.

    The keys are `kind/name`.
    """
    if stage == "data":
        arrays = dataset.arrays() | samples.arrays()
        return {f"data/{name}": array for name, array in arrays.items()}
    kinds = {"generators": "generator state", "weights": "initial weight"}
    found = state.arrays(model, tuple(kinds))
    return {f"{kinds[k.partition('/')[0]]}/{k.partition('/')[2]}": a for k, a in found.items()}


def record(model: Any, part: Part, indices: np.ndarray) -> dict[str, np.ndarray]:
    """Makes one training step outside the graph and returns all its tensors, causes first.

    The keys are `kind/name`: batch indices, batch content, generator states and weights before
    the step, each layer's outputs in the order they are computed, gradients, and after the step
    the optimizer's slots, weights and generators. Kernels can differ from the graph's; two records
    of one step are made alike, and that is what they are compared with.
    """
    batch = tuple(array[indices] for array in part.arrays().values())
    found = {"batch indices/0": indices}
    found |= {f"batch content/{name}": a for name, a in zip(part.arrays(), batch, strict=True)}
    before = state.arrays(model, ("generators", "weights"))
    found |= {key.replace("generators/", "generator state/", 1): a for key, a in before.items()}
    call, apply = keras.layers.Layer.__call__, keras.optimizers.Optimizer.apply

    def calling(layer: Any, *arguments: Any, **keywords: Any) -> Any:
        outputs = call(layer, *arguments, **keywords)
        for number, output in enumerate(keras.tree.flatten(outputs)):
            key = f"activation/{layer.path}"
            while f"{key}/{number}" in found:  # A layer that is called again.
                key += "'"
            found[f"{key}/{number}"] = np.asarray(output)
        return outputs

    def applying(optimizer: Any, gradients: Any, variables: Any = None) -> Any:
        gradients = list(gradients)
        named = variables or optimizer._trainable_variables
        for gradient, variable in zip(gradients, named, strict=True):
            if gradient is not None:
                found.setdefault(f"gradient/{variable.path}", np.asarray(gradient))
        return apply(optimizer, gradients, variables)

    keras.layers.Layer.__call__, keras.optimizers.Optimizer.apply = calling, applying
    try:
        model.train_step(tuple(tf.constant(array) for array in batch))
    finally:
        keras.layers.Layer.__call__, keras.optimizers.Optimizer.apply = call, apply
    after = state.arrays(model, ("optimizer", "weights", "generators"))
    names = {
        "optimizer": "optimizer slot",
        "weights": "weight after",
        "generators": "generator state after",
    }
    for key, array in after.items():
        kind, _, name = key.partition("/")
        found[f"{names[kind]}/{name}"] = array
    return found


def _with_host(entry: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
    """Adds the generators outside the model to those inside it."""
    return entry | {"generators": determinism.generators() | entry["generators"]}


def exact(found: Results) -> dict[str, str]:
    """Results to the last bit, in a form in which a NaN equals itself."""
    return {name: value.hex() for name, value in found.items()}


def weighted(part: Part, class_weight: dict[str, float] | None) -> Part:
    """Multiplies the weight of each sample by that of its class, as `fit(class_weight=…)` does."""
    if class_weight is None:
        return part
    weight = np.ones(len(part.y), np.float32) if part.weight is None else part.weight.copy()
    for label, factor in class_weight.items():
        weight[part.y.reshape(-1) == int(label)] *= factor
    return Part(part.x, part.y, weight)


def predictions(model: Any, part: Part, batch_size: int) -> dict[str, np.ndarray]:
    """The outputs of the model on a part."""
    outputs = keras.tree.flatten(model.predict(part.x, batch_size=batch_size, verbose=0))
    return {f"output {number}": np.asarray(one) for number, one in enumerate(outputs)}


SHOWN = 12
"""Samples of each kind that a report shows."""


def judged(part: Part, outputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What a report needs of a part: targets and predictions, and some samples to look at.

    Shapes: `targets` and `predicted` (samples,), classes or numbers; of classes also `confidence`
    (samples,), the probability of the class predicted. `shown` are positions: of the samples whose
    own class has the smallest probability, or which are furthest from their target, and then of
    the first ones; `x` are these samples. A model with several outputs has none of these.
    """
    first, y = outputs["output 0"], part.y
    if len(outputs) > 1 or first.ndim > 2 or y.ndim > 2:
        return {}
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


def watch(parameters: dict[str, Any], model: Any) -> list[Any]:
    """Returns the callbacks that are not null, about to watch the model."""
    made = [_KINDS[name](**group) for name, group in parameters.items() if group is not None]
    for watcher in made:
        watcher.set_model(model)
        watcher.on_train_begin()
    model.stop_training = False
    return made


def epoch_ended(watchers: list[Any], epoch: int, found: dict[str, float]) -> bool:
    """Shows the results of an epoch to the callbacks; returns whether one stops the training.

    A callback that changes the learning rate adds it to the results, as in `fit`.

    Raises:
        BadInput: a callback watches what is not measured. Keras would warn and do nothing.
    """
    for watcher in watchers:
        if watcher.monitor not in found and not watcher.monitor.startswith("val_"):
            raise BadInput(_unknown(watcher, found))
        if watcher.monitor in found:
            watcher.on_epoch_end(epoch - 1, found)
        elif any(name.startswith("val_") for name in found):
            raise BadInput(_unknown(watcher, found))
    stops: bool = watchers != [] and watchers[0].model.stop_training
    return stops


def _unknown(watcher: Any, found: dict[str, float]) -> str:
    name = next(name for name, kind in _KINDS.items() if isinstance(watcher, kind))
    return f"callbacks.{name}.monitor: expected one of {', '.join(found)}; got {watcher.monitor!r}"


def training_ended(watchers: list[Any]) -> int | None:
    """Tells the callbacks that the training is over.

    Returns the epoch, counted from 0, whose weights one of them brought back, or None.
    """
    for watcher in watchers:
        watcher.on_train_end()
    return next((w.best_epoch for w in watchers if getattr(w, "best_weights", None)), None)


def watcher_states(watchers: list[Any]) -> list[dict[str, Any]]:
    """What has to be remembered of each callback, as plain numbers."""
    return [
        {name: _plain(value) for name, value in vars(watcher).items() if name in _STATE}
        for watcher in watchers
    ]


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, int) else float(value)


def best_weights(watchers: list[Any]) -> list[np.ndarray]:
    """The weights a callback remembers, or none."""
    return next((w.best_weights for w in watchers if getattr(w, "best_weights", None)), [])


def restore_watchers(
    watchers: list[Any], saved: list[dict[str, Any]], best: list[np.ndarray]
) -> None:
    """Gives callbacks just made what was remembered of them."""
    for watcher, values in zip(watchers, saved, strict=True):
        vars(watcher).update(values)
        if best and hasattr(watcher, "best_weights"):
            watcher.best_weights = best

"""Keras's callbacks that change the course of a training, and their state for checkpoints."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from repro.basics.errors import BadInput
from repro.recipe.parameters import Callbacks

_KINDS = {
    "early_stopping": keras.callbacks.EarlyStopping,
    "reduce_lr_on_plateau": keras.callbacks.ReduceLROnPlateau,
}
# The attributes that change while a callback watches; the others follow from its arguments.
_STATE = ("best", "wait", "best_epoch", "stopped_epoch", "cooldown_counter")


def watch(asked: Callbacks, model: Any) -> list[Any]:
    """Returns the callbacks that are asked for, ready to watch the model."""
    made = [_KINDS[name](**dict(group)) for name, group in asked if group is not None]
    for watcher in made:
        watcher.set_model(model)
        watcher.on_train_begin()
    model.stop_training = False
    return made


def epoch_ended(watchers: list[Any], epoch: int, found: dict[str, float]) -> bool:
    """Shows the results of an epoch to the callbacks, and returns whether one stops the training.

    A callback that changes the learning rate adds it to the results, as in `fit`.

    Raises:
        BadInput: a callback watches a value that is not measured (Keras would only warn), or a
            value of which Keras does not know whether more is better.
    """
    for watcher in watchers:
        if watcher.monitor not in found and not watcher.monitor.startswith("val_"):
            raise BadInput(_unknown(watcher, found))
        if watcher.monitor in found:
            try:
                watcher.on_epoch_end(epoch - 1, found)
            except ValueError as error:
                if "maximized or minimized" not in str(error):
                    raise
                raise BadInput(
                    f"callbacks.{_name(watcher)}.mode: expected min or max, got auto: Keras does "
                    f"not know whether more of {watcher.monitor} is better"
                ) from None
        elif any(name.startswith("val_") for name in found):
            raise BadInput(_unknown(watcher, found))
    stops: bool = watchers != [] and watchers[0].model.stop_training
    return stops


def _unknown(watcher: Any, found: dict[str, float]) -> str:
    expected = f"expected one of {', '.join(found)}; got {watcher.monitor!r}"
    return f"callbacks.{_name(watcher)}.monitor: {expected}"


def _name(watcher: Any) -> str:
    return next(name for name, kind in _KINDS.items() if isinstance(watcher, kind))


def training_ended(watchers: list[Any]) -> int | None:
    """Tells the callbacks that the training is over.

    Returns:
        The epoch, counted from 0, whose weights a callback has brought back; None: none did.
    """
    for watcher in watchers:
        watcher.on_train_end()
    return next((w.best_epoch for w in watchers if getattr(w, "best_weights", None)), None)


def states(watchers: list[Any]) -> dict[str, dict[str, Any]]:
    """Returns the state of each callback as plain numbers, by its name in `params.yaml`."""
    return {
        _name(watcher): {k: _plain(v) for k, v in vars(watcher).items() if k in _STATE}
        for watcher in watchers
    }


def exhausted(watchers: list[Any]) -> bool:
    """Whether early stopping has waited as long as it may, and would stop the training at once."""
    return any(
        isinstance(watcher, keras.callbacks.EarlyStopping)
        and watcher.stopped_epoch > 0
        and watcher.wait >= watcher.patience
        for watcher in watchers
    )


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, int) else float(value)


def best_weights(watchers: list[Any]) -> list[np.ndarray]:
    """Returns the weights that a callback remembers; an empty list if none does."""
    return next((w.best_weights for w in watchers if getattr(w, "best_weights", None)), [])


def restore(watchers: list[Any], saved: dict[str, dict[str, Any]], best: list[np.ndarray]) -> None:
    """Gives new callbacks their saved state; one that has no saved state begins from nothing."""
    for watcher in watchers:
        vars(watcher).update(saved.get(_name(watcher), {}))
        if best and hasattr(watcher, "best_weights"):
            watcher.best_weights = best

"""What a trained model predicts, and what a report shows of it."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from repro.data import splits
from repro.data.dataset import Part
from repro.run import faults


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

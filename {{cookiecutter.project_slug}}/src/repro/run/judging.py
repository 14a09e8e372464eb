"""What a trained model predicts, and what a report shows of it."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from repro.data import splits
from repro.data.dataset import Part
from repro.run import faults


def predictions(model: Any, part: Part, batch_size: int) -> dict[str, np.ndarray]:
    """Returns the outputs of the model on a part, by `output NUMBER`.

    A model with a `learn` of its own has none, since it need not map one sample to one output.

    Returns:
        Arrays of shape (samples, *of one sample's output).
    """
    if hasattr(model, "learn"):
        return {}
    with faults.calling("predictions"):
        outputs = keras.tree.flatten(model.predict(part.x, batch_size=batch_size, verbose=0))
    return {f"output {number}": np.asarray(one) for number, one in enumerate(outputs)}


SHOWN = 12
"""How many samples of each kind a report shows."""


def judged(part: Part, outputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns what a report needs: targets, predictions, and some samples to look at.

    Returns:
        `targets` and `predicted`: classes or numbers, of shape (samples,).
        `confidence`: only for classes; the probability of the predicted class, of shape (samples,).
        `shown`: the positions of the samples to show, of shape (shown,). First come those for which
        the model is most wrong: their own class has the smallest probability, or they are furthest
        from their target. Then come the first samples of the part.
        `x`: the samples at these positions; missing if one sample has more than a million numbers.

        Nothing is returned if the model has no output or several, or if a sample has several
        targets that are not one class.
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

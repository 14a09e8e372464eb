"""What a trained model predicts, and what a report shows of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from repro.basics.digests import Streamed, sha256
from repro.data.dataset import Part, class_labels
from repro.run import faults
from repro.run.steps import PartSteps, evaluable

KEPT = 64 * 2**20
"""Bytes of outputs that are kept for a report; of more only their digest is."""


@dataclass(frozen=True)
class Predictions:
    """What a model predicts for a part, by `output NUMBER`."""

    digests: dict[str, str]
    """The SHA-256 of each output over all samples."""
    arrays: dict[str, np.ndarray]
    """The outputs, of shape (samples, *of one sample's output); none if they are many bytes."""
    samples: Part
    """What they were predicted for: the part, or with samples in the place of those skipped."""


def predictions(model: Any, steps: PartSteps, batch_size: int) -> Predictions:
    """Returns what the model predicts for a part.

    A model that Keras cannot evaluate predicts nothing, since it need not map one sample to one
    output.
    """
    part = steps.part
    if not evaluable(model):
        return Predictions({}, {}, part)
    if part.reader is None:
        x = keras.tree.map_structure(_readable, part.x)
        with faults.calling("predictions"):
            outputs = keras.tree.flatten(model.predict(x, batch_size=batch_size, verbose=0))
        arrays = {f"output {number}": np.asarray(one) for number, one in enumerate(outputs)}
        return Predictions({name: sha256(array) for name, array in arrays.items()}, arrays, part)
    read: list[np.ndarray] = []
    digests, kept, size = dict[str, Streamed](), dict[str, list[np.ndarray]](), 0
    for chunk in steps.in_order(batch_size):
        assert chunk.read is not None
        read.append(chunk.read.reshape(-1))
        for number in range(chunk.steps):
            batch = part.given(chunk.batch(number))
            with faults.calling("predictions"):
                x = keras.tree.map_structure(_readable, batch[0])
                outputs = keras.tree.flatten(model.predict_on_batch(x))
            for place, one in enumerate(map(np.asarray, outputs)):
                name = f"output {place}"
                if name not in digests:
                    digests[name] = Streamed(one.dtype, (len(part), *one.shape[1:]))
                digests[name].update(one)
                size += one.nbytes
                kept.setdefault(name, []).append(one)
        if size > KEPT:
            kept = {name: [] for name in kept}
    arrays = {} if size > KEPT else {name: np.concatenate(all_) for name, all_ in kept.items()}
    named = {name: one.hexdigest() for name, one in digests.items()}
    return Predictions(named, arrays, part.at(np.concatenate(read)))


def _readable(array: np.ndarray) -> Any:
    """An array as `predict` takes it: Keras refuses NumPy's words, but takes a tensor of them."""
    return keras.ops.convert_to_tensor(array) if array.dtype.kind in "SU" else array


SHOWN = 12
"""How many samples of each kind a report shows."""


def judged(predicted: Predictions) -> dict[str, np.ndarray]:
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
    part, outputs = predicted.samples, predicted.arrays
    first, y = outputs.get("output 0"), part.y
    if first is None or len(outputs) != 1 or not isinstance(y, np.ndarray):
        return {}
    if first.ndim > 2 or y.ndim > 2:
        return {}
    first = first.reshape(len(first), -1).astype(np.float64)
    labels = class_labels(y)
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
    if isinstance(part.x, np.ndarray) and part.x[0].size <= 1_000_000:
        found["x"] = part.x[shown]
    return found

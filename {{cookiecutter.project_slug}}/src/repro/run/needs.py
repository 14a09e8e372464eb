"""What each loss and each metric on offer needs of targets and outputs.

Keras takes much without a word that it cannot mean: it cuts 0.7 to class 0, and compares one number
with ten by repeating it ten times. Other things it meets with a traceback, and JAX with a result.
So each has its need here, and `targets.py` refuses what does not meet it before the first step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from repro.basics.errors import BadInput

TOP = 5
"""How many of the likeliest classes Keras's top-k metrics look at."""


@dataclass(frozen=True)
class Seen:
    """What a loss or a metric will get.

    Shapes: each of `targets` (samples, *of one sample); `outputs` is that of one sample's outputs.
    """

    targets: dict[str, np.ndarray]
    """By the name of the part: train, validation, test."""
    outputs: tuple[int | None, ...]
    classes: int
    """How many there are, as the data function says."""

    @property
    def one(self) -> np.ndarray:
        """The targets of some part, for what is the same in all."""
        return next(iter(self.targets.values()))

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the targets of one sample."""
        return tuple(self.one.shape[1:])

    @property
    def last(self) -> int:
        """The outputs along the last axis; 1 where there is none."""
        return (self.outputs[-1] or 0) if self.outputs else 1

    def first_where(self, wrong: Callable[[np.ndarray], np.ndarray]) -> str:
        """The first target for which something holds, and its part; empty where there is none."""
        for name, array in self.targets.items():
            found = wrong(array)
            if found.any():
                return f"{array[found].flat[0]} in the {name} part"
        return ""


Need = Callable[[Seen], str]
"""Returns what is needed and is not so, or nothing."""


def _numbers(seen: Seen) -> str:
    """Numbers, one for each output. A last axis of length 1 may be left out."""
    if seen.one.dtype.kind not in "biuf":
        return f"needs numbers as targets, and these are of type {seen.one.dtype}"
    targets, outputs = ((*shape, 1) for shape in (seen.shape, seen.outputs))
    if seen.shape == seen.outputs or targets == seen.outputs or seen.shape == outputs:
        return ""
    return (
        f"needs a target for each output, and a sample's targets have shape {seen.shape}, "
        f"its outputs {seen.outputs}"
    )


def _labels(seen: Seen) -> str:
    """One class for each row of outputs, counted from 0."""
    if seen.last < 2:
        return "needs an output for each class, and the model has one output"
    if seen.shape not in (seen.outputs[:-1], (*seen.outputs[:-1], 1)):
        return (
            f"needs one class for each {seen.last} outputs, and a sample's targets have shape "
            f"{seen.shape}, its outputs {seen.outputs}"
        )
    if seen.one.dtype.kind not in "biuf":
        return f"needs classes as numbers from 0, and the targets are of type {seen.one.dtype}"
    if part := seen.first_where(lambda y: y != np.floor(y)):
        return f"needs classes, which are whole numbers, and there is {part}"
    count = min(seen.last, seen.classes) if seen.classes > 1 else seen.last
    if part := seen.first_where(lambda y: (y < 0) | (y >= count)):
        by = f"the model has {seen.last} outputs"
        if seen.classes == count < seen.last:
            by = f"the Dataset says classes={count}"
        return f"needs classes from 0 to {count - 1}, since {by}, and there is {part}"
    return ""


def _between(low: float, high: float, what: str) -> Need:
    """Numbers in a range."""

    def need(seen: Seen) -> str:
        if wrong := _numbers(seen):
            return wrong
        part = seen.first_where(lambda y: (y < low) | (y > high))
        return f"needs {what} as targets, and there is {part}" if part else ""

    return need


def _among(values: tuple[int, ...], what: str) -> Need:
    """Numbers that are some of these."""

    def need(seen: Seen) -> str:
        if wrong := _numbers(seen):
            return wrong
        part = seen.first_where(lambda y: ~np.isin(y, values))
        return f"needs {what} as targets, and there is {part}" if part else ""

    return need


_zero_or_one = _among((0, 1), "0 and 1")
_share = _between(0, 1, "shares from 0 to 1")


def _shares(seen: Seen) -> str:
    """A share for each class, of which a row sums up to 1; with one column a class, one of them."""
    if seen.last < 2:
        return "needs an output for each class, and the model has one output"
    if wrong := _share(seen):
        return wrong
    for name, array in seen.targets.items():
        # Wide, so that the sum of many float16 is near enough.
        total = array.sum(axis=-1, dtype=np.float64)
        off = np.abs(total - 1) > 1e-2
        if off.any():
            return (
                "needs shares of classes as targets, which are 1 together, and a row of the "
                f"{name} part is {total[off].flat[0]:.4g} together"
            )
    return ""


def _vectors(seen: Seen) -> str:
    """Several numbers for each sample; of one number the cosine is its sign."""
    return _numbers(seen) or ("needs several outputs, and there is one" if seen.last < 2 else "")


def _table(need: Need) -> Need:
    """A row of numbers for each sample, and no further axis."""

    def both(seen: Seen) -> str:
        if len(seen.outputs) != 1:
            return f"needs outputs of shape (batch, numbers), and a sample's are {seen.outputs}"
        return need(seen)

    return both


def _columns(seen: Seen) -> str:
    """As `_table`, and the targets have their last axis, also where its length is 1."""
    if len(seen.shape) != 1:
        return f"needs targets of shape (samples, columns); a sample's have shape {seen.shape}"
    return _zero_or_one(seen)


def _top(need: Need) -> Need:
    """More classes than are looked at, for else every answer is right."""

    def both(seen: Seen) -> str:
        if wrong := need(seen):
            return wrong
        if seen.last <= TOP:
            return f"looks at the {TOP} likeliest classes, and there are only {seen.last}"
        return ""

    return both


def _accuracy(seen: Seen) -> str:
    """Which accuracy it is Keras decides by the shapes (`compile_utils.get_metric`)."""
    if seen.last == 1:
        return _zero_or_one(seen)
    if len(seen.shape) < len(seen.outputs) or seen.shape[-1] == 1:
        return _labels(seen)
    return _shares(seen)


_not_negative = _between(0, np.inf, "numbers of 0 or more")
# Keras takes 0 for -1.
_sides = _among((-1, 0, 1), "-1 and 1, or 0 and 1,")

LOSSES: dict[str, Need] = {
    "sparse_categorical_crossentropy": _labels,
    "categorical_crossentropy": _shares,
    "binary_crossentropy": _share,
    "categorical_focal_crossentropy": _shares,
    "binary_focal_crossentropy": _share,
    "kl_divergence": _shares,
    "poisson": _not_negative,
    "hinge": _sides,
    "squared_hinge": _sides,
    "categorical_hinge": _shares,
    "mean_squared_error": _numbers,
    "mean_absolute_error": _numbers,
    "mean_absolute_percentage_error": _numbers,
    "mean_squared_logarithmic_error": _not_negative,
    "cosine_similarity": _vectors,
    "huber": _numbers,
    "log_cosh": _numbers,
}
PROBABILITIES = {
    "sparse_categorical_crossentropy",
    "categorical_crossentropy",
    "binary_crossentropy",
    "categorical_focal_crossentropy",
    "binary_focal_crossentropy",
    "kl_divergence",
}
"""Losses of outputs from 0 to 1. Of others Keras makes such by cutting off what is too much."""
METRICS: dict[str, Need] = {
    "accuracy": _accuracy,
    "top_k_categorical_accuracy": _top(_shares),
    "sparse_top_k_categorical_accuracy": _top(_labels),
    "mean_squared_error": _numbers,
    "mean_absolute_error": _numbers,
    "root_mean_squared_error": _numbers,
    "mean_absolute_percentage_error": _numbers,
    "r2_score": _table(_numbers),
    "f1_score": _table(_columns),
    "auc": _zero_or_one,
    "precision": _zero_or_one,
    "recall": _zero_or_one,
    "cosine_similarity": _vectors,
}


def check(seen: Seen, key: str, names: Sequence[str], needs: dict[str, Need]) -> None:
    """Refuses the first of these losses or metrics whose need is not met.

    Raises:
        BadInput: with what it needs, what is there, and up to three names that would do.
    """
    for name in names:
        if wrong := needs[name](seen):
            would = [other for other, need in needs.items() if not need(seen)][:3]
            advice = f"; {' or '.join(would)} would do" if would else ""
            raise BadInput(f"{key}: {name} {wrong}{advice}")

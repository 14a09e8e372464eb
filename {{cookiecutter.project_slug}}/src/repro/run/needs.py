"""What each loss and each metric needs of the targets and of the model's outputs.

Keras accepts combinations that make no sense: it takes the target 0.7 for class 0, and it compares
one number with ten by repeating it ten times. For other combinations it shows a traceback, and on
JAX it may give a result. So this module has the needs of each loss and metric, and `targets.py`
refuses what does not meet them before the first step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from repro.basics.errors import BadInput
from repro.recipe.parameters import Named

TOP = 5
"""How many of the likeliest classes Keras's top-k metrics look at, if nothing else is said."""


@dataclass(frozen=True)
class Seen:
    """The targets and the shape of the outputs that a loss or a metric gets."""

    targets: dict[str, np.ndarray]
    """By part (train, validation, test): arrays of shape (samples, *of one sample's targets)."""
    outputs: tuple[int | None, ...]
    """The shape of one sample's outputs."""
    classes: int
    """The number of classes that the data function says."""
    given: Mapping[str, Any] = field(default_factory=dict)
    """The arguments of the loss or the metric; without them its defaults hold."""

    @property
    def one(self) -> np.ndarray:
        """The targets of one part, for questions that have the same answer for all parts."""
        return next(iter(self.targets.values()))

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one sample's targets."""
        return tuple(self.one.shape[1:])

    @property
    def last(self) -> int:
        """The number of outputs along the last axis; 1 if one sample's output is one number."""
        return (self.outputs[-1] or 0) if self.outputs else 1

    def first_where(self, wrong: Callable[[np.ndarray], np.ndarray]) -> str:
        """Names the first target for which `wrong` is true, and its part; empty if none is."""
        for name, array in self.targets.items():
            found = wrong(array)
            if found.any():
                return f"{array[found].flat[0]} in the {name} part"
        return ""


Need = Callable[[Seen], str]
"""Returns which need is not met, or an empty text. The docstring of each says what it needs."""


def _numbers(seen: Seen) -> str:
    """One number for each output. A last axis of length 1 may be left out."""
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
    """One number in this range for each output."""

    def need(seen: Seen) -> str:
        if wrong := _numbers(seen):
            return wrong
        part = seen.first_where(lambda y: (y < low) | (y > high))
        return f"needs {what} as targets, and there is {part}" if part else ""

    return need


def _among(values: tuple[int, ...], what: str) -> Need:
    """One of these numbers for each output."""

    def need(seen: Seen) -> str:
        if wrong := _numbers(seen):
            return wrong
        part = seen.first_where(lambda y: ~np.isin(y, values))
        return f"needs {what} as targets, and there is {part}" if part else ""

    return need


_zero_or_one = _among((0, 1), "0 and 1")
_share = _between(0, 1, "shares from 0 to 1")


def _shares(seen: Seen) -> str:
    """A share from 0 to 1 for each class, where the shares of a row sum up to 1."""
    if seen.last < 2:
        return "needs an output for each class, and the model has one output"
    if wrong := _share(seen):
        return wrong
    for name, array in seen.targets.items():
        # In float64, since a sum of many float16 would not be exact enough.
        total = array.sum(axis=-1, dtype=np.float64)
        off = np.abs(total - 1) > 1e-2
        if off.any():
            return (
                "needs shares of classes as targets, which sum up to 1, and a row of the "
                f"{name} part sums up to {total[off].flat[0]:.4g}"
            )
    return ""


def _vectors(seen: Seen) -> str:
    """Several numbers for each sample: the cosine of a single number is only its sign."""
    return _numbers(seen) or ("needs several outputs, and there is one" if seen.last < 2 else "")


def _varied(seen: Seen) -> str:
    """Several numbers for each sample that are not all the same, which nothing correlates with."""
    if wrong := _vectors(seen):
        return wrong
    for name, array in seen.targets.items():
        if (np.ptp(array, axis=-1) == 0).any():
            return (
                f"needs numbers that differ within each sample, and one of the {name} part has one"
            )
    return ""


def _table(need: Need) -> Need:
    """Outputs that are a row of numbers for each sample, without further axes."""

    def both(seen: Seen) -> str:
        if len(seen.outputs) != 1:
            return f"needs outputs of shape (batch, numbers), and a sample's are {seen.outputs}"
        return need(seen)

    return both


def _exact(need: Need) -> Need:
    """Targets of the very shape of the outputs: this metric leaves out no axis of length 1."""

    def both(seen: Seen) -> str:
        if seen.shape != seen.outputs:
            return (
                f"needs targets of the shape of the outputs, {seen.outputs}, and a sample's have "
                f"{seen.shape}"
            )
        return need(seen)

    return both


def _columns(seen: Seen) -> str:
    """0 or 1 for each output. The last axis must be there even if its length is 1."""
    if len(seen.shape) != 1:
        return f"needs targets of shape (samples, columns); a sample's have shape {seen.shape}"
    return _zero_or_one(seen)


def _f_score(seen: Seen) -> str:
    """A table of 0 and 1; where a row has not one class, a threshold says what is predicted."""
    if wrong := _table(_columns)(seen):
        return wrong
    one = seen.last > 1 and all((y.sum(axis=-1) == 1).all() for y in seen.targets.values())
    if not one and "threshold" in seen.given and seen.given["threshold"] is None:
        return "needs a threshold such as 0.5, since a sample may have several classes or none"
    return ""


def _top(need: Need) -> Need:
    """More classes than the metric looks at, since every answer would be right otherwise."""

    def both(seen: Seen) -> str:
        if wrong := need(seen):
            return wrong
        top = seen.given.get("k", TOP)
        if seen.last <= top:
            return f"looks at the {top} likeliest classes, and there are only {seen.last}"
        return ""

    return both


def _accuracy(seen: Seen) -> str:
    """What Keras's accuracy for these shapes needs: see Keras's `compile_utils.get_metric`."""
    if seen.last == 1:
        return _zero_or_one(seen)
    if len(seen.shape) < len(seen.outputs) or seen.shape[-1] == 1:
        return _labels(seen)
    return _shares(seen)


_not_negative = _between(0, np.inf, "numbers of 0 or more")
# If the targets are 0 and 1, Keras takes 0 for -1.
_sides = _among((-1, 0, 1), "-1 and 1, or 0 and 1,")

LOSSES: dict[str, Need] = {
    "SparseCategoricalCrossentropy": _labels,
    "CategoricalCrossentropy": _shares,
    "BinaryCrossentropy": _share,
    "CategoricalFocalCrossentropy": _shares,
    "BinaryFocalCrossentropy": _share,
    "KLDivergence": _shares,
    "Poisson": _not_negative,
    "Hinge": _sides,
    "SquaredHinge": _sides,
    "CategoricalHinge": _shares,
    "MeanSquaredError": _numbers,
    "MeanAbsoluteError": _numbers,
    "MeanAbsolutePercentageError": _numbers,
    "MeanSquaredLogarithmicError": _not_negative,
    "CosineSimilarity": _vectors,
    "Huber": _numbers,
    "LogCosh": _numbers,
    "CategoricalGeneralizedCrossEntropy": _labels,
    "Dice": _share,
    "Tversky": _share,
}
PROBABILITIES = {
    "SparseCategoricalCrossentropy",
    "CategoricalCrossentropy",
    "BinaryCrossentropy",
    "CategoricalFocalCrossentropy",
    "BinaryFocalCrossentropy",
    "KLDivergence",
}
"""Losses that need outputs from 0 to 1. Keras would clip other outputs without a warning."""
METRICS: dict[str, Need] = {
    "accuracy": _accuracy,
    "TopKCategoricalAccuracy": _top(_shares),
    "SparseTopKCategoricalAccuracy": _top(_labels),
    "MeanSquaredError": _numbers,
    "MeanAbsoluteError": _numbers,
    "RootMeanSquaredError": _numbers,
    "MeanAbsolutePercentageError": _numbers,
    "R2Score": _table(_numbers),
    "F1Score": _f_score,
    "AUC": _zero_or_one,
    "Precision": _zero_or_one,
    "Recall": _zero_or_one,
    "CosineSimilarity": _vectors,
    "BinaryAccuracy": _zero_or_one,
    "CategoricalAccuracy": _shares,
    "SparseCategoricalAccuracy": _labels,
    "BinaryCrossentropy": _exact(_share),
    "CategoricalCrossentropy": _shares,
    "SparseCategoricalCrossentropy": _labels,
    "KLDivergence": _shares,
    "Poisson": _not_negative,
    "Hinge": _sides,
    "SquaredHinge": _sides,
    "CategoricalHinge": _shares,
    "MeanSquaredLogarithmicError": _not_negative,
    "LogCoshError": _numbers,
    "FBetaScore": _f_score,
    "PrecisionAtRecall": _zero_or_one,
    "RecallAtPrecision": _zero_or_one,
    "SensitivityAtSpecificity": _zero_or_one,
    "SpecificityAtSensitivity": _zero_or_one,
    "TruePositives": _zero_or_one,
    "TrueNegatives": _zero_or_one,
    "FalsePositives": _zero_or_one,
    "FalseNegatives": _zero_or_one,
    "PearsonCorrelation": _varied,
    "ConcordanceCorrelation": _vectors,
}


def check(seen: Seen, key: str, asked: Sequence[Named], needs: dict[str, Need]) -> None:
    """Checks that targets and outputs meet the needs of these losses or metrics.

    A class of the project has no needs that are known here.

    Args:
        key: the parameter that names them, for the message.
        asked: the losses or metrics to check.
        needs: `LOSSES` or `METRICS`.

    Raises:
        BadInput: a need is not met. The message says what is needed, what is there, and up to three
            other names that would work.
    """
    for one in asked:
        need = needs.get(one.name)
        if need is not None and (wrong := need(replace(seen, given=one.arguments))):
            others = [other for other, need in needs.items() if not need(seen)]
            advice = f"; {' or '.join(others[:3])} would do" if others else ""
            raise BadInput(f"{key}: {one.name} {wrong}{advice}")

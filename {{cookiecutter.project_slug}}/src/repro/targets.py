"""What a loss, a metric and the class weights need of targets and outputs, before the first step.

Keras takes much without a word that it cannot mean: it cuts 0.7 to class 0, and compares one number
with ten by repeating it ten times. Other things it meets with a traceback, and JAX with a result.
So each loss and each metric on offer has its need here, and what does not meet it is refused in one
line, with the names that would do. Keras itself is imported only where a model is looked at.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import BadInput, Part, Parts, splits

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


def check(seen: Seen, key: str, names: list[str], needs: dict[str, Need]) -> None:
    """Refuses the first of these losses or metrics whose need is not met.

    Raises:
        BadInput: with what it needs, what is there, and up to three names that would do.
    """
    for name in names:
        if wrong := needs[name](seen):
            would = [other for other, need in needs.items() if not need(seen)][:3]
            advice = f"; {' or '.join(would)} would do" if would else ""
            raise BadInput(f"{key}: {name} {wrong}{advice}")


def metrics(names: list[str], samples: Parts) -> list[Any] | None:
    """The metrics of these names, as Keras takes them.

    Keras's F1 score is one number for each column, which is no result of a training; here it is
    their mean. Where a row has one class, the likeliest one counts as told; else each column is
    told where it is more than a half.
    """
    import keras

    made: list[Any] = list(names)
    for place, name in enumerate(names):
        if name == "f1_score":
            y = samples.train.y
            one = y.ndim == 2 and y.shape[1] > 1 and splits.class_labels(y) is not None
            made[place] = keras.metrics.F1Score(
                average="macro", threshold=None if one else 0.5, name=name
            )
    return made or None


@contextlib.contextmanager
def building() -> Iterator[None]:
    """A block in which a model is built, and Keras's refusal of a stateful layer is one line.

    Raises:
        BadInput: see `fresh`.
    """
    try:
        yield
    except ValueError as error:
        if "stateful=True" not in str(error):
            raise
        raise BadInput(f"model: a recurrent layer is stateful{STATEFUL}") from None


STATEFUL = (
    ", and would go on from the samples of one batch to others of the next, which come in any "
    "order; stateful=False would do"
)


def fresh(model: Any) -> None:
    """Refuses what a model's `build` may not return.

    Raises:
        BadInput: it is compiled, for `params.yaml` says which optimizer trains it; or it takes
            batches of one size alone, or remembers one batch in the next: an epoch's last batch is
            smaller, and samples come in a new order.
    """
    import keras

    if model.compiled:
        raise BadInput(
            f"model: build returned it compiled, with {type(model.optimizer).__name__}; return it "
            "uncompiled (keras.models.load_model has compile=False), since the group optimizer "
            "of params.yaml says what trains it"
        )
    if hasattr(model, "learn"):
        return  # It makes its steps itself, on batches that it may cut as it likes.
    for layer in model._flatten_layers(include_self=True):
        if isinstance(layer, keras.layers.InputLayer) and layer.batch_shape[0] is not None:
            raise BadInput(
                f"model: layer {layer.name} takes batches of {layer.batch_shape[0]} samples alone, "
                "and the last batch of an epoch can be smaller; an Input without a batch size "
                "would do, for training.batch_size says it"
            )
        if isinstance(layer, keras.layers.RNN) and layer.stateful:
            raise BadInput(f"model: layer {layer.name} is stateful{STATEFUL}")


@contextlib.contextmanager
def checking(model: Any, samples: Parts, classes: int, training: dict[str, Any]) -> Iterator[None]:
    """A block in which a model's first evaluation is looked at, as far as Keras makes it.

    What loss and metrics get is known only there: a model may have a loss of its own, which need
    not ask for Keras's, or outputs that follow from its code alone.

    Args:
        classes: as the data function says.
        training: the group of the parameters.

    Raises:
        BadInput: class weights, loss or metrics do not fit the targets or the outputs.
    """
    import keras

    class_weights(samples, classes, training["class_weight"])
    compute_loss, compute_metrics = keras.Model.compute_loss, keras.Model.compute_metrics
    parts = {name: part.y for name, part in samples.parts().items()}
    weighted = samples.train.weight is not None or training["class_weight"] is not None

    def look(which: Any, key: str, y: Any, y_pred: Any, names: list[str], needs: Any) -> None:
        told = samples.train.y.shape[1:]
        if which is not model or not names or y is None or tuple(y.shape[1:]) != told:
            return  # Another model inside this one, or targets that the model made itself.
        outputs = keras.tree.flatten(y_pred)
        if len(outputs) != 1:
            raise BadInput(
                f"{key}: {names[0]} needs one output, and the model has {len(outputs)}; a "
                "compute_loss of the model's own, training.loss=null and training.metrics=[] "
                "would do"
            )
        seen = Seen(parts, tuple(outputs[0].shape[1:]), classes)
        if None in seen.outputs:
            return
        if weighted and not seen.outputs:
            raise BadInput(
                "model: with weights of samples or classes its outputs need shape (batch, 1), "
                "and theirs is (batch,)"
            )
        _last_layer(model, seen, training["loss"])
        check(seen, key, names, needs)

    def loss(self: Any, *arguments: Any, **keywords: Any) -> Any:
        named = dict(zip(("x", "y", "y_pred"), arguments, strict=False)) | keywords
        asked = [training["loss"]] if training["loss"] else []
        look(self, "training.loss", named.get("y"), named.get("y_pred"), asked, LOSSES)
        return compute_loss(self, *arguments, **keywords)

    def measure(self: Any, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        look(self, "training.metrics", y, y_pred, training["metrics"], METRICS)
        return compute_metrics(self, x, y, y_pred, sample_weight)

    keras.Model.compute_loss, keras.Model.compute_metrics = loss, measure
    try:
        yield
    finally:
        keras.Model.compute_loss, keras.Model.compute_metrics = compute_loss, compute_metrics


def _last_layer(model: Any, seen: Seen, loss: str | None) -> None:
    """Refuses a last layer whose outputs the loss cannot mean, as far as a model tells of it."""
    import keras

    made = next(iter(getattr(model, "outputs", None) or ()), None)
    last: Any = getattr(getattr(made, "_keras_history", None), "operation", None)
    activation = getattr(last, "activation", None)
    softmax = activation is keras.activations.softmax or isinstance(last, keras.layers.Softmax)
    if softmax and seen.last == 1:
        raise BadInput(
            f"model: softmax over the one output of layer {last.name} is 1 for every sample; "
            "linear would do for numbers, sigmoid for 0 and 1"
        )
    if activation is keras.activations.linear and loss in PROBABILITIES:
        raise BadInput(
            f"training.loss: {loss} needs probabilities, and layer {last.name} gives any number "
            "(its activation is linear); softmax would do for classes, sigmoid for 0 and 1"
        )
    if activation is keras.activations.linear and loss == "poisson":
        raise BadInput(
            f"training.loss: poisson needs outputs above 0, and layer {last.name} gives any "
            "number (its activation is linear); softplus would do"
        )


def class_labels(y: np.ndarray) -> np.ndarray | None:
    """The class of each sample, also of whole numbers in floating point; None: no classes."""
    labels = splits.class_labels(y)
    if labels is None and y.dtype.kind == "f" and y.size == len(y) and (y == np.floor(y)).all():
        labels = y.reshape(-1).astype(np.int64)
    return labels


def class_weights(samples: Parts, classes: int, class_weight: dict[str, float] | None) -> None:
    """Refuses weights of classes that the targets do not have.

    Raises:
        BadInput: the targets are no classes, or one is weighted that is not there.
    """
    if class_weight is None:
        return
    known = set(range(classes)) if classes > 1 else set()
    for part in samples.parts().values():
        labels = class_labels(part.y)
        if labels is None:
            raise BadInput(
                "training.class_weight: expected null, since the targets do not say one class for "
                f"each sample; they have type {part.y.dtype} and shape {part.y.shape}. A weight "
                "for each sample, which the data function can return, would do"
            )
        known |= set(labels.tolist())
    for label in class_weight:
        if int(label) not in known:
            raise BadInput(
                f"training.class_weight: no sample has class {label}; the classes go from "
                f"{int(min(known))} to {int(max(known))}"
            )


def weighted(part: Part, class_weight: dict[str, float] | None) -> Part:
    """Multiplies the weight of each sample by that of its class, as `fit(class_weight=…)` does.

    Targets with one column for each class are such of the column that is 1. `class_weights`
    has seen to it that each sample has one class.
    """
    labels = class_labels(part.y)
    if class_weight is None or labels is None:
        return part
    weight = np.ones(len(part.y), np.float32)
    if part.weight is not None:
        # Whole numbers cannot be multiplied by a share.
        real = part.weight.dtype.kind == "f"
        weight = part.weight.copy() if real else part.weight.astype(np.float32)
    for label, factor in class_weight.items():
        weight[labels == int(label)] *= factor
    return Part(part.x, part.y, weight)

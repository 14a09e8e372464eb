"""Whether model, targets, loss, metrics and class weights go together, before the first step.

What does not is refused in one line, with what would do; see `needs.py`. Keras itself is imported
only where a model is looked at.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from repro.basics.errors import BadInput
from repro.data import splits
from repro.data.dataset import Part, Parts
from repro.recipe.parameters import Training
from repro.run import needs
from repro.run.needs import Seen


def metrics(names: Sequence[str], samples: Parts) -> list[Any] | None:
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
def checking(model: Any, samples: Parts, classes: int, training: Training) -> Iterator[None]:
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

    class_weights(samples, classes, training.class_weight)
    compute_loss, compute_metrics = keras.Model.compute_loss, keras.Model.compute_metrics
    parts = {name: part.y for name, part in samples.parts().items()}
    weighted = samples.train.weight is not None or training.class_weight is not None

    def look(which: Any, key: str, y: Any, y_pred: Any, names: Sequence[str], of: Any) -> None:
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
        _last_layer(model, seen, training.loss)
        needs.check(seen, key, names, of)

    def loss(self: Any, *arguments: Any, **keywords: Any) -> Any:
        named = dict(zip(("x", "y", "y_pred"), arguments, strict=False)) | keywords
        asked = [training.loss] if training.loss else []
        look(self, "training.loss", named.get("y"), named.get("y_pred"), asked, needs.LOSSES)
        return compute_loss(self, *arguments, **keywords)

    def measure(self: Any, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        look(self, "training.metrics", y, y_pred, training.metrics, needs.METRICS)
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
    if activation is keras.activations.linear and loss in needs.PROBABILITIES:
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


def class_weights(samples: Parts, classes: int, class_weight: dict[int, float] | None) -> None:
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


def weighted(part: Part, class_weight: dict[int, float] | None) -> Part:
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

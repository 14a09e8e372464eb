"""Checks before the first step that model, targets, loss, metrics and class weights fit together.

If they do not, one line says what is wrong and what would work; see `needs.py`. Keras is imported
only by the functions that look at a model.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from repro.basics.errors import BadInput
from repro.data import dataset, structure
from repro.data.dataset import Part, Parts
from repro.data.structure import Structure
from repro.recipe.parameters import Named, Training
from repro.run import needs
from repro.run.needs import Seen


def of_output(asked: Any, name: str) -> Any:
    """What an output has of losses or metrics; of metrics it may have none.

    Args:
        asked: the same for all outputs, or a dict with some for each.
        name: the flat name of the array of targets, such as `y/age`.
    """
    return asked.get(name.removeprefix("y/"), []) if isinstance(asked, dict) else asked


@contextlib.contextmanager
def building() -> Iterator[set[int]]:
    """A block that builds a model. Keras's error about a stateful layer becomes one line.

    Yields:
        The models, by their `id`, that are compiled there with an optimizer. Without one, Keras
        takes RMSprop, which a model with a `compile` of its own may never use.

    Raises:
        BadInput: see `fresh`.
    """
    import keras

    compiled, original = set[int](), keras.Model.compile

    def noted(self: Any, *arguments: Any, **keywords: Any) -> None:
        original(self, *arguments, **keywords)
        if arguments or "optimizer" in keywords:
            compiled.add(id(self))

    keras.Model.compile = noted
    try:
        yield compiled
    except ValueError as error:
        if "stateful=True" not in str(error):
            raise
        raise BadInput(f"model: a recurrent layer is stateful{STATEFUL}") from None
    finally:
        keras.Model.compile = original


STATEFUL = (
    ", and would use its state from one batch for the other samples of the next batch, which come "
    "in any order; stateful=False would do"
)


def fresh(model: Any) -> None:
    """Checks the model that `build` has returned.

    Raises:
        BadInput: the model takes only batches of one size, although the last batch of an epoch may
            be smaller; or it has a stateful layer, although the samples come in a new order in each
            epoch.
    """
    import keras

    if hasattr(model, "learn"):
        return  # It makes its steps itself, and may cut its batches as it likes.
    for layer in model._flatten_layers(include_self=True):
        if isinstance(layer, keras.layers.InputLayer) and layer.batch_shape[0] is not None:
            raise BadInput(
                f"model: layer {layer.name} takes only batches of {layer.batch_shape[0]} samples, "
                "and the last batch of an epoch can be smaller; an Input without a batch size "
                "would do"
            )
        if isinstance(layer, keras.layers.RNN) and layer.stateful:
            raise BadInput(f"model: layer {layer.name} is stateful{STATEFUL}")


@contextlib.contextmanager
def checking(model: Any, samples: Parts, classes: int, training: Training) -> Iterator[None]:
    """Checks, in a block that makes a model's first evaluation, what loss and metrics get.

    Only an evaluation shows this: a model may have a loss of its own that does not call Keras's,
    and outputs whose shape only its code determines.

    Args:
        classes: the number of classes that the data function says.
        training: the parameters of the group `training`.

    Raises:
        BadInput: class weights, loss or metrics do not fit the targets or the outputs.
    """
    import keras

    class_weights(samples, classes, training.class_weight)
    compute_loss, compute_metrics = keras.Model.compute_loss, keras.Model.compute_metrics
    parts = {name: structure.flat("y", part.targets()) for name, part in samples.parts().items()}
    weighted = samples.train.weight is not None or training.class_weight is not None
    loss_of = {
        name: [] if training.loss is None else [of_output(training.loss, name)]
        for name in parts["train"]
    }
    metrics_of = {name: of_output(training.metrics, name) for name in parts["train"]}

    def look(
        which: Any, key: str, y: Any, y_pred: Any, asked: dict[str, list[Named]], of: Any
    ) -> None:
        told = [array.shape[1:] for array in parts["train"].values()]
        given = [tuple(one.shape[1:]) for one in keras.tree.flatten(y)]
        some = [name for names in asked.values() for name in names]
        if which is not model or not some or y is None or given != told:
            return  # It is another model inside this one, or the model made its own targets.
        outputs = keras.tree.flatten(y_pred)
        if len(outputs) != len(told):
            raise BadInput(
                f"{key}: {some[0].name} needs one output for each array of targets, and the model "
                f"has {len(outputs)} outputs for {len(told)}; a compute_loss of the model's own "
                "with training.loss=null and training.metrics=[] would do"
            )
        for place, (name, output) in enumerate(zip(parts["train"], outputs, strict=True)):
            targets = {part: arrays[name] for part, arrays in parts.items()}
            seen = Seen(targets, tuple(output.shape[1:]), classes)
            if None in seen.outputs:
                continue
            if weighted and not seen.outputs:
                raise BadInput(
                    "model: expected outputs of shape (batch, 1), since samples or classes have "
                    "weights; got (batch,)"
                )
            _last_layer(model, place, seen, loss_of[name])
            needs.check(seen, key if len(told) == 1 else f"{key}, {name}", asked[name], of)

    def loss(self: Any, *arguments: Any, **keywords: Any) -> Any:
        named = dict(zip(("x", "y", "y_pred"), arguments, strict=False)) | keywords
        look(self, "training.loss", named.get("y"), named.get("y_pred"), loss_of, needs.LOSSES)
        return compute_loss(self, *arguments, **keywords)

    def measure(self: Any, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        look(self, "training.metrics", y, y_pred, metrics_of, needs.METRICS)
        return compute_metrics(self, x, y, y_pred, sample_weight)

    keras.Model.compute_loss, keras.Model.compute_metrics = loss, measure
    try:
        yield
    finally:
        keras.Model.compute_loss, keras.Model.compute_metrics = compute_loss, compute_metrics


def _last_layer(model: Any, place: int, seen: Seen, losses: Sequence[Named]) -> None:
    """Checks that the loss can use an output, if the model shows which layer makes it.

    Args:
        place: the place of the output among those of the model.
        losses: the loss of the output, or nothing.

    Raises:
        BadInput: the activation of the layer does not fit the loss.
    """
    import keras

    made = next(iter(list(getattr(model, "outputs", None) or ())[place:]), None)
    last: Any = getattr(getattr(made, "_keras_history", None), "operation", None)
    activation = getattr(last, "activation", None)
    softmax = activation is keras.activations.softmax or isinstance(last, keras.layers.Softmax)
    if softmax and seen.last == 1:
        raise BadInput(
            f"model: softmax over the one output of layer {last.name} is 1 for every sample; "
            "linear would do for numbers, sigmoid for 0 and 1"
        )
    linear = activation is keras.activations.linear
    for loss in losses:
        logits = loss.arguments.get("from_logits")
        if linear and loss.name in needs.PROBABILITIES and not logits:
            raise BadInput(
                f"training.loss: {loss.name} needs probabilities, and layer {last.name} gives any "
                "number (its activation is linear); softmax would do for classes, sigmoid for 0 "
                "and 1, or the loss with from_logits: true"
            )
        squeezed = softmax or activation is keras.activations.sigmoid
        if squeezed and logits:
            raise BadInput(
                f"training.loss: {loss.name} with from_logits: true needs any numbers, and layer "
                f"{last.name} gives probabilities; from_logits: false would do"
            )
        if linear and loss.name == "Poisson":
            raise BadInput(
                f"training.loss: Poisson needs outputs above 0, and layer {last.name} gives any "
                "number (its activation is linear); softplus would do"
            )


def class_labels(y: Structure) -> np.ndarray | None:
    """Returns the class of each sample, of shape (samples,); None: the targets are not classes.

    Whole numbers count as classes even if their type is a floating-point one.
    """
    if not isinstance(y, np.ndarray):
        return None
    labels = dataset.class_labels(y)
    if labels is None and y.dtype.kind == "f" and y.size == len(y) and (y == np.floor(y)).all():
        labels = y.reshape(-1).astype(np.int64)
    return labels


def class_weights(samples: Parts, classes: int, class_weight: dict[int, float] | None) -> None:
    """Checks that each class with a weight occurs in the targets.

    Raises:
        BadInput: the targets are not classes, or a class with a weight does not occur in them.
    """
    if class_weight is None:
        return
    known = set(range(classes)) if classes > 1 else set()
    for part in samples.parts().values():
        labels = class_labels(part.y)
        if labels is None:
            found = structure.flat("y", part.y).items()
            told = ", ".join(f"{name} of type {a.dtype} and shape {a.shape}" for name, a in found)
            raise BadInput(
                "training.class_weight: expected null, since the targets do not say one class for "
                f"each sample; they are {told}; weights for samples, which a data function may "
                "return, would do"
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

    If the targets have one column for each class, the class is the column that is 1.
    `class_weights` has checked that each sample has one class.
    """
    labels = class_labels(part.y)
    if class_weight is None or labels is None:
        return part
    weight = np.ones(len(part), np.float32)
    if part.weight is not None:
        # A weight that is a whole number becomes a float, so that it can be multiplied by a share.
        real = part.weight.dtype.kind == "f"
        weight = part.weight.copy() if real else part.weight.astype(np.float32)
    for label, factor in class_weight.items():
        weight[labels == int(label)] *= factor
    return replace(part, weight=weight)

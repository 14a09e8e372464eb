"""Checks before the first step that model, targets, loss, metrics and class weights fit together.

If they do not, one line says what is wrong and what would work; see `needs.py`. Keras is imported
only by the functions that look at a model.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from repro.basics.errors import BadInput
from repro.data import dataset, structure
from repro.data.dataset import Part, Parts
from repro.data.structure import Structure
from repro.recipe.parameters import Losses, Metrics, Training
from repro.run import needs
from repro.run.needs import Seen


def losses(asked: Losses | None, samples: Parts) -> Any:
    """Returns the losses in the form that `compile` takes; None where the model has its own.

    Raises:
        BadInput: there is not one for each output.
    """
    if asked is None:
        return None
    if isinstance(asked, dict):
        names = _outputs(samples, "training.loss", asked)
        for name in names:
            if name not in asked:
                raise BadInput(
                    f"training.loss: expected one for each of the outputs {', '.join(names)}; "
                    f"there is none for {name}"
                )
    return _for_each(samples, lambda name, _: of_output(asked, name))


def metrics(asked: Metrics, samples: Parts) -> Any:
    """Returns the metrics in the form that `compile` takes.

    Keras's F1 score is one number for each column. Here it is their mean, since a result of a
    training is one number. If each row of targets has one class, the likeliest class counts as
    predicted. If not, each column with more than a half counts as predicted.

    Raises:
        BadInput: some are for an output that does not exist.
    """

    def made(name: str, y: np.ndarray) -> Any:
        if name != "f1_score":
            return name
        import keras

        one = y.ndim == 2 and y.shape[1] > 1 and dataset.class_labels(y) is not None
        return keras.metrics.F1Score(average="macro", threshold=None if one else 0.5, name=name)

    if isinstance(asked, dict):
        _outputs(samples, "training.metrics", asked)
    if not asked:
        return None
    return _for_each(samples, lambda name, y: [made(one, y) for one in of_output(asked, name)])


def of_output(asked: Any, name: str) -> Any:
    """What an output has of losses or metrics; of metrics it may have none.

    Args:
        asked: the same for all outputs, or a dict with some for each.
        name: the flat name of the array of targets, such as `y/age`.
    """
    return asked.get(name.removeprefix("y/"), []) if isinstance(asked, dict) else asked


def _outputs(samples: Parts, key: str, asked: dict[str, Any]) -> list[str]:
    """The names of the outputs, which are those of the targets.

    Raises:
        BadInput: there is only one output, which has no name, or none of a name that is asked for.
    """
    flat = structure.flat("y", samples.train.targets())
    if "y" in flat:
        raise BadInput(f"{key}: expected no dict, since y is one array; got {asked}")
    names = [name.removeprefix("y/") for name in flat]
    for name in asked:
        if name not in names:
            raise BadInput(f"{key}: expected names among {', '.join(names)}, as y has; got {name}")
    return names


def _for_each(samples: Parts, make: Callable[[str, np.ndarray], Any]) -> Any:
    """What Keras takes for each output: one value, or a structure of them as the targets are.

    `make` gets the flat name of an array of targets, and the array.
    """
    return structure.like(samples.train.targets(), make, "y")


@contextlib.contextmanager
def building() -> Iterator[None]:
    """Turns Keras's error about a stateful layer, in a block that builds a model, into one line.

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
    ", and would use its state from one batch for the other samples of the next batch, which come "
    "in any order; stateful=False would do"
)


def fresh(model: Any) -> None:
    """Checks the model that `build` has returned.

    Raises:
        BadInput: the model is compiled, although `params.yaml` names the optimizer; or it takes
            only batches of one size, although the last batch of an epoch may be smaller; or it has
            a stateful layer, although the samples come in a new order in each epoch.
    """
    import keras

    if model.compiled:
        raise BadInput(
            "model: expected a model that is not compiled (for keras.models.load_model: "
            f"compile=False), got one with {type(model.optimizer).__name__}; the group optimizer "
            "of params.yaml says what trains it"
        )
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
        which: Any, key: str, y: Any, y_pred: Any, asked: dict[str, list[str]], of: Any
    ) -> None:
        told = [array.shape[1:] for array in parts["train"].values()]
        given = [tuple(one.shape[1:]) for one in keras.tree.flatten(y)]
        some = [name for names in asked.values() for name in names]
        if which is not model or not some or y is None or given != told:
            return  # It is another model inside this one, or the model made its own targets.
        outputs = keras.tree.flatten(y_pred)
        if len(outputs) != len(told):
            raise BadInput(
                f"{key}: {some[0]} needs one output for each array of targets, and the model has "
                f"{len(outputs)} outputs for {len(told)}; a compute_loss of the model's own with "
                "training.loss=null and training.metrics=[] would do"
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


def _last_layer(model: Any, place: int, seen: Seen, losses: Sequence[str]) -> None:
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
    for loss in losses if activation is keras.activations.linear else ():
        if loss in needs.PROBABILITIES:
            raise BadInput(
                f"training.loss: {loss} needs probabilities, and layer {last.name} gives any "
                "number (its activation is linear); softmax would do for classes, sigmoid for 0 "
                "and 1"
            )
        if loss == "poisson":
            raise BadInput(
                f"training.loss: poisson needs outputs above 0, and layer {last.name} gives any "
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

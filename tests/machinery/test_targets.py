"""What losses, metrics and class weights need of targets and outputs. Takes no training."""

from __future__ import annotations

from typing import Any

import examples
import numpy as np
import pytest

from repro.basics.errors import BadInput
from repro.data.dataset import Part, Parts
from repro.recipe.parameters import Named
from repro.recipe.project import Project
from repro.recipe.reading import parameters as resolve_file
from repro.run import needs, targets

PROJECT = Project.find()
LABELS = np.arange(21) % 7
ONE_HOT = np.eye(7)[LABELS]
SEVERAL = np.tile([[1.0, 0, 1], [0, 0, 0], [0, 1, 0]], (7, 1))
NUMBERS = np.linspace(-1, 2, 63).reshape(21, 3)


def parts(y: Any, weight: np.ndarray | None = None) -> Parts:
    part = Part(np.zeros((len(LABELS), 2), np.float32), y, weight)
    return Parts(part, part, part)


def named(kind: str, name: str, **arguments: Any) -> Named:
    return examples.named(kind, name, **arguments)


def test_every_loss_and_metric_of_keras_has_its_need_or_is_known_to_have_none() -> None:
    free = {"Circle", "CTC"}
    assert {*needs.LOSSES} | free == {*examples.KNOWN.classes["losses"]}
    free = {"Accuracy", "IoU", "BinaryIoU", "MeanIoU", "OneHotIoU", "OneHotMeanIoU"}
    assert {*needs.METRICS} - {"accuracy"} | free == {*examples.KNOWN.classes["metrics"]}


@pytest.mark.parametrize(
    ("y", "outputs", "name", "told"),
    [
        (LABELS, (7,), "CategoricalCrossentropy", "; SparseCategoricalCrossentropy or"),
        (LABELS, (7,), "MeanSquaredError", "; SparseCategoricalCrossentropy or"),
        (
            LABELS,
            (6,),
            "SparseCategoricalCrossentropy",
            "the model has 6 outputs, and there is 6",
        ),
        (LABELS - 1, (7,), "SparseCategoricalCrossentropy", "there is -1 in the train part"),
        (LABELS / 2, (7,), "SparseCategoricalCrossentropy", "there is 0.5 in the train part"),
        (LABELS, (9,), "SparseCategoricalCrossentropy", None),
        (LABELS + 2, (9,), "SparseCategoricalCrossentropy", "says classes=7, and there is 7"),
        (LABELS, (1,), "SparseCategoricalCrossentropy", "or MeanAbsoluteError would do"),
        (LABELS.astype("U1"), (7,), "SparseCategoricalCrossentropy", "of type <U1"),
        (ONE_HOT, (7,), "SparseCategoricalCrossentropy", "; CategoricalCrossentropy or"),
        (SEVERAL, (3,), "CategoricalCrossentropy", "sums up to 2; BinaryCrossentropy or"),
        (NUMBERS, (3,), "BinaryCrossentropy", "there is -1.0 in the train part; MeanSquaredEr"),
        (NUMBERS, (3,), "Hinge", "needs -1 and 1, or 0 and 1, as targets"),
        (NUMBERS[:, 0], (3,), "MeanSquaredError", "shape (), its outputs (3,)"),
        (NUMBERS[:, :1], (1,), "CosineSimilarity", "needs several outputs, and there is one"),
        (NUMBERS, (3,), "Poisson", "needs numbers of 0 or more as targets, and there is -1.0"),
    ],
)
def test_a_loss_that_cannot_be_is_refused_with_one_that_can(
    y: np.ndarray, outputs: tuple[int, ...], name: str, told: str | None
) -> None:
    seen = needs.Seen({"train": y, "test": y}, outputs, 7)
    if told is None:
        needs.check(seen, "training.loss", [named("losses", name)], needs.LOSSES)
        return
    with pytest.raises(BadInput) as refusal:
        needs.check(seen, "training.loss", [named("losses", name)], needs.LOSSES)
    assert str(refusal.value).startswith(f"training.loss: {name} ") and told in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("y", "outputs", "name", "told"),
    [
        *((LABELS, (7,), name, "accuracy or SparseTopKCategoricalAccuracy or")
          for name in ("Precision", "Recall", "AUC", "R2Score", "CosineSimilarity", "F1Score",
                       "TopKCategoricalAccuracy", "MeanAbsoluteError")),
        (SEVERAL, (3,), "accuracy", "sums up to 2; MeanSquaredError"),
        (NUMBERS[:, 0], (1,), "accuracy", "needs 0 and 1 as targets"),
        (LABELS % 2, (1,), "F1Score", "needs targets of shape (samples, columns)"),
        (LABELS % 3, (3,), "SparseTopKCategoricalAccuracy", "there are only 3; accuracy or"),
        (np.zeros((21, 4, 2)), (4, 2), "R2Score", "needs outputs of shape (batch, numbers)"),
    ],
)  # fmt: skip
def test_a_metric_that_cannot_be_is_refused_with_one_that_can(
    y: np.ndarray, outputs: tuple[int, ...], name: str, told: str
) -> None:
    seen = needs.Seen({"train": y}, outputs, 7)
    with pytest.raises(BadInput) as refusal:
        needs.check(seen, "training.metrics", [named("metrics", name)], needs.METRICS)
    assert f"training.metrics: {name} " in str(refusal.value) and told in str(refusal.value)


@pytest.mark.parametrize(
    ("y", "class_weight", "told"),
    [
        (LABELS, {7: 1.0}, "no sample has class 7; the classes go from 0 to 6"),
        (LABELS, {-1: 1.0}, "no sample has class -1"),
        (SEVERAL, {0: 1.0}, "do not say one class for each sample; they are y of type float64"),
        (NUMBERS[:, 0], {0: 1.0}, "do not say one class"),
        (LABELS.reshape(3, 7), {0: 1.0}, "do not say one class"),
        (LABELS, {0: 2.0, 6: 0.0}, None),
        (LABELS[:, None].astype(np.float32), {0: 2.0}, None),
        (ONE_HOT, {6: 0.5}, None),
    ],
)
def test_weights_are_of_classes_that_there_are(
    y: np.ndarray, class_weight: dict[int, float], told: str | None
) -> None:
    if told is None:
        targets.class_weights(parts(y), 7, class_weight)
        return
    with pytest.raises(BadInput) as refusal:
        targets.class_weights(parts(y), 7, class_weight)
    assert told in str(refusal.value) and "\n" not in str(refusal.value)


@pytest.mark.parametrize("y", [LABELS, LABELS[:, None], LABELS.astype(np.float32), ONE_HOT])
@pytest.mark.parametrize("weight", [None, np.full(21, 3), np.full(21, 3.0, np.float16)])
def test_the_weight_of_a_class_multiplies_that_of_its_samples(
    y: np.ndarray, weight: np.ndarray | None
) -> None:
    found = targets.weighted(Part(LABELS, y, weight), {6: 0.5}).weight
    assert found is not None
    given = np.float32 if weight is None or weight.dtype.kind == "i" else weight.dtype
    assert found.dtype == given
    usual = 1 if weight is None else 3
    assert found.tolist() == np.where(LABELS == 6, usual / 2, usual).tolist()
    whole = Part(LABELS, y, weight)
    assert targets.weighted(whole, None) is whole


@pytest.mark.parametrize("text", ['{"0": 1.0, "1": 2}', "{0: 1.0, 1: 2}", '{"0": 1.0, 1: 2}'])
def test_class_weights_are_read_from_yaml_and_from_json(text: str) -> None:
    def resolve(text: str) -> Any:
        overrides = [f"training.class_weight={text}"]
        resolved = resolve_file(PROJECT.source, PROJECT.root / "params.yaml", overrides)
        return resolved.training.class_weight

    assert resolve(text) == {0: 1.0, 1: 2.0}
    for wrong, told in {
        '{"0": 1.0, 0: 2.0}': "class 0 is there twice",
        '{"zero": 1.0}': "class_weight",
        "{0.5: 1.0}": "class_weight",
        "[1.0, 2.0]": "class_weight: expected a weight for each class, such as {0: 1.0, 1: 2.5}",
    }.items():
        with pytest.raises(BadInput, match=told) as refusal:
            resolve(wrong)
        assert "\n" not in str(refusal.value)

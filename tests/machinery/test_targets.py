"""What losses, metrics and class weights need of targets and outputs. Takes no training."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest

from repro.basics.errors import BadInput
from repro.data.dataset import Part, Parts
from repro.recipe import parameters
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


def test_every_loss_and_metric_on_offer_has_its_need() -> None:
    assert [*needs.LOSSES] == [*get_args(parameters.Loss)]
    assert [*needs.METRICS] == [*get_args(parameters.Metric)]


@pytest.mark.parametrize(
    ("y", "outputs", "name", "told"),
    [
        (LABELS, (7,), "categorical_crossentropy", "; sparse_categorical_crossentropy would do"),
        (LABELS, (7,), "mean_squared_error", "; sparse_categorical_crossentropy would do"),
        (
            LABELS,
            (6,),
            "sparse_categorical_crossentropy",
            "the model has 6 outputs, and there is 6",
        ),
        (LABELS - 1, (7,), "sparse_categorical_crossentropy", "there is -1 in the train part"),
        (LABELS / 2, (7,), "sparse_categorical_crossentropy", "there is 0.5 in the train part"),
        (LABELS, (9,), "sparse_categorical_crossentropy", None),
        (LABELS + 2, (9,), "sparse_categorical_crossentropy", "says classes=7, and there is 7"),
        (LABELS, (1,), "sparse_categorical_crossentropy", "or mean_absolute_error would do"),
        (LABELS.astype("U1"), (7,), "sparse_categorical_crossentropy", "of type <U1"),
        (ONE_HOT, (7,), "sparse_categorical_crossentropy", "; categorical_crossentropy or"),
        (SEVERAL, (3,), "categorical_crossentropy", "sums up to 2; binary_crossentropy or"),
        (NUMBERS, (3,), "binary_crossentropy", "there is -1.0 in the train part; mean_squared_er"),
        (NUMBERS, (3,), "hinge", "needs -1 and 1, or 0 and 1, as targets"),
        (NUMBERS[:, 0], (3,), "mean_squared_error", "shape (), its outputs (3,)"),
        (NUMBERS[:, :1], (1,), "cosine_similarity", "needs several outputs, and there is one"),
        (NUMBERS, (3,), "poisson", "needs numbers of 0 or more as targets, and there is -1.0"),
    ],
)
def test_a_loss_that_cannot_be_is_refused_with_one_that_can(
    y: np.ndarray, outputs: tuple[int, ...], name: str, told: str | None
) -> None:
    seen = needs.Seen({"train": y, "test": y}, outputs, 7)
    if told is None:
        needs.check(seen, "training.loss", [name], needs.LOSSES)
        return
    with pytest.raises(BadInput) as refusal:
        needs.check(seen, "training.loss", [name], needs.LOSSES)
    assert str(refusal.value).startswith(f"training.loss: {name} ") and told in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("y", "outputs", "name", "told"),
    [
        *((LABELS, (7,), name, "accuracy or sparse_top_k_categorical_accuracy would do")
          for name in ("precision", "recall", "auc", "r2_score", "cosine_similarity", "f1_score",
                       "top_k_categorical_accuracy", "mean_absolute_error")),
        (SEVERAL, (3,), "accuracy", "sums up to 2; mean_squared_error"),
        (NUMBERS[:, 0], (1,), "accuracy", "needs 0 and 1 as targets"),
        (LABELS % 2, (1,), "f1_score", "needs targets of shape (samples, columns)"),
        (LABELS % 3, (3,), "sparse_top_k_categorical_accuracy", "there are only 3; accuracy would"),
        (np.zeros((21, 4, 2)), (4, 2), "r2_score", "needs outputs of shape (batch, numbers)"),
    ],
)  # fmt: skip
def test_a_metric_that_cannot_be_is_refused_with_one_that_can(
    y: np.ndarray, outputs: tuple[int, ...], name: str, told: str
) -> None:
    seen = needs.Seen({"train": y}, outputs, 7)
    with pytest.raises(BadInput) as refusal:
        needs.check(seen, "training.metrics", [name], needs.METRICS)
    assert f"training.metrics: {name} " in str(refusal.value) and told in str(refusal.value)


NAMED = {"late": LABELS % 2, "cost": NUMBERS[:, :1]}


@pytest.mark.parametrize(
    ("y", "loss", "expected"),
    [
        (LABELS, "huber", "huber"),
        (LABELS, None, None),
        (NAMED, None, None),
        (NAMED, "huber", {"late": "huber", "cost": "huber"}),
        (NAMED, {"cost": "huber", "late": "hinge"}, {"late": "hinge", "cost": "huber"}),
        ((LABELS, NUMBERS), {"0": "hinge", "1": "huber"}, ("hinge", "huber")),
        ({"a": [LABELS]}, {"a/0": "hinge"}, {"a": ["hinge"]}),
    ],
)
def test_each_output_has_its_loss(y: Any, loss: Any, expected: Any) -> None:
    assert targets.losses(loss, parts(y)) == expected


@pytest.mark.parametrize(
    ("y", "metrics", "expected"),
    [
        (LABELS, ["accuracy"], ["accuracy"]),
        (LABELS, [], None),
        (NAMED, ["auc", "recall"], {"late": ["auc", "recall"], "cost": ["auc", "recall"]}),
        (NAMED, {"cost": ["r2_score"]}, {"late": [], "cost": ["r2_score"]}),
        ((LABELS, NUMBERS), {"0": ["auc"]}, (["auc"], [])),
    ],
)
def test_each_output_has_its_metrics_or_none(y: Any, metrics: Any, expected: Any) -> None:
    assert targets.metrics(metrics, parts(y)) == expected


@pytest.mark.parametrize(
    ("y", "loss", "told"),
    [
        (LABELS, {"a": "huber"}, "expected no dict, since y is one array; got {'a': 'huber'}"),
        (NAMED, {"late": "hinge"}, "expected one for each of the outputs cost, late; there is none "
         "for cost"),
        (NAMED, {}, "there is none for cost"),
        (NAMED, {"late": "hinge", "costs": "huber"}, "expected names among cost, late, as y has; "
         "got costs"),
    ],
)  # fmt: skip
def test_a_loss_for_no_output_is_refused(y: Any, loss: Any, told: str) -> None:
    with pytest.raises(BadInput) as refusal:
        targets.losses(loss, parts(y))
    assert str(refusal.value).startswith("training.loss: ") and told in str(refusal.value)


def test_metrics_for_no_output_are_refused() -> None:
    with pytest.raises(BadInput, match=r"training\.metrics: expected names among cost, late, .* b"):
        targets.metrics({"b": ["auc"]}, parts(NAMED))


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

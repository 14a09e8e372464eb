"""The parameters that every project has, with their types and defaults.

It also has types that a project's own data functions and models may use for their parameters.
`signatures.py` reads them there.
"""

from __future__ import annotations

import copy
import re
import typing
from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from repro.basics import seeds

__all__ = ["Fraction", "NonNegativeFloat", "NonNegativeInt", "PositiveFloat", "PositiveInt"]

Backend = Literal["tensorflow", "jax", "torch"]
Guarantee = Literal["portable", "machine", "none"]
Fraction = Annotated[float, Field(ge=0, lt=1)]
"""A share of a whole, such as a dropout rate: 0 <= x < 1."""

Share = Annotated[float, Field(gt=0, lt=1)]
"""A share above 0, such as the share of the samples to test on: 0 < x < 1."""

Loss = Literal[
    "sparse_categorical_crossentropy",
    "categorical_crossentropy",
    "binary_crossentropy",
    "categorical_focal_crossentropy",
    "binary_focal_crossentropy",
    "kl_divergence",
    "poisson",
    "hinge",
    "squared_hinge",
    "categorical_hinge",
    "mean_squared_error",
    "mean_absolute_error",
    "mean_absolute_percentage_error",
    "mean_squared_logarithmic_error",
    "cosine_similarity",
    "huber",
    "log_cosh",
]
Metric = Literal[
    "accuracy",
    "top_k_categorical_accuracy",
    "sparse_top_k_categorical_accuracy",
    "mean_squared_error",
    "mean_absolute_error",
    "root_mean_squared_error",
    "mean_absolute_percentage_error",
    "r2_score",
    "f1_score",
    "auc",
    "precision",
    "recall",
    "cosine_similarity",
]
"""The names of metrics in Keras; a test compares losses and metrics with the installed Keras."""

OF_ALL, OF_EACH = "the same for all outputs", "one for each output"
"""The two forms of what outputs have, as pydantic calls them in the place of an error."""


def _form(given: Any) -> str:
    return OF_EACH if isinstance(given, dict) else OF_ALL


def _names(given: dict[Any, Any]) -> dict[str, Any]:
    """Turns keys into text: outputs in a tuple are called 0 and 1, which YAML reads as numbers."""
    return {str(key): value for key, value in given.items()}


_Named = pydantic.BeforeValidator(_names)
Losses = Annotated[
    Annotated[Loss, pydantic.Tag(OF_ALL)]
    | Annotated[dict[str, Loss], _Named, pydantic.Tag(OF_EACH)],
    pydantic.Discriminator(_form),
]
"""One loss for all outputs, or one for each output by its name."""
Metrics = Annotated[
    Annotated[list[Metric], pydantic.Tag(OF_ALL)]
    | Annotated[dict[str, list[Metric]], _Named, pydantic.Tag(OF_EACH)],
    pydantic.Discriminator(_form),
]
"""The same metrics for all outputs, or some for each output by its name."""

_STRICT = pydantic.ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


class Group(pydantic.BaseModel):
    """A record with checked fields: unknown fields and wrong types are errors."""

    model_config = _STRICT


def _weights(given: Any) -> Any:
    """Turns text such as `"1"` in keys into whole numbers: the keys of JSON are always text."""
    if not isinstance(given, dict):
        raise ValueError(f"a weight for each class, such as {{0: 1.0, 1: 2.5}}; got {given!r}")
    found: dict[Any, Any] = {}
    for key, weight in given.items():
        whole = isinstance(key, str) and re.fullmatch(r"-?[0-9]+", key)
        label = int(key) if whole else key
        if label in found:
            raise ValueError(f"each class once; class {label} is there twice")
        found[label] = weight
    return found


ClassWeight = Annotated[dict[int, NonNegativeFloat], pydantic.BeforeValidator(_weights)]


class Training(Group):
    """The arguments of `keras.Model.fit` and `compile` that can change the result."""

    epochs: PositiveInt = 5
    batch_size: PositiveInt = 16
    shuffle: bool = True
    steps_per_epoch: PositiveInt | None = None
    initial_epoch: NonNegativeInt = 0
    initial_state: str | None = None
    initial_weights: str | None = None
    class_weight: ClassWeight | None = None
    validation_batch_size: PositiveInt | None = None
    validation_freq: PositiveInt = 1
    loss: Losses | None = "sparse_categorical_crossentropy"
    metrics: Metrics = ["accuracy"]
    jit_compile: bool = False
    dtype: Literal["float32", "float64", "mixed_bfloat16", "mixed_float16"] = "float32"

    @pydantic.model_validator(mode="after")
    def _one_beginning(self) -> typing.Self:
        if self.initial_state and self.initial_weights:
            raise ValueError("at most one of initial_state and initial_weights")
        return self


class Split(Group):
    """Which samples are in the training, validation and test part; see `splits.make`."""

    strategy: Literal["random", "stratified", "grouped", "stratified_grouped", "time_series"] = (
        "stratified"
    )
    test: Share = 0.15
    validation: Share = 0.15
    train_size: PositiveInt | None = None
    seed: NonNegativeInt = 0
    folds: Annotated[int, Field(ge=2)] | None = None
    fold: NonNegativeInt = 0
    repeat: NonNegativeInt = 0
    outer_folds: Annotated[int, Field(ge=2)] | None = None
    outer_fold: NonNegativeInt = 0
    file: str | None = None

    def fold_seed(self, recipe_seed: int) -> int:
        """Returns the seed of a run: each fold has its own; without folds it is the recipe's."""
        if self.folds is None and self.outer_folds is None:
            return recipe_seed
        return seeds.seed(recipe_seed, "fold", self.outer_fold, self.repeat, self.fold)

    @pydantic.model_validator(mode="after")
    def _possible(self) -> typing.Self:
        if self.test + self.validation >= 1:
            left = 1 - self.test - self.validation
            raise ValueError(
                "test and validation together less than 1; "
                f"{self.test} and {self.validation} leave {left:.3g} to train on"
            )
        if self.file and (self.folds or self.outer_folds):
            raise ValueError("folds null with a file, since a file is already a split")
        for fold, folds in (("fold", "folds"), ("outer_fold", "outer_folds")):
            number, of = getattr(self, fold), getattr(self, folds)
            if number >= (of or 1):
                raise ValueError(f"{fold} from 0 to {(of or 1) - 1}, counted from 0; got {number}")
        if self.repeat and (self.strategy == "time_series" or not self.folds):
            raise ValueError(
                "repeat 0 without folds or with time_series, since there is only one way to cut"
            )
        return self


class _Watcher(Group):
    """The arguments that both of Keras's callbacks have."""

    monitor: str = "val_loss"
    mode: Literal["auto", "min", "max"] = "auto"


class EarlyStopping(_Watcher):
    min_delta: NonNegativeFloat = 0.0
    patience: NonNegativeInt = 0
    baseline: float | None = None
    restore_best_weights: bool = False
    start_from_epoch: NonNegativeInt = 0


class ReduceLROnPlateau(_Watcher):
    factor: Annotated[float, Field(gt=0, lt=1)] = 0.1
    patience: NonNegativeInt = 10
    min_delta: NonNegativeFloat = 1e-4
    cooldown: NonNegativeInt = 0
    min_lr: NonNegativeFloat = 0.0


class Callbacks(Group):
    """The callbacks that watch the training and change its course; null: there is none."""

    early_stopping: EarlyStopping | None = None
    reduce_lr_on_plateau: ReduceLROnPlateau | None = None


class CosineDecay(Group):
    name: Literal["cosine_decay"]
    decay_steps: PositiveInt
    alpha: NonNegativeFloat = 0.0
    warmup_target: PositiveFloat | None = None
    warmup_steps: NonNegativeInt = 0


class ExponentialDecay(Group):
    name: Literal["exponential_decay"]
    decay_steps: PositiveInt
    decay_rate: PositiveFloat
    staircase: bool = False


class PolynomialDecay(Group):
    name: Literal["polynomial_decay"]
    decay_steps: PositiveInt
    end_learning_rate: PositiveFloat = 0.0001
    power: PositiveFloat = 1.0
    cycle: bool = False


class InverseTimeDecay(ExponentialDecay):
    name: Literal["inverse_time_decay"]  # type: ignore[assignment]


Schedule = Annotated[
    CosineDecay | ExponentialDecay | PolynomialDecay | InverseTimeDecay,
    Field(discriminator="name"),
]


class _Optimizer(Group):
    """The arguments of every Keras optimizer; a schedule starts from `learning_rate`."""

    learning_rate: PositiveFloat = 0.001
    schedule: Schedule | None = None
    weight_decay: NonNegativeFloat | None = None
    clipnorm: PositiveFloat | None = None
    clipvalue: PositiveFloat | None = None
    global_clipnorm: PositiveFloat | None = None
    use_ema: bool = False
    ema_momentum: Fraction = 0.99
    ema_overwrite_frequency: PositiveInt | None = None
    loss_scale_factor: PositiveFloat | None = None
    gradient_accumulation_steps: Annotated[int, Field(ge=2)] | None = None

    @pydantic.model_validator(mode="after")
    def _one_kind_of_clipping(self) -> typing.Self:
        if sum(v is not None for v in (self.clipnorm, self.clipvalue, self.global_clipnorm)) > 1:
            raise ValueError("at most one of clipnorm, clipvalue and global_clipnorm")
        return self


class Adam(_Optimizer):
    name: Literal["adam"] = "adam"
    beta_1: Fraction = 0.9
    beta_2: Fraction = 0.999
    epsilon: PositiveFloat = 1e-7
    amsgrad: bool = False
    fused: bool | None = None


class AdamW(Adam):
    name: Literal["adamw"] = "adamw"  # type: ignore[assignment]
    weight_decay: NonNegativeFloat | None = 0.004


class SGD(_Optimizer):
    name: Literal["sgd"] = "sgd"
    learning_rate: PositiveFloat = 0.01
    momentum: Fraction = 0.0
    nesterov: bool = False


class RMSprop(_Optimizer):
    name: Literal["rmsprop"] = "rmsprop"
    rho: Fraction = 0.9
    momentum: Fraction = 0.0
    epsilon: PositiveFloat = 1e-7
    centered: bool = False


OPTIMIZERS: dict[str, type[Group]] = {
    "adam": Adam,
    "adamw": AdamW,
    "sgd": SGD,
    "rmsprop": RMSprop,
}


class Common(Group):
    """All of `params.yaml` except the groups whose arguments the project's own code describes."""

    seed: NonNegativeInt | None = 1234
    guarantee: Guarantee = "machine"
    backend: Backend = "tensorflow"
    threads: PositiveInt = 1
    split: Split = Split()
    training: Training = Training()
    callbacks: Callbacks = Callbacks()


class Own(pydantic.BaseModel):
    """A data function or a model, by its `name`, with its own arguments."""

    model_config = pydantic.ConfigDict(extra="allow", frozen=True)

    name: str

    @property
    def arguments(self) -> dict[str, Any]:
        return copy.deepcopy(self.model_extra or {})


Optimizer = Annotated[Adam | AdamW | SGD | RMSprop, Field(discriminator="name")]


class Parameters(Common):
    """All parameters of a run, with defaults filled in; `reading.parameters` makes them."""

    data: Own
    model: Own
    optimizer: Optimizer

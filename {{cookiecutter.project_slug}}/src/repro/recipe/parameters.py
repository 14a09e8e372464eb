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

OF_ALL, OF_EACH = "the same for all outputs", "one for each output"
"""The two forms of what outputs have, as pydantic calls them in the place of an error."""


class Own(pydantic.BaseModel):
    """Something by its `name`, with its own arguments, which are checked where they are read."""

    model_config = pydantic.ConfigDict(extra="allow", frozen=True)

    name: str

    @property
    def arguments(self) -> dict[str, Any]:
        return copy.deepcopy(self.model_extra or {})


class Named(Own):
    """A class of Keras or of the project, with all of its arguments; see `registry`."""

    called: str | None = None
    """What its results are called, or which of several it is; None: the name that it has itself."""


def _form(given: Any) -> str:
    one = isinstance(given, Named | list | tuple)
    one = one or (isinstance(given, dict) and isinstance(given.get("name"), str))
    return OF_ALL if one else OF_EACH


def _names(given: dict[Any, Any]) -> dict[str, Any]:
    """Turns keys into text: outputs in a tuple are called 0 and 1, which YAML reads as numbers."""
    return {str(key): value for key, value in given.items()}


_Outputs = pydantic.BeforeValidator(_names)
Losses = Annotated[
    Annotated[Named, pydantic.Tag(OF_ALL)]
    | Annotated[dict[str, Named], _Outputs, pydantic.Tag(OF_EACH)],
    pydantic.Discriminator(_form),
]
"""One loss for all outputs, or one for each output by its name."""
Metrics = Annotated[
    Annotated[list[Named], pydantic.Tag(OF_ALL)]
    | Annotated[dict[str, list[Named]], _Outputs, pydantic.Tag(OF_EACH)],
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
    loss: Losses | None = Named(name="SparseCategoricalCrossentropy")
    loss_weights: Annotated[dict[str, float], _Outputs] | None = None
    metrics: Metrics = [Named(name="accuracy")]
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


class Optimizer(Named):
    """An optimizer of Keras or of the project. What the machinery itself looks at is spelled out.

    `arguments` are the others.
    """

    learning_rate: float | None = None
    """None: the optimizer takes none, or the schedule says all rates."""
    schedule: Named | None = None
    """How the learning rate changes; most schedules start from `learning_rate`."""
    use_ema: bool = False
    fused: bool | None = None
    """Whether the library's own kernel updates the weights; None: Keras's operations do."""


class Common(Group):
    """All of `params.yaml` except the groups whose arguments the project's own code describes."""

    seed: NonNegativeInt | None = 1234
    guarantee: Guarantee = "machine"
    backend: Backend = "tensorflow"
    threads: PositiveInt = 1
    split: Split = Split()
    training: Training = Training()
    callbacks: tuple[Named, ...] = ()


class Parameters(Common):
    """All parameters of a run, with defaults filled in; `reading.parameters` makes them."""

    data: Own
    model: Own
    optimizer: Optimizer | None
    """None: the model comes compiled out of its `build`."""

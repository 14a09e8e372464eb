"""Keras's losses, metrics, optimizers, schedules and callbacks, by their names in `params.yaml`.

`requirements/keras.json` has the name of each class, and of each argument with its default. So a
wrong name is refused before Keras is imported, and the recipe has every argument of what trains,
also those that nobody has given. `catalogue.py` writes the file for the version of Keras that is
locked. A class of the project's own is named by its module, such as `losses:Dice`; its arguments
are read from the text of its file.
"""

from __future__ import annotations

import difflib
import functools
import json
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pydantic
from pydantic import Field

from repro.basics.errors import BadInput
from repro.recipe import signatures
from repro.recipe.parameters import (
    Fraction,
    Group,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
)

FILE = Path("requirements", "keras.json")
KINDS = ("losses", "metrics", "optimizers", "schedules", "callbacks")
ACCURACY = "accuracy"
"""The metric for which Keras takes the class that fits the targets and the outputs."""

STARTS = "initial_learning_rate"
"""The argument of a schedule that `optimizer.learning_rate` is."""

NOT_HERE: dict[str, dict[str, str]] = {
    "losses": {},
    "metrics": dict.fromkeys(
        ("Mean", "Sum"), "it measures one number, not targets and outputs; MeanSquaredError would"
    ),
    "optimizers": {
        "LossScaleOptimizer": "training.dtype=mixed_float16 makes Keras use it",
        "MultiOptimizer": "it takes other optimizers; a function of your own may return it, such "
        "as optimizers:mine",
    },
    "schedules": {},
    "callbacks": {
        "BackupAndRestore": "each run writes checkpoints and goes on from them by itself",
        "OrbaxCheckpoint": "each run writes checkpoints and goes on from them by itself",
        "LearningRateScheduler": "it takes a function; optimizer.schedule says how the learning "
        "rate changes, or a callback of your own, such as callbacks:Rate",
        "LambdaCallback": "it takes functions; a callback of your own has them as methods, such "
        "as callbacks:Mine",
        "History": "history.json of each run has it",
        "ProgbarLogger": "the command shows the progress",
        "CallbackList": "the group callbacks is this list",
    },
}
"""Classes of Keras that cannot be named, and what does their work."""

_WITHIN_ONE = Annotated[float, Field(ge=0, le=1)]
_BELOW_ONE = Annotated[float, Field(gt=0, lt=1)]
RANGES: dict[str, Any] = {
    "learning_rate": PositiveFloat,
    "initial_learning_rate": PositiveFloat,
    "weight_decay": NonNegativeFloat | None,
    "momentum": Fraction,
    "beta_1": Fraction,
    "beta_2": Fraction,
    "rho": Fraction,
    "ema_momentum": Fraction,
    "epsilon": PositiveFloat,
    "clipnorm": PositiveFloat | None,
    "clipvalue": PositiveFloat | None,
    "global_clipnorm": PositiveFloat | None,
    "loss_scale_factor": PositiveFloat | None,
    "ema_overwrite_frequency": PositiveInt | None,
    "gradient_accumulation_steps": Annotated[int, Field(ge=2)] | None,
    "decay_steps": PositiveInt,
    "first_decay_steps": PositiveInt,
    "decay_rate": PositiveFloat,
    "end_learning_rate": PositiveFloat,
    "power": PositiveFloat,
    "alpha": NonNegativeFloat,
    "warmup_steps": NonNegativeInt,
    "warmup_target": PositiveFloat | None,
    "label_smoothing": _WITHIN_ONE,
    "mode": typing.Literal["auto", "min", "max"],
    "patience": NonNegativeInt,
    "cooldown": NonNegativeInt,
    "start_from_epoch": NonNegativeInt,
    "min_delta": NonNegativeFloat,
    "min_lr": NonNegativeFloat,
    "factor": _BELOW_ONE,
    "baseline": float | None,
    "num_classes": PositiveInt,
    "k": PositiveInt,
    "average": typing.Literal["macro", "micro", "weighted"] | None,
}
"""What an argument of this name may be, where its default says too little."""

OURS = {
    ("metrics", "F1Score"): {"average": "macro"},
    ("metrics", "FBetaScore"): {"average": "macro"},
}
"""Defaults that are not those of Keras: a result is one number here, not one for each class."""


@dataclass(frozen=True)
class Signature:
    """What a class may be given."""

    required: tuple[str, ...]
    defaults: Mapping[str, Any]


@dataclass(frozen=True)
class Registry:
    """The classes of the locked Keras, and of the project, that `params.yaml` may name."""

    package: Path
    """The folder of the project's own package."""
    keras: str
    """The version that the file was written for."""
    classes: Mapping[str, Mapping[str, Signature]]
    """By kind and by name."""
    short: Mapping[str, Mapping[str, str]]
    """By kind: Keras's short names, such as mse."""

    def canonical(self, kind: str, key: str, given: str) -> str:
        """Returns the name that the recipe has for a class.

        Case and underscores do not matter: `mean_squared_error` is `MeanSquaredError`.

        Args:
            key: the parameter that names it, for messages.

        Raises:
            BadInput: there is no such class; the message has the nearest name.
        """
        known = self.classes[kind]
        if kind == "metrics" and given in (ACCURACY, "acc"):
            return ACCURACY
        if given in known:
            return given
        if given in self.short[kind]:
            return self.short[kind][given]
        if ":" in given:
            self._own(kind, key, given)
            return given
        bare = _bare(given)
        if found := next((name for name in known if _bare(name) == bare), None):
            return found
        for name, why in NOT_HERE[kind].items():
            if _bare(name) == bare:
                raise BadInput(f"{key}: {name} cannot be named here: {why}")
        others = [name for name in known if ":" not in name]
        if kind == "metrics":
            others.append(ACCURACY)
        what = f"the name of one of Keras's {kind}, or of a class of your own, such as {kind}:Mine"
        raise BadInput(f"{key}: expected {what}; got {given!r}" + _near(given, others))

    def schema(self, kind: str, key: str, name: str) -> type[Group]:
        """Returns what a class may be given, as a type that checks it; see `canonical`."""
        if ":" in name and name not in self.classes[kind]:
            return self._own(kind, key, name)
        if name == ACCURACY:
            return pydantic.create_model(name, __base__=Group)
        return _schema(name, self._signature(kind, name))

    def starts(self, name: str) -> bool:
        """Whether a schedule starts from `optimizer.learning_rate`."""
        if name in self.classes["schedules"]:
            return STARTS in self._signature("schedules", name).required
        return STARTS in self._own("schedules", "optimizer.schedule", name).model_fields

    def _signature(self, kind: str, name: str) -> Signature:
        found = self.classes[kind][name]
        return Signature(found.required, {**found.defaults, **OURS.get((kind, name), {})})

    def _own(self, kind: str, key: str, name: str) -> type[Group]:
        """The arguments of a class or a function of the project's own package."""
        module, _, found = name.partition(":")
        path = self.package.joinpath(*module.split(".")).with_suffix(".py")
        if not all(part.isidentifier() for part in (*module.split("."), found)):
            raise BadInput(f"{key}: expected such as {kind}:Mine; got {name!r}")
        if not path.is_file():
            raise BadInput(
                f"{key}: expected a class in a file of the project, and there is no {path.name} in "
                f"{path.parent.name}; got {name!r}; what KerasHub has is known after: make sync"
            )
        return signatures.of_class(path, found, key)


def read(package: Path) -> Registry:
    """Returns the classes that a project may name; `package` is the folder of its own package.

    Raises:
        BadInput: the file is missing or damaged.
    """
    try:
        text = (package.parents[1] / FILE).read_text(encoding="utf-8")
    except OSError:
        raise BadInput(f"{FILE}: no such file; write it: make sync") from None
    try:
        version, classes, short = _parsed(text)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise BadInput(f"{FILE}: not a list of Keras's classes; write it anew: make sync") from None
    return Registry(package, version, classes, short)


@functools.lru_cache
def _parsed(text: str) -> tuple[str, dict[str, dict[str, Signature]], dict[str, dict[str, str]]]:
    content = json.loads(text)
    classes = {
        kind: {
            name: Signature(tuple(one["required"]), dict(one["defaults"]))
            for name, one in content[kind].items()
        }
        for kind in KINDS
    }
    return str(content["keras"]), classes, {kind: dict(content["short"][kind]) for kind in KINDS}


class _Filled(Group):
    """Defaults become what a person's value would become, such as 0 the number 0.0."""

    model_config = pydantic.ConfigDict(validate_default=True)


_schemas: dict[str, type[Group]] = {}


def _schema(name: str, signature: Signature) -> type[Group]:
    key = f"{name} {signature}"
    if key not in _schemas:
        fields: dict[str, Any] = {
            argument: (_kind_of(argument, None), ...)
            for argument in signature.required
            if argument != STARTS
        }
        fields |= {
            argument: (_kind_of(argument, default), default)
            for argument, default in signature.defaults.items()
        }
        _schemas[key] = pydantic.create_model(name, __base__=_Filled, **fields)
    return _schemas[key]


def _kind_of(argument: str, default: Any) -> Any:
    """What an argument may be: by its name, or else by its default."""
    if argument in RANGES:
        return RANGES[argument]
    if type(default) in (bool, str):
        return type(default)
    return float if type(default) is float else Any


def _bare(name: str) -> str:
    return name.replace("_", "").lower()


def _near(given: str, known: Iterable[str]) -> str:
    """What a refusal adds about a name that is close to a known one, in whatever spelling."""
    bare = {_bare(name): name for name in known}
    close = difflib.get_close_matches(_bare(given), bare, 1)
    return f"; nearest valid name: {bare[close[0]]}" if close else ""

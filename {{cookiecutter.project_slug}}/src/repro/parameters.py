"""`params.yaml`: read, overridden from the command line, checked before anything heavy is imported.

The groups `training` and `optimizer` are described here. Those of `data` and `model` are the
keyword-only arguments of the chosen function in `data.py` and of `build` in `models/<name>.py`:
their names, types and defaults are read from the source text, so that a wrong value is refused
in less than a second and a new model needs no registration.
"""

from __future__ import annotations

import ast
import copy
import difflib
import functools
import io
import typing
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from . import BadInput

__all__ = [
    "Fraction",
    "NonNegativeFloat",
    "NonNegativeInt",
    "PositiveFloat",
    "PositiveInt",
    "resolve",
]

Guarantee = Literal["portable", "machine", "none"]
Fraction = Annotated[float, Field(ge=0, lt=1)]
"""A share of a whole, such as a dropout rate or the part of the samples held out: 0 <= x < 1."""

Share = Annotated[float, Field(gt=0, lt=1)]
"""A share that is not nothing, such as the part of the samples to test on: 0 < x < 1."""

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
"""The names that Keras itself knows; a test compares them with the installed Keras."""

_STRICT = pydantic.ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


class _Group(pydantic.BaseModel):
    model_config = _STRICT


class Training(_Group):
    """What `keras.Model.fit` and `compile` take, as far as it can change the result."""

    epochs: PositiveInt = 5
    batch_size: PositiveInt = 16
    shuffle: bool = True
    steps_per_epoch: PositiveInt | None = None
    initial_epoch: NonNegativeInt = 0
    initial_state: str | None = None
    class_weight: dict[int, NonNegativeFloat] | None = None
    validation_batch_size: PositiveInt | None = None
    validation_freq: PositiveInt = 1
    loss: Loss = "sparse_categorical_crossentropy"
    metrics: list[Metric] = ["accuracy"]
    jit_compile: bool = False
    dtype: Literal["float32", "float64", "mixed_bfloat16", "mixed_float16"] = "float32"


class Split(_Group):
    """Which samples are learnt from, chosen by and judged by; see `splits.make`."""

    strategy: Literal["random", "stratified", "grouped", "stratified_grouped", "time_series"] = (
        "stratified"
    )
    test: Share = 0.15
    validation: Share = 0.15
    seed: NonNegativeInt = 0
    folds: Annotated[int, Field(ge=2)] | None = None
    fold: NonNegativeInt = 0
    repeat: NonNegativeInt = 0
    outer_folds: Annotated[int, Field(ge=2)] | None = None
    outer_fold: NonNegativeInt = 0
    file: str | None = None

    @pydantic.model_validator(mode="after")
    def _possible(self) -> typing.Self:
        if self.test + self.validation >= 1:
            left = 1 - self.test - self.validation
            raise ValueError(
                "test and validation together less than 1; "
                f"{self.test} and {self.validation} leave {left:.3g} to train on"
            )
        if self.file and (self.folds or self.outer_folds):
            raise ValueError("folds null with a file, which is a split already")
        for fold, folds in (("fold", "folds"), ("outer_fold", "outer_folds")):
            number, of = getattr(self, fold), getattr(self, folds)
            if number >= (of or 1):
                raise ValueError(f"{fold} from 0 to {(of or 1) - 1}, counted from 0; got {number}")
        if self.repeat and (self.strategy == "time_series" or not self.folds):
            raise ValueError("repeat 0 without folds, and in time, where there is one way to cut")
        return self


class _Watcher(_Group):
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


class Callbacks(_Group):
    """What watches the training and changes its course; null: not there."""

    early_stopping: EarlyStopping | None = None
    reduce_lr_on_plateau: ReduceLROnPlateau | None = None


class CosineDecay(_Group):
    name: Literal["cosine_decay"]
    decay_steps: PositiveInt
    alpha: NonNegativeFloat = 0.0
    warmup_target: PositiveFloat | None = None
    warmup_steps: NonNegativeInt = 0


class ExponentialDecay(_Group):
    name: Literal["exponential_decay"]
    decay_steps: PositiveInt
    decay_rate: PositiveFloat
    staircase: bool = False


class PolynomialDecay(_Group):
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


class _Optimizer(_Group):
    """The arguments every Keras optimizer shares; a schedule starts from `learning_rate`."""

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


_OPTIMIZERS: dict[str, type[_Group]] = {
    "adam": Adam,
    "adamw": AdamW,
    "sgd": SGD,
    "rmsprop": RMSprop,
}

# What an annotation in `data.py` or `models/*.py` may be made of.
_ANNOTATIONS: dict[str, Any] = {
    "int": int,
    "float": float,
    "str": str,
    "bool": bool,
    "list": list,
    "None": None,
    "Literal": Literal,
    "Fraction": Fraction,
    "PositiveInt": PositiveInt,
    "NonNegativeInt": NonNegativeInt,
    "PositiveFloat": PositiveFloat,
    "NonNegativeFloat": NonNegativeFloat,
}


def resolve(package: Path, params: Path, overrides: typing.Sequence[str] = ()) -> dict[str, Any]:
    """Returns every parameter a run will use: file, then presets, overrides and defaults.

    Args:
        package: folder of the project's own package (`data.py`, `models/`).
        params: path of `params.yaml`.
        overrides: strings `group.key=value`; the value is read as YAML. `preset=name` stands for
            the values in the file `presets/name.yaml` beside `params.yaml`.

    Raises:
        BadInput: an unknown key, a wrong type or an impossible value, named with the nearest
            valid name or with what was expected.
    """
    given = _read(params)
    for text in overrides:
        if text.startswith("preset="):
            _merge(given, _read(_preset(params.with_name("presets"), text)))
    for text in sorted(overrides, key=lambda text: ".name=" not in text):
        if not text.startswith("preset="):
            _override(given, text)
    groups = {
        "data": _choose(given, "data", _functions(package / "data.py")),
        "model": _choose(given, "model", _models(package / "models")),
        "optimizer": _choose(given, "optimizer", _OPTIMIZERS),
    }
    fields: dict[str, Any] = {name: (group, ...) for name, group in groups.items()}
    schema = pydantic.create_model(
        "Parameters",
        __base__=_Group,
        seed=(NonNegativeInt | None, 1234),
        guarantee=(Guarantee, "machine"),
        threads=(PositiveInt, 1),
        split=(Split, Split()),
        training=(Training, Training()),
        callbacks=(Callbacks, Callbacks()),
        **fields,
    )
    try:
        checked = schema.model_validate(given)
    except pydantic.ValidationError as error:
        raise BadInput(_one_line(error, schema)) from None
    resolved: dict[str, Any] = checked.model_dump(mode="json")
    if resolved["seed"] is None and resolved["guarantee"] != "none":
        raise BadInput(
            f"seed: null draws a new seed for each run, which guarantee: {resolved['guarantee']} "
            "rules out; give a seed, or guarantee=none"
        )
    if resolved["optimizer"]["schedule"] and resolved["callbacks"]["reduce_lr_on_plateau"]:
        raise BadInput(
            "callbacks.reduce_lr_on_plateau: expected null, since optimizer.schedule already "
            "sets the learning rate of each step"
        )
    if resolved["training"]["initial_epoch"] >= resolved["training"]["epochs"]:
        raise BadInput("training.initial_epoch: expected less than training.epochs")
    return resolved


def _read(path: Path) -> dict[str, Any]:
    try:
        content = copy.deepcopy(_file(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise BadInput(f"{path.name}: no such file in {path.parent}") from None
    except UnicodeDecodeError:
        raise BadInput(f"{path.name}: expected text in UTF-8") from None
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        raise BadInput(f"{path.name}{line}: not valid YAML: {problem}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise BadInput(f"{path.name}: expected groups such as `training:`, got {content!r}")
    return content


@functools.lru_cache
def _file(text: str) -> Any:
    """What a file says, read once for the many recipes of a study."""
    return _yaml(text)


def values(text: str) -> list[Any]:
    """Reads `16, 32, [a, b]` as a list of values.

    Raises:
        BadInput: it is not.
    """
    try:
        found = _yaml(f"[{text}]")
    except YAMLError:
        raise BadInput(f"not valid values: {text}; expected such as 16,32,64") from None
    return list(found)


def _yaml(text: str) -> Any:
    # The pure-Python reader follows YAML 1.2: 1e-3 is a number, `no` a word, a key twice an error.
    return YAML(typ="safe", pure=True).load(io.StringIO(text))


def _preset(folder: Path, text: str) -> Path:
    asked = text.removeprefix("preset=")
    names = values(asked)
    known = sorted(path.stem for path in folder.glob("*.yaml"))
    if len(names) != 1 or names[0] not in known:
        raise BadInput(
            f"preset: expected one of {', '.join(known)}; got {asked!r}" + nearest(asked, known)
        )
    return folder / f"{names[0]}.yaml"


def _merge(given: dict[str, Any], preset: dict[str, Any]) -> None:
    for key, value in preset.items():
        before = given.get(key)
        if not isinstance(before, dict) or not isinstance(value, dict):
            given[key] = value
        elif "name" in value and value["name"] != before.get("name"):
            given[key] = value  # The file's values were meant for another model or data set.
        else:
            _merge(before, value)


def _override(given: dict[str, Any], text: str) -> None:
    key, equals, value = text.partition("=")
    names = key.strip().split(".")
    if not equals or not all(names):
        raise BadInput(f"{text}: expected key=value, such as training.epochs=3")
    group = given
    for name in names[:-1]:
        if group.get(name) is None:
            group[name] = {}  # A group that was null: this value, and defaults for the rest.
        group = group[name]
        if not isinstance(group, dict):
            raise BadInput(f"{key}: {name} is a single value, not a group")
    try:
        content = _yaml(value)
    except YAMLError:
        raise BadInput(f"{key}: not a valid value: {value}") from None
    if names[1:] == ["name"] and group.get("name") != content:
        group.clear()  # The file's values were meant for another model, data set or optimizer.
    group[names[-1]] = content


def _choose(given: dict[str, Any], group: str, choices: dict[str, type[_Group]]) -> type[_Group]:
    """Returns the schema that the group's `name` chooses."""
    values = given.setdefault(group, {})
    if not isinstance(values, dict):
        raise BadInput(f"{group}: expected a group with a `name`, got {values!r}")
    name = values.get("name")
    if not isinstance(name, str) or name not in choices:
        raise BadInput(
            f"{group}.name: expected one of {', '.join(sorted(choices))}; got {name!r}"
            + nearest(str(name), choices)
        )
    return choices[name]


def _models(folder: Path) -> dict[str, type[_Group]]:
    found = {}
    for path in sorted(folder.glob("*.py")):
        functions = _functions(path, ("build",))
        if "build" in functions:
            found[path.stem] = _named(path.stem, functions["build"])
    return found


def _functions(path: Path, names: tuple[str, ...] = ()) -> dict[str, type[_Group]]:
    """Returns a schema for each named function, or for each public one returning a `Dataset`."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadInput(f"{path.name}: no such file in {path.parent}") from None
    except SyntaxError as error:
        raise BadInput(f"{path.name}, line {error.lineno}: {error.msg}") from None
    found = {}
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef) or node.name.startswith("_"):
            continue
        returns = ast.unparse(node.returns) if node.returns else ""
        if node.name in names or (not names and returns.split(".")[-1] == "Dataset"):
            found[node.name] = _named(node.name, _schema(path, node))
    return found


def _named(name: str, schema: type[_Group]) -> type[_Group]:
    return pydantic.create_model(name, __base__=schema, name=(Literal[name], name))  # type: ignore


def _schema(path: Path, node: ast.FunctionDef) -> type[_Group]:
    fields: dict[str, Any] = {}
    for argument, default in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True):
        where = f"{path.name}, line {argument.lineno}: {node.name}({argument.arg}=…)"
        if argument.annotation is None:
            raise BadInput(f"{where}: a parameter needs a type, such as PositiveInt")
        try:
            annotation = _annotation(argument.annotation)
            value = ... if default is None else ast.literal_eval(default)
        except (KeyError, TypeError, ValueError):
            raise BadInput(
                f"{where}: expected a type made of {', '.join(_ANNOTATIONS)} and a literal default"
            ) from None
        fields[argument.arg] = (annotation, value)
    return pydantic.create_model(node.name, __base__=_Group, **fields)


def _annotation(node: ast.expr) -> Any:
    """The type an annotation means: names of `_ANNOTATIONS`, `X | None`, `list[X]`, `Literal`."""
    match node:
        case ast.Name(id=name):
            return _ANNOTATIONS[name]
        case ast.Constant(value=None):
            return None
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return typing.Union[_annotation(left), _annotation(right)]  # noqa: UP007
        case ast.Subscript(value=ast.Name(id="Literal"), slice=choices):
            value = ast.literal_eval(choices)
            return Literal[value]
        case ast.Subscript(value=ast.Name(id="list"), slice=item):
            return list[_annotation(item)]  # type: ignore[misc]
    raise ValueError(ast.unparse(node))


def _one_line(error: pydantic.ValidationError, schema: type[pydantic.BaseModel]) -> str:
    first, *more = error.errors(include_url=False)
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        known = list(_keys(schema))
        text = f"{key}: unknown parameter{nearest(key, known)}"
    else:
        expected = first["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
        text = f"{key}: expected {expected}"
        if first["type"] not in ("missing", "value_error"):
            text += f"; got {first['input']!r}"
    return text + (f" (and {len(more)} more)" if more else "")


def _keys(schema: type[pydantic.BaseModel], prefix: str = "") -> typing.Iterator[str]:
    for name, field in schema.model_fields.items():
        yield prefix + name
        group = field.annotation
        if isinstance(group, type) and issubclass(group, pydantic.BaseModel):
            yield from _keys(group, f"{prefix}{name}.")


def nearest(name: str, known: typing.Iterable[str]) -> str:
    """What a refusal adds about a name that is close to a known one, or nothing."""
    known = list(known)
    close = difflib.get_close_matches(name, known, 1)
    if not close:  # A right name in the wrong group is near as well.
        close = [key for key in known if key.rpartition(".")[2] == name.rpartition(".")[2]]
    return f"; nearest valid name: {close[0]}" if close else ""

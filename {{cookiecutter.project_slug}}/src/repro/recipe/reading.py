"""`params.yaml`: read, overridden from the command line, checked before anything heavy is imported.

What the groups `data` and `model` may hold is in `signatures`, everything else in `parameters`.
"""

from __future__ import annotations

import copy
import functools
import typing
from pathlib import Path
from typing import Any

import pydantic
from ruamel.yaml.error import YAMLError

from repro.basics.errors import BadInput
from repro.basics.text import nearest
from repro.recipe import literals, objects, registry, signatures
from repro.recipe.parameters import (
    OF_ALL,
    OF_EACH,
    Common,
    Named,
    Optimizer,
    Parameters,
    Training,
)


def parameters(package: Path, params: Path, overrides: typing.Sequence[str] = ()) -> Parameters:
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
    data, unread = signatures.data(package)
    models = signatures.models(package / "models")
    functions = {
        group: _choose(given, group, choices, unread)
        for group, choices in {"data": data, "model": models}.items()
    }
    groups = {group: function.schema() for group, function in functions.items()}
    objects.spelled_out(registry.read(package), given)
    fields: dict[str, Any] = {name: (group, ...) for name, group in groups.items()}
    fields["optimizer"] = (Optimizer | None, ...)
    schema = pydantic.create_model("Parameters", __base__=Common, **fields)
    try:
        checked = schema.model_validate(given)
    except pydantic.ValidationError as error:
        raise BadInput(_one_line(error, schema, functions)) from None
    resolved = Parameters.model_validate_json(checked.model_dump_json())
    _go_together(resolved)
    return _fused(resolved)


def _go_together(asked: Parameters) -> None:
    """Refuses parameters that exclude each other, though each is one by itself.

    Raises:
        BadInput: the first pair that does not go together.
    """
    backend, guarantee, training = asked.backend, asked.guarantee, asked.training
    if asked.seed is None and guarantee != "none":
        raise BadInput(
            f"seed: null draws a new seed for each run, which guarantee: {guarantee} "
            "rules out; give a seed, or guarantee=none"
        )
    if backend != "tensorflow" and guarantee == "portable":
        raise BadInput(
            f"guarantee: portable has been shown for tensorflow alone, not for {backend}; "
            "machine would do"
        )
    if backend != "tensorflow" and training.jit_compile:
        always = "compiles every step in any case" if backend == "jax" else "has no XLA"
        raise BadInput(f"training.jit_compile: expected false, since {backend} {always}")
    scheduled = asked.optimizer is not None and asked.optimizer.schedule is not None
    if scheduled and any(one.name == "ReduceLROnPlateau" for one in asked.callbacks):
        raise BadInput(
            "callbacks.ReduceLROnPlateau: expected null, since optimizer.schedule already sets the "
            "learning rate of each step"
        )
    if training.initial_epoch >= training.epochs:
        raise BadInput("training.initial_epoch: expected less than training.epochs")
    _measured(training, asked.callbacks)


def _fused(asked: Parameters) -> Parameters:
    """Decides whether Adam updates the weights by the backend's own kernel, if that was left open.

    Raises:
        BadInput: it is asked for where there is no such kernel.
    """
    optimizer = asked.optimizer
    if optimizer is None or optimizer.name not in objects.FUSED:
        return asked
    kernel = asked.backend != "jax" and not optimizer.arguments["amsgrad"]
    if optimizer.fused and not kernel:
        raise BadInput(
            "optimizer.fused: expected null or false; TensorFlow and PyTorch have it, "
            "without amsgrad"
        )
    fused = kernel if optimizer.fused is None else optimizer.fused
    decided = optimizer.model_copy(update={"fused": fused})
    return asked.model_copy(update={"optimizer": decided})


def _measured(training: Training, callbacks: typing.Sequence[Named]) -> None:
    """Refuses a callback that watches the validation where no epoch has one."""
    every, epochs = training.validation_freq, training.epochs
    if training.initial_epoch // every < epochs // every:
        return
    for one in callbacks:
        monitor = one.arguments.get("monitor")
        if isinstance(monitor, str) and monitor.startswith("val_"):
            raise BadInput(
                f"callbacks.{one.called or one.name}.monitor: {monitor} is measured in no epoch, "
                f"since training.validation_freq is {every} and training.epochs {epochs}"
            )


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
    return literals.read(text)


def _preset(folder: Path, text: str) -> Path:
    asked = text.removeprefix("preset=")
    names = literals.listed(asked)
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
        if isinstance(group[name], str) and names[0] in ("training", "optimizer"):
            group[name] = {"name": group[name]}  # A name, which now gets an argument.
        group = group[name]
        if not isinstance(group, dict):
            raise BadInput(f"{key}: {name} is a single value, not a group")
    try:
        content = literals.read(value)
    except YAMLError:
        raise BadInput(f"{key}: not a valid value: {value}") from None
    if names[1:] == ["name"] and group.get("name") != content:
        group.clear()  # The file's values were meant for another model, data set or optimizer.
    group[names[-1]] = content


T = typing.TypeVar("T")


def _choose(
    given: dict[str, Any], group: str, choices: dict[str, T], unread: typing.Sequence[str]
) -> T:
    """Returns what the group's `name` chooses; `unread` are files in which it may be as well."""
    content = given.setdefault(group, {})
    if not isinstance(content, dict):
        raise BadInput(f"{group}: expected a group with a `name`, got {content!r}")
    name = content.get("name")
    if not isinstance(name, str) or name not in choices:
        raise BadInput(
            f"{group}.name: expected one of {', '.join(sorted(choices))}; got {name!r}"
            + nearest(str(name), choices)
            + (f"; not read: {'; '.join(unread)}" if unread else "")
        )
    return choices[name]


def _one_line(
    error: pydantic.ValidationError,
    schema: type[pydantic.BaseModel],
    functions: dict[str, signatures.Function],
) -> str:
    def behind(key: str) -> str:
        group, _, name = key.partition(".")
        return functions[group].behind(name) if group in functions else ""

    return objects.one_line(error, "", list(_keys(schema)), (OF_ALL, OF_EACH), behind)


def _keys(schema: type[pydantic.BaseModel], prefix: str = "") -> typing.Iterator[str]:
    for name, field in schema.model_fields.items():
        yield prefix + name
        group = field.annotation
        if isinstance(group, type) and issubclass(group, pydantic.BaseModel):
            yield from _keys(group, f"{prefix}{name}.")

"""`params.yaml`: read, overridden from the command line, checked before anything heavy is imported.

The groups of `data` and `model` are the keyword-only arguments of the chosen data function and of
`build` in `models/<name>.py`: their names, types and defaults are read from the source text, so
that a wrong value is refused in less than a second and a new model needs no registration.
"""

from __future__ import annotations

import ast
import copy
import datetime
import difflib
import functools
import io
import json
import math
import typing
from pathlib import Path
from typing import Any, Literal

import pydantic
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from . import BadInput
from .parameters import (
    OPTIMIZERS,
    Fraction,
    Group,
    NonNegativeFloat,
    NonNegativeInt,
    Parameters,
    PositiveFloat,
    PositiveInt,
)

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


def parameters(package: Path, params: Path, overrides: typing.Sequence[str] = ()) -> dict[str, Any]:
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
    data = _data(package)
    groups = {
        "data": _choose(given, "data", {name: schema for name, (_, schema) in data.items()}),
        "model": _choose(given, "model", _models(package / "models")),
        "optimizer": _choose(given, "optimizer", OPTIMIZERS),
    }
    fields: dict[str, Any] = {name: (group, ...) for name, group in groups.items()}
    schema = pydantic.create_model("Parameters", __base__=Parameters, **fields)
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
    backend, guarantee = resolved["backend"], resolved["guarantee"]
    if backend != "tensorflow" and guarantee == "portable":
        raise BadInput(
            f"guarantee: portable has been shown for tensorflow alone, not for {backend}; "
            "machine would do"
        )
    if backend != "tensorflow" and resolved["training"]["jit_compile"]:
        always = "compiles every step in any case" if backend == "jax" else "has no XLA"
        raise BadInput(f"training.jit_compile: expected false, since {backend} {always}")
    optimizer = resolved["optimizer"]
    if "fused" in optimizer:
        kernel = backend != "jax" and not optimizer["amsgrad"]
        if optimizer["fused"] and not kernel:
            raise BadInput(
                "optimizer.fused: expected null or false; TensorFlow and PyTorch have it, "
                "without amsgrad"
            )
        optimizer["fused"] = kernel if optimizer["fused"] is None else optimizer["fused"]
    if optimizer["schedule"] and resolved["callbacks"]["reduce_lr_on_plateau"]:
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


def written(value: Any) -> str:
    """A value as the text that is read as the same value; JSON's keys would all be words.

    Raises:
        BadInput: it is nothing that a parameter can be.
    """
    match value:
        case dict():
            return f"{{{', '.join(f'{written(k)}: {written(v)}' for k, v in value.items())}}}"
        case list():
            return f"[{', '.join(map(written, value))}]"
        case str():
            return "".join(
                one if one.isprintable() else f"\\U{ord(one):08X}"
                for one in json.dumps(value, ensure_ascii=False)
            )
        case float() if not math.isfinite(value):
            return ".nan" if math.isnan(value) else ".inf" if value > 0 else "-.inf"
        case bool() | int() | float() | None:
            return json.dumps(value)
        case datetime.date():
            return str(value)
    raise BadInput(f"{value!r}: expected a number, a word, a list or a group of them")


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


def _choose(given: dict[str, Any], group: str, choices: dict[str, type[Group]]) -> type[Group]:
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


def data_module(package: Path, name: str) -> str:
    """The module of the project's package, such as `data`, in which a data function stands."""
    return _data(package)[name][0]


def _data(package: Path) -> dict[str, tuple[str, type[Group]]]:
    """Each function that returns a `Dataset`, in `data.py` or beside a model: module and schema."""
    found: dict[str, tuple[str, type[Group]]] = {}
    for path in (package / "data.py", *sorted((package / "models").glob("*.py"))):
        module = ".".join(path.relative_to(package).with_suffix("").parts)
        for name, schema in _functions(path).items():
            if name in found:
                raise BadInput(f"{path.name}: the data {name} are in {found[name][0]} already")
            found[name] = module, schema
    return found


def _models(folder: Path) -> dict[str, type[Group]]:
    found = {}
    for path in sorted(folder.glob("*.py")):
        functions = _functions(path, ("build",))
        if "build" in functions:
            found[path.stem] = _named(path.stem, functions["build"])
    return found


def _functions(path: Path, names: tuple[str, ...] = ()) -> dict[str, type[Group]]:
    """Returns a schema for each named function, or for each public one returning a `Dataset`."""
    try:
        tree = _parsed(path.read_text(encoding="utf-8"))
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


@functools.lru_cache
def _parsed(text: str) -> ast.Module:
    """A file's source, parsed once for its data, its model and the many recipes of a study."""
    return ast.parse(text)


def _named(name: str, schema: type[Group]) -> type[Group]:
    return pydantic.create_model(name, __base__=schema, name=(Literal[name], name))  # type: ignore


def _schema(path: Path, node: ast.FunctionDef) -> type[Group]:
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
    return pydantic.create_model(node.name, __base__=Group, **fields)


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

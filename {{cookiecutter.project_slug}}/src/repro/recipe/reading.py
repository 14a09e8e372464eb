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
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pydantic
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from repro.basics.errors import BadInput
from repro.recipe.parameters import (
    OPTIMIZERS,
    Adam,
    Callbacks,
    Common,
    Fraction,
    Group,
    NonNegativeFloat,
    NonNegativeInt,
    Parameters,
    PositiveFloat,
    PositiveInt,
    Training,
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
    data, unread = _data(package)
    models = _models(package / "models")
    functions = {
        group: _choose(given, group, choices, unread)
        for group, choices in {"data": data, "model": models}.items()
    }
    groups = {group: function.schema() for group, function in functions.items()}
    groups["optimizer"] = _choose(given, "optimizer", OPTIMIZERS)
    fields: dict[str, Any] = {name: (group, ...) for name, group in groups.items()}
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
    if asked.optimizer.schedule and asked.callbacks.reduce_lr_on_plateau:
        raise BadInput(
            "callbacks.reduce_lr_on_plateau: expected null, since optimizer.schedule already "
            "sets the learning rate of each step"
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
    if not isinstance(optimizer, Adam):
        return asked
    kernel = asked.backend != "jax" and not optimizer.amsgrad
    if optimizer.fused and not kernel:
        raise BadInput(
            "optimizer.fused: expected null or false; TensorFlow and PyTorch have it, "
            "without amsgrad"
        )
    fused = kernel if optimizer.fused is None else optimizer.fused
    decided = optimizer.model_copy(update={"fused": fused})
    return asked.model_copy(update={"optimizer": decided})


def _measured(training: Training, callbacks: Callbacks) -> None:
    """Refuses a callback that watches the validation where no epoch has one."""
    every, epochs = training.validation_freq, training.epochs
    if training.initial_epoch // every < epochs // every:
        return
    for name, group in callbacks:
        if group and group.monitor.startswith("val_"):
            raise BadInput(
                f"callbacks.{name}.monitor: {group.monitor} is measured in no epoch, since "
                f"training.validation_freq is {every} and training.epochs {epochs}"
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


T = typing.TypeVar("T")


def _choose(
    given: dict[str, Any], group: str, choices: dict[str, T], unread: typing.Sequence[str] = ()
) -> T:
    """Returns what the group's `name` chooses; `unread` are files in which it may be as well."""
    values = given.setdefault(group, {})
    if not isinstance(values, dict):
        raise BadInput(f"{group}: expected a group with a `name`, got {values!r}")
    name = values.get("name")
    if not isinstance(name, str) or name not in choices:
        raise BadInput(
            f"{group}.name: expected one of {', '.join(sorted(choices))}; got {name!r}"
            + nearest(str(name), choices)
            + (f"; not read: {'; '.join(unread)}" if unread else "")
        )
    return choices[name]


@dataclass(frozen=True)
class _Function:
    """A data function, or a model's `build`, as its source has it."""

    path: Path
    node: ast.FunctionDef
    name: str
    """What chooses it: of a model that of its file."""
    module: str
    given: tuple[str, ...]
    """The arguments that the machinery itself gives, which come first."""

    def schema(self) -> type[Group]:
        """The parameters, which are the keyword-only arguments.

        Raises:
            BadInput: one has no type, or one that is not known, or a default that is none; or the
                function cannot be called with them.
        """
        arguments = self.node.args
        first, more = self._positional()
        if len(first) < len(self.given) and arguments.vararg is None:
            raise BadInput(
                f"{self._where(self.node.lineno)}: expected "
                f"{self.node.name}({', '.join((*self.given, '*', '…'))})"
            )
        needed = len(first) + len(more) - len(arguments.defaults) - len(self.given)
        if needed > 0:
            raise BadInput(f"{self.behind(more[0].arg)}")
        fields: dict[str, Any] = {}
        for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
            where = f"{self._where(argument.lineno)}: {self.node.name}({argument.arg}=…)"
            if argument.annotation is None:
                raise BadInput(f"{where}: a parameter needs a type, such as PositiveInt")
            try:
                annotation = _annotation(argument.annotation)
                value = ... if default is None else ast.literal_eval(default)
            except (KeyError, TypeError, ValueError):
                raise BadInput(
                    f"{where}: expected a type made of {', '.join(_ANNOTATIONS)} and a literal "
                    "default"
                ) from None
            fields[argument.arg] = (annotation, value)
        fields["name"] = (Literal[self.name], self.name)
        return pydantic.create_model(self.name, __base__=Group, **fields)

    def behind(self, name: str) -> str:
        """What to do about an argument that is not keyword-only; nothing where there is none."""
        for argument in self._positional()[1]:
            if argument.arg == name:
                return (
                    f"{self._where(argument.lineno)}: {self.node.name}({name}) is no parameter "
                    f"there; it has to stand behind `*` in the signature, "
                    f"{self.node.name}({', '.join((*self.given, '*', name))}: …)"
                )
        return ""

    def _positional(self) -> tuple[list[ast.arg], list[ast.arg]]:
        """Arguments that are not keyword-only: those that the machinery gives, and others."""
        both = [*self.node.args.posonlyargs, *self.node.args.args]
        return both[: len(self.given)], both[len(self.given) :]

    def _where(self, line: int) -> str:
        return f"{self.path.name}, line {line}"


def data_module(package: Path, name: str) -> str:
    """The module of the project's package, such as `data`, in which a data function stands."""
    return _data(package)[0][name].module


def _data(package: Path) -> tuple[dict[str, _Function], list[str]]:
    """Each function that returns a `Dataset`, in `data.py` or beside a model, by its name.

    Also what is wrong with files that cannot be read, which matters to nobody who wants others.
    """
    found: dict[str, _Function] = {}
    unread: list[str] = []
    for path in (package / "data.py", *sorted((package / "models").glob("*.py"))):
        module = ".".join(path.relative_to(package).with_suffix("").parts)
        try:
            nodes = _functions(path)
        except BadInput as error:
            unread.append(str(error))
            continue
        for node in nodes:
            returns = ast.unparse(node.returns) if node.returns else ""
            if returns.split(".")[-1] != "Dataset":
                continue
            if node.name in found:
                raise BadInput(
                    f"{path.name}: the data {node.name} are in {found[node.name].module} already"
                )
            found[node.name] = _Function(path, node, node.name, module, ())
    return found, unread


def _models(folder: Path) -> dict[str, _Function]:
    """The `build` of each model whose file can be read, by the file's name."""
    found = {}
    for path in sorted(folder.glob("*.py")):
        try:
            nodes = _functions(path)
        except BadInput:
            continue
        for node in nodes:
            if node.name == "build":
                module = f"models.{path.stem}"
                found[path.stem] = _Function(path, node, path.stem, module, ("shape", "classes"))
    return found


def _functions(path: Path) -> list[ast.FunctionDef]:
    """Returns the public functions of a file.

    Raises:
        BadInput: there is no such file, or it is not Python.
    """
    try:
        tree = _parsed(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadInput(f"{path.name}: no such file in {path.parent}") from None
    except SyntaxError as error:
        line = f", line {error.lineno}" if error.lineno else ""
        raise BadInput(f"{path.name}{line}: {error.msg}") from None
    except (OSError, ValueError) as error:  # Not a file, not UTF-8, or with a NUL in it.
        raise BadInput(f"{path.name}: not Python: {error}") from None
    return [
        node
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
    ]


@functools.lru_cache
def _parsed(text: str) -> ast.Module:
    """A file's source, parsed once for its data, its model and the many recipes of a study."""
    return ast.parse(text)


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


def _one_line(
    error: pydantic.ValidationError,
    schema: type[pydantic.BaseModel],
    functions: dict[str, _Function],
) -> str:
    first, *more = error.errors(include_url=False)
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        known = list(_keys(schema))
        group, _, name = key.partition(".")
        behind = functions[group].behind(name) if group in functions else ""
        text = f"{key}: unknown parameter{nearest(key, known)}"
        text = f"{key}: {behind}" if behind else text
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

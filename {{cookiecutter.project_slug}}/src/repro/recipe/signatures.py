"""The parameters of data functions and models, read from the text of their signatures.

A data function's keyword-only arguments, and those of `build` in `models/<name>.py`, are the
groups `data` and `model` of `params.yaml`: their names, types and defaults. They are read without
running the file, so that a wrong value is refused in less than a second and a new model needs no
registration.
"""

from __future__ import annotations

import ast
import functools
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pydantic

from repro.basics.errors import BadInput
from repro.basics.text import nearest
from repro.recipe.parameters import (
    Fraction,
    Group,
    NonNegativeFloat,
    NonNegativeInt,
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


ON_REQUEST = ("train", "dtypes")
"""What `build` may ask for by keyword-only arguments of these names, which are no parameters: the
training part, as a `Part`, and the types of its arrays, in the structure of the shapes."""


@dataclass(frozen=True)
class Function:
    """A data function, or a model's `build`, as its source has it."""

    path: Path
    node: ast.FunctionDef
    name: str
    """What chooses it: of a model that of its file."""
    module: str
    given: tuple[str, ...]
    """The arguments that the machinery itself gives, which come first."""
    on_request: tuple[str, ...] = ()
    """The keyword-only arguments that the machinery gives to a function that has them."""

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
            if argument.arg in self.on_request:
                continue
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
    return data(package)[0][name].module


def data(package: Path) -> tuple[dict[str, Function], list[str]]:
    """Each function that returns a `Dataset`, in `data.py` or beside a model, by its name.

    Also what is wrong with files that cannot be read, which matters to nobody who wants others.
    """
    found: dict[str, Function] = {}
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
            found[node.name] = Function(path, node, node.name, module, ())
    return found, unread


def models(folder: Path) -> dict[str, Function]:
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
                given = ("shape", "classes")
                found[path.stem] = Function(path, node, path.stem, module, given, ON_REQUEST)
    return found


def of_class(path: Path, name: str, key: str) -> type[Group]:
    """The arguments of a class's `__init__`, or of a function, in a file of the project.

    Keras's own `name` and `dtype` are left out, and so is the first argument. A class that has no
    `__init__` takes none. If an argument has no type, it may be anything. A function that is given
    targets and predictions takes none: it is used as it is.

    Args:
        key: the parameter that names the class, for messages.

    Raises:
        BadInput: the file cannot be read or has no such class, or an argument has a type that
            cannot be read.
    """
    found = {
        node.name: node
        for node in _tree(path).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
    }
    if name not in found:
        raise BadInput(f"{key}: {path.name} has no {name}" + nearest(name, found))
    node = found[name]
    if isinstance(node, ast.ClassDef):
        body = [one for one in node.body if isinstance(one, ast.FunctionDef)]
        made = next((one for one in body if one.name == "__init__"), None)
        if made is None:
            return pydantic.create_model(name, __base__=Group)
        arguments, first = made.args, 1
    else:
        arguments, first = node.args, 0
        if [one.arg for one in arguments.args][:2] == ["y_true", "y_pred"]:
            return pydantic.create_model(name, __base__=Group)
    return _of_arguments(path, name, arguments, first)


def _of_arguments(path: Path, name: str, arguments: ast.arguments, first: int) -> type[Group]:
    """The arguments from the place `first` on, as a type that checks them."""
    plain = [*arguments.posonlyargs, *arguments.args]
    missing = [None] * (len(plain) - len(arguments.defaults))
    pairs = list(zip(plain, [*missing, *arguments.defaults], strict=True))[first:]
    pairs += list(zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True))
    fields: dict[str, Any] = {}
    for argument, default in pairs:
        if argument.arg in ("name", "dtype"):
            continue
        try:
            annotation = _annotation(argument.annotation) if argument.annotation else Any
            value = ... if default is None else ast.literal_eval(default)
        except (KeyError, TypeError, ValueError):
            raise BadInput(
                f"{path.name}, line {argument.lineno}: {name}({argument.arg}=…): expected a type "
                f"made of {', '.join(_ANNOTATIONS)} and a literal default"
            ) from None
        fields[argument.arg] = (annotation, value)
    # What else is given goes to the class that this one is derived from.
    more = arguments.kwarg is not None
    return pydantic.create_model(name, __base__=(_Open if more else Group), **fields)


class _Open(Group):
    model_config = pydantic.ConfigDict(extra="allow")


def _functions(path: Path) -> list[ast.FunctionDef]:
    """Returns the public functions of a file.

    Raises:
        BadInput: there is no such file, or it is not Python.
    """
    return [
        node
        for node in _tree(path).body
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
    ]


def _tree(path: Path) -> ast.Module:
    """Returns what a file of Python says, without running it.

    Raises:
        BadInput: there is no such file, or it is not Python.
    """
    try:
        return _parsed(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadInput(f"{path.name}: no such file in {path.parent}") from None
    except SyntaxError as error:
        line = f", line {error.lineno}" if error.lineno else ""
        raise BadInput(f"{path.name}{line}: {error.msg}") from None
    except (OSError, ValueError) as error:  # Not a file, not UTF-8, or with a NUL in it.
        raise BadInput(f"{path.name}: not Python: {error}") from None


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

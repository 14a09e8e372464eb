"""Losses, metrics, optimizer and callbacks: from what `params.yaml` says to what the recipe has.

In `params.yaml` a name is enough, or a group with a name and some arguments. The recipe has the
name that Keras has, and every argument. `registry.py` knows both.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import pydantic

from repro.basics.errors import BadInput
from repro.basics.text import nearest
from repro.recipe.registry import ACCURACY, STARTS, Registry

LOSS, METRICS = "sparse_categorical_crossentropy", ["accuracy"]
"""What is taken if `params.yaml` says nothing."""
FUSED = ("Adam", "AdamW")
"""The optimizers of which the libraries have a kernel of their own."""


def spelled_out(known: Registry, given: dict[str, Any]) -> None:
    """Gives each object of the parameters the name that Keras has, and every argument.

    Args:
        given: what `params.yaml` and the overrides say. It is changed.

    Raises:
        BadInput: a name or an argument is not known, or a value is wrong.
    """
    training = given.setdefault("training", {})
    if isinstance(training, dict):  # Else it is refused where the groups are checked.
        training["loss"] = _loss(known, training.get("loss", LOSS))
        training["metrics"] = _metrics(known, training.get("metrics", METRICS))
    given["callbacks"] = tuple(_callbacks(known, given.get("callbacks") or {}))
    if given.setdefault("optimizer", {}) is not None:
        given["optimizer"] = _optimizer(known, given["optimizer"])


def _loss(known: Registry, given: Any) -> Any:
    """One loss for all outputs, or one for each output by its name."""
    key = "training.loss"
    if given is None or isinstance(given, str) or _is_one(given):
        return None if given is None else named(known, "losses", key, given)
    if isinstance(given, dict):
        return {output: named(known, "losses", f"{key}.{output}", v) for output, v in given.items()}
    raise BadInput(f"{key}: expected the name of a loss, such as {LOSS}, or null; got {given!r}")


def _metrics(known: Registry, given: Any) -> Any:
    """The same metrics for all outputs, or some for each output by its name."""

    def listed(key: str, some: Any) -> list[dict[str, Any]]:
        if not isinstance(some, list):
            raise BadInput(f"{key}: expected a list, such as [accuracy]; got {some!r}")
        return [named(known, "metrics", f"{key}.{place}", one) for place, one in enumerate(some)]

    key = "training.metrics"
    if isinstance(given, dict):
        return {output: listed(f"{key}.{output}", some) for output, some in given.items()}
    return listed(key, given)


def _callbacks(known: Registry, given: Any) -> list[dict[str, Any]]:
    """The callbacks that are not null, in the order in which they are asked for."""
    if not isinstance(given, dict):
        raise BadInput(
            "callbacks: expected the name of each callback with its arguments, such as "
            f"{{EarlyStopping: {{patience: 2}}}}; got {given!r}"
        )
    found: dict[str, dict[str, Any]] = {}
    for label, group in given.items():
        key = f"callbacks.{label}"
        if group is None:
            continue
        if not isinstance(group, dict):
            raise BadInput(f"{key}: expected its arguments, such as {{}}, or null; got {group!r}")
        asked = group if "name" in group else {"name": label, **group}
        one = named(known, "callbacks", key, asked)
        if "name" in group:
            one["called"] = str(label)
        called = one["called"] or one["name"]
        if called in found:
            raise BadInput(f"{key}: {called} is there twice; give one of them another name")
        found[called] = one
    return list(found.values())


def _optimizer(known: Registry, given: Any) -> dict[str, Any]:
    key = "optimizer"
    if not isinstance(given, dict | str):
        raise BadInput(f"{key}: expected a group with a `name`, got {given!r}")
    group = dict(given) if isinstance(given, dict) else {"name": given}
    name = _canonical(known, "optimizers", key, group)
    schedule = group.pop("schedule", None)
    fused = group.pop("fused", None) if name in FUSED else None
    if fused is not None and not isinstance(fused, bool):
        raise BadInput(f"{key}.fused: expected true, false or null; got {fused!r}")
    made = named(known, "optimizers", key, group, also=("schedule", "fused"))
    if schedule is not None:
        made["schedule"] = _schedule(known, schedule)
        if not known.starts(made["schedule"]["name"]):
            made["learning_rate"] = None
    return made | {"fused": fused}


def _schedule(known: Registry, given: Any) -> dict[str, Any]:
    key = "optimizer.schedule"
    if isinstance(given, dict) and STARTS in given:
        raise BadInput(f"{key}.{STARTS}: unknown parameter; it is optimizer.learning_rate")
    return named(known, "schedules", key, given)


def _is_one(given: Any) -> bool:
    return isinstance(given, dict) and isinstance(given.get("name"), str)


def _canonical(known: Registry, kind: str, key: str, given: Any) -> str:
    one = {"name": given} if isinstance(given, str) else given
    name = one.get("name") if isinstance(one, dict) else None
    if not isinstance(name, str):
        raise BadInput(
            f"{key}: expected a name, or a group with a `name` and arguments; got {given!r}"
        )
    # The name of an optimizer is a parameter by itself, and the others can be one.
    where = f"{key}.name" if kind in ("optimizers", "schedules") else key
    return known.canonical(kind, where, name)


def named(
    known: Registry, kind: str, key: str, given: Any, also: Collection[str] = ()
) -> dict[str, Any]:
    """Returns an object with its name and all its arguments.

    Args:
        also: arguments that the machinery itself takes, for messages.
    """
    name = _canonical(known, kind, key, given)
    group = dict(given) if isinstance(given, dict) else {}
    group.pop("name", None)
    called = group.pop("called", None)
    if called is not None and not isinstance(called, str):
        raise BadInput(f"{key}.called: expected a name; got {called!r}")
    if called is not None and name == ACCURACY:
        raise BadInput(
            f"{key}.called: expected null, since Keras calls it accuracy; an accuracy of a fixed "
            "kind, such as SparseCategoricalAccuracy, may have another name"
        )
    schema = known.schema(kind, key, name)
    try:
        checked = schema.model_validate(group)
    except pydantic.ValidationError as error:
        names = [f"{key}.{field}" for field in (*schema.model_fields, *also)]
        raise BadInput(one_line(error, key, names)) from None
    return {"name": name, "called": called, **checked.model_dump(mode="json")}


def one_line(
    error: pydantic.ValidationError,
    key: str,
    known: Collection[str],
    leave: Collection[str] = (),
    instead: Callable[[str], str] = lambda key: "",
) -> str:
    """Says in one line what is wrong, and what would be right.

    Args:
        key: the parameter that was checked; empty for all of them.
        known: the parameters that there are.
        leave: parts of a place that pydantic adds, and that nobody has written.
        instead: what to say of an unknown parameter, if there is more to say than that.
    """
    first, *more = error.errors(include_url=False)
    places = [str(part) for part in first["loc"] if part not in leave]
    where = ".".join([*([key] if key else []), *places])
    if first["type"] == "extra_forbidden":
        told = instead(where)
        text = f"{where}: {told}" if told else f"{where}: unknown parameter{nearest(where, known)}"
    else:
        expected = first["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
        text = f"{where}: expected {expected}"
        if first["type"] not in ("missing", "value_error"):
            text += f"; got {first['input']!r}"
    return text + (f" (and {len(more)} more)" if more else "")

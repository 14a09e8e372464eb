"""Writes `requirements/keras.json`: the classes of the installed Keras, with their arguments.

`make sync` calls `python -m repro.recipe.catalogue`, since the versions in the locks may have
changed. It writes nothing if the file is of the versions that are installed. A package that adds
classes to Keras, such as KerasHub, is looked at where it is installed; its classes are named by the
module that has them, such as `keras_hub.metrics:Perplexity`. See `registry.py`.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import inspect
import json
import os
from pathlib import Path
from types import ModuleType
from typing import Any

from repro.basics import files
from repro.recipe import registry

PLACES = {
    "losses": ("losses", "Loss"),
    "metrics": ("metrics", "Metric"),
    "optimizers": ("optimizers", "Optimizer"),
    "schedules": ("optimizers.schedules", "LearningRateSchedule"),
    "callbacks": ("callbacks", "Callback"),
}
"""By kind: the module of Keras, and the class that all of this kind are derived from."""
OTHERS = ("keras_hub", "keras_rs")
"""Packages that may add classes to Keras."""
LEFT_OUT = ("name", "dtype", "args", "kwargs")
"""Arguments that nobody gives: what a class is called, and its type, which `training.dtype` is."""
WRAPPERS = ("LossFunctionWrapper", "MeanMetricWrapper")
"""Classes that take a function."""


def versions() -> dict[str, str]:
    """Returns the versions of Keras and of the packages that may add classes to it."""
    found = {}
    for name in ("keras", *OTHERS):
        if importlib.util.find_spec(name) is not None:
            found[name] = importlib.metadata.version(name.replace("_", "-"))
    return found


def content() -> dict[str, Any]:
    """Returns what the file has to say of the installed packages; imports them."""
    from keras.src.losses import ALL_OBJECTS_DICT as LOSSES
    from keras.src.metrics import ALL_OBJECTS_DICT as METRICS

    told = versions()
    found: dict[str, Any] = {"keras": told["keras"], "with": {**told}}
    del found["with"]["keras"]
    for kind, (place, base_name) in PLACES.items():
        module = importlib.import_module(f"keras.{place}")
        base = getattr(module, base_name)
        classes = _classes(module, base, "")
        for package in found["with"]:
            other: ModuleType | None = importlib.import_module(package)
            # KerasHub has metrics, and neither losses nor optimizers.
            for part in place.split("."):
                other = getattr(other, part, None)
            if other is not None:
                classes |= _classes(other, base, f"{package}.{place}:")
        for name in registry.NOT_HERE[kind]:
            classes.pop(name, None)
        found[kind] = dict(sorted(classes.items()))
    short = {
        "losses": {name: _like(one, found["losses"]) for name, one in LOSSES.items()},
        "metrics": {name: one.__name__ for name, one in METRICS.items()},
    }
    found["short"] = {
        kind: {
            name: known
            for name, known in sorted(short.get(kind, {}).items())
            if known in found[kind] and name.replace("_", "").lower() != known.lower()
        }
        for kind in PLACES
    }
    return found


def _like(loss: Any, known: dict[str, Any]) -> str:
    """The class of a loss, which Keras has as a function with a similar name as well."""
    bare = loss.__name__.replace("_", "").lower()
    return next((name for name in known if name.lower() == bare), "")


def _classes(module: ModuleType, base: type, prefix: str) -> dict[str, Any]:
    """The classes of a module that are derived from `base`, with their arguments."""
    found = {}
    for name, one in vars(module).items():
        derived = inspect.isclass(one) and issubclass(one, base) and one is not base
        if derived and name not in WRAPPERS and not name.startswith("_"):
            found[prefix + name] = _signature(one)
    return found


def _signature(one: type) -> dict[str, Any]:
    required, defaults = [], {}
    for argument in inspect.signature(one).parameters.values():
        if argument.name in LEFT_OUT:
            continue
        if argument.default is inspect.Parameter.empty:
            required.append(argument.name)
        else:
            defaults[argument.name] = argument.default
    return {"required": required, "defaults": defaults}


def text(found: dict[str, Any]) -> str:
    """Returns the file's text, with a line for each class."""
    parts = []
    for key, value in found.items():
        if key in PLACES:
            lines = ",\n".join(f"  {json.dumps(n)}: {json.dumps(one)}" for n, one in value.items())
            parts.append(f" {json.dumps(key)}: {{\n{lines}\n }}")
        else:
            parts.append(f" {json.dumps(key)}: {json.dumps(value)}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def main(path: Path) -> None:
    """Writes the file if it is missing, damaged, or of other versions than those installed."""
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        same = {"keras": said["keras"], **said["with"]} == versions()
    except (OSError, ValueError, KeyError, TypeError):
        same = False
    if not same:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        with files.replacing(path, shared=True) as file:
            file.write(text(content()).encode())


if __name__ == "__main__":
    main(registry.FILE)

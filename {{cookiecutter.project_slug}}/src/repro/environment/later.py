"""Puts off what Keras imports for its pictures alone, until somebody draws one.

`import keras` imports matplotlib, which takes a tenth of the start of a training
(`python -X importtime -c "import keras"`, Keras 3.15).
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

PICTURES = ("matplotlib", "matplotlib.patches", "matplotlib.pyplot")
"""What `keras.visualization` imports."""


class _Later(ModuleType):
    """Stands for a module, which is imported when something of it is asked for."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # Python itself asks for these.
            raise AttributeError(name)
        return getattr(importlib.import_module(self.__name__), name)


@contextlib.contextmanager
def pictures() -> Iterator[None]:
    """Within the block, whoever imports matplotlib gets what stands for it; after it, all others
    get matplotlib itself."""
    if "matplotlib" in sys.modules or importlib.util.find_spec("matplotlib") is None:
        yield  # It costs nothing more, or Keras itself says that it is missing.
        return
    standing: dict[str, ModuleType] = {name: _Later(name) for name in PICTURES}
    for name, module in standing.items():
        if "." in name:  # `from matplotlib import patches` asks for an attribute.
            setattr(standing["matplotlib"], name.rpartition(".")[2], module)
    sys.modules.update(standing)
    try:
        yield
    finally:
        for name, module in standing.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]

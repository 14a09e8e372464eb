"""Calls a function when a library has been imported, whoever imports it and whenever."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

Act = Callable[[ModuleType], None]


class After(MetaPathFinder):
    """Finds the same modules as Python does, and acts once one of some names was executed."""

    def __init__(self, acts: dict[str, Act]) -> None:
        self._acts = acts

    def install(self) -> None:
        """Begins to act."""
        sys.meta_path.insert(0, self)

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Returns what Python would find, with a loader that acts; None for all other names."""
        if name not in self._acts:
            return None
        act = self._acts.pop(name)
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            self._acts[name] = act
            return spec
        execute = spec.loader.exec_module

        def executed(module: ModuleType) -> None:
            execute(module)
            act(module)

        spec.loader.exec_module = executed  # type: ignore[method-assign]
        return spec

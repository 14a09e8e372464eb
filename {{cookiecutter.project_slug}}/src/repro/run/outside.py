"""State outside the model: a step depends on it, but neither model nor optimizer holds it.

Examples are a seed generator at the top of a module, a variable in a plain object, a second
optimizer, and a NumPy generator that a layer calls. A training that goes on from a checkpoint needs
all of them as they were. So these are kept with the state:

- the variables of Keras that are alive and in no other part of the state;
- the variables that TensorFlow's traced steps use;
- the generators of Python, NumPy and PyTorch that the project's modules and the model hold.

Some state cannot be kept, such as the counter inside `tf.random.uniform`, or what a Python function
that a graph calls remembers. `unkept` names the operations that have such state. A run with one of
them writes no checkpoints. If it is interrupted it begins again, and so it ends in the same bits
too.
"""

from __future__ import annotations

import contextlib
import gc
import random
import sys
import weakref
from collections import deque
from collections.abc import Iterable, Iterator
from types import FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np

MOST = 500_000
"""How many objects the search for generators looks at, at most."""

_made: list[weakref.ref[Any]] = []
_kept: list[Any] = []
_generators: dict[str, Any] = {}
_new: list[tuple[Any, np.ndarray]] | None = None


def watch() -> None:
    """Notes each variable of Keras that is made from now on. Call it before a model is built."""
    from keras.src.backend.common.variables import Variable

    original = Variable.__init__

    def noted(self: Any, *arguments: Any, **keywords: Any) -> None:
        original(self, *arguments, **keywords)
        _made.append(weakref.ref(self))
        if _new is not None:
            _new.append((self, np.array(self)))

    Variable.__init__ = noted


def alive() -> list[Any]:
    """Returns the variables of Keras that were made so far and are still in use."""
    return [variable for ref in _made if (variable := ref()) is not None]


@contextlib.contextmanager
def making() -> Iterator[list[tuple[Any, np.ndarray]]]:
    """Yields a list that gets each variable which is made in the block, with its first value."""
    global _new
    found: list[tuple[Any, np.ndarray]] = []
    _new = found
    try:
        yield found
    finally:
        _new = None


def settle(
    known: Iterable[Any], graphs: Iterable[Any], package: str, model: Any, *callbacks: Any
) -> None:
    """Decides what is kept. Call it after model, optimizer and steps are made, before any step.

    Args:
        known: the variables of Keras that model and optimizer hold.
        graphs: the graphs of the traced steps.
        package: the name of the project's own package.
        callbacks: the callbacks, which may hold generators as the model may.
    """
    gc.collect()  # The variables of a model that nobody uses any more are not to be kept.
    inside = {id(variable) for variable in known}
    found = alive()
    _kept[:] = [variable for variable in found if id(variable) not in inside]
    # TensorFlow's own variables. Those behind Keras's variables are told apart by their handles.
    handles = {id(getattr(variable.value, "handle", None)) for variable in found}
    for graph in graphs:
        for variable in getattr(graph, "variables", ()):
            if id(variable.handle) not in handles:
                handles.add(id(variable.handle))
                _kept.append(variable)
    _generators.clear()
    _generators.update(_reachable(package, model, *callbacks))


def variables() -> list[Any]:
    """Returns the kept variables: those of Keras in the order of their making, then others."""
    return list(_kept)


def generators() -> dict[str, np.ndarray]:
    """Returns the state of each kept generator as an array of bytes, by where it was found."""
    return {
        name: np.frombuffer(repr(_state(generator)).encode(), np.uint8)
        for name, generator in _generators.items()
    }


def states() -> dict[str, Any]:
    """Returns the state of each kept generator as plain numbers; see `restore`."""
    return {name: _state(generator) for name, generator in _generators.items()}


def restore(found: dict[str, Any]) -> None:
    """Gives the generators the states that `states` returned."""
    for name, state in found.items():
        generator = _generators[name]
        if isinstance(generator, random.Random):
            generator.setstate((state[0], tuple(state[1]), state[2]))
        elif isinstance(generator, np.random.BitGenerator):
            generator.state = _as_before(state, generator.state)
        else:
            import torch

            generator.set_state(torch.tensor(state, dtype=torch.uint8))


def _state(generator: Any) -> Any:
    if isinstance(generator, random.Random):
        return generator.getstate()
    if isinstance(generator, np.random.BitGenerator):
        return _plain(generator.state)
    return generator.get_state().tolist()


def _plain(state: Any) -> Any:
    if isinstance(state, dict):
        return {name: _plain(value) for name, value in state.items()}
    return state.tolist() if isinstance(state, np.ndarray | np.generic) else state


def _as_before(state: Any, like: Any) -> Any:
    """Returns the plain numbers of a state with the types that the state `like` has."""
    if isinstance(like, dict):
        return {name: _as_before(state[name], value) for name, value in like.items()}
    return np.asarray(state, dtype=like.dtype) if isinstance(like, np.ndarray) else state


def _reachable(package: str, model: Any, *callbacks: Any) -> Iterator[tuple[str, Any]]:
    """Yields the generators that the project's modules, model and callbacks hold, and where.

    The search goes through containers, objects, and the package's classes and functions with what
    they close over. It does not go into the modules of libraries, since their own generators are
    kept already. A generator that can be reached in several ways is named by the shortest one.
    """
    modules = {
        name: module
        for name, module in sorted(sys.modules.items())
        if name.partition(".")[0] == package
    }
    ways = deque((name.partition(".")[2] or package, module) for name, module in modules.items())
    ways.append(("model", model))
    ways += [(f"callback {number}", one) for number, one in enumerate(callbacks)]
    seen = {id(random._inst)}
    while ways and len(seen) < MOST:
        where, one = ways.popleft()
        if id(one) in seen:
            continue
        seen.add(id(one))
        generator = _generator(one)
        if generator is None:
            ways += _inside(where, one, package)
        elif id(generator) not in seen or generator is one:
            seen.add(id(generator))
            yield where, generator


def _generator(one: Any) -> Any:
    """Returns what holds the state of a generator; None if `one` is not a generator to keep."""
    if isinstance(one, np.random.Generator):
        return one.bit_generator
    if isinstance(one, np.random.RandomState):
        return None if one is np.random.mtrand._rand else one._bit_generator
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(one, torch.Generator):
        return None if one is torch.default_generator else one
    plain = isinstance(one, random.Random) and not isinstance(one, random.SystemRandom)
    return one if plain or isinstance(one, np.random.BitGenerator) else None


def _inside(where: str, one: Any, package: str) -> list[tuple[str, Any]]:
    """Returns the objects that `one` holds, each with where it is."""
    if isinstance(one, dict):
        # A name must be the same in each process, so it cannot have what an object prints.
        keys = (key if isinstance(key, str | int) else number for number, key in enumerate(one))
        return [(f"{where}[{k!r}]", v) for k, v in zip(keys, list(one.values()), strict=False)]
    if isinstance(one, list | tuple):
        return [(f"{where}[{number}]", value) for number, value in enumerate(list(one))]
    if isinstance(one, MethodType):
        return [(where, one.__self__), (where, one.__func__)]
    if isinstance(one, FunctionType):
        return _of_function(where, one)
    of_package = str(getattr(one, "__module__", "")).partition(".")[0] == package
    if isinstance(one, ModuleType):
        of_package = one.__name__.partition(".")[0] == package
    if isinstance(one, type | ModuleType) and not of_package:
        return []
    try:
        held = vars(one)
    except TypeError:
        return []
    return [(f"{where}.{name}", value) for name, value in list(held.items())]


def _of_function(where: str, function: FunctionType) -> list[tuple[str, Any]]:
    found = [(f"{where} default", value) for value in function.__defaults__ or ()]
    found += [(f"{where} {k}", value) for k, value in (function.__kwdefaults__ or {}).items()]
    names = function.__code__.co_freevars
    for name, cell in zip(names, function.__closure__ or (), strict=True):
        try:
            found.append((f"{where} {name}", cell.cell_contents))
        except ValueError:  # The name has no value yet.
            continue
    return found


_HARMLESS = """
    Assert AssignAddVariableOp AssignSubVariableOp AssignVariableOp Case CheckNumerics If
    LookupTableExportV2 LookupTableFindV2 LookupTableSizeV2 PartitionedCall Placeholder Print
    PrintV2 ReadVariableOp RngReadAndSkip RngSkip StatefulPartitionedCall StringFormat Switch
    VarHandleOp VarIsInitializedOp VariableShape While XlaLaunch
"""
HARMLESS = frozenset(_HARMLESS.split())
"""Operations that TensorFlow calls stateful, but that keep no state or keep it in variables."""
HARMLESS_BEGINNINGS = ("Resource", "Stateless", "StatefulStandardNormalV2", "StatefulUniform")


def unkept(graphs: Iterable[Any]) -> list[str]:
    """Returns the kinds of operations in traced steps that keep a state no checkpoint can have."""
    from tensorflow.python.framework import op_def_registry

    found = set()
    for graph in graphs:
        definition = graph.as_graph_def()
        bodies = [function.node_def for function in definition.library.function]
        for nodes in (definition.node, *bodies):
            for node in nodes:
                told = op_def_registry.get(node.op)
                harmless = node.op in HARMLESS or node.op.startswith(HARMLESS_BEGINNINGS)
                if (told is not None and told.is_stateful and not harmless) or "PyFunc" in node.op:
                    found.add(f"{_scope(node.name)}{node.op}")
    return sorted(found)


def _scope(name: str) -> str:
    """Returns the layer of an operation, as TensorFlow's scopes name it; empty if they do not."""
    left_out = ("while", "gradient_tape", "body")
    steps = [s for s in name.split("/")[:-1] if not s.startswith(left_out)]
    return f"{'/'.join(steps)}: " if steps else ""

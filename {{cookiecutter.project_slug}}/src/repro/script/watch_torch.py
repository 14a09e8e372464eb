"""Watches PyTorch: the modules and the optimizer after each step of an optimizer."""

from __future__ import annotations

import gc
import hashlib
import weakref
from collections.abc import Iterator
from typing import Any

from repro.script.watching import Fields, Recorder

LOOP = "steps of a PyTorch optimizer"


def watch(torch: Any, recorder: Recorder) -> None:
    """Sets hooks on all optimizers, once PyTorch has been imported."""
    from torch.optim.optimizer import (
        register_optimizer_step_post_hook,
        register_optimizer_step_pre_hook,
    )

    names: weakref.WeakKeyDictionary[Any, _Names] = weakref.WeakKeyDictionary()

    def before(optimizer: Any, given: Any, named: Any) -> None:
        if recorder.busy or torch.compiler.is_compiling() or recorder.begun(LOOP, optimizer):
            return
        with recorder.safely("a PyTorch optimizer"):
            names[optimizer] = known = _Names(torch, optimizer)
            recorder.begin(LOOP, optimizer, known.state)

    def after(optimizer: Any, given: Any, named: Any) -> None:
        if recorder.busy or torch.compiler.is_compiling() or optimizer not in names:
            return
        with recorder.safely("a PyTorch optimizer"):
            step = recorder.count(LOOP, optimizer)
            if recorder.due(step):
                recorder.enter(LOOP, "step", names[optimizer].state(), 0, step)

    register_optimizer_step_pre_hook(before)
    register_optimizer_step_post_hook(after)


class _Names:
    """The tensors of an optimizer and of the modules that hold its parameters, by their names."""

    def __init__(self, torch: Any, optimizer: Any) -> None:
        self._torch = torch
        # A weak reference, since this is the value of a dictionary that is weak in its keys.
        self._optimizer = weakref.ref(optimizer)
        self._parameters = [one for group in optimizer.param_groups for one in group["params"]]
        self._roots = self._holders(_modules(torch))

    def _holders(self, modules: list[Any]) -> list[tuple[str, Any]]:
        """The outermost modules that hold the parameters, in the order of the parameters."""
        inner = {id(child) for module in modules for child in module.children()}
        roots = [module for module in modules if id(module) not in inner]
        held = {id(one): root for root in roots for one in root.parameters()}
        found: list[tuple[str, Any]] = []
        for parameter in self._parameters:
            root = held.get(id(parameter))
            if root is not None and all(root is not other for _, other in found):
                name = type(root).__name__
                same = sum(type(other).__name__ == name for _, other in found)
                found.append((f"{name} {same + 1}" if same else name, root))
        return [(name, weakref.ref(root)) for name, root in found]

    def state(self) -> Fields:
        """The digests of weights, buffers and of what the optimizer remembers."""
        optimizer = self._optimizer()
        if optimizer is None:
            return {}
        weights: dict[str, str] = {}
        names: dict[int, str] = {}
        for name, tensor in self._tensors():
            names.setdefault(id(tensor), name)
            weights[name] = self._digest(tensor)
        for number, parameter in enumerate(self._parameters):
            if id(parameter) not in names:
                names[id(parameter)] = f"parameter {number}"
                weights[names[id(parameter)]] = self._digest(parameter)
        return {"weights": weights, "optimizer": self._slots(optimizer, names)}

    def _tensors(self) -> Iterator[tuple[str, Any]]:
        for name, ref in self._roots:
            root = ref()
            if root is not None:
                for part, tensor in (*root.named_parameters(), *root.named_buffers()):
                    yield f"{name}.{part}", tensor

    def _slots(self, optimizer: Any, names: dict[int, str]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for number, group in enumerate(optimizer.param_groups):
            for key, value in group.items():
                if isinstance(value, float):
                    found[f"group {number} {key}"] = value
                elif isinstance(value, self._torch.Tensor):
                    found[f"group {number} {key}"] = self._digest(value)
        for parameter in self._parameters:
            state = optimizer.state.get(parameter, {})
            for key, value in state.items():
                name = f"{names.get(id(parameter), 'parameter')} {key}"
                if isinstance(value, self._torch.Tensor):
                    found[name] = self._digest(value)
                elif isinstance(value, int | float):
                    found[name] = value
        return found

    def _digest(self, tensor: Any) -> str:
        """SHA-256 of type, shape and bytes; NumPy does not know all of PyTorch's types."""
        plain = tensor.detach().cpu().contiguous()
        digest = hashlib.sha256(f"{plain.dtype}{tuple(plain.shape)}".encode())
        digest.update(plain.reshape(-1).view(self._torch.uint8).numpy().data)
        return digest.hexdigest()


def _modules(torch: Any) -> list[Any]:
    """All modules that are alive; the type is asked, since an object may only look like one."""
    return [one for one in gc.get_objects() if issubclass(type(one), torch.nn.Module)]

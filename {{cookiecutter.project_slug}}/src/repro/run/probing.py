"""Every tensor of one place of a training, causes first, for the comparison of two runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np

from repro import backends
from repro.basics.errors import Probed
from repro.data.dataset import Part
from repro.run import state
from repro.run.boundary import Boundary, Results
from repro.run.manifest import Probe


class Looking(Boundary):
    """The boundaries of a run that is made only to look at one epoch.

    From a given step on, each step has an entry with the digests of all tensors. The step to record
    is not made as usual: all of its tensors are written into a file.

    Raises:
        Probed: the step has been recorded, or the epoch is over. Nobody looks at what comes after.
    """

    def __init__(self, probe: Probe, part: Part, file: Path, model: Any, *rest: Any) -> None:
        super().__init__(model, *rest)
        self._probe, self._part, self._file = probe, part, file

    def one_by_one(self, epoch: int) -> int | None:
        return self._probe.after if epoch == self._probe.epoch else None

    def kinds(self, epoch: int) -> tuple[str, ...]:
        return state.KINDS if epoch == self._probe.epoch else super().kinds(epoch)

    def before(self, epoch: int, step: int, indices: np.ndarray) -> None:
        if (epoch, step) == (self._probe.epoch, self._probe.record):
            tensors = record(self._model, self._part, indices[0])
            np.savez(self._file, allow_pickle=False, **tensors)
            raise Probed

    def epoch_made(
        self, epoch: int, metrics: dict[str, dict[str, str]], found: Results, stopped: bool
    ) -> None:
        super().epoch_made(epoch, metrics, found, stopped)
        if epoch == self._probe.epoch:
            raise Probed


def initial(model: Any) -> dict[str, np.ndarray]:
    """The state before the first step; the keys are `kind/name`."""
    kinds = {"generators": "generator state", "weights": "initial weight"}
    found = state.arrays(model, tuple(kinds))
    return {f"{kinds[k.partition('/')[0]]}/{k.partition('/')[2]}": a for k, a in found.items()}


def record(model: Any, part: Part, indices: np.ndarray) -> dict[str, np.ndarray]:
    """Makes one training step outside the graph and returns all its tensors, causes first.

    The keys are `kind/name`: batch indices, batch content, generator states and weights before
    the step, each layer's outputs in the order they are computed, gradients, and after the step
    the optimizer's slots, weights and generators. Kernels can differ from the graph's; two records
    of one step are made alike, and that is what they are compared with.
    """
    batch = tuple(array[indices] for array in part.arrays().values())
    found: dict[str, np.ndarray] = {"batch indices/0": indices}
    found |= {f"batch content/{name}": a for name, a in zip(part.arrays(), batch, strict=True)}
    before = state.arrays(model, ("generators", "weights"))
    found |= {key.replace("generators/", "generator state/", 1): a for key, a in before.items()}
    backend = backends.current()
    call, apply = keras.layers.Layer.__call__, keras.optimizers.Optimizer.apply

    def calling(layer: Any, *arguments: Any, **keywords: Any) -> Any:
        outputs = call(layer, *arguments, **keywords)
        for number, output in enumerate(keras.tree.flatten(outputs)):
            array = _content(output)
            if array is None:
                continue
            key = f"activation/{layer.path}"
            while f"{key}/{number}" in found:  # A layer that is called again.
                key += "'"
            found[f"{key}/{number}"] = array
        return outputs

    def applying(optimizer: Any, gradients: Any, variables: Any = None) -> Any:
        gradients = list(gradients)
        named = variables or optimizer._trainable_variables
        for gradient, variable in zip(gradients, named, strict=True):
            array = _content(gradient)
            if array is not None:
                found.setdefault(f"gradient/{variable.path}", array)
        return apply(optimizer, gradients, variables)

    keras.layers.Layer.__call__, keras.optimizers.Optimizer.apply = calling, applying
    try:
        if hasattr(model, "learn"):
            with backend.uncompiled():
                model.learn(*backend.as_compiled(batch))
        else:
            backend.one_step(model, batch)
    finally:
        keras.layers.Layer.__call__, keras.optimizers.Optimizer.apply = call, apply
    after = state.arrays(model, ("optimizer", "weights", "generators"))
    names = {
        "optimizer": "optimizer slot",
        "weights": "weight after",
        "generators": "generator state after",
    }
    for key, array in after.items():
        kind, _, name = key.partition("/")
        found[f"{names[kind]}/{name}"] = array
    return found


def _content(output: Any) -> np.ndarray | None:
    """The content of a tensor; None for what is none, such as the None of `(x, None)`.

    What lies in a graph has no content either: a layer may compute in a compiled loop of its own.
    """
    try:
        array = backends.current().concrete(output)
    except (NotImplementedError, TypeError, ValueError):
        return None
    # An array of Python objects cannot be written, and says nothing of bits.
    return None if array.dtype.hasobject else array

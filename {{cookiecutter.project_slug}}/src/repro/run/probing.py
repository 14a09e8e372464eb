"""Records every tensor at one place of a training, so that two runs can be compared there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np

from repro import backends
from repro.basics import npz
from repro.basics.errors import Probed
from repro.data.dataset import Part, for_step
from repro.data.feed import Chunk
from repro.run import state
from repro.run.boundary import Boundary, Results
from repro.run.manifest import Probe


class Looking(Boundary):
    """The boundaries of a run that is made only to look at one epoch.

    After a given step of this epoch, each step gets an entry with the digests of all tensors. The
    step to record is made outside the graph, and all its tensors are written into a file.

    Raises:
        Probed: the step has been recorded, or the epoch is over. The rest of the training is not
            needed.
    """

    def __init__(self, probe: Probe, part: Part, file: Path, model: Any, *rest: Any) -> None:
        super().__init__(model, *rest)
        self._probe, self._part, self._file = probe, part, file

    def one_by_one(self, epoch: int) -> int | None:
        return self._probe.after if epoch == self._probe.epoch else None

    def kinds(self, epoch: int) -> tuple[str, ...]:
        return state.KINDS if epoch == self._probe.epoch else super().kinds(epoch)

    def before(self, epoch: int, step: int, chunk: Chunk) -> None:
        if (epoch, step) == (self._probe.epoch, self._probe.record):
            tensors = record(self._model, self._part, chunk.indices[0], epoch)
            npz.write(self._file, tensors)
            raise Probed

    def epoch_made(
        self, epoch: int, metrics: dict[str, dict[str, str]], found: Results, *rest: Any
    ) -> None:
        super().epoch_made(epoch, metrics, found, *rest)
        if epoch == self._probe.epoch:
            raise Probed


def initial(model: Any) -> dict[str, np.ndarray]:
    """Returns the generators and weights before the first step; the keys are `kind/name`."""
    kinds = {"generators": "generator state", "weights": "initial weight"}
    found = state.arrays(model, tuple(kinds))
    return {f"{kinds[k.partition('/')[0]]}/{k.partition('/')[2]}": a for k, a in found.items()}


def record(
    model: Any, part: Part, indices: np.ndarray, epoch: int | None = None
) -> dict[str, np.ndarray]:
    """Makes one training step outside the graph and returns all its tensors, causes first.

    Its kernels may differ from those of the graph. This does no harm, since a record is only
    compared with another record of the same step.

    Args:
        indices: the positions of the batch's samples, of shape (batch,).
        epoch: the epoch that samples are augmented for; None where they are not.

    Returns:
        Arrays by `kind/name`, in this order: batch indices; batch content; generator states and
        weights before the step; each layer's outputs, in the order of their computing; gradients;
        and after the step the optimizer's slots, the weights and the generators.
    """
    batch = part.rows(indices, epoch)
    found: dict[str, np.ndarray] = {"batch indices/0": indices}
    if part.reader is not None:
        found["batch keys/0"] = part.reader.keys[indices].astype(str)
    found |= {f"batch content/{name}": array for name, array in Part(*batch).arrays().items()}
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
            while f"{key}/{number}" in found:  # The layer is called more than once in a step.
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
            backend.one_step(model, for_step(batch))
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
    """Returns the content of a tensor, or None if it has none.

    A value that is not a tensor has none, such as the None of `(x, None)`. A tensor in a graph has
    none either: a layer may compute in a compiled loop of its own.
    """
    try:
        array = backends.current().concrete(output)
    except (NotImplementedError, TypeError, ValueError):
        return None
    # An array of Python objects cannot be written, and has no bits to compare.
    return None if array.dtype.hasobject else array

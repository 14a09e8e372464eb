"""PyTorch: makes one step after the other, without compiling."""

from __future__ import annotations

import contextlib
import os
import random
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from repro.data.dataset import Part
from repro.data.feed import Chunk

if TYPE_CHECKING:
    from repro.recipe.parameters import Parameters


def environment(parameters: Parameters) -> dict[str, str]:
    """Returns no variables: `apply` sets up PyTorch after it has started."""
    return {}


def apply(parameters: Parameters) -> None:
    """Sets threads and deterministic kernels.

    With `use_deterministic_algorithms` an operation without a deterministic kernel raises. cuDNN
    has two switches of its own: its search for the fastest kernel has to be off, and deterministic
    convolutions on (PyTorch documentation, "Reproducibility").

    Numbers below the normal ones become 0, as on TensorFlow and JAX. Processors take many times
    longer to compute with such numbers, and the momenta of weights without a gradient become so
    small.
    """
    import torch

    if parameters.guarantee != "none":
        make_deterministic(parameters.threads)
        torch.set_num_interop_threads(parameters.threads)
        torch.set_flush_denormal(True)
        _seed_all()


def make_deterministic(threads: int) -> None:
    """Sets the number of threads of an operation, and allows deterministic kernels alone."""
    import torch

    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True


def _seed_all() -> None:
    """Makes each layer draw from its own generator, as on the other backends.

    A dropout without a seed draws from PyTorch's global generator, which is in no saved state
    (Keras, `backend/torch/random.py`). A training that goes on from such a state would draw other
    masks than one that was not stopped.
    """
    import keras

    original = keras.random.SeedGenerator.__init__

    def seeded(self: Any, seed: int | None = None, *arguments: Any, **keywords: Any) -> None:
        # Keras itself would draw the same number.
        drawn = random.randint(1, 10**9) if seed is None else seed
        original(self, drawn, *arguments, **keywords)

    keras.random.SeedGenerator.__init__ = seeded


def in_effect() -> dict[str, Any]:
    """Returns the settings that PyTorch reports, with the keys of `expected`."""
    import torch

    return {
        "intra_op_threads": torch.get_num_threads(),
        "inter_op_threads": torch.get_num_interop_threads(),
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled()
        and not torch.is_deterministic_algorithms_warn_only_enabled(),
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "cudnn_deterministic": torch.backends.cudnn.deterministic,
        "cublas_workspace": os.environ.get("CUBLAS_WORKSPACE_CONFIG", ""),
        "flush_denormal": not (torch.tensor(torch.finfo(torch.float32).tiny) / 2).item(),
    }


def expected(parameters: Parameters, guarantee: str) -> dict[str, Any]:
    """Returns what `in_effect` has to return if the guarantee holds."""
    return {
        "intra_op_threads": parameters.threads,
        "inter_op_threads": parameters.threads,
        "deterministic_algorithms": True,
        "cudnn_benchmark": False,
        "cudnn_deterministic": True,
        "cublas_workspace": ":4096:8",
        "flush_denormal": True,
    }


def gpus() -> list[str]:
    """Returns the names of the GPUs that PyTorch may use."""
    import torch

    return [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]


def generators() -> dict[str, np.ndarray]:
    """Returns the state of PyTorch's own generators, which the project's code may draw from."""
    import torch

    found = {"torch": torch.get_rng_state().numpy()}
    for number in range(torch.cuda.device_count()):
        found[f"torch cuda {number}"] = torch.cuda.get_rng_state(number).numpy()
    return found


def restore(found: dict[str, np.ndarray]) -> None:
    """Gives PyTorch's generators the state that `generators` returned."""
    import torch

    for name, state in found.items():
        if name == "torch":
            torch.set_rng_state(torch.from_numpy(state))
        else:
            torch.cuda.set_rng_state(torch.from_numpy(state), int(name.rpartition(" ")[2]))


def fuse(optimizer: Any) -> None:
    """Makes Keras's Adam or AdamW update all weights by PyTorch's fused kernel.

    Keras makes ten passes over the weights, and the kernel makes one. The formulas are the same
    except for the place of epsilon: the kernel adds it after the division by sqrt(1 - beta_2^t)
    (PyTorch documentation, `torch.optim.Adam`). So Keras's epsilon is divided by this root here.
    """
    import keras
    import torch
    from torch.optim.adam import adam

    def update(gradients: list[Any], variables: list[Any], learning_rate: Any) -> None:
        # A variable, or a tensor where the gradients of several steps are one update.
        made = int(keras.ops.convert_to_tensor(optimizer.iterations))
        places = [optimizer._get_variable_index(variable) for variable in variables]
        device = variables[0].value.device
        adam(
            [variable.value for variable in variables],
            gradients,
            [optimizer._momentums[place].value for place in places],
            [optimizer._velocities[place].value for place in places],
            max_exp_avg_sqs=[],
            # The kernel adds 1 to each of them before it uses it.
            state_steps=list(torch.full((len(places),), float(made), device=device).unbind()),
            fused=True,
            amsgrad=False,
            beta1=optimizer.beta_1,
            beta2=optimizer.beta_2,
            lr=keras.ops.convert_to_tensor(learning_rate),
            weight_decay=0.0,  # Keras has applied it already.
            eps=optimizer.epsilon / (1 - optimizer.beta_2 ** (made + 1)) ** 0.5,
            maximize=False,
        )

    optimizer._parallel_update_step = update


class Steps:
    """Makes a step on each batch of a chunk."""

    graph: Any = None

    def __init__(
        self, model: Any, kind: Literal["train", "test"], part: Part, jit_compile: bool
    ) -> None:
        """Copies the part's samples to the device, as far as they are in memory."""
        import keras

        held = part.arrays() if part.reader is None else {}
        self._tensors = {n: keras.ops.convert_to_tensor(array) for n, array in held.items()}
        self._part, self._model, self._kind = part, model, kind

    def __call__(self, chunk: Chunk) -> None:
        import keras
        import torch

        tensors = {n: keras.ops.convert_to_tensor(array) for n, array in chunk.arrays.items()}
        for number in range(chunk.steps):
            found = {name: one[number] for name, one in tensors.items()}
            if chunk.content is None:
                found = {name: one[found["rows"]] for name, one in self._tensors.items()}
            batch = self._part.packed(found)
            if self._kind == "train":
                self._model.train_step(batch)
            else:
                with torch.no_grad():
                    self._model.test_step(batch)


def one_step(model: Any, batch: tuple[Any, ...]) -> None:
    """Makes a training step on a batch."""
    import keras

    model.train_step(keras.tree.map_structure(keras.ops.convert_to_tensor, batch))


def uncompiled() -> contextlib.AbstractContextManager[None]:
    """Does nothing, since nothing is compiled here."""
    return contextlib.nullcontext()


def as_compiled(batch: tuple[Any, ...]) -> tuple[Any, ...]:
    """Returns a batch as the functions of a model's own `learn` get it: unchanged."""
    return batch


def concrete(tensor: Any) -> np.ndarray:
    """Returns the content of a tensor."""
    import keras

    return np.asarray(keras.ops.convert_to_numpy(tensor))

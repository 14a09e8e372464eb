"""Seeds for each purpose, and the order of the samples: pure functions of the recipe's seed."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


def seed(recipe_seed: int, *purpose: str | int) -> int:
    """Returns a 32-bit seed for one purpose, from the SHA-256 of the recipe's seed and the purpose.

    Each purpose has its own seed, so that one draw more in the data does not change the weights.
    """
    return int.from_bytes(_hash(recipe_seed, *purpose)[:4], "little")


def permutation(recipe_seed: int, epoch: int, size: int) -> np.ndarray:
    """Returns the order of the samples in an epoch, as a pure function of the arguments.

    The order is the ranks of `size` 64-bit words of the Philox4x64-10 counter (Salmon et al. 2011),
    keyed by SHA-256. The algorithm fixes the words, and a stable sort decides between equal words.
    So the order does not depend on the version of a library.

    Returns:
        int32 array of shape `(size,)` that has each of 0 … size-1 once.
    """
    import numpy as np

    # The 0 used to be the number of a fold. It stays, because recorded results depend on it.
    key = np.frombuffer(_hash(recipe_seed, "order", 0, epoch)[:16], dtype="<u8")
    words = np.random.Philox(key=key.astype(np.uint64)).random_raw(size)
    return np.argsort(words, kind="stable").astype(np.int32)


def generator(recipe_seed: int, *purpose: str | int) -> np.random.Generator:
    """Returns a generator of NumPy's for one purpose, keyed as in `permutation`."""
    import numpy as np

    key = np.frombuffer(_hash(recipe_seed, *purpose)[:16], dtype="<u8")
    return np.random.Generator(np.random.Philox(key=key.astype(np.uint64)))


def _hash(recipe_seed: int, *purpose: str | int) -> bytes:
    return hashlib.sha256("/".join(map(str, (recipe_seed, *purpose))).encode()).digest()

"""Seeds for each purpose, and the order of the samples: pure functions of the recipe's seed."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


def seed(recipe_seed: int, *purpose: str | int) -> int:
    """A 32-bit seed for one purpose: the SHA-256 of the recipe's seed and the purpose's words.

    A draw more in one place (the data, say) then shifts nothing in another (the weights).
    """
    return int.from_bytes(_hash(recipe_seed, *purpose)[:4], "little")


def permutation(recipe_seed: int, epoch: int, size: int) -> np.ndarray:
    """The order of the samples in an epoch: a pure function of its arguments.

    Returns:
        int32 array of shape `(size,)`, each of 0 … size-1 once: the ranks of `size` 64-bit words
        of the Philox4x64-10 counter (Salmon et al. 2011), keyed by SHA-256. The words are fixed
        by that algorithm and ties by a stable sort, so that no library's version matters.
    """
    import numpy as np

    # The 0 was once the number of a fold; recorded results depend on it.
    key = np.frombuffer(_hash(recipe_seed, "order", 0, epoch)[:16], dtype="<u8")
    words = np.random.Philox(key=key.astype(np.uint64)).random_raw(size)
    return np.argsort(words, kind="stable").astype(np.int32)


def _hash(recipe_seed: int, *purpose: str | int) -> bytes:
    return hashlib.sha256("/".join(map(str, (recipe_seed, *purpose))).encode()).digest()

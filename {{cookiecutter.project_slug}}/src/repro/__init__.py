"""What your own code needs of the machinery: `data.py` and `models/` import it from here.

Nothing in this folder is yours to change for an experiment; see `params.yaml`, `data.py` and
`models/`. Importing it costs nothing: numerical libraries are imported only inside the process that
trains, whose environment was fixed before it started.
"""

from typing import TYPE_CHECKING, Any

from repro.basics.digests import sha256
from repro.basics.errors import BadInput
from repro.data.datafiles import fetch
from repro.data.dataset import Dataset, Part, Parts, arrays

if TYPE_CHECKING:
    from repro.recipe.parameters import (
        Fraction,
        NonNegativeFloat,
        NonNegativeInt,
        PositiveFloat,
        PositiveInt,
    )

__all__ = [
    "BadInput",
    "Dataset",
    "Fraction",
    "NonNegativeFloat",
    "NonNegativeInt",
    "Part",
    "Parts",
    "PositiveFloat",
    "PositiveInt",
    "arrays",
    "fetch",
    "sha256",
]


def __getattr__(name: str) -> Any:
    """The types of parameters: they need pydantic, and `repro image` works without any package."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from repro.recipe import parameters

    return getattr(parameters, name)

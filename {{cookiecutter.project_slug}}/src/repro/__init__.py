"""What your own code needs of the machinery: `data.py` and `models/` import it from here.

An experiment does not need a change in this folder; it changes `params.yaml`, `data.py` and
`models/`. Importing this package is cheap: numerical libraries are imported only inside the process
that trains, whose environment was fixed before it started.
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
    """Imports the types of parameters only when they are asked for.

    They need pydantic, and `repro image` has to work without any installed package.
    """
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from repro.recipe import parameters

    return getattr(parameters, name)

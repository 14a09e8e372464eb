"""What your own code needs of the machinery: `data.py` and `models/` import it from here.

An experiment does not need a change in this folder; it changes `params.yaml`, `data.py` and
`models/`. Importing this package is cheap: numerical libraries are imported only inside the process
that trains, whose environment was fixed before it started.
"""

import importlib
from typing import TYPE_CHECKING, Any

from repro.basics.digests import sha256
from repro.basics.errors import BadInput
from repro.data.datafiles import fetch
from repro.data.dataset import Dataset, Part, Parts, arrays

if TYPE_CHECKING:
    from repro.data.images import ImageFolder
    from repro.data.sources import Mapped, Rows
    from repro.data.stored import ArrayFile
    from repro.data.table import Table
    from repro.recipe.parameters import (
        Fraction,
        NonNegativeFloat,
        NonNegativeInt,
        PositiveFloat,
        PositiveInt,
    )

__all__ = [
    "ArrayFile",
    "BadInput",
    "Dataset",
    "Fraction",
    "ImageFolder",
    "Mapped",
    "NonNegativeFloat",
    "NonNegativeInt",
    "Part",
    "Parts",
    "PositiveFloat",
    "PositiveInt",
    "Rows",
    "Table",
    "arrays",
    "fetch",
    "sha256",
]


SOURCES = {
    "ArrayFile": "repro.data.stored",
    "ImageFolder": "repro.data.images",
    "Mapped": "repro.data.sources",
    "Rows": "repro.data.sources",
    "Table": "repro.data.table",
}
"""Ready-made sources, and the modules that they are in."""


def __getattr__(name: str) -> Any:
    """Imports sources and the types of parameters only when they are asked for.

    Sources need NumPy, the types pydantic; `repro image` has to work without any installed package.
    """
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(SOURCES.get(name, "repro.recipe.parameters")), name)

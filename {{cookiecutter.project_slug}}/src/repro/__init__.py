"""What your own code needs of the machinery: `data.py` and `models/` import it from here.

Notebooks and scripts find here what trains and compares: `repro.train`, `repro.verify` and the
other functions of `api`.

An experiment does not need a change in this folder; it changes `params.yaml`, `data.py` and
`models/`. Importing this package is cheap: numerical libraries are imported only inside the process
that trains, whose environment was fixed before it started.
"""

import importlib
from typing import TYPE_CHECKING, Any

from repro.basics.digests import sha256
from repro.basics.errors import BadInput, MachineryFailed, RunFailed
from repro.data.datafiles import fetch
from repro.data.dataset import Dataset, Part, Parts, arrays

if TYPE_CHECKING:
    from repro.api import (
        Run,
        Runs,
        Study,
        Verdict,
        cross_validate,
        diff,
        evaluate,
        export,
        find_run,
        predict,
        runs,
        sweep,
        train,
        verify,
    )
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
    "MachineryFailed",
    "Mapped",
    "NonNegativeFloat",
    "NonNegativeInt",
    "Part",
    "Parts",
    "PositiveFloat",
    "PositiveInt",
    "Rows",
    "Run",
    "RunFailed",
    "Runs",
    "Study",
    "Table",
    "Verdict",
    "arrays",
    "cross_validate",
    "diff",
    "evaluate",
    "export",
    "fetch",
    "find_run",
    "predict",
    "runs",
    "sha256",
    "sweep",
    "train",
    "verify",
]


SOURCES = {
    "ArrayFile": "repro.data.stored",
    "ImageFolder": "repro.data.images",
    "Mapped": "repro.data.sources",
    "Rows": "repro.data.sources",
    "Table": "repro.data.table",
}
"""Ready-made sources, and the modules that they are in."""

INTERFACE = (
    "Run",
    "Runs",
    "Study",
    "Verdict",
    "cross_validate",
    "diff",
    "evaluate",
    "export",
    "find_run",
    "predict",
    "runs",
    "sweep",
    "train",
    "verify",
)
"""What notebooks and scripts call; all of it is in `repro.api`."""


def __getattr__(name: str) -> Any:
    """Imports sources, the interface and the types of parameters only when they are asked for.

    Sources need NumPy, the others pydantic; `repro image` has to work without installed packages.
    """
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "repro.api" if name in INTERFACE else SOURCES.get(name, "repro.recipe.parameters")
    return getattr(importlib.import_module(module), name)

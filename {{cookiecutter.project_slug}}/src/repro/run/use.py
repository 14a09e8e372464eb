"""What may be asked of a finished run: to evaluate, to predict, to export; and what came of it.

Each of these rebuilds the model of the run in a fresh process, which has the environment that the
run had. So the manifest of that process has a `Use`, as that of a run that looks at one place has a
`Probe`. The process trains nothing and leaves an answer; see `using`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeVar

import pydantic

from repro.basics import files
from repro.basics.errors import BadInput
from repro.recipe.parameters import Group, Own

ANSWER, ARRAYS, EXPORTED = "answer.json", "outputs.npz", "exported"
"""What the process leaves in its directory: its answer, what it predicted, what it exported."""

Number = Annotated[float, pydantic.BeforeValidator(files.numbers)]
"""A result. In JSON, one that is not finite is a string such as `NaN`."""
Part = Literal["train", "validation", "test", "all"]
Format = Literal["keras", "savedmodel", "onnx"]


class Evaluate(Group):
    """Evaluate the model on a part of the run's data, or on other data."""

    command: Literal["evaluate"] = "evaluate"
    part: Part
    """The part; `all` stands for all samples of other data."""
    data: Own | None = None
    """The other data, by the name of their data function and its arguments."""


class Predict(Group):
    """Predict for the samples in a file."""

    command: Literal["predict"] = "predict"
    file: str
    """The absolute path of the file."""
    sha256: str
    """The SHA-256 of the file."""


class Export(Group):
    """Write the model as other programs read it."""

    command: Literal["export"] = "export"
    format: Format


Task = Evaluate | Predict | Export


class Use(Group):
    """What a process does with a finished run, once data and model are made again."""

    of: str
    """The directory of the run."""
    state: str
    """The digest of the run's final state."""
    ending: str
    """The digest of the run's ending, which has the generators of Python and NumPy."""
    task: Annotated[Task, pydantic.Discriminator("command")]


class Answer(Group):
    """What every process of a use says."""

    model_config = pydantic.ConfigDict(allow_inf_nan=True)

    sources: dict[str, str]
    """The SHA-256 of what other data were read from, by name; empty if none were read."""
    versions: dict[str, str]
    """The versions of Python and of the libraries that computed."""


class Evaluated(Answer):
    """The results of an evaluation."""

    results: dict[str, Number]
    """By the names that the results have in the manifest of a run."""
    drew: bool
    """Whether the evaluation drew random numbers, so that it depends on more than the weights."""


class Predicted(Answer):
    """The digests of predictions; the arrays are in `ARRAYS`."""

    samples: int
    digests: dict[str, str]
    """The SHA-256 of each array, by its name."""
    class_names: tuple[str, ...] = ()


class Exported(Answer):
    """What the exported files were found to be when they were loaded again."""

    name: str
    """The name of the exported file or folder in `EXPORTED`."""
    compared: str
    """What was compared, in words."""
    largest: Number | None = None
    """The largest difference between two predictions; None: the weights were compared alone."""
    custom: tuple[str, ...] = ()
    """The project's own classes that a program needs to load the file."""


Kind = TypeVar("Kind", bound=Answer)


def read(directory: Path, kind: type[Kind]) -> Kind:
    """Returns the answer that a process has left in its directory.

    Raises:
        BadInput: there is none, or it is of another kind.
    """
    try:
        return kind.model_validate_json((directory / ANSWER).read_bytes())
    except (OSError, ValueError) as error:
        raise BadInput(f"{directory / ANSWER}: not a readable answer: {error}") from None


def write(directory: Path, answer: Answer) -> None:
    """Leaves an answer in the directory of a process."""
    with files.replacing(directory / ANSWER) as file:
        file.write(files.dumps(answer.model_dump()).encode())

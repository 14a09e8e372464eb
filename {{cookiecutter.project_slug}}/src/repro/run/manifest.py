"""What a run directory says of itself: its manifest, sealed, and how a run is found by its name."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import pydantic

from repro.basics import digests, files
from repro.basics.errors import BadInput
from repro.environment.determinism import Promise
from repro.environment.machine import Machine
from repro.environment.provenance import Code, Origin, Provenance
from repro.environment.reads import Reads
from repro.recipe.parameters import Group
from repro.recipe.project import Project
from repro.recipe.recipe import Recipe
from repro.run.ledger import Divergence

FORMAT = 2
"""Of manifests. One of another format was written by another version, and is not read."""

Number = Annotated[float, pydantic.BeforeValidator(files.numbers)]
"""A result; one that is not finite is a word in JSON."""


class Surroundings(Group):
    """What was changed around a run on purpose; `index` is the number of the run in its gate."""

    varied: Sequence[str] = ()
    index: int = 0


ORDINARY = Surroundings()
"""Nothing is changed."""


class Probe(Group):
    """What a run is made to look at, if it is made only to look."""

    stage: str
    epoch: int
    after: int
    """The steps of the epoch after this one get an entry each, with all tensors' digests."""
    record: int | None
    """The step of which every tensor is recorded."""


class Manifest(Group):
    """What a run says of itself from its beginning on."""

    model_config = pydantic.ConfigDict(allow_inf_nan=True, ser_json_inf_nan="strings")

    format: Literal[2] = 2
    run: str
    recipe: Recipe
    project: dict[str, str]
    """The name of the project's `package`."""
    seed: int
    """The recipe's, or what was drawn where the recipe has none."""
    overrides: Sequence[str] = ()
    trial: bool = False
    """Whether the run is a trial of a study, and so is not found by its recipe."""
    started: str
    resumed: Sequence[str] = ()
    """When the run was gone on with, each time."""
    surroundings: Surroundings = ORDINARY
    status: Literal["running", "failed", "probed", "finished"] = "running"
    checkpoint_seconds: float = 60
    probe: Probe | None = None
    code: Code
    machinery: Origin | None = None
    """Where the machinery comes from that the run was made by."""
    interpreter: str
    environment: dict[str, str]
    """The variables that decide results, as the process was started with them."""
    made_of: Provenance | None = None
    reads: Reads | None = None
    parted: Divergence | None = None
    """Where a run that was to go on was not what it had been."""

    def but(self, **changed: Any) -> Self:
        """The same manifest, with other values for some fields."""
        return self.model_copy(update=changed)

    def as_json(self) -> dict[str, Any]:
        """As it stands in the file; a field that says nothing is left out."""
        content = self.model_dump(mode="json", by_alias=True)
        content["recipe"] = self.recipe.as_json()
        if self.parted is not None:
            content["parted"] = self.parted.as_json()
        return {name: value for name, value in content.items() if name not in _SILENT or value}


_SILENT = ("parted", "made_of", "reads", "machinery")


class Finished(Manifest):
    """What a run says of itself once it has finished."""

    recipe_digest: str
    split: dict[str, Any]
    """What `splits.describe` says."""
    guarantee: Promise
    in_effect: dict[str, Any]
    """What the libraries said of their settings; see `determinism.in_effect`."""
    digest: str
    """Of the final state."""
    ending: str
    """The digest of what a next step would have started from."""
    transferred: list[str]
    """The weights that were taken from another run."""
    predictions: dict[str, str]
    produced: dict[str, str]
    metrics: dict[str, Number]
    ledger_head: str
    notes: list[str]
    seconds: dict[str, float]
    versions: dict[str, str]
    machine: Machine
    files: dict[str, str]
    """The SHA-256 of each file that the run left."""
    duration_seconds: float
    peak_memory_bytes: int | None


def write(directory: Path, content: Manifest) -> None:
    """Replaces the manifest in one step, with a seal: the digest of all that it says."""
    text = json.dumps(sealed(content.as_json()), indent=2, ensure_ascii=False)
    with files.replacing(directory / "manifest.json") as file:
        file.write(text.encode() + b"\n")


def sealed(content: dict[str, Any]) -> dict[str, Any]:
    """Returns content as JSON will have it, with a seal: the digest of all that it says."""
    text = files.dumps({k: v for k, v in content.items() if k != "seal"})
    said: dict[str, Any] = json.loads(text)
    return said | {"seal": digests.of_json(said)}


def unsealed(content: dict[str, Any]) -> dict[str, Any]:
    """Returns content without its seal.

    Raises:
        ValueError: it says something else than when it was sealed.
    """
    said = {k: v for k, v in content.items() if k != "seal"}
    if content.get("seal") != digests.of_json(said):
        raise ValueError("altered since it was written")
    return said


def read(directory: Path) -> Manifest:
    """Returns the manifest of a run directory; of a run that has finished a `Finished`.

    Raises:
        BadInput: there is none, or it is no manifest, or says something else than was written.
    """
    path = directory / "manifest.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise BadInput(f"{directory}: not a run directory, it has no manifest.json") from None
    except ValueError:
        raise BadInput(f"{path}: not valid JSON") from None
    if not isinstance(content, dict) or not isinstance(content.get("recipe"), dict):
        raise BadInput(f"{path}: not the manifest of a run, it has no recipe")
    if content.get("format") != FORMAT:
        raise BadInput(
            f"{path}: expected the format {FORMAT}, got {content.get('format')}: another version "
            "of the machinery wrote it; train it again"
        )
    try:
        said = json.dumps(unsealed(content))
        kind = Finished if content.get("status") == "finished" else Manifest
        return kind.model_validate_json(said)
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise BadInput(f"{path}: not the manifest of a run: {where}: {first['msg']}") from None
    except ValueError as error:
        raise BadInput(f"{path}: {error}") from None


def finished(directory: Path) -> Finished:
    """Returns the manifest of a finished run whose files are those that it wrote.

    A file that is gone is not one that was altered: whoever needs it says that it is not there.

    Raises:
        BadInput: it is no run, it has not finished, or a file is not the one that it wrote.
    """
    content = of_finished(directory)
    for name, expected in content.files.items():
        path = directory / name
        if path.is_file() and digests.sha256(path) != expected:
            raise BadInput(f"{path}: altered or replaced since the run wrote it; train it again")
    return content


def of_finished(directory: Path) -> Finished:
    """Returns the manifest of a finished run, whose other files are not looked at.

    Raises:
        BadInput: it is no run, or it has not finished.
    """
    content = read(directory)
    if not isinstance(content, Finished):
        raise BadInput(f"{directory}: the run has not finished, it is {content.status!r}")
    return content


def digests_of_files(directory: Path) -> dict[str, str]:
    """The SHA-256 of each file that a run leaves, which is on the disk then."""
    found = {}
    for path in sorted(directory.iterdir()):
        if path.is_file() and path.name not in ("manifest.json", "log.txt", "lock"):
            files.settle(path)
            found[path.name] = digests.sha256(path)
    return found


def find_run(project: Project, name: str) -> Path:
    """Returns the run directory a person means: a path, a run's id, or how one id begins."""
    return find_directory(project.runs, "manifest.json", name, ("run", "runs"))


def find_directory(folder: Path, file: str, name: str, what: tuple[str, str]) -> Path:
    """Returns the directory with this file that a person means: a path, or how its name begins.

    `what` is what such directories are called, one of them and several.
    """
    if files.is_file(Path(name) / file):
        return Path(name).resolve()
    known = sorted(path.parent for path in folder.glob(f"*/{file}"))
    exact = [path for path in known if path.name == name]
    close = exact or [path for path in known if path.name.startswith(name)]
    if len(close) == 1:
        return close[0]
    one, several = what
    if close:
        raise BadInput(
            f"{name}: {len(close)} {several} begin so, such as {close[0].name}; say more"
        )
    raise BadInput(
        f"{name}: no such {one}; " + (f"the last one is {known[-1].name}" if known else "none yet")
    )

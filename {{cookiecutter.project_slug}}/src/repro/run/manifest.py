"""The manifest of a run: its fields, its seal, and how to find a run by its name."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

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
from repro.run.use import Number, Use

FORMAT = 2
"""The format of manifests. A manifest of another format is refused: another version wrote it."""


class Surroundings(Group):
    """What was changed around a run on purpose."""

    varied: Sequence[str] = ()
    """The names of the variations."""
    index: int = 0
    """The number of the run in its gate; 0: an ordinary run, or the first one of a gate."""


ORDINARY = Surroundings()
"""Surroundings in which nothing is changed."""


class Probe(Group):
    """The place to look at in a run that is made only to look at one place."""

    stage: str
    epoch: int
    after: int
    """Each step of the epoch after this one gets an entry with the digests of all tensors."""
    record: int | None
    """The step of which every tensor is recorded; None: no step."""


class Manifest(Group):
    """What the manifest says about a run from the beginning of the run."""

    model_config = pydantic.ConfigDict(allow_inf_nan=True)

    format: Literal[2] = 2
    run: str
    recipe: Recipe
    project: dict[str, str]
    """The name of the project's package, as `package`."""
    seed: int
    """The recipe's seed, or the one that was drawn if the recipe has none."""
    overrides: Sequence[str] = ()
    trial: bool = False
    """Whether the run is a trial of a study; such a run is not found by its recipe."""
    started: str
    resumed: Sequence[str] = ()
    """The times at which the run went on after an interruption."""
    surroundings: Surroundings = ORDINARY
    status: Literal["running", "failed", "probed", "finished"] = "running"
    checkpoint_seconds: float = 60
    readers: int = 0
    """How many threads read samples that are not in memory."""
    probe: Probe | None = None
    use: Use | None = None
    """What the process does with a finished run instead of training, if it is made for that."""
    code: Code
    machinery: Origin | None = None
    """The origin of the machinery that made the run."""
    interpreter: str
    environment: dict[str, str]
    """The variables that decide results, with which the process was started."""
    made_of: Provenance | None = None
    reads: Reads | None = None
    parted: Divergence | None = None
    """Where the run differed from what it was before it was interrupted, if it did."""

    def but(self, **changed: Any) -> Self:
        """Returns the same manifest with other values for some fields."""
        return self.model_copy(update=changed)

    def as_json(self) -> dict[str, Any]:
        """Returns the manifest as the file has it; some fields are left out if they are empty."""
        content = self.model_dump(mode="json")
        content["recipe"] = self.recipe.as_json()
        if self.parted is not None:
            content["parted"] = self.parted.as_json()
        return {name: value for name, value in content.items() if name not in _SILENT or value}


_SILENT = ("parted", "made_of", "reads", "machinery", "use")


class Finished(Manifest):
    """What the manifest says about a run that has finished."""

    recipe_digest: str
    split: dict[str, Any]
    """See `splits.describe`."""
    guarantee: Promise
    in_effect: dict[str, Any]
    """The settings that the libraries reported; see `determinism.in_effect`."""
    digest: str
    """The digest of the final state."""
    ending: str
    """The digest of the ending; see `ending.Ending`."""
    transferred: list[str]
    """The names of the weights that were taken from another run."""
    skipped: tuple[str, ...] = ()
    """The keys of the samples that could not be read, and in whose stead others were."""
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
    """Writes the manifest with its seal; it replaces an older one in one step."""
    text = json.dumps(sealed(content.as_json()), indent=2, ensure_ascii=False)
    with files.replacing(directory / "manifest.json") as file:
        file.write(text.encode() + b"\n")


def sealed(content: dict[str, Any]) -> dict[str, Any]:
    """Returns content as JSON has it, and adds its seal, which is the digest of all the rest."""
    text = files.dumps({k: v for k, v in content.items() if k != "seal"})
    said: dict[str, Any] = json.loads(text)
    return said | {"seal": digests.of_json(said)}


def unsealed(content: dict[str, Any]) -> dict[str, Any]:
    """Returns content without its seal, and checks the seal.

    Raises:
        ValueError: the content was altered since it was sealed.
    """
    said = {k: v for k, v in content.items() if k != "seal"}
    if content.get("seal") != digests.of_json(said):
        raise ValueError("altered since it was written")
    return said


def read(directory: Path) -> Manifest:
    """Returns the manifest of a run directory; if the run has finished, it is a `Finished`.

    Raises:
        BadInput: there is no manifest, or it is damaged, altered or of another format.
    """
    path = directory / "manifest.json"
    try:
        content = json.loads(path.read_bytes())
    except OSError:
        raise BadInput(f"{directory}: not a run directory; it has no manifest.json") from None
    except ValueError:
        raise BadInput(f"{path}: not valid JSON") from None
    if not isinstance(content, dict) or not isinstance(content.get("recipe"), dict):
        raise BadInput(f"{path}: not the manifest of a run; it has no recipe")
    if content.get("format") != FORMAT:
        raise BadInput(
            f"{path}: expected format {FORMAT}, got {content.get('format')}: another version of "
            "the machinery wrote it; train the recipe again"
        )
    try:
        said = json.dumps(unsealed(content))
        kind = Finished if content.get("status") == "finished" else Manifest
        return kind.model_validate_json(said)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise BadInput(f"{path}: not the manifest of a run: {where}: {first['msg']}") from None
    except ValueError as error:
        raise BadInput(f"{path}: {error}") from None


def finished(directory: Path) -> Finished:
    """Returns the manifest of a finished run, and checks the digests of the run's files.

    A missing file is not an error here: the code that needs the file reports it.

    Raises:
        BadInput: this is not a run, it has not finished, or a file was altered.
    """
    content = of_finished(directory)
    for name, expected in content.files.items():
        path = directory / name
        if path.is_file() and digests.sha256(path) != expected:
            raise BadInput(f"{path}: altered since the run wrote it; train the recipe again")
    return content


def of_finished(directory: Path) -> Finished:
    """Returns the manifest of a finished run, without looking at the run's other files.

    Raises:
        BadInput: this is not a run, or it has not finished.
    """
    content = read(directory)
    if not isinstance(content, Finished):
        raise BadInput(
            f"{directory}: expected a run that has finished; its status is {content.status!r}"
        )
    return content


def digests_of_files(directory: Path) -> dict[str, str]:
    """Returns the SHA-256 of each file that a run leaves, by name; flushes each to the disk."""
    found = {}
    for path in sorted(directory.iterdir()):
        if path.is_file() and path.name not in ("manifest.json", "log.txt", "lock"):
            files.settle(path)
            found[path.name] = digests.sha256(path)
    return found


def find_run(project: Project, name: str) -> Path:
    """Returns the run directory for a name: a path, the id of a run, or the beginning of one id.

    The name `latest` stands for the run that has begun last.

    Raises:
        BadInput: there is no such run, or there are several.
    """
    if name == LATEST and not files.is_file(Path(name) / "manifest.json"):
        return _latest(project)
    return find_directory(project.runs, "manifest.json", name, ("run", "runs"))


LATEST = "latest"
"""The name that stands for the newest run, or for the newest study, wherever one is named."""


def _latest(project: Project) -> Path:
    """Returns the run that has begun last; one that is made only to look at something is none.

    Of the manifests only the time is looked at, since there may be thousands of them.
    """
    began = []
    for path in project.runs.glob("*/manifest.json"):
        with contextlib.suppress(OSError, ValueError):
            content = json.loads(path.read_bytes())
            if isinstance(content, dict) and not (content.get("probe") or content.get("use")):
                began.append((str(content.get("started", "")), path.parent.name, path.parent))
    if not began:
        raise BadInput(f"{LATEST}: no such run; there is none yet")
    return max(began)[2]


def find_directory(folder: Path, file: str, name: str, what: tuple[str, str]) -> Path:
    """Returns the directory for a name: a path, or the beginning of the name of one in `folder`.

    Args:
        file: the file that such a directory has.
        what: the word for such a directory, in the singular and in the plural.

    Raises:
        BadInput: there is no such directory, or there are several.
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
            f"{name}: {len(close)} {several} begin with this, such as {close[0].name}; "
            "give more of the name"
        )
    last = f"the last one is {known[-1].name}" if known else "there is none yet"
    raise BadInput(f"{name}: no such {one}; {last}")

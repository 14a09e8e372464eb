"""`results.lock`: what a project's recipes gave when they were last recorded, committed with it.

As a snapshot test keeps what a function returned, so that a change is seen and said. A recipe is
named by the overrides that it is made with, such as `guarantee=portable`.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic

from repro.basics import files
from repro.basics.errors import BadInput
from repro.recipe import signatures
from repro.recipe.project import Project
from repro.run import ledger, manifest
from repro.run.manifest import Finished

FILE = "results.lock"
PLAIN = "params.yaml"
"""The name of the recipe without overrides."""
Digest = Annotated[str, pydantic.Field(pattern="^[0-9a-f]{64}$")]
Result = Annotated[float, pydantic.BeforeValidator(files.numbers)]


class Entry(pydantic.BaseModel):
    """What one recipe gave, and all that a change of it can come from."""

    model_config = pydantic.ConfigDict(extra="forbid", strict=True)

    digest: Digest
    metrics: dict[str, Result]
    guarantee: Literal["none", "machine", "portable"]
    stages: dict[str, Digest]
    """Digests along the run, in order: the first that differs is nearest the cause."""
    recipe: dict[str, Any]
    code: dict[str, Digest]
    """Of the files that the recipe uses; the machinery is one of them."""
    template: str | None = None
    """Version of the template that the machinery is from; None: nobody wrote it down."""
    versions: dict[str, str]
    cpu: str


class _File(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", strict=True)

    format: Literal[1] = 1
    recipes: dict[str, Entry] = {}


@dataclass(frozen=True)
class Base:
    """What was recorded before, and what git calls the commit that has it."""

    name: str
    entries: dict[str, Entry]


def name_of(given: Sequence[str]) -> str:
    """The name of the recipe with these overrides."""
    return shlex.join(given) or PLAIN


def overrides(name: str) -> list[str]:
    """The overrides that a recipe's name stands for."""
    return [] if name == PLAIN else shlex.split(name)


def read(path: Path) -> dict[str, Entry]:
    """Returns what a file has recorded, by the recipes' names; nothing where there is no file.

    Raises:
        BadInput: it is no such file.
    """
    try:
        return _parsed(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise BadInput(
            f"{path.name}: {_wrong(error)}; put it back from git, or delete it and record anew "
            "with `repro verify --update`"
        ) from None


def write(path: Path, entries: dict[str, Entry]) -> None:
    """Replaces a file in one step; the order is that of the names, so that a diff is short."""
    content = _File(recipes=dict(sorted(entries.items()))).model_dump()
    with files.replacing(path) as file:
        file.write(files.dumps(content, indent=1, ensure_ascii=False).encode() + b"\n")


def at(root: Path, reference: str | None, tell: Callable[[str], None] = lambda line: None) -> Base:
    """Returns what `results.lock` recorded at a reference of git's, such as `main` or `HEAD^1`.

    Nothing where the file was not there. None stands for `HEAD`, where there is one: a project
    needs neither git nor a commit. A reference of zeros is what a forge has before the first push.

    Args:
        tell: called with a line where the file at the reference is damaged, which does not stop
            anybody from mending it.

    Raises:
        BadInput: git knows no such commit here.
    """
    name = "HEAD" if reference is None else reference
    if reference and not reference.strip("0"):
        return Base(name, {})
    wanted = ("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
    status, commit = _git(root, *wanted)
    if status != 0:
        if reference is None:
            return Base(name, {})
        raise BadInput(
            f"--base: {reference!r} is no commit that git knows here; expected a branch, a tag or "
            "a commit, fetched with its history"
        )
    status, text = _git(root, "show", f"{commit.decode().strip()}:./{FILE}")
    try:
        return Base(name, _parsed(text.decode()) if status == 0 else {})
    except ValueError as error:
        tell(f"{FILE} at {name} is not compared: {_wrong(error)}")
        return Base(name, {})


def of_run(project: Project, run: Path) -> Entry:
    """What is recorded of a finished run."""
    content = manifest.finished(run)
    return Entry(
        digest=content.digest,
        metrics=content.metrics,
        guarantee=content.guarantee.holds,
        stages=_stages(run, content.digest),
        recipe=content.recipe.as_json(),
        code=_code(project, content),
        template=content.machinery.version if content.machinery else None,
        versions=content.versions,
        cpu=content.machine.cpu,
    )


def _parsed(text: str) -> dict[str, Entry]:
    found = _File.model_validate_json(text).recipes
    for name in found:
        overrides(name)
    return found


def _wrong(error: Exception) -> str:
    if not isinstance(error, pydantic.ValidationError):
        return str(error)
    first = error.errors(include_url=False)[0]
    return ": ".join([".".join(map(str, first["loc"])), first["msg"]]).removeprefix(": ")


def _git(root: Path, *arguments: str) -> tuple[int, bytes]:
    """Returns the status and the output; the status is not 0 where there is no git."""
    try:
        done = subprocess.run(("git", "-C", str(root), *arguments), capture_output=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return 1, b""
    return done.returncode, done.stdout


def _stages(run: Path, digest: str) -> dict[str, str]:
    """Digests along a run, of a few of its ledger's entries, all tensors of a kind in one."""
    found: dict[str, str] = {}
    for entry in ledger.read(run / "ledger.jsonl"):
        stage, epoch, _ = entry.place
        if stage == "data":
            names = {"samples": "samples", "split": "split", "arrays": "preprocessed samples"}
        elif stage == "initial":
            names = {"weights": "initial weights"}
        elif stage == "step":
            names = {"order": f"order of the first steps of epoch {epoch}"}
        elif stage == "epoch":
            names = {"weights": f"weights after epoch {epoch}"}
        elif stage == "final":
            found["final state"] = digest
            names = {"arrays": "predictions", "produced": "what the model produced"}
        else:
            continue
        if stage in ("step", "epoch") and any(name in found for name in names.values()):
            continue  # The first steps of an epoch.
        if epoch <= 1 or stage == "final":
            for what, name in names.items():
                # Most models produce nothing, and have no such stage.
                if what in entry.fields and (entry.fields[what] or what != "produced"):
                    found[name] = _digest(entry.fields[what])
    return found


def _code(project: Project, content: Finished) -> dict[str, str]:
    """Digests of the project's files that the run was made of, by their names; of models and data
    beside them, those used.

    In words that are the same in each project: a name in `models/` is that of `model.name`.
    """
    parameters = content.recipe.parameters
    used = {
        f"models/{parameters.model.name}.py",
        signatures.data_module(project.source, parameters.data.name).replace(".", "/") + ".py",
    }
    found, machinery = {}, {}
    code = content.made_of.code if content.made_of else {}
    for path, digest in code.items():
        package, _, name = path.partition("/")
        if package == "repro":
            machinery[name] = digest
        elif package == content.project["package"] and (
            name in used or not name.startswith("models/")
        ):
            found[name] = digest
    return found | {"src/repro": _digest(machinery)}


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

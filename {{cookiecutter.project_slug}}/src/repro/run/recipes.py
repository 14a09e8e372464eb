"""Makes recipes of what people ask for: overrides, and other runs by their names."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path

from repro.backends import BACKENDS
from repro.basics import files
from repro.basics.errors import BadInput
from repro.recipe import packages, reading
from repro.recipe.project import Project
from repro.recipe.recipe import Lock, Recipe
from repro.run import manifest
from repro.run.manifest import Finished


def make(project: Project, overrides: Sequence[str] = (), locked: Lock | None = None) -> Recipe:
    """Returns the recipe for these overrides: the parameters and the lock.

    The process that trains adds `data`, the digests of what the data were read from.

    Args:
        locked: what `packages.lock` returned; None: it is called. Give it if you make many recipes.

    Raises:
        BadInput: see `reading.parameters`; or there is no run that a parameter names; or the
            backend is not installed.
    """
    resolved = reading.parameters(project.source, project.root / "params.yaml", overrides)
    _installed(resolved.backend)
    named: dict[str, str] = {}
    for name in BEGINNINGS:
        run = getattr(resolved.training, name)
        if run is not None:
            # The recipe names the state by its digest, so that the place of that run is no matter.
            named[name] = _state_digest(project, run, name)
    training = resolved.training.model_copy(update=named)
    split = resolved.split
    if split.file is not None:
        split = split.model_copy(update={"file": _split_digest(project, split.file)})
    resolved = resolved.model_copy(update={"training": training, "split": split})
    return Recipe(parameters=resolved, lock=locked or packages.lock(project.root))


def _split_digest(project: Project, name: str) -> str:
    """Copies the split of a run or of a file to `splits/`, and returns its digest."""
    if re.fullmatch(r"[0-9a-f]{64}", name) and project.split_file(name).is_file():
        return name
    from repro.data import splits

    path = Path(name)
    if not files.is_file(path):
        path = manifest.find_run(project, name) / "split.npz"
    digest = splits.load(path)[0].digest()
    kept = project.split_file(digest)
    if not kept.is_file():
        kept.parent.mkdir(exist_ok=True)
        with files.replacing(kept) as file:
            file.write(path.read_bytes())
    return digest


def resumable(project: Project, run: Path, overrides: Sequence[str]) -> Recipe:
    """Returns the recipe of an interrupted run, if `params.yaml` and lock still give the same one.

    Raises:
        BadInput: the run has finished, or the recipe has changed; the message names the field.
    """
    content = manifest.read(run)
    if content.status == "finished":
        raise BadInput(f"{run.name}: the run has finished; there is nothing to go on with")
    now = make(project, [*content.overrides, *overrides])
    changed = files.changed(content.recipe.as_json(), now.as_json())
    for name, (before, after) in changed.items():
        name = name.removeprefix("parameters.")
        raise BadInput(
            f"{name}: expected {before} as when {run.name} began, got {after}; "
            "set it back, or begin a new run with `repro train --fresh`"
        )
    return content.recipe


BEGINNINGS = ("initial_state", "initial_weights")
"""The parameters of `training` that name a run to start from; at most one of them is set."""
NAMED_BY = {"initial_state": "ending", "initial_weights": "digest"}
"""For each of them, the field of that run's manifest whose digest a recipe has."""


def beginning(project: Project, recipe: Recipe) -> tuple[str, Path] | None:
    """Returns which of `BEGINNINGS` a recipe sets, and a run with that digest; None: it sets none.

    Raises:
        BadInput: there is no such run.
    """
    training = recipe.parameters.training
    name = next((name for name in BEGINNINGS if getattr(training, name) is not None), None)
    if name is None:
        return None
    digest = getattr(training, name)
    for path in sorted(project.runs.glob("*/manifest.json")):
        try:
            found = manifest.of_finished(path.parent)
        except BadInput:
            continue
        if getattr(found, NAMED_BY[name]) == digest and (path.parent / "state.npz").is_file():
            return name, path.parent
    raise BadInput(f"training.{name}: no run in {project.runs} ends in the state {digest}")


def _state_digest(project: Project, run: str, name: str) -> str:
    if re.fullmatch(r"[0-9a-f]{64}", run):
        return run
    found = manifest.read(manifest.find_run(project, run))
    if not isinstance(found, Finished):
        raise BadInput(f"training.{name}: the run {run} has not finished")
    return str(getattr(found, NAMED_BY[name]))


def _installed(backend: str) -> None:
    """Checks, without importing it, that the library of a backend is installed.

    Raises:
        BadInput: it is not installed.
    """
    if importlib.util.find_spec(backend) is None:
        there = [name for name in BACKENDS if importlib.util.find_spec(name)]
        raise BadInput(
            f"backend: {backend} is not installed here, {' and '.join(there) or 'no backend'} is; "
            f"generate a project for {backend}, which has its lock"
        )

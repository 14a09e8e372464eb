"""The recipe, all that a run is a function of; the project it belongs to; the runs' manifests."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import subprocess
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from . import BadInput, files, resolve
from .backends import BACKENDS


@dataclass(frozen=True)
class Project:
    """A generated project: where its files are, and the name of its own package."""

    root: Path
    package: str

    @property
    def source(self) -> Path:
        return self.root / "src" / self.package

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    @classmethod
    def find(cls, start: Path | None = None) -> Project:
        """Returns the project around `start` (default: the current folder).

        Raises:
            BadInput: no folder from `start` upwards holds a project.
        """
        here = (start or Path.cwd()).resolve()
        for folder in (here, *here.parents):
            file = folder / "pyproject.toml"
            if file.is_file():
                try:
                    tool = tomllib.loads(file.read_text(encoding="utf-8")).get("tool", {})
                except tomllib.TOMLDecodeError as error:
                    raise BadInput(f"{file}: not valid TOML: {error}") from None
                if "repro" in tool:
                    return cls(folder, tool["repro"]["package"])
        raise BadInput(f"{here}: not inside a project; go to the folder that has params.yaml")


def make(
    project: Project, overrides: Sequence[str] = (), locked: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Returns the recipe for these overrides: parameters, lock and initial state.

    `locked` is what `lock` returned, where many recipes are made one after the other.

    The process that trains adds `data`, the digests of what the data were read from.

    Raises:
        BadInput: see `resolve.parameters`; or no run has the state to start from.
    """
    resolved = resolve.parameters(project.source, project.root / "params.yaml", overrides)
    _installed(resolved["backend"])
    recipe = {"format": 1, "parameters": resolved, "lock": locked or lock(project.root)}
    for name in BEGINNINGS:
        run = resolved["training"][name]
        if run is not None:
            # The recipe names the state by its content; where that run lies does not matter.
            resolved["training"][name] = _state_digest(project, run, name)
    if resolved["split"]["file"] is not None:
        resolved["split"]["file"] = _split_digest(project, resolved["split"]["file"])
    return recipe


def _installed(backend: str) -> None:
    """Refuses a backend whose library is not there, without importing it."""
    if importlib.util.find_spec(backend) is None:
        there = [name for name in BACKENDS if importlib.util.find_spec(name)]
        raise BadInput(
            f"backend: {backend} is not installed here, {' and '.join(there) or 'no backend'} is; "
            "its lock comes with a project generated for it"
        )


def _split_digest(project: Project, name: str) -> str:
    """Keeps the split of a run, or of a file, in `splits/`; the recipe names it by its content."""
    if re.fullmatch(r"[0-9a-f]{64}", name) and split_file(project, name).is_file():
        return name
    from . import splits

    path = Path(name)
    if not files.is_file(path):
        path = find_run(project, name) / "split.npz"
    digest = splits.load(path)[0].digest()
    kept = split_file(project, digest)
    if not kept.is_file():
        kept.parent.mkdir(exist_ok=True)
        with files.replacing(kept) as file:
            file.write(path.read_bytes())
    return digest


def split_file(project: Project, digest: str) -> Path:
    """Where a split that recipes name is kept."""
    return project.root / "splits" / f"{digest[:16]}.npz"


def resumable(project: Project, run: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """Returns the recipe of an interrupted run, if `params.yaml` and lock still say the same.

    Raises:
        BadInput: the run has finished, or the recipe has changed: the field is named.
    """
    content = read_manifest(run)
    if content.get("status") == "finished":
        raise BadInput(f"{run.name}: the run has finished; there is nothing to go on with")
    now = make(project, [*content.get("overrides", ()), *overrides])
    for name, (before, after) in files.changed(content["recipe"], now).items():
        name = name.removeprefix("parameters.")
        raise BadInput(
            f"{name}: {before} when {run.name} began, {after} now; "
            "put it back, or begin anew with `repro train --fresh`"
        )
    recipe: dict[str, Any] = content["recipe"]
    return recipe


BEGINNINGS = ("initial_state", "initial_weights")
"""The parameters of `training` that name a run to start from; at most one of them does."""


def beginning(project: Project, recipe: dict[str, Any]) -> tuple[str, Path] | None:
    """Returns which of `BEGINNINGS` a recipe has, and the run whose final state has its digest.

    Raises:
        BadInput: there is no such run.
    """
    training = recipe["parameters"]["training"]
    name = next((name for name in BEGINNINGS if training[name] is not None), None)
    if name is None:
        return None
    digest = training[name]
    for path in sorted(project.runs.glob("*/manifest.json")):
        try:
            found = json.loads(path.read_text(encoding="utf-8")).get("digest")
        except (OSError, ValueError):
            continue
        if found == digest and (path.parent / "state.npz").is_file():
            return name, path.parent
    raise BadInput(f"training.{name}: no run in {project.runs} ends in the state {digest}")


def _state_digest(project: Project, run: str, name: str) -> str:
    if re.fullmatch(r"[0-9a-f]{64}", run):
        return run
    digest = read_manifest(find_run(project, run)).get("digest")
    if not isinstance(digest, str):
        raise BadInput(f"training.{name}: the run {run} has not finished")
    return digest


def lock(root: Path) -> dict[str, Any]:
    """Returns the installed lock: its file, its SHA-256, and where the environment departs.

    `requirements/cuda.txt` where CUDA's libraries were installed, else `cpu.txt`.
    """
    installed = {_canonical(d.metadata["Name"]): d.version for d in metadata.distributions()}
    cuda = any(package.startswith("nvidia-") for package in installed)
    name = "cuda" if cuda else "cpu"
    file = root / "requirements" / f"{name}.txt"
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        raise BadInput(f"{file}: no such lock; make it with `make lock`") from None
    pins = re.findall(
        r"^([A-Za-z0-9._-]+)(?:\[.*?\])?==([^\s;\\]+)", content.decode(), re.MULTILINE
    )
    # A package can have a pin for each system: PyTorch's are 2.13.0+cpu and 2.13.0.
    locked: dict[str, list[str]] = {}
    for package, version in pins:
        locked.setdefault(_canonical(package), []).append(version)
    departures = {
        package: f"{' or '.join(versions)} locked, {installed[package]} installed"
        for package, versions in locked.items()
        if package in installed and installed[package] not in versions
    }
    return {
        "file": f"requirements/{name}.txt",
        "sha256": hashlib.sha256(content).hexdigest(),
        "departures": departures,
    }


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def digest(recipe: dict[str, Any]) -> str:
    """The recipe's SHA-256, over its JSON with sorted keys."""
    text = json.dumps(recipe, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def write_manifest(directory: Path, content: dict[str, Any]) -> None:
    """Replaces the manifest in one step."""
    with files.replacing(directory / "manifest.json") as file:
        file.write(json.dumps(content, indent=2, ensure_ascii=False).encode() + b"\n")


def read_manifest(directory: Path) -> dict[str, Any]:
    """Returns the manifest of a run directory.

    Raises:
        BadInput: there is none, or it is no manifest.
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
    return content


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


def code_digest(project: Project) -> str:
    """The SHA-256 of the project's Python files, machinery included, and their names."""
    return files.digest(project.root, (project.root / "src").rglob("*.py"))


def code(root: Path) -> dict[str, Any]:
    """The commit of the project's code, and whether the files differed from it."""

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ("git", "-C", str(root), *arguments), capture_output=True, text=True, timeout=30
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit, status = git("rev-parse", "HEAD"), git("status", "--porcelain")
    return {"commit": commit, "dirty": None if status is None else bool(status)}

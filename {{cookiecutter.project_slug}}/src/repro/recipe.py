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
from pathlib import Path
from typing import Any

from . import BadInput, files, packages, provenance, resolve
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
                except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
                    raise BadInput(f"{file}: not valid TOML: {error}") from None
                if "repro" in tool:
                    if not isinstance(tool["repro"].get("package"), str):
                        raise BadInput(f"{file}: tool.repro: expected package, its name")
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
NAMED_BY = {"initial_state": "ending", "initial_weights": "digest"}
"""What of that run a recipe names: what a next step starts from, or the final state."""


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
            found = read_manifest(path.parent).get(NAMED_BY[name])
        except BadInput:
            continue
        if found == digest and (path.parent / "state.npz").is_file():
            return name, path.parent
    raise BadInput(f"training.{name}: no run in {project.runs} ends in the state {digest}")


def _state_digest(project: Project, run: str, name: str) -> str:
    if re.fullmatch(r"[0-9a-f]{64}", run):
        return run
    found = read_manifest(find_run(project, run))
    if found["status"] != "finished":
        raise BadInput(f"training.{name}: the run {run} has not finished")
    return str(found[NAMED_BY[name]])


def lock(root: Path) -> dict[str, Any]:
    """Returns the installed lock: its file, its SHA-256, and where the environment departs.

    Raises:
        BadInput: there is no such lock.
    """
    there = packages.installed()
    name = packages.locked(root / "requirements", there)
    file = root / "requirements" / f"{name}.txt"
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        raise BadInput(f"{file}: no such lock; make it with `make lock`") from None
    return {
        "file": f"requirements/{name}.txt",
        "sha256": hashlib.sha256(content).hexdigest(),
        "departures": packages.departures(content.decode(), there),
    }


def digest(recipe: dict[str, Any]) -> str:
    """The recipe's SHA-256, over its JSON with sorted keys."""
    text = json.dumps(recipe, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


FORMAT = 2
"""Of manifests. One of another format was written by another version, and is not read."""


def write_manifest(directory: Path, content: dict[str, Any]) -> None:
    """Replaces the manifest in one step, with a seal: the digest of all that it says."""
    text = json.dumps(sealed(content | {"format": FORMAT}), indent=2, ensure_ascii=False)
    with files.replacing(directory / "manifest.json") as file:
        file.write(text.encode() + b"\n")


def sealed(content: dict[str, Any]) -> dict[str, Any]:
    """Returns content as JSON will have it, with a seal: the digest of all that it says."""
    text = files.dumps({k: v for k, v in content.items() if k != "seal"})
    said: dict[str, Any] = json.loads(text)
    return said | {"seal": digest(said)}


def unsealed(content: dict[str, Any]) -> dict[str, Any]:
    """Returns content without its seal.

    Raises:
        ValueError: it says something else than when it was sealed.
    """
    said = {k: v for k, v in content.items() if k != "seal"}
    if content.get("seal") != digest(said):
        raise ValueError("altered since it was written")
    return said


def read_manifest(directory: Path) -> dict[str, Any]:
    """Returns the manifest of a run directory, without its seal.

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
        content = unsealed(content)
    except ValueError as error:
        raise BadInput(f"{path}: {error}") from None
    if "metrics" in content:
        content["metrics"] = files.numbers(content["metrics"])
    return content


def finished(directory: Path) -> dict[str, Any]:
    """Returns the manifest of a finished run whose files are those that it wrote.

    A file that is gone is not one that was altered: whoever needs it says that it is not there.

    Raises:
        BadInput: it is no run, it has not finished, or a file is not the one that it wrote.
    """
    content = read_manifest(directory)
    if content["status"] != "finished":
        raise BadInput(f"{directory}: the run has not finished, it is {content['status']!r}")
    for name, expected in content["files"].items():
        path = directory / name
        if path.is_file() and files.sha256(path) != expected:
            raise BadInput(f"{path}: altered or replaced since the run wrote it; train it again")
    return content


def digests_of_files(directory: Path) -> dict[str, str]:
    """The SHA-256 of each file that a run leaves, which is on the disk then."""
    return {
        path.name: files.sha256(path, settle=True)
        for path in sorted(directory.iterdir())
        if path.is_file() and path.name not in ("manifest.json", "log.txt", "lock")
    }


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
    """One digest over all code of a project, the machinery included."""
    return provenance.digest(provenance.code(project.root))


def code(root: Path) -> dict[str, Any]:
    """The commit of the project's code, and whether the files differed from it.

    Nothing is known where git does not keep the project: it may lie in another one's repository.
    """

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ("git", "-C", str(root), *arguments), capture_output=True, text=True, timeout=30
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    if git("ls-files", "--error-unmatch", "--", "pyproject.toml") is None:
        return {"commit": None, "dirty": None}
    commit, status = git("rev-parse", "HEAD"), git("status", "--porcelain", "--", ".")
    return {"commit": commit, "dirty": None if status is None else bool(status)}


def own_machinery(project: Project) -> str | None:
    """Where the machinery of a project lies, if it is not the one that is running; else None.

    The environment of one project may run in the folder of another: a worktree, or a copy.

    Raises:
        BadInput: the project has none.
    """
    source = project.root / "src"
    if not (source / "repro" / "__main__.py").is_file():
        raise BadInput(f"{source / 'repro'}: the machinery of this project is not there")
    running = Path(__file__).resolve().parent
    return None if (source / "repro").resolve() == running else str(source)

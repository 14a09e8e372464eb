"""What a run directory says of itself: its manifest, sealed, and how a run is found by its name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from repro.basics import digests, files
from repro.basics.errors import BadInput
from repro.recipe.project import Project

FORMAT = 2
"""Of manifests. One of another format was written by another version, and is not read."""


def write(directory: Path, content: dict[str, Any]) -> None:
    """Replaces the manifest in one step, with a seal: the digest of all that it says."""
    text = json.dumps(sealed(content | {"format": FORMAT}), indent=2, ensure_ascii=False)
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


def read(directory: Path) -> dict[str, Any]:
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
    content = read(directory)
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

"""`manifest.json`: what a run was made of, where, by what code, and what came out."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from . import BadInput
from .recipe import Project

LIBRARIES = ("tensorflow", "tensorflow-cpu", "keras", "numpy", "scipy", "scikit-learn", "h5py")


def write(directory: Path, content: dict[str, Any]) -> None:
    """Replaces the manifest in one step: a reader sees the old one or the new one."""
    new = directory / "manifest.json.new"
    new.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(new, directory / "manifest.json")


def read(directory: Path) -> dict[str, Any]:
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


def find(project: Project, name: str) -> Path:
    """Returns the run directory a person means: a path, a run's id, or how one id begins."""
    if (Path(name) / "manifest.json").is_file():
        return Path(name).resolve()
    known = sorted(p.parent for p in project.runs.glob("*/manifest.json"))
    exact = [path for path in known if path.name == name]
    close = exact or [path for path in known if path.name.startswith(name)]
    if len(close) == 1:
        return close[0]
    if close:
        raise BadInput(f"{name}: {len(close)} runs begin so, such as {close[0].name}; say more")
    raise BadInput(
        f"{name}: no such run; " + (f"the last one is {known[-1].name}" if known else "none yet")
    )


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


def machine() -> dict[str, Any]:
    """The processor, as the operating system describes it, and what this process may use of it."""
    model, flags = platform.processor(), ""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        model = _first(r"^model name\s*: (.*)$", text) or model
        flags = _first(r"^(?:flags|Features)\s*: (.*)$", text)
    except OSError:
        pass  # Not Linux.
    return {
        "cpu": model,
        "cpu_flags": flags.split(),
        "cores": os.cpu_count(),
        "cores_available": available_cores(),
        "architecture": platform.machine(),
        "system": platform.platform(),
    }


def _first(pattern: str, text: str) -> str:
    found = re.search(pattern, text, re.MULTILINE)
    return found[1].strip() if found else ""


def available_cores() -> int:
    """Those this process may run on, which affinity can make fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def versions() -> dict[str, str]:
    """Python's and the installed libraries' versions."""
    found = {"python": platform.python_version(), "implementation": sys.implementation.name}
    for library in LIBRARIES:
        try:
            found[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            pass  # One of tensorflow and tensorflow-cpu is.
    return found


def peak_memory() -> int | None:
    """Bytes this process held at most; None where the system does not say (Windows)."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024

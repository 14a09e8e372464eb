"""Compares the packages that are installed here with those that a lock pins for this system.

`python -m repro.recipe.packages` prints which of the locks is installed; the Makefile asks it.
"""

from __future__ import annotations

import hashlib
import re
import sys
from importlib import metadata
from pathlib import Path

from packaging.markers import Marker

from repro.basics.errors import BadInput
from repro.recipe.recipe import Lock

_PIN = re.compile(
    r"^([A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^]]*\])?==([^\s;\\]+)[ \t]*(?:;([^\\\n]*))?", re.MULTILINE
)


def canonical(name: str) -> str:
    """Returns the one form of a package's name in which names can be compared."""
    return re.sub(r"[-_.]+", "-", name).lower()


def installed() -> dict[str, str]:
    """Returns the version of each installed package, by its canonical name."""
    named = ((d.metadata["Name"], d.version) for d in metadata.distributions())
    return {canonical(name): version for name, version in named if name}


def pins(lock: str) -> dict[str, list[str]]:
    """Returns the versions that the text of a lock pins for this system and this Python, by name.

    A lock may pin several versions of a package, each with a marker for its kind of system, such as
    2.13.0+cpu and 2.13.0 of PyTorch. Versions for other systems are left out.
    """
    found: dict[str, list[str]] = {}
    for name, version, marker in _PIN.findall(lock):
        if not marker.strip() or Marker(marker).evaluate():
            found.setdefault(canonical(name), []).append(version)
    return found


def locked(folder: Path, there: dict[str, str]) -> str:
    """Returns which lock was installed: `cuda` or `cpu`.

    It is `cuda` if more than half of the packages that only `cuda.txt` pins are installed. A few of
    them may be there for another reason, since other programs need them too.

    Args:
        folder: the folder of the locks.
        there: what `installed` returned.
    """
    cpu, cuda = folder / "cpu.txt", folder / "cuda.txt"
    if not (cpu.is_file() and cuda.is_file()):
        return "cuda" if cuda.is_file() else "cpu"
    only = pins(cuda.read_text("utf-8")).keys() - pins(cpu.read_text("utf-8")).keys()
    return "cuda" if 2 * len(only & there.keys()) > len(only) else "cpu"


def departures(lock: str, there: dict[str, str]) -> dict[str, str]:
    """Returns, by package, what is missing or has another version than the text of a lock says."""
    found = {}
    for package, versions in pins(lock).items():
        if there.get(package) not in versions:
            now = f"{there[package]} installed" if package in there else "not installed"
            found[package] = f"{' or '.join(versions)} locked, {now}"
    return found


def lock(root: Path) -> Lock:
    """Returns the installed lock: its file, its SHA-256, and how the installed packages differ.

    Raises:
        BadInput: the file of the lock is missing.
    """
    there = installed()
    name = locked(root / "requirements", there)
    file = root / "requirements" / f"{name}.txt"
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        raise BadInput(f"{file}: no such lock; make it with `make lock`") from None
    return Lock(
        file=f"requirements/{name}.txt",
        sha256=hashlib.sha256(content).hexdigest(),
        departures=departures(content.decode(), there),
    )


if __name__ == "__main__":
    sys.stdout.write(locked(Path("requirements"), installed()) + "\n")

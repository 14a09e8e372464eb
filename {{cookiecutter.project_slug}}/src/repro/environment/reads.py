"""Notes what a project's own code reads beside its recipe: variables and files.

A result may depend on them, and the recipe does not name them. So the process that trains notes
which variables and files the project's code asks for, and writes them into the manifest. If two
runs differ, the comparison says what they read differently.

Only what the project's Python code asks for is seen, and not what a library or code in another
language asks for.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from repro.basics.digests import sha256

LARGEST = 100_000_000
"""A file of more bytes is not digested; its size is noted instead."""
MOST = 1000
"""How many files are noted at most."""
SECRET = ("KEY", "TOKEN", "SECRET", "PASSWORD", "CREDENTIAL")
"""If the name of a variable has one of these parts, its value is not written down."""

# The files of Python's library through which code asks for a variable.
_LOOKUPS = ("os.py", "<frozen os>", "_collections_abc.py", "<frozen _collections_abc>")


@dataclass
class Reads:
    """What was read so far."""

    variables: dict[str, str | None] = field(default_factory=dict)
    """By name: the value, or its digest if the name says that it is a secret; None: not set."""
    files: dict[str, str] = field(default_factory=dict)
    """By path, as `shown` gives it: the digest, or in words why there is none."""
    written: list[str] = field(default_factory=list)
    """The paths, as `shown` gives them, that were opened for writing."""

    @property
    def in_order(self) -> Reads:
        """The same sorted by name, so that equal reads give equal content in a manifest."""
        variables = dict(sorted(self.variables.items()))
        return Reads(variables, dict(sorted(self.files.items())), sorted(self.written))

    def lines(self, locked: Collection[str]) -> list[str]:
        """Returns a line for each variable or file that may decide the result and is in no recipe.

        Args:
            locked: the paths of data files that a lock or a digest in the code names.
        """
        told = [
            f"the project's code read the variable {name}, which no recipe has; "
            "make it a parameter in params.yaml"
            for name in sorted(self.variables)
        ]
        for path in sorted(self.files):
            if path not in locked:
                told.append(f"the project's code read {path}, which no lock names{_mend(path)}")
        return told


def changes(before: Reads | None) -> Iterator[str]:
    """Yields each variable that has changed since a run's code read it, in a few words.

    Args:
        before: what the code of the interrupted run had read; None if that is not known.
    """
    for name, then in (before.variables if before else {}).items():
        now = _told(name, os.environ.get(name))
        if now != then:
            yield f"the variable {name} is {now or 'gone'} now and was {then or 'not there'}"


def _told(name: str, value: str | None) -> str | None:
    """Returns a variable's value, or the value's digest if its name says that it is a secret."""
    if value is None or not any(part in name.upper() for part in SECRET):
        return value
    return f"sha256 {hashlib.sha256(value.encode(errors='surrogateescape')).hexdigest()}"


def _mend(path: str) -> str:
    data = Path(path).parts[:1] == ("data",)
    return f"; `repro data add {path}` has it checked" if data else ""


@contextlib.contextmanager
def recorded(root: Path, package: Path) -> Iterator[Reads]:
    """Notes what the code in the folder `package` reads, as long as the block runs.

    Use it once in a process: Python cannot remove an audit hook.

    Args:
        root: the project's root; see `shown`.
    """
    found, machinery = Reads(), str(Path(__file__).parents[1]) + os.sep
    own, active = str(package) + os.sep, True
    sources = machinery + os.path.join("data", "sources.py")

    def by_project(frame: FrameType | None, near: bool = False) -> bool:
        """Whether code of the project asked; `near`: only if it did so itself, by `_LOOKUPS`."""
        while frame is not None:
            name = frame.f_code.co_filename
            if name.startswith(own):
                return True
            if name.startswith((machinery, "<frozen importlib")):
                return False
            if near and (os.path.basename(name) not in _LOOKUPS or frame.f_code.co_name == "copy"):
                return False
            frame = frame.f_back
        return False

    def heard(event: str, arguments: tuple[Any, ...]) -> None:
        if not active or event != "open" or not isinstance(arguments[0], str | bytes | os.PathLike):
            return
        # An open of a descriptor, or one that an import makes, is not the project's reading. What a
        # source reads is in the digest of the sample that comes of it.
        frame = sys._getframe(1)
        if by_project(frame) and not _within(frame, sources):
            _note(found, root, os.fsdecode(arguments[0]), arguments[1], arguments[2])

    environment = type(os.environ)
    original = environment.__getitem__

    def getitem(self: Any, key: str) -> str:
        try:
            value = original(self, key)
        except KeyError:
            value = None
        if isinstance(key, str) and by_project(sys._getframe(1), near=True):
            found.variables[key] = _told(key, value)
        if value is None:
            raise KeyError(key)
        return value

    environment.__getitem__ = getitem  # type: ignore[method-assign]
    sys.addaudithook(heard)
    try:
        yield found
    finally:
        active = False
        environment.__getitem__ = original  # type: ignore[method-assign]


def _within(frame: FrameType | None, file: str) -> bool:
    """Whether code of a file is among those who have called."""
    while frame is not None and frame.f_code.co_filename != file:
        frame = frame.f_back
    return frame is not None


def _note(found: Reads, root: Path, given: str, mode: str | None, flags: int) -> None:
    path = Path(os.path.abspath(given))
    real = os.path.realpath(path)
    libraries = (sys.prefix, sys.base_prefix, str(root / "src"), os.devnull)
    if str(path).startswith(libraries) or real.startswith(libraries):
        return
    name = shown(root, path)
    written = any(c in mode for c in "wax+") if mode else bool(flags & (os.O_WRONLY | os.O_RDWR))
    if written:
        if name not in found.written:
            found.written.append(name)
    elif name not in found.files and len(found.files) < MOST:
        found.files[name] = _content(path)


def shown(root: Path, path: Path) -> str:
    """Returns a path as seen from the project or the home directory: the same in each checkout."""
    for base, mark in ((root, ""), (Path(os.path.expanduser("~")), "~/")):
        if path.is_relative_to(base):
            return mark + path.relative_to(base).as_posix()
    return path.as_posix()


def _content(path: Path) -> str:
    try:
        found = path.stat()
        if not path.is_file() or found.st_size == 0:  # Files of /proc say that they are empty.
            return "of the machine" if path.is_relative_to("/proc") else "empty"
        if found.st_size > LARGEST:
            return f"{found.st_size} bytes"
        return sha256(path)
    except OSError:
        return "not there"

"""What a run is made of beside its recipe: code, packages, Python, variables, processor.

None of this belongs to the recipe: a comparison is there to prove, for example, that a change of
code keeps the bits. But one run must not be made of two versions of the code. So the process that
trains writes down what it is made of when it starts, and an interrupted run goes on only if all of
this is still the same.
"""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from importlib import metadata
from pathlib import Path

from repro.basics import digests
from repro.basics.errors import BadInput
from repro.environment import machine
from repro.environment.variables import CLEARED
from repro.recipe.parameters import Guarantee

# These say where code and caches are. The places may differ each time, and change no result.
_PLACES = ("PYTHONPATH", "PYTHONPYCACHEPREFIX", "PYTHONUSERBASE")


@dataclass(frozen=True)
class Provenance:
    """What a run is made of, in groups; each has digests or values by name."""

    code: dict[str, str]
    """By path below `src/`: the digest of each file of the project and of the machinery."""
    packages: dict[str, str]
    """By name: the version of each installed package."""
    python: dict[str, str]
    variables: dict[str, str]
    """By name: the value of each variable that the libraries read when they start."""
    processor: dict[str, str]

    @classmethod
    def of_this_process(cls, root: Path) -> Provenance:
        """Returns what this process is made of, for the project at `root`."""
        here = machine.here()
        return cls(
            code=code(root),
            packages={d.metadata["Name"]: d.version for d in metadata.distributions()},
            python={"version": platform.python_version(), "built by": sys.implementation.name},
            variables={
                name: value
                for name, value in sorted(os.environ.items())
                if name.startswith((*CLEARED, "CUDA_")) and name not in _PLACES
            },
            processor={"cpu": here.cpu, "architecture": here.architecture},
        )

    def changes(self, before: Provenance | None, processor: bool) -> Iterator[str]:
        """Yields each thing that has changed since `before`, in a few words.

        Args:
            before: what the run was made of when it began; None if that is not known.
            processor: whether another processor counts as a change.
        """
        for group in (field.name for field in fields(self)):
            if group == "processor" and not processor:
                continue
            then, now = (getattr(one, group) if one else {} for one in (before, self))
            for name in sorted({**then, **now}):
                left, right = then.get(name), now.get(name)
                if left != right:
                    yield _change(group, name, left, right)


def _change(group: str, name: str, before: str | None, now: str | None) -> str:
    if group == "code":
        return f"src/{name} " + (
            "is new" if before is None else "is gone" if now is None else "has changed"
        )
    what = {"packages": "the package ", "variables": "the variable "}.get(group, f"{group} ")
    return f"{what}{name} is {now or 'gone'} now and was {before or 'not there'}"


class Changed(BadInput):
    """A run cannot go on, since something has changed since it began."""


def same_as_when_it_began(
    now: Provenance,
    before: Provenance | None,
    run: str,
    guarantee: Guarantee,
    more: Iterable[str] = (),
) -> None:
    """Checks that a run goes on with the same things with which it began.

    Args:
        now: what this process is made of.
        before: what the run was made of when it began.
        run: the name of the run.
        guarantee: the guarantee that the run asks for; with `portable` the processor may change.
        more: further changes, in a few words each.

    Raises:
        Changed: something has changed. The message names the first change and counts the others.
    """
    own = now.changes(before, processor=guarantee != "portable")
    changes = [*own, *more]
    if changes:
        others = f" (and {len(changes) - 1} more changes)" if changes[1:] else ""
        raise Changed(
            f"{run} was interrupted, and since it began {changes[0]}{others}; undo this to go on "
            "with the run, or begin a new one with `repro train --fresh`"
        )


def code(root: Path) -> dict[str, str]:
    """Returns the digest of each file below `src/`, by its path there.

    These are the files of the project's package and of the machinery. In the project's own Python
    files, comments and blank lines do not count (`digests.of_python`). The files of the machinery
    are digested as they are, which is twenty times faster, and nobody edits them.
    """
    source = root / "src"
    found = {}
    for path in sorted(source.rglob("*")):
        below = path.relative_to(source)
        if path.is_file() and not _made_by_tools(below):
            own = path.suffix == ".py" and below.parts[0] != "repro"
            found[below.as_posix()] = digests.of_python(path) if own else _text_digest(path)
    return found


def _text_digest(path: Path) -> str:
    """The SHA-256 of a file, where Windows' ends of lines count as `\\n`: git may change them."""
    return hashlib.sha256(path.read_bytes().replace(b"\r\n", b"\n")).hexdigest()


def _made_by_tools(path: Path) -> bool:
    return any(
        part == "__pycache__" or part.endswith(".egg-info") or part.startswith(".")
        for part in path.parts
    )


def digest(found: Mapping[str, str]) -> str:
    """Returns one SHA-256 over the digests that `code` returned."""
    lines = (f"{name} {value}\n" for name, value in sorted(found.items()))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


@dataclass(frozen=True)
class Code:
    """The project's code, as git knows it."""

    commit: str | None
    dirty: bool | None
    """Whether the files differ from the commit; None: not known."""
    digest: str | None = None
    """The digest of all code below `src/`; known once the process that trains has started."""


def commit(root: Path) -> Code:
    """Returns the commit of the project's code, and whether the files differ from it.

    Both are None if git does not track the project. A repository around it may be another
    project's, so git is asked for the project's own `pyproject.toml`.
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
        return Code(None, None)
    commit, status = git("rev-parse", "HEAD"), git("status", "--porcelain", "--", ".")
    return Code(commit, None if status is None else bool(status))


@dataclass(frozen=True)
class Origin:
    """Where the machinery of a project comes from."""

    version: str | None
    """The version of the template that generated the project; None: the project does not say."""
    commit: str | None
    """The commit of that template, if it is known."""
    changed: bool | None
    """Whether its files differ from those that were generated; None: the project does not say."""

    def told(self) -> str:
        """Returns the same in words."""
        if self.version is None:
            return "of unknown origin"
        commit, dirty, _ = (self.commit or "").partition("-dirty")
        where = f" ({commit[:12]}{dirty})" if commit else ""
        state = {True: "changed since", False: "as it was generated", None: "not compared"}
        return f"{self.version}{where}, {state[self.changed]}"


def origin(root: Path, found: Mapping[str, str]) -> Origin:
    """Returns where the machinery of the project at `root` comes from, as `pyproject.toml` says.

    Args:
        found: what `code` returned for the project.
    """
    try:
        text = (root / "pyproject.toml").read_text(encoding="utf-8")
        said = tomllib.loads(text)["tool"]["repro"]
    except (OSError, ValueError, KeyError):
        return Origin(None, None, None)
    generated = said.get("machinery")
    now = {name: value for name, value in found.items() if name.startswith("repro/")}
    changed = None if generated is None else digest(now) != generated
    return Origin(said.get("version"), said.get("commit") or None, changed)

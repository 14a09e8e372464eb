"""A copy of the script's folder for each run, so that no run sees what another one has written.

Small files are copied. Large files and folders of many files are linked: they are data. Formats in
which weights are saved are copied up to a much larger size, because a library in C would write
through a link, and no guard in Python sees that. The files to compare are left out: each run has
to write its own. Nothing of the person's is written to, moved or removed.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from repro.basics.errors import BadInput
from repro.script.asked import OWN, Script

SMALL = 16 << 20
"""The most bytes of a file that is copied."""
WEIGHTS = 1 << 30
"""The same for files in formats of weights."""
MANY = 500
"""A folder with more files than this is linked as a whole."""
MOST = 20_000
"""How many files and folders a copy may have."""
FORMATS = (".keras", ".h5", ".hdf5", ".pt", ".pth", ".ckpt", ".bin", ".safetensors", ".index")
LEFT_OUT = (OWN, "__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache")


@dataclass(frozen=True)
class Copy:
    """A copy of the folder, as it was when it was made."""

    root: Path
    linked: tuple[Path, ...]
    """What was linked: the person's own files and folders."""
    before: dict[str, tuple[int, int]]
    """Size and time of each copied file, by its path in the copy."""

    def written(self) -> list[str]:
        """The paths of the files that the script has written or changed, sorted."""
        found = []
        for path in _files(self.root):
            name = path.relative_to(self.root).as_posix()
            status = path.stat()
            if self.before.get(name) != (status.st_size, status.st_mtime_ns):
                found.append(name)
        return sorted(found)


def copy(script: Script, to: Path) -> Copy:
    """Makes a copy of the script's folder.

    Raises:
        BadInput: the folder has too many files.
    """
    linked: list[Path] = []
    before: dict[str, tuple[int, int]] = {}
    made = 0

    def into(source: Path, target: Path) -> None:
        nonlocal made
        target.mkdir(parents=True)
        entries = sorted(os.scandir(source), key=lambda entry: entry.name)
        for entry in entries:
            path, name = Path(entry.path), Path(entry.path).relative_to(script.folder).as_posix()
            if entry.name in LEFT_OUT or _compared(script, name):
                continue
            made += 1
            if made > MOST:
                raise BadInput(
                    f"{script.folder}: has more than {MOST} files and folders; start the command "
                    "in the folder of the script alone"
                )
            aim = target / entry.name
            if entry.is_symlink() or (entry.is_dir() and _whole(script, path)):
                linked.append(path.resolve())
                aim.symlink_to(path.resolve())
            elif entry.is_dir():
                into(path, aim)
            elif entry.is_file() and entry.stat().st_size <= _most(entry.name):
                shutil.copy2(path, aim)
                status = aim.stat()
                before[aim.relative_to(to).as_posix()] = status.st_size, status.st_mtime_ns
            elif entry.is_file():
                linked.append(path)
                aim.symlink_to(path)

    into(script.folder, to)
    return Copy(to, tuple(linked), before)


def outputs(script: Script, names: Sequence[str]) -> list[str]:
    """Those of these paths, relative to the folder, that are to be compared."""
    return [name for name in names if _compared(script, name)]


def matches(script: Script, pattern: str, name: str) -> bool:
    """Whether a path that is relative to the folder fits a pattern of `--output`.

    The pattern is relative to the working directory, and `*` stands for no `/`.
    """
    wanted = (script.here / pattern).as_posix().split("/")
    parts = name.split("/")
    return len(parts) == len(wanted) and all(map(fnmatchcase, parts, wanted))


def _compared(script: Script, name: str) -> bool:
    return any(matches(script, pattern, name) for pattern in script.outputs)


def _whole(script: Script, folder: Path) -> bool:
    """Whether to link a folder: an environment, what git keeps, or one of very many files."""
    if folder.name == ".git" or (folder / "pyvenv.cfg").is_file():
        return True
    name = folder.relative_to(script.folder).as_posix().split("/")
    for pattern in script.outputs:  # A run writes there, so it needs a folder of its own.
        parts = (script.here / pattern).as_posix().split("/")[: len(name)]
        if len(parts) == len(name) and all(map(fnmatchcase, name, parts)):
            return False
    with os.scandir(folder) as entries:
        return any(number >= MANY for number, _ in enumerate(entries))


def _most(name: str) -> int:
    return WEIGHTS if name.endswith(FORMATS) or ".data-0" in name else SMALL


def _files(root: Path) -> Iterator[Path]:
    """The files of a copy that are no links."""
    for place, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in LEFT_OUT]
        for name in names:
            path = Path(place, name)
            if path.is_file() and not path.is_symlink():
                yield path

"""What is asked for: a script, how to run it, and what to compare of it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from repro.basics.errors import BadInput

SEED = 1234
"""The seed that each process begins with, where none is asked for."""
EVERY = 100
"""How many steps lie between two looks at the weights, where no number is asked for."""
OWN = ".repro"
"""The folder in which the runs of scripts are kept, beside the script's other files."""


@dataclass(frozen=True)
class Script:
    """A script as it is, with its arguments, and what is fixed around it."""

    file: Path
    """The script, with its whole path."""
    folder: Path
    """The folder that each run gets a copy of: the one that git keeps, or the current one."""
    here: Path
    """The working directory of the script, relative to `folder`."""
    arguments: Sequence[str] = ()
    python: str = sys.executable
    """The Python that runs the script."""
    outputs: Sequence[str] = ()
    """Patterns of the files to compare, relative to the working directory."""
    seed: int | None = SEED
    """The seed that the process begins with; None: nothing is fixed."""
    threads: int = 1
    """How many threads each library uses; of no meaning if nothing is fixed."""
    every: int = EVERY
    """How many steps lie between two looks at the weights; the first few are always looked at."""

    @property
    def fixed(self) -> bool:
        """Whether seeds, threads and kernels are fixed."""
        return self.seed is not None


def script(
    file: str,
    arguments: Sequence[str] = (),
    python: str | None = None,
    outputs: Sequence[str] = (),
    *,
    as_is: bool = False,
    seed: int | None = None,
    threads: int | None = None,
    every: int | None = None,
) -> Script:
    """Returns what is asked for, once it has been checked.

    Raises:
        BadInput: there is no such script, Python or number, or an output lies outside the folder.
    """
    path = Path(file)
    if not path.is_file():
        raise BadInput(f"--script: {file}: no such file; expected a script in Python")
    if as_is and (seed is not None or threads is not None):
        raise BadInput("--as-is: fixes nothing; expected without --seed and --threads")
    if seed is not None and not 0 <= seed < 2**32:
        raise BadInput(f"--seed: expected a number from 0 to {2**32 - 1}, got {seed}")
    for name, number in (("--threads", threads), ("--every", every)):
        if number is not None and number < 1:
            raise BadInput(f"{name}: expected 1 or more, got {number}")
    here = Path.cwd().resolve()
    for pattern in outputs:
        if not pattern or Path(pattern).is_absolute() or ".." in Path(pattern).parts:
            raise BadInput(
                f"--output: {pattern or 'nothing'}: expected a path or a pattern inside the "
                "current folder, such as 'results/*.csv'"
            )
    folder = _kept_by_git(here)
    return Script(
        file=path.resolve(),
        folder=folder,
        here=here.relative_to(folder),
        arguments=[*arguments],
        python=_checked(python) if python else sys.executable,
        outputs=[*outputs],
        seed=None if as_is else SEED if seed is None else seed,
        threads=threads or _cores(),
        every=every or EVERY,
    )


def _cores() -> int:
    from repro.environment import machine

    return machine.available_cores()


def _kept_by_git(here: Path) -> Path:
    """The folder that git keeps around this one; this one where there is none.

    A script may read what lies beside its folder, such as `../data`.
    """
    home = Path.home().resolve()
    for folder in (here, *here.parents):
        if folder == home or folder.parent == folder:
            break
        if (folder / ".git").exists():
            return folder
    return here


def _checked(python: str) -> str:
    """Returns the whole path of a Python that can run scripts under watch."""
    found = shutil.which(python)
    if found is None:
        raise BadInput(f"--python: {python}: expected a Python, and it cannot be run")
    # A link is not followed: the environment is found by the place of the link.
    found = os.path.abspath(found)
    tried = "import sys, numpy; sys.exit(sys.version_info < (3, 11))"
    if subprocess.run((found, "-c", tried), capture_output=True).returncode:
        raise BadInput(f"--python: {python}: expected Python 3.11 or later that has NumPy")
    return found

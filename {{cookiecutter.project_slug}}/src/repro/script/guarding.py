"""Keeps a script from writing to the person's own files, which it sees through links.

What Python opens, renames and removes is seen; what a library in C opens by itself is not.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = ("os.remove", "os.rename", "os.rmdir", "os.truncate", "os.link", "shutil.rmtree")


def guard(guarded: Sequence[str], allowed: Sequence[str]) -> None:
    """Refuses, from now on, to write where it is not allowed.

    Args:
        guarded: folders and files, with their real paths.
        allowed: folders within these to which the script may write.
    """
    closed = tuple(map(_folder, guarded))
    open_ = tuple(map(_folder, allowed))

    def hook(event: str, given: tuple[object, ...]) -> None:
        if event == "open":
            flags = given[2] if len(given) > 2 else 0
            if not (isinstance(flags, int) and flags & WRITES):
                return
            paths = given[:1]
        elif event in CHANGES:
            paths = given[: 2 if event in ("os.rename", "os.link") else 1]
        else:
            return
        for path in paths:
            if isinstance(path, str | bytes | os.PathLike):
                # A link itself may be removed or replaced: it is the run's own.
                named = os.fsdecode(path)
                folder, name = os.path.split(os.path.abspath(named))
                real = os.path.realpath(named)
                if event != "open":
                    real = os.path.join(os.path.realpath(folder), name)
                if _folder(real).startswith(closed) and not _folder(real).startswith(open_):
                    raise PermissionError(
                        errno.EACCES,
                        "repro: a script that is verified may not write to your own files; use a "
                        "path relative to the current folder, and name what it writes with "
                        "--output",
                        named,
                    )

    sys.addaudithook(hook)


def _folder(path: str) -> str:
    return path.rstrip(os.sep) + os.sep

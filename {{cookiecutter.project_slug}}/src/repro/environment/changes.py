"""The changes that variations make: inside a process, and to the variables that it starts with.

A change inside a process is made before anything of the project is imported. It changes what Python
says about the system. A library in C that asks the system itself does not see it.
"""

from __future__ import annotations

import ctypes
import datetime
import gc
import itertools
import os
import platform
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from repro.environment.variables import CLEARED

KEPT = re.compile(
    "|".join(
        (
            # The machinery itself sets these, since they decide results (`determinism`).
            *(re.escape(prefix) + ".*" for prefix in CLEARED),
            "REPRO_.*",
            # Other variations decide on these: `user`, `host`, `home`, `time-zone`, `locale`,
            # `temporary-folder` and `caches`.
            "HOME|USERPROFILE|USER|LOGNAME|USERNAME|LNAME|HOSTNAME|TZ|XDG_.*",
            "LANG|LANGUAGE|LC_.*|LOCPATH|LOCALE_ARCHIVE.*|TMP.*|TEMP",
            # These say where programs, libraries, packages and devices are.
            "PATH|.*_(PATH|DIR|DIRS|HOME|ROOT|PREFIX|CACHE|FOLDER)",
            "LD_.*|DYLD_.*|VIRTUAL_ENV.*|CONDA_.*|MAMBA_.*|PYENV_.*|NIX_.*|GUIX_.*",
            "CUDA_.*|NVIDIA_.*|HIP_.*|ROCM_.*|ROCR_.*|HSA_.*|ONEAPI_.*",
            # These say where data are, how to reach them, and give access to them.
            ".*_PROXY|SSL_CERT.*|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE|NETRC|KRB5.*|SSH_AUTH_SOCK",
            "AWS_.*|AZURE_.*|GOOGLE_.*|HF_.*|KAGGLE_.*|DASK_.*",
            # Without these Windows starts nothing, and macOS decodes no name of a file.
            "SYSTEM(ROOT|DRIVE)|WINDIR|COMSPEC|PATHEXT|OS|HOME(DRIVE|PATH)|(LOCAL)?APPDATA",
            "(ALLUSERSPROFILE|PUBLIC|PROGRAMDATA|(COMMON)?PROGRAM(FILES|W6432).*)",
            "NUMBER_OF_PROCESSORS|PROCESSOR_.*|__CF.*",
        )
    ),
    re.IGNORECASE,
)
"""Names of variables that the variation `environment` keeps.

It takes away the user's own variables. A result must not depend on them, since they are in no
recipe and so in no comparison. Variables that locate software and data stay, because without them
the run would be another program.
"""


def dropped(name: str) -> bool:
    """Whether a varied run does not get the variable of this name."""
    return KEPT.fullmatch(name) is None


def noise(index: int) -> dict[str, str]:
    """Returns variables like those that shells, terminals and continuous integration set."""
    unknown = {f"REPRO_NOISE_{number}": "x" * 97 * number for number in range(index, index + 20)}
    known = {"COLUMNS": str(60 + index), "LINES": "7", "EDITOR": "noise", "PAGER": "noise"}
    known |= {"TERM": "dumb", "SHLVL": str(20 + index), "NO_COLOR": "1", "CI": "noise"}
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), f"{os.sep}noise-{index}"))
    return unknown | known | {"PATH": path}


class _Builtin:
    """A function that does not become a method if it is an attribute of a class.

    Functions written in C behave like this. `logging.Formatter` relies on it: it has
    `time.localtime` as an attribute.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *given: Any) -> Any:
        return self._function(*given)


def clock_shift(index: int) -> int:
    """Returns by how many seconds to move the clock of a gate's run: another number for each run.

    500 million runs have no number twice.
    """
    year_and_35_days, span = 34_567_891, 560_000_003
    return year_and_35_days + (index - 1) * year_and_35_days % span


def shift_clock(index: int) -> None:
    """Moves the date that Python tells; the system's clock and `time.monotonic` stay as they are.

    In the first run the clock moves by a year and 35 days, and not by whole weeks or whole days, so
    that every field of the date changes. Further runs have other dates. They are at most twenty
    years ahead, since zip archives cannot hold a date after 2107.
    """
    seconds = clock_shift(index)

    def later(clock: Callable[..., Any], second: int) -> Callable[..., Any]:
        return lambda *which: clock(*which) + seconds * second * _is_date(which)

    _tell_dates(later)


def hold_clock(at: int) -> None:
    """Makes the date that Python tells stand still, so that two processes are told the same one.

    It goes on by a microsecond each time it is asked for, since a script may divide by the time
    that has passed.

    Args:
        at: the date, in seconds since 1970.
    """
    asked = itertools.count(1)

    def held(clock: Callable[..., Any], second: int) -> Callable[..., Any]:
        def told(*which: Any) -> Any:
            if not _is_date(which):
                return clock(*which)
            microseconds = at * 10**6 + next(asked)
            return microseconds * 1000 if second > 1 else microseconds / 10**6

        return told

    _tell_dates(held)


def _is_date(which: tuple[Any, ...]) -> bool:
    """Whether the arguments of a function of `time` ask for the date, and not for another clock."""
    return which in ((), (getattr(time, "CLOCK_REALTIME", None),))


def _tell_dates(change: Callable[[Callable[..., Any], int], Callable[..., Any]]) -> None:
    """Changes what Python says when it is asked for the date.

    Args:
        change: is given a clock and how many of its units a second has; returns another clock.
    """

    def told(
        function: Callable[..., Any], now: Callable[[], Any], position: int = 0
    ) -> Callable[..., Any]:
        def called(*given: Any) -> Any:
            if given[position:] in ((), (None,)):
                given = (*given[:position], now())
            return function(*given)

        return called

    def changed(name: str, change: Callable[..., Any], *how: Any) -> None:
        if hasattr(time, name):
            setattr(time, name, _Builtin(change(getattr(time, name), *how)))

    for name in ("time", "clock_gettime"):
        changed(name, change, 1)
        changed(f"{name}_ns", change, 10**9)
    for name in ("localtime", "gmtime", "ctime"):
        changed(name, told, time.time)
    changed("asctime", told, time.localtime)
    changed("strftime", told, time.localtime, 1)

    # `datetime.today` and `date.today` ask `time.time`, but `now` and `utcnow` ask the system. A
    # subclass of `datetime` would not do, since C code makes and checks for the type itself. So the
    # type is changed, through the dictionary behind its read-only view.
    (methods,) = gc.get_referents(datetime.datetime.__dict__)
    methods["now"] = classmethod(lambda cls, tz=None: cls.fromtimestamp(time.time(), tz))
    methods["utcnow"] = classmethod(lambda cls: cls.utcfromtimestamp(time.time()))
    ctypes.pythonapi.PyType_Modified(ctypes.py_object(datetime.datetime))


def change_umask(index: int) -> None:
    """Gives the new files of this process other permissions."""
    now = os.umask(0o077)
    os.umask(next(mask for mask in (now | 0o027, 0o077, 0o027) if mask != now))


def reverse_directories(index: int) -> None:
    """Makes Python list the entries of each folder in the reverse order."""
    listdir, scandir = os.listdir, os.scandir

    class Reversed:
        """What `os.scandir` returns, from the last entry to the first."""

        def __init__(self, *path: Any) -> None:
            with scandir(*path) as entries:
                self._entries = iter(list(entries)[::-1])

        def __iter__(self) -> Iterator[os.DirEntry[Any]]:
            return self

        def __next__(self) -> os.DirEntry[Any]:
            return next(self._entries)

        def __enter__(self) -> Reversed:
            return self

        def __exit__(self, *exception: object) -> None:
            self.close()

        def close(self) -> None:
            self._entries = iter([])

    os.listdir = _Builtin(lambda *path: listdir(*path)[::-1])  # type: ignore[assignment]
    os.scandir = Reversed  # type: ignore[assignment]


def one_core(index: int) -> None:
    """Lets this process use one core, and makes Python say that there is only one."""
    if sys.platform == "linux":
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[index % len(cores)]})
    # On a machine with one core these would say 1 too, and affinity does not change them.
    os.cpu_count = _Builtin(lambda: 1)
    if hasattr(os, "process_cpu_count"):
        os.process_cpu_count = _Builtin(lambda: 1)
    _change_sysconf(("SC_NPROCESSORS_ONLN", "SC_NPROCESSORS_CONF"), lambda number: 1)


def less_memory(index: int) -> None:
    """Makes Python say that the machine has half of its memory."""
    _change_sysconf(
        ("SC_PHYS_PAGES", "SC_AVPHYS_PAGES"), lambda pages: max(1, pages // 2 - index % 1000)
    )


def _change_sysconf(names: Sequence[str], change: Callable[[int], int]) -> None:
    """Changes what Python says about the system's limits; libraries in C do not see the change."""
    original = os.sysconf
    changed = {*names, *(os.sysconf_names[name] for name in names if name in os.sysconf_names)}

    def sysconf(name: str | int) -> int:
        found = original(name)
        return change(found) if name in changed else found

    os.sysconf = _Builtin(sysconf)


def rename_host(index: int) -> None:
    """Gives this process another host name; no other process sees it."""
    libc = ctypes.CDLL(None, use_errno=True)
    new_user, new_names = 0x10000000, 0x04000000  # CLONE_NEWUSER, CLONE_NEWUTS
    user, group = os.getuid(), os.getgid()
    if libc.unshare(new_names) != 0:
        # Without privileges this needs a user namespace of its own, with the same user in it.
        if libc.unshare(new_user | new_names) != 0:
            raise OSError(ctypes.get_errno(), "unshare")
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    name = f"varied-{index}".encode()
    if libc.sethostname(name, len(name)) != 0:
        raise OSError(ctypes.get_errno(), "sethostname")
    # `platform` keeps its first answer, and a library may have asked already: `uuid` does.
    platform._uname_cache = None  # type: ignore[attr-defined]

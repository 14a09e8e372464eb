"""The variations: what a gate changes between its runs, and what must not change a result.

Two runs in the same surroundings agree on much that is luck, such as the order in which a set of
strings or a folder is listed. So the first run of a gate has the ordinary surroundings, and each
further run has changed ones. All of them must give the same bits.

A variation acts in up to three places: on the variables of the process that trains, on the command
that starts it, and inside it, before anything of the project is imported. What a variation needs on
the disk, such as another home directory, lies in a folder that is removed after the process ends.

`python -m repro.environment.surroundings INDEX NAME…` tries surroundings: it enters them and reads
the project's files. If it ends with 0, a training can run in them.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import site
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from repro.basics.errors import BadInput
from repro.basics.text import nearest
from repro.environment import changes


@dataclass(frozen=True)
class Variation:
    """One thing that is changed on purpose.

    Where a function has an argument `index`, it is the number of the gate's run, from 1.
    """

    what: str
    """What is changed, in words."""
    mend: str
    """What to do if a result depends on it."""
    environment: Callable[[int, Path], dict[str, str]] = lambda index, folder: {}
    """Returns the variables to set; it may use the folder, which belongs to this run alone."""
    drops: Callable[[str], bool] = lambda name: False
    """Whether to take away the variable of this name."""
    command: tuple[str, ...] = ()
    """A command that is put before that of the interpreter, and starts it."""
    enter: Callable[[int], None] = lambda index: None
    """Is called by the process itself before anything else."""
    impossible: Callable[[], str] = lambda: ""
    """Says why this machine cannot do it; empty if it can."""
    dear: str = ""
    """Why it is varied only if it is asked for; empty if it is always varied."""
    whole: bool = False
    """Whether its effect shows only in a run that is made to its end."""


class Around:
    """The surroundings of one run, for a `with` block: where and how to start its process."""

    def __init__(self, root: Path, varied: Sequence[str], index: int) -> None:
        self.root = root
        self.environment = _located(root)
        self.varied = [*varied]
        self.command: list[str] = []
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        if not varied:
            return
        # If a process still writes there, a file may be left over. That is not worth a failure.
        self._folder = tempfile.TemporaryDirectory(prefix="repro-", ignore_cleanup_errors=True)
        folder = Path(self._folder.name)
        for name in varied:
            self.environment |= VARIATIONS[name].environment(index, folder)
            self.command += VARIATIONS[name].command
        if "path" in varied:
            self.root = _elsewhere(root, folder / f"elsewhere-{index}")
            if Path(__file__).parents[2] == root / "src":
                self.environment["PYTHONPATH"] = str(self.root / "src")

    def variables(self, ordinary: dict[str, str]) -> dict[str, str]:
        """Returns the variables of the process, made from those of ordinary surroundings."""
        drops = [VARIATIONS[name].drops for name in self.varied]
        kept = {k: v for k, v in ordinary.items() if not any(drop(k) for drop in drops)}
        return kept | self.environment

    def __enter__(self) -> Around:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._folder:
            self._folder.cleanup()


def enter(varied: Sequence[str], index: int) -> None:
    """Changes this process's surroundings, before anything of the project is imported."""
    for name in varied:
        VARIATIONS[name].enter(index)


def interpreter() -> str:
    """Returns the Python that starts trainings; if it is a path, it is an absolute one."""
    named = os.environ.get("REPRO_PYTHON") or sys.executable
    return os.path.abspath(named) if os.path.dirname(named) else named


def _located(root: Path) -> dict[str, str]:
    """Returns variables that name a folder relative to the project's root, with its whole path."""
    data = os.environ.get("REPRO_DATA")
    return {"REPRO_DATA": str(root / data)} if data else {}


def possible(
    root: Path, varied: Sequence[str], ordinary: dict[str, str]
) -> tuple[list[str], dict[str, str]]:
    """Tries variations with a short process.

    Args:
        ordinary: the variables that a training has without variations.

    Returns:
        The variations that work together, and for each other one why it does not. If a process
        does not even start in ordinary surroundings, all are returned as working: the training
        itself will say what is wrong.
    """
    if not varied or not _problem(root, varied, ordinary) or _problem(root, (), ordinary):
        return [*varied], {}
    kept: list[str] = []
    others = {}
    for name in varied:
        if problem := _problem(root, [*kept, name], ordinary):
            others[name] = problem
        else:
            kept.append(name)
    return kept, others


def _problem(root: Path, varied: Sequence[str], ordinary: dict[str, str]) -> str:
    """Says why a process fails in these surroundings; empty if it does not."""
    try:
        with Around(root, varied, 1) as around:
            done = subprocess.run(
                (
                    *around.command,
                    interpreter(),
                    "-P",
                    "-m",
                    "repro.environment.surroundings",
                    "1",
                    *varied,
                ),
                cwd=around.root,
                env=around.variables(ordinary),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                timeout=STARTING,
            )
    except subprocess.TimeoutExpired:
        return f"a process that was started so had not ended after {STARTING} s"
    except OSError as error:
        return str(error)
    if done.returncode == 0:
        return ""
    said = done.stderr.decode(errors="replace").strip().splitlines()
    return said[-1] if said else f"a process that was started so ended with {done.returncode}"


def _read_all() -> None:
    """Opens the project's files that a training reads; the working directory is its root."""
    root = Path.cwd()
    for path in (*root.iterdir(), *root.glob("src/**/*.py")):
        if path.is_file():
            with path.open("rb") as file:
                file.read(1)


def choose(wanted: str | None) -> tuple[list[str], dict[str, str]]:
    """Returns what `--vary` asks for: the names to vary, and why each other one is not varied.

    Args:
        wanted: names with commas between them, `all`, `none`, or None for all that are cheap.

    Raises:
        BadInput: there is no variation of this name, or this machine cannot do it.
    """
    named = [name.strip() for name in (wanted or "").split(",")]
    if wanted in (None, "all", "none"):
        named = []
    for name in named:
        if name not in VARIATIONS:
            close = nearest(name, VARIATIONS) or f"; expected {', '.join(VARIATIONS)}, all or none"
            raise BadInput(f"--vary: {name or 'nothing'}: no such variation{close}")
        if reason := VARIATIONS[name].impossible():
            raise BadInput(f"--vary: {name}: not possible here: {reason}")
    varied, others = [], {}
    for name, variation in VARIATIONS.items():
        if wanted == "none" or (named and name not in named):
            others[name] = "not asked for"
        elif wanted is None and variation.dear:
            others[name] = f"{variation.dear}; --vary all has it too"
        elif not named and (reason := variation.impossible()):
            others[name] = f"not possible here: {reason}"
        else:
            varied.append(name)
    return varied, others


def _elsewhere(root: Path, to: Path) -> Path:
    """Makes the project in another place: copies its code and links everything else.

    Data and runs are too large to copy, and what a run downloads or writes there has to stay.
    """
    shutil.copytree(root / "src", to / "src", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("data", "runs"):
        (root / name).mkdir(exist_ok=True)
    for entry in root.iterdir():
        if entry.name != "src":
            (to / entry.name).symlink_to(entry.resolve())
    return to


def _home(index: int, folder: Path) -> dict[str, str]:
    home = _made(folder / f"home-{index}")
    places = {
        "XDG_CONFIG_HOME": ".config",
        "XDG_CACHE_HOME": ".cache",
        "XDG_DATA_HOME": ".local/share",
        "XDG_STATE_HOME": ".local/state",
    }
    # Packages installed with `pip install --user` are found in the home directory as well. They
    # are not varied.
    base = {"PYTHONUSERBASE": site.getuserbase()}
    return (
        base | {"HOME": home, "USERPROFILE": home} | {k: f"{home}/{v}" for k, v in places.items()}
    )


def _temporary(index: int, folder: Path) -> dict[str, str]:
    return dict.fromkeys(("TMPDIR", "TEMP", "TMP"), _made(folder / f"temporary-{index}"))


def _caches(index: int, folder: Path) -> dict[str, str]:
    names = ("PYTHONPYCACHEPREFIX", "CUDA_CACHE_PATH", "MPLCONFIGDIR", "NUMBA_CACHE_DIR")
    return {name: _made(folder / name) for name in names}


def _made(folder: Path) -> str:
    folder.mkdir()
    return str(folder)


def _locale(index: int, folder: Path) -> dict[str, str]:
    return dict.fromkeys(("LC_ALL", "LANG", "LANGUAGE"), _other_locale())


def _other_locale() -> str:
    """Returns another locale than the present one: Turkish or with decimal commas, if installed."""
    now = next((os.environ[n] for n in ("LC_ALL", "LC_CTYPE", "LANG") if os.environ.get(n)), "C")
    try:
        listed = subprocess.run(("locale", "-a"), capture_output=True, text=True).stdout.split()
    except OSError:
        listed = []
    preferred = ("tr_TR", "de_DE", "fr_FR", "C.utf8", "C.UTF-8", "C")
    found = [name for begin in preferred for name in listed if name.startswith(begin)]

    def plain(name: str) -> str:
        return name.lower().replace("-", "").replace("posix", "c")

    return next(name for name in (*found, "C.UTF-8", "C") if plain(name) != plain(now))


def _no_second_core() -> str:
    if sys.platform != "linux":
        return "only Linux lets a process choose its cores"
    return "" if len(os.sched_getaffinity(0)) > 1 else "there is one core only"


def _no_host_name() -> str:
    if sys.platform != "linux":
        return "only Linux has host names for a process alone"
    code = "from repro.environment import changes; changes.rename_host(1)"
    return _refused((sys.executable, "-P", "-c", code))


def _no_layout() -> str:
    if sys.platform != "linux":
        return "only Linux can be asked for it"
    return _refused((*SAME_LAYOUT, "true"))


def _refused(command: Sequence[str]) -> str:
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with contextlib.suppress(OSError):
        if subprocess.run(command, capture_output=True, env=env).returncode == 0:
            return ""
    return "the system does not allow it"


def _windows() -> str:
    return "not on Windows" if os.name == "nt" else ""


STARTING = 60
"""Seconds that a process may take to try surroundings; an emulated processor needs several."""
SAME_LAYOUT = ("setarch", "--addr-no-randomize")
LOCAL = "take it from params.yaml or from a file named there, not from the machine"
VARIATIONS = {
    "hash-seed": Variation(
        "the order of sets of strings (PYTHONHASHSEED)",
        "sort a set before you go through it",
        environment=lambda index, folder: {"PYTHONHASHSEED": str(4000 + index)},
    ),
    "directory-order": Variation(
        "the order in which folders list their files",
        "sort what os.listdir, os.scandir, glob and iterdir list",
        enter=changes.reverse_directories,
    ),
    "clock": Variation(
        "date and time of day, by more than a year",
        "seed no generator from the time, and keep dates out of the data",
        enter=changes.shift_clock,
    ),
    "path": Variation(
        "working directory and path of the checkout",
        "keep paths out of the data: sort and hash by names within the project",
        impossible=_windows,  # Links need a privilege on Windows.
    ),
    "home": Variation(
        "an empty home directory",
        "keep data and settings in the project, not in the home directory",
        environment=_home,
    ),
    "temporary-folder": Variation(
        "the folder for temporary files",
        "keep the names of temporary files out of the data, and leave nothing there",
        environment=_temporary,
    ),
    "user": Variation(
        "the user's name, as variables tell it",
        LOCAL,
        environment=lambda index, folder: dict.fromkeys(
            ("USER", "LOGNAME", "USERNAME", "LNAME"), f"somebody-{index}"
        ),
    ),
    "host": Variation(
        "the machine's name",
        LOCAL,
        environment=lambda index, folder: {"HOSTNAME": f"varied-{index}"},
        enter=changes.rename_host,
        impossible=_no_host_name,
    ),
    "locale": Variation(
        "language, decimal point and sorting, as far as locales are installed",
        "name encoding, format and order yourself: open(…, encoding='utf-8'), sorted(…)",
        environment=_locale,
        impossible=_windows,
    ),
    "time-zone": Variation(
        "the time zone",
        "compute with times in UTC: datetime.now(UTC), fromtimestamp(…, UTC)",
        # No real zone has this offset, and it needs no database of zones.
        environment=lambda index, folder: {"TZ": "VARY-11:17"},
    ),
    "umask": Variation(
        "the permissions of new files",
        "keep permissions out of the data, or set them with os.chmod",
        enter=changes.change_umask,
        impossible=_windows,
    ),
    "environment": Variation(
        "variables: unknown ones are set, and those that locate nothing are taken away",
        f"{LOCAL}; what locates data may stand in a variable, such as REPRO_DATA or one whose "
        "name ends in _DIR",
        environment=lambda index, folder: changes.noise(index),
        drops=changes.dropped,
    ),
    "address-space": Variation(
        "the layout of memory, which is random in ordinary runs",
        "sort by values, never by id() or by the hash of an object",
        command=SAME_LAYOUT,
        impossible=_no_layout,
    ),
    "cores": Variation(
        "the number of processors visible: one (`threads` stays)",
        "take the number of workers and parts from params.yaml, not from the machine",
        enter=changes.one_core,
        impossible=_no_second_core,
    ),
    "killed": Variation(
        "the run is killed in the middle, and goes on from its checkpoint",
        "keep what a step depends on in variables of Keras or in the model, which checkpoints have",
        whole=True,
    ),
    "memory": Variation(
        "the size of the machine's memory, as Python says it: half",
        "take sizes of buffers and parts from params.yaml, not from the machine",
        enter=changes.less_memory,
        impossible=_windows,
    ),
    "caches": Variation(
        "cold caches: of byte code, of kernels, of fonts",
        "make what is cached a function of its key alone",
        environment=_caches,
        dear="every library's byte code is compiled anew, some 10 s",
    ),
}

if __name__ == "__main__":
    enter(sys.argv[2:], int(sys.argv[1]))
    _read_all()

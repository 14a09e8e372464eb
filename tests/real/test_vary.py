"""The gate's variations: green where nothing depends on them; where something does, red, and named.

What each variation changes is tested in the generated project. `make proof` tries here every one
alone and every fault; otherwise a few of them.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from .conftest import Generated, document, some

pytestmark = pytest.mark.real

EACH = (
    *("hash-seed", "directory-order", "clock", "path", "home", "temporary-folder", "user", "host"),
    *("locale", "time-zone", "umask", "environment", "address-space", "cores", "killed"),
    *("memory", "caches"),
)
SHORT = ("training.epochs=1", "training.steps_per_epoch=2")


@pytest.mark.parametrize("guarantee", some(("machine", "portable"), ("portable",)))
@pytest.mark.parametrize("model", some(("dense", "lenet5"), ("lenet5",)))
def test_all_at_once_is_green(model: str, guarantee: str, project: Generated) -> None:
    settings = (f"model.name={model}", f"guarantee={guarantee}", "model.dropout=0.5")
    answer = project.repro("verify", "--vary", "all", *settings, "training.epochs=1")
    assert answer["verdict"] == "identical", answer
    assert sorted([*answer["varied"], *answer["not_varied"]]) == sorted(EACH)
    assert all(why.startswith("not possible here: ") for why in answer["not_varied"].values())
    document(f"vary all {model} {guarantee}", "identical")


@pytest.mark.parametrize("name", some(EACH, ("path", "cores")))
def test_each_alone_is_green(name: str, project: Generated) -> None:
    possible_or_skip(project, name)
    answer = project.repro("verify", "--vary", name, "training.epochs=1")
    assert (answer["verdict"], answer["varied"]) == ("identical", [name])
    document(f"vary {name}", "identical")


# What a function in data.py might read, and the variations it takes to change it.
FAULTS = {
    "path": "os.getcwd()",
    "home": "os.path.expanduser('~')",
    "temporary-folder": "tempfile.gettempdir()",
    "user": "getpass.getuser()",
    "host": "socket.gethostname()",
    "locale": "locale.setlocale(locale.LC_ALL, '')",
    "time-zone": "datetime.datetime.fromtimestamp(0)",
    "umask": "(open(mine, 'w').close(), os.stat(mine).st_mode)",
    "environment": "os.environ.get('TERM')",
    "cores": "os.cpu_count()",
    "memory": "os.sysconf('SC_PHYS_PAGES')",
    "user+host": "os.environ.get('USER') == 'somebody-1' and socket.gethostname() == 'varied-1'",
    # Random in every run; there is nothing to vary.
    "": "id(object())",
}


def depends_on(project: Generated, value: str) -> None:
    """Makes every pixel of the data depend on the value."""
    text = "    import datetime, getpass, locale, os, socket, sys, tempfile, zlib\n"
    text += "    mine = sys.argv[1] + '/file'\n"
    text += f"    images = images + zlib.crc32(repr({value}).encode()) / 2**32\n"
    project.insert("data.py", "    x = (images", text)


@pytest.mark.parametrize("fault", some(FAULTS, ("locale", "")))
def test_what_a_result_depends_on_is_named(fault: str, project: Generated, tmp_path: Path) -> None:
    needed = fault.split("+") if fault else []
    for name in needed:
        possible_or_skip(project, name)
    faulty = project.copy(tmp_path / "project")
    depends_on(faulty, FAULTS[fault])
    answer = faulty.repro("verify", *SHORT, "--no-explain", status=1)
    assert answer["first_divergence"]["name"] == "x"
    cause = answer["cause"]
    # Nothing is left of the runs made to look.
    assert len(list(faulty.root.glob("runs/*"))) == 2
    assert cause["variation"] == needed, cause
    # Five without and five with it; of several together five without each one.
    repeats = 5 * (2 + (len(needed) if len(needed) > 1 else 0))
    assert len(cause["probes"]) <= repeats + 6 * max(1, len(needed))
    assert ("also without" in cause["means"]) == (fault == "")
    assert cause["sure"] == bool(needed)


def test_a_training_that_fails_under_a_variation_names_it(
    project: Generated, tmp_path: Path
) -> None:
    faulty = project.copy(tmp_path / "project")
    depends_on(faulty, "open(os.path.expanduser('~/settings')).read()")
    home = tmp_path / "home"
    home.mkdir()
    (home / "settings").touch()
    command = ("repro", "verify", "--vary", "home,umask", *SHORT)
    done = faulty.run(*command, HOME=str(home))
    assert done.returncode == 4, done.stderr
    verdict, why = done.stdout.split("varied     home, umask")
    assert verdict.startswith("FAILED  2 runs\n  the training failed with status 1; its log, ")
    assert "FileNotFoundError" in verdict
    assert "cause      home (an empty home directory): 5 of 5 runs differ with it, 0 of 5" in why


def test_a_wrong_name_is_refused_in_one_line(project: Generated) -> None:
    done = project.run("repro", "verify", "--vary", "time_zone")
    assert done.returncode == 2
    assert (
        done.stderr == "repro: --vary: time_zone: no such variation; "
        "nearest valid name: time-zone\n"
    )


def possible_or_skip(project: Generated, name: str) -> None:
    code = "import sys; from repro.environment.surroundings import VARIATIONS as known; "
    code += "print(known[sys.argv[1]].impossible() or '', end='')"
    path = {"PYTHONPATH": str(project.root / "src")}
    command = [str(project.python), "-c", code, name]
    # What cannot be asked is no reason to skip: only an answer is.
    if reason := subprocess.check_output(command, env={**os.environ, **path}, text=True):
        pytest.skip(f"{name}: {reason}")

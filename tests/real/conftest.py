"""Projects generated, installed from their lock and run for real."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest
from filelock import FileLock

from benchmarks import figures

TEMPLATE = Path(__file__).parents[2]
Amount = TypeVar("Amount")
MACHINERY = TEMPLATE / "tests" / "machinery"
"""The machinery's own tests, which run in a generated project, with its Python."""
FULL = bool(os.environ.get("REPRO_FULL"))
"""`make proof` sets it: every kill, fault and variation; otherwise some of each."""
MNIST = Path(os.environ.get("MNIST_NPZ", TEMPLATE.parent / "shared" / "data" / "mnist.npz"))
TORCH_WHEELS = "https://download.pytorch.org/whl/cpu/torch/"
"""As in the project's Makefile, with the same two variables before it."""


# What `make test` leaves out goes through these three, by which the list in the README is checked.


def proof(why: str = "") -> pytest.MarkDecorator:
    """Marks a test that `make proof` alone runs."""
    return pytest.mark.skipif(not FULL, reason=f"make proof tries it{why and ': '}{why}")


def some(names: Iterable[str], short: tuple[str, ...]) -> list[Any]:
    """All names as parameters of a test, but only the `short` ones run unless all are asked for."""
    return [pytest.param(name, marks=() if name in short else proof()) for name in names]


def fewer(short: Amount, whole: Amount) -> Amount:
    """The `short` amount of what a test tries, unless all is asked for. A test calls it itself."""
    return whole if FULL else short


def document(name: str, figure: str, file: str = "guarantees.md") -> None:
    """Writes a figure into a page of docs/, where all is tried; else looks for its place."""
    figures.write(name, figure, dry=not FULL, file=file)


@dataclass(frozen=True)
class Generated:
    """A generated project and the Python that its lock was installed for."""

    root: Path
    python: Path

    @property
    def package(self) -> Path:
        (data,) = self.root.glob("src/*/data.py")
        return data.parent

    def run(self, *command: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Runs a Python module of the project; its own `src` comes before what is installed."""
        return subprocess.run(
            [str(self.python), "-m", *command],
            cwd=self.root,
            env={**os.environ, "PYTHONPATH": str(self.root / "src"), **env},
            capture_output=True,
            text=True,
        )

    def start(self, *arguments: str, **env: str) -> subprocess.Popen[str]:
        """Starts `repro …` in a group of processes of its own, to be ended as one."""
        return subprocess.Popen(
            [str(self.python), "-m", "repro", *arguments],
            cwd=self.root,
            env={**os.environ, "PYTHONPATH": str(self.root / "src"), **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )

    def repro(self, *arguments: str, status: int = 0, **env: str) -> dict[str, Any]:
        """Runs `repro … --json`, which has to end with the given status."""
        done = self.run("repro", *arguments, "--json", **env)
        assert done.returncode == status, done.stdout + done.stderr
        answer: dict[str, Any] = json.loads(done.stdout) if done.stdout else {}
        return answer

    def insert(self, file: str, before: str, text: str) -> None:
        """Writes lines into a file of the project's package, before the one place given."""
        path = self.package / file
        content = path.read_text(encoding="utf-8")
        assert content.count(before) == 1, f"{before!r} is not once in {path}"
        path.write_text(content.replace(before, text + before), encoding="utf-8")

    def append(self, file: str, text: str) -> None:
        """Writes lines at the end of a file of the project's package."""
        with (self.package / file).open("a", encoding="utf-8") as opened:
            opened.write(text)

    def copy(self, to: Path) -> Generated:
        shutil.copytree(self.root, to, ignore=shutil.ignore_patterns("runs", "studies", ".git"))
        return Generated(to, self.python)


def bake(to: Path, python: Path, template: Path = TEMPLATE, **answers: str) -> Generated:
    """Generates a project with the defaults, but for these answers."""
    pairs = [f"{key}={value}" for key, value in answers.items()]
    command = ["-m", "cookiecutter", str(template), "--no-input", "-o", str(to), *pairs]
    subprocess.run([sys.executable, *command], check=True)
    (root,) = (path for path in to.iterdir() if path.is_dir())
    return Generated(root, python)


def end(run: Path) -> dict[str, Any]:
    """What must be equal: digest, results, the whole ledger, the whole history."""
    content = json.loads((run / "manifest.json").read_text())
    return {
        **{key: content[key] for key in ("digest", "metrics", "predictions", "ledger_head")},
        "ledger": (run / "ledger.jsonl").read_text(),
        "history": (run / "history.json").read_text(),
    }


def kill(process: subprocess.Popen[str], run: Path) -> None:
    """Kills a launcher and the training that it has started."""
    # Both at once: a launcher that hears of the other's end would write that it failed.
    os.kill(process.pid, signal.SIGSTOP)
    with contextlib.suppress(ProcessLookupError, ValueError):  # It may have ended a moment ago.
        os.kill(int((run / "lock").read_text(encoding="utf-8")), signal.SIGKILL)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def kill_when(project: Generated, arguments: tuple[str, ...], moment: float) -> Path:
    """Starts a run, kills launcher and training after that share of it, returns its directory."""
    before = set(project.root.glob("runs/*"))
    process = project.start("train", *arguments, "--fresh")
    while process.poll() is None:
        ledgers = [r / "ledger.jsonl" for r in set(project.root.glob("runs/*")) - before]
        if ledgers and ledgers[0].is_file() and ledgers[0].stat().st_size > moment:
            break
        time.sleep(0.005)
    (run,) = set(project.root.glob("runs/*")) - before
    kill(process, run)
    status = json.loads((run / "manifest.json").read_text())["status"]
    assert status != "finished", "the training ended before it was killed"
    return run


def environment(
    backend: str = "tensorflow", device: str = "cpu", *, also: Sequence[str] = ()
) -> Path:
    """The Python of a virtual environment that holds a backend's locks, kept for the next time.

    It also has what is in these locks: `tables` reads tables, `hub` has language models.
    """
    requirements = TEMPLATE / "{{cookiecutter.project_slug}}" / "requirements"
    condition = f"{{% if cookiecutter.__backend == '{backend}' %}}"
    locks = [requirements / f"{condition}{name}.txt{{% endif %}}" for name in (device, "dev")]
    tests = ("machinery", *also)
    locks += [TEMPLATE / "requirements" / f"{name}.txt" for name in tests]
    wheels = os.environ.get("TORCH_WHEELS", os.environ.get("PIP_FIND_LINKS", TORCH_WHEELS)).split()
    links = [f"--find-links={place}" for place in wheels if (backend, device) == ("torch", "cpu")]
    parts = [part for part in (backend, device) if part not in ("tensorflow", "cpu")]
    parts += tests[1:]
    venv = TEMPLATE / "build" / "-".join(("test-venv", *parts))
    python = venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    uv = [sys.executable, "-m", "uv", "pip", "sync", "--require-hashes", "--python", str(python)]
    with FileLock(f"{venv}.lock"):  # The second process finds all installed, and changes nothing.
        if not python.exists():
            subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
        subprocess.run([*uv, *links, *map(str, locks)], check=True)
    return python


@pytest.fixture(scope="session")
def installed() -> Path:
    """The Python of an environment with TensorFlow, as a project with the defaults has it."""
    return environment()


@pytest.fixture(scope="session")
def defaults(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Generated:
    """A project with the defaults, which all tests share; see `unchanged`."""
    return bake(tmp_path_factory.mktemp("defaults"), installed)


@pytest.fixture(scope="session")
def project(defaults: Generated) -> Generated:
    """A project with the defaults, never changed by a test; `copy` it first."""
    return defaults


@pytest.fixture(autouse=True)
def unchanged(request: pytest.FixtureRequest) -> Iterator[None]:
    """What all tests share is after each as it was, but for what git ignores."""
    if "defaults" not in request.fixturenames:
        yield
        return
    root = request.getfixturevalue("defaults").root

    def changes() -> str:
        git = ("git", "status", "--porcelain")
        return subprocess.run(git, cwd=root, capture_output=True, check=True, text=True).stdout

    before = changes()
    yield
    assert changes() == before


@pytest.fixture(scope="session")
def models(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Generated:
    """A project with every model there is, and those of `models/` beside them."""
    made = bake(tmp_path_factory.mktemp("models"), installed, starter="all")
    for file in Path(__file__).with_name("models").glob("*.py"):
        shutil.copy(file, made.package / "models")
    return made


@pytest.fixture
def mnist() -> Path:
    """The folder with MNIST, for tests on real data."""
    if not MNIST.is_file():
        pytest.skip(f"no MNIST: neither MNIST_NPZ nor {MNIST.name} in ../shared/data is a file")
    return MNIST.parent

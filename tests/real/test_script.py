"""The gate for a script: ten kinds of scripts, as people have them, in a folder of their own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from .conftest import TEMPLATE, environment

pytestmark = pytest.mark.real

SOURCE = TEMPLATE / "{{cookiecutter.project_slug}}" / "src"
SCRIPTS = Path(__file__).with_name("scripts")
FIXED = ()
# What makes runs differ is looked for in `tests/machinery/test_script.py`, with quicker scripts.
AS_IS = ("--as-is", "--no-explain")


@dataclass(frozen=True)
class Kind:
    """A script, how to verify it, and what the answer has to be."""

    name: str
    backend: str
    verdict: str
    options: tuple[str, ...] = FIXED
    place: tuple[str, int, int] | None = None
    """Stage, epoch and step of the first difference, if the script is watched along the run."""
    seen: str = ""
    """What has to be among what was watched."""
    cause: str = ""
    """The variation that has to be named."""


KINDS = [
    Kind("keras_fit_unseeded", "tensorflow", "diverged", AS_IS, ("step", 1, 1), "steps of fit"),
    Kind(
        "keras_fit_seeded",
        "tensorflow",
        "identical",
        ("--output", "seeded.weights.h5"),
        seen="steps of fit",
    ),
    Kind("keras_tape", "tensorflow", "identical", seen="steps of a Keras optimizer"),
    Kind("keras_gan", "tensorflow", "identical", seen="steps of train_on_batch"),
    Kind(
        "keras_functional",
        "tensorflow",
        "identical",
        ("--output", "model.keras", "--output", "results/*.csv"),
        seen="epochs of fit",
    ),
    Kind(
        "torch_unseeded",
        "torch",
        "diverged",
        AS_IS,
        ("initial", 0, 0),
        "steps of a PyTorch optimizer",
    ),
    Kind(
        "torch_seeded",
        "torch",
        "identical",
        ("--output", "net.pt"),
        seen="steps of a PyTorch optimizer",
    ),
    Kind("torch_workers", "torch", "identical", seen="steps of a PyTorch optimizer"),
    Kind("jax_jit", "jax", "identical", ("--output", "weights.npz")),
    Kind(
        "jax_time",
        "jax",
        "diverged",
        ("--output", "weights.npz", "--vary", "clock,hash-seed,umask"),
        cause="clock",
    ),
]


def verify(script: str, backend: str, folder: Path, *options: str) -> tuple[int, dict[str, Any]]:
    """Copies a script into an empty folder and verifies it there."""
    shutil.copy(SCRIPTS / f"{script}.py", folder)
    python = environment(backend)
    command = [str(python), "-m", "repro", "verify", "--json", "--script", f"{script}.py"]
    done = subprocess.run(
        [*command, *options],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(SOURCE), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: str(kind.name))
def test_a_script_as_people_have_it(kind: Kind, tmp_path: Path) -> None:
    status, found = verify(kind.name, kind.backend, tmp_path, *kind.options)
    assert found["verdict"] == kind.verdict, found
    assert status == (0 if kind.verdict == "identical" else 1)
    assert found["not_watched"] == []
    assert not kind.seen or kind.seen in found["watched"], found["watched"]
    if kind.place is not None:
        where = found["first_divergence"]
        assert (where["stage"], where["epoch"], where["step"]) == kind.place
        assert where["what"] == "weights"
    if kind.cause:
        assert found["cause"]["variation"] == [kind.cause]
    patterns = [text for text in kind.options if "." in text]
    assert len(found["compared"]["files"]) == len(patterns)
    # Nothing of the person's is changed, and nothing is added but one folder.
    assert sorted(path.name for path in tmp_path.iterdir()) == [".repro", f"{kind.name}.py"]


# Runs a script once with a ledger and once without, and prints what both have written.
WATCHED = """
import sys
from pathlib import Path
from repro.basics.digests import of_json
from repro.script import asked, outputs, running

script = asked.script(sys.argv[1], every=1, threads=1)
session = running.new_session(script)
found = []
for watched in (True, False):
    directory = session / str(watched)
    directory.mkdir()
    ran = running.run(script, directory, watched=watched)
    assert bool(ran.seen.watched) is watched
    content = outputs.contents(directory / "files" / sys.argv[2])
    content.pop("data.pkl", None)
    found.append(content)
assert found[0] == found[1] and found[0]
"""


@pytest.mark.parametrize(
    ("script", "backend", "output"),
    [
        ("keras_functional", "tensorflow", "model.keras"),
        ("torch_seeded", "torch", "net.pt"),
        ("keras_functional", "jax", "model.keras"),
    ],
)
def test_watching_changes_no_bit(script: str, backend: str, output: str, tmp_path: Path) -> None:
    shutil.copy(SCRIPTS / f"{script}.py", tmp_path)
    done = subprocess.run(
        [str(environment(backend)), "-c", WATCHED, f"{script}.py", output],
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": str(SOURCE),
            "PYTHONDONTWRITEBYTECODE": "1",
            "KERAS_BACKEND": backend,
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_the_command_is_installed_with_numpy_alone(tmp_path: Path) -> None:
    """From this repository, as its README says, and for scripts in other environments."""
    venv = tmp_path / "venv"
    python = venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    install = ["-m", "uv", "pip", "install", "--quiet", "--python", str(python), str(TEMPLATE)]
    subprocess.run([sys.executable, *install], check=True)
    folder = tmp_path / "folder"
    folder.mkdir()
    text = "import numpy as np\nnp.save('w.npy', np.random.rand(3))\n"
    (folder / "train.py").write_text(text, encoding="utf-8")
    command = (str(python.with_name("repro")), "verify", "--script", "train.py")
    for options in ((), ("--python", str(environment("torch")))):
        done = subprocess.run(
            [*command, *options, "--output", "w.npy", "--vary", "clock,path"],
            cwd=folder,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.startswith("IDENTICAL"), done.stdout

"""Every family of networks on every backend: trains to its figure, twice the same, also killed.

The table in docs/models.md is written here. `make proof` tries every cell; otherwise a few.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from .conftest import (
    MACHINERY,
    TEMPLATE,
    Generated,
    bake,
    document,
    end,
    environment,
    kill_when,
    some,
)

pytestmark = pytest.mark.real

BACKENDS = ("tensorflow", "jax", "torch")


@dataclass(frozen=True)
class Family:
    """A preset, and the result that its model's docstring promises: at least, or at most."""

    metric: str
    least: float | None = None
    most: float | None = None
    after: str = ""
    """A preset whose weights it starts from."""

    def kept(self, metrics: dict[str, float]) -> bool:
        value = metrics[self.metric]
        return (self.least is None or value >= self.least) and (
            self.most is None or value <= self.most
        )


FAMILIES = {
    "dense": Family("test_accuracy", least=0.93),
    "lenet5": Family("test_accuracy", least=0.85),
    "regression": Family("test_r2_score", least=0.38),
    "residual": Family("test_accuracy", least=0.98),
    "lstm": Family("test_accuracy", least=0.95),
    "forecast": Family("test_r2_score", least=0.98),
    "autoencoder": Family("test_loss", most=0.01),
    "denoising": Family("test_restored", most=0.015),
    "anomaly": Family("test_auc", least=0.97),
    "vae": Family("test_loss", most=24),
    "gan": Family("test_distance", most=0.25),
    "transformer": Family("test_accuracy", least=0.95),
    "gpt": Family("test_loss", most=2.0),
    "simclr": Family("test_neighbours", least=0.93),
    "simclr_tuned": Family("test_accuracy", least=0.84, after="simclr"),
    "dqn": Family("test_return", least=100),
}
SHORT = {("vae", "tensorflow"), ("regression", "jax"), ("anomaly", "torch")}


def settings(family: str) -> tuple[str, ...]:
    """What `repro` is told: the two models that have no preset for the digits are named."""
    return (f"model.name={family}",) if family in ("dense", "lenet5") else (f"preset={family}",)


@pytest.fixture(scope="session")
def projects(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A project with all models for each backend that is asked for, made at the first time."""
    made: dict[str, Generated] = {}

    def of(backend: str) -> Generated:
        if backend not in made:
            python = environment(backend)
            folder = tmp_path_factory.mktemp(backend)
            made[backend] = bake(folder, python, backend=backend, starter="all")
        return made[backend]

    return of


def write_cell(family: str, column: str, figure: str) -> None:
    """Writes a cell of the table, where all is tried; else looks for its place."""
    document(f"{family} {column}", figure, "models.md")


def told(guarantee: dict[str, Any]) -> str:
    """What a cell says of a guarantee: that it holds, or what is in the way."""
    if guarantee["holds"] == guarantee["asked"]:
        return "identical"
    reasons = [line.removesuffix(" is not known to be portable") for line in guarantee["broken"]]
    return f"no: `{'`, `'.join(reasons)}`"


def cells() -> list[Any]:
    """Each family on each backend as parameters of a test; of these a few unless all are asked."""
    names = [f"{family} {backend}" for backend in BACKENDS for family in FAMILIES]
    return some(names, tuple(map(" ".join, SHORT)))


@pytest.mark.parametrize("cell", cells())
def test_a_family_trains_to_its_figure_twice_the_same(cell: str, projects: Any) -> None:
    name, backend = cell.split()
    family, project = FAMILIES[name], projects(backend)
    chosen = settings(name)
    if family.after:
        before = project.repro("train", *settings(family.after))
        chosen = (*chosen, f"training.initial_weights={before['run_dir']}")

    answer = project.repro("verify", *chosen)
    assert answer["verdict"] == "identical"
    assert answer["guarantee"] == {"asked": "machine", "holds": "machine", "broken": []}
    assert family.kept(answer["metrics"]), answer["metrics"]

    whole = end(Path(answer["runs"][0]))
    often = (*chosen, "--checkpoint-seconds", "0")
    run = kill_when(project, often, len(whole["ledger"]) * 0.6)
    assert Path(project.repro("train", *often)["run_dir"]) == run
    assert end(run) == whole
    value = answer["metrics"][family.metric]
    write_cell(name, f"{backend} machine", f"identical, {value:.3g}")


@pytest.mark.parametrize("name", some(FAMILIES, ("vae",)))
def test_a_family_is_portable_or_says_what_is_not(name: str, projects: Any) -> None:
    family, project = FAMILIES[name], projects("tensorflow")
    chosen = (*settings(name), "guarantee=portable")
    if family.after:
        before = project.repro("train", *settings(family.after), "guarantee=portable")
        chosen = (*chosen, f"training.initial_weights={before['run_dir']}")
    done = project.run("repro", "verify", *chosen, "--json")
    answer = json.loads(done.stdout)
    assert answer["verdict"] == "identical", done.stderr
    holds, broken = answer["guarantee"]["holds"], answer["guarantee"]["broken"]
    assert (holds, broken) == ("portable", []) or all(
        line.endswith(" is not known to be portable") for line in broken
    )
    assert done.returncode == (1 if broken else 0), "a guarantee that fell is red"
    assert family.kept(answer["metrics"]), answer["metrics"]
    write_cell(name, "tensorflow portable", told(answer["guarantee"]))


OWN = '''"""A step of one's own: sign descent, with momentum and noise, on the host."""

from __future__ import annotations

import keras
import numpy as np
from keras import layers


class Signs(keras.Model):
    def __init__(self, size: int, classes: int, **keywords: object) -> None:
        super().__init__(**keywords)
        self.made = self.add_weight(
            shape=(), dtype="int32", initializer="zeros", trainable=False, name="made"
        )
        self.average = self.add_weight(
            shape=(size, classes), initializer="zeros", trainable=False, name="average"
        )
        self.kernel = self.add_weight(shape=(size, classes), initializer="zeros", name="kernel")
        self.flatten = layers.Flatten()

    def call(self, x: object) -> object:
        return keras.ops.softmax(keras.ops.matmul(self.flatten(x), self.kernel))

    def learn(self, x: np.ndarray, y: np.ndarray, weight: np.ndarray | None = None) -> None:
        made = int(self.made)
        noise = np.random.Generator(np.random.Philox(key=made)).normal(size=(len(x), x[0].size))
        flat = x.reshape(len(x), -1) + 0.01 * noise.astype(np.float32)
        scores = keras.ops.convert_to_numpy(self(x))
        gradient = flat.T @ (scores - np.eye(scores.shape[1], dtype=np.float32)[y])
        self.average.assign(0.9 * keras.ops.convert_to_numpy(self.average) + gradient)
        step = 1e-3 * np.sign(keras.ops.convert_to_numpy(self.average))
        self.kernel.assign(keras.ops.convert_to_numpy(self.kernel) - step)
        self.made.assign(made + 1)

    def judge(self, x: np.ndarray, y: np.ndarray) -> dict[str, float]:
        found = keras.ops.convert_to_numpy(self(x)).argmax(axis=1)
        return {"accuracy": float((found == y).mean())}


def build(input_shape: tuple[int, ...], classes: int) -> keras.Model:
    return Signs(int(np.prod(input_shape)), classes)
'''


@pytest.mark.parametrize("backend", some(BACKENDS, ("tensorflow",)))
def test_a_step_of_ones_own_is_proved_like_any_other(
    backend: str, projects: Any, tmp_path: Path
) -> None:
    """The page on models: one file, and the gate, the ledger, resume and the search for faults."""
    project = projects(backend).copy(tmp_path / "project")
    file = project.package / "models" / "signs.py"
    file.write_text(OWN)
    chosen = ("model.name=signs", "training.metrics=[]", "training.loss=null", "training.epochs=3")
    answer = project.repro("verify", *chosen)
    assert answer["verdict"] == "identical"
    assert answer["metrics"]["test_accuracy"] > 0.8
    whole = end(Path(answer["runs"][0]))
    often = (*chosen, "--checkpoint-seconds", "0")
    run = kill_when(project, often, len(whole["ledger"]) * 0.6)
    assert Path(project.repro("train", *often)["run_dir"]) == run
    assert end(run) == whole
    assert json.loads((run / "manifest.json").read_text())["resumed"]

    # A draw that nothing seeds, in one step of the second epoch.
    fault = "        if made == 90:\n            noise += float(np.frombuffer(__import__('os')"
    file.write_text(
        OWN.replace("        flat = x", f"{fault}.urandom(1), 'u1')[0]) + 1\n        flat = x")
    )
    answer = project.repro("verify", *chosen, status=1)
    found = answer["explanation"]
    assert (found["epoch"], found["step"]) == (2, 12)


@pytest.mark.parametrize("backend", some(BACKENDS, ("torch",)))
def test_a_project_has_one_backend_alone(backend: str, projects: Any) -> None:
    project = projects(backend)
    found = project.run("pip", "list", "--format=json").stdout
    there = {package["name"].lower().replace("_", "-") for package in json.loads(found)}
    libraries = {"tensorflow": "tensorflow-cpu", "jax": "jax", "torch": "torch"}
    assert {b for b, library in libraries.items() if library in there} == {backend}
    doctor = project.repro("doctor")
    assert doctor["guarantee"]["broken"] == []
    assert doctor["in_effect"]["backend"] == backend
    other = next(b for b in BACKENDS if b != backend)
    done = project.run("repro", "train", f"backend={other}")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert f"backend: {other} is not installed here, {backend} is" in done.stderr


@pytest.mark.parametrize("backend", some(BACKENDS[1:], ()))
def test_the_generated_suite_passes_on(backend: str, projects: Any) -> None:
    project = projects(backend)
    for command in (("ruff", "check", "."), ("ruff", "format", "--check", "."), ("mypy",)):
        done = project.run(*command)
        assert done.returncode == 0, done.stdout + done.stderr
    for tests in ("tests", str(MACHINERY)):
        done = project.run("pytest", "-q", tests)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_table_has_every_family() -> None:
    page = (TEMPLATE / "docs" / "models.md").read_text(encoding="utf-8")
    assert [name for name in FAMILIES if f"<!-- {name} jax machine -->" not in page] == []

"""Samples that are read one by one: the same bits as in memory, and each one that changed named."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from .conftest import Generated, bake, end, environment, kill_when, some

pytestmark = pytest.mark.real

DATA = '''

class Read:
    """Digits as a source that reads each from a file of its own."""

    def __init__(self, x: np.ndarray, folder: str) -> None:
        import pathlib

        self.folder = pathlib.Path(folder)
        self.keys = np.array([f"digit-{n:04d}" for n in range(len(x))])
        if not self.folder.is_dir():
            self.folder.mkdir()
            for key, one in zip(self.keys, x, strict=True):
                np.save(self.folder / f"{key}.npy", one)

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, place: int, /) -> np.ndarray:
        return np.load(self.folder / f"{self.keys[place]}.npy")


def read(*, folder: str, noise: float = 0.0, memory: bool = False) -> Dataset:
    data = digits()
    source = Read(data.x, folder)
    x = data.x if memory else source

    def augment(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return (x + noise * rng.normal(size=x.shape)).astype(np.float32)

    return Dataset(
        x,
        data.y,
        classes=10,
        sources=data.sources,
        keys=source.keys,
        augment=augment if noise else None,
    )
'''
TABLE = '''

def patients(*, file: str, memory: bool = False) -> Dataset:
    """The patients of `diabetes` from a table: who is worse than most a year later?"""
    import pathlib

    import pyarrow
    import pyarrow.parquet

    from repro import Table

    x, y = load_diabetes(return_X_y=True)
    columns = {f"measure {n}": one.astype(np.float32) for n, one in enumerate(x.T)}
    ill, keys = (y > 140).astype(np.int32), np.array([f"patient {n}" for n in range(len(y))])
    if memory:
        return Dataset(columns, ill, classes=2, labels=ill, keys=keys)
    if not pathlib.Path(file).exists():
        table = pyarrow.table({**columns, "ill": ill, "name": keys})
        pyarrow.parquet.write_table(table, file)
    return Dataset(Table(pathlib.Path(file), y="ill", labels="ill", keys="name"), classes=2)
'''
MODEL = '''"""A logistic regression on columns, each of shape (batch,)."""

from __future__ import annotations

import keras
from keras import layers, ops


def build(input_shape: dict[str, tuple[int, ...]], classes: int) -> keras.Model:
    """Output (batch, classes): the probability of each class."""
    inputs = {name: keras.Input(shape, name=name) for name, shape in input_shape.items()}
    columns = [ops.expand_dims(one, -1) for one in inputs.values()]
    outputs = layers.Dense(classes, activation="softmax")(layers.Concatenate()(columns))
    return keras.Model(inputs, outputs)
'''
SHORT = ("data.name=read", "training.epochs=2", "training.batch_size=32")


def with_source(project: Generated) -> Generated:
    project.append("data.py", DATA)
    return project


@pytest.fixture
def reading(project: Generated, tmp_path: Path) -> Generated:
    return with_source(project.copy(tmp_path / "project"))


def digest(project: Generated, *settings: str, readers: int = 1) -> str:
    answer = project.repro("train", *SHORT, *settings, REPRO_READERS=str(readers))
    return str(answer["digest"])


@pytest.mark.parametrize("backend", some(("tensorflow", "jax", "torch"), ("tensorflow",)))
def test_what_is_read_gives_the_bits_of_what_is_in_memory(backend: str, tmp_path: Path) -> None:
    project = with_source(bake(tmp_path / "baked", environment(backend), backend=backend))
    folder = f"data.folder={tmp_path / 'digits'}"
    expected = digest(project, folder, "data.memory=true")
    found = {readers: digest(project, folder, readers=readers) for readers in (0, 1, 4)}
    assert found == dict.fromkeys(found, expected)
    # Where samples are augmented, those in memory are read as well.
    noisy = (folder, "data.noise=0.1")
    assert digest(project, *noisy, readers=2) == digest(project, *noisy, "data.memory=true")
    assert digest(project, *noisy) != expected


def test_a_table_gives_the_bits_of_its_columns_in_memory(
    project: Generated, tmp_path: Path
) -> None:
    copied = replace(project.copy(tmp_path / "project"), python=environment(also=["tables"]))
    copied.append("data.py", TABLE)
    (copied.package / "models" / "logistic.py").write_text(MODEL, encoding="utf-8")
    settings = (
        *("data.name=patients", f"data.file={tmp_path / 'patients.parquet'}"),
        *("model.name=logistic", "training.epochs=2", "training.batch_size=32"),
    )
    memory = copied.repro("train", *settings, "data.memory=true")["digest"]
    # The first one converts the table, the other one finds its rows.
    for readers in ("0", "2"):
        answer = copied.repro("train", *settings, "--fresh", REPRO_READERS=readers)
        assert answer["digest"] == memory
    assert len([*copied.root.glob(".repro_cache/tables/*/rows.bin")]) == 1


def test_a_killed_run_reads_on_where_it_was(reading: Generated, tmp_path: Path) -> None:
    settings = (
        *(*SHORT, f"data.folder={tmp_path / 'digits'}", "data.noise=0.1"),
        *("training.epochs=3", "training.validation_freq=2"),
    )
    whole = end(Path(reading.repro("train", *settings)["run_dir"]))
    often = (*settings, "--checkpoint-seconds", "0")
    run = kill_when(reading, often, len(whole["ledger"]) * 0.7)  # After the one with a validation.
    assert Path(reading.repro("train", *often, REPRO_READERS="3")["run_dir"]) == run
    assert end(run) == whole
    content = json.loads((run / "manifest.json").read_text())
    assert content["resumed"]
    # What a source reads is in the digests of its samples, and need not be named as well.
    assert not content["reads"]["files"] and not content["notes"]


def change(folder: Path, key: str) -> None:
    import numpy as np

    path = folder / f"{key}.npy"
    array = np.load(path)
    array[0, 0] += 1
    np.save(path, array)


def test_a_sample_that_changed_between_two_runs_is_named(
    reading: Generated, tmp_path: Path
) -> None:
    folder = tmp_path / "digits"
    settings = (*SHORT, f"data.folder={folder}")
    one = reading.repro("train", *settings)["run_dir"]
    split = json.loads((Path(one) / "manifest.json").read_text())["split"]
    assert split["sizes"]["train"] > 1000
    for key in ("digit-0007", "digit-0100"):
        change(folder, key)
    other = reading.repro("train", *settings, "--fresh")["run_dir"]
    found = reading.repro("diff", one, other, status=1)["first_divergence"]
    assert found["what"] == "content" and found["name"] == "sample digit-0007"
    assert found["names"] == ["sample digit-0007", "sample digit-0100"]
    assert "the samples had another content" in found["means"]


def test_a_sample_that_cannot_be_read_is_one_line_and_loses_nothing(
    reading: Generated, tmp_path: Path
) -> None:
    folder = tmp_path / "digits"
    settings = (*SHORT, f"data.folder={folder}")
    whole = end(Path(reading.repro("train", *settings)["run_dir"]))
    torn = folder / "digit-0003.npy"
    content = torn.read_bytes()
    torn.write_bytes(content[:90])
    done = reading.run("repro", "train", *settings, "--fresh")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("repro: data: sample digit-0003: ")
    torn.write_bytes(content)
    assert end(Path(reading.repro("train", *settings, "--fresh")["run_dir"])) == whole


def test_augmentation_that_draws_from_elsewhere_is_red_with_the_sample(
    reading: Generated, tmp_path: Path
) -> None:
    reading.insert(
        "data.py",
        "        return (x + noise",
        "        if x[0, 3] == 0.75 and x[1, 3] == 1:\n"
        "            return x + np.float32(__import__('os').urandom(1)[0])\n",
    )
    settings = (*SHORT, f"data.folder={tmp_path / 'digits'}", "data.noise=0.1")
    answer = reading.repro("verify", *settings, "--vary", "none", status=1)
    found: dict[str, Any] = answer["first_divergence"]
    assert found["what"] == "content"
    assert "`augment` made other samples" in found["means"]
    explained = answer["explanation"]
    assert explained["kind"] == "batch content"
    assert explained["sample"].startswith("digit-")

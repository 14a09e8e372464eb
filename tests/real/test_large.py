"""Data larger than memory: folders of images and files of arrays, read as they are trained on.

`make proof` tries 20,000 images on each backend; otherwise a few hundred on TensorFlow.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import Generated, bake, document, end, environment, fewer, kill_when, some

pytestmark = pytest.mark.real

DATA = """

def pictures(*, memory: bool = False) -> Dataset:
    from repro import ImageFolder

    images = ImageFolder("pictures", grey=True)
    x = np.stack([images[place] for place in range(len(images))]) if memory else images
    return Dataset(x, images.labels, class_names=images.class_names, keys=images.keys)


def volume(*, path: str) -> Dataset:
    import pathlib

    from repro import ArrayFile

    rows = ArrayFile(pathlib.Path(path))
    return Dataset(rows, (np.arange(len(rows)) % 10).astype(np.int32), classes=10)
"""
# Makes images of 16 x 16 pixels in four classes, whose stripes differ.
DRAW = """
import sys
from pathlib import Path
import numpy as np
from PIL import Image
folder, number = Path(sys.argv[1]), int(sys.argv[2])
rng, rows = np.random.default_rng(0), np.arange(16)[:, None]
for kind in range(4):
    (folder / f"kind-{kind}").mkdir(parents=True)
for place in range(number):
    kind = place % 4
    stripes = 127 + 60 * np.sin((kind + 1) * rows / 2 + rng.uniform(0, 6)) + np.zeros((16, 16))
    noisy = np.clip(stripes + rng.normal(0, 20, (16, 16)), 0, 255).astype(np.uint8)
    Image.fromarray(noisy).save(folder / f"kind-{kind}" / f"{place:05d}.jpg", quality=90)
"""
SETTINGS = ("data.name=pictures", "training.epochs=2", "training.batch_size=64")


def with_pictures(project: Generated, number: int) -> Generated:
    """Adds the data functions, and as many images to the data and to their lock."""
    project.append("data.py", DATA)
    folder = project.root / "data" / "pictures"
    command = [str(project.python), "-c", DRAW, str(folder), str(number)]
    subprocess.run(command, check=True)
    added = project.repro("data", "add", "data/pictures")["added"]
    assert [one["path"] for one in added] == ["pictures.files.sha256"]
    assert (project.root / "data.lock").stat().st_size < 1000
    return project


@pytest.mark.parametrize("backend", some(("tensorflow", "jax", "torch"), ("tensorflow",)))
def test_a_folder_of_images_is_trained_on_as_if_it_were_in_memory(
    backend: str, tmp_path: Path
) -> None:
    number = fewer(600, 20_000)
    baked = bake(tmp_path / "baked", environment(backend), backend=backend)
    project = with_pictures(baked, number)

    def train(*settings: str, readers: int = 1) -> Any:
        return project.repro("train", *SETTINGS, *settings, REPRO_READERS=str(readers))

    expected = train("data.memory=true")
    found = {readers: train(readers=readers) for readers in fewer((0, 2), (0, 1, 2, 4))}
    assert {answer["digest"] for answer in found.values()} == {expected["digest"]}
    run = Path(found[2]["run_dir"])
    peak = json.loads((run / "manifest.json").read_text(encoding="utf-8"))["peak_memory_bytes"]
    assert peak < 1.5e9
    answer = project.repro("verify", *SETTINGS)
    assert answer["verdict"] == "identical"
    whole = end(Path(answer["runs"][0]))
    often = (*SETTINGS, "--checkpoint-seconds", "0")
    killed = kill_when(project, often, len(whole["ledger"]) * 0.6)
    assert Path(project.repro("train", *often)["run_dir"]) == killed
    assert end(killed) == whole
    folds = project.repro("cross-validate", "--folds", "2", *SETTINGS, "training.epochs=1")
    assert folds["failed"] == 0
    assert len({trial["digest"] for trial in folds["trials"]}) == 2
    document(
        f"images {backend}",
        f"{number} images of 16 x 16 pixels: one digest in memory and with 0, 1, 2 and 4 readers, "
        f"also killed and gone on; {peak / 1e9:.2f} GB at most",
        "data.md",
    )


ROWS, SIDE = 40_000, 512
LIMIT = 24 * 2**20
"""KiB of memory that a process may address; the file below has more."""


@pytest.mark.skipif(sys.platform != "linux", reason="a limit on what a process may address")
@pytest.mark.parametrize("backend", some(("tensorflow", "jax", "torch"), ("tensorflow",)))
def test_a_file_larger_than_memory_is_trained_on(backend: str, tmp_path: Path) -> None:
    """A file of 31 GB, most of which is a hole, with less memory than that to address."""
    from numpy.lib import format as npy

    project = bake(tmp_path / "baked", environment(backend), backend=backend)
    project.append("data.py", DATA)
    big, shape = tmp_path / "volume.npy", (ROWS, SIDE, SIDE, 3)
    with big.open("wb") as file:
        about = {"descr": "|u1", "fortran_order": False, "shape": shape}
        npy.write_array_header_1_0(file, about)
        start, size = file.tell(), SIDE * SIDE * 3
        for row in range(0, ROWS, 7):
            file.seek(start + row * size)
            file.write(bytes([row % 251]) * 64)
        file.truncate(start + ROWS * size)
    assert big.stat().st_size > LIMIT * 1024
    settings = (
        *("data.name=volume", f"data.path={big}", "split.strategy=random", "model.units=8"),
        *("training.epochs=1", "training.steps_per_epoch=10", "training.batch_size=16"),
        *("split.test=0.001", "split.validation=0.001", "--json"),
    )
    command = shlex.join([str(project.python), "-m", "repro", "verify", *settings])
    done = subprocess.run(
        ["bash", "-c", f"ulimit -v {LIMIT}; exec {command}"],
        cwd=project.root,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(project.root / "src")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["verdict"] == "identical"
    told = [json.loads((Path(run) / "manifest.json").read_text()) for run in answer["runs"]]
    assert max(content["peak_memory_bytes"] for content in told) < 1.5e9
    document(
        f"large {backend}",
        f"{big.stat().st_size / 1e9:.0f} GB, with {LIMIT / 2**20:.0f} GiB to address: "
        f"{max(content['peak_memory_bytes'] for content in told) / 1e9:.2f} GB in use at most",
        "data.md",
    )


@pytest.fixture
def pictured(project: Generated, tmp_path: Path) -> Generated:
    return with_pictures(project.copy(tmp_path / "project"), 200)


KEY = "kind-1/00009.jpg"


def torn(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-50])


@pytest.mark.parametrize(
    ("harm", "locked", "told"),
    [
        (lambda path: path.write_bytes(path.read_bytes() + b"x"), False, "its SHA-256 is"),
        (lambda path: path.unlink(), False, "No such file"),
        (torn, True, "truncated"),
    ],
    ids=["a byte more", "missing", "torn and locked"],
)
def test_a_harmed_image_is_named(
    harm: Callable[[Path], object], locked: bool, told: str, pictured: Generated
) -> None:
    harm(pictured.root / "data" / "pictures" / KEY)
    if locked:
        pictured.repro("data", "add", f"data/pictures/{KEY}")
    done = pictured.run("repro", "train", *SETTINGS)
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"repro: data: sample {KEY}: ") and told in last
    if locked:  # Where the recipe says so, the others are trained on.
        pictured.insert("data.py", "    return Dataset(x, images", "    on_error = 'skip'\n")
        data = pictured.package / "data.py"
        text = data.read_text(encoding="utf-8").replace(
            "images.class_names, keys=images.keys)",
            "images.class_names, keys=images.keys, on_error=on_error)",
        )
        data.write_text(text, encoding="utf-8")
        answer = pictured.repro("verify", *SETTINGS)
        assert answer["verdict"] == "identical"
        run = Path(answer["runs"][0])
        assert json.loads((run / "manifest.json").read_text())["skipped"] == [KEY]


def test_another_decoder_is_named_with_the_first_sample(
    pictured: Generated, tmp_path: Path
) -> None:
    other = (
        "    import os\n    from PIL import Image\n    opened = Image.open\n"
        "    def brighter(file, **named):\n"
        "        return opened(file, **named).point(lambda value: min(value + 1, 255))\n"
        f"    if os.path.exists('{tmp_path}/other'):\n"
        "        Image.open = brighter\n"
    )
    pictured.insert("data.py", '    images = ImageFolder("pictures"', other)
    one = pictured.repro("train", *SETTINGS)["run_dir"]
    (tmp_path / "other").touch()
    two = pictured.repro("train", *SETTINGS, "--fresh")["run_dir"]
    found = pictured.repro("diff", one, two, status=1)["first_divergence"]
    assert found["what"] == "content" and found["name"] == "sample kind-0/00000.jpg"
    assert len(found["names"]) == 200

"""A folder of images: how many a second are read and trained on, beside what others read with.

    python -m benchmarks.images PROJECT [--torch PROJECT] [--grain PYTHON]    20 minutes, two cores

Each PROJECT is a generated project that is installed (`make demo` leaves one in build/demo). Images
are drawn into a copy of each. All programs decode the same files, of 128 x 128 pixels, and train
the same small network with batches of 32. They take turns in each repetition; a ratio is between
two programs of one repetition, and its median is told. The table in docs/data.md is written by
this. PYTHON is that of an environment which has grain beside what a project has; with it, reading
alone is measured as well, and the line in docs/design_decisions.md is written.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import tempfile
from pathlib import Path

from . import figures
from .measuring import Measured, Program, machine, python, ratios, repro, spread, turns
from .speed import PLAIN, kept, plain, training

DATA = """

def drawn() -> Dataset:
    from repro import ImageFolder

    images = ImageFolder("drawn")
    return Dataset(images, images.labels)
"""
DRAW = """
import sys
from pathlib import Path
import numpy as np
from PIL import Image
folder, rng, y = Path(sys.argv[1]), np.random.default_rng(0), np.arange(128)
for place in range(int(sys.argv[2])):
    wave = np.sin(rng.uniform(1, 9, (3, 1, 1)) * (y[:, None] + rng.uniform(-1, 1) * y) / 20)
    image = np.clip(127 + 60 * wave + rng.normal(0, 25, (3, 128, 128)), 0, 255).astype(np.uint8)
    path = folder / f"kind-{place % 4}" / f"{place:05d}.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image.transpose(1, 2, 0)).save(path, quality=90)
"""
KERAS, LOADER = "Keras `image_dataset_from_directory` and `fit`", "PyTorch `DataLoader` and `fit`"
OURS, OURS_TORCH = "`repro train`, TensorFlow", "`repro train`, PyTorch"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("project", type=Path)
    parser.add_argument("--torch", type=Path)
    parser.add_argument("--grain", type=Path)
    parser.add_argument("--images", type=int, default=8000)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--repetitions", type=int, default=5)
    options = parser.parse_args()
    os.environ["PYTHONPATH"] = "src"  # That of the folder where a command runs: of the copy.
    with tempfile.TemporaryDirectory() as folder:
        programs = contest(Path(folder), options)
        if options.grain:
            told = alone(options.grain, Path(folder) / "tensorflow")
            figures.write("grain", told, file="design_decisions.md")
        found = turns(programs, options.repetitions)
        figures.write("images speed", table(found, options), file="data.md")


def alone(python: Path, project: Path) -> str:
    """Reading without training: how many images a second our readers read, and grain's."""
    command = [python.absolute(), PLAIN / "readers.py"]
    env = {**os.environ, "PYTHONPATH": str(project / "src")}
    said = subprocess.check_output(command, cwd=project, env=env, text=True)
    found = json.loads(said.splitlines()[-1])
    rates = [f"{name}: {statistics.median(values):.0f}" for name, values in found.items()]
    return f"{machine()} ({', '.join(rates)})"


def contest(folder: Path, options: argparse.Namespace) -> list[Program]:
    """The programs that take part; the images are drawn for them."""
    project = prepared(options.project, folder / "tensorflow", options.images)
    images = str(project / "data" / "drawn")
    asked = (images, str(options.epochs))
    settings = (
        *("data.name=drawn", "model.name=drawn", "training.batch_size=32", "split.test=0.01"),
        *("split.validation=0.09", f"training.epochs={options.epochs}"),
    )

    def train(name: str, where: Path) -> Program:
        return repro(name, where, "train", "--fresh", *settings, "--json")

    programs = [plain(KERAS, project, "images_fit.py", *asked), train(OURS, project)]
    if options.torch:
        other = prepared(options.torch, folder / "torch", options.images)
        programs += [plain(LOADER, other, "images_loader.py", *asked), train(OURS_TORCH, other)]
    return programs


def prepared(project: Path, folder: Path, images: int) -> Path:
    """A copy of a project that has the images and the network."""

    def left_out(where: str, names: list[str]) -> set[str]:
        return {"runs", "studies", ".venv", "data"} if Path(where) == project else set()

    shutil.copytree(project, folder, ignore=left_out)
    (folder / ".venv").symlink_to((project / ".venv").resolve())
    (package,) = (
        path.parent for path in folder.glob("src/*/data.py") if path.parent.name != "repro"
    )
    with (package / "data.py").open("a", encoding="utf-8") as file:
        file.write(DATA)
    text = (PLAIN / "images_model.py").read_text(encoding="utf-8")
    text = text.partition("\n\ndef build")[0].replace("def network", "def build")
    (package / "models" / "drawn.py").write_text(text, encoding="utf-8")
    drawing = ("-c", DRAW, str(folder / "data" / "drawn"), str(images))
    for arguments in (drawing, ("-m", "repro", "data", "add", "data/drawn")):
        subprocess.run([python(folder), *arguments], cwd=folder, check=True)
    return folder


def table(found: dict[str, list[Measured]], options: argparse.Namespace) -> str:
    """Images a second of the training alone, with its validations; ratios to both others."""
    trained = options.images * 0.9 * options.epochs
    others = [name for name in (KERAS, LOADER) if name in found]
    head = ["", "images a second", *(f"speed, to {name}" for name in others), "ledger", "memory"]
    rows = []
    for name, runs in found.items():
        speed = statistics.median(trained / training(one) for one in runs)
        beside = [spread(ratios(found[other], runs, training)) for other in others]
        memory = f"{max(one.memory for one in runs) / 1e9:.2f} GB"
        rows.append([name, f"{speed:.0f}", *beside, kept(runs), memory])
    about = f"{machine()}; {options.images} images, {options.epochs} epochs; median (and range) of "
    return f"\n\n{about}{options.repetitions} turns." + figures.table(head, rows)


if __name__ == "__main__":
    main()

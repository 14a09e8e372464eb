"""Each example of docs/examples.md, taken out of the page: it trains, learns, and can be killed."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from .conftest import TEMPLATE, Generated, bake, end, environment, kill_when, some

pytestmark = pytest.mark.real

PAGE = TEMPLATE / "docs" / "examples.md"
LONGEST = 45
"""The most lines of an example's data function and model together."""
PROMISE = re.compile(
    r"`(test_\w+)`\s+of\s+([\d.]+)\s+or\s+more.*?gives\s+(\d+(?:\.\d+)?)", re.DOTALL
)
"""A result of the test, the least that it has to be, and what it is without having learnt."""


@dataclass(frozen=True)
class Result:
    """What the page promises of a result of the test."""

    name: str
    least: float
    chance: float
    """What it is without having learnt anything."""


@dataclass(frozen=True)
class Training:
    """A training of an example, and what the page promises of it."""

    settings: tuple[str, ...]
    """What `repro verify` is told."""
    promised: tuple[Result, ...]


@dataclass(frozen=True)
class Example:
    """A section of the page."""

    data: str
    """What is appended to `data.py`."""
    files: tuple[tuple[str, str], ...]
    """The path of each other file in the project's package, and its text."""
    added: tuple[str, ...]
    """The paths that `repro data add` is told."""
    before: tuple[tuple[str, ...], ...]
    """What `repro train` is told for each run that the trainings begin from."""
    trainings: tuple[Training, ...]

    def put(self, project: Generated) -> None:
        """Writes the example into a project, as the page says."""
        project.append("data.py", f"\n\n{self.data}")
        for file, text in self.files:
            (project.package / file).write_text(text, encoding="utf-8")


def example(section: str) -> Example:
    """Reads a section; one that is not written as the others are raises ValueError."""
    (data_file, data), *files = re.findall(
        r"^In `([\w/.]+)`:\n\n```python\n(.*?)^```", section, re.DOTALL | re.MULTILINE
    )
    if data_file != "data.py" or not files[-1][0].startswith("models/"):
        raise ValueError(f"expected data.py first and a model last, got {data_file}, {files}")
    added: list[str] = []
    before: list[tuple[str, ...]] = []
    trainings: list[Training] = []
    for block, after in re.findall(
        r"^```console\n(.*?)^```\n(.*?)(?=^```|\Z)", section, re.DOTALL | re.MULTILINE
    ):
        for command in block.replace("\\\n", " ").splitlines():
            match shlex.split(command):
                case ["repro", "data", "add", path]:
                    added.append(path)
                case ["repro", "train", *settings]:
                    before.append(tuple(settings))
                case ["repro", "verify", *settings]:
                    promised = (
                        Result(name, float(least), float(chance))
                        for name, least, chance in PROMISE.findall(after)
                    )
                    trainings.append(Training(tuple(settings), tuple(promised)))
                case _:
                    raise ValueError(f"expected repro data add, train or verify, got {command}")
    return Example(data, tuple(files), tuple(added), tuple(before), tuple(trainings))


def examples() -> dict[str, Example]:
    """The examples of the page, by their headings."""
    _, *sections = re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    parted = [section.partition("\n") for section in sections]
    return {heading.lower(): example(section) for heading, _, section in parted}


EXAMPLES = examples()
NEEDS = {"tables": "ColumnTransformer", "hub": "keras_hub"}
"""By lock: the word in an example's files that says that it needs what the lock has."""
BACKENDS = ("tensorflow", "jax", "torch")
TENSORFLOW_ALONE = ("text",)
SHORT = ("a folder of images, tensorflow", "a table with mixed columns, tensorflow")


def cells() -> list[Any]:
    """Each example on each backend that has what it needs, as parameters of a test."""
    names = [
        f"{name}, {backend}"
        for name in EXAMPLES
        for backend in BACKENDS
        if backend == "tensorflow" or name not in TENSORFLOW_ALONE
    ]
    return some(names, SHORT)


# The files that the examples read.


def flowers(folder: Path) -> None:
    """Fifty images of 80 x 72 pixels of each kind: a disc of the kind's colour, and noise."""
    rng = np.random.default_rng(0)
    kinds = {"daisy": (235, 235, 225), "poppy": (200, 50, 45), "violet": (120, 70, 170)}
    down, across = np.mgrid[:72, :80]
    for kind, colour in kinds.items():
        (folder / kind).mkdir(parents=True)
        for number in range(50):
            image = rng.normal((60, 110, 50), 30, (72, 80, 3))
            y, x, radius = rng.uniform((20, 20, 8), (52, 60, 18))
            image[(down - y) ** 2 + (across - x) ** 2 < radius**2] += np.array(colour) - 80
            pixels = image.clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / kind / f"{number:02d}.jpg")


def houses(path: Path) -> None:
    """Three hundred houses, of which every seventh has no area, and every ninth no year."""
    rng = np.random.default_rng(0)
    lines = ["id,area,rooms,year,district,heating,price"]
    for number in range(300):
        rooms, year = rng.integers(1, 8), rng.integers(1900, 2020)
        area = 25 * rooms + rng.integers(0, 20)
        district, heating = rng.choice(["centre", "harbour", "hill"]), rng.choice(["gas", "wood"])
        worth = 2_000 * area + 500 * (year - 1900) + 80_000 * (district == "harbour")
        price = worth + 20_000 * (heating == "gas") + rng.integers(0, 20_000)
        missing = ("" if number % 7 == 0 else area, rooms, "" if number % 9 == 0 else year)
        lines.append(",".join(map(str, (number, *missing, district, heating, price))))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def reviews(path: Path) -> None:
    """Four hundred reviews, of 4 to 13 words; the words that tell are in no fixed place."""
    rng = np.random.default_rng(0)
    told = {0: ["dull", "noisy", "broken", "late"], 1: ["lovely", "quick", "sturdy", "fine"]}
    others = ["the", "a", "it", "was", "and", "came", "with", "my", "order", "box", "très"]
    lines = []
    for _ in range(400):
        liked = int(rng.integers(0, 2))
        words = [*rng.choice(others, rng.integers(3, 12)), *rng.choice(told[liked], 1)]
        lines.append(f"{liked}\t{' '.join(rng.permutation(words))}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def tales(path: Path) -> None:
    """Three hundred sentences: who it is about decides all other words."""
    rng = np.random.default_rng(0)
    about = {
        "cat": "the cat sees a mouse and runs after it .",
        "dog": "a dog hears his friend , so he barks .",
    }
    about |= {
        "bird": "one bird sings in her tree before it rains .",
        "fish": "my fish swims under some stones all day .",
    }
    chosen = rng.choice([*about], 300)
    path.write_text("\n".join(about[one] for one in chosen) + "\n", encoding="utf-8")


BERT = """
import sys
from pathlib import Path

import keras
from keras_hub.models import BertBackbone, BertTextClassifier, BertTextClassifierPreprocessor
from keras_hub.tokenizers import BertTokenizer

keras.utils.set_random_seed(0)
lines = Path("data/reviews.tsv").read_text(encoding="utf-8").splitlines()
labels, texts = zip(*(line.split("\t") for line in lines))
words = sorted({word for text in texts for word in text.split()})
tokenizer = BertTokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words])
backbone = BertBackbone(len(words) + 5, 2, 2, 32, 64, max_sequence_length=32)
model = BertTextClassifier(backbone, 2, BertTextClassifierPreprocessor(tokenizer, 16))
model.compile(
    optimizer=keras.optimizers.Adam(0.003),
    loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
)
model.fit(list(texts), keras.ops.array([int(one) for one in labels]), epochs=6, verbose=0)
backbone.save_to_preset(sys.argv[1])
tokenizer.save_to_preset(sys.argv[1])
"""
"""Writes a small pretrained model, as KerasHub has them."""


MADE: dict[str, Callable[[Path], None]] = {
    "data/flowers": flowers,
    "data/houses.csv": houses,
    "data/reviews.tsv": reviews,
    "data/tales.txt": tales,
}


def begun(name: str, project: Generated) -> Example:
    """An example in a project, with its files in the lock."""
    found = EXAMPLES[name]
    found.put(project)
    done = project.run("repro.recipe.catalogue")  # As `make sync` does after `make lock`.
    assert done.returncode == 0, done.stderr
    for path in found.added:
        (project.root / path).parent.mkdir(exist_ok=True)
        if path == "data/bert":
            reviews(project.root / "data" / "reviews.tsv")
            subprocess.run([project.python, "-c", BERT, path], cwd=project.root, check=True)
        else:
            MADE[path](project.root / path)
        project.repro("data", "add", path)
    return found


@pytest.mark.parametrize("cell", cells())
def test_an_example_learns_and_can_be_killed(cell: str, tmp_path: Path) -> None:
    name, _, backend = cell.rpartition(", ")
    # Columns have names by pandas, which only some projects have.
    texts = [EXAMPLES[name].data, *(text for _, text in EXAMPLES[name].files)]
    also = [lock for lock, word in NEEDS.items() if any(word in text for text in texts)]
    python = environment(backend, also=also)
    project = bake(tmp_path, python, backend=backend)
    found = begun(name, project)
    begins = [Path(project.repro("train", *one)["run_dir"]).name for one in found.before]
    for training in found.trainings:
        answer = project.repro("verify", *training.settings)
        assert answer["verdict"] == "identical"
        assert answer["guarantee"] == {"asked": "machine", "holds": "machine", "broken": []}
        for result in training.promised:
            assert answer["metrics"][result.name] >= result.least, answer["metrics"]

        whole = end(Path(answer["runs"][0]))
        # The latest run is not the same one any more.
        again = [one.replace("=latest", f"={''.join(begins)}") for one in training.settings]
        often = (*again, "--checkpoint-seconds", "0")
        run = kill_when(project, often, len(whole["ledger"]) * 0.6)
        assert Path(project.repro("train", *often)["run_dir"]) == run
        assert end(run) == whole


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_short_and_promises_more_than_chance(name: str) -> None:
    found = EXAMPLES[name]
    texts = (found.data, *(text for _, text in found.files))
    assert sum(len(text.splitlines()) for text in texts) <= LONGEST
    assert found.trainings
    for training in found.trainings:
        assert training.promised, training.settings
        assert all(one.least > one.chance + 0.2 for one in training.promised), training.promised


def test_a_linter_finds_no_fault_in_an_example(installed: Path, tmp_path: Path) -> None:
    """The imports go to the top of the file, where ruff sorts them; the rest stays as it is."""
    project = bake(tmp_path, installed)
    for one in EXAMPLES.values():
        one.put(project)
    path = project.package / "data.py"
    imports = re.compile(r"^(?:from|import) (?!__future__).*\n", re.MULTILINE)
    content = path.read_text(encoding="utf-8")
    before, _, after = imports.sub("", content).partition("from __future__ import annotations\n")
    top = f"{before}from __future__ import annotations\n\n{''.join(imports.findall(content))}"
    path.write_text(re.sub(r"\n{4,}", "\n\n\n", top + after), encoding="utf-8")
    project.run("ruff", "check", "--fix", ".")
    for command in (("ruff", "check", "."), ("ruff", "format", "--check", "."), ("mypy",)):
        done = project.run(*command)
        assert done.returncode == 0, done.stdout + done.stderr

"""What a training ends with where not every epoch has a validation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from .conftest import Generated

pytestmark = pytest.mark.real
FEW = ("split.train_size=100", "model.units=16", "training.epochs=3")
STOPPING = ("callbacks.early_stopping.monitor=loss", "callbacks.early_stopping.patience=9")
JUDGE = """
class _Judged(keras.Sequential):
    def judge(self, x, y):
        return {"odd": 1.0}


"""


@pytest.fixture(scope="module")
def mine(project: Generated, tmp_path_factory: pytest.TempPathFactory) -> Generated:
    return project.copy(tmp_path_factory.mktemp("validation") / "project")


def trained(project: Generated, *overrides: str) -> tuple[dict[str, Any], list[dict[str, float]]]:
    """The manifest of a training, and its history."""
    run = Path(project.repro("train", *FEW, *overrides)["run_dir"])
    content: dict[str, Any] = json.loads((run / "manifest.json").read_text())
    return content, json.loads((run / "history.json").read_text())


def test_the_model_that_a_training_ends_with_is_validated(mine: Generated) -> None:
    each, history = trained(mine)
    second, fewer = trained(mine, "training.validation_freq=2")
    # Looking less often changes no weight, and the model at the end is looked at in any case.
    assert second["digest"] == each["digest"] and second["metrics"] == each["metrics"]
    assert ["val_loss" in row for row in fewer] == [False, True, False]
    assert [{**row, **seen} for row, seen in zip(history, fewer, strict=True)] == history
    # The best by what is measured in each epoch is one without a validation.
    best = (*STOPPING, "callbacks.early_stopping.restore_best_weights=true")
    restored, _ = trained(mine, "training.validation_freq=2", *best)
    assert restored["metrics"] == each["metrics"] and restored["digest"] == each["digest"]


def test_a_study_may_look_less_often(mine: Generated) -> None:
    answer = mine.repro("sweep", *FEW[:2], "training.epochs=2,3", "training.validation_freq=2,4")
    assert len(answer["rows"]) == 4
    assert all("val_loss" in row["metrics"] for row in answer["rows"])
    mine.repro("report", "--study", answer["study"])


def test_what_is_better_is_asked_where_it_is_not_known(mine: Generated, tmp_path: Path) -> None:
    odd = mine.copy(tmp_path / "project")
    odd.insert("models/dense.py", "def build(", JUDGE)
    path = odd.package / "models" / "dense.py"
    path.write_text(path.read_text().replace("return keras.Sequential(", "return _Judged("))
    stopping = "callbacks.early_stopping.monitor=val_odd"
    done = odd.run("repro", "train", *FEW, stopping)
    assert done.returncode == 2, done.stderr
    assert "EarlyStopping.mode: expected min or max, got auto" in done.stderr
    assert not list(odd.root.glob("runs/*"))
    odd.repro("train", *FEW, stopping, "callbacks.early_stopping.mode=max")


def test_a_split_that_was_replaced_is_not_trained_on(mine: Generated, tmp_path: Path) -> None:
    """A recipe names a split by its digest, and the file under that name is compared with it."""
    first = Path(mine.repro("train", *FEW)["run_dir"])
    other = Path(mine.repro("train", *FEW, "split.seed=1")["run_dir"])
    once = mine.repro("train", *FEW[1:], f"split.file={first.name}")
    (kept,) = mine.root.glob("splits/*.npz")
    kept.write_bytes((other / "split.npz").read_bytes())
    again = mine.run("repro", "train", *FEW[1:], f"split.file={first.name}", "--fresh")
    assert again.returncode == 2 and again.stderr.count("\n") == 1, again.stderr
    assert "split.file: expected the split" in again.stderr
    kept.write_bytes((first / "split.npz").read_bytes())
    same = mine.repro("train", *FEW[1:], f"split.file={first.name}", "--fresh")
    assert same["digest"] == once["digest"]

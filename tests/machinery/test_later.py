"""What Keras imports for its pictures alone is put off, and is there for who asks for it."""

from __future__ import annotations

import importlib
import importlib.util
import os
import subprocess
import sys

import pytest

from repro.environment import later
from repro.recipe import reading
from repro.recipe.project import Project

PROJECT = Project.find()
BACKEND = reading.parameters(PROJECT.source, PROJECT.root / "params.yaml").backend

KERAS = """
import sys
from repro.environment import later
with later.pictures():
    import keras
assert not [name for name in sys.modules if name.startswith("matplotlib")]
from keras.src.visualization import plot_bounding_box_gallery, plot_image_gallery
standing = plot_image_gallery.plt, plot_bounding_box_gallery.patches
import matplotlib
assert "matplotlib.pyplot" not in sys.modules
figure = standing[0].figure()
patch = standing[1].Patch(color="red")
import matplotlib.figure, matplotlib.patches, matplotlib.pyplot
assert isinstance(figure, matplotlib.figure.Figure)
assert isinstance(patch, matplotlib.patches.Patch)
assert matplotlib.pyplot is not standing[0] and matplotlib.pyplot.figure is standing[0].figure
import numpy as np
images = np.zeros((4, 8, 8, 3), "uint8")
keras.visualization.plot_image_gallery(images, rows=2, cols=2, path="a.png")
print("drawn")
"""


def test_keras_draws_although_nothing_was_imported_for_it(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    env = {**os.environ, "KERAS_BACKEND": BACKEND, "MPLBACKEND": "agg"}
    env["PYTHONPATH"] = str(PROJECT.root / "src")
    folder = tmp_path_factory.mktemp("drawn")
    command = [sys.executable, "-c", KERAS]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "drawn\n" and (folder / "a.png").stat().st_size > 0


def test_who_has_it_keeps_it() -> None:
    before = importlib.import_module("matplotlib.pyplot")
    with later.pictures():
        assert importlib.import_module("matplotlib.pyplot") is before
    assert importlib.import_module("matplotlib.pyplot") is before


def test_where_it_is_missing_its_importer_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with later.pictures():
        assert "matplotlib" not in sys.modules

"""A gate that never goes red is worth nothing: faults put into a project, and what it says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import Generated, document, fewer, some

pytestmark = pytest.mark.real

# True in each run of a gate after the first.
IN_ONE_RUN = """
def _in_one_run() -> bool:
    import json, sys
    return json.load(open(f"{sys.argv[1]}/manifest.json"))["surroundings"]["index"] > 0

"""
DATA, MODEL, RETURN = "def digits(", "def build(", "    return keras.Sequential("
IMAGES = "    x = (images"


def unseeded_draw(project: Generated) -> None:
    project.insert("data.py", IMAGES, "    images += np.random.default_rng().normal(size=1)\n")


def set_order(project: Generated) -> None:
    text = "    names = {str(number) for number in range(len(images))}\n"
    text += "    images = images[[int(name) for name in names]]\n"
    project.insert("data.py", IMAGES, text)


def listing_order(project: Generated) -> None:
    folder = project.root / "data" / "parts"
    folder.mkdir(parents=True)
    for number in range(7):
        (folder / f"{number}.csv").write_text(f"{number}\n")
    text = "    import os\n    for name in os.listdir('data/parts'):\n"
    text += "        images = images * 0.9 + float(open(f'data/parts/{name}').read())\n"
    project.insert("data.py", IMAGES, text)


def seed_from_the_clock(project: Generated) -> None:
    text = "    import time\n    keras.utils.set_random_seed(int(time.time()) // 3600)\n"
    project.insert("models/dense.py", RETURN, text)


def layer_with_its_own_generator(project: Generated) -> None:
    text = "class _Noise(layers.Layer):\n"
    text += "    def call(self, x, training=False):\n"
    text += "        import numpy as np, tensorflow as tf\n"
    text += "        generator = np.random.default_rng()\n"
    text += "        draw = lambda: np.float32(generator.normal())\n"
    text += "        noise = tf.numpy_function(draw, [], tf.float32)\n"
    text += "        return x + tf.reshape(noise, ()) if training else x\n\n\n"
    project.insert("models/dense.py", MODEL, text)
    project.insert("models/dense.py", "            layers.Dropout(", "            _Noise(),\n")


def unseeded_dropout(project: Generated) -> None:
    file, before = "models/dense.py", "            layers.Dense(classes"
    seed = "__import__('secrets').randbits(31)"
    project.insert(file, before, f"            layers.Dropout(0.5, seed={seed}, name='own'),\n")


def one_unit_in_the_last_place(project: Generated) -> None:
    # In one element of one weight, after the last step of the second epoch of 79 steps.
    text = IN_ONE_RUN + "class _Nudged(keras.Sequential):\n"
    text += "    def build(self, *shape):\n"
    text += "        super().build(*shape)\n"
    text += "        self.nudge = float(_in_one_run())\n\n"
    text += "    def train_step(self, data):\n"
    text += "        import tensorflow as tf\n"
    text += "        logs = super().train_step(data)\n"
    text += "        kernel = self.layers[1].kernel\n"
    text += "        now = tf.equal(self.optimizer.iterations.value, 2 * 79)\n"
    text += "        old = kernel.value[0, 0]\n"
    text += "        new = tf.bitcast(tf.bitcast(old, tf.int32) + 1, tf.float32)\n"
    text += "        change = tf.where(now & (self.nudge > 0), new, old)\n"
    text += "        kernel.value.scatter_nd_update([[0, 0]], [change])\n"
    text += "        return logs\n\n\n"
    project.insert("models/dense.py", MODEL, text)
    path = project.package / "models" / "dense.py"
    path.write_text(path.read_text().replace("return keras.Sequential(", "return _Nudged("))


def thread_count(project: Generated) -> None:
    text = IN_ONE_RUN + "import tensorflow as tf\n\n"
    text += "tf.config.threading.set_intra_op_parallelism_threads(1 + _in_one_run())\n\n\n"
    project.insert("data.py", DATA, text)


def batch_order(project: Generated) -> None:
    # The second epoch begins with the first two samples exchanged.
    text = IN_ONE_RUN + "from repro.basics import seeds\n\n_order = seeds.permutation\n"
    text += "_swap = _in_one_run()\n\n"
    text += "def _swapped(seed, epoch, *size):\n"
    text += "    order = _order(seed, epoch, *size)\n"
    text += "    if _swap and epoch == 2:\n"
    text += "        order[[0, 16]] = order[[16, 0]]\n"
    text += "    return order\n\nseeds.permutation = _swapped\n\n\n"
    project.insert("data.py", DATA, text)


BEFORE = {"epoch": 0, "step": 0}
KERNEL = "dense/hidden/kernel"
FAULTS: dict[Callable[[Generated], None], dict[str, Any]] = {
    unseeded_draw: {"stage": "data", "what": "samples", "name": "x", **BEFORE},
    set_order: {"stage": "data", "what": "samples", "name": "x", **BEFORE},
    listing_order: {"stage": "data", "what": "samples", "name": "x", **BEFORE},
    seed_from_the_clock: {"stage": "initial", "what": "weights", **BEFORE},
    layer_with_its_own_generator: {"stage": "step", "what": "metrics", "epoch": 1, "step": 78},
    unseeded_dropout: {"stage": "initial", "what": "generators", **BEFORE},
    one_unit_in_the_last_place: {
        "stage": "epoch",
        "what": "weights",
        "epoch": 2,
        "step": 79,
        "names": [KERNEL],
    },
    thread_count: {"stage": "environment", "name": "intra_op_threads", **BEFORE},
    batch_order: {"stage": "step", "what": "order", "epoch": 2, "step": 78},
}
# The others differ whatever is varied; more causes are in test_vary.py.
VARIATION: dict[Callable[[Generated], None], str] = {
    set_order: "hash-seed",
    listing_order: "directory-order",
    seed_from_the_clock: "clock",
}


BY_NAME = {fault.__name__: fault for fault in FAULTS}
SHORT = ("unseeded_draw", "set_order", "layer_with_its_own_generator", "one_unit_in_the_last_place")


@pytest.mark.parametrize("name", some(BY_NAME, SHORT))
def test_a_fault_turns_the_gate_red(name: str, project: Generated, tmp_path: Path) -> None:
    fault, faulty = BY_NAME[name], project.copy(tmp_path / "project")
    fault(faulty)
    answer = faulty.repro("verify", "training.epochs=3", "--no-explain", status=1)
    assert answer["verdict"] == "diverged"
    found = answer["first_divergence"]
    assert FAULTS[fault].items() <= found.items(), found
    assert answer["cause"]["variation"] == ([VARIATION[fault]] if fault in VARIATION else [])
    # Two run directories, compared later, tell the same.
    again = faulty.repro("diff", *answer["runs"], status=1)
    assert again["first_divergence"] == found


def test_sources_that_change_turn_the_gate_red(project: Generated, tmp_path: Path) -> None:
    faulty = project.copy(tmp_path / "project")
    draw = "    images += np.random.default_rng().normal(size=1)\n"
    faulty.insert("data.py", "    sources = {", draw)
    answer = faulty.repro("verify", "training.epochs=1", "--no-explain", status=1)
    found = answer["first_divergence"]
    assert (found["stage"], found["what"], found["name"]) == ("data", "sources", "digits images")
    # Two runs of one gate should have read the same; of two runs on other data it is only said
    # that they cannot be compared.
    answer = faulty.repro("diff", *answer["runs"], status=3)
    assert list(answer["not_comparable"]) == ["data.digits images"]


def test_a_clean_gate_is_green(project: Generated) -> None:
    archives_differ, gates = 0, fewer(4, 200)
    for gate in range(gates):
        answer = project.repro("verify", "training.epochs=1")
        assert answer["verdict"] == "identical", f"false alarm in gate {gate}: {answer}"
        one, other = (Path(run) / "model.keras" for run in answer["runs"])
        archives_differ += one.read_bytes() != other.read_bytes()
    assert archives_differ, "no two archives differed: this test shows less than it says"
    document(
        "gates",
        f"{gates} gates of a clean project under all variations but `caches`: 0 red; in "
        f"{archives_differ} of them the bytes of the two `model.keras` differed",
    )

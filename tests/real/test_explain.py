"""Where two runs part, to the step, the tensor and the element: faults at known places.

Each fault does its work in the varied run of a gate alone, and again when that run is looked at.
Steps: the digits give 79 an epoch.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from .conftest import Generated, document, some

pytestmark = pytest.mark.real

VARIED = "__import__('os').environ['PYTHONHASHSEED'] != '0'"
ULP = """
def _ulp(x, here):
    import tensorflow as tf

    return tf.where(here, tf.bitcast(tf.bitcast(x, tf.int32) + 1, tf.float32), x)

"""
MODEL = f"""
class _Model(keras.Sequential):
    def train_step(self, data):
        import tensorflow as tf

        step = tf.convert_to_tensor(self.optimizer.iterations.value) + 1
        here = lambda number: tf.logical_and({VARIED}, tf.equal(step, number))
        BEFORE
        logs = super().train_step(data)
        AFTER
        return logs

"""
LAYER = """
class _Layer(layers.Layer):
    def build(self, shape):
        self.step = self.add_weight(shape=(), dtype="int32", trainable=False, name="step")

    def call(self, x, training=False):
        import tensorflow as tf

        if not training:
            return x
        self.step.assign_add(1)
        BODY
"""


@dataclass(frozen=True)
class Fault:
    """Lines before `build` in `models/dense.py`, and what is exchanged in that file or in data."""

    lines: str = ""
    exchange: tuple[tuple[str, str], ...] = ()
    data: str = ""


def in_step(number: int, what: str, before: str = "pass") -> Fault:
    after = what.replace("HERE", f"here({number})")
    model = MODEL.replace("BEFORE", before).replace("AFTER", after)
    return Fault(ULP + model, (("return keras.Sequential(", "return _Model("),))


def in_layer(body: str) -> Fault:
    inserted = (
        ("            layers.Dropout(", "            _Layer(),\n            layers.Dropout("),
    )
    return Fault(ULP + LAYER.replace("BODY", body), inserted)


def in_data(line: str) -> Fault:
    return Fault(data=f"    if {VARIED}:\n        {line}\n")


RETURN = "    return Dataset(\n        x,"
SHORT = ("a pixel", "a layer in step 100", "a weight in step 90")
START = {"epoch": 0, "step": 0}
OUTPUT = "dense/output/kernel"
FAULTS: dict[str, tuple[Fault, dict[str, Any]]] = {
    "a pixel": (
        in_data("x[:, 3, 5] = np.nextafter(x[:, 3, 5], np.float32(2))"),
        {**START, "kind": "data", "tensor": "x", "index": [0, 3, 5, 0], "ulps": 1},
    ),
    "the labels": (
        in_data("y[11] = 3"),
        {**START, "kind": "data", "tensor": "y", "index": [11], "b": 3, "elements": 1},
    ),
    "an initial weight": (
        Fault(
            lines=ULP + "class _Nudged(keras.initializers.GlorotUniform):\n"
            "    def __call__(self, shape, dtype=None, **rest):\n"
            "        import numpy as np\n"
            "        drawn = np.array(super().__call__(shape, dtype, **rest))\n"
            f"        if {VARIED}:\n"
            "            drawn[7, 3] = np.nextafter(drawn[7, 3], np.float32(9))\n"
            "        return keras.ops.convert_to_tensor(drawn)\n\n",
            exchange=(('name="output"', 'name="output", kernel_initializer=_Nudged()'),),
        ),
        {**START, "kind": "initial weight", "tensor": OUTPUT, "index": [7, 3], "ulps": 1},
    ),
    "a generator": (
        Fault(
            exchange=(
                (
                    'layers.Dropout(dropout, name="dropout")',
                    f"layers.Dropout(0.5, seed=int({VARIED}))",
                ),
            )
        ),
        {**START, "kind": "generator state"},
    ),
    "the order in epoch 2": (
        Fault(
            data="    from repro.basics import seeds\n"
            "    order = seeds.permutation\n"
            "    def swapped(seed, epoch, *size):\n"
            "        found = order(seed, epoch, *size)\n"
            f"        if {VARIED} and epoch == 2:\n"
            "            found[[160, 177]] = found[[177, 160]]\n"
            "        return found\n"
            "    seeds.permutation = swapped\n"
        ),
        {"epoch": 2, "step": 11, "kind": "batch indices", "tensor": "0", "index": [0]},
    ),
    "a layer in step 100": (
        in_layer(f"return _ulp(x, tf.logical_and({VARIED}, tf.equal(self.step.value, 100)))"),
        {"epoch": 2, "step": 21, "kind": "activation", "tensor": "dense/__layer/0", "ulps": 1},
    ),
    "a gradient in step 50": (
        in_layer(
            f"here = tf.logical_and({VARIED}, tf.equal(self.step.value, 50))\n"
            "        back = lambda gradient: _ulp(gradient, here)\n"
            "        same = tf.custom_gradient(lambda x: (tf.identity(x), back))\n"
            "        return same(x)"
        ),
        {"epoch": 1, "step": 50, "kind": "gradient", "tensor": "dense/hidden/kernel"},
    ),
    "a weight in step 90": (
        in_step(
            90,
            "kernel = self.layers[-1].kernel\n"
            "        kernel.assign(tf.tensor_scatter_nd_update(kernel.value, [[5, 2]], "
            "[_ulp(kernel.value[5, 2], HERE)]))",
        ),
        {
            "epoch": 2,
            "step": 11,
            "kind": "weight after",
            "tensor": OUTPUT,
            "index": [5, 2],
            "ulps": 1,
            "elements": 1,
        },
    ),
    "a momentum in step 3": (
        in_step(
            3,
            "slot = self.optimizer.variables[2]\n"
            "        slot.assign(tf.where(HERE, slot.value * 1.5, slot.value))",
        ),
        {"epoch": 1, "step": 3, "kind": "optimizer slot"},
    ),
    "the learning rate in step 80": (
        in_step(
            80,
            "rate = self.optimizer.learning_rate\n        rate.assign(_ulp(rate.value, HERE))",
        ),
        {
            "epoch": 2,
            "step": 1,
            "kind": "optimizer slot",
            "tensor": "adam/learning_rate",
            "ulps": 1,
        },
    ),
    "a moving generator in step 7": (
        in_step(
            7,
            "state = self.layers[2].seed_generator.state\n"
            "        state.assign(tf.where(HERE, state.value + tf.cast(1, state.value.dtype), "
            "state.value))",
        ),
        {"epoch": 1, "step": 7, "kind": "generator state after"},
    ),
    "what a layer does to one sample": (
        in_layer(
            f"here = tf.logical_and({VARIED}, tf.equal(self.step.value, 158))\n"
            "        here = tf.reshape(tf.logical_and(here, tf.equal(tf.range(tf.size(x)), 9)), "
            "tf.shape(x))\n"
            "        return _ulp(x, here)"
        ),
        {"epoch": 2, "step": 79, "kind": "activation", "index": [0, 9], "ulps": 1, "elements": 1},
    ),
}


@pytest.mark.parametrize("name", some(FAULTS, SHORT))
def test_the_place_is_named_exactly(name: str, project: Generated, tmp_path: Path) -> None:
    fault, place = FAULTS[name]
    faulty = project.copy(tmp_path / "project")
    faulty.insert("models/dense.py", "def build(", fault.lines)
    path = faulty.package / "models" / "dense.py"
    text = path.read_text()
    for old, new in fault.exchange:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    path.write_text(text)
    faulty.insert("data.py", RETURN, fault.data)
    # Which variation it is `test_vary.py` looks for among all of them.
    arguments = ("--vary", "hash-seed", "training.epochs=3", "model.dropout=0.2")
    answer = faulty.repro("verify", *arguments, status=1)
    found = answer["explanation"]
    assert found["again"], answer["first_divergence"]
    assert {key: found.get(key) for key in place} == place, found
    assert found["cause"]
    assert answer["cause"]["variation"] == ["hash-seed"]
    # Nothing is left of the runs made to look.
    assert len(list(faulty.root.glob("runs/*"))) == 2
    where = f"epoch {found['epoch']}, step {found['step']}" if found["epoch"] else "the beginning"
    apart = "" if found["ulps"] is None else f", {found['ulps']} units in the last place"
    document(
        f"fault {name}",
        f"{where}: {found['kind']} `{found['tensor']}` {found['index']}{apart}; "
        f"{found['cause'].partition(':')[0]}",
    )


def test_what_does_not_part_again_is_said_to(project: Generated, tmp_path: Path) -> None:
    faulty = project.copy(tmp_path / "project")
    mark = str(tmp_path / "once")
    once = f"    import os\n    if not os.path.exists({mark!r}):\n"
    once += f"        open({mark!r}, 'x').close()\n"
    faulty.insert("data.py", RETURN, once + "        x[0] += 1\n")
    answer = faulty.repro("verify", "training.epochs=1", "threads=2", status=1)
    assert answer["explanation"]["again"] is False
    assert answer["cause"]["variation"] == []

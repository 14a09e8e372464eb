"""State that neither model nor optimizer holds: kept, or no checkpoint is written; and where it is
lost all the same, the gate is red."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from .conftest import Generated

pytestmark = pytest.mark.real

MODEL = """
import keras
import numpy as np
import tensorflow as tf
from keras import layers

{module}

class Layer(layers.Layer):
    def call(self, x, training=False):
{call}

class Model(keras.Sequential):
    pass

{more}

def build(input_shape, classes):
    return Model(
        [keras.Input(input_shape), layers.Flatten(), layers.Dense(8), Layer(),
         layers.Dense(classes, activation="softmax")]
    )
"""
STEP = """
def train_step(self, data):
    with tf.GradientTape() as tape:
        loss = self.compute_loss(data[0], data[1], self(data[0], training=True))
    weights = self.trainable_variables
    gradients = tape.gradient(loss, weights)
    self.optimizer.apply(gradients[:2], weights[:2])
    self.d_optimizer.apply(gradients[2:], weights[2:])
    return {"loss": loss}

def compiled(self, **arguments):
    keras.Sequential.compile(self, **arguments)
    self.d_optimizer = keras.optimizers.Adam(0.01)
    self.d_optimizer.build(self.trainable_variables[2:])

Model.train_step, Model.compile = train_step, compiled
"""
HOST = """
steps = []

def learn(self, x, y):
    steps.append(len(x))
    self.layers[1].kernel.assign_add(self.layers[1].kernel * 1e-3 * len(steps))

Model.learn = learn
Model.judge = lambda self, x, y: {"size": float(len(x))}
"""
NOISE = "        return x + {} if training else x"
MODELS = {
    "seed_generator": MODEL.format(
        module="SEEDS = keras.random.SeedGenerator(3)",
        call=NOISE.format("keras.random.normal((8,), seed=SEEDS)"),
        more="",
    ),
    "variable": MODEL.format(
        module="class Box:\n    pass\n\nBOX = Box()\nBOX.count = keras.Variable(np.float32(0))",
        call="        BOX.count.assign_add(1.0)\n" + NOISE.format("0.01 * BOX.count"),
        more="",
    ),
    "tf_generator": MODEL.format(
        module="GENERATOR = tf.random.Generator.from_seed(3)",
        call=NOISE.format("GENERATOR.normal((8,))"),
        more="",
    ),
    "stateful_operation": MODEL.format(
        module="", call=NOISE.format("tf.random.uniform((8,))"), more=""
    ),
    "numpy_generator": MODEL.format(
        module="GENERATOR = np.random.default_rng(7)\n\n"
        "def draw():\n    return GENERATOR.normal(size=8).astype(np.float32)",
        call=NOISE.format("tf.reshape(tf.numpy_function(draw, [], tf.float32), (8,))"),
        more="",
    ),
    "second_optimizer": MODEL.format(module="", call="        return x", more=STEP),
}
UNSEEN = {"host_list": MODEL.format(module="", call="        return x", more=HOST)}
"""What only the gate can see: a list in memory, in a step on the host."""

# Two runs, the second killed in the middle and gone on: their verdict, and what was noted.
GATE = """
import json, sys
from repro.compare import comparison, gate
from repro.recipe.project import Project
from repro.run import manifest, recipes
project = Project.find()
for name in sys.argv[1:]:
    own = ["training.metrics=[]", "training.loss=null"] if name == "host_list" else []
    given = [f"model.name={name}", "training.epochs=2", "training.batch_size=64", *own]
    made = recipes.make(project, given)
    runs = gate.train_all(project, made, 2, lambda run, event: None, ["killed"])
    found = manifest.read(runs[1])
    assert found.resumed, "it was not killed"
    verdict = comparison.compare(*runs).verdict
    print(json.dumps([name, verdict, found.notes]), flush=True)
"""


def gate(project: Generated, models: dict[str, str]) -> dict[str, tuple[str, list[str]]]:
    """The verdict on each model, and the notes in its manifest."""
    for name, text in models.items():
        (project.package / "models" / f"{name}.py").write_text(text, encoding="utf-8")
    done = subprocess.run(
        [str(project.python), "-c", GATE, *models],
        cwd=project.root,
        env={"PYTHONPATH": str(project.root / "src"), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return {name: (verdict, notes) for name, verdict, notes in lines}


def test_what_can_be_found_is_kept(project: Generated, tmp_path: Path) -> None:
    found = gate(project.copy(tmp_path / "kept"), MODELS | UNSEEN)
    assert {name: verdict for name, (verdict, _) in found.items()} == {
        **dict.fromkeys(MODELS, "identical"),
        "host_list": "diverged",
    }
    named = {name: notes for name, (_, notes) in found.items() if notes}
    assert named.keys() == {"stateful_operation", "numpy_generator"}
    assert (
        "RandomUniform keeps a state that no checkpoint can have" in named["stateful_operation"][0]
    )
    assert "PyFunc" in named["numpy_generator"][0]


def test_the_gate_sees_what_was_not_kept(project: Generated, tmp_path: Path) -> None:
    """Without the search for such state, the variation `killed` alone is red on each of them."""
    blind = project.copy(tmp_path / "blind")
    with (blind.root / "src" / "repro" / "run" / "outside.py").open("a", encoding="utf-8") as file:
        file.write("\n\nsettle = lambda *given: None\nunkept = lambda graphs: []\n")
    found = gate(blind, MODELS)
    assert {name: verdict for name, (verdict, _) in found.items()} == dict.fromkeys(
        MODELS, "diverged"
    )

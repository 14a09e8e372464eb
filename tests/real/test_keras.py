"""Every optimizer, loss, metric, schedule and callback of Keras: two trainings are identical, of
which the second is killed in the middle and goes on. Steps and callbacks of one's own as well."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from .conftest import TEMPLATE, Generated, bake, document, environment, fewer, some

pytestmark = pytest.mark.real

DATA = '''

def _noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def classes() -> Dataset:
    return Dataset(_noise(96, 6), np.arange(96) % 7, classes=7)


def columns() -> Dataset:
    return Dataset(_noise(96, 6), np.eye(7, dtype=np.float32)[np.arange(96) % 7], classes=7)


def binary() -> Dataset:
    return Dataset(_noise(96, 6), (np.arange(96) % 2).astype(np.float32)[:, None])


def numbers() -> Dataset:
    x = _noise(96, 6)
    return Dataset(x, np.abs(x[:, :3] @ _noise(3, 3)) + 0.125)


def words() -> Dataset:
    return Dataset(_noise(96, 6), np.arange(192).reshape(96, 2) % 2 + 1)


def unnamed() -> Dataset:
    """Images without targets."""
    return Dataset(_noise(96, 4, 4))
'''
MODEL = '''"""A dense network with the outputs that the targets need."""

import keras
from keras import layers


def build(shape, classes, *, outputs: int = 7, activation: str = "softmax", steps: int = 1):
    hidden = [layers.Dropout(0.25), layers.Dense(8, activation="relu"), layers.Dense(outputs)]
    cut = [layers.Reshape((steps, outputs // steps))] if steps > 1 else []
    return keras.Sequential([keras.Input(shape), *hidden, *cut, layers.Activation(activation)])
'''
FIRST = (
    *("model.name=small", "training.epochs=2", "training.batch_size=16", "split.strategy=random"),
)
OF: dict[str, list[str]] = {
    "classes": [],
    "columns": ["training.loss=categorical_crossentropy"],
    "binary": ["training.loss=bce", "model.outputs=1", "model.activation=sigmoid"],
    "numbers": ["training.loss=mse", "model.outputs=3", "model.activation=softplus"],
    "words": ["model.outputs=12", "model.steps=4", "model.activation=linear"],
}
"""By data: what a training needs that learns them."""
LOSSES = {
    "classes": "SparseCategoricalCrossentropy CategoricalGeneralizedCrossEntropy Circle",
    "columns": "CategoricalCrossentropy CategoricalFocalCrossentropy CategoricalHinge KLDivergence "
    "Dice Tversky",
    "binary": "BinaryCrossentropy BinaryFocalCrossentropy Hinge SquaredHinge",
    "numbers": "MeanSquaredError MeanAbsoluteError MeanAbsolutePercentageError Huber LogCosh "
    "MeanSquaredLogarithmicError Poisson CosineSimilarity",
    "words": "CTC",
}
METRICS = {
    "classes": "accuracy SparseCategoricalAccuracy SparseCategoricalCrossentropy "
    "SparseTopKCategoricalAccuracy MeanIoU IoU",
    "columns": "CategoricalAccuracy CategoricalCrossentropy CategoricalHinge FBetaScore "
    "KLDivergence TopKCategoricalAccuracy OneHotIoU OneHotMeanIoU",
    "binary": "BinaryAccuracy BinaryCrossentropy BinaryIoU AUC Precision Recall TruePositives "
    "TrueNegatives FalsePositives FalseNegatives PrecisionAtRecall RecallAtPrecision "
    "SensitivityAtSpecificity SpecificityAtSensitivity Hinge SquaredHinge F1Score",
    "numbers": "Accuracy MeanSquaredError MeanAbsoluteError MeanAbsolutePercentageError R2Score "
    "RootMeanSquaredError MeanSquaredLogarithmicError LogCoshError Poisson CosineSimilarity "
    "PearsonCorrelation ConcordanceCorrelation",
}
GIVEN: dict[str, dict[str, Any]] = {
    "IoU": {"num_classes": 7, "target_class_ids": [0, 1], "sparse_y_pred": False},
    "MeanIoU": {"num_classes": 7, "sparse_y_pred": False},
    "OneHotIoU": {"num_classes": 7, "target_class_ids": [0]},
    "OneHotMeanIoU": {"num_classes": 7},
    "FBetaScore": {"beta": 2.0, "average": None},
    "F1Score": {"threshold": 0.5},
    "PrecisionAtRecall": {"recall": 0.5},
    "RecallAtPrecision": {"precision": 0.5},
    "SensitivityAtSpecificity": {"specificity": 0.5},
    "SpecificityAtSensitivity": {"sensitivity": 0.5},
    "CosineDecay": {"decay_steps": 9, "warmup_steps": 2, "warmup_target": 0.01},
    "CosineDecayRestarts": {"first_decay_steps": 3},
    "ExponentialDecay": {"decay_steps": 2, "decay_rate": 0.5},
    "InverseTimeDecay": {"decay_steps": 2, "decay_rate": 0.5},
    "PiecewiseConstantDecay": {"boundaries": [3, 5], "values": [0.1, 0.05, 0.01]},
    "PolynomialDecay": {"decay_steps": 9},
    "CSVLogger": {"filename": "log.csv"},
    "EarlyStopping": {"patience": 0, "restore_best_weights": True},
    "ModelCheckpoint": {"filepath": "best.keras", "save_best_only": True},
    "ReduceLROnPlateau": {"patience": 0, "min_delta": 9.0},
}
"""Arguments that a class has to have, or that make it do something here."""
REASONS = {"callbacks": {"TensorBoard": "the package tensorboard is not in the lock"}}
"""What is not tried, and why."""
KERAS: dict[str, Any] = json.loads(
    next(TEMPLATE.glob("{{*/requirements/keras.json")).read_text(encoding="utf-8")
)


def asked(name: str, **more: Any) -> str:
    """A class with its arguments, as a value of params.yaml."""
    return json.dumps({"name": name, **GIVEN.get(name, {}), **more})


def cases() -> dict[tuple[str, str], list[str]]:
    """The overrides for each class, by its kind and name; metrics are measured together."""
    found: dict[tuple[str, str], list[str]] = {}
    for data, names in LOSSES.items():
        for name in names.split():
            quiet = ["training.metrics=[]"] if data != "classes" else []
            settings = [f"data.name={data}", *OF[data], *quiet]
            found["losses", name] = [*settings, f"training.loss={asked(name)}"]
    for data, names in METRICS.items():
        listed = ", ".join(map(asked, names.split()))
        settings = [f"data.name={data}", *OF[data], f"training.metrics=[{listed}]"]
        found |= {("metrics", name): settings for name in names.split()}
    for name in KERAS["optimizers"]:
        found["optimizers", name] = ["data.name=classes", f"optimizer.name={name}"]
    for name in KERAS["schedules"]:
        found["schedules", name] = ["data.name=classes", f"optimizer.schedule={asked(name)}"]
    for name in KERAS["callbacks"]:
        if name not in REASONS["callbacks"]:
            average = ["optimizer.use_ema=true"] if name == "SwapEMAWeights" else []
            watched = f"callbacks.{name}={asked(name)}"
            found["callbacks", name] = ["data.name=classes", watched, *average]
    return found


# Reads lists of overrides, and says of each what came of two runs, the second of them killed.
GATE = """
import json, sys
from repro.basics.errors import BadInput
from repro.compare import comparison, gate
from repro.recipe.project import Project
from repro.run import manifest, recipes
project = Project.find()
for given in json.load(sys.stdin):
    try:
        made = recipes.make(project, given)
        runs = gate.train_all(project, made, 2, lambda run, event: None, ["killed"])
    except BadInput as error:
        print(json.dumps(str(error)), flush=True)
        continue
    failed = [run for run in runs if isinstance(run, Exception)]
    if failed:
        print(json.dumps(f"failed: {failed[0]}"), flush=True)
        continue
    assert manifest.read(runs[1]).resumed, "it was not killed"
    print(json.dumps([comparison.compare(*runs).verdict, str(runs[0])]), flush=True)
"""


def gate(project: Generated, asked: list[list[str]]) -> list[Any]:
    """What came of each list of overrides: verdict and run, or the line of a refusal."""
    done = subprocess.run(
        [str(project.python), "-c", GATE],
        input=json.dumps(asked),
        cwd=project.root,
        env={"PYTHONPATH": str(project.root / "src"), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def small(project: Generated) -> Generated:
    project.append("data.py", DATA)
    (project.package / "models" / "small.py").write_text(MODEL, encoding="utf-8")
    return project


def test_every_class_of_keras_is_tried_or_has_its_reason() -> None:
    tried = {*cases()} - {("metrics", "accuracy")}
    told = {(kind, name) for kind, reasons in REASONS.items() for name in reasons}
    kinds = ("losses", "metrics", "optimizers", "schedules", "callbacks")
    assert tried | told == {(kind, name) for kind in kinds for name in KERAS[kind]}
    assert not tried & told


SHORT = (
    *(("optimizers", "Muon"), ("losses", "CTC"), ("schedules", "CosineDecay")),
    ("metrics", "FBetaScore"),
)
BACKENDS = some(("tensorflow", "jax", "torch"), ("tensorflow",))


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_keras_has_trains_with_the_same_bits(backend: str, tmp_path: Path) -> None:
    project = small(bake(tmp_path, environment(backend), backend=backend))
    found = {key: given for key, given in cases().items() if key in fewer(SHORT, tuple(cases()))}
    distinct = {json.dumps(given): given for given in found.values()}
    answers = gate(project, [[*FIRST, *given] for given in distinct.values()])
    came = dict(zip(distinct, answers, strict=True))
    wrong = {key: came[json.dumps(given)] for key, given in found.items()
             if came[json.dumps(given)][0] != "identical"}  # fmt: skip
    known = REFUSED.get(backend, {})
    assert wrong.keys() == known.keys() & found.keys(), wrong
    for key, told in wrong.items():
        assert known[key] in told
    for kind in ("losses", "metrics", "optimizers", "schedules", "callbacks"):
        names = [name for of, name in found if of == kind and (of, name) not in wrong]
        document(f"{kind} {backend}", ", ".join(sorted(names)), file="keras.md")


REFUSED: dict[str, dict[tuple[str, str], str]] = {}
"""By backend: what a backend itself cannot, and a part of the line that says so."""
GAN = '''"""The generative network of keras.io: a compile and a train_step of its own."""

import keras
from keras import layers, ops
{imports}

class GAN(keras.Model):
    def __init__(self, discriminator, generator, latent_dim):
        super().__init__()
        self.discriminator = discriminator
        self.generator = generator
        self.latent_dim = latent_dim
        self.seed_generator = keras.random.SeedGenerator(1337)

    def compile(self, d_optimizer, g_optimizer, loss_fn):
        super().compile()
        self.d_optimizer = d_optimizer
        self.g_optimizer = g_optimizer
        self.loss_fn = loss_fn
        self.d_loss_metric = keras.metrics.Mean(name="d_loss")
        self.g_loss_metric = keras.metrics.Mean(name="g_loss")

    @property
    def metrics(self):
        return [self.d_loss_metric, self.g_loss_metric]

    def noise(self, size):
        return keras.random.normal((size, self.latent_dim), seed=self.seed_generator)

    def train_step(self, real_images):
        size = ops.shape(real_images)[0]
        images = ops.concatenate([self.generator(self.noise(size)), real_images], axis=0)
        labels = ops.concatenate([ops.ones((size, 1)), ops.zeros((size, 1))], axis=0)
{steps}
        self.d_loss_metric.update_state(d_loss)
        self.g_loss_metric.update_state(g_loss)
        return {{"d_loss": self.d_loss_metric.result(), "g_loss": self.g_loss_metric.result()}}


def build(shape, classes):
    dense = layers.Dense
    discriminator = [keras.Input(shape), layers.Flatten(), dense(16, activation="relu"), dense(1)]
    generator = [keras.Input((8,)), dense(16, activation="relu"), dense(16), layers.Reshape(shape)]
    gan = GAN(keras.Sequential(discriminator), keras.Sequential(generator), 8)
    gan.compile(
        d_optimizer=keras.optimizers.Adam(learning_rate=0.25),
        g_optimizer=keras.optimizers.RMSprop(learning_rate=0.5),
        loss_fn=keras.losses.BinaryCrossentropy(from_logits=True),
    )
    return gan
'''
STEPS = {
    "tensorflow": """
        with tf.GradientTape() as tape:
            d_loss = self.loss_fn(labels, self.discriminator(images))
        weights = self.discriminator.trainable_weights
        self.d_optimizer.apply_gradients(zip(tape.gradient(d_loss, weights), weights))
        noise = self.noise(size)
        with tf.GradientTape() as tape:
            g_loss = self.loss_fn(ops.zeros((size, 1)), self.discriminator(self.generator(noise)))
        weights = self.generator.trainable_weights
        self.g_optimizer.apply_gradients(zip(tape.gradient(g_loss, weights), weights))
""",
    "torch": """
        self.zero_grad()
        d_loss = self.loss_fn(labels, self.discriminator(images))
        d_loss.backward()
        weights = self.discriminator.trainable_weights
        with torch.no_grad():
            self.d_optimizer.apply([weight.value.grad for weight in weights], weights)
        self.zero_grad()
        predicted = self.discriminator(self.generator(self.noise(size)))
        g_loss = self.loss_fn(ops.zeros((size, 1)), predicted)
        g_loss.backward()
        weights = self.generator.trainable_weights
        with torch.no_grad():
            self.g_optimizer.apply([weight.value.grad for weight in weights], weights)
""",
}
IMPORTS = {"tensorflow": "import tensorflow as tf\n", "torch": "import torch\n"}
COMPILED = ["optimizer=null", "training.loss=null", "training.metrics=[]"]


@pytest.mark.parametrize("backend", some(STEPS, ("tensorflow",)))
def test_a_network_with_its_own_compile_and_steps_goes_on(backend: str, tmp_path: Path) -> None:
    project = small(bake(tmp_path, environment(backend), backend=backend))
    text = GAN.format(imports=IMPORTS[backend], steps=STEPS[backend].strip("\n"))
    (project.package / "models" / "adversarial.py").write_text(text, encoding="utf-8")
    settings = [*FIRST[1:], "model.name=adversarial", "data.name=unnamed", *COMPILED]
    ((verdict, run),) = gate(project, [settings])
    assert verdict == "identical"
    content = json.loads((Path(run) / "manifest.json").read_text(encoding="utf-8"))
    told = content["recipe"]["compiled"]
    assert [told[f"{one}_optimizer"]["name"] for one in "dg"] == ["Adam", "RMSprop"]
    assert told["g_optimizer"]["learning_rate"] == 0.5 and "optimizer" not in told
    assert content["recipe"]["parameters"]["optimizer"] is None
    assert content["metrics"].keys() >= {"d_loss", "g_loss"}


DISTILLED = '''"""A small network learns what a larger one says, as on keras.io."""

import keras
from keras import layers, ops


class Distiller(keras.Model):
    def __init__(self, student, teacher):
        super().__init__()
        self.student, self.teacher = student, teacher
        self.teacher.trainable = False

    def compile(self, distillation, alpha, temperature, **given):
        super().compile(**given)
        self.distillation, self.alpha, self.temperature = distillation, alpha, temperature

    def call(self, x):
        return self.student(x)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, **given):
        said = self.teacher(x, training=False)
        soft = [ops.softmax(ops.log(one + 1e-7) / self.temperature) for one in (said, y_pred)]
        own = super().compute_loss(x, y, y_pred, sample_weight, **given)
        return self.alpha * own + (1 - self.alpha) * self.distillation(*soft)


def build(shape, classes):
    def network(units):
        hidden = [layers.Dense(units, activation="relu"), layers.Dropout(0.25)]
        return keras.Sequential([keras.Input(shape), *hidden, layers.Dense(7, "softmax")])

    made = Distiller(network(8), network(32))
    made.compile(
        keras.losses.KLDivergence(),
        alpha=0.5,
        temperature=4.0,
        optimizer=keras.optimizers.Adam(0.01),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    return made
'''
MIXED = '''"""Samples are mixed with others of their batch before each step (mixup)."""

import keras
from keras import layers, ops


class Mixing(keras.Sequential):
    def __init__(self, given):
        super().__init__(given)
        self.drawn = keras.random.SeedGenerator(7)

    def train_step(self, data):
        x, y = data
        share = keras.random.beta((), 0.4, 0.4, seed=self.drawn)
        x, y = (share * one + (1 - share) * ops.flip(one, axis=0) for one in (x, y))
        return super().train_step((x, y))


def build(shape, classes):
    hidden = [layers.Dense(8, activation="relu"), layers.Dense(7, "softmax")]
    return Mixing([keras.Input(shape), *hidden])
'''
FUNCTIONAL = '''"""A step of one's own on JAX, which gets and returns the state, as on keras.io."""

import jax
import keras
from keras import layers


class Own(keras.Sequential):
    def loss_of(self, trainable, other, x, y):
        predicted, other = self.stateless_call(trainable, other, x, training=True)
        return self.compute_loss(x, y, predicted), (predicted, other)

    def train_step(self, state, data):
        trainable, other, optimizer, metrics = state
        x, y = data
        (loss, (_, other)), slopes = jax.value_and_grad(self.loss_of, has_aux=True)(
            trainable, other, x, y
        )
        slopes = [slope * 0.5 for slope in slopes]
        trainable, optimizer = self.optimizer.stateless_apply(optimizer, slopes, trainable)
        return {"loss": loss}, (trainable, other, optimizer, metrics)


def build(shape, classes):
    hidden = [layers.Dense(8, activation="relu"), layers.Dropout(0.25), layers.Dense(7, "softmax")]
    return Own([keras.Input(shape), *hidden])
'''
WAYS: dict[str, tuple[str, list[str]]] = {
    "distillation": (DISTILLED, ["data.name=classes", *COMPILED]),
    "mixup": (MIXED, ["data.name=columns", "training.loss=categorical_crossentropy"]),
    "a step on JAX": (FUNCTIONAL, ["data.name=classes", "training.metrics=[]"]),
    "gradient accumulation": (
        "",
        ["data.name=classes", "optimizer.gradient_accumulation_steps=3", "optimizer.clipnorm=0.5"],
    ),
    "an average of the weights": (
        "",
        ["data.name=classes", "optimizer.use_ema=true", "optimizer.ema_overwrite_frequency=4"],
    ),
    "mixed bfloat16": ("", ["data.name=classes", "training.dtype=mixed_bfloat16"]),
    "mixed float16": ("", ["data.name=classes", "training.dtype=mixed_float16"]),
}
"""By way of training: a model of its own, and the overrides."""
WITHOUT = {"tensorflow": ["a step on JAX"], "jax": ["mixup"], "torch": ["a step on JAX"]}
"""What a backend cannot: on JAX a step of one's own gets the state as well, and draws from it."""


@pytest.mark.parametrize("backend", BACKENDS)
def test_ways_of_training_are_proved_and_go_on(backend: str, tmp_path: Path) -> None:
    project = small(bake(tmp_path, environment(backend), backend=backend))
    names = [n for n in fewer(("distillation",), tuple(WAYS)) if n not in WITHOUT[backend]]
    asked: list[list[str]] = []
    for name in names:
        text, settings = WAYS[name]
        if text:
            path = project.package / "models" / f"way{len(asked)}.py"
            path.write_text(text, encoding="utf-8")
            settings = [*settings, f"model.name={path.stem}"]
        asked.append([*FIRST, *settings])
    came = dict(zip(names, gate(project, asked), strict=True))
    assert {name: one[0] for name, one in came.items()} == dict.fromkeys(names, "identical"), came
    document(f"ways {backend}", ", ".join(names), file="keras.md")


CALLBACKS = '''"""Callbacks of the project."""

import keras


class Counting(keras.callbacks.Callback):
    """Remembers how often it was called, and does not say so."""

    calls = 0

    def on_train_batch_end(self, batch, logs=None):
        self.calls += 1

    def on_epoch_end(self, epoch, logs=None):
        self.model.optimizer.learning_rate = 0.1 / (1 + self.calls)

    def get_state(self):
        return {}

    def set_state(self, kept):
        pass


class Drawing(keras.callbacks.Callback):
    """Looks on, and sets a weight all the same."""

    def __init__(self, epoch: int = 1):
        super().__init__()
        self.epoch = epoch

    def on_epoch_end(self, epoch, logs=None):
        if epoch == self.epoch:
            self.model.layers[1].bias.assign(self.model.layers[1].bias + 1.0)
'''


def test_what_a_callback_hides_is_found(project: Generated, tmp_path: Path) -> None:
    own = small(project.copy(tmp_path / "own"))
    (own.package / "callbacks.py").write_text(CALLBACKS, encoding="utf-8")
    asked = [[*FIRST, "data.name=classes", f"callbacks.{one}"]
             for one in ("callbacks:Counting={}", "callbacks:Drawing={epoch: 0}")]  # fmt: skip
    hidden, named = gate(own, asked)
    assert hidden[0] == "diverged"
    assert named.startswith("callbacks.callbacks:Drawing: expected a callback that only looks on")
    assert "its on_epoch_end changed weights/" in named

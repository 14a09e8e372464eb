"""What a model is compiled with: objects of Keras and of the project by their names."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import Any

import examples
import keras
import numpy as np
import pytest
from examples import named, optimizer

from repro.basics.errors import BadInput
from repro.data.dataset import Part, Parts
from repro.recipe import catalogue, registry
from repro.recipe.project import Project
from repro.run import compiling, needs

PROJECT = Project.find()
LABELS = np.arange(21) % 7
NUMBERS = np.linspace(-1, 2, 63).reshape(21, 3)
NAMED = {"late": LABELS % 2, "cost": NUMBERS[:, :1]}


def parts(y: Any) -> Parts:
    part = Part(np.zeros((len(LABELS), 2), np.float32), y)
    return Parts(part, part, part)


def short(made: Any) -> Any:
    """The names of what was made, in the structure in which it was made."""
    if isinstance(made, dict):
        return {key: short(one) for key, one in made.items()}
    if isinstance(made, list | tuple):
        return type(made)(short(one) for one in made)
    return made if made is None or isinstance(made, str) else type(made).__name__


def loss(given: Any) -> Any:
    if isinstance(given, dict):
        return {key: named("losses", name) for key, name in given.items()}
    return given and named("losses", given)


def some(given: Any) -> Any:
    if isinstance(given, dict):
        return {key: some(names) for key, names in given.items()}
    return [named("metrics", name) for name in given]


@pytest.mark.parametrize(
    ("y", "given", "expected"),
    [
        (LABELS, "huber", "Huber"),
        (LABELS, None, None),
        (NAMED, None, None),
        (NAMED, "huber", {"late": "Huber", "cost": "Huber"}),
        (NAMED, {"cost": "huber", "late": "hinge"}, {"late": "Hinge", "cost": "Huber"}),
        ((LABELS, NUMBERS), {"0": "hinge", "1": "huber"}, ("Hinge", "Huber")),
        ({"a": [LABELS]}, {"a/0": "hinge"}, {"a": ["Hinge"]}),
    ],
)
def test_each_output_has_its_loss(y: Any, given: Any, expected: Any) -> None:
    assert short(compiling.losses(PROJECT, loss(given), parts(y))) == expected


@pytest.mark.parametrize(
    ("y", "given", "expected"),
    [
        (LABELS, ["accuracy"], ["accuracy"]),
        (LABELS, [], None),
        (NAMED, ["auc", "recall"], {"late": ["AUC", "Recall"], "cost": ["AUC", "Recall"]}),
        (NAMED, {"cost": ["r2_score"]}, {"late": [], "cost": ["R2Score"]}),
        ((LABELS, NUMBERS), {"0": ["auc"]}, (["AUC"], [])),
    ],
)
def test_each_output_has_its_metrics_or_none(y: Any, given: Any, expected: Any) -> None:
    assert short(compiling.metrics(PROJECT, some(given), parts(y))) == expected


@pytest.mark.parametrize(
    ("y", "given", "told"),
    [
        (LABELS, {"a": "huber"}, "expected no dict, since y is one array; got ['a']"),
        (NAMED, {"late": "hinge"}, "expected one for each of the outputs cost, late; there is none "
         "for cost"),
        (NAMED, {}, "there is none for cost"),
        (NAMED, {"late": "hinge", "costs": "huber"}, "expected names among cost, late, as y has; "
         "got costs"),
    ],
)  # fmt: skip
def test_a_loss_for_no_output_is_refused(y: Any, given: Any, told: str) -> None:
    with pytest.raises(BadInput) as refusal:
        compiling.losses(PROJECT, loss(given), parts(y))
    assert str(refusal.value).startswith("training.loss: ") and told in str(refusal.value)


def test_metrics_and_weights_for_no_output_are_refused() -> None:
    with pytest.raises(BadInput, match=r"training\.metrics: expected names among cost, late, .* b"):
        compiling.metrics(PROJECT, some({"b": ["auc"]}), parts(NAMED))
    with pytest.raises(
        BadInput, match=r"training\.loss_weights: expected one for each .* cost has"
    ):
        compiling.weights({"late": 2.0}, parts(NAMED))
    assert compiling.weights({"late": 2.0, "cost": 1.0}, parts(NAMED)) == {"late": 2, "cost": 1}


def test_the_list_of_classes_is_that_of_the_installed_keras() -> None:
    found = catalogue.content()
    assert (PROJECT.root / registry.FILE).read_text() == catalogue.text(found)
    assert found["keras"] == keras.__version__


def test_a_package_that_adds_classes_to_keras_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it has: KerasHub has metrics, and neither losses nor optimizers."""
    for name, text in (
        ("keras_hub/__init__.py", "from keras_hub import metrics\n"),
        (
            "keras_hub/metrics.py",
            "import keras\n\n\nclass Perplexity(keras.metrics.Metric):\n"
            "    def __init__(self, from_logits=False, name='p', dtype=None): ...\n",
        ),
        ("keras_hub-0.1.dist-info/METADATA", "Name: keras-hub\nVersion: 0.1\n"),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    try:
        found = catalogue.content()
    finally:
        for module in ("keras_hub", "keras_hub.metrics"):
            sys.modules.pop(module, None)
    added = {"keras_hub.metrics:Perplexity": {"required": [], "defaults": {"from_logits": False}}}
    known = json.loads((PROJECT.root / registry.FILE).read_text())
    known |= {"with": {"keras_hub": "0.1"}, "metrics": known["metrics"] | added}
    assert json.loads(catalogue.text(found)) == known


@pytest.mark.parametrize("kind", registry.KINDS)
def test_each_class_is_made_with_all_that_the_recipe_says(kind: str) -> None:
    """Those with a default for each argument; what Keras makes of them says the same."""
    made = 0
    for name, signature in examples.KNOWN.classes[kind].items():
        if signature.required and kind != "schedules":
            continue
        needed: dict[str, Any] = {"decay_steps": 5, "first_decay_steps": 5, "decay_rate": 0.5}
        needed |= {"boundaries": [1], "values": [0.5, 0.25]}
        one = named(kind, name, **{k: needed[k] for k in signature.required if k in needed})
        starts = {registry.STARTS: 0.5} if registry.STARTS in signature.required else {}
        made_of = compiling.make(PROJECT, kind, kind, one, **starts)
        if hasattr(made_of, "get_config"):
            config = {k: v for k, v in made_of.get_config().items() if k in one.arguments}
            told = {k: v for k, v in one.arguments.items() if k in config}
            wrong = {k: (config[k], v) for k, v in told.items() if not same(config[k], v)}
            assert not wrong, name
        made += 1
    assert made


def same(one: Any, other: Any) -> bool:
    """Keras fills in what is None, and takes numbers of any kind."""
    if other is None or isinstance(one, str | bool | None):
        return other is None or one == other
    return bool(np.allclose(one, other))


def test_a_metric_is_called_what_the_recipe_calls_it() -> None:
    one = compiling.make(PROJECT, "metrics", "", named("metrics", "AUC", called="area"))
    assert one.name == "area"


def test_a_refusal_of_keras_is_one_line() -> None:
    with pytest.raises(BadInput, match=r"training\.metrics: AUC refuses its arguments: ") as told:
        asked = named("metrics", "AUC", curve="round")
        compiling.make(PROJECT, "metrics", "training.metrics", asked)
    assert "\n" not in str(told.value)


def test_a_schedule_starts_from_the_learning_rate() -> None:
    decay = {"name": "exponential_decay", "decay_steps": 1, "decay_rate": 0.5}
    made = compiling.optimizer(PROJECT, optimizer("sgd", learning_rate=0.25, schedule=decay))
    assert float(made.learning_rate) == 0.25
    steps = {"name": "piecewise_constant_decay", "boundaries": [1], "values": [0.5, 0.125]}
    asked = optimizer("sgd", learning_rate=0.25, schedule=steps)
    assert asked.learning_rate is None  # The recipe does not say a rate that nothing uses.
    assert float(compiling.optimizer(PROJECT, asked).learning_rate) == 0.5


OWN = """
import keras

class Dice(keras.losses.Loss):
    def __init__(self, smooth: float = 1.0, **more):
        super().__init__(**more)
        self.smooth = smooth

def squared(y_true, y_pred):
    return (y_true - y_pred) ** 2
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    package = tmp_path / "src" / "mine"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "losses.py").write_text(OWN)
    (tmp_path / "requirements").mkdir()
    (tmp_path / registry.FILE).write_bytes((PROJECT.root / registry.FILE).read_bytes())
    monkeypatch.syspath_prepend(str(tmp_path / "src"))
    return Project(tmp_path, "mine")


def test_a_class_of_the_project_is_made_with_its_arguments(own: Project) -> None:
    known = registry.read(own.source)
    asked = examples.of(known, "losses", "losses:Dice")
    assert asked.arguments == {"smooth": 1.0}
    made = compiling.make(own, "losses", "", examples.of(known, "losses", "losses:Dice", smooth=2))
    assert made.smooth == 2.0
    function = compiling.make(own, "losses", "", examples.of(known, "losses", "losses:squared"))
    assert function(3, 1) == 4


@pytest.mark.parametrize(
    ("name", "given", "told"),
    [
        ("losses:Dise", {}, "losses.py has no Dise; nearest valid name: Dice"),
        ("loses:Dice", {}, "there is no loses.py in mine"),
        ("losses:Dice", {"smooth": "x"}, "losses.smooth: expected a valid number; got 'x'"),
        ("losses:squared", {"a": 1}, "losses.a: unknown parameter"),
        ("../x:Dice", {}, "expected such as losses:Mine"),
    ],
)
def test_a_class_of_the_project_that_cannot_be_is_refused(
    own: Project, name: str, given: dict[str, Any], told: str
) -> None:
    with pytest.raises(BadInput) as refusal:
        examples.of(registry.read(own.source), "losses", name, **given)
    assert told in str(refusal.value) and "\n" not in str(refusal.value)


def test_data_without_targets_have_no_loss() -> None:
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    with pytest.raises(
        BadInput, match=r"training\.loss: expected null, since the data have no targ"
    ):
        compiling.compile_model(model, examples.parameters(), parts(None), PROJECT)


def test_steps_of_no_length_are_refused() -> None:
    """Adam's usual beta_2 of 0.999 is 1 in bfloat16, and one minus it is in each step."""
    layer = keras.layers.Dense(1, dtype="bfloat16")
    model = keras.Sequential([keras.Input((2,)), layer])
    for kind in (*compiling.CORRECTED, keras.optimizers.AdamW):
        before, made = model.get_weights(), kind(0.5)
        model.compile(made)
        made.build(model.trainable_variables)
        ones = [keras.ops.ones(weight.shape, weight.dtype) for weight in model.trainable_variables]
        with contextlib.suppress(TypeError):  # Nadam on PyTorch cannot make a step of bfloat16.
            made.apply(ones)
        # Muon makes a step of its own on the kernel.
        assert before[1] == [0] and (
            model.get_weights()[1] == 0 or np.isnan(model.get_weights()[1])
        )
        model.set_weights(before)
        with pytest.raises(
            BadInput, match=r"beta_2: 0\.99\d* is 1 in bfloat16, the type of the we"
        ):
            compiling.moves(model)
    for fine in (keras.optimizers.Adam(beta_2=0.95), keras.optimizers.Lion(), "sgd"):
        model.compile(fine)
        compiling.moves(model)
    layer.trainable = False
    model.compile("adam")
    compiling.moves(model)


def test_what_trains_a_compiled_model_is_told() -> None:
    class Pair(keras.Model):
        def compile(self, first: Any, measure: Any) -> None:
            super().compile()
            self.first, self.measure = first, measure

    pair = Pair()
    pair.compile(keras.optimizers.Lion(0.5), keras.losses.huber)
    told = compiling.found(pair, given=False)
    assert told.keys() == {"first", "measure"}
    assert told["first"]["name"] == "Lion" and told["first"]["learning_rate"] == 0.5
    assert told["measure"].endswith(":huber")
    plain = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    plain.compile("nadam", loss={"dense": "mse"}, metrics=[keras.metrics.AUC(name="area")])
    told = compiling.found(plain, given=True)
    assert told["optimizer"]["name"] == "Nadam" and told["loss"] == {"dense": "mse"}
    assert (told["metrics"][0]["name"], told["metrics"][0]["called"]) == ("AUC", "area")


def test_every_need_is_one_of_keras() -> None:
    assert {*needs.PROBABILITIES} <= {*needs.LOSSES}

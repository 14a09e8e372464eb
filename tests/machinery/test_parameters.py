"""Parameters: files, overrides, what is refused. Takes no training."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from repro import backends
from repro.basics.errors import BadInput
from repro.recipe import registry
from repro.recipe.parameters import Named, Own, Parameters
from repro.recipe.project import Project
from repro.recipe.reading import parameters as resolve_file
from repro.recipe.signatures import data_module
from repro.run import recipes

PROJECT = Project.find()


def resolve(*overrides: str) -> Parameters:
    return resolve_file(PROJECT.source, PROJECT.root / "params.yaml", overrides)


def test_the_file_spells_out_every_default(tmp_path: Path) -> None:
    bare = tmp_path / "params.yaml"
    names = {group: getattr(resolve(), group).name for group in ("data", "model", "optimizer")}
    text = "".join(f"{group}: {{name: {name}}}\n" for group, name in names.items())
    bare.write_text(text + f"backend: {resolve().backend}\n")
    assert resolve_file(PROJECT.source, bare) == resolve()


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("training.batch_sise=3", "nearest valid name: training.batch_size"),
        ("batch_size=3", "nearest valid name: training.batch_size"),
        ("optimiser.name=adam", "nearest valid name: optimizer"),
        ("model.unit=3", "unknown parameter; nearest valid name: model.units"),
        ("training.epochs=0", "training.epochs: expected greater than 0; got 0"),
        ("training.epochs=2.5", "training.epochs: expected a valid integer; got 2.5"),
        ("training.batch_size=sixteen", "training.batch_size: expected a valid integer"),
        ("training.shuffle=1", "training.shuffle: expected a valid boolean; got 1"),
        ("training.loss=mean_square_error", "nearest valid name: MeanSquaredError"),
        ("training.loss={a: mzz}", "training.loss.a: expected the name of one of Keras's losses"),
        ("training.loss=[mse]", "training.loss: expected the name of a loss, such as"),
        ("training.loss={name: huber, delt: 1}", "nearest valid name: training.loss.delta"),
        ("training.loss={name: huber, delta: x}", "loss.delta: expected a valid number; got 'x'"),
        ("training.loss=losses:Dice", "there is no losses.py in"),
        ("training.loss_weights={a: x}", "training.loss_weights.a: expected a valid number"),
        (
            "training.metrics=auc",
            "training.metrics: expected a list, such as [accuracy]; got 'auc'",
        ),
        ("training.metrics={1: [auc, r3]}", "training.metrics.1.1: expected the name of one of"),
        ("training.metrics=[mean]", "Mean cannot be named here: it measures one number"),
        ("training.metrics=[MeanIoU]", "training.metrics.0.num_classes: expected Field required"),
        ("training.metrics=[{name: auc, called: 3}]", "metrics.0.called: expected a name; got 3"),
        ("training.metrics=[{name: accuracy, called: hits}]", "since Keras calls it accuracy; an"),
        ("callbacks=[EarlyStopping]", "callbacks: expected the name of each callback with its"),
        ("callbacks.early_stoping.patience=1", "nearest valid name: EarlyStopping"),
        ("callbacks.EarlyStopping=3", "callbacks.EarlyStopping: expected its arguments, such as"),
        ("callbacks={EarlyStopping: {}, early_stopping: {}}", "EarlyStopping is there twice"),
        ("callbacks.BackupAndRestore.backup_dir=x", "each run writes checkpoints and goes on from"),
        ("callbacks.early_stopping.patience=-1", "early_stopping.patience: expected greater than"),
        (
            "callbacks.CSVLogger.append=true",
            "callbacks.CSVLogger.filename: expected Field required",
        ),
        (
            "optimizer.schedule={name: cosine_decay, decay_steps: 0}",
            "decay_steps: expected greater",
        ),
        ("optimizer.schedule={name: cosine, decay_steps: 1}", "nearest valid name: CosineDecay"),
        (
            "optimizer.schedule={name: cosine_decay, decay_steps: 1, initial_learning_rate: 1.0}",
            "initial_learning_rate: unknown parameter; it is optimizer.learning_rate",
        ),
        ("optimizer.lerning_rate=1", "nearest valid name: optimizer.learning_rate"),
        ("optimizer=3", "optimizer: expected a group with a `name`, got 3"),
        ("training.initial_epoch=5", "training.initial_epoch: expected less than"),
        ("training={initial_state: a, initial_weights: b}", "at most one of initial_state and"),
        ("backend=pytorch", "backend: expected 'tensorflow', 'jax' or 'torch'; got 'pytorch'"),
        ("training=3", "training: expected"),
        ("optimizer.learning_rate=-1e-3", "learning_rate: expected greater than 0; got -0.001"),
        ("optimizer.learning_rate=.inf", "optimizer.learning_rate: expected a finite number"),
        ("optimizer.name=adan", "got 'adan'; nearest valid name: Adam"),
        ("model.name=densee", "nearest valid name: dense"),
        ("model.dropout=1.0", "model.dropout: expected less than 1; got 1.0"),
        ("model.activation=rel", "model.activation: expected 'relu', 'tanh'"),
        ("guarantee=maschine", "guarantee: expected 'portable', 'machine' or 'none'"),
        ("seed=null", "seed: null draws a new seed for each run"),
        ("seed=-1", "seed: expected greater than or equal to 0; got -1"),
        ("threads=0", "threads: expected greater than 0; got 0"),
        ("epochs", "expected key=value"),
        ("training..epochs=3", "expected key=value"),
        ("seed.x=3", "seed is a single value, not a group"),
        ("training.metrics=[", "not a valid value"),
    ],
)
def test_a_wrong_parameter_is_refused_in_one_line(override: str, told: str) -> None:
    with pytest.raises(BadInput) as refusal:
        resolve(override)
    assert told in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("training: {epochs: 1}\ntraining: {epochs: 2}\n", "line 2: not valid YAML"),
        ("training: [\n", "not valid YAML"),
        ("3\n", "expected groups"),
        ("data: 3\n", "data: expected a group with a `name`"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(BadInput) as refusal:
        resolve_file(PROJECT.source, path)
    assert told in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_overrides_are_numbers_as_people_write_them() -> None:
    resolved = resolve("optimizer.learning_rate=1e-3", "training.class_weight={0: 1.0, 1: 2}")
    assert resolved.optimizer and resolved.optimizer.learning_rate == 1e-3
    assert resolved.training.class_weight == {0: 1.0, 1: 2.0}


def test_each_output_may_have_its_own_loss_and_metrics() -> None:
    """The outputs of a tuple are called 0 and 1, which are numbers in YAML."""
    asked = resolve("training.loss={0: huber, b: hinge}", "training.metrics={0: [auc], 1: []}")
    losses, metrics = asked.training.loss, asked.training.metrics
    assert isinstance(losses, dict) and isinstance(metrics, dict)
    assert {name: one.name for name, one in losses.items()} == {"0": "Huber", "b": "Hinge"}
    assert [one.name for one in metrics["0"]] == ["AUC"] and metrics["1"] == []


@pytest.mark.parametrize(
    "given",
    ["mean_squared_error", "MeanSquaredError", "mse", "MSE", "{name: mse}", "meansquarederror"],
)
def test_a_name_of_keras_is_the_same_in_each_spelling(given: str) -> None:
    assert resolve(f"training.loss={given}") == resolve("training.loss={name: MeanSquaredError}")


def test_the_recipe_has_every_argument_of_what_trains() -> None:
    asked = resolve("training.loss={name: categorical_crossentropy, label_smoothing: 0.1}")
    assert isinstance(asked.training.loss, Named)
    said = {"label_smoothing": 0.1, "from_logits": False, "axis": -1}
    assert asked.training.loss.arguments == {**said, "reduction": "sum_over_batch_size"}
    # A name that is there already gets an argument.
    smooth = ["training.loss=categorical_crossentropy", "training.loss.label_smoothing=0.1"]
    assert resolve(*smooth) == asked
    (metric,) = resolve("training.metrics=[{name: auc, called: area}]").training.metrics
    assert isinstance(metric, Named)
    assert metric.called == "area" and metric.arguments["num_thresholds"] == 200
    for given in ("0", "0.0"):
        (one,) = resolve(f"callbacks.early_stopping={{min_delta: {given}}}").callbacks
        assert one.name == "EarlyStopping" and type(one.arguments["min_delta"]) is float


def test_callbacks_come_in_the_order_in_which_they_are_asked_for() -> None:
    one, other = "TerminateOnNaN: {}", "first: {name: CSVLogger, filename: a}"
    asked = [resolve(f"callbacks={{{a}, {b}}}") for a, b in ((one, other), (other, one))]
    told = [[call.called or call.name for call in found.callbacks] for found in asked]
    assert told == [["TerminateOnNaN", "first"], ["first", "TerminateOnNaN"]]
    assert resolve("callbacks.TerminateOnNaN=null").callbacks == ()


def test_a_model_may_bring_its_own_optimizer() -> None:
    assert resolve("optimizer=null").optimizer is None


@pytest.mark.parametrize(
    ("freq", "epochs", "initial", "measured"),
    [(2, 3, 0, True), (3, 3, 0, True), (4, 3, 0, False), (2, 3, 2, False), (2, 4, 3, True)],
)
def test_what_a_callback_watches_is_measured_at_all(
    freq: int, epochs: int, initial: int, measured: bool
) -> None:
    settings = [
        f"training.validation_freq={freq}",
        f"training.epochs={epochs}",
        f"training.initial_epoch={initial}",
    ]
    resolve(*settings)
    resolve(*settings, "callbacks.early_stopping.monitor=loss")
    names = {"early_stopping": "EarlyStopping", "reduce_lr_on_plateau": "ReduceLROnPlateau"}
    for name, right in names.items():
        if measured:
            resolve(*settings, f"callbacks.{name}.patience=1")
            continue
        with pytest.raises(
            BadInput, match=f"callbacks.{right}.monitor: val_loss is measured in no epoch"
        ):
            resolve(*settings, f"callbacks.{name}.patience=1")


def test_another_choice_starts_from_its_own_defaults() -> None:
    chosen = resolve("optimizer.momentum=0.9", "optimizer.name=sgd").optimizer
    assert chosen and chosen.name == "SGD" and chosen.arguments["momentum"] == 0.9
    assert chosen.learning_rate == 0.01


def test_a_kernel_for_the_optimizer_is_chosen_where_there_is_one() -> None:
    for backend, amsgrad, fused in (
        ("tensorflow", "false", True),
        ("tensorflow", "true", False),
        ("jax", "false", False),
        ("torch", "false", True),
        ("torch", "true", False),
    ):
        settings = f"backend={backend}", f"optimizer.amsgrad={amsgrad}"
        chosen = resolve(*settings).optimizer
        assert chosen and chosen.fused is fused
        if not fused:
            with pytest.raises(BadInput, match="fused: expected null or false"):
                resolve(*settings, "optimizer.fused=true")
    chosen = resolve("optimizer.fused=false").optimizer
    assert chosen and chosen.fused is False
    with pytest.raises(BadInput, match=r"optimizer\.fused: unknown parameter"):
        resolve("optimizer.name=nadam", "optimizer.fused=true")


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """The folder of a project's own package."""
    found = tmp_path / "src" / "mine"
    found.mkdir(parents=True)
    (tmp_path / "requirements").mkdir()
    (tmp_path / registry.FILE).write_bytes((PROJECT.root / registry.FILE).read_bytes())
    return found


def test_data_may_stand_beside_a_model(package: Path) -> None:
    (package / "models").mkdir()
    function = "def {}(*, length: PositiveInt = 3) -> Dataset: ...\n"
    (package / "data.py").write_text(function.format("digits"))
    model = package / "models" / "waves.py"
    model.write_text(function.format("series") + "def build(shape, classes): ...\n")
    params = package / "params.yaml"
    params.write_text("data: {name: series}\nmodel: {name: waves}\noptimizer: {name: adam}\n")
    assert resolve_file(package, params).data == Own.model_validate({"name": "series", "length": 3})
    assert data_module(package, "series") == "models.waves"
    assert data_module(package, "digits") == "data"
    (package / "models" / "other.py").write_text(function.format("digits"))
    with pytest.raises(BadInput, match=r"other\.py: the data digits are in data already"):
        resolve_file(package, params)


def small(folder: Path, **models: str) -> Path:
    """A package with data `digits`, the model `whole` and these; returns its params.yaml."""
    (folder / "models").mkdir()
    (folder / "data.py").write_text("def digits(*, length: int = 3) -> Dataset: ...\n")
    whole = "def build(shape, classes, *, units: PositiveInt = 3): ...\n"
    for name, text in {"whole": whole, **models}.items():
        (folder / "models" / f"{name}.py").write_text(text)
    params = folder / "params.yaml"
    params.write_text("data: {name: digits}\nmodel: {name: whole}\noptimizer: {name: adam}\n")
    return params


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("def build(shape, classes, *, un", "half.py, line 1: '(' was never closed"),
        ("def build(shape, classes, *, units): ...", "half.py, line 1: build(units=…): a param"),
        ("def build(shape, classes, *, units: Size): ...", "build(units=…): expected a type"),
        ("def build(shape, classes, *, units: int = 2 + x): ...", "and a literal default"),
        (
            "def build(shape, classes, units: int): ...",
            "line 1: build(units) is no parameter there",
        ),
        ("def build(shape): ...", "half.py, line 1: expected build(shape, classes, *, …)"),
        ("\0", "half.py"),
        ("", "model.name: expected one of whole; got 'half'"),
    ],
)
def test_an_unfinished_model_is_in_nobodys_way(package: Path, text: str, told: str) -> None:
    params = small(package, half=text)
    assert resolve_file(package, params).model == Own.model_validate({"name": "whole", "units": 3})
    with pytest.raises(BadInput) as refusal:
        resolve_file(package, params, ["model.name=half"])
    assert told in str(refusal.value) and "\n" not in str(refusal.value)
    with pytest.raises(BadInput) as refusal:
        resolve_file(package, params, ["data.name=other"])
    assert ("half.py" in str(refusal.value)) == (told.startswith("half.py") and "build" not in told)


def test_unfinished_data_are_in_nobodys_way(package: Path) -> None:
    params = small(package, half="def series(*, length: Long) -> Dataset: ...\n")
    text = "def digits() -> Dataset: ...\ndef waves(*, length) -> Dataset: ...\n"
    (package / "data.py").write_text(text)
    assert resolve_file(package, params).data == Own(name="digits")
    for name, told in {
        "waves": "data.py, line 2: waves(length=…)",
        "series": "half.py, line 1",
    }.items():
        with pytest.raises(BadInput) as refusal:
            resolve_file(package, params, [f"data.name={name}"])
        assert told in str(refusal.value)
    (package / "data.py").write_bytes("# \xe9\n".encode("latin-1"))
    with pytest.raises(BadInput, match=r"expected one of series; got 'digits'; not read: data\.py"):
        resolve_file(package, params)


def test_an_argument_that_is_no_parameter_is_told_its_place(package: Path) -> None:
    text = "def build(shape, classes, units=3, *, depth: int = 1): ...\n"
    params = small(package, loose=text)
    assert resolve_file(package, params, ["model.name=loose"]).model.arguments["depth"] == 1
    with pytest.raises(BadInput) as refusal:
        resolve_file(package, params, ["model.name=loose", "model.units=5"])
    told = "model.units: loose.py, line 1: build(units) is no parameter there; it has to stand "
    assert str(refusal.value).startswith(told + "behind `*` in the signature, ")
    for given_by_us in ("shape", "classes"):
        with pytest.raises(BadInput, match=f"model.{given_by_us}: unknown parameter"):
            resolve_file(package, params, ["model.name=loose", f"model.{given_by_us}=5"])


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_a_backend_says_what_it_cannot(backend: str) -> None:
    assert resolve(f"backend={backend}", "guarantee=machine").backend == backend
    with pytest.raises(BadInput, match=f"shown for tensorflow alone, not for {backend}; machine"):
        resolve(f"backend={backend}", "guarantee=portable")
    with pytest.raises(BadInput, match=f"jit_compile: expected false, since {backend}"):
        resolve(f"backend={backend}", "guarantee=machine", "training.jit_compile=true")


@pytest.mark.parametrize(
    "key", ["split.file", "training.initial_state", "training.initial_weights"]
)
@pytest.mark.parametrize(
    "name", ["../x", ".", "/", "'..'", "a/../b", "~x", "runs/*", "f" * 64, "n" * 300, '"a\\0b"']
)
def test_a_path_that_is_none_is_refused_in_one_line(key: str, name: str) -> None:
    if key != "split.file" and name == "f" * 64:
        return  # A digest names a state; whether a run has it is asked when it is needed.
    with pytest.raises(BadInput) as refusal:
        recipes.make(PROJECT, [f"{key}={name}"])
    assert "\n" not in str(refusal.value)


def test_a_backend_that_is_not_installed_is_refused() -> None:
    there = [name for name in backends.BACKENDS if importlib.util.find_spec(name)]
    for name in set(backends.BACKENDS) - set(there):
        with pytest.raises(BadInput, match=f"backend: {name} is not installed here, .* is;"):
            recipes.make(PROJECT, [f"backend={name}"])
    assert there


def test_a_refusal_takes_no_heavy_import() -> None:
    code = "import sys; from repro.__main__ import main; main(['train', 'a=1']); "
    code += "print(sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=PROJECT.root
    )
    assert "a: unknown parameter" in done.stderr
    heavy = {f"'{name}'" for name in (*backends.BACKENDS, "keras", "numpy")}
    assert not heavy & set(done.stdout.strip("[]\n").split(", "))

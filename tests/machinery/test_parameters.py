"""Parameters: files, overrides, what is refused. Takes no training."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from repro import backends
from repro.basics.errors import BadInput
from repro.recipe.parameters import SGD, Adam, Own, Parameters
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
        ("training.loss=mse", "training.loss: expected 'sparse_categorical_crossentropy'"),
        ("training.loss={a: mse}", "training.loss.a: expected 'sparse_categorical_crossentropy'"),
        ("training.metrics=auc", "training.metrics: expected a valid list; got 'auc'"),
        ("training.metrics={1: [auc, r2]}", "training.metrics.1.1: expected 'accuracy', 'top"),
        ("training.initial_epoch=5", "training.initial_epoch: expected less than"),
        ("training={initial_state: a, initial_weights: b}", "at most one of initial_state and"),
        ("backend=pytorch", "backend: expected 'tensorflow', 'jax' or 'torch'; got 'pytorch'"),
        ("training=3", "training: expected"),
        ("optimizer.learning_rate=-1e-3", "learning_rate: expected greater than 0; got -0.001"),
        ("optimizer.learning_rate=.inf", "optimizer.learning_rate: expected a finite number"),
        ("optimizer.name=adan", "expected one of adam, adamw, rmsprop, sgd; got 'adan'"),
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
    assert resolved.optimizer.learning_rate == 1e-3
    assert resolved.training.class_weight == {0: 1.0, 1: 2.0}


def test_each_output_may_have_its_own_loss_and_metrics() -> None:
    """The outputs of a tuple are called 0 and 1, which are numbers in YAML."""
    resolved = resolve("training.loss={0: huber, b: hinge}", "training.metrics={0: [auc], 1: []}")
    assert resolved.training.loss == {"0": "huber", "b": "hinge"}
    assert resolved.training.metrics == {"0": ["auc"], "1": []}


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
    for name in ("early_stopping", "reduce_lr_on_plateau"):
        if measured:
            resolve(*settings, f"callbacks.{name}.patience=1")
            continue
        with pytest.raises(BadInput, match=f"{name}.monitor: val_loss is measured in no epoch"):
            resolve(*settings, f"callbacks.{name}.patience=1")


def test_another_choice_starts_from_its_own_defaults() -> None:
    chosen = resolve("optimizer.momentum=0.9", "optimizer.name=sgd").optimizer
    assert chosen == SGD(momentum=0.9)
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
        assert resolve(*settings).optimizer.model_dump()["fused"] is fused
        if not fused:
            with pytest.raises(BadInput, match="fused: expected null or false"):
                resolve(*settings, "optimizer.fused=true")
    assert resolve("optimizer.fused=false").optimizer == Adam(fused=False)


def test_data_may_stand_beside_a_model(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    function = "def {}(*, length: PositiveInt = 3) -> Dataset: ...\n"
    (tmp_path / "data.py").write_text(function.format("digits"))
    model = tmp_path / "models" / "waves.py"
    model.write_text(function.format("series") + "def build(shape, classes): ...\n")
    params = tmp_path / "params.yaml"
    params.write_text("data: {name: series}\nmodel: {name: waves}\noptimizer: {name: adam}\n")
    assert resolve_file(tmp_path, params).data == Own.model_validate(
        {"name": "series", "length": 3}
    )
    assert data_module(tmp_path, "series") == "models.waves"
    assert data_module(tmp_path, "digits") == "data"
    (tmp_path / "models" / "other.py").write_text(function.format("digits"))
    with pytest.raises(BadInput, match=r"other\.py: the data digits are in data already"):
        resolve_file(tmp_path, params)


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
def test_an_unfinished_model_is_in_nobodys_way(tmp_path: Path, text: str, told: str) -> None:
    params = small(tmp_path, half=text)
    assert resolve_file(tmp_path, params).model == Own.model_validate({"name": "whole", "units": 3})
    with pytest.raises(BadInput) as refusal:
        resolve_file(tmp_path, params, ["model.name=half"])
    assert told in str(refusal.value) and "\n" not in str(refusal.value)
    with pytest.raises(BadInput) as refusal:
        resolve_file(tmp_path, params, ["data.name=other"])
    assert ("half.py" in str(refusal.value)) == (told.startswith("half.py") and "build" not in told)


def test_unfinished_data_are_in_nobodys_way(tmp_path: Path) -> None:
    params = small(tmp_path, half="def series(*, length: Long) -> Dataset: ...\n")
    text = "def digits() -> Dataset: ...\ndef waves(*, length) -> Dataset: ...\n"
    (tmp_path / "data.py").write_text(text)
    assert resolve_file(tmp_path, params).data == Own(name="digits")
    for name, told in {
        "waves": "data.py, line 2: waves(length=…)",
        "series": "half.py, line 1",
    }.items():
        with pytest.raises(BadInput) as refusal:
            resolve_file(tmp_path, params, [f"data.name={name}"])
        assert told in str(refusal.value)
    (tmp_path / "data.py").write_bytes("# \xe9\n".encode("latin-1"))
    with pytest.raises(BadInput, match=r"expected one of series; got 'digits'; not read: data\.py"):
        resolve_file(tmp_path, params)


def test_an_argument_that_is_no_parameter_is_told_its_place(tmp_path: Path) -> None:
    text = "def build(shape, classes, units=3, *, depth: int = 1): ...\n"
    params = small(tmp_path, loose=text)
    assert resolve_file(tmp_path, params, ["model.name=loose"]).model.arguments["depth"] == 1
    with pytest.raises(BadInput) as refusal:
        resolve_file(tmp_path, params, ["model.name=loose", "model.units=5"])
    told = "model.units: loose.py, line 1: build(units) is no parameter there; it has to stand "
    assert str(refusal.value).startswith(told + "behind `*` in the signature, ")
    for given_by_us in ("shape", "classes"):
        with pytest.raises(BadInput, match=f"model.{given_by_us}: unknown parameter"):
            resolve_file(tmp_path, params, ["model.name=loose", f"model.{given_by_us}=5"])


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

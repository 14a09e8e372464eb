"""What is fixed around a training, setting by setting, and what is said of it."""

from __future__ import annotations

import gc
import os
import platform
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import examples
import numpy as np
import pytest

from repro.environment import determinism
from repro.environment.determinism import Promise, TooLate
from repro.recipe import reading
from repro.recipe.parameters import Guarantee, Parameters, Training
from repro.recipe.project import Project

PROJECT = Project.find()
BACKEND = reading.parameters(PROJECT.source, PROJECT.root / "params.yaml").backend
os.environ["KERAS_BACKEND"] = BACKEND
tensorflow = pytest.mark.skipif(BACKEND != "tensorflow", reason="the settings are TensorFlow's")

NONE = {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "2"}
MACHINE = NONE | {
    "TF_NUM_INTRAOP_THREADS": "3",
    "TF_NUM_INTEROP_THREADS": "3",
    "TF_DETERMINISTIC_OPS": "1",
    "TF_ENABLE_ONEDNN_OPTS": "1",
    "PYTHONHASHSEED": "0",
    "OMP_NUM_THREADS": "3",
    "OMP_DYNAMIC": "FALSE",
    "OPENBLAS_NUM_THREADS": "3",
    "MKL_NUM_THREADS": "3",
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
}
ANYWHERE = MACHINE | {
    "TF_ENABLE_ONEDNN_OPTS": "0",
    "TENSORFLOW_USE_CUSTOM_CONTRACTION_KERNEL": "0",
    "CUDA_VISIBLE_DEVICES": "-1",
}
PORTABLE = {
    "NPY_DISABLE_CPU_FEATURES": "X86_V3 X86_V4 AVX512_ICL AVX512_SPR",
    "OPENBLAS_CORETYPE": "Nehalem",
}
OF_PROCESSOR = {*PORTABLE, "GLIBC_TUNABLES", "DNNL_MAX_CPU_ISA", "ONEDNN_MAX_CPU_ISA"}
"""What only means something on one kind of processor."""


def parameters(guarantee: Guarantee = "machine", **changed: Any) -> Parameters:
    given: dict[str, Any] = {"guarantee": guarantee, "threads": 3, "backend": "tensorflow"}
    return examples.parameters(**given | changed)


@pytest.mark.parametrize(
    ("guarantee", "right"), [("none", NONE), ("machine", MACHINE), ("portable", ANYWHERE)]
)
def test_the_variables_of_a_run_are_these(
    guarantee: Guarantee, right: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for machine in ("x86_64", "AMD64", "aarch64"):
        monkeypatch.setattr(platform, "machine", lambda machine=machine: machine)
        found = determinism.environment(parameters(guarantee))
        further = {name: found.pop(name) for name in [*found] if name not in right}
        assert found == right
        if guarantee == "portable" and machine != "aarch64":
            assert further.items() >= PORTABLE.items()
            assert {*further} <= OF_PROCESSOR and "GLIBC_TUNABLES" in further
        else:
            assert further == {}


def test_the_process_of_a_run_has_what_is_the_callers_and_what_is_fixed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MY_OWN", "kept")
    monkeypatch.setenv("tf_my_own", "cleared")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    asked = parameters()
    found = determinism.of_process(Path("/project"), asked)
    assert found["MY_OWN"] == "kept" and "tf_my_own" not in found
    assert found["PYTHONPATH"] == str(Path("/project/src"))
    assert found.items() >= MACHINE.items()
    assert "CUDA_VISIBLE_DEVICES" not in found
    assert determinism.of_process(Path("/p"), asked, "GPU-1")["CUDA_VISIBLE_DEVICES"] == "GPU-1"
    hidden = determinism.of_process(Path("/p"), parameters("portable"), "GPU-1")
    assert hidden["CUDA_VISIBLE_DEVICES"] == "-1"


def prepared(monkeypatch: pytest.MonkeyPatch, asked: Parameters, **changed: str | None) -> None:
    """Gives this process the variables of a run's, and hides that libraries have started."""
    for name, value in (determinism.environment(asked) | changed).items():
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    monkeypatch.setattr(determinism, "sys", SimpleNamespace(modules={"numpy": np}))


@tensorflow
def test_what_is_applied_is_in_effect(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first in this file, since TensorFlow's threads are fixed once it has computed."""
    import keras
    import threadpoolctl

    asked = parameters(training=Training(dtype="float64"))
    prepared(monkeypatch, asked)
    keras.config.set_floatx("float16")
    keras.config.set_epsilon(1e-3)
    keras.config.set_image_data_format("channels_first")
    pools = [{"num_threads": 1}, {"num_threads": 3}, {"num_threads": 2}]
    monkeypatch.setattr(threadpoolctl, "threadpool_info", lambda: pools)
    frozen = gc.get_freeze_count()
    try:
        determinism.apply(asked, 1234)
        drawn = (random.random(), np.random.random())
        found = determinism.in_effect(asked)
    finally:
        keras.config.set_dtype_policy("float32")
    assert gc.isenabled() and gc.get_freeze_count() > frozen
    gc.unfreeze()
    right = {
        "intra_op_threads": 3,
        "inter_op_threads": 3,
        "op_determinism": True,
        "graph_jit": "off",
        "blas_and_openmp_threads": 3,
        "backend": "tensorflow",
        "floatx": "float32",
        "epsilon": 1e-7,
        "image_data_format": "channels_last",
        "dtype": "float64",
        "hash_seed_fixed": True,
    }
    assert {name: found[name] for name in right} == right
    assert type(found["gpus"]) is int
    assert determinism.expected(asked) == right
    # Keras takes one seed for Python, NumPy and itself: the SHA-256 of "1234".
    seed = int.from_bytes(bytes.fromhex("03ac6742"), "little")
    assert drawn == (random.Random(seed).random(), np.random.RandomState(seed).random_sample())
    monkeypatch.setattr(threadpoolctl, "threadpool_info", list)
    assert determinism.in_effect(asked)["blas_and_openmp_threads"] == 3
    for text, fixed in (("random", False), ("17", True)):
        monkeypatch.setenv("PYTHONHASHSEED", text)
        assert determinism.in_effect(asked)["hash_seed_fixed"] is fixed
    monkeypatch.delenv("PYTHONHASHSEED")
    assert determinism.in_effect(asked)["hash_seed_fixed"] is False


@tensorflow
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OMP_NUM_THREADS", "2"),
        ("OMP_NUM_THREADS", "4"),
        ("TF_DETERMINISTIC_OPS", None),
        ("TF_DETERMINISTIC_OPS", "0"),
        ("PYTHONHASHSEED", None),
        ("KERAS_BACKEND", "jax"),
    ],
)
def test_a_variable_that_is_not_set_is_found_too_late(
    name: str, value: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared(monkeypatch, parameters(), **{name: value})
    monkeypatch.setattr(determinism.gc, "disable", lambda: pytest.fail("it was applied"))  # type: ignore[attr-defined]
    with pytest.raises(TooLate, match=f"^{name} has to be .* and is {value!r}: start"):
        determinism.apply(parameters(), 1)


def test_any_seed_of_the_hashes_will_do_that_was_fixed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Applied(Exception):
        pass

    def applied() -> None:
        raise Applied

    monkeypatch.setattr(determinism.gc, "disable", applied)  # type: ignore[attr-defined]
    for seed in ("0", "17"):
        prepared(monkeypatch, parameters(), PYTHONHASHSEED=seed)
        with pytest.raises(Applied):
            determinism.apply(parameters(), 1)


@pytest.mark.parametrize("library", ["keras", "tensorflow", "jax", "torch"])
def test_a_library_that_has_started_is_named(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared(monkeypatch, parameters())
    monkeypatch.setattr(determinism, "sys", SimpleNamespace(modules={library: None, "numpy": np}))
    with pytest.raises(TooLate, match=f"must come before {library} are imported"):
        determinism.apply(parameters(), 1)


def test_what_is_expected_depends_on_the_guarantee() -> None:
    asked = parameters("portable")
    machine = determinism.expected(asked, "machine")
    assert determinism.expected(asked, "none") == {}
    assert determinism.expected(parameters("none")) == {}
    portable = determinism.expected(asked)
    assert portable.items() > machine.items()
    further = {name: value for name, value in portable.items() if name not in machine}
    assert further == {
        "onednn": False,
        "mathematics": "plain",
        "cache_sizes": [32768, 524288, 8388608],
        "gpus": 0,
    }


def test_each_reason_is_told_that_a_guarantee_does_not_hold() -> None:
    asked = parameters("portable")
    found = determinism.expected(asked)
    told = determinism.guarantee(asked, found, {}, [])
    assert told == Promise("portable", "portable", [])
    found |= {"epsilon": 1e-6, "gpus": 1, "mathematics": "fma"}
    told = determinism.guarantee(asked, found, {"numpy": "1 locked, 2 installed"}, ["top: Atan"])
    assert told == Promise(
        "portable",
        "none",
        [
            "epsilon: 1e-07 asked, 1e-06 in effect",
            "numpy: 1 locked, 2 installed",
            "mathematics: 'plain' asked, 'fma' in effect",
            "gpus: 0 asked, 1 in effect",
            "top: Atan is not known to be portable",
        ],
    )
    machine = parameters("machine")
    here = determinism.expected(machine) | {"gpus": 1}
    assert determinism.guarantee(machine, here, {}, ["top: Atan"]) == Promise(
        "machine", "machine", []
    )
    nothing = parameters("none")
    assert determinism.guarantee(nothing, {}, {"numpy": "other"}) == Promise("none", "none", [])


@tensorflow
@pytest.mark.parametrize(("purpose", "text"), [((), "7"), (("data", 2), "7/data/2")])
def test_each_purpose_has_its_seed(purpose: tuple[str | int, ...], text: str) -> None:
    import hashlib

    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little")
    determinism.reseed(7, *purpose)
    assert random.random() == random.Random(seed).random()
    assert np.random.random() == np.random.RandomState(seed).random_sample()

"""On a GPU two runs are identical as well. What that costs: `python -m benchmarks.gpu`."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from .conftest import Generated, bake, environment
from .test_families import BACKENDS, settings

SMI = shutil.which("nvidia-smi")
there = SMI is not None and subprocess.run([SMI, "-L"], capture_output=True).returncode == 0
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not there, reason="no GPU: nvidia-smi does not answer"),
]


@pytest.fixture(scope="module", params=BACKENDS)
def on_gpu(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Generated:
    backend: str = request.param
    try:
        python = environment(backend, "cuda")
    except subprocess.CalledProcessError:
        if backend != "tensorflow":
            raise
        pytest.skip("TensorFlow with CUDA cannot be installed here")
    return bake(tmp_path_factory.mktemp(backend), python, backend=backend, starter="all")


@pytest.mark.parametrize("model", ["lenet5", "residual", "transformer"])
def test_two_runs_on_a_gpu_are_identical(model: str, on_gpu: Generated) -> None:
    answer = on_gpu.repro("verify", *settings(model))
    assert (answer["verdict"], answer["guarantee"]["broken"]) == ("identical", [])


def test_the_doctor_names_the_gpu(on_gpu: Generated) -> None:
    assert SMI is not None
    asked = (SMI, "--query-gpu=name", "--format=csv,noheader")
    names = subprocess.check_output(asked, text=True).splitlines()
    (found,) = on_gpu.repro("doctor", CUDA_VISIBLE_DEVICES="0")["gpus"]
    assert found in names

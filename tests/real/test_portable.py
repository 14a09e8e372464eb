"""The guarantee `portable`: one digest on any number of processors of any model.

Models of processors that are not here are emulated by qemu-user, which Debian and Ubuntu have. More
processors than there are, are pretended by a library that answers for the system. `make proof`
tries every pair of both; otherwise one model of processor and three numbers.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from .conftest import TEMPLATE, Generated, document, fewer, proof, some

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(
        platform.system() != "Linux" or platform.machine() != "x86_64",
        reason="portable is a promise for x86-64, and emulated on Linux",
    ),
]

# The emulated processors differ in AVX2, FMA and the sizes of their caches; none has AVX-512.
CPUS = ("native", "SandyBridge", "Haswell", "max", "EPYC")
PROCESSORS = (1, 2, 4, 8)
MODELS: dict[str, tuple[str, ...]] = {
    "dense": ("model.name=dense", "model.dropout=0.2"),
    "lenet5": (
        "model.name=lenet5",
        "model.dropout=0.2",
        "model.translation=0.1",
        "optimizer.name=adamw",
    ),
    "normalized": ("model.name=normalized", "optimizer.name=sgd", "optimizer.momentum=0.9"),
    "recurrent": ("model.name=recurrent", "optimizer.name=rmsprop"),
    "attentive": (
        "model.name=attentive",
        "optimizer.schedule.name=cosine_decay",
        "optimizer.schedule.decay_steps=40",
    ),
} | {
    preset: (f"preset={preset}",)
    for preset in (
        *("regression", "residual", "lstm", "forecast", "autoencoder", "denoising", "anomaly"),
        *("vae", "gan", "transformer", "gpt", "simclr"),
    )
}
THOROUGHLY = ("dense", "lenet5")
SHORT = ("training.epochs=2", "training.steps_per_epoch=20")
PORTABLE = ("guarantee=portable", *SHORT)


@pytest.fixture(scope="module")
def pretending(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library that says there are as many processors as PROCESSORS has it."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler, to pretend there are more processors than there are")
    library = tmp_path_factory.mktemp("pretending") / "processors.so"
    source = Path(__file__).with_name("processors.c")
    command = [compiler, "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"]
    subprocess.run(command, check=True)
    return library


def train(
    project: Generated, folder: Path, library: Path, cpu: str, processors: int, *settings: str
) -> dict[str, Any]:
    """The manifest of a run on so many processors of a model."""
    command = [str(project.python)]
    if cpu != "native":
        emulator = shutil.which("qemu-x86_64")
        if emulator is None:
            pytest.skip("no qemu-x86_64, to emulate processors: apt-get install qemu-user")
        command = [emulator, "-cpu", cpu, *command]
    env: dict[str, Any] = {}
    if processors <= len(os.sched_getaffinity(0)):
        chosen = ",".join(map(str, sorted(os.sched_getaffinity(0))[:processors]))
        command = ["taskset", "-c", chosen, *command]
    else:
        env = {"LD_PRELOAD": str(library), "PROCESSORS": str(processors)}
    python = folder / f"python-{cpu}-{processors}"
    python.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
    python.chmod(0o755)
    answer = project.repro("train", *SHORT, *settings, "--fresh", REPRO_PYTHON=str(python), **env)
    content: dict[str, Any] = json.loads(
        (Path(answer["run_dir"]) / "manifest.json").read_text(encoding="utf-8")
    )
    assert content["interpreter"] == str(python)
    assert content["machine"]["cores_available"] == processors
    return content


FEW_PLACES = [("native", 1), ("native", 8), ("Haswell", 4)]


def places(model: str) -> list[tuple[str, int]]:
    """Where a model is tried; most on each emulated processor with one number alone."""
    if model in THOROUGHLY:
        return [(cpu, processors) for cpu in CPUS for processors in PROCESSORS]
    numbers = (*PROCESSORS, PROCESSORS[0])
    return [*(("native", number) for number in PROCESSORS), *zip(CPUS[1:], numbers, strict=False)]


@pytest.mark.parametrize("model", some(MODELS, ("lenet5",)))
def test_one_digest_whatever_the_processor(
    model: str, models: Generated, pretending: Path, tmp_path: Path
) -> None:
    settings = ("guarantee=portable", *MODELS[model])
    tried = fewer(FEW_PLACES, places(model))
    with ThreadPoolExecutor(2) as pool:
        manifests = pool.map(
            lambda place: train(models, tmp_path, pretending, *place, *settings), tried
        )
        found = dict(zip(tried, manifests, strict=True))
    for content in found.values():
        assert content["guarantee"] == {"asked": "portable", "holds": "portable", "broken": []}
    # The head of the ledger: settings, data, order, states, results and predictions are equal.
    heads = {place: content["ledger_head"] for place, content in found.items()}
    assert len(set(heads.values())) == 1, heads
    native = found["native", 1]["machine"]
    wide = "with" if "avx512f" in native["cpu_flags"] else "without"
    document("native", f"{native['cpu']}, {wide} AVX-512")
    on = {cpu: [str(number) for name, number in found if name == cpu] for cpu in CPUS}
    document(
        f"portable {model}",
        "; ".join(f"{cpu} with {', '.join(numbers)}" for cpu, numbers in on.items() if numbers)
        + f": {len(found)} runs, 1 digest",
    )


# Functions that TensorFlow computes otherwise on other processors, and the machinery does not mend.
DIFFERS = {"ops.arctan", "ops.arctan2", "ops.erfinv"}


def test_operations_agree_but_for_a_known_few(installed: Path, tmp_path: Path) -> None:
    if shutil.which("qemu-x86_64") is None:
        pytest.skip("no qemu-x86_64, to emulate processors: apt-get install qemu-user")
    file = tmp_path / "found.json"
    few = ["--cpus", "native,Haswell", "--only", "arctan|softmax|Conv2D$|s.Adam"]
    options = ["--jobs", "2", "--json", str(file), *fewer(few, [])]
    script = TEMPLATE / "benchmarks" / "portability.py"
    done = subprocess.run([installed, script, *options], capture_output=True, text=True)
    assert file.exists(), done.stdout + done.stderr
    found = json.loads(file.read_text(encoding="utf-8"))
    assert "not run:" not in done.stdout
    assert found["results"] > fewer(50, 1500)
    differing = {name.partition(":")[0] for name in found["differs"]}
    code = "import json; from repro.backends import portable; "
    code += "print(json.dumps(sorted(portable.PROVED)))"
    source = str(TEMPLATE / "{{cookiecutter.project_slug}}" / "src")
    proved = json.loads(
        subprocess.check_output(
            [installed, "-c", code], env={**os.environ, "PYTHONPATH": source}, text=True
        )
    )
    assert differing == fewer({"ops.arctan", "ops.arctan2"}, DIFFERS)
    kinds = set(found["kinds"])
    assert kinds
    assert fewer(kinds <= set(proved), found["kinds"] == proved)
    document(
        "sweep",
        f"{found['cases']} cases on {', '.join(found['processors'])}, {found['results']} results; "
        f"not the same everywhere: {', '.join(f'`{name}`' for name in sorted(differing))}",
    )


def test_what_differs_by_processor_is_named_and_lowers_the_guarantee(
    models: Generated, pretending: Path, tmp_path: Path
) -> None:
    content = train(models, tmp_path, pretending, "native", 1, "model.name=curved", *PORTABLE)
    assert content["guarantee"] == {
        "asked": "portable",
        "holds": "machine",
        "broken": ["curved: Atan is not known to be portable"],
    }
    done = models.run("repro", "train", "model.name=curved", *PORTABLE, "--fresh")
    warning = "guarantee machine; portable does NOT hold: curved: Atan"
    # Before the training, and with its result.
    assert done.stderr.index(warning) < done.stderr.index("epoch 1/2")
    assert warning.removeprefix("guarantee ") in done.stdout
    answer = models.repro("verify", "model.name=curved", *PORTABLE, status=1)
    assert (answer["verdict"], answer["guarantee"]["holds"]) == ("identical", "machine")


def test_what_is_computed_beside_the_training_is_looked_at_as_well(models: Generated) -> None:
    done = models.run("repro", "train", "model.name=judging", *PORTABLE, "--fresh", "--json")
    answer = json.loads(done.stdout)
    broken = [
        "judge: Atan is not known to be portable",
        "produce: Erfinv is not known to be portable",
    ]
    assert answer["guarantee"] == {"asked": "portable", "holds": "machine", "broken": broken}
    manifest = Path(answer["run_dir"], "manifest.json").read_text(encoding="utf-8")
    assert json.loads(manifest)["guarantee"] == answer["guarantee"]
    done = models.run("repro", "verify", "model.name=judging", *PORTABLE)
    assert f"guarantee  machine; portable does NOT hold: {'; '.join(broken)}" in done.stdout
    # The models of the template judge, draw and predict by what is known to be portable.
    for preset in ("gan", "vae"):
        content = models.repro("train", f"preset={preset}", *PORTABLE, "--fresh")
        assert content["guarantee"]["holds"] == "portable"


def script(models: Generated, name: str) -> str:
    """What a script of this folder prints, run with the settings of `portable`."""
    code = "import json; from repro.environment.determinism import environment\n"
    code += "from repro.recipe.parameters import Own, Parameters\nnone = Own(name='none')\n"
    code += "asked = Parameters(guarantee='portable', data=none, model=none, optimizer=None)\n"
    code += "print(json.dumps(environment(asked)))"
    environment = {**os.environ, "PYTHONPATH": str(models.root / "src")}
    needed = json.loads(subprocess.check_output([models.python, "-c", code], env=environment))
    file = Path(__file__).with_name(name)
    return subprocess.check_output([models.python, file], env=environment | needed, text=True)


def test_watching_sees_every_way_to_compute_and_changes_no_bit(models: Generated) -> None:
    seen = json.loads(script(models, "watching.py"))
    assert seen == {
        "by itself": ["by itself: Atan"],
        "in a function": ["in a function: Atan"],
        "in a function of a function": ["in a function of a function: Atan"],
        "in a pipeline": ["in a pipeline: Atan"],
        "in a gradient": ["in a gradient: Atan"],
        "compiled by XLA": ["compiled by XLA: XLA"],
        "in double precision": ["in double precision: Exp:float64"],
        "in a layer": ["bend: Atan"],
        "in no way": [],
        "in no prediction": [],
        "in no call": [],
    }


def test_convolutions_of_grey_images_have_tensorflows_bits(models: Generated) -> None:
    script(models, "convolutions.py")


@proof()
def test_processors_differ_without_it(models: Generated, pretending: Path, tmp_path: Path) -> None:
    """Without what it mends, and in what it does not promise, two processors do differ."""
    for settings in (
        ("model.name=attentive", "guarantee=machine"),
        ("model.name=curved", "guarantee=portable"),
    ):
        digests = {
            train(models, tmp_path, pretending, cpu, 1, *settings)["digest"]
            for cpu in ("native", "SandyBridge")
        }
        assert len(digests) == 2


def test_an_interpreter_that_is_not_there_is_refused(project: Generated, tmp_path: Path) -> None:
    before = sorted(project.root.glob("runs/*"))
    done = project.run("repro", "train", REPRO_PYTHON=str(tmp_path / "python"))
    assert done.returncode == 2
    assert done.stderr == (
        "repro: REPRO_PYTHON: expected a Python, or a program that starts one; "
        f"{tmp_path / 'python'} cannot be run\n"
    )
    assert sorted(project.root.glob("runs/*")) == before

"""The fresh process: `python -m repro.run RUN_DIRECTORY` runs the recipe in its manifest.

It says what it does in events, one line of JSON each, on standard output; whatever the project's
own code prints goes to the log. Nothing numerical is imported before the settings are in effect.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from . import (
    BAD_INPUT,
    FAILED,
    BadInput,
    Dataset,
    Probed,
    determinism,
    doctor,
    resolve,
    sha256,
    surroundings,
)
from . import recipe as recipes
from .recipe import Project

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""What a write fails with where the disk, the quota or the largest size of a file is reached."""


def main(directory: Path) -> int:
    """Returns the exit status; `BAD_INPUT` comes with an event `refused`."""
    # The events keep the pipe to the launcher; what is printed from here on goes to the log.
    pipe = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def send(**event: Any) -> None:
        with contextlib.suppress(OSError):  # Nobody may listen any more; the run goes on.
            print(json.dumps(event), file=pipe, flush=True)

    start = time.monotonic()
    content = recipes.read_manifest(directory)
    surroundings.enter(**content["surroundings"])
    try:
        outcome = train(
            Project(Path.cwd(), content["project"]["package"]), directory, content, send
        )
    except BadInput as error:
        send(event="refused", message=str(error))
        return BAD_INPUT
    except Probed:
        recipes.write_manifest(directory, content | {"status": "probed"})
        return 0
    except OSError as error:
        if error.errno not in FULL:
            raise
        send(
            event="failed",
            message=f"{error.strerror}: {error.filename or directory} cannot be written; "
            "make room and start the same training again, it goes on from its last checkpoint",
        )
        return FAILED
    content |= outcome
    content |= {
        "status": "finished",
        "duration_seconds": round(time.monotonic() - start, 3),
        "peak_memory_bytes": doctor.peak_memory(),
    }
    recipes.write_manifest(directory, content)
    shutil.rmtree(directory / "checkpoints", ignore_errors=True)
    return 0


def train(project: Project, directory: Path, content: dict[str, Any], send: Any) -> dict[str, Any]:
    """Trains as the manifest's recipe says, and returns what the manifest is to be told."""
    recipe = content["recipe"]
    parameters = recipe["parameters"]
    seed = determinism.fold_seed(content["seed"], parameters["split"])
    if "REPRO_PYTHON" in os.environ and recipes.lock(project.root) != recipe["lock"]:
        raise BadInput(
            f"REPRO_PYTHON: {sys.executable} has other packages than where the run was started; "
            f"install {recipe['lock']['file']} there"
        )
    determinism.apply(parameters, seed)

    import numpy as np

    from . import loop, portable, record, splits, state
    from .ledger import Ledger
    from .state import Checkpoints

    # All folds cut the same data: those are of the recipe's own seed.
    determinism.reseed(content["seed"], "data")
    function = parameters["data"]["name"]
    module = resolve.data_module(project.source, function)
    dataset = _call(project, module, function, parameters["data"])
    if not isinstance(dataset, Dataset):
        raise BadInput(f"data.name: {function} returned no Dataset")
    recipe["data"] = dataset.sources
    if parameters["split"]["file"] is None:
        split = splits.make(dataset, parameters["split"])
    else:
        file = recipes.split_file(project, parameters["split"]["file"])
        split = splits.reuse(file, dataset, parameters["split"]["strategy"])
    splits.save(directory / "split.npz", split, dataset)
    samples = splits.parts(dataset, split)

    determinism.reseed(seed, "model")
    model_parameters = parameters["model"]
    shape = samples.train.x.shape[1:]
    name = f"models.{model_parameters['name']}"
    model = _call(project, name, "build", model_parameters, shape, dataset.classes)
    _compile(model, parameters)
    loop.ready(model, samples.train)
    training = parameters["training"]
    transferred: list[str] = []
    first = recipes.beginning(project, recipe)
    if first is not None:
        name, run = first
        if name == "initial_state":
            state.load(run / "state.npz", model, training[name])
        else:
            transferred = state.transfer(run / "state.npz", model, training[name])

    determinism.reseed(seed, "training")
    steps_of = loop.compiled(model, samples, training)
    unproved: list[str] = []
    if parameters["guarantee"] == "portable":
        layers = (layer.name for layer in model._flatten_layers(include_self=False))
        unproved = portable.unproved((one.graph for one in steps_of.values()), layers)
    found = determinism.in_effect(parameters)
    guarantee = determinism.guarantee(parameters, found, recipe["lock"]["departures"], unproved)
    data = {
        "samples": dataset.digests,
        "split": {name: sha256(places) for name, places in split.parts().items()},
    }
    if dataset.preprocessing is not None:
        data["arrays"] = {name: sha256(array) for name, array in samples.arrays().items()}
    beginning = [
        ("environment", {"settings": {"seed": seed, **found}}),
        ("data", data),
        ("initial", state.digests(model, *state.KEPT)),
    ]
    checkpoints = Checkpoints(
        directory / "checkpoints",
        content["checkpoint_seconds"],
        recipes.digest(recipe),
        sum(array.nbytes for array in state.arrays(model, state.KINDS).values()),
    )
    checkpoint = checkpoints.newest()
    path = directory / "ledger.jsonl"
    if checkpoint is None:
        ledger = Ledger(path)
        for stage, fields in beginning:
            ledger.append(stage, fields)
    else:
        _same_beginning(path, beginning)
        ledger = Ledger(path, keep=checkpoint.position.entries)
        if ledger.head != checkpoint.position.head:
            raise BadInput(f"{path}: altered since the checkpoint was written")
    send(
        event="start",
        guarantee=guarantee,
        refused=checkpoint.refused if checkpoint else [],
        epoch=checkpoint.position.epoch if checkpoint else 0,
        step=checkpoint.position.step if checkpoint else 0,
    )

    probe, found_here = content.get("probe"), directory / "probe.npz"
    if probe is not None and probe["stage"] in ("data", "initial"):
        tensors = record.beginning(model, dataset, samples, probe["stage"])
        np.savez(found_here, allow_pickle=False, **tensors)
        raise Probed
    begun = time.monotonic()
    history, results = loop.train(
        model, steps_of, parameters, seed, ledger, checkpoints, checkpoint, send, probe, found_here
    )
    seconds = {
        "training": time.monotonic() - begun,
        "ledger": ledger.seconds,
        "checkpoints": checkpoints.seconds,
    }

    batch_size = training["validation_batch_size"] or training["batch_size"]
    tested = loop.evaluate(model, steps_of["test"], batch_size)
    results = results | {f"test_{name}": value for name, value in tested.items()}
    outputs = loop.predictions(model, samples.test, batch_size)
    predictions = {name: sha256(array) for name, array in outputs.items()}
    produced = model.produce() if hasattr(model, "produce") else {}
    made = {name: sha256(array) for name, array in produced.items()}
    ledger.append(
        "final", {"arrays": predictions, "produced": made, "results": loop.exact(results)}
    )
    ledger.close()
    try:
        model.save(directory / "model.keras")
    except NotImplementedError:  # The state holds all of it; only `load_model` needs more.
        name = type(model).__name__
        print(f"no model.keras: Keras cannot describe {name}, which has no get_config()")
    state.save(directory / "state.npz", model)
    judged = loop.judged(samples.test, outputs) if training["loss"] else {}
    np.savez(directory / "predictions.npz", allow_pickle=False, **judged)
    if produced:
        np.savez(directory / "produced.npz", allow_pickle=False, **produced)
    (directory / "history.json").write_text(json.dumps(history, indent=1) + "\n", encoding="utf-8")
    return {
        "recipe": recipe,
        "recipe_digest": recipes.digest(recipe),
        "split": splits.describe(split, dataset),
        "guarantee": guarantee,
        "in_effect": found,
        "digest": state.digest(state.digests(model, *state.KEPT)),
        "transferred": transferred,
        "predictions": predictions,
        "produced": made,
        "metrics": results,
        "ledger_head": ledger.head,
        "seconds": {name: round(value, 4) for name, value in seconds.items()},
        "versions": doctor.versions(),
        "machine": doctor.machine(),
    }


def _same_beginning(path: Path, beginning: list[tuple[str, Any]]) -> None:
    """Refuses to go on where data, settings or initial state are not what they were."""
    from . import ledger

    for entry, (stage, fields) in zip(ledger.read(path, whole=False), beginning, strict=False):
        for what, values in fields.items():
            for name, value in values.items():
                if entry.get(what, {}).get(name) != value:
                    raise BadInput(
                        f"{stage}: {name} is not what it was when this run began; "
                        "a new run is needed: repro train --fresh"
                    )


def _call(
    project: Project, module: str, function: str, arguments: dict[str, Any], *positional: Any
) -> Any:
    """Calls a function of the project's own package with its group of parameters."""
    target = getattr(importlib.import_module(f"{project.package}.{module}"), function)
    return target(*positional, **{k: v for k, v in arguments.items() if k != "name"})


KERAS = {
    "adam": "Adam",
    "adamw": "AdamW",
    "sgd": "SGD",
    "rmsprop": "RMSprop",
    "cosine_decay": "CosineDecay",
    "exponential_decay": "ExponentialDecay",
    "polynomial_decay": "PolynomialDecay",
    "inverse_time_decay": "InverseTimeDecay",
}
"""Keras's classes by their names in `params.yaml`."""


def _compile(model: Any, parameters: dict[str, Any]) -> None:
    import keras

    def make(module: Any, group: dict[str, Any], **changed: Any) -> Any:
        arguments = {k: v for k, v in group.items() if k not in ("name", "schedule")}
        return getattr(module, KERAS[group["name"]])(**arguments | changed)

    group = parameters["optimizer"]
    rate = group["learning_rate"]
    if group["schedule"]:
        schedules = keras.optimizers.schedules
        rate = make(schedules, group["schedule"], initial_learning_rate=rate)
    optimizer = make(keras.optimizers, group, learning_rate=rate)
    training = parameters["training"]
    own = type(model).compute_loss is not keras.Model.compute_loss or hasattr(model, "learn")
    if training["loss"] is None and not own:
        raise BadInput(
            f"training.loss: null is for models with a loss of their own, which "
            f"{parameters['model']['name']} has not; sparse_categorical_crossentropy would do"
        )
    if training["metrics"] and hasattr(model, "learn"):
        raise BadInput(
            "training.metrics: expected [] for a model with a `learn` of its own, which says in "
            f"`judge` what is measured; got {training['metrics']}"
        )
    # Our own loop compiles the steps, as `jit_compile` says; Keras's own functions stay plain, but
    # on JAX, where they would be made operation by operation.
    model.compile(
        optimizer=optimizer,
        loss=training["loss"],
        metrics=training["metrics"] or None,
        jit_compile=parameters["backend"] == "jax",
    )


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))

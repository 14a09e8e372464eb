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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import (
    BAD_INPUT,
    FAILED,
    BadInput,
    Dataset,
    Parts,
    Probed,
    backends,
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

    from . import loop, portable, record, state, targets
    from .ledger import Ledger
    from .state import Checkpoints

    data = _data(project, directory, content)
    samples = data.parts

    determinism.reseed(seed, "model")
    model_parameters = parameters["model"]
    shape = samples.train.x.shape[1:]
    name = f"models.{model_parameters['name']}"
    with targets.building():
        model = _call(project, name, "build", model_parameters, shape, data.classes)
    training = parameters["training"]
    targets.fresh(model)
    _compile(model, parameters, samples)
    with targets.checking(model, samples, data.classes, training):
        loop.ready(model, samples.train)
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
    beginning = [
        ("environment", {"settings": {"seed": seed, **found}}),
        ("data", data.entry),
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
    if probe is not None and probe["stage"] == "initial":
        np.savez(found_here, allow_pickle=False, **record.initial(model))
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
        "split": data.split,
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


@dataclass(frozen=True)
class _Data:
    """What a training needs of its data, which as a whole are in memory no longer."""

    parts: Parts
    classes: int
    entry: dict[str, dict[str, str]]
    """What the ledger is told."""
    split: dict[str, Any]
    """What the manifest is told."""


def _data(project: Project, directory: Path, content: dict[str, Any]) -> _Data:
    """Reads the data of a recipe, notes in it where they are from, and cuts them into parts."""
    import numpy as np

    from . import splits

    recipe = content["recipe"]
    function, asked = recipe["parameters"]["data"]["name"], recipe["parameters"]["split"]
    # All folds cut the same data: those are of the recipe's own seed.
    determinism.reseed(content["seed"], "data")
    module = resolve.data_module(project.source, function)
    dataset = _call(project, module, function, recipe["parameters"]["data"])
    if not isinstance(dataset, Dataset):
        raise BadInput(f"data.name: {function} returned no Dataset")
    recipe["data"] = dataset.sources
    if asked["file"] is None:
        split = splits.make(dataset, asked)
    else:
        file = recipes.split_file(project, asked["file"])
        split = splits.reuse(file, dataset, asked["strategy"], asked["file"])
    splits.save(directory / "split.npz", split, dataset)
    parts = splits.parts(dataset, split, recipe["parameters"]["training"]["dtype"])
    probe = content.get("probe")
    if probe is not None and probe["stage"] == "data":
        arrays = dataset.arrays() | parts.arrays()
        named = {f"data/{name}": array for name, array in arrays.items()}
        np.savez(directory / "probe.npz", allow_pickle=False, **named)
        raise Probed
    entry = {
        "samples": dataset.digests,
        "split": {name: sha256(places) for name, places in split.parts().items()},
    }
    if dataset.preprocessing is not None:
        entry["arrays"] = {name: sha256(array) for name, array in parts.arrays().items()}
    return _Data(parts, dataset.classes, entry, splits.describe(split, dataset))


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


def _compile(model: Any, parameters: dict[str, Any], samples: Parts) -> None:
    import keras

    from . import targets

    def make(module: Any, group: dict[str, Any], **changed: Any) -> Any:
        ours = ("name", "schedule", "fused")
        arguments = {k: v for k, v in group.items() if k not in ours}
        return getattr(module, KERAS[group["name"]])(**arguments | changed)

    group = parameters["optimizer"]
    rate = group["learning_rate"]
    if group["schedule"]:
        schedules = keras.optimizers.schedules
        rate = make(schedules, group["schedule"], initial_learning_rate=rate)
    optimizer = make(keras.optimizers, group, learning_rate=rate)
    if group.get("fused"):
        backends.current().fuse(optimizer)
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
        metrics=targets.metrics(training["metrics"], samples),
        jit_compile=parameters["backend"] == "jax",
    )


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))

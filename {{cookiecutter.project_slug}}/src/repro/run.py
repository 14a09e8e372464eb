"""The fresh process: `python -m repro.run RUN_DIRECTORY` runs the recipe in its manifest.

It says what it does in events, one line of JSON each, on standard output; whatever the project's
own code prints goes to the log. Nothing numerical is imported before the settings are in effect.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import secrets
import sys
import time
from pathlib import Path
from typing import Any

from . import BAD_INPUT, BadInput, determinism, doctor, surroundings
from . import recipe as recipes
from .recipe import Project


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
        outcome = train(Project(Path.cwd(), content["project"]["package"]), directory, send)
    except BadInput as error:
        send(event="refused", message=str(error))
        return BAD_INPUT
    content |= outcome
    content |= {
        "status": "finished",
        "duration_seconds": round(time.monotonic() - start, 3),
        "peak_memory_bytes": doctor.peak_memory(),
    }
    recipes.write_manifest(directory, content)
    return 0


def train(project: Project, directory: Path, send: Any) -> dict[str, Any]:
    """Trains as the manifest's recipe says, and returns what the manifest is to be told."""
    recipe = recipes.read_manifest(directory)["recipe"]
    parameters = recipe["parameters"]
    # Without a seed every run draws its own; the manifest tells which, so that even such a run
    # can be repeated.
    seed = secrets.randbits(32) if parameters["seed"] is None else parameters["seed"]
    determinism.apply(parameters, seed)

    from . import loop, state
    from .dataset import Dataset, sha256
    from .ledger import Ledger

    determinism.reseed(seed, "data")
    dataset = _call(project, "data", parameters["data"]["name"], parameters["data"])
    if not isinstance(dataset, Dataset):
        raise BadInput(f"data.name: {parameters['data']['name']} returned no Dataset")
    recipe["data"] = dataset.sources

    determinism.reseed(seed, "model")
    model_parameters = parameters["model"]
    shape = dataset.train.x.shape[1:]
    name = f"models.{model_parameters['name']}"
    model = _call(project, name, "build", model_parameters, shape, dataset.classes)
    _compile(model, parameters)
    loop.ready(model, dataset.train)
    initial = recipes.initial_state(project, recipe)
    if initial is not None:
        digest = parameters["training"]["initial_state"]
        state.load(initial / "state.npz", model, digest)

    determinism.reseed(seed, "training")
    found = determinism.in_effect(parameters)
    guarantee = determinism.guarantee(parameters, found, recipe["lock"]["departures"])
    ledger = Ledger(directory / "ledger.jsonl")
    ledger.append("environment", {"settings": {**found, "seed": seed}})
    arrays = {
        f"{part}/{name}": sha256(array)
        for part, samples in dataset.parts().items()
        for name, array in samples.arrays().items()
    }
    ledger.append("data", {"arrays": arrays})
    ledger.append("initial", state.digests(model, *state.KEPT))
    send(event="start", broken=guarantee["broken"])

    history = loop.train(model, dataset, parameters, seed, ledger, send)

    training = parameters["training"]
    batch_size = training["validation_batch_size"] or training["batch_size"]
    test_run = loop.compiled(model, model.test_step, dataset.test, training["jit_compile"])
    tested = loop.evaluate(model, test_run, len(dataset.test.x), batch_size)
    results = history[-1] | {f"test_{name}": value for name, value in tested.items()}
    predictions = loop.predictions(model, dataset.test, batch_size)
    ledger.append("final", {"arrays": predictions, "results": loop.exact(results)})
    ledger.close()
    model.save(directory / "model.keras")
    state.save(directory / "state.npz", model)
    (directory / "history.json").write_text(json.dumps(history, indent=1) + "\n", encoding="utf-8")
    return {
        "recipe": recipe,
        "recipe_digest": recipes.digest(recipe),
        "guarantee": guarantee,
        "seed": seed,
        "in_effect": found,
        "digest": state.digest(state.digests(model, *state.KEPT)),
        "predictions": predictions,
        "metrics": results,
        "ledger_head": ledger.head,
        "versions": doctor.versions(),
        "machine": doctor.machine(),
    }


def _call(
    project: Project, module: str, function: str, arguments: dict[str, Any], *positional: Any
) -> Any:
    """Calls a function of the project's own package with its group of parameters."""
    target = getattr(importlib.import_module(f"{project.package}.{module}"), function)
    return target(*positional, **{k: v for k, v in arguments.items() if k != "name"})


def _compile(model: Any, parameters: dict[str, Any]) -> None:
    import keras

    settings = {k: v for k, v in parameters["optimizer"].items() if k != "name"}
    optimizer = keras.optimizers.get(parameters["optimizer"]["name"]).__class__(**settings)
    training = parameters["training"]
    # Our own loop compiles the steps, as `jit_compile` says; Keras's own functions stay plain.
    model.compile(
        optimizer=optimizer, loss=training["loss"], metrics=training["metrics"], jit_compile=False
    )


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))

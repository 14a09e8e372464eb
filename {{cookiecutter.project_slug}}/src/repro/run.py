"""The fresh process: `python -m repro.run RUN_DIRECTORY` runs the recipe in its manifest.

It says what it does in events, one line of JSON each, on standard output; whatever the project's
own code prints goes to the log. Nothing numerical is imported before the settings are in effect.
"""

from __future__ import annotations

import importlib
import json
import os
import secrets
import sys
import time
from pathlib import Path
from typing import Any

from . import BAD_INPUT, BadInput, determinism, manifest, surroundings
from . import recipe as recipes
from .recipe import Project


def main(directory: Path) -> int:
    """Returns the exit status; `BAD_INPUT` comes with an event `refused`."""
    # The events keep the pipe to the launcher; what is printed from here on goes to the log.
    pipe = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def send(**event: Any) -> None:
        try:
            print(json.dumps(event), file=pipe, flush=True)
        except OSError:
            pass  # Nobody listens any more; the run goes on.

    start = time.monotonic()
    content = manifest.read(directory)
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
        "peak_memory_bytes": manifest.peak_memory(),
    }
    manifest.write(directory, content)
    return 0


def train(project: Project, directory: Path, send: Any) -> dict[str, Any]:
    """Trains as the manifest's recipe says, and returns what the manifest is to be told."""
    recipe = manifest.read(directory)["recipe"]
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
    broken = determinism.broken(parameters, found)
    ledger = Ledger(directory / "ledger.jsonl")
    ledger.append("environment", settings={**found, "seed": seed})
    arrays = {
        f"{part}/{name}": sha256(array)
        for part, samples in dataset.parts().items()
        for name, array in samples.arrays().items()
    }
    ledger.append("data", arrays=arrays)
    kinds = _digests(model)
    ledger.append("initial", **kinds)
    send(event="start", broken=broken, parameters=model.count_params())

    history = loop.train(model, dataset, parameters, seed, ledger, send)

    kinds = _digests(model)
    training = parameters["training"]
    batch_size = training["validation_batch_size"] or training["batch_size"]
    test_run = loop.compiled(model, model.test_step, dataset.test, training["jit_compile"])
    tested = loop.evaluate(model, test_run, len(dataset.test.x), batch_size)
    results = history[-1] | {f"test_{name}": value for name, value in tested.items()}
    predictions = loop.predictions(model, dataset.test, batch_size)
    ledger.append("final", arrays=predictions, results=loop.exact(results))
    ledger.close()
    model.save(directory / "model.keras")
    state.save(directory / "state.npz", model)
    (directory / "history.json").write_text(json.dumps(history, indent=1) + "\n", encoding="utf-8")
    return {
        "recipe": recipe,
        "recipe_digest": recipes.digest(recipe),
        "guarantee": {
            "asked": parameters["guarantee"],
            "holds": "none" if broken else parameters["guarantee"],
            "broken": broken,
        },
        "seed": seed,
        "in_effect": found,
        "digest": state.digest(kinds),
        "predictions": predictions,
        "metrics": results,
        "ledger_head": ledger.head,
        "versions": manifest.versions(),
        "machine": manifest.machine(),
    }


def _digests(model: Any) -> dict[str, dict[str, str]]:
    from . import state

    named = state.variables(model)
    return {kind: state.digests(named[kind]) for kind in state.KINDS if kind != "metrics"}


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

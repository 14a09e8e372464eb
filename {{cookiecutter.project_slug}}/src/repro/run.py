"""The fresh process: `python -m repro.run RUN_DIRECTORY` runs the recipe in its manifest.

It says what it does in events, one line of JSON each, on standard output; whatever the project's
own code prints goes to the log. Nothing numerical is imported before the settings are in effect.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import shutil
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import (
    BAD_INPUT,
    FAILED,
    INTERNAL,
    BadInput,
    Dataset,
    Parts,
    Probed,
    backends,
    datafiles,
    datalock,
    determinism,
    doctor,
    faults,
    files,
    provenance,
    reads,
    resolve,
    sha256,
    surroundings,
)
from . import recipe as recipes
from .recipe import Project

if TYPE_CHECKING:
    from . import loop
    from .ending import Ending
    from .ledger import Ledger
    from .state import Checkpoint, Checkpoints


def main(directory: Path, lock: int | None = None) -> int:
    """Returns the exit status; `BAD_INPUT` comes with an event `refused`.

    Args:
        lock: the descriptor of the file whose lock says that this run is going on.
    """
    # The events keep the pipe to the launcher; what is printed from here on goes to the log.
    pipe = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    _keep_from_children(pipe.fileno(), lock)

    def send(**event: Any) -> None:
        with contextlib.suppress(OSError):  # Nobody may listen any more; the run goes on.
            print(files.dumps(event), file=pipe, flush=True)

    start = time.monotonic()
    (directory / "lock").write_text(f"{os.getpid()}\n", encoding="utf-8")
    content = recipes.read_manifest(directory)
    project = Project(Path.cwd(), content["project"]["package"])
    surroundings.enter(**content["surroundings"])
    try:
        _begin(project, directory, content)
        outcome = train(project, directory, content, send)
    except BadInput as error:
        changed = isinstance(error, provenance.Changed)
        send(event="refused", message=str(error), changed=changed)
        return BAD_INPUT
    except Probed:
        recipes.write_manifest(directory, content | {"status": "probed"})
        return 0
    except Exception as error:
        if isinstance(error, OSError) and error.errno in faults.FULL:
            send(
                event="failed",
                message=f"{error.strerror}: {error.filename or directory} cannot be written; "
                "make room and start the same training again, it goes on from its last checkpoint",
            )
            return FAILED
        if not faults.of_machinery(error):
            raise
        traceback.print_exc()
        return INTERNAL
    content |= outcome
    content |= {
        "status": "finished",
        "files": recipes.digests_of_files(directory),
        "duration_seconds": round(time.monotonic() - start, 3),
        "peak_memory_bytes": doctor.peak_memory(),
    }
    recipes.write_manifest(directory, content)
    shutil.rmtree(directory / "checkpoints", ignore_errors=True)
    return 0


def _keep_from_children(*descriptors: int | None) -> None:
    """Has processes that the project's code forks close these files.

    Such a process may outlive the training. Holding the pipe and the lock, it would look as if the
    training was still going on.
    """

    def close() -> None:
        for descriptor in descriptors:
            if descriptor is not None:
                with contextlib.suppress(OSError):
                    os.close(descriptor)

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=close)


def _begin(project: Project, directory: Path, content: dict[str, Any]) -> None:
    """Writes into the manifest what this run is made of, before anything heavy is imported.

    Raises:
        BadInput: a part of the run is done already, and was made of something else; or this
            process would run the code of another project.
    """
    source = project.root / "src"
    if Path(__file__).resolve().parent != (source / "repro").resolve():
        raise BadInput(f"{source}: the machinery there is not what was started, {__file__}")
    made_of = provenance.Provenance.of_this_process(project.root)
    if any(directory.glob("checkpoints/*.json")):
        provenance.same_as_when_it_began(made_of, content, reads.changes(content))
    content["made_of"] = made_of.as_dict()
    content["code"] |= {"digest": provenance.digest(made_of.code)}
    recipes.write_manifest(directory, content)


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

    from . import loop, outside, splits, state

    outside.watch()
    with reads.recorded(project.root, project.source) as read:
        ready = _prepare(project, directory, content, seed)
        content["reads"] = read.as_dict()
        recipes.write_manifest(directory, content)
        checkpoints, checkpoint = _checkpoints(directory, content, ready)
        ledger = _ledger(directory / "ledger.jsonl", ready, checkpoint)
        send(
            event="start",
            guarantee=ready.guarantee,
            refused=checkpoints.refused,
            notes=ready.notes,
            epoch=checkpoint.position.epoch if checkpoint else 0,
            step=checkpoint.position.step if checkpoint else 0,
        )
        probe, found_here = content.get("probe"), directory / "probe.npz"
        if probe is not None and probe["stage"] == "initial":
            from . import record

            state.save(found_here, record.initial(ready.model))
            raise Probed
        begun = time.monotonic()
        trained = loop.train(
            ready.model,
            ready.steps_of,
            parameters,
            seed,
            ledger,
            checkpoints,
            checkpoint,
            ready.before,
            send,
            probe,
            found_here,
            killed="killed" in content["surroundings"]["varied"] and not content["resumed"],
        )
        seconds = {
            "training": time.monotonic() - begun,
            "ledger": ledger.seconds,
            "checkpoints": checkpoints.seconds,
        }
        # What took long is on the disk before anything else is tried with it.
        digest = _save(directory, ready.model, trained)
        judged = _judge(directory, ready, parameters)
    results = trained.results | judged.results
    ledger.append(
        "final",
        {
            "arrays": judged.predictions,
            "produced": judged.produced,
            "results": loop.exact(results),
        },
    )
    ledger.close()
    return {
        "recipe": recipe,
        "recipe_digest": recipes.digest(recipe),
        "split": ready.data.split,
        # Once more, now that `judge`, the predictions and `produce` were seen.
        "guarantee": _guarantee(ready.model, ready.graphs, recipe, ready.in_effect),
        "in_effect": ready.in_effect,
        "digest": digest,
        "ending": trained.ending.digest(),
        "transferred": ready.transferred,
        "predictions": judged.predictions,
        "produced": judged.produced,
        "metrics": results,
        "ledger_head": ledger.head,
        "reads": read.as_dict(),
        "notes": [
            *ready.notes,
            *splits.notes(ready.data.split),
            *read.lines(_named(project)),
            *judged.notes,
        ],
        "seconds": {name: round(value, 4) for name, value in seconds.items()},
        "versions": doctor.versions(),
        "machine": doctor.machine(),
    }


@dataclass(frozen=True)
class _Ready:
    """All that is there before the first step."""

    data: _Data
    model: Any
    steps_of: dict[str, Any]
    """See `loop.compiled`."""
    graphs: list[Any]
    """Of the steps, where the backend traces them."""
    before: Ending | None
    """How the training ended that this one goes on from."""
    transferred: list[str]
    """The weights that were taken from another run."""
    in_effect: dict[str, Any]
    guarantee: dict[str, Any]
    unkept: list[str]
    """Operations that keep a state which no checkpoint has."""
    beginning: list[tuple[str, Any]]
    """The first entries of the ledger."""

    @property
    def notes(self) -> list[str]:
        """What a person has to know before the training."""
        return [
            f"{one} keeps a state that no checkpoint can have; this run writes none, and begins "
            "anew where it is interrupted; draw from keras.random with a SeedGenerator instead"
            for one in self.unkept
        ]


def _prepare(project: Project, directory: Path, content: dict[str, Any], seed: int) -> _Ready:
    """Makes data, model and steps, and gives the model the state that it begins with."""
    from . import loop, outside, state

    recipe = content["recipe"]
    parameters = recipe["parameters"]
    data = _data(project, directory, content)
    read_for_data = set(datafiles.handed_out)
    model = _model(project, seed, parameters, data)
    # What the data are read from is in the recipe already, as the data function says it.
    fetched = {k: v for k, v in datafiles.handed_out.items() if k not in read_for_data}
    recipe["data"] = recipe["data"] | {f"of the model: {k}": v for k, v in fetched.items()}
    if provenance.code(project.root) != content["made_of"]["code"]:
        raise BadInput("the project's code was changed while this run started; start it again")
    determinism.reseed(seed, "training")
    steps_of = loop.compiled(model, data.parts, parameters["training"])
    graphs = [steps.graph for steps in steps_of.values() if steps.graph is not None]
    known = [v for kind in state.variables(model).values() for v in kind.values()]
    outside.settle(known, graphs, project.package, model)
    before, transferred = _begin_from(project, recipe, model)
    found = determinism.in_effect(parameters)
    return _Ready(
        data,
        model,
        steps_of,
        graphs,
        before,
        transferred,
        found,
        _guarantee(model, graphs, recipe, found),
        outside.unkept(graphs) if parameters["backend"] == "tensorflow" else [],
        [
            ("environment", {"settings": {"seed": seed, **found}}),
            ("data", data.entry),
            ("initial", state.digests(model, *state.KEPT)),
        ],
    )


def _checkpoints(
    directory: Path, content: dict[str, Any], ready: _Ready
) -> tuple[Checkpoints, Checkpoint | None]:
    """The checkpoints of a run, and the newest of them that is whole."""
    from . import state

    size = sum(array.nbytes for array in state.arrays(ready.model, state.KINDS).values())
    found = state.Checkpoints(
        directory / "checkpoints",
        content["checkpoint_seconds"],
        recipes.digest(content["recipe"]),
        size,
        enough=not ready.unkept,
    )
    return found, found.newest()


def _ledger(path: Path, ready: _Ready, checkpoint: Checkpoint | None) -> Ledger:
    """Begins a ledger, or goes on with the one that a checkpoint was written beside."""
    from .ledger import Ledger

    if checkpoint is not None:
        _same_beginning(path, ready.beginning)
        position = checkpoint.position
        return Ledger(path, keep=position.entries, head=position.head)
    ledger = Ledger(path)
    for stage, fields in ready.beginning:
        ledger.append(stage, fields)
    return ledger


def _guarantee(
    model: Any, graphs: Sequence[Any], recipe: dict[str, Any], found: dict[str, Any]
) -> dict[str, Any]:
    """What `determinism.guarantee` returns, from the graphs and what was seen beside them so far.

    Args:
        graphs: of the steps; none for a model that makes them on the host.
        found: what `determinism.in_effect` returned.
    """
    from . import portable

    parameters, unproved = recipe["parameters"], set[str]()
    if parameters["guarantee"] == "portable":
        layers = [layer.name for layer in model._flatten_layers(include_self=False)]
        unproved.update(portable.unproved(graphs or [None], layers), portable.watched(layers))
    departures = recipe["lock"]["departures"]
    return determinism.guarantee(parameters, found, departures, sorted(unproved))


def _named(project: Project) -> set[str]:
    """The files that a lock, or a digest in the code, names, as the project's code sees them."""
    found = {*datafiles.handed_out, *datalock.read(project.root)}
    return {
        reads.shown(project.root, folder / path)
        for folder in datalock.folders(project.root)
        for path in found
    }


def _model(project: Project, seed: int, parameters: dict[str, Any], data: _Data) -> Any:
    """Builds and compiles the model of a recipe."""
    from . import loop, targets

    determinism.reseed(seed, "model")
    group, part = parameters["model"], data.parts.train
    name = f"models.{group['name']}"
    with targets.building():
        model = _call(project, name, "build", group, part.x.shape[1:], data.classes)
    targets.fresh(model)
    _compile(model, parameters, data.parts)
    with targets.checking(model, data.parts, data.classes, parameters["training"]):
        loop.ready(model, part)
    return model


def _begin_from(
    project: Project, recipe: dict[str, Any], model: Any
) -> tuple[Ending | None, list[str]]:
    """Gives the model the state, or the weights, that the recipe begins with.

    Returns how the other training ended, where this one goes on from it, and the names of the
    weights that were taken, where it takes weights.
    """
    from . import ending, state

    first = recipes.beginning(project, recipe)
    if first is None:
        return None, []
    name, run = first
    digest = recipe["parameters"]["training"][name]
    if name == "initial_weights":
        return None, state.transfer(run / "state.npz", model, digest)
    before = ending.load(run, digest)
    state.assign(run / "state.npz", model, before.tensors, state.KEPT)
    return before, []


def _save(directory: Path, model: Any, trained: loop.Trained) -> str:
    """Writes the state that a training ended with, its ending and its history; returns the digest
    of the state."""
    from . import state

    final = state.arrays(model, state.KEPT)
    state.save(directory / "state.npz", final)
    digest = state.digest_of(final)
    trained.ending.save(directory, digest)
    with files.replacing(directory / "history.json") as file:
        file.write((files.dumps(trained.history, indent=1) + "\n").encode())
    try:
        model.save(directory / "model.keras")
    except NotImplementedError:  # The state holds all of it; only `load_model` needs more.
        name = type(model).__name__
        print(f"no model.keras: Keras cannot describe {name}, which has no get_config()")
    return digest


@dataclass(frozen=True)
class _Judged:
    """What the trained model was found to do; digests by the names of arrays."""

    results: dict[str, float]
    predictions: dict[str, str]
    produced: dict[str, str]
    notes: list[str]


def _judge(directory: Path, ready: _Ready, parameters: dict[str, Any]) -> _Judged:
    """Evaluates the trained model on the test, and keeps what it predicts and produces."""
    from . import loop, state

    model, samples = ready.model, ready.data.parts
    training = parameters["training"]
    before = state.digests(model, "weights", "optimizer")
    batch_size = training["validation_batch_size"] or training["batch_size"]
    tested = loop.evaluate(model, ready.steps_of["test"], batch_size)
    outputs = loop.predictions(model, samples.test, batch_size)
    with faults.calling("produce"):
        produced = model.produce() if hasattr(model, "produce") else {}
    after = state.digests(model, "weights", "optimizer")
    changed = files.changed(before, after)
    judged = loop.judged(samples.test, outputs) if training["loss"] else {}
    state.save(directory / "predictions.npz", judged)
    if produced:
        state.save(directory / "produced.npz", produced)
    return _Judged(
        {f"test_{name}": value for name, value in tested.items()},
        {name: sha256(array) for name, array in outputs.items()},
        {name: sha256(array) for name, array in produced.items()},
        [f"judging the trained model changed {name}; the state before is kept" for name in changed],
    )


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
    found = importlib.import_module(f"{project.package}.{module}")
    if not Path(str(found.__file__)).resolve().is_relative_to(project.source.resolve()):
        raise BadInput(f"{found.__file__}: expected the project's own code, in {project.source}")
    target = getattr(found, function)
    with faults.calling(function):
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
    sys.exit(main(Path(sys.argv[1]), *map(int, sys.argv[2:])))

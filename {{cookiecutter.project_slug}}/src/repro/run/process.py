"""The fresh process: `python -m repro.run RUN_DIRECTORY` runs the recipe in its manifest.

It says what it does in events, one line of JSON each, on standard output; whatever the project's
own code prints goes to the log. Nothing numerical is imported before the settings are in effect.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repro.basics import digests, files, seeds
from repro.basics.digests import sha256
from repro.basics.errors import BAD_INPUT, FAILED, INTERNAL, BadInput, Parted, Probed
from repro.data import datafiles, datalock
from repro.environment import determinism, machine, provenance, reads, surroundings
from repro.recipe import packages
from repro.recipe.project import Project
from repro.run import faults, manifest, preparing

if TYPE_CHECKING:
    from repro.run import loop
    from repro.run.ledger import Ledger
    from repro.run.state import Checkpoint, Checkpoints


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
    content = manifest.read(directory)
    project = Project(Path.cwd(), content["project"]["package"])
    surroundings.enter(**content["surroundings"])
    try:
        _begin(project, directory, content)
        outcome = train(project, directory, content, send)
    except BadInput as error:
        changed = isinstance(error, provenance.Changed)
        parted = error.where if isinstance(error, Parted) else None
        send(event="refused", message=str(error), changed=changed, parted=parted)
        return BAD_INPUT
    except Probed:
        manifest.write(directory, content | {"status": "probed"})
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
        "files": manifest.digests_of_files(directory),
        "duration_seconds": round(time.monotonic() - start, 3),
        "peak_memory_bytes": machine.peak_memory(),
    }
    manifest.write(directory, content)
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
    if (source / "repro").resolve() != files.MACHINERY:
        raise BadInput(f"{source}: the machinery there is not what was started, {files.MACHINERY}")
    made_of = provenance.Provenance.of_this_process(project.root)
    if any(directory.glob("checkpoints/*.json")):
        provenance.same_as_when_it_began(made_of, content, reads.changes(content))
    content["made_of"] = made_of.as_dict()
    content["code"] |= {"digest": provenance.digest(made_of.code)}
    manifest.write(directory, content)


def train(project: Project, directory: Path, content: dict[str, Any], send: Any) -> dict[str, Any]:
    """Trains as the manifest's recipe says, and returns what the manifest is to be told."""
    recipe = content["recipe"]
    parameters = recipe["parameters"]
    seed = seeds.fold_seed(content["seed"], parameters["split"])
    if "REPRO_PYTHON" in os.environ and packages.lock(project.root) != recipe["lock"]:
        raise BadInput(
            f"REPRO_PYTHON: {sys.executable} has other packages than where the run was started; "
            f"install {recipe['lock']['file']} there"
        )
    determinism.apply(parameters, seed)

    from repro.data import splits
    from repro.run import loop, outside, state

    outside.watch()
    with reads.recorded(project.root, project.source) as read:
        ready = preparing.prepare(project, directory, content, seed)
        content["reads"] = read.as_dict()
        # The recipe as it was asked for, by which a run that is interrupted is found again.
        asked = {name: value for name, value in recipe.items() if name != "data"}
        manifest.write(directory, content | {"recipe": asked})
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
            from repro.run import probing

            state.save(found_here, probing.initial(ready.model))
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
        "recipe_digest": digests.of_json(recipe),
        "split": ready.data.split,
        # Once more, now that `judge`, the predictions and `produce` were seen.
        "guarantee": preparing.guarantee_of(ready.model, ready.graphs, recipe, ready.in_effect),
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
        "versions": machine.versions(),
        "machine": machine.machine(),
    }


def _checkpoints(
    directory: Path, content: dict[str, Any], ready: preparing.Ready
) -> tuple[Checkpoints, Checkpoint | None]:
    """The checkpoints of a run, and the newest of them that is whole."""
    from repro.run import state

    size = sum(array.nbytes for array in state.arrays(ready.model, state.KINDS).values())
    found = state.Checkpoints(
        directory / "checkpoints",
        content["checkpoint_seconds"],
        digests.of_json(content["recipe"]),
        size,
        enough=not ready.unkept,
    )
    return found, found.newest()


def _ledger(path: Path, ready: preparing.Ready, checkpoint: Checkpoint | None) -> Ledger:
    """Begins a ledger, or goes on with the one that a checkpoint was written beside."""
    from repro.run.ledger import Ledger

    if checkpoint is not None:
        _same_beginning(path, ready.beginning)
        position = checkpoint.position
        return Ledger(path, keep=position.entries, head=position.head)
    ledger = Ledger(path)
    for stage, fields in ready.beginning:
        ledger.append(stage, fields)
    return ledger


def _named(project: Project) -> set[str]:
    """The files that a lock, or a digest in the code, names, as the project's code sees them."""
    found = {*datafiles.handed_out, *datalock.read(project.root)}
    return {
        reads.shown(project.root, folder / path)
        for folder in datalock.folders(project.root)
        for path in found
    }


def _save(directory: Path, model: Any, trained: loop.Trained) -> str:
    """Writes the state that a training ended with, its ending and its history; returns the digest
    of the state."""
    from repro.run import state

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


def _judge(directory: Path, ready: preparing.Ready, parameters: dict[str, Any]) -> _Judged:
    """Evaluates the trained model on the test, and keeps what it predicts and produces."""
    from repro.run import loop, state

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


def _same_beginning(path: Path, beginning: list[tuple[str, Any]]) -> None:
    """Refuses to go on where data, settings or initial state are not what they were."""
    from repro.run import ledger

    for entry, (stage, fields) in zip(ledger.read(path, whole=False), beginning, strict=False):
        for what, values in fields.items():
            for name, value in values.items():
                before = entry.get(what, {}).get(name)
                if before != value:
                    where = {"stage": stage, "epoch": 0, "step": 0, "what": what, "name": name}
                    raise Parted(
                        f"{stage}: {name} is not what it was when this run began; "
                        "a new run is needed: repro train --fresh",
                        where | {"a": before, "b": value, "names": [name]},
                    )

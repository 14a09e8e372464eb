"""The fresh process: `python -m repro.run RUN_DIRECTORY` runs the recipe in its manifest.

It tells the launcher in events how far it is, each as one line of JSON on standard output. What the
project's own code prints goes to the log. No numerical library is imported before the settings are
in effect.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
import traceback
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repro.basics import files
from repro.basics.digests import sha256
from repro.basics.errors import BAD_INPUT, FAILED, INTERNAL, BadInput, Probed
from repro.data import datafiles, datalock
from repro.environment import determinism, machine, provenance, reads, surroundings
from repro.recipe import packages
from repro.recipe.parameters import Training
from repro.recipe.project import Project
from repro.run import events, failure, faults, manifest, preparing
from repro.run.events import Event, Failed, Refused, Start
from repro.run.ledger import Divergence, Parted
from repro.run.manifest import Finished, Manifest

if TYPE_CHECKING:
    from repro.run import loop
    from repro.run.boundary import Boundary, Send
    from repro.run.ledger import Ledger
    from repro.run.state import Checkpoint, Checkpoints


def main(directory: Path, lock: int | None = None) -> int:
    """Trains the run in this directory, and returns the exit status.

    If the status is `BAD_INPUT`, the process has sent an event `refused` that says why.

    Args:
        lock: the descriptor of the file whose lock shows that this run is going on.
    """
    # Events go on using the pipe to the launcher; what is printed from here on goes to the log.
    pipe = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    _keep_from_children(pipe.fileno(), lock)

    def send(event: Event) -> None:
        with contextlib.suppress(OSError):  # The launcher may be gone; the run goes on without it.
            print(events.line(event), file=pipe, flush=True)

    start = time.monotonic()
    (directory / "lock").write_text(f"{os.getpid()}\n", encoding="utf-8")
    content = manifest.read(directory)
    project = Project(Path.cwd(), content.project["package"])
    surroundings.enter(content.surroundings.varied, content.surroundings.index)
    try:
        content = _begin(project, directory, content)
        finished = train(project, directory, content, send)
    except BadInput as error:
        changed = isinstance(error, provenance.Changed)
        parted = error.where if isinstance(error, Parted) else None
        send(Refused(str(error), changed, parted))
        return BAD_INPUT
    except Probed:
        manifest.write(directory, manifest.read(directory).but(status="probed"))
        return 0
    except Exception as error:
        if isinstance(error, OSError) and error.errno in faults.FULL:
            send(
                Failed(
                    f"{error.strerror}: {error.filename or directory} cannot be written; make room "
                    f"and start the same training again, which {failure.then(directory)}"
                )
            )
            return FAILED
        if not faults.of_machinery(error):
            raise
        traceback.print_exc()
        return INTERNAL
    finished = finished.but(
        files=manifest.digests_of_files(directory),
        duration_seconds=round(time.monotonic() - start, 3),
        peak_memory_bytes=machine.peak_memory(),
    )
    manifest.write(directory, finished)
    shutil.rmtree(directory / "checkpoints", ignore_errors=True)
    return 0


def _keep_from_children(*descriptors: int | None) -> None:
    """Makes each process that the project's code forks close these files.

    Such a process may live longer than the training. If it kept the pipe and the lock, the training
    would seem to be still going on.
    """

    def close() -> None:
        for descriptor in descriptors:
            if descriptor is not None:
                with contextlib.suppress(OSError):
                    os.close(descriptor)

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=close)


def _begin(project: Project, directory: Path, content: Manifest) -> Manifest:
    """Writes into the manifest what this run is made of, before anything heavy is imported.

    Returns:
        The manifest as it was written.

    Raises:
        Changed: the run goes on, and what it is made of has changed since it began.
        BadInput: this process would run the code of another project.
    """
    source = project.root / "src"
    if (source / "repro").resolve() != files.MACHINERY:
        raise BadInput(
            f"{source}: expected the machinery that this process runs, {files.MACHINERY}, got "
            "another"
        )
    made_of = provenance.Provenance.of_this_process(project.root)
    if any(directory.glob("checkpoints/*.json")):
        provenance.same_as_when_it_began(
            made_of,
            content.made_of,
            content.run,
            content.recipe.parameters.guarantee,
            reads.changes(content.reads),
        )
    code = replace(content.code, digest=provenance.digest(made_of.code))
    machinery = provenance.origin(project.root, made_of.code)
    content = content.but(made_of=made_of, code=code, machinery=machinery)
    manifest.write(directory, content)
    return content


def train(project: Project, directory: Path, content: Manifest, send: Send) -> Finished:
    """Trains as the manifest's recipe says, and returns the manifest of the finished run.

    Raises:
        Probed: the run is made only to look at one place, and has looked; or the process is made
            to use a finished run, and has done so.
        BadInput: something is wrong that only this process can see.
    """
    recipe = content.recipe
    parameters = recipe.parameters
    seed = parameters.split.fold_seed(content.seed)
    if "REPRO_PYTHON" in os.environ and packages.lock(project.root) != recipe.lock:
        raise BadInput(
            f"REPRO_PYTHON: {sys.executable} has other packages than the Python that started the "
            f"run; install {recipe.lock.file} there"
        )
    determinism.apply(parameters, seed)

    from repro.run import outside
    from repro.run.boundary import exact

    outside.watch()
    with reads.recorded(project.root, project.source) as read:
        ready = preparing.prepare(project, directory, content, seed)
        # The recipe stays the one that was asked for: an interrupted run is found by it.
        manifest.write(directory, content.but(reads=read.in_order))
        if content.use is not None:
            from repro.run import using

            using.carry_out(project, directory, content, ready, content.use)
        made = _trained(directory, content, ready, seed, send)
        judged = _judge(directory, ready, parameters.training)
    results = made.trained.results | judged.results
    fields = {"arrays": judged.predictions, "produced": judged.produced, "results": exact(results)}
    if content_of_test := ready.steps_of["test"].content:
        fields["content"] = content_of_test
    made.ledger.append("final", fields)
    made.ledger.close()
    return Finished(
        **dict(content.but(recipe=ready.recipe, status="finished", reads=read.in_order)),
        recipe_digest=ready.recipe.digest,
        split=ready.data.split,
        # Asked once more: `judge`, the predictions and `produce` may have used further operations.
        guarantee=preparing.guarantee_of(ready.model, ready.graphs, recipe, ready.in_effect),
        in_effect=ready.in_effect,
        digest=made.digest,
        ending=made.trained.ending.digest(),
        transferred=ready.transferred,
        skipped=ready.data.seen.skipped() if ready.data.seen else (),
        predictions=judged.predictions,
        produced=judged.produced,
        metrics=results,
        ledger_head=made.ledger.head,
        notes=_notes(project, ready, read, judged),
        seconds={name: round(value, 4) for name, value in made.seconds.items()},
        versions=machine.versions(),
        machine=machine.here(),
        files={},
        duration_seconds=0,
        peak_memory_bytes=None,
    )


@dataclass(frozen=True)
class _Made:
    """A training that the loop has made and that is saved."""

    trained: loop.Trained
    ledger: Ledger
    digest: str
    """The digest of the final state."""
    seconds: dict[str, float]
    """The time of the training, and how much of it ledger and checkpoints took."""


def _trained(
    directory: Path, content: Manifest, ready: preparing.Ready, seed: int, send: Send
) -> _Made:
    """Trains from the beginning or from the newest checkpoint, and saves the end.

    Raises:
        Probed: the run is made only to look at one place, and has looked.
    """
    from repro.run import loop
    from repro.run.state import Position

    checkpoints, checkpoint = _checkpoints(directory, content, ready)
    ledger = _ledger(directory / "ledger.jsonl", ready, checkpoint)
    place = checkpoint.position if checkpoint else Position(0)
    send(Start(ready.guarantee, checkpoints.refused, ready.notes, place.epoch, place.step))
    boundary = _boundary(directory, content, ready, ledger, checkpoints, send)
    begun = time.monotonic()
    trained = loop.train(
        ready.model,
        ready.steps_of,
        ready.watchers,
        content.recipe.parameters,
        seed,
        boundary,
        loop.Beginning(ready.before, checkpoint),
    )
    seconds = {
        "training": time.monotonic() - begun,
        "ledger": ledger.seconds,
        "checkpoints": checkpoints.seconds,
    }
    # The training took long, so it is saved before the model is evaluated, which might fail.
    return _Made(trained, ledger, _save(directory, ready.model, trained), seconds)


def _boundary(
    directory: Path,
    content: Manifest,
    ready: preparing.Ready,
    ledger: Ledger,
    checkpoints: Checkpoints,
    send: Send,
) -> Boundary:
    """Returns what this run calls between two chunks of steps.

    Raises:
        Probed: the run is made only to look at the initial state, and has written it.
    """
    from repro.run import probing, state
    from repro.run.boundary import Boundary

    killed = "killed" in content.surroundings.varied and not content.resumed
    probe, file = content.probe, directory / "probe.npz"
    if probe is None:
        return Boundary(ready.model, ledger, checkpoints, send, killed)
    if probe.stage == "initial":
        state.save(file, probing.initial(ready.model))
        raise Probed
    part = ready.steps_of["train"].part
    return probing.Looking(probe, part, file, ready.model, ledger, checkpoints, send, killed)


def _notes(
    project: Project, ready: preparing.Ready, read: reads.Reads, judged: _Judged
) -> list[str]:
    """Returns what a person has to know about the run, one line each."""
    from repro.data import splits

    return [
        *ready.notes,
        *splits.notes(ready.data.split),
        *(ready.data.seen.notes() if ready.data.seen else []),
        *read.lines(_named(project)),
        *judged.notes,
    ]


def _checkpoints(
    directory: Path, content: Manifest, ready: preparing.Ready
) -> tuple[Checkpoints, Checkpoint | None]:
    """Returns the checkpoints of a run, and the newest one that is whole, if there is one."""
    from repro.run import state

    size = sum(array.nbytes for array in state.arrays(ready.model, state.KINDS).values())
    found = state.Checkpoints(
        directory / "checkpoints",
        content.checkpoint_seconds,
        ready.recipe.digest,
        size,
        enough=not ready.unkept,
    )
    return found, found.newest()


def _ledger(path: Path, ready: preparing.Ready, checkpoint: Checkpoint | None) -> Ledger:
    """Begins a ledger, or goes on with the one that belongs to the checkpoint."""
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
    """Returns the paths of the data files that a lock or a digest in the code names."""
    found = {*datafiles.handed_out, *datalock.read(project.root)}
    return {
        reads.shown(project.root, folder / path)
        for folder in datalock.folders(project.root)
        for path in found
    }


def _save(directory: Path, model: Any, trained: loop.Trained) -> str:
    """Writes final state, ending, history and model; returns the digest of the final state."""
    from repro.run import state

    final = state.arrays(model, state.KEPT)
    state.save(directory / "state.npz", final)
    digest = state.digest_of(final)
    trained.ending.save(directory, digest)
    with files.replacing(directory / "history.json") as file:
        file.write((files.dumps(trained.history, indent=1) + "\n").encode())
    try:
        model.save(directory / "model.keras")
    except NotImplementedError:  # The state has all tensors; only `load_model` needs the archive.
        name = type(model).__name__
        print(f"no model.keras: Keras cannot describe {name}, which has no get_config()")
    return digest


@dataclass(frozen=True)
class _Judged:
    """How the trained model performs; `predictions` and `produced` have digests by name."""

    results: dict[str, float]
    predictions: dict[str, str]
    produced: dict[str, str]
    notes: list[str]


def _judge(directory: Path, ready: preparing.Ready, training: Training) -> _Judged:
    """Evaluates the trained model on the test part, and keeps what it predicts and produces."""
    from repro.run import judging, state, steps

    model = ready.model
    before = state.digests(model, "weights", "optimizer")
    batch_size = training.validation_batch_size or training.batch_size
    tested = steps.evaluate(model, ready.steps_of["test"], batch_size)
    outputs = judging.predictions(model, ready.steps_of["test"], batch_size)
    with faults.calling("produce"):
        produced = model.produce() if hasattr(model, "produce") else {}
    after = state.digests(model, "weights", "optimizer")
    changed = files.changed(before, after)
    judged = judging.judged(outputs) if training.loss else {}
    state.save(directory / "predictions.npz", judged)
    if produced:
        state.save(directory / "produced.npz", produced)
    return _Judged(
        {f"test_{name}": value for name, value in tested.items()},
        outputs.digests,
        {name: sha256(array) for name, array in produced.items()},
        [f"judging the trained model changed {name}; the state before is kept" for name in changed],
    )


def _same_beginning(path: Path, beginning: list[tuple[str, Any]]) -> None:
    """Checks that data, settings and initial state are those that the ledger began with.

    Raises:
        Parted: one of them differs; the message names it.
    """
    from repro.run import ledger

    for entry, (stage, fields) in zip(ledger.read(path, whole=False), beginning, strict=False):
        for what, values in fields.items():
            for name, value in values.items():
                before = entry.field(what).get(name)
                if before != value:
                    raise Parted(
                        f"{stage}: {name} is not what it was when this run began; "
                        "a new run is needed: repro train --fresh",
                        Divergence(stage, 0, 0, what, name, before, value, [name]),
                    )

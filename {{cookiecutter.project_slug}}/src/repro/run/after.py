"""What comes after a training: evaluates a finished run, predicts with it, exports it.

Each of these starts a fresh process like that of a training; see `using`. What it made is written
into `made.jsonl` of the run; see `made`.
"""

from __future__ import annotations

import contextlib
import csv
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from repro.basics import files
from repro.basics.digests import sha256
from repro.basics.errors import BadInput
from repro.environment import provenance
from repro.recipe import reading
from repro.recipe.parameters import Own
from repro.recipe.project import Project
from repro.recipe.recipe import Recipe
from repro.run import launcher, made, manifest, use
from repro.run.launcher import Launch, Listener
from repro.run.made import Made
from repro.run.manifest import Finished
from repro.run.recipes import BEGINNINGS
from repro.run.use import (
    Evaluate,
    Evaluated,
    Export,
    Exported,
    Format,
    Part,
    Predict,
    Predicted,
    Task,
    Use,
)

Tell = Callable[[str], None]
"""Called with a line that a person should see before anything is computed."""
FOLDER = "made"
"""The folder in a run's directory for what has no other place."""
SHOWN = 4
"""How many changes since the training are named at most."""


@dataclass(frozen=True)
class Evaluation:
    """The results of a finished run on a part of its data, or on other data."""

    run: Path
    results: dict[str, float]
    """By the names that the results have in the manifest: `test_loss`, `val_accuracy`."""
    compared: tuple[str, ...]
    """The results that the run has as well, and that must have the same bits."""
    differing: dict[str, tuple[float, float]]
    """Of these, those that differ: the run's value, and this one."""
    why_not: str
    """Why nothing was compared; empty if something was."""
    changed: tuple[str, ...]
    """What has changed since the run was trained, in a few words each."""

    @property
    def same(self) -> bool:
        """Whether no result differs from the run's."""
        return not self.differing

    def found(self) -> str:
        """Returns in words what the comparison has shown."""
        if self.differing:
            name, (before, now) = next(iter(self.differing.items()))
            return f"{name} has other bits than in the run: {now!r}, and {before!r} there"
        if not self.compared:
            return f"not compared: {self.why_not}"
        return f"the same bits as in the run: {', '.join(self.compared)}"

    def as_json(self) -> dict[str, Any]:
        """Returns the evaluation as `--json` prints it."""
        return asdict(self) | {"run": str(self.run), "same": self.same, "found": self.found()}


@dataclass(frozen=True)
class Prediction:
    """What a finished run predicts for the samples of a file."""

    run: Path
    file: Path
    output: Path
    """The file with the predictions."""
    sha256: str
    """The SHA-256 of that file."""
    samples: int
    digests: dict[str, str]
    """The SHA-256 of each array of predictions, by its name."""
    changed: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Returns the prediction as `--json` prints it."""
        paths = {"run": str(self.run), "file": str(self.file), "output": str(self.output)}
        return asdict(self) | paths


@dataclass(frozen=True)
class ExportedModel:
    """A model that was exported, loaded again and compared."""

    run: Path
    format: str
    output: Path
    """The file or the folder."""
    files: dict[str, str]
    """The SHA-256 of each file, by its path."""
    compared: str
    """What was compared, in words."""
    largest: float | None
    """The largest difference between two predictions; None: the weights were compared alone."""
    custom: tuple[str, ...]
    """The project's own classes that a program needs to load it."""
    changed: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Returns the same as `--json` prints it."""
        return asdict(self) | {"run": str(self.run), "output": str(self.output)}


def evaluate(
    project: Project,
    run: Path,
    part: Part | None,
    data: Own | None,
    listener: Listener,
    tell: Tell = lambda line: None,
) -> Evaluation:
    """Evaluates a finished run and compares the results with those that the run had.

    The results on the test part are compared. Those on the validation part are compared as well,
    unless the evaluation draws random numbers: these were others at that time.

    Args:
        part: the part; None: the test part, or all samples of other data.
        data: other data; None: the run's own.

    Raises:
        BadInput: the run has not finished, one of its files was altered, or the data or the code
            are not those that it was trained with in a way that matters.
        RunFailed: the process failed.
    """
    if part == "all" and data is None:
        raise BadInput("--part: expected train, validation or test; all is for --data alone")
    task = Evaluate(part=part or ("all" if data else "test"), data=data)
    with _used(project, run, task, listener, tell) as used:
        answer = use.read(used.directory, Evaluated)
    before = used.content.metrics
    names, why_not = _comparable(answer, task, before)
    now = answer.results
    differing = {n: (before[n], now[n]) for n in names if not files.same(before[n], now[n])}
    found = Evaluation(run, now, names, differing, why_not, used.changed)
    asked = {"part": task.part} | ({"data": task.data.model_dump()} if task.data else {})
    inputs = used.inputs | {f"data: {name}": one for name, one in answer.sources.items()}
    _note(used, task, asked, inputs, {}, found.found(), answer, now)
    return found


def _comparable(
    answer: Evaluated, task: Evaluate, before: dict[str, float]
) -> tuple[tuple[str, ...], str]:
    """Returns the results that must have the bits of the run's, or why there are none."""
    if task.data is not None:
        return (), "the run has not seen these data"
    if task.part == "train":
        return (), "the run measured the training part while it learnt"
    if task.part == "validation" and answer.drew:
        return (), "the evaluation draws random numbers, which were others at that time"
    names = tuple(name for name in answer.results if name in before)
    return names, "" if names else "the run has no such results"


def predict(
    project: Project,
    run: Path,
    file: Path,
    output: Path | None,
    listener: Listener,
    tell: Tell = lambda line: None,
) -> Prediction:
    """Predicts with a finished run for the samples of a file.

    Args:
        file: an `.npy`, `.npz` or `.csv`; see `samples.read`.
        output: an `.npz` or `.csv` that is not there yet; None: an `.npz` in the run's directory.

    Raises:
        BadInput: as `evaluate`; or the file is not readable, or the output is there already.
        RunFailed: the process failed.
    """
    if not files.is_file(file):
        raise BadInput(f"{file}: no such file")
    file = file.resolve()
    if output is not None and output.suffix not in (".npz", ".csv"):
        raise BadInput(f"--output: expected a file that ends in .npz or .csv, got {output}")
    place = _place(run, output, f"{file.stem}-predictions.npz")
    task = Predict(file=str(file), sha256=sha256(file))
    with _used(project, run, task, listener, tell) as used:
        answer = use.read(used.directory, Predicted)
        arrays = used.directory / use.ARRAYS
        if place.suffix == ".csv":
            _write_table(arrays, place, answer.class_names)
        else:
            _take(arrays, place)
    digest = sha256(place)
    asked = {"samples": answer.samples}
    inputs = used.inputs | {str(file): task.sha256}
    found = f"predictions for {answer.samples} samples"
    _note(used, task, asked, inputs, {str(place): digest}, found, answer)
    return Prediction(run, file, place, digest, answer.samples, answer.digests, used.changed)


def export(
    project: Project,
    run: Path,
    asked: Format,
    output: Path | None,
    listener: Listener,
    tell: Tell = lambda line: None,
) -> ExportedModel:
    """Exports the model of a finished run; what was exported is loaded again and compared.

    Args:
        output: a file or a folder that is not there yet; None: one in the run's directory.

    Raises:
        BadInput: as `evaluate`; or the model cannot be exported like this; or the output is there.
        RunFailed: the process failed.
    """
    name = {"keras": "model.keras", "savedmodel": "savedmodel", "onnx": "model.onnx"}[asked]
    if output is not None and asked != "savedmodel" and output.suffix != f".{asked}":
        raise BadInput(f"--output: expected a file that ends in .{asked}, got {output}")
    place = _place(run, output, name)
    task = Export(format=asked)
    with _used(project, run, task, listener, tell) as used:
        answer = use.read(used.directory, Exported)
        _take(used.directory / use.EXPORTED / answer.name, place)
    every = sorted(p for p in place.rglob("*") if p.is_file()) if place.is_dir() else [place]
    outputs = {str(path): sha256(path) for path in every}
    _note(used, task, {"format": asked}, used.inputs, outputs, answer.compared, answer)
    return ExportedModel(
        run,
        asked,
        place,
        outputs,
        answer.compared,
        answer.largest,
        answer.custom,
        used.changed,
    )


def other_data(project: Project, name: str, overrides: Sequence[str]) -> Own:
    """Returns the group `data` of the parameters for another data function.

    Args:
        overrides: arguments of the function, such as `data.scaling=standard`.

    Raises:
        BadInput: there is no such function, or it has no such argument.
    """
    for text in overrides:
        if not text.startswith("data.") or text.startswith("data.name="):
            raise BadInput(f"{text}: expected an argument of the data, such as data.scaling=range")
    given = [f"data.name={name}", *overrides]
    return reading.parameters(project.source, project.root / "params.yaml", given).data


def changed_since(project: Project, content: Finished) -> tuple[str, ...]:
    """Returns what has changed since a run was trained: code, packages, Python; in a few words."""
    before = content.made_of
    if before is None:
        return ("what the run was made of is not known",)
    now = provenance.Provenance.of_this_process(project.root)
    groups = ("code", "packages", "python")
    kept = {group: getattr(now, group) for group in groups}
    changes = provenance.Provenance(**asdict(before) | kept).changes(before, processor=False)
    found = list(changes)
    own = [one for one in found if not one.startswith("src/repro/")]
    return (*own, *["the machinery in src/repro has changed"] * (len(own) < len(found)))


@dataclass(frozen=True)
class _Used:
    """A process that has used a run, while its directory is there."""

    directory: Path
    run: Path
    content: Finished
    changed: tuple[str, ...]

    @property
    def inputs(self) -> dict[str, str]:
        """The SHA-256 of the run's state, and of what its data were read from."""
        sources = self.content.recipe.data or {}
        state = self.run / "state.npz"
        return {str(state): self.content.files[state.name]} | {
            f"data: {name}": digest for name, digest in sources.items()
        }


@contextlib.contextmanager
def _used(
    project: Project, run: Path, task: Task, listener: Listener, tell: Tell
) -> Iterator[_Used]:
    """Starts the process that uses a run; its directory is there until the end of the block.

    Raises:
        BadInput: the run has not finished, or one of its files was altered.
    """
    content = manifest.finished(run)
    if not (run / "state.npz").is_file():
        raise BadInput(f"{run / 'state.npz'}: no such file; the run cannot be used without it")
    changed = changed_since(project, content)
    if changed:
        more = f" and {len(changed) - SHOWN} more changes" if changed[SHOWN:] else ""
        tell(
            f"{run.name}: since it was trained {', '.join(changed[:SHOWN])}{more}; "
            "the model may be built differently"
        )
    asked = Use(of=str(run), state=content.digest, ending=content.ending, task=task)
    name = f"{run.name}-{task.command}"
    launch = Launch(project, _recipe(content), use=asked, name=name)
    with launcher.made_to_look(keep_failed=True) as started:
        directory = launcher.train(launch, listener, started)
        yield _Used(directory, run, content, changed)


def _recipe(content: Finished) -> Recipe:
    """The recipe by which data and model of a run are made again.

    The run that it began from is left out, since the state of the run takes its place. A seed that
    was drawn is the recipe's seed here.
    """
    asked = content.recipe.asked
    training = asked.parameters.training.model_copy(update=dict.fromkeys(BEGINNINGS))
    changed = {"training": training, "seed": content.seed}
    return asked.model_copy(update={"parameters": asked.parameters.model_copy(update=changed)})


def _note(
    used: _Used,
    task: Task,
    asked: dict[str, Any],
    inputs: dict[str, str],
    outputs: dict[str, str],
    found: str,
    answer: use.Answer,
    results: dict[str, float] | None = None,
) -> None:
    """Writes a line about it into the record of the run."""
    line = Made(
        command=task.command,
        when=datetime.now(UTC).isoformat(timespec="seconds"),
        digest=used.content.digest,
        asked=asked,
        inputs=inputs,
        outputs=outputs,
        results=results or {},
        found=found,
        changed=used.changed,
        versions=answer.versions,
    )
    made.append(used.run, line)


def _place(run: Path, output: Path | None, name: str) -> Path:
    """Returns where to write; what somebody names must not be there yet.

    Raises:
        BadInput: it is there, or its folder is not.
    """
    if output is None:
        return run / FOLDER / name
    place = Path(os.path.abspath(output))
    if os.path.lexists(place):
        raise BadInput(f"--output: {output} is there already; name another one, or remove it")
    if not place.parent.is_dir():
        raise BadInput(f"--output: {place.parent}: no such folder")
    return place


def _take(made_here: Path, place: Path) -> None:
    """Puts what a process has left in its place, where it is whole or not there.

    The two may lie on two disks, so it is copied first.
    """
    place.parent.mkdir(exist_ok=True)
    new = place.with_name(f"{place.name}.new")
    _remove(new)
    try:
        if made_here.is_dir():
            shutil.copytree(made_here, new)
            _remove(place)
        else:
            shutil.copyfile(made_here, new)
        os.replace(new, place)
    finally:
        _remove(new)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _write_table(arrays: Path, place: Path, class_names: Sequence[str]) -> None:
    """Writes predictions as CSV: a row for each sample, a column for each number of an output.

    A number has the fewest digits by which it is read as the same number again. If a sample has
    several outputs that could be classes, the column `predicted` has the one with the most.
    """
    import numpy as np

    found = files.arrays(arrays)
    flat = {name: array.reshape(len(array), -1) for name, array in found.items()}
    head = [
        name if array.shape[1] == 1 else f"{name} [{column}]"
        for name, array in flat.items()
        for column in range(array.shape[1])
    ]
    first = next(iter(flat.values()))
    classes = len(flat) == 1 and first.shape[1] > 1 and next(iter(found.values())).ndim == 2
    predicted: list[str] = []
    if classes:
        head.append("predicted")
        named = len(class_names) == first.shape[1]
        best = np.argmax(first, axis=1).tolist()
        predicted = [class_names[one] if named else str(one) for one in best]
    place.parent.mkdir(exist_ok=True)
    new = place.with_name(f"{place.name}.new")
    try:
        with new.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(head)
            for number in range(len(first)):
                row = [str(one) for array in flat.values() for one in array[number]]
                writer.writerow([*row, *predicted[number : number + 1]])
        os.replace(new, place)
    finally:
        new.unlink(missing_ok=True)

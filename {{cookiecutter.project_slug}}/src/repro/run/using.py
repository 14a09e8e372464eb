"""Uses a finished run in a fresh process: evaluates its model, predicts with it, or exports it.

The process goes through the same door as a training: its environment was fixed before it started,
and data and model are made of the recipe. Then the model gets the final state of the run in place
of training.
"""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import numpy as np

from repro.basics.digests import sha256
from repro.basics.errors import BadInput, Probed
from repro.data import datafiles, samples, splits, structure
from repro.data.dataset import Dataset, Part, Parts
from repro.environment import machine
from repro.recipe.project import Project
from repro.run import ending, exporting, judging, ledger, state, steps, use
from repro.run.manifest import Manifest
from repro.run.preparing import Ready, dataset_of
from repro.run.steps import PartSteps
from repro.run.use import Answer, Evaluate, Evaluated, Export, Predict, Predicted, Use

PREFIX = {"train": "train_", "validation": "val_", "test": "test_", "all": ""}
"""What stands before the name of a result, by the part that it was measured on."""


def carry_out(
    project: Project, directory: Path, content: Manifest, ready: Ready, asked: Use
) -> NoReturn:
    """Does what is asked of a finished run, and leaves the answer in the directory.

    Args:
        content: the manifest of this process; its recipe is that of the run.
        ready: data, model and steps, made again.

    Raises:
        Probed: it is done.
        BadInput: the data are not those of the run, its state was altered or belongs to another
            model, or the model cannot do this.
    """
    run = Path(asked.of)
    _same_data(run, ready)
    path = run / "state.npz"
    state.assign(path, ready.model, state.checked(path, asked.state), state.KEPT)
    answer: Answer
    match asked.task:
        case Evaluate() as task:
            _restore_generators(run, asked.ending)
            answer = _evaluate(project, content, ready, task)
        case Predict() as task:
            answer = _predict(project, directory, content, ready, task)
        case Export() as task:
            answer = exporting.export(project, directory / use.EXPORTED, ready, task.format)
    use.write(directory, answer)
    raise Probed


def _same_data(run: Path, ready: Ready) -> None:
    """Checks that the data, and what layers have learnt from them, are those of the run.

    Raises:
        BadInput: something differs; the message names it.
    """
    now = dict(ready.beginning)
    for entry in ledger.read(run / "ledger.jsonl"):
        for what, values in now.get(entry.stage, {}).items():
            if entry.stage != "data" and what != "vocabulary":
                continue
            for name, value in values.items():
                if entry.field(what).get(name) != value:
                    raise BadInput(
                        f"{run.name}: expected the data that it was trained on, got others: "
                        f"{what} {name} differs; put data and data function back"
                    )
        if entry.stage == "initial":
            return


def _restore_generators(run: Path, expected: str) -> None:
    """Gives Python's, NumPy's and the project's generators the state that they had at the end.

    The evaluation of the run went on from there. A generator that the project's code does not have
    any more is passed over: the code has changed then, which was said already.
    """
    try:
        state.restore_host(ending.load(run, expected).memory.host)
    except KeyError:
        return


def _evaluate(project: Project, content: Manifest, ready: Ready, task: Evaluate) -> Evaluated:
    training = content.recipe.parameters.training
    sources: dict[str, str] = {}
    if task.data is not None:
        part, sources = _other_part(project, content, ready, task)
    elif task.part == "all":
        raise BadInput("--part: expected train, validation or test; all is for other data alone")
    else:
        part = ready.data.parts.parts()[task.part]
    made = ready.steps_of.get(task.part)
    if task.data is not None or task.part == "train" or made is None:
        made = _steps(content, ready, part)
    batch_size = training.validation_batch_size or training.batch_size
    before = _drawn(ready)
    found = steps.evaluate(ready.model, made, batch_size)
    return Evaluated(
        sources=sources,
        versions=machine.versions(),
        results={f"{PREFIX[task.part]}{name}": value for name, value in found.items()},
        drew=_drawn(ready) != before,
    )


def _drawn(ready: Ready) -> list[dict[str, str]]:
    """The digests of all generators, inside the model and outside."""
    return [*state.digests(ready.model, "generators").values(), state.generators()]


def _steps(content: Manifest, ready: Ready, part: Part) -> PartSteps:
    """What makes the steps of an evaluation on a part that the training does not evaluate."""
    parts = Parts(part, part, part)
    training = content.recipe.parameters.training
    return steps.compiled(ready.model, parts, training, content.readers)["test"]


def _own_data(project: Project, content: Manifest, ready: Ready) -> tuple[Dataset, splits.Split]:
    """The data set of the run as its data function returns it, and the split of it."""
    data = dataset_of(project, content.recipe.parameters.data, content.seed)
    digest = ready.data.split["digest"]
    asked = content.recipe.parameters.split
    if asked.file is None:
        return data, splits.make(data, asked)
    return data, splits.reuse(project.split_file(asked.file), data, asked.strategy, digest)


def _other_part(
    project: Project, content: Manifest, ready: Ready, task: Evaluate
) -> tuple[Part, dict[str, str]]:
    """The samples of other data as the model takes them, and what they were read from."""
    assert task.data is not None, "it is called for other data"
    parameters = content.recipe.parameters
    own, split = _own_data(project, content, ready)
    before = set(datafiles.handed_out)
    other = dataset_of(project, task.data, content.seed)
    read = {k: v for k, v in datafiles.handed_out.items() if k not in before}
    samples.same_inputs(own, other)
    if own.preprocessing is not None and other.source is not None:
        raise BadInput("--data: expected samples in memory, since they have to be preprocessed")
    places = np.arange(len(other))
    if task.part != "all":
        places = splits.make(other, parameters.split).parts()[task.part]
    part = other.whole.at(places)
    x = samples.fitted(own, split, part.x, parameters.training.dtype)
    return Part(x, part.y, part.weight, part.reader), dict(other.sources or read)


def _predict(
    project: Project, directory: Path, content: Manifest, ready: Ready, task: Predict
) -> Predicted:
    parameters = content.recipe.parameters
    path = Path(task.file)
    own, split = _own_data(project, content, ready)
    if sha256(path) != task.sha256:
        raise BadInput(f"{path}: it was changed while this command went on; start it again")
    raw = samples.read(path, own)
    x = samples.fitted(own, split, raw, parameters.training.dtype)
    number = len(next(iter(structure.flat("x", x).values())))
    part = Part(x, np.zeros(number, np.float32))
    batch_size = parameters.training.validation_batch_size or parameters.training.batch_size
    found = judging.predictions(ready.model, _steps(content, ready, part), batch_size)
    if not found.digests:
        raise BadInput(
            f"predict: {parameters.model.name} predicts nothing, since it makes its steps itself "
            "and need not map one sample to one output"
        )
    state.save(directory / use.ARRAYS, found.arrays)
    return Predicted(
        sources={},
        versions=machine.versions(),
        samples=number,
        digests=found.digests,
        class_names=tuple(own.class_names),
    )

"""Makes the data, the model and the steps of a recipe, up to the first step.

It is called after `determinism.apply`, since no numerical library may be imported before the
settings are in effect.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repro.basics import npz
from repro.basics.digests import sha256
from repro.basics.errors import BadInput, Probed
from repro.data import datafiles, structure
from repro.data.dataset import Dataset, Parts
from repro.data.feed import Seen
from repro.environment import determinism, provenance
from repro.environment.determinism import Promise
from repro.recipe import signatures
from repro.recipe.parameters import Own, Parameters
from repro.recipe.project import Project
from repro.recipe.recipe import Recipe
from repro.run import faults, recipes
from repro.run.manifest import Manifest

if TYPE_CHECKING:
    from repro.run.callbacks import Watchers
    from repro.run.ending import Ending


@dataclass(frozen=True)
class Data:
    """What a training keeps of its data; the uncut arrays are no longer in memory."""

    parts: Parts
    classes: int
    sources: dict[str, str]
    """The SHA-256 of what the data were read from, by name."""
    entry: dict[str, dict[str, str]]
    """The fields of the ledger's entry."""
    seen: Seen | None
    """What samples that are read one by one are compared with; None where all are in memory."""
    split: dict[str, Any]
    """What the manifest says about the split."""


def dataset_of(project: Project, asked: Own, seed: int) -> Dataset:
    """Returns what a data function of the project's returns.

    Args:
        seed: the recipe's own seed and not the fold's, since all folds cut the same data.

    Raises:
        BadInput: the function does not return a data set.
    """
    function = asked.name
    determinism.reseed(seed, "data")
    module = signatures.data_module(project.source, function)
    dataset = _call(project, module, function, asked)
    if not isinstance(dataset, Dataset):
        raise BadInput(
            f"data.name: expected a function that returns a Dataset; {function} returned "
            f"{type(dataset).__name__}"
        )
    return dataset


def _data(project: Project, directory: Path, content: Manifest) -> Data:
    """Reads the data of a recipe and cuts them into parts."""
    from repro.data import splits

    parameters = content.recipe.parameters
    asked = parameters.split
    dataset = dataset_of(project, parameters.data, content.seed)
    if asked.file is None:
        split = splits.make(dataset, asked)
    else:
        file = project.split_file(asked.file)
        split = splits.reuse(file, dataset, asked.strategy, asked.file)
    splits.save(directory / "split.npz", split, dataset)
    parts = splits.parts(dataset, split, parameters.training.dtype, content.seed)
    if content.probe is not None and content.probe.stage == "data":
        arrays = dataset.arrays() | parts.arrays()
        named = {f"data/{name}": array for name, array in arrays.items()}
        npz.write(directory / "probe.npz", named)
        raise Probed
    entry = {
        "samples": dataset.digests,
        "split": {name: sha256(places) for name, places in split.parts().items()},
    }
    if dataset.preprocessing is not None:
        entry["arrays"] = {name: sha256(array) for name, array in parts.arrays().items()}
    seen = None
    if dataset.source is not None:
        seen = Seen(directory, dataset.names)
    # Who does not say what the data were read from has read what was handed out.
    read = dataset.sources or dict(datafiles.handed_out)
    return Data(parts, dataset.classes, read, entry, seen, splits.describe(split, dataset))


@dataclass(frozen=True)
class Ready:
    """All that a training has before its first step."""

    recipe: Recipe
    """The recipe, with the digests of what the data were read from."""
    data: Data
    model: Any
    steps_of: dict[str, Any]
    """By part, what makes its steps; see `steps.compiled`."""
    watchers: Watchers
    """The callbacks of the recipe."""
    graphs: list[Any]
    """The graphs of the steps; empty if the backend does not trace them."""
    before: Ending | None
    """The ending of another training that this one goes on from."""
    transferred: list[str]
    """The names of the weights that were taken from another run."""
    in_effect: dict[str, Any]
    guarantee: Promise
    unkept: list[str]
    """The operations that keep a state which no checkpoint can have."""
    beginning: list[tuple[str, Any]]
    """The first entries of the ledger: the stage and the fields of each."""

    @property
    def notes(self) -> list[str]:
        """What a person has to know before the training, one line each."""
        return [
            f"{one} keeps a state that no checkpoint can have; this run writes none, and begins "
            "anew where it is interrupted; draw from keras.random with a SeedGenerator instead"
            for one in self.unkept
        ]


def prepare(project: Project, directory: Path, content: Manifest, seed: int) -> Ready:
    """Makes data, model and steps, and gives the model its first state.

    Raises:
        BadInput: data, model or parameters do not fit together; the message says why.
        Probed: the run is made only to look at the data, and has written them.
    """
    from repro.run import callbacks, outside, state, steps

    parameters = content.recipe.parameters
    data = _data(project, directory, content)
    read_for_data = set(datafiles.handed_out)
    model, compiled = _model(project, seed, parameters, data)
    # The data function says what the data are read from. What the model has fetched is added here.
    fetched = {k: v for k, v in datafiles.handed_out.items() if k not in read_for_data}
    of_model = {f"of the model: {k}": v for k, v in fetched.items()}
    recipe = content.recipe.reading(data.sources | of_model, compiled)
    if content.made_of is None or provenance.code(project.root) != content.made_of.code:
        raise BadInput("the project's code was changed while this run started; start it again")
    determinism.reseed(seed, "training")
    training = parameters.training
    steps_of = steps.compiled(model, data.parts, training, content.readers, data.seen)
    graphs = [s.make.graph for s in steps_of.values() if s.make and s.make.graph is not None]
    if parameters.backend == "torch" and steps.has_own_step(model):
        steps.rehearse(model, data.parts.train)
    known = [v for kind in state.variables(model).values() for v in kind.values()]
    goes_on = bool(content.resumed)
    watchers = callbacks.watch(project, parameters.callbacks, directory, goes_on)
    others = [one.callback for one in watchers.members]
    outside.settle(known, graphs, project.package, model, *others)
    before, transferred = _begin_from(project, recipe, model)
    found = determinism.in_effect(parameters)
    return Ready(
        recipe,
        data,
        model,
        steps_of,
        watchers,
        graphs,
        before,
        transferred,
        found,
        guarantee_of(model, graphs, recipe, found),
        outside.unkept(graphs) if parameters.backend == "tensorflow" else [],
        [
            ("environment", {"settings": {"seed": seed, **found}}),
            ("data", data.entry),
            ("initial", state.vocabularies(model) | state.digests(model, *state.KEPT)),
        ],
    )


def _model(
    project: Project, seed: int, parameters: Parameters, data: Data
) -> tuple[Any, dict[str, Any] | None]:
    """Builds and compiles the model of a recipe.

    Returns:
        The model, and what trains it if the parameters do not say it all; see `compiling.found`.
    """
    from repro.run import compiling, steps, targets

    determinism.reseed(seed, "model")
    group, part = parameters.model, data.parts.train
    name = f"models.{group.name}"
    fields = part.fields()
    shapes = structure.like(part.x, lambda name, _: fields[name].shape, "x")
    dtypes = structure.like(part.x, lambda name, _: fields[name].dtype.name, "x")
    on_request = {"train": part, "dtypes": dtypes}
    with targets.building() as compiled:
        model = _call(project, name, "build", group, shapes, data.classes, on_request=on_request)
    targets.fresh(model)
    came, given = model.compiled, True
    if came:
        compiling.as_it_came(model, parameters)
        given = id(model) in compiled
    else:
        compiling.compile_model(model, parameters, data.parts, project)
    # A `compile` of the model's own may add what no parameter says.
    told = compiling.found(model, given) if came or compiling.has_own(model) else None
    with targets.checking(model, data.parts, data.classes, parameters.training):
        steps.ready(model, part, optimizer=given)
    compiling.moves(model)
    return model, told


def _begin_from(project: Project, recipe: Recipe, model: Any) -> tuple[Ending | None, list[str]]:
    """Gives the model the state or the weights of another run, if the recipe names one.

    Returns:
        The ending of the other run, if the recipe goes on from its state; else None.
        The names of the weights that were taken, if the recipe takes only weights; else none.
    """
    from repro.run import ending, state

    first = recipes.beginning(project, recipe)
    if first is None:
        return None, []
    name, run = first
    digest = getattr(recipe.parameters.training, name)
    if name == "initial_weights":
        return None, state.transfer(run / "state.npz", model, digest)
    before = ending.load(run, digest)
    state.assign(run / "state.npz", model, before.tensors, state.KEPT)
    return before, []


def guarantee_of(
    model: Any, graphs: Sequence[Any], recipe: Recipe, found: dict[str, Any]
) -> Promise:
    """Says which guarantee holds, by all operations that have been seen so far.

    These are the operations in the graphs, and those that `portable.watching` has noted beside
    them. See `determinism.guarantee`.

    Args:
        graphs: the graphs of the steps; empty for a model that makes its steps on the host.
        found: what `determinism.in_effect` returned.
    """
    from repro.backends import portable

    parameters, unproved = recipe.parameters, set[str]()
    if parameters.guarantee == "portable":
        layers = [layer.name for layer in model._flatten_layers(include_self=False)]
        unproved.update(portable.unproved(graphs or [None], layers), portable.watched(layers))
    departures = recipe.lock.departures
    return determinism.guarantee(parameters, found, departures, sorted(unproved))


def _call(
    project: Project,
    module: str,
    function: str,
    own: Own,
    *positional: Any,
    on_request: Mapping[str, Any] | None = None,
) -> Any:
    """Calls a function of the project's own package with its group of parameters.

    Args:
        on_request: what it gets as well, of which it has a keyword-only argument.
    """
    target = getattr(project.module(module), function)
    with faults.calling(function):
        has = inspect.signature(target).parameters
        wanted = {name: value for name, value in (on_request or {}).items() if name in has}
        return target(*positional, **own.arguments, **wanted)

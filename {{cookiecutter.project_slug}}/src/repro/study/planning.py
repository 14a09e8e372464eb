"""The plan of a study: all of its trials, each a checked recipe, before the first one is run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import pydantic

from repro.basics.errors import BadInput
from repro.basics.text import nearest
from repro.data import datalock
from repro.environment import provenance
from repro.environment.provenance import Code
from repro.recipe import packages, parameters
from repro.recipe.literals import written
from repro.recipe.parameters import Group
from repro.recipe.project import Project
from repro.recipe.recipe import Recipe
from repro.run import recipes
from repro.study.search import Repetitions, Search, Values

FILE = "study.json"
OUTER_FOLD = "split.outer_fold"
"""The parameter that a nested study repeats its configurations over."""
LARGER_IS_BETTER = {name: not name.endswith("_error") for name in get_args(parameters.Metric)}
"""Whether Keras maximises a metric."""


@dataclass(frozen=True)
class Design:
    """A study that is asked for."""

    kind: str
    """`sweep` or `cross-validate`."""
    search: Search
    repetitions: Repetitions = field(default_factory=Repetitions)
    method: str = "grid"
    points: int | None = None
    """How many configurations to try, unless all are."""
    monitor: str = "val_loss"
    """The result that the best is chosen by."""
    mode: str | None = None
    """`max` or `min`: whether more or less of it is better; None: what is known of it."""

    @property
    def larger_is_better(self) -> bool:
        """Whether more of what is monitored is better.

        Raises:
            BadInput: that is not known, or the monitor is of the test.
        """
        if self.monitor.startswith("test_"):
            would = f"val_{self.monitor[5:]} would do"
            raise BadInput(f"--monitor: {self.monitor}: nothing is chosen by the test; {would}")
        return maximised(self.monitor, self.mode)


class PlannedTrial(Group):
    """One trial of a plan: a configuration, and how it is repeated."""

    trial: int
    """Its number, from 0."""
    configuration: int
    repetition: Values
    overrides: Sequence[str]
    """What its recipe is made from beside `params.yaml`."""
    recipe_digest: str


class Plan(Group):
    """What is in `study.json`."""

    format: Literal[1] = 1
    kind: str
    digest: str
    """Over what is chosen by, the recipes and the code: what makes two studies the same."""
    monitor: str
    larger_is_better: bool
    fixed: Sequence[str]
    """The overrides that all trials have."""
    configurations: Sequence[Values]
    code: Code
    trials: Sequence[PlannedTrial]

    @pydantic.model_validator(mode="after")
    def _whole(self) -> Plan:
        numbers = {trial.configuration for trial in self.trials}
        if numbers != set(range(len(self.configurations))):
            raise ValueError("trials and configurations do not belong together")
        return self

    @property
    def code_digest(self) -> str:
        """The digest of the code that all trials are to be trained by."""
        assert self.code.digest is not None, "a plan names the code that it was made with"
        return self.code.digest

    def as_json(self) -> dict[str, Any]:
        """As it stands in the file."""
        return self.model_dump()

    def values(self, trial: PlannedTrial) -> Values:
        """All that tells a trial from the others."""
        return self.configurations[trial.configuration] | trial.repetition


@dataclass(frozen=True)
class Planned:
    """A plan, and the recipe of each of its trials."""

    plan: Plan
    recipes: Sequence[Recipe]


def maximised(monitor: str, mode: str | None = None) -> bool:
    """Whether more of what is monitored is better: `mode` (`max` or `min`), or what is known of it.

    Raises:
        BadInput: nothing is, such as of what a model judges itself by.
    """
    known = LARGER_IS_BETTER | {"loss": False}
    name = monitor.removeprefix("val_")
    if mode is None and name not in known:
        raise BadInput(
            f"--monitor: {monitor}: whether more of it is better is not known; "
            f"--mode max or --mode min would say{nearest(name, known)}"
        )
    return known[name] if mode is None else mode == "max"


def plan(project: Project, design: Design) -> Planned:
    """Returns all trials of a study, each with its recipe, checked.

    Raises:
        BadInput: a recipe is impossible, a search too, or the monitor is of the test, or neither
            known nor given a mode; or outer folds would be compared; or a data file is not what
            `data.lock` says.
    """
    larger, search = design.larger_is_better, design.search
    locked = packages.lock(project.root)
    seed = recipes.make(project, search.fixed, locked).parameters.seed
    datalock.check(project.root)  # Here once, so that workers find it done.
    if OUTER_FOLD in {*search.choices, *search.ranges}:
        raise BadInput(
            f"{OUTER_FOLD}: a study that compares outer folds would choose by their tests; "
            "--outer-folds N chooses within each"
        )
    configurations = search.configurations(design.method, design.points, seed or 0)
    trials: list[PlannedTrial] = []
    made: list[Recipe] = []
    for number, configuration in enumerate(configurations):
        for repetition in design.repetitions.values(configuration.get("seed", seed)):
            values = configuration | repetition
            overrides = [*search.fixed, *(f"{key}={written(v)}" for key, v in values.items())]
            made.append(recipes.make(project, overrides, locked))
            trial = PlannedTrial(
                trial=len(trials),
                configuration=number,
                repetition=repetition,
                overrides=overrides,
                recipe_digest=made[-1].digest,
            )
            trials.append(trial)
    code = provenance.digest(provenance.code(project.root))
    digests = (trial.recipe_digest for trial in trials)
    text = json.dumps([design.kind, design.monitor, larger, code, *digests])
    found = Plan(
        kind=design.kind,
        digest=hashlib.sha256(text.encode()).hexdigest(),
        monitor=design.monitor,
        larger_is_better=larger,
        fixed=search.fixed,
        configurations=configurations,
        code=replace(provenance.commit(project.root), digest=code),
        trials=trials,
    )
    return Planned(found, made)


def read(directory: Path) -> Plan:
    """Returns the plan of a study.

    Raises:
        BadInput: its file is damaged, or is no plan.
    """
    path = directory / FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Plan.model_validate_json(json.dumps(content))
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: not a readable study: {one_line(error)}") from None


def one_line(error: Exception) -> str:
    """What is wrong with a file; of what pydantic finds, the first place."""
    if isinstance(error, pydantic.ValidationError):
        first = error.errors(include_url=False)[0]
        return ": ".join([".".join(map(str, first["loc"])) or "content", first["msg"]])
    return " ".join(str(error).split())

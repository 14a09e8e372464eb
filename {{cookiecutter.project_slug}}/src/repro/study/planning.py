"""Makes the plan of a study: all its trials, with recipes that are checked before the first run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pydantic

from repro.basics.errors import BadInput
from repro.basics.text import nearest, said_by
from repro.data import datalock
from repro.environment import provenance
from repro.environment.provenance import Code
from repro.recipe import packages
from repro.recipe.literals import written
from repro.recipe.parameters import Group
from repro.recipe.project import Project
from repro.recipe.recipe import Recipe
from repro.run import recipes
from repro.study.search import Repetitions, Search, Values

FILE = "study.json"
OUTER_FOLD = "split.outer_fold"
"""The parameter over which a nested study repeats its configurations."""
SMALLER = (
    *("loss", "error", "hinge", "crossentropy", "poisson", "kl_divergence", "logcosh"),
    *("false_positives", "false_negatives"),
)
LARGER = (
    *("accuracy", "auc", "precision", "recall", "score", "iou", "io_u", "correlation"),
    *("similarity", "specificity", "sensitivity", "true_positives", "true_negatives"),
)
"""What the names of results have in them of which less is better, or more; as Keras says."""


@dataclass(frozen=True)
class Design:
    """What a person asks of a study."""

    kind: str
    """`sweep` or `cross-validate`."""
    search: Search
    repetitions: Repetitions = field(default_factory=Repetitions)
    method: str = "grid"
    points: int | None = None
    """How many configurations to try; None: all."""
    monitor: str = "val_loss"
    """The result by which the best is chosen."""
    mode: str | None = None
    """`max` if more of it is better, `min` if less is; None: what Keras says about the metric."""

    @property
    def larger_is_better(self) -> bool:
        """Whether more of the monitored result is better.

        Raises:
            BadInput: this is not known, or the result is one of the test.
        """
        if self.monitor.startswith("test_"):
            would = f"val_{self.monitor[5:]} would do"
            raise BadInput(f"--monitor: {self.monitor}: nothing is chosen by the test; {would}")
        return maximised(self.monitor, self.mode)


class PlannedTrial(Group):
    """One trial of a plan: a configuration and one of its repetitions."""

    trial: int
    """The number of the trial, from 0."""
    configuration: int
    """The number of the configuration, from 0."""
    repetition: Values
    overrides: Sequence[str]
    """The overrides of `params.yaml` in its recipe."""
    recipe_digest: str


class Plan(Group):
    """The content of `study.json`."""

    format: Literal[1] = 1
    kind: str
    digest: str
    """The digest of the monitored result, the recipes and the code; the same study has the same."""
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
        """The digest of the code that has to train all trials."""
        assert self.code.digest is not None, "a plan names the code that it was made with"
        return self.code.digest

    def as_json(self) -> dict[str, Any]:
        """Returns the plan as the file has it."""
        return self.model_dump()

    def values(self, trial: PlannedTrial) -> Values:
        """Returns all values in which a trial may differ from the others."""
        return self.configurations[trial.configuration] | trial.repetition


@dataclass(frozen=True)
class Planned:
    """A plan, and the recipe of each of its trials."""

    plan: Plan
    recipes: Sequence[Recipe]


def maximised(monitor: str, mode: str | None = None) -> bool:
    """Whether more of the monitored result is better, by `mode` or by what Keras says about it.

    Args:
        mode: `max`, `min`, or None: as Keras says.

    Raises:
        BadInput: there is no mode and Keras does not know the result, such as one of `judge`.
    """
    if mode is not None:
        return mode == "max"
    if any(word in monitor for word in SMALLER):
        return False
    if not any(word in monitor for word in LARGER):
        near = nearest(monitor.removeprefix("val_"), (*SMALLER, *LARGER))
        raise BadInput(
            f"--monitor: it is not known whether more of {monitor} is better; add --mode max or "
            f"--mode min{near}"
        )
    return True


def plan(project: Project, design: Design) -> Planned:
    """Returns the plan of a study, and the checked recipe of each trial.

    Raises:
        BadInput: a recipe or the search is impossible; or the monitored result is one of the test,
            or needs a mode; or the study would compare outer folds; or a data file is not what
            `data.lock` says.
    """
    larger, search = design.larger_is_better, design.search
    locked = packages.lock(project.root)
    seed = recipes.make(project, search.fixed, locked).parameters.seed
    datalock.check(project.root)  # Done once here, so that the trainings find the digests kept.
    if OUTER_FOLD in {*search.choices, *search.ranges}:
        raise BadInput(
            f"{OUTER_FOLD}: a study must not compare outer folds, since it would choose by their "
            "tests; --outer-folds N chooses within each"
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
    """Returns the plan of a study from its directory.

    Raises:
        BadInput: the file is missing or damaged, or is not a plan.
    """
    path = directory / FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Plan.model_validate_json(json.dumps(content))
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: not a readable study: {one_line(error)}") from None


def one_line(error: Exception) -> str:
    """Returns what an error says in one line; of pydantic's errors it takes the first."""
    if isinstance(error, pydantic.ValidationError):
        first = error.errors(include_url=False)[0]
        return ": ".join([".".join(map(str, first["loc"])) or "content", first["msg"]])
    return said_by(error)

"""The interface for notebooks and scripts: `import repro`, then `repro.train(…)`.

Each function does what the command of its name does, in the same fresh processes, and returns what
it found as a record. Progress goes to standard error, as that of the commands does; `quiet=True`
shows none.

Parameters are given as on the command line (`"training.epochs=3"`), as mappings
(`{"training.epochs": 3}`, also nested), or by name (`seed=1`, `training={"epochs": 3}`,
`preset="mnist_dense"`). The project is that of the current folder, or the one around `project`.

    BadInput         a value is wrong; the message is one line
    RunFailed        a training failed; the message names its log
    MachineryFailed  a `RunFailed` that is a fault of the machinery
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from repro.basics import files
from repro.basics.errors import BadInput, RunFailed
from repro.cli import console
from repro.compare import comparison, gate, why
from repro.compare import gate_verdict as gates
from repro.compare.comparison import Verdict as Compared
from repro.recipe import literals
from repro.recipe.project import Project, own_machinery
from repro.recipe.recipe import Recipe
from repro.run import after, launcher, manifest, recipes
from repro.run import runs as listing
from repro.run.after import Evaluation, ExportedModel, Prediction
from repro.run.events import Progress
from repro.run.launcher import Launch
from repro.run.ledger import Divergence
from repro.run.manifest import Finished
from repro.run.runs import Listed
from repro.run.use import Format, Part
from repro.study import planning, study, table
from repro.study.planning import Design
from repro.study.search import METHODS, Repetitions, Search

Given = str | Mapping[str, Any]
"""Parameters, as an override of the command line or as a mapping."""
Where = Path | str | None
"""A folder in a project; None: the current folder."""


@dataclass(frozen=True)
class Run:
    """A finished run."""

    name: str
    path: Path
    manifest: Finished

    @property
    def digest(self) -> str:
        """The digest of the final state."""
        return self.manifest.digest

    @property
    def metrics(self) -> dict[str, float]:
        """The results by name, such as `test_accuracy`."""
        return self.manifest.metrics

    @property
    def recipe(self) -> Recipe:
        """All that decides the result."""
        return self.manifest.recipe

    @property
    def history(self) -> list[dict[str, float]]:
        """The results of each epoch, in order.

        Raises:
            BadInput: the file of the run is missing or damaged.
        """
        path = self.path / "history.json"
        try:
            found: list[dict[str, float]] = files.numbers(json.loads(path.read_bytes()))
        except (OSError, ValueError):
            raise BadInput(f"{path}: not a readable history") from None
        return found

    @classmethod
    def at(cls, path: Path) -> Run:
        """Returns the run in a directory.

        Raises:
            BadInput: it is none, or it has not finished.
        """
        return cls(path.name, path, manifest.of_finished(path))


@dataclass(frozen=True)
class Verdict:
    """What a gate says of a recipe."""

    identical: bool
    """Whether all runs ended in the same bits."""
    first_difference: Divergence | None
    """The first place where two runs differ; None: they do not, or one failed."""
    runs: tuple[Run, ...]
    """The runs that have finished."""
    gate: gates.GateVerdict
    """All that the gate says, with `why` if it was looked for."""

    @property
    def digest(self) -> str:
        """The digest of the first run."""
        return self.gate.first.digest

    def __str__(self) -> str:
        between = self.gate.between
        return "\n".join([between.verdict.upper(), *between.lines(), *self.gate.lines()])


@dataclass(frozen=True)
class Study:
    """A study that has run."""

    name: str
    path: Path
    project: Project
    answer: table.Answer
    """Its table with rows, trials and what was chosen, and the verification."""

    @property
    def rows(self) -> Sequence[Any]:
        """A row for each configuration, with the means over its trials; see `choice.Row`."""
        return self.answer.table.rows

    @property
    def runs(self) -> tuple[Run, ...]:
        """The runs of the trials that are done, in the order of the trials."""
        done = [trial.done for trial in self.answer.table.trials]
        return tuple(Run.at(self.project.runs / one.run) for one in done if one)

    @property
    def verified(self) -> Compared | None:
        """The verdict on the trial that was trained once more; None: there was none."""
        return self.answer.compared

    def table(self) -> Any:
        """Returns a `pandas.DataFrame` with a row for each trial.

        Its columns are `trial`, each parameter in which trials differ, each result, `run`, `digest`
        and `failed`, which says why a trial has no result.

        Raises:
            BadInput: pandas is not installed.
        """
        trials = self.answer.table.trials
        values = [
            self.rows[trial.configuration].values | trial.planned.repetition for trial in trials
        ]
        content = [
            {"trial": trial.number, **value}
            | (trial.done.metrics if trial.done else {})
            | {
                "run": trial.done.run if trial.done else None,
                "digest": trial.done.digest if trial.done else None,
                "failed": trial.failed,
            }
            for trial, value in zip(trials, values, strict=True)
        ]
        return _frame(content)

    def __str__(self) -> str:
        head, rows = table.columns(self.answer.table)
        widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
        return "\n".join(
            "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in (head, *rows)
        )


@dataclass(frozen=True)
class Runs(Sequence[Listed]):
    """The runs of a project, the newest last unless another order was asked for."""

    listed: tuple[Listed, ...]

    def __len__(self) -> int:
        return len(self.listed)

    def __getitem__(self, place: Any) -> Any:
        return self.listed[place]

    def table(self) -> Any:
        """Returns a `pandas.DataFrame` with a row for each run and a column for each metric.

        Raises:
            BadInput: pandas is not installed.
        """
        names = listing.metrics(self.listed)
        return _frame(
            [
                {key: one.value(key) for key in listing.FIELDS}
                | {name: one.metrics.get(name) for name in names}
                for one in self.listed
            ]
        )


def train(
    *given: Given,
    project: Where = None,
    fresh: bool = False,
    checkpoint_seconds: float = 60,
    quiet: bool = False,
    **parameters: Any,
) -> Run:
    """Trains one recipe in a fresh process, and returns the finished run.

    Args:
        given: parameters; see the module.
        fresh: whether to begin a new run, even if an interrupted run of this recipe can go on.
        checkpoint_seconds: the most seconds between two checkpoints.

    Raises:
        BadInput: a parameter is wrong, or an input that only the process can see.
        RunFailed: the training failed.
    """
    here, asked = _project(project), _overrides(given, parameters)
    if not checkpoint_seconds >= 0:
        raise BadInput(f"checkpoint_seconds: expected 0 or more, got {checkpoint_seconds}")
    recipe = recipes.make(here, asked)
    launch = Launch(here, recipe, overrides=asked, checkpoint_seconds=checkpoint_seconds)
    with _told(quiet) as reporter:
        return Run.at(launcher.start(launch, reporter, fresh))


def verify(
    *given: Given,
    project: Where = None,
    runs: int = 2,
    vary: str | None = None,
    explain: bool = False,
    quiet: bool = False,
    **parameters: Any,
) -> Verdict:
    """Trains one recipe several times, in changed surroundings, and compares the runs.

    Args:
        runs: how many runs to make.
        vary: what to change in the surroundings of the further runs: names, `all` or `none`.
        explain: whether to look for the reason if the runs differ.

    Raises:
        BadInput: a parameter is wrong.
        RunFailed: the first training failed.
    """
    here, asked = _project(project), _overrides(given, parameters)
    if runs < 2:
        raise BadInput(f"runs: expected 2 or more, got {runs}")
    wanted = gate.Gate(here, recipes.make(here, asked), runs, vary)
    with _told(quiet) as reporter:
        found = gate.verify(wanted, reporter)
        if explain and found.verdict != "identical":
            for reason in why.explain(here, found, reporter, _line(reporter)):
                found = replace(found, why=reason)
    made = tuple(map(Run.at, found.runs))
    return Verdict(found.verdict == "identical", found.first_divergence, made, found)


def diff(one: Run | Path | str, other: Run | Path | str, project: Where = None) -> Compared:
    """Compares two finished runs; what `repro diff` does.

    Raises:
        BadInput: there is no such run, or one of its files was altered.
    """
    here = _project(project)
    return comparison.compare(_run(here, one), _run(here, other))


def cross_validate(
    *given: Given,
    project: Where = None,
    folds: int = 5,
    strategy: str | None = None,
    repeats: int = 1,
    outer_folds: int | None = None,
    seeds: int = 1,
    monitor: str = "val_loss",
    mode: str | None = None,
    workers: int | None = None,
    fresh: bool = False,
    verify: bool = True,
    quiet: bool = False,
    **parameters: Any,
) -> Study:
    """Trains once for each fold, and returns the study with means and deviations.

    The arguments are the options of the command.

    Raises:
        BadInput: a parameter is wrong.
        RunFailed: the study cannot go on. A trial that failed is no error; see `Study.answer`.
    """
    if strategy:
        parameters["split.strategy"] = strategy
    design = Design("cross-validate", Search(_overrides(given, parameters)))
    repeated = Repetitions(seeds, folds, repeats, outer_folds)
    design = replace(design, repetitions=repeated, monitor=monitor, mode=mode)
    return _study(_project(project), design, workers, fresh, verify, quiet)


def sweep(
    *given: Given,
    project: Where = None,
    method: str = "grid",
    trials: int | None = None,
    folds: int | None = None,
    repeats: int = 1,
    outer_folds: int | None = None,
    seeds: int = 1,
    monitor: str = "val_loss",
    mode: str | None = None,
    workers: int | None = None,
    fresh: bool = False,
    verify: bool = True,
    quiet: bool = False,
    **parameters: Any,
) -> Study:
    """Trains with each of many values of parameters, and returns the study.

    A list is several values to try: `{"training.batch_size": [16, 32]}`. A range is text, such as
    `"optimizer.learning_rate=1e-4..1e-1 log"`. The other arguments are the options of the command.

    Raises:
        BadInput: a parameter is wrong.
        RunFailed: the study cannot go on. A trial that failed is no error; see `Study.answer`.
    """
    if method not in METHODS:
        raise BadInput(f"method: expected one of {', '.join(METHODS)}; got {method!r}")
    search = Search.read(_overrides(given, parameters, several=True))
    repeated = Repetitions(seeds, folds, repeats, outer_folds)
    design = Design("sweep", search, repeated, method, trials, monitor, mode)
    return _study(_project(project), design, workers, fresh, verify, quiet)


def runs(*where: str, project: Where = None, sort: str | None = None) -> Runs:
    """Returns the runs of a project, read from their manifests alone.

    Args:
        where: conditions that have to hold, such as `"model=dense"`.
        sort: a field, a metric or a parameter to sort by; None: by the time.

    Raises:
        BadInput: a condition is none, or no run has such a key.
    """
    return Runs(tuple(listing.chosen(listing.read(_project(project)), where, sort)))


def find_run(name: str, project: Where = None) -> Run:
    """Returns a finished run by its name, the beginning of it, its path, or `latest`.

    Raises:
        BadInput: there is no such run, or it has not finished.
    """
    return Run.at(manifest.find_run(_project(project), name))


def evaluate(
    run: Run | Path | str,
    part: Part | None = None,
    data: str | None = None,
    *given: Given,
    project: Where = None,
    quiet: bool = False,
) -> Evaluation:
    """Evaluates a finished run in a fresh process; see `after.evaluate`.

    Args:
        part: train, validation or test; `all` for other data.
        data: the name of another data function.
        given: arguments of that function, such as `{"data.scaling": "standard"}`.

    Raises:
        BadInput: the run cannot be used, or an argument is wrong.
        RunFailed: the process failed.
    """
    here = _project(project)
    overrides = _overrides(given, {})
    if overrides and data is None:
        raise BadInput(f"{overrides[0]}: expected with data, which names another data function")
    other = after.other_data(here, data, overrides) if data else None
    with _told(quiet) as reporter:
        return after.evaluate(here, _run(here, run), part, other, reporter, _line(reporter))


def predict(
    run: Run | Path | str,
    file: Path | str,
    output: Path | str | None = None,
    *,
    project: Where = None,
    quiet: bool = False,
) -> Prediction:
    """Predicts with a finished run for the samples of a file; see `after.predict`.

    Raises:
        BadInput: the run or the file cannot be used.
        RunFailed: the process failed.
    """
    here, to = _project(project), None if output is None else Path(output)
    with _told(quiet) as reporter:
        tell = _line(reporter)
        return after.predict(here, _run(here, run), Path(file), to, reporter, tell)


def export(
    run: Run | Path | str,
    format: Format = "keras",
    output: Path | str | None = None,
    *,
    project: Where = None,
    quiet: bool = False,
) -> ExportedModel:
    """Exports the model of a finished run; see `after.export`.

    Raises:
        BadInput: the run cannot be used, or its model cannot be exported like this.
        RunFailed: the process failed.
    """
    here, to = _project(project), None if output is None else Path(output)
    with _told(quiet) as reporter:
        return after.export(here, _run(here, run), format, to, reporter, _line(reporter))


def _study(
    project: Project,
    design: Design,
    workers: int | None,
    fresh: bool,
    verify: bool,
    quiet: bool,
) -> Study:
    if workers is not None and workers < 1:
        raise BadInput(f"workers: expected 1 or more, got {workers}")
    planned = planning.plan(project, design)
    with study.Study(project, planned, fresh) as one:
        told: AbstractContextManager[Any] = nullcontext(_Silent())
        if not quiet:
            told = console.Reporter(len(planned.recipes))
        with told as reporter:
            reporter.begin(one.done)
            answer = one.run(workers, None, reporter, reporter.trial, verify)
    return Study(answer.directory.name, answer.directory, project, answer)


class _Silent:
    """A reporter that shows nothing."""

    def __call__(self, run: Path, event: Progress) -> None:
        """Is told how far a run is."""

    def line(self, text: str) -> None:
        """Is told a line."""

    def begin(self, done: int) -> None:
        """Is told that a study begins."""

    def trial(self, run: str, text: str, done: int) -> None:
        """Is told that a trial is over."""


def _told(quiet: bool) -> AbstractContextManager[Any]:
    """What is told how far a run is, for a `with` block."""
    return nullcontext(_Silent()) if quiet else console.Reporter()


def _line(reporter: Any) -> Callable[[str], None]:
    line: Callable[[str], None] = reporter.line
    return line


def _project(where: Where) -> Project:
    """Finds the project, whose machinery has to be this one.

    Raises:
        BadInput: there is no project, or its machinery is another one.
    """
    found = Project.find(None if where is None else Path(where))
    other = own_machinery(found)
    if other is not None:
        raise BadInput(
            f"{found.root}: expected the machinery of this project, {other}, got "
            f"{files.MACHINERY}; start Python with PYTHONPATH={other}"
        )
    return found


def _run(project: Project, named: Run | Path | str) -> Path:
    return named.path if isinstance(named, Run) else manifest.find_run(project, str(named))


def _overrides(
    given: Sequence[Given], parameters: Mapping[str, Any], several: bool = False
) -> list[str]:
    """Returns parameters as the command line has them.

    Args:
        several: whether a list is several values to try.

    Raises:
        BadInput: one of them is nothing that a parameter can be.
    """
    found: list[str] = []
    for one in (*given, parameters):
        if isinstance(one, str):
            found.append(one)
        elif isinstance(one, Mapping):
            found += [
                f"{key}={_text(key, value, several)}" for key, value in files.flat(one).items()
            ]
        else:
            raise BadInput(f"{one!r}: expected key=value, or a mapping of parameters")
    return found


def _text(key: str, value: Any, several: bool) -> str:
    if key == "preset" and isinstance(value, str):
        return value
    if several and isinstance(value, list | tuple):
        return ",".join(map(_written, value))
    return _written(value)


def _written(value: Any) -> str:
    """A value as text; NumPy's numbers are numbers too."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    return literals.written(list(value) if isinstance(value, tuple) else value)


def _frame(rows: list[dict[str, Any]]) -> Any:
    try:
        import pandas
    except ImportError:
        raise BadInput(
            "table: pandas is not installed: add it to requirements/cpu.in, then make lock and "
            "make install"
        ) from None
    return pandas.DataFrame(rows)


__all__ = [
    "BadInput",
    "Evaluation",
    "ExportedModel",
    "Prediction",
    "Run",
    "RunFailed",
    "Runs",
    "Study",
    "Verdict",
    "cross_validate",
    "diff",
    "evaluate",
    "export",
    "find_run",
    "predict",
    "runs",
    "sweep",
    "train",
    "verify",
]

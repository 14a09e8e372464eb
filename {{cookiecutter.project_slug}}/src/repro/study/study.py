"""A study: many recipes, all known before the first is run, and a table of what came out.

A study is configurations (values of parameters) times repetitions (seeds, folds); each pair is a
trial, which is a recipe like any other: its row is what `repro train` gives with the same values.
So a table does not depend on how many workers made it, in which order, or how often it was ended
and begun again.

    studies/<id>/study.json      the plan: configurations, repetitions, the digest of each recipe
    studies/<id>/results.jsonl   a line for each trial when it is over, the verification, the end
    runs/<id>-<number>/          the trials' runs
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Protocol, TextIO, get_args

from repro.basics import files, locks
from repro.basics.errors import BadInput, RunFailed
from repro.compare import comparison
from repro.data import datalock
from repro.environment import provenance
from repro.recipe import packages, parameters
from repro.recipe.project import Project
from repro.recipe.reading import nearest, written
from repro.recipe.recipe import Recipe
from repro.run import launcher, manifest, recipes
from repro.run.launcher import Listener
from repro.run.manifest import Finished
from repro.study import slots, table
from repro.study.choice import OUTER_FOLD
from repro.study.keys import Cluster
from repro.study.pool import Pool
from repro.study.search import Repetitions, Search
from repro.study.trials import Outcome, Task

LARGER_IS_BETTER = {name: not name.endswith("_error") for name in get_args(parameters.Metric)}
"""Whether Keras maximises a metric."""


class Trainers(Protocol):
    """What runs tasks: the `Pool` of this machine, or the `Workers` of a cluster."""

    def run(
        self,
        project: Project,
        every: Sequence[Recipe],
        tasks: Sequence[Task],
        further: Callable[[], Task | None] = ...,
    ) -> Iterator[Outcome]: ...


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


def plan(
    project: Project,
    kind: str,
    search: Search,
    repetitions: Repetitions,
    method: str = "grid",
    trials: int | None = None,
    monitor: str = "val_loss",
    mode: str | None = None,
) -> dict[str, Any]:
    """Returns all trials of a study, each with its recipe, checked.

    Raises:
        BadInput: a recipe is impossible, a search too, or the monitor is of the test, or neither
            known nor given a mode; or outer folds would be compared; or a data file is not what
            `data.lock` says.
    """
    if monitor.startswith("test_"):
        raise BadInput(
            f"--monitor: {monitor}: nothing is chosen by the test; val_{monitor[5:]} would do"
        )
    larger = maximised(monitor, mode)
    locked = packages.lock(project.root)
    seed = recipes.make(project, search.fixed, locked).parameters.seed
    datalock.check(project.root)  # Here once, so that workers find it done.
    if OUTER_FOLD in {*search.choices, *search.ranges}:
        raise BadInput(
            f"{OUTER_FOLD}: a study that compares outer folds would choose by their tests; "
            "--outer-folds N chooses within each"
        )
    configurations = search.configurations(method, trials, seed or 0)
    planned: list[dict[str, Any]] = []
    for number, configuration in enumerate(configurations):
        for repetition in repetitions.values(configuration.get("seed", seed)):
            values = configuration | repetition
            overrides = [*search.fixed, *(f"{key}={written(v)}" for key, v in values.items())]
            recipe = recipes.make(project, overrides, locked)
            planned.append(
                {
                    "trial": len(planned),
                    "configuration": number,
                    "repetition": repetition,
                    "overrides": overrides,
                    "recipe_digest": recipe.digest,
                    "recipe": recipe.as_json(),
                }
            )
    code = provenance.digest(provenance.code(project.root))
    text = json.dumps([kind, monitor, larger, code, *(trial["recipe_digest"] for trial in planned)])
    return {
        "format": 1,
        "kind": kind,
        "digest": hashlib.sha256(text.encode()).hexdigest(),
        "monitor": monitor,
        "larger_is_better": larger,
        "fixed": list(search.fixed),
        "configurations": configurations,
        "code": asdict(replace(provenance.commit(project.root), digest=code)),
        "trials": planned,
    }


class Study:
    """A study on the disk, which goes on where it was. Used in a `with` block.

    Raises:
        BadInput: another process is at it, or it cannot be written, or what it had is damaged.
    """

    def __init__(self, project: Project, planned: dict[str, Any], fresh: bool = False) -> None:
        self.project, self.plan = project, planned
        self.directory = (None if fresh else self._unfinished()) or self._new()
        self._file = _opened(self.directory / "results.jsonl")
        if not locks.lock(self._file, launcher.ENDING):
            self._file.close()
            raise BadInput(f"{self.directory}: this study is still going on, in another process")
        try:
            table.cut(self.directory / "results.jsonl")
            self.results, self.verification = table.read_results(self.directory)
        except BadInput as error:
            self._file.close()
            raise BadInput(f"{error}; --fresh begins anew") from None
        self._sources: dict[str, Any] = {}

    def __enter__(self) -> Study:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self._file.close()
        if kind is BadInput and not self.results:  # Of one that was refused nothing is left behind.
            for run in self.project.runs.glob(f"{self.directory.name}-*"):
                shutil.rmtree(run, ignore_errors=True)
            shutil.rmtree(self.directory)

    def run(
        self,
        workers: int | None,
        cluster: Cluster | None,
        listener: Listener,
        tell: Callable[[str, str, int], None] = lambda run, line, done: None,
        verify: bool = True,
    ) -> dict[str, Any]:
        """Runs the trials that are left and the best again, and returns what `table.read` does.

        Where no trial is left to begin, what is the best so far is trained again meanwhile. Of
        what turns out not to be it, that further run is removed.

        Args:
            workers: trainings side by side here; None: as many as fit on this machine.
            cluster: in place of this machine, a Dask cluster.
            tell: called for each trial that is over, with its run's name, a line on it, and how
                many have a result.

        Raises:
            BadInput: a trial was refused by the process that saw the data.
            RunFailed: the study cannot be written to, or its cluster was lost.
        """
        trials = self.plan["trials"]
        left = [trial for trial in trials if not self._done(trial)]
        done = self.done
        if left or (verify and self._unverified() is not None):
            every = [Recipe.of_json(trial["recipe"]) for trial in trials]
            most = max(slots.room(recipe.parameters) for recipe in every)
            number = workers or min(most, max(len(left), 1))
            with _trainers(number, cluster, listener) as pool:
                tasks = [self._task(trial) for trial in left]
                again: dict[int, Outcome | None] = {}  # The further runs, by their trials.

                def further() -> Task | None:
                    number = self._unverified() if verify else None
                    if number is None or number in again:
                        return None
                    again[number] = None
                    return self._task(trials[number], varied=True)

                for outcome in pool.run(self.project, every, tasks, further):
                    if outcome.task.varied:
                        again[self._trial(outcome)] = outcome
                        continue
                    if outcome.refused is not None:
                        raise BadInput(outcome.refused)
                    done += outcome.failed is None
                    tell(outcome.task.name, self._add(outcome), done)
            if verify and (unverified := self._unverified()) is not None:
                self._verify(unverified, again)
        if done == len(trials):
            self._write({"finished": True})
        return table.told(self.directory, self.plan, self.results, self.verification)

    @property
    def done(self) -> int:
        """How many trials have a result."""
        return sum(map(self._done, self.plan["trials"]))

    def _done(self, trial: dict[str, Any]) -> bool:
        return self.results.get(trial["trial"], {}).get("digest") is not None

    def _task(self, trial: dict[str, Any], varied: bool = False) -> Task:
        name = f"{self.directory.name}-{trial['trial']}{'-again' * varied}"
        recipe, code = Recipe.of_json(trial["recipe"]), self.plan["code"]["digest"]
        root = str(self.project.root)
        return Task(self.directory.name, name, recipe, trial["overrides"], root, code, varied)

    def _trial(self, outcome: Outcome) -> int:
        return int(outcome.task.name.removeprefix(f"{self.directory.name}-").partition("-")[0])

    def _add(self, outcome: Outcome) -> str:
        """Writes what came of a trial, and returns a line on it."""
        number = self._trial(outcome)
        trial = self.plan["trials"][number]
        run = self.project.runs / outcome.task.name
        result: dict[str, Any] = {
            "trial": number,
            "worker": outcome.worker,
            "failed": outcome.failed,
        }
        if outcome.failed is None:
            content = manifest.of_finished(run)
            result |= {
                "run": run.name,
                "digest": content.digest,
                "metrics": content.metrics,
                "guarantee": asdict(content.guarantee),
                "notes": content.notes,
                "recipe_digest": content.recipe_digest,
                "duration_seconds": content.duration_seconds,
            }
            self._check(content)
        self._write(result)
        self.results[number] = result
        values = self.plan["configurations"][trial["configuration"]] | trial["repetition"]
        return f"trial {number}:  {table.describe(values)}  " + (
            f"failed: {outcome.failed.splitlines()[0]}"
            if outcome.failed
            else "  ".join(f"{k} {v:.4f}" for k, v in result["metrics"].items())
        )

    def _check(self, content: Finished) -> None:
        """Workers that read other data, or have not the metric to choose by, are no use."""
        asked = content.recipe.as_json()["parameters"]
        key = json.dumps([asked["data"], asked["model"]], sort_keys=True)
        found = content.recipe.data or {}
        sources = self._sources.setdefault(key, found)
        for name, (one, other) in files.changed(sources, found).items():
            raise BadInput(f"{content.run}: data {name}: {other}, and {one} for other trials")
        if self.plan["monitor"] not in content.metrics:
            known = [name for name in content.metrics if not name.startswith("test_")]
            raise BadInput(
                f"--monitor: expected one of {', '.join(known)}; got {self.plan['monitor']}"
            )

    def _unverified(self) -> int | None:
        """The trial to train once more, where it was not: another may have become the best."""
        again: dict[str, Any] | None = table.answer(self.plan, self.results)["again"]
        verified = (self.verification or {}).get("trial")
        if again is None or again["why_not"] or verified == again["trial"]:
            return None
        return int(again["trial"])

    def _verify(self, number: int, again: dict[int, Outcome | None]) -> None:
        """Compares a trial with its further run, in changed surroundings."""
        task = self._task(self.plan["trials"][number], varied=True)
        for run in self.project.runs.glob(f"{self.directory.name}-*-again"):
            if run.name != task.name:
                shutil.rmtree(run, ignore_errors=True)
        outcome = again[number]
        assert outcome is not None, "a pool that ended has asked for it and told of it"
        if outcome.refused or outcome.failed:
            self.verification = {"verdict": "failed", "failed": outcome.refused or outcome.failed}
            return
        one, other = (self.project.runs / name for name in (self.results[number]["run"], task.name))
        compared = comparison.compare(one, other, one_recipe=True)
        self.verification = {"trial": number, **compared}
        self._write({"verification": self.verification})

    def _write(self, content: dict[str, Any]) -> None:
        try:
            self._file.write(files.dumps(manifest.sealed(content)) + "\n")
            self._file.flush()
        except OSError as error:
            raise RunFailed(
                f"{self._file.name}: {error.strerror}; the same study started again goes on"
            ) from None

    def _unfinished(self) -> Path | None:
        """The newest study of the same plan that is not all done."""
        for path in sorted(
            _folder(self.project).glob(f"*-{self.plan['digest'][:6]}*"), reverse=True
        ):
            with contextlib.suppress(OSError, ValueError, KeyError):
                found = json.loads((path / "study.json").read_text(encoding="utf-8"))
                finished = '{"finished": true,' in (path / "results.jsonl").read_text("utf-8")
                if found["digest"] == self.plan["digest"] and not finished:
                    return path
        return None

    def _new(self) -> Path:
        name = launcher.new_name(self.plan["kind"], self.plan["digest"][:6])
        path = launcher.new_directory(_folder(self.project), name, "a study")
        kept = [{k: v for k, v in trial.items() if k != "recipe"} for trial in self.plan["trials"]]
        try:
            with files.replacing(path / "study.json") as file:
                file.write(json.dumps(self.plan | {"trials": kept}, indent=1).encode() + b"\n")
        except OSError as error:
            shutil.rmtree(path, ignore_errors=True)
            raise BadInput(f"{path}: cannot hold a study: {error.strerror}") from None
        return path


def _opened(path: Path) -> TextIO:
    """The file of results, to add to.

    Raises:
        BadInput: it cannot be written.
    """
    try:
        return path.open("a", encoding="utf-8")
    except OSError as error:
        raise BadInput(f"{path}: cannot be written: {error.strerror}") from None


@contextlib.contextmanager
def _trainers(number: int, cluster: Cluster | None, listener: Listener) -> Iterator[Trainers]:
    """Threads of this process, or, of a cluster, its workers. Only the latter import Dask."""
    if cluster is None:
        with Pool(number, listener) as pool:
            yield pool
    else:
        from repro.study.workers import Workers

        with Workers(cluster, listener) as workers:
            yield workers


def _folder(project: Project) -> Path:
    return project.root / "studies"


def find(project: Project, name: str) -> Path:
    """Returns the folder of a study: a path, its id, or how that begins."""
    return manifest.find_directory(_folder(project), "study.json", name, ("study", "studies"))

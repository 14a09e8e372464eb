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
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, TextIO

from repro.basics import files, locks
from repro.basics.errors import BadInput, RunFailed
from repro.compare import comparison
from repro.recipe.project import Project
from repro.recipe.recipe import Recipe
from repro.run import launcher, manifest
from repro.run.launcher import Listener
from repro.run.manifest import Finished
from repro.study import planning, results, slots, table
from repro.study.keys import Cluster
from repro.study.planning import Planned, PlannedTrial
from repro.study.pool import Pool
from repro.study.results import Done, Failed, NotVerified, Result, Verification
from repro.study.trials import Outcome, Task


class Trainers(Protocol):
    """What runs tasks: the `Pool` of this machine, or the `Workers` of a cluster."""

    def run(
        self,
        project: Project,
        every: Sequence[Recipe],
        tasks: Sequence[Task],
        further: Callable[[], Task | None] = ...,
    ) -> Iterator[Outcome]: ...


class Study:
    """A study on the disk, which goes on where it was. Used in a `with` block.

    Raises:
        BadInput: another process is at it, or it cannot be written, or what it had is damaged.
    """

    def __init__(self, project: Project, planned: Planned, fresh: bool = False) -> None:
        self.project, self.plan, self._recipes = project, planned.plan, planned.recipes
        self.directory = (None if fresh else self._unfinished()) or self._new()
        self._file = _opened(self.directory / results.FILE)
        if not locks.lock(self._file, launcher.ENDING):
            self._file.close()
            raise BadInput(f"{self.directory}: this study is still going on, in another process")
        try:
            results.cut(self.directory / results.FILE)
            self.results = results.read(self.directory)
        except BadInput as error:
            self._file.close()
            raise BadInput(f"{error}; --fresh begins anew") from None
        self._sources: dict[str, dict[str, str]] = {}

    def __enter__(self) -> Study:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self._file.close()
        if kind is BadInput and not self.results.trials:
            # Of one that was refused nothing is left behind.
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
    ) -> table.Answer:
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
        trials, every = self.plan.trials, self._recipes
        left = [trial for trial in trials if self.results.done(trial.trial) is None]
        done = self.done
        not_verified: NotVerified | None = None
        if left or (verify and self._unverified() is not None):
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
                not_verified = self._verify(unverified, again)
        if done == len(trials):
            self._write({"finished": True})
        found = table.table(self.plan, self.results)
        return table.Answer(self.directory, found, not_verified or self.results.verification)

    @property
    def done(self) -> int:
        """How many trials have a result."""
        return sum(self.results.done(trial.trial) is not None for trial in self.plan.trials)

    def _task(self, trial: PlannedTrial, varied: bool = False) -> Task:
        name = f"{self.directory.name}-{trial.trial}{'-again' * varied}"
        recipe, code = self._recipes[trial.trial], self.plan.code_digest
        root = str(self.project.root)
        return Task(self.directory.name, name, recipe, trial.overrides, root, code, varied)

    def _trial(self, outcome: Outcome) -> int:
        return int(outcome.task.name.removeprefix(f"{self.directory.name}-").partition("-")[0])

    def _add(self, outcome: Outcome) -> str:
        """Writes what came of a trial, and returns a line on it."""
        number = self._trial(outcome)
        result: Result
        if outcome.failed is None:
            content = manifest.of_finished(self.project.runs / outcome.task.name)
            self._check(content)
            result = Done(
                trial=number,
                worker=outcome.worker,
                run=outcome.task.name,
                digest=content.digest,
                metrics=content.metrics,
                guarantee=content.guarantee,
                notes=content.notes,
                recipe_digest=content.recipe_digest,
                duration_seconds=content.duration_seconds,
            )
            said = "  ".join(f"{k} {v:.4f}" for k, v in content.metrics.items())
        else:
            result = Failed(trial=number, worker=outcome.worker, failed=outcome.failed)
            said = f"failed: {outcome.failed.splitlines()[0]}"
        self._write(result.as_json())
        self.results.trials[number] = result
        values = self.plan.values(self.plan.trials[number])
        return f"trial {number}:  {table.describe(values)}  {said}"

    def _check(self, content: Finished) -> None:
        """Workers that read other data, or have not the metric to choose by, are no use."""
        asked = content.recipe.as_json()["parameters"]
        key = json.dumps([asked["data"], asked["model"]], sort_keys=True)
        found = content.recipe.data or {}
        sources = self._sources.setdefault(key, found)
        for name, (one, other) in files.changed(sources, found).items():
            raise BadInput(f"{content.run}: data {name}: {other}, and {one} for other trials")
        if self.plan.monitor not in content.metrics:
            known = [name for name in content.metrics if not name.startswith("test_")]
            raise BadInput(
                f"--monitor: expected one of {', '.join(known)}; got {self.plan.monitor}"
            )

    def _unverified(self) -> int | None:
        """The trial to train once more, where it was not: another may have become the best."""
        again, verified = table.table(self.plan, self.results).again, self.results.verification
        if again is None or again.why_not or (verified and verified.trial == again.trial):
            return None
        return again.trial

    def _verify(self, number: int, again: dict[int, Outcome | None]) -> NotVerified | None:
        """Compares a trial with its further run, in changed surroundings.

        Returns why it could not be compared, where that is so.
        """
        task = self._task(self.plan.trials[number], varied=True)
        for run in self.project.runs.glob(f"{self.directory.name}-*-again"):
            if run.name != task.name:
                shutil.rmtree(run, ignore_errors=True)
        outcome = again[number]
        assert outcome is not None, "a pool that ended has asked for it and told of it"
        if failed := outcome.refused or outcome.failed:
            return NotVerified(failed)
        done = self.results.done(number)
        assert done is not None, "what is verified has a result"
        one, other = (self.project.runs / name for name in (done.run, task.name))
        found = Verification(number, comparison.compare(one, other, one_recipe=True))
        self.results.verification = found
        self._write({"verification": found.as_json()})
        return None

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
        known = _folder(self.project).glob(f"*-{self.plan.digest[:6]}*")
        for path in sorted(known, reverse=True):
            with contextlib.suppress(OSError, ValueError, BadInput):
                found = planning.read(path)
                finished = '{"finished": true,' in (path / results.FILE).read_text("utf-8")
                if found.digest == self.plan.digest and not finished:
                    return path
        return None

    def _new(self) -> Path:
        name = launcher.new_name(self.plan.kind, self.plan.digest[:6])
        path = launcher.new_directory(_folder(self.project), name, "a study")
        try:
            with files.replacing(path / planning.FILE) as file:
                file.write(json.dumps(self.plan.as_json(), indent=1).encode() + b"\n")
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
    return manifest.find_directory(_folder(project), planning.FILE, name, ("study", "studies"))

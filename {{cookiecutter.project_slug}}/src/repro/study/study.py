"""A study: many recipes, all known before the first one runs, and a table of their results.

A study has configurations (values of parameters) and repetitions (seeds, folds). Each pair of these
is a trial, and a trial is a recipe like any other: `repro train` gives the same result with the
same values. So a table does not depend on how many workers made it, on the order of the trials, or
on how often the study was ended and begun again.

    studies/<id>/study.json      the plan: configurations, repetitions, the digest of each recipe
    studies/<id>/results.jsonl   a line for each trial that is over, for the verification, the end
    runs/<id>-<number>/          the runs of the trials
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
    """A study on the disk, for a `with` block. It goes on with an unfinished study of its plan.

    Args:
        fresh: whether to begin a new study in any case.

    Raises:
        BadInput: another process is at work on the study, its files cannot be written, or its
            results are damaged.
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
            # A study that was refused leaves nothing behind.
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
        """Runs the trials that are left and the best one again; returns what `table.read` does.

        As soon as no trial is left to begin, the best one so far is trained again. If another trial
        turns out to be better, this further run is removed.

        Args:
            workers: how many trainings to run at once; None: as many as fit on this machine.
            cluster: the Dask cluster to use; None: this machine.
            tell: is called for each trial that is over, with the name of its run, a line about it,
                and the number of trials that have a result.
            verify: whether to train the best one again.

        Raises:
            BadInput: the process of a trial has found a wrong input.
            RunFailed: the study cannot be written, or the connection to the cluster was lost.
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
        """Writes the result of a trial, and returns a line about it."""
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
        """Checks that all trials read the same data and have the result by which to choose.

        Raises:
            BadInput: a worker has read other data, or the monitored result is missing.
        """
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
        """Returns the trial that has still to be trained once more, or None.

        It may change while trials run, since another one may become the best.
        """
        again, verified = table.table(self.plan, self.results).again, self.results.verification
        if again is None or again.why_not or (verified and verified.trial == again.trial):
            return None
        return again.trial

    def _verify(self, number: int, again: dict[int, Outcome | None]) -> NotVerified | None:
        """Compares a trial with its further run, which was made in changed surroundings.

        Returns:
            Why they cannot be compared; None if they were compared.
        """
        task = self._task(self.plan.trials[number], varied=True)
        for run in self.project.runs.glob(f"{self.directory.name}-*-again"):
            if run.name != task.name:
                shutil.rmtree(run, ignore_errors=True)
        outcome = again[number]
        assert outcome is not None, "a pool that ended has asked for it and given its outcome"
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
        """Returns the newest study of the same plan that has not finished, or None."""
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
    """Opens the file of results, to add lines to it.

    Raises:
        BadInput: the file cannot be written.
    """
    try:
        return path.open("a", encoding="utf-8")
    except OSError as error:
        raise BadInput(f"{path}: cannot be written: {error.strerror}") from None


@contextlib.contextmanager
def _trainers(number: int, cluster: Cluster | None, listener: Listener) -> Iterator[Trainers]:
    """Yields what runs tasks: threads of this process, or the workers of a cluster.

    Dask is imported only for a cluster.
    """
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
    """Returns the folder of a study for a name: a path, its id, or the beginning of its id.

    The name `latest` stands for the study that has begun last; its id begins with the time.

    Raises:
        BadInput: there is no such study, or there are several.
    """
    known = sorted(path.parent for path in _folder(project).glob(f"*/{planning.FILE}"))
    latest = name == manifest.LATEST and not files.is_file(Path(name) / planning.FILE)
    if latest and known:
        return known[-1]
    return manifest.find_directory(_folder(project), planning.FILE, name, ("study", "studies"))

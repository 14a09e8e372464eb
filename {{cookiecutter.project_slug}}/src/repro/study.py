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
import math
import shutil
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, get_args

from . import BadInput, compare, datalock, files, launcher, parameters
from . import recipe as recipes
from .launcher import Listener
from .recipe import Project
from .resolve import nearest
from .search import Repetitions, Search, Values

if TYPE_CHECKING:
    from .workers import Outcome, Task, Workers

LARGER_IS_BETTER = {name: not name.endswith("_error") for name in get_args(parameters.Metric)}
"""Whether Keras maximises a metric."""


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
            known nor given a mode; or a data file is not what `data.lock` says.
    """
    if monitor.startswith("test_"):
        raise BadInput(
            f"--monitor: {monitor}: nothing is chosen by the test; val_{monitor[5:]} would do"
        )
    larger = maximised(monitor, mode)
    locked = recipes.lock(project.root)
    seed = recipes.make(project, search.fixed, locked)["parameters"]["seed"]
    datalock.check(project.root)  # Here once, so that workers find it done.
    configurations = search.configurations(method, trials, seed or 0)
    planned: list[dict[str, Any]] = []
    for number, configuration in enumerate(configurations):
        for repetition in repetitions.values(configuration.get("seed", seed)):
            values = configuration | repetition
            overrides = [*search.fixed, *(f"{key}={json.dumps(v)}" for key, v in values.items())]
            recipe = recipes.make(project, overrides, locked)
            planned.append(
                {
                    "trial": len(planned),
                    "configuration": number,
                    "repetition": repetition,
                    "overrides": overrides,
                    "recipe_digest": recipes.digest(recipe),
                    "recipe": recipe,
                }
            )
    code = recipes.code_digest(project)
    text = json.dumps([kind, monitor, larger, code, *(trial["recipe_digest"] for trial in planned)])
    return {
        "format": 1,
        "kind": kind,
        "digest": hashlib.sha256(text.encode()).hexdigest(),
        "monitor": monitor,
        "larger_is_better": larger,
        "fixed": list(search.fixed),
        "configurations": configurations,
        "code": recipes.code(project.root) | {"digest": code},
        "trials": planned,
    }


class Study:
    """A study on the disk, which goes on where it was. Used in a `with` block.

    Raises:
        BadInput: another process is at it.
    """

    def __init__(self, project: Project, planned: dict[str, Any], fresh: bool = False) -> None:
        self.project, self.plan = project, planned
        self.directory = (None if fresh else self._unfinished()) or self._new()
        self._file: TextIO = (self.directory / "results.jsonl").open("a", encoding="utf-8")
        if not launcher.lock(self._file, launcher.ENDING):
            self._file.close()
            raise BadInput(f"{self.directory}: this study is still going on, in another process")
        self.results, self.verification = read_results(self.directory)
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
        scheduler: str | None,
        listener: Listener,
        tell: Callable[[str, str, int], None] = lambda run, line, done: None,
        verify: bool = True,
    ) -> dict[str, Any]:
        """Runs the trials that are left and the best again, and returns `answer`.

        A worker that finds no trial left trains what is the best so far again. Of what turns out
        not to be it, that further run is removed.

        Args:
            workers: local ones; None: as many as trainings fit on this machine.
            scheduler: in place of these, the address of a Dask scheduler.
            tell: called for each trial that is over, with its run's name, a line on it, and how
                many have a result.

        Raises:
            BadInput: a trial was refused by the process that saw the data.
        """
        from .workers import Workers, slots

        trials = self.plan["trials"]
        left = [trial for trial in trials if not self._done(trial)]
        done = self.done
        if left or (verify and self._unverified()):
            threads = min(trial["recipe"]["parameters"]["threads"] for trial in trials)
            number = workers or min(slots(threads), max(len(left), 1))
            with Workers(number, scheduler, listener) as pool:
                tasks = [self._task(trial) for trial in left]
                again: dict[str, Outcome | None] = {}  # By the names of the further runs.

                def further() -> Task | None:
                    best = self._unverified() if verify else None
                    if best is None:
                        return None
                    task = self._task(trials[best["trial"]], varied=True)
                    if task.name in again:
                        return None
                    again[task.name] = None
                    return task

                for outcome in pool.run(self.project, tasks, further):
                    if outcome.task.varied:
                        again[outcome.task.name] = outcome
                        continue
                    if outcome.refused is not None:
                        raise BadInput(outcome.refused)
                    done += outcome.failed is None
                    tell(outcome.task.name, self._add(outcome), done)
                if verify and (best := self._unverified()):
                    self._verify(pool, best, again)
        if done == len(trials):
            self._write({"finished": True})
        return self.answer()

    def answer(self) -> dict[str, Any]:
        """See `answer`; with the folder, and what came of the verification."""
        return _told(self.directory, self.plan, self.results, self.verification)

    @property
    def done(self) -> int:
        """How many trials have a result."""
        return sum(map(self._done, self.plan["trials"]))

    def _done(self, trial: dict[str, Any]) -> bool:
        return self.results.get(trial["trial"], {}).get("digest") is not None

    def _task(self, trial: dict[str, Any], varied: bool = False) -> Task:
        from .workers import Task

        name = f"{self.directory.name}-{trial['trial']}{'-again' * varied}"
        recipe, code = trial["recipe"], self.plan["code"]["digest"]
        root = str(self.project.root)
        return Task(self.directory.name, name, recipe, trial["overrides"], root, code, varied)

    def _add(self, outcome: Outcome) -> str:
        """Writes what came of a trial, and returns a line on it."""
        number = int(outcome.task.name.removeprefix(f"{self.directory.name}-"))
        trial = self.plan["trials"][number]
        run = self.project.runs / outcome.task.name
        result: dict[str, Any] = {
            "trial": number,
            "worker": outcome.worker,
            "failed": outcome.failed,
        }
        if outcome.failed is None:
            content = recipes.read_manifest(run)
            told = ("digest", "metrics", "guarantee", "recipe_digest", "duration_seconds")
            result |= {"run": run.name} | {name: content[name] for name in told}
            self._check(content)
        self._write(result)
        self.results[number] = result
        values = self.plan["configurations"][trial["configuration"]] | trial["repetition"]
        return f"trial {number}:  {describe(values)}  " + (
            f"failed: {outcome.failed.splitlines()[0]}"
            if outcome.failed
            else "  ".join(f"{k} {v:.4f}" for k, v in result["metrics"].items())
        )

    def _check(self, content: dict[str, Any]) -> None:
        """Workers that read other data, or have not the metric to choose by, are no use."""
        key = json.dumps(content["recipe"]["parameters"]["data"], sort_keys=True)
        sources = self._sources.setdefault(key, content["recipe"]["data"])
        for name, (one, other) in files.changed(sources, content["recipe"]["data"]).items():
            raise BadInput(f"{content['run']}: data {name}: {other}, and {one} for other trials")
        if self.plan["monitor"] not in content["metrics"]:
            known = [name for name in content["metrics"] if not name.startswith("test_")]
            raise BadInput(
                f"--monitor: expected one of {', '.join(known)}; got {self.plan['monitor']}"
            )

    def _unverified(self) -> dict[str, Any] | None:
        """The best, where it was not trained again: another trial may have become the best."""
        best: dict[str, Any] | None = answer(self.plan, self.results)["best"]
        verified = (self.verification or {}).get("trial")
        return None if best is None or verified == best["trial"] else best

    def _verify(
        self, pool: Workers, best: dict[str, Any], again: dict[str, Outcome | None]
    ) -> None:
        """Compares the best with its further run, in changed surroundings, which may be there."""
        task = self._task(self.plan["trials"][best["trial"]], varied=True)
        for run in self.project.runs.glob(f"{self.directory.name}-*-again"):
            if run.name != task.name:
                shutil.rmtree(run, ignore_errors=True)
        outcome = again.get(task.name)
        if outcome is None:
            (outcome,) = pool.run(self.project, [task])
        if outcome.refused or outcome.failed:
            self.verification = {"verdict": "failed", "failed": outcome.refused or outcome.failed}
            return
        one, other = (self.project.runs / name for name in (best["run"], task.name))
        compared = compare.compare(one, other, one_recipe=True)
        self.verification = {"trial": best["trial"], **compared}
        self._write({"verification": self.verification})

    def _write(self, content: dict[str, Any]) -> None:
        self._file.write(json.dumps(content) + "\n")
        self._file.flush()

    def _unfinished(self) -> Path | None:
        """The newest study of the same plan that is not all done."""
        for path in sorted(
            _folder(self.project).glob(f"*-{self.plan['digest'][:6]}*"), reverse=True
        ):
            with contextlib.suppress(OSError, ValueError, KeyError):
                found = json.loads((path / "study.json").read_text(encoding="utf-8"))
                finished = '{"finished": true}' in (path / "results.jsonl").read_text("utf-8")
                if found["digest"] == self.plan["digest"] and not finished:
                    return path
        return None

    def _new(self) -> Path:
        name = launcher.new_name(self.plan["kind"], self.plan["digest"][:6])
        path = launcher.new_directory(_folder(self.project), name, "a study")
        kept = [{k: v for k, v in trial.items() if k != "recipe"} for trial in self.plan["trials"]]
        with files.replacing(path / "study.json") as file:
            file.write(json.dumps(self.plan | {"trials": kept}, indent=1).encode() + b"\n")
        return path


def _folder(project: Project) -> Path:
    return project.root / "studies"


def find(project: Project, name: str) -> Path:
    """Returns the folder of a study: a path, its id, or how that begins."""
    return recipes.find_directory(_folder(project), "study.json", name, ("study", "studies"))


def read(directory: Path) -> dict[str, Any]:
    """What `Study.answer` tells, of a study that may not be finished.

    Raises:
        BadInput: its files are damaged.
    """
    try:
        planned = json.loads((directory / "study.json").read_text(encoding="utf-8"))
        return _told(directory, planned, *read_results(directory))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{directory}: not a readable study: {error}") from None


def _told(directory: Path, planned: dict[str, Any], *found: Any) -> dict[str, Any]:
    results, verification = found
    told = {"study": directory.name, "study_dir": str(directory)}
    return told | answer(planned, results) | {"verification": verification}


def read_results(directory: Path) -> tuple[dict[int, dict[str, Any]], dict[str, Any] | None]:
    """Returns the last result of each trial, by its number, and the verification or None."""
    results: dict[int, dict[str, Any]] = {}
    verification = None
    path = directory / "results.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
    for line in lines:
        if line.endswith("\n"):  # Else the study was killed while it was written.
            content = json.loads(line)
            if "verification" in content:
                verification = content["verification"]
            elif "trial" in content:
                results[content["trial"]] = content
    return results, verification


def answer(planned: dict[str, Any], results: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """The table of a study: a row for each configuration, with mean and standard deviation.

    The deviation is that of a sample (n - 1), None of a single trial. `best` is the row with the
    best mean of the monitored metric among those without failed trials. `digest` is over the final
    states of all trials: two tables of the same digest are the same to the last bit.
    """
    rows = []
    by_configuration: dict[int, list[dict[str, Any]]] = {}
    for trial in planned["trials"]:
        by_configuration.setdefault(trial["configuration"], []).append(trial)
    for number, values in enumerate(planned["configurations"]):
        trials = by_configuration[number]
        done = [results[t["trial"]] for t in trials if t["trial"] in results]
        done = [result for result in done if not result["failed"]]
        names = list(done[0]["metrics"]) if done else []
        columns = {name: [result["metrics"][name] for result in done] for name in names}
        rows.append(
            {
                "configuration": number,
                "values": values,
                "trials": len(trials),
                "done": len(done),
                "metrics": {name: _statistics(column) for name, column in columns.items()},
            }
        )
    monitor = planned["monitor"]
    sign = -1 if planned["larger_is_better"] else 1
    complete = [row for row in rows if row["done"] == row["trials"]]
    finite = [row for row in complete if math.isfinite(row["metrics"][monitor]["mean"])]
    best = min(finite, key=lambda row: sign * row["metrics"][monitor]["mean"], default=None)
    told = [
        {"trial": t["trial"], "configuration": t["configuration"], "repetition": t["repetition"]}
        | {k: v for k, v in results.get(t["trial"], {"failed": "not run"}).items() if k != "trial"}
        for t in planned["trials"]
    ]
    if best is not None:
        first = next(t for t in told if t["configuration"] == best["configuration"])
        best = best | {"trial": first["trial"], "run": first["run"]}
    return {
        "kind": planned["kind"],
        "monitor": monitor,
        "rows": rows,
        "trials": told,
        "best": best,
        "failed": sum(bool(one["failed"]) for one in told),
        "digest": hashlib.sha256("".join(str(t.get("digest")) for t in told).encode()).hexdigest(),
        "broken": sorted({b for t in told if "guarantee" in t for b in t["guarantee"]["broken"]}),
    }


def _statistics(column: list[float]) -> dict[str, float | None]:
    if not all(map(math.isfinite, column)):
        return {"mean": math.nan, "deviation": math.nan}
    deviation = statistics.stdev(column) if len(column) > 1 else None
    return {"mean": statistics.fmean(column), "deviation": deviation}


HIDDEN = ("split.folds", "split.outer_folds")
"""Set by repetitions, and the same in all of them."""


def columns(told: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """The head and the rows of the table that people see: a row for each configuration, or, of
    a single one, for each trial, and the mean."""
    rows, trials = told["rows"], told["trials"]
    measured: dict[str, Any] = next((row["metrics"] for row in rows if row["metrics"]), {})
    names = [name for name in measured if name.startswith(("val_", "test_"))]
    if len(rows) > 1:
        keys = list(rows[0]["values"])
        lines = [
            [*(str(row["values"][key]) for key in keys), str(row["done"])]
            + [_spread(row["metrics"].get(name)) for name in names]
            for row in rows
        ]
        return [*map(short, keys), "trials", *names], lines
    keys = [key for key in trials[0]["repetition"] if key not in HIDDEN]
    lines = [
        [str(trial["trial"]), *(str(trial["repetition"][key]) for key in keys)]
        + [number(trial.get("metrics", {}).get(name)) for name in names]
        for trial in trials
    ]
    lines.append(
        ["mean", *("" for _ in keys)] + [_spread(rows[0]["metrics"].get(n)) for n in names]
    )
    return ["trial", *map(short, keys), *names], lines


def short(key: str) -> str:
    """The last word of a parameter's dotted name."""
    return key.rpartition(".")[2]


def number(value: float | None) -> str:
    """A result as people see it."""
    return "–" if value is None else f"{value:.4f}"


def _spread(found: dict[str, Any] | None) -> str:
    if found is None:
        return number(None)
    if found["deviation"] is None:
        return number(found["mean"])
    return f"{found['mean']:.4f} ± {found['deviation']:.4f}"


def describe(values: Values) -> str:
    """The values that tell a trial from the others, in words."""
    return "  ".join(f"{short(key)} {v}" for key, v in values.items() if key not in HIDDEN)

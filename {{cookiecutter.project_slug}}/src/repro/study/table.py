"""The table of a study: what came of its trials, read from its folder and told."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pydantic

from repro.basics import files
from repro.basics.errors import BadInput
from repro.basics.text import result
from repro.run import manifest
from repro.study import choice
from repro.study.choice import NOT_RUN, OUTER_FOLD
from repro.study.search import Values


class _Trial(pydantic.BaseModel):
    trial: int
    configuration: int
    repetition: dict[str, Any]


class _Plan(pydantic.BaseModel):
    """What of `study.json` the table needs."""

    kind: str
    monitor: str
    larger_is_better: bool
    configurations: list[dict[str, Any]]
    trials: list[_Trial]

    @pydantic.model_validator(mode="after")
    def _whole(self) -> _Plan:
        numbers = {trial.configuration for trial in self.trials}
        if numbers != set(range(len(self.configurations))):
            raise ValueError("trials and configurations do not belong together")
        return self


class _Guarantee(pydantic.BaseModel):
    broken: list[str]


class _Failed(pydantic.BaseModel):
    """A line of `results.jsonl` on a trial without a result."""

    trial: int
    failed: str


class _Done(pydantic.BaseModel):
    """A line of `results.jsonl` on a trial with a result."""

    trial: int
    failed: None
    run: str
    digest: str
    metrics: dict[str, float]
    guarantee: _Guarantee


class _Verification(pydantic.BaseModel):
    verdict: str


def read(directory: Path) -> dict[str, Any]:
    """What came of a study, which may not be finished.

    Raises:
        BadInput: its files are damaged; the message names the place.
    """
    path = directory / "study.json"
    try:
        planned = json.loads(path.read_text(encoding="utf-8"))
        _Plan.model_validate(planned)
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: not a readable study: {_one_line(error)}") from None
    try:
        return told(directory, planned, *read_results(directory))
    except KeyError as error:
        raise BadInput(f"{directory}: not a readable study: {error} is missing") from None


def _one_line(error: Exception) -> str:
    """What is wrong with a file; of what pydantic finds, the first place."""
    if isinstance(error, pydantic.ValidationError):
        first = error.errors(include_url=False)[0]
        return ": ".join([".".join(map(str, first["loc"])) or "content", first["msg"]])
    return " ".join(str(error).split())


def told(
    directory: Path,
    planned: dict[str, Any],
    results: dict[int, dict[str, Any]],
    verification: dict[str, Any] | None,
) -> dict[str, Any]:
    """See `answer`; with the folder, and what came of the verification."""
    where = {"study": directory.name, "study_dir": str(directory)}
    return where | answer(planned, results) | {"verification": verification}


def read_results(directory: Path) -> tuple[dict[int, dict[str, Any]], dict[str, Any] | None]:
    """Returns the last result of each trial, by its number, and the verification or None.

    Raises:
        BadInput: a line is damaged. A last one that is not whole is passed over.
    """
    results: dict[int, dict[str, Any]] = {}
    verification = None
    path = directory / "results.jsonl"
    place = f"{path}"
    try:
        read = path.read_bytes().splitlines(keepends=True) if path.is_file() else []
        for number, line in enumerate(read, 1):
            place = f"{path}, line {number}"
            if not line.endswith(b"\n"):
                continue  # The study was killed while it was written.
            content = json.loads(line)
            if not isinstance(content, dict):
                raise TypeError("expected an object")
            if "trial" in content or "verification" in content:
                content = manifest.unsealed(content)
            if "metrics" in content:
                content["metrics"] = files.numbers(content["metrics"])
            if "verification" in content:
                verification = content["verification"]
                _Verification.model_validate(verification)
            elif "trial" in content:
                kind = _Done if content.get("failed") is None else _Failed
                results[kind.model_validate(content).trial] = content
    except (OSError, ValueError, TypeError) as error:
        raise BadInput(f"{place}: not a readable result: {_one_line(error)}") from None
    return results, verification


def cut(path: Path) -> None:
    """Takes away a last line of which a killed study wrote a part, so that another can follow."""
    with path.open("r+b") as file:
        content = file.read()
        file.truncate(content.rfind(b"\n") + 1)


def answer(planned: dict[str, Any], results: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """The table of a study.

    Returns:
        `rows`: one for each configuration, with mean and standard deviation of each result. The
            deviation is that of a sample (n - 1), None of a single trial.
        `trials`: all of them, with what came of each.
        `best`: the row with the best mean of the monitored result among those without failed
            trials, with those that are `tied` with it. None where there is nothing to choose
            between: one configuration, or rows that all end in the same state. None in a
            nested study, which chooses in each outer fold.
        `nested`: what a nested study chose in each outer fold, and the test of these; else None.
        `same`: groups of rows whose trainings end in the same state to the last bit.
        `repeated`: how many different results trainings of one recipe gave.
        `again`: the trial that is trained once more, and what it is; None: there is none yet.
        `digest`: over the final states of all trials: two tables of the same digest are the same
            to the last bit.
    """
    trials = [
        {"trial": t["trial"], "configuration": t["configuration"], "repetition": t["repetition"]}
        | {k: v for k, v in results.get(t["trial"], {"failed": NOT_RUN}).items() if k != "trial"}
        for t in planned["trials"]
    ]
    by_configuration: dict[int, list[dict[str, Any]]] = {}
    for trial in trials:
        by_configuration.setdefault(trial["configuration"], []).append(trial)
    rows = [
        choice.row(number, values, by_configuration[number])
        for number, values in enumerate(planned["configurations"])
    ]
    better = choice.Better(planned["monitor"], planned["larger_is_better"])
    recipes = {t["trial"]: t.get("recipe_digest") for t in planned["trials"]}
    same = choice.same(rows, trials, recipes)
    folds = sorted({t["repetition"][OUTER_FOLD] for t in trials if OUTER_FOLD in t["repetition"]})
    nested = choice.nested(rows, trials, folds, better) if folds else None
    alone = len(rows) == 1 or any(len(group["numbers"]) == len(rows) for group in same)
    best = None
    if len(rows) > 1 and folds:
        for row in rows:  # Whoever chose by these would choose across the tests.
            kept = {k: v for k, v in row["metrics"].items() if not k.startswith("test_")}
            row["metrics"] = kept
    elif not alone and (found := better.of(rows)):
        first = by_configuration[found["configuration"]][0]
        best = found | {"trial": first["trial"], "run": first["run"]}
    chosen = nested["chosen"] if nested is not None and len(rows) > 1 else None
    return {
        "kind": planned["kind"],
        "monitor": planned["monitor"],
        "rows": rows,
        "trials": trials,
        "best": best,
        "nested": nested,
        "same": same,
        "repeated": choice.repeated(trials, recipes),
        "again": choice.again(trials, best, chosen, alone),
        "failed": sum(bool(one["failed"]) for one in trials),
        "digest": hashlib.sha256(
            "".join(str(t.get("digest")) for t in trials).encode()
        ).hexdigest(),
        "notes": sorted({note for t in trials for note in t.get("notes", ())}),
        "broken": sorted({b for t in trials if "guarantee" in t for b in t["guarantee"]["broken"]}),
    }


HIDDEN = ("split.folds", "split.outer_folds")
"""Set by repetitions, and the same in all of them."""


def columns(answer: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """The head and the rows of the table that people see: a row for each configuration, or, of
    a single one, for each trial, and the mean."""
    rows, trials = answer["rows"], answer["trials"]
    measured: dict[str, Any] = next((row["metrics"] for row in rows if row["metrics"]), {})
    names = [name for name in measured if name.startswith(("val_", "test_"))]
    if len(rows) > 1:
        keys = list(rows[0]["values"])
        lines = [
            [*(shown(row["values"][key]) for key in keys), str(row["done"])]
            + [_spread(row["metrics"].get(name)) for name in names]
            for row in rows
        ]
        return [*map(short, keys), "trials", *names], lines
    keys = [key for key in trials[0]["repetition"] if key not in HIDDEN]
    lines = [
        [str(trial["trial"]), *(shown(trial["repetition"][key]) for key in keys)]
        + [result(trial.get("metrics", {}).get(name)) for name in names]
        for trial in trials
    ]
    lines.append(
        ["mean", *("" for _ in keys)] + [_spread(rows[0]["metrics"].get(n)) for n in names]
    )
    return ["trial", *map(short, keys), *names], lines


def nested_columns(answer: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """The same for what a nested study chose: a row for each outer fold, and the mean."""
    nested, monitor = answer["nested"], answer["monitor"]
    tests = list(nested["metrics"])
    lines = [
        [str(one["outer_fold"]), describe(one["values"]) or "–", _spread(one["metrics"][monitor])]
        + [_spread(one["metrics"][name]) for name in tests]
        for one in nested["chosen"]
    ]
    lines.append(["mean", "", "", *(_spread(nested["metrics"][name]) for name in tests)])
    return ["outer_fold", "chosen", monitor, *tests], lines


def lines(answer: dict[str, Any]) -> list[str]:
    """What a person has to know of the table beside its rows: what was chosen, and what is odd."""
    best, rows, monitor = answer["best"], answer["rows"], answer["monitor"]
    told = []
    if best is not None:
        told.append(f"Best by {monitor}: {assigned(best['values'])}{_tied(best)}.")
    if answer["nested"] is not None:
        chosen = f", chosen by {monitor} within each" if len(rows) > 1 else ""
        told += _told_of_nested(answer["nested"], chosen)
    for group in answer["same"]:
        one = "rows" if len(rows) > 1 else "trials"
        numbers = [n + 1 if len(rows) > 1 else n for n in group["numbers"]]
        names = _listed([short(key) for key in group["parameters"]])
        told.append(
            f"{one.capitalize()} {_ranges(numbers)} end in the same state to the last bit: "
            f"{names or 'what sets them apart'} had no effect on the training."
        )
    for found in answer["repeated"]:
        where = f"{assigned(rows[found['configuration']]['values'])}: " if len(rows) > 1 else ""
        many, of = found["different"], len(found["trials"])
        results = "1 result" if many == 1 else f"{many} different results"
        told.append(f"{where}{results} of {of} trainings of one recipe.")
    again = answer["again"]
    if again is not None and again["why_not"]:
        told.append(f"Nothing is trained once more: {again['why_not']}.")
    return told


def _told_of_nested(nested: dict[str, Any], chosen: str) -> list[str]:
    told = [
        f"In outer fold {one['outer_fold']} the best is not alone: "
        f"{assigned(one['values'])}{_tied(one)}."
        for one in nested["chosen"]
        if one["tied"]
    ]
    if not nested["metrics"]:
        done = len(nested["chosen"])
        return [*told, f"Nested: {done} of {nested['folds']} outer folds are done."]
    results = ", ".join(f"{name} {_spread(found)}" for name, found in nested["metrics"].items())
    return [
        *told,
        f"Nested, over {nested['folds']} outer folds{chosen}: {results}.",
    ]


def assigned(values: Values) -> str:
    """Values as the command line takes them, apart from how words are quoted."""
    return ", ".join(f"{name}={shown(value)}" for name, value in values.items())


def _tied(best: dict[str, Any]) -> str:
    """That other rows are as good, where some are."""
    if not best["tied"]:
        return ""
    rows = f"row{'s' * (len(best['tied']) > 1)} {_ranges([n + 1 for n in best['tied']])}"
    return f", tied with {rows}; the first of them is taken"


def _ranges(numbers: Sequence[int]) -> str:
    """Numbers in their order as people write them: 1–3, 5 and 7."""
    runs: list[list[int]] = []
    for one in numbers:
        if runs and one == runs[-1][-1] + 1:
            runs[-1].append(one)
        else:
            runs.append([one])
    words: list[str] = []
    for run in runs:
        words += [f"{run[0]}–{run[-1]}"] if len(run) > 2 else map(str, run)
    return _listed(words)


def _listed(words: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def short(key: str) -> str:
    """The last word of a parameter's dotted name."""
    return key.rpartition(".")[2]


def shown(value: Any) -> str:
    """A value as people see it, the same before and after it was kept as JSON."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {shown(one)}' for key, one in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(shown, value))}]"
    return str(value)


def _spread(found: dict[str, Any] | None) -> str:
    if found is None:
        return result(None)
    if found["deviation"] is None:
        return result(found["mean"])
    return f"{found['mean']:.4f} ± {found['deviation']:.4f}"


def describe(values: Values) -> str:
    """The values that tell a trial from the others, in words."""
    return "  ".join(f"{short(key)} {shown(v)}" for key, v in values.items() if key not in HIDDEN)

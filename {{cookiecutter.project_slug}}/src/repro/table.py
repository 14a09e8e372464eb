"""The table of a study: what came of its trials, read from its folder and told."""

from __future__ import annotations

import hashlib
import json
import math
import statistics
from pathlib import Path
from typing import Any

from . import BadInput, files
from .search import Values


def read(directory: Path) -> dict[str, Any]:
    """What came of a study, which may not be finished.

    Raises:
        BadInput: its files are damaged.
    """
    try:
        planned = json.loads((directory / "study.json").read_text(encoding="utf-8"))
        return told(directory, planned, *read_results(directory))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{directory}: not a readable study: {error}") from None


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
                if "metrics" in content:
                    content["metrics"] = files.numbers(content["metrics"])
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
    ended = [
        {"trial": t["trial"], "configuration": t["configuration"], "repetition": t["repetition"]}
        | {k: v for k, v in results.get(t["trial"], {"failed": "not run"}).items() if k != "trial"}
        for t in planned["trials"]
    ]
    if best is not None:
        first = next(t for t in ended if t["configuration"] == best["configuration"])
        best = best | {"trial": first["trial"], "run": first["run"]}
    return {
        "kind": planned["kind"],
        "monitor": monitor,
        "rows": rows,
        "trials": ended,
        "best": best,
        "failed": sum(bool(one["failed"]) for one in ended),
        "digest": hashlib.sha256("".join(str(t.get("digest")) for t in ended).encode()).hexdigest(),
        "broken": sorted({b for t in ended if "guarantee" in t for b in t["guarantee"]["broken"]}),
    }


def _statistics(column: list[float]) -> dict[str, float | None]:
    if not all(map(math.isfinite, column)):
        return {"mean": math.nan, "deviation": math.nan}
    deviation = statistics.stdev(column) if len(column) > 1 else None
    return {"mean": statistics.fmean(column), "deviation": deviation}


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

"""The gate: one recipe several times in changed surroundings; where runs differ, what did it."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from . import BadInput, RunFailed, compare, launcher, surroundings
from . import recipe as recipes
from .launcher import Listener
from .recipe import Project

Outcome = Path | RunFailed | BadInput
"""A finished run, or what it failed with."""


def verify(
    project: Project,
    recipe: dict[str, Any],
    runs: int,
    listener: Listener,
    vary: str | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Trains a recipe several times and compares each run with the first.

    Args:
        vary: what `surroundings.choose` takes.
        tell: called with a line on what is tried, when runs differ.

    Returns:
        The verdict of `compare.compare` on the first two runs that differ, or on the first two;
        with these as `compared`, all `runs` and `digests`, what was `varied` and `not_varied`,
        and, where runs differ, the `cause`: the variations it takes, and what was tried.

    Raises:
        RunFailed, BadInput: a run did not finish; where the first did, the message says which
            variations it takes to make one fail.
    """
    varied, others = surroundings.choose(vary)
    outcomes = train_all(project, recipe, runs, listener, varied)
    first = outcomes[0]
    assert isinstance(first, Path)  # Else it was raised.
    judged = [_judge(first, outcome) for outcome in outcomes[1:]]
    differing = [number for number, one in enumerate(judged) if one != "identical"]
    cause = None
    if differing:
        number = differing[0]
        other = outcomes[number + 1]
        cause = _find_cause(project, recipe, listener, first, other, number + 1, varied, tell)
        if not isinstance(other, Path):
            names = ", ".join(cause["variation"])
            how = f"with {names} varied, and not without" if names else "in some runs"
            raise type(other)(f"{how}: {other}")
    paths = [outcome for outcome in outcomes if isinstance(outcome, Path)]
    # Of a single run, which something else is compared with, there is nothing to say yet.
    other = paths[differing[0] + 1 if differing else 1] if len(paths) > 1 else first
    answer = compare.compare(first, other, one_recipe=True)
    content = recipes.read_manifest(first)
    return answer | {
        "compared": answer["runs"],
        "runs": [str(run) for run in paths],
        "digests": [recipes.read_manifest(run)["digest"] for run in paths],
        "digest": content["digest"],
        "guarantee": content["guarantee"],
        "metrics": content["metrics"],
        "varied": varied,
        "not_varied": others,
        "differing": len(differing),
        **({"cause": cause} if cause else {}),
    }


def lines(answer: dict[str, Any]) -> list[str]:
    """What was varied and what that showed, for a person."""
    text = []
    if "cause" in answer:
        text += [f"  {answer['differing']} of {len(answer['runs']) - 1} further runs differ"]
        text += [f"cause      {answer['cause']['means']}", f"           {answer['cause']['mend']}"]
    text.append(f"varied     {', '.join(answer['varied']) or 'nothing'}")
    asked = {k: why for k, why in answer["not_varied"].items() if why != "not asked for"}
    text += [f"not varied {name}: {why}" for name, why in asked.items()]
    return text


def train_all(
    project: Project,
    recipe: dict[str, Any],
    runs: int,
    listener: Listener,
    varied: Sequence[str] = (),
) -> list[Outcome]:
    """Runs a recipe several times, each after the first varied.

    As many run at once as cores allow, or one where they use a GPU, all of whose memory a library
    takes for itself.

    Raises:
        RunFailed, BadInput: the first run did not finish. The others' failures are returned.
    """
    parameters = recipe["parameters"]
    cores = launcher.available_cores() // parameters["threads"]
    slots = 1 if launcher.gpus(parameters["guarantee"]) else max(1, cores)
    started: list[subprocess.Popen[str]] = []
    stopping = threading.Event()

    def one(index: int) -> Outcome:
        if stopping.is_set():
            return RunFailed("not started: the first run failed")
        if index == 0:
            return launcher.train(project, recipe, listener, on_start=started.append)
        return _train(project, recipe, listener, varied, index, started.append)

    with ThreadPoolExecutor(min(slots, runs)) as pool:
        futures = [pool.submit(one, index) for index in range(runs)]
        try:
            return [future.result() for future in futures]
        except BaseException:
            stopping.set()
            for process in started:
                process.terminate()
            raise


def minimal(names: list[str], differs: Callable[[list[str]], bool]) -> list[str]:
    """Returns names that suffice to make runs differ, and of which none can be left out.

    Runs have differed with all of them varied, and do not with none. The last name of the shortest
    beginning of the list that makes them differ is needed; halving finds it. Where it does not
    suffice alone, the next one is looked for in what stands before it, and so on. One name out of
    n takes about log2(n) + 1 calls. Where several suffice, each on its own, one of them is found;
    none where the difference does not show again.
    """
    found: list[str] = []
    while names and not (found and differs([*found])):
        low, high = 0, len(names)
        while high - low > 1:
            middle = (low + high) // 2
            if differs([*names[:middle], *found]):
                high = middle
            else:
                low = middle
        if high == len(names) and not differs([*names, *found]):
            return []
        found.insert(0, names[high - 1])
        names = names[: high - 1]
    return found


def _find_cause(
    project: Project,
    recipe: dict[str, Any],
    listener: Listener,
    first: Path,
    other: Outcome,
    index: int,
    varied: list[str],
    tell: Callable[[str], None],
) -> dict[str, Any]:
    probes: list[dict[str, Any]] = []
    known = _heads(first)
    # A run is ended where the other one had parted from the first. Without a place, where a run
    # failed or read other sources, it is made to the end.
    heads = _heads(other) if isinstance(other, Path) else known
    place = next((n for n, (a, b) in enumerate(zip(known, heads, strict=False)) if a != b), None)

    def differs(names: list[str]) -> bool:
        for probe in probes:
            if probe["varied"] == names:
                return bool(probe["differs"])
        tell(f"the runs differ; which variation does it? Tried: {', '.join(names) or 'none'}")
        started: list[subprocess.Popen[str]] = []
        made: list[Path] = []

        def watch(run: Path, event: dict[str, Any]) -> None:
            listener(run, event)
            made[:] = [run]
            if place is not None and len(_heads(run)) > place:
                started[0].terminate()

        # The number of the run that differed: each variation does again what it did there.
        outcome = _train(project, recipe, watch, names, index, started.append)
        if place is not None and made and len(found := _heads(made[0])) > place:
            answer = found[place] != known[place]
        else:
            answer = _judge(first, outcome) != "identical"
        for run in made:  # Made only to look.
            shutil.rmtree(run, ignore_errors=True)
        probes.append({"varied": names, "differs": answer})
        return answer

    if not varied or differs([]):
        names, means = [], "no variation: runs differ also without"
        mend = "look for what is not seeded, and for threads that race"
    elif names := minimal(varied, differs):
        means = "; ".join(f"{name} ({surroundings.VARIATIONS[name].what})" for name in names)
        means += ", only together" if len(names) > 1 else ""
        mend = "; ".join(surroundings.VARIATIONS[name].mend for name in names)
    else:
        means = "no variation: the difference did not show again with the same ones"
        mend = "look for threads that race, and for what a run leaves behind for the next one"
    return {"variation": names, "means": means, "mend": mend, "probes": probes}


def _train(
    project: Project,
    recipe: dict[str, Any],
    listener: Listener,
    varied: Sequence[str],
    index: int,
    on_start: Callable[[subprocess.Popen[str]], None] = lambda process: None,
) -> Outcome:
    try:
        return launcher.train(project, recipe, listener, varied, index, on_start)
    except (RunFailed, BadInput) as error:
        return error


def _heads(run: Path) -> list[str]:
    """The chained digests of a ledger, as far as it is written."""
    lines = (run / "ledger.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line)["head"] for line in lines if line.endswith("\n")]


def _judge(first: Path, outcome: Outcome) -> str:
    if not isinstance(outcome, Path):
        return "failed"
    return str(compare.compare(first, outcome, one_recipe=True)["verdict"])

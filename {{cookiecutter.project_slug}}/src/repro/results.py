"""`results.lock`: what a project's recipes gave when they were last recorded, committed with it.

As a snapshot test keeps what a function returned, so that a change is seen and said. A recipe is
named by the overrides that it is made with, such as `guarantee=portable`.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic

from . import (
    DIFFERS,
    FAILED,
    IDENTICAL,
    NOT_COMPARABLE,
    BadInput,
    RunFailed,
    files,
    gate,
    ledger,
    resolve,
)
from . import recipe as recipes
from .launcher import Listener
from .recipe import Project
from .table import number

FILE = "results.lock"
PLAIN = "params.yaml"
"""The name of the recipe without overrides."""
Digest = Annotated[str, pydantic.Field(pattern="^[0-9a-f]{64}$")]


class Entry(pydantic.BaseModel):
    """What one recipe gave, and all that a change of it can come from."""

    model_config = pydantic.ConfigDict(extra="forbid", strict=True)

    digest: Digest
    metrics: dict[str, float]
    guarantee: Literal["none", "machine", "portable"]
    stages: dict[str, Digest]
    """Digests along the run, in order: the first that differs is nearest the cause."""
    recipe: dict[str, Any]
    code: dict[str, Digest]
    """Of the files that the recipe uses; the machinery is one of them."""
    versions: dict[str, str]
    cpu: str


class _File(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", strict=True)

    format: Literal[1] = 1
    recipes: dict[str, Entry] = {}


@dataclass(frozen=True)
class Outcome:
    """What became of one recipe: `verdict` is the gate's, `recorded` what the file says of it."""

    name: str
    answer: dict[str, Any]
    """Of `gate.verify`; or `verdict` and `message` alone, where a run failed."""
    before: Entry | None = None
    now: Entry | None = None

    @property
    def recorded(self) -> str:
        """`as recorded`, `changed`, `not recorded`, `elsewhere`, `not comparable`, or `unknown`.

        `elsewhere`: recorded on another processor, from the same recipe and code, and nothing was
        promised across processors; `not comparable`: likewise, from another recipe or other code.
        """
        if self.now is None:
            return "unknown"
        if self.before is None:
            return "not recorded"
        if _same(self.before, self.now):
            return "as recorded"
        both = {self.before.guarantee, self.now.guarantee}
        if both != {"portable"} and self.before.cpu != self.now.cpu:
            told = (self.before.recipe, self.before.code) == (self.now.recipe, self.now.code)
            return "elsewhere" if told else "not comparable"
        return "changed"

    def lines(self) -> list[str]:
        """What the file and the runs say of each other, for a person."""
        before, now = self.before, self.now
        if now is None:
            return []
        if before is None:
            return [f"not in {FILE} yet; to record it: {self.update}"]
        if self.recorded == "as recorded":
            more = causes(before, now)
            return [f"as recorded in {FILE}"] + [f"though changed: {'; '.join(more)}"] * bool(more)
        if self.recorded == "elsewhere":
            return [
                f"recorded on {before.cpu}, and this is {now.cpu}: not compared, since only "
                "guarantee=portable promises the same bits there; recipe and code are as recorded"
            ]
        found = [
            f"{name} {number(before.metrics.get(name))} → {number(now.metrics.get(name))}"
            for name in {**before.metrics, **now.metrics}
            if before.metrics.get(name) != now.metrics.get(name)
        ]
        if before.digest != now.digest:
            found.append(f"digest {before.digest[:16]} → {now.digest[:16]}")
        stage = first_stage(before, now)
        text = ["; ".join(found), f"cause: {'; '.join(causes(before, now)) or UNKNOWN}"]
        if stage:
            text.append(f"first difference: {stage}")
        if self.recorded == "not comparable":
            text.append(f"recorded on {before.cpu}, and this is {now.cpu}: it may be that alone")
        return [*text, f"if this is meant: {self.update}"]

    @property
    def update(self) -> str:
        """The command that records what was found."""
        return shlex.join(["repro", "verify", "--update", *overrides(self.name)])


UNKNOWN = "nothing that is recorded: not parameters, data, code or versions"


def name_of(given: Sequence[str]) -> str:
    """The name of the recipe with these overrides."""
    return shlex.join(given) or PLAIN


def overrides(name: str) -> list[str]:
    """The overrides that a recipe's name stands for."""
    return [] if name == PLAIN else shlex.split(name)


def read(path: Path) -> dict[str, Entry]:
    """Returns what a file has recorded, by the recipes' names; nothing where there is no file.

    Raises:
        BadInput: it is no such file.
    """
    try:
        found = _File.model_validate_json(path.read_text(encoding="utf-8")).recipes
        for name in found:
            overrides(name)
        return found
    except FileNotFoundError:
        return {}
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False)[0]
        wrong = ": ".join([".".join(map(str, first["loc"])), first["msg"]]).removeprefix(": ")
    except (OSError, ValueError) as error:
        wrong = str(error)
    raise BadInput(
        f"{path.name}: {wrong}; put it back from git, or delete it and record anew with "
        "`repro verify --update`"
    )


def write(path: Path, entries: dict[str, Entry]) -> None:
    """Replaces a file in one step; the order is that of the names, so that a diff is short."""
    content = _File(recipes=dict(sorted(entries.items()))).model_dump(mode="json")
    with files.replacing(path) as file:
        file.write(json.dumps(content, indent=1, ensure_ascii=False).encode() + b"\n")


def of_run(project: Project, run: Path) -> Entry:
    """What is recorded of a finished run."""
    content = recipes.read_manifest(run)
    return Entry(
        digest=content["digest"],
        metrics=content["metrics"],
        guarantee=content["guarantee"]["holds"],
        stages=_stages(run, content["digest"]),
        recipe=content["recipe"],
        code=_code(project, content["recipe"]["parameters"]),
        versions=content["versions"],
        cpu=content["machine"]["cpu"],
    )


def verify(
    project: Project,
    names: Iterable[str],
    expected: dict[str, Entry],
    runs: int,
    listener: Listener,
    vary: str | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> list[Outcome]:
    """Verifies each recipe (see `gate.verify`) and puts what was expected of it beside.

    Raises:
        BadInput: a recipe cannot be made; none has been trained then.
    """
    made = {name: _made(project, name) for name in names}
    outcomes = []
    for name, recipe in made.items():
        tell(f"recipe {name}")
        before = expected.get(name)
        try:
            answer = gate.verify(project, recipe, runs, listener, vary)
        except RunFailed as error:
            outcomes.append(Outcome(name, {"verdict": "failed", "message": str(error)}, before))
        else:
            now = of_run(project, Path(answer["runs"][0]))
            outcomes.append(Outcome(name, answer, before, now))
    return outcomes


def status(outcomes: Sequence[Outcome], updated: bool = False) -> int:
    """The exit status for outcomes; what was recorded does not count once it is `updated`."""
    verdicts = {outcome.answer["verdict"] for outcome in outcomes}
    recorded = set() if updated else {outcome.recorded for outcome in outcomes}
    if "failed" in verdicts:
        return FAILED
    if "diverged" in verdicts or "changed" in recorded:
        return DIFFERS
    return NOT_COMPARABLE if "not comparable" in recorded else IDENTICAL


def causes(before: Entry, now: Entry) -> list[str]:
    """All that a recipe's result follows from and that is not what it was, each in a few words."""
    found = []
    for field, (one, other) in files.changed(before.recipe, now.recipe).items():
        if field.startswith("parameters."):
            found.append(f"params.yaml {field.removeprefix('parameters.')} {one} → {other}")
        elif field.startswith("data."):
            found.append(f"the data: {field.removeprefix('data.')} has other content")
        elif field != "lock.sha256":
            found.append(f"{field.replace('.', ': ')} {one} → {other}")
    for file in sorted({**before.code, **now.code}):
        if before.code.get(file) != now.code.get(file):
            found.append(file)
    versions = files.changed(before.versions, now.versions)
    found += [f"{library} {one} → {other}" for library, (one, other) in versions.items()]
    if before.recipe["lock"]["sha256"] != now.recipe["lock"]["sha256"] and not versions:
        found.append(f"other packages in {now.recipe['lock']['file']}")
    return found


def first_stage(before: Entry, now: Entry) -> str | None:
    """The first of the digests along the run that differs."""
    both = {**before.stages, **now.stages}
    return next((s for s in both if before.stages.get(s) != now.stages.get(s)), None)


def _made(project: Project, name: str) -> dict[str, Any]:
    try:
        return recipes.make(project, overrides(name))
    except BadInput as error:
        raise BadInput(f"recipe {name}: {error}") from None


def _same(before: Entry, now: Entry) -> bool:
    return (before.digest, before.metrics, before.stages.get("predictions")) == (
        now.digest,
        now.metrics,
        now.stages.get("predictions"),
    )


def _stages(run: Path, digest: str) -> dict[str, str]:
    """Digests along a run, of a few of its ledger's entries, all tensors of a kind in one."""
    found: dict[str, str] = {}
    for entry in ledger.read(run / "ledger.jsonl"):
        stage, epoch = entry["stage"], entry["epoch"]
        if stage == "data":
            names = {"samples": "samples", "split": "split", "arrays": "preprocessed samples"}
        elif stage == "initial":
            names = {"weights": "initial weights"}
        elif stage == "step":
            names = {"order": f"order of the first steps of epoch {epoch}"}
        elif stage == "epoch":
            names = {"weights": f"weights after epoch {epoch}"}
        else:
            names = {"arrays": "predictions"}
        if stage in ("step", "epoch") and any(name in found for name in names.values()):
            continue  # The first steps of an epoch.
        if epoch <= 1:
            found |= {name: _digest(entry[what]) for what, name in names.items() if what in entry}
        if stage == "final":
            found = {**found, "final state": digest, "predictions": found.pop("predictions")}
    return found


def _code(project: Project, parameters: dict[str, Any]) -> dict[str, str]:
    """Digests of the project's files, by their names; of models and data beside them, those used.

    In words that are the same in each project: a name in `models/` is that of `model.name`.
    """
    used = {
        f"models/{parameters['model']['name']}.py",
        resolve.data_module(project.source, parameters["data"]["name"]).replace(".", "/") + ".py",
    }
    found = {}
    for path in sorted(project.source.rglob("*.py")):
        name = path.relative_to(project.source).as_posix()
        if name in used or not name.startswith("models/"):
            found[name] = files.digest(project.source, [path])
    machinery = Path(__file__).parent
    found["src/repro"] = files.digest(machinery, machinery.rglob("*.py"))
    return found


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

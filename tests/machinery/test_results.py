"""`results.lock` and what is said of it. Nothing is trained here."""

from __future__ import annotations

import copy
import json
import math
import subprocess
from pathlib import Path
from typing import Any, ClassVar

import examples
import pytest

from repro.basics.errors import DIFFERS, FAILED, IDENTICAL, NOT_COMPARABLE, BadInput
from repro.cli import console
from repro.cli.commands import main
from repro.compare import gate, results_lock, review
from repro.compare.gate_verdict import GateVerdict
from repro.environment.determinism import Promise
from repro.recipe.project import Project
from repro.run import recipes
from repro.study import study, table
from repro.study.results import Results

PROJECT = Project.find()
DIGEST, OTHER = "a" * 64, "b" * 64
ENTRY: dict[str, Any] = {
    "digest": DIGEST,
    "metrics": {"val_loss": 0.10671},
    "guarantee": "portable",
    "stages": {"samples": DIGEST, "initial weights": DIGEST, "predictions": DIGEST},
    "recipe": {
        "parameters": {"optimizer": {"learning_rate": 0.001}},
        "lock": {"file": "requirements/cpu.txt", "sha256": DIGEST},
        "data": {"images": DIGEST},
    },
    "code": {"models/dense.py": DIGEST},
    "versions": {"keras": "3.1"},
    "cpu": "one",
}
CHANGED = {"digest": OTHER, "metrics": {"val_loss": 0.10312}}


def entry(**changes: Any) -> results_lock.Entry:
    """An entry with some values changed; a key such as `recipe__data__images` leads deeper."""
    content = copy.deepcopy(ENTRY)
    for key, value in changes.items():
        *path, last = key.split("__")
        place = content
        for name in path:
            place = place[name]
        place[last] = value
    return results_lock.Entry(**content)


def outcome(
    before: results_lock.Entry | None,
    now: results_lock.Entry | None,
    verdict: str = "identical",
    dropped: str | None = None,
    broken: tuple[str, ...] = (),
) -> review.Outcome:
    answer: GateVerdict | review.NoVerdict = examples.gated(verdict, broken)
    if verdict == "failed":
        answer = review.NoVerdict("failed", "no memory")
    return review.Outcome("model.name=dense", answer, before, now, dropped)


def test_what_is_as_recorded_passes() -> None:
    found = outcome(entry(), entry())
    assert found.recorded == "as recorded"
    assert found.lines() == ["as recorded in results.lock"]
    assert review.status([found]) == IDENTICAL


def test_a_change_that_keeps_the_bits_passes_and_is_named() -> None:
    found = outcome(entry(), entry(code={"models/dense.py": OTHER}, versions={"keras": "3.2"}))
    assert found.recorded == "as recorded"
    assert found.lines()[1] == "though changed: models/dense.py; keras 3.1 → 3.2"


def test_a_change_is_told_before_and_after_with_its_cause() -> None:
    now = entry(**CHANGED, recipe__parameters__optimizer__learning_rate=0.01)
    found = outcome(entry(), now)
    assert found.recorded == "changed"
    assert found.lines() == [
        "val_loss 0.1067 → 0.1031; digest aaaaaaaaaaaaaaaa → bbbbbbbbbbbbbbbb",
        "cause: params.yaml optimizer.learning_rate 0.001 → 0.01",
        "if this is meant: repro verify --update model.name=dense",
    ]
    assert review.status([found]) == DIFFERS
    assert review.status([found], updated=True) == IDENTICAL


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"recipe__data__images": OTHER}, "the data: images has other content"),
        ({"code": {"models/dense.py": OTHER}}, "models/dense.py"),
        ({"code": ENTRY["code"] | {"src/repro": OTHER}}, "src/repro"),
        (
            {"code": ENTRY["code"] | {"src/repro": OTHER}, "template": "0.2.0"},
            "src/repro (template unknown → 0.2.0)",
        ),
        ({"recipe__lock__sha256": OTHER}, "other packages in requirements/cpu.txt"),
        ({"recipe__lock__sha256": OTHER, "versions": {"keras": "4"}}, "keras 3.1 → 4"),
        ({}, review.UNKNOWN),
    ],
)
def test_each_cause_is_named(changes: dict[str, Any], cause: str) -> None:
    assert f"cause: {cause}" in outcome(entry(), entry(**CHANGED, **changes)).lines()


def test_the_first_stage_that_differs_is_named() -> None:
    stages = {"samples": DIGEST, "initial weights": OTHER, "predictions": OTHER}
    found = outcome(entry(), entry(**CHANGED, stages=stages))
    assert "first difference: initial weights" in found.lines()


def test_other_results_of_the_same_weights_are_a_change() -> None:
    assert outcome(entry(), entry(metrics={"val_loss": 0.2})).recorded == "changed"
    stages = {**ENTRY["stages"], "predictions": OTHER}
    assert outcome(entry(), entry(stages=stages)).recorded == "changed"


def test_another_processor_without_a_promise_is_not_compared() -> None:
    here = {**CHANGED, "guarantee": "machine", "cpu": "other"}
    found = outcome(entry(guarantee="machine"), entry(**here))
    assert found.recorded == "elsewhere" and review.status([found]) == IDENTICAL
    assert "recorded on one, and this is other" in found.lines()[0]
    assert "and as recorded" not in review.headline([found])
    assert "not compared" in review.headline([found])
    # Other code may be what does it, and nobody can tell.
    found = outcome(entry(guarantee="machine"), entry(**here, code={"models/dense.py": OTHER}))
    assert found.recorded == "not comparable" and review.status([found]) == NOT_COMPARABLE
    # The promise holds across processors.
    assert outcome(entry(), entry(**CHANGED, cpu="other")).recorded == "changed"


def test_equal_results_of_another_processor_are_told_as_such() -> None:
    found = outcome(entry(guarantee="machine"), entry(guarantee="machine", cpu="other"))
    assert found.recorded == "as recorded" and review.status([found]) == IDENTICAL
    assert found.lines() == ["as recorded in results.lock, there on one, here on other"]
    assert review.headline([found]) == "Training is reproducible, and as recorded"


def test_what_is_not_recorded_is_not_told_as_recorded() -> None:
    found = outcome(None, entry())
    assert found.recorded == "not recorded"
    assert review.status([found]) == NOT_COMPARABLE
    assert review.status([found], updated=True) == IDENTICAL
    assert found.lines() == [
        "not in results.lock yet; to record it: repro verify --update model.name=dense"
    ]
    assert review.headline([found]) == (
        "Training is reproducible; nothing is recorded yet of a recipe"
    )


def test_a_dropped_recipe_is_named_and_compared() -> None:
    found = outcome(entry(), entry(), dropped="main")
    assert found.recorded == "dropped" and review.status([found]) == NOT_COMPARABLE
    assert found.lines()[0].startswith("recorded in results.lock at main, and dropped since")
    assert "and as recorded" not in review.headline([found])
    # A change is red, as if the entry were there.
    found = outcome(entry(), entry(**CHANGED), dropped="main")
    assert found.recorded == "changed" and review.status([found]) == DIFFERS
    # Perhaps its preset is gone as well, and nothing could be trained.
    unmade = review.NoVerdict("not made", "no such preset")
    found = review.Outcome("preset=gone", unmade, entry(), dropped="main")
    assert found.recorded == "dropped" and review.status([found]) == NOT_COMPARABLE
    assert found.lines()


def test_a_guarantee_that_fell_is_red_and_not_recorded() -> None:
    fallen = outcome(entry(), entry(), broken=("curved: Atan",))
    assert review.status([fallen]) == DIFFERS
    assert review.status([fallen], updated=True) == DIFFERS
    assert not fallen.can_be_recorded and outcome(entry(), entry()).can_be_recorded
    assert review.headline([fallen]) == "Training is NOT as it should be"


def test_what_a_model_produces_is_a_result() -> None:
    made = {**ENTRY["stages"], "what the model produced": DIGEST}
    other = made | {"what the model produced": OTHER}
    assert outcome(entry(stages=made), entry(stages=made)).recorded == "as recorded"
    found = outcome(entry(stages=made), entry(stages=other))
    assert found.recorded == "changed"
    assert "first difference: what the model produced" in found.lines()


def test_a_nan_is_as_recorded(tmp_path: Path) -> None:
    metrics = {"val_loss": math.nan, "val_auc": math.inf}
    path = tmp_path / "results.lock"
    results_lock.write(path, {"a": entry(metrics=metrics)})
    text = path.read_text(encoding="utf-8")
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    found = outcome(results_lock.read(path)["a"], entry(metrics=metrics))
    assert found.recorded == "as recorded" and review.status([found]) == IDENTICAL
    found = outcome(results_lock.read(path)["a"], entry(metrics=metrics | {"val_auc": 0.5}))
    assert found.lines()[0] == "val_auc inf → 0.5000"


def test_a_cause_is_not_claimed_of_what_was_not_looked_at() -> None:
    stages = {**ENTRY["stages"], "samples": OTHER}
    assert f"cause: {review.UNNAMED}" in outcome(entry(), entry(**CHANGED, stages=stages)).lines()
    # Of the data, only the named sources are compared.
    assert "sources that the data function names" in review.UNKNOWN
    # Where the named sources changed, these are the cause.
    found = entry(**CHANGED, stages=stages, recipe__data__images=OTHER)
    assert review.causes(entry(), found) == ["the data: images has other content"]


def git(folder: Path, *arguments: str) -> str:
    author = ("-c", "user.name=a", "-c", "user.email=", "-c", "core.hooksPath=/dev/null")
    done = subprocess.run(
        ("git", *author, *arguments), cwd=folder, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def test_what_was_recorded_is_read_from_git(tmp_path: Path) -> None:
    project = tmp_path / "project"  # In a folder of a repository, as some keep theirs.
    project.mkdir()
    path = project / results_lock.FILE
    assert results_lock.at(project, None).entries == {}
    git(tmp_path, "init", "--quiet", "--initial-branch", "main")
    assert results_lock.at(project, None).entries == {}, "no commit yet"
    results_lock.write(path, {"a": entry(), "b": entry()})
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "Two")
    path.unlink()
    assert results_lock.at(project, None) == results_lock.Base("HEAD", {"a": entry(), "b": entry()})
    git(tmp_path, "commit", "--quiet", "--all", "--message", "None")
    assert results_lock.at(project, None).entries == {}
    assert list(results_lock.at(project, "HEAD^1").entries) == ["a", "b"]
    assert results_lock.at(project, "0" * 40).entries == {}, "of a branch that was not there"
    for wrong in ("nowhere", "f" * 40, "--output=x", ""):
        with pytest.raises(BadInput, match="--base: "):
            results_lock.at(project, wrong)
    # Who mends a damaged file must not be stopped by the damaged one.
    path.write_text("{")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--all", "--message", "Damaged")
    told: list[str] = []
    assert results_lock.at(project, None, told.append).entries == {} and "Invalid JSON" in told[0]


def test_a_recipe_that_cannot_be_made_any_more_is_told_as_dropped() -> None:
    base = results_lock.Base("main", {"model.name=gone": entry()})

    def verify(base: results_lock.Base | None) -> list[review.Outcome]:
        names = ["model.name=gone"]
        return review.verify(review.Review(PROJECT, names, {}, base=base), lambda run, event: None)

    (found,) = verify(base)
    assert (found.recorded, review.status([found])) == ("dropped", NOT_COMPARABLE)
    assert isinstance(found.answer, review.NoVerdict) and "gone" in found.answer.message
    with pytest.raises(BadInput, match=r"recipe model\.name=gone: "):
        verify(None)


def test_runs_that_differ_or_fail_are_red_whatever_is_recorded() -> None:
    assert review.status([outcome(entry(), entry(), "diverged")], updated=True) == DIFFERS
    failed = outcome(entry(), None, "failed")
    assert review.status([outcome(entry(), entry(), "diverged"), failed]) == FAILED


def test_a_file_gives_back_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "results.lock"
    assert results_lock.read(path) == {}
    names = [
        results_lock.name_of(given) for given in ([], ["model.name=dense", "training.metrics=[]"])
    ]
    assert [results_lock.overrides(name) for name in names] == [
        [],
        ["model.name=dense", "training.metrics=[]"],
    ]
    results_lock.write(path, dict.fromkeys(names, entry()))
    assert results_lock.read(path) == dict.fromkeys(names, entry())
    before = path.read_bytes()
    results_lock.write(path, dict.fromkeys(reversed(names), entry()))
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "Invalid JSON"),
        ("[]", "Input should be an object"),
        ('{"format": 2, "recipes": {}}', "format: Input should be 1"),
        ('{"recipes": {"x": {}}}', "recipes.x.digest: Field required"),
        (json.dumps({"recipes": {"x": ENTRY | {"digest": "0"}}}), "recipes.x.digest: String"),
        (json.dumps({"recipes": {"'x": ENTRY}}), "No closing quotation"),
        ("\udcff", "can't decode"),
    ],
)
def test_a_file_that_is_none_is_refused_in_one_line(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "results.lock"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(BadInput, match=r"results\.lock: ") as refused:
        results_lock.read(path)
    assert told in str(refused.value) and "\n" not in str(refused.value)


def test_what_the_project_records_can_be_made() -> None:
    recorded = results_lock.read(PROJECT.root / results_lock.FILE)
    # A new project for another backend has nothing recorded yet.
    assert bool(recorded) is (recipes.make(PROJECT).parameters.backend == "tensorflow")
    for name, entry in recorded.items():
        made = recipes.make(PROJECT, results_lock.overrides(name))
        assert made.as_json()["parameters"] == entry.recipe["parameters"]


def test_commands_are_red_where_a_guarantee_fell(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fallen = ("curved: Atan \x1b[31m",)
    monkeypatch.chdir(PROJECT.root)
    monkeypatch.setattr(gate, "verify", lambda *given: examples.gated(broken=fallen))
    assert main(["verify"]) == DIFFERS
    said = capsys.readouterr().out
    assert "machine; portable does NOT hold: curved: Atan \\x1b[31m" in said
    assert console.FALLEN in said and "run        a\\nb" in said
    monkeypatch.setattr(gate, "verify", lambda *given: examples.gated())
    assert main(["verify"]) == IDENTICAL

    class Study:
        done = 0
        broken: ClassVar[list[str]] = []

        def __init__(self, *given: Any) -> None: ...

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *given: Any) -> None: ...

        def run(self, *given: Any) -> table.Answer:
            holds = Promise("portable", "machine" if self.broken else "portable", self.broken)
            found = Results({0: examples.done(0, 0.5, guarantee=holds)})
            return table.Answer(Path("here"), table.table(examples.plan(1, 1), found), None)

    monkeypatch.setattr(study, "Study", Study)
    for command in ("sweep", "cross-validate"):
        Study.broken = [*fallen]
        assert main([command, "--json", "training.epochs=1"]) == DIFFERS
        Study.broken = []
        assert main([command, "--json", "training.epochs=1"]) == IDENTICAL

"""`results.lock` and what is said of it. Nothing is trained here."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from repro import DIFFERS, FAILED, IDENTICAL, NOT_COMPARABLE, BadInput, results
from repro import recipe as recipes

PROJECT = recipes.Project.find(Path(__file__).parent)
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


def entry(**changes: Any) -> results.Entry:
    """An entry with some values changed; a key such as `recipe__data__images` leads deeper."""
    content = copy.deepcopy(ENTRY)
    for key, value in changes.items():
        *path, last = key.split("__")
        place = content
        for name in path:
            place = place[name]
        place[last] = value
    return results.Entry(**content)


def outcome(
    before: results.Entry | None, now: results.Entry | None, verdict: str = "identical"
) -> results.Outcome:
    return results.Outcome("model.name=dense", {"verdict": verdict}, before, now)


def test_what_is_as_recorded_passes() -> None:
    found = outcome(entry(), entry())
    assert found.recorded == "as recorded"
    assert found.lines() == ["as recorded in results.lock"]
    assert results.status([found]) == IDENTICAL


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
    assert results.status([found]) == DIFFERS
    assert results.status([found], updated=True) == IDENTICAL


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"recipe__data__images": OTHER}, "the data: images has other content"),
        ({"code": {"models/dense.py": OTHER}}, "models/dense.py"),
        ({"recipe__lock__sha256": OTHER}, "other packages in requirements/cpu.txt"),
        ({"recipe__lock__sha256": OTHER, "versions": {"keras": "4"}}, "keras 3.1 → 4"),
        ({}, results.UNKNOWN),
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
    assert found.recorded == "elsewhere" and results.status([found]) == IDENTICAL
    assert "recorded on one, and this is other" in found.lines()[0]
    # Other code may be what does it, and nobody can tell.
    found = outcome(entry(guarantee="machine"), entry(**here, code={"models/dense.py": OTHER}))
    assert found.recorded == "not comparable" and results.status([found]) == NOT_COMPARABLE
    # The promise holds across processors.
    assert outcome(entry(), entry(**CHANGED, cpu="other")).recorded == "changed"


def test_what_is_not_recorded_passes_and_says_so() -> None:
    found = outcome(None, entry())
    assert results.status([found]) == IDENTICAL
    assert found.lines()[0].endswith("to record it: repro verify --update model.name=dense")


def test_runs_that_differ_or_fail_are_red_whatever_is_recorded() -> None:
    assert results.status([outcome(entry(), entry(), "diverged")], updated=True) == DIFFERS
    failed = outcome(entry(), None, "failed")
    assert results.status([outcome(entry(), entry(), "diverged"), failed]) == FAILED


def test_a_file_gives_back_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "results.lock"
    assert results.read(path) == {}
    names = [results.name_of(given) for given in ([], ["model.name=dense", "training.metrics=[]"])]
    assert [results.overrides(name) for name in names] == [
        [],
        ["model.name=dense", "training.metrics=[]"],
    ]
    results.write(path, dict.fromkeys(names, entry()))
    assert results.read(path) == dict.fromkeys(names, entry())
    before = path.read_bytes()
    results.write(path, dict.fromkeys(reversed(names), entry()))
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
        results.read(path)
    assert told in str(refused.value) and "\n" not in str(refused.value)


def test_what_the_project_records_can_be_made() -> None:
    for name in results.read(PROJECT.root / results.FILE):
        assert recipes.make(PROJECT, results.overrides(name))["parameters"]

"""What comes after a training: lists, evaluations, predictions, exports, and the interface."""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import examples
import numpy as np
import pytest
from sklearn.preprocessing import StandardScaler

import repro
from repro import api
from repro.basics import locks
from repro.basics.errors import BadInput, RunFailed
from repro.cli import commands
from repro.compare import results_lock
from repro.data import samples
from repro.data.dataset import Dataset
from repro.data.splits import Split
from repro.environment import provenance
from repro.recipe import presets
from repro.recipe.parameters import Own, Training
from repro.recipe.project import Project
from repro.run import after, launcher, made, manifest, runs, state, use
from repro.run.manifest import Manifest, Probe, Surroundings
from repro.run.use import Evaluate, Evaluated, Use
from repro.study import cleaning, planning, study
from repro.study.results import Done

Add = Callable[[Manifest], Path]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project without any code, which is the current folder."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "pyproject.toml").write_text('[tool.repro]\npackage = "any"\n')
    monkeypatch.chdir(folder)
    return Project.find()


@pytest.fixture
def add(project: Project) -> Add:
    """Adds a run directory with this manifest to the project."""

    def write(content: Manifest) -> Path:
        directory = project.runs / content.run
        directory.mkdir(parents=True)
        manifest.write(directory, content)
        return directory

    return write


def at(day: int, name: str = "run", **changed: Any) -> manifest.Finished:
    """A finished run of this day."""
    started = f"2026-01-{day:02}T00:00:00+00:00"
    return examples.finished(f"202601{day:02}-000000-{name}", started=started, **changed)


def names(found: list[runs.Listed]) -> list[str]:
    return [one.name.rpartition("-")[2] for one in found]


def test_runs_are_listed_the_newest_last(project: Project, add: Add) -> None:
    add(at(3, "c", metrics={"val_loss": 0.25, "test_loss": float("nan")}))
    add(at(1, "a"))
    begun = examples.begun("20260102-000000-b", started="2026-01-02T00:00:00+00:00")
    directory = add(begun)
    found = runs.read(project)
    assert names(found) == ["a", "b", "c"]
    assert [one.status for one in found] == ["finished", "interrupted", "finished"]
    assert found[2].metrics["val_loss"] == 0.25 and np.isnan(found[2].metrics["test_loss"])
    assert (found[1].data, found[1].model, found[1].digest) == ("digits", "dense", "")
    with (directory / "lock").open("w", encoding="utf-8") as file:
        assert locks.lock(file)
        assert runs.read(project)[1].status == "running"
    assert runs.read(project)[1].status == "interrupted"


def test_what_is_no_manifest_is_a_line_in_the_list(project: Project, add: Add) -> None:
    add(at(1, "whole"))
    older = add(at(2, "older"))
    altered = add(at(3, "altered"))
    text = (altered / "manifest.json").read_text(encoding="utf-8")
    (altered / "manifest.json").write_text(text.replace('"digits"', '"mnist"'), encoding="utf-8")
    content = manifest.unsealed(json.loads((older / "manifest.json").read_bytes()))
    text = json.dumps(manifest.sealed(content | {"format": 1}))
    (older / "manifest.json").write_text(text, encoding="utf-8")
    for name, said in (("torn", '{"format": 2, "re'), ("foreign", "[1]"), ("empty", "")):
        (project.runs / name).mkdir()
        (project.runs / name / "manifest.json").write_text(said, encoding="utf-8")
    sealed = json.dumps(manifest.sealed({"format": 2, "recipe": {}}))
    (project.runs / "sparse").mkdir()
    (project.runs / "sparse" / "manifest.json").write_text(sealed, encoding="utf-8")
    found = {one.name.rpartition("-")[2]: one for one in runs.read(project)}
    assert len(found) == 7
    assert {name for name, one in found.items() if one.status == "damaged"} == {*found} - {"whole"}
    assert "in format 1" in found["older"].problem
    assert found["altered"].problem == "altered since it was written"
    assert found["torn"].problem == found["sparse"].problem == "not the manifest of a run"
    assert [one.problem for one in runs.chosen([*found.values()], ["status=finished"])] == [""]


def test_runs_are_chosen_and_sorted(project: Project, add: Add) -> None:
    for day, epochs, loss in ((1, 5, 0.5), (2, 10, 0.25), (3, 5, 1.5)):
        recipe = examples.recipe(training=Training(epochs=epochs)).reading({})
        add(at(day, f"{day}", recipe=recipe, metrics={"val_loss": loss}))
    add(examples.begun("20260104-000000-4", started="2026-01-04T00:00:00+00:00"))
    every = runs.read(project)
    assert names(runs.chosen(every, sort="val_loss")) == ["4", "2", "1", "3"]
    assert names(runs.chosen(every, ["training.epochs=5", "model=dense"]))[:2] == ["1", "3"]
    assert names(runs.chosen(every, ["val_loss=0.25"])) == ["2"]
    assert runs.chosen(every, ["model=lenet5"]) == []
    with pytest.raises(BadInput, match=r"--sort: no run has val_los; nearest .*val_loss"):
        runs.chosen(every, sort="val_los")
    with pytest.raises(BadInput, match="--where: expected key=value"):
        runs.chosen(every, ["dense"])
    assert runs.chosen([], ["model=dense"], "val_loss") == []


def test_thousands_of_runs_are_listed_quickly(project: Project, add: Add) -> None:
    """The list reads what it needs; to check each field of a manifest takes three times as long."""
    many = {f"package/module_{number}.py": examples.DIGEST for number in range(120)}
    made_of = provenance.Provenance(many, dict.fromkeys(many, "1.0"), {}, {}, {})
    for number in range(200):
        add(examples.finished(f"{number}", made_of=made_of))

    def seconds(work: Callable[[], object]) -> float:
        begin = time.process_time()
        work()
        return time.process_time() - begin

    def parsed() -> None:
        for path in project.runs.glob("*/manifest.json"):
            json.loads(path.read_bytes())

    assert len(runs.read(project)) == 200
    pairs = [(seconds(lambda: runs.read(project)), seconds(parsed)) for _ in range(5)]
    # A second for 2,000 where it was measured; here beside what the machine needs for the JSON.
    assert min(listed / alone for listed, alone in pairs) < 6, pairs


def test_a_pipe_gets_all_digits(project: Project, add: Add, capsys: Any) -> None:
    add(at(1, "a", metrics={"loss": 0.1234567890123, "val_loss": 1 / 3}))
    assert commands.main(["runs"]) == 0
    line = capsys.readouterr().out
    assert "0.1234567890123" in line and repr(1 / 3) in line and examples.DIGEST in line
    assert commands.main(["runs", "--csv"]) == 0
    head, row = capsys.readouterr().out.splitlines()
    assert head == "name,when,data,model,status,guarantee,digest,loss,val_loss,problem"
    assert row.endswith(f"{examples.DIGEST},0.1234567890123,{1 / 3!r},")
    assert commands.main(["runs", "--json", "--where", "status=finished"]) == 0
    (one,) = json.loads(capsys.readouterr().out)
    assert one["metrics"]["val_loss"] == 1 / 3
    assert commands.main(["runs", "--where", "nothing=1"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_latest_is_the_run_that_began_last(project: Project, add: Add) -> None:
    with pytest.raises(BadInput, match="latest: no such run; there is none yet"):
        manifest.find_run(project, "latest")
    add(at(2, "b"))
    add(at(1, "zzz").but(run="zzz"))
    torn = project.runs / "torn"
    torn.mkdir()
    (torn / "manifest.json").write_text("{", encoding="utf-8")
    assert manifest.find_run(project, "latest").name == "20260102-000000-b"
    newer = "2026-02-02T00:00:00+00:00"
    probe = Probe(stage="initial", epoch=0, after=0, record=None)
    add(examples.begun("looks", started=newer, probe=probe))
    asked = Use(of="b", state="", ending="", task=Evaluate(part="test"))
    add(examples.begun("uses", started=newer, use=asked))
    assert manifest.find_run(project, "latest").name == "20260102-000000-b"
    add(examples.begun("begun", started=newer))
    for number, content in enumerate(("[]", "null", "{", "")):  # Damaged, or of something else.
        (project.runs / f"other{number}").mkdir()
        (project.runs / f"other{number}" / "manifest.json").write_text(content)
    assert manifest.find_run(project, "latest").name == "begun"
    # A folder that is really called like this is found by its path.
    (project.root / "latest").mkdir()
    manifest.write(project.root / "latest", at(1))
    assert manifest.find_run(project, "latest") == project.root / "latest"
    assert manifest.find_run(project, "./latest") == project.root / "latest"


def test_latest_is_a_study_where_studies_are_named(project: Project) -> None:
    with pytest.raises(BadInput, match="latest: no such study"):
        study.find(project, "latest")
    for name in ("20260102-000000-sweep-ab", "20260101-000000-sweep-cd"):
        folder = project.root / "studies" / name
        folder.mkdir(parents=True)
        (folder / planning.FILE).write_text("{}", encoding="utf-8")
    assert study.find(project, "latest").name == "20260102-000000-sweep-ab"


def test_presets_are_told_in_a_line(project: Project, capsys: Any) -> None:
    folder = project.root / "presets"
    folder.mkdir()
    said = "# A small network,\n# in two lines.\n#\n# More.\nseed: 7\n"
    (folder / "small.yaml").write_text(said, encoding="utf-8")
    values = "training:\n  epochs: 3  # few\nmodel: {name: dense}\n"
    (folder / "plain.yaml").write_text(values, encoding="utf-8")
    (folder / "wrong.yaml").write_text("a: [", encoding="utf-8")
    found = {one.name: one for one in presets.read(project)}
    assert [*found] == ["plain", "small", "wrong"]
    assert found["small"].about == "A small network, in two lines."
    assert found["small"].values == {"seed": 7}
    assert found["plain"].about == "sets training.epochs, model.name"
    assert found["wrong"].problem
    assert commands.main(["presets", "--json"]) == 0
    assert [one["name"] for one in json.loads(capsys.readouterr().out)] == [*found]


def later(days: float) -> datetime:
    """So many days after the last day of the runs."""
    return datetime(2026, 1, 10, tzinfo=UTC).replace(hour=int(days * 24) % 24)


def removable(project: Project, **asked: Any) -> tuple[list[str], dict[str, str]]:
    found = cleaning.find(project, cleaning.Asked(**asked), now=later(0))
    kept = {name.rpartition("-")[2]: why for name, why in found.kept.items()}
    return names([*found.runs]), kept


def unlike(number: int) -> dict[str, Any]:
    """Digests that no other run has."""
    return {"digest": f"{number:064}", "ending": f"{number + 500:064}"}


def test_clean_removes_what_is_asked_for(project: Project, add: Add) -> None:
    for day in (1, 2, 3):
        add(at(day, f"{day}", **unlike(day)))
    add(examples.begun("20260104-000000-4", started="2026-01-04T00:00:00+00:00", status="failed"))
    assert removable(project, failed=True) == (["4"], {})
    assert removable(project, keep=2) == (["1", "2"], {})
    assert removable(project, keep=0)[0] == ["1", "2", "3", "4"]
    assert removable(project, older=7.5) == (["1", "2"], {})
    assert removable(project, older=7.5, keep=3) == (["1"], {})
    assert removable(project, older=7.5, failed=True) == ([], {})
    for wrong in ({}, {"keep": -1}, {"older": -1.0}, {"older": float("nan")}):
        with pytest.raises(BadInput):
            cleaning.Asked(**wrong)


def test_clean_keeps_what_something_refers_to(project: Project, add: Add) -> None:
    add(at(1, "named", **unlike(1)))
    add(at(2, "recorded", **unlike(2)))
    add(at(3, "begun", **unlike(3)))
    weights = examples.recipe(training=Training(initial_weights=unlike(4)["digest"]))
    state = examples.recipe(training=Training(initial_state=unlike(3)["ending"]))
    add(at(4, "weights", **unlike(4)))
    add(at(5, "from", recipe=state.reading({}), **unlike(5)))
    add(at(6, "also", recipe=weights.reading({}), **unlike(6)))
    add(at(7, "preset", **unlike(7)))
    trial = at(8, "sweep-abcdef-0", **unlike(8))
    add(trial)
    busy = add(at(9, "busy", **unlike(9)))
    folder = project.root / "studies" / "20260108-000000-sweep-abcdef"
    folder.mkdir(parents=True)
    (folder / planning.FILE).write_text("{}", encoding="utf-8")
    (project.root / "presets").mkdir()
    (project.root / "presets" / "own.yaml").write_text(f"a: {unlike(7)['ending']}\n")
    text = "training:\n  initial_state: 20260101-000000-named\n"
    (project.root / "params.yaml").write_text(text, encoding="utf-8")
    entry = results_lock.Entry(
        digest=unlike(2)["digest"],
        metrics={},
        guarantee="machine",
        stages={},
        recipe={},
        code={},
        versions={},
        cpu="any",
    )
    results_lock.write(project.root / results_lock.FILE, {"params.yaml": entry})
    damaged = project.runs / "damaged"
    damaged.mkdir()
    (damaged / "manifest.json").write_text("{", encoding="utf-8")
    with (busy / "lock").open("w", encoding="utf-8") as file:
        assert locks.lock(file)
        gone, kept = removable(project, keep=0)
    assert gone == ["from", "also"]
    assert kept == {
        "named": "params.yaml names it",
        "recorded": "results.lock names it",
        "begun": "20260105-000000-from began with its state",
        "weights": "20260106-000000-also began with its state",
        "preset": "own.yaml names it",
        "0": "the study 20260108-000000-sweep-abcdef has it",
        "busy": "a process is at work on it",
    }
    found = cleaning.remove(cleaning.find(project, cleaning.Asked(keep=0)))
    assert names([*found.runs]) == ["from", "also", "busy"]  # No process is at work on it now.
    assert damaged.is_dir() and len([*project.runs.iterdir()]) == 7


def test_clean_leaves_a_run_that_has_begun_since(project: Project, add: Add) -> None:
    directory = add(at(1, "a", **unlike(1)))
    (directory / "state.npz").write_bytes(b"12345")
    found = cleaning.find(project, cleaning.Asked(keep=0))
    assert found.size == 5 + (directory / "manifest.json").stat().st_size
    with (directory / "lock").open("w", encoding="utf-8") as file:
        assert locks.lock(file)
        done = cleaning.remove(found)
    assert (done.runs, done.size, directory.is_dir()) == ([], 0, True)
    assert done.kept == {directory.name: "a process is at work on it"}


def test_clean_asks_or_refuses(project: Project, add: Add, capsys: Any) -> None:
    directory = add(at(1, "a", **unlike(1)))
    assert commands.main(["clean", "--keep", "0"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert commands.main(["clean", "--yes"]) == 2  # Of what, nobody has said.
    assert commands.main(["clean", "--keep", "0", "--dry-run"]) == 0
    assert "1 run with" in capsys.readouterr().out and directory.is_dir()
    assert commands.main(["clean", "--keep", "0", "--yes", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["runs"] == [directory.name]
    assert not directory.exists()


def test_clean_removes_only_after_a_yes(
    project: Project, add: Add, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    directory = add(at(1, "a", **unlike(1)))
    monkeypatch.setattr("repro.cli.after._on_a_terminal", lambda: True)
    for typed, there in (("", True), ("n\n", True), ("\n", True), ("yes\n", False)):
        monkeypatch.setattr("sys.stdin", io.StringIO(typed))
        assert commands.main(["clean", "--keep", "0"]) == 0
        assert "1 run with" in capsys.readouterr().out
        assert directory.exists() is there, typed


LINE = made.Made(
    command="evaluate",
    when="2026-01-01T00:00:00+00:00",
    digest=examples.DIGEST,
    asked={"part": "test"},
    inputs={"state.npz": examples.DIGEST},
    outputs={},
    results={"test_loss": float("inf")},
    found="the same bits",
    versions={"keras": "3"},
)


def test_what_was_made_is_a_chain(tmp_path: Path) -> None:
    assert made.read(tmp_path) == []
    other = LINE.model_copy(update={"command": "export", "results": {}})
    for one in (LINE, other, LINE):
        made.append(tmp_path, one)
    assert made.read(tmp_path) == [LINE, other, LINE]
    path = tmp_path / made.FILE
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    for wrong in (
        [lines[0], lines[2]],
        [lines[1]],
        [lines[0].replace("evaluate", "predict"), *lines[1:]],
        [*lines, "{}\n"],
        [*lines, "no line\n"],
    ):
        path.write_text("".join(wrong), encoding="utf-8")
        with pytest.raises(BadInput, match=r"made\.jsonl.*move the file away"):
            made.read(tmp_path)
        with pytest.raises(BadInput):
            made.append(tmp_path, LINE)
        assert path.read_text(encoding="utf-8") == "".join(wrong)


ONE = Dataset(np.zeros((4, 2, 1), np.float32), np.zeros(4, np.int32), classes=2)
TABLE = Dataset(
    {
        "age": np.zeros(4, np.float32),
        "town": np.array(["a", "b", "c", "d"]),
        "rooms": np.zeros((4, 1), np.int64),
    },
    np.zeros(4, np.float32),
)


def test_samples_come_from_a_file(tmp_path: Path) -> None:
    x = np.arange(6).reshape(3, 2, 1) / 3
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "x.npz", anything=x)
    rows = ["a,b", *(f"{float(one)!r}, {float(two)!r}" for one, two in x[..., 0])]
    (tmp_path / "x.csv").write_text("\n".join(rows), encoding="utf-8")
    (tmp_path / "bare.csv").write_text("\n".join(rows[1:]) + "\n", encoding="utf-8")
    for name in ("x.npy", "x.npz", "x.csv", "bare.csv"):
        found = samples.read(tmp_path / name, ONE)
        assert found.dtype == np.float32
        assert np.array_equal(found, x.astype(np.float32)), name


def test_samples_come_by_the_names_of_inputs(tmp_path: Path) -> None:
    rows = "other,town,rooms,age\n1,b,2,0.5\n2,c,3,\n"
    (tmp_path / "x.csv").write_text(rows, encoding="utf-8")
    arrays = {"town": np.array(["b", "c"]), "rooms": np.array([[2], [3]])}
    arrays["age"] = np.array([0.5, np.nan])
    np.savez(tmp_path / "x.npz", **arrays)  # type: ignore[arg-type]
    for name in ("x.csv", "x.npz"):
        found = samples.read(tmp_path / name, TABLE)
        assert found["town"].tolist() == ["b", "c"]
        assert found["rooms"].tolist() == [[2], [3]] and found["rooms"].dtype == np.int64
        assert np.array_equal(found["age"], np.array([0.5, np.nan], np.float32), equal_nan=True)


@pytest.mark.parametrize(
    ("name", "content", "data", "told"),
    [
        ("x.txt", "", ONE, r"ends in \.npy, \.npz, \.csv"),
        ("x.csv", "", ONE, "a row for each sample"),
        ("x.csv", "1,2\n3\n", ONE, "row 2: expected 2 values, got 1"),
        ("x.csv", "1,2,3\n", ONE, "expected 2 columns.*got 3"),
        ("x.csv", "a,b\n1,c\n", ONE, "expected numbers"),
        ("x.csv", "age,rooms\n1,2\n", TABLE, "there is no town"),
        ("x.csv", "age,rooms,town\n1,2.5,a\n", TABLE, "rooms: expected values of the type int64"),
        ("x.npy", np.zeros((3, 2)), ONE, r"expected the shape \(samples, 2, 1\), got \(3, 2\)"),
        ("x.npy", np.zeros((0, 2, 1)), ONE, "number of samples"),
        ("x.npy", np.array([[["a"], ["b"]]]), ONE, "expected numbers"),
        ("x.npy", np.zeros(3), TABLE, "expected an .npz with the arrays age, rooms, town"),
        ("x.npz", {"age": np.zeros(3)}, TABLE, "rooms, town are missing"),
        ("x.npz", "no archive", ONE, "not a readable file of arrays"),
        ("missing.npy", None, ONE, "no such file"),
        ("missing.npz", None, ONE, "no such file"),
        ("missing.csv", None, ONE, "no such file"),
    ],
)
def test_other_samples_are_refused(
    tmp_path: Path, name: str, content: Any, data: Dataset, told: str
) -> None:
    path = tmp_path / name
    if isinstance(content, str):
        path.write_text(content, encoding="utf-8")
    elif isinstance(content, dict):
        np.savez(path, **content)
    elif content is not None:
        np.save(path, content)
    with pytest.raises(BadInput, match=told) as refused:
        samples.read(path, data)
    assert "\n" not in str(refused.value)


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(BadInput):
        samples.read(path, ONE)


def test_what_was_fitted_to_the_training_is_applied() -> None:
    x = np.array([[0.0], [2.0], [100.0]], np.float32)
    data = Dataset(x, np.zeros(3, np.float32), preprocessing=StandardScaler())
    split = Split(np.array([0, 1]), np.array([2]), np.array([2]))
    given = np.array([[1.0], [3.0]], np.float32)
    assert samples.fitted(data, split, given, "float32").tolist() == [[0.0], [2.0]]
    plain = replace(data, preprocessing=None)
    assert samples.fitted(plain, split, given, "float32") is given


def test_other_data_have_to_be_like_the_runs() -> None:
    samples.same_inputs(ONE, replace(ONE, x=np.zeros((4, 2, 1), np.float64)))
    with pytest.raises(BadInput, match="expected samples with the shapes"):
        samples.same_inputs(ONE, TABLE)
    with pytest.raises(BadInput, match="expected 2 classes, got 3"):
        samples.same_inputs(ONE, replace(ONE, classes=3))


def answer(drew: bool = False, **results: float) -> Evaluated:
    return Evaluated(sources={}, versions={}, results=results, drew=drew)


def test_results_are_compared_where_the_run_has_them() -> None:
    before = {"test_loss": 0.5, "val_loss": 0.25}
    compare = after._comparable
    test, validation = Evaluate(part="test"), Evaluate(part="validation")
    assert compare(answer(test_loss=0.5), test, before) == (("test_loss",), "")
    assert compare(answer(True, test_loss=0.5), test, before)[0] == ("test_loss",)
    assert compare(answer(val_loss=0.5), validation, before)[0] == ("val_loss",)
    assert compare(answer(True, val_loss=0.5), validation, before)[0] == ()
    assert compare(answer(train_loss=0.5), Evaluate(part="train"), before)[0] == ()
    assert compare(answer(loss=0.5), Evaluate(part="all", data=Own(name="a")), before)[1]


def evaluation(run: Path, **changed: Any) -> after.Evaluation:
    found = after.Evaluation(run, {"test_loss": 0.5}, ("test_loss",), {}, "", ())
    return replace(found, **changed)


def test_other_bits_are_told_and_are_the_exit_status(
    project: Project, add: Add, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    run = add(at(1))
    nearly = float(np.nextafter(0.5, 1))
    for differing, status in (({}, 0), ({"test_loss": (0.5, nearly)}, 1)):
        found = evaluation(run, differing=differing)
        monkeypatch.setattr(after, "evaluate", lambda *given, found=found: found)
        assert commands.main(["evaluate", "latest"]) == status
        told = capsys.readouterr().out
        assert ("other bits" in told and repr(nearly) in told) is bool(status)
        assert ("the same bits" in told) is not status


def test_a_run_is_refused_before_a_process_starts(
    project: Project, add: Add, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def started(*given: Any) -> Path:
        raise AssertionError("a process was started")

    monkeypatch.setattr(launcher, "train", started)

    def refused(run: Path, told: str) -> None:
        with pytest.raises(BadInput, match=told):
            after.evaluate(project, run, None, None, lambda run, event: None)
        with pytest.raises(BadInput, match=told):
            after.export(project, run, "keras", None, lambda run, event: None)

    refused(add(examples.begun("begun")), "expected a run that has finished")
    refused(add(at(1, files={"state.npz": examples.DIGEST})), r"state\.npz: no such file")
    run = add(at(2, files={"state.npz": examples.DIGEST}))
    (run / "state.npz").write_bytes(b"other")
    refused(run, r"state\.npz: altered since the run wrote it")
    there = tmp_path / "there.npz"
    np.savez(there, x=np.zeros(3))
    nothing: Any = lambda run, event: None  # noqa: E731
    with pytest.raises(BadInput, match="is there already"):
        after.predict(project, run, there, there, nothing)
    with pytest.raises(BadInput, match=r"ends in \.npz or \.csv"):
        after.predict(project, run, there, tmp_path / "a.txt", nothing)
    with pytest.raises(BadInput, match="no such file"):
        after.predict(project, run, tmp_path / "b.npy", None, nothing)
    with pytest.raises(BadInput, match="no such folder"):
        after.export(project, run, "keras", tmp_path / "no" / "a.keras", nothing)
    with pytest.raises(BadInput, match=r"ends in \.onnx"):
        after.export(project, run, "onnx", tmp_path / "a.keras", nothing)
    with pytest.raises(BadInput, match="all is for --data alone"):
        after.evaluate(project, run, "all", None, nothing)


def test_a_use_leaves_nothing_but_a_log_that_says_why(
    project: Project, add: Add, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The directory of the process is removed, except where its log says why it failed."""
    content = at(1, files={"state.npz": examples.DIGEST})
    run = add(content)
    (run / "state.npz").touch()
    monkeypatch.setattr(manifest, "finished", manifest.of_finished)
    left: list[Path] = []

    def train(launch: launcher.Launch, listener: Any, on_start: Any) -> Path:
        assert launch.use is not None and launch.name == f"{run.name}-evaluate"
        assert launch.recipe.parameters.seed == 1234
        directory = project.runs / launch.name
        directory.mkdir()
        process: Any = type("Process", (), {"args": ["repro.run", str(directory)]})
        on_start(process)
        left.append(directory)
        if len(left) == 2:
            raise RunFailed("its log says why")
        use.write(directory, answer(test_loss=float("nan")))
        return directory

    monkeypatch.setattr(launcher, "train", train)
    told: list[str] = []
    found = after.evaluate(project, run, None, None, lambda run, event: None, told.append)
    assert not found.compared and found.same and not left[0].exists()
    assert "is not known" in told[0]
    (line,) = made.read(run)
    assert line.inputs == {str(run / "state.npz"): examples.DIGEST}
    assert line.digest == content.digest and np.isnan(line.results["test_loss"])
    with pytest.raises(RunFailed):
        after.evaluate(project, run, None, None, lambda run, event: None)
    assert left[1].is_dir() and len(made.read(run)) == 1


def test_what_has_changed_since_is_named(project: Project) -> None:
    source = project.root / "src"
    for name in ("any/model.py", "any/data.py", "repro/one.py", "repro/two.py"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text("a = 1\n", encoding="utf-8")
    content = at(1, made_of=provenance.Provenance.of_this_process(project.root))
    assert after.changed_since(project, content) == ()
    (source / "any" / "model.py").write_text("a = 2\n", encoding="utf-8")
    for name in ("one", "two"):
        (source / "repro" / f"{name}.py").write_text("a = 2\n", encoding="utf-8")
    assert after.changed_since(project, content) == (
        "src/any/model.py has changed",
        "the machinery in src/repro has changed",
    )


def test_the_recipe_of_a_use_does_not_need_the_run_before() -> None:
    training = Training(initial_state=examples.DIGEST, initial_epoch=1)
    asked = examples.recipe(training=training, seed=None, guarantee="none")
    content = at(1, recipe=asked.reading({"a": "b"}), seed=77)
    recipe = after._recipe(content)
    assert recipe.parameters.training.initial_state is None
    assert (recipe.parameters.seed, recipe.data) == (77, None)
    assert recipe.parameters.training.initial_epoch == 1


def test_predictions_become_a_table(tmp_path: Path) -> None:
    probabilities = np.array([[0.1, 0.9], [0.75, 0.25]], np.float32)
    state.save(tmp_path / "one.npz", {"output 0": probabilities})
    after._write_table(tmp_path / "one.npz", tmp_path / "one.csv", ("cat", "dog"))
    rows = [r.split(",") for r in (tmp_path / "one.csv").read_text("utf-8").splitlines()]
    assert rows[0] == ["output 0 [0]", "output 0 [1]", "predicted"]
    assert [row[2] for row in rows[1:]] == ["dog", "cat"]
    read = np.array([row[:2] for row in rows[1:]]).astype(np.float32)
    assert np.array_equal(read, probabilities)
    two = {"output 0": np.zeros((1, 1)), "output 1": np.ones((1, 2))}
    state.save(tmp_path / "two.npz", two)
    after._write_table(tmp_path / "two.npz", tmp_path / "two.csv", ())
    text = "output 0,output 1 [0],output 1 [1]\n0.0,1.0,1.0\n"
    assert (tmp_path / "two.csv").read_text(encoding="utf-8") == text


def test_what_was_made_is_put_in_its_place(tmp_path: Path) -> None:
    folder = tmp_path / "made"
    for content in ("1", "2"):
        source = tmp_path / content
        source.mkdir()
        (source / "inside").write_text(content, encoding="utf-8")
        after._take(source, folder / "model")
        after._take(source / "inside", folder / "file")
    assert (folder / "model" / "inside").read_text(encoding="utf-8") == "2"
    assert (folder / "file").read_text(encoding="utf-8") == "2"
    assert sorted(os.listdir(folder)) == ["file", "model"]


def test_parameters_are_given_in_several_ways() -> None:
    def made_of(*given: Any, several: bool = False, **parameters: Any) -> list[str]:
        return api._overrides(given, parameters, several)

    assert made_of("a.b=1", {"training.epochs": 3}) == ["a.b=1", "training.epochs=3"]
    assert made_of(training={"epochs": 3, "dtype": "float32"}) == [
        "training.epochs=3",
        'training.dtype="float32"',
    ]
    assert made_of(seed=None, preset="small") == ["seed=null", "preset=small"]
    assert made_of({"a": [1, 2]}) == ["a=[1, 2]"]
    assert made_of({"a": [1, 2], "b": (0.5, "c")}, several=True) == ["a=1,2", 'b=0.5,"c"']
    assert made_of({"a": np.float64(0.25), "b": np.arange(2)}) == ["a=0.25", "b=[0, 1]"]
    with pytest.raises(BadInput, match="expected key=value, or a mapping"):
        made_of(3)
    with pytest.raises(BadInput):
        made_of(a=object())


def test_the_interface_is_there_when_it_is_asked_for() -> None:
    for name in repro.INTERFACE:
        assert getattr(repro, name) is getattr(api, name)
    assert {*repro.INTERFACE} <= {*repro.__all__}
    with pytest.raises(AttributeError):
        getattr(repro, "trian")  # noqa: B009


def test_the_interface_needs_the_projects_own_machinery(project: Project) -> None:
    with pytest.raises(BadInput, match="the machinery of this project is not there"):
        api.runs()
    file = project.root / "src" / "repro" / "__main__.py"
    file.parent.mkdir(parents=True)
    file.touch()
    with pytest.raises(BadInput, match="expected the machinery of this project"):
        api.runs(project=project.root)


def test_a_run_is_an_object(project: Project, add: Add, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "own_machinery", lambda project: None)
    directory = add(at(1, metrics={"test_loss": 0.5}))
    history = [{"loss": 1.0}, {"loss": float("nan")}]
    (directory / "history.json").write_text('[{"loss": 1.0}, {"loss": "NaN"}]', encoding="utf-8")
    run = api.find_run("latest")
    assert (run.name, run.path, run.metrics) == (directory.name, directory, {"test_loss": 0.5})
    assert run.history[0] == history[0] and np.isnan(run.history[1]["loss"])
    assert run.recipe.parameters.model.name == "dense"
    (directory / "history.json").write_text("[", encoding="utf-8")
    with pytest.raises(BadInput, match="not a readable history"):
        run.history  # noqa: B018
    add(examples.begun("begun", started="2026-02-02T00:00:00+00:00"))
    with pytest.raises(BadInput, match="expected a run that has finished"):
        api.find_run("latest")
    assert [one.name for one in api.runs("status=finished")] == [directory.name]
    assert len(api.runs()) == 2


def test_tables_are_of_pandas_or_refused(
    project: Project, add: Add, monkeypatch: pytest.MonkeyPatch
) -> None:
    from repro.study import table
    from repro.study.results import Failed, Results

    plan = examples.plan(2, 1)
    done: Done | Failed = examples.done(0, 0.5)
    failed = Failed(trial=1, worker="here", failed="no memory")
    found = table.Answer(project.root, table.table(plan, Results({0: done, 1: failed})), None)
    one = api.Study("any", project.root, project, found)
    assert "batch_size" in str(one).splitlines()[0] and len(str(one).splitlines()) == 3
    taken: list[Any] = []
    monkeypatch.setattr(api, "_frame", lambda rows: taken.extend(rows))
    one.table()
    assert [row["training.batch_size"] for row in taken] == [1, 2]
    assert [row["failed"] for row in taken] == [None, "no memory"]
    assert taken[0]["val_loss"] == 0.5 and taken[0]["digest"] == "0"
    monkeypatch.undo()
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(BadInput, match="pandas is not installed"):
        one.table()


def test_a_manifest_without_a_use_does_not_speak_of_it() -> None:
    content = examples.begun(surroundings=Surroundings())
    assert "use" not in content.as_json()
    task = use.Predict(file="a.npy", sha256=examples.DIGEST)
    asked = Use(of="a", state="b", ending="c", task=task)
    said = content.but(use=asked).as_json()
    assert said["use"]["task"]["command"] == "predict"
    assert asdict(Project(Path("a"), "b"))  # A project is a record as well.

"""Studies: what is planned, what the table says, and that a row is an ordinary training."""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import examples
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from repro.basics import files
from repro.basics.errors import BadInput
from repro.cli import console
from repro.compare.comparison import Verdict
from repro.environment import machine
from repro.environment.determinism import Promise
from repro.recipe import literals
from repro.recipe.project import Project
from repro.run import launcher, manifest, recipes
from repro.run.events import Wait
from repro.run.ledger import Divergence
from repro.study import planning, slots, study, table
from repro.study import results as results_file
from repro.study.planning import Design, Plan, Planned
from repro.study.results import Failed, Result, Results, Verification
from repro.study.search import METHODS, Repetitions, Search

PROJECT = Project.find()


def points(method: str, number: int, *texts: str, seed: int = 1) -> list[dict[str, Any]]:
    return Search.read(texts).configurations(method, number, seed)


def test_a_grid_is_every_combination_and_keeps_what_is_fixed() -> None:
    search = Search.read(["training.batch_size=16, 32", "seed=[1], 2", "threads=1"])
    assert search.fixed == ["threads=1"]
    assert search.configurations("grid", None, 1) == [
        {"training.batch_size": 16, "seed": [1]},
        {"training.batch_size": 16, "seed": 2},
        {"training.batch_size": 32, "seed": [1]},
        {"training.batch_size": 32, "seed": 2},
    ]
    assert Search.read(["training.metrics=[accuracy]"]).choices == {}
    assert Search.read(["a=1,1"]).configurations("grid", None, 1) == [{"a": 1}]


@settings(deadline=None)
@given(
    method=st.sampled_from(METHODS[1:]),
    number=st.integers(1, 40),
    low=st.floats(1e-6, 1),
    factor=st.floats(1.01, 1e6),
    log=st.booleans(),
    whole=st.integers(1, 50),
    seed=st.integers(0, 2**32 - 1),
)
def test_points_lie_in_their_ranges(
    method: str, number: int, low: float, factor: float, log: bool, whole: int, seed: int
) -> None:
    high = low * factor
    texts = (f"a={low!r}..{high!r}{' log' * log}", f"b={whole}..{whole + 3}", "c=x,y")
    found = points(method, number, *texts, seed=seed)
    assert found == points(method, number, *texts, seed=seed)
    assert 1 <= len(found) <= number
    for one in found:
        assert low * 0.999 <= one["a"] <= high * 1.001  # Four digits are kept.
        assert isinstance(one["b"], int) and whole <= one["b"] <= whole + 3
        assert one["c"] in ("x", "y")


def test_a_latin_hypercube_has_a_point_in_every_slice() -> None:
    found = points("latin_hypercube", 10, "a=0.0..1.0", "b=1e-5..1.0 log")
    assert sorted(int(one["a"] * 10) for one in found) == list(range(10))


def test_more_random_points_keep_the_first_ones() -> None:
    texts = ("a=0.0..1.0", "b=1,2,3")
    assert points("random", 20, *texts)[:5] == points("random", 5, *texts)
    assert points("random", 5, *texts) != points("random", 5, *texts, seed=2)


def test_repetitions_share_the_recipes_seed_and_derive_the_others() -> None:
    assert Repetitions().values(7) == [{}]
    seeds = [one["seed"] for one in Repetitions(seeds=4).values(7)]
    assert seeds[0] == 7 and len(set(seeds)) == 4
    assert seeds[:3] == [one["seed"] for one in Repetitions(seeds=3).values(7)]
    assert Repetitions(seeds=3).values(None) == [{}, {}, {}]
    folds = Repetitions(folds=3, repeats=2, outer_folds=2, seeds=2).values(7)
    assert len(folds) == 3 * 2 * 2 * 2 == len({json.dumps(one) for one in folds})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("sweep", "training.batchsize=1,2"), "nearest valid name: training.batch_size"),
        (("sweep", "training.batch_size=16,0"), "training.batch_size: expected"),
        (("sweep", "training.batch_size=16..64"), "a grid needs values"),
        (("sweep", "training.batch_size"), "expected key=value,value"),
        (("sweep", "seed=1,{"), "not valid values"),
        (("sweep", "--method", "sobol", "seed=1..9"), "--trials: expected how many"),
        (("sweep", "--method", "sobol", "--trials", "3"), "expected a parameter with values"),
        (("sweep", "--method", "gird"), "expected one of grid"),
        (("sweep", "--method", "random", "--trials", "3", "seed=9..1"), "lowest..highest"),
        (("sweep", "--method", "random", "--trials", "3", "seed=0..9 log"), "more than 0"),
        (("sweep", "--trials", "3", "seed=1,2"), "grid, which tries all"),
        (("sweep", "--seeds", "0", "seed=1,2"), "--seeds: expected 1 or more"),
        (("sweep", "--workers", "0", "seed=1,2"), "--workers: expected 1 or more"),
        (("sweep", "--monitor", "test_loss", "seed=1,2"), "val_loss would do"),
        (("sweep", "--monitor", "val_return", "seed=1,2"), "it is not known whether more"),
        (("sweep", "--monitor", "val_acuracy", "seed=1,2"), "nearest valid name: accuracy"),
        (("sweep", "preset=mnist_dens", "seed=1,2"), "nearest valid name: mnist_dense"),
        (("sweep", "--scheduler", "nowhere", "seed=1,2"), "--scheduler: expected tls://"),
        (("sweep", "--scheduler", "tcp://127.0.0.1:9", "seed=1,2"), "--insecure accepts this"),
        (("sweep", "--scheduler", "nowhere", "--insecure", "seed=1,2"), "--scheduler: nowhere"),
        (
            ("sweep", "--scheduler", "tcp://127.0.0.1:9", "--insecure", "seed=1,2"),
            "tcp://127.0.0.1:9",
        ),
        (
            ("sweep", "--scheduler", "tls://127.0.0.1:9", "--keys", "nowhere", "seed=1,2"),
            "nowhere/cluster.crt: no such file; make the keys with `repro cluster-keys`",
        ),
        (("sweep", "--insecure", "seed=1,2"), "--insecure: expected with --scheduler"),
        (("sweep", "--outer-folds", "2", "split.outer_fold=0,1"), "split.outer_fold: a study must"),
        (("cross-validate", "--folds", "1"), "--folds: expected 2 or more"),
        (("cross-validate", "--strategy", "stratifed"), "split.strategy: expected"),
    ],
)
def test_a_wrong_study_is_refused_in_one_line(arguments: tuple[str, ...], message: str) -> None:
    before = set(PROJECT.root.glob("studies/*")) | set(PROJECT.runs.glob("*"))
    done = subprocess.run(
        [sys.executable, "-m", "repro", *arguments],
        capture_output=True,
        text=True,
        cwd=PROJECT.root,
    )
    assert done.returncode == 2, done.stdout + done.stderr
    assert message in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert set(PROJECT.root.glob("studies/*")) | set(PROJECT.runs.glob("*")) == before


def spelt_out(preset: dict[str, Any], group: str = "") -> Iterator[str]:
    """The values of a preset as they would stand on the command line."""
    for name, value in preset.items():
        if isinstance(value, dict) and not group:
            yield from spelt_out(value, f"{name}.")
        else:
            yield f"{group}{name}={json.dumps(value)}"


def test_every_preset_is_a_recipe_and_overrides_come_after_it() -> None:
    for path in sorted(PROJECT.root.glob("presets/*.yaml")):
        recipe = recipes.make(PROJECT, ["training.epochs=7", f"preset={path.stem}"])
        assert recipe.parameters.training.epochs == 7
        # What a preset does not name stays what params.yaml says.
        values = spelt_out(YAML(typ="safe", pure=True).load(path))
        assert recipe == recipes.make(PROJECT, [*values, "training.epochs=7"]), path.stem


def answer_of(plan: Plan, found: Mapping[int, Result]) -> table.Table:
    return table.table(plan, Results({**found}))


def failed(trial: int, why: str = "no memory") -> Failed:
    return Failed(trial=trial, worker="here", failed=why)


def with_trials(plan: Plan, **changed: Any) -> Plan:
    """The same plan, with other values for some fields of all trials."""
    trials = [
        one.model_copy(
            update={k: make(one) if callable(make) else make for k, make in changed.items()}
        )
        for one in plan.trials
    ]
    return plan.model_copy(update={"trials": trials})


def test_a_table_has_mean_and_deviation_and_the_best_by_what_is_watched() -> None:
    values = [0.5, 0.7, 0.2, 0.3, 0.1, float("nan")]
    results = {n: examples.done(n, value) for n, value in enumerate(values)}
    for monitor in ("val_loss", "val_accuracy"):
        answer = answer_of(examples.plan(3, 2, monitor), results)
        found = answer.rows[0].metrics["val_loss"]
        assert found.mean == pytest.approx(0.6)
        assert found.deviation == pytest.approx(0.02**0.5)
        assert answer.best is not None
        assert answer.best.row.configuration == 1 and answer.best.run == "run-2"
        heads, rows = table.columns(answer)
        assert heads == ["batch_size", "trials", "val_loss", "val_accuracy"]
        assert rows[1] == ["2", "2", "0.2500 ± 0.0707", "0.7500 ± 0.0707"]


def test_of_one_configuration_none_is_the_best_and_its_first_trial_is_trained_again() -> None:
    answer = answer_of(
        examples.plan(1, 3), {n: examples.done(n, v) for n, v in enumerate((0.9, 0.2, 0.5))}
    )
    assert answer.best is None
    assert answer.as_json()["again"] == {
        "trial": 0,
        "run": "run-0",
        "what": "the first trial",
        "why_not": None,
    }
    assert not any("best" in line.lower() for line in table.lines(answer))
    waiting = answer_of(examples.plan(1, 3), {1: examples.done(1, 0.2)})
    assert waiting.again is None
    found = answer_of(examples.plan(1, 3), {0: failed(0), 1: examples.done(1, 0.2)})
    assert found.again is not None and found.again.trial == 1


def test_what_guarantees_nothing_is_not_trained_again_and_that_is_said() -> None:
    none = Promise("none", "none", [])
    answer = answer_of(
        examples.plan(1, 3), {n: examples.done(n, 0.5, guarantee=none) for n in range(3)}
    )
    assert answer.again is not None and "guarantee: none" in (answer.again.why_not or "")
    assert any(line.startswith("Nothing is trained once more") for line in table.lines(answer))


@pytest.mark.parametrize(
    ("digests", "said"),
    [("abc", "3 different results of 3"), ("aaa", "1 result of 3"), ("aba", "2 different")],
)
def test_trainings_of_one_recipe_are_counted_by_their_results(digests: str, said: str) -> None:
    plan = with_trials(examples.plan(1, 3), repetition={}, recipe_digest="one")
    results = {n: examples.done(n, 0.5, digest=digest) for n, digest in enumerate(digests)}
    answer = answer_of(plan, results)
    assert any(line.startswith(said) for line in table.lines(answer)), table.lines(answer)
    # Of one recipe equal results are what is wanted, not a parameter without effect.
    assert answer.same == []


def test_rows_that_are_the_same_to_the_last_bit_are_said_to_be_and_none_is_the_best() -> None:
    def done(n: int, more: float) -> Result:
        return examples.done(n, 0.5 + more, digest=f"{[0, 0, 0, 3][n]}")

    # Validation in other batches rounds otherwise, of the same state.
    results = {n: done(n, n / 1e9) for n in range(4)}
    answer = answer_of(examples.plan(3, 1), results)
    assert answer.best is None
    assert answer.again is not None and answer.again.what == "the first trial"
    (line,) = table.lines(answer)
    assert line == (
        "Rows 1–3 end in the same state to the last bit: batch_size had no effect on the training."
    )
    # A row that is not the same, though as good: the first is taken, and the tie is said.
    results = {n: done(n, 0) for n in range(4)}
    answer = answer_of(examples.plan(4, 1), results)
    assert answer.best is not None
    assert answer.best.row.configuration == 0 and answer.best.tied == [1, 2, 3]
    assert any("tied with rows 2–4; the first of them is taken" in n for n in table.lines(answer))
    # A better one is the best, alone.
    results[3] = examples.done(3, 0.1)
    answer = answer_of(examples.plan(4, 1), results)
    assert answer.best is not None
    assert answer.best.row.configuration == 3 and answer.best.tied == []
    same = {"numbers": [0, 1, 2], "parameters": ["training.batch_size"]}
    assert answer.as_json()["same"] == [same]


def test_a_table_is_not_cut_on_a_narrow_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    answer = answer_of(examples.plan(3, 2), {n: examples.done(n, n / 7) for n in range(6)})
    console.print_study(table.Answer(Path("here"), answer, None))
    shown = capsys.readouterr().out
    head, rows = table.columns(answer)
    assert all(cell in shown for cell in [*head, *(cell for row in rows for cell in row)])


def test_seeds_without_effect_are_named_too() -> None:
    results = {n: examples.done(n, 0.5, digest="same") for n in range(3)}
    lines = table.lines(answer_of(examples.plan(1, 3), results))
    assert lines == [
        "Trials 0–2 end in the same state to the last bit: seed had no effect on the training."
    ]


def nested_noise(
    seed: int, configurations: int = 20, folds: int = 5, each: int = 20
) -> tuple[Plan, dict[int, Result]]:
    """A nested study of guesses on coin tosses: nothing can be learnt, and 0.5 is the truth.

    Each configuration guesses the same whatever it was trained on. Its validation in an outer fold
    is over all samples outside of it, which are the tests of the other folds.
    """
    generator = np.random.Generator(np.random.Philox(seed))
    right = generator.random((configurations, folds, each)) < 0.5
    plan = with_trials(
        examples.plan(configurations, folds, "val_accuracy"),
        repetition=lambda one: {"split.outer_folds": folds, "split.outer_fold": one.trial % folds},
    )
    results: dict[int, Result] = {}
    for one in plan.trials:
        number, fold = one.configuration, one.trial % folds
        others = np.delete(right[number], fold, axis=0)
        metrics = {
            "val_accuracy": float(others.mean()),
            "test_accuracy": float(right[number, fold].mean()),
        }
        results[one.trial] = examples.done(one.trial, 0, metrics=metrics)
    return plan, results


def test_a_nested_study_of_noise_gives_chance() -> None:
    across, within = [], []
    for seed in range(200):
        plan, results = nested_noise(seed)
        answer = answer_of(plan, results)
        assert answer.best is None and answer.nested is not None
        assert len(answer.nested.chosen) == 5
        within.append(answer.nested.metrics["test_accuracy"].mean)
        # What one choice over all outer folds would have said.
        best = max(answer.rows, key=lambda row: row.metrics["val_accuracy"].mean)
        mine = [t.done for t in answer.trials if t.configuration == best.configuration and t.done]
        across.append(statistics.fmean(one.metrics["test_accuracy"] for one in mine))
    error = statistics.stdev(within) / len(within) ** 0.5
    # Not above chance. A little below it: what did well elsewhere had its luck there.
    assert 0.5 - statistics.stdev(within) < statistics.fmean(within) < 0.5 + 3 * error
    assert statistics.fmean(across) > 0.57


def test_each_outer_fold_chooses_by_its_own_validations() -> None:
    plan = with_trials(
        examples.plan(2, 4),
        repetition=lambda one: {
            "split.outer_fold": one.trial % 4 // 2,
            "split.fold": one.trial % 2,
        },
    )
    # Configuration 0 is better in outer fold 1, configuration 1 in outer fold 0.
    losses = [0.9, 0.9, 0.1, 0.1, 0.4, 0.4, 0.6, 0.6]
    results: dict[int, Result] = {
        n: examples.done(n, loss, metrics={"val_loss": loss, "test_accuracy": n / 10})
        for n, loss in enumerate(losses)
    }
    answer = answer_of(plan, results)
    assert answer.nested is not None
    chosen = answer.nested.chosen
    assert [(one.outer_fold, one.row.configuration) for one in chosen] == [(0, 1), (1, 0)]
    assert [one.row.metrics["test_accuracy"].mean for one in chosen] == [0.45, 0.25]
    found = answer.nested.metrics["test_accuracy"]
    assert found.mean == pytest.approx(0.35)
    assert found.deviation == pytest.approx(0.02**0.5)
    assert answer.again is not None and answer.again.trial == 4
    # Nothing is left by which the tests of the other folds could be chosen by.
    assert not any(name.startswith("test_") for row in answer.rows for name in row.metrics)
    assert "test_accuracy" not in table.columns(answer)[0]
    head, rows = table.nested_columns(answer.nested, answer.monitor)
    assert head == ["outer_fold", "chosen", "val_loss", "test_accuracy"]
    assert rows[0][:2] == ["0", "batch_size 2"] and rows[-1][-1] == "0.3500 ± 0.1414"
    # A failed trial takes its configuration out of that fold alone.
    results[4] = failed(4)
    nested = answer_of(plan, results).nested
    assert nested is not None and [one.row.configuration for one in nested.chosen] == [0, 0]
    del results[0], results[5]
    unfinished = answer_of(plan, results)
    assert unfinished.nested is not None and unfinished.nested.metrics == {}
    assert any("1 of 2 outer folds" in line for line in table.lines(unfinished))


Scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
    | st.dates()
)


@settings(deadline=None)
@given(
    st.recursive(
        Scalars,
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.integers(0, 9) | st.text("ab", max_size=2), inner, max_size=3)
        ),
        max_leaves=6,
    )
)
def test_a_value_is_written_as_it_is_read(value: Any) -> None:
    (read,) = literals.listed(literals.written(value))
    assert repr(read) == repr(value)


def test_class_weights_are_tried_with_their_whole_numbers() -> None:
    text = "training.class_weight={0: 1.0, 1: 2.0},{0: 1.0, 1: 5.0},null"
    found = planning.plan(PROJECT, Design("sweep", Search.read([text])))
    weights = [recipe.parameters.training.class_weight for recipe in found.recipes]
    assert weights == [{0: 1.0, 1: 2.0}, {0: 1.0, 1: 5.0}, None]
    alone = recipes.make(PROJECT, ["training.class_weight={0: 1.0, 1: 2.0}"])
    assert found.plan.trials[0].recipe_digest == alone.digest
    kept = json.loads(json.dumps(found.plan.as_json()))["configurations"]  # As `study.json` has it.
    told = [table.describe(values) for values in found.plan.configurations]
    assert told == [table.describe(values) for values in kept]
    assert told[0] == "class_weight {0: 1.0, 1: 2.0}"


def written_study(folder: Path) -> Path:
    (folder / "study.json").write_text(json.dumps(examples.plan(2, 1).as_json()))
    lines = [json.dumps(manifest.sealed(examples.done(n, 0.5).as_json())) + "\n" for n in range(2)]
    (folder / "results.jsonl").write_text("".join(lines))
    return folder


@pytest.mark.parametrize(
    ("file", "before", "after", "said"),
    [
        ("study.json", '"monitor"', '"watched"', "study.json: not a readable study: monitor:"),
        ("study.json", '"trials"', '"tasks"', "trials: Field required"),
        ("study.json", '"configuration": 1', '"configuration": 7', "do not belong together"),
        ("study.json", '"kind"', "kind", "study.json: not a readable study: Expecting"),
        ("study.json", '"val_loss"', '"val_lost"', "'val_lost' is missing"),
        ("results.jsonl", '"metrics"', '"meters"', "line 1: not a readable result: metrics:"),
        ("results.jsonl", '"digest"', '"gist"', "line 1: not a readable result: digest:"),
        ("results.jsonl", '{"trial"', '"trial"', "line 1: not a readable result"),
        ("results.jsonl", "0.5", '"much"', "metrics.val_loss"),
    ],
)
def test_a_damaged_study_is_named_in_one_line(
    file: str, before: str, after: str, said: str, tmp_path: Path
) -> None:
    path = written_study(tmp_path) / file
    assert table.read(tmp_path).table.failed == 0
    content = path.read_text()
    assert before in content
    path.write_text(sealed_anew(content.replace(before, after, 1)))
    with pytest.raises(BadInput) as refused:
        table.read(tmp_path)
    assert said in str(refused.value) and "\n" not in str(refused.value)


PARTED = Divergence("epoch", 1, 3, "weights", "kernel", "1", None, ["kernel"], "not the same")


@pytest.mark.parametrize("parted", [None, PARTED])
def test_a_verification_is_read_as_it_was_written(
    parted: Divergence | None, tmp_path: Path
) -> None:
    runs, digests = (Path("runs/a"), Path("runs/b")), ("1", "2")
    verdict = Verdict(runs, digests, "diverged" if parted else "identical", parted)
    written = Verification(1, verdict)
    line = manifest.sealed({"verification": written.as_json()})
    path = written_study(tmp_path) / "results.jsonl"
    before = path.read_text()
    path.write_text(f"{before}{json.dumps(line)}\n")
    answer = table.read(tmp_path)
    assert answer.verification == written
    told = answer.as_json()["verification"]
    assert list(told)[:4] == ["trial", "runs", "digests", "verdict"]
    assert ("first_divergence" in told) is bool(parted)
    # It has to be about a trial and to have a verdict.
    wrong: list[object] = [{"trial": 1}, {"verdict": "identical"}, [], 3]
    for damaged in wrong:
        line = manifest.sealed({"verification": damaged})
        path.write_text(f"{before}{json.dumps(line)}\n")
        with pytest.raises(BadInput, match="line 3: not a readable result") as refused:
            table.read(tmp_path)
        assert "\n" not in str(refused.value)


def test_a_plan_and_results_are_read_as_they_were_written(tmp_path: Path) -> None:
    plan = examples.plan(2, 3, configurations=[{"a": {0: 1.5}}, {"a": None}])
    (tmp_path / planning.FILE).write_text(json.dumps(plan.as_json()))
    assert planning.read(tmp_path).as_json() == json.loads(json.dumps(plan.as_json()))
    lost = examples.done(1, 0.5, metrics={"val_loss": math.inf})
    lines = [one.as_json() for one in (examples.done(0, 0.5), lost, failed(2))]
    text = "".join(files.dumps(manifest.sealed(one)) + "\n" for one in lines)
    (tmp_path / results_file.FILE).write_text(text)
    found = results_file.read(tmp_path).trials
    assert [one.as_json() for one in found.values()] == lines


def sealed_anew(text: str) -> str:
    """Lines as another version of the machinery could have written them."""
    lines = []
    for line in text.splitlines():
        try:
            content = json.loads(line)
        except ValueError:
            return text
        lines.append(json.dumps(manifest.sealed(content)) if "seal" in content else line)
    return "\n".join(lines) + "\n"


def test_a_result_that_was_edited_is_not_told(tmp_path: Path) -> None:
    path = written_study(tmp_path) / "results.jsonl"
    path.write_text(path.read_text().replace("0.5", "0.9", 1))
    with pytest.raises(BadInput, match=r"line 1: .*altered since it was written"):
        table.read(tmp_path)


@pytest.mark.parametrize("file", ["study.json", "results.jsonl"])
@pytest.mark.parametrize("content", [b"", b"null\n", b"[]\n", b"3\n", b"\xff\xfe\n", b"{}\n"])
def test_any_other_content_is_no_study(file: str, content: bytes, tmp_path: Path) -> None:
    (written_study(tmp_path) / file).write_bytes(content)
    if file == "results.jsonl" and content in (b"", b"{}\n"):  # Nothing has come of it yet.
        assert table.read(tmp_path).table.failed == 2
        return
    with pytest.raises(BadInput, match=file):
        table.read(tmp_path)


def test_a_study_killed_while_it_wrote_goes_on_behind_the_last_whole_line(tmp_path: Path) -> None:
    project = Project(tmp_path, "any")
    plan = Planned(examples.plan(2, 1), [])
    with study.Study(project, plan) as one:
        one._write(examples.done(0, 0.5).as_json())
        path = one.directory / "results.jsonl"
    with path.open("a") as file:
        file.write('{"trial": 1, "fai')
    with study.Study(project, plan) as one:
        assert list(one.results.trials) == [0]
        one._write(examples.done(1, 0.25).as_json())
    best = table.read(path.parent).table.best
    assert best is not None and best.row.configuration == 1
    # A damaged line is refused, and what would do is said.
    path.write_text(path.read_text().replace('"digest"', '"gist"', 1))
    with pytest.raises(BadInput, match=r"line 1: .*; --fresh begins anew"):
        study.Study(project, plan)


def test_a_study_that_cannot_be_written_is_refused_in_one_line(tmp_path: Path) -> None:
    project = Project(tmp_path, "any")
    plan = Planned(examples.plan(1, 1), [])
    with study.Study(project, plan) as one:
        path = one.directory / "results.jsonl"
    path.unlink()
    path.mkdir()  # As little to be written to as a file of a disk that is read-only.
    (path.parent / "study.json").write_text(json.dumps(plan.plan.as_json()))
    with pytest.raises(BadInput, match="studies: cannot hold a study"):
        (tmp_path / "studies").rename(tmp_path / "elsewhere")
        (tmp_path / "studies").write_text("in the way of a folder")
        study.Study(project, plan)
    with pytest.raises(BadInput, match="cannot be written"):
        study._opened(tmp_path / "elsewhere" / path.parent.name / path.name)


def test_a_configuration_with_a_failed_trial_is_not_the_best() -> None:
    results: dict[int, Result] = {n: examples.done(n, (0.9, 0.8, 0.1)[n]) for n in range(3)}
    results[3] = failed(3)
    answer = answer_of(examples.plan(2, 2), results)
    assert answer.failed == 1
    assert answer.best is not None and answer.best.row.configuration == 0
    assert answer_of(examples.plan(2, 2), {}).best is None


@pytest.mark.parametrize(
    ("guarantee", "devices"),
    [("machine", []), ("machine", ["0", "3"]), ("portable", [])],
    ids=["cores", "GPUs", "GPUs that are not used"],
)
def test_a_machine_is_not_given_more_than_it_holds(
    guarantee: str, devices: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(machine, "available_cores", lambda: 4)
    visible = "0,3" if guarantee == "portable" else ",".join(devices)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(slots, "LONG_WAIT", 0)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    told: list[Wait] = []
    now: list[tuple[int, str | None]] = []
    seen: list[list[tuple[int, str | None]]] = []

    def train(threads: int) -> None:
        parameters = examples.parameters(threads=threads, guarantee=guarantee)
        assert slots.room(parameters) == (len(devices) or max(1, 4 // threads))
        with slots.held(parameters, lambda: False, told.append) as gpu:
            now.append((threads, gpu))
            seen.append(list(now))
            time.sleep(0.05)
            now.remove((threads, gpu))

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(train, [1, 2, 3, 1, 9, 3] * 2))  # More threads than cores have them all.
    assert len(seen) == 12 and max(map(len, seen)) > 1
    waited = {event.needed for event in told}
    possible = {"a GPU"} if devices else {f"{needed} of 4 cores" for needed in (1, 2, 3, 4)}
    assert waited and waited <= possible
    for running in seen:
        if devices:
            assert len({gpu for _, gpu in running}) == len(running)
            assert {gpu for _, gpu in running} <= set(devices)
        else:
            assert sum(min(threads, 4) for threads, _ in running) <= 4
            assert {gpu for _, gpu in running} == {None}


def test_a_row_is_an_ordinary_training_and_early_stopping_ends_with_its_best_epoch() -> None:
    def repro(*arguments: str) -> dict[str, Any]:
        done = subprocess.run(
            [sys.executable, "-m", "repro", *arguments, "--json"],
            capture_output=True,
            text=True,
            cwd=PROJECT.root,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    stop = (
        "callbacks.early_stopping.patience=1",
        "callbacks.early_stopping.restore_best_weights=true",
        "optimizer.learning_rate=0.03",
        "training.epochs=4",
    )
    answer = repro("sweep", "training.batch_size=64,128", *stop)
    assert answer["verification"]["verdict"] == "identical"
    assert answer["failed"] == 0 and len(answer["trials"]) == 2
    best = answer["best"]
    alone = repro("train", f"training.batch_size={best['values']['training.batch_size']}", *stop)
    (row,) = (t for t in answer["trials"] if t["run"] == best["run"])
    assert (alone["digest"], alone["metrics"]) == (row["digest"], row["metrics"])
    history = json.loads((PROJECT.runs / best["run"] / "history.json").read_text())
    assert not any(name.startswith("test_") for epoch in history for name in epoch)
    assert row["metrics"]["val_loss"] == min(epoch["val_loss"] for epoch in history)


@pytest.mark.skipif(os.name == "nt", reason="its results are not locked there")
def test_a_study_that_was_just_killed_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = Project(tmp_path, "any")
    planned = Planned(examples.plan(0, 0), [])
    ending = study.Study(project, planned)
    monkeypatch.setattr(launcher, "ENDING", 0.1)
    with pytest.raises(BadInput, match="still going on"):
        study.Study(project, planned)
    monkeypatch.setattr(launcher, "ENDING", 60)
    threading.Timer(0.3, ending.__exit__, (None, None)).start()
    with study.Study(project, planned) as again:
        assert again.directory == ending.directory

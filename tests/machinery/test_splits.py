"""Splits of many shapes: what every one must keep, and that a leak is seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA
from sklearn.preprocessing import OrdinalEncoder, StandardScaler

from repro.basics.errors import BadInput
from repro.data import splits
from repro.data.dataset import Dataset
from repro.recipe import reading
from repro.recipe.parameters import Split
from repro.recipe.project import Project

PROJECT = Project.find()
STRATEGIES = ("random", "stratified", "grouped", "stratified_grouped", "time_series")
QUICK = settings(derandomize=True, deadline=None, max_examples=60)


def group(**changed: Any) -> Split:
    """The parameters of a split: the defaults, but for these."""
    given_here = [f"split.{name}={value}" for name, value in changed.items()]
    return reading.parameters(PROJECT.source, PROJECT.root / "params.yaml", given_here).split


DEFAULTS = group()


@st.composite
def datasets(draw: st.DrawFn) -> Dataset:
    """40 to 120 samples in 2 or 3 classes and 12 to 20 groups; with or without rows set aside."""
    size = draw(st.integers(40, 120))
    generator = np.random.default_rng(draw(st.integers(0, 999)))
    classes, held_out = draw(st.integers(2, 3)), draw(st.sampled_from([0, 0, 20]))
    groups = generator.integers(0, draw(st.integers(12, 20)), size)
    groups[size - held_out :] += 100
    y = np.arange(size) % classes
    generator.shuffle(y)
    return Dataset(
        generator.normal(size=(size, 3)).astype(np.float32),
        y,
        classes=classes,
        groups=groups,
        held_out=held_out,
    )


@st.composite
def cuts(draw: st.DrawFn) -> Split:
    chosen: dict[str, Any] = {
        "strategy": draw(st.sampled_from(STRATEGIES)),
        "seed": draw(st.integers(0, 99)),
        "test": draw(st.sampled_from([0.15, 0.25])),
        "validation": draw(st.sampled_from([0.15, 0.3])),
        "folds": draw(st.sampled_from([None, 2, 3, 5])),
        "outer_folds": draw(st.sampled_from([None, None, 3])),
    }
    if chosen["folds"]:
        chosen["fold"] = draw(st.integers(0, chosen["folds"] - 1))
    if chosen["outer_folds"]:
        chosen["outer_fold"] = draw(st.integers(0, chosen["outer_folds"] - 1))
    return DEFAULTS.model_copy(update=chosen)


def made(dataset: Dataset, cut: Split) -> splits.Split:
    try:
        return splits.make(dataset, cut)
    except BadInput as error:
        # Small data cannot be cut in every way; then one line says so.
        assert "\n" not in str(error)
        assume(False)
        raise


@QUICK
@given(datasets(), cuts())
def test_parts_share_nothing_and_leave_nothing_out(dataset: Dataset, cut: Split) -> None:
    split = made(dataset, cut)
    together = np.concatenate(list(split.parts().values()))
    assert len(np.unique(together)) == len(together)
    in_time = cut.strategy == "time_series" and (cut.folds or cut.outer_folds)
    if not in_time:
        assert sorted(together) == list(range(len(dataset.x)))
    assert all(len(places) for places in split.parts().values())
    if dataset.held_out:
        assert split.train.max() < len(dataset.x) - dataset.held_out <= split.test.min()
    if "grouped" in cut.strategy and dataset.groups is not None:
        groups = [set(dataset.groups[places]) for places in split.parts().values()]
        assert sum(map(len, groups)) == len(set().union(*groups))
    if cut.strategy == "time_series":
        assert split.train.max() < split.validation.min()
        assert split.validation.max() < split.test.min()


@QUICK
@given(datasets(), cuts(), st.integers(0, 99))
def test_the_order_of_the_rows_does_not_matter(dataset: Dataset, cut: Split, seed: int) -> None:
    assume(cut.strategy != "time_series")
    split = made(dataset, cut)
    kept = len(dataset.x) - dataset.held_out
    generator = np.random.default_rng(seed)
    # What was set aside stays behind the rest.
    order = np.concatenate(
        [generator.permutation(kept), kept + generator.permutation(dataset.held_out)]
    )
    assert dataset.groups is not None
    moved = Dataset(
        dataset.x[order],
        dataset.y[order],
        classes=dataset.classes,
        groups=dataset.groups[order],
        held_out=dataset.held_out,
    )
    again = splits.make(moved, cut)
    for name, places in split.parts().items():
        assert sorted(order[again.parts()[name]]) == places.tolist()


@QUICK
@given(datasets(), cuts(), st.integers(3, 30))
def test_few_samples_to_learn_from_are_of_the_same_training(
    dataset: Dataset, cut: Split, size: int
) -> None:
    whole = made(dataset, cut)
    few = made(dataset, cut.model_copy(update={"train_size": size}))
    assert len(few.train) == size < len(whole.train)
    assert set(few.train) < set(whole.train)
    assert few.validation.tolist() == whole.validation.tolist()
    assert few.test.tolist() == whole.test.tolist()
    if cut.strategy == "time_series":
        assert few.train.tolist() == whole.train[-size:].tolist()
    with pytest.raises(BadInput, match="train_size: expected less than"):
        splits.make(dataset, cut.model_copy(update={"train_size": len(whole.train)}))


@QUICK
@given(datasets(), st.integers(2, 6), st.integers(0, 99))
def test_each_sample_is_in_one_fold_and_the_test_in_none(
    dataset: Dataset, folds: int, seed: int
) -> None:
    for strategy in STRATEGIES[:-1]:
        cut = DEFAULTS.model_copy(update={"strategy": strategy, "folds": folds, "seed": seed})
        found = [made(dataset, cut.model_copy(update={"fold": fold})) for fold in range(folds)]
        tests = {tuple(split.test) for split in found}
        assert len(tests) == 1
        validated = np.concatenate([split.validation for split in found])
        everything = np.concatenate([validated, found[0].test])
        assert sorted(everything) == list(range(len(dataset.x)))
        other = splits.make(dataset, cut.model_copy(update={"repeat": 1}))
        assert tuple(other.test) in tests


@QUICK
@given(datasets(), st.integers(0, 99))
def test_nested_tests_cover_everything(dataset: Dataset, seed: int) -> None:
    assume(not dataset.held_out)
    cut = DEFAULTS.model_copy(update={"outer_folds": 4, "folds": 3, "seed": seed})
    tests = [
        splits.make(dataset, cut.model_copy(update={"outer_fold": fold})).test for fold in range(4)
    ]
    assert sorted(np.concatenate(tests)) == list(range(len(dataset.x)))


@QUICK
@given(datasets(), st.integers(0, 99), st.sampled_from([None, 4]))
def test_strata_keep_their_proportions(dataset: Dataset, seed: int, folds: int | None) -> None:
    split = made(dataset, DEFAULTS.model_copy(update={"seed": seed, "folds": folds}))
    for places in split.parts().values():
        counts = np.bincount(dataset.y[places], minlength=dataset.classes)
        expected = len(places) * np.bincount(dataset.y) / len(dataset.y)
        # A part is rounded to whole samples twice: when split off and when cut again. What was set
        # aside has proportions of its own.
        if not dataset.held_out:
            assert (abs(counts - expected) <= 2).all()


def small(**changed: Any) -> Dataset:
    x = np.arange(60, dtype=np.float32).reshape(20, 3)
    return Dataset(**{"x": x, "y": np.arange(20) % 2, "classes": 2, **changed})


@pytest.mark.parametrize(
    ("cut", "changed", "told"),
    [
        ({"folds": 15}, {}, "class 0 has 8 samples, too few to be in each of 15 folds"),
        ({"folds": 18, "strategy": "random"}, {}, "18 folds need more than 17 samples"),
        ({}, {"y": np.array([0] * 19 + [1])}, "class 1 has 1 samples, too few to be in both"),
        ({}, {"y": np.linspace(0, 1, 20)}, "stratified needs classes"),
        ({"strategy": "grouped"}, {}, "grouped needs a group for each sample"),
        (
            {"strategy": "grouped", "folds": 3},
            {"groups": np.arange(20) // 10},
            "1 groups, too few to be in each of 3 folds",
        ),
        (
            {"strategy": "grouped"},
            {"groups": np.arange(20) % 10, "held_out": 4},
            "group 6 is among the 4 samples set aside and among the others",
        ),
        ({"test": 1e-9, "strategy": "time_series"}, {}, None),
        ({"outer_folds": 3}, {"held_out": 5}, "5 samples set aside for the test; got 3"),
    ],
)
def test_what_cannot_be_split_is_refused_with_the_number(
    cut: dict[str, Any], changed: dict[str, Any], told: str | None
) -> None:
    if told is None:
        assert len(splits.make(small(**changed), DEFAULTS.model_copy(update=cut)).test) == 1
        return
    with pytest.raises(BadInput) as refusal:
        splits.make(small(**changed), DEFAULTS.model_copy(update=cut))
    assert told in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        ({"test": 0.6, "validation": 0.5}, "0.6 and 0.5 leave -0.1 to train on"),
        ({"folds": 5, "fold": 5}, "fold from 0 to 4, counted from 0; got 5"),
        ({"fold": 1}, "fold from 0 to 0"),
        ({"folds": 1}, "split.folds: expected greater than or equal to 2; got 1"),
        ({"test": 0}, "split.test: expected greater than 0; got 0"),
        ({"repeat": 1}, "repeat 0 without folds"),
        ({"file": "run", "folds": 5}, "folds null with a file"),
    ],
)
def test_impossible_numbers_are_refused(overrides: dict[str, Any], told: str) -> None:
    with pytest.raises(BadInput) as refusal:
        group(**overrides)
    assert told in str(refusal.value)


def test_a_leak_is_seen() -> None:
    dataset = small(groups=np.arange(20) // 2)
    split = splits.make(dataset, DEFAULTS.model_copy(update={"strategy": "grouped"}))
    train, validation, test = split.parts().values()
    leaks = {
        "two parts": splits.Split(np.append(train, test[0]), validation, test),
        "in no part": splits.Split(train[1:], validation, test),
        "group is in two": splits.Split(
            np.append(train[1:], validation[0]), np.append(validation[1:], train[0]), test
        ),
        "names sample 20": splits.Split(train, validation, np.append(test, 20)),
    }
    for told, leak in leaks.items():
        with pytest.raises(AssertionError, match=told):
            splits.check(leak, dataset, "grouped")
    with pytest.raises(AssertionError, match="not later"):
        splits.check(split, dataset, "time_series")
    # Rows of one content in two parts are told, for nothing else can see them.
    twice = small(x=np.zeros((20, 3), np.float32))
    told_of = splits.describe(splits.make(twice, DEFAULTS), twice)
    assert told_of["repeated"] == {"validation": 2, "test": 2}


def test_what_is_fitted_is_fitted_to_the_training_alone() -> None:
    dataset = small(preprocessing=StandardScaler())
    split = splits.make(dataset, DEFAULTS)
    changed = dataset.x.copy()
    changed[split.validation] *= 1000
    changed[split.test] -= 1000
    leaking = small(x=changed, preprocessing=StandardScaler())
    one, other = splits.parts(dataset, split), splits.parts(leaking, split)
    assert (one.train.x == other.train.x).all()
    assert abs(one.train.x.mean(axis=0)).max() < 1e-6
    assert (one.test.x != other.test.x).any()


def test_a_split_is_kept_and_used_again(tmp_path: Path) -> None:
    dataset = small()
    split = splits.make(dataset, DEFAULTS)
    file = tmp_path / "split.npz"
    splits.save(file, split, dataset)
    assert splits.reuse(file, dataset, "stratified").digest() == split.digest()
    with pytest.raises(BadInput, match="made for other data"):
        splits.reuse(file, small(y=np.zeros(20, int)), "random")
    altered = splits.Split(split.train[::-1], split.validation, split.test)
    about = np.load(file)["about"]
    np.savez(file, allow_pickle=False, about=about, **altered.parts())
    with pytest.raises(BadInput, match="altered"):
        splits.load(file)
    file.write_bytes(b"nothing")
    with pytest.raises(BadInput, match="not a readable split"):
        splits.load(file)


def test_a_split_under_the_name_of_another_is_refused(tmp_path: Path) -> None:
    dataset = small()
    named, other = (
        splits.make(dataset, DEFAULTS.model_copy(update={"seed": seed})) for seed in (0, 1)
    )
    file = tmp_path / "split.npz"
    splits.save(file, other, dataset)
    with pytest.raises(BadInput, match=r"expected the split .* in .*, got .*; put the file back"):
        splits.reuse(file, dataset, "stratified", named.digest())
    assert splits.reuse(file, dataset, "stratified", other.digest()).digest() == other.digest()
    for content in ({"train": np.zeros(3)}, {"about": np.array("{}")}, {"about": np.array(3)}):
        np.savez(file, **{**dict(np.load(tmp_path / "split.npz")), **content})
        with pytest.raises(BadInput, match=r"not a readable split: [a-z]"):
            splits.load(file)
        splits.save(file, other, dataset)


def test_samples_that_are_also_learnt_from_are_told_in_a_sentence() -> None:
    x = np.repeat(np.arange(7, dtype=np.float32), 3)[:20, None]
    dataset = Dataset(x, np.zeros(20, int), classes=1)
    split = splits.Split(np.arange(0, 10), np.arange(10, 15), np.arange(15, 20))
    described = splits.describe(split, dataset)
    assert described["repeated"] == {"validation": 1, "test": 0}
    assert described["twins"] == {"validation": 2, "test": 0}
    (told,) = splits.notes(described)
    assert told.startswith(
        "2 of the 5 samples of the validation part occur in the training as well"
    )
    assert splits.notes(splits.describe(splits.make(small(), DEFAULTS), small())) == []
    labels = small(y=np.array([0] * 10 + [1] * 5 + [2] * 5), classes=3)
    told_of = splits.notes(splits.describe(split, labels))
    assert "the train part has no sample of class 1, 2; split.strategy=stratified" in told_of[0]
    assert len(told_of) == 3


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float16, np.float32, np.float64])
def test_what_preprocessing_makes_is_not_cut_to_whole_numbers(dtype: Any) -> None:
    x = (np.arange(60).reshape(20, 3) % 7).astype(dtype)
    dataset = small(x=x, preprocessing=StandardScaler())
    split = splits.make(dataset, DEFAULTS)
    kind = np.dtype(dtype).kind
    for training, floating in (("float32", np.float32), ("mixed_float16", np.float32),
                               ("float64", np.float64)):  # fmt: skip
        made = splits.parts(dataset, split, training).train.x
        assert made.dtype == (dtype if kind == "f" else floating)
        expected = StandardScaler().fit(x[split.train]).transform(x[split.train])
        assert abs(made - expected).max() < 1e-2
        assert abs(made.astype(float).std(axis=0) - 1).max() < 1e-2


def test_whole_numbers_that_a_transformer_makes_stay_such() -> None:
    dataset = small(
        x=np.array([["a", "b"], ["b", "c"]] * 10),
        preprocessing=OrdinalEncoder(dtype=np.int8, handle_unknown="use_encoded_value",
                                     unknown_value=-1),
    )  # fmt: skip
    made = splits.parts(dataset, splits.make(dataset, DEFAULTS)).train.x
    assert made.dtype == np.int8 and set(made.reshape(-1).tolist()) == {0, 1}


@pytest.mark.parametrize(
    ("preprocessing", "changed", "told"),
    [
        (PCA(9), {}, "PCA cannot be used: n_components=9 must be between 0 and"),
        (StandardScaler(), {"x": np.array([["a"]] * 20)}, "StandardScaler cannot be used: "),
        (StandardScaler(with_mean="no"), {}, "StandardScaler cannot be used: "),
    ],
)
def test_a_transformer_that_cannot_be_used_is_refused(
    preprocessing: Any, changed: dict[str, Any], told: str
) -> None:
    dataset = small(preprocessing=preprocessing, **changed)
    with pytest.raises(BadInput) as refusal:
        splits.parts(dataset, splits.make(dataset, DEFAULTS))
    assert str(refusal.value).startswith(f"data: preprocessing: {told}")
    assert "\n" not in str(refusal.value)

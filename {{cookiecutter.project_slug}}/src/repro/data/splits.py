"""Splits the samples into three parts: training (train), validation and test.

A model learns from the training part. The validation part is there to choose between models, and
the test part to judge the chosen one. The test part is split off first, and nothing else sees it:
not validation, folds, sweeps, early stopping or preprocessing. The splitters are scikit-learn's.
They see the samples in the order of their keys, or else of their content's digests, so that a split
does not depend on the order of the rows. Only `time_series` splits by the order of the rows.

    strategy            what each split keeps
    random              nothing
    stratified          the proportions of the classes
    grouped             all samples of a group (a patient, for example) in one part
    stratified_grouped  both of these, as far as possible
    time_series         the order: validation comes after the training part, the test part last
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from sklearn import model_selection

from repro.basics import files, seeds
from repro.basics.digests import sha256
from repro.basics.errors import BadInput
from repro.data import preprocessing
from repro.data.dataset import Dataset, Parts
from repro.recipe import parameters

NAMES = ("train", "validation", "test")


@dataclass(frozen=True)
class Rows:
    """What a splitter sees: positions in the data set, and a label and a group for each.

    All arrays have the shape (rows,).
    """

    places: np.ndarray
    labels: np.ndarray | None = None
    groups: np.ndarray | None = None

    def at(self, chosen: np.ndarray) -> Rows:
        """Returns those of these rows that `chosen` names; it counts among these rows."""
        labels, groups = self.labels, self.groups
        return Rows(
            self.places[chosen],
            None if labels is None else labels[chosen],
            None if groups is None else groups[chosen],
        )


@dataclass(frozen=True)
class Split:
    """The positions of the samples in each part: int64 of shape (samples,), ascending.

    No position is in two parts.
    """

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray

    def parts(self) -> dict[str, np.ndarray]:
        """Returns the positions in each part, by the name of the part."""
        return {name: getattr(self, name) for name in NAMES}

    def digest(self) -> str:
        """Returns the SHA-256 of the positions in all parts."""
        lines = [f"{name} {sha256(places)}\n" for name, places in self.parts().items()]
        return hashlib.sha256("".join(lines).encode()).hexdigest()


def make(dataset: Dataset, asked: parameters.Split) -> Split:
    """Splits a data set as the group `split` of the parameters says.

    Raises:
        BadInput: the numbers or the data do not allow such a split; the message says why.
    """
    strategy, folds, outer = asked.strategy, asked.folds, asked.outer_folds
    rows = _rows(dataset, strategy)
    kept = len(dataset) - dataset.held_out
    apart = rows.at(rows.places >= kept)  # The samples that the data's publisher set aside.
    test, validation = asked.test, asked.validation

    def seed_of(*purpose: str | int) -> int:
        return seeds.seed(asked.seed, *purpose)

    def halves(among: Rows, share: float, *purpose: str) -> tuple[Rows, Rows]:
        return hold_out(among, strategy, share, seed_of(*purpose))

    def fold(among: Rows, of: str, *purpose: str | int) -> tuple[Rows, Rows]:
        number = getattr(asked, of.removesuffix("s"))
        return k_fold(among, strategy, getattr(asked, of), number, seed_of(*purpose))

    if dataset.held_out and outer:
        raise BadInput(
            "split.outer_folds: expected null, since these data have "
            f"{dataset.held_out} samples set aside for the test; got {outer}"
        )
    if dataset.held_out:
        inner = rows.at(rows.places < kept)
        if inner.groups is not None and apart.groups is not None:
            both = np.intersect1d(inner.groups, apart.groups)
            if len(both):
                raise BadInput(
                    f"data: group {both[0]} is among the {dataset.held_out} samples set aside and "
                    "among the others; split.strategy without groups would do"
                )
    elif outer:
        inner, apart = fold(rows, "outer_folds", "test")
        test = 1 / outer
    else:
        inner, apart = halves(rows, test, "test")
    if folds:
        train, chosen = fold(inner, "folds", "folds", asked.repeat)
    elif dataset.held_out:
        train = inner
        chosen, apart = halves(apart, test / (test + validation), "test")
    else:
        train, chosen = halves(inner, validation / (1 - test), "validation")
    if asked.train_size:
        train = few(train, strategy, asked.train_size, seed_of("train_size"))
    split = Split(*(np.sort(part.places) for part in (train, chosen, apart)))
    all_used = not asked.train_size and (strategy != "time_series" or not (folds or outer))
    check(split, dataset, strategy, whole=all_used)
    return split


def hold_out(rows: Rows, strategy: str, share: float, seed: int) -> tuple[Rows, Rows]:
    """Cuts rows in two parts, the second of which has the given share of them.

    With groups the share is only approximate.

    Raises:
        BadInput: a part would be empty, or a class is too small to be in both parts.
    """
    size = len(rows.places)
    part = int(np.ceil(share * size))
    if not 0 < part < size:
        raise BadInput(f"split: a share of {share:.3g} of {size} samples leaves a part empty")
    _enough(rows, 2, "both parts")
    first = np.arange(size)
    if strategy == "time_series":
        return rows.at(first[: size - part]), rows.at(first[size - part :])
    if strategy == "stratified_grouped":
        # scikit-learn has this only for folds. So one fold is taken of as many as give the share.
        return _cut(model_selection.StratifiedGroupKFold, rows, max(2, round(1 / share)), 0, seed)
    kinds = {
        "random": model_selection.ShuffleSplit,
        "stratified": model_selection.StratifiedShuffleSplit,
        "grouped": model_selection.GroupShuffleSplit,
    }
    splitter = kinds[strategy](1, test_size=share, random_state=seed)
    try:
        one, other = next(splitter.split(first, rows.labels, rows.groups))
    except ValueError as error:
        raise BadInput(f"split: {error}") from None
    return rows.at(np.sort(one)), rows.at(np.sort(other))


def few(rows: Rows, strategy: str, size: int, seed: int) -> Rows:
    """Returns `size` of the rows.

    With `time_series` these are the last ones. With other strategies they are drawn, and keep the
    proportions of the classes if the strategy does.

    Raises:
        BadInput: `size` is not smaller than the number of rows, or is smaller than the number of
            classes.
    """
    if size >= len(rows.places):
        raise BadInput(
            f"split.train_size: expected less than the {len(rows.places)} samples of the training "
            f"part, got {size}"
        )
    if strategy == "time_series":
        return rows.at(np.arange(len(rows.places) - size, len(rows.places)))
    stratified = "stratified" in strategy
    kind = model_selection.StratifiedShuffleSplit if stratified else model_selection.ShuffleSplit
    splitter = kind(1, train_size=size, random_state=seed)
    try:
        chosen, _ = next(splitter.split(rows.places, rows.labels))
    except ValueError as error:
        raise BadInput(f"split.train_size: {error}") from None
    return rows.at(np.sort(chosen))


def k_fold(rows: Rows, strategy: str, folds: int, fold: int, seed: int) -> tuple[Rows, Rows]:
    """Cuts rows into folds; returns the rows of all folds but one, and the rows of that one.

    With `time_series` the rows are cut into `folds + 1` blocks. The first block is in no fold. Only
    the rows before a fold are trained on, and those after it are in neither part.

    Args:
        fold: the number of that one fold, counted from 0.

    Raises:
        BadInput: there are more folds than samples, groups or members of a class.
    """
    size = len(rows.places)
    if fold >= folds:
        raise BadInput(f"split: expected a fold from 0 to {folds - 1}, got {fold}")
    if folds + (strategy == "time_series") > size:
        raise BadInput(f"split: {folds} folds need more than {size} samples")
    _enough(rows, folds, f"each of {folds} folds")
    if strategy == "time_series":
        one, other = list(model_selection.TimeSeriesSplit(folds).split(rows.places))[fold]
        return rows.at(one), rows.at(other)
    kinds = {
        "random": model_selection.KFold,
        "stratified": model_selection.StratifiedKFold,
        "grouped": model_selection.GroupKFold,
        "stratified_grouped": model_selection.StratifiedGroupKFold,
    }
    return _cut(kinds[strategy], rows, folds, fold, seed)


def _cut(kind: Any, rows: Rows, folds: int, fold: int, seed: int) -> tuple[Rows, Rows]:
    splitter = kind(folds, shuffle=True, random_state=seed)
    try:
        one, other = list(splitter.split(rows.places, rows.labels, rows.groups))[fold]
    except ValueError as error:
        raise BadInput(f"split: {error}") from None
    return rows.at(one), rows.at(other)


def _enough(rows: Rows, needed: int, where: str) -> None:
    """Checks that each class, and enough groups, can be in every part.

    Raises:
        BadInput: there are too few samples of a class, or too few groups.
    """
    if rows.labels is not None:
        classes, counts = np.unique(rows.labels, return_counts=True)
        least = int(np.argmin(counts))
        if counts[least] < needed:
            raise BadInput(
                f"split.strategy: stratified: class {classes[least]} has {counts[least]} samples, "
                f"too few to be in {where}"
            )
    if rows.groups is not None:
        groups = len(np.unique(rows.groups))
        if groups < needed:
            raise BadInput(f"split.strategy: grouped: {groups} groups, too few to be in {where}")


def _rows(dataset: Dataset, strategy: str) -> Rows:
    """Returns all samples in the order of `Dataset.in_order`; `time_series` keeps their own."""
    labels = groups = None
    if "stratified" in strategy:
        labels = dataset.class_labels()
        if labels is None:
            raise BadInput(
                f"split.strategy: {strategy} needs classes, and the targets do not say one for "
                "each sample; random would do, or a Dataset with `labels`"
            )
    if "grouped" in strategy:
        groups = dataset.groups
        if groups is None:
            raise BadInput(
                f"split.strategy: {strategy} needs a group for each sample, and the data have none"
            )
    places = np.arange(len(dataset))
    rows = Rows(places, labels, groups)
    if strategy == "time_series":
        return rows
    return rows.at(dataset.in_order())


def check(split: Split, dataset: Dataset, strategy: str, whole: bool = True) -> None:
    """Makes sure that a split is correct.

    Args:
        whole: whether each sample has to be in a part.

    Raises:
        AssertionError: a sample is in two parts, or in no part although `whole`; or a group is in
            two parts; or with `time_series` a part does not come after the one before.
    """
    parts = split.parts()
    together = np.concatenate(list(parts.values()))
    unknown = (together < 0) | (together >= len(dataset))
    if unknown.any():
        raise AssertionError(f"a split names sample {together[unknown][0]} of {len(dataset)}")
    if len(np.unique(together)) != len(together):
        raise AssertionError("a sample is in two parts of a split")
    if whole and len(together) != len(dataset):
        raise AssertionError(f"{len(dataset) - len(together)} samples are in no part of a split")
    if "grouped" in strategy and dataset.groups is not None:
        groups = [set(dataset.groups[places].tolist()) for places in parts.values()]
        if sum(map(len, groups)) != len(set().union(*groups)):
            raise AssertionError("a group is in two parts of a split")
    if strategy == "time_series":
        train, validation, test = parts.values()
        if not train.max() < validation.min() <= validation.max() < test.min():
            raise AssertionError("a part of a split in time is not later than the one before")


def describe(split: Split, dataset: Dataset) -> dict[str, Any]:
    """Returns what the manifest says about a split.

    This is its digest, the sizes of the parts, the number of samples of each class, and how many
    samples of validation and test have a sample with equal content in the training part. `repeated`
    counts such contents, and `twins` counts the samples with such a content. The splitters do not
    know that these samples are equal. A group for each content would keep them together.
    """
    labels, digests = dataset.class_labels(), dataset.row_digests
    told: dict[str, Any] = {
        "digest": split.digest(),
        "sizes": {name: len(places) for name, places in split.parts().items()},
        "repeated": {},
        "twins": {},
    }
    train = {digests[place] for place in split.train} if digests else set()
    for name in ("validation", "test") if digests else ():
        found = [digests[place] for place in split.parts()[name]]
        told["repeated"][name] = len(train.intersection(found))
        told["twins"][name] = sum(one in train for one in found)
    if dataset.class_names:
        told["class_names"] = list(dataset.class_names)

    def called(label: Any) -> str:
        named = np.issubdtype(type(label), np.integer) and 0 <= label < len(dataset.class_names)
        return str(dataset.class_names[label] if named else label)

    if labels is not None and len(np.unique(labels)) <= 1000:
        told["classes"] = {
            name: {
                called(label): int(count)
                for label, count in zip(*np.unique(labels[places], return_counts=True), strict=True)
            }
            for name, places in split.parts().items()
        }
    return told


def notes(described: dict[str, Any]) -> list[str]:
    """Returns what a person should know about a split, one line each.

    A result looks better than it is if it was measured on samples that the model has learnt from,
    or if a part has no sample of some class.

    Args:
        described: what `describe` returned.
    """
    sizes, told = described["sizes"], []
    for part, twins in described["twins"].items():
        if twins:
            told.append(
                f"{twins} of the {sizes[part]} samples of the {part} part occur in the training as "
                "well, so that its results are too good; a group for each content "
                "(split.strategy=grouped) keeps them together"
            )
    classes = described.get("classes", {})
    known = dict.fromkeys(label for counts in classes.values() for label in counts)
    for part, counts in classes.items():
        missing = [label for label in known if label not in counts]
        if missing:
            more = f" and {len(missing) - 5} more" if missing[5:] else ""
            told.append(
                f"the {part} part has no sample of class {', '.join(missing[:5])}{more}; "
                "split.strategy=stratified keeps the proportions of the classes"
            )
    return told


def parts(dataset: Dataset, split: Split, dtype: str = "float32", seed: int = 0) -> Parts:
    """Returns the samples of each part; preprocessing is fitted to the training part alone.

    Args:
        dtype: `training.dtype`.
        seed: what the generators of the data set's `augment` are keyed by.

    Raises:
        BadInput: see `preprocessing.preprocessed`.
    """
    made = {name: dataset.whole.at(places) for name, places in split.parts().items()}
    if dataset.preprocessing is not None and dataset.source is not None:
        raise BadInput(
            "data: preprocessing: expected None for samples that are read one by one; what is "
            "fitted to the training can be a layer that `build(…, train)` adapts"
        )
    if dataset.preprocessing is not None:
        x = preprocessing.preprocessed(
            dataset.preprocessing,
            {name: part.x for name, part in made.items()},
            "float64" if dtype == "float64" else "float32",
            dataset.padding,
        )
        made = {name: replace(part, x=x[name]) for name, part in made.items()}
    if dataset.augment is not None:
        made["train"] = made["train"].augmented(dataset.names[split.train], dataset.augment, seed)
    return Parts(**made)


def save(path: Path, split: Split, dataset: Dataset) -> None:
    """Writes a split, with the digest of the data that it is for, as an `.npz` without pickles."""
    about = json.dumps({"digest": split.digest(), "data": dataset.digests})
    np.savez(path, allow_pickle=False, about=np.array(about), **split.parts())


def load(path: Path) -> tuple[Split, dict[str, str]]:
    """Returns a split from a file, and the digests of the data that it is for.

    Raises:
        BadInput: the file is not a split, or was altered.
    """
    try:
        read = files.arrays(path, "a readable split")
        found = {name: read[name] for name in NAMES}
        about = json.loads(str(read["about"]))
        digest, data = about["digest"], dict(about["data"])
        split = Split(**found)
        placed = all(a.ndim == 1 and a.size and a.dtype.kind == "i" for a in found.values())
    except (AttributeError, KeyError, TypeError, ValueError):
        raise BadInput(
            f"{path}: not a readable split: a part or the description is missing"
        ) from None
    if not placed:
        raise BadInput(f"{path}: not a readable split: its parts are not lists of positions")
    if split.digest() != digest:
        raise BadInput(f"{path}: altered since it was written")
    return split, data


def reuse(path: Path, dataset: Dataset, strategy: str, digest: str | None = None) -> Split:
    """Returns a split from a file, and checks that it is for these data.

    Args:
        digest: the digest that the split must have; None: any.

    Raises:
        BadInput: the file is not a split, was altered, has another digest, or is for other data.
    """
    split, data = load(path)
    if digest is not None and split.digest() != digest:
        raise BadInput(
            f"split.file: expected the split {digest[:16]}… in {path}, got "
            f"{split.digest()[:16]}…; put the file back (git has it, if it was committed)"
        )
    if data != dataset.digests:
        raise BadInput(f"split.file: {path} was made for other data")
    try:
        check(split, dataset, strategy, whole=False)
    except AssertionError as error:
        raise BadInput(f"split.file: {path}: {error}") from None
    return split

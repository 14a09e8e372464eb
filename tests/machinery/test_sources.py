"""Structures of arrays, samples that are read one by one, and what is fitted to the training."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler, OneHotEncoder, StandardScaler

from repro import ArrayFile, BadInput, Dataset, ImageFolder, Mapped, Rows
from repro.basics.digests import Streamed, sha256
from repro.data import datafiles, datalock, feed, splits, structure
from repro.data.dataset import Part
from repro.data.feed import AHEAD, CHUNK, CHUNK_BYTES, Chunk, Feed, Seen, steps_of_chunk
from repro.data.preprocessing import preprocessed
from repro.environment import machine
from repro.recipe.parameters import Split
from repro.run import launcher
from repro.run.steps import chunks

SAMPLES = 50
X = np.arange(SAMPLES * 3, dtype=np.float32).reshape(SAMPLES, 3)
Y = (np.arange(SAMPLES) % 5).astype(np.int32)
KEYS = np.array([f"{(7 * n) % SAMPLES:03d}.png" for n in range(SAMPLES)])


class Listed:
    """A source: rows of `X`, each of which may be replaced by another sample or an error."""

    keys = KEYS

    def __init__(self, changed: dict[int, Any] | None = None) -> None:
        self.changed, self.asked = changed or {}, list[int]()

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, place: int, /) -> Any:
        self.asked.append(place)
        found = self.changed.get(place, X[place])
        if isinstance(found, Exception):
            raise found
        return found


def noisy(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return (x + rng.normal(size=x.shape)).astype(np.float32)


# Structures


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (1, ["x"]),
        ({"b": 1, "a": 2}, ["x/a", "x/b"]),
        ((1, [2, {"deep": 3}]), ["x/0", "x/1/0", "x/1/1/deep"]),
    ],
)
def test_names_are_flat_and_lead_back(content: Any, names: list[str]) -> None:
    flat = structure.flat("x", content)
    assert list(flat) == names
    assert structure.packed("x", content, flat) == content
    assert type(structure.packed("x", content, flat)) is type(content)


@pytest.mark.parametrize("key", ["a/b", "", 3, "a\n"])
def test_a_key_that_is_no_word_is_refused(key: Any) -> None:
    with pytest.raises(BadInput, match=r"data: x: expected words as keys, without a slash, got"):
        Dataset({key: X}, Y)


def test_an_empty_structure_is_refused() -> None:
    with pytest.raises(BadInput, match="data: x: expected arrays, got an empty list"):
        Dataset([], Y)


def test_every_array_of_a_structure_is_looked_at() -> None:
    with pytest.raises(BadInput, match=r"data: x/b: expected as many as x has samples, 50, got 9"):
        Dataset({"a": X, "b": X[:9]}, Y)
    with pytest.raises(BadInput, match=r"data: y/0: expected finite numbers, got nan at \[0\]"):
        Dataset(X, (np.full(SAMPLES, np.nan), Y))


def test_digests_and_rows_have_the_names_of_arrays() -> None:
    made = Dataset({"left": X, "right": -X}, (Y, X), labels=Y)
    names = ["x/left", "x/right", "y/0", "y/1", "labels"]
    assert list(made.digests) == names
    assert made.digests["x/right"] == sha256(-X)
    (x, y) = made.whole.rows(np.array([3]))
    assert (x["left"] == X[[3]]).all() and (y[0] == Y[[3]]).all()


def test_class_names_say_how_many_classes_there_are() -> None:
    assert Dataset(X, Y, class_names=["a", "b", "c", "d", "e"]).classes == 5
    with pytest.raises(BadInput, match="class_names: expected 5, one for each class, got 2"):
        Dataset(X, Y, classes=5, class_names=["a", "b"])


# Splits


def asked(**changed: Any) -> Split:
    return Split(strategy="stratified", test=0.2, validation=0.2, **changed)


def keys_of(dataset: Dataset, split: splits.Split) -> dict[str, list[str]]:
    return {name: sorted(dataset.names[places]) for name, places in split.parts().items()}


def test_a_split_goes_by_keys_and_not_by_order_or_content() -> None:
    one = Dataset(X, Y, classes=5, keys=KEYS)
    turned = Dataset(-X[::-1], Y[::-1], classes=5, keys=KEYS[::-1])
    found = [keys_of(data, splits.make(data, asked())) for data in (one, turned)]
    assert found[0] == found[1]
    without = Dataset(-X, Y, classes=5), Dataset(X, Y, classes=5)
    differ = [splits.make(data, asked()).train.tolist() for data in without]
    assert differ[0] != differ[1]


def test_a_source_is_split_as_the_same_samples_in_memory() -> None:
    memory, source = Dataset(X, Y, classes=5, keys=KEYS), Dataset(Listed(), Y, classes=5)
    one, other = (splits.make(data, asked()) for data in (memory, source))
    assert one.digest() == other.digest()
    assert source.source is not None
    assert source.source.asked in ([0], [0, 0])  # type: ignore[attr-defined]


def test_labels_say_what_is_stratified_where_targets_are_no_classes() -> None:
    with pytest.raises(BadInput, match="or a Dataset with `labels`"):
        splits.make(Dataset(X, X), asked())
    split = splits.make(Dataset(X, X, labels=Y), asked())
    assert np.bincount(Y[split.test]).tolist() == [2] * 5


def test_a_key_that_is_there_twice_is_refused() -> None:
    with pytest.raises(BadInput, match=r"keys: expected each key once, .*'a'.* is there twice"):
        Dataset(X, Y, keys=np.array(["a", "a", *KEYS[2:]]))


# What is fitted to the training


def test_a_one_hot_may_change_the_columns_and_the_type() -> None:
    x = np.array([["a"], ["b"]] * 10)
    made = Dataset(x, Y[:20], classes=5, preprocessing=OneHotEncoder())
    parts = splits.parts(made, splits.make(made, Split(strategy="random")))
    assert parts.train.x.shape == (len(parts.train), 2) and parts.train.x.dtype == np.float32
    assert (parts.train.x.sum(axis=1) == 1).all()


def test_whole_numbers_are_not_cast_back() -> None:
    parts = {"train": np.array([[0], [16]], np.uint8), "test": np.array([[8]], np.uint8)}
    found = preprocessed(StandardScaler(), parts, "float32")
    assert found["train"].tolist() == [[-1], [1]] and found["test"].tolist() == [[0]]
    assert found["test"].dtype == np.float32


def test_components_take_the_place_of_columns() -> None:
    parts = {"train": X.astype(np.float64)}
    assert preprocessed(PCA(2), parts, "float32")["train"].shape == (SAMPLES, 2)
    assert preprocessed(PCA(2), parts, "float32")["train"].dtype == np.float64


@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (CountVectorizer(), [[1, 0, 2], [0, 1, 0]]),
        (make_pipeline(CountVectorizer(), MaxAbsScaler()), [[1, 0, 1], [0, 1, 0]]),
        ({"text": CountVectorizer(max_features=1)}, [[2], [0]]),
    ],
)
def test_a_transformer_of_texts_gets_texts(asked: Any, expected: Any, shape: Any) -> None:
    texts = np.array(["red red apple", "pear"]).reshape(shape)
    named = isinstance(asked, dict)
    parts = {"train": {"text": texts} if named else texts}
    made = preprocessed(asked, parts, "float32")["train"]
    assert (made["text"] if named else made).tolist() == expected


def test_each_array_has_its_own_transformer() -> None:
    parts = {"train": {"age": X, "word": np.array(["a", "b"] * 25)}}
    asked = {"age": StandardScaler(), "word": OneHotEncoder()}
    parts["train"]["word"] = parts["train"]["word"][:, None]
    found = preprocessed(asked, parts, "float32")["train"]
    assert abs(found["age"].mean(axis=0)).max() < 1e-6 and found["word"].shape == (SAMPLES, 2)
    with pytest.raises(BadInput, match="expected names among age, word, got 'size'"):
        preprocessed({"size": StandardScaler()}, parts, "float32")


def test_padding_stays_what_a_mask_looks_for() -> None:
    sequences = np.zeros((4, 5, 2), np.float32)
    sequences[0, :5], sequences[1, :2] = 3, 7
    sequences[2, :1] = 5
    made = preprocessed(StandardScaler(), {"train": sequences}, "float32", padding=0)["train"]
    padded = (sequences == 0).all(axis=-1)
    assert (made[padded] == 0).all() and (made[~padded] != 0).any()
    assert abs(made[~padded].mean()) < 1e-6
    flat = preprocessed(StandardScaler(), {"train": sequences}, "float32")["train"]
    assert (flat[padded] != 0).any(), "without padding= it moves the steps that fill up"


# Reading


def part_of(source: Listed, augment: Any = None) -> Part:
    whole = Dataset(source, Y, classes=5).whole
    return whole if augment is None else whole.augmented(KEYS, augment, 1)


def read(part: Part, readers: int, epoch: int | None = 1, most: int = 99) -> list[Chunk]:
    order = np.random.default_rng(3).permutation(SAMPLES).astype(np.int32)
    return list(Feed(part, readers).chunks(chunks(order, 8, most), epoch))


@pytest.mark.parametrize("readers", [0, 1, 2, 4])
def test_the_number_of_readers_changes_nothing(readers: int) -> None:
    found = read(part_of(Listed(), noisy), readers, most=2)
    expected = read(part_of(Listed(), noisy), 0, most=2)
    assert [chunk.digest for chunk in found] == [chunk.digest for chunk in expected]
    for chunk, other in zip(found, expected, strict=True):
        assert chunk.content is not None and other.content is not None
        assert (chunk.content["x"] == other.content["x"]).all()
        assert (chunk.content["y"] == Y[chunk.indices]).all()


def test_there_is_a_reader_for_each_core_unless_a_number_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("REPRO_READERS", raising=False)
    assert launcher._readers() == machine.available_cores()
    for said in ("0", "3", "64"):
        monkeypatch.setenv("REPRO_READERS", said)
        assert launcher._readers() == int(said)
    for said in ("", "-1", "65", "many"):
        monkeypatch.setenv("REPRO_READERS", said)
        with pytest.raises(BadInput, match="REPRO_READERS: expected a number from 0 to 64, got"):
            launcher._readers()


def test_what_is_read_is_what_is_there_in_order() -> None:
    for chunk in read(part_of(Listed()), 2):
        assert chunk.content is not None
        assert (chunk.content["x"] == X[chunk.indices]).all()


def test_a_sample_is_augmented_by_seed_epoch_and_key_alone() -> None:
    part = part_of(Listed(), noisy)
    one = part.rows(np.array([4, 9]), epoch=2)[0]
    other = part.rows(np.array([9]), epoch=2)[0]
    assert (one[1] == other[0]).all()
    assert (one[1] != part.rows(np.array([9]), epoch=3)[0][0]).any()
    assert (part.rows(np.array([9]))[0][0] == X[9]).all(), "it is not augmented outside an epoch"
    turned = part.at(np.arange(SAMPLES)[::-1])
    assert (turned.rows(np.array([SAMPLES - 1 - 9]), epoch=2)[0][0] == other[0]).all()


@pytest.mark.parametrize("x", [X, Listed()], ids=["in memory", "read"])
def test_a_part_is_gone_through_in_batches(x: Any) -> None:
    found = list(Dataset(x, Y, classes=5).whole.batches(20))
    assert [len(one) for one, _ in found] == [20, 20, 10]
    np.testing.assert_array_equal(np.concatenate([one for one, _ in found]), X)
    np.testing.assert_array_equal(np.concatenate([one for _, one in found]), Y)


def test_arrays_in_memory_can_be_augmented() -> None:
    data = Dataset(X, Y, classes=5, keys=KEYS, augment=noisy)
    parts = splits.parts(data, splits.make(data, asked()), seed=1)
    assert parts.train.reader is not None and parts.test.reader is None
    (chunk,) = Feed(parts.train).chunks([np.zeros((1, 1), np.int32)], 2)
    assert chunk.content is not None
    key = int(splits.make(data, asked()).train[0])
    assert (
        chunk.content["x"][0, 0] == part_of(Listed(), noisy).rows(np.array([key]), 2)[0][0]
    ).all()


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (OSError("torn"), "torn"),
        (np.zeros(4, np.float32), r"x: expected shape \(3,\) and type float32, .*, got \(4,\)"),
        (np.zeros(3), r"x: expected .* type float32, as the first sample has, got .*float64"),
        ({"a": X[0]}, "expected x, which the first sample has"),
        (np.array([None] * 3), "x: expected numbers or words, got"),
    ],
)
@pytest.mark.parametrize("readers", [0, 2])
def test_a_sample_that_cannot_be_read_is_named(found: Any, told: str, readers: int) -> None:
    threads = threading.active_count()
    part = part_of(Listed({17: found, 18: OSError("another")}))
    order = np.array([[1, 17, 18]], np.int32)
    with pytest.raises(BadInput, match=rf"^data: sample {KEYS[17]}: {told}"):
        list(Feed(part, readers).chunks([order]))
    assert threading.active_count() == threads, "a reader was left behind"


def test_readers_are_ahead_by_a_few_chunks_and_end_with_who_asks() -> None:
    source = Listed()
    given = Feed(part_of(source), 2)
    cut = [np.full((1, 1), number, np.int32) for number in range(SAMPLES)]
    before, threads = len(source.asked), threading.active_count()
    passed = given.chunks(cut)
    for _ in itertools.islice(passed, 3):
        pass
    assert len(source.asked) - before <= 3 + AHEAD + 1
    passed.close()  # type: ignore[attr-defined]
    assert threading.active_count() == threads


def test_a_chunk_of_large_samples_is_short() -> None:
    large = Listed({0: np.zeros((1000, 1000), np.float32)})
    assert steps_of_chunk(part_of(large), 2) == CHUNK_BYTES // (2 * (4_000_000 + 4))
    assert steps_of_chunk(part_of(large), 2000) == 1
    assert steps_of_chunk(part_of(Listed()), 8) == CHUNK == steps_of_chunk(Part(X, Y), 8)


def test_a_sample_that_changes_under_a_run_is_named(tmp_path: Path) -> None:
    order = np.arange(SAMPLES, dtype=np.int32).reshape(5, 10)
    for readers in (0, 2):
        run = tmp_path / str(readers)
        run.mkdir()
        list(Feed(part_of(Listed()), readers, Seen(run, KEYS)).chunks([order]))
        # A run that goes on has the file of the process before it.
        again = Feed(part_of(Listed({31: X[0]})), readers, Seen(run, KEYS))
        with pytest.raises(BadInput, match=f"data: sample {KEYS[31]}: it was changed while"):
            list(again.chunks([order]))


def test_samples_that_two_runs_read_otherwise_are_named(tmp_path: Path) -> None:
    order = np.arange(SAMPLES - 1, dtype=np.int32)[None]
    for name, changes in (("one", {}), ("other", {31: X[0], 3: X[1], SAMPLES - 1: X[1]})):
        (tmp_path / name).mkdir()
        list(Feed(part_of(Listed(changes)), 0, Seen(tmp_path / name, KEYS)).chunks([order]))
    # The last sample was read by neither.
    assert feed.changed(tmp_path / "one", tmp_path / "other") == [KEYS[3], KEYS[31]]


def test_a_mapped_file_is_read_one_by_one(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    data = Dataset(np.load(tmp_path / "x.npy", mmap_mode="r"), Y, classes=5)
    assert data.source is not None
    assert (data.whole.rows(np.array([4, 2]))[0] == X[[4, 2]]).all()


def test_pairs_have_their_targets_read() -> None:
    pairs = [(X[n], {"mask": -X[n]}) for n in range(SAMPLES)]
    data = Dataset(_Pairs(pairs), labels=Y)
    (chunk,) = Feed(data.whole).chunks([np.array([[5, 6]], np.int32)])
    assert chunk.content is not None
    assert (chunk.content["y/mask"][0] == -X[[5, 6]]).all()
    assert list(data.whole.fields()) == ["x", "y/mask"]


def test_a_source_without_targets_is_told_where_they_go() -> None:
    told = r"data: expected pairs of x and y .*, since no y is given; got ndarray; y of the Dataset"
    with pytest.raises(BadInput, match=told):
        Dataset(Listed())


def test_words_may_have_any_length() -> None:
    words = [np.array("a" * n) for n in range(1, SAMPLES + 1)]
    data = Dataset(_Pairs(words), Y, classes=5)
    (chunk,) = Feed(data.whole, 1).chunks([np.array([[0, 48], [1, 2]], np.int32)])
    assert chunk.content is not None
    assert chunk.content["x"].tolist() == [["a", "a" * 49], ["aa", "aaa"]]


class _Pairs:
    def __init__(self, pairs: list[Any]) -> None:
        self._pairs = pairs

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, place: int, /) -> Any:
        return self._pairs[place]


def test_a_digest_of_rows_is_that_of_the_array() -> None:
    for array in (X, Y, X.astype(">f8"), np.zeros((SAMPLES, 2, 2), bool)):
        found = Streamed(array.dtype, array.shape)
        for start in range(0, SAMPLES, 7):
            found.update(array[start : start + 7])
        assert found.hexdigest() == sha256(array)


@pytest.mark.parametrize("made", [0, 2, 4, 6])
def test_the_rest_of_an_epoch_is_cut_as_the_whole_of_it(made: int) -> None:
    order = np.arange(SAMPLES, dtype=np.int32)
    whole = list(chunks(order, 8, most=2))
    rest = list(chunks(order, 8, most=2, made=made))
    assert [one.tolist() for one in rest] == [one.tolist() for one in whole[made // 2 :]]


# Ready-made sources, and what is none


@pytest.fixture
def flowers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a folder of images in two classes; each image is of one colour."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("REPRO_DATA", raising=False)
    monkeypatch.setattr(datalock, "_known", {})
    folder = tmp_path / "data" / "flowers"
    for name, colour in (("rose/b.png", 7), ("rose/a.png", 8), ("daisy/c.png", 9)):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (6, 4), (colour, 0, 0)).save(path)
    (folder / "rose" / "readme.txt").write_text("no image")
    datafiles.add(tmp_path, folder)
    return folder


def test_images_are_listed_by_class_and_read_one_by_one(flowers: Path) -> None:
    images = ImageFolder("flowers")
    assert list(images.keys) == ["daisy/c.png", "rose/a.png", "rose/b.png"]
    assert images.class_names == ["daisy", "rose"]
    assert images.labels is not None and images.labels.tolist() == [0, 1, 1]
    assert [images[place][0, 0, 0] for place in range(3)] == [9, 8, 7]
    assert images[0].shape == (4, 6, 3) and images[0].dtype == np.uint8
    small = ImageFolder("flowers", (2, 3), grey=True)[0]
    assert small.shape == (2, 3, 1)
    made = Dataset(images, images.labels)
    assert made.classes == 2 and list(made.class_names) == ["daisy", "rose"]
    assert list(made.names) == list(images.keys)


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (
            lambda path: path.write_bytes(path.read_bytes()[:-1] + b"x"),
            "its SHA-256 is .*repro data",
        ),
        (lambda path: path.unlink(), "No such file"),
    ],
    ids=["changed", "missing"],
)
def test_an_image_that_is_not_the_locked_one_is_named(
    harm: Callable[[Path], object], told: str, flowers: Path
) -> None:
    images = ImageFolder("flowers")
    harm(flowers / "rose" / "a.png")
    part = Dataset(images, images.labels).whole
    with pytest.raises(BadInput, match=f"data: sample rose/a.png: .*{told}"):
        part.rows(np.arange(3))


def test_an_image_with_the_name_of_another_format_is_read(flowers: Path) -> None:
    png = (flowers / "rose" / "a.png").read_bytes()
    (flowers / "rose" / "d.jpg").write_bytes(png)
    datafiles.add(Path(), flowers)
    images = ImageFolder("flowers")
    assert list(images.keys)[-1] == "rose/d.jpg"
    np.testing.assert_array_equal(images[3], images[1])


def test_a_torn_image_is_named(flowers: Path) -> None:
    path = flowers / "rose" / "a.png"
    path.write_bytes(path.read_bytes()[:45])
    datafiles.add(Path(), path)
    images = ImageFolder("flowers")
    with pytest.raises(BadInput, match=r"data: sample rose/a\.png: "):
        Dataset(images, images.labels).whole.rows(np.arange(3))


def test_a_folder_without_images_is_refused(flowers: Path) -> None:
    for path in flowers.glob("*/*.png"):
        path.unlink()
    Path("data.lock").unlink()
    datafiles.add(Path(), flowers)
    with pytest.raises(BadInput, match="flowers: no image in it"):
        ImageFolder("flowers")


@pytest.mark.parametrize("dtype", ["<f4", ">i2", "<U3", "?"])
def test_rows_of_a_file_are_those_of_the_array(dtype: str, tmp_path: Path) -> None:
    array = X.astype(dtype)
    np.save(tmp_path / "x.npy", array)
    file = ArrayFile(tmp_path / "x.npy")
    made = Dataset(file, Y)
    assert (len(file), file.shape) == (SAMPLES, array.shape)
    assert made.source is not None
    (found, _) = made.whole.rows(np.arange(SAMPLES))
    np.testing.assert_array_equal(found, array)
    assert found.dtype == array.dtype.newbyteorder("=")
    named = Dataset(Rows({"a": file, "b": X}), Y).whole
    assert named.fields()["x/a"].shape == (3,)
    np.testing.assert_array_equal(named.rows(np.array([4]))[0]["a"], array[4:5])


def test_a_function_makes_samples_of_those_of_another_source() -> None:
    made = Dataset(Mapped(Listed(), lambda x: (x * 2, np.int32(x[0] % 5))), classes=5)
    assert list(made.names) == list(KEYS)
    x, y = made.whole.rows(np.array([3, 1]))
    np.testing.assert_array_equal(x, 2 * X[[3, 1]])
    np.testing.assert_array_equal(y, X[[3, 1], 0] % 5)


def test_an_array_of_hdf5_is_a_source(tmp_path: Path) -> None:
    with pytest.importorskip("h5py").File(tmp_path / "x.h5", "w") as file:
        made = Dataset(file.create_dataset("x", data=X), Y)
        assert made.source is not None
        (found, _) = made.whole.rows(np.array([3, 0]))
        np.testing.assert_array_equal(found, X[[3, 0]])
        with pytest.raises(BadInput, match="x: expected a NumPy array, got DataFrame"):
            Dataset(DataFrame(), Y)


class DataFrame:
    """A table of another library's, which is in memory: it can be calculated with."""

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, name: str, /) -> None:
        raise KeyError(name)

    def __mul__(self, other: object) -> None:
        raise NotImplementedError


def test_a_file_that_has_no_rows_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    for content, told in (
        (np.asfortranarray(X), "got columns"),
        (np.array(3), "got a single value"),
        (np.array([{}]), "got an array of Python objects"),
    ):
        np.save(path, content, allow_pickle=True)
        with pytest.raises(BadInput, match=f"x.npy: expected the rows of an array.*{told}"):
            ArrayFile(path)
    path.write_bytes(b"no array")
    with pytest.raises(BadInput, match=r"x\.npy: not an .npy file: "):
        ArrayFile(path)
    np.save(path, X)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BadInput, match=r"data: sample 49: .* ends before it"):
        read(Dataset(ArrayFile(path), Y).whole, 0)


class PyDataset:
    """Batches of pairs, as Keras's class of this name has them; the last has fewer."""

    def __len__(self) -> int:
        return 7

    def __getitem__(self, place: int, /) -> Any:
        return X[place * 8 : place * 8 + 8], Y[place * 8 : place * 8 + 8]


def test_the_samples_of_batches_are_had_one_by_one() -> None:
    made = Dataset(PyDataset(), classes=5)
    assert len(made) == SAMPLES and made.source is not None
    x, y = made.whole.rows(np.array([3, 49, 8]))
    np.testing.assert_array_equal(x, X[[3, 49, 8]])
    np.testing.assert_array_equal(y, Y[[3, 49, 8]])


@pytest.mark.parametrize(
    ("x", "told"),
    [
        ((sample for sample in X), "got generator, which gives them in its own order alone"),
        (iter(X), "which gives them in its own order alone"),
        ("words", "a NumPy array, got str"),
    ],
)
def test_what_has_no_places_is_refused(x: Any, told: str) -> None:
    with pytest.raises(BadInput, match=f"data: x: expected .*{told}"):
        Dataset(x, Y)


# Samples that cannot be read and are skipped


def test_the_next_sample_stands_for_one_that_cannot_be_read(tmp_path: Path) -> None:
    torn = Listed({3: OSError("torn"), 4: OSError("torn"), 49: OSError("torn")})
    data = Dataset(torn, Y, classes=5, on_error="skip")
    seen = Seen(tmp_path, data.names)
    indices = np.arange(SAMPLES, dtype=np.int32).reshape(10, 5)
    for readers in (0, 3):
        (chunk,) = Feed(data.whole, readers, seen).chunks([indices])
        expected = np.arange(SAMPLES)
        expected[[3, 4, 49]] = [5, 5, 0]
        assert chunk.content is not None and chunk.read is not None
        np.testing.assert_array_equal(chunk.read.reshape(-1), expected)
        np.testing.assert_array_equal(chunk.content["x"].reshape(-1, 3), X[expected])
        np.testing.assert_array_equal(chunk.content["y"].reshape(-1), Y[expected])
    assert list(seen.skipped()) == list(KEYS[[3, 4, 49]])
    assert seen.notes()[0].startswith(
        f"3 samples could not be read, and the next ones stood for them: {KEYS[3]}"
    )
    x, y = data.whole.rows(np.array([2, 3]))
    np.testing.assert_array_equal((x, y)[0], X[[2, 5]])
    np.testing.assert_array_equal(y, Y[[2, 5]])


def test_a_sample_that_can_be_read_only_at_times_is_no_sample_to_skip(tmp_path: Path) -> None:
    torn = Listed({3: OSError("torn")})
    data = Dataset(torn, Y, classes=5, on_error="skip")
    seen = Seen(tmp_path, data.names)
    indices = np.arange(SAMPLES, dtype=np.int32).reshape(10, 5)
    list(Feed(data.whole, 0, seen).chunks([indices]))
    torn.changed.clear()
    with pytest.raises(BadInput, match=f"data: sample {KEYS[3]}: it was changed while this run"):
        list(Feed(data.whole, 0, seen).chunks([indices]))


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (BadInput("it is not the locked one"), "it is not the locked one"),
        (X[0, :2], "x: expected shape"),
        ("a word", "x: expected shape"),
    ],
)
def test_what_can_be_read_and_is_wrong_is_not_skipped(found: Any, told: str) -> None:
    data = Dataset(Listed({3: found}), Y, classes=5, on_error="skip")
    with pytest.raises(BadInput, match=f"data: sample {KEYS[3]}: {told}"):
        read(data.whole, 0)


def test_a_fault_of_augment_is_not_skipped() -> None:
    def augment(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        raise ValueError("no luck")

    part = Dataset(Listed(), Y, classes=5, on_error="skip").whole.augmented(KEYS, augment, 1)
    with pytest.raises(BadInput, match=r"data: sample \d+.png: no luck"):
        read(part, 0)


def test_where_no_sample_can_be_read_nothing_stands_for_them() -> None:
    none = Listed({place: OSError("torn") for place in range(SAMPLES)})
    with pytest.raises(BadInput, match=f"data: sample {KEYS[49]}: torn"):
        Dataset(none, Y, classes=5, on_error="skip")


def test_without_it_a_sample_that_cannot_be_read_is_an_end() -> None:
    data = Dataset(Listed({3: OSError("torn")}), Y, classes=5)
    with pytest.raises(BadInput, match=f"data: sample {KEYS[3]}: torn"):
        read(data.whole, 0)
    with pytest.raises(BadInput, match="data: on_error: expected fail or skip, got 'ignore'"):
        Dataset(X, Y, on_error="ignore")  # type: ignore[arg-type]

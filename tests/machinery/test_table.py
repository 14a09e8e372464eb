"""Tables in CSV and Parquet files: what a row becomes, what is refused, and what is kept."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repro import BadInput, Dataset, Rows, Table
from repro.basics import files, locks
from repro.basics.digests import sha256
from repro.data import arrow, conversion, datalock, sources, splits, table
from repro.data.feed import Feed
from repro.recipe.parameters import Split

pyarrow = pytest.importorskip("pyarrow", reason="tables are read by pyarrow")
csv = pytest.importorskip("pyarrow.csv")
parquet = pytest.importorskip("pyarrow.parquet")
pandas = pytest.importorskip("pandas")

ROWS = 50
NUMBERS = {
    name: np.arange(ROWS).astype(name) for name in conversion.TYPES if name not in ("bool", "str")
}
WORDS = np.array([("é" * (n % 4)) + f" {n}" for n in range(ROWS)])
COLUMNS = {
    "id": np.array([f"row-{(7 * n) % ROWS:02d}" for n in range(ROWS)]),
    "age": np.linspace(20, 80, ROWS).astype(np.float32),
    "visits": np.arange(ROWS, dtype=np.int16),
    "smokes": np.arange(ROWS) % 3 == 0,
    "town": WORDS,
    "ill": (np.arange(ROWS) % 5).astype(np.int32),
    "days": np.arange(ROWS) / 8,
}
X = ["age", "visits", "smokes", "town"]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project, which is the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datalock, "_known", {})
    return tmp_path


def written(name: str = "a.parquet", group: int = 7, /, **columns: Any) -> Path:
    """Writes a table of these columns, or else of `COLUMNS`; `group` is for Parquet, in rows."""
    path, made = Path(name), pyarrow.table(columns or COLUMNS)
    if path.suffix == ".parquet":
        parquet.write_table(made, path, row_group_size=group)
    else:
        csv.write_csv(made, path)
    return path


def text(content: str, name: str = "a.csv") -> Path:
    path = Path(name)
    path.write_text(content, encoding="utf-8")
    return path


def column(read: Table, name: str) -> list[Any]:
    return [read[place][name].item() for place in range(len(read))]


def conversions(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The tables that are converted from now on."""
    seen: list[Path] = []
    original = conversion.convert

    def convert(path: Path, *others: Any) -> Any:
        seen.append(path)
        return original(path, *others)

    monkeypatch.setattr(conversion, "convert", convert)
    return seen


# What a row becomes


@pytest.mark.parametrize("name", ["a.parquet", "a.csv"])
def test_a_row_has_the_values_that_the_columns_have_in_memory(name: str) -> None:
    types = {"age": "float32", "visits": "int16", "ill": "int32"}
    read = Table(written(name), X, ["ill", "days"], keys="id", labels="ill", types=types)
    memory = Rows(({n: COLUMNS[n] for n in X}, {n: COLUMNS[n] for n in ("ill", "days")}))
    assert len(read) == ROWS
    for place in range(ROWS):
        found, expected = (sources.flat(one[place], True) for one in (read, memory))
        assert {n: (a.dtype, a.shape, a.item()) for n, a in found.items()} == {
            n: (a.dtype, a.shape, a.item()) for n, a in expected.items()
        }
        assert sources.digest(found) == sources.digest(expected)
    assert read.keys is not None and sha256(read.keys) == sha256(COLUMNS["id"])
    assert read.labels is not None and sha256(read.labels) == sha256(COLUMNS["ill"])
    assert read.groups is None


def test_a_type_is_that_of_the_file() -> None:
    read = Table(written(**NUMBERS, word=WORDS, odd=COLUMNS["smokes"]))
    for name, array in NUMBERS.items():
        assert read[3][name].dtype == array.dtype == np.dtype(name)
        assert column(read, name) == array.tolist()
    assert read[1]["odd"].dtype == bool and read[1]["word"].dtype == WORDS[1].dtype
    assert column(read, "word") == WORDS.tolist()


@pytest.mark.parametrize("kind", conversion.TYPES)
def test_a_type_is_that_which_is_asked_for(kind: str) -> None:
    for path in (written(a=np.array([0, 1, 1])), text("a\n0\n1\n1\n")):
        read = Table(path, types={"a": kind})
        assert column(read, "a") == np.array([0, 1, 1]).astype(kind).tolist()
        assert read[1]["a"].dtype == np.array([0, 1, 1]).astype(kind)[1].dtype or kind == "str"


def test_words_may_be_stored_in_any_way() -> None:
    words = pyarrow.array(["a", "bcd", "a", ""])
    ways = ["large_string", "string_view"]
    stored = {way: words.cast(pyarrow.type_for_alias(way)) for way in ways}
    frame = pandas.DataFrame({"category": pandas.Categorical(words.to_pylist())})
    frame.to_parquet("frame.parquet", index=False)
    read = Table(written(**stored, dictionary=words.dictionary_encode(), plain=words))
    for name in (*ways, "dictionary", "plain"):
        assert column(read, name) == ["a", "bcd", "a", ""]
    assert column(Table(Path("frame.parquet")), "category") == ["a", "bcd", "a", ""]
    assert column(Table(text('a,b\n1,\n2,"x\ny"\n3,NA\n')), "b") == ["", "x\ny", "NA"]


def test_a_missing_number_is_nan() -> None:
    for kind in ("float16", "float32", "float64"):
        values = pyarrow.array([1.5, None, 2.5], pyarrow.from_numpy_dtype(np.dtype(kind)))
        found = [Table(written(a=values))[place]["a"] for place in range(3)]
        assert [one.dtype for one in found] == [np.dtype(kind)] * 3
        assert np.isnan(found[1]) and [found[0], found[2]] == [1.5, 2.5]
    assert np.isnan(Table(text("a,b\n1.5,1\n,2\n"))[1]["a"])
    whole = Table(written(a=pyarrow.array([1, None])), types={"a": "float32"})
    assert np.isnan(whole[1]["a"]) and whole[0]["a"].dtype == np.float32


def test_x_is_all_that_is_nothing_else() -> None:
    read = Table(written(), y="ill", keys="id", groups="town", labels="ill")
    assert list(read[0][0]) == ["age", "visits", "smokes", "days"]
    assert read.groups is not None and read.groups.tolist() == WORDS.tolist()
    # What is asked for by name may be both.
    assert "town" in Table(written(), ["town"], "ill", groups="town")[0][0]


def test_y_is_a_value_or_a_dict_as_it_is_asked_for() -> None:
    x, y = Table(written(), ["age"], "ill")[7]
    assert x.keys() == {"age"} and y == COLUMNS["ill"][7] and y.shape == ()
    assert list(Table(written(), ["age"], ["ill"])[7][1]) == ["ill"]
    assert list(Table(written(), ["age"])[7]) == ["age"]


def test_columns_may_have_any_name_that_a_dict_may() -> None:
    names = ["a.b", "a", "größe (cm)", "f0"]
    read = Table(written(**{name: np.arange(3) + n for n, name in enumerate(names)}))
    assert [int(read[2][name]) for name in names] == [2, 3, 4, 5]


@pytest.mark.parametrize(
    ("name", "delimiter", "between"),
    [("a.tsv", None, "\t"), ("a.csv", ";", ";"), ("a.txt", None, ",")],
)
def test_a_text_may_have_another_delimiter(name: str, delimiter: str | None, between: str) -> None:
    path = text(f"a{between}b\n1{between}2\n", name)
    assert Table(path, delimiter=delimiter)[0] == {"a": 1, "b": 2}


def test_places_before_the_first_and_after_the_last_are_none() -> None:
    read = Table(written())
    for place in (-1, ROWS):
        with pytest.raises(IndexError):
            read[place]


# As the source of a data set


def test_a_data_set_takes_from_it_what_it_says_of_its_samples() -> None:
    read = Table(written(), X, "ill", labels="ill", groups="town", keys="id")
    data = Dataset(read, classes=5)
    for name in ("keys", "labels", "groups"):
        assert (getattr(data, name) == getattr(read, name)).all()
    memory = {n: COLUMNS[n] for n in X}
    same = Dataset(
        *(memory, COLUMNS["ill"]),
        classes=5,
        labels=COLUMNS["ill"],
        groups=WORDS,
        keys=COLUMNS["id"],
    )
    asked = Split(strategy="stratified", test=0.2, validation=0.2)
    one, other = (splits.make(each, asked) for each in (data, same))
    assert one.digest() == other.digest()
    assert {n: data.digests[n] for n in ("keys", "labels", "groups")} == {
        n: same.digests[n] for n in ("keys", "labels", "groups")
    }
    (chunk,) = Feed(data.whole, 2).chunks([np.array([[4, 1, 4]], np.int32)])
    assert chunk.content is not None
    for name in X:
        assert (chunk.content[f"x/{name}"] == COLUMNS[name][[4, 1, 4]]).all()
    assert (chunk.content["y"] == COLUMNS["ill"][[4, 1, 4]]).all()


# What is refused


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"x": ["agee"]}, "x: it has no column 'agee'; nearest valid name: age"),
        ({"y": "weather"}, "y: it has no column 'weather'; its columns: id, age, visits"),
        ({"keys": "idd"}, "keys: it has no column 'idd'; nearest valid name: id"),
        ({"types": {"dayz": "str"}}, "types: it has no column 'dayz'; nearest valid name: days"),
        ({"x": ["age"], "types": {"days": "str"}}, "types: 'days' is in no sample"),
        ({"types": {"age": "float"}}, "types: 'age': 'float' is no type of a column; nearest"),
        ({"x": "age"}, "x: expected a list of columns, got 'age'"),
        ({"x": []}, r"x: expected a list of columns, got \[\]"),
        ({"y": []}, r"y: expected a list of columns, got \[\]"),
        ({"x": ["age", "ill"], "y": "ill"}, "'ill' is in x and in y; take one out"),
        ({"x": ["age", "age"]}, "'age' is named twice"),
        ({"y": list(COLUMNS)}, "x: expected columns, and none is left"),
        ({"types": {"town": "int8"}}, "column 'town', row 1: cannot be read as int8: .*' 0'"),
        (
            {"types": {"ill": "uint8", "visits": "bool", "days": "int64"}},
            r"column 'days', row 2: cannot be read as int64: Float value 0\.125",
        ),
    ],
)
def test_what_cannot_be_asked_for_is_one_line(asked: dict[str, Any], told: str) -> None:
    with pytest.raises(BadInput, match=rf"^a\.parquet: {told}") as refused:
        Table(written(), **asked)
    assert "\n" not in str(refused.value)
    assert not list(Path().rglob("*.bin*")), "what was begun is left"


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ([1, None], "row 2: a value is missing; fill it in, or say types={'a': 'float32'}"),
        ([True, False, None], "row 3: a value is missing; fill it in, or say types="),
        (["a", None], "row 2: a value is missing; fill it in$"),
        (["a", "b\0"], "row 2: a word ends in a character NUL"),
        ([[1], [2]], "expected numbers, words or truth values, got list<"),
        ([None, None], "expected numbers, words or truth values, got null"),
        ([b"a"], "expected numbers, words or truth values, got binary"),
    ],
)
def test_what_no_array_can_have_is_refused(values: Any, told: str) -> None:
    told = told.replace("{", r"\{").replace("}", r"\}")
    with pytest.raises(BadInput, match=rf"^a\.parquet: column 'a'[:,] {told}"):
        Table(written(a=pyarrow.array(values), b=np.arange(len(values))))
    assert not list(Path().rglob("*.bin*"))


def test_a_date_is_refused_unless_it_is_read_as_something_else() -> None:
    path = text("day,b\n2026-01-02,1\n")
    with pytest.raises(BadInput, match=r"column 'day': .*, got date32\[day\]; .*types=\{'day': 's"):
        Table(path)
    assert column(Table(path, types={"day": "str"}), "day") == ["2026-01-02"]
    assert column(Table(path, ["b"]), "b") == [1]


def test_a_missing_value_far_down_is_found_by_its_row() -> None:
    values = pyarrow.array([*range(70_000), None, 3])
    parquet.write_table(pyarrow.table({"a": values, "b": values.is_null()}), "a.parquet")
    with pytest.raises(BadInput, match="column 'a', row 70001: a value is missing"):
        Table(Path("a.parquet"))
    text("a,b\n" + "1,2\n" * 70_000 + ",2\n")
    with pytest.raises(BadInput, match="column 'a', row 70002: a value is missing"):
        Table(Path("a.csv"))  # The row of the names is the first one.


@pytest.mark.parametrize("value", [np.nan, np.inf, None])
def test_a_target_that_is_not_finite_is_refused(value: float | None) -> None:
    path = written(a=[1.0, 2.0], b=[1.0, value])
    with pytest.raises(BadInput, match="column 'b', row 2: expected a finite number"):
        Table(path, ["a"], "b")
    assert len(Table(path)) == 2


def test_a_value_that_is_not_of_the_inferred_type_is_named() -> None:
    """The types are inferred from the beginning, and this one comes later."""
    path = text("b,a\n" + "1,22\n" * (arrow.BLOCK // 5 + 10) + "1,22.5\n")
    row = arrow.BLOCK // 5 + 12
    with pytest.raises(
        BadInput, match=rf"^a.csv: column 'a': Row #{row}: .*int64: invalid value '22.5'; .*`types`"
    ):
        Table(path)
    assert Table(path, types={"a": "float32"})[row - 2]["a"] == np.float32(22.5)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("a,b\n1,2\n3\n", "cannot be read: CSV parse error: Row #3: Expected 2 columns, got 1: 3$"),
        ("", "cannot be read: Empty CSV file"),
        ("a,b\n", "column 'a': expected numbers, words or truth values, got null"),
        ("a,a\n1,2\n", "x: it has more than one column 'a'"),
        (",a\n0,2\n", "x: expected words as keys, without a slash, got ''; give the column ano"),
        ("a/b,a\n0,2\n", "x: expected words as keys, without a slash, got 'a/b'; give the col"),
    ],
)
def test_a_text_that_is_no_table_is_one_line(content: str, told: str) -> None:
    with pytest.raises(BadInput, match=rf"^a.csv: {told}"):
        Table(text(content))


def test_what_is_no_table_is_refused() -> None:
    with pytest.raises(BadInput, match=r"^b\.parquet: no such file$"):
        Table(Path("b.parquet"))
    with pytest.raises(BadInput, match=r"^b\.csv: no such file$"):
        Table(Path("b.csv"))
    with pytest.raises(BadInput, match=r"^a\.xlsx: expected a file that ends in one of \.csv, "):
        Table(text("a\n1\n", "a.xlsx"))
    with pytest.raises(BadInput, match=r"^a\.parquet: cannot be read: Parquet magic bytes not"):
        Table(text("a,b\n1,2\n3,4\n", "a.parquet"))
    with pytest.raises(BadInput, match=r"^a\.csv: delimiter: expected one character, got ', '"):
        Table(text("a\n1\n"), delimiter=", ")
    with pytest.raises(BadInput, match=r"^a\.parquet: expected a table that has rows"):
        Table(written(a=np.array([], np.int64)))
    Path("folder.parquet").mkdir()
    with pytest.raises(BadInput, match=r"^folder\.parquet: cannot be read: Is a directory"):
        Table(Path("folder.parquet"))
    pointer = text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(BadInput, match="Git LFS has not brought its content yet"):
        Table(pointer)


def test_a_torn_file_is_one_line() -> None:
    content = written().read_bytes()
    middle = len(content) // 3
    Path("a.parquet").write_bytes(content[:middle] + bytes(40) + content[middle + 40 :])
    with pytest.raises(BadInput, match=r"^a\.parquet: cannot be read: \S") as refused:
        Table(Path("a.parquet"))
    assert "\n" not in str(refused.value)


def test_a_text_that_is_not_in_utf_8_is_refused() -> None:
    Path("a.csv").write_bytes("a,b\nMünchen,1\n".encode("latin-1"))
    with pytest.raises(BadInput, match=r"column 'a': .*, got text that is not in UTF-8"):
        Table(Path("a.csv"))


def test_an_index_of_pandas_is_no_part_of_x() -> None:
    frame = pandas.DataFrame({"a": [1, 2, 3]}).iloc[[2, 0, 1]]
    frame.to_parquet("a.parquet")
    with pytest.raises(BadInput, match="__index_level_0__ is an index that pandas wrote; say whi"):
        Table(Path("a.parquet"))
    assert column(Table(Path("a.parquet"), ["a"]), "a") == [3, 1, 2]


def test_without_pyarrow_one_line_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", version)
    with pytest.raises(BadInput, match=r"add it to requirements/cpu\.in, then make lock and make"):
        Table(written())


# What is kept


def kept() -> list[Path]:
    """The folders of converted tables."""
    return sorted(table.FOLDER.iterdir())


def samples(path: Path, **asked: Any) -> list[bytes]:
    """The digests of a table's samples."""
    read = Table(path, y="ill", keys="id", **asked)
    assert read.keys is not None and read.keys.tolist() == COLUMNS["id"].tolist()
    return [sources.digest(sources.flat(read[place], True)) for place in range(len(read))]


def test_a_second_start_reads_the_converted_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    path, seen = written(), conversions(monkeypatch)
    monkeypatch.setattr(datalock, "SETTLED", 0)
    first = samples(path)
    monkeypatch.setattr(datalock, "read_digest", None)
    monkeypatch.setattr(arrow, "Parquet", None)
    assert samples(path) == first
    assert seen == [path] and len(kept()) == 1


def test_another_content_or_another_choice_is_another_conversion(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path, seen = written(), conversions(monkeypatch)
    Table(path)
    choices: list[dict[str, Any]] = [
        *({"x": ["age"]}, {"y": "ill"}, {"keys": "id"}),
        {"types": {"age": "float64"}},
    ]
    for asked in choices:
        Table(path, **asked)
    assert len(seen) == len(kept()) == 5
    changed = dict(COLUMNS, age=-COLUMNS["age"])
    assert column(Table(written(**changed), ["age"]), "age") == (-COLUMNS["age"]).tolist()
    assert len(seen) == 6
    monkeypatch.setattr(conversion, "FORMAT", conversion.FORMAT + 1)
    Table(path, ["age"])
    monkeypatch.setattr(arrow, "version", lambda: "0.1")
    Table(path, ["age"])
    assert len(seen) == len(kept()) == 8
    # The content counts, and not where it is.
    Table(path.rename("b.parquet"), ["age"])
    assert len(seen) == 8


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGED = [(name, harm) for name in ("rows.bin", "keys.bin") for harm in (cut, flip, Path.unlink)]


@pytest.mark.parametrize(
    ("name", "harm"), [*DAMAGED, (table.HEADER, cut), (table.HEADER, Path.unlink)]
)
def test_a_damaged_conversion_is_made_again(
    name: str, harm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, seen = written(), conversions(monkeypatch)
    first = samples(path)
    (folder,) = kept()
    content = (folder / name).read_bytes()
    harm(folder / name)
    assert samples(path) == first
    assert len(seen) == 2
    if name != table.HEADER:
        assert (folder / name).read_bytes() == content


@pytest.mark.parametrize("kind", ["|O", "O8", "<M8", [["age", "|O"]], 7, {"a": 1}])
def test_a_header_that_says_another_type_is_not_believed(
    kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, seen = written(), conversions(monkeypatch)
    first = samples(path)
    (folder,) = kept()
    header = json.loads((folder / table.HEADER).read_text())
    header["keys"]["dtype"] = kind
    (folder / table.HEADER).write_text(json.dumps(header))
    assert samples(path) == first
    assert len(seen) == 2


def test_a_copy_of_a_conversion_is_compared_by_its_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    path, seen = written(), conversions(monkeypatch)
    first = samples(path)
    (folder,) = kept()
    for file in folder.glob("*.bin"):
        content = file.read_bytes()
        file.unlink()
        file.write_bytes(content)
        os.utime(file, (1, 1))
    assert samples(path) == first
    assert seen == [path]


def test_a_conversion_that_was_ended_is_begun_again(monkeypatch: pytest.MonkeyPatch) -> None:
    path, original = written(), conversion._Writing.write

    def ended(self: Any, rows: np.ndarray) -> None:
        original(self, rows)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(conversion._Writing, "write", ended)
        with pytest.raises(KeyboardInterrupt):
            Table(path)
    (folder,) = kept()
    assert [file.name for file in folder.iterdir()] == ["lock"]
    # What a killed process leaves is written over.
    (folder / "rows.bin.new").write_bytes(b"left")
    assert len(Table(path)) == ROWS
    assert sorted(file.name for file in folder.iterdir()) == [table.HEADER, "lock", "rows.bin"]


def test_one_of_two_processes_converts_and_the_other_one_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path, seen, original = written(), conversions(monkeypatch), locks.lock
    both = threading.Barrier(2, timeout=60)

    def lock(file: Any, patience: float = 0) -> bool:
        both.wait()  # Both have found nothing that was kept.
        return original(file, patience)

    monkeypatch.setattr(locks, "lock", lock)
    with ThreadPoolExecutor(2) as pool:
        # Locks belong to open files, so that two threads are as good as two processes.
        found = list(pool.map(lambda _: samples(path), range(2)))
    assert found[0] == found[1] and seen == [path]


def test_a_table_that_changes_while_it_is_converted_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path, original = written(), conversion.convert

    def convert(path: Path, *others: Any) -> Any:
        found = original(path, *others)
        os.utime(path, (1, 1))
        return found

    monkeypatch.setattr(conversion, "convert", convert)
    with pytest.raises(BadInput, match=r"a\.parquet: it was changed while it was read; start"):
        Table(path)
    monkeypatch.setattr(conversion, "convert", original)
    assert len(Table(path)) == ROWS


def test_a_place_that_cannot_be_written_is_one_line() -> None:
    path = written()
    Path(".repro_cache").write_text("in the way")
    with pytest.raises(BadInput, match=r"\.repro_cache.*: cannot be written: \w"):
        Table(path)


def test_rows_that_end_under_a_training_are_named() -> None:
    data = Dataset(Table(written(), X, "ill", keys="id"), classes=5)
    (folder,) = kept()
    cut(folder / "rows.bin")
    with pytest.raises(BadInput, match=rf"^data: sample {COLUMNS['id'][-1]}: .*rows.bin ends"):
        list(Feed(data.whole, 2).chunks([np.array([[0, ROWS - 1]], np.int32)]))


STATUS = Path("/proc/self/status")
# Not `getrusage`, which on Linux begins with the most that the process before it needed.
CONVERT = f"""
import re, sys
from pathlib import Path
from repro import Table

read = Table(Path(sys.argv[1]), y="y", labels="y")
most = re.search(r"VmHWM:\\s+(\\d+) kB", Path("{STATUS}").read_text())
print(len(read), int(most[1]) * 1024)
"""


def peak(path: Path) -> tuple[int, int]:
    """How many rows a process finds that converts a table, and how many bytes it needs at most."""
    environment = os.environ | {"PYTHONPATH": str(files.MACHINERY.parent)}
    command = [sys.executable, "-c", CONVERT, str(path)]
    done = subprocess.check_output(command, env=environment, text=True)
    rows, most = done.split()
    return int(rows), int(most)


@pytest.mark.skipif(not STATUS.is_file(), reason="Linux alone says it there")
@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_memory_does_not_grow_with_the_table(suffix: str) -> None:
    sizes = {"small": 250_000, "large": 2_000_000}
    words = np.array([f"a word of a table, {n:09d}" for n in range(1000)])
    peaks = {}
    for name, rows in sizes.items():
        places = np.arange(rows)
        made = {"a": places / 7, "w": pyarrow.array(words[places % 1000]), "y": places % 3}
        found, peaks[name] = peak(written(name + suffix, 1_000_000, **made))
        assert found == rows
    width = 8 + 4 * len(words[0]) + 8
    assert sum(f.stat().st_size for f in table.FOLDER.glob("*/rows.bin")) == width * sum(
        sizes.values()
    )
    grown = width * (sizes["large"] - sizes["small"])
    assert grown > 220e6
    assert peaks["large"] - peaks["small"] < 100e6, "the whole table was in memory"

"""Ledgers, manifests and their comparison: what stands in the files, and what is said of two."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import examples
import numpy as np
import pytest

from repro.basics import digests, seeds
from repro.basics.errors import BadInput
from repro.compare import comparison
from repro.compare.comparison import Verdict
from repro.data import feed
from repro.environment.determinism import Promise
from repro.environment.provenance import Provenance
from repro.environment.reads import Reads
from repro.recipe.parameters import Training
from repro.recipe.project import Project
from repro.run import ledger, manifest
from repro.run.ledger import FIELDS, FRESH, Divergence, Entry, Ledger, Parted

# SHA-256 of nothing, of "abc" (FIPS 180-2) and of arrays, as `sha256sum` says them.
ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def hashed(text: str | bytes) -> str:
    return hashlib.sha256(text.encode() if isinstance(text, str) else text).hexdigest()


def test_digests_are_those_of_the_standard(tmp_path: Path) -> None:
    assert digests.sha256(b"abc") == ABC
    (tmp_path / "file").write_bytes(b"abc")
    assert digests.sha256(tmp_path / "file") == ABC
    two = np.array([[1, 2], [3, 4]], np.int16)
    bits = b"\1\0\2\0\3\0\4\0"
    assert digests.sha256(two) == hashed(b"<i2(2, 2)" + bits)
    assert digests.sha256(two.astype(">i2")) == hashed(b"<i2(2, 2)" + bits)
    assert digests.sha256(two.T) == hashed(b"<i2(2, 2)" + b"\1\0\3\0\2\0\4\0")
    assert digests.sha256(np.array(5, np.uint8)) == hashed(b"|u1()\5")
    assert digests.sha256(np.zeros((0, 2), np.uint8)) == hashed(b"|u1(0, 2)")
    assert digests.of_json({"b": [1, "ä"], "a": None}) == hashed('{"a":null,"b":[1,"ä"]}')


def test_seeds_are_the_beginning_of_a_digest() -> None:
    # ba7816bf… is the SHA-256 of "abc"; the word is its first four bytes, the lowest first.
    assert seeds.seed("abc") == 0xBF1678BA  # type: ignore[arg-type]
    assert seeds.seed(1, "data", 2) == int.from_bytes(
        bytes.fromhex(hashed("1/data/2"))[:4], "little"
    )


def test_an_order_is_the_ranks_of_words_of_philox() -> None:
    found = seeds.permutation(7, 3, 50)
    assert found.dtype == np.int32 and found.shape == (50,)
    key = int.from_bytes(bytes.fromhex(hashed("7/order/0/3"))[:16], "little")
    words = np.random.Philox(key=key).random_raw(50).tolist()
    assert found.tolist() == sorted(range(50), key=words.__getitem__)
    assert seeds.permutation(7, 3, 0).tolist() == []


def test_a_generator_is_keyed_by_seed_and_purpose() -> None:
    key = int.from_bytes(bytes.fromhex(hashed("7/augment/3/a.png"))[:16], "little")
    expected = np.random.Generator(np.random.Philox(key=key)).normal(size=5)
    assert seeds.generator(7, "augment", 3, "a.png").normal(size=5).tolist() == expected.tolist()


def test_equal_words_keep_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    class Words:
        def __init__(self, key: np.ndarray) -> None:
            assert key.dtype == np.uint64

        def random_raw(self, size: int) -> np.ndarray:
            return np.arange(size, dtype=np.uint64) % 2

    monkeypatch.setattr(np.random, "Philox", Words)
    assert seeds.permutation(7, 3, 100).tolist() == [*range(0, 100, 2), *range(1, 100, 2)]


def write(path: Path, *entries: tuple[str, dict[str, Any], int, int]) -> Path:
    book = Ledger(path)
    for entry in entries:
        book.append(*entry)
    book.close()
    return path


START = ("initial", {"weights": {"w": "1", "v": "2"}, "generators": {"g": "3"}}, 0, 0)


def test_a_ledger_is_a_chain_of_lines(tmp_path: Path) -> None:
    book = Ledger(tmp_path / "ledger.jsonl")
    assert (book.entries, book.head, book.seconds) == (0, "", 0.0)
    book.append("data", {"split": {"a": "ä"}})
    texts = ['{"epoch": 0, "split": {"a": "\\u00e4"}, "stage": "data", "step": 0}']
    heads = [hashed(texts[0])]
    assert (book.entries, book.head) == (1, heads[0])
    book.append("step", {"results": {"loss": float("nan")}}, 2, 5)
    texts.append('{"epoch": 2, "results": {"loss": "NaN"}, "stage": "step", "step": 5}')
    heads.append(hashed(heads[0] + texts[1]))
    # Each entry is in the file as soon as it is made, for a kill may come.
    lines = (tmp_path / "ledger.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    assert [json.loads(line) for line in lines] == [
        json.loads(text) | {"head": head} for text, head in zip(texts, heads, strict=True)
    ]
    assert all(line.endswith("}\n") for line in lines)
    book.close()
    assert book._file.closed
    found = list(ledger.read(tmp_path / "ledger.jsonl"))
    assert found == [
        Entry("data", 0, 0, {"split": {"a": "ä"}}),
        Entry("step", 2, 5, {"results": {"loss": "NaN"}}),
    ]
    assert str(found[1]) == "step, epoch 2, step 5" and found[1].place == ("step", 2, 5)
    assert found[1].field("results") == {"loss": "NaN"} and found[1].field("order") == {}


def test_the_time_that_entries_take_is_added_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([1.0, 3.0, 10.0, 15.0])
    book = Ledger(tmp_path / "ledger.jsonl")
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    for _ in range(2):
        with book.timed():
            pass
    assert book.seconds == 7.0


def test_entries_are_on_the_disk_where_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    book = Ledger(tmp_path / "ledger.jsonl")
    synced: list[int] = []
    monkeypatch.setattr("os.fsync", synced.append)
    book.sync()
    assert synced == [book._file.fileno()]
    book.close()
    assert len(synced) == 2


def three(path: Path) -> tuple[Path, list[bytes], list[str]]:
    """A ledger of three entries, its lines and their heads."""
    write(path, START, ("step", {"order": {"i": "4"}}, 1, 1), ("step", {"order": {"i": "5"}}, 1, 2))
    lines = path.read_bytes().splitlines(keepends=True)
    return path, lines, [json.loads(line)["head"] for line in lines]


@pytest.mark.parametrize("keep", [0, 1, 2, 3])
def test_a_ledger_goes_on_behind_the_entries_that_are_kept(keep: int, tmp_path: Path) -> None:
    path, lines, heads = three(tmp_path / "ledger.jsonl")
    book = Ledger(path, keep=keep, head=heads[keep - 1] if keep else "")
    assert path.read_bytes() == b"".join(lines[:keep])
    assert book.entries == keep
    for line in map(json.loads, lines[keep:]):
        line.pop("head")
        book.append(
            line.pop("stage"),
            {n: v for n, v in line.items() if isinstance(v, dict)},
            line["epoch"],
            line["step"],
        )
    book.close()
    assert path.read_bytes() == b"".join(lines)


@pytest.mark.parametrize("keep", [1, 2, 3])
@pytest.mark.parametrize("head", ["", "0" * 64, "f" * 64])
def test_a_ledger_does_not_go_on_behind_another_head(keep: int, head: str, tmp_path: Path) -> None:
    path, lines, _ = three(tmp_path / "ledger.jsonl")
    with pytest.raises(BadInput, match=f"not the ledger that belongs to the checkpoint.*{FRESH}$"):
        Ledger(path, keep=keep, head=head)
    assert path.read_bytes() == b"".join(lines)


def test_a_ledger_does_not_go_on_behind_a_torn_entry(tmp_path: Path) -> None:
    path, lines, heads = three(tmp_path / "ledger.jsonl")
    path.write_bytes(b"".join([*lines[:2], lines[2][:-9]]))
    with pytest.raises(BadInput, match=f"it was cut or altered{FRESH}$"):
        Ledger(path, keep=3, head=heads[2])
    assert Ledger(path, keep=2, head=heads[1]).entries == 2


def test_a_run_that_has_parted_says_where() -> None:
    where = Divergence("data", 0, 0, "samples", "x", "1", "2")
    error = Parted("not the same", where)
    assert (str(error), error.where) == ("not the same", where)


def test_a_ledger_does_not_go_on_where_entries_are_missing(tmp_path: Path) -> None:
    path, lines, heads = three(tmp_path / "ledger.jsonl")
    path.write_bytes(lines[0])
    for head in heads:
        with pytest.raises(BadInput, match="it was cut or altered"):
            Ledger(path, keep=2, head=head)


@pytest.mark.parametrize(
    "line", [b"[1]", b"{", b"7", b"null", b'{"head": "1"}', b'{"stage": "step"}', b'\xff"']
)
def test_a_line_that_is_no_entry_is_named(line: bytes, tmp_path: Path) -> None:
    path, lines, _ = three(tmp_path / "ledger.jsonl")
    for number in range(3):
        damaged = [*lines[:number], line + b"\n", *lines[number + 1 :]]
        path.write_bytes(b"".join(damaged))
        told = re.escape(f"{path}, line {number + 1}: not an entry of a ledger")
        with pytest.raises(BadInput, match=f"^{told}$"):
            list(ledger.read(path))
        # Of an interrupted run the last entry may be torn.
        if number == 2:
            assert [entry.step for entry in ledger.read(path, whole=False)] == [0, 1]
        else:
            with pytest.raises(BadInput, match=f"^{told}{FRESH}$"):
                list(ledger.read(path, whole=False))


@pytest.mark.parametrize("head", ["0" * 64, "f" * 64])
def test_an_altered_entry_is_named(head: str, tmp_path: Path) -> None:
    path, lines, heads = three(tmp_path / "ledger.jsonl")
    path.write_bytes(b"".join([lines[0], lines[1].replace(heads[1].encode(), head.encode())]))
    told = re.escape(f"{path}, line 2: altered since it was written")
    with pytest.raises(BadInput, match=f"^{told}$"):
        list(ledger.read(path))
    with pytest.raises(BadInput, match=f"^{told}{FRESH}$"):
        list(ledger.read(path, whole=False))
    path.write_bytes(b"".join([lines[0].replace(b'"w": "1"', b'"w": "9"'), *lines[1:]]))
    with pytest.raises(BadInput, match="line 1: altered"):
        list(ledger.read(path))


def test_a_ledger_that_is_not_there_or_empty_is_told(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    cases: list[tuple[str, Callable[[], object]]] = [
        ("the ledger cannot be read", lambda: None),
        ("the ledger is empty; it was emptied after the run had written it", path.touch),
    ]
    for told, make in cases:
        make()
        with pytest.raises(BadInput) as refused:
            list(ledger.read(path))
        assert str(refused.value) == f"{path}: {told}"
        with pytest.raises(BadInput) as refused:
            list(ledger.read(path, whole=False))
        assert str(refused.value) == f"{path}: {told}{FRESH}"


def test_what_stands_first_in_an_entry_differs_first(tmp_path: Path) -> None:
    assert FIELDS[:6] == ("settings", "samples", "split", "order", "content", "arrays")
    assert FIELDS[6:10] == ("vocabulary", "generators", "weights", "optimizer")
    assert FIELDS[10:] == ("outside", "metrics", "produced", "results")
    for first, second in itertools.combinations(FIELDS, 2):
        one = write(tmp_path / "1", ("step", {second: {"x": "1"}, first: {"y": "1"}}, 1, 2))
        other = write(tmp_path / "2", ("step", {second: {"x": "2"}, first: {"y": "2"}}, 1, 2))
        assert ledger.first_difference(one, other) == Divergence(
            "step", 1, 2, first, "y", "1", "2", ["y"]
        )


@pytest.mark.parametrize(
    ("left", "right", "found"),
    [
        ({"a": "1", "b": "2", "c": "3"}, {"a": "1", "b": "9", "c": "8"}, ("b", "2", "9", "b c")),
        ({"a": "1"}, {"a": "1", "b": "2"}, ("b", None, "2", "b")),
        ({"b": "2", "a": "1"}, {"a": "1"}, ("b", "2", None, "b")),
        ({"a": "9"}, {"a": "1"}, ("a", "9", "1", "a")),
    ],
)
def test_names_that_differ_are_told_with_both_values(
    left: dict[str, str], right: dict[str, str], found: tuple[str, Any, Any, str], tmp_path: Path
) -> None:
    one = write(tmp_path / "1", START, ("step", {"weights": left}, 2, 3))
    other = write(tmp_path / "2", START, ("step", {"weights": right}, 2, 3))
    name, a, b, names = found
    told = Divergence("step", 2, 3, "weights", name, a, b, names.split())
    assert ledger.first_difference(one, other) == told


def test_other_places_and_other_lengths_are_differences(tmp_path: Path) -> None:
    step = ("step", {"order": {"i": "1"}}, 1, 2)
    one = write(tmp_path / "1", START, step)
    other = write(tmp_path / "2", START, ("epoch", *step[1:]))
    assert ledger.first_difference(one, other) == Divergence(
        "step", 1, 2, "place", "stage", "step, epoch 1, step 2", "epoch, epoch 1, step 2"
    )
    longer = write(tmp_path / "3", START, step, ("epoch", {}, 1, 4), ("final", {}, 0, 0))
    assert ledger.first_difference(one, longer) == Divergence(
        "epoch", 1, 4, "length", "entries", 2, 4
    )
    assert ledger.first_difference(longer, one) == Divergence(
        "epoch", 1, 4, "length", "entries", 4, 2
    )
    assert ledger.first_difference(longer, longer) is None


def test_a_divergence_leaves_out_what_is_not_known() -> None:
    found = Divergence("step", 1, 2, "weights", "w", None, "2")
    content = {"stage": "step", "epoch": 1, "step": 2, "what": "weights", "name": "w"}
    assert found.as_json() == content | {"a": None, "b": "2"}
    told = replace(found, names=["w"], means="why").as_json()
    assert told == content | {"a": None, "b": "2", "names": ["w"], "means": "why"}


# Two finished runs.

STEP = ("step", {"order": {"indices": "1"}}, 1, 2)


def run(directory: Path, *entries: Any, **changed: Any) -> Path:
    directory.mkdir()
    write(directory / "ledger.jsonl", *(entries or (START, STEP)))
    manifest.write(directory, examples.finished(directory.name, **changed))
    return directory


def recipe(sources: dict[str, str], **changed: Any) -> Any:
    return examples.recipe(**changed).reading(sources)


def test_equal_runs_are_identical(tmp_path: Path) -> None:
    one, other = run(tmp_path / "a"), run(tmp_path / "b")
    found = comparison.compare(one, other)
    digest = examples.DIGEST
    assert found == Verdict((one, other), (digest, digest), "identical")
    assert found.compared == (one, other)
    assert found.lines() == [f"digest     {digest}"]
    content = {"runs": [str(one), str(other)], "digests": [digest, digest]}
    assert found.as_json() == content | {"verdict": "identical"}


def test_runs_of_two_recipes_are_not_comparable(tmp_path: Path) -> None:
    one = run(tmp_path / "a", digest="1")
    other = run(tmp_path / "b", digest="2", recipe=recipe({}, training=Training(epochs=7)))
    found = comparison.compare(one, other)
    fields = {"parameters.training.epochs": [5, 7]}
    assert found == Verdict((one, other), ("1", "2"), "not comparable", None, fields)
    assert found.lines() == ["  parameters.training.epochs: 5 in the first, 7 in the second"]
    assert found.as_json() == {
        "runs": [str(one), str(other)],
        "digests": ["1", "2"],
        "verdict": "not comparable",
        "not_comparable": fields,
    }


def test_runs_of_one_recipe_that_read_other_sources_have_diverged(tmp_path: Path) -> None:
    one = run(tmp_path / "a", recipe=recipe({"x": "1", "y": "3"}))
    other = run(tmp_path / "b", recipe=recipe({"x": "2", "y": "4"}))
    assert comparison.compare(one, other).verdict == "not comparable"
    found = comparison.compare(one, other, one_recipe=True)
    means = "what the data were read from was not the same"
    place = Divergence("data", 0, 0, "sources", "x", "1", "2", ["x", "y"], means)
    digest = examples.DIGEST
    assert found == Verdict((one, other), (digest, digest), "diverged", place)
    same = run(tmp_path / "c", recipe=recipe({"x": "1", "y": "3"}))
    assert comparison.compare(one, same, one_recipe=True).verdict == "identical"


def diverged(one: Path, other: Path) -> Divergence:
    found = comparison.compare(one, other)
    assert found.verdict == "diverged" and found.first_divergence is not None
    assert found.as_json()["first_divergence"] == found.first_divergence.as_json()
    assert found.lines() == [comparison.describe(found.first_divergence)]
    return found.first_divergence


@pytest.mark.parametrize("digests", [("1", "2"), ("2", "1")])
def test_runs_with_equal_ledgers_may_part_in_their_final_states(
    digests: tuple[str, str], tmp_path: Path
) -> None:
    one, other = (run(tmp_path / name, digest=d) for name, d in zip("ab", digests, strict=True))
    means = "the weights were not the same"
    assert diverged(one, other) == Divergence(
        "final", 0, 0, "weights", "state", *digests, ["state"], means
    )


def test_a_beginning_that_a_process_saw_otherwise_is_a_difference(tmp_path: Path) -> None:
    parted = Divergence("data", 0, 0, "samples", "x", "1", "2", ["x"])
    means = comparison.EXPLAINED["samples"]
    same, other = run(tmp_path / "a"), run(tmp_path / "b", parted=parted)
    assert diverged(same, other) == replace(parted, means=means)
    assert diverged(other, same) == replace(parted, means=means)
    later = run(tmp_path / "c", START, ("step", {"order": {"indices": "2"}}, 1, 2))
    assert diverged(other, later).what == "order"


def test_what_a_difference_means_depends_on_the_place() -> None:
    def means(stage: str, what: str) -> str:
        return comparison.means_of(Divergence(stage, 0, 0, what, "x", "1", "2"))

    assert means("initial", "weights").startswith("the initial weights were not the same: a layer")
    assert means("epoch", "weights") == means("final", "weights")
    assert means("epoch", "weights") == "the weights were not the same"
    assert means("final", "arrays") == "the predictions were not the same"
    assert means("data", "arrays") == "what the preprocessing made of the data was not the same"
    assert {*comparison.EXPLAINED} == {*FIELDS, "sources", "length", "place"}


CPU = (
    "; the runs were made on different processors, Zen and Haswell, "
    "which compute alike only under guarantee=portable"
)


@pytest.mark.parametrize(
    ("cpus", "held", "told"),
    [
        (("Zen", "Zen"), ("machine", "machine"), ""),
        (("Zen", "Haswell"), ("machine", "machine"), CPU),
        (("Zen", "Haswell"), ("portable", "machine"), CPU),
        (("Zen", "Haswell"), ("machine", "portable"), CPU),
        (("Zen", "Haswell"), ("portable", "portable"), ""),
        (
            ("Haswell", "Zen"),
            ("machine", "machine"),
            CPU.replace("Zen and Haswell", "Haswell and Zen"),
        ),
    ],
)
def test_different_processors_are_told(
    cpus: tuple[str, str], held: tuple[Any, Any], told: str, tmp_path: Path
) -> None:
    runs = [
        run(
            tmp_path / name,
            digest=name,
            machine=examples.machine(cpu),
            guarantee=Promise(holds, holds, []),
        )
        for name, cpu, holds in zip("ab", cpus, held, strict=True)
    ]
    assert diverged(*runs).means == "the weights were not the same" + told


def made(code: dict[str, str], value: str = "") -> Provenance:
    of_both = {"variable": value}
    return Provenance(code, {"numpy": value}, {"python": value}, of_both, of_both)


def test_what_two_runs_were_made_of_is_told(tmp_path: Path) -> None:
    reads = [
        Reads(variables={"A": value, "B": "same"}, files={"data/x": value}) for value in ("1", "2")
    ]
    of = [made({"any/data.py": value, "any/b.py": "same"}, value) for value in ("1", "2")]
    runs = [
        run(tmp_path / name, digest=name, made_of=one, reads=read)
        for name, one, read in zip("ab", of, reads, strict=True)
    ]
    weights = "the weights were not the same"
    assert diverged(*runs).means == (
        f"{weights}; not the same for both runs: src/any/data.py, numpy 1 and 2, "
        "python 1 and 2, the variable A, "
        "which the project's code read, data/x, which the project's code read"
    )
    # Of a run that does not say what it was made of, nothing is said.
    nothing = run(tmp_path / "c", digest="c", reads=reads[0])
    assert diverged(runs[0], nothing).means == diverged(nothing, runs[0]).means == weights
    again = run(tmp_path / "d", digest="d", made_of=of[0], reads=reads[0])
    assert diverged(runs[0], again).means == weights


@pytest.mark.parametrize(("number", "more"), [(6, ""), (7, " and 1 more"), (9, " and 3 more")])
def test_six_things_are_named_and_the_others_counted(
    number: int, more: str, tmp_path: Path
) -> None:
    runs = [
        run(
            tmp_path / value,
            digest=value,
            made_of=made({f"{n}.py": value for n in range(number)}),
        )
        for value in "12"
    ]
    named = ", ".join(f"src/{n}.py" for n in range(6))
    told = f"the weights were not the same; not the same for both runs: {named}{more}"
    assert diverged(*runs).means == told


@pytest.mark.parametrize(
    ("stage", "place"),
    [
        ("environment", "before the training, in the settings in effect"),
        ("data", "before the training, in the data"),
        ("initial", "before the first step, in the initial state"),
        ("final", "after the training, in predictions and test results"),
        ("step", "in epoch 2, at step 3"),
        ("epoch", "in epoch 2, at step 3"),
    ],
)
def test_a_difference_is_described_in_a_few_lines(stage: str, place: str) -> None:
    found = Divergence(stage, 2, 3, "weights", "w\n", "a" * 64, None, ["w\n", "v", "u"], "why")
    assert comparison.describe(found) == (
        f"first difference: {place}\n  weights: w\\n, and 2 others\n"
        f"    {'a' * 16}…\n    None\n  why"
    ).replace("2 others", "2 more")
    for names in (["w\n"], None):
        assert ", and" not in comparison.describe(replace(found, names=names))
    assert "weights: w\\n, and 1 more\n" in comparison.describe(replace(found, names=["w", "v"]))
    short = comparison.describe(replace(found, a="a" * 63, b="b" * 65))
    assert f"    {'a' * 63}\n    {'b' * 65}\n" in short


@pytest.mark.parametrize("keys", [[], ["b"], ["b", "c"]])
def test_samples_with_another_content_are_named(
    keys: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [
        run(tmp_path / value, START, ("step", {"content": {"samples": value}}, 1, 2))
        for value in "12"
    ]
    asked: list[tuple[Path, Path]] = []

    def changed(one: Path, other: Path) -> list[str]:
        asked.append((one, other))
        return keys

    monkeypatch.setattr(feed, "changed", changed)
    for value in "34":
        runs.append(run(tmp_path / value, ("data", {"arrays": {"train/x": value}}, 0, 0)))
    assert diverged(*runs[2:]).name == "train/x" and asked == []
    found = diverged(*runs[:2])
    assert asked == [(runs[0], runs[1])]
    assert (found.stage, found.what, found.a, found.b) == ("step", "content", "1", "2")
    if keys:
        assert (found.name, found.names) == ("sample b", [f"sample {key}" for key in keys])
        assert found.means == comparison.EXPLAINED["content"]
    else:
        assert (found.name, found.names) == ("samples", ["samples"])
        assert found.means == (
            "each sample was read with the same content; `augment` made other samples of them, so "
            "it draws from something else than its generator"
        )


# The manifest of a run.


def test_a_manifest_is_sealed_by_all_that_it_says(tmp_path: Path) -> None:
    content = examples.begun(overrides=["a=1"])
    manifest.write(tmp_path, content)
    text = (tmp_path / "manifest.json").read_text(encoding="utf-8")
    found = json.loads(text)
    assert text.endswith("}\n") and text.startswith("{\n  ")
    seal = found.pop("seal")
    assert seal == hashed(
        json.dumps(found, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    )
    assert manifest.sealed(found | {"seal": "another"}) == found | {"seal": seal}
    assert manifest.unsealed(found | {"seal": seal}) == found
    for wrong in ({"seal": "0" * 64}, {"seal": "f" * 64}, {}, {"seal": seal, "more": 1}):
        with pytest.raises(ValueError, match=r"^altered since it was written$"):
            manifest.unsealed(found | wrong)
    assert {"parted", "made_of", "reads", "machinery"}.isdisjoint(found)
    assert manifest.read(tmp_path).as_json() == content.as_json()


def test_a_run_with_another_file_than_it_wrote_is_refused(tmp_path: Path) -> None:
    for name in ("state.npz", "a.txt", "log.txt", "lock"):
        (tmp_path / name).write_bytes(b"abc")
    (tmp_path / "checkpoints").mkdir()
    written = manifest.digests_of_files(tmp_path)
    assert written == {"a.txt": ABC, "state.npz": ABC}
    manifest.write(tmp_path, examples.finished(files=written))
    assert manifest.digests_of_files(tmp_path) == written
    assert manifest.finished(tmp_path).files == written
    (tmp_path / "a.txt").unlink()
    manifest.finished(tmp_path)
    for content in (b"another", b"other"):
        (tmp_path / "state.npz").write_bytes(content)
        with pytest.raises(BadInput, match=r"state\.npz: altered since the run wrote it"):
            manifest.finished(tmp_path)
    assert manifest.of_finished(tmp_path).files == written


@pytest.mark.parametrize("status", ["running", "failed", "probed"])
def test_a_run_that_has_not_finished_is_none_of_the_finished(status: str, tmp_path: Path) -> None:
    manifest.write(tmp_path, examples.begun(status=status))
    assert manifest.read(tmp_path).status == status
    for read in (manifest.finished, manifest.of_finished):
        with pytest.raises(
            BadInput, match=rf"expected a run that has finished; its status is '{status}'$"
        ):
            read(tmp_path)


def test_a_run_is_found_by_path_name_or_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = Project(tmp_path / "project", "any")

    def refused(name: str) -> str:
        with pytest.raises(BadInput) as refusal:
            manifest.find_run(project, name)
        return str(refusal.value)

    assert refused("x") == "x: no such run; there is none yet"
    for name in ("2026-a", "2026-ab", "2027-c"):
        (project.runs / name).mkdir(parents=True)
        manifest.write(project.runs / name, examples.begun(name))
    (project.runs / "2028-no-run").mkdir()
    assert manifest.find_run(project, "2026-a").name == "2026-a"
    assert manifest.find_run(project, "2027").name == "2027-c"
    assert refused("2026") == "2026: 2 runs begin with this, such as 2026-a; give more of the name"
    assert refused("2028") == "2028: no such run; the last one is 2027-c"
    monkeypatch.chdir(project.runs)
    found = manifest.find_run(Project(tmp_path / "elsewhere", "any"), "2027-c")
    assert found == project.runs.resolve() / "2027-c"


def test_what_a_manifest_says_where_nothing_else_is_said(tmp_path: Path) -> None:
    assert manifest.FORMAT == 2
    found = examples.begun().as_json()
    assert found["surroundings"] == {"varied": [], "index": 0}
    expected = {"format": 2, "overrides": [], "trial": False, "resumed": [], "status": "running"}
    assert found.items() >= {**expected, "checkpoint_seconds": 60, "probe": None}.items()
    assert found["recipe"] == examples.recipe().as_json()
    changed = examples.begun().but(status="failed", trial=True)
    assert (changed.status, changed.trial, changed.seed) == ("failed", True, 1234)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "{path.parent}: not a run directory; it has no manifest.json"),
        ("{", "{path}: not valid JSON"),
        ("[1]", "{path}: not the manifest of a run; it has no recipe"),
        ('{"recipe": 1, "format": 2}', "{path}: not the manifest of a run; it has no recipe"),
        ('{"recipe": {}, "format": 2}', "{path}: altered since it was written"),
    ],
)
def test_what_is_no_manifest_is_refused(content: str | None, told: str, tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(BadInput) as refused:
        manifest.read(tmp_path)
    assert str(refused.value) == told.format(path=path)


@pytest.mark.parametrize("number", [1, 3, None])
def test_a_manifest_of_another_version_is_refused(number: int | None, tmp_path: Path) -> None:
    content = examples.begun().as_json() | {"format": number}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest.sealed(content)))
    with pytest.raises(BadInput, match=f"expected format 2, got {number}: another version"):
        manifest.read(tmp_path)


def test_a_manifest_without_readers_is_one_of_samples_in_memory(tmp_path: Path) -> None:
    content = examples.begun(readers=3).as_json()
    assert content["readers"] == 3
    del content["readers"]
    (tmp_path / "manifest.json").write_text(json.dumps(manifest.sealed(content)))
    assert manifest.read(tmp_path).readers == 0


def test_a_manifest_is_text_that_a_person_can_read(tmp_path: Path) -> None:
    manifest.write(tmp_path, examples.begun("rün"))
    text = (tmp_path / "manifest.json").read_bytes().decode()
    assert text.startswith('{\n  "format": 2,\n  "run": "rün",\n') and text.endswith("}\n")
    assert manifest.read(tmp_path).run == "rün"


def test_the_first_field_that_is_not_right_is_named(tmp_path: Path) -> None:
    content = examples.begun().as_json()
    content["surroundings"] = {"index": "x", "varied": 1}
    content["seed"] = "y"
    (tmp_path / "manifest.json").write_text(json.dumps(manifest.sealed(content)))
    with pytest.raises(BadInput, match=r"not the manifest of a run: seed: Input should be"):
        manifest.read(tmp_path)


def test_a_field_that_is_not_right_is_named(tmp_path: Path) -> None:
    content = examples.begun().as_json()
    content["surroundings"]["index"] = "x"
    (tmp_path / "manifest.json").write_text(json.dumps(manifest.sealed(content)))
    told = r"manifest\.json: not the manifest of a run: surroundings\.index: Input should be"
    with pytest.raises(BadInput, match=told) as refused:
        manifest.read(tmp_path)
    assert "https" not in str(refused.value)


def test_numbers_that_are_not_finite_are_kept(tmp_path: Path) -> None:
    manifest.write(tmp_path, examples.finished(metrics={"loss": float("inf"), "a": 1.5}))
    assert manifest.of_finished(tmp_path).metrics == {"loss": float("inf"), "a": 1.5}
    assert json.loads((tmp_path / "manifest.json").read_text())["metrics"]["loss"] == "Infinity"


def test_what_a_run_leaves_is_on_the_disk_when_it_is_digested(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "state.npz").write_bytes(b"abc")
    synced: list[int] = []
    monkeypatch.setattr("os.fsync", synced.append)
    manifest.digests_of_files(tmp_path)
    assert len(synced) == 1

"""Files and text: digests, JSON, arrays; what a name may do where it is shown."""

from __future__ import annotations

import io
import json
import math
import shutil
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import examples
import numpy as np
import pytest
from numpy.lib import format as npy

from repro.basics import digests, files
from repro.basics.errors import BadInput
from repro.basics.text import file_name, markdown, printable
from repro.report import pages
from repro.run import ledger, manifest

CODE = b'''"""Text of the module."""
import math


def half(x):
    return x / 2  # A comment.


TEXT = """first__

# no comment
last"""
'''.replace(b"__", b"  ")
BARE = b'''"""Text of the module."""
import math
def half(x):
    return x / 2
TEXT = """first__

# no comment
last"""'''.replace(b"__", b"  ")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"  # A comment.", b""),
        (b"# A comment.", b"#another one with 'a quote"),
        (b"\n\n\n", b"\n"),
        (b"import math\n", b"import math  \t\n    \n"),
        (b"x / 2", b"x / 2   "),
        (b"\n", b"\r\n"),
        (b"def", b"# def\ndef"),
        (CODE, BARE),
    ],
)
def test_what_does_not_run_does_not_count(old: bytes, new: bytes) -> None:
    assert old in CODE
    assert digests.of_python(CODE.replace(old, new)) == digests.of_python(CODE)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"x / 2", b"x / 3"),
        (b"x / 2", b"x /  2"),
        (b"    return", b"  return"),
        (b"Text of", b"Words of"),
        (b"first  ", b"first"),
        (b"# no comment", b"# a comment"),
        (b"# no comment\n", b""),
        (b"first  \n\n", b"first  \n"),
    ],
)
def test_what_runs_counts(old: bytes, new: bytes) -> None:
    assert old in CODE
    assert digests.of_python(CODE.replace(old, new)) != digests.of_python(CODE)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        # A string that looks like a comment, and a comment that looks like a string.
        ('x = "# a"', 'x = "# b"'),
        ("x = 'it\\'s # a'", "x = 'it\\'s # b'"),
        ('x = r"\\"  # "', 'x = r"\\" # "'),
        ("x = f'{y}  # a'", "x = f'{y}  # b'"),
        ("x = f'{{'  # a\ny = '}'", "x = f'{{'  # a\ny = '}}'"),
        # Only from Python 3.12 on: the file is taken as it is.
        ('x = f"{d["a # b"]}"', 'x = f"{d["a # c"]}"'),
        # The statement ends before the second line, or goes on in it.
        ("x = 1 \\\n\n+ 2", "x = 1 \\\n+ 2"),
        # No Python at all.
        ("'a # b", "'a # c"),
        ("x = 1 # \0", "x = 1 # \0\0"),
    ],
)
def test_programs_that_differ_have_other_digests(one: str, other: str) -> None:
    assert digests.of_python(one.encode()) != digests.of_python(other.encode())


def test_a_digest_of_code_is_the_same_on_every_python() -> None:
    # Written down once. The letters outside ASCII and the f-string are where versions of Python
    # place their tokens differently.
    code = 'TEXT = """é\n ∑"""  # ü\nπ = f"{TEXT!r:>{8}} # {{"  # ü\n'
    assert digests.of_python(code.encode()) == DIGEST
    assert digests.of_python(b"\xef\xbb\xbf" + code.encode()) == DIGEST
    assert digests.of_python(b"# coding: latin-1\nx = '\xe9'\n") == digests.of_python(
        "x = 'é'".encode()
    )


DIGEST = "bcb087583bd519178294f09608e4294428ac554d45a7ba56214750e57a96e0da"


def test_json_stays_json_where_a_number_is_none() -> None:
    content = {"a": [math.nan, math.inf], "b": {"c": -math.inf, "d": 0.1, "e": None}, "f": "NaN"}
    text = files.dumps(content)
    found = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert found["b"] == {"c": "-Infinity", "d": 0.1, "e": None}
    back = {key: files.numbers(found[key]) for key in "ab"}
    assert files.same(back, {key: content[key] for key in "ab"})
    # The digests of ledgers are over this text.
    finite = {"z": [1, 0.1, True, None, "é"], "a": {"b": 1e-7}}
    assert files.dumps(finite, sort_keys=True) == json.dumps(finite, sort_keys=True)


def test_a_nan_equals_itself_and_nothing_else() -> None:
    nan = float("nan")
    assert files.same({"a": [nan, 1.0]}, {"a": [float("nan"), 1]})
    for other in (1.0, None, "NaN", math.inf):
        assert not files.same(nan, other) and not files.same(other, nan)
    assert not files.same({"a": nan}, {"b": nan}) and not files.same([nan], [nan, nan])
    assert files.changed({"x": {"y": nan, "z": 1}}, {"x": {"y": nan, "z": 2}}) == {"x.z": [1, 2]}


def test_a_ledger_and_a_manifest_hold_numbers_that_are_none(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        book = ledger.Ledger(tmp_path / name / "ledger.jsonl")
        book.append("final", {"results": {"loss": math.nan}})
        book.close()
        manifest.write(tmp_path / name, examples.finished(metrics={"loss": math.nan}))
    one, other = (tmp_path / name / "ledger.jsonl" for name in ("one", "other"))
    assert ledger.first_difference(one, other) is None
    for path in (one, tmp_path / "one" / "manifest.json"):
        json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(name))
    assert math.isnan(manifest.of_finished(tmp_path / "one").metrics["loss"])


def test_arrays_are_read_within_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.npz"
    arrays = {"x": np.arange(6.0).reshape(2, 3), "t": np.array(["a", "bc"]), "b": np.array(True)}
    np.savez(path, allow_pickle=False, **arrays)
    found = files.arrays(path)
    assert list(found) == ["x", "t", "b"]
    assert all(np.array_equal(found[name], array) for name, array in arrays.items())
    # A few kilobytes that unpack to a thousand times as many.
    np.savez_compressed(path, x=np.zeros(1 << 20, np.uint8))
    assert path.stat().st_size < 1 << 12
    monkeypatch.setattr(files, "ARRAYS_MOST", 1 << 16)
    with pytest.raises(BadInput, match=r"a\.npz: unpacks to 1,048,704 bytes; expected 65,536 at"):
        files.arrays(path)
    with pytest.raises(FileNotFoundError):
        files.arrays(tmp_path / "none.npz")


def test_arrays_that_lie_about_themselves_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"

    def refused(content: bytes, name: str = "x.npy") -> str:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(name, content)
        with pytest.raises(BadInput) as told:
            files.arrays(path)
        assert "\n" not in str(told.value)
        return str(told.value)

    file = io.BytesIO()
    npy.write_array_header_1_0(file, {"shape": (1 << 40,), "fortran_order": False, "descr": "<f8"})
    assert "header" in refused(file.getvalue() + bytes(8))
    file = io.BytesIO()
    np.save(file, np.array([{}], dtype=object), allow_pickle=True)
    assert "header" in refused(file.getvalue())
    refused(b"no array")
    path.write_bytes(b"PK no zip")
    with pytest.raises(BadInput, match="not a readable file of arrays"):
        files.arrays(path)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("val_loss é → 🙂", "val_loss é → 🙂"),
        ("\x1b]0;title\x07\x1b[31mred", "\\x1b]0;title\\x07\\x1b[31mred"),
        ("a\nIDENTICAL  2 runs", "a\\nIDENTICAL  2 runs"),
        ("\u202egnp.exe\x9b2J", "\\u202egnp.exe\\x9b2J"),
        ("\udcff", "\\udcff"),
    ],
)
def test_a_name_commands_no_terminal(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable("a\n\tb\r", lines=True) == "a\n\tb\\r"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("val_loss 0.1 → -0.2; a=b", "val_loss 0.1 → -0.2; a=b"),
        ("[a](http://b) ![c](d)", "\\[a\\](http://b) \\!\\[c\\](d)"),
        ("<img src=x> &lt; a & b", "\\<img src=x\\> &amp;lt; a & b"),
        ("a|b`c`\\", "a\\|b\\`c\\`\\\\"),
        ("a\n# b", "a # b"),
        ("# a", "\\# a"),
        ("- a", "\\- a"),
        ("1. a", "1\\. a"),
        ("0.1612", "0.1612"),
        ("-0.5", "-0.5"),
        ("---", "\\---"),
        ("__init__ *a* ~~b~~ $c$", "\\_\\_init\\_\\_ \\*a\\* \\~\\~b\\~\\~ \\$c\\$"),
    ],
)
def test_text_is_no_markdown(text: str, shown: str) -> None:
    assert markdown(text) == shown


def test_names_of_files_are_plain_and_differ() -> None:
    taken: set[str] = set()
    names = [file_name(name, taken) for name in ("f1/macro", "f1-macro", "F1-Macro", "..", "../a")]
    assert names == ["f1-macro", "f1-macro-2", "F1-Macro-3", "picture", "-a"]


# A report on runs whose files hold unusual names and numbers.
METRICS = {"val_loss": math.nan, "val_f1/macro": 0.5, "val_f1-macro": 0.25, "val_$x$ \x1b[31m": 0.5}


def run(folder: Path, targets: np.ndarray, name: str = "20260101-000000-run-abcdef") -> Path:
    """What a training leaves, as far as a report reads it."""
    directory = folder / name
    directory.mkdir(parents=True)
    book = ledger.Ledger(directory / "ledger.jsonl")
    book.append("final", {"results": {name: value.hex() for name, value in METRICS.items()}})
    book.close()
    parts = {"train": 8, "validation": 2, "test": len(targets)}
    content = examples.finished(
        name,
        digest="a" * 64,
        metrics=METRICS,
        split={"digest": "b" * 64, "sizes": parts, "repeated": {}},
        ledger_head=book.head,
    )
    manifest.write(directory, content)
    rows = json.loads(json.dumps([{"loss": "NaN"} | dict.fromkeys(METRICS, 0.5)] * 2))
    (directory / "history.json").write_text(json.dumps(rows), encoding="utf-8")
    predicted = np.zeros(len(targets), np.int64)
    shown = np.arange(len(targets))
    found = {"targets": targets, "predicted": predicted, "shown": shown, "x": np.eye(4)}
    found["confidence"] = np.ones(len(targets))
    np.savez(directory / "predictions.npz", allow_pickle=False, **found)
    return directory


def written(folder: Path, *runs: Path) -> str:
    """The report in Markdown, whose pictures are all there and well formed."""
    page = pages.write(folder, *pages.of_runs(runs))
    text = page.with_suffix(".md").read_text(encoding="utf-8")
    drawn = sorted(path.name for path in folder.glob("*.svg"))
    assert drawn and all(f"]({name})" in text for name in drawn)
    assert text.count("![") == len(drawn)
    for name in drawn:
        ElementTree.fromstring((folder / name).read_text(encoding="utf-8"))
    return text


def test_unusual_names_and_numbers_are_drawn(tmp_path: Path) -> None:
    text = written(tmp_path / "page", run(tmp_path, np.array([True, False, False, True])))
    assert "![curve-f1/macro](curve-f1-macro.svg)" in text
    assert "![curve-f1-macro](curve-f1-macro-2.svg)" in text
    assert "val\\_\\$x\\$ \\\\x1b\\[31m" in text
    assert "| nan |" in text
    assert "2 of 4 samples are wrong." in text
    page = (tmp_path / "page" / "report.html").read_text(encoding="utf-8")
    assert "\x1b" not in page[page.index("<svg") :].split("</svg>")[0]


def test_a_run_beside_a_copy_of_its_name(tmp_path: Path) -> None:
    one = run(tmp_path / "a", np.array([0, 1, 1, 0]))
    other = Path(shutil.copytree(one, tmp_path / "b" / one.name))
    beside = Path(shutil.copytree(one, tmp_path / "a" / f"{one.name}-2"))
    text = written(tmp_path / "page", one, other, beside, one)
    for name in (f"a/{one.name}", f"b/{one.name}", beside.name):
        assert f"| {name} | " in text
    assert text.count("| identical |") == 2, "the same directory, given twice, is one run"


def test_a_file_that_unpacks_to_too_much_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = run(tmp_path, np.array([0, 1, 1, 0]))
    monkeypatch.setattr(files, "ARRAYS_MOST", 1 << 16)
    np.savez_compressed(one / "produced.npz", noise=np.zeros(1 << 20, np.uint8))
    with pytest.raises(BadInput, match=r"produced\.npz: unpacks to 1,048,"):
        pages.of_runs([one])


def test_a_page_of_names_has_no_markdown_of_theirs() -> None:
    section = pages.Section(
        "a [link](http://x)", ["one\n\n# two\n- three <b>"], ["a|b"], [["`c`\n| d"]]
    )
    assert pages.render("md", "<i>", [section]) == (
        "# \\<i\\>\n\n## a \\[link\\](http://x)\n\none\n\\# two\n\\- three \\<b\\>\n\n"
        "| a\\|b |\n| --- |\n| \\`c\\` \\| d |\n"
    )


def test_strings_that_go_on_and_formatted_ones_in_capitals_are_strings() -> None:
    def digest(source: str) -> str:
        return digests.of_python(source.encode())

    # A comment after a string that goes on in the next line does not count; `# b` is in the string.
    assert digest('x = "a\\\n# b"  # one\n') == digest('x = "a\\\n# b"  # two\n')
    assert digest('x = "a\\\n# b"\n') != digest('x = "a\\\n# c"\n')
    # Only Python 3.12 and later can read this string, so that the file counts as it is.
    assert digest('x = F"{d["a"]}"  # one\n') != digest('x = F"{d["a"]}"  # two\n')
    assert digest("x = F\"{d['a']}\"  # one\n") == digest("x = F\"{d['a']}\"  # two\n")
    # Braces count in formatted strings alone.
    assert digest("x = '{'  # one\n") == digest("x = '{'  # two\n")


def test_an_empty_line_counts_where_it_ends_a_line_that_goes_on() -> None:
    def digest(source: str) -> str:
        return digests.of_python(source.encode())

    assert digest("a = 1\nx = 1 + \\\n\ny = 2\n") != digest("a = 1\nx = 1 + \\\ny = 2\n")
    assert digest("x = 1 + \\\n1\n\ny = 2\n") == digest("x = 1 + \\\n1\ny = 2\n")


def test_an_array_of_python_objects_has_no_digest() -> None:
    with pytest.raises(BadInput, match="data: expected arrays of numbers or strings, got one of P"):
        digests.sha256(np.array([{}, None], dtype=object))

"""Reports on runs whose files hold unusual names and numbers. Nothing is trained here."""

from __future__ import annotations

import json
import math
import shutil
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repro import BadInput, files, ledger, report
from repro import recipe as recipes

METRICS = {"val_loss": math.nan, "val_f1/macro": 0.5, "val_f1-macro": 0.25, "val_$x$ \x1b[31m": 0.5}


def run(folder: Path, targets: np.ndarray, name: str = "20260101-000000-run-abcdef") -> Path:
    """What a training leaves, as far as a report reads it."""
    directory = folder / name
    directory.mkdir(parents=True)
    book = ledger.Ledger(directory / "ledger.jsonl")
    book.append("final", {"results": {name: value.hex() for name, value in METRICS.items()}})
    book.close()
    parts = {"train": 8, "validation": 2, "test": len(targets)}
    content: dict[str, Any] = {
        "run": name,
        "recipe": {"parameters": {"training": {"initial_epoch": 0}}, "data": {}},
        "status": "finished",
        "digest": "a" * 64,
        "metrics": METRICS,
        "guarantee": {"asked": "machine", "holds": "machine", "broken": []},
        "surroundings": {"varied": []},
        "split": {"digest": "b" * 64, "sizes": parts, "repeated": {}},
        "machine": {"cpu": "Zen"},
        "ledger_head": book.head,
    }
    recipes.write_manifest(directory, content)
    rows = json.loads(json.dumps([{"loss": "NaN"} | dict.fromkeys(METRICS, 0.5)] * 2))
    (directory / "history.json").write_text(json.dumps(rows), encoding="utf-8")
    predicted = np.zeros(len(targets), np.int64)
    shown = np.arange(len(targets))
    found = {"targets": targets, "predicted": predicted, "shown": shown, "x": np.eye(4)}
    np.savez(directory / "predictions.npz", confidence=np.ones(len(targets)), **found)
    return directory


def written(folder: Path, *runs: Path) -> str:
    """The report in Markdown, whose pictures are all there and well formed."""
    page = report.write(folder, *report.of_runs(runs))
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
        report.of_runs([one])


def test_a_page_of_names_has_no_markdown_of_theirs() -> None:
    section = report.Section(
        "a [link](http://x)", ["one\n\n# two\n- three <b>"], ["a|b"], [["`c`\n| d"]]
    )
    assert report.render("md", "<i>", [section]) == (
        "# \\<i\\>\n\n## a \\[link\\](http://x)\n\none\n\\# two\n\\- three \\<b\\>\n\n"
        "| a\\|b |\n| --- |\n| \\`c\\` \\| d |\n"
    )

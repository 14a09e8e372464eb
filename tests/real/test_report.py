"""A report, in a real browser; the same runs give the same bytes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from benchmarks import figures

from .conftest import Generated

pytestmark = pytest.mark.real

PHONE = 500
"""Pixels; Chromium makes no narrower window without a screen."""


@pytest.fixture(scope="module")
def study(project: Generated) -> str:
    sweep = ("sweep", "training.batch_size=32,64,128", "training.epochs=2", "--seeds", "2")
    return str(project.repro(*sweep)["study"])


def test_the_same_runs_give_the_same_bytes(project: Generated, study: str, tmp_path: Path) -> None:
    for arguments in (("--study", study), (f"{study}-0", f"{study}-1", f"{study}-0-again")):
        folders = [tmp_path / f"{arguments[0]}-{number}" for number in range(2)]
        for number, folder in enumerate(folders):
            project.repro("report", *arguments, "--output", str(folder), PYTHONHASHSEED=str(number))
        one, other = ({p.name: p.read_bytes() for p in f.iterdir()} for f in folders)
        assert one == other
        text = one["report.md"].decode()
        for picture in re.findall(r"\]\((.+?)\)", text):
            assert one[picture].startswith(b"<svg")
        wanted = ["Curves", "Test of", "Samples of", "Split", "Guarantee", "Manifest of"]
        wanted += ["Table"] if "--study" in arguments else ["Comparison", "Results"]
        assert all(f"\n## {title}" in text for title in wanted), text
        page = one["report.html"].decode()
        assert not re.findall(r"(?:src|href)=\"(?!#|data:)[^\"]*\"", page)
        assert str(project.root) not in page


def test_a_comparison_says_where_runs_part(project: Generated, tmp_path: Path) -> None:
    copy = project.copy(tmp_path / "project")
    one = copy.repro("train", "training.epochs=1")["run_dir"]
    copy.insert("models/dense.py", "    return ", "    activation = 'tanh'\n")
    other = copy.repro("train", "training.epochs=1")["run_dir"]
    page = Path(copy.repro("report", one, other)["report"])
    assert "diverged" in page.read_text()
    assert "epoch 1" in page.with_suffix(".md").read_text()


@pytest.mark.skipif(figures.BROWSER is None, reason="no Chromium")
def test_a_phone_in_the_dark_shows_it_whole(project: Generated, study: str, tmp_path: Path) -> None:
    folder = tmp_path / "report"
    page = Path(project.repro("report", "--study", study, "--output", str(folder))["report"])
    # The page itself allows no script; a copy of it measures.
    text = page.read_text()
    assert "Content-Security-Policy" in text
    measuring = folder / "measured.html"
    script = (
        "<script>onload = () => document.title = JSON.stringify({"
        "wide: document.documentElement.scrollWidth, window: innerWidth,"
        "pictures: [...document.querySelectorAll('figure svg')].map(svg => svg.clientWidth),"
        "ink: getComputedStyle(document.querySelector('figure svg text')).fill,"
        "page: getComputedStyle(document.body).backgroundColor})</script>"
    )
    measuring.write_text(re.sub(r"<meta http-equiv[^>]*>", script, text))
    for scheme, dark in ((0, True), (1, False)):
        shown = figures.browse(
            measuring,
            f"--window-size={PHONE},900",
            f"--blink-settings=preferredColorScheme={scheme}",
            "--dump-dom",
        )
        title = re.search(r"<title>(.*?)</title>", shown)
        assert title is not None
        found = json.loads(title[1])
        assert found["wide"] <= found["window"], found
        assert len(found["pictures"]) >= 6 and all(100 < w <= PHONE for w in found["pictures"])
        luminance = {
            name: sum(map(int, re.findall(r"\d+", found[name])[:3])) for name in ("ink", "page")
        }
        assert (luminance["page"] < 150 < 500 < luminance["ink"]) is dark, found
        assert (luminance["ink"] < 150 < 500 < luminance["page"]) is not dark, found

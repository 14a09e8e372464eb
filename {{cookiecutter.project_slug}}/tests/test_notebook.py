"""The whole notebook is reproducible: run again, it says the same. `make notebook` renews it."""

from __future__ import annotations

import platform
import sys
from pathlib import Path
from typing import Any

import nbclient
import nbformat
import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


def execute(path: Path) -> Any:
    """The notebook with the outputs of a run in a fresh process, without those on stderr."""
    notebook = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    resources = {"metadata": {"path": str(path.parent)}}
    client = nbclient.NotebookClient(notebook, timeout=1800, resources=resources)
    executed = client.execute()
    for cell in executed.cells:
        shown = [one for one in cell.get("outputs", []) if one.get("name") != "stderr"]
        if "outputs" in cell:
            cell.outputs = shown
    return executed


def outputs(notebook: Any) -> list[list[Any]]:
    """What each cell shows."""
    return [
        [output.get("text") or output.get("data") or output for output in cell.get("outputs", [])]
        for cell in notebook.cells
    ]


@pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64",
    reason="its outputs are those of the guarantee `portable`, which is for x86-64 under Linux",
)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_says_the_same_again(path: Path) -> None:
    committed = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    assert any(outputs(committed)), "not run yet: make notebook"
    assert outputs(execute(path)) == outputs(committed), "renew it: make notebook"


if __name__ == "__main__":
    for path in NOTEBOOKS:
        nbformat.write(execute(path), path)  # type: ignore[no-untyped-call]

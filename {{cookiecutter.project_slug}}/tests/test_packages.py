"""Which lock is installed, and where the environment departs from it."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

import pytest

from repro import packages, recipe
from repro import recipe as recipes

PROJECT = recipes.Project.find(Path(__file__).parent)
CPU = f"""
# A comment; other==1
click==8.4.2 \\
    --hash=sha256:{"0" * 64}
Dask[distributed]==2026.7 ; sys_platform == '{sys.platform}' \\
    --hash=sha256:{"0" * 64}
torch==2.13.0 ; sys_platform == 'nowhere' \\
    --hash=sha256:{"0" * 64}
torch==2.13.0+cpu ; sys_platform != 'nowhere' \\
    --hash=sha256:{"0" * 64}
colorama==0.4 ; python_full_version < '3' or platform_machine == 'not-{platform.machine()}'
"""
CUDA = """
click==8.4.2
torch==2.13.0
nvidia-cublas-cu12==12.9 ; sys_platform != 'nowhere'
nvidia-cudnn-cu12==9.28
nvidia-nccl-cu12==2.32
nvidia-elsewhere==1 ; sys_platform == 'nowhere'
"""
THERE = {"click": "8.4.2", "dask": "2026.7", "torch": "2.13.0+cpu", "any-other": "1"}


def test_a_lock_pins_what_is_for_this_system() -> None:
    pins = packages.pins(CPU)
    assert pins == {"click": ["8.4.2"], "dask": ["2026.7"], "torch": ["2.13.0+cpu"]}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({}, {}),
        ({"click": "8.4.1"}, {"click": "8.4.2 locked, 8.4.1 installed"}),
        ({"click": None}, {"click": "8.4.2 locked, not installed"}),
        # The build for another system.
        ({"torch": "2.13.0"}, {"torch": "2.13.0+cpu locked, 2.13.0 installed"}),
        ({"colorama": "1"}, {}),
    ],
)
def test_what_is_missing_or_another_is_a_departure(
    change: dict[str, str | None], told: dict[str, str]
) -> None:
    there = {name: version for name, version in {**THERE, **change}.items() if version}
    assert packages.departures(CPU, there) == told


@pytest.mark.parametrize(
    ("more", "lock"),
    [
        ([], "cpu"),
        # It comes with monitors, and the second with other libraries; neither is this lock's.
        (["nvidia-ml-py"], "cpu"),
        (["nvidia-nccl-cu12"], "cpu"),
        (["nvidia-cublas-cu12", "nvidia-cudnn-cu12", "nvidia-nccl-cu12"], "cuda"),
        # One of them was taken away: a departure from that lock.
        (["nvidia-cublas-cu12", "nvidia-cudnn-cu12"], "cuda"),
    ],
)
def test_the_lock_is_the_one_that_was_installed(more: list[str], lock: str, tmp_path: Path) -> None:
    (tmp_path / "cpu.txt").write_text(CPU)
    (tmp_path / "cuda.txt").write_text(CUDA)
    assert packages.locked(tmp_path, THERE | dict.fromkeys(more, "1")) == lock


@pytest.mark.parametrize("lock", ["cpu", "cuda"])
def test_a_package_that_is_taken_away_is_named(lock: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (PROJECT.root / "requirements" / f"{lock}.txt").read_text(encoding="utf-8")
    there = {name: versions[0] for name, versions in packages.pins(text).items()}
    monkeypatch.setattr(packages, "installed", lambda: there)
    found = recipe.lock(PROJECT.root)
    if found["file"] != f"requirements/{lock}.txt":
        pytest.skip("without NVIDIA's packages for this system, the locks are one")
    assert found["departures"] == {}
    version = there.pop("click")
    assert recipe.lock(PROJECT.root)["departures"] == {"click": f"{version} locked, not installed"}

"""Describes this machine and its libraries: processor, usable cores, GPUs, memory, versions."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import platform
import re
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from repro.environment import image

LIBRARIES = (
    *("tensorflow", "tensorflow-cpu", "jax", "jaxlib", "torch"),
    *("keras", "numpy", "scipy", "scikit-learn", "h5py"),
)


@dataclass(frozen=True)
class Machine:
    """The processor, as the operating system describes it, and how much of it a process may use."""

    cpu: str
    cpu_flags: list[str]
    cores: int | None
    cores_available: int
    architecture: str
    system: str
    image: str | None
    """The digest of the container's image; None outside a container. See `image.current`."""


def here() -> Machine:
    """Describes this machine."""
    model, flags = platform.processor(), ""
    with contextlib.suppress(OSError):  # Only Linux has this file.
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        model = _first(r"^model name\s*: (.*)$", text) or model
        flags = _first(r"^(?:flags|Features)\s*: (.*)$", text)
    return Machine(
        cpu=model,
        cpu_flags=flags.split(),
        cores=os.cpu_count(),
        cores_available=available_cores(),
        architecture=platform.machine(),
        system=platform.platform(),
        image=image.current(),
    )


def _first(pattern: str, text: str) -> str:
    found = re.search(pattern, text, re.MULTILINE)
    return found[1].strip() if found else ""


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the installed libraries, by their names."""
    found = {"python": platform.python_version(), "implementation": sys.implementation.name}
    for library in LIBRARIES:
        with contextlib.suppress(metadata.PackageNotFoundError):  # It belongs to another backend.
            found[library] = metadata.version(library)
    return found


def peak_memory() -> int | None:
    """Returns the most bytes that this process ever held; None on Windows, which does not tell."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def available_cores() -> int:
    """Returns how many cores this process may use, by its affinity and its container's limit."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return max(1, math.ceil(min(cores, _quota())))


def _quota(groups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> float:
    """Returns how many cores Linux's control group allows, such as 1.5; infinity: no limit."""
    with contextlib.suppress(OSError, ValueError):
        group = own.read_text().rpartition(":")[2].strip().lstrip("/")
        second = groups / group / "cpu.max"
        first = [groups / "cpu" / f"cpu.cfs_{name}_us" for name in ("quota", "period")]
        files = [second] if second.is_file() else first
        quota, period = " ".join(file.read_text() for file in files).split()
        if quota.isdigit() and int(period) > 0:
            return int(quota) / int(period)
    return math.inf


def gpus(guarantee: str) -> list[str]:
    """Returns the NVIDIA GPUs that a run may use here, as `CUDA_VISIBLE_DEVICES` names them.

    With the guarantee `portable` a run uses none.
    """
    if guarantee == "portable":
        return []
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is not None:
        return [] if allowed.strip() in ("", "-1") else allowed.split(",")
    return [str(number) for number in range(_installed_gpus())]


@functools.cache  # A study asks again for each of its trials.
def _installed_gpus() -> int:
    try:
        listed = subprocess.run(("nvidia-smi", "-L"), capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return 0 if listed.returncode else len(listed.stdout.splitlines())

"""Each lock in requirements/ still says what its `.in` file asks for. Reads files alone, so it
works without a network; it cannot see a changed extra, nor whether an index has something newer."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

DIRECTORY = Path(__file__).resolve().parents[1] / "requirements"
NAMES = ("cpu", "cuda", "dev")
BACKENDS = ("tensorflow", "tensorflow-cpu", "jax", "torch")
"""What trains the models, with CUDA or without: the one thing that cpu and cuda differ in."""


@dataclasses.dataclass(frozen=True)
class Pin:
    """One package in a lock, with the names of what asked for it."""

    requirement: Requirement
    version: str
    hashes: list[str]
    via: list[str]

    @property
    def name(self) -> str:
        return canonicalize_name(self.requirement.name)


def asked(name: str) -> list[Requirement]:
    """The requirements in a `.in` file; options such as `-c cpu.txt` and comments left out."""
    lines = (DIRECTORY / f"{name}.in").read_text(encoding="utf-8").splitlines()
    bare = (re.sub(r"(^|\s)#.*", "", line).strip() for line in lines)
    return [Requirement(line) for line in bare if line and not line.startswith("-")]


def locked(name: str) -> list[Pin]:
    """The pins in a lock that uv or pip-compile wrote."""
    pins = []
    text = (DIRECTORY / f"{name}.txt").read_text(encoding="utf-8").replace("\\\n", " ")
    # A package begins at a line's start; its hashes and what asked for it are indented.
    for block in re.findall(r"^[A-Za-z0-9].*(?:\n[ \t].*)*", text, re.MULTILINE):
        first, *comments = block.splitlines()
        requirement, *hashes = re.split(r"\s+--hash=", first.strip())
        parsed = Requirement(requirement)
        version = re.fullmatch(r"===?([^*,]+)", str(parsed.specifier))
        assert version, f"{name}.txt: {requirement} is not pinned to one version. Run: make lock"
        # `# via one`, or `# via` and each on a line of its own: `#   one`.
        via = (re.sub(r"^\s*#\s*(via(\s+|$))?", "", comment) for comment in comments)
        pins.append(Pin(parsed, version[1], hashes, [source for source in via if source]))
    return pins


@pytest.mark.parametrize("name", NAMES)
def test_lock_pins_what_is_asked_for(name: str) -> None:
    source = f"-r requirements/{name}.in"
    direct: dict[str, list[Pin]] = {}  # several where builds differ between platforms
    for pin in locked(name):
        if source in pin.via:
            direct.setdefault(pin.name, []).append(pin)
    header = (DIRECTORY / f"{name}.txt").read_text(encoding="utf-8")[:200]
    wrong = []
    for requirement in asked(name):
        versions = [pin.version for pin in direct.get(canonicalize_name(requirement.name), [])]
        here = requirement.marker is None or requirement.marker.evaluate()
        # pip-compile leaves out what the machine that ran it does not need.
        if not versions and (here or "pip-compile" not in header):
            wrong.append(f"{requirement} is not pinned")
        elif versions and not any(requirement.specifier.filter(versions, prereleases=True)):
            wrong.append(f"{requirement} is asked for, {' and '.join(versions)} is pinned")
    extra = direct.keys() - {canonicalize_name(requirement.name) for requirement in asked(name)}
    wrong += [f"{package} is pinned, and no longer asked for" for package in sorted(extra)]
    assert not wrong, f"{name}.txt is not {name}.in's lock ({'; '.join(wrong)}). Run: make lock"


@pytest.mark.parametrize("name", NAMES)
def test_every_pin_has_a_hash(name: str) -> None:
    pins = locked(name)
    assert pins, f"{name}.txt pins nothing. Run: make lock"
    bare = [
        pin.name
        for pin in pins
        if not pin.hashes or not all(re.fullmatch("sha256:[0-9a-f]{64}", h) for h in pin.hashes)
    ]
    assert not bare, f"{name}.txt has no SHA-256 for {', '.join(bare)}. Run: make lock"


def test_every_package_has_one_version() -> None:
    """In one file two would be for two Pythons or platforms; the bits may differ between them."""
    versions: dict[str, set[str]] = {}
    for name in NAMES:
        for pin in locked(name):
            # One library, with CUDA and without: told by its name, or by a `+cpu` in its version.
            package = "tensorflow" if pin.name == "tensorflow-cpu" else pin.name
            versions.setdefault(package, set()).add(Version(pin.version).public)
    several = [
        f"{package} {sorted(found)}" for package, found in versions.items() if len(found) > 1
    ]
    assert not several, f"more than one version of {'; '.join(several)}. Run: make lock"


@pytest.mark.parametrize("name", NAMES)
def test_one_build_of_tensorflow_is_installed(name: str) -> None:
    """Each would overwrite files of the other."""
    builds = {"tensorflow", "tensorflow-cpu"}
    here = [
        str(pin.requirement)
        for pin in locked(name)
        if pin.name in builds
        and (pin.requirement.marker is None or pin.requirement.marker.evaluate())
    ]
    assert len(here) < 2, (
        f"{name}.txt pins {' and '.join(here)}; requirements/overrides.txt tells why"
    )


@pytest.mark.parametrize("name", NAMES)
def test_lock_names_no_address(name: str) -> None:
    """An index's address in a lock would be one machine's setting, given to everyone."""
    lines = (DIRECTORY / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    found = [line for line in lines if "://" in line or line.startswith("-")]
    assert not found, f"{name}.txt: {found[0]}. Run: make lock"


def test_cuda_asks_for_what_cpu_asks_for() -> None:
    cpu, cuda = (
        {str(requirement) for requirement in asked(name) if requirement.name not in BACKENDS}
        for name in ("cpu", "cuda")
    )
    assert cpu == cuda, f"cpu.in and cuda.in differ in {sorted(cpu ^ cuda)}. Mend, then: make lock"

"""Images and dev containers on a real engine: one file, so that one process builds for all."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from .conftest import Generated, document, proof
from .engine import FROM, Engine, engine

pytestmark = pytest.mark.real

SHORT = ("guarantee=portable", "training.epochs=1")
KEPT = ("data", "runs", "studies", "reports")
"""What compose.yaml mounts."""


@dataclass(frozen=True)
class Built:
    """A project, and what `repro image` said of it."""

    project: Generated
    answer: dict[str, Any]


@pytest.fixture(scope="module")
def docker(project: Generated) -> Iterator[Engine]:
    pinned = FROM.search((project.root / "Dockerfile").read_text(encoding="utf-8"))
    assert pinned
    with engine(pinned[0]) as found:
        yield found


@pytest.fixture(scope="module")
def built(docker: Engine, project: Generated, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The image of a project with the defaults; every second that it takes counts."""
    mine = project.copy(tmp_path_factory.mktemp("image") / "demo")
    return Built(mine, build(docker, mine.root))


@pytest.fixture(scope="module")
def small(project: Generated, tmp_path_factory: pytest.TempPathFactory) -> Generated:
    """A project whose lock is setuptools alone: all steps of a build, without the weight."""
    mine = project.copy(tmp_path_factory.mktemp("small") / "small")
    lock = mine.root / "requirements" / "cpu.txt"
    found = re.search(r"^setuptools==(?:.*\n)(?:[ \t].*\n)*", lock.read_text("utf-8"), re.MULTILINE)
    assert found
    lock.write_text(found[0], encoding="utf-8")
    name = mine.root / "pyproject.toml"
    text = name.read_text(encoding="utf-8")
    name.write_text(text.replace('name = "reproducible-digits"', 'name = "small"'), "utf-8")
    return mine


def build(docker: Engine, root: Path, *options: str, status: int = 0) -> dict[str, Any]:
    """`repro image --json` without an environment, as `make image` runs it."""
    command = (sys.executable, "-S", "-m", "repro", "image", *options, "--json")
    done = docker.run(*command, "--", *docker.options, cwd=root, PYTHONPATH=str(root / "src"))
    assert done.returncode == status, done.stdout + done.stderr[-5000:]
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def manifest(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    return content


def test_the_image_has_no_rights_and_no_tools(docker: Engine, built: Built) -> None:
    tag = built.answer["tag"]
    shell = ("run", "--rm", "--network=none", "--entrypoint=sh", tag, "-c")
    assert docker.docker(*shell, "id -u; id -un") == "1000\nrepro"
    for tool in ("cc", "gcc", "git", "make", "uv"):
        docker.docker(*shell, f"! command -v {tool}")
    docker.docker(*shell, "! touch src/repro/mine.py && touch runs/mine")
    # Nothing is newer than the year that it is built for, and nothing of the checkout's lies about.
    newer = "find /opt /project /usr /var /home -newermt 1980-01-02 | head"
    assert docker.docker(*shell, newer) == ""
    assert docker.docker(*shell, "ls -A | grep '^[.]' || true") == ""
    said = docker.docker("run", "--rm", "--network=none", tag)
    assert "guarantee machine holds" in said and "image        none" in said


def test_a_training_in_the_image_is_that_outside(docker: Engine, built: Built) -> None:
    root, tag = built.project.root, built.answer["tag"]
    for name in KEPT:
        (root / name).mkdir(exist_ok=True)
        if os.geteuid() == 0:  # The image's own user, not the one of these tests.
            os.chown(root / name, 1000, 1000)
    identity = docker.docker("image", "ls", "--no-trunc", "--quiet", tag)
    user = "1000:1000" if os.geteuid() == 0 else f"{os.geteuid()}:{os.getegid()}"
    said = {"REPRO_IMAGE": identity, "REPRO_USER": user}
    command = ("docker", "compose", "run", "--rm", "-T", "cpu", "verify", *SHORT, "--json")
    done = docker.run(*command, cwd=root, **said)
    assert done.returncode == 0, done.stdout + done.stderr
    answer = json.loads(done.stdout)
    assert answer["verdict"] == "identical"
    assert answer["guarantee"]["holds"] == "portable"
    inside = [manifest(root / "runs" / Path(run).name) for run in answer["runs"]]
    assert {content["machine"]["image"] for content in inside} == {identity}
    assert identity in (built.answer["digest"], built.answer["config"])
    # Outside: another Python, another C library.
    outside = built.project.repro("train", *SHORT)
    assert outside["digest"] == answer["digest"]
    assert manifest(Path(outside["run_dir"]))["machine"]["image"] is None
    compared = built.project.repro(
        "diff", outside["run_dir"], str(root / "runs" / inside[0]["run"])
    )
    assert compared["verdict"] == "identical"


def test_a_wrong_digest_is_refused(built: Built) -> None:
    before = set((built.project.root / "runs").glob("*"))
    for command in ("train", "doctor"):
        done = built.project.run("repro", command, REPRO_IMAGE="demo:cpu")
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert "REPRO_IMAGE: expected sha256:" in done.stderr
    assert set((built.project.root / "runs").glob("*")) == before


def test_two_builds_are_identical(docker: Engine, small: Generated, tmp_path: Path) -> None:
    first = build(docker, small.root)
    # Elsewhere, with other permissions and times, and with what lies about in a checkout.
    other = small.copy(tmp_path / "elsewhere").root
    for path in (other, *other.rglob("*")):
        path.chmod(0o700 if path.is_dir() else 0o600)
        os.utime(path, (86400, 86400))
    for name in (".git/config", "data/mine.npz", "runs/1/state.npz", "notes.txt", "src/.env"):
        (other / name).parent.mkdir(parents=True, exist_ok=True)
        (other / name).write_text("mine")
    again = build(docker, other, "--twice")
    assert again["verdict"] == "identical"
    assert first["digest"] == again["digest"] == again["again"]


@proof()
def test_two_builds_of_the_whole_are_identical(docker: Engine, built: Built) -> None:
    answer = build(docker, built.project.root, "--twice")
    assert answer["verdict"] == "identical"
    assert answer["digest"] == built.answer["digest"]


def test_what_two_builds_differ_in_is_named(
    docker: Engine, small: Generated, tmp_path: Path
) -> None:
    mine = small.copy(tmp_path / "planted").root
    file = mine / "Dockerfile"
    text = file.read_text(encoding="utf-8")
    place = "COPY --from=compiled"
    assert text.count(place) == 1
    file.write_text(text.replace(place, f"RUN date +%s%N > /etc/planted\n{place}"), "utf-8")
    answer = build(docker, mine, "--twice", status=1)
    assert answer["verdict"] == "diverged"
    (line,) = answer["differences"]
    assert re.fullmatch(r"layer \d+ of \d+: /etc/planted: content", line)


def test_the_figures_of_an_image(docker: Engine, built: Built) -> None:
    answer = built.answer
    assert answer["bytes"] < 1e9
    document("image", f"{answer['bytes'] / 1e6:.0f} MB", "containers.md")
    document("image built", f"{answer['seconds']:.0f} s", "containers.md")


@dataclass(frozen=True)
class DevContainer:
    """A workspace that `devcontainer` is called for."""

    docker: Engine
    program: Path
    root: Path
    device: str

    def call(self, command: str, *arguments: str) -> str:
        where = ("--workspace-folder", str(self.root))
        config = ("--config", str(self.root / ".devcontainer" / self.device / "devcontainer.json"))
        program = str(self.program)
        done = self.docker.run(program, command, *where, *config, *arguments, cwd=self.root)
        assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
        return done.stdout


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`devcontainer`, as its lock has it."""
    if shutil.which("npm") is None:
        pytest.skip("no npm to install @devcontainers/cli with")
    folder = tmp_path_factory.mktemp("npm")
    for file in (Path(__file__).parent / "npm").glob("*.json"):
        shutil.copy(file, folder)
    subprocess.run(("npm", "ci", "--ignore-scripts"), cwd=folder, check=True, capture_output=True)
    return folder / "node_modules" / ".bin" / "devcontainer"


def workspace(
    docker: Engine, program: Path, project: Generated, to: Path, device: str
) -> DevContainer:
    """A checkout with a repository; where no registry is, on the image that the tests build on."""
    root = project.copy(to).root
    file = root / ".devcontainer" / device / "devcontainer.json"
    comments = re.compile(r"^\s*//.*$", re.MULTILINE)
    config = json.loads(comments.sub("", file.read_text(encoding="utf-8")))
    if docker.base is not None:
        # The program wants to pull what the Dockerfile names, whatever the options are.
        text = (root / "Dockerfile").read_text(encoding="utf-8")
        (root / "Dockerfile").write_text(FROM.sub(docker.base, text), encoding="utf-8")
        config["build"]["options"] = ["--network=host"]
        config.setdefault("runArgs", []).append("--network=host")
    file.write_text(json.dumps(config), encoding="utf-8")
    subprocess.run(("git", "init", "--quiet", str(root)), check=True)
    if os.geteuid() == 0:  # As whose the editor would be run.
        for path in (root, *root.rglob("*")):
            os.lchown(path, 1000, 1000)
    return DevContainer(docker, program, root, device)


@proof("some ten minutes on two cores")
def test_a_dev_container_is_ready(
    docker: Engine, built: Built, program: Path, project: Generated, tmp_path: Path
) -> None:
    """After `built`, whose layers it shares."""
    mine = workspace(docker, program, project, tmp_path / "demo", "cpu")
    mine.call("build")
    # Giving the user the number of the one outside takes a network for containers.
    keep = ("--update-remote-user-uid-default", "off") if docker.base is not None else ()
    up = json.loads(mine.call("up", *keep).splitlines()[-1])
    assert (up["outcome"], up["remoteUser"]) == ("success", "repro")
    try:
        assert mine.call("exec", "id", "-un").strip() == "repro"
        assert mine.call("exec", "git", "status", "--short")
        answer = json.loads(mine.call("exec", "repro", "verify", "training.epochs=1", "--json"))
        assert answer["verdict"] == "identical"
        # What is edited is what runs, and what is written is there.
        assert (mine.root / "runs" / Path(answer["runs"][0]).name / "manifest.json").is_file()
        mine.call("exec", "make", "check")
        quick = "tests/test_locks.py tests/test_notebook.py"
        mine.call("exec", "make", "test", f"ARGS={quick}")
        # The environment can be brought to what the locks say.
        mine.call("exec", "sh", "-c", "python -m pip uninstall -qy rich && make sync")
        mine.call("exec", "python", "-c", "import rich")
    finally:
        docker.docker("rm", "--force", up["containerId"])


@proof("CUDA's libraries have several GB")
def test_the_image_for_cuda_builds(docker: Engine, built: Built) -> None:
    """Before the dev container, or its seconds would be without those of the packages."""
    answer = build(docker, built.project.root, "cuda")
    document("cuda image", f"{answer['bytes'] / 1e9:.1f} GB", "containers.md")
    document("cuda image built", f"{answer['seconds']:.0f} s", "containers.md")
    assert "GPUs         none" in docker.docker("run", "--rm", "--network=none", answer["tag"])


@proof("CUDA's libraries have several GB")
def test_the_dev_container_for_cuda_builds(
    docker: Engine, program: Path, project: Generated, tmp_path: Path
) -> None:
    mine = workspace(docker, program, project, tmp_path / "demo", "cuda")
    mine.call("build")


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_configurations_are_read(
    docker: Engine, program: Path, project: Generated, device: str
) -> None:
    mine = DevContainer(docker, program, project.root, device)
    found = json.loads(mine.call("read-configuration").splitlines()[-1])
    config = found["configuration"]
    assert found["workspace"]["workspaceFolder"] == "/project"
    assert config["remoteUser"] == "repro"
    assert {"vscode", "jetbrains"} <= config["customizations"].keys()
    assert config.get("hostRequirements") == ({"gpu": True} if device == "cuda" else None)

"""A Docker engine for the tests: the machine's, or else one of Debian's started for them alone."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

TEMPLATE = Path(__file__).parents[2]
PACKAGES = TEMPLATE / "build" / "engine"
BASE = "repro-test-base:latest"
FROM = re.compile(r"(?<=^FROM )python:\S+", re.MULTILINE)
"""The pinned image that the Dockerfile builds on."""
ROOM = 25
"""GB that images, their layers and archives need while the tests run."""


@dataclass(frozen=True)
class Engine:
    """A running engine, and what takes the place of the pinned image where that cannot be had."""

    environment: dict[str, str]
    pinned: str
    base: str | None

    def docker(self, *arguments: str, status: int = 0) -> str:
        done = self.run("docker", *arguments)
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout.strip()

    def run(
        self, *command: str, cwd: Path | None = None, **env: str
    ) -> subprocess.CompletedProcess[str]:
        """Runs a program that talks to this engine."""
        environment = self.environment | env
        return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)

    @property
    def options(self) -> tuple[str, ...]:
        """For `docker buildx build`."""
        if self.base is None:
            return ()
        return ("--network=host", "--build-context", f"{self.pinned}=docker-image://{self.base}")


@contextlib.contextmanager
def engine(pinned: str) -> Iterator[Engine]:
    """An engine with buildx, in a `with` block; one that was started is gone afterwards."""
    with contextlib.ExitStack() as stack:
        environment = dict(os.environ)
        if not _answers(environment):
            environment = stack.enter_context(_started())
        found = Engine(environment, pinned, None)
        name = pinned.partition("@")[0]
        if found.run("docker", "buildx", "imagetools", "inspect", pinned).returncode != 0:
            # No registry here: Debian's Python in the place of the pinned one.
            _fetch("base")
            found.docker("import", str(PACKAGES / "base.tar"), BASE)
            found = Engine(environment, pinned, BASE)
            print(f"{name} cannot be had; {BASE} is in its place", file=sys.stderr)
        yield found


def _answers(environment: dict[str, str]) -> bool:
    if shutil.which("docker") is None:
        return False
    commands = (("docker", "info"), ("docker", "buildx", "version"))
    return all(
        subprocess.run(command, env=environment, capture_output=True).returncode == 0
        for command in commands
    )


def _fetch(*what: str) -> None:
    if sys.platform != "linux" or platform.machine() != "x86_64" or os.geteuid() != 0:
        pytest.skip("no Docker engine runs here, and only root on Linux can start one")
    script = str(Path(__file__).with_name("engine.sh"))
    done = subprocess.run(("sh", script, str(PACKAGES), *what), capture_output=True, text=True)
    if done.returncode != 0:
        said = (done.stderr.strip().splitlines() or ["engine.sh failed"])[-1]
        pytest.skip(f"no Docker engine runs here, and none can be had: {said}")


@contextlib.contextmanager
def _started() -> Iterator[dict[str, str]]:
    _fetch()
    room = shutil.disk_usage(tempfile.gettempdir()).free / 1e9
    if room < ROOM:
        pytest.skip(f"images need {ROOM} GB of room, {room:.0f} GB are left")
    root = PACKAGES / "root" / "usr"
    # A short path: that of a socket may have some 100 bytes.
    folder = Path(tempfile.mkdtemp(prefix="engine-"))
    plugins = folder / "config" / "cli-plugins"
    plugins.mkdir(parents=True)
    for plugin in (root / "libexec" / "docker" / "cli-plugins").iterdir():
        (plugins / plugin.name).symlink_to(plugin)
    # The store of containerd, for the engine's own builder to write images into files.
    (folder / "daemon.json").write_text('{"features": {"containerd-snapshotter": true}}')
    environment = os.environ | {
        "PATH": f"{root / 'bin'}:{root / 'sbin'}:{os.environ['PATH']}",
        "DOCKER_HOST": f"unix://{folder / 'socket'}",
        "DOCKER_CONFIG": str(folder / "config"),
    }
    # Neither bridges nor rules for packets: builds use the machine's network, containers none.
    command = (
        *("dockerd", "--host", environment["DOCKER_HOST"]),
        *("--config-file", str(folder / "daemon.json"), "--pidfile", str(folder / "pid")),
        *("--data-root", str(folder / "data"), "--exec-root", str(folder / "exec")),
        *("--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false"),
    )
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            command, env=environment, stdout=log, stderr=log, start_new_session=True
        )
        try:
            for _ in range(300):
                if _answers(environment):
                    break
                if process.poll() is not None:
                    said = (folder / "log").read_text().splitlines()[-1:]
                    pytest.skip(f"no Docker engine runs here, and Debian's does not start: {said}")
                time.sleep(0.2)
            else:
                raise AssertionError((folder / "log").read_text()[-3000:])
            yield environment
        finally:
            process.terminate()  # Stops its containers and containerd as well.
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            mounts = Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
            places = [line.split()[1] for line in mounts]
            for place in sorted((p for p in places if p.startswith(f"{folder}/")), reverse=True):
                subprocess.run(("umount", "--lazy", place), check=False)
            shutil.rmtree(folder, ignore_errors=True)

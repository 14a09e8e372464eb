"""Builds the project's image, a second time if asked, and names the files in which two differ.

Two builds give the same bits if nothing in them depends on the time, the machine or the user. The
Dockerfile makes sure of this for the content of the layers. BuildKit does it for the times of files
and for the archives. This module needs only Docker and Python's standard library, so that it works
before any package is installed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from repro.basics import files
from repro.basics.errors import BadInput

ROOT = Path(__file__).resolve().parents[3]
DEVICES = ("cpu", "cuda")
EPOCH = 315532800
"""1980-01-01 in seconds, as in the Dockerfile: no file in the image is newer."""
OLDEST = (0, 13)
"""The first version of BuildKit that can set the times of files in layers."""
NEEDED = "install Docker 26 or later with buildx"


def build(device: str, twice: bool = False, options: Sequence[str] = ()) -> dict[str, Any]:
    """Builds an image and loads it into the engine as `<project>:<device>`.

    Args:
        twice: whether to build once more without the cache, and to compare.
        options: further options for `docker buildx build`.

    Returns:
        `tag`; `digest`, that of the manifest, by which a registry knows the image; `config`, the
        digest of the configuration; `bytes`, the size of the compressed layers; `seconds`, the
        time of the build. With `twice` also `verdict`; `again`, the digest of the second build;
        and `differences`, one line for each.

    Raises:
        BadInput: the engine cannot build such an image, or the build failed.
    """
    _engine()
    tag = f"{_name()}:{device}"
    with tempfile.TemporaryDirectory(prefix="repro-image-") as folder:
        first = Path(folder) / "first.tar"
        start = time.monotonic()
        _build(device, tag, first, options)
        seconds = time.monotonic() - start
        image = Image(first)
        _docker("load", "--quiet", "--input", str(first))
        answer = {
            "tag": tag,
            "digest": image.digest,
            "config": image.manifest["config"]["digest"],
            "bytes": sum(layer["size"] for layer in image.manifest["layers"]),
            "seconds": round(seconds, 1),
        }
        if twice:
            second = Path(folder) / "second.tar"
            _build(device, tag, second, ("--no-cache", *options))
            other = Image(second)
            same = image.digest == other.digest
            answer["verdict"] = "identical" if same else "diverged"
            answer["again"] = other.digest
            answer["differences"] = [] if same else list(differences(image, other))
    return answer


def lines(answer: dict[str, Any]) -> list[str]:
    """Returns the answer of `build` as lines for a person."""
    text = [
        f"image      {answer['tag']}",
        f"digest     {answer['digest']}",
        f"config     {answer['config']}",
        f"size       {answer['bytes'] / 1e6:.0f} MB in compressed layers",
        f"built in   {answer['seconds']:.0f} s",
    ]
    if "verdict" in answer:
        text.insert(0, f"{answer['verdict'].upper()}  2 builds")
        if answer["verdict"] == "diverged":
            text.append(f"again      {answer['again']}")
            text += [f"  {line}" for line in answer["differences"]]
    return text


def current() -> str | None:
    """Returns the digest of the image that this process runs in, or None.

    A container cannot find it out, so whoever starts it says it in the variable `REPRO_IMAGE`. The
    digest is None outside a container, or if the variable is not set.

    Raises:
        BadInput: `REPRO_IMAGE` is not a digest.
    """
    told = os.environ.get("REPRO_IMAGE") or None
    if told is not None and not re.fullmatch(r"sha256:[0-9a-f]{64}", told):
        raise BadInput(
            f"REPRO_IMAGE: expected sha256: and 64 hexadecimal digits, got {told!r}; "
            "docker image ls --no-trunc tells it"
        )
    return told


class Image:
    """An image in a file, as `docker buildx build --output type=docker` writes it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with tarfile.open(path) as archive:
            (described,) = self._json(archive, "index.json")["manifests"]
            self.digest: str = described["digest"]
            self.manifest = self._json(archive, _blob(self.digest))
            self.config = self._json(archive, _blob(self.manifest["config"]["digest"]))

    @staticmethod
    def _json(archive: tarfile.TarFile, name: str) -> Any:
        file = archive.extractfile(name)
        assert file is not None
        return json.load(file)

    @contextlib.contextmanager
    def layer(self, digest: str) -> Iterator[tarfile.TarFile]:
        """Opens a layer as an archive of its files."""
        with tarfile.open(self.path) as archive:
            file = archive.extractfile(_blob(digest))
            assert file is not None
            with tarfile.open(fileobj=file, mode="r|*") as layer:
                yield layer

    def entries(self, digest: str) -> dict[str, dict[str, Any]]:
        """Returns what a layer says about each file, by its path: all that can differ."""
        found: dict[str, dict[str, Any]] = {}
        with self.layer(digest) as layer:
            for place, entry in enumerate(layer):
                file = layer.extractfile(entry) if entry.isfile() else None
                found[entry.name] = {
                    "kind": entry.type.decode(),
                    "content": _sha256(file) if file else entry.linkname,
                    "mode": oct(entry.mode),
                    "owner": f"{entry.uid}:{entry.gid}",
                    "time": entry.mtime,
                    "attributes": sorted(entry.pax_headers.items()),
                    "place": place,
                }
        return found


def differences(one: Image, other: Image) -> Iterator[str]:
    """Yields a line for each file and each field of the configuration in which two images differ.

    The line of a file says what differs in it.
    """
    named = files.changed(one.config, other.config)
    layers = (one.manifest["layers"], other.manifest["layers"])
    count = max(map(len, layers))
    told = False
    for number in range(count):
        digests = [str(of[number]["digest"]) if number < len(of) else "" for of in layers]
        if digests[0] == digests[1]:
            continue
        told = True
        where = f"layer {number + 1} of {count}"
        if "" in digests:
            yield f"{where}: in one image alone"
            continue
        left, right = (image.entries(d) for image, d in zip((one, other), digests, strict=True))
        found = sorted(name for name in {*left, *right} if left.get(name) != right.get(name))
        # One added file moves all files behind it, so another place alone is not a difference.
        several = [n for n in found if n not in left or n not in right or _what(left[n], right[n])]
        for name in several:
            if name in left and name in right:
                what = ", ".join(_what(left[name], right[name]))
            else:
                what = f"only in the {'first' if name in left else 'second'}"
            yield f"{where}: /{name.lstrip('./')}: {what}"
        if not several:
            yield f"{where}: " + ("the order of its files" if found else "its compression alone")
    # The configuration has the digests of the layers too, and the layers were compared above.
    for field in named:
        if not (told and field.startswith(("rootfs", "history"))):
            yield f"configuration: {field}"


def _what(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    return [name for name in one if name != "place" and one[name] != other[name]]


def _build(device: str, tag: str, to: Path, options: Sequence[str]) -> None:
    command = (
        *("docker", "buildx", "build", "--target", "train", "--build-arg", f"DEVICE={device}"),
        # Neither is part of the image, and both say when and where it was built.
        *("--provenance=false", "--sbom=false"),
        *("--build-arg", f"SOURCE_DATE_EPOCH={EPOCH}"),
        *("--output", f"type=docker,name={tag},rewrite-timestamp=true,dest={to}"),
        *options,
        str(ROOT),
    )
    # Its messages go to stderr at once.
    if subprocess.run(command, stdout=sys.stderr).returncode != 0:
        raise BadInput("the image was not built; the lines above say what failed")


def _engine() -> None:
    """Checks that the engine can build the same image twice.

    Raises:
        BadInput: it cannot; the message says what is missing and what to do.
    """
    if shutil.which("docker") is None:
        raise BadInput(f"docker: the command was not found; {NEEDED}")
    status = json.loads(_docker("info", "--format", "{{json .DriverStatus}}") or "null")
    _docker("buildx", "version")
    builder = _docker("buildx", "inspect", "--bootstrap")
    driver = re.search(r"^Driver:\s*(\S+)", builder, re.MULTILINE)
    if driver and driver[1] == "docker" and "io.containerd.snapshotter" not in str(status):
        raise BadInput(
            "docker: its builder cannot write images to files; turn on the containerd image store, "
            "or run: docker buildx create --use --driver docker-container"
        )
    # Debian's builds of it say 0.0.0.
    found = re.search(r"^BuildKit(?: version)?:\s*v?(\d+)\.(\d+)", builder, re.MULTILINE)
    if found and (0, 0) < (int(found[1]), int(found[2])) < OLDEST:
        raise BadInput(
            f"docker: expected BuildKit {'.'.join(map(str, OLDEST))} or later, "
            f"got {found[1]}.{found[2]}; {NEEDED}"
        )


def _docker(*arguments: str) -> str:
    done = subprocess.run(("docker", *arguments), capture_output=True, text=True)
    if done.returncode == 0:
        return done.stdout
    said = (done.stderr.strip().splitlines() or ["it failed"])[-1]
    what = f"docker {arguments[0]}: {said}"
    if arguments[0] == "info":
        raise BadInput(f"{what}; start the engine")
    raise BadInput(f"{what}; {NEEDED}" if arguments[0] == "buildx" else what)


def _name() -> str:
    content = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return str(content["project"]["name"])


def _blob(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def _sha256(file: IO[bytes]) -> str:
    return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]

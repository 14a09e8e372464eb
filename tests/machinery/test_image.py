"""Images without Docker: what two builds differ in, and what an engine is refused for."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from repro.basics.errors import BadInput
from repro.environment import image

ROOT = Path.cwd()
DIGEST = f"sha256:{'a' * 64}"


def archive(to: Path, files: dict[str, dict[str, Any]], **config: Any) -> image.Image:
    """An image of one layer, as BuildKit writes it."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        for name, entry in files.items():
            described = tarfile.TarInfo(name)
            content = entry.get("content", b"")
            described.size = len(content)
            for field in ("mode", "uid", "mtime"):
                setattr(described, field, entry.get(field, 0))
            tar.addfile(described, io.BytesIO(content))
    blobs: dict[str, bytes] = {}

    def add(content: bytes) -> dict[str, Any]:
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        blobs[f"blobs/{digest.replace(':', '/')}"] = content
        return {"digest": digest, "size": len(content)}

    layers = [add(layer.getvalue())]
    rootfs = {"rootfs": {"diff_ids": [layers[0]["digest"]]}}
    manifest = {"config": add(json.dumps(rootfs | config).encode()), "layers": layers}
    blobs["index.json"] = json.dumps({"manifests": [add(json.dumps(manifest).encode())]}).encode()
    with tarfile.open(to, "w") as tar:
        for name, content in blobs.items():
            described = tarfile.TarInfo(name)
            described.size = len(content)
            tar.addfile(described, io.BytesIO(content))
    return image.Image(to)


FILES: dict[str, dict[str, Any]] = {"a": {"content": b"1"}, "etc/b": {"content": b"2"}}


@pytest.mark.parametrize(
    ("files", "config", "told"),
    [
        ({"a": {"content": b"3"}}, {}, ["layer 1 of 1: /a: content"]),
        ({"a": {"content": b"1", "mode": 1, "uid": 7}}, {}, ["layer 1 of 1: /a: mode, owner"]),
        ({"etc/b": {"content": b"2", "mtime": 9}}, {}, ["layer 1 of 1: /etc/b: time"]),
        ({"c": {}}, {}, ["layer 1 of 1: /c: only in the second"]),
        ({}, {"config": {"Env": ["A=1"]}}, ["configuration: config"]),
        ({}, {"created": "2000"}, ["configuration: created"]),
    ],
)
def test_what_differs_is_named(
    tmp_path: Path, files: dict[str, dict[str, Any]], config: dict[str, Any], told: list[str]
) -> None:
    one = archive(tmp_path / "one.tar", FILES)
    other = archive(tmp_path / "other.tar", FILES | files, **config)
    assert list(image.differences(one, other)) == told
    assert one.digest != other.digest
    assert archive(tmp_path / "again.tar", FILES).digest == one.digest


def test_the_order_of_files_alone_is_named_as_that(tmp_path: Path) -> None:
    one = archive(tmp_path / "one.tar", FILES)
    other = archive(tmp_path / "other.tar", dict(reversed(FILES.items())))
    assert list(image.differences(one, other)) == ["layer 1 of 1: the order of its files"]


@pytest.mark.parametrize(
    ("docker", "told"),
    [
        (None, "the command was not found"),
        ("exit 1", "start the engine"),
        ('[ "$1" = info ] && echo null', "install Docker 26"),
        ('[ "$2" = inspect ] && echo "Driver: docker"; true', "containerd image store"),
        ('[ "$2" = inspect ] && echo "BuildKit: v0.12.5"; true', "0.13 or later, got 0.12"),
        ('[ "$2" != build ]', "was not built"),
    ],
)
@pytest.mark.skipif(os.name == "nt", reason="the engine's stand-in is a shell script")
def test_an_engine_that_cannot_is_refused_in_one_line(
    tmp_path: Path, docker: str | None, told: str
) -> None:
    if docker is not None:
        program = tmp_path / "docker"
        program.write_text(f"#!/bin/sh\n{docker}\n")
        program.chmod(0o755)
    # Neither the environment nor what is installed in it: `make image` needs no .venv.
    done = subprocess.run(
        [sys.executable, "-S", "-m", "repro", "image"],
        env={"PATH": str(tmp_path), "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert told in done.stderr and done.stderr.count("\n") == 1


def test_a_wrong_device_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "repro", "image", "gpu"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (2, "repro: image: expected cpu or cuda, got 'gpu'\n")


@pytest.mark.parametrize("told", [None, "", DIGEST])
def test_a_run_is_told_its_image(monkeypatch: pytest.MonkeyPatch, told: str | None) -> None:
    monkeypatch.delenv("REPRO_IMAGE", raising=False)
    if told is not None:
        monkeypatch.setenv("REPRO_IMAGE", told)
    assert image.current() == (told or None)


@pytest.mark.parametrize("told", ["latest", "demo:cpu", DIGEST[:-1], f"{DIGEST}\n", DIGEST.upper()])
def test_what_is_no_digest_is_refused(monkeypatch: pytest.MonkeyPatch, told: str) -> None:
    monkeypatch.setenv("REPRO_IMAGE", told)
    with pytest.raises(BadInput, match="REPRO_IMAGE: expected sha256:") as refusal:
        image.current()
    assert "\n" not in str(refusal.value)

"""The data files and data.lock: quick, without a network."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from repro.basics.digests import sha256
from repro.basics.errors import BadInput
from repro.cli import console
from repro.cli.commands import main
from repro.data import datafiles, datalock, listing
from repro.data.datafiles import fetch
from repro.recipe.project import Project
from repro.run import launcher, recipes
from repro.run.launcher import Launch

PROJECT = Project.find()
CONTENT = b"a,b\n1,2\n"
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project, which is the current folder."""
    root = tmp_path / "project"
    (root / "data" / "faces").mkdir(parents=True)
    (root / "pyproject.toml").write_text('[tool.repro]\npackage = "mine"\n')
    monkeypatch.chdir(root)
    monkeypatch.delenv("REPRO_DATA", raising=False)
    monkeypatch.setattr(datalock, "_known", {})
    return root


@pytest.fixture
def server() -> Iterator[str]:
    """The address of a server that has the content, cut short, altered, and longer."""
    has = {
        "/right.csv": CONTENT,
        "/faces/a%20b.csv": CONTENT,
        "/faces/x/7%20.csv": CONTENT,
        "/altered.csv": CONTENT.replace(b"1", b"7"),
        "/longer.csv": CONTENT * 9,
        "/shorter.csv": CONTENT[:-1],
    }

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            cut = self.path == "/cut.csv"
            content = CONTENT if cut else has.get(self.path)
            self.send_response(404 if content is None else 200)
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            self.wfile.write((content or b"")[: 3 if cut else None])

        def log_message(self, format: str, *words: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def write(path: str, content: bytes = CONTENT, age: float = 60) -> Path:
    """Writes a data file, as if that had been so many seconds ago."""
    file = Path("data", path)
    file.write_bytes(content)
    os.utime(file, (time.time() - age,) * 2)
    return file


def lock(path: str = "a.csv", *sources: str, **others: Any) -> None:
    """Writes a lock of one file, with these values in place of the right ones."""
    values = {"path": path, "size": len(CONTENT), "sha256": DIGEST, "sources": [*sources]}
    Path("data.lock").write_text(f"# A comment.\n\n{json.dumps(values | others)}\n")


def command(*words: str) -> int:
    return main(["data", *words])


def test_a_file_is_added_and_told_as_it_is(root: Path, capsys: Any) -> None:
    write("ü.csv")
    write("faces/b.csv", b"b")
    write("faces/a.csv", b"a")
    write("faces/.hidden", b"c")
    assert command("add", "data/faces") == 0
    assert command("add", "data/ü.csv", "--source", "https://example.org/a.csv", "--json") == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])["added"]
    assert told == [
        {
            "path": "ü.csv",
            "size": 8,
            "sha256": DIGEST,
            "sources": ["https://example.org/a.csv"],
            "changed": True,
        }
    ]
    assert [*datalock.read(root)] == ["faces/a.csv", "faces/b.csv", "ü.csv"]
    before = Path("data.lock").read_bytes()
    assert before.startswith(datalock.HEADER.encode()) and b"\r" not in before
    assert len(before.splitlines()) == len(datalock.HEADER.splitlines()) + 3
    assert command("add", "data") == 0  # Sources that it had stay.
    assert Path("data.lock").read_bytes() == before
    assert "unchanged  ü.csv" in capsys.readouterr().out
    assert command("verify") == 0


def test_a_folder_may_have_a_source(root: Path, server: str) -> None:
    file = write("faces/a b.csv")
    assert command("add", "data/faces", "--source", f"{server}/faces") == 2
    assert not Path("data.lock").exists()
    assert command("add", "data/faces", "--source", f"{server}/faces/") == 0
    file.unlink()
    assert command("fetch") == 0 and file.read_bytes() == CONTENT


MANY = [f"faces/{'xyz'[n % 3]}/{n:d} .csv" for n in range(listing.MANY + 1)]
"""More files than have a line each."""


@pytest.fixture
def faces(root: Path) -> Path:
    """A folder of them, in the lock."""
    for folder in "xyz":
        Path("data/faces", folder).mkdir()
    for path in MANY:
        write(path)
    assert command("add", "data/faces") == 0
    return root / "data" / "faces"


def test_a_folder_of_many_files_is_one_line_of_the_lock(faces: Path) -> None:
    assert [*datalock.read(Path())] == ["faces.files.sha256"]
    lines = Path("data/faces.files.sha256").read_text(encoding="utf-8").splitlines()
    expected = sorted(path.removeprefix("faces/") for path in MANY)
    assert lines == [f"{DIGEST}  {name}" for name in expected]
    before = Path("data.lock").read_bytes()
    assert command("add", "data") == 0 and Path("data.lock").read_bytes() == before
    found = datafiles.listed("faces")
    assert found.folder.resolve() == faces and [*found.digests] == expected
    assert datafiles.handed_out["faces.files.sha256"] == sha256(Path("data/faces.files.sha256"))


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="no sha256sum here")
def test_sha256sum_checks_the_list(faces: Path) -> None:
    check = ["sha256sum", "--check", "--quiet", "../faces.files.sha256"]
    assert subprocess.run(check, cwd=faces).returncode == 0
    write(MANY[5], b"other")
    assert subprocess.run(check, cwd=faces).returncode == 1


def test_what_is_in_a_list_is_verified(faces: Path, capsys: Any) -> None:
    assert command("verify") == 0
    assert f"IDENTICAL  {len(MANY) + 1} files" in capsys.readouterr().out
    write(MANY[0], CONTENT.replace(b"1", b"7"))
    Path("data", MANY[1]).unlink()
    write("faces/x/new.csv")
    assert command("verify", "--json") == 1
    answer = json.loads(capsys.readouterr().out)
    assert (answer["missing"], [*answer["changed"]]) == ([MANY[1]], [MANY[0]])
    assert answer["extra"] == ["faces/x/new.csv"]
    assert command("verify", "data/faces", "--json") == 1
    assert json.loads(capsys.readouterr().out)["missing"] == [MANY[1]]
    # One file is added to the list, and what is gone leaves it; the others are not looked at.
    assert command("add", f"data/{MANY[0]}") == 0
    assert [*datalock.read(Path())] == ["faces.files.sha256"]
    found = datafiles.listed("faces").digests
    assert found[MANY[0].removeprefix("faces/")] != DIGEST and len(found) == len(MANY) - 1


def test_what_a_list_names_is_fetched(faces: Path, server: str, capsys: Any) -> None:
    assert command("add", "data/faces", "--source", f"{server}/faces/") == 0
    (entry,) = datalock.read(Path()).values()
    assert entry.sources == (f"{server}/faces.files.sha256",)
    there, missing = (faces / "x" / f"{name}.csv" for name in ("6 ", "7 "))
    write("faces/x/7 .csv")
    assert command("add", "data/faces") == 0
    missing.unlink()
    assert command("fetch") == 0 and missing.read_bytes() == CONTENT
    there.unlink()  # No source has this one.
    assert command("fetch") == 2
    told = capsys.readouterr().err
    assert "faces/x/6 .csv: no such file" in told and "404" in told


def test_few_files_have_a_line_each_and_are_a_folder_as_well(root: Path) -> None:
    write("faces/a.csv")
    with pytest.raises(BadInput, match=r"data/faces: not in data\.lock; add it: repro data add"):
        datafiles.listed("faces")
    assert command("add", "data/faces") == 0
    found = datafiles.listed("faces")
    assert (found.folder.resolve(), found.digests) == (root / "data/faces", {"a.csv": DIGEST})


def test_a_folder_is_fetched_as_a_whole(root: Path) -> None:
    """Such as one of pretrained weights, which a library reads by itself, file by file."""
    Path("data/model/assets").mkdir(parents=True)
    for path in ("model/config.json", "model/assets/words.txt"):
        write(path)
    assert command("add", "data/model") == 0
    datafiles.handed_out.clear()
    assert fetch("model").resolve() == root / "data/model"
    assert datafiles.handed_out == {
        "model/assets/words.txt": DIGEST,
        "model/config.json": DIGEST,
    }
    write("model/task.json")  # A library may read a file merely because it is there.
    with pytest.raises(
        BadInput, match=r"model/task\.json: not in data\.lock; delete it, or add it"
    ):
        fetch("model")
    Path("data/model/task.json").unlink()
    write("model/config.json", b"other")
    with pytest.raises(BadInput, match=r"model/config\.json: it has 5 bytes, data\.lock says 8"):
        fetch("model")
    Path("data/model/config.json").unlink()
    with pytest.raises(BadInput, match=r"model/config\.json: no such file"):
        fetch("model")


def test_a_folder_with_a_list_is_fetched_as_a_whole(faces: Path) -> None:
    datafiles.handed_out.clear()
    assert fetch("faces").resolve() == faces
    assert [*datafiles.handed_out] == ["faces.files.sha256"]
    write(MANY[0], CONTENT.replace(b"1", b"7"))
    with pytest.raises(BadInput, match=r"x/0 \.csv: its SHA-256 is .*, the list of .*faces says"):
        fetch("faces")
    Path("data", MANY[0]).unlink()
    with pytest.raises(BadInput, match=r"x/0 \.csv: no such file; bring it back: repro data fetch"):
        fetch("faces")


@pytest.mark.parametrize(
    "line", ["", "abc  a.csv", f"{DIGEST} a.csv", f"{DIGEST}  ../a.csv", f"{DIGEST}  a"]
)
def test_a_list_that_is_none_is_refused(root: Path, line: str) -> None:
    path = Path("data/faces.files.sha256")
    path.write_text(f"{DIGEST}  a\n{line}\n", encoding="utf-8")
    told = r"faces\.files\.sha256, line 2: expected the SHA-256 and the path of another file in f"
    with pytest.raises(BadInput, match=told):
        listing.read(path)


def test_the_checksum_of_an_archive_is_a_file_like_any_other(root: Path) -> None:
    write("faces.tar")
    write("faces.tar.sha256", f"{DIGEST}  faces.tar\n".encode())
    assert command("add", "data") == 0
    assert [*datalock.read(root)] == ["faces.tar", "faces.tar.sha256"]
    assert command("verify") == 0 and command("fetch") == 0


def test_the_empty_lock_of_a_new_project_is_written_as_this_one(root: Path) -> None:
    datalock.write(root, [])
    assert Path("data.lock").read_text() == datalock.HEADER
    assert (PROJECT.root / "data.lock").read_text().startswith(datalock.HEADER)
    assert datalock.read(root) == {}


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("b.csv", "b.csv: not in the data folder; put it into data"),
        ("data/../b.csv", "not in the data folder"),
        ("data/none.csv", "no such file"),
        ("data/link.csv", "leads out of"),
        ("data/linked/b.csv", "leads out of"),
        ("data/empty", "no file in it"),
        ("data/a\\b.csv", "cannot be a path in data.lock"),
    ],
)
@pytest.mark.skipif(os.name == "nt", reason="links need a privilege there, names have no backslash")
def test_what_does_not_lie_in_the_data_folder_is_not_added(
    root: Path, path: str, told: str, capsys: Any
) -> None:
    for outside in (root, root.parent):
        (outside / "b.csv").write_bytes(CONTENT)
    Path("data/link.csv").symlink_to(root / "b.csv")
    Path("data/linked").symlink_to(root.parent)
    Path("data/empty").mkdir()
    write("a\\b.csv")
    assert command("add", path) == 2
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1
    assert not Path("data.lock").exists()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("<<<<<<< HEAD\n", "line 1: expected JSON; got '<<<<<<< HEAD'"),
        ("\xff", "not a lock of data"),
        ("# the data\n[3]\n", "line 2: expected path, size, sha256, sources; got [3]"),
        ('{"path": "a"}\n', "line 1: expected path, size, sha256, sources"),
        ('{"path": "a",\n"size": 3}\n', "line 1: expected JSON"),
    ],
)
def test_a_lock_that_is_none_is_refused(root: Path, text: str, told: str, capsys: Any) -> None:
    Path("data.lock").write_bytes(text.encode("latin-1"))
    for words in (["verify"], ["fetch"], ["add", "data"]):
        write("a.csv")
        assert command(*words) == 2
        error = capsys.readouterr().err
        assert told in error and error.count("\n") == 1


@pytest.mark.parametrize(
    "wrong",
    [
        *({"path": path} for path in ("../a", "/a", "a/../../b", "C:a", "a\\b", "", ".", "a//b")),
        {"path": "a\nb"},
        {"path": 3},
        *({"size": size} for size in (-1, 1.5, True, "8")),
        *({"sha256": digest} for digest in (DIGEST[1:], DIGEST.upper(), "", 3)),
        {"sources": "https://example.org"},
        *(
            {"sources": [source]}
            for source in (
                "a.csv",
                "file:///etc/passwd",
                "https://",
                "https://[a",
                "http://a b/",
                3,
            )
        ),
        {"sources": ["https://somebody:secret@example.org/a"]},
        {"more": 1},
    ],
    ids=str,
)
def test_a_wrong_entry_is_refused_in_one_line(root: Path, wrong: dict[str, Any]) -> None:
    lock(**wrong)
    with pytest.raises(BadInput) as refusal:
        datalock.read(root)
    assert "line 3: " in str(refusal.value) and "\n" not in str(refusal.value)
    assert "secret" not in str(refusal.value)


def test_a_file_that_is_there_twice_is_refused(root: Path) -> None:
    lock()
    Path("data.lock").write_text(Path("data.lock").read_text() * 2)
    with pytest.raises(BadInput, match=r"a\.csv is there twice"):
        datalock.read(root)


def test_verify_names_what_is_missing_changed_and_more(root: Path, capsys: Any) -> None:
    for name in ("a", "b", "c", "faces/d"):
        write(f"{name}.csv")
    assert command("add", "data") == 0
    Path("data/a.csv").unlink()
    write("b.csv", CONTENT + b"3")
    write("c.csv", CONTENT.replace(b"1", b"7"))  # Of the same size and time.
    write("e.csv")
    write(".f.csv")
    capsys.readouterr()
    assert command("verify", "--json") == 1
    answer = json.loads(capsys.readouterr().out)
    assert (answer["verdict"], answer["files"]) == ("differs", 4)
    assert (answer["missing"], [*answer["changed"]], answer["extra"]) == (
        ["a.csv"],
        ["b.csv", "c.csv"],
        ["e.csv"],
    )
    assert "9 bytes, data.lock says 8" in answer["changed"]["b.csv"]
    assert f"data.lock says {DIGEST[:12]}" in answer["changed"]["c.csv"]
    assert command("verify") == 1
    told = capsys.readouterr().out.splitlines()
    assert [line[:7] for line in told] == ["missing", "changed", "changed", "extra  ", "DIFFERS"]
    for path, status in {"data/faces": 0, "faces/d.csv": 0, "data/c.csv": 1, "e.csv": 1}.items():
        assert command("verify", path) == status, path
    for path in ("none.csv", "../project", "/", "data/../data.lock"):
        assert command("verify", path) == 2, path


def test_verify_reads_a_file_whose_times_are_the_old_ones(root: Path) -> None:
    file = write("a.csv")
    assert command("add", "data") == 0
    file.write_bytes(CONTENT.replace(b"1", b"7"))
    datalock._known[str(file.resolve())] = [datalock._stamp(file), DIGEST]
    datalock.check(root)  # What it is good for, and what it cannot see.
    assert command("verify") == 1


def test_what_is_missing_is_fetched(root: Path, server: str, capsys: Any) -> None:
    dead = "http://127.0.0.1:1/a.csv"
    wrong = [f"{server}/{name}.csv" for name in ("none", "altered", "longer", "shorter", "cut")]
    lock("more/a.csv", dead, *wrong, f"{server}/right.csv")
    assert command("fetch", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {
        "fetched": {"more/a.csv": f"{server}/right.csv"},
        "there": [],
    }
    file = Path("data/more/a.csv")
    assert file.read_bytes() == CONTENT
    stamp = datalock._stamp(file)
    assert command("fetch") == 0 and datalock._stamp(file) == stamp


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("none", "404"),
        ("altered", "SHA-256"),
        ("longer", "more than 8 bytes"),
        ("shorter", "7 bytes, expected 8"),
        ("cut", "broke off"),
        (None, "not reached"),
    ],
)
def test_of_what_is_wrong_nothing_is_left(
    root: Path, server: str, name: str | None, why: str, capsys: Any
) -> None:
    source = f"{server}/{name}.csv" if name else "http://127.0.0.1:1/a.csv"
    lock("a.csv", source)
    before = sorted(Path().rglob("*"))
    assert command("fetch") == 2
    error = capsys.readouterr().err
    assert source in error and why in error and error.count("\n") == 1
    assert sorted(Path().rglob("*")) == before


def test_fetch_goes_on_after_a_file_that_nobody_has(root: Path, server: str, capsys: Any) -> None:
    right = datalock.Entry("z.csv", len(CONTENT), DIGEST, (f"{server}/right.csv",))
    datalock.write(root, [datalock.Entry("a.csv", 8, DIGEST, ()), right])
    assert command("fetch") == 2
    assert "data.lock names no source" in capsys.readouterr().err
    assert Path("data/z.csv").read_bytes() == CONTENT
    assert command("fetch", "z.csv") == 0


def test_fetch_leaves_another_file_alone(root: Path, server: str, capsys: Any) -> None:
    lock("a.csv", f"{server}/right.csv")
    file = write("a.csv", b"mine")
    assert command("fetch") == 2
    assert "it has 4 bytes, data.lock says 8" in capsys.readouterr().err
    assert file.read_bytes() == b"mine"


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege there")
def test_fetch_does_not_write_through_a_link(root: Path, server: str, capsys: Any) -> None:
    Path("data/out").symlink_to(root.parent)
    lock("out/a.csv", f"{server}/right.csv")
    assert command("fetch") == 2
    assert "leads out of" in capsys.readouterr().err
    assert not (root.parent / "a.csv").exists()


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege there")
def test_the_data_folder_may_be_a_link(root: Path, server: str) -> None:
    disk = root.parent / "disk"
    Path("data").rename(disk)
    Path("data").symlink_to(disk)
    lock("a.csv", f"{server}/right.csv")
    assert command("fetch") == 0 and (disk / "a.csv").read_bytes() == CONTENT
    assert command("add", str(disk / "a.csv")) == 0 and command("verify") == 0


def test_a_data_function_gets_a_file_of_the_lock(root: Path, server: str) -> None:
    with pytest.raises(
        BadInput, match=r"no such file; put it there, then run: repro data add data"
    ):
        fetch("a.csv")
    lock("a.csv", f"{server}/right.csv")
    path = fetch("a.csv")
    assert path == Path("data/a.csv") and sha256(path) == DIGEST == sha256(CONTENT)
    write("a.csv", CONTENT.replace(b"1", b"7"))
    with pytest.raises(
        BadInput, match=r"its SHA-256 is .*; put the locked file back, or lock this"
    ):
        fetch("a.csv")
    write("b.csv")
    with pytest.raises(BadInput, match=r"not in data\.lock; add it: repro data add data.b\.csv"):
        fetch("b.csv")
    with pytest.raises(BadInput, match="inside the data folder"):
        fetch("../b.csv", f"{server}/right.csv", sha256=DIGEST)


def test_a_data_function_may_know_itself_what_is_published(root: Path, server: str) -> None:
    assert fetch("a.csv", f"{server}/right.csv", sha256=DIGEST).read_bytes() == CONTENT
    with pytest.raises(BadInput, match=r"altered\.csv: SHA-256 .*, expected"):
        fetch("b.csv", f"{server}/altered.csv", sha256=DIGEST)
    assert fetch("b.csv", f"{server}/right.csv", sha256=DIGEST).is_file()
    # A file that is there is the function's to check, unless the lock names it.
    assert fetch("a.csv", "http://127.0.0.1:1/a", sha256="0" * 64).is_file()
    lock("a.csv", sha256="0" * 64)
    with pytest.raises(BadInput, match=r"data\.lock says 0000"):
        fetch("a.csv", f"{server}/right.csv", sha256=DIGEST)


def test_another_folder_is_looked_into_first(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    monkeypatch.setenv("REPRO_DATA", str(shared))
    (shared / "a.csv").write_bytes(CONTENT)
    (shared / "of-others.csv").write_bytes(b"")
    write("a.csv", b"another")
    lock()
    assert fetch("a.csv") == shared / "a.csv"
    datalock.check(root)
    assert command("verify", str(shared / "a.csv")) == 0
    assert command("verify") == 0  # What others have there is none of ours.
    (shared / "a.csv").write_bytes(b"another")
    with pytest.raises(BadInput, match="it has 7 bytes"):
        datalock.check(root)


def test_a_start_reads_what_is_new_and_nothing_else(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time_ns() + 10**10
    monkeypatch.setattr(time, "time_ns", lambda: now)  # The file has had its times for a while.
    file = write("a.csv")
    lock()
    digest, read = hashlib.sha256, 0

    def counted(*given: Any) -> Any:
        nonlocal read
        read += 1
        return digest(*given)

    monkeypatch.setattr(hashlib, "sha256", counted)

    def times() -> int:
        nonlocal read
        read = 0
        datalock._known.clear()  # As in another process.
        datalock.check(root)
        return read

    assert (times(), times()) == (1, 0)
    os.utime(file, (1, 1))
    assert (times(), times()) == (1, 0)
    os.replace(write("b.csv"), file)  # Another file, of the same size, at the same place.
    assert (times(), times()) == (1, 0)
    Path(".repro_cache/data.json").write_text("{torn")
    assert (times(), times()) == (1, 0)
    Path(".repro_cache/data.json").write_text('["no", "cache"]')
    assert (times(), times()) == (1, 0)


def test_a_file_changed_a_moment_ago_is_read_again(root: Path) -> None:
    write("a.csv")
    lock()
    datalock.check(root)
    assert datalock._known == {} and not Path(".repro_cache").exists()


def test_a_check_that_cannot_be_kept_is_a_check(root: Path) -> None:
    write("a.csv", CONTENT.replace(b"1", b"7"))
    lock()
    Path(".repro_cache").write_text("in the way")
    with pytest.raises(BadInput, match="its SHA-256 is"):
        datalock.check(root)
    write("a.csv")
    datalock.check(root)


def test_a_pointer_of_git_lfs_is_told_as_one(root: Path) -> None:
    lock()
    write("a.csv", datalock.POINTER + b"v1\noid sha256:0\nsize 8\n")
    with pytest.raises(BadInput, match="git lfs pull"):
        datalock.check(root)


@pytest.mark.parametrize("locked", [False, True])
def test_a_pointer_of_git_lfs_is_neither_locked_nor_given_out(
    root: Path, server: str, locked: bool, capsys: Any
) -> None:
    """Also one that was locked as if it were the data, before this was looked at."""
    pointer = datalock.POINTER + b"v1\noid sha256:0\nsize 8\n"
    write("a.csv", pointer)
    digest = hashlib.sha256(pointer).hexdigest()
    if locked:
        lock(size=len(pointer), sha256=digest)
    for given in (None, DIGEST, digest):
        with pytest.raises(BadInput, match=r"a\.csv: Git LFS has not brought .*: git lfs pull"):
            fetch("a.csv", f"{server}/right.csv", given)
    if locked:
        with pytest.raises(BadInput, match="git lfs pull"):
            datalock.check(root)
        assert command("verify", "--json") == 1
        assert "git lfs pull" in json.loads(capsys.readouterr().out)["changed"]["a.csv"]
    for words in (["add", "data"], ["add", "data/a.csv"], *([["fetch"]] if locked else [])):
        assert command(*words) == 2
        error = capsys.readouterr().err
        assert "git lfs pull" in error and error.count("\n") == 1
    assert Path("data.lock").exists() == locked
    # What only begins so is no pointer: it is too large for one.
    write("a.csv", datalock.POINTER + bytes(2000))
    assert command("add", "data") == 0


def test_what_was_handed_out_is_noted_with_its_digest(
    root: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datafiles, "handed_out", {})
    monkeypatch.setattr(datalock, "SETTLED", -1)
    write("mine.csv", b"mine")
    lock("locked.csv", f"{server}/right.csv")
    fetch("locked.csv")
    fetch("new.csv", f"{server}/right.csv", DIGEST)
    fetch("mine.csv", sha256=DIGEST)  # Of other bytes, which the caller looks at.
    mine = hashlib.sha256(b"mine").hexdigest()
    assert datafiles.handed_out == {"locked.csv": DIGEST, "new.csv": DIGEST, "mine.csv": mine}
    monkeypatch.setattr(datalock, "_known", {})
    read: list[str] = []
    original = Path.open

    def opened(self: Path, *words: Any, **keywords: Any) -> Any:
        read.append(self.name)
        return original(self, *words, **keywords)

    monkeypatch.setattr(Path, "open", opened)
    fetch("mine.csv", sha256=DIGEST)  # Known from the file that is kept of such.
    assert datafiles.handed_out["mine.csv"] == mine and read.count("mine.csv") <= 1


class Odd(BaseHTTPRequestHandler):
    """A server that never ends, drips, keeps its headers back, or sends elsewhere."""

    def do_GET(self) -> None:
        try:
            self.answer()
        except OSError:  # They have given up.
            pass

    def answer(self) -> None:
        if self.path == "/silent":
            self.wfile.write(b"HTTP/1.0 200 OK\r\nX-More: ")
            self.drip()
            return
        elsewhere = {
            "/file": "file:///etc/hostname",
            "/ftp": "ftp://127.0.0.1/a",
            "/round": "/round",
        }
        if self.path in elsewhere:
            self.send_response(302)
            self.send_header("Location", elsewhere[self.path])
            self.end_headers()
            return
        self.send_response(200)
        if self.path == "/said":
            self.send_header("Content-Length", str(10**12))
        self.end_headers()
        if self.path == "/drip":
            self.drip()
        while self.path in ("/endless", "/said"):
            self.wfile.write(bytes(1 << 16))

    def drip(self) -> None:
        for _ in range(200):
            self.wfile.write(b"a")
            time.sleep(0.05)

    def log_message(self, format: str, *words: object) -> None:
        pass


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("endless", "more than 1,000,000 bytes"),
        ("said", "1,000,000,000,000 bytes, more than 1,000,000 bytes"),
        ("drip", "slower than 10 kB a second, given up"),
        ("silent", "no answer within 1 s, given up"),
        ("file", "file"),
        ("ftp", "ftp"),
        ("round", "302 Found"),
    ],
)
def test_a_source_without_an_end_is_given_up(
    root: Path, path: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datafiles, "WINDOW", 0.5)
    monkeypatch.setattr(datafiles, "HEADERS", 1.0)
    begun = time.monotonic()
    with ThreadingHTTPServer(("127.0.0.1", 0), Odd) as running:
        running.daemon_threads, running.block_on_close = True, False
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        url = f"http://127.0.0.1:{running.server_port}/{path}"
        with pytest.raises(BadInput) as refusal:
            fetch("a.csv", url, DIGEST, size=1_000_000)
        running.shutdown()
    assert why in str(refusal.value) and "\n" not in str(refusal.value)
    assert time.monotonic() - begun < 9
    assert not any(Path("data").glob("*.csv")) and not any(Path("data").glob(".*.new"))


def test_a_training_on_changed_data_does_not_begin(root: Path) -> None:
    """What the run does not need is checked as well; what is not there is not missed."""
    write("a.csv", b"another")
    lock()
    project = Project.find(root)
    launch = Launch(project, recipes.make(PROJECT))
    with pytest.raises(BadInput, match=r"a\.csv: it has 7 bytes, data\.lock says 8"):
        launcher.train(launch, lambda run, event: None)
    assert not project.runs.exists()
    Path("data/a.csv").unlink()
    datalock.check(root)


def test_a_check_at_the_start_imports_nothing_heavy(root: Path) -> None:
    write("a.csv", b"another")
    lock()
    code = "import sys; from pathlib import Path; from repro import BadInput\n"
    code += "from repro.data import datafiles, datalock\n"
    code += "try: datalock.check(Path())\nexcept BadInput: print(*sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(PROJECT.root / "src")}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    assert "repro.data.datalock" in done.stdout, done.stderr
    assert not {"numpy", "pooch", "requests", "pydantic"} & {*done.stdout.split()}


def test_large_files_are_kept_from_git(root: Path, capsys: Any, tmp_path: Path) -> None:
    def git(*words: str) -> None:
        none = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
        kept = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
        subprocess.run(("git", *words), check=True, env=kept | none)

    git("init", "--quiet")
    Path(".gitattributes").write_bytes((PROJECT.root / ".gitattributes").read_bytes())
    Path("small.bin").write_bytes(bytes(datafiles.LIMIT))
    Path("with space [1].bin").write_bytes(bytes(datafiles.LIMIT + 1))
    write("a.csv", bytes(datafiles.LIMIT + 1))
    # As git has it under LFS: a pointer, whatever lies there.
    Path("model.keras").write_bytes(datalock.POINTER)
    git("add", "--all")
    Path("model.keras").write_bytes(bytes(datafiles.LIMIT + 1))
    assert command("check-size", "small.bin", "model.keras") == 0
    assert capsys.readouterr().out.strip() == ""
    assert command("check-size", "--json") == 1
    # Without git-lfs installed .gitattributes alone keeps nothing out of git.
    large = {"data/a.csv": 1_000_001, "with space [1].bin": 1_000_001}
    assert json.loads(capsys.readouterr().out) == {"verdict": "differs", "large": large}
    assert command("check-size", *large, "small.bin") == 1
    told = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in told] == [*large]
    assert all("git lfs track" in line and "repro data add" in line for line in told)


def test_progress_is_shown_on_a_terminal_alone(capsys: Any) -> None:
    with console.Bytes() as bar:
        bar("a.csv", 1, 2)
    assert capsys.readouterr() == ("", "")

"""Downloads data files, adds them to `data.lock`, compares them with it, and keeps git small."""

from __future__ import annotations

import contextlib
import hashlib
import os
import queue
import subprocess
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

from repro.basics import files
from repro.basics.errors import BadInput
from repro.basics.text import printable, said_by
from repro.data import datalock, listing
from repro.data.datalock import LOCK, Entry, Tell, silent
from repro.data.listing import Listing

LIMIT = 1_000_000
"""The most bytes of a file in git itself."""
LARGEST = 10 * 10**9
"""The most bytes of a download if neither the lock nor the caller says its size."""
PATIENCE = 30.0
"""A source is given up after so many seconds without a connection or without a single byte."""
HEADERS = 60.0
"""A source is given up if it does not begin to answer in so many seconds; redirections count."""
WINDOW, SLOWEST = 60.0, 10_000
"""A source is given up if it sends, for `WINDOW` seconds, less than `SLOWEST` bytes per second."""

handed_out: dict[str, str] = {}
"""The SHA-256 of each file that `repro.fetch` has given out in this process, by its data path."""


def fetch(
    name: str, url: str | None = None, sha256: str | None = None, *, size: int | None = None
) -> Path:
    """Returns the path of a data file; downloads it into `data/` if it is missing.

    A folder that `data.lock` knows is returned as a whole, such as one with pretrained weights and
    what belongs to them: each of its files is checked, and it must have no other files.

    The file is looked for in the folder that `REPRO_DATA` names, and then in `data/`. If
    `data.lock` has an entry for it (see `repro data add`), the file is checked, and is downloaded
    from the sources of the entry. A source is given up if it does not answer within a minute, or
    sends less than 10 kB per second.

    A published file needs no entry in the lock if you give its address and SHA-256 here. They are
    used for the download only: a file that is there already is not checked, since archives of the
    same arrays may differ in their bytes.

    Args:
        name: the path of the file in the data folder.
        url: the address to download the file from.
        sha256: the SHA-256 that the downloaded file must have.
        size: the most bytes that the download may have; None: 10 GB.

    Raises:
        BadInput: the file is missing and no source has it; or it is not the file of the lock; or it
            is not in the lock and no SHA-256 is given; or it is a pointer of Git LFS. Or a folder
            has a file that the lock does not know.
    """
    from repro.data import datafiles

    if url is None and sha256 is None and datafiles.is_folder(name):
        return datafiles.whole(name)
    return datafiles.provide(Path(), name, url, sha256, size)


def provide(
    root: Path, path: str, url: str | None, sha256: str | None, size: int | None = None
) -> Path:
    """Does what `fetch` does for the project at `root`, and notes the file in `handed_out`.

    A file is digested once. Its digest is then known as long as the file does not change.
    """
    if datalock.leads_out(path):
        raise BadInput(f"data: expected a path inside the data folder; got {path!r}")
    entry, file = datalock.read(root).get(path), datalock.find(root, path)
    shown = root / "data" / path
    if file is not None:
        datalock.no_pointer(file.path)
        if entry is not None:
            datalock.check(root, [path])
        elif sha256 is None:
            raise BadInput(f"{file.path}: not in {LOCK}; add it: repro data add {file.path}")
        with datalock.remembered(root):
            handed_out[path] = datalock.digest(file)
        return file.path
    given = () if url is None else (url,)
    if entry is not None:
        _download(root, path, (*entry.sources, *given), entry.sha256, entry.size)
        handed_out[path] = entry.sha256
    elif sha256 is None:
        raise BadInput(f"{shown}: no such file; put it there, then run: repro data add {shown}")
    else:
        _download(root, path, given, sha256, most=LARGEST if size is None else size)
        handed_out[path] = sha256
    return shown


def listed(folder: str) -> Listing:
    """Returns a folder of the data folder with the files that `data.lock`, or a list of it, names.

    Raises:
        BadInput: the lock names none, or the list is missing or another one.
    """
    path, entries = listing.path_of(folder), datalock.read(Path())
    if path in entries:
        return listing.read(fetch(path))
    digests = {
        name.removeprefix(f"{folder}/"): entry.sha256
        for name, entry in entries.items()
        if name.startswith(f"{folder}/")
    }
    if not digests:
        where = Path("data", folder)
        raise BadInput(f"{where}: not in {LOCK}; add it: repro data add {where}")
    files = [fetch(f"{folder}/{name}") for name in digests]
    return Listing(Path(str(files[0]).removesuffix(next(iter(digests)))), digests)


def is_folder(path: str) -> bool:
    """Whether a path of the data folder is that of a folder with files that `data.lock` knows."""
    entries = datalock.read(Path())
    below = any(known.startswith(f"{path}/") for known in entries)
    return path not in entries and (below or listing.path_of(path) in entries)


def whole(folder: str) -> Path:
    """Returns the path of a folder, after all of its files were checked.

    Raises:
        BadInput: a file is missing, changed, or not known to the lock, or lies in another folder.
    """
    found = listed(folder)
    if extra := _files(found.folder).keys() - found.digests.keys():
        one = found.folder / min(extra)
        raise BadInput(f"{one}: not in {LOCK}; delete it, or add it: repro data add {one}")
    with datalock.remembered(Path()):
        for name, expected in found.digests.items():
            path = found.folder / name
            if not path.is_file():
                raise BadInput(f"{path}: no such file; bring it back: repro data fetch {path}")
            digest = datalock.digest(datalock.at(found.folder, path))
            if digest != expected:
                wrong = datalock.unequal(digest, expected, f"the list of {found.folder}")
                raise BadInput(f"{path}: {wrong}; add it again: repro data add {path}")
    return found.folder


class _Sink:
    """Counts, digests and writes what is downloaded; ends a download that is too long or slow."""

    def __init__(self, file: BinaryIO, path: Path, most: int, tell: Tell) -> None:
        self.file, self.path, self.most, self.tell = file, path, most, tell
        self.done, self.digest = 0, hashlib.sha256()
        self._since, self._then = time.monotonic(), 0

    def write(self, chunk: bytes) -> None:
        self.done += len(chunk)
        if self.done > self.most:
            raise ValueError(f"more than {self.most:,} bytes")
        self.digest.update(chunk)
        try:
            self.file.write(chunk)
        except OSError as error:  # It is not the fault of this source, so no other is tried.
            raise BadInput(f"{self.path}: cannot be written: {error.strerror}") from None
        now = time.monotonic()
        if now - self._since > WINDOW:
            if self.done - self._then < SLOWEST * (now - self._since):
                raise ValueError(f"slower than {SLOWEST // 1000} kB a second, given up")
            self._since, self._then = now, self.done


def _download(
    root: Path,
    path: str,
    sources: Sequence[str],
    sha256: str,
    size: int | None = None,
    tell: Tell = silent,
    most: int = LARGEST,
) -> str:
    """Downloads a file into `data/` from the first source that has it, and returns this source.

    The file gets its name only if its size and SHA-256 are right; otherwise nothing is left.

    Args:
        size: the exact number of bytes; None: it is not known.
        most: the most bytes that the file may have if its size is not known.

    Raises:
        BadInput: no source has the file.
    """
    target = root / "data" / path
    datalock.inside(root / "data", target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"{target.parent}: cannot be made: {error.strerror}") from None
    failed = []
    for source in sources:
        sink = None
        try:
            with files.replacing(target, shared=True) as file:
                sink = _Sink(file, target, most if size is None else size, tell)
                _get(source, sink)
                if size is not None and sink.done != size:
                    raise ValueError(f"{sink.done:,} bytes, expected {size:,}")
                if (found := sink.digest.hexdigest()) != sha256:
                    raise ValueError(f"SHA-256 {found}, expected {sha256}")
            return source
        except (OSError, ValueError) as error:  # The errors of `requests` are kinds of OSError.
            failed.append(f"{source}: {_reason(error, sink)}")
    why = "; ".join(failed) or f"{LOCK} names no source"
    raise BadInput(f"{target}: no such file; put it there, or name its folder in REPRO_DATA; {why}")


def _get(source: str, sink: _Sink) -> None:
    """Writes to the sink what a source sends, piece by piece, so that a slow source is noticed.

    Redirections are followed only to http and https, since `requests` knows no other scheme.

    Raises:
        OSError, ValueError: the source does not have the file, broke off, or was too long or slow.
    """
    from urllib3.exceptions import HTTPError

    with _answer(source) as response:
        response.raise_for_status()
        length = response.headers.get("Content-Length", "")
        plain = "Content-Encoding" not in response.headers and length.isdecimal()
        if plain and int(length) > sink.most:
            raise ValueError(f"{int(length):,} bytes, more than {sink.most:,} bytes")
        try:
            # `iter_content` would wait until it has a whole piece.
            while chunk := response.raw.read1(1 << 16, decode_content=True):
                sink.write(chunk)
        except HTTPError as error:
            raise OSError(str(error)) from None


def _answer(source: str) -> Any:
    """Returns the response of a source as soon as its headers are there.

    A thread asks, so that the time for all headers can be limited: a server may send them byte by
    byte, and then the time limit of `requests`, which is for one byte, never ends the wait.
    """
    import requests

    came: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def ask() -> None:
        try:
            came.put(requests.get(source, stream=True, timeout=PATIENCE))
        except Exception as error:  # It is raised by the thread that waits.
            came.put(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        found = came.get(timeout=HEADERS)
    except queue.Empty:
        raise ValueError(f"no answer within {HEADERS:.0f} s, given up") from None
    if isinstance(found, Exception):
        raise found
    return found


def _reason(error: Exception, sink: _Sink | None) -> str:
    response = getattr(error, "response", None)
    if response is not None:
        return f"{response.status_code} {response.reason}"
    if isinstance(error, ValueError) or sink is None or getattr(error, "strerror", None):
        return said_by(error)
    return f"broke off after {sink.done:,} bytes" if sink.done else "not reached, or broke off"


def add(
    root: Path, given: Path, sources: Sequence[str] = (), tell: Tell = silent
) -> dict[str, Any]:
    """Adds a file, or each file of a folder, to the lock as it is now; returns the entries.

    Of a folder with more than `listing.MANY` files, the lock has the list; see `listing`.

    Args:
        sources: addresses to download from; for a folder they end with a slash. If there are none,
            each file keeps the sources that the lock has for it.

    Raises:
        BadInput: the file is missing or not in the data folder, or a source is not an address.
    """
    if not given.exists():
        raise BadInput(f"{given}: no such file")
    folder, name = _place(root, given)
    if folder is None or name is None:
        raise BadInput(f"{given}: not in the data folder; put it into {_places(root)}")
    many = given.is_dir()
    for source in sources:
        if wrong := datalock.no_source(source):
            raise BadInput(f"--{wrong}")
        if many and not source.endswith("/"):
            raise BadInput(f"--source: expected the address of a folder, {source}/; got {source}")
    below = _files(given) if many else {"": given}
    if not below:
        raise BadInput(f"{given}: no file in it")
    paths = {"/".join(p for p in (name, one) if p not in ("", ".")): one for one in below}
    for path, one in paths.items():
        if datalock.leads_out(path):
            raise BadInput(f"{below[one]}: {path!r} cannot be a path in {LOCK}; rename the file")
        datalock.no_pointer(below[one])
    entries = datalock.read(root)
    locked = {path: tuple(source + quote(one) for source in sources) for path, one in paths.items()}
    for top, members in _lists(entries, name, paths).items():
        _write_list(folder / top, [path.removeprefix(f"{top}/") for path in members], tell)
        for path in members:
            entries.pop(path, None)
            del locked[path]
        own = [listing.path_of(source.removesuffix("/")) for source in sources if top == name]
        locked[listing.path_of(top)] = tuple(own)
    added = []
    with datalock.remembered(root):
        for path, given_now in locked.items():
            found, before = datalock.at(folder, folder / path), entries.get(path)
            kept = given_now or (before.sources if before else ())
            now = Entry(path, found.stamp[0], datalock.digest(found, tell, again=True), kept)
            entries[path] = now
            added.append(asdict(now) | {"changed": now != before})
    datalock.write(root, entries.values())
    return {"added": added}


def _lists(entries: dict[str, Entry], name: str, paths: Iterable[str]) -> dict[str, list[str]]:
    """Returns the folders whose lists are to have files, with the paths of these files.

    They are folders that have a list, and those that need one.

    Args:
        name: the path of what is added; `.` is the whole data folder.
    """
    known = [listing.folder_of(path) for path in entries if listing.is_list(path)]

    def top(path: str) -> str:
        own = name if name != "." else path.partition("/")[0]
        return next((folder for folder in known if path.startswith(f"{folder}/")), own)

    found: dict[str, list[str]] = {}
    for path in paths:
        found.setdefault(top(path), []).append(path)
    return {t: all_ for t, all_ in found.items() if t in known or len(all_) > listing.MANY}


def _write_list(folder: Path, names: Sequence[str], tell: Tell) -> None:
    """Writes the list of a folder with these files as they are now.

    What it says of other files stays, if they are there.
    """
    path = folder.with_name(listing.path_of(folder.name))
    before = listing.read(path).digests if path.is_file() else {}
    digests = {name: digest for name, digest in before.items() if (folder / name).is_file()}
    for name in names:
        datalock.at(folder, folder / name)  # A link must not lead out.
        digests[name] = datalock.read_digest(folder / name, tell)
    listing.write(path, digests)


def verify(root: Path, given: Sequence[Path] = (), tell: Tell = silent) -> dict[str, Any]:
    """Reads each file of the lock, or of these paths, and returns how they differ from the lock.

    `extra` are files in `data/` that the lock does not name. In the folder of `REPRO_DATA` nobody
    looks for such files, since other projects may use that folder too.
    """
    entries = datalock.read(root)
    chosen, extra = _chosen(root, entries, given)
    missing, changed = list[str](), dict[str, str]()
    count, size = len(chosen), sum(entry.size for entry in chosen)
    with datalock.remembered(root):
        for entry in chosen:
            file = datalock.find(root, entry.path)
            if file is None:
                missing.append(entry.path)
            elif datalock.is_pointer(file.path):
                changed[entry.path] = datalock.NOT_PULLED
            elif wrong := (
                datalock.other_size(entry, file) or datalock.other_content(entry, file, tell, True)
            ):
                changed[entry.path] = wrong
            elif listing.is_list(entry.path):
                listed = listing.read(file.path)
                count += len(listed.digests)
                size += _verify_listed(listed, tell, missing, changed)
    return {
        "verdict": "differs" if missing or changed or extra else "identical",
        "files": count,
        "bytes": size,
        "missing": missing,
        "changed": changed,
        "extra": extra,
    }


def _verify_listed(listed: Listing, tell: Tell, missing: list[str], changed: dict[str, str]) -> int:
    """Notes which files of a list are missing or changed; returns the bytes of those there."""
    size = 0
    for name, expected in listed.digests.items():
        path, shown = listed.folder / name, f"{listed.folder.name}/{name}"
        if not path.is_file():
            missing.append(shown)
            continue
        size += path.stat().st_size
        if (found := datalock.read_digest(path, tell)) != expected:
            changed[shown] = datalock.unequal(found, expected, "the list")
    return size


def fetch_missing(root: Path, given: Sequence[Path] = (), tell: Tell = silent) -> dict[str, Any]:
    """Downloads the missing files of the lock, or of these paths.

    Raises:
        BadInput: a file is missing and no source has it, or it is not the file of the lock. The
            other files are downloaded all the same.
    """
    there, fetched, failed = [], {}, []
    for entry in _chosen(root, datalock.read(root), given)[0]:
        try:
            file = datalock.find(root, entry.path)
            if file is None:
                fetched[entry.path] = _download(
                    root, entry.path, entry.sources, entry.sha256, entry.size, tell
                )
            else:
                datalock.no_pointer(file.path)
                datalock.check(root, [entry.path])
                there.append(entry.path)
            if listing.is_list(entry.path):
                fetched |= _fetch_listed(root, entry, tell)
        except BadInput as error:
            failed.append(str(error))
    if failed:
        more = f" (and {len(failed) - 1} more)" if failed[1:] else ""
        raise BadInput(failed[0] + more)
    return {"fetched": fetched, "there": there}


def _fetch_listed(root: Path, entry: Entry, tell: Tell) -> dict[str, str]:
    """Downloads what a list names and is not there; returns the sources by the paths.

    Raises:
        BadInput: a file is missing, and no source has it.
    """
    file = datalock.find(root, entry.path)
    assert file is not None
    listed, fetched = listing.read(file.path), {}
    for name, digest in listed.digests.items():
        if (listed.folder / name).is_file():
            continue
        path = f"{listing.folder_of(entry.path)}/{name}"
        if listed.folder.parent != (root / "data" / entry.path).parent:
            raise BadInput(f"{listed.folder / name}: no such file; put it there")
        sources = [f"{listing.folder_of(source)}/{quote(name)}" for source in entry.sources]
        fetched[path] = _download(root, path, sources, digest, tell=tell)
    return fetched


def _files(folder: Path) -> dict[str, Path]:
    """Returns the files below a folder by their paths, sorted, without hidden ones.

    Systems and unfinished downloads leave hidden files.
    """
    found = {}
    for file in folder.rglob("*"):
        below = file.relative_to(folder)
        if file.is_file() and not any(part.startswith(".") for part in below.parts):
            found[below.as_posix()] = file
    return dict(sorted(found.items()))


def _chosen(
    root: Path, entries: dict[str, Entry], given: Sequence[Path]
) -> tuple[list[Entry], list[str]]:
    """Returns the entries of the lock that the given paths mean, and files that the lock misses.

    Raises:
        BadInput: a path means neither.
    """
    listed = _listed(root, entries)
    extra = [path for path in _files(root / "data") if path not in entries and path not in listed]
    # A person may give the path of a file, or the path that the lock has.
    named = [(one, {_place(root, one)[1], one.as_posix()}) for one in given]

    def meant(path: str, names: set[str | None]) -> bool:
        # Whoever names a folder that has a list, or a file in it, means the list.
        folder = listing.folder_of(path) if listing.is_list(path) else path
        return "." in names or any(
            name in (path, folder) or path.startswith(f"{name}/") or name.startswith(f"{folder}/")
            for name in names
            if name is not None
        )

    for one, names in named:
        if not any(meant(path, names) for path in (*entries, *extra)):
            raise BadInput(f"{one}: neither in {LOCK} nor in the data folder, {_places(root)}")

    def chosen(path: str) -> bool:
        return not named or any(meant(path, names) for _, names in named)

    return [e for e in entries.values() if chosen(e.path)], [path for path in extra if chosen(path)]


def _listed(root: Path, entries: Iterable[str]) -> set[str]:
    """Returns the paths of all files that are in a list which is there."""
    found: set[str] = set()
    for path in filter(listing.is_list, entries):
        with contextlib.suppress(BadInput):
            if (file := datalock.find(root, path)) is not None:
                names = listing.read(file.path).digests
                found.update(f"{listing.folder_of(path)}/{name}" for name in names)
    return found


def _place(root: Path, file: Path) -> tuple[Path | None, str | None]:
    """Returns the data folder that a file lies in, and its path there; None twice if it is none."""
    file = Path(os.path.abspath(file))
    for folder in datalock.folders(root):
        for base in (Path(os.path.abspath(folder)), folder.resolve()):
            if file.is_relative_to(base):
                return folder, file.relative_to(base).as_posix()
    return None, None


def _places(root: Path) -> str:
    return " or ".join(os.path.relpath(folder) for folder in datalock.folders(root))


def check_size(files: Sequence[str]) -> dict[str, Any]:
    """Returns the files of which git keeps more than `LIMIT` bytes, with their sizes.

    What git has is counted, and not the file in the folder. For a file under Git LFS, git has only
    a small pointer. If Git LFS is not installed, git has the whole file, whatever `.gitattributes`
    says.
    """

    def git(*words: str, given: str = "") -> str:
        command = ("git", "--literal-pathspecs", *words)
        try:
            done = subprocess.run(
                command,
                input=given,
                capture_output=True,
                encoding="utf-8",
                errors="surrogateescape",  # A file's name can have any bytes.
            )
        except FileNotFoundError:
            raise BadInput("git is not installed") from None
        if done.returncode:
            raise BadInput(f"git: {' '.join(done.stderr.split())}")
        return done.stdout

    # git prints `mode blob stage TAB name NUL` for each file. The mode 160000 is a submodule.
    lines = [line.split("\t", 1) for line in git("ls-files", "-sz", "--", *files).split("\0")[:-1]]
    blobs = {name: about.split()[1] for about, name in lines if not about.startswith("160000")}
    asked = "".join(f"{blob}\n" for blob in blobs.values())
    sizes = git("cat-file", "--batch-check=%(objectsize)", given=asked).splitlines()
    large = {
        name: int(size)
        for name, size in zip(blobs, sizes, strict=True)
        if size.isdecimal() and int(size) > LIMIT
    }
    return {"verdict": "differs" if large else "identical", "large": large}


def lines(answer: dict[str, Any]) -> list[str]:
    """Returns the answer of one of these functions as lines for a person."""
    text = [
        f"{'locked   ' if entry['changed'] else 'unchanged'}  {entry['path']}  {entry['sha256']}"
        for entry in answer.get("added", ())
    ]
    text += [f"fetched    {path}  {url}" for path, url in answer.get("fetched", {}).items()]
    if "there" in answer:
        text.append(f"there      {len(answer['there'])}, as {LOCK} says")
    text += [f"missing    {path}" for path in answer.get("missing", ())]
    text += [f"changed    {path}: {what}" for path, what in answer.get("changed", {}).items()]
    text += [f"extra      {path}: not in {LOCK}" for path in answer.get("extra", ())]
    if "files" in answer:
        count = f"{answer['files']} file{'' if answer['files'] == 1 else 's'}"
        text.append(f"{answer['verdict'].upper()}  {count}, {answer['bytes'] / 10**6:.1f} MB")
    text += [
        f"{name}: {size / 10**6:.1f} MB in git, more than {LIMIT // 10**6} MB; keep it in data/, "
        "with `repro data add`, or under Git LFS: `git lfs install`, `git lfs track FILE`, "
        "`git add --renormalize FILE`"
        for name, size in answer.get("large", {}).items()
    ]
    return [printable(line) for line in text]

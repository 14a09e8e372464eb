"""The content of the files that a script has written: tensors and lines, not archives.

Two files of equal models differ by a date and by the order and packing of their parts. So a file is
read as what it holds, by names, and two files are compared name by name. Nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import json
import pickletools
import re
import struct
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from repro.basics.digests import of_json, sha256
from repro.basics.errors import BadInput

Contents = dict[str, str]
"""By name, such as that of a tensor: its digest."""


@dataclass(frozen=True)
class Differs:
    """An output in which two runs differ."""

    file: str
    what: str
    """What of it differs: `written`, `line`, `byte` or `content`."""
    name: str
    """The first tensor or member that differs, the number of the line, or that of the byte."""
    a: str | None
    b: str | None
    others: int = 0
    """How many more of its tensors or members differ."""

    def as_json(self) -> dict[str, Any]:
        """As answers have it."""
        return asdict(self)

    def lines(self) -> list[str]:
        """The same for a person."""
        if self.what == "written":
            which = "first" if self.a else "second"
            return [f"output     {self.file}: only the {which} run has written it"]
        if self.what == "byte":
            return [f"output     {self.file}: differs from byte {self.name} on"]
        if self.what == "line":
            told = f"output     {self.file}: differs in line {self.name}"
            return [told, f"             {_cut(self.a)}", f"             {_cut(self.b)}"]
        more = f", and {self.others} more" if self.others else ""
        return [f"output     {self.file}: {self.name} differs{more}"]


def _cut(text: str | None) -> str:
    return (text or "")[:100]


def compare(file: str, a: Path, b: Path) -> Differs | None:
    """Compares an output of two runs; None if the content is the same.

    Args:
        file: its name for a person.

    Raises:
        BadInput: what would read the format is not installed.
    """
    if not (a.is_file() and b.is_file()):
        one, other = (str(path) if path.is_file() else None for path in (a, b))
        return Differs(file, "written", "", one, other)
    if sha256(a) == sha256(b):
        return None
    left, right = contents(a), contents(b)
    if left is None or right is None:
        return _text(file, a.read_bytes(), b.read_bytes())
    names = [name for name in {**left, **right} if left.get(name) != right.get(name)]
    if not names:
        return None
    first = names[0]
    return Differs(file, "content", first, left.get(first), right.get(first), len(names) - 1)


def _text(file: str, a: bytes, b: bytes) -> Differs:
    try:
        one, other = (text.decode("utf-8").splitlines() for text in (a, b))
    except UnicodeDecodeError:
        one, other = [], []
    for number, (left, right) in enumerate(zip(one, other, strict=False), 1):
        if left != right:
            return Differs(file, "line", str(number), left, right)
    if len(one) != len(other):
        number = min(len(one), len(other))
        left, right = ("\n".join(lines[number : number + 1]) for lines in (one, other))
        return Differs(file, "line", str(number + 1), left, right)
    place = next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), None)
    return Differs(file, "byte", str(min(len(a), len(b)) if place is None else place), None, None)


def contents(path: Path) -> Contents | None:
    """Returns the content of a file by names; None for a file that is compared byte by byte.

    A damaged file of a known format is compared byte by byte too.
    """
    with path.open("rb") as file:
        try:
            return _contents(path.name, file)
        except BadInput:
            raise
        except Exception:  # zipfile, json, struct and h5py each raise their own.
            return None


def _contents(name: str, file: BinaryIO) -> Contents | None:
    begin = file.read(8)
    file.seek(0)
    if begin[:4] == b"PK\x03\x04":
        return _zip(file)
    if begin == b"\x89HDF\r\n\x1a\n":
        return _hdf5(name, file)
    if name.endswith(".safetensors"):
        return _safetensors(file)
    return None


def _zip(file: BinaryIO) -> Contents:
    """A `.keras`, an `.npz`, a file of PyTorch's, or any other zip: what its members hold."""
    found: Contents = {}
    with zipfile.ZipFile(file) as archive:
        members = archive.namelist()
        torch = next((m for m in members if re.fullmatch(r"[^/]+/data\.pkl", m)), None)
        prefix = torch.removesuffix("data.pkl") if torch else ""
        names = _storages(archive.read(torch)) if torch else {}
        for member in members:
            short = member.removeprefix(prefix)
            if torch and short in (".data/serialization_id", "byteorder", "version"):
                continue
            content = archive.read(member)
            within = _within(short, content)
            if within is not None:
                found |= {f"{short}: {name}" if name else short: d for name, d in within.items()}
            else:
                found[names.get(short, short)] = sha256(content)
    return found


def _within(member: str, content: bytes) -> Contents | None:
    """What a member of a `.keras` holds; None if its bytes count."""
    if member == "metadata.json":
        told = json.loads(content)
        told.pop("date_saved", None)
        return {"": of_json(told)}
    if member.endswith(".json"):
        return {"": of_json(json.loads(_renumbered(content.decode())))}
    return _hdf5(member, BytesIO(content)) if member.endswith(".h5") else None


def _renumbered(text: str) -> str:
    """Keras's description of a model, in which objects that are shared have numbers in order.

    Keras numbers them by their places in memory, which are others in each process.
    """
    numbers: dict[str, int] = {}

    def number(found: re.Match[str]) -> str:
        return found[1] + str(numbers.setdefault(found[2], len(numbers)))

    return re.sub(r'("shared_object_id":\s*)(\d+)', number, text)


def _storages(pickle: bytes) -> dict[str, str]:
    """Names for the storages of a file of PyTorch's, by the members that hold them.

    The pickle is only read as a list of its operations, and nothing of it is executed. Before a
    storage stands the text `storage`; before that the name of its tensor, after it its number.
    """
    found: dict[str, str] = {}
    memo: dict[int, str | None] = {}
    last: str | None = None
    texts: list[str] = []
    for operation, given, _ in pickletools.genops(pickle):
        name = operation.name
        if name in ("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "UNICODE"):
            last = str(given)
            texts.append(last)
        elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
            memo[int(str(given))] = last
            last = None
        elif name == "MEMOIZE":
            memo[len(memo)] = last
            last = None
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            known = memo.get(int(str(given)))
            texts += [known] if known is not None else []
        else:
            last = None
        if name == "BINPERSID" and "storage" in texts:
            place = len(texts) - 1 - texts[::-1].index("storage")
            number = next((text for text in texts[place:] if text.isdecimal()), None)
            if place > 0 and number is not None:
                found[f"data/{number}"] = f"tensor {texts[place - 1]}"
            texts = []
    return found


def _safetensors(file: BinaryIO) -> Contents:
    """A header of JSON, which says where the bytes of each tensor are; then the bytes."""
    (size,) = struct.unpack("<Q", file.read(8))
    header = json.loads(file.read(size))
    data = file.read()
    found: Contents = {}
    for name, told in header.items():
        if name == "__metadata__":
            found[name] = of_json(told)
            continue
        begin, end = told["data_offsets"]
        digest = hashlib.sha256(f"{told['dtype']}{told['shape']}".encode())
        digest.update(data[begin:end])
        found[f"tensor {name}"] = digest.hexdigest()
    return found


def _hdf5(name: str, file: BinaryIO) -> Contents:
    """The data sets of an HDF5 file, and the attributes in which Keras keeps the architecture."""
    try:
        import h5py
    except ImportError:
        raise BadInput(
            f"{name}: h5py is needed to compare files of this kind; expected an environment that "
            "has it, as each one with Keras does"
        ) from None
    import numpy as np

    found: Contents = {}

    def value(one: Any) -> str:
        array = np.asarray(one)
        if not array.dtype.hasobject:
            return sha256(array)
        return sha256(_renumbered(repr(array.tolist())).encode())

    def visit(path: str, one: Any) -> None:
        for attribute, content in sorted(one.attrs.items()):
            found[f"attribute {attribute} of {path or 'the file'}"] = value(content)
        if isinstance(one, h5py.Dataset):
            found[f"tensor {path}"] = value(one[()])

    visitor: Callable[[str, Any], None] = visit
    with h5py.File(file, "r") as opened:
        visit("", opened)
        opened.visititems(visitor)
    return found

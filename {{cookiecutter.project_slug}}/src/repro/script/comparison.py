"""Compares two runs of a script: the ledger, then the outputs, then the printed lines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from repro.basics.digests import of_json, sha256
from repro.basics.text import printable
from repro.run import ledger
from repro.run.ledger import Divergence
from repro.script import folder, outputs, printed
from repro.script.asked import Script
from repro.script.outputs import Differs
from repro.script.printed import Line
from repro.script.running import FILES, Ran
from repro.script.start import LEDGER, PRINTED

MEANS = {
    "generators": "a random generator was in another state: something draws from it more or less "
    "often, or seeds it otherwise",
    "weights": "the weights were not the same",
    "optimizer": "the optimizer's state was not the same",
    "metrics": "the metrics were not the same, although the weights were",
    "place": "the two runs did not do the same things in the same order",
    "length": "one run is longer than the other",
}
AT_START = "the initial weights were not the same: what draws them is not seeded"


@dataclass(frozen=True)
class Compared:
    """What a comparison of two runs says."""

    verdict: Literal["identical", "diverged", "not comparable"]
    where: Divergence | None
    """The first difference along the run; None: what was watched is the same."""
    outputs: Sequence[Differs]
    printed: Line | None
    """The first printed line that differs."""
    entries: int
    """How many places along the run were compared, in the first run."""
    files: Sequence[str]
    """The outputs that were compared."""
    lines: int
    """How many printed lines were compared."""
    missing: Sequence[str]
    """The patterns of `--output` that no file of either run fits."""
    digest: str
    """Of all in the first run that was compared."""

    def as_json(self) -> dict[str, Any]:
        """As answers have it; what does not apply is left out."""
        content: dict[str, Any] = {"verdict": self.verdict, "digest": self.digest}
        if self.where is not None:
            content["first_divergence"] = self.where.as_json()
        content["outputs"] = [one.as_json() for one in self.outputs]
        if self.printed is not None:
            content["printed"] = asdict(self.printed)
        return content | {
            "compared": {
                "entries": self.entries,
                "files": [*self.files],
                "lines": self.lines,
            },
            "missing": [*self.missing],
        }

    def told(self) -> list[str]:
        """The same for a person."""
        text = [] if self.where is None else describe(self.where)
        text += [line for one in self.outputs for line in one.lines()]
        if self.printed is not None:
            equal = self.where is None and not self.outputs and (self.entries or self.files)
            begin = "all that was watched is equal; the " if equal else "the "
            text += [
                f"printed    {begin}printed text differs in line {self.printed.number}",
                f"             {printable(self.printed.a)[:100]}",
                f"             {printable(self.printed.b)[:100]}",
            ]
        text += [f"output     {one}: neither run has written such a file" for one in self.missing]
        if self.verdict == "identical":
            text.append(f"digest     {self.digest}")
        return text


def describe(found: Divergence) -> list[str]:
    """Says where along a run two runs part, for a person."""
    place = {
        "initial": "before step 1, in the initial state",
        "final": "after the last step that was looked at",
        "trained": "at the end of fit",
        "epoch": f"at the end of epoch {found.epoch}",
    }.get(found.stage)
    step = (
        f"in epoch {found.epoch}, at step {found.step}" if found.epoch else f"at step {found.step}"
    )
    others = len(found.names or ()) - 1
    more = f", and {others} more" if others > 0 else ""
    return [
        f"first difference: {place or step}",
        f"  {found.what}: {printable(found.name)}{more}",
        f"    {_short(found.a)}",
        f"    {_short(found.b)}",
        f"  {found.means}",
    ]


def _short(value: object) -> str:
    text = printable(value)
    return text[:16] + "…" if len(text) == 64 else text


def compare(script: Script, one: Ran, other: Ran, with_printed: bool = True) -> Compared:
    """Compares two finished runs of a script.

    Raises:
        BadInput: a ledger is damaged, or what reads an output is not installed.
    """
    paths = one.directory / LEDGER, other.directory / LEDGER
    where = _along(*paths)
    named = sorted({*one.written, *other.written})
    wanted = folder.outputs(script, named)
    pairs = [
        (name, one.directory / FILES / name, other.directory / FILES / name) for name in wanted
    ]
    differing = [found for pair in pairs if (found := outputs.compare(*pair)) is not None]
    left, right = (printed.lines(ran.directory / PRINTED, ran.work) for ran in (one, other))
    line = printed.first_difference(left, right) if with_printed else None
    missing = [
        pattern
        for pattern in script.outputs
        if not any(folder.matches(script, pattern, name) for name in wanted)
    ]
    entries = len(_lines(paths[0]))
    lines = len(left) if with_printed else 0
    verdict: Literal["identical", "diverged", "not comparable"] = "identical"
    if where is not None or differing or line is not None:
        verdict = "diverged"
    elif missing or not (entries or wanted or lines):
        verdict = "not comparable"
    digest = of_json(
        [sha256(paths[0]), *(_digest(first) for _, first, _ in pairs), left if with_printed else []]
    )
    return Compared(verdict, where, differing, line, entries, wanted, lines, missing, digest)


def _along(one: Any, other: Any) -> Divergence | None:
    """The first difference of two ledgers, of which one or both may be empty."""
    first, second = len(_lines(one)), len(_lines(other))
    if first and second:
        found = ledger.first_difference(one, other)
    elif first != second:
        found = Divergence("initial", 0, 0, "length", "entries", first, second)
    else:
        found = None
    if found is None:
        return None
    means = MEANS.get(found.what, "what was watched was not the same")
    if found.stage == "initial" and found.what == "weights":
        means = AT_START
    return Divergence(
        found.stage,
        found.epoch,
        found.step,
        found.what,
        found.name,
        found.a,
        found.b,
        found.names,
        means,
    )


def _lines(path: Any) -> list[bytes]:
    found: list[bytes] = path.read_bytes().splitlines()
    return found


def _digest(path: Any) -> str:
    if not path.is_file():
        return ""
    found = outputs.contents(path)
    return sha256(path) if found is None else of_json(found)

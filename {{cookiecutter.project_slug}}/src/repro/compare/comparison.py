"""Compares two run directories: they are identical, diverged at some place, or not comparable."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from repro.basics import files
from repro.basics.text import printable
from repro.run import ledger, manifest
from repro.run.ledger import Divergence
from repro.run.manifest import Finished

EXPLAINED = {
    "settings": "a setting of the guarantee was not the same in both processes",
    "samples": "the data were not the same: something draws, lists or reads them in another way "
    "each time",
    "split": "other samples are in the parts",
    "arrays": "what the preprocessing made of the data was not the same",
    "sources": "what the data were read from was not the same",
    "order": "the samples came in another order",
    "content": "the samples had another content: they were changed, or read in another way",
    "vocabulary": "a layer that looks words up was adapted to other words",
    "generators": "a random generator was in another state",
    "weights": "the weights were not the same",
    "optimizer": "the optimizer's state was not the same",
    "outside": "what the code keeps outside of the model was not the same",
    "metrics": "loss or metrics were not the same over these steps, so the weights or what the "
    "layers computed were not either",
    "produced": "what the trained model made was not the same",
    "results": "the training went the same way, only the results were not the same: what the "
    "model judges itself by (`judge`), or the evaluation, draws or computes otherwise each time",
    "length": "one run is longer than the other",
    "place": "the two runs did not do the same things in the same order",
}
"""What a first difference means, by the field of the ledger's entry in which it stands."""

# Before the first step the weights have a simpler cause.
AT_START = {
    "weights": "the initial weights were not the same: a layer draws them from a generator of its "
    "own, or the model was built in another way",
}
AT_END = {"arrays": "the predictions were not the same"}


@dataclass(frozen=True)
class Verdict:
    """The result of comparing two runs."""

    runs: tuple[Path, Path]
    digests: tuple[str, str]
    verdict: Literal["identical", "diverged", "not comparable"]
    first_divergence: Divergence | None = None
    """The first place where they differ, if they have diverged."""
    not_comparable: dict[str, list[Any]] | None = None
    """The fields in which their recipes differ, each with both values; None: there is none."""

    @property
    def compared(self) -> tuple[Path, ...]:
        """The runs that were compared."""
        return self.runs

    def as_json(self) -> dict[str, Any]:
        """Returns the verdict as answers and studies have it, without fields that are None."""
        content: dict[str, Any] = {
            "runs": [str(run) for run in self.runs],
            "digests": [*self.digests],
            "verdict": self.verdict,
        }
        if self.first_divergence is not None:
            content["first_divergence"] = self.first_divergence.as_json()
        if self.not_comparable is not None:
            content["not_comparable"] = self.not_comparable
        return content

    def lines(self) -> list[str]:
        """Returns what a person has to know beside the verdict itself, one line or more."""
        if self.first_divergence is not None:
            return [describe(self.first_divergence)]
        if self.not_comparable is not None:
            return [
                printable(f"  {name}: {one} in the first, {other} in the second")
                for name, (one, other) in self.not_comparable.items()
            ]
        return [f"digest     {self.digests[0]}"]


def compare(a: Path, b: Path, one_recipe: bool = False) -> Verdict:
    """Returns the verdict on two finished runs.

    Args:
        one_recipe: whether both were started from the same recipe. If they have read data from
            different sources, they have then diverged, and are not merely not comparable.

    Raises:
        BadInput: a directory is not a run, the run has not finished, or a ledger is damaged.
    """
    one, other = manifest.finished(a), manifest.finished(b)
    runs, digests = (a, b), (one.digest, other.digest)
    fields = files.changed(one.recipe.as_json(), other.recipe.as_json())
    if fields and one_recipe:
        names = [field.removeprefix("data.") for field in fields]
        left, right = fields["data." + names[0]]
        means = EXPLAINED["sources"]
        where = Divergence("data", 0, 0, "sources", names[0], left, right, names, means)
        return Verdict(runs, digests, "diverged", where)
    if fields:
        return Verdict(runs, digests, "not comparable", not_comparable=fields)
    found = ledger.first_difference(a / "ledger.jsonl", b / "ledger.jsonl")
    if found is None:  # After a kill in a gate, the second process may have found a difference.
        found = one.parted or other.parted
    if found is None and one.digest == other.digest:
        return Verdict(runs, digests, "identical")
    if found is None:  # The ledgers are equal, and only the final states differ.
        found = Divergence("final", 0, 0, "weights", "state", *digests, ["state"])
    if found.what == "content":
        from repro.data import feed  # It imports NumPy, which no other comparison waits for.

        found = _of_samples(found, feed.changed(a, b))
    text = (found.means or means_of(found)) + _processors(one, other) + _made_of(one, other)
    return Verdict(runs, digests, "diverged", replace(found, means=text))


def means_of(found: Divergence) -> str:
    """Returns what a divergence means, by the stage and the field in which it stands."""
    special = {"initial": AT_START, "final": AT_END}.get(found.stage, {})
    return special.get(found.what, EXPLAINED[found.what])


def _of_samples(found: Divergence, keys: list[str]) -> Divergence:
    """Names the samples that two runs have read with another content.

    If there is none, the samples were read alike, and what was made of them was not.
    """
    if keys:
        return replace(found, name=f"sample {keys[0]}", names=[f"sample {key}" for key in keys])
    means = "each sample was read with the same content; `augment` made other samples of them, so "
    return replace(found, means=means + "it draws from something else than its generator")


MOST = 6
"""How many differences in what two runs are made of are named at most."""


def _made_of(one: Finished, other: Finished) -> str:
    """Says how the runs differ in what they are made of and in what their code read."""
    found = []
    known = one.made_of is not None and other.made_of is not None
    first, second = (asdict(run.made_of) if run.made_of and known else {} for run in (one, other))
    for field, (left, right) in files.changed(first, second).items():
        group, _, name = field.partition(".")
        if group == "code":
            found.append(f"src/{name}")
        elif group in ("packages", "python"):
            found.append(f"{name} {left} and {right}")
    for group, what in (("variables", "the variable "), ("files", "")):
        first, second = (getattr(run.reads, group, {}) for run in (one, other))
        named = files.changed(first, second)
        found += [f"{what}{name}, which the project's code read" for name in named]
    more = f" and {len(found) - MOST} more" if len(found) > MOST else ""
    return f"; not the same for both runs: {', '.join(found[:MOST])}{more}" if found else ""


def _processors(one: Finished, other: Finished) -> str:
    """Says that the runs were made on different processors, if they then need not agree."""
    left, right = one.machine.cpu, other.machine.cpu
    if left == right or one.guarantee.holds == other.guarantee.holds == "portable":
        return ""
    return (
        f"; the runs were made on different processors, {left} and {right}, "
        "which compute alike only under guarantee=portable"
    )


def describe(found: Divergence) -> str:
    """Describes a first divergence in a few lines for a person."""
    place = {
        "environment": "before the training, in the settings in effect",
        "data": "before the training, in the data",
        "initial": "before the first step, in the initial state",
        "final": "after the training, in predictions and test results",
    }.get(found.stage) or f"in epoch {found.epoch}, at step {found.step}"
    others = len(found.names or ()) - 1
    more = f", and {others} more" if others > 0 else ""
    return (
        f"first difference: {place}\n"
        f"  {found.what}: {printable(found.name)}{more}\n"
        f"    {_short(found.a)}\n    {_short(found.b)}\n"
        f"  {found.means}"
    )


def _short(value: object) -> str:
    text = printable(value)
    return text[:16] + "…" if len(text) == 64 else text

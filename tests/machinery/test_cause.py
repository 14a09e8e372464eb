"""The search for what makes runs differ, with runs that are only pretended."""

from __future__ import annotations

import itertools
import json
import random
import signal
from collections.abc import Callable
from dataclasses import replace

import examples
import pytest

from repro.cli.commands import main
from repro.compare import cause, gate, why
from repro.compare.cause import Cause
from repro.compare.named_cause import NamedCause
from repro.recipe.project import Project

PROJECT = Project.find()
NAMES = [str(number) for number in range(14)]


@pytest.mark.parametrize("needed", [*([name] for name in NAMES), ["3", "4"], ["0", "7", "13"]])
def test_the_variations_needed_are_found(needed: list[str]) -> None:
    tried: list[list[str]] = []

    def differs(names: list[str]) -> bool:
        tried.append(names)
        return set(needed) <= set(names)

    assert cause.minimal(NAMES, differs) == needed
    # A list that changed after it was tried would stand for another answer.
    assert not any(one is other for one, other in itertools.combinations(tried, 2))
    assert len(tried) <= 6 * len(needed)


def test_one_of_several_causes_is_found() -> None:
    assert cause.minimal(NAMES, lambda names: bool({"5", "9"} & set(names))) == ["5"]


def test_a_difference_that_does_not_show_again_has_no_variation() -> None:
    assert cause.minimal(NAMES, lambda names: False) == []
    once = iter([True, True])
    assert cause.minimal(NAMES, lambda names: next(once, False)) == []


def pretended(differs: Callable[[set[str]], bool], sizes: list[int] | None = None) -> cause.Look:
    """A look at runs of which `differs` says whether they differ from the first one."""

    def look(sets: list[list[str]]) -> list[bool]:
        if sizes is not None:
            sizes.append(len(sets))
        return [differs(set(names)) for names in sets]

    return look


@pytest.mark.parametrize("at_once", [1, 2, 16])
@pytest.mark.parametrize("needed", [["0"], ["6"], ["13"], ["3", "4"], ["0", "7", "13"]])
def test_a_cause_is_named_after_it_was_repeated(needed: list[str], at_once: int) -> None:
    sizes: list[int] = []
    told: list[str] = []
    look = pretended(lambda names: set(needed) <= names, sizes)
    found = cause.find(NAMES, look, at_once, tell=told.append)
    assert found.variation == needed and found.sure
    probes = [(probe.varied, probe.differs) for probe in found.probes]
    assert probes.count(([], False)) == 5
    assert probes.count((needed, True)) >= 5
    fewer = [[n for n in needed if n != left] for left in needed] if len(needed) > 1 else []
    assert all(probes.count((names, False)) >= 5 for names in fewer)
    without = 5 * (1 + len(fewer))
    assert found.why.startswith(f"5 of 5 runs differ with it, 0 of {without} without; a random ")
    assert found.confidence == 1 - cause.by_chance(without, 5) > 0.999
    assert (found.seen, found.starts) == (1 + sum(d for _, d in probes), 1 + len(probes))
    assert max(sizes) <= at_once and sum(sizes) == len(probes) <= without + 5 + 6 * len(needed)
    assert "Tried: none" in told[0]


def test_the_chance_of_a_random_fault_is_the_largest_there_is() -> None:
    assert cause.by_chance(5, 5) == 1 / 1024
    for same, different in ((5, 5), (15, 5), (4, 9)):
        most = max((1 - p / 1000) ** same * (p / 1000) ** different for p in range(1001))
        assert most <= cause.by_chance(same, different) < most * 1.001


def test_what_differs_without_variation_is_random() -> None:
    found = cause.find(NAMES, pretended(lambda names: True), before=(1, 1))
    assert (found.variation, found.sure, found.confidence) == ([], False, None)
    assert found.why == "runs differ also without variation, 1 of 1"
    assert (found.seen, found.starts, len(found.probes)) == (2, 2, 1)
    # Where nothing was varied there is nothing to try.
    found = cause.find([], pretended(lambda names: False), before=(2, 4))
    assert (found.variation, found.seen, found.starts, found.probes) == ([], 2, 4, [])
    assert found.why == "runs differ also without variation, 2 of 4"


def test_what_shows_not_each_time_with_a_set_is_random() -> None:
    seen = 0

    def now_and_then(names: set[str]) -> bool:
        nonlocal seen
        seen += "7" in names
        return "7" in names and seen != 6

    found = cause.find(NAMES, pretended(now_and_then))
    assert (found.variation, found.sure) == ([], False)
    assert found.why.startswith("with 7 ") and "of" in found.why
    assert found.seen < found.starts
    found = cause.find(NAMES, pretended(lambda names: False))
    assert found.variation == [] and "did not show again" in found.why
    assert (found.seen, found.starts) == (1, 1 + len(found.probes))


def test_what_shows_without_one_name_of_a_set_is_random() -> None:
    """A fault of two names together that shows, after these were found, with one of them too."""
    tried: list[set[str]] = []

    def differs(names: set[str]) -> bool:
        tried.append(names)
        return {"3", "4"} <= names or (names == {"4"} and tried.count({"4"}) == 3)

    found = cause.find(NAMES, pretended(differs))
    assert (found.variation, found.sure) == ([], False)
    assert "without 3" in found.why


@pytest.mark.parametrize("at_once", [1, 2])
@pytest.mark.parametrize("same", [True, False], ids=["one-fault", "each-another"])
@pytest.mark.parametrize("probability", [0.05, 1 / 3, 1 / 2])
def test_a_random_fault_is_never_blamed_on_a_variation(
    probability: float, same: bool, at_once: int
) -> None:
    """Of 40 red gates each; a fault gives one other result, or another one each time."""
    red = 0
    for seed in itertools.count():
        chance = random.Random(seed)

        def start(chance: random.Random = chance) -> float:
            return (1 if same else chance.random()) if chance.random() < probability else 0

        first = start()
        if start() == first:
            continue
        look = pretended(lambda names, one=first: start() != one)  # type: ignore[misc]
        found = cause.find(NAMES, look, at_once)
        assert not found.sure and found.variation == [], (seed, found)
        assert 0 < found.seen <= found.starts
        red += 1
        if red == 40:
            break


def test_who_interrupts_the_search_for_the_tensor_keeps_the_cause(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*given: object) -> None:
        raise KeyboardInterrupt

    hash_seed = NamedCause(
        Cause(["hash-seed"], sure=True, confidence=0.999, seen=5, starts=10, probes=[], why=""),
        means="hash-seed",
        mend="sort a set",
    )
    red = replace(examples.gated("diverged"), differing=1, index=1)
    monkeypatch.chdir(PROJECT.root)
    monkeypatch.setattr(gate, "verify", lambda *given: red)
    monkeypatch.setattr(why, "find_cause", lambda *given: hash_seed)
    monkeypatch.setattr(why, "_find_tensor", interrupted)
    for options in ([], ["--json"]):
        assert main(["verify", *options]) == 128 + signal.SIGINT
        said = capsys.readouterr().out
        if options:
            answer = json.loads(said)
            assert (answer["verdict"], answer["cause"]["means"]) == ("diverged", "hash-seed")
            assert "explanation" not in answer
        else:
            assert "cause      hash-seed" in said and "sort a set" in said

"""What a study tries: values of parameters, and seeds and folds to repeat them over."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from repro.basics import seeds
from repro.basics.errors import BadInput
from repro.recipe import literals

METHODS = ("grid", "random", "latin_hypercube", "sobol")
Values = dict[str, Any]
"""The values that a configuration or a repetition sets, by the dotted name of the parameter."""


@dataclass(frozen=True)
class Repetitions:
    """How each configuration is repeated: over seeds, over folds, or over both.

    Raises:
        BadInput: a number is too small, or folds are repeated and there are none.
    """

    seeds: int = 1
    folds: int | None = None
    repeats: int = 1
    outer_folds: int | None = None

    def __post_init__(self) -> None:
        for name, least in (("seeds", 1), ("folds", 2), ("repeats", 1), ("outer_folds", 2)):
            value = getattr(self, name)
            if value is not None and value < least:
                option = name.replace("_", "-")
                raise BadInput(f"--{option}: expected {least} or more, got {value}")
        if self.repeats > 1 and not self.folds:
            raise BadInput("--repeats: expected 1 without --folds")

    def values(self, seed: int | None) -> list[Values]:
        """Returns the parameters that each repetition sets.

        The first seed is the recipe's own, and the others follow from it. So another value in a
        sweep changes no seed, and all configurations see the same seeds.

        Args:
            seed: the recipe's seed; None: each run draws its own.
        """
        seeded: list[Values] = [{}]
        if self.seeds > 1:
            numbers = range(1, self.seeds)
            seeded = [{}] * self.seeds  # With `seed: null` each run draws a seed.
            if seed is not None:
                derived = (seeds.seed(seed, "repetition", number) for number in numbers)
                seeded = [{"seed": one} for one in (seed, *derived)]
        outer: list[Values] = [{}]
        if self.outer_folds:
            outer = [
                {"split.outer_folds": self.outer_folds, "split.outer_fold": n}
                for n in range(self.outer_folds)
            ]
        folds: list[Values] = [{}]
        if self.folds:
            folds = [
                {"split.folds": self.folds, "split.fold": n}
                | ({"split.repeat": repeat} if self.repeats > 1 else {})
                for repeat in range(self.repeats)
                for n in range(self.folds)
            ]
        return [a | b | c for a, b, c in itertools.product(outer, seeded, folds)]


@dataclass(frozen=True)
class Search:
    """The values that a sweep tries."""

    fixed: Sequence[str] = ()
    """The overrides that all trials have."""
    choices: dict[str, list[Any]] = field(default_factory=dict)
    """By parameter: the values to try."""
    ranges: dict[str, tuple[float, float, bool]] = field(default_factory=dict)
    """By parameter: lowest value, highest value, and whether the scale is logarithmic. If both
    ends are whole numbers, so are the values."""

    @classmethod
    def read(cls, texts: Sequence[str]) -> Search:
        """Reads texts such as `key=1,2,3`, `key=1e-4..1e-1`, `key=1e-4..1e-1 log`, `key=value`.

        Raises:
            BadInput: a text is none of these.
        """
        fixed, choices, ranges = [], {}, {}
        for text in texts:
            key, equals, value = text.partition("=")
            if not equals:
                raise BadInput(f"{text}: expected key=value,value or key=lowest..highest")
            values = literals.listed(value)
            if len(values) == 1 and isinstance(values[0], str) and ".." in values[0]:
                ranges[key] = _range(key, values[0])
            elif len(values) > 1:
                choices[key] = values
            else:
                fixed.append(text)
        return cls(fixed, choices, ranges)

    def fix(self, override: str) -> Search:
        """Returns the same search with one more override that all trials have."""
        return replace(self, fixed=[*self.fixed, override])

    def configurations(self, method: str, trials: int | None, seed: int) -> list[Values]:
        """Returns the configurations to try, each one once.

        `random`, `latin_hypercube` and `sobol` take points of the unit cube from NumPy and SciPy.
        With `random` the first points are the same for every number of trials. Floats are rounded
        to four digits.

        Args:
            method: one of `METHODS`.
            trials: the number of points; None with `grid`, which tries all values.

        Raises:
            BadInput: the method does not fit the values, or the number of points is missing.
        """
        if method == "grid":
            if self.ranges:
                raise BadInput(
                    f"{next(iter(self.ranges))}: a grid needs values, such as 16,32,64; "
                    f"ranges need --method {', '.join(METHODS[1:])}"
                )
            if trials is not None:
                raise BadInput("--trials: expected none with --method grid, which tries all")
            found = [
                dict(zip(self.choices, values, strict=True))
                for values in itertools.product(*self.choices.values())
            ]
        else:
            names = [*self.choices, *self.ranges]
            if not names:
                raise BadInput(f"--method {method}: expected a parameter with values or a range")
            if not trials or trials < 1:
                raise BadInput(f"--trials: expected how many to try with --method {method}")
            found = [
                {name: self._value(name, u) for name, u in zip(names, point, strict=True)}
                for point in _points(method, trials, len(names), seed)
            ]
        return list({literals.written(one): one for one in found}.values())

    def _value(self, name: str, u: float) -> Any:
        """Returns the value of a parameter at the point u, where 0 <= u < 1."""
        if name in self.choices:
            return self.choices[name][int(u * len(self.choices[name]))]
        low, high, log = self.ranges[name]
        whole = isinstance(low, int) and isinstance(high, int)
        top = high + 1 if whole else high
        value = low * (top / low) ** u if log else low + (top - low) * u
        return int(value) if whole else float(f"{value:.4g}")


def _range(key: str, text: str) -> tuple[float, float, bool]:
    found = re.fullmatch(r"(\S+?)\.\.(\S+)(\s+log)?", text)
    ends = literals.listed(f"{found[1]},{found[2]}") if found else []
    numbers = [end for end in ends if isinstance(end, int | float) and not isinstance(end, bool)]
    if found is None or len(numbers) != 2 or not numbers[0] < numbers[1]:
        raise BadInput(f"{key}: expected lowest..highest, such as 1e-4..1e-1, got {text}")
    if found[3] and numbers[0] <= 0:
        raise BadInput(f"{key}: expected more than 0 with log, got {text}")
    return numbers[0], numbers[1], bool(found[3])


def _points(method: str, number: int, dimensions: int, seed: int) -> list[list[float]]:
    import warnings

    import numpy as np
    from scipy.stats import qmc

    generator = np.random.Generator(np.random.Philox(seeds.seed(seed, "search")))
    if method == "random":
        points = generator.random((number, dimensions))
    elif method == "latin_hypercube":
        points = qmc.LatinHypercube(dimensions, rng=generator).random(number)
    else:
        # SciPy warns if the number is not a power of 2. The points are then less even, not wrong.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            points = qmc.Sobol(dimensions, rng=generator).random(number)
    return [[float(u) for u in point] for point in points]

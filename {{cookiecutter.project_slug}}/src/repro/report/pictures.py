"""Draws the pictures of a report, as SVG text that is the same each time.

Text and axes take the colour of the page's text, so that they suit light and dark pages.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from cycler import cycler
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from repro.basics.text import printable

INK = "#010203"
"""A colour that is replaced by the one of the page's text when the picture is written."""
COLOURS = ("#3987e5", "#e0731d", "#1a9e6b", "#c2559d", "#b08900", "#7a6ff0", "#d8483f", "#5c8a00")
SETTINGS: Any = {
    "svg.hashsalt": "repro",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 11,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": cycler(color=COLOURS),
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "grid.color": "#808080",
    "grid.alpha": 0.25,
    "axes.grid": True,
    # A name may have a dollar sign, which must not begin a formula.
    "text.parse_math": False,
}


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), layout="constrained")


def _svg(figure: Figure, title: str) -> str:
    text = io.StringIO()
    metadata = {"Date": None, "Creator": None, "Title": printable(title)}
    figure.savefig(text, format="svg", transparent=True, metadata=metadata)
    svg = text.getvalue()
    return svg[svg.index("<svg") :].replace(INK, "currentColor")


def curves(runs: dict[str, list[dict[str, float]]], name: str, first: int = 1) -> str:
    """Draws a result over the epochs: of the training (dashed) and of the validation (solid).

    Args:
        runs: by the name to show: the results of each epoch of a run.
        name: the name of the result; that of the validation begins with `val_`.
        first: the number of the first epoch.
    """
    with mpl.rc_context(SETTINGS):
        figure = _figure(6, 3.6)
        axes = figure.add_subplot(xlabel="epoch", ylabel=printable(name))
        for number, (run, history) in enumerate(runs.items()):
            colour = COLOURS[number % len(COLOURS)]
            # Each curve is thinner than the one before, so that equal curves can all be seen.
            width = 1.5 + 2 * (len(runs) - 1 - number) / max(len(runs) - 1, 1)
            for key, style in ((name, "--"), (f"val_{name}", "-")):
                points = [(first + n, row[key]) for n, row in enumerate(history) if key in row]
                if points:
                    label = run if style == "-" or f"val_{name}" not in history[-1] else None
                    marker = "o" if len(points) == 1 else None
                    axes.plot(
                        *zip(*points, strict=True),
                        style,
                        marker=marker,
                        color=colour,
                        linewidth=width,
                        label=label and printable(label),
                    )
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if len(runs) <= 8:
            axes.legend(fontsize=9)
        return _svg(figure, f"{name} over the epochs")


def against(
    values: Sequence[float],
    measured: dict[str, tuple[Sequence[float], Sequence[float]]],
    parameter: str,
    name: str,
) -> str:
    """Draws mean and standard deviation of a result against a parameter, for each part.

    Args:
        values: the values of the parameter.
        measured: by the name of the part: means and deviations, in the order of `values`.
        parameter: the name of the parameter.
        name: the name of the result.
    """
    with mpl.rc_context(SETTINGS):
        figure = _figure(6, 3.6)
        axes = figure.add_subplot(xlabel=printable(parameter), ylabel=printable(name))
        positive = [value for value in values if value > 0]
        if len(positive) == len(values) and max(values) >= 4 * min(values):
            axes.set_xscale("log", base=2 if all(v == int(v) for v in values) else 10)
            if len(set(values)) <= 12 and all(v == int(v) for v in values):
                axes.set_xticks(sorted(set(values)), [f"{v:g}" for v in sorted(set(values))])
                axes.minorticks_off()
        for part, (means, deviations) in measured.items():
            order = np.argsort(values, kind="stable")
            axes.errorbar(
                np.asarray(values)[order],
                np.asarray(means)[order],
                yerr=np.asarray(deviations)[order] if any(deviations) else None,
                fmt="o-" if len(set(values)) == len(values) else "o",
                capsize=3,
                label=part,
            )
        axes.legend(fontsize=9)
        return _svg(figure, f"{name} against {parameter}")


def confusion(counts: np.ndarray, names: Sequence[str]) -> str:
    """Draws the confusion matrix; a row has the samples of a class.

    Args:
        counts: of shape (classes, classes).
        names: what the classes are called.
    """
    classes = len(counts)
    with mpl.rc_context(SETTINGS | {"axes.grid": False}):
        side = min(max(3.0, 0.45 * classes + 1), 9)
        figure = _figure(side, side)
        axes = figure.add_subplot(xlabel="predicted", ylabel="is")
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        shades = LinearSegmentedColormap.from_list("shades", ["#3987e500", "#3987e5ff"])
        axes.pcolormesh(shares, cmap=shades, vmin=0, vmax=1, rasterized=classes > 40)
        axes.set_aspect("equal")
        axes.invert_yaxis()
        if classes <= 25:
            ticks = np.arange(classes) + 0.5
            long = max(map(len, names)) > 2
            axes.set_xticks(ticks, names, rotation=90 if long else 0)
            axes.set_yticks(ticks, names)
            for row, column in np.argwhere(counts):
                axes.text(
                    column + 0.5,
                    row + 0.5,
                    str(counts[row, column]),
                    ha="center",
                    va="center",
                    fontsize=9,
                )
        return _svg(figure, "confusion matrix")


def proportions(classes: dict[str, dict[str, int]]) -> str:
    """Draws the share of each class in each part of the split."""
    found = dict.fromkeys(label for counts in classes.values() for label in counts)
    names = sorted(found, key=int) if all(map(str.isdigit, found)) else list(found)
    with mpl.rc_context(SETTINGS):
        figure = _figure(6, 3)
        axes = figure.add_subplot(xlabel="class", ylabel="share")
        for number, (part, counts) in enumerate(classes.items()):
            total = sum(counts.values())
            shares = [counts.get(name, 0) / total for name in names]
            places = np.arange(len(names)) + 0.27 * (number - 1)
            axes.bar(places, shares, 0.25, label=f"{part}: {total}")
        if len(names) <= 25:
            long = max(map(len, names)) > 2
            axes.set_xticks(range(len(names)), names, rotation=90 if long else 0)
        axes.legend(fontsize=9, loc="lower center", ncols=3, bbox_to_anchor=(0.5, 1))
        return _svg(figure, "classes in the parts of the split")


def samples(x: np.ndarray, titles: Sequence[str]) -> str | None:
    """Draws samples as images or as series, each with a title; None if they are neither.

    Args:
        x: images of shape (samples, height, width, 1 or 3), or series of shape (samples, steps) or
            (samples, steps, features).
    """
    images = x.ndim == 4 and x.shape[-1] in (1, 3)
    if not images and not (x.ndim in (2, 3) and x.shape[1] > 1):
        return None
    columns = 6
    rows = -(-len(x) // columns)
    with mpl.rc_context(SETTINGS | {"axes.grid": False}):
        figure = _figure(6.6, 1.35 * rows)
        for number, (sample, title) in enumerate(zip(x, titles, strict=True)):
            axes = figure.add_subplot(rows, columns, number + 1)
            axes.set_title(title, fontsize=9)
            axes.set_xticks([])
            axes.set_yticks([])
            if images:
                sample = sample.astype(float)
                low, high = sample.min(), sample.max()
                sample = (sample - low) / (high - low or 1)
                axes.imshow(sample, cmap="gray", interpolation="nearest")
            else:
                axes.plot(sample, linewidth=1)
        return _svg(figure, "samples and predictions")


def scatter(targets: np.ndarray, predicted: np.ndarray) -> str:
    """Draws predicted numbers against the true ones: at most 2,000, picked evenly."""
    picked = np.linspace(0, len(targets) - 1, min(len(targets), 2000)).astype(int)
    with mpl.rc_context(SETTINGS):
        figure = _figure(4.5, 4.5)
        axes = figure.add_subplot(xlabel="is", ylabel="predicted")
        ends: Any = [float(targets.min()), float(targets.max())]
        axes.plot(ends, ends, "--", color=INK, linewidth=1)
        axes.plot(targets[picked], predicted[picked], ".", markersize=4)
        return _svg(figure, "predicted against true")

"""Curves of several algorithms over the samples that they evaluated: panels, ends, differences."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter

from aevb.plots.style import INK, SMALL, TRAINING, VALIDATION, calm_axes, own_legend, panels
from aevb.reproduce.performing import number

Curve = Sequence[Mapping[str, Any]]
"""Points with the `samples` evaluated and what was measured."""
COLORS = {"aevb": TRAINING, "wake-sleep": VALIDATION, "monte-carlo-em": "#5c8a4a"}
STYLES = ("--", "-", ":", "-.")
ACROSS = 5


@dataclass(frozen=True)
class Panel:
    """A title and the curve of each algorithm."""

    title: str
    curves: Mapping[str, Curve]


def panels_of_curves(these: Sequence[Panel], measures: Sequence[str], label: str) -> Axes:
    """A panel for each, a color for each algorithm, a kind of line for each measure.

    The lower limit leaves out what lies far below where the curves end.
    """
    across = min(ACROSS, len(these))
    down = -(-len(these) // across)
    ax, inside = panels(None, down, across, (2.6, 2.2), (0.55, 0.75))
    for cell in inside[len(these) :]:
        cell.set_visible(False)
    for k, (panel, cell) in enumerate(zip(these, inside, strict=False)):
        for algorithm, curve in panel.curves.items():
            for measure, style in zip(measures, STYLES, strict=False):
                samples, values = series(curve, measure)
                if len(samples):
                    cell.plot(
                        samples,
                        values,
                        style,
                        color=COLORS[algorithm],
                        linewidth=1.3,
                        marker="." if len(samples) < 3 else None,
                        label=f"{algorithm}, {measure}",
                    )
        cell.set_xscale("log")
        cell.xaxis.set_minor_formatter(NullFormatter())
        calm_axes(cell, "training samples evaluated", label if k % across == 0 else "")
        cell.set_title(panel.title, fontsize=SMALL, color=INK, loc="left")
        cell.set_ylim(*_limits(panel, measures))
    own_legend(inside[0], loc="lower left", bbox_to_anchor=(0.0, 1.12), ncols=len(these[0].curves))
    return ax


def series(curve: Curve, measure: str) -> tuple[list[float], list[float]]:
    """The samples and values of the points that have the measure."""
    points = [(p["samples"], p[measure]) for p in curve if p.get(measure) is not None]
    return [float(s) for s, _ in points], [float(v) for _, v in points]


def _limits(panel: Panel, measures: Sequence[str]) -> tuple[float, float]:
    """From the lower quartile of all points less half of what lies above it, to the highest."""
    values = [v for curve in panel.curves.values() for m in measures for v in series(curve, m)[1]]
    low, high = float(np.quantile(values, 0.25)), max(values)
    low = max(min(values), low - (high - low) / 2)
    air = (high - low) / 15 or 1.0
    return low - air, high + air


def worst_difference(one: Curve, other: Curve, measure: str) -> tuple[float, int]:
    """The least of `one` less `other` over the moments that both have, and at which samples.

    Example:
        >>> a = [{"samples": 1, "test": 3.0}, {"samples": 2, "test": 5.0}]
        >>> b = [{"samples": 1, "test": 1.0}, {"samples": 2, "test": 4.0}]
        >>> worst_difference(a, b, "test")
        (1.0, 2)
    """
    beside = {point["samples"]: point[measure] for point in other}
    differences = [
        (float(point[measure] - beside[point["samples"]]), int(point["samples"]))
        for point in one
        if point["samples"] in beside
    ]
    return min(differences)


def curve_cells(result: Mapping[str, Any], measures: Sequence[str]) -> tuple[str, ...]:
    """The step size, and the samples and measures of the last moment, as a table has them."""
    last = result["curve"][-1]
    values = (number(last.get(measure)) for measure in measures)
    return number(result["step_size"]), f"{last['samples']:,}", *values

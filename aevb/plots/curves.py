"""Learning curves."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from aevb.errors import UsageError
from aevb.plots.style import (
    LABEL,
    TRAINING,
    VALIDATION,
    Floats,
    calm_axes,
    in_figures,
    own_axes,
    points_high,
    quiet_title,
    spread,
)


def learning_curve(history: Sequence[Mapping[str, Any]], ax: Axes | None = None) -> Axes:
    """The training and the validation bound against the epochs, the best validation epoch marked.

    Shapes: one row of `history` for an epoch, with "epoch", "train" and, where it was measured,
    "validation"; the last two map "elbo" to a number, or to None where there is none, or are None.
    Units: nats per datum, larger is better; the lower limit leaves out the worst first epochs.
    Errors: UsageError for a history without a finite bound or a row without its entries.
    Source: the curves of Kingma and Welling (2013), figure 2.
    Example:
        >>> rows = [{"epoch": e, "train": {"elbo": -100 / e}, "validation": None} for e in (1, 2)]
        >>> learning_curve(rows).get_title()
        'Evidence lower bound'
    """
    train, validation = _series(history, "train"), _series(history, "validation")
    curves = [("training", TRAINING, train), ("validation", VALIDATION, validation)]
    curves = [curve for curve in curves if np.isfinite(curve[2]).any()]
    if not curves:
        raise UsageError(f"expected a finite bound in the history, found {len(history)} rows")
    ax = own_axes(ax, 5.2, 3.0)
    for _, color, (epochs, bounds) in curves:
        ax.plot(epochs, bounds, color=color, linewidth=1.6, **_marks(bounds))
    calm_axes(ax, "epoch", "nats per datum")
    quiet_title(ax, "Evidence lower bound")
    ax.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
    ax.margins(x=0.02)
    ax.set_ylim(*_bound_limits([bounds for _, _, (_, bounds) in curves]))
    _name_ends(ax, curves)
    return ax


def _series(history: Sequence[Mapping[str, Any]], split: str) -> Floats:
    """Epochs and bounds of one split, shape (2, epochs); a bound that is not finite is NaN."""
    points: list[tuple[float, float]] = []
    for number, row in enumerate(history, start=1):
        try:
            if row.get(split) is not None:
                bound = row[split]["elbo"]
                points.append((float(row["epoch"]), math.nan if bound is None else float(bound)))
        except (KeyError, TypeError, ValueError, AttributeError):
            raise UsageError(
                f'expected "epoch" and "elbo" of "{split}" as numbers in row {number} of the'
                f" history, found {row!r}"
            ) from None
    series = np.array(points, dtype=np.float64).reshape(-1, 2).T
    series[1, ~np.isfinite(series[1])] = np.nan
    return series if np.isfinite(series[1]).any() else np.empty((2, 0))


def _marks(bounds: Floats) -> dict[str, Any]:
    """A marker for a curve that is too short to be seen as a line."""
    return {"marker": "o", "markersize": 4.0} if bounds.size < 3 else {}


def _bound_limits(curves: Sequence[Floats]) -> tuple[float, float]:
    """Limits that show all of the curves but the first steep climb, and every curve's end.

    Formula: from q - (max - q) / 5, with q the lowest tenth of the values, or from the minimum
    where that is higher, with a twelfth of air on both sides.
    """
    values = np.concatenate(curves)
    values = values[np.isfinite(values)]
    low, high = float(np.quantile(values, 0.1)), float(values.max())
    low = max(low - (high - low) / 5, float(values.min()))
    low = min([low] + [float(curve[np.isfinite(curve)][-1]) for curve in curves])
    air = (high - low) / 12 or max(abs(high) / 20, 0.5)
    return low - air, high + air


def _name_ends(ax: Axes, curves: Sequence[tuple[str, str, Floats]]) -> None:
    """Write name and value beside the end of each curve; mark the best validation epoch."""
    ends = [(points[:, np.isfinite(points[1])][:, -1], points) for _, _, points in curves]
    heights = spread([float(end[1]) for end, _ in ends], points_high(ax, 24.0))
    right = max(float(end[0]) for end, _ in ends)
    for (name, color, points), (end, _), height in zip(curves, ends, heights, strict=True):
        text = f"{name} {in_figures(float(end[1]))}"
        if name == "validation":
            epoch, best = points[:, int(np.nanargmax(points[1]))]
            ax.plot(epoch, best, "o", color=color, markerfacecolor="white", markersize=6.5)
            text += f"\nbest {in_figures(best)} at epoch {epoch:.10g}"
        ax.annotate(
            text,
            xy=(right, height),
            xytext=(8, 0),
            textcoords="offset points",
            verticalalignment="center",
            fontsize=LABEL,
            color=color,
            annotation_clip=False,
        )

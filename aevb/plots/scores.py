"""Numbers of a model, one for each dimension or datum: divergences, terms and scores in nats."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from aevb.errors import UsageError
from aevb.plots.style import (
    FAINT,
    INK,
    LABEL,
    SMALL,
    TRAINING,
    VALIDATION,
    Floats,
    as_floats,
    calm_axes,
    in_figures,
    in_short,
    own_axes,
    plain,
    points_high,
    quiet_title,
    spread,
)

GROUPS = (TRAINING, VALIDATION, "#5f8f5a", "#8a6ca8", "#a9793f", "#777777")
MOST_NAMED = 40


def kl_by_dimension(
    kl: ArrayLike, ax: Axes | None = None, *, threshold: float | None = None
) -> Axes:
    """The divergence of the posterior from the prior in each latent dimension, largest first.

    Formula: mean over data of KL(q(z_d given x) || p(z_d)).
    Shapes: `kl` (D,). The dimensions above the `threshold` have the one color and are counted, the
    others are pale; more than 40 dimensions are ranked without their names.
    Units: nats per datum.
    Errors: UsageError for another shape, empty input and NaN.
    Source: Burda et al. (2015), section 5.2, for units that do nothing.
    Example:
        >>> ax = kl_by_dimension([0.0, 2.0, 1.0], threshold=0.1)
        >>> [label.get_text() for label in ax.get_xticklabels()]
        ['$z_{2}$', '$z_{3}$', '$z_{1}$']
    """
    values = as_floats(kl, "divergences", "N")
    order = np.argsort(-values, kind="stable")
    count = len(values)
    active = values[order] > (-math.inf if threshold is None else threshold)
    ax = own_axes(ax, min(8.0, max(3.6, 0.28 * count)), 2.6)
    colors = np.where(active, TRAINING, FAINT)
    ranks = np.arange(1, count + 1)
    ax.bar(ranks, values[order], width=0.75, color=list(colors))
    calm_axes(ax, "latent dimension", "nats per datum")
    if count <= MOST_NAMED:
        ax.set_xticks(ranks, [f"$z_{{{k + 1}}}$" for k in order])
    else:
        ax.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
        ax.set_xlabel("latent dimensions by rank", fontsize=LABEL, color=INK)
    ax.tick_params(axis="x", length=0)
    ax.set_xlim(0.4, count + 0.6)
    text = f"KL(q || p) by dimension, {in_figures(values.sum())} nats in all"
    if threshold is not None:
        ax.axhline(threshold, color=INK, linewidth=0.7, linestyle=(0, (4, 3)))
        note = f"{int(active.sum())} of {count} above {threshold:g}"
        ax.text(
            0.99,
            0.94,
            note,
            transform=ax.transAxes,
            horizontalalignment="right",
            fontsize=LABEL,
            color=INK,
        )
    quiet_title(ax, text)
    return ax


def reconstruction_by_row(values: ArrayLike, ax: Axes | None = None, *, worst: int = 5) -> Axes:
    """The reconstruction term of each row, worst first.

    Formula: E_q[log p(x_n given z)], larger is better; the `worst` rows are named, counted from 1.
    Shapes: `values` (N,).
    Units: nats per datum.
    Errors: UsageError for another shape, empty input, NaN and a negative `worst`.
    Example:
        >>> ax = reconstruction_by_row([-3.0, -9.0, -2.0], worst=1)
        >>> [text.get_text() for text in ax.texts]
        ['row 2: \N{MINUS SIGN}9.00']
    """
    terms = as_floats(values, "reconstruction terms", "N")
    if worst < 0:
        raise UsageError(f"expected a number of worst rows from 0, found {worst}")
    order = np.argsort(terms, kind="stable")
    ax = own_axes(ax, 5.2, 3.0)
    ranks = np.arange(1, len(terms) + 1)
    size = float(np.clip(60 / math.sqrt(len(terms)), 1.2, 4.0))
    ax.plot(ranks, terms[order], "o", color=TRAINING, markersize=size, markeredgewidth=0, alpha=0.7)
    ax.axhline(float(terms.mean()), color=FAINT, linewidth=0.8, zorder=0)
    ax.margins(x=0.03, y=0.08)
    calm_axes(ax, "rows, worst first", "nats per datum")
    ax.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
    quiet_title(ax, f"Reconstruction by row, mean {in_figures(terms.mean())}")
    _name_rows(ax, terms, order[:worst])
    return ax


def score_histogram(
    groups: Mapping[str, ArrayLike], ax: Axes | None = None, *, threshold: float | None = None
) -> Axes:
    """The scores of several groups of data on shared bins, say of training data and outliers.

    Formula: log p(x), or a bound on it; each group's bars are shares of that group, so that groups
    of different sizes can be compared. The limits hold every group's values from q1 - 3 (q3 - q1)
    to q3 + 3 (q3 - q1), its quartiles; the values outside are counted in the picture.
    Shapes: (N,) for each group, N may differ; minus infinity counts as outside.
    Units: nats per datum. With a `threshold`, the share of each group below it is named.
    Errors: UsageError for no group, other shapes, empty input, NaN and plus infinity.
    Source: Tukey (1977), Exploratory data analysis, for the outer fences.
    Example:
        >>> ax = score_histogram({"train": [1.0, 2.0], "outliers": [-9.0]}, threshold=0.0)
        >>> [text.get_text() for text in ax.get_legend().get_texts()]
        ['train (2), 0% below', 'outliers (1), 100% below']
    """
    scores = {
        name: as_floats(values, str(name), "N", np.isneginf) for name, values in groups.items()
    }
    if not scores:
        raise UsageError("expected at least one group of scores, found none")
    low, high = _fences(list(scores.values()), threshold)
    total = max(len(values) for values in scores.values())
    bins = np.linspace(low, high, int(np.clip(2 * total ** (1 / 3), 10, 50)) + 1)
    ax = own_axes(ax, 5.2, 3.0)
    for k, (name, values) in enumerate(scores.items()):
        _group(ax, name, values, bins, GROUPS[k % len(GROUPS)], threshold)
    calm_axes(ax, "nats per datum", "share of the group")
    ax.set_xlim(low, high)
    ax.set_ylim(0, ax.get_ylim()[1] * (1 + 0.08 * len(scores)))
    if threshold is not None:
        ax.axvline(threshold, color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
    _say_outside(ax, np.concatenate(list(scores.values())), low, high)
    ax.legend(frameon=False, fontsize=SMALL, labelcolor=INK, loc="upper left")
    quiet_title(ax, "Scores")
    return ax


def _name_rows(ax: Axes, terms: Floats, worst: NDArray[np.int64]) -> None:
    """Name rows beside their points: at the right in the left half of the axes, else at the left.

    The names are moved apart until none covers another.
    """
    places = np.arange(1, len(worst) + 1)
    right = places <= (len(terms) + 1) / 2
    gap = points_high(ax, SMALL + 3)
    moved = np.array(spread(terms[worst], gap))
    heights = moved + max(0.0, ax.get_ylim()[0] + gap / 2 - moved.min(initial=np.inf))
    for row, place, side, height in zip(worst, places, right, heights, strict=True):
        ax.annotate(
            f"row {row + 1}: {in_figures(terms[row])}",
            xy=(float(place), float(terms[row])),
            xytext=(22 if side else -22, (height - terms[row]) / points_high(ax, 1.0)),
            textcoords="offset points",
            horizontalalignment="left" if side else "right",
            verticalalignment="center",
            fontsize=SMALL,
            color=INK,
            arrowprops={"arrowstyle": "-", "color": FAINT, "linewidth": 0.7},
            bbox={"facecolor": "white", "alpha": 0.85, "edgecolor": "none", "pad": 0.6},
        )


def _fences(groups: list[Floats], threshold: float | None) -> tuple[float, float]:
    """Limits that hold all values but the far ones of each group, and the threshold."""
    ends = [] if threshold is None else [threshold]
    for values in groups:
        finite = values[np.isfinite(values)]
        if len(finite):
            q1, q3 = np.quantile(finite, [0.25, 0.75])
            inside = finite[np.abs(finite - (q1 + q3) / 2) <= 3.5 * (q3 - q1)]
            ends += [float(inside.min()), float(inside.max())] if len(inside) else [q1, q3]
    low, high = (float(min(ends)), float(max(ends))) if ends else (-1.0, 0.0)
    air = 0.03 * (high - low) or max(0.5, abs(high) / 20)
    return low - air, high + air


def _group(
    ax: Axes, name: str, values: Floats, bins: Floats, color: str, threshold: float | None
) -> None:
    """One group's histogram, with its size and its share below the threshold in its name."""
    label = f"{plain(str(name))} ({len(values)})"
    if threshold is not None:
        label += f", {in_short(100 * float((values < threshold).mean()))}% below"
    inside = values[(values >= bins[0]) & (values <= bins[-1])]
    weights, edges = np.full(len(inside), 1 / len(values)), bins.tolist()
    ax.hist(inside, bins=edges, weights=weights, color=color, alpha=0.25)
    outline: dict[str, Any] = {"histtype": "step", "linewidth": 1.3, "label": label}
    ax.hist(inside, bins=edges, weights=weights, color=color, **outline)


def _say_outside(ax: Axes, values: Floats, low: float, high: float) -> None:
    """Count the values that the limits leave out."""
    below, above = int((values < low).sum()), int((values > high).sum())
    parts = [
        f"{count} value{'s' if count > 1 else ''} {side} {in_figures(limit, 1)}"
        for count, side, limit in ((below, "below", low), (above, "above", high))
        if count
    ]
    if parts:
        ax.text(
            1.0,
            1.02,
            f"not shown: {', '.join(parts)}",
            transform=ax.transAxes,
            horizontalalignment="right",
            fontsize=SMALL,
            color=INK,
        )

"""Latent codes."""

import math
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike, NDArray

from aevb.errors import UsageError
from aevb.plots.style import (
    MOST_CLASSES,
    TRAINING,
    Floats,
    as_floats,
    calm_axes,
    own_axes,
    own_legend,
    plain,
    quiet_title,
)


def latent_scatter(
    codes: ArrayLike,
    labels: ArrayLike | None = None,
    ax: Axes | None = None,
    *,
    bins: Floats | None = None,
) -> Axes:
    """Latent codes as points, colored by class: two dimensions, or a histogram of the only one.

    Shapes: `codes` (N, D), `labels` (N,) of any kind that can be sorted. Of D > 2 dimensions the
    two with the largest variance are drawn, as their axes say; D = 1 gives a histogram, on
    `bins` if given. More than 20 classes share one color.
    Errors: UsageError for other shapes, empty input, NaN and labels that do not fit the codes.
    Example:
        >>> latent_scatter(np.eye(3)).get_ylabel()
        '$z_{2}$ (second largest variance of 3)'
    """
    points = as_floats(codes, "codes", "NX")
    classes, member = _classes(labels, len(points))
    colors = _palette(len(classes))
    if points.shape[1] == 1:
        ax = _histogram(points[:, 0], member, colors, ax, bins)
    else:
        ax = _scatter(points, colors[member], ax)
    quiet_title(ax, "Latent codes")
    if len(classes) > 1:
        _class_legend(ax, classes, colors)
    return ax


def widest_dimensions(points: Floats) -> tuple[NDArray[np.int64], list[str]]:
    """The one or two dimensions of (N, D) with the largest variance, and what their axes say."""
    size = points.shape[1]
    chosen, notes = np.arange(min(size, 2)), ["", ""]
    if size > 2:
        chosen = np.argsort(-points.var(axis=0), kind="stable")[:2]
        notes = [f" (largest variance of {size})", f" (second largest variance of {size})"]
    return chosen, [f"$z_{{{k + 1}}}${note}" for k, note in zip(chosen, notes, strict=False)]


def _classes(labels: ArrayLike | None, count: int) -> tuple[list[str], NDArray[np.int64]]:
    """The names of the classes and the class of each datum; one class for no or many labels."""
    together = [""], np.zeros(count, dtype=np.int64)
    if labels is None:
        return together
    array = np.asarray(labels)
    if array.shape != (count,):
        raise UsageError(f"expected labels of shape ({count},) for the codes, found {array.shape}")
    try:
        names, member = np.unique(array, return_inverse=True)
    except TypeError:
        raise UsageError("expected labels of one kind that can be sorted, found a mix") from None
    if len(names) > MOST_CLASSES:
        return together
    return [plain(str(name)) for name in names], member.astype(np.int64)


def _palette(count: int) -> Floats:
    """So many distinct colors, (count, 4); the color of the training curve for a single one."""
    if count == 1:
        return np.array([matplotlib.colors.to_rgba(TRAINING)])
    colormap = matplotlib.colormaps["tab10" if count <= 10 else "tab20"]
    return np.asarray(colormap(np.arange(count)), dtype=np.float64)


def _scatter(points: Floats, colors: Floats, ax: Axes | None) -> Axes:
    """Two dimensions of (N, D) as points, in the order of the data so that no class hides all."""
    chosen, (across, up) = widest_dimensions(points)
    ax = own_axes(ax, 4.6, 4.2)
    area = max(2.0, min(22.0, 2e4 / len(points)))
    first, second = points[:, chosen].T
    ax.scatter(first, second, c=colors, s=area, alpha=0.75, linewidths=0)
    ax.set_aspect("equal", adjustable="datalim")
    calm_axes(ax, across, up)
    return ax


def _histogram(
    codes: Floats,
    member: NDArray[np.int64],
    colors: Floats,
    ax: Axes | None,
    bins: Floats | None,
) -> Axes:
    """One dimension of codes (N,) as a histogram, its bars stacked by class."""
    ax = own_axes(ax, 5.2, 3.0)
    groups = [codes[member == k] for k in range(len(colors))]
    some = int(max(10, min(60, math.sqrt(len(codes)))))
    ax.hist(
        groups,
        bins=some if bins is None else list(bins),
        stacked=True,
        color=[tuple(color) for color in colors],
    )
    calm_axes(ax, "$z_1$", "codes")
    return ax


def _class_legend(ax: Axes, classes: Sequence[str], colors: Floats) -> None:
    """A compact key of the classes to the right of the axes."""
    looks: dict[str, Any] = {"linestyle": "", "marker": "o", "markersize": 5.0}
    handles = [Line2D([], [], color=tuple(color), **looks) for color in colors]
    place = {"loc": "upper left", "ncols": 1, "handletextpad": 0.1, "borderaxespad": 0.0}
    own_legend(ax, handles=handles, labels=classes, **place)

"""The latent space: manifolds and codes."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri

from aevb.errors import UsageError
from aevb.plots.pictures import (
    cell_axes,
    cell_lines,
    gap_between,
    image_grid,
    tile_starts,
)
from aevb.plots.style import (
    INK,
    LABEL,
    MOST_CLASSES,
    SMALL,
    TRAINING,
    Floats,
    as_floats,
    as_rows,
    at_least_one,
    calm_axes,
    in_figures,
    own_axes,
    quiet_title,
)


def manifold_grid(side: int) -> Floats:
    """Latent points whose Gaussian probabilities form an equally spaced grid in the unit square.

    Formula: z = Phi^-1((i + 1/2) / side) for each of the two dimensions, i = 0, ..., side - 1.
    Shapes: (side * side, 2), in reading order: z_1 grows along a row of the picture, and the first
    row has the largest z_2.
    Errors: UsageError for a side below 1.
    Source: Kingma and Welling (2013), figure 4.
    Example:
        >>> manifold_grid(1)
        array([[0., 0.]])
    """
    line = _quantiles(side)
    across, up = np.meshgrid(line, line[::-1])
    return np.stack([across.ravel(), up.ravel()], axis=1)


def manifold(
    decode: Callable[[Floats], ArrayLike],
    shape: Sequence[int],
    ax: Axes | None = None,
    *,
    side: int = 20,
) -> Axes:
    """What a two-dimensional latent space decodes to: z_1 grows to the right, z_2 upward.

    Formula: decode(z) on z = Phi^-1 of an equally spaced grid, see `manifold_grid`.
    Shapes: `decode` takes (n, 2) and returns (n, prod(shape)); `shape` is (H, W) or (C, H, W), or
    (X,) for data that are no pictures, which are drawn as small profiles.
    Units: pictures in [0, 1], clipped for showing.
    Errors: UsageError for another shape, a decoder that returns another, NaN and a side below 1.
    Source: Kingma and Welling (2013), figure 4.
    Example:
        >>> ax = manifold(lambda z: np.zeros((len(z), 64)), (8, 8), side=3)
        >>> ax.images[0].get_array().shape
        (26, 26)
    """
    shape = tuple(int(size) for size in shape)
    if not 1 <= len(shape) <= 3 or min(shape) < 1:
        raise UsageError(f"expected the shape (X,), (H, W) or (C, H, W), found {shape}")
    decoded = _decoded(decode, manifold_grid(side), math.prod(shape))
    if len(shape) == 1:
        ax = cell_axes(ax, side, side)
        cells = cell_lines(decoded, side, float(decoded.min()), float(decoded.max()))
        ax.add_collection(LineCollection(list(cells), colors=TRAINING, linewidths=0.8))
        middles = np.arange(side) + 0.5
        _latent_ticks(ax, middles, middles - side)
    else:
        ax = image_grid(decoded.reshape(-1, *shape), ax, columns=side)
        height, width = shape[-2:]
        gap = gap_between(height, width)
        down = tile_starts(side, height, gap)[::-1] + (height - 1) / 2
        _latent_ticks(ax, tile_starts(side, width, gap) + (width - 1) / 2, down)
    quiet_title(ax, "Learned manifold")
    return ax


def latent_scatter(
    codes: ArrayLike, labels: ArrayLike | None = None, ax: Axes | None = None
) -> Axes:
    """Latent codes as points, colored by class: two dimensions, or a histogram of the only one.

    Shapes: `codes` (N, D), `labels` (N,) of any kind that can be sorted. Of D > 2 dimensions the
    two with the largest variance are drawn, as their axes say; D = 1 gives a histogram. More than
    20 classes share one color.
    Errors: UsageError for other shapes, empty input, NaN and labels that do not fit the codes.
    Example:
        >>> latent_scatter(np.eye(3)).get_ylabel()
        '$z_{2}$ (second largest variance of 3)'
    """
    points = as_rows(codes, "codes")
    classes, member = _classes(labels, len(points))
    colors = _palette(len(classes))
    if points.shape[1] == 1:
        ax = _histogram(points[:, 0], member, colors, ax)
    else:
        ax = _scatter(points, colors[member], ax)
    quiet_title(ax, "Latent codes")
    if len(classes) > 1:
        _class_legend(ax, classes, colors)
    return ax


def _quantiles(side: int) -> Floats:
    """The standard Gaussian quantiles at the middles of `side` equal probabilities, ascending."""
    line: Floats = ndtri((np.arange(at_least_one(side, "side")) + 0.5) / side)
    return line


def _decoded(decode: Callable[[Floats], ArrayLike], grid: Floats, size: int) -> Floats:
    """What `decode` makes of the grid (n, 2), held to the shape (n, size)."""
    found = as_floats(decode(grid), "decoded data")
    if found.shape != (len(grid), size):
        raise UsageError(
            f"expected decode to return the shape {(len(grid), size)} for {len(grid)} latent"
            f" points, found {found.shape}"
        )
    return found


def _latent_ticks(ax: Axes, across: NDArray[Any], up: NDArray[Any]) -> None:
    """Name a few of the latent values at the middles of the tiles, given for z ascending."""
    line = _quantiles(len(across))
    count = 5 if len(line) % 2 else 4
    some = np.unique(np.linspace(0, len(line) - 1, count).round().astype(int))
    names = [in_figures(value) for value in line[some]]
    ax.set_xticks(across[some], names)
    ax.set_yticks(up[some], names)
    ax.set_xlabel("$z_1$", fontsize=LABEL, color=INK)
    ax.set_ylabel("$z_2$", fontsize=LABEL, color=INK)


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
    return [str(name) for name in names], member.astype(np.int64)


def _palette(count: int) -> Floats:
    """So many distinct colors, (count, 4); the color of the training curve for a single one."""
    if count == 1:
        return np.array([matplotlib.colors.to_rgba(TRAINING)])
    colormap = matplotlib.colormaps["tab10" if count <= 10 else "tab20"]
    return np.asarray(colormap(np.arange(count)), dtype=np.float64)


def _scatter(points: Floats, colors: Floats, ax: Axes | None) -> Axes:
    """Two dimensions of (N, D) as points, in the order of the data so that no class hides all."""
    count, size = points.shape
    chosen, names = np.arange(2), ["", ""]
    if size > 2:
        chosen = np.argsort(-points.var(axis=0), kind="stable")[:2]
        names = [f" (largest variance of {size})", f" (second largest variance of {size})"]
    across, up = (f"$z_{{{k + 1}}}${name}" for k, name in zip(chosen, names, strict=True))
    ax = own_axes(ax, 4.6, 4.2)
    area = max(2.0, min(22.0, 2e4 / count))
    first, second = points[:, chosen].T
    ax.scatter(first, second, c=colors, s=area, alpha=0.75, linewidths=0)
    ax.set_aspect("equal", adjustable="datalim")
    calm_axes(ax, across, up)
    return ax


def _histogram(codes: Floats, member: NDArray[np.int64], colors: Floats, ax: Axes | None) -> Axes:
    """One dimension of codes (N,) as a histogram, its bars stacked by class."""
    ax = own_axes(ax, 5.2, 3.0)
    groups = [codes[member == k] for k in range(len(colors))]
    bins = int(max(10, min(60, math.sqrt(len(codes)))))
    ax.hist(groups, bins=bins, stacked=True, color=[tuple(color) for color in colors])
    calm_axes(ax, "$z_1$", "codes")
    return ax


def _class_legend(ax: Axes, classes: Sequence[str], colors: Floats) -> None:
    """A compact key of the classes to the right of the axes."""
    looks: dict[str, Any] = {"linestyle": "", "marker": "o", "markersize": 5.0}
    ax.legend(
        [Line2D([], [], color=tuple(color), **looks) for color in colors],
        classes,
        loc="upper left",
        bbox_to_anchor=(1.0, 1.0),
        frameon=False,
        fontsize=SMALL,
        labelcolor=INK,
        handletextpad=0.1,
        borderaxespad=0.0,
    )

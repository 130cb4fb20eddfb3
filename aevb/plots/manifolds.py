"""What a plane of the latent space decodes to."""

import math
from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike
from scipy.special import ndtri

from aevb.errors import UsageError
from aevb.plots.pictures import cell_grid
from aevb.plots.style import (
    INK,
    LABEL,
    Floats,
    as_event,
    as_floats,
    at_least_one,
    in_figures,
    quiet_title,
)
from aevb.plots.tables import MOST_MAPS, column_maps


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
    names: Sequence[str] | None = None,
) -> Axes:
    """What a two-dimensional latent space decodes to: z_1 grows to the right, z_2 upward.

    Formula: decode(z) on z = Phi^-1 of an equally spaced grid, see `manifold_grid`.
    Shapes: `decode` takes (n, 2) and returns (n, prod(shape)); `shape` is (H, W) or (C, H, W), or
    (X,) for data that are no pictures: signals are drawn as small profiles, and the columns of a
    table, which are given `names`, as a map of the plane for each of the first nine.
    Units: pictures in [0, 1], clipped for showing; a column in its own, each on its own scale.
    Errors: UsageError for another shape, a decoder that returns another, NaN and a side below 1.
    Source: Kingma and Welling (2013), figure 4.
    Example:
        >>> ax = manifold(lambda z: np.zeros((len(z), 64)), (8, 8), side=3)
        >>> ax.images[0].get_array().shape
        (26, 26)
    """
    decoded = _decoded(decode, manifold_grid(side), shape)
    ax = _plane(decoded, _quantiles(side), shape, ax, names, (0, 1))
    _title(ax, "Learned manifold", shape, names)
    return ax


def prior_predictive(
    decode: Callable[[Floats], ArrayLike],
    shape: Sequence[int],
    ax: Axes | None = None,
    *,
    side: int = 13,
    limit: float = 3.0,
    latent_dim: int = 2,
    dims: tuple[int, int] = (0, 1),
    names: Sequence[str] | None = None,
) -> Axes:
    """What a plane through the middle of the prior decodes to, on a grid with equal steps of z.

    Formula: decode(z) with z_i, z_j in [-limit, limit] in `side` equal steps, (i, j) = `dims`
    counted from 0, and every other dimension 0. Unlike `manifold`, it shows the tails of the prior.
    Shapes: `decode` takes (n, latent_dim) and returns (n, prod(shape)); `shape` and `names` as in
    `manifold`.
    Units: `limit` in standard deviations of the prior N(0, I); the rest as in `manifold`.
    Errors: UsageError for what `manifold` refuses, fewer than two latent dimensions, dimensions
    that do not exist or are the same, and a limit that is not positive.
    Source: the planes of Kingma and Welling (2013), figure 4, without the transform by Phi^-1.
    Example:
        >>> ax = prior_predictive(lambda z: z[:, :1] + np.zeros(64), (8, 8), side=3, latent_dim=5)
        >>> ax.get_title()
        'Prior predictive, the other 3 dimensions at 0'
    """
    if latent_dim < 2 or len({*dims} & set(range(latent_dim))) != 2 or len(dims) != 2:
        raise UsageError(
            f"expected two different dimensions from 0 to {latent_dim - 1} of at least 2, found"
            f" {tuple(dims)} of {latent_dim}: one dimension is shown by traversals"
        )
    if not (math.isfinite(limit) and limit > 0):
        raise UsageError(f"expected a limit above 0, found {limit}")
    line = np.linspace(-limit, limit, side) if at_least_one(side, "side") > 1 else np.zeros(1)
    grid = np.zeros((side * side, latent_dim))
    across, up = np.meshgrid(line, line[::-1])
    grid[:, dims[0]], grid[:, dims[1]] = across.ravel(), up.ravel()
    ax = _plane(_decoded(decode, grid, shape), line, shape, ax, names, dims)
    rest = latent_dim - 2
    others = f", the other {rest} dimensions at 0" if rest > 1 else ", the third dimension at 0"
    _title(ax, "Prior predictive" + (others if rest else ""), shape, names)
    return ax


def _quantiles(side: int) -> Floats:
    """The standard Gaussian quantiles at the middles of `side` equal probabilities, ascending."""
    line: Floats = ndtri((np.arange(at_least_one(side, "side")) + 0.5) / side)
    return line


def _decoded(decode: Callable[[Floats], ArrayLike], grid: Floats, shape: Sequence[int]) -> Floats:
    """What `decode` makes of the grid (n, D), held to the shape (n, size) and given its own."""
    shape = as_event(shape)
    size = math.prod(shape)
    found = as_floats(decode(grid), "decoded data")
    if found.shape != (len(grid), size):
        raise UsageError(
            f"expected decode to return the shape {(len(grid), size)} for {len(grid)} latent"
            f" points, found {found.shape}"
        )
    return found.reshape(-1, *shape)


def _plane(
    decoded: Floats,
    line: Floats,
    shape: Sequence[int],
    ax: Axes | None,
    names: Sequence[str] | None,
    dims: tuple[int, int],
) -> Axes:
    """Data (side^2, *shape), the first row with the largest value of `line`, with their ticks."""
    side, shape = len(line), as_event(shape)
    if names is not None and len(shape) == 1:
        ax, inside = column_maps(decoded.reshape(side, side, -1), names, ax)
        for k, panel in enumerate(inside):
            _latent_ticks(panel, line, np.arange(side), np.arange(side)[::-1], dims, most=3)
            if k % 3:
                panel.tick_params(labelleft=False)
                panel.set_ylabel("")
            if k + 3 < len(inside):
                panel.tick_params(labelbottom=False)
                panel.set_xlabel("")
        return ax
    ax, across, down = cell_grid(decoded, shape, side, ax)
    _latent_ticks(ax, line, across, down[::-1], dims)
    return ax


def _title(ax: Axes, text: str, shape: Sequence[int], names: Sequence[str] | None) -> None:
    """The title; that of a table leaves room for the columns' names and says how many there are."""
    if names is None or len(shape) > 1:
        quiet_title(ax, text)
    else:
        most = f", the first {MOST_MAPS} of {len(names)} columns" if len(names) > MOST_MAPS else ""
        quiet_title(ax, text + most, pad=22.0)


def _latent_ticks(
    ax: Axes, line: Floats, across: ArrayLike, up: ArrayLike, dims: tuple[int, int], most: int = 5
) -> None:
    """Name a few of the latent values at the middles of the tiles, given for z ascending."""
    count = most if len(line) % 2 else most - 1
    some = np.unique(np.linspace(0, len(line) - 1, count).round().astype(int))
    names = [in_figures(value) for value in line[some]]
    ax.set_xticks(np.asarray(across)[some], names)
    ax.set_yticks(np.asarray(up)[some], names)
    ax.set_xlabel(f"$z_{{{dims[0] + 1}}}$", fontsize=LABEL, color=INK)
    ax.set_ylabel(f"$z_{{{dims[1] + 1}}}$", fontsize=LABEL, color=INK)

"""Picture grids, and profiles for data that are no pictures."""

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from aevb.errors import UsageError
from aevb.plots.style import (
    DPI,
    FAINT,
    INK,
    LABEL,
    TALLEST,
    TRAINING,
    Floats,
    as_floats,
    as_rows,
    at_least_one,
    bare_axes,
    calm_axes,
    own_axes,
    quiet_title,
)


def image_grid(
    images: ArrayLike, ax: Axes | None = None, *, columns: int | None = None, gap: int | None = None
) -> Axes:
    """One tiled picture: image k in row k // columns from the top and column k % columns.

    Shapes: (N, H, W) or (N, C, H, W); one channel is shown in grey, three as red, green and blue,
    any other number by its mean. `columns` is about sqrt(N) and `gap` a thin line when left out.
    Units: values in [0, 1], clipped for showing; `gap` in pixels of the pictures.
    Errors: UsageError for other shapes, empty input, NaN, bytes and a `columns` below 1.
    Source: the sample grids of Kingma and Welling (2013), figure 5.
    Example:
        >>> ax = image_grid(np.zeros((6, 1, 8, 8)), columns=3, gap=1)
        >>> ax.images[0].get_array().shape
        (17, 26)
    """
    pictures = _pictures(images, "pictures")
    count, height, width, _ = pictures.shape
    columns = _square(count) if columns is None else min(at_least_one(columns, "columns"), count)
    gap = gap_between(height, width) if gap is None else gap
    if gap < 0:
        raise UsageError(f"expected a gap of 0 pixels or more, found {gap}")
    lefts = tile_starts(columns, width, gap)
    tops = tile_starts(-(-count // columns), height, gap)
    return _show(_mosaic(pictures, tops, lefts), ax, columns)


def reconstructions(
    data: ArrayLike, reconstructed: ArrayLike, ax: Axes | None = None, *, columns: int = 10
) -> Axes:
    """Data above their reconstructions, in as many pairs of rows as are needed.

    Shapes: both (N, H, W), (N, C, H, W) or, for data that are no pictures, (N, X): then each datum
    has a cell with its profile in grey and that of its reconstruction over it.
    Units: pictures in [0, 1], clipped for showing; profiles share one scale.
    Errors: UsageError for shapes that differ, empty input, NaN and a `columns` below 1.
    Example:
        >>> x = np.zeros((4, 1, 8, 8))
        >>> [label.get_text() for label in reconstructions(x, x).get_yticklabels()]
        ['data', 'reconstruction']
    """
    expected = as_floats(data, "data").shape
    found = as_floats(reconstructed, "reconstructions").shape
    if expected != found:
        raise UsageError(f"expected reconstructions of the data's shape {expected}, found {found}")
    columns = at_least_one(columns, "columns")
    if len(expected) == 2:
        return _paired_profiles(data, reconstructed, ax, columns)
    pairs = (_pictures(data, "data"), _pictures(reconstructed, "reconstructions"))
    return _paired_pictures(*pairs, ax, columns)


def samples(images: ArrayLike, ax: Axes | None = None, *, columns: int | None = None) -> Axes:
    """Draws from the model in a grid that is about square; rows of a table as profiles.

    Shapes: (N, H, W) or (N, C, H, W), or (N, X) for data that are no pictures.
    Units: pictures in [0, 1], clipped for showing.
    Errors: UsageError for other shapes, empty input and NaN.
    Source: Kingma and Welling (2013), figure 5.
    Example:
        >>> samples(np.zeros((9, 8, 8))).get_title()
        'Samples from the prior'
    """
    table = as_floats(images, "samples").ndim == 2
    ax = profiles(images, ax) if table else image_grid(images, ax, columns=columns)
    quiet_title(ax, "Samples from the prior")
    return ax


def _pictures(images: ArrayLike, name: str) -> Floats:
    """Pictures as (N, H, W, K), K = 1 for grey and 3 for color, clipped to [0, 1]."""
    array = as_floats(images, name)
    if array.ndim not in (3, 4):
        raise UsageError(f"expected {name} of shape (N, H, W) or (N, C, H, W), found {array.shape}")
    if np.asarray(images).dtype.kind in "iu" and array.max() > 1:
        raise UsageError(
            f"expected {name} in [0, 1], found whole numbers up to {array.max():g}: divide by 255"
        )
    array = array[:, None] if array.ndim == 3 else array
    if array.shape[1] not in (1, 3):
        array = array.mean(axis=1, keepdims=True)
    return np.moveaxis(array, 1, -1).clip(0.0, 1.0)


def _square(count: int) -> int:
    """The columns of a grid of `count` cells that is about square, never taller than wide."""
    return 1 + math.isqrt(count - 1)


def gap_between(height: int, width: int) -> int:
    """A gap in pixels that looks thin beside pictures of this size."""
    return max(1, round(min(height, width) / 16))


def tile_starts(count: int, size: int, gap: int, extra: int = 0) -> NDArray[np.int64]:
    """Where tiles of `size` begin, with `gap` after each and `extra` after every second one."""
    index = np.arange(count)
    return index * (size + gap) + index // 2 * extra


def _mosaic(pictures: Floats, tops: NDArray[np.int64], lefts: NDArray[np.int64]) -> Floats:
    """The pictures (N, H, W, K) on white, row by row, as one array (height, width[, K])."""
    _, height, width, depth = pictures.shape
    canvas = np.ones((int(tops[-1]) + height, int(lefts[-1]) + width, depth))
    for k, picture in enumerate(pictures):
        row, column = divmod(k, len(lefts))
        top, left = tops[row], lefts[column]
        canvas[top : top + height, left : left + width] = picture
    return canvas[..., 0] if depth == 1 else canvas


def _show(canvas: Floats, ax: Axes | None, columns: int) -> Axes:
    """Draw a mosaic without a frame, in a new figure at a size that suits its columns.

    Where it can, a pixel of the pictures becomes a whole number of pixels of the saved figure.
    """
    height, width = canvas.shape[:2]
    target = min(8.0, max(2.0, 0.7 * columns))
    across = width * round(target * DPI / width) / DPI or target
    ax = own_axes(ax, across, min(TALLEST, across * height / width))
    bare_axes(ax)
    ax.imshow(
        canvas,
        cmap="gray",
        vmin=0.0,
        vmax=1.0,
        interpolation="antialiased",
        origin="upper",
        aspect="equal",
    )
    return ax


def _paired_pictures(data: Floats, again: Floats, ax: Axes | None, columns: int) -> Axes:
    """Blocks of two rows, (N, H, W, K) above (N, H, W, K), named at the left."""
    count, height, width, depth = data.shape
    columns = min(columns, count)
    blocks = -(-count // columns)
    both = np.ones((2, blocks * columns, height, width, depth))
    both[:, :count] = data, again
    rows = both.reshape(2, blocks, columns, height, width, depth).swapaxes(0, 1)
    gap = gap_between(height, width)
    tops = tile_starts(2 * blocks, height, gap, extra=max(gap, height // 4))
    tiles = rows.reshape(-1, height, width, depth)
    ax = _show(_mosaic(tiles, tops, tile_starts(columns, width, gap)), ax, columns)
    ax.set_yticks(tops + (height - 1) / 2, ["data", "reconstruction"] * blocks)
    return ax


def profiles(rows: ArrayLike, ax: Axes | None = None) -> Axes:
    """Each row as a line over its dimensions, for data that are no pictures.

    Shapes: (N, X).
    Units: those of the data.
    Errors: UsageError for other shapes, empty input and NaN.
    Example:
        >>> profiles(np.zeros((5, 7))).get_xlabel()
        'dimension'
    """
    array = as_rows(rows, "rows")
    count, size = array.shape
    ax = own_axes(ax, 5.2, 3.0)
    marker = "o" if size == 1 else None
    alpha = max(0.08, min(0.9, 6.0 / count**0.75))
    ax.plot(
        np.arange(1, size + 1), array.T, color=TRAINING, linewidth=1.1, alpha=alpha, marker=marker
    )
    calm_axes(ax, "dimension", "value")
    ax.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
    return ax


def cell_lines(rows: Floats, columns: int, low: float, high: float) -> Floats:
    """Small line drawings, one for each row of (N, X), as segments (N, X, 2) in unit cells.

    Cell k has its corner at column k % columns and, counted downward from 0, row k // columns;
    the values from `low` to `high` fill four fifths of its height.
    """
    rows = np.repeat(rows, 2, axis=1) if rows.shape[1] == 1 else rows
    row, column = np.divmod(np.arange(len(rows)), columns)
    across = column[:, None] + np.linspace(0.1, 0.9, rows.shape[1])
    up = 0.1 + 0.8 * (rows - low) / ((high - low) or 1.0) - row[:, None] - 1
    return np.stack([across, up], axis=-1)


def cell_axes(ax: Axes | None, columns: int, lines: int) -> Axes:
    """Frameless axes that hold `lines` lines of `columns` unit cells each."""
    across = min(8.0, max(3.0, 1.1 * columns))
    ax = own_axes(ax, across, min(TALLEST, across * 0.8 * lines / columns))
    bare_axes(ax)
    ax.set_xlim(0, columns)
    ax.set_ylim(-lines, 0)
    return ax


def _paired_profiles(data: ArrayLike, again: ArrayLike, ax: Axes | None, columns: int) -> Axes:
    """A cell for each datum: its profile in grey, that of its reconstruction over it."""
    pair = as_rows(data, "data"), as_rows(again, "reconstructions")
    columns = min(columns, len(pair[0]))
    low, high = float(np.min(pair)), float(np.max(pair))
    ax = cell_axes(ax, columns, -(-len(pair[0]) // columns))
    looks = [("data", FAINT, 2.4), ("reconstruction", TRAINING, 1.0)]
    for rows, (name, color, width) in zip(pair, looks, strict=True):
        lines = cell_lines(rows, columns, low, high)
        ax.add_collection(LineCollection(list(lines), colors=color, linewidths=width, label=name))
    ax.legend(
        loc="lower left",
        bbox_to_anchor=(0.0, 1.0),
        ncols=2,
        frameon=False,
        fontsize=LABEL,
        labelcolor=INK,
        borderaxespad=0.2,
    )
    return ax

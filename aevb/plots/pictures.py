"""Picture grids; data that are no pictures become lines in their place."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from numpy.typing import ArrayLike, NDArray

from aevb.errors import UsageError
from aevb.plots.lines import cell_axes, cell_lines, paired_profiles, profiles
from aevb.plots.style import (
    DPI,
    TALLEST,
    TRAINING,
    Floats,
    as_floats,
    at_least_one,
    bare_axes,
    own_axes,
    quiet_title,
)


def image_grid(images: ArrayLike, ax: Axes | None = None, *, columns: int | None = None) -> Axes:
    """One tiled picture: image k in row k // columns from the top and column k % columns.

    Shapes: (N, H, W) or (N, C, H, W); one channel is shown in grey, three as red, green and blue,
    any other number by its mean. `columns` is about sqrt(N) when left out.
    Units: values in [0, 1], clipped for showing.
    Errors: UsageError for other shapes, empty input, NaN, bytes and a `columns` below 1.
    Source: the sample grids of Kingma and Welling (2013), figure 5.
    Example:
        >>> ax = image_grid(np.zeros((6, 1, 8, 8)), columns=3)
        >>> ax.images[0].get_array().shape
        (17, 26)
    """
    pictures = gray_or_color(images, "pictures")
    count, height, width, _ = pictures.shape
    columns = _square(count) if columns is None else min(at_least_one(columns, "columns"), count)
    gap = gap_between(height, width)
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
        return paired_profiles(data, reconstructed, ax, columns)
    above = ("data", gray_or_color(data, "data"))
    below = ("reconstruction", gray_or_color(reconstructed, "reconstructions"))
    return stacked_pictures([above, below], ax, columns)


def analogies(
    data: ArrayLike, by_class: ArrayLike, names: Sequence[str] = (), ax: Axes | None = None
) -> Axes:
    """Each datum at the left of its row, and beside it what it would be of every class.

    The code of a row is one, the class of a column is one: style and class come apart.
    Shapes: data (N, H, W), (N, C, H, W) or, for data that are no pictures, (N, X); by_class
    (N, K, ...) of the same; `names` of the K columns are written above them.
    Units: values in [0, 1], clipped for showing.
    Errors: UsageError for shapes that do not belong together, another number of names, empty input
    and NaN.
    Source: Kingma et al. (2014), "Semi-supervised learning with deep generative models", figure 1.
    Example:
        >>> ax = analogies(np.zeros((4, 8, 8)), np.zeros((4, 10, 8, 8)), list("0123456789"))
        >>> [label.get_text() for label in ax.get_xticklabels()][:3]
        ['data', '0', '1']
    """
    left, each = as_floats(data, "data"), as_floats(by_class, "pictures by class")
    count = each.shape[1] if each.ndim > 1 else 0
    if each.ndim < 3 or each.shape != (len(left), count, *left.shape[1:]):
        raise UsageError(
            f"expected pictures of each class for data of shape {left.shape}, found {each.shape}"
        )
    if names and len(names) != count:
        raise UsageError(f"expected {count} names of classes, found {len(names)}")
    shape = left.shape[1:]
    together = np.concatenate([left[:, None], each], axis=1).reshape(-1, *shape)
    ax, across, _ = cell_grid(together, shape, count + 1, ax)
    ax.set_xticks(across, ["data", *(names or [""] * count)])
    ax.tick_params(top=False, labeltop=True, bottom=False, labelbottom=False)
    return ax


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


def gray_or_color(images: ArrayLike, name: str) -> Floats:
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


def tile_starts(
    count: int, size: int, gap: int, extra: int = 0, every: int = 2
) -> NDArray[np.int64]:
    """Where tiles of `size` begin, with `gap` after each and `extra` after so many of them."""
    index = np.arange(count)
    return index * (size + gap) + index // every * extra


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


def stacked_pictures(rows: Sequence[tuple[str, Floats]], ax: Axes | None, columns: int) -> Axes:
    """Blocks of rows, each (N, H, W, K) below the one before, named at the left."""
    names = [name for name, _ in rows]
    count, height, width, depth = rows[0][1].shape
    columns = min(columns, count)
    blocks = -(-count // columns)
    all_of_them = np.ones((len(rows), blocks * columns, height, width, depth))
    all_of_them[:, :count] = [pictures for _, pictures in rows]
    tiles = all_of_them.reshape(len(rows), blocks, columns, height, width, depth).swapaxes(0, 1)
    gap = gap_between(height, width)
    extra = max(gap, height // 4)
    tops = tile_starts(len(rows) * blocks, height, gap, extra=extra, every=len(rows))
    lefts = tile_starts(columns, width, gap)
    ax = _show(_mosaic(tiles.reshape(-1, height, width, depth), tops, lefts), ax, columns)
    ax.set_yticks(tops + (height - 1) / 2, names * blocks)
    return ax


def cell_grid(
    rows: Floats, shape: tuple[int, ...], columns: int, ax: Axes | None
) -> tuple[Axes, Floats, Floats]:
    """Data (N, *shape) in a grid without a frame: pictures as a mosaic, others as small lines.

    Returns the axes, the middles of the columns from the left and of the rows from the top.
    """
    lines = -(-len(rows) // columns)
    if len(shape) == 1:
        ax = cell_axes(ax, columns, lines)
        cells = cell_lines(rows, columns, float(rows.min()), float(rows.max()))
        ax.add_collection(LineCollection(list(cells), colors=TRAINING, linewidths=0.8))
        return ax, np.arange(0.5, columns), -np.arange(0.5, lines)
    ax = image_grid(rows, ax, columns=columns)
    height, width = shape[-2:]
    gap = gap_between(height, width)
    across, down = (
        tile_starts(many, size, gap).astype(np.float64) + (size - 1) / 2
        for many, size in ((columns, width), (lines, height))
    )
    return ax, across, down

"""Arrays to figures: learning curves, picture grids, manifolds and latent codes.

Every function takes arrays and, if wanted, the matplotlib `Axes` to draw on, and returns the
`Axes`. Without one it makes a figure of its own that pyplot never hears of: nothing has to be
closed, no display is needed and no global setting is changed. `save` keeps the result.
"""

import math
import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri

from aevb.errors import UsageError

INK = "#333333"
FAINT = "#c4c4c4"
TRAINING = "#2f6b9a"
VALIDATION = "#d9772b"
TITLE, LABEL, SMALL = 11.0, 9.0, 8.0
MOST_CLASSES = 20
DPI = 150
LEFT, RIGHT, BELOW, ABOVE = 1.0, 0.6, 0.6, 0.4
TALLEST = 40.0

Floats = NDArray[np.float64]


# What every picture shares ------------------------------------------------------------------------


def _axes(ax: Axes | None, width: float, height: float) -> Axes:
    """The given axes, or axes of `width` by `height` inches, alone in a new figure with margins."""
    if ax is not None:
        return ax
    across, up = LEFT + width + RIGHT, BELOW + height + ABOVE
    figure = Figure(figsize=(across, up), facecolor="white")
    FigureCanvasAgg(figure)
    return figure.add_axes((LEFT / across, BELOW / up, width / across, height / up))


def _title(ax: Axes, text: str) -> None:
    """A quiet title, flush with the left edge of the axes."""
    ax.set_title(text, x=0.0, horizontalalignment="left", fontsize=TITLE, color=INK)


def _calm(ax: Axes, xlabel: str, ylabel: str) -> None:
    """Axes of a diagram: two faint spines, small grey ticks, labels in one ink."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(FAINT)
    ax.tick_params(color=FAINT, labelcolor=INK, labelsize=SMALL, length=3)
    ax.set_xlabel(xlabel, fontsize=LABEL, color=INK)
    ax.set_ylabel(ylabel, fontsize=LABEL, color=INK)


def _bare(ax: Axes) -> None:
    """Axes of a picture: no frame, no ticks."""
    for spine in ax.spines.values():
        spine.set_visible(False)
    ax.set_xticks([])
    ax.set_yticks([])
    ax.tick_params(length=0, labelcolor=INK, labelsize=SMALL)


def _number(value: float, digits: int = 2) -> str:
    """A number with a true minus sign, and no minus before a zero."""
    return f"{value:z.{digits}f}".replace("-", "\N{MINUS SIGN}")


def _floats(values: ArrayLike, name: str) -> Floats:
    """The values as finite floats of shape (N, ...), N > 0, nothing in them empty."""
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise UsageError(f"expected {name} as an array of real numbers, found none") from None
    if array.ndim == 0 or array.size == 0:
        raise UsageError(f"expected at least one row of {name}, found the shape {array.shape}")
    if not np.isfinite(array).all():
        place = np.argwhere(~np.isfinite(array))[0]
        raise UsageError(
            f"expected finite {name}, found {array[tuple(place)]} in row {place[0] + 1}"
        )
    return array


def _rows(values: ArrayLike, name: str) -> Floats:
    """Finite rows of shape (N, X)."""
    rows = _floats(values, name)
    if rows.ndim != 2:
        raise UsageError(f"expected {name} of shape (N, X), found {rows.shape}")
    return rows


def _at_least_one(value: int, name: str) -> int:
    """A count that is positive."""
    if value < 1:
        raise UsageError(f"expected {name} to be at least 1, found {value}")
    return value


# Learning curves ----------------------------------------------------------------------------------


def learning_curve(history: Sequence[Mapping[str, Any]], ax: Axes | None = None) -> Axes:
    """The training and the validation bound against the epochs, the best validation epoch marked.

    Shapes: one row of `history` for an epoch, with "epoch", "train" and, where it was measured,
    "validation"; the last two map "elbo" to a number, or are None.
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
    ax = _axes(ax, 5.2, 3.0)
    for _, color, (epochs, bounds) in curves:
        ax.plot(epochs, bounds, color=color, linewidth=1.6, **_marks(bounds))
    _calm(ax, "epoch", "nats per datum")
    _title(ax, "Evidence lower bound")
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
                points.append((float(row["epoch"]), float(row[split]["elbo"])))
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
    heights = _apart([float(end[1]) for end, _ in ends], _points_high(ax, 24.0))
    right = max(float(end[0]) for end, _ in ends)
    for (name, color, points), (end, _), height in zip(curves, ends, heights, strict=True):
        text = f"{name} {_number(float(end[1]))}"
        if name == "validation":
            epoch, best = points[:, int(np.nanargmax(points[1]))]
            ax.plot(epoch, best, "o", color=color, markerfacecolor="white", markersize=6.5)
            text += f"\nbest {_number(best)} at epoch {epoch:.10g}"
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


def _points_high(ax: Axes, points: float) -> float:
    """A height of so many typographic points, in data units of the vertical axis."""
    low, high = ax.get_ylim()
    figure = ax.get_figure()
    pixels = points / 72 * (figure.dpi if figure is not None else 100.0)
    return (high - low) * pixels / max(ax.bbox.height, 1.0)


def _apart(heights: Sequence[float], gap: float) -> list[float]:
    """One or two heights, moved away from their middle until they are `gap` apart."""
    if len(heights) < 2 or abs(heights[0] - heights[1]) >= gap:
        return list(heights)
    middle, sign = sum(heights) / 2, 1 if heights[0] >= heights[1] else -1
    return [middle + sign * gap / 2, middle - sign * gap / 2]


# Picture grids ------------------------------------------------------------------------------------


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
    columns = _square(count) if columns is None else min(_at_least_one(columns, "columns"), count)
    gap = _thin(height, width) if gap is None else gap
    if gap < 0:
        raise UsageError(f"expected a gap of 0 pixels or more, found {gap}")
    lefts = _starts(columns, width, gap)
    tops = _starts(-(-count // columns), height, gap)
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
    expected = _floats(data, "data").shape
    found = _floats(reconstructed, "reconstructions").shape
    if expected != found:
        raise UsageError(f"expected reconstructions of the data's shape {expected}, found {found}")
    columns = _at_least_one(columns, "columns")
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
    table = _floats(images, "samples").ndim == 2
    ax = profiles(images, ax) if table else image_grid(images, ax, columns=columns)
    _title(ax, "Samples from the prior")
    return ax


def _pictures(images: ArrayLike, name: str) -> Floats:
    """Pictures as (N, H, W, K), K = 1 for grey and 3 for color, clipped to [0, 1]."""
    array = _floats(images, name)
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


def _thin(height: int, width: int) -> int:
    """A gap in pixels that looks thin beside pictures of this size."""
    return max(1, round(min(height, width) / 16))


def _starts(count: int, size: int, gap: int, extra: int = 0) -> NDArray[np.int64]:
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
    ax = _axes(ax, across, min(TALLEST, across * height / width))
    _bare(ax)
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
    gap = _thin(height, width)
    tops = _starts(2 * blocks, height, gap, extra=max(gap, height // 4))
    tiles = rows.reshape(-1, height, width, depth)
    ax = _show(_mosaic(tiles, tops, _starts(columns, width, gap)), ax, columns)
    ax.set_yticks(tops + (height - 1) / 2, ["data", "reconstruction"] * blocks)
    return ax


# Profiles: data that are no pictures --------------------------------------------------------------


def profiles(rows: ArrayLike, ax: Axes | None = None) -> Axes:
    """Each row as a line over its dimensions, for data that are no pictures.

    Shapes: (N, X).
    Units: those of the data.
    Errors: UsageError for other shapes, empty input and NaN.
    Example:
        >>> profiles(np.zeros((5, 7))).get_xlabel()
        'dimension'
    """
    array = _rows(rows, "rows")
    count, size = array.shape
    ax = _axes(ax, 5.2, 3.0)
    marker = "o" if size == 1 else None
    alpha = max(0.08, min(0.9, 6.0 / count**0.75))
    ax.plot(
        np.arange(1, size + 1), array.T, color=TRAINING, linewidth=1.1, alpha=alpha, marker=marker
    )
    _calm(ax, "dimension", "value")
    ax.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
    return ax


def _cells(rows: Floats, columns: int, low: float, high: float) -> Floats:
    """Small line drawings, one for each row of (N, X), as segments (N, X, 2) in unit cells.

    Cell k has its corner at column k % columns and, counted downward from 0, row k // columns;
    the values from `low` to `high` fill four fifths of its height.
    """
    rows = np.repeat(rows, 2, axis=1) if rows.shape[1] == 1 else rows
    row, column = np.divmod(np.arange(len(rows)), columns)
    across = column[:, None] + np.linspace(0.1, 0.9, rows.shape[1])
    up = 0.1 + 0.8 * (rows - low) / ((high - low) or 1.0) - row[:, None] - 1
    return np.stack([across, up], axis=-1)


def _cell_axes(ax: Axes | None, columns: int, lines: int) -> Axes:
    """Frameless axes that hold `lines` lines of `columns` unit cells each."""
    across = min(8.0, max(3.0, 1.1 * columns))
    ax = _axes(ax, across, min(TALLEST, across * 0.8 * lines / columns))
    _bare(ax)
    ax.set_xlim(0, columns)
    ax.set_ylim(-lines, 0)
    return ax


def _paired_profiles(data: ArrayLike, again: ArrayLike, ax: Axes | None, columns: int) -> Axes:
    """A cell for each datum: its profile in grey, that of its reconstruction over it."""
    pair = _rows(data, "data"), _rows(again, "reconstructions")
    columns = min(columns, len(pair[0]))
    low, high = float(np.min(pair)), float(np.max(pair))
    ax = _cell_axes(ax, columns, -(-len(pair[0]) // columns))
    looks = [("data", FAINT, 2.4), ("reconstruction", TRAINING, 1.0)]
    for rows, (name, color, width) in zip(pair, looks, strict=True):
        lines = _cells(rows, columns, low, high)
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


# The latent space ---------------------------------------------------------------------------------


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
        ax = _cell_axes(ax, side, side)
        cells = _cells(decoded, side, float(decoded.min()), float(decoded.max()))
        ax.add_collection(LineCollection(list(cells), colors=TRAINING, linewidths=0.8))
        middles = np.arange(side) + 0.5
        _latent_ticks(ax, middles, middles - side)
    else:
        ax = image_grid(decoded.reshape(-1, *shape), ax, columns=side)
        height, width = shape[-2:]
        gap = _thin(height, width)
        down = _starts(side, height, gap)[::-1] + (height - 1) / 2
        _latent_ticks(ax, _starts(side, width, gap) + (width - 1) / 2, down)
    _title(ax, "Learned manifold")
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
    points = _rows(codes, "codes")
    classes, member = _classes(labels, len(points))
    colors = _palette(len(classes))
    if points.shape[1] == 1:
        ax = _histogram(points[:, 0], member, colors, ax)
    else:
        ax = _scatter(points, colors[member], ax)
    _title(ax, "Latent codes")
    if len(classes) > 1:
        _class_legend(ax, classes, colors)
    return ax


def _quantiles(side: int) -> Floats:
    """The standard Gaussian quantiles at the middles of `side` equal probabilities, ascending."""
    line: Floats = ndtri((np.arange(_at_least_one(side, "side")) + 0.5) / side)
    return line


def _decoded(decode: Callable[[Floats], ArrayLike], grid: Floats, size: int) -> Floats:
    """What `decode` makes of the grid (n, 2), held to the shape (n, size)."""
    found = _floats(decode(grid), "decoded data")
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
    names = [_number(value) for value in line[some]]
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
    ax = _axes(ax, 4.6, 4.2)
    area = max(2.0, min(22.0, 2e4 / count))
    first, second = points[:, chosen].T
    ax.scatter(first, second, c=colors, s=area, alpha=0.75, linewidths=0)
    ax.set_aspect("equal", adjustable="datalim")
    _calm(ax, across, up)
    return ax


def _histogram(codes: Floats, member: NDArray[np.int64], colors: Floats, ax: Axes | None) -> Axes:
    """One dimension of codes (N,) as a histogram, its bars stacked by class."""
    ax = _axes(ax, 5.2, 3.0)
    groups = [codes[member == k] for k in range(len(colors))]
    bins = int(max(10, min(60, math.sqrt(len(codes)))))
    ax.hist(groups, bins=bins, stacked=True, color=[tuple(color) for color in colors])
    _calm(ax, "$z_1$", "codes")
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


# Files --------------------------------------------------------------------------------------------


def png(ax: Axes) -> bytes:
    """The figure of the axes as a PNG that says nothing of when and with what it was made.

    A figure made by this module gives the same bytes every time.
    Units: 150 dots per inch, cut to what is drawn.
    Example:
        >>> png(samples(np.zeros((4, 8, 8))))[:4]
        b'\\x89PNG'
    """
    buffer = BytesIO()
    ax.figure.canvas.figure.savefig(
        buffer,
        format="png",
        dpi=DPI,
        bbox_inches="tight",
        pad_inches=0.1,
        facecolor="white",
        metadata={"Software": None},
    )
    return buffer.getvalue()


def save(ax: Axes, path: str | os.PathLike[str]) -> Path:
    """Write the figure of the axes as a PNG, whole or not at all, and return its path.

    The folder is made if there is none; the bytes are those of `png`.
    Errors: UsageError for another suffix than .png and for a place that cannot be written.
    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     save(samples(np.zeros((4, 8, 8))), f"{folder}/samples.png").name
        'samples.png'
    """
    target = Path(path)
    if target.suffix.lower() != ".png":
        raise UsageError(f"expected the name of a picture that ends in .png, found {target}")
    picture = png(ax)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _replace(target, picture)
    except OSError as error:
        raise UsageError(f"cannot write the picture {target}: {error.strerror}") from error
    return target


def _replace(target: Path, content: bytes) -> None:
    """Put the content in the target's place in one step, by way of a file beside it."""
    beside = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
    try:
        with beside.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, target)
    finally:
        beside.unlink(missing_ok=True)

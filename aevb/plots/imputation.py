"""Data with missing parts, and what was filled in."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from numpy.typing import ArrayLike, NDArray

from aevb.errors import UsageError
from aevb.plots.lines import cell_axes, cell_lines
from aevb.plots.pictures import gray_or_color, stacked_pictures
from aevb.plots.style import (
    FAINT,
    INK,
    PALE,
    SMALL,
    VALIDATION,
    Floats,
    as_floats,
    at_least_one,
    bare_axes,
    column_names,
    in_short,
    own_axes,
    own_legend,
    quiet_title,
    slanted_ticks,
)

Mask = NDArray[np.bool_]
FILLED = "filled in"


def impute_grid(
    observed: ArrayLike,
    data: ArrayLike,
    filled: ArrayLike,
    ax: Axes | None = None,
    *,
    columns: int = 10,
    names: Sequence[str] | None = None,
) -> Axes:
    """What was there, what was seen of it, and what was filled in.

    Pictures stand in rows: the data, the data with their holes in orange, the filled data. Signals
    have a cell each: grey where the data are known, dark where they were seen, dashed orange where
    they were filled in. A table, which is given `names`, has a cell for each number, colored by its
    deviation from its column's observed mean; what was filled in has an orange frame. Each number
    is written out, so give it some twenty rows.
    Shapes: `data` and `filled` (N, H, W), (N, C, H, W) or (N, X); `observed` is true where a value
    was seen and has that shape, or one that stretches to it. Cells of `data` that were not observed
    may be NaN; where any is, pictures have no row of data.
    Units: pictures in [0, 1], clipped for showing; signals on one scale; a table's numbers to three
    digits.
    Errors: UsageError for shapes that differ, NaN in `filled` or where a value was observed, names
    that do not fit and a `columns` below 1.
    Example:
        >>> seen = np.arange(64).reshape(8, 8) < 32
        >>> ax = impute_grid(seen, np.zeros((2, 1, 8, 8)), np.ones((2, 1, 8, 8)))
        >>> [label.get_text() for label in ax.get_yticklabels()]
        ['data', 'with holes', 'filled in']
    """
    full = as_floats(filled, "filled data")
    mask, known = _checked(observed, data, full)
    columns = at_least_one(columns, "columns")
    if full.ndim > 2:
        ax = _in_pictures(mask, known, full, ax, columns)
    elif names is None:
        ax = _in_lines(mask, known, full, ax, min(columns, 3))
    else:
        ax = _in_cells(mask, full, column_names(names, full.shape[1]), ax)
    quiet_title(ax, "Imputation")
    return ax


def _checked(observed: ArrayLike, data: ArrayLike, filled: Floats) -> tuple[Mask, Floats]:
    """The mask and the data in the shape of what was filled, NaN in the data only in holes."""
    if filled.ndim not in (2, 3, 4):
        raise UsageError(
            f"expected filled data of shape (N, X), (N, H, W) or (N, C, H, W), found {filled.shape}"
        )
    known = np.array(data, dtype=np.float64)
    if known.shape != filled.shape:
        raise UsageError(f"expected data of the shape {filled.shape}, found {known.shape}")
    try:
        mask = np.broadcast_to(np.asarray(observed, dtype=bool), filled.shape)
    except ValueError:
        raise UsageError(
            f"expected a mask of the shape {filled.shape}, found {np.shape(observed)}"
        ) from None
    as_floats(np.where(mask, known, 0.0), "observed data")
    known[~mask & ~np.isfinite(known)] = np.nan
    return mask, known


def _in_pictures(mask: Mask, known: Floats, filled: Floats, ax: Axes | None, columns: int) -> Axes:
    """Blocks of rows: the data if they are known, the data with holes, the filled data."""
    whole = gray_or_color(filled, "filled data")
    seen = gray_or_color(np.where(mask, known, 0.0), "data")
    hole = np.logical_not(mask if mask.ndim == 3 else mask.all(axis=1))
    holed = np.where(hole[..., None], np.array(to_rgb(VALIDATION)), seen)
    rows = [("with holes", holed), (FILLED, np.broadcast_to(whole, holed.shape))]
    if np.isfinite(known).all():
        original = gray_or_color(known, "data")
        rows.insert(0, ("data", np.broadcast_to(original, holed.shape)))
    return stacked_pictures(rows, ax, columns)


def _in_lines(mask: Mask, known: Floats, filled: Floats, ax: Axes | None, columns: int) -> Axes:
    """A cell for each signal: grey where known, dark where seen, dashed where filled in."""
    columns = min(columns, len(filled))
    lines = -(-len(filled) // columns)
    ax = cell_axes(ax, columns, lines, width=max(2.2, 4.4 / columns))
    low, high = float(np.nanmin([known, filled])), float(np.nanmax([known, filled]))
    near = ~mask | _beside(~mask)  # a filled part reaches the seen values, so that no gap is left
    looks = [
        ("data", known, FAINT, 2.4, "solid"),
        (
            "seen",
            np.where(mask, known, np.nan),
            INK,
            1.2,
            "solid",
        ),
        (FILLED, np.where(near, filled, np.nan), VALIDATION, 1.2, (0, (3, 1.5))),
    ]
    for name, rows, color, width, style in looks:
        segments = list(cell_lines(rows, columns, low, high))
        ax.add_collection(
            LineCollection(segments, colors=color, linewidths=width, linestyles=style, label=name)
        )
    alone = mask & ~_beside(mask)  # a value between holes is a line of no length
    dots = cell_lines(known, columns, low, high)[alone] if known.shape[1] > 1 else np.empty((0, 2))
    ax.plot(*dots.T, "o", color=INK, markersize=2.4)
    own_legend(ax)
    return ax


def _beside(mask: Mask) -> Mask:
    """Where the value before or the value after is true."""
    around = np.pad(mask, ((0, 0), (1, 1)))
    return np.asarray(around[:, :-2] | around[:, 2:])


def _in_cells(mask: Mask, filled: Floats, names: list[str], ax: Axes | None) -> Axes:
    """A table of numbers, colored by deviation in their column, the filled ones framed."""
    count, size = filled.shape
    ax = own_axes(ax, min(12.0, max(2.6, 0.62 * size)), min(30.0, 0.26 * count))
    bare_axes(ax)
    seen = np.where(mask, filled, np.nan)
    known = [column[~np.isnan(column)] for column in seen.T]
    mean = np.array([column.mean() if len(column) else 0.0 for column in known])
    scale = np.array([column.std() if len(column) else 0.0 for column in known])
    deviations = (filled - mean) / np.where(scale > 0, scale, 1.0)
    ax.imshow(deviations, cmap=PALE, vmin=-2.5, vmax=2.5, aspect="auto", interpolation="nearest")
    for row, column in np.ndindex(count, size):
        gap = not mask[row, column]
        ax.text(
            column,
            row,
            in_short(float(filled[row, column])),
            horizontalalignment="center",
            verticalalignment="center",
            fontsize=SMALL - 1,
            color=INK,
            fontweight="bold" if gap else "normal",
        )
        if gap:
            frame = Rectangle((column - 0.46, row - 0.44), 0.92, 0.88, fill=False)
            frame.set(edgecolor=VALIDATION, linewidth=1.3)
            ax.add_patch(frame)
    slanted_ticks(ax, np.arange(size), names)
    ax.set_yticks(np.arange(count), [f"row {k + 1}" for k in range(count)])
    own_legend(ax, handles=[Line2D([], [], color=VALIDATION, linewidth=1.3)], labels=[FILLED])
    return ax

"""Lines for data that are no pictures: signals over time, and columns that share their units."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from aevb.plots.style import (
    FAINT,
    INK,
    LABEL,
    RAMP,
    TALLEST,
    TRAINING,
    Floats,
    as_floats,
    bare_axes,
    calm_axes,
    column_names,
    own_axes,
    own_legend,
    panels,
    slanted_ticks,
)


def profiles(rows: ArrayLike, ax: Axes | None = None) -> Axes:
    """Each row as a line over its dimensions, for data that are no pictures.

    Shapes: (N, X).
    Units: those of the data.
    Errors: UsageError for other shapes, empty input and NaN.
    Example:
        >>> profiles(np.zeros((5, 7))).get_xlabel()
        'dimension'
    """
    array = as_floats(rows, "rows", "NX")
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


def cell_axes(ax: Axes | None, columns: int, lines: int, width: float = 1.1) -> Axes:
    """Frameless axes that hold `lines` lines of `columns` unit cells, each so many inches wide."""
    across = min(8.0, max(3.0, width * columns))
    ax = own_axes(ax, across, min(TALLEST, across * 0.8 * lines / columns))
    bare_axes(ax)
    ax.set_xlim(0, columns)
    ax.set_ylim(-lines, 0)
    return ax


def paired_profiles(data: ArrayLike, again: ArrayLike, ax: Axes | None, columns: int) -> Axes:
    """A cell for each datum: its profile in grey, that of its reconstruction over it."""
    pair = as_floats(data, "data", "NX"), as_floats(again, "reconstructions", "NX")
    columns = min(columns, len(pair[0]))
    low, high = float(np.min(pair)), float(np.max(pair))
    ax = cell_axes(ax, columns, -(-len(pair[0]) // columns))
    looks = [("data", FAINT, 2.4), ("reconstruction", TRAINING, 1.0)]
    for rows, (name, color, width) in zip(pair, looks, strict=True):
        lines = cell_lines(rows, columns, low, high)
        ax.add_collection(LineCollection(list(lines), colors=color, linewidths=width, label=name))
    place = {"loc": "lower left", "bbox_to_anchor": (0.0, 1.0), "borderaxespad": 0.2}
    own_legend(ax, ncols=2, fontsize=LABEL, **place)
    return ax


def line_panels(
    blocks: Floats, places: Floats, ax: Axes | None, names: Sequence[str] | None
) -> tuple[Axes, list[Axes]]:
    """A panel for each block of lines (K, lines, X), all on one scale, colored along a ramp.

    `places` (lines,) in [0, 1] say where on the ramp a line lies; the ends are drawn thicker.
    `names` stand under the last panel where the data are the columns of a table.
    """
    count, lines, size = blocks.shape
    ax, inside = panels(ax, count, 1, (5.2, 2.4 if count == 1 else 1.1), (0.0, 0.22))
    widths = np.where(np.isin(np.arange(lines), (0, lines - 1)), 1.8, 1.0)
    air = 0.06 * (float(np.ptp(blocks)) or 1.0)
    for panel, block in zip(inside, blocks, strict=True):
        for line, place, width in zip(block, places, widths, strict=True):
            marker = "o" if size == 1 or names is not None else None
            panel.plot(
                np.arange(1, size + 1),
                line,
                color=RAMP(float(place)),
                linewidth=width,
                marker=marker,
                markersize=2.5,
            )
        calm_axes(panel, "", "")
        panel.set_ylim(float(blocks.min()) - air, float(blocks.max()) + air)
        panel.yaxis.set_major_locator(MaxNLocator(nbins=3 if count > 1 else 6))
        panel.tick_params(labelbottom=panel is inside[-1])
        _column_ticks(panel, size, names)
    if names is None:
        inside[-1].set_xlabel("dimension", fontsize=LABEL, color=INK)
    return ax, inside


def _column_ticks(ax: Axes, size: int, names: Sequence[str] | None) -> None:
    """The columns named under the axes, slanted where they are many; or numbers for a signal."""
    if names is None:
        ax.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
        ax.set_xlim(1 - 0.02 * size, size + 0.02 * size)
        return
    slanted_ticks(ax, np.arange(1, size + 1), column_names(names, size))
    ax.set_xlim(0.6, size + 0.4)

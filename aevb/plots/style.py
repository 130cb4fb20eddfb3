"""What every picture shares: axes without pyplot, colors, checks."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

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
PALE = LinearSegmentedColormap.from_list("pale", ["#7fb0d4", "#fbfaf8", "#eeb98c"])
RAMP = LinearSegmentedColormap.from_list("ramp", [TRAINING, "#b9a7a0", VALIDATION])


def own_axes(ax: Axes | None, width: float, height: float) -> Axes:
    """The given axes, or axes of `width` by `height` inches, alone in a new figure with margins."""
    if ax is not None:
        return ax
    across, up = LEFT + width + RIGHT, BELOW + height + ABOVE
    figure = Figure(figsize=(across, up), facecolor="white")
    FigureCanvasAgg(figure)
    return figure.add_axes((LEFT / across, BELOW / up, width / across, height / up))


def quiet_title(ax: Axes, text: str, pad: float = 6.0) -> None:
    """A quiet title, flush with the left edge of the axes, so many points above them."""
    ax.set_title(text, x=0.0, horizontalalignment="left", fontsize=TITLE, color=INK, pad=pad)


def calm_axes(ax: Axes, xlabel: str, ylabel: str) -> None:
    """Axes of a diagram: two faint spines, small grey ticks, labels in one ink."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(FAINT)
    ax.tick_params(color=FAINT, labelcolor=INK, labelsize=SMALL, length=3)
    ax.set_xlabel(xlabel, fontsize=LABEL, color=INK)
    ax.set_ylabel(ylabel, fontsize=LABEL, color=INK)


def bare_axes(ax: Axes) -> None:
    """Axes of a picture: no frame, no ticks."""
    for spine in ax.spines.values():
        spine.set_visible(False)
    ax.set_xticks([])
    ax.set_yticks([])
    ax.tick_params(length=0, labelcolor=INK, labelsize=SMALL)


def points_high(ax: Axes, points: float) -> float:
    """A height of so many typographic points, in data units of the vertical axis."""
    low, high = ax.get_ylim()
    figure = ax.get_figure()
    pixels = points / 72 * (figure.dpi if figure is not None else 100.0)
    return (high - low) * pixels / max(ax.bbox.height, 1.0)


def spread(heights: Sequence[float] | Floats, gap: float) -> list[float]:
    """Heights moved as little as their order allows until each is `gap` from the next.

    Of two that are equal the first goes up.
    Formula: neighbors that are too close form a block, spaced evenly around its mean.
    """
    order = np.argsort(-np.asarray(heights, dtype=np.float64), kind="stable")[::-1]
    blocks: list[list[float]] = []
    for place in order:
        blocks.append([float(heights[place])])
        while len(blocks) > 1 and _reach(blocks[-2], gap, 1) > _reach(blocks[-1], gap, -1) - gap:
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    moved = [_reach(block, gap, -1) + k * gap for block in blocks for k in range(len(block))]
    return [moved[rank] for rank in np.argsort(order)]


def _reach(block: list[float], gap: float, side: int) -> float:
    """The lowest (side -1) or highest (side 1) height of a block that is spaced evenly."""
    return sum(block) / len(block) + side * gap * (len(block) - 1) / 2


def in_figures(value: float, digits: int = 2) -> str:
    """A number with a true minus sign, and no minus before a zero."""
    return f"{value:z.{digits}f}".replace("-", "\N{MINUS SIGN}")


def panels(
    ax: Axes | None, rows: int, columns: int, size: tuple[float, float], gap: tuple[float, float]
) -> tuple[Axes, list[Axes]]:
    """Bare axes and, inside them, rows x columns axes in reading order.

    Units: inches of a panel's `size` and of the `gap` between two, both (across, up); axes that
    are given keep their size and the panels share it in the same proportions.
    """
    across = columns * size[0] + (columns - 1) * gap[0]
    up = rows * size[1] + (rows - 1) * gap[1]
    ax = own_axes(ax, across, min(TALLEST, up))
    bare_axes(ax)
    ax.patch.set_visible(False)
    inside = []
    for row in range(rows):
        for column in range(columns):
            left = column * (size[0] + gap[0]) / across
            below = (up - (row + 1) * size[1] - row * gap[1]) / up
            inside.append(ax.inset_axes((left, below, size[0] / across, size[1] / up)))
    return ax, inside


def slanted_ticks(ax: Axes, places: ArrayLike, names: Sequence[str]) -> None:
    """Names below the axes, slanted where they are long so that they do not meet."""
    ax.set_xticks(places, names, fontsize=SMALL)
    if max(map(len, names)) > 3:
        for label in ax.get_xticklabels():
            label.set(rotation=35, rotation_mode="anchor", horizontalalignment="right")


def own_legend(ax: Axes, **options: Any) -> None:
    """A frameless legend above the axes, in one line, flush with their right edge."""
    place = {"loc": "lower right", "bbox_to_anchor": (1.0, 1.0), "ncols": 4, "borderaxespad": 0.3}
    looks = {"frameon": False, "fontsize": SMALL, "labelcolor": INK, "columnspacing": 1.2}
    ax.legend(**{**place, **looks, **options})


def in_short(value: float) -> str:
    """A number in about three digits, without an exponent where it is of ordinary size."""
    text = f"{value:z.0f}" if 100 <= abs(value) < 1e6 else f"{value:z.3g}"
    return text.replace("-", "\N{MINUS SIGN}")


def as_floats(
    values: ArrayLike,
    name: str,
    axes: str | None = None,
    odd: Callable[[Floats], NDArray[np.bool_]] = np.zeros_like,
) -> Floats:
    """The values as floats of shape (N, ...), N > 0, nothing in them empty, finite unless `odd`.

    `axes` are the letters of the shape, a letter each, where it has to be one: "NX" for (N, X).
    """
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise UsageError(f"expected {name} as an array of real numbers, found none") from None
    if array.ndim == 0 or array.size == 0:
        raise UsageError(f"expected at least one row of {name}, found the shape {array.shape}")
    if axes is not None and array.ndim != len(axes):
        shape = f"({', '.join(axes)}{',' if len(axes) == 1 else ''})"
        raise UsageError(f"expected {name} of shape {shape}, found {array.shape}")
    wrong = np.argwhere(~np.isfinite(array) & ~odd(array).astype(bool))
    if len(wrong):
        place = tuple(wrong[0])
        raise UsageError(f"expected finite {name}, found {array[place]} in row {place[0] + 1}")
    return array


def at_least_one(value: int, name: str) -> int:
    """A count that is positive."""
    if value < 1:
        raise UsageError(f"expected {name} to be at least 1, found {value}")
    return value


def as_event(shape: Sequence[int]) -> tuple[int, ...]:
    """The shape of a datum: (X,), (H, W) or (C, H, W)."""
    shape = tuple(int(size) for size in shape)
    if not 1 <= len(shape) <= 3 or min(shape) < 1:
        raise UsageError(f"expected the shape (X,), (H, W) or (C, H, W), found {shape}")
    return shape


def as_steps(values: ArrayLike, name: str, shape: Sequence[int]) -> Floats:
    """Data of an event shape under two leading axes, (K, N, *shape), given so or flat."""
    shape = as_event(shape)
    array = as_floats(values, name)
    if array.shape[2:] not in (shape, (math.prod(shape),)):
        raise UsageError(
            f"expected {name} of shape (rows, columns, *{shape}) or with the last axes flat,"
            f" found {array.shape}"
        )
    return array.reshape(*array.shape[:2], *shape)


def as_epochs(epochs: Sequence[int], count: int) -> list[int]:
    """The epochs of the frames, one for each."""
    if len(epochs) != count:
        raise UsageError(f"expected an epoch for each of {count} frames, found {len(epochs)}")
    return [int(epoch) for epoch in epochs]


def column_names(names: Sequence[str] | None, count: int) -> list[str]:
    """A name for each of `count` columns; "column k" where there is none or an empty one."""
    if names is not None and len(names) != count:
        raise UsageError(f"expected a name for each of {count} columns, found {len(names)}")
    given = [""] * count if names is None else [str(name) for name in names]
    return [plain(name) or f"column {k}" for k, name in enumerate(given, start=1)]


def plain(text: str, longest: int = 18) -> str:
    """A text of the user's on one line as it is: without mathematics, seen by legends, not long."""
    text = " ".join(text.split())
    text = text if len(text) <= longest else text[: longest - 1] + "\N{HORIZONTAL ELLIPSIS}"
    return (" " if text.startswith("_") else "") + text.replace("$", r"\$")

"""What every picture shares: axes without pyplot, colors, checks, and PNG files."""

import os
from io import BytesIO
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from aevb.errors import UsageError
from aevb.files import replace_atomically

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


def own_axes(ax: Axes | None, width: float, height: float) -> Axes:
    """The given axes, or axes of `width` by `height` inches, alone in a new figure with margins."""
    if ax is not None:
        return ax
    across, up = LEFT + width + RIGHT, BELOW + height + ABOVE
    figure = Figure(figsize=(across, up), facecolor="white")
    FigureCanvasAgg(figure)
    return figure.add_axes((LEFT / across, BELOW / up, width / across, height / up))


def quiet_title(ax: Axes, text: str) -> None:
    """A quiet title, flush with the left edge of the axes."""
    ax.set_title(text, x=0.0, horizontalalignment="left", fontsize=TITLE, color=INK)


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


def in_figures(value: float, digits: int = 2) -> str:
    """A number with a true minus sign, and no minus before a zero."""
    return f"{value:z.{digits}f}".replace("-", "\N{MINUS SIGN}")


def as_floats(values: ArrayLike, name: str) -> Floats:
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


def as_rows(values: ArrayLike, name: str) -> Floats:
    """Finite rows of shape (N, X)."""
    rows = as_floats(values, name)
    if rows.ndim != 2:
        raise UsageError(f"expected {name} of shape (N, X), found {rows.shape}")
    return rows


def at_least_one(value: int, name: str) -> int:
    """A count that is positive."""
    if value < 1:
        raise UsageError(f"expected {name} to be at least 1, found {value}")
    return value


def png(ax: Axes) -> bytes:
    """The figure of the axes as a PNG that says nothing of when and with what it was made.

    A figure made by this module gives the same bytes every time.
    Units: 150 dots per inch, cut to what is drawn.
    Example:
        >>> from aevb.plots import samples
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
        >>> from aevb.plots import samples
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
        replace_atomically(target, picture)
    except OSError as error:
        raise UsageError(f"cannot write the picture {target}: {error.strerror}") from error
    return target

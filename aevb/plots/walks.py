"""Walks through the latent space and through training, as what they decode to."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike

from aevb.errors import UsageError
from aevb.plots.lines import line_panels
from aevb.plots.pictures import cell_grid
from aevb.plots.style import (
    FAINT,
    INK,
    LABEL,
    RAMP,
    SMALL,
    Floats,
    as_epochs,
    as_floats,
    as_steps,
    in_short,
    own_legend,
    quiet_title,
)


def interpolation(
    strips: ArrayLike,
    shape: Sequence[int],
    ax: Axes | None = None,
    *,
    names: Sequence[str] | None = None,
) -> Axes:
    """Walks from one latent point to another: a row of pictures for each, or lines that change.

    Shapes: `strips` (K, steps, *shape), or (K, steps, prod(shape)); `shape` is (H, W), (C, H, W)
    or, for data that are no pictures, (X,): then each walk has a panel with a line for each step,
    colored from its begin to its end. `names` make the X dimensions the columns of a table.
    Units: pictures in [0, 1], clipped for showing; lines share one scale.
    Errors: UsageError for other shapes, empty input, NaN and names that do not fit.
    Source: the walks between data of White (2016), Sampling generative networks, on a line.
    Example:
        >>> ax = interpolation(np.zeros((2, 5, 64)), (8, 8))
        >>> [label.get_text() for label in ax.get_xticklabels()]
        ['from', 'to']
    """
    decoded = as_steps(strips, "strips", shape)
    steps = decoded.shape[1]
    if decoded.ndim > 3:
        flat = decoded.reshape(-1, *decoded.shape[2:])
        ax, across, _ = cell_grid(flat, decoded.shape[2:], steps, ax)
        ends = [0, steps - 1] if steps > 1 else [0]
        ax.set_xticks(across[ends], ["from", "to"][: len(ends)])
    else:
        ax, _ = line_panels(decoded, np.linspace(0, 1, steps), ax, names)
        ends = [Line2D([], [], color=RAMP(place), linewidth=1.8) for place in (0.0, 1.0)]
        own_legend(ax, handles=ends, labels=["from", "to"])
    quiet_title(ax, "Interpolation")
    return ax


def traversals(
    decoded: ArrayLike,
    dims: Sequence[int],
    values: ArrayLike,
    shape: Sequence[int],
    ax: Axes | None = None,
    *,
    names: Sequence[str] | None = None,
) -> Axes:
    """What one latent dimension at a time does: a row for each dimension, a column for each value.

    Shapes: `decoded` (len(dims), len(values), *shape), or with the last axes flat; `dims` counted
    from 0 (z_1 is 0), `values` (V,); `shape` and `names` as in `interpolation`: lines are colored
    by the value.
    Units: `values` as the caller walked, deviations of the prior as a rule; the rest as in
    `interpolation`.
    Errors: UsageError for other shapes, empty input, NaN, and dimensions or values that do not fit.
    Source: the latent traversals of Higgins et al. (2017), beta-VAE, figure 1.
    Example:
        >>> ax = traversals(np.zeros((2, 3, 64)), [0, 4], [-2, 0, 2], (8, 8))
        >>> [label.get_text() for label in ax.get_yticklabels()]
        ['$z_{1}$', '$z_{5}$']
    """
    steps = as_steps(decoded, "decoded data", shape)
    line = as_floats(values, "values")
    if steps.shape[:2] != (len(dims), line.size) or line.ndim != 1:
        raise UsageError(
            f"expected decoded data for {len(dims)} dimensions and {line.size} values, found"
            f" {steps.shape[0]} and {steps.shape[1]}"
        )
    titles = [f"$z_{{{int(dim) + 1}}}$" for dim in dims]
    if steps.ndim > 3:
        flat = steps.reshape(-1, *steps.shape[2:])
        ax, across, down = cell_grid(flat, steps.shape[2:], len(line), ax)
        ax.set_xticks(across, [in_short(value) for value in line])
        ax.set_yticks(down, titles)
        ax.set_xlabel("value of the dimension", fontsize=LABEL, color=INK)
    else:
        ax = _lines_by_value(steps, line, titles, ax, names)
    quiet_title(ax, "Latent traversals")
    return ax


def samples_along_training(
    frames: ArrayLike, epochs: Sequence[int], shape: Sequence[int], ax: Axes | None = None
) -> Axes:
    """The same latent points decoded after several epochs: a row for each epoch.

    Shapes: `frames` (T, N, *shape), or (T, N, prod(shape)), and T `epochs`; `shape` is (H, W),
    (C, H, W) or, for data that are no pictures, (X,): these are drawn as small lines.
    Units: pictures in [0, 1], clipped for showing; lines share one scale.
    Errors: UsageError for other shapes, empty input, NaN and epochs that do not fit.
    Example:
        >>> ax = samples_along_training(np.zeros((2, 3, 64)), [1, 10], (8, 8))
        >>> [label.get_text() for label in ax.get_yticklabels()]
        ['1', '10']
    """
    decoded = as_steps(frames, "frames", shape)
    numbers = as_epochs(epochs, len(decoded))
    flat = decoded.reshape(-1, *decoded.shape[2:])
    ax, _, down = cell_grid(flat, decoded.shape[2:], decoded.shape[1], ax)
    ax.set_yticks(down, [str(number) for number in numbers])
    ax.set_ylabel("epoch", fontsize=LABEL, color=INK)
    quiet_title(ax, "Samples along training")
    return ax


def _lines_by_value(
    steps: Floats, line: Floats, titles: list[str], ax: Axes | None, names: Sequence[str] | None
) -> Axes:
    """A panel for each dimension with a line for each value, and the scale of their colors."""
    scale = Normalize(float(line.min()), float(line.max()) + (np.ptp(line) == 0))
    ax, inside = line_panels(steps, np.asarray(scale(line)), ax, names)
    for panel, title in zip(inside, titles, strict=True):
        panel.set_ylabel(title, fontsize=LABEL, color=INK)
    bar = ax.inset_axes((1.03, 0.0, 0.02, 1.0))
    colors = ax.figure.colorbar(ScalarMappable(scale, RAMP), cax=bar)
    colors.outline.set_visible(False)
    bar.tick_params(color=FAINT, labelcolor=INK, labelsize=SMALL, length=2)
    bar.set_ylabel("value of the dimension", fontsize=LABEL, color=INK)
    return ax

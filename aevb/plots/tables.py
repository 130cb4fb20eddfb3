"""Tables: columns against each other, over a plane of the latent space, and cell by cell."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from aevb.errors import UsageError
from aevb.plots.style import (
    FAINT,
    INK,
    LABEL,
    SMALL,
    TRAINING,
    VALIDATION,
    Floats,
    as_floats,
    calm_axes,
    column_names,
    own_axes,
    own_legend,
    panels,
    plain,
    quiet_title,
)

MOST_PAIRED, MOST_MAPS, MOST_POINTS = 5, 9, 2000


def pair_plot(
    rows: ArrayLike,
    others: ArrayLike | None = None,
    ax: Axes | None = None,
    *,
    names: Sequence[str] | None = None,
    labels: tuple[str, str] = ("data", "samples"),
) -> Axes:
    """The columns of a table against each other, data and samples in two colors.

    Histograms stand on the diagonal and points below it; two columns make one scatter with
    histograms at its margins, one column a histogram. Of more than five columns those five are
    drawn whose squared correlations with the others in `rows` have the largest sum.
    Shapes: `rows` (N, X) and `others` (M, X); NaN is a cell that was not observed and is left out.
    At most 2000 rows of each are drawn as points, equally spaced in their order; all are counted.
    Units: those of the columns; histograms give shares of the observed cells of each group. Limits
    hold all of `rows` and all but the outermost hundredth of `others`.
    Errors: UsageError for other shapes, infinite cells, no observed cell, and names or columns
    that do not fit.
    Example:
        >>> table = np.random.default_rng(0).normal(size=(50, 3))
        >>> ax = pair_plot(table, table + 1, names=["a", "b", "c"])
        >>> len(ax.child_axes)
        6
    """
    given = {"rows": rows} if others is None else {"rows": rows, "samples": others}
    groups = [as_floats(values, name, "NX", np.isnan) for name, values in given.items()]
    titles = column_names(names, groups[0].shape[1])
    if groups[0].shape[1] != groups[-1].shape[1]:
        raise UsageError(
            f"expected samples with the {groups[0].shape[1]} columns of the data, found"
            f" {groups[-1].shape[1]}"
        )
    chosen = _most_correlated(groups[0])
    groups, shown = [group[:, chosen] for group in groups], [titles[k] for k in chosen]
    if len(chosen) == 1:
        ax = own_axes(ax, 5.2, 3.0)
        _histogram(ax, [group[:, 0] for group in groups])
        calm_axes(ax, shown[0], "share")
    else:
        ax = (_joint if len(chosen) == 2 else _lower_triangle)(groups, shown, ax)
    most = f", {len(chosen)} of {len(titles)} columns" if len(chosen) < len(titles) else ""
    shown_as = [plain(label) for label in labels[: len(groups)]]
    title = " and ".join(shown_as)
    quiet_title(ax, f"{title[:1].upper()}{title[1:]}{most}")
    if others is not None:
        _key(ax, shown_as)
    return ax


def column_maps(maps: Floats, names: Sequence[str], ax: Axes | None) -> tuple[Axes, list[Axes]]:
    """A heat map for each of the first nine columns of (height, width, X), on its own scale."""
    titles = column_names(names, maps.shape[-1])
    shown = min(MOST_MAPS, len(titles))
    columns = min(3, shown)
    ax, inside = panels(ax, -(-shown // columns), columns, (1.7, 1.7), (0.75, 0.42))
    for panel in inside[shown:]:
        panel.remove()
    for k, panel in enumerate(inside[:shown]):
        image = panel.imshow(maps[..., k], cmap="viridis", aspect="auto", interpolation="nearest")
        panel.set_title(titles[k], fontsize=LABEL, color=INK, pad=4)
        panel.tick_params(color=FAINT, labelcolor=INK, labelsize=SMALL, length=2)
        panel.spines[:].set_visible(False)
        bar = panel.inset_axes((1.04, 0.0, 0.05, 1.0))
        scale = panel.figure.colorbar(image, cax=bar)
        scale.outline.set_visible(False)
        scale.locator = MaxNLocator(nbins=3)
        bar.tick_params(color=FAINT, labelcolor=INK, labelsize=SMALL, length=2)
    return ax, inside[:shown]


def _most_correlated(rows: Floats) -> NDArray[np.int64]:
    """The columns to draw, in order: five at most, those that say most about the others.

    Formula: sum_j r_ij^2 over the other columns, r the correlation over the cells that both have.
    """
    observed = ~np.isnan(rows)
    candidates = np.flatnonzero(observed.any(axis=0))
    if not len(candidates):
        raise UsageError("expected at least one observed cell in the rows, found none")
    if len(candidates) <= MOST_PAIRED:
        return candidates
    seen = observed[:, candidates]
    filled = np.where(seen, rows[:, candidates], 0.0)
    mean = filled.sum(axis=0) / seen.sum(axis=0)
    centered = np.where(seen, filled - mean, 0.0)
    scale = np.sqrt((centered**2).T @ seen)
    norms = scale * scale.T
    r = np.divide(centered.T @ centered, norms, out=np.zeros_like(norms), where=norms > 0)
    strength = (np.square(r) * ~np.eye(len(r), dtype=bool)).sum(axis=1)
    return np.sort(candidates[np.argsort(-strength, kind="stable")[:MOST_PAIRED]])


def _lower_triangle(groups: list[Floats], names: list[str], ax: Axes | None) -> Axes:
    """Histograms on the diagonal, points below it, nothing above."""
    count = len(names)
    ax, inside = panels(ax, count, count, (1.35, 1.35), (0.14, 0.14))
    for k, panel in enumerate(inside):
        row, column = divmod(k, count)
        if column > row:
            panel.remove()
            continue
        values = [group[:, column] for group in groups]
        if row == column:
            _histogram(panel, values)
        else:
            _points(panel, values, [group[:, row] for group in groups])
        last, first = row == count - 1, column == 0
        calm_axes(panel, names[column] if last else "", names[row] if first and row else "")
        panel.tick_params(labelbottom=last, labelleft=first and row > 0)
        panel.xaxis.set_major_locator(MaxNLocator(nbins=3, integer=_is_whole(values[0])))
        up = _is_whole(groups[0][:, row])
        panel.yaxis.set_major_locator(MaxNLocator(nbins=3, integer=up))
        panel.yaxis.set_label_coords(-0.42, 0.5)
        if row == column:
            panel.set_yticks([])
    return ax


def _joint(groups: list[Floats], names: list[str], ax: Axes | None) -> Axes:
    """One scatter with a histogram above and one at its right."""
    ax = own_axes(ax, 4.4, 4.4)
    ax.set_axis_off()
    middle = ax.inset_axes((0.0, 0.0, 0.8, 0.8))
    above = ax.inset_axes((0.0, 0.83, 0.8, 0.17))
    right = ax.inset_axes((0.83, 0.0, 0.17, 0.8))
    first, second = ([group[:, k] for group in groups] for k in (0, 1))
    _points(middle, first, second)
    _histogram(above, first)
    _histogram(right, second, upright=False)
    calm_axes(middle, *names)
    for margin in (above, right):
        margin.set_axis_off()
    return ax


def _points(ax: Axes, across: list[Floats], up: list[Floats]) -> None:
    """Points of all groups, drawn in turn so that no group hides the other."""
    colors = np.repeat([TRAINING, VALIDATION][: len(across)], [len(group) for group in across])
    turn = np.concatenate([(np.arange(len(g)) + 0.5) / len(g) for g in across])
    kept = [np.unique(np.linspace(0, len(g) - 1, MOST_POINTS).astype(int)) for g in across]
    drawn = np.concatenate([kept[0], *(len(across[0]) + index for index in kept[1:])])
    x, y = np.concatenate(across), np.concatenate(up)
    drawn = drawn[~np.isnan(x[drawn] + y[drawn])]
    drawn = drawn[np.argsort(turn[drawn], kind="stable")]
    area = max(2.0, min(16.0, 4e3 / max(len(drawn), 1)))
    ax.scatter(x[drawn], y[drawn], c=list(colors[drawn]), s=area, alpha=0.6, linewidths=0)
    ax.set_xlim(*_limits(across))
    ax.set_ylim(*_limits(up))


def _histogram(ax: Axes, groups: list[Floats], *, upright: bool = True) -> None:
    """Shares of the observed cells of each group, on bins that all share."""
    low, high = _limits(groups)
    bins = _bins(groups[0], low, high)
    for group, color in zip(groups, (TRAINING, VALIDATION), strict=False):
        seen = group[~np.isnan(group)]
        options: dict[str, Any] = {
            "bins": bins,
            "weights": np.full(len(seen), 1 / max(len(seen), 1)),
            "orientation": "vertical" if upright else "horizontal",
        }
        ax.hist(seen, color=color, alpha=0.3, **options)
        ax.hist(seen, color=color, histtype="step", linewidth=1.2, **options)
    (ax.set_xlim if upright else ax.set_ylim)(low, high)


def _bins(values: Floats, low: float, high: float) -> Floats:
    """Bins between the limits: one for each whole number where there are few of them."""
    seen = values[~np.isnan(values)]
    if _is_whole(seen) and high - low < 30:
        return np.arange(np.ceil(low) - 0.5, np.floor(high) + 1.0)
    return np.linspace(low, high, int(np.clip(np.sqrt(len(seen)), 8, 30)) + 1)


def _is_whole(values: Floats) -> bool:
    """Whether all observed cells are whole numbers."""
    seen = values[~np.isnan(values)]
    return bool((seen == seen.round()).all())


def _limits(groups: list[Floats]) -> tuple[float, float]:
    """Limits with some air that hold all of the first group and nearly all of the second."""
    seen = [group[~np.isnan(group)] for group in groups]
    ends = [seen[0].min(), seen[0].max()]
    if len(seen) > 1 and len(seen[1]):
        ends += np.quantile(seen[1], [0.005, 0.995]).tolist()
    low, high = float(min(ends)), float(max(ends))
    air = 0.05 * (high - low) or max(0.5, abs(high) / 20)
    if _is_whole(seen[0]) and high - low < 30:
        air = max(air, 0.5)  # half a bar
    return low - air, high + air


def _key(ax: Axes, labels: list[str]) -> None:
    """Which color is which."""
    looks: dict[str, Any] = {"linestyle": "", "marker": "o", "markersize": 5.0}
    colors = (TRAINING, VALIDATION)
    handles = [Line2D([], [], color=color, **looks) for color in colors]
    own_legend(ax, handles=handles, labels=labels, handletextpad=0.1)

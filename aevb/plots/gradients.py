"""Estimators of a gradient side by side: how much noise each leaves."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from aevb.errors import UsageError
from aevb.plots.style import (
    FAINT,
    INK,
    SMALL,
    TRAINING,
    VALIDATION,
    as_floats,
    calm_axes,
    own_axes,
    own_legend,
    plain,
    quiet_title,
)

COLORS = (TRAINING, VALIDATION)
LONGEST = 34


def gradient_variances(
    names: Sequence[str],
    variances: Mapping[str, ArrayLike],
    ax: Axes | None = None,
    *,
    biased: Collection[str] = (),
) -> Axes:
    """The variance of each estimator of a gradient, a row each, for one or two sets of parameters.

    Formula: tr Cov(g) of one datum's gradient, on a logarithmic axis; one without any variance has
    no point and says so.
    Shapes: `variances` has (K,) for each set, for K `names`; those in `biased` get a star.
    Units: nats squared, to the unit of the parameters.
    Errors: UsageError for other shapes, negative numbers, NaN, or more than two sets.
    Source: Mohamed et al. (2020), "Monte Carlo gradient estimation in machine learning".
    Example:
        >>> ax = gradient_variances(["A", "B"], {"phi": [4.0, 1.0]}, biased=["B"])
        >>> [label.get_text() for label in ax.get_yticklabels()]
        ['A', 'B *']
    """
    sets = {name: as_floats(values, name) for name, values in variances.items()}
    if not 1 <= len(sets) <= len(COLORS):
        raise UsageError(f"expected one or two sets of parameters, found {len(sets)}")
    for name, values in sets.items():
        if values.shape != (len(names),) or bool((values < 0).any()):
            raise UsageError(
                f"expected a variance of {name} for each of {len(names)} estimators, none of them "
                f"negative, found the shape {values.shape}"
            )
    ax = own_axes(ax, 4.6, max(1.2, 0.3 * len(names)))
    places = np.arange(len(names), 0, -1)
    for (name, values), color in zip(sets.items(), COLORS, strict=False):
        some = values > 0
        ax.plot(values[some], places[some], "o", color=color, markersize=5, label=plain(name))
    ax.set_xscale("log")
    ax.hlines(places, *ax.get_xlim(), color=FAINT, linewidth=0.6, zorder=0)
    none = np.all([values == 0 for values in sets.values()], axis=0)
    for place in places[none]:
        ax.annotate(
            "no variance",
            (0.02, place),
            xycoords=("axes fraction", "data"),
            fontsize=SMALL,
            color=INK,
            verticalalignment="center",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.0},
        )
    calm_axes(ax, "variance of one datum's gradient, nats squared", "")
    ax.set_yticks(places, [_label(name, name in biased) for name in names])
    ax.set_ylim(0.4, len(names) + 0.6)
    own_legend(ax)
    quiet_title(ax, "Noise of the gradient" + ("   * biased" if biased else ""))
    return ax


def _label(name: str, biased: bool) -> str:
    return plain(name, LONGEST) + (" *" if biased else "")

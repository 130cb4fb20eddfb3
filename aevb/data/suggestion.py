"""What suits the data: a likelihood, the kinds of the columns, and how rows are drawn."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from aevb.data.checks import chunks
from aevb.data.source import Kind
from aevb.data.survey import extremes

SUGGESTION_ROWS = 10_000
"""How many rows tell whether numbers vary like counts, and whether a row is a signal."""

MOST_COLUMNS = 1000
"""Tables up to this width are looked at column by column."""

_COLUMN_CELLS = 1 << 19
_SIGNAL_WIDTH = 16

Levels = Sequence[tuple[str, ...]]


def suggest(
    values: NDArray[np.generic],
    scale: float,
    levels: Levels = (),
    bounds: NDArray[np.float32] | None = None,
) -> tuple[str, str]:
    """The name of the likelihood that suits the values times `scale`, and a clause that says why.

    Formula: counts are taken for draws of a negative binomial only where their variance is at
    least half their mean, since a negative binomial's variance exceeds its mean.
    Shapes: `values` (N, ...); `levels` the texts of each of X columns, or none; `bounds` (3, ...)
    the `extremes` of the values where they are known. NaN is a cell that was not observed.
    Example:
        >>> suggest(np.array([[0, 1], [1, 1]]), 1.0)
        ('bernoulli', 'every value is 0 or 1')
        >>> suggest(np.array([[0, 1.5], [1, 2.5]]), 1.0)
        ('mixed', '1 real and 1 binary column')
    """
    bounds = extremes(values) if bounds is None else bounds
    x = bounds * np.float64(scale)
    unit, whole = bool(((x >= 0) & (x <= 1) | np.isnan(x)).all()), bool(_whole(x).all())
    by_column = values.ndim == 2 and (values.shape[1] <= MOST_COLUMNS or any(levels))
    kinds = column_kinds(values, scale, levels, bounds) if by_column else []
    if unit and whole and "category" not in kinds:
        return "bernoulli", "every value is 0 or 1"
    if not any(levels):
        if unit:
            return "gaussian", "every value lies in [0, 1]"
        if whole and not (by_column and any(_too_even(values, scale))):
            return "negative-binomial", "every value is a count 0, 1, 2, ..."
    if len(set(kinds)) > 1:
        return "mixed", _tally(kinds)
    if "category" in kinds:
        sizes = {len(texts) for texts in levels}
        if len(sizes) > 1:
            return "mixed", f"{_tally(kinds)} with different numbers of levels"
        return "categorical", f"every column holds {sizes.pop()} different texts"
    if whole:
        return "gaussian", "values are whole and vary less than counts do"
    return "gaussian", "values lie outside [0, 1] and are no counts"


def column_kinds(
    values: NDArray[np.generic],
    scale: float,
    levels: Levels = (),
    bounds: NDArray[np.float32] | None = None,
) -> list[Kind]:
    """The kind of each column of a table.

    Shapes: `values` (N, X); a list of X; the others as of `suggest`.
    Example:
        >>> column_kinds(np.array([[0, 0.5, 3], [1, 2.5, 0], [1, 3.0, 9]]), 1.0)
        ['binary', 'real', 'count']
    """
    x = (extremes(values) if bounds is None else bounds) * np.float64(scale)
    whole = _whole(x)
    binary = whole & (x[0] == 0) & (x[1] == 1)
    varied: list[bool] = []
    for block in _columns(values, scale):
        missing = np.isnan(block)
        low, high = np.nanmin(block, 0, initial=np.inf), np.nanmax(block, 0, initial=-np.inf)
        many = ~((block == low) | (block == high) | missing).all(0)
        varied += list(many & ~_even(block, missing))
    kinds: list[Kind] = [
        "binary" if b else "count" if w and v else "real"
        for b, w, v in zip(binary, whole, varied, strict=True)
    ]
    for column, texts in enumerate(levels):
        if texts:
            kinds[column] = "category" if len(texts) > 2 else "binary"
    return kinds


def is_signal(values: NDArray[np.generic]) -> bool:
    """Whether the neighbors in a row are alike, as in a signal over time and not in a table.

    Formula: von Neumann's ratio below 1: the mean squared difference of neighbors over the
    variance within rows; it is 2 on average where neighbors have nothing in common.
    Shapes: `values` (N, X), of which the first `SUGGESTION_ROWS` rows are looked at.
    Source: von Neumann, Distribution of the ratio of the mean square successive difference to the
    variance, Annals of Mathematical Statistics 12, 1941.
    Example:
        >>> is_signal(np.sin(np.arange(64.0).reshape(2, 32) / 5))
        True
    """
    if values.ndim != 2 or values.shape[1] < _SIGNAL_WIDTH:
        return False
    steps = spread = 0.0
    for _, block in chunks(values[:SUGGESTION_ROWS]):
        x = block.astype(np.float64)
        seen = ~np.isnan(x)
        n = np.maximum(seen.sum(1, keepdims=True), 1)
        x -= np.where(seen, x, 0).sum(1, keepdims=True) / n
        pairs = seen[:, 1:] & seen[:, :-1]
        squares = np.where(pairs, np.diff(x, axis=1), 0) ** 2
        steps += float((squares.sum(1) / np.maximum(pairs.sum(1), 1)).sum())
        spread += float((np.where(seen, x, 0) ** 2 / n).sum())
    return steps < spread


def _whole(bounds: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which columns hold whole numbers from 0 alone, as far as anything is observed."""
    return np.asarray(((bounds >= 0) & (bounds == np.floor(bounds)) | np.isnan(bounds)).all(0))


def _columns(values: NDArray[np.generic], scale: float) -> Iterator[NDArray[np.float64]]:
    """The first rows of a table, some columns at a time."""
    head = values[:SUGGESTION_ROWS]
    step = max(1, _COLUMN_CELLS // len(head))
    for start in range(0, head.shape[1], step):
        yield head[:, start : start + step].astype(np.float64) * scale


def _even(block: NDArray[np.float64], missing: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which columns vary too little for counts: variance below half the mean."""
    n = np.maximum((~missing).sum(0), 1)
    mean = np.where(missing, 0, block).sum(0) / n
    squares = np.where(missing, 0, (block - mean) ** 2).sum(0)
    return np.asarray(squares / np.maximum(n - 1, 1) < mean / 2)


def _too_even(values: NDArray[np.generic], scale: float) -> Iterator[bool]:
    for block in _columns(values, scale):
        yield bool(_even(block, np.isnan(block)).any())


def _tally(kinds: Sequence[Kind]) -> str:
    """How many columns are of each kind: "2 real, 1 count and 1 binary column"."""
    counts = Counter(kinds)
    present = [kind for kind in get_args(Kind) if counts[kind]]
    parts = [f"{counts[kind]} {kind}" for kind in present]
    text = " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))
    return f"{text} column{'s' if counts[present[-1]] > 1 else ''}"

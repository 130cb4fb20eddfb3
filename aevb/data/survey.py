"""The one pass over all cells before training: are they numbers, and between which bounds.

What is found is kept with the data, so that later questions, whether they lie in [0, 1] or in the
domain of a likelihood, need no pass of their own where the answer is yes.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from aevb.data.checks import Rules, Table, chunks, column_label, first_cell, not_finite
from aevb.errors import DataError

_LARGEST = np.finfo(np.float32).max


class Survey(NamedTuple):
    """What a pass over a table found.

    Shapes: `extremes` (3, ...), for each column as `Source` says it. `missing` counts the cells
    that are missing; `first` says where the first stands: "line 5, column 3". `levels` has values
    of an array of bytes, the lowest and the highest among them: all of them, or more than two.
    """

    missing: int
    first: str
    extremes: NDArray[np.float32]
    levels: frozenset[int]


class _Marks:
    """How many cells were marked, and which was the first."""

    def __init__(self) -> None:
        self.count = 0
        self.row = self.column = 0
        self.found: object = None

    def add(self, start: int, block: NDArray[np.generic], mask: NDArray[np.bool_]) -> None:
        if mask.any():
            if not self.count:
                row, self.column = first_cell(mask)
                self.row, self.found = start + row, block[row - 1, self.column - 1]
            self.count += int(np.count_nonzero(mask))


def survey(where: object, table: Table, rules: Rules) -> Survey:
    """Look at every cell once.

    Errors: DataError for infinity, for what is infinite in 32 bits, for NaN unless it is allowed,
    and for a column that is to be learned from and has no cell.
    """
    pass_ = _passed(table.values)
    _check(where, table, rules, pass_)
    missing = pass_.missing
    first = f"{table.place(missing.row - 1)}, column {missing.column}" if missing.count else ""
    return Survey(missing.count, first, pass_.extremes(), frozenset(pass_.levels))


def extremes(values: NDArray[np.generic]) -> NDArray[np.float32]:
    """The lowest of each column, the highest, and one that is not whole, as `Source` has them.

    Shapes: `values` (N, ...), finite or NaN; the result (3, ...).
    """
    return _passed(values).extremes()


def _passed(values: NDArray[np.generic]) -> "_Pass":
    pass_ = _Pass(values.shape[1:])
    for start, block in chunks(values):
        pass_.add(start, block)
    return pass_


def _check(where: object, table: Table, rules: Rules, found: "_Pass") -> None:
    far, missing = found.far, found.missing
    if far.count:
        raise not_finite(where, table.place(far.row - 1), far.column, far.found, far.count)
    if missing.count and not (rules.allow_nan or table.checked):
        place = table.place(missing.row - 1)
        raise not_finite(where, place, missing.column, "nan", missing.count)
    if table.values.ndim == 2 and rules.fit and not found.seen.all():
        column = int(np.argmin(found.seen))
        raise DataError(
            f"{where}: expected at least one cell in {column_label(column, table.names)}, found "
            f"none; remove the column"
        )


class _Pass:
    """What is known of X columns, of the given shape, after some blocks of rows."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape
        width = math.prod(shape)
        self.missing, self.far = _Marks(), _Marks()
        self.levels: set[int] = set()
        self.low = np.full(width, np.inf, np.float32)
        self.high = np.full(width, -np.inf, np.float32)
        self.odd = np.full(width, np.nan, np.float32)
        self.may_be_whole = np.arange(width)

    @property
    def seen(self) -> NDArray[np.bool_]:
        """Which columns have a cell that is not missing."""
        return self.low <= self.high

    def add(self, start: int, block: NDArray[np.generic]) -> None:
        """Take the rows `start` and after; shapes: `block` (n, X)."""
        low, high = np.minimum.reduce(block), np.maximum.reduce(block)
        if block.dtype.kind == "f":
            if np.isnan(low).any():
                nan = np.isnan(block)
                self.missing.add(start, block, nan)
                low, high = np.fmin.reduce(block), np.fmax.reduce(block)
            if (low < -_LARGEST).any() or (high > _LARGEST).any():
                self.far.add(start, block, np.abs(block) > _LARGEST)
                return  # it will be refused
            self._find_odd(block)
        elif block.dtype == np.uint8:
            self._find_levels(block, int(low.min()), int(high.max()))
        self.low = np.fmin(self.low, low.astype(np.float32))
        self.high = np.fmax(self.high, high.astype(np.float32))

    def _find_odd(self, block: NDArray[np.generic]) -> None:
        """Note a number that is not whole in each column that had none, as 32 bits have it."""
        at = self.may_be_whole
        if not len(at):
            return
        x = (block if len(at) == block.shape[1] else block[:, at]).astype(np.float32, copy=False)
        odd = x > np.floor(x)
        if not odd.any():
            return
        some = np.asarray(odd.any(0))
        self.odd[at[some]] = x[odd.argmax(0)[some], np.flatnonzero(some)]
        self.may_be_whole = at[~some]

    def _find_levels(self, block: NDArray[np.generic], low: int, high: int) -> None:
        if len(self.levels) < 3:
            self.levels |= {low, high}
            between = (block != low) & (block != high) if high > low + 1 else np.False_
            if between.any():
                self.levels.add(int(block[between][0]))

    def extremes(self) -> NDArray[np.float32]:
        """The lowest of each column, the highest, and one that is not whole or else the lowest."""
        low, high = (np.where(self.seen, x, np.nan) for x in (self.low, self.high))
        odd = np.where(np.isnan(self.odd), low, self.odd)
        if len(self.levels) > 2:
            # Pixels between two levels are no whole numbers in the units of the model.
            odd = np.where(high > low + 1, low + 1, odd)
        return np.stack([low, high, odd]).astype(np.float32).reshape(3, *self.shape)

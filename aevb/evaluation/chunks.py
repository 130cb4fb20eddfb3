"""Work on the rows of a data set, a chunk at a time: counted, kept, and taken up again.

What is done for a row depends on the row and its number alone, so that no result depends on the
chunks, nor on whether the work was stopped and resumed.
"""

import time
from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aevb.data import Rows, require_rows
from aevb.model import Model

Array = NDArray[np.float64]
Progress = Callable[[int, int], None]
"""Called with (data done, data in all)."""
SECONDS_BETWEEN_SAVES = 10.0


class Kept(Protocol):
    """A place where unfinished work outlasts the program: a table of numbers, or nothing yet.

    Shapes: the table of `by_chunks` is (C + 1, N), float64: C numbers of each row, and below them
    1 where a row is done. One of another shape is not taken up.
    Example:
        >>> class Memory:
        ...     table = None
        ...
        ...     def load(self):
        ...         return self.table
        ...
        ...     def save(self, table):
        ...         self.table = table.copy()
        >>> from aevb.linear_gaussian import linear_gaussian
        >>> model = linear_gaussian([[0.6], [0.8]], [0.0, 0.0], 1.0)
        >>> rows, memory = Rows(np.ones((3, 2)), np.arange(3), (2,)), Memory()
        >>> for _ in range(2):  # the second time there is nothing left to do
        ...     work = lambda positions, x: [print("at work") or x.sum(1)]
        ...     (sums,), _ = by_chunks(model, rows, 3, 1, work, kept=memory)
        at work
        >>> sums
        array([2., 2., 2.])
    """

    def load(self) -> Array | None:
        """What was saved last."""

    def save(self, table: Array) -> None:
        """Put a table in place of what was there."""


def by_chunks(
    model: Model,
    rows: Rows,
    size: int,
    columns: int,
    work: Callable[[NDArray[np.int64], Tensor], list[Tensor]],
    *,
    kept: Kept | None = None,
    progress: Progress | None = None,
) -> tuple[list[Array], float]:
    """So many numbers for each row, made by `work` from positions (M,) and x (M, *X), `size` at a
    time; and how many cells of a row were observed in the mean.

    Shapes: `work` gives `columns` tensors (M,); the result as many arrays (N,).
    Errors: UsageError for no rows; DataError for rows outside the likelihood's domain, with their
    own numbers.
    Example:
        >>> from aevb.linear_gaussian import linear_gaussian
        >>> model = linear_gaussian([[0.6], [0.8]], [0.0, 0.0], 1.0)
        >>> rows = Rows(np.ones((3, 2)), np.arange(3), (2,))
        >>> by_chunks(model, rows, 2, 1, lambda positions, x: [x.sum(1)])
        ([array([2., 2., 2.])], 2.0)
    """
    table = np.full((columns + 1, len(require_rows(rows))), np.nan)
    table[-1] = 0.0  # what is done
    found = None if kept is None else kept.load()
    if found is not None and found.shape == table.shape:
        table = found
    observed, saved, fresh = 0, time.monotonic(), False
    try:
        for positions, x in rows.chunks(size):
            observed += int((~torch.isnan(x)).sum())
            if not table[-1, positions].all():
                if model.family is not None:  # by the rows' own numbers
                    model.family.check(x, int(positions[0]) + 1)
                for column, numbers in zip(table[:-1], work(positions, x), strict=True):
                    column[positions] = numbers.double().cpu().numpy()
                table[-1, positions] = 1.0
                fresh = True
            if kept is not None and fresh and time.monotonic() - saved > SECONDS_BETWEEN_SAVES:
                kept.save(table)
                saved, fresh = time.monotonic(), False
            if progress is not None:
                progress(int(positions[-1]) + 1, len(rows))
    finally:
        if kept is not None and fresh:
            kept.save(table)
    return list(table[:-1]), observed / len(rows)

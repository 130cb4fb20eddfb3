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

from aevb.data import Rows
from aevb.model import Model

Array = NDArray[np.float64]
Progress = Callable[[int, int], None]
"""Called with (data done, data in all)."""
SECONDS_BETWEEN_SAVES = 10.0


class Kept(Protocol):
    """A place where unfinished work outlasts the program: a table of numbers, or nothing yet."""

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
    Errors: DataError for rows outside the likelihood's domain, with their own numbers.
    """
    table = np.full((columns + 1, len(rows)), np.nan)
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

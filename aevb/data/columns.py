"""Columns of text: which are numbers after all, and which become codes of sorted levels."""

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from aevb.data.checks import Rules
from aevb.errors import DataError

MOST_LEVELS = 100
FEW_ROWS = 10
"""In a table of so few rows every text may be another one."""

_GROUPED = re.compile(r"\s*[+-]?\d+(,\d+)+(\.\d*)?\s*")


def number(cell: str) -> float | None:
    """The number in a cell, or None; an underscore is a number to Python, not in a table."""
    try:
        return None if "_" in cell else float(cell)
    except ValueError:
        return None


def not_a_number(where: object, place: str, column: int, cell: str) -> DataError:
    """The sentence for a text among numbers."""
    cure = "mend or remove the row"
    if has_comma(cell):
        cure = "write a point before the decimals, and no other mark"
    elif {";", "\t"} & set(cell):
        cure = "separate cells by commas"
    return DataError(
        f"{where}, {place}, column {column}: expected a number, found {cell[:40]!r}; {cure}"
    )


def has_comma(cell: str) -> bool:
    """Whether a cell is a number with a comma in it, as in 1,5 or 1,000.

    Example:
        >>> has_comma("1,5"), has_comma("1, 5")
        (True, False)
    """
    return _GROUPED.fullmatch(cell) is not None


def code_by_level(
    where: object, label: str, codes: NDArray[np.float32], texts: Sequence[str], rules: Rules
) -> tuple[str, ...]:
    """Turn codes in order of appearance into codes of sorted levels, in place.

    Shapes: `codes` (N,), where NaN is a missing cell and k stands for texts[k].
    Errors: DataError for too many levels, and, where a model is to be fitted, for a constant.
    """
    rows, found = len(codes), len(texts)
    if found > MOST_LEVELS or (rules.fit and rows > FEW_ROWS and found > rows / 2):
        count = f"more than {MOST_LEVELS}" if found > MOST_LEVELS else f"{found}"
        raise DataError(
            f"{where}, {label}: the column holds text with {count} different values in {rows} "
            f"rows, such as {texts[0][:40]!r}; remove it or make numbers of it"
        )
    if rules.fit and found == 1:
        raise DataError(
            f"{where}, {label}: the column holds one text only, {texts[0][:40]!r}, from which "
            f"nothing can be learned; remove it"
        )
    levels = sorted(texts)
    place = np.array([levels.index(text) for text in texts], np.float32)
    seen = ~np.isnan(codes)
    codes[seen] = place[codes[seen].astype(np.int64)]
    return tuple(levels)

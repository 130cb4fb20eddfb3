"""Columns of text: which are numbers after all, and which become codes of sorted levels."""

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from aevb.data.checks import Rules, Table, column_label
from aevb.errors import DataError

MOST_LEVELS = 100
MOST_CLASSES = 1000
"""Texts of a column that says the class; no column is coded by more."""
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
    where: object, label: str, codes: NDArray[np.float32], texts: Sequence[str]
) -> tuple[str, ...]:
    """Turn codes in order of appearance into codes of sorted levels, in place.

    Shapes: `codes` (N,), where NaN is a missing cell and k stands for texts[k].
    Errors: DataError for more than `MOST_CLASSES` levels.
    """
    if len(texts) > MOST_CLASSES:
        raise _too_many(where, label, f"more than {MOST_CLASSES}", len(codes), texts[0])
    levels = sorted(texts)
    place = np.array([levels.index(text) for text in texts], np.float32)
    seen = ~np.isnan(codes)
    codes[seen] = place[codes[seen].astype(np.int64)]
    return tuple(levels)


def check_levels(where: object, table: Table, rules: Rules) -> None:
    """Hold the texts of all columns, that of the class left out, to what a model learns from.

    Errors: DataError for too many levels, and, where a model is to be fitted, for a constant.
    """
    rows = len(table.values)
    for at, levels in enumerate(table.levels):
        found, label = len(levels), column_label(at, table.names)
        if found > MOST_LEVELS or (rules.fit and rows > FEW_ROWS and found > rows / 2):
            raise _too_many(where, label, str(found), rows, levels[0])
        if rules.fit and found == 1:
            raise DataError(
                f"{where}, {label}: the column holds one text only, {levels[0][:40]!r}, from which "
                f"nothing can be learned; remove it"
            )


def _too_many(where: object, label: str, count: str, rows: int, text: str) -> DataError:
    return DataError(
        f"{where}, {label}: the column holds text with {count} different values in {rows} rows, "
        f"such as {text[:40]!r}; remove it or make numbers of it"
    )

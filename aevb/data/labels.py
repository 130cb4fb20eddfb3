"""A column of a table that says each row's class: taken out of the rows, and coded."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aevb.data.checks import Table, column_label, listed
from aevb.data.columns import MOST_CLASSES
from aevb.data.source import UNLABELED
from aevb.errors import DataError


def split_off(where: str, table: Table, label: str) -> Table:
    """The table without the column of this name, whose cells become labels k of `classes`.

    Classes are texts, or whole numbers spelled as texts, sorted; an empty cell is a row without a
    class, -1. Where there is no header a column is called by its number, from 1.
    Errors: DataError for no such column, or one that holds no classes.
    Example:
        >>> rows = Table(np.array([[0.5, 2.0], [1.5, 1.0], [1.0, np.nan]]), names=("x", "y"))
        >>> split = split_off("rows.csv", rows, "y")
        >>> split.names, split.labels.tolist(), split.classes
        (('x',), [1, 0, -1], ('1', '2'))
    """
    at = _place(where, table, label)
    names, levels = table.names, table.levels
    cells = table.values[:, at].astype(np.float64)
    found = column_label(at, names)
    labels, classes = (
        (_coded(cells), levels[at])
        if any(levels[at : at + 1])
        else _whole(where, found, cells, _most(table.values), table.place)
    )
    if not 2 <= len(classes) <= MOST_CLASSES:
        raise DataError(
            f"{where}, {found}: expected 2 to {MOST_CLASSES} classes, found {len(classes)}; name "
            "the column that says the class"
        )
    if table.values.shape[1] == 1:
        raise DataError(f"{where}: {found} is the only one: there is nothing to tell classes by")
    return table._replace(
        values=np.delete(table.values, at, axis=1),
        names=names[:at] + names[at + 1 :],
        levels=left if any(left := levels[:at] + levels[at + 1 :]) else (),
        labels=labels,
        classes=classes,
    )


def has_label(table: Table, label: str, others: int) -> bool:
    """Whether new rows, of which a model knows so many columns, come with the class beside them."""
    if table.names:
        return label in table.names
    return table.values.ndim == 2 and table.values.shape[1] == others + 1


def _place(where: str, table: Table, label: str) -> int:
    """The column that is meant, from 0."""
    if table.values.ndim != 2:
        raise DataError(f"{where}: expected a table, of which one column says the class")
    if label in table.names:
        return table.names.index(label)
    width = table.values.shape[1]
    if table.names:
        raise DataError(f"{where}: no column is called {label[:40]!r}: {listed(table.names)}")
    if label.isdecimal() and 1 <= int(label) <= width:
        return int(label) - 1
    raise DataError(
        f"{where} has no header: say which of the columns 1 to {width} holds the class, found "
        f"{label[:40]!r}"
    )


def _coded(codes: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.where(np.isnan(codes), UNLABELED, codes).astype(np.int64)


def _most(values: NDArray[Any]) -> int:
    """The largest whole number whose neighbors are told from it, in a table of this type."""
    kind: Any = values.dtype if values.dtype.kind == "f" else np.float64
    return int(2 ** (np.finfo(kind).nmant + 1))


def _whole(
    where: str, found: str, cells: NDArray[np.float64], most: int, place: Callable[[int], str]
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Labels and classes of a column of numbers."""
    known = ~np.isnan(cells)
    odd = known & ((cells != np.round(cells)) | (np.abs(cells) > most))
    if odd.any():
        row = int(np.argmax(odd))
        raise DataError(
            f"{where}, {found}: expected classes, texts or whole numbers up to {most:,}, found "
            f"{cells[row]:g} in {place(row)}; name the column that says the class"
        )
    numbers, codes = np.unique(cells[known], return_inverse=True)
    labels = np.full(len(cells), UNLABELED)
    labels[known] = codes
    return labels, tuple(str(int(number)) for number in numbers)

"""Rows of data as files: .npy as numbers, .csv with the header and the texts of a table."""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aevb.data import Column
from aevb.errors import UsageError
from aevb.files import write
from aevb.storage.files import npy_bytes

Array = NDArray[np.float64]
Cells = list[list[str]]


def write_array(target: Path, array: NDArray[Any], header: Sequence[str] = ()) -> None:
    """Write numbers to .npy, or to .csv, (N, X), with a header where one is given.

    Errors: UsageError for another suffix, for a .csv of more than two axes, and for a place that
    cannot be written.
    """
    if target.suffix == ".csv":
        if array.ndim > 2:
            raise UsageError(
                f"{target}: an array of shape {array.shape} does not fit into the rows of a .csv: "
                "write it to .npy"
            )
        rows = array.reshape(len(array), -1)
        write_csv(target, header, ([number(cell) for cell in row] for row in rows))
        return
    if target.suffix != ".npy":
        raise UsageError(f"{target} must end in .npy, .csv or, for pictures, .png")
    write(target, npy_bytes(array))


def dimensions(codes: NDArray[Any]) -> list[str]:
    """What the columns of codes (N, D) are called: z1, z2, ...."""
    return [f"z{d + 1}" for d in range(codes.shape[1])]


def write_csv(target: Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write a table of texts, under a header where one is given, in one step."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if any(header):
        writer.writerow(header)
    writer.writerows(rows)
    write(target, text.getvalue().encode())


def write_rows(
    target: Path, array: Array, columns: Sequence[Column], *, drawn: bool = False
) -> None:
    """Write rows of data (N, X): to .csv with the header and the texts of the run's columns.

    Means of a column with two texts are probabilities of the second and stay numbers; draws are
    texts, as are those of a category, whose mean is the most probable one.
    Errors: as `write_array`.
    """
    if target.suffix == ".csv" and columns:
        cells = text_of_rows(array, columns, drawn=drawn)
        write_csv(target, [column.name for column in columns], cells)
    else:
        write_array(target, array)


def text_of_rows(array: NDArray[Any], columns: Sequence[Column], *, drawn: bool) -> Cells:
    """The cells of rows (N, X) as a table has them."""
    by_column = [_texts(array[:, at], column, drawn=drawn) for at, column in enumerate(columns)]
    return [list(row) for row in zip(*by_column, strict=True)]


def _texts(values: NDArray[Any], column: Column, *, drawn: bool) -> list[str]:
    if column.levels and (drawn or column.kind == "category"):
        places = np.clip(np.round(values), 0, len(column.levels) - 1).astype(int)
        return [column.levels[place] for place in places]
    return [number(value) for value in values]


def write_filled(
    target: Path,
    filled: Array,
    original: NDArray[Any],
    columns: Sequence[Column],
    source: Path | None,
) -> None:
    """Write rows whose missing cells were filled; all others stay what they were.

    A .csv is a table of the same kind again: whole numbers in columns of counts and of 0 and 1,
    texts in columns of text, the most probable ones; an .npy has the means as they are.
    Shapes: `original` (N, X) in the units of the file, NaN where a cell was missing; `source` is
    the file that it was read from, whose very texts are kept where both are .csv.
    Errors: as `write_array`.
    """
    holes = np.isnan(original)
    if target.suffix != ".csv":
        write_array(target, np.where(holes, filled, original))
        return
    names = [column.name for column in columns]
    kinds = columns or [Column("", "real")] * original.shape[1]
    whole = [column.kind in ("count", "binary") for column in kinds]
    cells = text_of_rows(np.where(whole, np.round(filled), filled), kinds, drawn=True)
    if source is not None and source.suffix.lower() == ".csv":
        names, kept = _raw(source, len(original), names)
    else:
        kept = _kept(original, kinds)
    for row, at in np.argwhere(~holes):
        cells[row][at] = kept[row][at]
    write_csv(target, names, cells)


def _kept(original: NDArray[Any], columns: Sequence[Column]) -> Cells:
    """Observed cells in the fewest digits that give them back, or as the texts they stand for."""
    whole = np.nan_to_num(original) if original.dtype.kind == "f" else original
    return [
        [
            column.levels[int(cell)] if column.levels else str(cell).removesuffix(".0")
            for cell, column in zip(row, columns, strict=True)
        ]
        for row in whole
    ]


def _raw(source: Path, count: int, names: list[str]) -> tuple[list[str], Cells]:
    """The header of a .csv, or the names where it has none, and its cells as they were written."""
    with source.open(newline="", encoding="utf-8-sig") as stream:
        rows = [row for row in csv.reader(stream, strict=True) if row]
    return (rows[0], rows[1:]) if len(rows) > count else (names, rows)


def number(value: Any) -> str:
    """A number in nine digits, whole numbers without a point."""
    return f"{value:.9g}"

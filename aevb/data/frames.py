"""Readers of tables with typed columns: .parquet, and frames of pandas and of polars.

None of the three libraries is imported to look at a frame of another.
"""

import datetime
import numbers
import sys
from collections.abc import Callable, Hashable, Iterable, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aevb.data.checks import (
    Rules,
    Table,
    check_names,
    check_resolution,
    column_label,
    first_cell,
    not_finite,
    row_place,
)
from aevb.data.columns import code_by_level, not_a_number, number
from aevb.errors import DataError


class Cells(NamedTuple):
    """A column as it was found: numbers with a mask of the missing, or codes of texts.

    Shapes: `values` (N,): floats, or whole numbers k >= 0 for texts[k] and -1 for a missing cell;
    `null` (N,). `declared` says that the column is a category by its type, whatever its texts.
    """

    values: NDArray[Any]
    null: NDArray[np.bool_]
    texts: list[str] | None = None
    declared: bool = False


def is_frame(data: object) -> bool:
    """Whether an object is a table of pandas or of polars; neither is imported to find out."""
    return _library(data) is not None


def _library(data: object) -> str | None:
    """The library of the class of an object, or of a class that it is made from."""
    found = (kind.__module__.split(".")[0] for kind in type(data).__mro__)
    return next((name for name in found if name in ("pandas", "polars")), None)


def read_frame(data: Any, where: str, rules: Rules) -> Table:
    """Read a DataFrame of pandas or of polars; it is never changed.

    Errors: DataError for another object of theirs, and for columns of no numbers and no text.
    """
    kind = type(data).__name__
    if len(getattr(data, "shape", ())) != 2:
        cure = ".collect()" if kind == "LazyFrame" else ".to_frame()"
        raise DataError(f"{where}: expected a DataFrame, found a {kind}; call {cure} on it first")
    names = frame_names(data, where)
    width = data.shape[1]
    if _library(data) == "pandas":
        cells = (_pandas_cells(data.iloc[:, at], where, at, names) for at in range(width))
    else:
        cells = (_polars_cells(column, where, at, names) for at, column in enumerate(data))
    return assemble(where, (len(data), width), names, cells, rules)


def frame_names(data: Any, where: str) -> tuple[str, ...]:
    """The names of a frame's columns; none where they are numbers, as pandas has them by default.

    Errors: DataError where some are text and some are not, for an empty name, and a double one.
    """
    found: list[Hashable] = list(data.columns)
    names = tuple(name for name in found if isinstance(name, str))
    if names and len(names) < len(found):
        other = next(name for name in found if not isinstance(name, str))
        raise DataError(
            f"{where}: expected names of columns that are all text or all numbers, found "
            f"{names[0][:40]!r} and {str(other)[:40]}; rename them"
        )
    check_names(where, names)
    return names


def assemble(
    where: str,
    shape: tuple[int, int],
    names: tuple[str, ...],
    columns: Iterable[Cells],
    rules: Rules,
) -> Table:
    """Put columns into one table of float32, missing cells as NaN and texts as codes of levels."""
    values = np.empty(shape, np.float32)
    levels: list[tuple[str, ...]] = [()] * shape[1]
    written = np.zeros(shape, np.bool_)  # NaN that are numbers, and no missing cells
    low, high = np.empty((2, shape[1]))
    for at, cells in enumerate(columns):
        found = _numbers(where, at, cells)
        if found is None:
            codes, texts = _without_nan(cells)
            levels[at] = code_by_level(where, column_label(at, names), codes, texts)
            found = codes
        low[at] = np.fmin.reduce(found, initial=np.inf)
        high[at] = np.fmax.reduce(found, initial=-np.inf)
        with np.errstate(over="ignore", invalid="ignore"):
            values[:, at] = found
        values[cells.null, at] = np.nan
        written[:, at] = np.isnan(values[:, at]) & ~cells.null
    if written.any() and not rules.allow_nan:
        row, column = first_cell(written)
        raise not_finite(where, row_place(row - 1), column, "nan", int(written.sum()))
    if rules.fit:
        check_resolution(where, low, high, names)
    return Table(values, names=names, levels=tuple(levels) if any(levels) else (), checked=True)


def _numbers(where: str, at: int, cells: Cells) -> NDArray[Any] | None:
    """The numbers of a column, or None where it is one of text."""
    if cells.texts is None:
        return cells.values
    if cells.declared:
        return None if cells.texts else np.full(len(cells.values), np.nan)
    known = [number(text) for text in cells.texts]
    # One place more, so that the code -1 of a missing cell finds a NaN.
    values = np.array([np.nan if value is None else value for value in known] + [np.nan])
    is_text = np.array([value is None for value in known] + [False])
    texts = int(np.count_nonzero(is_text[cells.values]))
    if texts > np.count_nonzero(~np.isnan(values[cells.values])):
        return None
    if texts:
        row = int(np.argmax(is_text[cells.values]))
        raise not_a_number(where, row_place(row), at + 1, cells.texts[cells.values[row]])
    return np.asarray(values[cells.values])


def _without_nan(cells: Cells) -> tuple[NDArray[np.float32], list[str]]:
    """Codes of texts, and the texts; NaN for a missing cell, and for a text that spells NaN."""
    nan = [k for k, text in enumerate(cells.texts or ()) if _is_nan(number(text))]
    hidden = cells.null | np.isin(cells.values, nan)
    codes, texts = used(np.where(hidden, -1, cells.values), cells.texts or ())
    return np.where(codes < 0, np.nan, codes).astype(np.float32), texts


def _is_nan(value: float | None) -> bool:
    return value is not None and value != value


def unsuitable(where: str, at: int, names: tuple[str, ...], kind: object) -> DataError:
    """The sentence for a column of dates, lists and whatever else is neither number nor text."""
    return DataError(
        f"{where}, {column_label(at, names)}: expected numbers or text, found {str(kind)[:60]}; "
        f"make numbers of it or remove it"
    )


def encode(cells: Iterable[str | None]) -> tuple[NDArray[np.int64], list[str]]:
    """Codes of texts in order of appearance, -1 for None, and the texts.

    Example:
        >>> encode(["b", None, "a", "b"])
        (array([ 0, -1,  1,  0]), ['b', 'a'])
    """
    known: dict[str, int] = {}
    codes = [-1 if cell is None else known.setdefault(cell, len(known)) for cell in cells]
    return np.array(codes, np.int64), list(known)


def used(
    codes: NDArray[np.integer[Any]], texts: Sequence[object]
) -> tuple[NDArray[np.int64], list[str]]:
    """The same codes and texts without the texts that no row has; a code below 0 is missing."""
    codes = np.where(codes < 0, -1, codes).astype(np.int64)
    kept = np.unique(codes[codes >= 0])
    place = np.full(len(texts) + 1, -1)
    place[kept] = np.arange(len(kept))
    return place[codes], [str(texts[k]) for k in kept]


def _pandas_cells(series: Any, where: str, at: int, names: tuple[str, ...]) -> Cells:
    null = np.asarray(series.isna(), np.bool_)
    kind = getattr(series.dtype, "kind", "O")
    if series.dtype.name == "category":
        codes, texts = used(np.asarray(series.cat.codes), list(series.cat.categories))
        return Cells(codes, null, texts, declared=True)
    if kind in "biuf":
        return Cells(series.to_numpy(dtype=np.float64, na_value=np.nan), null)
    if kind not in "OU" or series.dtype.name.startswith(("period", "interval")):
        raise unsuitable(where, at, names, series.dtype)
    cells = series.to_numpy(dtype=object)
    return _object_cells(cells, null, lambda found: unsuitable(where, at, names, found))


def _object_cells(
    cells: NDArray[Any], null: NDArray[np.bool_], refuse: Callable[[str], DataError]
) -> Cells:
    """The column in cells that are Python objects: numbers and texts, mixed as they may be."""
    plain = [None if hole else cell for cell, hole in zip(cells, null, strict=True)]
    for cell in plain:
        if not isinstance(cell, str | numbers.Real | Decimal | np.bool_ | None):
            raise refuse(_kind_of(cell))
    if not any(isinstance(cell, str) for cell in plain):
        values = [np.nan if cell is None else _float(cell) for cell in plain]
        return Cells(np.array(values, np.float64), null)
    codes, texts = encode(None if cell is None else str(cell) for cell in plain)
    return Cells(codes, null, texts)


def _float(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:
        return float("inf") if value > 0 else -float("inf")


def _kind_of(cell: object) -> str:
    dates = (datetime.date, datetime.time, datetime.timedelta)
    return f"dates ({type(cell).__name__})" if isinstance(cell, dates) else type(cell).__name__


def _polars_cells(series: Any, where: str, at: int, names: tuple[str, ...]) -> Cells:
    null = np.asarray(series.is_null().to_numpy(), np.bool_)
    kind = series.dtype.base_type().__name__
    if kind in ("Boolean", "Decimal", "Null") or series.dtype.is_numeric():
        # Named by its own class, so that polars need not be imported here.
        values = series.cast(_polars_type(series, "Float64")).to_numpy()
        return Cells(np.asarray(values, np.float64), null)
    if kind == "String":
        codes, texts = encode(iter(series))
        return Cells(codes, null, texts)
    if kind in ("Categorical", "Enum"):
        codes, texts = encode(iter(series.cast(_polars_type(series, "String"))))
        return Cells(codes, null, texts, declared=True)
    raise unsuitable(where, at, names, series.dtype)


def _polars_type(series: Any, name: str) -> Any:
    return getattr(sys.modules["polars"], name)

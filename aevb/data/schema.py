"""New data held to the columns that a model was fitted on, as scikit-learn holds them."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from aevb.data.checks import column_label, listed, row_place
from aevb.data.source import Column, Source
from aevb.errors import DataError

_TRUTHS = ("False", "True")


def conform(
    source: Source,
    columns: tuple[Column, ...],
    where: str,
    place: Callable[[int], str] = row_place,
) -> Source:
    """The source with its columns held to those that a model was fitted on, texts recoded to them.

    Shapes: `columns` has one entry for each of X columns, or none for a model of numbers without
    names; the names are compared where both sides have them, and else the width alone.
    `place` says where a row stands, as it is named in a sentence.
    Errors: DataError for missing, unseen and reordered columns, for text where numbers were and
    the other way round, and for an unknown text.
    Example:
        >>> fitted = (Column("color", "binary", ("blue", "red")),)
        >>> new = Source("new", np.zeros((2, 1), np.float32), (1,), "", "", "",
        ...              columns=(Column("color", "category", ("red",)),))
        >>> conform(new, fitted, "new.csv").values.ravel().tolist()
        [1.0, 1.0]
    """
    width = math.prod(source.shape)
    given = source.columns or (Column("", "real"),) * width
    if not columns:
        columns = (Column("", "real"),) * width
    fitted_names, names = _names(columns), _names(given)
    if fitted_names and names:
        _same_names(where, fitted_names, names)
    if len(columns) != width:
        raise DataError(
            f"{where}: expected {len(columns)} columns as the model was fitted on, found {width}; "
            f"give the same columns"
        )
    changed = {
        at: _recoded(where, at, source.values, (was, now), names or fitted_names, place)
        for at, (was, now) in enumerate(zip(columns, given, strict=True))
        if was.levels != now.levels
    }
    values = source.values
    if changed:
        values = values.astype(np.float32)
        for at, column in changed.items():
            values[:, at] = column
    named = columns if any(column.name or column.levels for column in columns) else source.columns
    extremes = None if changed else source.extremes
    return replace(source, values=values, columns=named, extremes=extremes)


def _names(columns: tuple[Column, ...]) -> tuple[str, ...]:
    names = tuple(column.name for column in columns)
    return names if any(names) else ()


def _same_names(where: str, fitted: tuple[str, ...], names: tuple[str, ...]) -> None:
    known, found = set(fitted), set(names)
    absent = [name for name in fitted if name not in found]
    unseen = [name for name in names if name not in known]
    if absent or unseen:
        parts = [f"missing {listed(absent)}"] if absent else []
        parts += [f"unseen {listed(unseen)}"] if unseen else []
        raise DataError(
            f"{where}: expected the columns that the model was fitted on, found "
            f"{' and '.join(parts)}; give the same columns"
        )
    if fitted != names:
        at = next(i for i, (a, b) in enumerate(zip(fitted, names, strict=True)) if a != b)
        raise DataError(
            f"{where}: expected the columns in the order that the model was fitted on, found "
            f"{names[at][:40]!r} in place of {fitted[at][:40]!r} as column {at + 1}; reorder them"
        )


def _same_truths(was: Column, now: Column, seen: NDArray[np.float32]) -> tuple[Column, Column]:
    """Both columns as texts where one holds truth values and the other what a .csv makes of them.

    Shapes: `seen` (n,) are the observed cells of the new column.
    """
    if was.kind == "binary" and not was.levels and set(now.levels) <= set(_TRUTHS):
        was = replace(was, levels=_TRUTHS)
    if was.levels == _TRUTHS and not now.levels and bool(((seen == 0) | (seen == 1)).all()):
        now = replace(now, levels=_TRUTHS)
    return was, now


def _recoded(
    where: str,
    at: int,
    values: NDArray[np.generic],
    was_now: tuple[Column, Column],
    names: tuple[str, ...],
    place: Callable[[int], str],
) -> NDArray[np.float32]:
    """A column in the codes of the fitted levels."""
    column = values[:, at].astype(np.float32)
    seen = ~np.isnan(column)
    label = column_label(at, names)
    was, now = _same_truths(*was_now, column[seen])
    if not was.levels or (not now.levels and seen.any()):
        first = place(int(np.argmax(seen)))
        found = repr(now.levels[int(column[seen][0])][:40]) if now.levels else "a number"
        wanted = f"one of {listed(was.levels)}" if was.levels else "a number"
        raise DataError(
            f"{where}, {first}, {label}: expected {wanted} as the model was fitted on, found "
            f"{found}; convert the column"
        )
    if not now.levels:
        return column
    codes = np.array(
        [was.levels.index(text) if text in was.levels else -1 for text in now.levels], np.float32
    )
    column[seen] = codes[column[seen].astype(np.int64)]
    if (column < 0).any():
        index = int(np.argmax(column < 0))
        text = now.levels[int(values[index, at])]
        raise DataError(
            f"{where}, {place(index)}, {label}: expected one of {listed(was.levels)} as the "
            f"model was fitted on, found {text[:40]!r}; mend or remove the row"
        )
    return column

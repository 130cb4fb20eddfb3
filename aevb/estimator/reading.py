"""How an estimator takes X: an array, a frame or a source, held to the checks of scikit-learn."""

import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from sklearn.utils.validation import validate_data

from aevb.data import Column, Dataset, Rows, Source, conform, read_values
from aevb.data.arrays import of_tensor
from aevb.data.checks import first_cell
from aevb.data.frames import is_frame
from aevb.errors import DataError, UsageError


def read(
    estimator: Any, X: Any, like: tuple[Column, ...] | None, *, reset: bool, holes: bool
) -> Source:
    """X as a source, in the columns `like`; with `reset` a fit begins, and its columns are kept.

    `holes` says that a missing cell is one that was not observed.
    """
    if isinstance(X, str | os.PathLike):
        raise UsageError(
            f"X is rows, found the name {str(X)[:80]!r}: give aevb.data.open_source of it"
        )
    if isinstance(X, Dataset | Rows):
        raise UsageError(
            f"X is rows, found a {type(X).__name__}: give its `source`, or `rows.all().numpy()`"
        )
    if isinstance(X, Source):
        source = X if like is None else conform(X, like, X.name)
        width = math.prod(X.shape)
        if not reset and width != estimator.n_features_in_:
            raise DataError(
                f"{X.name}: expected {estimator.n_features_in_} columns as the model was fitted "
                f"on, found {width}; give the same columns"
            )
        if reset:
            keep_columns(estimator, X.shape, X.columns)
    elif is_frame(X):
        source = read_values(X, allow_nan=holes, like=like, where="X")
        validate_data(estimator, X, reset=reset, skip_check_array=True)
    else:
        given = of_tensor(X)
        # NaN and infinity are left to the reader, which says in which row and column.
        try:
            X = validate_data(estimator, given, reset=reset, ensure_all_finite=False)
        except OverflowError as error:  # whole numbers of Python's
            raise DataError("X: expected numbers that fit 64 bits, found longer ones") from error
        if isinstance(given, np.ma.MaskedArray):  # scikit-learn looked under the mask
            X = np.ma.masked_array(X, np.ma.getmaskarray(given))
        source = read_values(X, allow_nan=holes, like=like, where="X")
    if source.missing and not holes:
        raise DataError(
            f"{first_hole(source)}; say allow_nan=True if they were not observed, or fill them "
            "first"
        )
    return source


@contextmanager
def held_out() -> Iterator[None]:
    """Let a sentence about rows that a fit holds out name them, where it has X."""
    try:
        yield
    except ValueError as error:
        raise type(error)(re.sub(r"\bX\b", "X_val", str(error), count=1)) from error


def first_hole(source: Source) -> str:
    """Where the first missing cell of X is, and how many there are."""
    row, column = first_cell(np.isnan(source.values.reshape(len(source.values), -1)))
    cells = f"{source.missing} such cells in all"
    return f"X, row {row}, column {column}: found a missing cell ({cells})"


def keep_columns(estimator: Any, shape: tuple[int, ...], columns: tuple[Column, ...]) -> None:
    """What scikit-learn would note of a frame: how many columns there are, and their names."""
    estimator.n_features_in_ = int(np.prod(shape))
    estimator.__dict__.pop("feature_names_in_", None)
    names = [column.name for column in columns]
    if any(names):
        estimator.feature_names_in_ = np.array(names, dtype=object)


def take_columns(estimator: Any, first: Any) -> None:
    """Let an estimator of several parts say what the part that reads X says of its columns."""
    for name in ("n_features_in_", "feature_names_in_", "columns_"):
        if hasattr(first, name):
            setattr(estimator, name, getattr(first, name))
        else:
            estimator.__dict__.pop(name, None)

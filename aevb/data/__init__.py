"""Named data sets, the user's own files, splits and batches."""

import os
from pathlib import Path
from typing import Any

from aevb.data.dataset import Binarization, Dataset, Rows, all_rows, split
from aevb.data.schema import conform
from aevb.data.source import Column, Source
from aevb.errors import DataError, UsageError

__all__ = [
    "Binarization",
    "Column",
    "Dataset",
    "Rows",
    "Source",
    "all_rows",
    "conform",
    "load",
    "open_source",
    "read_values",
    "split",
]


def read_values(
    data: Any,
    *,
    allow_nan: bool = False,
    like: tuple[Column, ...] | None = None,
    where: str = "",
) -> Source:
    """Take an array or a frame as a `Source`; see `aevb.data.readers.read_values`."""
    from aevb.data import readers

    return readers.read_values(data, allow_nan=allow_nan, like=like, where=where)


def open_source(
    data: Any,
    *,
    allow_nan: bool = False,
    image_size: tuple[int, int] | None = None,
    like: tuple[Column, ...] | None = None,
    label: str | None = None,
) -> Source:
    """Data by name, by path (a file or a folder of images), or as an array or a frame in memory.

    `allow_nan` takes NaN for a cell that was not observed; `image_size` (height, width) resizes
    the images of a folder. `like` holds the data to the columns that a model was fitted on.
    `label` names the column of a file that says the class of each row, in texts or whole numbers;
    with `like` the rows may come without it.
    Errors: DataError for what cannot be read, with row and column (1-based) of a cell at fault.
    Example:
        >>> open_source("digits").values.shape
        (1797, 1, 8, 8)
        >>> open_source([[0.5, 2.0], [1.5, 3.0]]).likelihood
        'gaussian'
    """
    from aevb.data.named import NAMES, open_named
    from aevb.data.readers import read_file, read_values

    named = isinstance(data, str | os.PathLike) and str(data) in NAMES
    if label is not None and (named or not isinstance(data, str | os.PathLike)):
        raise UsageError(
            f"a label is a column of a table in a file, found {label[:40]!r} and no table"
        )
    if not isinstance(data, str | os.PathLike):
        return read_values(data, allow_nan=allow_nan, like=like)
    if named:
        return open_named(str(data))
    path = Path(data)
    if not path.suffix and not os.path.lexists(path):
        raise DataError(
            f"{str(data)[:200]} is neither a file, nor a folder of images, nor one of the data "
            f"sets {', '.join(NAMES)}"
        )
    return read_file(path, allow_nan=allow_nan, image_size=image_size, like=like, label=label)


def load(
    data: Any,
    binarize: Binarization | str | None = None,
    *,
    seed: int = 0,
    limit: int | None = None,
    allow_nan: bool = False,
    image_size: tuple[int, int] | None = None,
) -> Dataset:
    """Open data as `open_source` does and split them into training, validation and test rows.

    Shapes: see `Rows`. `binarize` is one of none, threshold, once, epoch; None takes the usual
    treatment of the set. `limit` keeps a random subset of the training rows.
    Errors: DataError for what cannot be read; UsageError for an unknown binarization.
    Example:
        >>> digits = load("digits")
        >>> len(digits.train), len(digits.validation), len(digits.test)
        (1437, 180, 180)
    """
    treatment = Binarization(binarize) if isinstance(binarize, str) else binarize
    source = open_source(data, allow_nan=allow_nan, image_size=image_size)
    return split(source, treatment, seed=seed, limit=limit)

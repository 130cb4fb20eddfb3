"""Named data sets, the user's own files, splits and batches."""

from pathlib import Path

from aevb.data.dataset import Binarization, Dataset, Rows, split
from aevb.data.source import Column, Source
from aevb.errors import DataError

__all__ = [
    "Binarization",
    "Column",
    "Dataset",
    "Rows",
    "Source",
    "load",
    "open_source",
    "split",
]


def open_source(name_or_path: str | Path) -> Source:
    """The data set of that name, or the file at that path; DataError where there is neither.

    Example:
        >>> open_source("digits").values.shape
        (1797, 1, 8, 8)
    """
    from aevb.data.named import NAMES, open_named
    from aevb.data.readers import read_file

    if str(name_or_path) in NAMES:
        return open_named(str(name_or_path))
    path = Path(name_or_path)
    if not path.suffix and not path.exists():
        raise DataError(
            f"{name_or_path} is neither a file nor one of the data sets {', '.join(NAMES)}"
        )
    return read_file(path)


def load(
    name_or_path: str | Path,
    binarize: Binarization | str | None = None,
    *,
    seed: int = 0,
    limit: int | None = None,
) -> Dataset:
    """Open data by name or path and split them into training, validation and test rows.

    Shapes: see `Rows`. `binarize` is one of none, threshold, once, epoch; None takes the usual
    treatment of the set. `limit` keeps a random subset of the training rows.
    Errors: DataError for what cannot be read; UsageError for an unknown binarization.
    Example:
        >>> digits = load("digits")
        >>> len(digits.train), len(digits.validation), len(digits.test)
        (1437, 180, 180)
    """
    treatment = Binarization(binarize) if isinstance(binarize, str) else binarize
    return split(open_source(name_or_path), treatment, seed=seed, limit=limit)

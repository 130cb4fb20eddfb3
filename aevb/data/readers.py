"""Readers of the user's own data: files, folders of images, and what lies in memory.

A reader gives a `Table` as it is found; everything else, from the checks to the event shape and
the suggested likelihood, follows from the table alone and is the same for all formats.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aevb.data.arrays import lay_out, of_tensor, read_npy, read_npz
from aevb.data.checks import Rules, Table, check_array, held_bytes, is_folder, readable
from aevb.data.columns import check_levels
from aevb.data.dataset import Binarization, Dataset, split
from aevb.data.fingerprints import fingerprint, fingerprint_of_files, fingerprint_of_values
from aevb.data.frames import is_frame, read_frame
from aevb.data.images import image_files, read_images
from aevb.data.labels import has_label, split_off
from aevb.data.named import NAMES, open_named
from aevb.data.parquet import read_parquet
from aevb.data.schema import conform
from aevb.data.source import Column, Drawn, Source
from aevb.data.suggestion import column_kinds, is_signal, suggest
from aevb.data.survey import survey
from aevb.data.tables import read_csv
from aevb.errors import DataError, UsageError, reason

_READERS: dict[str, Callable[[Path, Rules], Table]] = {
    ".npy": read_npy,
    ".npz": read_npz,
    ".csv": read_csv,
    ".parquet": read_parquet,
}


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
    Shapes: of a file or an array as `read_file` has them; of a set that has a name (N, C, H, W).
    Errors: DataError for what cannot be read, with row and column (1-based) of a cell at fault;
    UsageError for a label where there is no table in a file.
    Example:
        >>> open_source("digits").values.shape
        (1797, 1, 8, 8)
        >>> open_source([[0.5, 2.0], [1.5, 3.0]]).likelihood
        'gaussian'
    """
    path = Path(data) if isinstance(data, str | os.PathLike) else None
    named = path is not None and str(data) in NAMES
    if label is not None and (named or path is None):
        raise UsageError(
            f"a label is a column of a table in a file, found {label[:40]!r} and no table"
        )
    if image_size is not None and not (path is not None and os.path.isdir(path)):
        what = str(data)[:200] if path is not None else "what lies in memory"
        raise UsageError(f"--resize is for a folder of images, and {what} is none: leave it out")
    if path is None:
        return read_values(data, allow_nan=allow_nan, like=like)
    if named:
        return open_named(str(data))
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
    Errors: DataError for what cannot be read; UsageError for an unknown binarization; those of
    `split`.
    Example:
        >>> digits = load("digits")
        >>> len(digits.train), len(digits.validation), len(digits.test)
        (1437, 180, 180)
    """
    treatment = Binarization(binarize) if isinstance(binarize, str) else binarize
    source = open_source(data, allow_nan=allow_nan, image_size=image_size)
    return split(source, treatment, seed=seed, limit=limit)


def read_file(
    path: str | os.PathLike[str],
    *,
    allow_nan: bool = False,
    image_size: tuple[int, int] | None = None,
    like: tuple[Column, ...] | None = None,
    label: str | None = None,
) -> Source:
    """Read a .npy, .npz, .csv or .parquet file, or a folder of images, into a `Source`.

    Shapes: (N, X) gives the event shape (X,); (N, H, W), (N, C, H, W) and (N, H, W, C) with C of
    1, 3 or 4 give (C, H, W), where channels first wins if both fit; anything else is flattened.
    `values` has the shape (N, *event). A large .npy file stays a memory map.
    Units: bytes with more than two levels, or with 0 and 255 alone, are pixels: scale 1/255.
    `image_size` is (height, width). With `like`, the columns that a model was fitted on, the data
    are held to them by `conform`, and need not be enough to learn from. `label` names the column of
    a table that says the class of a row; with `like` rows may come without it.
    Errors: DataError with the file, and row and column (1-based) where a cell is at fault.
    Example:
        >>> read_file("faces.npy").shape  # doctest: +SKIP
        (1, 28, 20)
    """
    file, rules = Path(path), Rules(allow_nan, fit=like is None)
    reader = _reader_of(file)
    with readable(file):
        if reader is None:
            files, labels = image_files(file)
            table = read_images(file, files, labels, image_size)
            mark = fingerprint_of_files(file, files)
        else:
            table = reader(file, rules)
            mark = fingerprint(file)
        check_array(str(file), table.values)
        if label is not None and (like is None or has_label(table, label, len(like))):
            table = split_off(str(file), table, label)
        return _source(file.name or str(file), str(file), table, mark, rules, like)


def read_values(
    data: Any,
    *,
    allow_nan: bool = False,
    like: tuple[Column, ...] | None = None,
    where: str = "",
) -> Source:
    """Take an array, or a DataFrame of pandas or of polars, as a `Source`; it is never changed.

    Shapes, units and `like`: as of `read_file`. `where` names the data in sentences; left empty
    it is "array" or "frame", as is the name of the source.
    Errors: DataError, as of `read_file`.
    Example:
        >>> read_values(np.array([[0.0, 2.5], [1.0, -1.0]])).name
        'array'
    """
    rules = Rules(allow_nan, fit=like is None)
    name = "frame" if is_frame(data) else "array"
    where = where or name
    table = read_frame(data, where, rules) if is_frame(data) else _read_array(data, where, rules)
    check_array(where, table.values)
    mark = fingerprint_of_values(table.values, (table.names, table.levels))
    return _source(name, where, table, mark, rules, like)


def _reader_of(file: Path) -> Callable[[Path, Rules], Table] | None:
    """The reader for a file's extension, or None for a folder, which holds images."""
    reader = _READERS.get(file.suffix.lower())
    known = ", ".join(_READERS)
    if is_folder(file):
        if reader is not None:
            raise DataError(f"{file} is a folder; expected a file that ends in one of {known}")
        return None
    if reader is None:
        found = repr(file.suffix) if file.suffix else "no extension"
        raise DataError(
            f"{file}: expected a folder of images or a file that ends in one of {known}, found "
            f"{found}; a table may be saved as .csv, with commas"
        )
    held_bytes(file)
    return reader


def _read_array(data: Any, where: str, rules: Rules) -> Table:
    """An array in memory; masked cells are missing ones."""
    if hasattr(data, "toarray"):
        raise DataError(f"{where}: expected an array, found a sparse one; call .toarray() first")
    if isinstance(data, np.ma.MaskedArray) and data.dtype.kind in "biuf":
        known = data.compressed()
        if data.dtype.kind == "f" and not rules.allow_nan and bool(np.isnan(known).any()):
            raise DataError(f"{where}: expected finite numbers, found nan that is not masked")
        scale = _scale(frozenset(np.unique(known))) if data.dtype == np.uint8 else None
        floats = data.astype(np.result_type(data.dtype, np.float32))  # no digit of a double is lost
        return Table(np.ma.filled(floats, np.nan), scale=scale, checked=True)
    try:
        return Table(np.asarray(of_tensor(data)))
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            f"{where}: expected an array of numbers, found a {type(data).__name__} that is none "
            f"({reason(error)}); convert it with numpy.asarray"
        ) from error


def _source(
    name: str,
    where: str,
    table: Table,
    mark: str,
    rules: Rules,
    like: tuple[Column, ...] | None,
) -> Source:
    """What follows from a table alone: its scale, its likelihood, its columns."""
    check_levels(where, table, rules)
    values, shape = lay_out(where, table.values)
    # Some NaN are signaling: to do anything with them is a warning of its own.
    with np.errstate(invalid="ignore"):
        found = survey(where, table, rules)
        scale = _scale(found.levels) if table.scale is None else table.scale
        likelihood, clause = suggest(table.values, scale, table.levels, found.extremes)
        columns = _columns(table, scale, likelihood, found.extremes)
        kind = _kind(values, table.names)
    clause += _missing_clause(found.missing, table.values.size, found.first)
    source = Source(
        name,
        values,
        shape,
        likelihood,
        clause,
        mark,
        scale,
        labels=table.labels,
        classes=table.classes,
        columns=columns,
        missing=found.missing,
        kind=kind,
        extremes=lay_out(where, found.extremes)[0].astype(np.float32),
    )
    return source if like is None else conform(source, like, where, table.place)


def _columns(
    table: Table, scale: float, likelihood: str, bounds: NDArray[np.float32]
) -> tuple[Column, ...]:
    """The columns of a table that has a header, texts, or columns of several kinds."""
    if not (table.names or table.levels or likelihood == "mixed"):
        return ()
    kinds = column_kinds(table.values, scale, table.levels, bounds)
    names = table.names or ("",) * len(kinds)
    levels = table.levels or ((),) * len(kinds)
    return tuple(map(Column, names, kinds, levels))


def _missing_clause(missing: int, cells: int, first: str) -> str:
    if not missing:
        return ""
    share = f"{100 * missing / cells:.2g} %"
    if missing == 1:
        return f"; 1 cell ({share}) is missing, in {first}"
    return f"; {missing:,} cells ({share}) are missing, the first in {first}"


def _kind(values: NDArray[np.generic], names: tuple[str, ...]) -> Drawn:
    if values.ndim == 4:
        return "image"
    return "signal" if not names and is_signal(values) else "table"


def _scale(levels: frozenset[int]) -> float:
    """1/255 for bytes that are pixels, that is neither {0, 1} nor two other levels; else 1."""
    return 1 / 255 if len(levels) > 2 or 255 in levels else 1.0

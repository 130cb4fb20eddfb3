"""Readers of the user's own files: arrays (.npy, .npz) and tables of numbers (.csv).

A reader gives the array as it lies in the file; everything else, from the checks to the event
shape and the suggested likelihood, follows from the array alone and is the same for all formats.
"""

import csv
import hashlib
import math
import os
import tokenize
import zipfile
import zlib
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from aevb.data.source import Source
from aevb.errors import DataError

RESIDENT_BYTES = 1 << 30
SUGGESTION_ROWS = 10_000
FINGERPRINT_BLOCKS = 64
FINGERPRINT_BLOCK_BYTES = 1 << 16

_CHUNK_BYTES = 1 << 22
_CHANNELS = (1, 3, 4)
_DATA_NAMES = ("x", "X", "data", "images")
_LABEL_NAMES = ("labels", "y")
_LARGEST = np.finfo(np.float32).max

# What numpy and zipfile were seen to raise when bytes of a good file are changed or cut off.
_BAD_HEADER = (ValueError, TypeError, SyntaxError, tokenize.TokenError, OverflowError, MemoryError)
_BAD_ARCHIVE = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, OSError)


class _Table(NamedTuple):
    """An array as it lies in a file; `first_row` is where its row 0 stands, 1-based."""

    values: NDArray[np.generic]
    labels: NDArray[np.int64] | None = None
    first_row: int = 1


def read_file(path: str | os.PathLike[str]) -> Source:
    """Read a .npy, .npz or .csv file of the user into a `Source`.

    Shapes: (N, X) gives the event shape (X,); (N, H, W), (N, C, H, W) and (N, H, W, C) with C of
    1, 3 or 4 give (C, H, W), where channels first wins if both fit; anything else is flattened.
    `values` has the shape (N, *event). A .npy file above `RESIDENT_BYTES` stays a memory map.
    Units: bytes with more than two levels, or with 0 and 255 alone, are pixels: scale 1/255.
    Errors: DataError with the file, and row and column (1-based) where a cell is at fault.
    Example:
        >>> read_file("faces.npy").shape  # doctest: +SKIP
        (1, 28, 20)
    """
    file = Path(path)
    reader = _reader_of(file)
    with _readable(file):
        table = reader(file)
        _check_array(file, table.values)
        _check_finite(file, table.values, table.first_row)
        scale = _scale(table.values)
        likelihood, reason = suggest(table.values, scale)
        values, shape = _lay_out(file, table.values)
        mark = fingerprint(file)
    facts = (likelihood, reason, mark, scale)
    return Source(file.name, values, shape, *facts, labels=table.labels)


def suggest(values: NDArray[np.generic], scale: float) -> tuple[str, str]:
    """The name of the likelihood that suits the values times `scale`, and a clause that says why.

    Shapes: `values` (N, ...), of which the first `SUGGESTION_ROWS` rows are looked at.
    Example:
        >>> suggest(np.array([[0, 1], [1, 1]]), 1.0)
        ('bernoulli', 'every value is 0 or 1')
    """
    binary = unit = whole = True
    for _, block in _chunks(values[:SUGGESTION_ROWS]):
        seen = block * scale  # type: ignore[operator]  # numeric by the check of the reader
        binary = binary and bool(((seen == 0) | (seen == 1)).all())
        unit = unit and bool(((seen >= 0) & (seen <= 1)).all())
        whole = whole and bool(((seen >= 0) & (seen == np.floor(seen))).all())
    rows = "" if len(values) <= SUGGESTION_ROWS else f" of the first {SUGGESTION_ROWS:,} rows"
    if binary:
        return "bernoulli", f"every value{rows} is 0 or 1"
    if unit:
        return "continuous-bernoulli", f"every value{rows} lies in [0, 1]"
    if whole:
        return "negative-binomial", f"every value{rows} is a count 0, 1, 2, ..."
    return "gaussian", f"values{rows} lie outside [0, 1] and are no counts"


def first_cell(mask: NDArray[np.bool_]) -> tuple[int, int]:
    """Row and column, 1-based, of the first marked cell in reading order.

    Shapes: `mask` (N, X).
    Errors: ValueError when no cell is marked.
    Example:
        >>> first_cell(np.array([[False, False], [False, True]]))
        (2, 2)
    """
    if not mask.any():
        raise ValueError("first_cell needs a mask with at least one marked cell")
    row, column = divmod(int(np.argmax(mask)), mask.shape[1])
    return row + 1, column + 1


def fingerprint(path: str | os.PathLike[str]) -> str:
    """Hash a file's size and up to 64 blocks of 64 KiB, spread evenly, as "sha256:<hex>".

    A small file is hashed whole. A change of a large one that hides between the blocks goes
    unseen: the fingerprint tells data sets apart, it does not prove that a file is undamaged.
    Errors: DataError when the file cannot be read.
    """
    file = Path(path)
    with _readable(file), file.open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        digest = hashlib.sha256(size.to_bytes(8, "big"))
        for offset in _block_offsets(size):
            stream.seek(offset)
            digest.update(stream.read(FINGERPRINT_BLOCK_BYTES))
    return f"sha256:{digest.hexdigest()}"


def _block_offsets(size: int) -> Sequence[int]:
    """Where the hashed blocks begin: back to back in a small file, evenly spread in a large one."""
    if size <= FINGERPRINT_BLOCKS * FINGERPRINT_BLOCK_BYTES:
        return range(0, size, FINGERPRINT_BLOCK_BYTES)
    last = size - FINGERPRINT_BLOCK_BYTES
    return [last * block // (FINGERPRINT_BLOCKS - 1) for block in range(FINGERPRINT_BLOCKS)]


@contextmanager
def _readable(file: Path) -> Iterator[None]:
    """Turn what the operating system refuses into one sentence."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise DataError(
            f"{file} cannot be read ({reason}); check the disk and the permissions"
        ) from error


def _reader_of(file: Path) -> Callable[[Path], _Table]:
    """The reader for a file's extension, once the file is known to be there and not empty."""
    known = ", ".join(_READERS)
    with _readable(file):
        if not file.exists():
            raise DataError(f"{file} does not exist; check the path")
        if file.is_dir():
            raise DataError(f"{file} is a folder; expected a file that ends in one of {known}")
        empty = file.stat().st_size == 0
    reader = _READERS.get(file.suffix.lower())
    if reader is None:
        found = repr(file.suffix) if file.suffix else "no extension"
        raise DataError(f"{file}: expected a file that ends in one of {known}, found {found}")
    if empty:
        raise DataError(f"{file} is empty (0 bytes); write or copy it again")
    return reader


def _read_npy(file: Path) -> _Table:
    """Map a .npy file, and read it into memory unless it is large."""
    try:
        mapped: NDArray[np.generic] = np.lib.format.open_memmap(file, mode="r")
    except _BAD_HEADER as error:
        raise _damaged(file, error) from error
    return _Table(mapped if mapped.nbytes > RESIDENT_BYTES else np.array(mapped))


def _read_npz(file: Path) -> _Table:
    """Take the data, and the labels if there are any, out of a .npz archive."""
    try:
        with file.open("rb") as stream:
            # An archive that lost its end is no zip file, and numpy would take it for a pickle.
            if not zipfile.is_zipfile(stream):
                raise ValueError("it is no zip archive, or its end is missing")
            stream.seek(0)
            with np.load(stream, allow_pickle=False) as archive:
                names = _choose(file, archive.files)
                arrays = [np.asarray(archive[name]) for name in names]
    except DataError:
        raise
    except (*_BAD_HEADER, *_BAD_ARCHIVE) as error:
        raise _damaged(file, error) from error
    labels = [_labels(file, names[1], arrays[1], arrays[0])] if names[1:] else [None]
    return _Table(arrays[0], labels[0])


def _choose(file: Path, names: Sequence[str]) -> list[str]:
    """The names of the array of an archive that holds the data and, if any, of the labels."""
    others = [name for name in names if name not in _LABEL_NAMES] or list(names)
    labels = [name for name in _LABEL_NAMES if name in names and name not in others][:1]
    candidates = others if len(others) == 1 else [name for name in others if name in _DATA_NAMES]
    if len(candidates) == 1:
        return candidates + labels
    raise DataError(
        f"{file}: expected one array, or exactly one called {', '.join(_DATA_NAMES)}, found "
        f"{', '.join(names) or 'none'}; save the rows to be modeled under the name x"
    )


def _labels(
    file: Path, name: str, marks: NDArray[np.generic], values: NDArray[np.generic]
) -> NDArray[np.int64]:
    """The labels of an archive, checked to be one integer for each row of the data."""
    rows = values.shape[:1]
    if marks.shape != rows or marks.dtype.kind not in "biu" or marks.dtype == np.uint64:
        raise DataError(
            f"{file}: expected {name!r} to hold one integer (64 bits, signed) for each of "
            f"{sum(rows)} rows, found {_kind(marks)} of shape {marks.shape}; rename or convert it"
        )
    return marks.astype(np.int64)


def _damaged(file: Path, error: BaseException) -> DataError:
    """The sentence for an array file that numpy cannot read."""
    reason = " ".join(str(error).split()) or type(error).__name__
    if "object" in reason.lower():
        return DataError(
            f"{file} holds Python objects, which are code and never loaded; "
            f"save it as an array of numbers"
        )
    kind = file.suffix.lower()
    return DataError(f"{file} is damaged, cut off or no {kind} file ({reason}); write it again")


def _read_csv(file: Path) -> _Table:
    """Read comma-separated numbers as float32; the first row may be a header."""
    numbers = array("f")
    width, first_row = 0, 1
    for line, row in _csv_rows(file):
        if not width and _is_header(row):
            first_row = line + 1
        else:
            _append(numbers, row, width or len(row), f"{file}, row {line}")
        width = width or len(row)
    if not numbers:
        raise DataError(f"{file}: expected rows of numbers, found none; check that it was saved")
    return _Table(np.frombuffer(numbers, np.float32).reshape(-1, width), first_row=first_row)


def _csv_rows(file: Path) -> Iterator[tuple[int, list[str]]]:
    """The rows of a table with their line numbers; empty lines may only stand at the end."""
    line = blank = 0
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            rows = csv.reader(stream, strict=True)
            for row in rows:
                line = rows.line_num
                if row and blank:
                    raise DataError(
                        f"{file}, row {blank}, column 1: expected a number, found an empty line; "
                        f"fill or remove it"
                    )
                blank = blank if row or blank else line
                if row:
                    yield line, row
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(
            f"{file}: expected comma-separated numbers in UTF-8, found something else after "
            f"row {line} ({error}); save it as plain text"
        ) from error


def _is_header(row: Sequence[str]) -> bool:
    """Whether a first row names columns: some cell is text, and not merely left empty."""
    return any(cell.strip() and _number(cell) is None for cell in row)


def _append(numbers: "array[float]", row: Sequence[str], width: int, where: str) -> None:
    """Add a row of numbers, or say which cell is none."""
    if len(row) != width:
        raise DataError(
            f"{where}, column {min(len(row), width) + 1}: expected {width} cells as in the first "
            f"row, found {len(row)}; complete or remove the row"
        )
    try:
        if "_" in "".join(row):
            raise ValueError("an underscore")
        numbers.extend(map(float, row))
    except ValueError as error:
        column = next(i for i, cell in enumerate(row) if _number(cell) is None)
        cell = row[column]
        found = repr(cell[:40]) if cell.strip() else "an empty cell"
        cure = "separate cells by commas" if {";", "\t"} & set(cell) else "mend or remove the row"
        raise DataError(
            f"{where}, column {column + 1}: expected a number, found {found}; {cure}"
        ) from error


def _number(cell: str) -> float | None:
    """The number in a cell, or None; an underscore is a number to Python, not in a table."""
    try:
        return None if "_" in cell else float(cell)
    except ValueError:
        return None


_READERS: dict[str, Callable[[Path], _Table]] = {
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".csv": _read_csv,
}


def _kind(values: NDArray[np.generic]) -> str:
    """What a dtype holds, in words."""
    names = {"c": "complex numbers", "U": "text", "S": "text", "T": "text", "O": "Python objects"}
    return names.get(values.dtype.kind, str(values.dtype))


def _check_array(file: Path, values: NDArray[np.generic]) -> None:
    """Hold an array to numbers in at least one row and one column."""
    if values.dtype.kind not in "biuf":
        raise DataError(
            f"{file}: expected real numbers, found {_kind(values)}; convert it before saving"
        )
    if values.ndim < 2:
        raise DataError(
            f"{file}: expected rows and columns, found an array of shape {values.shape}; "
            f"reshape it to (N, 1) if every number is a datum"
        )
    if not len(values):
        raise DataError(f"{file}: expected at least 1 row, found none; add rows")
    if values.size == 0:
        raise DataError(
            f"{file}: expected at least 1 column, found an array of shape {values.shape}"
        )


def _check_finite(file: Path, values: NDArray[np.generic], first_row: int) -> None:
    """Refuse NaN, infinity and what is infinite in 32 bits, naming the first cell and the count."""
    if values.dtype.kind != "f":
        return
    count, first = 0, ""
    for start, block in _chunks(values):
        with np.errstate(invalid="ignore"):
            bad = ~(np.abs(block) <= _LARGEST)
        if bad.any():
            row, column = first_cell(bad)
            found = block[row - 1, column - 1]
            first = first or f"row {start + row - 1 + first_row}, column {column}: found {found}"
            count += int(np.count_nonzero(bad))
    if count:
        cells = "1 such cell" if count == 1 else f"{count} such cells"
        raise DataError(
            f"{file}, {first} ({cells} in all), expected finite numbers that fit 32 bits; "
            f"fill or remove them"
        )


def _scale(values: NDArray[np.generic]) -> float:
    """1/255 for bytes that are pixels, that is neither {0, 1} nor two other levels; else 1."""
    if values.dtype != np.uint8:
        return 1.0
    low, high = values.min(), values.max()
    between = any(bool(((block != low) & (block != high)).any()) for _, block in _chunks(values))
    return 1 / 255 if between or int(high) == 255 else 1.0


def _lay_out(
    file: Path, values: NDArray[np.generic]
) -> tuple[NDArray[np.generic], tuple[int, ...]]:
    """The values as (N, *event), and the event shape; a memory map is viewed, never copied."""
    if values.ndim == 3:
        values = values[:, np.newaxis]
    elif values.ndim == 4 and values.shape[1] not in _CHANNELS and values.shape[3] in _CHANNELS:
        values = values.transpose(0, 3, 1, 2)
    elif values.ndim != 2 and not (values.ndim == 4 and values.shape[1] in _CHANNELS):
        if isinstance(values, np.memmap) and not values.flags.c_contiguous:
            raise DataError(
                f"{file}: expected an array of this size in C order, found Fortran order; "
                f"save it with np.ascontiguousarray"
            )
        values = values.reshape(len(values), -1)
    return values, values.shape[1:]


def _chunks(values: NDArray[np.generic]) -> Iterator[tuple[int, NDArray[np.generic]]]:
    """Blocks of whole rows, each (n, X), with the number of the first row, counted from 0."""
    row_bytes = values.dtype.itemsize * math.prod(values.shape[1:])
    step = max(1, _CHUNK_BYTES // max(1, row_bytes))
    for start in range(0, len(values), step):
        block = values[start : start + step]
        yield start, block.reshape(len(block), -1)

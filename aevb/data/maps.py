"""Arrays that lie in files: opened, read row by row, and not left to fill the memory.

Pages of a file count as this process's memory once they were touched, and one touch may bring
2 MiB: a pass over a map of 20 GB would seem to need 20 GB. So passes give the pages back as they
go, and rows from here and there are read from the file, which leaves no pages behind and is faster
than to map them anew.
"""

import math
import mmap
import os
import weakref
from typing import IO, Literal

import numpy as np
from numpy.typing import NDArray

from aevb.errors import DataError

_FALLBACK_ROWS = 64
"""After so many rows taken through a map its pages are given back."""

_descriptors: "weakref.WeakKeyDictionary[mmap.mmap, int]" = weakref.WeakKeyDictionary()
"""The open file of each map, by which its rows are read even where another file took its name."""


def open_map(
    stream: IO[bytes],
    dtype: "np.dtype[np.generic]",
    shape: tuple[int, ...],
    offset: int,
    *,
    fortran: bool = False,
) -> NDArray[np.generic]:
    """Map the array that begins `offset` bytes into an open file; it cannot be written to.

    Errors: OSError and ValueError, as of numpy.memmap.
    """
    order: Literal["F", "C"] = "F" if fortran else "C"
    mapped: NDArray[np.generic] = np.memmap(stream, dtype, "r", offset, shape, order)
    descriptor = os.dup(stream.fileno())
    _descriptors[mapped._mmap] = descriptor  # type: ignore[attr-defined]
    weakref.finalize(mapped._mmap, os.close, descriptor)  # type: ignore[attr-defined]
    return mapped


def is_mapped(values: NDArray[np.generic]) -> bool:
    """Whether an array lies in a file, itself or as a view of one that does.

    Example:
        >>> is_mapped(np.zeros((2, 3)))
        False
    """
    return _root(values) is not None


def release(values: NDArray[np.generic]) -> None:
    """Give back the pages of the file that an array lies in; they are read again where needed.

    Nothing happens to an array in memory, to a map that can be written to, and where the system
    has no such call.
    """
    root = _root(values)
    advice = getattr(mmap, "MADV_DONTNEED", None)
    if root is not None and advice is not None and root.mode == "r":
        root._mmap.madvise(advice)  # type: ignore[attr-defined]


def rows_of(values: NDArray[np.generic], index: NDArray[np.int64]) -> NDArray[np.generic]:
    """The rows `values[index]` as an array in memory, wherever the values lie.

    Shapes: `values` (N, ...), `index` (M,) from -N to N - 1; (M, ...). Rows that follow one another
    are read at once.
    Errors: IndexError for a row that is not there; DataError where the file has become shorter.
    Example:
        >>> rows_of(np.array([[1, 2], [3, 4], [5, 6]]), np.array([2, 0])).tolist()
        [[5, 6], [1, 2]]
    """
    root = _root(values)
    if root is None:
        return np.asarray(values[index])
    # Channels may come last in the file and first in the view of it: read as they lie, then turn.
    axes = (0, *sorted(range(1, values.ndim), key=lambda axis: -values.strides[axis]))
    place = _place(values.transpose(axes), root)
    if place is None or not len(index):
        return _through_map(values, index)
    rows = _from_file(*place, values.transpose(axes), _counted_from_zero(index, len(values)))
    return rows.transpose(np.argsort(axes))


def _root(values: NDArray[np.generic]) -> "np.memmap[tuple[int, ...], np.dtype[np.generic]] | None":
    """The map that an array is, or is a view of, at whatever distance."""
    found = None
    base: object = values
    while isinstance(base, np.ndarray):
        found = base if isinstance(base, np.memmap) else found
        base = base.base
    return found if isinstance(base, mmap.mmap) else None


def _place(
    values: NDArray[np.generic], root: "np.memmap[tuple[int, ...], np.dtype[np.generic]]"
) -> tuple[int, int] | None:
    """The open file that rows can be read from, and where the first begins; None where they cannot.

    That is so for maps of others, for rows that lie in pieces, and where files have no positions.
    """
    descriptor = _descriptors.get(root._mmap)  # type: ignore[attr-defined]
    if descriptor is None or not hasattr(os, "pread") or not values[:1].flags.c_contiguous:
        return None
    return descriptor, root.offset + _address(values) - _address(root)


def _address(values: NDArray[np.generic]) -> int:
    return int(values.__array_interface__["data"][0])


def _counted_from_zero(index: NDArray[np.int64], rows: int) -> NDArray[np.int64]:
    counted = np.where(index < 0, index + rows, index).astype(np.int64)
    if ((counted < 0) | (counted >= rows)).any():
        raise IndexError(f"expected rows from 0 to {rows - 1}, found {index.min()}..{index.max()}")
    return counted


def _from_file(
    descriptor: int, start: int, values: NDArray[np.generic], index: NDArray[np.int64]
) -> NDArray[np.generic]:
    size, stride = math.prod(values.shape[1:]) * values.itemsize, values.strides[0]
    first = np.arange(len(index))
    if stride == size:  # the rows lie back to back
        first = np.flatnonzero(np.diff(index, prepend=index[0] - 2) != 1)
    lengths = (np.diff(first, append=len(index)) * size).tolist()
    offsets = (start + index[first] * stride).tolist()
    read = (_read(descriptor, *part) for part in zip(lengths, offsets, strict=True))
    content = bytearray().join(read)
    return np.frombuffer(content, values.dtype).reshape(len(index), *values.shape[1:])


def _read(descriptor: int, size: int, offset: int) -> bytes:
    """Exactly so many bytes of a file; one call gives at most 2 GiB of them."""
    content = os.pread(descriptor, size, offset)
    while len(content) < size:
        more = os.pread(descriptor, size - len(content), offset + len(content))
        if not more:
            raise DataError("the file of the data has become shorter while in use: put it back")
        content += more
    return content


def _through_map(values: NDArray[np.generic], index: NDArray[np.int64]) -> NDArray[np.generic]:
    taken = np.empty((len(index), *values.shape[1:]), values.dtype)
    for start in range(0, len(index), _FALLBACK_ROWS):
        some = slice(start, start + _FALLBACK_ROWS)
        taken[some] = values[index[some]]
        release(values)
    return taken

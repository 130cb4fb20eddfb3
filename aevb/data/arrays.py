"""Readers of arrays: .npy and .npz; a header is believed only as far as the file bears it out."""

import math
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from aevb.data.checks import Rules, Table, check_expansion, damaged, kind_of, undamaged
from aevb.data.maps import open_map
from aevb.errors import DataError

RESIDENT_BYTES = 1 << 30
"""A .npy file above this size stays a memory map."""

_CHANNELS = (1, 3, 4)
_DATA_NAMES = ("x", "X", "data", "images")
_LABEL_NAMES = ("labels", "y")


class _Header(NamedTuple):
    """What the header of an array says, and where the numbers begin."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: "np.dtype[np.generic]"
    offset: int


def read_npy(file: Path, rules: Rules) -> Table:
    """Map a .npy file, and read it into memory unless it is large."""
    with undamaged(file, _refusal), file.open("rb") as stream:
        shape, fortran, dtype, offset = _header(stream, file.stat().st_size)
        if not math.prod(shape):
            return Table(np.empty(shape, dtype))
        mapped = open_map(stream, dtype, shape, offset, fortran=fortran)
        return Table(mapped if mapped.nbytes > RESIDENT_BYTES else np.array(mapped))


def read_npz(file: Path, rules: Rules) -> Table:
    """Take the data, and the labels if there are any, out of a .npz archive."""
    with undamaged(file, _refusal), file.open("rb") as stream:
        # An archive that lost its end is no zip file, and numpy would take it for a pickle.
        if not zipfile.is_zipfile(stream):
            raise ValueError("it is no zip archive, or its end is missing")
        stream.seek(0)
        with np.load(stream, allow_pickle=False) as archive:
            names = _choose(file, archive.files)
            _check_members(file, archive.zip, names)
            arrays = [np.asarray(archive[name]) for name in names]
    labels = _labels(file, names[1], arrays[1], arrays[0]) if names[1:] else None
    return Table(arrays[0], labels)


def of_tensor(data: Any) -> Any:
    """A tensor as an array, whatever its device and its gradient; all else as it is."""
    if not isinstance(data, torch.Tensor) or data.is_meta:  # which holds no numbers
        return data
    return (data.float() if data.dtype == torch.bfloat16 else data).numpy(force=True)


def lay_out(
    where: object, values: NDArray[np.generic]
) -> tuple[NDArray[np.generic], tuple[int, ...]]:
    """The values as (N, *event), and the event shape; a memory map is viewed, never copied."""
    if values.ndim == 3:
        values = values[:, np.newaxis]
    elif values.ndim == 4 and values.shape[1] not in _CHANNELS and values.shape[3] in _CHANNELS:
        values = values.transpose(0, 3, 1, 2)
    elif values.ndim > 4:
        raise DataError(
            f"{where}: expected rows of 1 to 3 axes, found an array of shape {values.shape}; "
            f"reshape it to (N, {math.prod(values.shape[1:])})"
        )
    elif values.ndim == 4 and values.shape[1] not in _CHANNELS:
        if isinstance(values, np.memmap) and not values.flags.c_contiguous:
            raise DataError(
                f"{where}: expected an array of this size in C order, found Fortran order; "
                f"save it with np.ascontiguousarray"
            )
        values = values.reshape(len(values), -1)
    return values, values.shape[1:]


def _refusal(file: Path, error: Exception) -> DataError:
    """The sentence for an array file that numpy cannot read."""
    if "object" in str(error).lower():
        return DataError(
            f"{file} holds Python objects, which are code and never loaded; "
            f"save it as an array of numbers"
        )
    return damaged(file, error)


def _header(stream: IO[bytes], size: int) -> _Header:
    """The header of an array that lies in `size` bytes; ValueError where it claims more."""
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"version {version} of the format is none for numbers")
    read = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
    shape, fortran, dtype = read[version[0]](stream)
    if dtype.hasobject:
        raise ValueError("an array of objects")
    if not dtype.itemsize:
        raise ValueError(f"its cells ({dtype}) take no space")
    held, claimed = size - stream.tell(), math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or claimed > held or max(shape, default=0) > 2**62:
        raise ValueError(f"its header claims {claimed:,} bytes, and {held:,} are there")
    return _Header(shape, fortran, dtype, stream.tell())


def _check_members(file: Path, archive: zipfile.ZipFile, names: Sequence[str]) -> None:
    """Hold what the chosen members claim to the size of the file, before any is unpacked."""
    members = set(archive.namelist())
    chosen = [archive.getinfo(n if n in members else f"{n}.npy") for n in names]
    check_expansion(file, file.stat().st_size, sum(member.file_size for member in chosen))
    for member in chosen:
        with archive.open(member) as stream:
            _header(stream, member.file_size)


def _choose(file: Path, names: Sequence[str]) -> list[str]:
    """The names of the array of an archive that holds the data and, if any, of the labels."""
    others = [name for name in names if name not in _LABEL_NAMES] or list(names)
    labels = [name for name in _LABEL_NAMES if name in names and name not in others][:1]
    candidates = others if len(others) == 1 else [name for name in others if name in _DATA_NAMES]
    if len(candidates) == 1:
        return candidates + labels
    raise DataError(
        f"{file}: expected one array, or exactly one called {', '.join(_DATA_NAMES)}, found "
        f"{', '.join(map(repr, names[:20])) or 'none'}; save the rows to be modeled under the "
        f"name x"
    )


def _labels(
    file: Path, name: str, marks: NDArray[np.generic], values: NDArray[np.generic]
) -> NDArray[np.int64]:
    """The labels of an archive, checked to be one integer for each row of the data."""
    rows = values.shape[:1]
    if marks.shape != rows or marks.dtype.kind not in "biu" or marks.dtype == np.uint64:
        raise DataError(
            f"{file}: expected {name!r} to hold one integer (64 bits, signed) for each of "
            f"{sum(rows)} rows, found {kind_of(marks)} of shape {marks.shape}; rename or convert it"
        )
    return marks.astype(np.int64)

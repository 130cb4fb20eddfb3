"""What every reader shares: paths that are safe to open, sizes that fit, cells that are numbers."""

import math
import os
import stat
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from aevb.data.maps import release
from aevb.errors import DataError, reason

FREE_BYTES = 200 * 10**6
"""What a compressed file may always expand to."""

MOST_EXPANSION = 100
"""How many times its own size a compressed file may expand to beyond `FREE_BYTES`."""

CHUNK_BYTES = 1 << 22
MOST_OFFSET = 2.0**17
"""How many of its ranges a column may lie from zero: 64 to 128 numbers of 32 bits remain in it."""

_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def row_place(index: int) -> str:
    """Rows are counted from 1; those of a file that people open by its lines have a line."""
    return f"row {index + 1}"


class Table(NamedTuple):
    """Rows as a reader found them, before the checks and the suggestion that all formats share.

    Shapes: `values` (N, ...); `names` and `levels` have X entries or none. `checked` says that a
    NaN in the values is a missing cell, since the reader refused all others. `place` says where a
    row stands, for one who would look for it: "row 5", or "line 6" of a file with a header; label
    k is that of `classes`[k], where these have names.
    """

    values: NDArray[np.generic]
    labels: NDArray[np.int64] | None = None
    names: tuple[str, ...] = ()
    levels: tuple[tuple[str, ...], ...] = ()
    scale: float | None = None
    checked: bool = False
    place: Callable[[int], str] = row_place
    classes: tuple[str, ...] = ()


class Rules(NamedTuple):
    """What is asked of data: whether NaN is a missing cell, and whether a model is to be fitted."""

    allow_nan: bool = False
    fit: bool = True


@contextmanager
def readable(file: Path) -> Iterator[None]:
    """Turn what the operating system refuses into one sentence."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{file} cannot be read ({reason(error)}); check the disk and the permissions"
        ) from error


def damaged(file: Path, why: str | Exception) -> DataError:
    """The sentence for a file that its format's library cannot read."""
    said = why if isinstance(why, str) else reason(why)
    kind = file.suffix.lower()
    return DataError(f"{file} is damaged, cut off or no {kind} file ({said}); write it again")


@contextmanager
def undamaged(
    file: Path, refusal: Callable[[Path, Exception], DataError] = damaged
) -> Iterator[None]:
    """Turn what a library raises into one sentence, and keep its warnings to ourselves.

    None documents a list of what damaged bytes may raise, so that anything counts as damage.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (DataError, PermissionError):
        raise
    except MemoryError as error:
        raise DataError(f"{file}: there is not enough memory for what it says it holds") from error
    except Exception as error:
        raise refusal(file, error) from error


def is_folder(path: Path) -> bool:
    """Whether there is a folder at a path, or else a file; the path is looked at, never opened.

    Errors: DataError for what is missing, a dangling link, or neither (a pipe, a device).
    """
    with readable(path):
        try:
            mode = os.stat(path).st_mode
        except FileNotFoundError as error:
            if path.is_symlink():
                raise DataError(
                    f"{path} is a link to {os.readlink(path)}, which does not exist; mend the link"
                ) from error
            raise DataError(f"{path} does not exist; check the path") from error
        except ValueError as error:
            raise DataError(f"{str(path)!r} is no path ({error}); check it") from error
    if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
        kind = _KINDS.get(stat.S_IFMT(mode), "no file")
        raise DataError(f"{path} is {kind}, which is never opened; expected a file or a folder")
    return stat.S_ISDIR(mode)


def held_bytes(file: Path) -> int:
    """The size of a file on the disk; DataError for none, and for an empty one."""
    is_folder(file)
    with readable(file):
        size = file.stat().st_size
    if not size:
        raise DataError(f"{file} is empty (0 bytes); write or copy it again")
    return size


def check_expansion(where: object, held: int, claimed: int) -> None:
    """Refuse what would fill the memory: a small file that claims to hold very much.

    Units: bytes on the disk, and bytes that it would take in memory.
    """
    if claimed > max(FREE_BYTES, MOST_EXPANSION * held):
        raise DataError(
            f"{where}: {held:,} bytes claim to hold {claimed:,}, more than {MOST_EXPANSION} times "
            f"as much, and are not unpacked; save them as .npy if they are meant to"
        )


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


def chunks(values: NDArray[np.generic]) -> Iterator[tuple[int, NDArray[np.generic]]]:
    """Blocks of whole rows, each (n, X), with the number of the first row, counted from 0.

    A block is to be done with before the next one: its pages of a memory map are given back then.
    """
    row_bytes = values.dtype.itemsize * math.prod(values.shape[1:])
    step = max(1, CHUNK_BYTES // max(1, row_bytes))
    for start in range(0, len(values), step):
        block = values[start : start + step]
        yield start, block.reshape(len(block), -1)
        release(values)


def kind_of(values: NDArray[np.generic]) -> str:
    """What a dtype holds, in words."""
    names = {"c": "complex numbers", "U": "text", "S": "text", "T": "text", "O": "Python objects"}
    return names.get(values.dtype.kind, str(values.dtype))


def check_array(where: object, values: NDArray[np.generic]) -> None:
    """Hold an array to numbers in at least one row and one column."""
    if values.dtype.kind not in "biuf":
        raise DataError(
            f"{where}: expected real numbers, found {kind_of(values)}; convert it first"
        )
    if values.ndim < 2:
        raise DataError(
            f"{where}: expected rows and columns, found an array of shape {values.shape}; "
            f"reshape it to (N, 1) if every number is a datum"
        )
    if not len(values):
        raise DataError(f"{where}: expected at least 1 row, found none; add rows")
    if values.size == 0:
        raise DataError(
            f"{where}: expected at least 1 column, found an array of shape {values.shape}"
        )


def not_finite(where: object, place: str, column: int, found: object, count: int) -> DataError:
    """The sentence for NaN and infinity."""
    cells = "1 such cell" if count == 1 else f"{count} such cells"
    cure = (
        '; fill or remove them, or say --allow-nan (allow_nan=True) if NaN means "not observed"'
        if str(found) == "nan"
        else " that fit 32 bits; fill or remove them"
    )
    return DataError(
        f"{where}, {place}, column {column}: found {found} ({cells} in all), expected finite "
        f"numbers{cure}"
    )


def check_resolution(
    where: object,
    low: NDArray[np.float64],
    high: NDArray[np.float64],
    names: tuple[str, ...] = (),
) -> None:
    """DataError for a column that differs so little, beside its size, that 32 bits blur it.

    Shapes: `low`, `high` (X,), what was observed between, before it was rounded.
    """
    with np.errstate(invalid="ignore", over="ignore"):  # infinity has a sentence of its own
        middle, spread = low / 2 + high / 2, high - low
        blurred = (spread > 0) & (np.abs(middle) > MOST_OFFSET * spread)
    if blurred.any():
        i = int(np.argmax(blurred))
        raise DataError(
            f"{where}, {column_label(i, names)}: values near {middle[i]:.9g} differ by "
            f"{spread[i]:.3g} only, which rounding to 32 bits would blur: subtract an offset from "
            "the column"
        )


def column_label(index: int, names: tuple[str, ...]) -> str:
    """A column by its number, 1-based, and its name if it has one."""
    return f"column {index + 1}" + (f" ({names[index][:40]!r})" if names else "")


def listed(names: list[str] | tuple[str, ...]) -> str:
    """Up to five names, and how many more there are."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(repr(name[:40]) for name in names[:5]) + more


def check_names(where: object, names: tuple[str, ...]) -> None:
    """Hold a header to names, each once."""
    if "" in names:
        raise DataError(
            f"{where}: column {names.index('') + 1} has no name, as when pandas writes its index; "
            f"save the table with index=False, or name the column"
        )
    if len(set(names)) < len(names):
        twice = next(name for name, times in Counter(names).items() if times > 1)
        first = names.index(twice)
        raise DataError(
            f"{where}: columns {first + 1} and {names.index(twice, first + 1) + 1} have the same "
            f"name {twice[:40]!r}; rename or remove one"
        )

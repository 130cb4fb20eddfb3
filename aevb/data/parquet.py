"""The reader of .parquet: what the file claims is held to its size before anything is unpacked."""

import struct
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aevb.data.checks import Rules, Table, check_expansion, check_names, damaged, undamaged
from aevb.data.converted import converted
from aevb.data.frames import Cells, assemble, unsuitable, used
from aevb.errors import DataError

_MAGIC = b"PAR1"
_BATCH = 1 << 16


def read_parquet(file: Path, rules: Rules) -> Table:
    """Read the columns of a .parquet file as float32; a null is a missing cell.

    A large file is read once, and found in the cache folder afterwards.
    Errors: DataError where pyarrow is not installed, and for what no table of numbers holds.
    """
    return converted(file, rules, _read)


def _read(file: Path, rules: Rules) -> Table:
    parquet = _pyarrow(file)
    _check_ends(file)
    with undamaged(file), parquet.ParquetFile(file, pre_buffer=False) as source:
        schema = source.schema_arrow
        names = tuple(schema.names)
        rows, width = source.metadata.num_rows, len(names)
        claimed = max(rows * width * 4, _unpacked_size(source.metadata))
        check_expansion(file, file.stat().st_size, claimed)
        _check_schema(file, schema)
    if not rows or not width:
        raise DataError(f"{file}: expected rows of numbers, found {rows} of {width} columns")
    # One long text that all rows share would fill the memory if each row had a copy of it.
    texts = [field.name for field in schema if not _is_number(field.type)]
    options = {"pre_buffer": False, "read_dictionary": texts}
    with undamaged(file), parquet.ParquetFile(file, **options) as source:
        columns = [_Column(rows, field.type) for field in schema]
        start = 0
        for batch in source.iter_batches(_BATCH, use_threads=False):
            batch.validate(full=True)
            for column, cells in zip(columns, batch.columns, strict=True):
                column.add(start, cells)
            start += batch.num_rows
        if start != rows:
            raise ValueError(f"{rows:,} rows are announced, and {start:,} are there")
    cells = (column.cells() for column in columns)
    return assemble(str(file), (rows, width), names, cells, rules)


class _Column:
    """A column that is filled batch by batch."""

    def __init__(self, rows: int, kind: Any) -> None:
        self.is_text = not _is_number(kind)
        self.declared = import_module("pyarrow").types.is_dictionary(kind)
        self.values = np.empty(rows, np.int64 if self.is_text else np.float64)
        self.null = np.zeros(rows, np.bool_)
        self.known: dict[str, int] = {}

    def add(self, start: int, cells: Any) -> None:
        """Take the cells of rows `start` and after."""
        place = slice(start, start + len(cells))
        self.null[place] = cells.is_null().to_numpy(zero_copy_only=False)
        if not self.is_text:
            self.values[place] = _as_float(cells)
            return
        coded = cells if hasattr(cells, "dictionary") else cells.dictionary_encode()
        codes = coded.indices.cast("int64").fill_null(-1).to_numpy(zero_copy_only=False)
        codes, texts = used(codes, coded.dictionary.to_pylist())
        places = [self.known.setdefault(text, len(self.known)) for text in texts]
        self.values[place] = np.array([*places, -1], np.int64)[codes]

    def cells(self) -> Cells:
        """The whole column."""
        texts = list(self.known) if self.is_text else None
        return Cells(self.values, self.null, texts, self.declared)


def _pyarrow(file: Path) -> Any:
    try:
        return import_module("pyarrow.parquet")
    except ImportError as error:
        raise DataError(
            f"{file}: reading .parquet needs pyarrow: pip install 'aevb[tables]'"
        ) from error


def _check_ends(file: Path) -> None:
    """Hold the file to the mark at both ends and to the length of what stands before the last."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        head = stream.read(4)
        stream.seek(max(0, size - 8))
        tail = stream.read(8)
    if head == b"PARE" or tail[4:] == b"PARE":
        raise DataError(f"{file} is encrypted; save it without encryption")
    if size < 12 or head != _MAGIC or tail[4:] != _MAGIC:
        raise damaged(file, "the mark PAR1 is missing at one of its ends")
    (footer,) = struct.unpack("<I", tail[:4])
    if not 0 < footer <= size - 12:
        raise damaged(file, f"its last part claims {footer:,} bytes of {size:,}")


def _unpacked_size(metadata: Any) -> int:
    """How many bytes the pages of all columns claim to hold; ValueError where they contradict."""
    total = rows = 0
    for index in range(metadata.num_row_groups):
        group = metadata.row_group(index)
        rows += group.num_rows
        total += group.total_byte_size
        if min(group.num_rows, group.total_byte_size) < 0:
            raise ValueError("a size is below 0")
    if rows != metadata.num_rows:
        raise ValueError(f"{metadata.num_rows:,} rows are announced, and {rows:,} are there")
    return total


def _check_schema(file: Path, schema: Any) -> None:
    """Hold the columns to names and to kinds that are numbers or text."""
    names = tuple(schema.names)
    check_names(file, names)
    for at, field in enumerate(schema):
        if field.name.startswith("__index_level_"):
            raise DataError(
                f"{file}: column {at + 1} is the index of pandas, {field.name!r}; save the table "
                f"with index=False"
            )
        if not (_is_number(field.type) or _is_text(field.type)):
            raise unsuitable(str(file), at, names, field.type)


def _is_number(kind: Any) -> bool:
    types = import_module("pyarrow").types
    tests = (types.is_boolean, types.is_integer, types.is_floating, types.is_decimal, types.is_null)
    return any(test(kind) for test in tests)


def _is_text(kind: Any) -> bool:
    types = import_module("pyarrow").types
    if types.is_dictionary(kind):
        return _is_text(kind.value_type) or types.is_integer(kind.value_type)
    return any(t(kind) for t in (types.is_string, types.is_large_string, types.is_string_view))


def _as_float(cells: Any) -> NDArray[np.float64]:
    """The numbers of a batch; NaN where there is none."""
    arrow = import_module("pyarrow")
    values = cells.cast(arrow.uint8()) if arrow.types.is_boolean(cells.type) else cells
    values = values.cast(arrow.float64(), safe=False)
    return np.asarray(values.to_numpy(zero_copy_only=False), np.float64)

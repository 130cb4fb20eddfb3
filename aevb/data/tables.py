"""The reader of .csv: numbers and texts separated by commas, read twice where there are texts."""

import csv
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TextIO

import numpy as np
from numpy.typing import NDArray

from aevb.data.checks import (
    Rules,
    Table,
    check_names,
    check_resolution,
    column_label,
    not_finite,
)
from aevb.data.columns import MOST_CLASSES, code_by_level, has_comma, not_a_number, number
from aevb.data.converted import converted
from aevb.errors import DataError, reason

MISSING = frozenset({"", "NA", "N/A", "<NA>", "null", "NULL", "None", "?"})
"""Cells that were not observed; spaces around them are ignored."""

ROW_CHARACTERS = 1 << 24
"""No row may be longer: the reader would have to hold it before it could look at it."""

_REMEMBERED = 1000
"""How many texts the first pass remembers, to know them again at once."""

_MARKS = {
    b"\xff\xfe\x00\x00": "UTF-32",
    b"\x00\x00\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}


@dataclass
class _Scan:
    """What one pass over a file finds: numbers, and how many texts stand in which column."""

    width: int = 0
    header: list[str] | None = None
    numbers: "array[float]" = field(default_factory=lambda: array("d"))
    missing: int = 0
    texts: dict[int, int] = field(default_factory=dict)
    first: dict[int, tuple[int, str]] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name.strip() for name in self.header or ())


def read_csv(file: Path, rules: Rules) -> Table:
    """Read comma-separated cells as float32; the first row may be a header.

    A column in which at least half of the cells that are there are numbers is one of numbers. A
    large file is read once, and found in the cache folder afterwards.
    """
    table = converted(file, rules, _read)
    return table._replace(place=partial(_place, file, bool(table.names)))


def _read(file: Path, rules: Rules) -> Table:
    scan = _scan(file)
    if not scan.numbers:
        raise DataError(f"{file}: expected rows of numbers, found none; check that it was saved")
    check_names(file, scan.names)
    exact = np.frombuffer(scan.numbers, np.float64).reshape(-1, scan.width)
    if rules.fit:
        check_resolution(file, np.fmin.reduce(exact), np.fmax.reduce(exact), scan.names)
    with np.errstate(over="ignore"):  # what is infinite in 32 bits is refused later
        values = exact.astype(np.float32)
    _check_nan(file, scan, values, rules)
    texts = _text_columns(file, scan, values)
    levels = _code_texts(file, scan, values, texts) if texts else ()
    return Table(values, names=scan.names, levels=levels, checked=True)


def _place(file: Path, has_header: bool, index: int) -> str:
    """The line of the file that a row stands in; it takes another pass to say so."""
    lines = (line for line, _ in _rows(file))
    return f"line {next(islice(lines, index + has_header, None))}"


def _scan(file: Path) -> _Scan:
    scan = _Scan()
    for line, row in _rows(file):
        if not scan.width:
            _check_separator(file, row)
            scan.width = len(row)
            if any(cell.strip() not in MISSING and number(cell) is None for cell in row):
                scan.header = row
                continue
        if len(row) != scan.width:
            raise DataError(
                f"{file}, line {line}, column {min(len(row), scan.width) + 1}: expected "
                f"{scan.width} cells as in the first line, found {len(row)}; complete or remove "
                f"the row"
            )
        try:
            if "_" in "".join(row):
                raise ValueError("an underscore")
            scan.numbers.extend([float(cell) for cell in row])
        except ValueError:
            scan.numbers.extend(_cells(file, scan, line, row))
    return scan


def _cells(file: Path, scan: _Scan, line: int, row: Sequence[str]) -> list[float]:
    """The numbers in a row, and NaN for a missing cell and, counted by column, for a text."""
    values = []
    for at, cell in enumerate(row):
        # To ask what was seen before is ten times faster than to try and fail.
        value = None if cell in MISSING or cell in scan.seen else number(cell)
        if value is None:
            value = np.nan
            if cell.strip() in MISSING:
                scan.missing += 1
            else:
                _count_text(file, scan, line, at, cell)
        values.append(value)
    return values


def _count_text(file: Path, scan: _Scan, line: int, at: int, cell: str) -> None:
    if has_comma(cell):
        raise not_a_number(file, f"line {line}", at + 1, cell)
    if len(scan.seen) < _REMEMBERED:
        scan.seen.add(cell)
    scan.texts[at] = scan.texts.get(at, 0) + 1
    scan.first.setdefault(at, (line, cell))


def _rows(file: Path) -> Iterator[tuple[int, list[str]]]:
    """The rows of a table with their line numbers; empty lines may only stand at the end."""
    line = blank = 0
    with file.open("rb") as start:
        head = start.read(4)
    for mark, name in _MARKS.items():
        if head.startswith(mark):
            raise DataError(f"{file}: expected text in UTF-8, found {name}; save it as UTF-8")
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            lines = _Lines(file, stream)
            rows = csv.reader(lines, strict=True)
            for row in rows:
                line, lines.taken = rows.line_num, 0
                if row and blank:
                    raise DataError(
                        f"{file}, line {blank}, column 1: expected a number, found an empty line; "
                        f"fill or remove it"
                    )
                blank = blank if row or blank else line
                if row:
                    yield line, row
    except (csv.Error, UnicodeDecodeError) as error:
        for sign, name in _SEPARATORS.items():  # a quoted header hides its separators from csv
            if not line and lines.first.count(sign) > lines.first.count(","):
                raise _separated(file, name) from error
        if isinstance(error, UnicodeDecodeError):
            raise DataError(
                f"{file}: expected text in UTF-8, found the byte 0x{error.object[error.start]:02x} "
                "out of place; save it as UTF-8"
            ) from error
        raise DataError(
            f"{file}: expected comma-separated numbers in UTF-8, found something else after "
            f"line {line} ({reason(error)}); save it as plain text"
        ) from error


class _Lines:
    """Lines for the csv module, which would take any amount of text before it gave a row."""

    def __init__(self, file: Path, stream: TextIO) -> None:
        self.file, self.stream = file, stream
        self.taken = self.line = 0
        self.first = ""

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        text = self.stream.readline(ROW_CHARACTERS + 1)
        self.taken += len(text)
        self.line += 1
        self.first = self.first or text
        if not text:
            raise StopIteration
        if self.taken > ROW_CHARACTERS:
            raise DataError(
                f"{self.file}, line {self.line}: expected at most {ROW_CHARACTERS:,} characters, "
                f"found more; end each row by a line break"
            )
        if "\0" in text:
            raise DataError(
                f"{self.file}, line {self.line}: expected text, found a NUL byte; save it as plain "
                f"text in UTF-8"
            )
        return text


def _check_separator(file: Path, row: Sequence[str]) -> None:
    """Say so where the first row is separated by something else than commas."""
    whole = ",".join(row)
    for mark, name in _SEPARATORS.items():
        cells = whole.split(mark)
        if len(cells) > 1 and (len(row) == 1 or all(map(_is_any_number, cells))):
            raise _separated(file, name)
    words = whole.split()
    if len(row) == 1 and len(words) > 1 and all(number(word) is not None for word in words):
        raise _separated(file, "spaces")


def _is_any_number(cell: str) -> bool:
    return number(cell) is not None or has_comma(cell)


def _separated(file: Path, name: str) -> DataError:
    return DataError(
        f"{file}, line 1: expected cells separated by commas, found {name}; save it with commas "
        f"between cells and points before decimals"
    )


def _data_rows(file: Path, scan: _Scan) -> Iterator[tuple[int, list[str]]]:
    return islice(_rows(file), 1 if scan.header else 0, None)


def _check_nan(file: Path, scan: _Scan, values: NDArray[np.float32], rules: Rules) -> None:
    """Refuse NaN that is written as a number; it takes another pass to say where the first is."""
    holes = scan.missing + sum(scan.texts.values())
    written = int(np.count_nonzero(np.isnan(values))) - holes
    if not written or rules.allow_nan:
        return
    for line, row in _data_rows(file, scan):
        for at, cell in enumerate(row):
            value = number(cell)
            if value is not None and value != value:
                raise not_finite(file, f"line {line}", at + 1, "nan", written)


def _text_columns(file: Path, scan: _Scan, values: NDArray[np.float32]) -> list[int]:
    """The columns of text; DataError at the first text in a column of numbers."""
    columns, wrong = [], []
    for at in sorted(scan.texts):
        texts = scan.texts[at]
        numbers = len(values) - int(np.count_nonzero(np.isnan(values[:, at])))
        if numbers >= texts:
            wrong.append((*scan.first[at], at))
        else:
            columns.append(at)
    if wrong:
        line, cell, at = min(wrong, key=lambda found: (found[0], found[2]))
        raise not_a_number(file, f"line {line}", at + 1, cell)
    return columns


def _code_texts(
    file: Path, scan: _Scan, values: NDArray[np.float32], columns: list[int]
) -> tuple[tuple[str, ...], ...]:
    """Write the codes of the texts into their columns; the levels of all columns."""
    codes: dict[int, dict[str, float]] = {at: {} for at in columns}
    for index, (_, row) in enumerate(_data_rows(file, scan)):
        for at, known in codes.items():
            code = known.get(row[at])
            values[index, at] = _code(known, row[at].strip()) if code is None else code
        if max(map(len, codes.values())) > MOST_CLASSES:
            break
    _check_header(file, scan, codes)
    levels: list[tuple[str, ...]] = [()] * scan.width
    for at, known in codes.items():
        label = column_label(at, scan.names)
        levels[at] = code_by_level(file, label, values[:, at], list(known))
    return tuple(levels)


def _code(known: dict[str, float], text: str) -> float:
    """The code of a text, a new one where it is not known yet; NaN for a missing cell."""
    if text in MISSING:
        return np.nan
    value = number(text)
    return np.nan if value is not None and value != value else known.setdefault(text, len(known))


def _check_header(file: Path, scan: _Scan, codes: dict[int, dict[str, float]]) -> None:
    """Refuse a first row that was taken for a header and may well be one of data."""
    if scan.header is None:
        return
    numbers = [number(name) is not None for name in scan.names]
    over_numbers = [not is_number for at, is_number in enumerate(numbers) if at not in codes]
    repeated = all(name in codes.get(at, ()) for at, name in enumerate(scan.names))
    if repeated or (any(numbers) and not any(over_numbers)):
        raise DataError(
            f"{file}, line 1: expected the names of the columns, since there are columns of text, "
            f"found {scan.header[0][:40]!r} and so on, which looks like data; add a first row of "
            f"names"
        )

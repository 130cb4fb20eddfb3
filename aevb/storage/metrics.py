"""The metrics of a run by epoch: `metrics.jsonl`, which is read back, and `metrics.csv` beside it.

The table says what the records say, for spreadsheets. It is written after them, and anew from them
wherever a run is resumed, so that the two agree whatever was killed when.
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aevb.errors import ModelFileError, reason
from aevb.files import replace_atomically
from aevb.storage.files import open_regular, parse_json

METRICS, TABLE = "metrics.jsonl", "metrics.csv"
PARTS = ("elbo", "reconstruction", "kl")
FACTS = ("acceptance", "step_size")
"""Of learners with Markov chains."""
COLUMNS = (
    "epoch",
    "t",
    *(f"train_{part}" for part in PARTS),
    "train_objective",
    *(f"validation_{part}" for part in PARTS),
    "learning_rate_factor",
    "beta",
    "rows_per_second",
    "overhead",
    "seconds",
    *FACTS,
)


def read(folder: Path) -> list[dict[str, Any]]:
    """The records that were written whole; ModelFileError for a damaged one."""
    try:
        with open_regular(folder / METRICS) as file:
            lines = file.read().splitlines(keepends=True)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ModelFileError(f"{folder / METRICS} cannot be read ({reason(error)})") from error
    records = []
    for number, line in enumerate(lines, start=1):
        if line.endswith(b"\n"):
            try:
                records.append(_record(line))
            except (ValueError, RecursionError) as error:
                raise ModelFileError(
                    f"{folder / METRICS}, line {number}, is damaged ({reason(error)}): remove it"
                ) from error
    return records


def _record(line: bytes) -> dict[str, Any]:
    record = parse_json(line)
    if not isinstance(record, dict) or type(record.get("epoch")) is not int:
        raise ValueError("it is no record of an epoch")
    return record


def append(folder: Path, record: Mapping[str, Any]) -> None:
    """Add the record of an epoch to both files."""
    with (folder / METRICS).open("ab") as file:
        file.write(_line(record))
    with (folder / TABLE).open("ab") as file:
        file.write(_rows([record], header=file.tell() == 0))


def keep(folder: Path, epochs: int) -> None:
    """Cut both files back to so many epochs."""
    kept = [record for record in read(folder) if record["epoch"] <= epochs]
    if kept or (folder / METRICS).exists():
        write(folder, kept)


def write(folder: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Put these records, and no others, into both files."""
    replace_atomically(folder / METRICS, b"".join(map(_line, records)))
    replace_atomically(folder / TABLE, _rows(records, header=True))


def _line(record: Mapping[str, Any]) -> bytes:
    return (json.dumps(dict(record), sort_keys=True, allow_nan=False) + "\n").encode()


def _rows(records: Sequence[Mapping[str, Any]], *, header: bool) -> bytes:
    """Lines of the table; a cell is empty where a record says nothing."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if header:
        writer.writerow(COLUMNS)
    writer.writerows([_cell(record, name) for name in COLUMNS] for record in records)
    return text.getvalue().encode()


def _cell(record: Mapping[str, Any], name: str) -> Any:
    if name in record:
        return record[name]
    part, _, key = name.partition("_")
    return (record.get(part) or {}).get(key)

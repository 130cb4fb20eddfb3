"""What is known of data before a model: the named sets, and what a file holds."""

import math
from dataclasses import asdict
from typing import Any

import numpy as np

from aevb.data import Rows, open_source, split
from aevb.data.named import NAMES, NamedSet, summary

OF_NAMED = ("citation", "license", "note")


def data_table() -> list[dict[str, Any]]:
    """A row for each named data set."""
    return [_row(summary(name)) for name in NAMES]


def describe_data(
    name: str, *, allow_nan: bool = False, image_size: tuple[int, int] | None = None
) -> dict[str, Any]:
    """Fetch a data set or read a file, and say what it is, column by column for a table."""
    source = open_source(name, allow_nan=allow_nan, image_size=image_size)
    data = split(source)
    about = summary(name) if name in NAMES else None
    extra = {key: said for key in OF_NAMED if (said := getattr(about, key, ""))}
    columns = [asdict(column) for column in source.columns]
    return {
        "name": data.name,
        "kind": source.kind,
        "rows": len(source.values),
        "shape": "x".join(map(str, data.shape)),
        "train": len(data.train),
        "validation": len(data.validation),
        "test": len(data.test),
        "missing": source.missing,
        "likelihood": source.likelihood,
        "reason": source.reason,
        "binarize": source.binarize,
        "mean": _mean(data.train),
        "fingerprint": source.fingerprint,
        **({"columns": columns} if columns else {}),
        **extra,
    }


def _mean(rows: Rows) -> float | None:
    """The mean of the observed cells, to six decimals."""
    sums = np.array(
        [(float(x.double().nansum()), int((~x.isnan()).sum())) for _, x in rows.chunks(10_000)]
    ).sum(0)
    return round(float(sums[0] / sums[1]), 6) if sums[1] else None


def column_lines(columns: list[dict[str, Any]]) -> list[str]:
    """The columns of a table, a line each: number, name, kind, the texts of its levels."""
    wide = max((len(column["name"]) for column in columns), default=0)
    return [
        f"  {k:>4}  {column['name']:<{wide}}  {column['kind']:<8}  "
        f"{', '.join(column['levels'])}".rstrip()
        for k, column in enumerate(columns, start=1)
    ]


def _row(known: NamedSet) -> dict[str, Any]:
    files = [(form.path, form.size) for form, *_ in known.files]
    facts = ("name", "rows", "shape", "likelihood", "binarize", *OF_NAMED)
    return {key: getattr(known, key) for key in facts} | {
        "shape": "x".join(map(str, known.shape)),
        "files": files,
        "present": known.present,
        "where": known.where,
        "megabytes": math.ceil(sum(size for _, size in files) / 1e6),
    }

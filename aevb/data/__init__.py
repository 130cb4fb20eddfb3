"""Named data sets, the user's own files, splits and batches."""

from aevb.data.dataset import Binarization, Dataset, Rows, all_rows, require_rows, split
from aevb.data.readers import load, open_source, read_values
from aevb.data.schema import conform
from aevb.data.source import Column, Source

__all__ = [
    "Binarization",
    "Column",
    "Dataset",
    "Rows",
    "Source",
    "all_rows",
    "conform",
    "load",
    "open_source",
    "read_values",
    "require_rows",
    "split",
]

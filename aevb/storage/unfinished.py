"""Work on a run that was stopped before its end: kept in the run's folder, and taken up again."""

import json
import logging
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aevb.files import replace_atomically
from aevb.storage.files import npy_bytes, sha256

logger = logging.getLogger("aevb")
LARGEST = 1 << 30
"""Bytes of a table; what is larger was not written by this program."""


class Unfinished:
    """A table of numbers in a file whose name says all that the numbers depend on.

    Two pieces of work that differ in anything never meet, and a changed model finds nothing.
    Saving replaces the file at once; a folder that cannot be written keeps nothing.
    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     place = Unfinished(Path(folder), {"method": "ais", "seed": 0})
        ...     place.save(np.ones((2, 3)))
        ...     place.load().shape, place.remove(), place.load()
        ((2, 3), None, None)
    """

    def __init__(self, folder: Path, facts: Mapping[str, Any]) -> None:
        self.folder = folder
        name = sha256(json.dumps(facts, sort_keys=True).encode())[:32]
        self.path = folder / f"{name}.npy"

    def load(self) -> NDArray[np.float64] | None:
        """What was saved last; nothing where the file is missing or cut off."""
        try:
            if self.path.stat().st_size > LARGEST:
                return None
            table = np.load(self.path, allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        if table.dtype != np.float64:
            return None
        logger.info(f"going on with what {self.path} holds")
        return np.asarray(table)

    def save(self, table: NDArray[np.float64]) -> None:
        """Put the table in place of what was there."""
        with suppress(OSError):
            self.folder.mkdir(exist_ok=True)
            replace_atomically(self.path, npy_bytes(table))

    def remove(self) -> None:
        """Forget it: the work is done."""
        with suppress(OSError):
            self.path.unlink(missing_ok=True)
            self.folder.rmdir()  # when it is empty

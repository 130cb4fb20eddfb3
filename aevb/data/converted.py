"""Tables of text that were read before: kept as arrays in the user's cache folder.

To read a large .csv takes many times as long as to load the array that comes of it, and each
command reads its data anew. What is kept is only ever a copy: it is found by the path, size, times
and blocks of the file and by the version of this package, held to its checksum, and dropped, oldest
use first, where all of them together grow too large. Nothing that happens to it is an error.
"""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aevb import __version__
from aevb.data.checks import CHUNK_BYTES, Rules, Table
from aevb.data.fingerprints import fingerprint
from aevb.errors import DataError
from aevb.files import beside, cache_folder

FOLDER = "tables"
"""The name of the folder below the user's cache folder; it may be removed at any time."""

LEAST_BYTES = 1 << 20
"""Smaller files are read faster than anyone would notice."""

MOST_BYTES = 2 << 30
"""What all kept tables together may take on the disk."""

_FORMAT = 2

logger = logging.getLogger("aevb")


def converted(file: Path, rules: Rules, read: Callable[[Path, Rules], Table]) -> Table:
    """What `read(file, rules)` gives, but for its `place`; from an earlier reading if it is kept.

    One under stricter rules serves too: rules refuse, and change nothing in what they let by.
    Errors: those of `read`, which is asked whenever nothing is kept.
    """
    about = _about(file)
    if about is None:
        return read(file, rules)
    for stricter in _as_strict(rules):
        kept = _load(_key(about, stricter))
        if kept is not None:
            return kept
    table = read(file, rules)
    if _about(file) == about:  # it was not written to meanwhile
        _keep(_key(about, rules), file, table)
    return table


def _as_strict(rules: Rules) -> Iterator[Rules]:
    """These rules, and those that let less by."""
    for allow_nan in {False, rules.allow_nan}:
        for fit in {True, rules.fit}:
            yield Rules(allow_nan, fit)


class _About(NamedTuple):
    """The folder of kept tables, and what tells a file from any other and from its former self."""

    folder: Path
    content: tuple[Any, ...]


def _about(file: Path) -> _About | None:
    """None where no table of the file is to be kept."""
    try:
        facts = os.stat(file)
        if facts.st_size < LEAST_BYTES:
            return None
        of_file = (facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino)
        content = (_FORMAT, __version__, os.path.abspath(file), of_file, fingerprint(file))
        return _About(cache_folder() / FOLDER, content)
    except (OSError, DataError, RuntimeError):  # no such file, or a user without a home
        return None


def _key(about: _About, rules: Rules) -> Path:
    """Where the table of a file is kept, less the extension."""
    content = json.dumps((*about.content, rules))
    return about.folder / hashlib.sha256(content.encode()).hexdigest()


def _load(key: Path) -> Table | None:
    """The table that is kept under a key; None where there is none, or a damaged one."""
    try:
        facts = json.loads(key.with_suffix(".json").read_bytes())
        with key.with_suffix(".npy").open("rb") as stream:
            if facts["sha256"] != _checksum(facts["table"], stream):
                raise ValueError("it is not as it was written")
            values: NDArray[np.generic] = np.load(stream, allow_pickle=False)
        for extension in (".json", ".npy"):
            os.utime(key.with_suffix(extension))
        names, levels = facts["table"]["names"], facts["table"]["levels"]
        return Table(values, None, tuple(names), tuple(map(tuple, levels)), checked=True)
    except FileNotFoundError:
        return None
    except Exception as error:  # whatever lies there, the file itself is still to be had
        logger.debug(f"{key} is not used: {error}")
        return None


def _keep(key: Path, file: Path, table: Table) -> None:
    """Write a table under its key: the array first, then what vouches for it."""
    if table.values.nbytes > MOST_BYTES:
        return
    facts: dict[str, Any] = {
        "file": os.path.abspath(file),
        "names": table.names,
        "levels": table.levels,
    }
    try:
        key.parent.mkdir(mode=0o700, parents=True, exist_ok=True)  # the data may be private
        _put(key.with_suffix(".npy"), lambda stream: np.save(stream, table.values))
        with key.with_suffix(".npy").open("rb") as stream:
            whole = {"table": facts, "sha256": _checksum(facts, stream)}
        _put(key.with_suffix(".json"), lambda stream: stream.write(json.dumps(whole).encode()))
        _drop_oldest(key.parent)
    except OSError as error:
        logger.debug(f"{file} is not kept as an array in {key.parent}: {error}")


def _put(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Nothing waits for the disk: the checksum tells a file that a crash has torn."""
    with beside(path) as part, part.open("xb") as stream:
        write(stream)


def _checksum(facts: dict[str, Any], stream: BinaryIO) -> str:
    """Of what is said of a table and of its array; the stream is at its beginning afterwards."""
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    while block := stream.read(CHUNK_BYTES):
        digest.update(block)
    stream.seek(0)
    return digest.hexdigest()


def _drop_oldest(folder: Path) -> None:
    """Remove what was not used for longest until the rest fits."""
    with os.scandir(folder) as entries:
        files = [(entry.stat().st_mtime_ns, entry.path, entry.stat().st_size) for entry in entries]
    total = sum(size for *_, size in files)
    for _, path, size in sorted(files):
        if total <= MOST_BYTES:
            return
        os.unlink(path)
        total -= size

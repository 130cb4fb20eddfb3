"""Fingerprints: hashes that tell one content from another."""

import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aevb.data.checks import chunks, readable

FINGERPRINT_BLOCKS = 64
FINGERPRINT_BLOCK_BYTES = 1 << 16


def fingerprint(path: str | os.PathLike[str]) -> str:
    """Hash a file's size and up to 64 blocks of 64 KiB, spread evenly, as "sha256:<hex>".

    A small file is hashed whole. A change of a large one that hides between the blocks goes
    unseen: the fingerprint tells data sets apart, it does not prove that a file is undamaged.
    Errors: DataError when the file cannot be read.
    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     rows = Path(folder, "rows.csv")
        ...     marks = {fingerprint(rows) for text in ("1", "2", "1") if rows.write_text(text)}
        >>> len(marks)
        2
    """
    file = Path(path)
    with readable(file), file.open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        digest = hashlib.sha256(size.to_bytes(8, "big"))
        for offset in block_offsets(size):
            stream.seek(offset)
            digest.update(stream.read(FINGERPRINT_BLOCK_BYTES))
    return f"sha256:{digest.hexdigest()}"


def block_offsets(size: int) -> Sequence[int]:
    """Where the hashed blocks begin: back to back in a small file, evenly spread in a large one."""
    if size <= FINGERPRINT_BLOCKS * FINGERPRINT_BLOCK_BYTES:
        return range(0, size, FINGERPRINT_BLOCK_BYTES)
    last = size - FINGERPRINT_BLOCK_BYTES
    return [last * block // (FINGERPRINT_BLOCKS - 1) for block in range(FINGERPRINT_BLOCKS)]


def fingerprint_of_files(folder: Path, files: Iterable[Path]) -> str:
    """One fingerprint of many files: their names within the folder and their contents, in order."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(folder).as_posix()}\0{fingerprint(file)}\0".encode())
    return f"sha256:{digest.hexdigest()}"


def fingerprint_of_values(values: NDArray[np.generic], words: object = "") -> str:
    """The fingerprint of an array in memory, and of words that belong to it such as a header."""
    digest = hashlib.sha256(f"{values.dtype.str}{values.shape}{words!r}".encode())
    for _, block in chunks(values):
        digest.update(np.ascontiguousarray(block).data)
    return f"sha256:{digest.hexdigest()}"


def keys_of_rows(rows: NDArray[np.float32]) -> NDArray[np.uint64]:
    """A number for the content of each row (N, X), by which its noise can be named; (N,).

    Example:
        >>> keys = keys_of_rows(np.array([[0, 1], [2, 3], [0, 1]], np.float32))
        >>> bool(keys[0] == keys[2]), bool(keys[0] == keys[1])
        (True, False)
    """
    digests = [hashlib.blake2b(row.tobytes(), digest_size=8).digest() for row in rows]
    return np.frombuffer(b"".join(digests), np.uint64)

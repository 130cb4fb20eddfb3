"""Files that are whole or not there: written beside, flushed to the disk, then renamed."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from aevb.errors import UsageError, reason


def write_durably(path: Path, *parts: bytes | memoryview) -> None:
    """Write the parts one after the other and flush them to the disk; the caller renames."""
    with path.open("wb") as file:
        file.writelines(parts)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries, so that a rename in it survives a crash."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """A name of this writer's own, which becomes path at the end; after an error nothing is left.

    Readers see the old file or the new one, whole, however many write.
    """
    part = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def replace_atomically(path: Path, *parts: bytes | memoryview) -> None:
    """Put content at path in one step, and flush it to the disk."""
    with beside(path) as part:
        write_durably(part, *parts)
    sync_folder(path.parent)


def write(path: Path, content: bytes) -> None:
    """Put content where a user asked for it, in a folder made for it; UsageError where one cannot.

    It is there in one step, as by `replace_atomically`.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_atomically(path, content)
    except OSError as error:
        raise UsageError(f"{path} cannot be written ({reason(error)})") from error


def cache_folder() -> Path:
    """The user's folder for what can be had again: downloads, converted tables, compiled code."""
    base = os.environ.get("XDG_CACHE_HOME") or ""
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "aevb"

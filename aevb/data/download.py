"""Files known by size and SHA-256: found on this machine, or downloaded from a mirror.

A file is looked for in the folder that AEVB_DATA names, then in the user's cache folder. A mirror
need not be trusted: what it sends is streamed to a temporary file, checked, flushed to the disk,
and only then given its final name in the cache folder.
"""

import hashlib
import http.client
import logging
import os
import urllib.error
import urllib.request
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from aevb.data.checks import readable
from aevb.errors import DataError, reason
from aevb.files import beside, cache_folder

BLOCK_BYTES = 1 << 16
TIMEOUT = 30.0
"""Seconds without a byte after which a mirror is given up."""

logger = logging.getLogger("aevb")


class _MirrorError(Exception):
    """What went wrong with one mirror; the next one is tried."""


@dataclass(frozen=True)
class RemoteFile:
    """A file below the folder of data sets.

    Units: `size` in bytes. `mirrors` are complete addresses, best first.
    """

    path: str
    size: int
    sha256: str
    mirrors: tuple[str, ...] = ()


def find(*forms: RemoteFile) -> tuple[RemoteFile, Path] | None:
    """The first form of a file that is on this machine, unchecked, and its path; None without.

    Errors: DataError where AEVB_DATA is set and names no folder.
    """
    for folder in _folders():
        for form in forms:
            if (folder / form.path).exists():
                return form, folder / form.path
    return None


def obtain(*forms: RemoteFile, note: str = "") -> Path:
    """The path of an undamaged file, which is downloaded into the cache folder where it is missing.

    `forms` have the same content; `note` ends the sentence on a file that nobody offers.
    Errors: DataError for a file that is damaged or cannot be had.
    """
    found = find(*forms)
    if found is not None:
        _check(*found)
        return found[1]
    for form in forms:
        if form.mirrors:
            return fetch(form.mirrors, cache_folder() / form.path, form.sha256, size=form.size)
    path = forms[0].path
    raise DataError(
        f"{path} is not here and nobody offers it for download: set AEVB_DATA to a folder of "
        f"data sets that has it, or put it at {cache_folder() / path}"
        + (f" ({note})" if note else "")
    )


def fetch(mirrors: Sequence[str], destination: Path, sha256: str, *, size: int) -> Path:
    """Download a file from the first of its mirrors that delivers it, and return its path.

    Nothing half-written ever has the final name, and no temporary file outlives the call.
    Units: `size` in bytes, exact, and never is more read. Each attempt is told to the log.
    Errors: DataError when no mirror delivers the file, with what each did wrong, and when the
    folder cannot be written to.
    Example:
        >>> fetch(["https://example.org/a.gz"], Path("a.gz"), "ab12", size=9)  # doctest: +SKIP
    """
    failures = []
    for url in mirrors:
        logger.info(f"downloading {destination.name} ({size:,} bytes) from {url}")
        try:
            return _fetch_one(url, destination, sha256, size)
        except _MirrorError as failure:
            logger.info(f"{url}: {failure}")
            failures.append(f"{url}: {failure}")
        except OSError as error:
            raise DataError(
                f"{destination} cannot be written ({reason(error)}); make room or set "
                f"XDG_CACHE_HOME to a folder that can be written to"
            ) from error
    raise DataError(
        f"{destination.name} could not be downloaded ({'; '.join(failures) or 'it has no mirror'});"
        f" put the file at {destination}, or set AEVB_DATA to a folder of data sets that has it"
    )


def _fetch_one(url: str, destination: Path, sha256: str, size: int) -> Path:
    """Bring one mirror's file under its final name; whatever happens, no other file is left."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    with beside(destination) as part, part.open("xb") as stream:
        _store(url, stream, sha256, size)
        stream.flush()
        os.fsync(stream.fileno())
    return destination


def _store(url: str, stream: BinaryIO, sha256: str, size: int) -> None:
    """Write what a mirror sends, and hold it to its checksum."""
    digest = hashlib.sha256()
    with closing(_blocks(url, size)) as blocks:
        for block in blocks:
            digest.update(block)
            stream.write(block)
    if digest.hexdigest() != sha256:
        raise _MirrorError(
            f"expected the SHA-256 {sha256[:12]}..., found {digest.hexdigest()[:12]}..."
        )


def _blocks(url: str, size: int) -> Generator[bytes, None, None]:
    """The bytes of a URL, exactly `size` of them; every way to fail becomes a `_MirrorError`.

    Only the network speaks in here: errors of the disk arise in the caller and stay what they are.
    """
    if not url.lower().startswith(("http://", "https://")):
        raise _MirrorError("expected an address that begins with http:// or https://")
    received = 0
    try:
        request = urllib.request.Request(url, headers={"User-Agent": "aevb"})
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            declared = answer.headers.get("Content-Length")
            if declared is not None and int(declared) != size:
                raise _MirrorError(f"expected {size:,} bytes, found a file of {int(declared):,}")
            while block := answer.read(BLOCK_BYTES):
                received += len(block)
                if received > size:
                    raise _MirrorError(f"expected {size:,} bytes, found more")
                yield block
    except urllib.error.HTTPError as error:
        error.close()
        raise _MirrorError(f"answered {error.code} {error.reason}") from error
    except urllib.error.URLError as error:
        raise _MirrorError(f"cannot be reached ({error.reason})") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _MirrorError(f"failed ({reason(error)})") from error
    if received < size:
        raise _MirrorError(f"the connection was cut after {received:,} of {size:,} bytes")


def _folders() -> Iterator[Path]:
    """The folders that are searched, best first."""
    chosen = os.environ.get("AEVB_DATA")
    if chosen:
        folder = Path(chosen).expanduser()
        if not folder.is_dir():
            raise DataError(
                f"AEVB_DATA: expected a folder of data sets, found {chosen}; correct or unset it"
            )
        yield folder
    yield cache_folder()


def _check(file: RemoteFile, path: Path) -> None:
    """Hold a file on this machine to its checksum."""
    with readable(path), path.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != file.sha256:
        raise DataError(
            f"{path} is damaged or another file: expected the SHA-256 {file.sha256[:12]}..., found "
            f"{found[:12]}...; remove it to have it downloaded, or copy it again"
        )

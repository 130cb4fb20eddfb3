"""Files that are read with care, plain files and strict JSON; checksums; a folder's refusals."""

import errno
import hashlib
import io
import json
import math
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from aevb.errors import ModelFileError, TrainingError, reason

MAX_JSON_BYTES = 1 << 24


def to_json(value: Any) -> bytes:
    """JSON with sorted keys and without NaN."""
    return (json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n").encode()


def open_regular(path: Path) -> BinaryIO:
    """Open a plain file, or a link to one, for reading.

    Errors: OSError for anything else: a pipe would wait for ever, a device may never end.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "it is no plain file")
    file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):  # exchanged since the look above
        file.close()
        raise OSError(errno.EINVAL, "it is no plain file")
    return file


def read_json(path: Path, writers: str = "`aevb train` or `aevb.save`") -> dict[str, Any]:
    """A JSON object of at most 16 MiB, as `parse_json` takes it; ModelFileError otherwise.

    `writers` are those of whose folders one is to be named where there is no such file.
    """
    try:
        with open_regular(path) as file:
            content = file.read(MAX_JSON_BYTES + 1)
        if len(content) > MAX_JSON_BYTES:
            raise ModelFileError(f"{path} is larger than 16 MiB: it is no description of a run")
        value = parse_json(content)
    except FileNotFoundError:
        raise ModelFileError(f"{path} does not exist: name a folder that {writers} wrote") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelFileError(f"{path} cannot be read as JSON ({reason(error)})") from error
    if not isinstance(value, dict):
        raise ModelFileError(f"{path} must hold a JSON object, found {type(value).__name__}")
    return value


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Say in one sentence what the operating system refuses, a full disk above all."""
    try:
        yield
    except OSError as error:
        raise TrainingError(
            f"{folder} cannot be written ({reason(error)}): make room, then begin again, or go on, "
            "where it is a run of `aevb train`, with --resume"
        ) from error


def parse_json(content: bytes) -> Any:
    """JSON in UTF-8 without a byte-order mark, repeated keys, NaN or infinity, else ValueError."""
    return json.loads(
        content.decode("utf-8"),
        object_pairs_hook=_without_repeats,
        parse_constant=_refuse,
        parse_float=_finite,
    )


def npy_bytes(array: NDArray[Any]) -> bytes:
    """An array as a .npy file holds it."""
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()


def sha256(*parts: bytes | memoryview) -> str:
    """The checksum of the parts one after the other, in hexadecimal; nothing is copied."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key is given twice")
    return found


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _refuse(text[:20])


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no number in JSON")

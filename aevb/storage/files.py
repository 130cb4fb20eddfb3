"""JSON that is read with care, checksums, and what is said where a folder cannot be written."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aevb.errors import ModelFileError, TrainingError

MAX_JSON_BYTES = 1 << 20


def to_json(value: Any) -> bytes:
    """JSON with sorted keys and without NaN."""
    return (json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n").encode()


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of at most 1 MiB without repeated keys or NaN; ModelFileError otherwise."""
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ModelFileError(f"{path} is larger than 1 MiB: it is no description of a run")
        value = json.loads(
            path.read_bytes(), object_pairs_hook=_without_repeats, parse_constant=_refuse
        )
    except FileNotFoundError:
        raise ModelFileError(
            f"{path} does not exist: name a folder that `aevb train` or `aevb.save` wrote"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelFileError(f"{path} cannot be read as JSON ({error})") from error
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
            f"{folder} cannot be written ({error.strerror or error}): make room, then go on with "
            "--resume"
        ) from error


def sha256(content: bytes) -> str:
    """The checksum of content, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    if len(set(keys)) < len(keys):
        raise ValueError("a key is given twice")
    return dict(pairs)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number in JSON")

"""A safetensors file that carries its own checksum, and stays one that other programs read.

The header's metadata hold `sha256`: the checksum of the whole file with 64 zeros in that place. One
file is renamed in one step, so weights and checksum cannot come from two moments.
"""

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from json import dumps
from math import prod
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from aevb.errors import ModelFileError, reason, shortly
from aevb.storage.files import open_regular, parse_json, sha256

MAX_HEADER_BYTES = 10 << 20
HEADER_BYTES_PER_TENSOR = 1 << 10
CHECKSUM = "sha256"
_BLANK = "0" * 64


@dataclass(frozen=True)
class Header:
    """What a file says of itself: shapes and dtypes by name, texts beside them, its first bytes."""

    entries: dict[str, tuple[tuple[int, ...], Any]]
    facts: dict[str, str]
    raw: bytes


def seal(tensors: Mapping[str, Tensor], facts: Mapping[str, str]) -> tuple[bytes, memoryview]:
    """The two parts of a file, header and data, with a checksum and texts beside it.

    The header is put down here, in one order: the library's own differs from call to call, and a
    run that was resumed must end in the same bytes.
    """
    content = safetensors.torch.save(dict(tensors))
    (length,) = struct.unpack_from("<Q", content)
    metadata = {"format": "pt", **facts, CHECKSUM: _BLANK}
    entries = parse_json(content[8 : 8 + length])
    entries.pop("__metadata__", None)
    text = dumps({"__metadata__": metadata, **entries}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    header, data = struct.pack("<Q", len(text)) + text, memoryview(content)[8 + length :]
    return header.replace(_BLANK.encode(), sha256(header, data).encode(), 1), data


def read_header(path: Path, tensors: int) -> Header:
    """The header of a file of so many tensors, read without touching the data.

    Errors: ModelFileError for a header that is too long for them, or none.
    """
    limit = min(MAX_HEADER_BYTES, HEADER_BYTES_PER_TENSOR * (tensors + 4))
    try:
        with open_regular(path) as file:
            raw = file.read(8)
            (length,) = struct.unpack("<Q", raw)
            if length > limit:
                raise ModelFileError(
                    f"{path} is damaged: its header claims {length} bytes, more than {limit}"
                )
            raw += file.read(length)
        header = parse_json(raw[8:])
        facts = header.pop("__metadata__", {})
        entries = {name: (_shape(entry["shape"]), entry["dtype"]) for name, entry in header.items()}
        if len(raw) < 8 + length or not all(isinstance(text, str) for text in facts.values()):
            raise ValueError("cut, or texts that are none")
    except FileNotFoundError:
        raise ModelFileError(f"{path} does not exist: the run has not saved a model yet") from None
    except OSError as error:
        raise ModelFileError(f"{path} is damaged: it cannot be read ({reason(error)})") from error
    except (ValueError, RecursionError, struct.error, KeyError, TypeError, AttributeError) as error:
        raise ModelFileError(f"{path} is damaged: its header cannot be read") from error
    return Header(entries, facts, raw)


def read_tensors(path: Path, header: Header, sizes: Mapping[str, int]) -> dict[str, Tensor]:
    """All tensors, after every byte was checked; `sizes` are the bytes of an element of each.

    Errors: ModelFileError for a file that is longer or shorter than its header says, that has no
    checksum or another one, or that is no safetensors file.
    """
    size = sum(prod(shape) * sizes[name] for name, (shape, _) in header.entries.items())
    try:
        with open_regular(path) as file:
            found = file.seek(0, 2)
            if found != len(header.raw) + size:
                raise ModelFileError(
                    f"{path} is damaged: it has {found} bytes, expected {len(header.raw) + size}"
                )
            file.seek(0)
            content = file.read(found)
    except (OSError, MemoryError) as error:
        full = isinstance(error, MemoryError)
        said = "there is not enough memory for it" if full else reason(error)
        raise ModelFileError(f"{path} cannot be read ({said})") from error
    _check(path, header, content)
    try:
        return safetensors.torch.load(content)
    except (SafetensorError, ValueError, KeyError) as error:
        raise ModelFileError(f"{path} is damaged ({shortly(reason(error), 200)})") from error


def _check(path: Path, header: Header, content: bytes) -> None:
    """Compare the checksum that a file carries with that of its bytes."""
    stated = header.facts.get(CHECKSUM, "")
    if not re.fullmatch("[0-9a-f]{64}", stated):
        raise ModelFileError(
            f"{path} has no checksum ({CHECKSUM} in its metadata): another program or an older "
            "version wrote it; save the model again with this version"
        )
    raw = header.raw
    if raw.count(stated.encode()) != 1 or not content.startswith(raw):
        raise ModelFileError(f"{path} is damaged: its header does not state one checksum once")
    blank = raw.replace(stated.encode(), _BLANK.encode())
    if sha256(blank, memoryview(content)[len(raw) :]) != stated:
        raise ModelFileError(
            f"{path} is damaged: its bytes do not match its checksum; copy it again from where it "
            "came, or resume the run that wrote it"
        )


def _shape(sizes: Any) -> tuple[int, ...]:
    if not isinstance(sizes, list) or not all(type(n) is int and n >= 0 for n in sizes):
        raise ValueError("a shape is a list of sizes")
    return tuple(sizes)

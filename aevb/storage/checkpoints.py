"""Checkpoints that survive a kill at any moment.

A checkpoint is a folder `step-000000123` with `state.safetensors`, `state.json` and, written last,
`manifest.json` with the SHA-256 of both. It is written under a temporary name, flushed and renamed;
the one before is kept. The newest whole one counts: no pointer says which, since it could only be
wrong. What fails its checksum is named, set aside and never loaded.
"""

import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from aevb.errors import ModelFileError
from aevb.files import sync_folder, write_durably
from aevb.storage.files import open_regular, parse_json, read_json, sha256, to_json

KEPT = 2
TENSORS, FACTS, MANIFEST = "state.safetensors", "state.json", "manifest.json"


@dataclass(frozen=True)
class Checkpoint:
    """The tensors and facts of one moment of a run."""

    tensors: dict[str, Tensor]
    facts: dict[str, Any]


def save(folder: Path, step: int, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> Path:
    """Write the checkpoint of a step, durable before it has its name; returns its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"step-{step:09d}"
    final, beside, former = folder / name, folder / f".{name}.tmp", folder / f"{name}.former"
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir()
    content = {
        TENSORS: safetensors.torch.save({k: t.contiguous() for k, t in tensors.items()}),
        FACTS: to_json(dict(facts)),
    }
    content[MANIFEST] = to_json({file: sha256(data) for file, data in content.items()})
    for file, data in content.items():
        write_durably(beside / file, data)
    sync_folder(beside)
    if final.exists():  # of the same step; it may be the only one, so it goes last
        shutil.rmtree(former, ignore_errors=True)
        final.rename(former)
    beside.rename(final)
    sync_folder(folder)
    shutil.rmtree(former, ignore_errors=True)
    _forget_old(folder, name)
    return final


def newest(folder: Path, report: Callable[[str], None]) -> Checkpoint | None:
    """The newest checkpoint that is whole; each damaged one is reported and set aside.

    Left among the others it would count as the one before, and a good one be forgotten for it.
    """
    for candidate in sorted(folder.glob("step-*"), reverse=True):
        try:
            return load(candidate)
        except ModelFileError as error:
            report(f"{error}; trying the one before")
            aside = folder / f"damaged-{candidate.name}"
            shutil.rmtree(aside, ignore_errors=True)
            with suppress(OSError):
                candidate.rename(aside)
    return None


def load(checkpoint: Path) -> Checkpoint:
    """Read one checkpoint after checking every byte against its manifest."""
    try:
        manifest = read_json(checkpoint / MANIFEST)
    except ModelFileError as error:
        raise ModelFileError(
            f"{checkpoint} is damaged: it has no manifest that can be read"
        ) from error
    if set(manifest) != {TENSORS, FACTS}:
        raise ModelFileError(f"{checkpoint} is damaged: its manifest does not name its two files")
    content: dict[str, bytes] = {}
    for file, expected in manifest.items():
        try:
            with open_regular(checkpoint / file) as opened:
                content[file] = opened.read()
        except OSError as error:
            raise ModelFileError(f"{checkpoint} is damaged: {file} cannot be read") from error
        if sha256(content[file]) != expected:
            raise ModelFileError(f"{checkpoint} is damaged: {file} does not match its checksum")
    try:
        # The bytes that were held to the checksum, not the file, which may be another by now.
        tensors, facts = safetensors.torch.load(content[TENSORS]), parse_json(content[FACTS])
    except (SafetensorError, ValueError, KeyError, RecursionError) as error:
        raise ModelFileError(f"{checkpoint} is damaged: its files hold no state") from error
    if not isinstance(facts, dict):
        raise ModelFileError(f"{checkpoint} is damaged: {FACTS} holds no object")
    return Checkpoint(tensors, facts)


def clear_unfinished(folder: Path) -> None:
    """Remove what a kill in the middle of a save left behind."""
    for leftover in folder.glob(".*.tmp"):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def _forget_old(folder: Path, newest_name: str) -> None:
    older = sorted(p for p in folder.glob("step-*") if p.name != newest_name)
    for checkpoint in older[: max(0, len(older) - (KEPT - 1))]:
        shutil.rmtree(checkpoint, ignore_errors=True)

"""What a model looked like along its training: one small file for each epoch that was kept.

`epoch-000012.safetensors` holds codes (N, D), samples (10, X), labels (N,) where there are some,
and the SHA-256 of the rest, so that damage is seen and skipped.
"""

import logging
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from aevb.errors import reason
from aevb.files import replace_atomically
from aevb.storage.files import sha256

logger = logging.getLogger("aevb")
Arrays = dict[str, NDArray[Any]]


class Trail(NamedTuple):
    """Codes and samples by epoch.

    Shapes: epochs (T,) rising, codes (T, N, D), labels (N,) or None, samples (T, 10, X).
    Units: samples in those of the data, as the model sees them.
    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     for epoch in (1, 2):
        ...         write(Path(folder), epoch, np.zeros((3, 2)), None, np.zeros((10, 64)))
        ...     read(Path(folder)).codes.shape
        (2, 3, 2)
    """

    epochs: NDArray[np.int64]
    codes: NDArray[np.float32]
    labels: NDArray[np.int64] | None
    samples: NDArray[np.float32]


def write(
    folder: Path,
    epoch: int,
    codes: NDArray[np.float64],
    labels: NDArray[np.int64] | None,
    samples: NDArray[np.float64],
) -> None:
    """Put the snapshot of an epoch into the folder in one step."""
    arrays: Arrays = {"codes": codes.astype(np.float32), "samples": samples.astype(np.float32)}
    if labels is not None:
        arrays["labels"] = labels.astype(np.int64)
    folder.mkdir(parents=True, exist_ok=True)
    content = safetensors.numpy.save(arrays | {"sha256": _digest(arrays)})
    replace_atomically(_path(folder, epoch), content)


def read(folder: Path) -> Trail:
    """All snapshots that are whole; T is 0 where there are none."""
    found = []
    for epoch, path in sorted(_epochs(folder).items()):
        try:
            found.append((epoch, _load(path)))
        except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
            logger.warning(f"{path} is damaged and left out ({reason(error)})")
    if not found:
        empty = np.zeros((0, 0, 0), np.float32)
        return Trail(np.zeros(0, np.int64), empty, None, empty)
    return Trail(
        np.array([epoch for epoch, _ in found]),
        np.stack([arrays["codes"] for _, arrays in found]),
        found[-1][1].get("labels"),
        np.stack([arrays["samples"] for _, arrays in found]),
    )


def forget_after(folder: Path, epoch: int) -> None:
    """Remove the snapshots of later epochs, where a run goes on from this one."""
    for later, path in _epochs(folder).items():
        if later > epoch:
            path.unlink()


def _load(path: Path) -> Arrays:
    arrays: Arrays = safetensors.numpy.load(path.read_bytes())
    expected = arrays.pop("sha256")
    if not np.array_equal(expected, _digest(arrays)):
        raise ValueError("it does not match its checksum")
    return arrays


def _digest(arrays: Arrays) -> NDArray[np.uint8]:
    content = safetensors.numpy.save({name: arrays[name] for name in sorted(arrays)})
    return np.frombuffer(bytes.fromhex(sha256(content)), np.uint8)


def _path(folder: Path, epoch: int) -> Path:
    return folder / f"epoch-{epoch:06d}.safetensors"


def _epochs(folder: Path) -> dict[int, Path]:
    names = (
        (path, path.stem.removeprefix("epoch-")) for path in folder.glob("epoch-*.safetensors")
    )
    return {int(number): path for path, number in names if number.isdigit()}

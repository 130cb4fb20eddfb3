"""The reader of a folder of images: PNG and JPEG, all of one size, subfolders as classes."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aevb.data.checks import (
    Table,
    check_expansion,
    first_cell,
    held_bytes,
    listed,
    readable,
    undamaged,
)
from aevb.errors import DataError, reason

SUFFIXES = (".png", ".jpg", ".jpeg")
MOST_PIXELS = 1 << 25
"""No image may be larger; the header says how large it is before it is decoded."""

_GREY = ("1", "L", "LA", "I", "I;16", "I;16B", "I;16L", "I;16N")
_SIXTEEN = 65535

Size = tuple[int, int]
Bytes = NDArray[np.uint8]


def image_files(folder: Path) -> tuple[list[Path], NDArray[np.int64] | None]:
    """The images of a folder in sorted order, and the number of the subfolder of each, if any.

    Errors: DataError for none, for images both in the folder and in subfolders, and for deeper
    folders. Hidden files and files of other kinds are passed over.
    """
    with readable(folder):
        files, others, folders = _sorted_entries(folder)
        classes = [(path, *_sorted_entries(path)) for path in folders]
    for path, _, _, deeper in classes:
        if deeper:
            raise DataError(
                f"{folder}: expected images, or folders of images one level deep, found the "
                f"folder {deeper[0].name!r} in {path.name!r}; move its images up"
            )
    full = [images for _, images, _, _ in classes if images]
    if files and full:
        raise DataError(
            f"{folder}: expected all images in the folder or all in subfolders, found "
            f"{len(files)} in it and {sum(map(len, full))} below; move them"
        )
    if not files and not full:
        rest = others + [other for _, _, found, _ in classes for other in found]
        found = f"only {listed([path.name for path in rest])}" if rest else "none"
        raise DataError(
            f"{folder} is a folder without images; expected files that end in "
            f"{', '.join(SUFFIXES)}, found {found}"
        )
    if files:
        return files, None
    labels = np.repeat(np.arange(len(full)), [len(images) for images in full])
    return [image for images in full for image in images], labels


def read_images(
    folder: Path, files: Sequence[Path], labels: NDArray[np.int64] | None, size: Size | None
) -> Table:
    """Read the `image_files` of a folder as bytes.

    Shapes: grey (N, 1, H, W) or, if any is in color, (N, 3, H, W).
    Units: `size` is (height, width) to resize to; without it all images must have one size.
    Errors: DataError with the file for what is damaged, animated, transparent or very large.
    """
    held = sum(held_bytes(file) for file in files)
    heads = [_head(file) for file in files]
    channels = 3 if any(mode not in _GREY for mode, _ in heads) else 1
    height, width = size or heads[0][1]
    check_expansion(folder, held, len(files) * channels * height * width)
    first = _decode(files[0], channels, size)
    values = np.empty((len(files), *first.shape), np.uint8)
    values[0] = first
    for index, file in enumerate(files[1:], 1):
        image = _decode(file, channels, size)
        if image.shape != first.shape:
            raise DataError(
                f"{file}: expected {_dimensions(first)} pixels (height x width) as in "
                f"{files[0].name}, found {_dimensions(image)}; make all images of one size, or "
                f"say --resize HxW"
            )
        values[index] = image
    names = () if labels is None else tuple(dict.fromkeys(file.parent.name for file in files))
    return Table(values, labels, scale=1 / 255, classes=names)


def _sorted_entries(folder: Path) -> tuple[list[Path], list[Path], list[Path]]:
    """The images, other files and folders in a folder, each sorted by name."""
    entries = sorted(os.listdir(folder))
    paths = [folder / name for name in entries if not name.startswith((".", "__MACOSX"))]
    found: tuple[list[Path], list[Path], list[Path]] = ([], [], [])
    for path in paths:
        found[2 if path.is_dir() else int(path.suffix.lower() not in SUFFIXES)].append(path)
    return found


@contextmanager
def _image(file: Path) -> Iterator[Any]:
    """An image whose header is read and whose pixels are not."""
    from PIL import Image

    with undamaged(file, _refusal), Image.open(file, formats=("PNG", "JPEG")) as image:
        yield image


def _refusal(file: Path, error: Exception) -> DataError:
    from PIL import Image, UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return DataError(f"{file} is no image in PNG or JPEG; convert or remove it")
    if isinstance(error, Image.DecompressionBombError):
        return _too_large(file, "many times more")
    return DataError(f"{file} is a damaged or cut-off image ({reason(error)}); write or remove it")


def _too_large(file: Path, found: str) -> DataError:
    return DataError(
        f"{file}: expected at most {MOST_PIXELS:,} pixels, found {found}; make it smaller"
    )


def _head(file: Path) -> tuple[str, Size]:
    """The mode and the size (height, width) of an image, from its header."""
    with readable(file), _image(file) as image:
        width, height = image.size
        if width * height > MOST_PIXELS:
            raise _too_large(file, f"{height} x {width} (height x width)")
        if image.format == "PNG" and getattr(image, "is_animated", False):
            raise DataError(f"{file} is animated; expected one picture, so save a single frame")
        return image.mode, (height, width)


def _decode(file: Path, channels: int, size: Size | None) -> Bytes:
    """The pixels of an image as (C, H, W)."""
    from PIL import Image, ImageOps

    with readable(file), _image(file) as image:
        image.load()
        _check_opaque(file, image)
        picture = _plain(ImageOps.exif_transpose(image))
        picture = picture.convert("L" if channels == 1 else "RGB")
        if size is not None:
            picture = picture.resize(size[::-1], Image.Resampling.BILINEAR)
        pixels = np.asarray(picture, np.uint8)
    return pixels[np.newaxis] if channels == 1 else pixels.transpose(2, 0, 1)


def _plain(image: Any) -> Any:
    """The image with 16 bits for a pixel brought to 8, all else as it is."""
    from PIL import Image

    if not image.mode.startswith("I"):
        return image
    levels = np.clip(np.asarray(image).astype(np.int64), 0, _SIXTEEN)
    small = Image.fromarray(((levels * 255 + _SIXTEEN // 2) // _SIXTEEN).astype(np.uint8))
    small.info.update(image.info)
    return small


def _check_opaque(file: Path, image: Any) -> None:
    """Refuse an image with a transparent pixel, whose color nobody has said."""
    if not image.has_transparency_data:
        return
    alpha = np.asarray(_plain(image).convert("RGBA"))[..., 3]
    if (alpha < 255).any():
        row, column = first_cell(alpha < 255)
        raise DataError(
            f"{file}: expected opaque pixels, found a transparent one in row {row}, column "
            f"{column}; put the image on a background"
        )


def _dimensions(image: Bytes) -> str:
    return f"{image.shape[1]} x {image.shape[2]}"

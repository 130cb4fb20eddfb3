"""Folders of images: layout, classes, colors, orientation, and what is refused."""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aevb.data import images, load, open_source
from aevb.errors import DataError


def picture(mode: str = "L", size: tuple[int, int] = (6, 5), seed: int = 0) -> Image.Image:
    """A picture of noise, height x width."""
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3)).astype(np.uint8)
    return Image.fromarray(pixels).convert(mode)


def put(folder: Path, name: str, image: Image.Image, **options: object) -> np.ndarray:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)  # type: ignore[arg-type]
    return np.asarray(image)


def refusal(folder: Path, **options: object) -> str:
    with pytest.raises(DataError) as caught:
        open_source(folder, **options)  # type: ignore[arg-type]
    assert str(caught.value).isprintable()
    return str(caught.value)


def test_grey_images_are_rows_in_the_order_of_their_names(tmp_path: Path) -> None:
    rows = {name: put(tmp_path, name, picture(seed=i)) for i, name in enumerate(("b.png", "a.PNG"))}
    (tmp_path / "notes.txt").write_text("not a picture")
    (tmp_path / ".hidden.png").write_text("not a picture")
    (tmp_path / ".DS_Store").mkdir()
    source = open_source(tmp_path)
    np.testing.assert_array_equal(source.values[:, 0], [rows["a.PNG"], rows["b.png"]])
    assert source.values.dtype == np.uint8
    assert (source.shape, source.scale, source.kind) == ((1, 6, 5), 1 / 255, "image")
    assert (source.labels, source.columns, source.missing) == (None, (), 0)
    assert source.name == tmp_path.name


def test_subfolders_are_classes_by_sorted_name(tmp_path: Path) -> None:
    expected = [
        put(tmp_path, name, picture(seed=i))
        for i, name in enumerate(("1/a.png", "10/a.png", "10/b.png", "9/z.png"))
    ]
    (tmp_path / "0").mkdir()
    source = open_source(tmp_path)
    np.testing.assert_array_equal(source.values[:, 0], expected)
    np.testing.assert_array_equal(source.labels, [0, 1, 1, 2])


def test_one_image_in_color_makes_all_of_them_rgb(tmp_path: Path) -> None:
    grey = put(tmp_path, "a.png", picture("L"))
    color = put(tmp_path, "b.png", picture("RGB"))
    put(tmp_path, "c.png", picture("P"))
    values = open_source(tmp_path).values
    assert values.shape == (3, 3, 6, 5)
    np.testing.assert_array_equal(values[0], np.stack([grey] * 3))
    np.testing.assert_array_equal(values[1], color.transpose(2, 0, 1))
    with Image.open(tmp_path / "c.png") as palette:
        expected = np.asarray(palette.convert("RGB"))
    np.testing.assert_array_equal(values[2], expected.transpose(2, 0, 1))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "I;16"])
def test_every_kind_of_grey_is_eight_bits(tmp_path: Path, mode: str) -> None:
    grey = np.asarray(picture("L"))
    if mode == "1":
        image, grey = Image.fromarray(grey > 127), np.where(grey > 127, 255, 0)
    elif mode == "I;16":
        image = Image.fromarray(grey.astype(np.uint16) * 257)
    else:
        image = Image.fromarray(grey).convert(mode)
    put(tmp_path, "a.png", image)
    np.testing.assert_array_equal(open_source(tmp_path).values, grey[None, None])


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_dropped_where_opaque_and_refused_where_not(tmp_path: Path, mode: str) -> None:
    image = picture("RGB").convert(mode)
    put(tmp_path, "a.png", image)
    plain = np.asarray(image.convert("RGB" if mode == "RGBA" else "L"))
    expected = plain.transpose(2, 0, 1) if mode == "RGBA" else plain[None]
    np.testing.assert_array_equal(open_source(tmp_path).values[0], expected)
    alpha = np.full((6, 5), 255, np.uint8)
    alpha[3, 2] = 254
    image.putalpha(Image.fromarray(alpha))
    put(tmp_path, "a.png", image)
    assert "a.png: expected opaque pixels, found a transparent one in row 4, column 3" in refusal(
        tmp_path
    )


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_the_orientation_of_a_camera_is_applied(
    tmp_path: Path, orientation: int, kind: str
) -> None:
    upright = np.zeros((16, 24), np.uint8)
    upright[:8, :8] = 255
    undo: dict[int, Callable[[np.ndarray], np.ndarray]] = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.T,
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a[::-1, ::-1].T,
        8: lambda a: np.rot90(a, -1),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(undo[orientation](upright)))
    stored.save(tmp_path / f"a.{kind.lower()}", exif=exif, quality=100)
    values = open_source(tmp_path).values[0, 0].astype(int)
    assert values.shape == (16, 24)
    assert np.abs(values - upright).max() <= 4


def test_sizes_must_agree_unless_they_are_made_to(tmp_path: Path) -> None:
    put(tmp_path, "a.png", picture(size=(6, 5)))
    put(tmp_path, "b.png", picture(size=(6, 5)))
    put(tmp_path, "c.png", picture(size=(12, 10)))
    put(tmp_path, "d.png", picture(size=(2, 2)))
    sentence = refusal(tmp_path)
    assert "c.png: expected 6 x 5 pixels (height x width) as in a.png, found 12 x 10" in sentence
    assert "--resize HxW" in sentence
    assert open_source(tmp_path, image_size=(6, 5)).shape == (1, 6, 5)
    for name in "efghij":
        put(tmp_path, f"{name}.png", picture())
    assert load(tmp_path, image_size=(3, 7)).train.width == 21
    flat = tmp_path / "flat"
    put(flat, "a.png", Image.new("L", (30, 20), 77))
    assert (open_source(flat, image_size=(4, 9)).values == 77).all()
    assert open_source(flat, image_size=(4, 9)).values.shape == (1, 1, 4, 9)


def test_the_fingerprint_knows_names_and_contents(tmp_path: Path) -> None:
    def prints() -> str:
        return open_source(tmp_path).fingerprint

    put(tmp_path, "a.png", picture(seed=0))
    put(tmp_path, "b.png", picture(seed=1))
    seen = [prints()]
    assert prints() == seen[0]
    (tmp_path / "b.png").rename(tmp_path / "c.png")
    seen.append(prints())
    put(tmp_path, "c.png", picture(seed=2))
    seen.append(prints())
    put(tmp_path, "d.png", picture(seed=2))
    seen.append(prints())
    assert len(set(seen)) == 4


def test_no_image_is_changed(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    put(tmp_path, "a.jpg", picture("RGB"), exif=exif)
    before = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").chmod(0o400)
    open_source(tmp_path, image_size=(3, 3))
    assert (tmp_path / "a.jpg").read_bytes() == before


# --- what is refused ---------------------------------------------------------------------------


def chunk(kind: bytes, content: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + checksum


def png(width: int, height: int, packed: bytes, *extra: bytes) -> bytes:
    """A grey PNG that claims a size and holds what it holds."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    parts = [header, *extra, chunk(b"IDAT", packed), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def animation() -> bytes:
    stream = io.BytesIO()
    frames = [picture(seed=1), picture(seed=2)]
    frames[0].save(stream, "PNG", save_all=True, append_images=frames[1:])
    return stream.getvalue()


def encoded(kind: str) -> bytes:
    stream = io.BytesIO()
    picture("RGB", (40, 40)).save(stream, kind)
    return stream.getvalue()


BAD: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "b.png is empty (0 bytes)"),
    "text": (b"hello, this is no picture", "b.png is no image in PNG or JPEG"),
    "gif": (encoded("GIF"), "b.png is no image in PNG or JPEG"),
    "tiff": (encoded("TIFF"), "b.png is no image in PNG or JPEG"),
    "cut-png": (encoded("PNG")[:-400], "b.png is a damaged or cut-off image"),
    "cut-jpeg": (encoded("JPEG")[:-200], "b.png is a damaged or cut-off image"),
    "bomb": (
        png(60_000, 60_000, zlib.compress(b"\0" * 99)),
        "b.png: expected at most 33,554,432 pixels, found many",
    ),
    "smaller-bomb": (png(9_000, 9_000, zlib.compress(b"\0" * 99)), "found 9000 x 9000"),
    "no-pixels": (png(0, 5, zlib.compress(b"")), "b.png is"),
    "too-few-pixels": (png(50, 50, zlib.compress(b"\0" * 99)), "b.png"),
    "animated": (animation(), "b.png is animated"),
    "text-bomb": (
        png(1, 1, zlib.compress(b"\0\0"), chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1 << 28)))),
        "b.png",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_image_is_named(tmp_path: Path, name: str) -> None:
    content, said = BAD[name]
    put(tmp_path, "a.png", picture())
    (tmp_path / "b.png").write_bytes(content)
    assert said in refusal(tmp_path)


def test_many_images_of_nothing_are_not_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aevb.data.checks.FREE_BYTES", 1 << 16)
    content = png(900, 900, zlib.compress(bytes(901 * 900)))
    for name in "abc":
        (tmp_path / f"{name}.png").write_bytes(content)
    assert "claim to hold 2,430,000" in refusal(tmp_path)


def test_what_is_no_folder_of_images_is_refused(tmp_path: Path) -> None:
    assert "without images; expected files that end in .png, .jpg, .jpeg" in refusal(tmp_path)
    for name in ("a.txt", ".hidden.png"):
        (tmp_path / name).write_text("x")
    assert "found only 'a.txt'" in refusal(tmp_path)
    put(tmp_path, "one/a.png", picture())
    assert len(open_source(tmp_path).values) == 1
    put(tmp_path, "one/deeper/b.png", picture())
    assert "found the folder 'deeper' in 'one'" in refusal(tmp_path)
    (tmp_path / "one" / "deeper" / "b.png").unlink()
    (tmp_path / "one" / "deeper").rmdir()
    put(tmp_path, "c.png", picture())
    assert "found 1 in it and 1 below" in refusal(tmp_path)


def test_the_limit_is_of_pixels_and_not_of_sides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "MOST_PIXELS", 30)
    put(tmp_path, "a.png", picture(size=(6, 5)))
    assert open_source(tmp_path).shape == (1, 6, 5)
    put(tmp_path, "a.png", picture(size=(1, 31)))
    assert "at most 30 pixels, found 1 x 31" in refusal(tmp_path)

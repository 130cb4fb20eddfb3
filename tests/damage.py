"""Seeded damage to any file, valid data of each format, and a reading of the damaged, watched.

Run as a program (format, first seed, past the last seed) it reads in a process of its own, with
bounded memory and a timer that kills it where one file takes longer than ten seconds.
"""

import io
import random
import resource
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

from aevb.data import Source, open_source
from aevb.errors import DataError

SECONDS = 10
MEGABYTES = 500
ROWS = 60

# --- alterations ---------------------------------------------------------------------------------

TELLING = b'{}[]",:0123456789.-+eEtruefalsn \n\\\x00\x01\x7f\x80\xff'
"""Bytes that mean something in JSON, and ends of the numbers of one byte."""
LENGTHS = (b"\xff\xff\xff\x7f", b"\0\0\0\x80", b"9999")


def place(content: bytearray, draw: random.Random) -> int:
    """A place in the content: the heads and tails of files hold their lengths and kinds."""
    n = len(content)
    ends = [*range(min(200, n)), *range(max(0, n - 600), n)]
    return draw.choice(ends) if draw.random() < 0.5 else draw.randrange(n)


def one_bit(content: bytearray, draw: random.Random) -> None:
    content[place(content, draw)] ^= 1 << draw.randrange(8)


def some_bytes(content: bytearray, draw: random.Random) -> None:
    for _ in range(draw.randint(1, 8)):
        content[place(content, draw)] ^= draw.randrange(1, 256)


def telling_bytes(content: bytearray, draw: random.Random) -> None:
    for _ in range(draw.randint(1, 3)):
        content[place(content, draw)] = draw.choice(TELLING)


def a_length(content: bytearray, draw: random.Random) -> None:
    at = place(content, draw)
    content[at : at + 4] = draw.choice(LENGTHS)


def cut(content: bytearray, draw: random.Random) -> None:
    del content[place(content, draw) :]


def leave_out(content: bytearray, draw: random.Random) -> None:
    at = place(content, draw)
    del content[at : at + draw.randint(1, 40)]


def insert(content: bytearray, draw: random.Random) -> None:
    at = place(content, draw)
    content[at:at] = draw.randbytes(draw.randint(1, 32))


def repeat(content: bytearray, draw: random.Random) -> None:
    at = place(content, draw)
    content[at:at] = content[at : at + draw.randint(1, 64)]


def swap(content: bytearray, draw: random.Random) -> None:
    size = min(draw.randint(1, 64), len(content) // 3)
    a, b = sorted(draw.randrange(len(content) - size) for _ in range(2))
    if b - a >= size:
        content[a : a + size], content[b : b + size] = content[b : b + size], content[a : a + size]


def blank(content: bytearray, draw: random.Random) -> None:
    at = place(content, draw)
    size = min(draw.randint(1, 64), len(content) - at)
    content[at : at + size] = bytes(size)


ALTERATIONS = (
    *(one_bit, some_bytes, telling_bytes, a_length, cut),
    *(leave_out, insert, repeat, swap, blank),
)


def altered(content: bytes, seed: int) -> bytes:
    """The content with one alteration, which changes something; each seed has its kind."""
    draw = random.Random(seed)
    while True:
        new = bytearray(content)
        ALTERATIONS[seed % len(ALTERATIONS)](new, draw)
        if new != content:
            return bytes(new)


# --- data ----------------------------------------------------------------------------------------


def table() -> dict[str, list]:
    """Columns of numbers and texts, with holes."""
    draw = random.Random(0)
    return {
        "x": [None if i % 11 == 0 else draw.gauss(0, 3) for i in range(ROWS)],
        "count": [draw.randrange(9) for _ in range(ROWS)],
        "color": [draw.choice(["red", "blue", "grün", None]) for _ in range(ROWS)],
        "truth": [draw.choice([True, False, None]) for _ in range(ROWS)],
    }


def csv_bytes(which: int) -> bytes:
    columns = table()
    lines = [",".join(columns)]
    for row in zip(*columns.values(), strict=True):
        cells = ["" if cell is None else str(cell) for cell in row]
        quoted = [f'"{cell}"' if which % 2 and cell == "red" else cell for cell in cells]
        lines.append(",".join(quoted))
    return ("\ufeff" * (which % 3 == 0) + "\n".join(lines) + "\n").encode()


def npy_bytes(which: int) -> bytes:
    stream = io.BytesIO()
    array = np.random.default_rng(0).normal(size=(20, 7))
    np.save(stream, array.astype([np.float32, np.float64, np.uint8, ">i4"][which % 4]))
    return stream.getvalue()


def npz_bytes(which: int) -> bytes:
    stream = io.BytesIO()
    save = np.savez if which % 2 else np.savez_compressed
    array = np.random.default_rng(0).integers(0, 256, (20, 6, 5))
    save(stream, x=array.astype(np.uint8), labels=np.arange(20))
    return stream.getvalue()


def image_bytes(which: int) -> bytes:
    from PIL import Image

    mode = ["L", "RGB", "P", "1", "LA", "RGBA", "I;16"][which % 7]
    pixels = np.random.default_rng(0).integers(0, 256, (9, 8, 3)).astype(np.uint8)
    image = Image.fromarray(pixels)
    if mode == "I;16":
        image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    stream = io.BytesIO()
    kind = "JPEG" if mode in ("L", "RGB") and which % 2 else "PNG"
    image = image if mode == "I;16" else image.convert(mode)
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(stream, kind, exif=exif)
    return stream.getvalue()


def parquet_bytes(which: int) -> bytes:
    import pyarrow
    from pyarrow import parquet

    columns = pyarrow.table(table())
    coded = columns["color"].dictionary_encode()
    columns = columns.append_column("coded", coded)
    stream = io.BytesIO()
    packing = ["snappy", "none", "zstd", "gzip"][which % 4]
    parquet.write_table(columns, stream, compression=packing, row_group_size=ROWS // 2)
    return stream.getvalue()


MAKERS: dict[str, Callable[[int], bytes]] = {
    ".csv": csv_bytes,
    ".npy": npy_bytes,
    ".npz": npz_bytes,
    ".png": image_bytes,
    ".parquet": parquet_bytes,
}


def write(folder: Path, suffix: str, seed: int) -> Path:
    """Write a damaged file; the path to open, which for a picture is its folder."""
    content = altered(MAKERS[suffix](seed), seed)
    if suffix != ".png":
        (folder / f"rows{suffix}").write_bytes(content)
        return folder / f"rows{suffix}"
    pictures = folder / "pictures"
    pictures.mkdir(exist_ok=True)
    (pictures / "a.png").write_bytes(MAKERS[suffix](seed))
    (pictures / "b.png").write_bytes(content)
    return pictures


def verdict(path: Path, seed: int) -> Source | str:
    """What reading gives: a sound source, or the sentence; anything else is an error here."""
    try:
        source = open_source(path, allow_nan=bool(seed % 3 == 0))
    except DataError as error:
        sentence = str(error)
        assert sentence.strip(), seed
        assert sentence.isprintable(), (seed, sentence)
        assert len(sentence) < 700, (seed, sentence)
        return sentence
    assert source.values.shape == (len(source.values), *source.shape), seed
    assert not np.isinf(source.values).any(), seed
    assert np.isnan(source.values).sum() == source.missing, seed
    return source


def main(suffix: str, first: int, end: int) -> None:
    warnings.simplefilter("error")
    with tempfile.TemporaryDirectory() as folder:
        MAKERS[suffix](0)
        verdict(write(Path(folder), suffix, 0), 0)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        resource.setrlimit(resource.RLIMIT_AS, (16 << 30, 16 << 30))
        outcomes = [0, 0]
        for seed in range(first, end):
            print(seed, file=sys.stderr)
            signal.alarm(6 * SECONDS)
            outcomes[isinstance(verdict(write(Path(folder), suffix, seed), seed), str)] += 1
            signal.alarm(0)
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        assert (after - before) / 1024 < MEGABYTES, f"{after - before} KB"
    print(*outcomes, (after - before) // 1024)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))

"""Valid data of each format, seeded damage to it, and a reading of the damaged that is watched.

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


def mutated(content: bytes, seed: int) -> bytes:
    """One or two changes: a byte set, a bit turned, bytes cut out, put in or doubled, a cut end."""
    draw = random.Random(seed)
    damaged = bytearray(content)
    # The heads and tails of files hold their lengths and kinds, where damage does most.
    ends = [*range(min(200, len(content))), *range(max(0, len(content) - 600), len(content))]
    for _ in range(draw.randint(1, 2)):
        if not damaged:
            break
        at = draw.choice(ends) if draw.random() < 0.5 else draw.randrange(len(content))
        at %= len(damaged)
        match draw.randrange(6):
            case 0:
                damaged[at] = draw.choice([0, 1, 127, 128, 255, draw.randrange(256)])
            case 1:
                damaged[at] ^= 1 << draw.randrange(8)
            case 2:
                del damaged[at : at + draw.randint(1, 40)]
            case 3:
                damaged[at:at] = draw.randbytes(draw.randint(1, 20))
            case 4:
                damaged[at:at] = damaged[at : at + draw.randint(1, 60)]
            case 5 if draw.random() < 0.3:
                del damaged[at:]
            case 5:
                damaged[at : at + 4] = draw.choice([b"\xff\xff\xff\x7f", b"\0\0\0\x80", b"9999"])
    return bytes(damaged)


def put(folder: Path, suffix: str, seed: int) -> Path:
    """Write a damaged file; the path to open, which for a picture is its folder."""
    content = mutated(MAKERS[suffix](seed), seed)
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
        verdict(put(Path(folder), suffix, 0), 0)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        resource.setrlimit(resource.RLIMIT_AS, (16 << 30, 16 << 30))
        outcomes = [0, 0]
        for seed in range(first, end):
            print(seed, file=sys.stderr)
            signal.alarm(SECONDS)
            outcomes[isinstance(verdict(put(Path(folder), suffix, seed), seed), str)] += 1
            signal.alarm(0)
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        assert (after - before) / 1024 < MEGABYTES, f"{after - before} KB"
    print(*outcomes, (after - before) // 1024)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))

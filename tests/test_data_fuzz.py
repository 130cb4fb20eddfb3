"""Damaged, crafted and hostile data: a sound result or one sentence, and nothing else."""

import io
import os
import re
import struct
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import damage
import numpy as np
import pytest

from aevb.data import open_source
from aevb.errors import DataError

SEEDS = 60
SLOW_SEEDS = 3_000


def need(suffix: str) -> None:
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")


# --- seeded damage -----------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", damage.MAKERS)
def test_what_is_damaged_below_is_sound_before(tmp_path: Path, suffix: str) -> None:
    need(suffix)
    for which in range(4):
        path = tmp_path / f"rows{suffix}"
        if suffix == ".png":
            path = tmp_path / f"pictures{which}" / "a.png"
            path.parent.mkdir()
        path.write_bytes(damage.MAKERS[suffix](0 if suffix == ".png" else which))
        source = open_source(path.parent if suffix == ".png" else path)
        assert len(source.values) > 0


@pytest.mark.parametrize("suffix", damage.MAKERS)
def test_damage_gives_a_result_or_one_sentence(tmp_path: Path, suffix: str) -> None:
    need(suffix)
    for seed in range(SEEDS):
        started = time.process_time()
        damage.verdict(damage.write(tmp_path, suffix, seed), seed)
        assert time.process_time() - started < damage.SECONDS, seed


@pytest.mark.slow
@pytest.mark.parametrize("suffix", damage.MAKERS)
def test_thousands_of_damaged_files_neither_crash_nor_hang_nor_fill_the_memory(suffix: str) -> None:
    need(suffix)
    command = [sys.executable, damage.__file__, suffix, "0", str(SLOW_SEEDS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    # What it printed last is the seed of the file that killed it.
    assert done.returncode == 0, done.stderr[-2000:]
    read, refused, megabytes = map(int, done.stdout.split())
    assert read + refused == SLOW_SEEDS
    assert read > 50
    assert refused > SLOW_SEEDS / 10
    assert megabytes < damage.MEGABYTES


# --- NaN where it was put ----------------------------------------------------------------------


def test_every_nan_is_reported_where_it_was_put(tmp_path: Path) -> None:
    for seed in range(200):
        check_nan(tmp_path, seed)


def check_nan(tmp_path: Path, seed: int) -> None:
    draw = np.random.default_rng(seed)
    shape = draw.integers(2, 30), draw.integers(1, 12)
    array = draw.normal(size=shape)
    marks = draw.choice(array.size, draw.integers(1, max(2, array.size // 4)), replace=False)
    array.flat[marks] = np.nan
    row, column = divmod(int(marks.min()), shape[1])
    header = bool(draw.integers(2))
    lines = [",".join(f"c{i}" for i in range(shape[1]))] if header else []
    lines += [",".join(repr(float(cell)) for cell in cells) for cells in array]
    (tmp_path / "rows.csv").write_text("\n".join(lines))
    np.save(tmp_path / "rows.npy", array)
    for name, place in (("rows.csv", f"line {row + 1 + header}"), ("rows.npy", f"row {row + 1}")):
        with pytest.raises(DataError) as caught:
            open_source(tmp_path / name)
        cells = "1 such cell" if len(marks) == 1 else f"{len(marks)} such cells"
        said = f"{tmp_path / name}, {place}, column {column + 1}: found nan ({cells} in all)"
        assert str(caught.value).startswith(said)


# --- crafted files -----------------------------------------------------------------------------


def npy_header(shape: tuple[int, ...], descr: str = "<f4") -> bytes:
    stream = io.BytesIO()
    facts = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, facts)
    return stream.getvalue()


def zipped(content: bytes, name: str = "x.npy", method: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        archive.writestr(name, content)
    return stream.getvalue()


def zip_bomb() -> bytes:
    """An archive of 205 KB that unpacks to 210 MB, as its header truly says."""
    return zipped(npy_header((50, 1 << 20)) + bytes(50 << 22))


def object_array() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.array([[None]], object), allow_pickle=True)
    return stream.getvalue()


def footer(length: int) -> bytes:
    return b"PAR1" + bytes(40) + struct.pack("<I", length) + b"PAR1"


CRAFTED: list[tuple[str, str, Callable[[], bytes], str]] = [
    ("empty", "a.csv", lambda: b"", "is empty (0 bytes)"),
    ("empty", "a.npy", lambda: b"", "is empty (0 bytes)"),
    ("empty", "a.npz", lambda: b"", "is empty (0 bytes)"),
    ("empty", "a.parquet", lambda: b"", "is empty (0 bytes)"),
    ("header-only", "a.csv", lambda: b"a,b,c\n", "found none"),
    ("blank", "a.csv", lambda: b"\n\n\n", "found none"),
    ("bom-only", "a.csv", lambda: b"\xef\xbb\xbf", "found none"),
    ("ragged-long", "a.csv", lambda: b"1,2\n3,4,5\n", "line 2, column 3: expected 2 cells"),
    ("ragged-short", "a.csv", lambda: b"a,b\n1,2\n3\n", "line 3, column 2: expected 2 cells"),
    ("hole-in-rows", "a.csv", lambda: b"1,2\n\n3,4\n", "line 2, column 1: expected a number"),
    ("utf-16", "a.csv", lambda: "a,b\n1,2\n".encode("utf-16"), "in UTF-8, found UTF-16"),
    ("utf-16-be", "a.csv", lambda: b"\xfe\xff\0a\0\n\x001", "in UTF-8, found UTF-16"),
    ("utf-32", "a.csv", lambda: "a,b\n1,2\n".encode("utf-32"), "in UTF-8, found UTF-32"),
    (
        "utf-16-bare",
        "a.csv",
        lambda: "1,2\n".encode("utf-16-le"),
        "line 1: expected text, found",
    ),
    (
        "latin-1",
        "a.csv",
        lambda: "größe\n1\n2\n".encode("latin-1"),
        "in UTF-8, found the byte 0xf6",
    ),
    ("nul", "a.csv", lambda: b"1,2\n3,\x004\n", "line 2: expected text, found a NUL byte"),
    ("zeros", "a.csv", lambda: bytes(5000), "line 1: expected text, found a NUL byte"),
    ("semicolons", "a.csv", lambda: b"a;b\n1;2\n", "separated by commas, found semicolons"),
    ("tabs", "a.csv", lambda: b"1\t2\n3\t4\n", "separated by commas, found tabs"),
    ("bars", "a.csv", lambda: b"a|b\n1|2\n", "separated by commas, found bars"),
    ("spaces", "a.csv", lambda: b"1.0 2.0\n3.0 4.0\n", "separated by commas, found spaces"),
    ("german", "a.csv", lambda: b"1,5;2,5\n3,5;4,5\n", "separated by commas, found semicolons"),
    ("decimal-comma", "a.csv", lambda: b'a,b\n"1,5",2\n', "line 2, column 1: expected a number"),
    ("thousands", "a.csv", lambda: b'a\n1\n"1,000"\n', "write a point before the decimals"),
    ("open-quote", "a.csv", lambda: b'1,2\n3,"4\n', "found something else after line"),
    ("long-cell", "a.csv", lambda: b"a,b\n1," + b"x" * 200_000 + b"\n", "field larger than"),
    ("long-row", "a.csv", lambda: b"1," * (9 << 20), "line 1: expected at most 16,777,216"),
    ("long-quote", "a.csv", lambda: b'"' + b"x\n" * (9 << 20), "found something else after line 0"),
    ("infinity", "a.csv", lambda: b"1,2\n3,inf\n", "line 2, column 2: found inf"),
    ("nan", "a.csv", lambda: b"a,b\n1,2\nnan,3\n", "line 3, column 1: found nan (1 such cell"),
    ("twice", "a.csv", lambda: b"a,a\n1,2\n", "columns 1 and 2 have the same name 'a'"),
    ("index", "a.csv", lambda: b",a\n0,2\n", "column 1 has no name, as when pandas"),
    (
        "html",
        "a.csv",
        lambda: b"<html>\n<p>Not found</p>\n",
        "one text only",
    ),
    ("no-numpy", "a.npy", lambda: b"hello" * 99, "is damaged, cut off or no .npy file"),
    (
        "claims-much",
        "a.npy",
        lambda: npy_header((10**15, 8)),
        "claims 32,000,000,000,000,000",
    ),
    (
        "claims-little",
        "a.npy",
        lambda: npy_header((4, 8)) + bytes(127),
        "claims 128 bytes, and",
    ),
    ("negative", "a.npy", lambda: npy_header((-4, -8)) + bytes(128), "is damaged, cut off"),
    ("overflow", "a.npy", lambda: npy_header((2**62, 2**62)), "is damaged, cut off"),
    ("no-rows", "a.npy", lambda: npy_header((0, 2**61)), "a.npy"),
    ("no-space", "a.npy", lambda: npy_header((10**12, 9), "|S0"), "take no space"),
    ("objects", "a.npy", object_array, "holds Python objects"),
    ("dates", "a.npy", lambda: npy_header((2, 2), "<M8[D]") + bytes(32), "found datetime64[D]"),
    ("flat", "a.npy", lambda: npy_header((4,)) + bytes(16), "reshape it to (N, 1)"),
    ("bomb", "a.npz", zip_bomb, "claim to hold 209,715,"),
    ("claims-much", "a.npz", lambda: zipped(npy_header((10**15, 8))), "is damaged, cut off"),
    ("no-array", "a.npz", lambda: zipped(b"hello", "x.txt"), "a.npz"),
    ("lzma", "a.npz", lambda: zipped(npy_header((9, 9)), method=zipfile.ZIP_LZMA), "is damaged"),
    ("no-members", "a.npz", lambda: b"PK\x05\x06" + bytes(18), "found none"),
    ("npy-inside", "a.npz", lambda: npy_header((2, 2)) + bytes(16), "no zip archive"),
    ("text", "a.parquet", lambda: b"a,b\n1,2\n3,4\n5,6\n", "the mark PAR1 is missing"),
    ("short", "a.parquet", lambda: b"PAR1PAR1", "the mark PAR1 is missing"),
    ("long-footer", "a.parquet", lambda: footer(2**31), "claims 2,147,483,648 bytes"),
    ("no-footer", "a.parquet", lambda: footer(0), "claims 0 bytes"),
    ("zero-footer", "a.parquet", lambda: footer(40), "is damaged, cut off"),
    ("encrypted", "a.parquet", lambda: b"PARE" + bytes(40) + b"PARE", "is encrypted"),
    ("unknown", "a.xlsx", lambda: b"PK\x03\x04", "found '.xlsx'"),
    ("nameless", "rows", lambda: b"1,2\n", "found no extension"),
]


@pytest.mark.parametrize(
    ("name", "maker", "said"),
    [crafted[1:] for crafted in CRAFTED],
    ids=[f"{title}-{name}" for title, name, _, _ in CRAFTED],
)
def test_a_crafted_file_is_refused_in_one_sentence(
    tmp_path: Path, name: str, maker: Callable[[], bytes], said: str
) -> None:
    need(Path(name).suffix)
    path = tmp_path / name
    path.write_bytes(maker())
    before = path.read_bytes()
    with pytest.raises(DataError) as caught:
        open_source(path)
    sentence = str(caught.value)
    assert said in sentence
    assert str(path) in sentence
    assert sentence.isprintable()
    assert path.read_bytes() == before


def test_a_member_that_lies_about_its_size_is_refused(tmp_path: Path) -> None:
    content = zipped(npy_header((8, 8)) + bytes(256))
    claimed = len(npy_header((8, 8))) + 256
    directory = content.index(b"PK\x01\x02") + 24
    assert content[directory : directory + 4] == struct.pack("<I", claimed)
    for size in (claimed - 4, 2**31):
        damaged = bytearray(content)
        damaged[directory : directory + 4] = struct.pack("<I", size)
        (tmp_path / "a.npz").write_bytes(damaged)
        with pytest.raises(DataError, match=r"a\.npz"):
            open_source(tmp_path / "a.npz")


# --- paths that are no files -------------------------------------------------------------------


def refused(path: Path | str, said: str) -> None:
    with pytest.raises(DataError, match=said) as caught:
        open_source(path)
    assert str(caught.value).isprintable()


def test_links_are_followed_to_files_only(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("1,2.5\n3,4\n")
    (tmp_path / "good.csv").symlink_to(tmp_path / "a.csv")
    assert open_source(tmp_path / "good.csv").values.shape == (2, 2)
    (tmp_path / "dangling.csv").symlink_to(tmp_path / "gone.csv")
    refused(tmp_path / "dangling.csv", r"is a link to .*gone\.csv, which does not exist")
    (tmp_path / "dangling").symlink_to(tmp_path / "gone")
    refused(tmp_path / "dangling", "is a link to")
    (tmp_path / "one.csv").symlink_to(tmp_path / "two.csv")
    (tmp_path / "two.csv").symlink_to(tmp_path / "one.csv")
    refused(tmp_path / "one.csv", "cannot be read")
    refused(tmp_path / "gone.csv", "does not exist; check the path")
    refused(tmp_path / "a.csv" / "b.csv", "cannot be read")


def test_devices_and_pipes_are_never_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    refused(tmp_path / "pipe.csv", "is a named pipe, which is never opened")
    for device in ("/dev/zero", "/dev/null"):
        refused(device, "is a device, which is never opened")
        (tmp_path / "device.npy").unlink(missing_ok=True)
        (tmp_path / "device.npy").symlink_to(device)
        refused(tmp_path / "device.npy", "is a device, which is never opened")
    folder = tmp_path / "pictures"
    folder.mkdir()
    os.mkfifo(folder / "a.png")
    refused(folder, r"a\.png is a named pipe")


def test_other_paths_that_cannot_be_read(tmp_path: Path) -> None:
    for suffix in (".npy", ".npz", ".csv", ".parquet"):
        (tmp_path / f"folder{suffix}").mkdir()
        refused(tmp_path / f"folder{suffix}", "is a folder; expected a file that ends in")
    refused("a\0b.csv", "is no path")
    refused("x" * 5000 + ".csv", "cannot be read")
    refused("nothing-of-that-name", "is neither a file, nor a folder of images, nor one of")


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".csv", ".parquet", ".png"])
def test_a_file_that_may_not_be_read_is_said_to_be_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    need(suffix)
    path = tmp_path / f"rows{suffix}"
    path.write_bytes(damage.MAKERS[suffix](0))

    def forbidden(file: object, *arguments: object, **named: object) -> None:
        raise PermissionError(13, "Permission denied", str(file))

    monkeypatch.setattr("io.open", forbidden)
    monkeypatch.setattr("builtins.open", forbidden)
    refused(tmp_path if suffix == ".png" else path, r"\(Permission denied\); check the disk")


def test_sentences_do_not_repeat_what_is_long(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a,b\n1,2\n" + "x" * 100_000 + ",3\n")
    with pytest.raises(DataError) as caught:
        open_source(tmp_path / "a.csv")
    assert len(str(caught.value)) < 300
    assert re.search(r"line 3, column 1: expected a number, found 'x{40}'", str(caught.value))

"""Laws of arrays that lie in files: rows as numpy takes them, and a memory that stays small."""

import gc
import os
import subprocess
import sys
import tempfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aevb.data import Source, arrays, maps, split
from aevb.data.checks import chunks
from aevb.data.maps import is_mapped, release, rows_of
from aevb.data.readers import read_file
from aevb.errors import DataError

VIEWS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "itself": lambda a: a,
    "later rows": lambda a: a[3:],
    "every other row": lambda a: a[1::2],
    "backwards": lambda a: a[::-1],
    "another axis": lambda a: a[:, np.newaxis],
    "some columns": lambda a: a[:, 1:],
    "turned": lambda a: a.transpose(0, *range(a.ndim - 1, 0, -1)),
    "flat": lambda a: a.reshape(len(a), -1),
}


def mapped(folder: Path, array: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    monkeypatch.setattr(arrays, "RESIDENT_BYTES", 0)
    np.save(folder / "rows.npy", array)
    return arrays.read_npy(folder / "rows.npy", arrays.Rules()).values


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["u1", "?", "<f4", ">f4", "<f8", "<i2"])
@pytest.mark.parametrize("shape", [(17, 5), (17, 4, 3), (17, 2, 3, 4)])
def test_rows_are_those_of_numpy(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    order: str,
    dtype: str,
    shape: tuple[int, ...],
) -> None:
    rng = np.random.default_rng(0)
    array = np.asarray(rng.integers(0, 200, shape).astype(dtype), order=order)  # type: ignore[call-overload]
    large = mapped(tmp_path, array, monkeypatch)
    for name, view in VIEWS.items():
        if order == "F" and name == "flat":
            continue  # that would be a copy
        for index in ([], [0], [2, 3, 4, 5], [7, 0, 7, 1, -1], range(len(view(array)))):
            at = np.array(index, np.int64)
            got = rows_of(view(large), at)
            np.testing.assert_array_equal(got, view(array)[at], err_msg=name)
            assert got.dtype == array.dtype
            assert got.flags.writeable
            assert not is_mapped(got)
            np.testing.assert_array_equal(rows_of(view(array), at), view(array)[at])


@given(st.lists(st.integers(-9, 8), max_size=20), st.booleans(), st.integers(0, 2))
def test_any_index_of_a_map(index: list[int], others: bool, start: int) -> None:
    array = np.random.default_rng(1).normal(size=(9 + start, 3))
    at = np.array(index, np.int64)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        large = mapped(Path(folder), array, patch)
        if others:
            large = np.load(Path(folder) / "rows.npy", mmap_mode="r")
        np.testing.assert_array_equal(rows_of(large[start:], at), array[start:][at])
        with pytest.raises(IndexError):
            rows_of(large[start:], np.array([0, 9]))
        with pytest.raises(IndexError):
            rows_of(large[start:], np.array([-10]))


def test_only_what_lies_in_a_file_is_mapped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = np.ones((5, 6), np.float32)
    large = mapped(tmp_path, array, monkeypatch)
    assert is_mapped(large)
    assert is_mapped(large[1:].T.view(np.ndarray))
    assert not is_mapped(array[1:])
    assert not is_mapped(large[np.array([1, 2])])
    assert not is_mapped(large + 1)


def test_pages_are_given_back_and_come_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = np.arange(3000.0).reshape(1000, 3)
    large = mapped(tmp_path, array, monkeypatch)
    for _ in range(2):
        np.testing.assert_array_equal(np.concatenate([b for _, b in chunks(large)]), array)
        release(large)
    release(array)
    np.testing.assert_array_equal(large, array)


def test_what_was_written_to_a_private_copy_of_a_map_stays(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", np.zeros((50, 4), np.float32))
    private = np.load(tmp_path / "rows.npy", mmap_mode="c")
    private[:] = 7
    release(private)
    assert (rows_of(private, np.arange(50)) == 7).all()
    assert (private == 7).all()


def test_rows_are_those_of_the_file_that_was_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = np.arange(20.0).reshape(5, 4)
    large = mapped(tmp_path, array, monkeypatch)
    np.save(tmp_path / "new.npy", array + 100)
    (tmp_path / "new.npy").replace(tmp_path / "rows.npy")
    np.testing.assert_array_equal(rows_of(large, np.array([4, 0])), array[[4, 0]])


def test_a_file_that_became_shorter_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = mapped(tmp_path, np.zeros((5, 4)), monkeypatch)
    os.truncate(tmp_path / "rows.npy", 200)
    with pytest.raises(DataError, match="shorter"):
        rows_of(large, np.array([0, 4]))


def test_a_long_read_is_made_of_several(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    array = np.random.default_rng(0).normal(size=(40, 7))
    large = mapped(tmp_path, array, monkeypatch)
    whole = os.pread
    monkeypatch.setattr(maps.os, "pread", lambda file, size, at: whole(file, min(size, 100), at))
    np.testing.assert_array_equal(rows_of(large, np.arange(40)), array)


def test_without_positions_in_files_rows_come_through_the_map(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = np.random.default_rng(0).normal(size=(200, 7))
    large = mapped(tmp_path, array, monkeypatch)
    monkeypatch.delattr(maps.os, "pread")
    at = np.random.default_rng(1).integers(0, 200, 150)
    np.testing.assert_array_equal(rows_of(large, at), array[at])


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts open files in /proc")
def test_no_file_stays_open_once_the_map_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    large = mapped(tmp_path, np.ones((5, 4)), monkeypatch)
    view = large[2:]
    del large
    gc.collect()
    assert (rows_of(view, np.array([0])) == 1).all()
    del view
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the memory from /proc")
@pytest.mark.parametrize("dtype", ["u1", "f4"])
def test_a_large_file_is_looked_at_and_gathered_from_in_little_memory(
    tmp_path: Path, dtype: str
) -> None:
    rows = 600_000_000 // (784 * np.dtype(dtype).itemsize)
    with (tmp_path / "rows.npy").open("wb") as file:
        header = {"descr": dtype, "fortran_order": False, "shape": (rows, 784)}
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + rows * 784 * np.dtype(dtype).itemsize)  # without blocks: zeros
    code = (
        "import sys, numpy as np\n"
        "from aevb.data.readers import read_file\n"
        "from aevb.data.maps import rows_of, is_mapped\n"
        "from aevb.data import arrays\n"
        "arrays.RESIDENT_BYTES = 0\n"
        "def most():\n"
        "    text = open('/proc/self/status').read()\n"
        "    return int(text.split('VmHWM:')[1].split()[0]) // 1024\n"
        "before = most()\n"
        "values = read_file(sys.argv[1]).values\n"
        "assert is_mapped(values)\n"
        "rng = np.random.default_rng(0)\n"
        "for _ in range(20):\n"
        "    rows_of(values, rng.integers(0, len(values), 500))\n"
        "print(most() - before)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "rows.npy")],
        check=True,
        capture_output=True,
        text=True,
    )
    assert int(done.stdout) < 300


def test_a_map_read_by_name_keeps_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "RESIDENT_BYTES", 0)
    pixels = np.random.default_rng(0).integers(0, 255, (6, 5, 4, 3), np.uint8)
    np.save(tmp_path / "rows.npy", pixels)
    source = read_file(tmp_path / "rows.npy")
    monkeypatch.setattr(maps, "_through_map", None)  # read from the file, though channels are last
    at = np.array([5, 0, 1])
    np.testing.assert_array_equal(rows_of(source.values, at), np.moveaxis(pixels, 3, 1)[at])


def test_rows_behind_4_gb_are_found_by_short_numbers_too(tmp_path: Path) -> None:
    rows = 5_000_000
    with (tmp_path / "rows.npy").open("wb") as file:
        header = {"descr": "<f8", "fortran_order": False, "shape": (rows, 128)}
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + (rows - 1) * 128 * 8)  # without blocks: zeros
        file.seek(0, os.SEEK_END)
        file.write(np.arange(128.0).tobytes())
    values = arrays.read_npy(tmp_path / "rows.npy", arrays.Rules()).values
    assert is_mapped(values)
    got = rows_of(values, np.array([rows - 1, 3, -1], np.int32))
    np.testing.assert_array_equal(got, [np.arange(128.0), np.zeros(128), np.arange(128.0)])


def test_the_numbers_of_many_rows_are_few_times_in_memory_while_they_are_split() -> None:
    rows = 300_000
    values = np.broadcast_to(np.float32(0.5), (rows, 3))  # none of them takes memory itself
    source = Source("many", values, (3,), "gaussian", "", "none")
    tracemalloc.start()
    try:
        data = split(source)
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(data.train) == 240_000
    assert kept < 5 * rows  # 4 bytes each
    assert peak < 15 * rows

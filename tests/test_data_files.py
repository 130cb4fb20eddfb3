"""Laws and errors of the readers of the user's own files."""

import io
import pickle
import re
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from aevb.data import arrays, checks, fingerprints, load, read_values, split, suggestion
from aevb.data.checks import first_cell
from aevb.data.readers import fingerprint, read_file, suggest
from aevb.errors import DataError, UsageError

QUICK = settings(max_examples=60, deadline=None)
NUMBERS = [np.uint8, np.int16, np.int64, np.bool_, np.float16, np.float32, np.float64, ">f4"]


def save(folder: Path, array: Any, name: str = "rows.npy") -> Path:
    path = folder / name
    np.save(path, array)
    return path


def text(folder: Path, content: str, encoding: str = "utf-8") -> Path:
    path = folder / "rows.csv"
    path.write_bytes(content.encode(encoding))
    return path


def refusal(path: Path) -> str:
    """The sentence a file is refused with; it names the file and is one line."""
    with pytest.raises(DataError) as caught:
        read_file(path)
    sentence = str(caught.value)
    assert str(path) in sentence
    assert "\n" not in sentence
    assert caught.value.exit_code == 3
    return sentence


def tables(dtype: Any = np.float32) -> st.SearchStrategy[np.ndarray]:
    shape = hnp.array_shapes(min_dims=2, max_dims=2, min_side=2, max_side=6)
    cells = hnp.from_dtype(np.dtype(dtype), allow_nan=False, allow_infinity=False)
    return hnp.arrays(dtype, shape, elements=cells)


# --- round trips -------------------------------------------------------------------------------


@QUICK
@given(st.sampled_from(NUMBERS).flatmap(lambda dtype: tables(dtype)))
def test_arrays_survive_npy_and_npz_with_dtype(array: np.ndarray) -> None:
    array = np.where(np.abs(array.astype(np.float64)) < 3e38, array, 0).astype(array.dtype)
    with tempfile.TemporaryDirectory() as folder:
        path = save(Path(folder), array)
        packed = Path(folder) / "rows.npz"
        np.savez(packed, anything=array, labels=np.arange(len(array)))
        for source in (read_file(path), read_file(packed)):
            np.testing.assert_array_equal(source.values, array)
            assert source.values.dtype == array.dtype
            assert source.shape == array.shape[1:]
            assert source.splits is None
        np.testing.assert_array_equal(source.labels, np.arange(len(array)))


@QUICK
@given(tables(), st.booleans(), st.sampled_from(["\n", "\r\n"]), st.sampled_from(["", "\ufeff"]))
def test_csv_gives_back_float32_exactly(
    array: np.ndarray, header: bool, newline: str, mark: str
) -> None:
    lines = [",".join(repr(float(cell)) for cell in row) for row in array]
    names = [",".join(f"c{i}" for i in range(array.shape[1]))] if header else []
    with tempfile.TemporaryDirectory() as folder:
        source = read_file(text(Path(folder), mark + newline.join(names + lines) + newline))
    assert source.values.dtype == np.float32
    np.testing.assert_array_equal(source.values, array)


def test_the_caller_may_write_to_a_small_array_without_touching_the_file(tmp_path: Path) -> None:
    path = save(tmp_path, np.zeros((3, 2), np.float32))
    values: Any = read_file(path).values
    assert not isinstance(values, np.memmap)
    values[:] = 7
    assert not np.load(path).any()


# --- event shapes and memory maps --------------------------------------------------------------

LAYOUTS: list[tuple[tuple[int, ...], tuple[int, ...], Callable[[np.ndarray], np.ndarray]]] = [
    ((5, 7), (7,), lambda a: a),
    ((5, 6, 4), (1, 6, 4), lambda a: a[:, None]),
    ((5, 3, 6, 7), (3, 6, 7), lambda a: a),
    ((5, 1, 6, 7), (1, 6, 7), lambda a: a),
    ((5, 6, 7, 3), (3, 6, 7), lambda a: np.moveaxis(a, 3, 1)),
    ((5, 6, 7, 4), (4, 6, 7), lambda a: np.moveaxis(a, 3, 1)),
    ((5, 6, 7, 1), (1, 6, 7), lambda a: np.moveaxis(a, 3, 1)),
    ((5, 3, 6, 4), (3, 6, 4), lambda a: a),
    ((5, 2, 6, 5), (60,), lambda a: a.reshape(5, -1)),
]


@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize(("shape", "event", "expected"), LAYOUTS)
def test_event_shapes_are_channels_first_and_maps_are_only_viewed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    shape: tuple[int, ...],
    event: tuple[int, ...],
    expected: Callable[[np.ndarray], np.ndarray],
    resident: bool,
) -> None:
    array = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    monkeypatch.setattr(arrays, "RESIDENT_BYTES", array.nbytes - (not resident))
    source = read_file(save(tmp_path, array))
    assert source.shape == event
    assert source.values.shape == (5, *event)
    np.testing.assert_array_equal(source.values, expected(array))
    # numpy drops the map from a copy, and keeps it in a view.
    assert (getattr(source.values, "_mmap", None) is None) == resident


def test_a_map_in_fortran_order_is_viewed_or_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrays, "RESIDENT_BYTES", 0)
    array = np.asfortranarray(np.random.default_rng(0).normal(size=(5, 6, 7)))
    source = read_file(save(tmp_path, array))
    np.testing.assert_array_equal(source.values, array[:, None])
    assert source.values._mmap is not None  # type: ignore[attr-defined]
    odd = save(tmp_path, np.asfortranarray(array.reshape(5, 2, 3, 7)), "odd.npy")
    assert "np.ascontiguousarray" in refusal(odd)


# --- scale and likelihood ----------------------------------------------------------------------

SUGGESTIONS = [
    (np.array([[0, 1], [1, 1]], np.uint8), 1.0, "bernoulli"),
    (np.array([[0, 255], [255, 0]], np.uint8), 1 / 255, "bernoulli"),
    (np.array([[0, 128], [255, 0]], np.uint8), 1 / 255, "gaussian"),
    (np.array([[0, 1], [2, 0]], np.uint8), 1 / 255, "gaussian"),
    (np.array([[0, 2], [2, 0]], np.uint8), 1.0, "negative-binomial"),
    (np.array([[True, False], [True, True]]), 1.0, "bernoulli"),
    (np.array([[0, 1], [2, 300]], np.int64), 1.0, "negative-binomial"),
    (np.array([[0.0, 1.0], [2.0, 3.0]]), 1.0, "negative-binomial"),
    (np.array([[0, 1], [-1, 3]], np.int32), 1.0, "gaussian"),
    (np.array([[0.0, 0.5], [1.0, 1.0]]), 1.0, "gaussian"),
    (np.array([[0.0, 0.5], [1.0, 1.0]], np.float16), 1.0, "gaussian"),
    (np.array([[0.0, 0.5], [1.0, 1.5]]), 1.0, "mixed"),
    (np.array([[0.2, 0.5], [1.0, 1.5]]), 1.0, "gaussian"),
    (np.array([[-0.1, 0.5], [1.0, 0.5]]), 1.0, "gaussian"),
]


@pytest.mark.parametrize(("array", "scale", "likelihood"), SUGGESTIONS)
def test_scale_and_likelihood_follow_from_the_values(
    tmp_path: Path, array: np.ndarray, scale: float, likelihood: str
) -> None:
    source = read_file(save(tmp_path, array))
    assert source.scale == scale
    assert (source.likelihood, source.reason) == suggest(array, scale)
    assert source.likelihood == likelihood


@pytest.mark.parametrize(
    ("last", "reason"),
    [
        (1.0, "every value is 0 or 1"),
        (0.5, "every value lies in [0, 1]"),
        (7.0, "every value is a count 0, 1, 2, ..."),
        (-3.0, "values lie outside [0, 1] and are no counts"),
    ],
)
def test_the_suggestion_is_that_of_all_rows(last: float, reason: str) -> None:
    values = np.zeros((suggestion.SUGGESTION_ROWS + 1, 1, 1), np.float32)
    values[0], values[-1] = 1, last
    assert suggest(values, 1.0)[1] == reason
    assert read_values(values).reason == reason


def test_the_kind_of_a_column_is_that_of_all_rows() -> None:
    values = np.zeros((suggestion.SUGGESTION_ROWS + 1, 3), np.float32)
    values[::2] = [1, 1, 2.5]
    values[-1] = [1, 0.5, 0]
    source = read_values(values)
    assert source.likelihood == "mixed"
    assert [column.kind for column in source.columns] == ["binary", "real", "real"]


def test_the_scale_sees_every_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "CHUNK_BYTES", 4)
    values = np.zeros((suggestion.SUGGESTION_ROWS + 9, 2), np.uint8)
    values[-2:] = [[3, 0], [9, 0]]
    assert read_file(save(tmp_path, values)).scale == 1 / 255


# --- cells that are no finite number -----------------------------------------------------------


@QUICK
@given(hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, max_side=7)))
def test_first_cell_is_the_first_in_reading_order(mask: np.ndarray) -> None:
    if not mask.any():
        with pytest.raises(ValueError, match="at least one"):
            first_cell(mask)
    else:
        assert first_cell(mask) == tuple(np.argwhere(mask)[0] + 1)


@QUICK
@given(
    hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, min_side=2, max_side=6)),
    st.sampled_from([np.nan, np.inf, -np.inf, 1e300]),
    st.integers(1, 100),
)
def test_the_first_bad_cell_and_the_count_are_named(
    mask: np.ndarray, bad: float, chunk: int
) -> None:
    mask[-1, -1] = True
    array = np.where(mask, bad, 0.5)
    row, column = first_cell(mask)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(checks, "CHUNK_BYTES", chunk)
        sentence = refusal(save(Path(folder), array))
        table = text(Path(folder), "\n".join(",".join(map(str, line)) for line in array))
        assert f"line {row}, column {column}:" in refusal(table)
        header = ",".join(f"h{i}" for i in range(array.shape[1]))
        table = text(Path(folder), f"{header}\n{table.read_text()}")
        assert f"line {row + 1}, column {column}:" in refusal(table)
    assert f"row {row}, column {column}: found {bad}" in sentence
    assert f"({mask.sum()} such cell" in sentence


def test_the_column_of_a_picture_is_counted_in_the_order_of_the_file(tmp_path: Path) -> None:
    array = np.zeros((3, 4, 5, 3), np.float32)
    array[1, 0, 1, 2] = np.nan
    assert "row 2, column 6:" in refusal(save(tmp_path, array))


# --- tables as text ----------------------------------------------------------------------------

BAD_TABLES = [
    ("a,b\n1,2\n3,x\n", "line 3, column 2: expected a number, found 'x'"),
    ("1,2\n3,4,5\n", "line 2, column 3: expected 2 cells as in the first line, found 3"),
    ("a,b,c\n1,2,3\n4,5\n", "line 3, column 3: expected 3 cells as in the first line, found 2"),
    ("1,2\n\n3,4\n", "line 2, column 1: expected a number, found an empty line"),
    ("1\n1_000\n", "line 2, column 1: expected a number, found '1_000'"),
    ("a;b\n1;2\n3;4\n", "line 1: expected cells separated by commas, found semicolons"),
    ('"a";"b"\n1;2\n3;4\n', "line 1: expected cells separated by commas, found semicolons"),
    ('1,2\n3,"4\n', "found something else after line"),
    ("a,b\n", "expected rows of numbers, found none"),
    ("\n\n", "expected rows of numbers, found none"),
    ("1,2\n3,1e39\n", "line 2, column 2: found inf (1 such cell in all)"),
]


@pytest.mark.parametrize(("content", "expected"), BAD_TABLES)
def test_a_bad_cell_is_named_by_line_and_column(
    tmp_path: Path, content: str, expected: str
) -> None:
    assert expected in refusal(text(tmp_path, content))


def test_text_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    found = refusal(text(tmp_path, "größe\n1\n2\n", "latin-1"))
    assert "in UTF-8, found the byte 0xf6" in found
    assert "line 0" not in found


@pytest.mark.parametrize(
    "content",
    ["1,2\n3,4", "1,2\n3,4\n\n\n", '"1","2"\n3,4\n', " 1 , 2\n3,4\n", "x,2\n1,2\n3,4\n"],
)
def test_harmless_variety_is_read(tmp_path: Path, content: str) -> None:
    np.testing.assert_array_equal(read_file(text(tmp_path, content)).values, [[1, 2], [3, 4]])


# --- archives ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["x", "X", "data", "images"])
@pytest.mark.parametrize("label", ["labels", "y"])
def test_the_archive_is_searched_by_name(tmp_path: Path, name: str, label: str) -> None:
    path = tmp_path / "rows.npz"
    marks = np.array([3, 1, 2], np.uint8)
    np.savez_compressed(path, **{name: np.eye(3), "weights": np.eye(9), label: marks})  # type: ignore[arg-type]
    source = read_file(path)
    np.testing.assert_array_equal(source.values, np.eye(3))
    assert source.labels is not None
    assert source.labels.dtype == np.int64
    np.testing.assert_array_equal(source.labels, marks)


BAD_ARCHIVES: list[tuple[dict[str, Any], str]] = [
    ({"train": np.eye(3), "test": np.eye(3)}, "found 'train', 'test'"),
    ({"x": np.eye(3), "data": np.eye(3)}, "found 'x', 'data'"),
    ({}, "found none"),
    ({"x": np.eye(3), "y": np.arange(2)}, "one integer (64 bits, signed) for each of 3 rows"),
    ({"x": np.eye(3), "y": np.zeros(3)}, "found float64 of shape (3,)"),
    ({"x": np.eye(3), "labels": np.array(["a", "b", "c"])}, "found text of shape (3,)"),
    ({"x": np.eye(3), "labels": np.array([1, 2, 2**63], np.uint64)}, "found uint64"),
    ({"x": np.array([[None, 1], [2, 3]], object)}, "Python objects"),
]


@pytest.mark.parametrize(("arrays", "expected"), BAD_ARCHIVES)
def test_an_archive_that_leaves_a_doubt_is_refused(
    tmp_path: Path, arrays: dict[str, Any], expected: str
) -> None:
    path = tmp_path / "rows.npz"
    np.savez(path, **arrays)
    assert expected in refusal(path)


# --- files that are none -----------------------------------------------------------------------

BAD_ARRAYS = [
    (np.array([[None, 1], [2, 3]], object), "Python objects"),
    (np.eye(3, dtype=complex), "expected real numbers, found complex numbers"),
    (np.array([["a", "b"], ["c", "d"]]), "expected real numbers, found text"),
    (np.zeros((3, 2), "M8[s]"), "expected real numbers, found datetime64[s]"),
    (np.zeros((0, 4)), "expected at least 1 row, found none"),
    (np.zeros((4, 0)), "expected at least 1 column, found an array of shape (4, 0)"),
    (np.zeros(4), "reshape it to (N, 1)"),
    (np.zeros(()), "expected rows and columns"),
]


@pytest.mark.parametrize(("array", "expected"), BAD_ARRAYS)
def test_an_array_that_holds_no_rows_of_numbers_is_refused(
    tmp_path: Path, array: np.ndarray, expected: str
) -> None:
    assert expected in refusal(save(tmp_path, array))


def test_what_is_no_readable_file_is_refused(tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "nothing.npy")
    assert "is a folder without images" in refusal(tmp_path)
    for name in ("rows.npy", "rows.npz", "rows.csv"):
        (tmp_path / name).touch()
        assert "is empty (0 bytes)" in refusal(tmp_path / name)
    for name, found in (("rows.xlsx", "'.xlsx'"), ("rows", "no extension")):
        (tmp_path / name).write_text("1,2\n")
        assert f".npy, .npz, .csv, .parquet, found {found}" in refusal(tmp_path / name)


def test_the_extension_may_be_in_capitals(tmp_path: Path) -> None:
    (tmp_path / "ROWS.CSV").write_text("1,2\n3,4\n")
    assert read_file(str(tmp_path / "ROWS.CSV")).name == "ROWS.CSV"


def good_bytes(suffix: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"rows{suffix}"
        array = np.arange(40, dtype=np.float32).reshape(8, 5)
        if suffix == ".npy":
            np.save(path, array)
        else:
            np.savez_compressed(path, x=array, labels=np.arange(8))
        return path.read_bytes()


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_every_truncation_is_refused(tmp_path: Path, suffix: str) -> None:
    content = good_bytes(suffix)
    for length in range(1, len(content), 7):
        path = tmp_path / f"rows{suffix}"
        path.write_bytes(content[:length])
        assert "is damaged, cut off or no" in refusal(path)


def test_damage_that_numpy_does_not_name_is_refused_too(tmp_path: Path) -> None:
    packed = bytearray(good_bytes(".npz"))
    encrypted = packed.copy()
    for mark, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        encrypted[encrypted.index(mark) + flags] |= 1
    misplaced = packed.copy()
    misplaced[-4] = 255
    keys = good_bytes(".npy").replace(b"'fortran_order'", b"b'ortran_order'")
    zeros = good_bytes(".npy").replace(b"(8, 5)", b"(08,5)")
    files: dict[str, bytes | bytearray] = {
        "a.npz": encrypted,
        "b.npz": misplaced,
        "c.npy": keys,
        "d.npy": zeros,
    }
    for name, content in files.items():
        path = tmp_path / name
        path.write_bytes(content)
        assert "is damaged, cut off or no" in refusal(path)


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_a_header_that_claims_more_than_there_is_cannot_exhaust_the_memory(
    tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"rows{suffix}"
    header = io.BytesIO()
    facts = {"descr": "<f4", "fortran_order": False, "shape": (10**15, 8)}
    np.lib.format.write_array_header_1_0(header, facts)
    path.write_bytes(header.getvalue())
    if suffix == ".npz":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x.npy", header.getvalue())
    assert "is damaged, cut off or no" in refusal(path)


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_a_pickle_is_never_loaded(tmp_path: Path, suffix: str) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "sprung",)

    path = tmp_path / f"rows{suffix}"
    path.write_bytes(pickle.dumps(Trap()))
    refusal(path)
    np.save(tmp_path / "object.npy", np.array([[Trap()], [Trap()]], object), allow_pickle=True)
    refusal(tmp_path / "object.npy")
    assert not (tmp_path / "sprung").exists()


# --- fingerprints ------------------------------------------------------------------------------


def test_a_fingerprint_tells_contents_apart(tmp_path: Path) -> None:
    first = save(tmp_path, np.eye(3), "a.npy")
    again = save(tmp_path, np.eye(3), "b.npy")
    other = save(tmp_path, np.eye(3) * 2, "c.npy")
    assert re.fullmatch("sha256:[0-9a-f]{64}", fingerprint(first))
    assert fingerprint(first) == fingerprint(again) == read_file(first).fingerprint
    assert fingerprint(first) != fingerprint(other)
    with pytest.raises(DataError, match=r"nothing\.npy cannot be read"):
        fingerprint(tmp_path / "nothing.npy")


def test_every_byte_of_a_small_file_counts_and_both_ends_of_a_large_one(tmp_path: Path) -> None:
    path = tmp_path / "blob"
    for size, offsets in ((200_000, (0, 70_001, 199_999)), (9_000_000, (0, 8_999_999))):
        path.write_bytes(bytes(size))
        seen = {fingerprint(path)}
        for offset in offsets:
            path.write_bytes(bytes(offset) + b"\x01" + bytes(size - offset - 1))
            seen.add(fingerprint(path))
        assert len(seen) == 1 + len(offsets)
    path.write_bytes(bytes(9_000_001))
    assert fingerprint(path) not in seen


def test_a_large_file_is_sampled_in_64_blocks() -> None:
    offsets = list(fingerprints.block_offsets(1 << 40))
    assert len(offsets) == 64
    assert offsets[-1] == (1 << 40) - fingerprints.FINGERPRINT_BLOCK_BYTES
    assert len(set(np.diff(offsets) // 1000)) == 1


def test_an_official_test_set_is_never_trained_on() -> None:
    source = replace(read_values(np.arange(60.0).reshape(30, 2)), splits={"test": np.arange(5)})
    data = split(source)
    assert set(data.test.index) == set(range(5))
    assert not set(data.test.index) & {*data.train.index, *data.validation.index}
    assert len(data.train) + len(data.validation) + 5 == 30


def test_an_unknown_binarization_is_told_from_the_known_ones() -> None:
    with pytest.raises(UsageError, match="none, threshold, once, epoch, found 'foo'"):
        load("digits", "foo")


def test_a_lack_of_memory_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise MemoryError("Unable to allocate 900 MiB")

    path = save(tmp_path, np.eye(3))
    monkeypatch.setattr(arrays, "open_map", full)
    with pytest.raises(DataError, match="not enough memory") as caught:
        read_file(path)
    assert "damaged" not in str(caught.value)

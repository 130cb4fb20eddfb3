"""Frames of pandas and polars and .parquet give the same table as the same cells in a .csv."""

import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aevb.data import Source, open_source, read_values
from aevb.errors import DataError

pandas = pytest.importorskip("pandas")
polars = pytest.importorskip("polars")
pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

N = 60
DRAW = np.random.default_rng(0)
CELLS: dict[str, list[Any]] = {
    "x": [None if i % 7 == 0 else float(np.float32(v)) for i, v in enumerate(DRAW.normal(size=N))],
    "count": [int(v) for v in DRAW.poisson(3, N)],
    "color": [[None, "red", "blue", "ö"][v] for v in DRAW.integers(0, 4, N)],
    "sex": [["m", "f"][v] for v in DRAW.integers(0, 2, N)],
    "digits": [["4", "4.5", None][v] for v in DRAW.integers(0, 3, N)],
}


def csv_source(folder: Path) -> Source:
    path = folder / "cells.csv"
    rows = zip(*CELLS.values(), strict=True)
    lines = [",".join("" if cell is None else str(cell) for cell in row) for row in rows]
    path.write_text(",".join(CELLS) + "\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return open_source(path)


def through_parquet(table: Any, path: Path) -> Path:
    parquet.write_table(table, path, row_group_size=17)
    return path


MAKERS = {
    "pandas": lambda folder: pandas.DataFrame(CELLS),
    "pandas-objects": lambda folder: pandas.DataFrame(CELLS, dtype=object),
    "pandas-arrow": lambda folder: pandas.DataFrame(CELLS).convert_dtypes(dtype_backend="pyarrow"),
    "pandas-nullable": lambda folder: pandas.DataFrame(CELLS).convert_dtypes(),
    "polars": lambda folder: polars.DataFrame(CELLS),
    "parquet": lambda folder: through_parquet(pyarrow.table(CELLS), folder / "a.parquet"),
    "parquet-of-pandas": lambda folder: through_parquet(
        pyarrow.Table.from_pandas(pandas.DataFrame(CELLS)), folder / "b.parquet"
    ),
}


@pytest.mark.parametrize("maker", MAKERS)
def test_the_same_cells_give_the_same_table(tmp_path: Path, maker: str) -> None:
    expected = csv_source(tmp_path)
    source = open_source(MAKERS[maker](tmp_path))
    np.testing.assert_array_equal(source.values, expected.values)
    assert source.values.dtype == np.float32
    assert source.columns == expected.columns
    assert (source.likelihood, source.missing) == (expected.likelihood, expected.missing)
    assert (source.kind, source.shape) == ("table", (5,))
    assert source.name == ("frame" if "parquet" not in maker else source.name)


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_declared_categories_and_truth_values(library: str) -> None:
    cells: dict[str, Any]
    if library == "pandas":
        cells = {
            "c": pandas.Categorical([3, 1, 3, None], categories=[1, 2, 3]),
            "b": pandas.array([True, False, None, True], dtype="boolean"),
            "t": [True, False, True, True],
        }
        source = read_values(pandas.DataFrame(cells))
        levels = ("1", "3")
    else:
        cells = {
            "c": polars.Series(["v", "u", "v", None], dtype=polars.Enum(["w", "v", "u"])),
            "b": [True, False, None, True],
            "t": [True, False, True, True],
        }
        source = read_values(polars.DataFrame(cells))
        levels = ("u", "v")
    assert source.columns[0].levels == levels
    np.testing.assert_array_equal(
        source.values, [[1, 1, 1], [0, 0, 0], [1, np.nan, 1], [np.nan, 1, 1]]
    )
    assert [column.levels for column in source.columns[1:]] == [(), ()]


def test_decimals_and_whole_numbers_become_floats(tmp_path: Path) -> None:
    cells = {"d": [Decimal("1.5"), None, Decimal("-2.25")], "i": [2**40, 1, None]}
    expected = np.array([[1.5, 2**40], [np.nan, 1], [-2.25, np.nan]], np.float32)
    path = through_parquet(pyarrow.table(cells), tmp_path / "d.parquet")
    for data in (pandas.DataFrame(cells), polars.DataFrame(cells), path):
        np.testing.assert_array_equal(open_source(data).values, expected)


def test_a_null_is_missing_and_a_nan_is_refused(tmp_path: Path) -> None:
    cells = {"a": [1.0, None, 2.5], "b": [0.5, 1.5, float("nan")]}
    path = through_parquet(pyarrow.table(cells), tmp_path / "n.parquet")
    for data in (polars.DataFrame(cells), path):
        with pytest.raises(DataError, match=r"row 3, column 2: found nan \(1 such cell in all\)"):
            open_source(data)
        assert open_source(data, allow_nan=True).missing == 2
    assert open_source(pandas.DataFrame(cells)).missing == 2
    spelled = {"a": ["u", "v", "nan", "u", None]}
    for data in (polars.DataFrame(spelled), pandas.DataFrame(spelled)):
        with pytest.raises(DataError, match=r"row 3, column 1: found nan \(1 such cell in all\)"):
            open_source(data)
        assert open_source(data, allow_nan=True).missing == 2
        assert open_source(data, allow_nan=True).columns[0].levels == ("u", "v")
    for data in (polars.DataFrame({"a": [1.0, float("inf")]}), pandas.DataFrame({"a": [1, 1e39]})):
        with pytest.raises(DataError, match="row 2, column 1: found inf"):
            open_source(data, allow_nan=True)


def one(value: Any) -> dict[str, list[Any]]:
    return {"x": [1.5, 2.5], "odd": [value, value]}


ODD: list[tuple[Any, str]] = [
    (datetime.date(2020, 1, 2), "found date"),
    (datetime.datetime(2020, 1, 2), "found"),
    (datetime.timedelta(1), "found"),
    (datetime.time(1), "found"),
    ([1, 2], "found"),
    (b"ab", "found"),
    ({"a": 1}, "found"),
    (1j, "found complex"),
]


@pytest.mark.parametrize("library", ["pandas", "polars", "parquet"])
@pytest.mark.parametrize(("value", "said"), ODD, ids=lambda v: type(v).__name__)
def test_what_is_neither_number_nor_text_is_named(
    tmp_path: Path, library: str, value: Any, said: str
) -> None:
    if library == "pandas":
        data: Any = pandas.DataFrame(one(value))
    elif library == "polars":
        data = polars.DataFrame(one(value), strict=False)
        if data.schema["odd"].base_type() is polars.Object:
            said = "found Object"
    elif isinstance(value, complex):
        pytest.skip("no complex numbers in a .parquet file")
    else:
        data = through_parquet(pyarrow.table(one(value)), tmp_path / "odd.parquet")
    with pytest.raises(DataError, match=r"column 2 \('odd'\): expected numbers or text") as caught:
        open_source(data)
    assert said.lower() in str(caught.value).lower()


def test_names_are_held_to_what_makes_sense() -> None:
    rows = np.arange(6.0).reshape(2, 3) + 0.5
    assert read_values(pandas.DataFrame(rows)).columns == ()
    for names, said in (
        (["a", "b", "a"], "columns 1 and 3 have the same name 'a'"),
        (["a", "", "b"], "column 2 has no name"),
        (["a", 1, "b"], "all text or all numbers, found 'a' and 1"),
    ):
        with pytest.raises(DataError, match=said):
            read_values(pandas.DataFrame(rows, columns=names))
    frame = polars.DataFrame({"a": [1.5, 2.5]})
    with pytest.raises(DataError, match=r"found a LazyFrame; call \.collect\(\)"):
        read_values(frame.lazy())
    with pytest.raises(DataError, match=r"found a Series; call \.to_frame\(\)"):
        read_values(frame["a"])
    with pytest.raises(DataError, match="at least 1 row"):
        read_values(frame.clear())


def test_the_index_that_pandas_keeps_in_a_file_is_refused(tmp_path: Path) -> None:
    frame = pandas.DataFrame({"a": [1.5, 2.5]}, index=["p", "q"])
    frame.to_parquet(tmp_path / "i.parquet")
    with pytest.raises(DataError, match="save the table with index=False"):
        open_source(tmp_path / "i.parquet")


def test_a_name_with_a_dot_is_a_name(tmp_path: Path) -> None:
    table = pyarrow.table({"a.b": ["u", "v", "u"], "a": [1.5, 2.5, 0.5]})
    source = open_source(through_parquet(table, tmp_path / "dots.parquet"))
    assert [column.name for column in source.columns] == ["a.b", "a"]
    assert source.columns[0].levels == ("u", "v")


def test_frames_are_never_changed() -> None:
    frame, other = pandas.DataFrame(CELLS), polars.DataFrame(CELLS)
    kept, twin = frame.copy(deep=True), other.clone()
    values: Any = open_source(frame).values
    values[:] = 7
    open_source(other).values[:] = 7  # type: ignore[index]
    pandas.testing.assert_frame_equal(frame, kept)
    assert other.equals(twin)
    numbers = pandas.DataFrame(np.arange(6.0).reshape(3, 2) + 0.5)
    source: Any = read_values(numbers).values
    source[:] = 0
    assert (numbers.to_numpy() > 0).all()


def test_new_rows_of_a_frame_are_held_to_a_model_of_a_file(tmp_path: Path) -> None:
    fitted = csv_source(tmp_path).columns
    frame = pandas.DataFrame(CELLS).iloc[[4]]
    np.testing.assert_array_equal(
        open_source(frame, like=fitted).values, csv_source(tmp_path).values[[4]]
    )
    with pytest.raises(DataError, match=r"row 1, column 4 \('sex'\): expected one of 'f', 'm'"):
        open_source(frame.assign(sex="x"), like=fitted)


# --- .parquet that is not what it claims -------------------------------------------------------


def test_a_column_that_unpacks_without_end_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aevb.data.checks.FREE_BYTES", 10**6)
    rows = 6_000_000
    coded = pyarrow.DictionaryArray.from_arrays(
        pyarrow.array(np.zeros(rows, np.int8)), pyarrow.array(["x"])
    )
    path = through_one_group(pyarrow.table({"a": coded}), tmp_path / "bomb.parquet")
    assert path.stat().st_size < 100_000
    with pytest.raises(DataError, match="claim to hold 24,000,000"):
        open_source(path)


def through_one_group(table: Any, path: Path) -> Path:
    parquet.write_table(table, path, row_group_size=len(table))
    return path


def test_a_long_text_shared_by_all_rows_is_held_once(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    texts = pyarrow.array(["x" * 2_000_000, "y"])
    codes = pyarrow.array(np.arange(2_000) % 2, pyarrow.int32())
    coded = pyarrow.DictionaryArray.from_arrays(codes, texts)
    path = through_one_group(pyarrow.table({"a": coded}), tmp_path / "long.parquet")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert open_source(path).columns[0].levels == ("x" * 2_000_000, "y")
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < 500


def test_a_missing_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = through_parquet(pyarrow.table({"a": [1.5, 2.5]}), tmp_path / "a.parquet")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    with pytest.raises(DataError, match=r"needs pyarrow: pip install 'aevb\[tables\]'"):
        open_source(path)

"""Laws of tables: missing cells, columns of text, kinds of columns, and schemas of new data."""

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aevb.data import Column, Source, conform, load, open_source, read_values
from aevb.data.suggestion import column_kinds, is_signal, suggest
from aevb.errors import DataError

HOLES = ["", " ", "NA", "N/A", "<NA>", "null", "NULL", "None", "?", " NA "]


def write(folder: Path, content: str, name: str = "rows.csv") -> Path:
    (folder / name).write_text(content, encoding="utf-8")
    return folder / name


def refusal(data: Any, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        open_source(data, **options)
    assert str(caught.value).isprintable()
    return str(caught.value)


# --- missing cells -----------------------------------------------------------------------------


@pytest.mark.parametrize("hole", HOLES)
def test_every_spelling_of_a_missing_cell_is_nan(tmp_path: Path, hole: str) -> None:
    source = open_source(write(tmp_path, f"a,b\n1.5,2\n{hole},3\n-1,{hole}\n"))
    np.testing.assert_array_equal(source.values, [[1.5, 2], [np.nan, 3], [-1, np.nan]])
    assert source.missing == 2
    assert source.values.dtype == np.float32
    assert source.reason.endswith("; 2 cells (33 %) are missing, the first in line 3, column 1")


def test_one_missing_cell_is_said_in_the_singular(tmp_path: Path) -> None:
    source = open_source(write(tmp_path, "1.5,2\n,3.5\n"))
    assert source.reason.endswith("; 1 cell (25 %) is missing, in line 2, column 1")


def test_a_row_may_be_missing_and_a_column_may_not(tmp_path: Path) -> None:
    assert open_source(write(tmp_path, "a,b\n1.5,2\n,\n2,3\n")).missing == 2
    assert "at least one cell in column 2 ('b')" in refusal(write(tmp_path, "a,b\n1,\n2,\n"))
    holes = np.array([[1.0, np.nan], [2.0, np.nan]])
    assert "at least one cell in column 2" in refusal(holes, allow_nan=True)


def test_nan_is_refused_and_then_allowed(tmp_path: Path) -> None:
    table = write(tmp_path, "a,b\n,2\n1,NaN\nnan,4.5\n3,1\n")
    sentence = refusal(table)
    assert "line 3, column 2: found nan (2 such cells in all)" in sentence
    assert "--allow-nan" in sentence
    assert open_source(table, allow_nan=True).missing == 3


@pytest.mark.parametrize("cell", ["inf", "-inf", "1e999", "-Infinity"])
def test_infinity_is_always_refused(tmp_path: Path, cell: str) -> None:
    table = write(tmp_path, f"a,b\n1,2\n{cell},4\n,{cell}\n")
    for allow_nan in (False, True):
        assert "line 3, column 1: found" in refusal(table, allow_nan=allow_nan)
        assert "(2 such cells in all)" in refusal(table, allow_nan=allow_nan)


def test_a_cell_is_named_by_its_line_even_after_a_line_break_in_a_cell(tmp_path: Path) -> None:
    table = write(tmp_path, 'a,b\n1,"x\ny"\n2,z\ninf,z\n1,"x\ny"\n')
    assert "line 5, column 1: found inf" in refusal(table)


def test_a_missing_cell_is_not_binarized(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).random((20, 3))
    rows[4, 1] = np.nan
    for binarize in ("threshold", "once", "epoch"):
        with pytest.raises(DataError, match="binarization needs every cell, and 1 are missing"):
            load(rows, binarize, allow_nan=True)
    assert load(rows, allow_nan=True).source.missing == 1


# --- columns of text ---------------------------------------------------------------------------


@given(st.lists(st.sampled_from(["b", "a", "ö", "NA", "c d", "2"]), min_size=11, max_size=60))
def test_codes_stand_for_sorted_levels(cells: list[str]) -> None:
    frequent = {cell for cell in cells if cell not in ("NA", "2")}
    texts = sum(cell not in ("NA", "2") for cell in cells)
    levels = frequent | ({"2"} & set(cells))
    if texts <= cells.count("2") or not 2 <= len(levels) <= len(cells) / 2:
        return
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        lines = "".join(f"{cell},{i}.5\n" for i, cell in enumerate(cells))
        source = open_source(write(Path(folder), "text,number\n" + lines))
    column = source.columns[0]
    assert column.levels == tuple(sorted(levels))
    assert column.kind == ("binary" if len(levels) == 2 else "category")
    decoded = ["NA" if math.isnan(k) else column.levels[int(k)] for k in source.values[:, 0]]
    assert decoded == cells
    np.testing.assert_array_equal(source.values[:, 1], np.arange(len(cells)) + np.float32(0.5))


def test_half_numbers_are_numbers_with_a_mistake(tmp_path: Path) -> None:
    assert "line 4, column 1: expected a number, found 'x'" in refusal(
        write(tmp_path, "a,b\n1,1\n,1\nx,1\n2,1\ny,1\n")
    )
    source = open_source(write(tmp_path, "a,b\n1,2\n,3\nx,1\nx,0\ny,.5\n"))
    assert source.columns[0].levels == ("1", "x", "y")


TEXT_REFUSALS = [
    ("a,b\n" + "same,1\n" * 4, "column 1 ('a'): the column holds one text only, 'same'"),
    ("a,b\n" + "".join(f"k{i},1\n" for i in range(11)), "with 11 different values in 11 rows"),
    ("a\n" + "".join(f"k{i % 101}\n" for i in range(400)), "101 different values"),
    ("red,1.5\nblue,2.5\nred,1\n", "add a first row of names"),
    ("red,up\nblue,down\nred,up\nblue,up\n", "add a first row of names"),
    (",a\n1,2\n", "column 1 has no name, as when pandas writes its index"),
    ("a,b,a\n1,2,3\n", "columns 1 and 3 have the same name 'a'"),
]


@pytest.mark.parametrize(("content", "said"), TEXT_REFUSALS)
def test_text_that_makes_no_category_is_refused(tmp_path: Path, content: str, said: str) -> None:
    assert said in refusal(write(tmp_path, content))


def test_a_hundred_levels_are_a_category(tmp_path: Path) -> None:
    source = open_source(write(tmp_path, "a\n" + "".join(f"k{i % 100}\n" for i in range(200))))
    assert (source.likelihood, len(source.columns[0].levels)) == ("categorical", 100)
    assert source.reason == "every column holds 100 different texts"


# --- kinds and likelihoods ---------------------------------------------------------------------


@given(
    st.integers(2, 40).flatmap(
        lambda n: st.lists(
            st.lists(st.sampled_from([0.0, 1.0, 2.0, 5.0, 0.5, -1.0]), min_size=n, max_size=n),
            min_size=1,
            max_size=4,
        )
    )
)
def test_kinds_follow_the_definition(columns: list[list[float]]) -> None:
    def kind(cells: list[float]) -> str:
        if set(cells) == {0.0, 1.0}:
            return "binary"
        whole = all(c >= 0 and c == int(c) for c in cells)
        even = np.var(cells, ddof=1) < np.mean(cells) / 2
        return "count" if whole and len(set(cells)) > 2 and not even else "real"

    assert column_kinds(np.array(columns).T, 1.0) == [kind(cells) for cells in columns]


def test_a_mixed_table_says_how_many_columns_of_each_kind() -> None:
    draw = np.random.default_rng(0)
    n = 200
    values = np.column_stack(
        [draw.normal(size=n), draw.normal(size=n), draw.poisson(3, n), draw.integers(0, 2, n)]
    )
    source = read_values(values)
    assert source.likelihood == "mixed"
    assert source.reason == "2 real, 1 count and 1 binary column"
    assert [column.kind for column in source.columns] == ["real", "real", "count", "binary"]
    assert {column.name for column in source.columns} == {""}
    assert read_values(values[:, :2]).columns == ()


def test_whole_numbers_that_vary_less_than_counts_are_no_counts() -> None:
    draw = np.random.default_rng(0)
    even = draw.binomial(100, 0.9, (500, 3))
    assert even.var(0).max() < even.mean(0).min() / 2
    assert suggest(even, 1.0) == (
        "gaussian",
        "values are whole and vary less than counts do",
    )
    assert suggest(draw.poisson(4, (500, 3)), 1.0)[0] == "negative-binomial"
    assert suggest(even.reshape(500, 3, 1), 1.0)[0] == "negative-binomial"
    assert suggest(np.tile(even, (1, 400)), 1.0)[0] == "negative-binomial"


def test_missing_cells_change_no_suggestion() -> None:
    draw = np.random.default_rng(0)
    for values in (
        draw.integers(0, 2, (90, 5)),
        draw.random((90, 5)),
        draw.poisson(5, (90, 5)),
        draw.normal(size=(90, 5)),
    ):
        whole = read_values(values.astype(float))
        holes = np.where(draw.random((90, 5)) < 0.2, np.nan, values)
        source = read_values(holes, allow_nan=True)
        assert source.likelihood == whole.likelihood
        assert source.reason.startswith(whole.reason + "; ")
        assert source.missing == np.isnan(holes).sum()


def test_texts_are_mixed_or_categorical(tmp_path: Path) -> None:
    def of(*rows: str) -> tuple[str, str]:
        source = open_source(write(tmp_path, "\n".join(rows) + "\n"))
        return source.likelihood, source.reason

    assert of("a,b", "x,0", "y,1", "x,1") == ("bernoulli", "every value is 0 or 1")
    assert of("a,b", "x,0.5", "y,1", "x,1") == ("mixed", "1 real and 1 binary column")
    assert of("a,b", "x,p", "y,q", "z,r") == ("categorical", "every column holds 3 different texts")
    assert of("a,b", "x,p", "y,q", "z,r", "z,s") == (
        "mixed",
        "2 category columns with different numbers of levels",
    )
    assert of("a", "x", "y", "z")[0] == "categorical"


def test_a_header_gives_columns_and_a_table(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    waves = np.sin(draw.random((20, 1)) + np.arange(32) / 5)
    lines = "\n".join(",".join(map(str, row)) for row in waves)
    header = ",".join(f"t{i}" for i in range(32))
    bare, named = write(tmp_path, lines), write(tmp_path, f"{header}\n{lines}", "named.csv")
    assert (open_source(bare).kind, open_source(bare).columns) == ("signal", ())
    source = open_source(named)
    assert source.kind == "table"
    assert [column.name for column in source.columns] == header.split(",")
    assert {column.kind for column in source.columns} == {"real"}


def test_a_signal_has_neighbors_that_are_alike() -> None:
    draw = np.random.default_rng(0)
    walk = draw.normal(size=(50, 40)).cumsum(1)
    assert is_signal(walk)
    assert is_signal(np.where(draw.random(walk.shape) < 0.1, np.nan, walk))
    assert not is_signal(draw.normal(size=(50, 40)))
    assert not is_signal(walk[:, :15])
    assert not is_signal(np.ones((50, 40)))
    assert not is_signal(walk[:, draw.permutation(40)] * draw.lognormal(0, 2, 40))
    assert read_values(walk.reshape(50, 5, 8)).kind == "image"


# --- new data held to a schema -----------------------------------------------------------------

FITTED = (Column("size", "real"), Column("color", "category", ("blue", "green", "red")))


def test_new_texts_get_the_codes_of_the_model(tmp_path: Path) -> None:
    table = write(tmp_path, "size,color\n1.5,red\n2,green\n,\n3,red\n")
    alone, held = open_source(table), open_source(table, like=FITTED)
    np.testing.assert_array_equal(alone.values[:, 1], [1, 0, np.nan, 1])
    np.testing.assert_array_equal(held.values[:, 1], [2, 1, np.nan, 2])
    np.testing.assert_array_equal(held.values[:, 0], alone.values[:, 0])
    assert held.columns == FITTED
    again = conform(alone, FITTED, "new data")
    np.testing.assert_array_equal(again.values, held.values)
    np.testing.assert_array_equal(alone.values[:, 1], [1, 0, np.nan, 1])


def test_one_row_is_enough_for_a_model_that_is_there(tmp_path: Path) -> None:
    row = write(tmp_path, "size,color\n2,green\n")
    np.testing.assert_array_equal(open_source(row, like=FITTED).values, [[2, 1]])
    assert "one text only" in refusal(row)
    hole = write(tmp_path, "size,color\n2,\n")
    np.testing.assert_array_equal(open_source(hole, like=FITTED).values, [[2, np.nan]])


SCHEMA_REFUSALS = [
    ("size\n1\n", "found missing 'color'; give the same columns"),
    ("size,color,age\n1,red,2\n", "found unseen 'age'; give"),
    ("age,color\n1,red\n", "found missing 'size' and unseen 'age'; give"),
    ("color,size\nred,1\n", "found 'color' in place of 'size' as column 1; reorder"),
    (
        "size,color\n1,red\n1,pink\n",
        "line 3, column 2 ('color'): expected one of 'blue', 'green', ",
    ),
    ("size,color\n1,7\n", "line 2, column 2 ('color'): expected one of 'blue'"),
    ("size,color\nbig,red\n", "line 2, column 1 ('size'): expected a number"),
    ("1,2,3\n4,5,6\n", "expected 2 columns as the model was fitted on, found 3"),
]


@pytest.mark.parametrize(("content", "said"), SCHEMA_REFUSALS)
def test_data_of_another_schema_are_refused(tmp_path: Path, content: str, said: str) -> None:
    assert said in refusal(write(tmp_path, content), like=FITTED)


def test_the_names_are_listed_up_to_five() -> None:
    fitted = tuple(Column(f"c{i}", "real") for i in range(9))
    source = read_values(np.ones((2, 1)) * 2.5)
    named = replace(source, columns=(Column("z", "real"),))
    with pytest.raises(DataError, match="'c0', 'c1', 'c2', 'c3', 'c4' and 4 more and unseen 'z'"):
        conform(named, fitted, "rows")


def test_without_names_only_the_width_counts() -> None:
    fitted = tuple(Column("", kind) for kind in ("real", "count", "binary"))
    rows = read_values(np.array([[1.5, 2.0, 3.0]]))
    np.testing.assert_array_equal(conform(rows, fitted, "rows").values, rows.values)
    with pytest.raises(DataError, match="expected 2 columns as the model was fitted on, found 3"):
        conform(rows, fitted[:2], "rows")


def test_truth_values_and_their_texts_are_the_same() -> None:
    def of(values: list[float], column: Column) -> Source:
        cells = np.array(values, np.float32)[:, None]
        return replace(read_values(cells), columns=(column,))

    text = Column("t", "binary", ("False", "True"))
    plain = Column("t", "binary")
    only_true = Column("t", "category", ("True",))
    assert conform(of([0, 1], plain), (text,), "rows").values.ravel().tolist() == [0, 1]
    assert conform(of([0, 0], only_true), (plain,), "rows").values.ravel().tolist() == [1, 1]
    assert conform(of([0, 0], only_true), (text,), "rows").values.ravel().tolist() == [1, 1]
    with pytest.raises(DataError, match="expected one of 'False', 'True'"):
        conform(of([0, 2], Column("t", "real")), (text,), "rows")


# --- nothing that was given is changed ---------------------------------------------------------


def test_a_read_only_file_is_read_and_stays_as_it_was(tmp_path: Path) -> None:
    table = write(tmp_path, "size,color\n1.5,red\n2,green\n,red\n")
    before = table.read_bytes()
    table.chmod(0o400)
    values: Any = open_source(table).values
    values[:] = 0
    assert table.read_bytes() == before
    assert Counter(path.name for path in tmp_path.iterdir()) == {"rows.csv": 1}


def test_an_array_in_memory_is_neither_changed_nor_copied() -> None:
    array = np.random.default_rng(0).normal(size=(30, 4))
    array[3, 2] = np.nan
    array.setflags(write=False)
    before = array.tobytes()
    source = open_source(array, allow_nan=True)
    assert source.values is array
    conform(source, (Column("", "real"),) * 4, "array")
    assert array.tobytes() == before
    assert source.fingerprint == open_source(array.copy(), allow_nan=True).fingerprint
    assert source.fingerprint != open_source(array + 1, allow_nan=True).fingerprint


ARRAYS: list[tuple[Any, str]] = [
    (np.zeros((3, 2), "U3"), "found text"),
    (np.zeros((3, 2), "M8[s]"), "found datetime64[s]"),
    (np.zeros((3, 2), complex), "found complex numbers"),
    (np.array([[1, "a"]], object), "found Python objects"),
    ([[1, 2], [3]], "found a list that is none"),
    (np.zeros(4), "reshape it to (N, 1)"),
    (np.zeros((0, 4)), "expected at least 1 row"),
    (np.zeros((4, 0)), "expected at least 1 column"),
    (np.ma.masked_equal([[1.0, np.nan], [2.0, 3.0]], 3), "found nan that is not masked"),
    (np.ma.masked_equal([[1 + 2j, 3], [2, 3]], 3), "found complex numbers"),
    (np.ma.masked_equal([["a", "b"], ["c", "d"]], "b"), "found text"),
    (None, "found Python objects"),
]


@pytest.mark.parametrize(("data", "said"), ARRAYS)
def test_what_is_no_array_of_numbers_is_refused(data: Any, said: str) -> None:
    sentence = refusal(data)
    assert sentence.startswith("array")
    assert said in sentence


def test_other_arrays_are_taken_for_what_they_are() -> None:
    import torch
    from scipy import sparse

    np.testing.assert_array_equal(read_values(torch.arange(6.0).reshape(3, 2)).values[1], [2, 3])
    masked = read_values(np.ma.masked_equal([[1, 5], [2, 3], [7, 2]], 5))
    assert (masked.missing, masked.values[0, 1]) == (1, pytest.approx(np.nan, nan_ok=True))
    grey = np.arange(0, 240, 4, np.uint8).reshape(20, 3)
    for mask in (np.zeros_like(grey, bool), grey == 4):
        masked = read_values(np.ma.masked_array(grey, mask))
        assert (masked.scale, masked.missing) == (1 / 255, mask.sum())
    thirds = np.ma.masked_array([[1, 2], [4, 5]] / np.float64(3), [[1, 0], [0, 0]])
    assert (read_values(thirds).values == thirds).all()  # in 64 bits
    assert "call .toarray()" in refusal(sparse.csr_matrix(np.eye(3)))


# --- classes -----------------------------------------------------------------------------------


@given(
    codes=st.lists(st.integers(-1, 3), min_size=4, max_size=40).filter(
        lambda c: len({*c} - {-1}) > 1
    ),
    at=st.integers(0, 2),
    spelled=st.sampled_from(["text", "number", "number without a header"]),
)
def test_a_column_of_classes_leaves_the_others_alone(
    tmp_path_factory: pytest.TempPathFactory,
    codes: list[int],
    at: int,
    spelled: str,
) -> None:
    header = not spelled.endswith("without a header")
    names = ["ant", "bee", "cat", "dog"] if spelled == "text" else ["-1", "0", "2", "10"]
    source = np.random.default_rng(len(codes))
    others = [[f"{cell:.3f}" for cell in row] for row in source.normal(size=(len(codes), 2))]
    rows = [
        ",".join([*other[:at], "" if k < 0 else names[k], *other[at:]])
        for k, other in zip(codes, others, strict=True)
    ]
    heads = ["length", "width"]
    first = [",".join([*heads[:at], "kind", *heads[at:]])] if header else []
    folder = tmp_path_factory.mktemp("classes")
    file = write(folder, "\n".join([*first, *rows]))
    found = open_source(file, label="kind" if header else str(at + 1))
    assert found.shape == (2,)
    np.testing.assert_array_equal(found.values, np.array(others, np.float32))
    assert [column.name for column in found.columns] == (heads if header else [])
    assert found.missing == 0
    assert found.likelihood == "gaussian"
    assert found.labels is not None
    said = ["" if k < 0 else found.classes[k] for k in found.labels]
    assert said == ["" if k < 0 else names[k] for k in codes]
    assert list(found.classes) == [name for k, name in enumerate(names) if k in codes]
    # New rows of the same columns may come with the class and without it.
    bare = write(
        folder, "\n".join([",".join(heads)] * header + [*map(",".join, others)]), "bare.csv"
    )
    like = tuple(Column(name if header else "", "real") for name in heads)
    for rows_file, labeled in ((file, True), (bare, False)):
        again = open_source(rows_file, label="kind" if header else str(at + 1), like=like)
        np.testing.assert_array_equal(again.values, found.values)
        assert (again.labels is not None) == labeled

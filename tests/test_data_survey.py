"""Laws of the one pass over all cells: its bounds hold, and they settle what a full look would."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from aevb.data import Dataset, Rows, Source, all_rows, checks, open_source, read_values, split
from aevb.errors import DataError
from aevb.families import (
    Bernoulli,
    Categorical,
    Columns,
    ContinuousBernoulli,
    Masked,
    NegativeBinomial,
    Normal,
    Poisson,
)
from aevb.model import Model
from aevb.settings import Settings, check_settings
from aevb.storage import build, check_domain

FAMILIES = [
    Bernoulli,
    lambda: Categorical(3),
    ContinuousBernoulli,
    NegativeBinomial,
    Normal,
    Poisson,
    lambda: Masked(Bernoulli()),
    lambda: Masked(Categorical(3)),
    lambda: Columns([Bernoulli(), Poisson()], [[0], [1]]),
]
NUMBERS = st.sampled_from([0.0, -0.0, 1.0, 2.0, 3.0, 0.5, 0.25, -1.0, 255.0, 1e30, 0.9999999999])


def rows_of_two(dtype: str) -> st.SearchStrategy[np.ndarray]:
    cells = st.sampled_from([0, 1, 2, 3, 127, 255]) if dtype == "u1" else NUMBERS
    if dtype in ("f4", "f8"):
        cells = cells | st.just(np.nan)
    shape = st.tuples(st.integers(1, 6), st.just(2))
    return hnp.arrays(dtype, shape, elements=cells.filter(lambda x: dtype != "f2" or x < 1e4))


TABLES = st.sampled_from(["u1", "i4", "f4", "f8"]).flatmap(
    lambda dtype: (
        rows_of_two(dtype)
        if dtype != "i4"
        else hnp.arrays(dtype, (4, 2), elements=st.integers(-2, 4))
    )
)


def opened(array: np.ndarray) -> Source:
    """The source of an array, found block by block of one row."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checks, "CHUNK_BYTES", 1)
        return read_values(array, allow_nan=True)


@given(TABLES)
def test_extremes_are_those_of_numpy(array: np.ndarray) -> None:
    if np.isnan(array.astype(float)).all(0).any():
        with pytest.raises(DataError, match="at least one cell"):
            opened(array)
        return
    source = opened(array)
    assert source.extremes is not None
    low, high, odd = source.extremes
    np.testing.assert_array_equal(low, np.fmin.reduce(array).astype(np.float32))
    np.testing.assert_array_equal(high, np.fmax.reduce(array).astype(np.float32))
    assert source.missing == int(np.isnan(array.astype(float)).sum())
    if source.scale == 1.0:
        x = all_rows(source).all().numpy()
        whole = (np.isnan(x) | (x == np.floor(x))).all(0)
        np.testing.assert_array_equal(odd == np.floor(odd), whole)
        assert all(odd[i] in x[:, i] for i in range(2))


@given(TABLES, st.sampled_from(FAMILIES))
@example(np.array([[255, 0], [1, 2], [0, 0], [0, 255]], np.uint8), FAMILIES[0])
@example(np.array([[0.0, 1.0], [0.5, 0.9999999999]]), Bernoulli)
def test_extremes_settle_only_what_a_full_look_would(array: np.ndarray, make: Any) -> None:
    if np.isnan(array.astype(float)).all(0).any():
        return
    source = opened(array)
    rows = all_rows(source)
    data = Dataset(source, rows, rows, rows)
    model: Any = SimpleNamespace(family=make())
    x = rows.all()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checks, "MOST_OFFSET", 1e12)  # what rounding blurs is refused elsewhere
        if bool(model.family.inside(x).all()):
            check_domain(model, data)
        else:
            with pytest.raises(DataError, match="do not fit"):
                check_domain(model, data)
    inside = bool(((x >= 0) & (x <= 1) | torch.isnan(x)).all())
    assert source.lies_within(0, 1) == inside


@given(hnp.arrays("u1", (5, 3), elements=st.sampled_from([0, 1, 7, 254, 255])))
@example(np.array([[0, 254], [1, 7], [254, 254]], np.uint8))
def test_bytes_are_pixels_unless_they_have_two_levels_without_255(array: np.ndarray) -> None:
    levels = set(array.ravel().tolist())
    expected = 1 / 255 if len(levels) > 2 or 255 in levels else 1.0
    assert opened(array).scale == expected


def test_grey_levels_of_a_named_set_are_not_taken_for_zeros_and_ones() -> None:
    data = split(open_source("digits"))
    assert data.source.lies_within(0, 1)
    model: Any = SimpleNamespace(family=Bernoulli())
    with pytest.raises(DataError, match="do not fit"):
        check_domain(model, data)


def test_columns_follow_the_order_of_the_model(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (9, 5, 4, 3), np.uint8)
    source = read_values(pixels)
    assert source.extremes is not None
    assert source.extremes.shape == (3, *source.shape)
    np.testing.assert_array_equal(source.extremes[0], source.values.min(0))
    np.testing.assert_array_equal(source.extremes[1], source.values.max(0))


def test_recoded_columns_are_looked_at_anew() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": ["x", "y"] * 6, "b": np.arange(12.0)})
    fitted = read_values(frame)
    assert read_values(frame, like=fitted.columns).extremes is not None
    other = read_values(frame.replace({"a": {"x": "y"}}), like=fitted.columns)
    assert other.extremes is None
    assert not other.lies_within(-np.inf, np.inf)


def settings_for(likelihood: str) -> Settings:
    return check_settings({"likelihood": likelihood, "binarize": "none", "hidden": (4,)})


def prepared(values: np.ndarray, likelihood: str) -> tuple[Model, Dataset]:
    data = split(read_values(values))
    return build(settings_for(likelihood), data)[0], data


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian", "poisson", "categorical"])
def test_what_the_survey_settles_is_not_read_again(
    monkeypatch: pytest.MonkeyPatch, likelihood: str
) -> None:
    values = np.random.default_rng(0).integers(0, 2, (40, 5)).astype(np.float32)
    model, data = prepared(values, likelihood)

    def refuse(rows: Rows, size: int) -> None:
        raise AssertionError("all rows were read again")

    monkeypatch.setattr(Rows, "chunks", refuse)
    check_domain(model, data)
    unknown = replace(data, source=replace(data.source, extremes=None))
    with pytest.raises(AssertionError, match="again"):
        check_domain(model, unknown)


def test_levels_of_grey_that_no_step_tells_are_asked_for() -> None:
    settings = replace(check_settings({}), likelihood="discretized-logistic")
    data = split(open_source(np.full((30, 4), 0.5)))
    with pytest.raises(DataError, match=r"array: every value is the same.*--classes"):
        build(settings, data)


def test_classes_are_as_many_as_the_largest_says() -> None:
    values = np.random.default_rng(0).integers(0, 5, (400, 5)).astype(np.float32)
    family = prepared(values, "categorical")[0].family
    assert getattr(family, "classes", None) == 5


@pytest.mark.parametrize(("bad", "likelihood"), [(0.5, "bernoulli"), (-1, "poisson")])
def test_a_cell_outside_gets_the_sentence_of_a_full_look(bad: float, likelihood: str) -> None:
    values = np.random.default_rng(0).integers(0, 2, (40, 5)).astype(np.float32)
    model, _ = prepared(values, likelihood)
    values[17, 3] = bad
    data = split(read_values(values))
    said = []
    for source in (data.source, replace(data.source, extremes=None)):
        with pytest.raises(DataError) as caught:
            check_domain(model, replace(data, source=source))
        said.append(str(caught.value))
    assert said[0] == said[1]
    assert "row 18, column 4" in said[0]

"""Tables as pictures: which columns and cells are drawn, where, and in which color."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb, to_rgba

from aevb import plots
from aevb.errors import UsageError
from aevb.plots import style

RNG = np.random.default_rng(1)
ROWS = RNG.standard_normal((40, 3))
BLUE, ORANGE = to_rgb(style.TRAINING), to_rgb(style.VALIDATION)


def points(ax: Axes, color: tuple[float, ...]) -> np.ndarray:
    """The points of one color, sorted by their first coordinate."""
    (drawn,) = ax.collections
    mine = (np.asarray(drawn.get_facecolor())[:, :3] == color).all(axis=1)
    offsets = np.asarray(drawn.get_offsets())[mine]
    return offsets[np.lexsort(offsets.T[::-1])]


def in_order(rows: np.ndarray) -> np.ndarray:
    return rows[np.lexsort(rows.T[::-1])]


def heights(ax: Axes, color: tuple[float, ...]) -> np.ndarray:
    """The heights of the filled bars of one color."""
    return np.array([b.get_height() for b in ax.patches if b.get_facecolor() == (*color, 0.3)])


def panels(ax: Axes) -> dict[tuple[int, int], Axes]:
    """The panels of a triangle by their row and column."""
    inside = iter(ax.child_axes)
    return {(row, column): next(inside) for row in range(5) for column in range(row + 1)}


# Pair plots ---------------------------------------------------------------------------------------


def test_pair_plot_has_points_below_the_diagonal_and_histograms_on_it() -> None:
    others = ROWS[:10] * 0.5
    ax = plots.pair_plot(ROWS, others, names=["a", "b", "c"])
    inside = [*ax.child_axes]
    assert len(inside) == 6
    for panel, (row, column) in zip(
        inside, [(0, 0), (1, 0), (1, 1), (2, 0), (2, 1), (2, 2)], strict=True
    ):
        if row == column:
            assert heights(panel, BLUE).sum() == pytest.approx(1)
            assert heights(panel, ORANGE).sum() == pytest.approx(1)
        else:
            chosen = [column, row]
            np.testing.assert_array_equal(points(panel, BLUE), in_order(ROWS[:, chosen]))
            np.testing.assert_array_equal(points(panel, ORANGE), in_order(others[:, chosen]))
    assert [panel.get_xlabel() for panel in inside[3:]] == ["a", "b", "c"]
    assert [inside[k].get_ylabel() for k in (1, 3)] == ["b", "c"]
    assert ax.get_title() == "Data and samples"


def test_pair_plot_keeps_the_two_colors_mixed() -> None:
    ax = plots.pair_plot(ROWS[:, :2], ROWS[:, :2])
    (drawn,) = ax.child_axes[0].collections
    colors = np.asarray(drawn.get_facecolor())[:, :3]
    assert (colors == BLUE).all(axis=1).tolist() == [True, False] * 40


def test_two_columns_have_margins_and_one_is_a_histogram() -> None:
    ax = plots.pair_plot(ROWS[:, :2], names=["a", "b"])
    middle, above, right = ax.child_axes
    np.testing.assert_array_equal(points(middle, BLUE), in_order(ROWS[:, :2]))
    assert (middle.get_xlabel(), middle.get_ylabel()) == ("a", "b")
    assert above.get_xlim() == middle.get_xlim()
    assert right.get_ylim() == middle.get_ylim()
    alone = plots.pair_plot(ROWS[:, :1], names=["a"])
    assert alone.child_axes == []
    assert heights(alone, BLUE).sum() == pytest.approx(1)
    assert alone.get_xlabel() == "a"


def test_missing_cells_are_left_out() -> None:
    rows = ROWS.copy()
    rows[:5, 0] = np.nan
    rows[3:9, 1] = np.nan
    ax = plots.pair_plot(rows)
    first, below = ax.child_axes[:2]
    np.testing.assert_array_equal(points(below, BLUE), in_order(ROWS[9:, :2]))
    assert heights(first, BLUE).sum() == pytest.approx(1)


def test_columns_without_a_cell_are_not_drawn() -> None:
    rows = ROWS.copy()
    rows[:, 1] = np.nan
    ax = plots.pair_plot(rows, names=["a", "b", "c"])
    assert (ax.child_axes[0].get_xlabel(), ax.child_axes[0].get_ylabel()) == ("a", "c")
    assert ax.get_title() == "Data, 2 of 3 columns"


def test_of_many_columns_the_most_correlated_are_drawn_in_order() -> None:
    rng = np.random.default_rng(2)
    cause, rows = rng.standard_normal((200, 1)), rng.standard_normal((200, 9))
    rows[:, [1, 2, 4, 7, 8]] = cause + 0.3 * rows[:, [1, 2, 4, 7, 8]]
    rows[:, 3] = 5.0
    rows[::7, 2] = np.nan
    for scale in (1.0, np.geomspace(1e-5, 1e5, 9)):
        ax = plots.pair_plot(rows * scale)
        names = [ax.child_axes[k].get_xlabel() for k in range(10, 15)]
        assert names == [f"column {k + 1}" for k in (1, 2, 4, 7, 8)]
        assert ax.get_title() == "Data, 5 of 9 columns"


def test_few_whole_numbers_have_a_bar_each() -> None:
    counts = np.array([[0.0], [0], [1], [3]])
    assert heights(plots.pair_plot(counts), BLUE)[:4].tolist() == [0.5, 0.25, 0, 0.25]


def test_limits_hold_all_data_and_no_single_wild_sample() -> None:
    wild = np.r_[ROWS[:, 0], [1e9]]
    wild = np.c_[np.tile(wild, 30), np.tile(wild, 30)]
    wild[:1199, 0] = 0.0
    low, high = plots.pair_plot(ROWS[:, :2], wild).child_axes[0].get_xlim()
    assert low < ROWS[:, 0].min()
    assert ROWS[:, 0].max() < high < 100


def test_many_rows_are_thinned_as_points_and_counted_in_full() -> None:
    rows = np.c_[np.arange(5000.0), np.arange(5000.0)]
    middle, above, _ = plots.pair_plot(rows).child_axes
    drawn = points(middle, BLUE)
    assert len(drawn) == 2000
    assert drawn[[0, -1], 0].tolist() == [0, 4999]
    assert heights(above, BLUE).sum() == pytest.approx(1)


tables = arrays.arrays(
    np.float64,
    st.tuples(st.integers(1, 6), st.integers(1, 7)),
    elements=st.one_of(st.just(np.nan), st.floats(-1e6, 1e6)),
).filter(lambda table: not np.isnan(table).all())


@given(tables)
@settings(max_examples=10)
def test_pair_plot_draws_any_table_with_a_cell(table: np.ndarray) -> None:
    ax = plots.pair_plot(table, -table)
    columns = min(5, int((~np.isnan(table)).any(axis=0).sum()))
    assert len(ax.child_axes) == {1: 0, 2: 3, 3: 6, 4: 10, 5: 15}[columns]
    ax.figure.canvas.draw()


@pytest.mark.parametrize(
    "draw_bad",
    [
        lambda: plots.pair_plot(np.zeros(3)),
        lambda: plots.pair_plot(np.zeros((0, 3))),
        lambda: plots.pair_plot(np.full((2, 2), np.nan)),
        lambda: plots.pair_plot([[np.inf, 1.0]]),
        lambda: plots.pair_plot(ROWS, ROWS[:, :2]),
        lambda: plots.pair_plot(ROWS, names=["a"]),
        lambda: plots.pair_plot([["a", "b"]]),
    ],
)
def test_pair_plot_refuses(draw_bad: Callable[[], Axes]) -> None:
    with pytest.raises(UsageError, match="expected"):
        draw_bad()


# Imputation ---------------------------------------------------------------------------------------

PICTURES = RNG.random((3, 1, 4, 4))
FILLED = RNG.random((3, 1, 4, 4))
SEEN = np.arange(16).reshape(4, 4) % 4 < 2


def test_holes_of_pictures_are_orange_and_rows_are_named() -> None:
    ax = plots.impute_grid(SEEN, PICTURES, FILLED)
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert names == ["data", "with holes", "filled in"]
    (image,) = ax.images
    array = np.asarray(image.get_array())
    for k in range(3):
        data, holed, filled = (array[y : y + 4, 5 * k : 5 * k + 4] for y in (0, 5, 10))
        np.testing.assert_array_equal(data[..., 0], PICTURES[k, 0])
        np.testing.assert_array_equal(filled[..., 0], FILLED[k, 0])
        np.testing.assert_array_equal(holed[SEEN][:, 0], PICTURES[k, 0][SEEN])
        np.testing.assert_array_equal(holed[~SEEN], np.tile(ORANGE, (8, 1)))


def test_pictures_with_unknown_pixels_have_no_row_of_data() -> None:
    ax = plots.impute_grid(SEEN, np.where(SEEN, PICTURES, np.nan), FILLED, columns=2)
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert names == ["with holes", "filled in"] * 2


def test_filled_parts_of_signals_are_dashed_and_reach_what_was_seen() -> None:
    data = np.stack([np.linspace(0, 1, 9), np.linspace(1, 0, 9)])
    seen = np.ones((2, 9), dtype=bool)
    seen[:, 3:5] = False
    ax = plots.impute_grid(seen, np.where(seen, data, np.nan), data)
    lines = [c for c in ax.collections if isinstance(c, LineCollection)]
    assert [line.get_label() for line in lines] == ["data", "seen", "filled in"]
    assert lines[2].get_linestyle()[0][1] is not None
    assert lines[1].get_linestyle()[0][1] is None
    drawn = [np.ma.filled(line.get_segments()[0], np.nan) for line in lines[1:]]
    assert len(drawn[1]) in (4, 9)
    shown = drawn[1][~np.isnan(drawn[1][:, 1])]
    np.testing.assert_allclose(shown[:, 0], np.linspace(0.1, 0.9, 9)[2:6])
    np.testing.assert_allclose(shown[:, 1], -1 + np.linspace(0.1, 0.9, 9)[2:6])


def test_a_value_seen_alone_between_holes_is_a_dot() -> None:
    data = np.linspace(0, 1, 5)[None]
    ax = plots.impute_grid([[1, 0, 1, 0, 0]], data, data)
    (dots,) = ax.lines
    expected = [[0.1, -0.9], [0.5, -0.5]]
    np.testing.assert_allclose(np.asarray(dots.get_xydata()), expected)


def test_filled_cells_of_a_table_are_framed_and_bold() -> None:
    seen = np.ones((3, 2), dtype=bool)
    seen[1, 1] = False
    table = np.array([[1.0, 1000.0], [2.0, 3000.4], [3.0, 5000.0]])
    ax = plots.impute_grid(seen, np.where(seen, table, np.nan), table, names=["a", "b"])
    (frame,) = ax.patches
    assert (frame.get_x() // 1 + 1, frame.get_y() // 1 + 1) == (1, 1)
    assert frame.get_edgecolor() == to_rgba(style.VALIDATION)
    texts = {text.get_text(): text.get_fontweight() for text in ax.texts}
    assert texts == {k: "bold" if k == "3000" else "normal" for k in texts}
    assert set(texts) == {"1", "2", "3", "1000", "3000", "5000"}
    deviations = np.asarray(ax.images[0].get_array())
    np.testing.assert_allclose(deviations[:, 0], np.array([-1, 0, 1]) * 1.5**0.5)
    np.testing.assert_allclose(deviations[[0, 2], 1], [-1, 1])
    assert [label.get_text() for label in ax.get_xticklabels()] == ["a", "b"]


@pytest.mark.parametrize(
    "draw_bad",
    [
        lambda: plots.impute_grid(SEEN, PICTURES[:2], FILLED),
        lambda: plots.impute_grid(SEEN[:3], PICTURES, FILLED),
        lambda: plots.impute_grid(SEEN, PICTURES * np.nan, FILLED),
        lambda: plots.impute_grid(SEEN, PICTURES, FILLED * np.nan),
        lambda: plots.impute_grid(SEEN, PICTURES, FILLED, columns=0),
        lambda: plots.impute_grid(True, np.zeros(3), np.zeros(3)),
        lambda: plots.impute_grid(ROWS > 0, ROWS, ROWS, names=["a"]),
    ],
)
def test_impute_grid_refuses(draw_bad: Callable[[], Axes]) -> None:
    with pytest.raises(UsageError, match="expected"):
        draw_bad()

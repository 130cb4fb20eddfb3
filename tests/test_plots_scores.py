"""Numbers of a model as pictures: heights, order, names, limits; and figures as SVG."""

import re
from collections.abc import Callable
from itertools import pairwise
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.text import Text
from scipy.stats import norm

from aevb import plots
from aevb.errors import UsageError
from aevb.plots import style

RNG = np.random.default_rng(3)


def texts(ax: Axes) -> list[str]:
    return [text.get_text() for text in ax.texts]


# Divergence by dimension --------------------------------------------------------------------------


def test_dimensions_stand_in_the_order_of_their_divergence() -> None:
    ax = plots.kl_by_dimension([0.001, 3.0, 0.5], threshold=0.01)
    assert [bar.get_height() for bar in ax.patches] == [3.0, 0.5, 0.001]
    names = [label.get_text() for label in ax.get_xticklabels()]
    assert names == ["$z_{2}$", "$z_{3}$", "$z_{1}$"]
    active, idle = to_rgba(style.TRAINING), to_rgba(style.FAINT)
    assert [bar.get_facecolor() for bar in ax.patches] == [active, active, idle]
    assert texts(ax) == ["2 of 3 above 0.01"]
    assert ax.get_title() == "KL(q || p) by dimension, 3.50 nats in all"
    assert ax.get_ylabel() == "nats per datum"


def test_without_a_threshold_nothing_is_called_idle() -> None:
    ax = plots.kl_by_dimension([0.0, 1.0])
    assert {bar.get_facecolor() for bar in ax.patches} == {to_rgba(style.TRAINING)}
    assert (texts(ax), len(ax.lines)) == ([], 0)


def test_many_dimensions_are_ranked_from_one() -> None:
    ax = plots.kl_by_dimension(np.arange(100.0))
    assert ax.patches[0].get_x() + ax.patches[0].get_width() / 2 == 1
    assert ax.patches[0].get_height() == 99
    assert ax.get_xlabel() == "latent dimensions by rank"


# Reconstruction by row ----------------------------------------------------------------------------

TERMS = -80 - RNG.gamma(3, 9, 30)


def test_rows_are_drawn_and_the_worst_named() -> None:
    ax = plots.reconstruction_by_row(TERMS, worst=3)
    drawn = np.asarray(ax.lines[0].get_ydata())
    np.testing.assert_array_equal(drawn, np.sort(TERMS))
    worst = np.argsort(TERMS)[:3]
    assert [int(text.split(":")[0][4:]) - 1 for text in texts(ax)] == worst.tolist()
    assert [note.xy for note in ax.texts] == [(k + 1, TERMS[row]) for k, row in enumerate(worst)]
    assert ax.get_ylabel() == "nats per datum"


def test_names_of_equal_rows_do_not_cover_each_other() -> None:
    ax = plots.reconstruction_by_row(np.r_[np.zeros(5), np.ones(25)])
    ax.figure.canvas.draw()
    boxes = sorted((box.y0, box.y1) for box in map(Text.get_window_extent, ax.texts))
    assert all(above > top for (_, top), (above, _) in pairwise(boxes))


@given(
    arrays.arrays(np.float64, st.integers(1, 8), elements=st.floats(-10, 10)),
    st.floats(0.1, 5),
)
def test_spread_keeps_the_order_and_the_gap(heights: np.ndarray, gap: float) -> None:
    moved = np.array(style.spread(heights, gap))
    order = np.argsort(moved)
    assert (np.diff(moved[order]) > gap * (1 - 1e-9)).all()
    assert (np.diff(heights[order]) >= 0).all()
    assert moved.mean() == pytest.approx(heights.mean(), abs=1e-9)
    apart = np.sort(heights)
    if (np.diff(apart) >= gap).all():
        np.testing.assert_allclose(moved, heights, atol=1e-9)


# Scores -------------------------------------------------------------------------------------------


def shares(ax: Axes) -> list[float]:
    """The sum of the filled bars of each group."""
    bars = [bar for bar in ax.patches if hasattr(bar, "get_height")]
    colors = dict.fromkeys(bar.get_facecolor() for bar in bars)
    return [sum(b.get_height() for b in bars if b.get_facecolor() == color) for color in colors]


NORMAL = norm.ppf((np.arange(500) + 0.5) / 500)
"""None of it is an outlier."""


def test_groups_of_different_size_share_bins_and_are_shares() -> None:
    ax = plots.score_histogram({"train": NORMAL, "test": NORMAL[::25]})
    np.testing.assert_allclose(shares(ax), [1, 1])
    bars = [bar for bar in ax.patches if hasattr(bar, "get_height")]
    half = len(bars) // 2
    assert [bar.get_x() for bar in bars[:half]] == [bar.get_x() for bar in bars[half:]]
    legend = ax.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["train (500)", "test (20)"]


def test_a_few_extreme_scores_are_counted_and_not_shown() -> None:
    scores = np.r_[5 * NORMAL[::5] - 90, -1e6, -np.inf, 1e4]
    ax = plots.score_histogram({"test": scores}, threshold=-100.0)
    low, high = ax.get_xlim()
    assert -150 < low < scores[:100].min()
    assert scores[:100].max() < high < -50
    assert texts(ax)[0].startswith("not shown: 2 values below \u2212")
    assert ", 1 value above \u2212" in texts(ax)[0]
    assert shares(ax)[0] == pytest.approx(100 / 103)
    legend = ax.get_legend()
    assert legend is not None
    below = 100 * (scores < -100).mean()
    assert legend.get_texts()[0].get_text() == f"test (103), {below:.3g}% below"


def test_a_whole_group_of_outliers_stays_in_the_picture() -> None:
    groups = {"train": NORMAL - 90, "outliers": 20 * NORMAL[5::20] - 500}
    ax = plots.score_histogram(groups, threshold=-1000.0)
    assert ax.get_xlim()[0] < -1000
    assert texts(ax) == []
    np.testing.assert_allclose(shares(ax), [1, 1])


def test_groups_whose_names_begin_alike_are_groups_of_their_own() -> None:
    names = ("validation rows of site A", "validation rows of site B")
    ax = plots.score_histogram({name: [float(k)] for k, name in enumerate(names)})
    assert len(ax.get_legend().get_texts()) == 2


@given(
    arrays.arrays(
        np.float64,
        st.integers(1, 20),
        elements=st.one_of(st.just(-np.inf), st.floats(-1e9, 1e9)),
    )
)
def test_score_histogram_draws_or_counts_every_score(scores: np.ndarray) -> None:
    ax = plots.score_histogram({"a": scores})
    outside = sum(int(count) for text in texts(ax) for count in re.findall(r"(\d+) value", text))
    drawn = shares(ax)[0] * len(scores)
    assert drawn + outside == pytest.approx(len(scores))


@pytest.mark.parametrize(
    "draw_bad",
    [
        lambda: plots.kl_by_dimension([]),
        lambda: plots.kl_by_dimension([[1.0]]),
        lambda: plots.kl_by_dimension([np.nan]),
        lambda: plots.reconstruction_by_row([np.inf]),
        lambda: plots.reconstruction_by_row([1.0], worst=-1),
        lambda: plots.score_histogram({}),
        lambda: plots.score_histogram({"a": []}),
        lambda: plots.score_histogram({"a": [np.nan]}),
        lambda: plots.score_histogram({"a": [np.inf]}),
        lambda: plots.score_histogram({"a": [[1.0]]}),
    ],
)
def test_scores_refuse(draw_bad: Callable[[], Axes]) -> None:
    with pytest.raises(UsageError, match="expected"):
        draw_bad()


# SVG ----------------------------------------------------------------------------------------------

FIGURES: dict[str, Callable[[], Axes]] = {
    "kl": lambda: plots.kl_by_dimension([1.0, 2.0], threshold=0.1),
    "scatter": lambda: plots.pair_plot(
        RNG_ROWS, RNG_ROWS + 1, names=["<script>", "a&b", "-->"], labels=("x", "</svg>")
    ),
    "pictures": lambda: plots.samples(np.linspace(0, 1, 36).reshape(4, 3, 3)),
}
RNG_ROWS = RNG.standard_normal((20, 3))


@pytest.mark.parametrize("kind", FIGURES)
def test_svg_is_static_and_its_own(kind: str) -> None:
    before = dict(matplotlib.rcParams)
    text = plots.svg(FIGURES[kind](), "one")
    assert dict(matplotlib.rcParams) == before
    assert text == plots.svg(FIGURES[kind](), "one")
    for foreign in ("<?xml", "<!", "<script", "<style", "metadata", "foreignObject", " on"):
        assert foreign not in text, foreign
    assert re.findall(r"https?://[^\"' ]*", text) == ["http://www.w3.org/2000/svg"]
    root = ElementTree.fromstring(text)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    ids = [node.get("id") for node in root.iter() if node.get("id")]
    assert len(ids) == len(set(ids))
    assert all(name.startswith("one-") for name in ids)
    for reference in re.findall(r"(?:href=\"|url\()#([^\")]*)", text):
        assert reference in ids
    for node in root.iter():
        for name, value in node.attrib.items():
            if "href" in name:
                assert value.startswith(("#one-", "data:image/png;base64,"))


def test_svg_of_two_figures_have_no_id_in_common() -> None:
    one, two = (
        set(re.findall(r' id="([^"]*)"', plots.svg(FIGURES["kl"](), p))) for p in ("a", "b")
    )
    assert one
    assert not one & two


@pytest.mark.parametrize("prefix", ["", "1", 'a"', "a b", "é"])
def test_svg_refuses_a_prefix_that_is_no_name(prefix: str) -> None:
    with pytest.raises(UsageError, match="expected a prefix"):
        plots.svg(FIGURES["kl"](), prefix)

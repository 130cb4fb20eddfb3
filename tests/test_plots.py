"""Pictures: what is where in them, what is refused, and that nothing global is touched."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from scipy.stats import norm

from aevb import plots
from aevb.errors import UsageError
from aevb.plots import style

RNG = np.random.default_rng(0)
GREY = RNG.random((7, 1, 5, 4))
COLOR = RNG.random((7, 3, 5, 4))
ROWS = RNG.standard_normal((7, 6))
HISTORY = [
    {"epoch": e, "train": {"elbo": -90.0 - 900.0 / e}, "validation": {"elbo": -95 - abs(e - 8)}}
    for e in range(1, 13)
]


def flat(z: np.ndarray) -> np.ndarray:
    """A decoder of pictures (5, 4) that are all the same."""
    return np.zeros((len(z), 20))


PICTURES: dict[str, Callable[[Axes | None], Axes]] = {
    "learning_curve": lambda ax: plots.learning_curve(HISTORY, ax),
    "image_grid grey": lambda ax: plots.image_grid(GREY, ax),
    "image_grid color": lambda ax: plots.image_grid(COLOR, ax),
    "image_grid five channels": lambda ax: plots.image_grid(RNG.random((2, 5, 3, 3)), ax),
    "image_grid no channel": lambda ax: plots.image_grid(GREY[:, 0], ax),
    "reconstructions": lambda ax: plots.reconstructions(GREY, GREY, ax),
    "reconstructions color": lambda ax: plots.reconstructions(COLOR, COLOR, ax, columns=3),
    "reconstructions of rows": lambda ax: plots.reconstructions(ROWS, ROWS, ax),
    "reconstructions of numbers": lambda ax: plots.reconstructions(ROWS[:, :1], ROWS[:, :1], ax),
    "samples": lambda ax: plots.samples(GREY, ax),
    "samples of rows": lambda ax: plots.samples(ROWS, ax),
    "samples of numbers": lambda ax: plots.samples(ROWS[:, :1], ax),
    "profiles": lambda ax: plots.profiles(ROWS, ax),
    "manifold": lambda ax: plots.manifold(flat, (5, 4), ax, side=3),
    "manifold color": lambda ax: plots.manifold(lambda z: np.ones((9, 12)), (3, 2, 2), ax, side=3),
    "manifold of rows": lambda ax: plots.manifold(flat, (20,), ax, side=3),
    "manifold of a table": lambda ax: plots.manifold(flat, (20,), ax, side=3, names=[""] * 20),
    "prior_predictive": lambda ax: plots.prior_predictive(flat, (5, 4), ax, side=3),
    "prior_predictive of rows": lambda ax: plots.prior_predictive(flat, (20,), ax, side=1),
    "pair_plot 1": lambda ax: plots.pair_plot(ROWS[:, :1], ROWS[:, :1], ax),
    "pair_plot 2": lambda ax: plots.pair_plot(ROWS[:, :2], ROWS[:, :2], ax),
    "pair_plot 6": lambda ax: plots.pair_plot(ROWS, None, ax),
    "interpolation": lambda ax: plots.interpolation(GREY[None], (1, 5, 4), ax),
    "interpolation of rows": lambda ax: plots.interpolation(ROWS[None], (6,), ax),
    "traversals": lambda ax: plots.traversals(COLOR[None], [2], range(7), (3, 5, 4), ax),
    "traversals of a table": lambda ax: plots.traversals(
        ROWS[None], [2], range(7), (6,), ax, names=list("abcdef")
    ),
    "samples_along_training": lambda ax: plots.samples_along_training(
        GREY[None], [3], (1, 5, 4), ax
    ),
    "kl_by_dimension": lambda ax: plots.kl_by_dimension(ROWS[0] ** 2, ax, threshold=0.1),
    "reconstruction_by_row": lambda ax: plots.reconstruction_by_row(ROWS[0], ax),
    "score_histogram": lambda ax: plots.score_histogram({"a": ROWS[0], "b": ROWS[1]}, ax),
    "impute_grid": lambda ax: plots.impute_grid(GREY > 0.5, GREY, GREY, ax),
    "impute_grid color": lambda ax: plots.impute_grid(COLOR > 0.5, COLOR, COLOR, ax),
    "impute_grid of rows": lambda ax: plots.impute_grid(ROWS > 0, ROWS, ROWS, ax),
    "impute_grid of a table": lambda ax: plots.impute_grid(
        ROWS > 0, ROWS, ROWS, ax, names=list("abcdef")
    ),
    "latent_scatter": lambda ax: plots.latent_scatter(ROWS[:, :2], list("abcabca"), ax),
    "latent_scatter 1": lambda ax: plots.latent_scatter(ROWS[:, :1], [0, 1, 0, 1, 0, 1, 1], ax),
    "latent_scatter 6": lambda ax: plots.latent_scatter(ROWS, None, ax),
}


@pytest.fixture(params=PICTURES, name="draw")
def _draw(request: pytest.FixtureRequest) -> Callable[[Axes | None], Axes]:
    return PICTURES[request.param]


def pixels(ax: Axes) -> Any:
    """The array of the only picture of the axes."""
    (image,) = ax.images
    return np.asarray(image.get_array())


# Laws of every picture ----------------------------------------------------------------------------


def test_given_axes_come_back(draw: Callable[[Axes | None], Axes]) -> None:
    ax = Figure().add_subplot()
    assert draw(ax) is ax
    assert ax.has_data() or any(panel.has_data() for panel in ax.child_axes)


def test_nothing_global_is_touched(draw: Callable[[Axes | None], Axes]) -> None:
    before = dict(matplotlib.rcParams)
    draw(None).figure.canvas.draw()
    from matplotlib import pyplot

    assert pyplot.get_fignums() == []
    assert dict(matplotlib.rcParams) == before


def test_the_same_bytes_when_saved_twice(
    draw: Callable[[Axes | None], Axes], tmp_path: Path
) -> None:
    ax = draw(None)
    paths = [plots.save(ax, tmp_path / "new" / name) for name in ("a.png", "b.png")]
    first, second = (path.read_bytes() for path in paths)
    assert first == second
    assert first.startswith(b"\x89PNG")
    assert b"tEXt" not in first
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["a.png", "b.png"]


# Learning curves ----------------------------------------------------------------------------------


def test_learning_curve_shows_both_bounds_and_the_best_epoch() -> None:
    ax = plots.learning_curve(HISTORY)
    train, validation, best = ax.lines
    np.testing.assert_array_equal(train.get_ydata(), [r["train"]["elbo"] for r in HISTORY])
    np.testing.assert_array_equal(validation.get_xdata(), range(1, 13))
    assert best.get_xydata().tolist() == [[8, -95]]
    assert (ax.get_title(), ax.get_ylabel()) == ("Evidence lower bound", "nats per datum")
    texts = [text.get_text() for text in ax.texts]
    assert texts == ["training \u2212165.00", "validation \u221299.00\nbest \u221295.00 at epoch 8"]


def test_learning_curve_is_not_flattened_by_the_first_epochs() -> None:
    bounds = [-1e6, -1e4] + [-100.0 + k / 50 for k in range(50)]
    history = [{"epoch": k, "train": {"elbo": b}} for k, b in enumerate(bounds)]
    low, high = plots.learning_curve(history).get_ylim()
    assert -103 < low < -100
    assert -99.03 < high < -98


def test_learning_curve_always_shows_the_end() -> None:
    bounds = [-100.0] * 30 + [-500.0]
    history = [{"epoch": k, "train": {"elbo": b}} for k, b in enumerate(bounds)]
    assert plots.learning_curve(history).get_ylim()[0] < -500


def test_learning_curve_bridges_epochs_without_validation() -> None:
    history = [
        dict(row, validation=row["validation"] if row["epoch"] % 4 == 0 else None)
        for row in HISTORY
    ]
    history[0]["train"] = {"elbo": float("nan")}
    train, validation, _ = plots.learning_curve(history).lines
    assert list(validation.get_xdata()) == [4, 8, 12]
    assert np.isnan(np.asarray(train.get_ydata())).tolist() == [True] + [False] * 11


def test_learning_curve_keeps_its_two_names_apart() -> None:
    history = [{"epoch": e, "train": {"elbo": -e}, "validation": {"elbo": -e}} for e in (2, 1)]
    ax = plots.learning_curve(history)
    ax.figure.canvas.draw()
    above, below = (text.get_window_extent() for text in ax.texts)
    assert above.y0 > below.y1


@pytest.mark.parametrize(
    "history",
    [
        [],
        [{"epoch": 1, "train": None, "validation": None}],
        [{"epoch": 1, "train": {"elbo": float("nan")}}],
        [{"train": {"elbo": -1.0}}],
        [{"epoch": 1, "train": {"loss": 1.0}}],
        [{"epoch": 1, "train": {"elbo": "low"}}],
        [{"epoch": 1, "train": -1.0}],
    ],
)
def test_learning_curve_refuses(history: list[dict[str, Any]]) -> None:
    with pytest.raises(UsageError, match="expected"):
        plots.learning_curve(history)


# Picture grids ------------------------------------------------------------------------------------


def test_image_grid_puts_picture_k_at_its_row_and_column() -> None:
    array = pixels(plots.image_grid(GREY, columns=3))
    assert array.shape == (3 * 5 + 2, 3 * 4 + 2)
    for k, picture in enumerate(GREY[:, 0]):
        top, left = k // 3 * 6, k % 3 * 5
        np.testing.assert_array_equal(array[top : top + 5, left : left + 4], picture)
    assert (array[5] == 1).all()
    assert (array[:, 4] == 1).all()
    assert (array[12:, 5:] == 1).all()


def test_image_grid_shows_three_channels_in_color_and_others_by_their_mean() -> None:
    array = pixels(plots.image_grid(COLOR, columns=7))
    np.testing.assert_array_equal(array[:, 5:9], np.moveaxis(COLOR[1], 0, -1))
    five = RNG.random((2, 5, 4, 4))
    np.testing.assert_array_equal(pixels(plots.image_grid(five))[:, :4], five[0].mean(axis=0))


def test_image_grid_clips_and_keeps_the_scale() -> None:
    ax = plots.image_grid(np.array([[[-0.5, 0.25], [0.5, 1.5]]]))
    np.testing.assert_array_equal(pixels(ax), [[0, 0.25], [0.5, 1]])
    assert ax.images[0].get_clim() == (0.0, 1.0)
    assert not any(spine.get_visible() for spine in ax.spines.values())


@pytest.mark.parametrize(("count", "columns"), [(1, 1), (2, 2), (4, 2), (5, 3), (9, 3), (10, 4)])
def test_image_grid_is_about_square(count: int, columns: int) -> None:
    array = pixels(plots.image_grid(np.zeros((count, 1, 1))))
    assert array.shape == (2 * -(-count // columns) - 1, 2 * columns - 1)


def test_image_grid_takes_whole_zeros_and_ones() -> None:
    assert pixels(plots.image_grid(np.ones((1, 2, 2), dtype=np.uint8))).max() == 1
    assert pixels(plots.image_grid(np.ones((1, 2, 2), dtype=bool))).max() == 1


def test_reconstructions_stand_below_their_data() -> None:
    again = 1 - GREY
    ax = plots.reconstructions(GREY, again, columns=3)
    array = pixels(ax)
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert names == ["data", "reconstruction"] * 3
    for k in range(7):
        above, below = np.round(ax.get_yticks()[2 * (k // 3) : 2 * (k // 3) + 2] - 2).astype(int)
        left = k % 3 * 5
        np.testing.assert_array_equal(array[above : above + 5, left : left + 4], GREY[k, 0])
        np.testing.assert_array_equal(array[below : below + 5, left : left + 4], again[k, 0])
    assert np.diff(ax.get_yticks()).tolist() == [6, 7, 6, 7, 6]


def test_reconstructions_of_rows_share_a_cell_with_their_data() -> None:
    ax = plots.reconstructions(ROWS, ROWS + 0.1, columns=4)
    data, again = (c for c in ax.collections if isinstance(c, LineCollection))
    for k, (one, other) in enumerate(zip(data.get_segments(), again.get_segments(), strict=True)):
        np.testing.assert_array_equal(one[:, 0], other[:, 0])
        assert (one[:, 1] < other[:, 1]).all()
        corner = np.array([k % 4, -(k // 4) - 1])
        assert ((one > corner) & (other < corner + 1)).all()
        assert np.argmax(one[:, 1]) == np.argmax(ROWS[k])


def test_samples_are_titled_for_pictures_and_rows() -> None:
    assert plots.samples(GREY).get_title() == "Samples from the prior"
    ax = plots.samples(ROWS)
    assert ax.get_title() == "Samples from the prior"
    np.testing.assert_array_equal([line.get_ydata() for line in ax.lines], ROWS)


@pytest.mark.parametrize(
    "draw_bad",
    [
        lambda: plots.image_grid(np.zeros((0, 1, 4, 4))),
        lambda: plots.image_grid(np.zeros((2, 0, 4))),
        lambda: plots.image_grid(np.zeros((3, 4))),
        lambda: plots.image_grid(0.5),
        lambda: plots.image_grid("picture"),
        lambda: plots.image_grid([[1.0], [1.0, 2.0]]),
        lambda: plots.image_grid(np.full((1, 2, 2), np.nan)),
        lambda: plots.image_grid(np.full((1, 2, 2), 255, dtype=np.uint8)),
        lambda: plots.image_grid(GREY, columns=0),
        lambda: plots.samples(np.zeros(3)),
        lambda: plots.samples([[1.0], [1.0, 2.0]]),
        lambda: plots.reconstructions(GREY, GREY[:3]),
        lambda: plots.reconstructions(GREY, GREY, columns=0),
        lambda: plots.reconstructions(np.zeros(3), np.zeros(3)),
        lambda: plots.reconstructions(ROWS, ROWS * np.nan),
        lambda: plots.profiles(GREY),
        lambda: plots.profiles(np.zeros((0, 3))),
        lambda: plots.profiles([[np.inf]]),
    ],
)
def test_grids_and_profiles_refuse(draw_bad: Callable[[], Axes]) -> None:
    with pytest.raises(UsageError, match="expected"):
        draw_bad()


def test_a_refusal_says_what_and_where() -> None:
    bad = GREY.copy()
    bad[2, 0, 1, 1] = np.nan
    with pytest.raises(UsageError, match="expected finite pictures, found nan in row 3"):
        plots.image_grid(bad)


# The latent space ---------------------------------------------------------------------------------


def test_manifold_grid_has_gaussian_quantiles() -> None:
    grid = plots.manifold_grid(4).reshape(4, 4, 2)
    line = norm.ppf([0.125, 0.375, 0.625, 0.875])
    np.testing.assert_allclose(grid[..., 0], np.tile(line, (4, 1)), rtol=1e-12)
    np.testing.assert_allclose(grid[..., 1], np.tile(line[::-1, None], (1, 4)), rtol=1e-12)


@pytest.mark.parametrize("dimension", [0, 1])
def test_manifold_grows_to_the_right_and_upward(dimension: int) -> None:
    def bright(z: np.ndarray) -> np.ndarray:
        return np.repeat(norm.cdf(z[:, dimension])[:, None], 6, axis=1)

    ax = plots.manifold(bright, (2, 3), side=5)
    array = pixels(ax)
    across = np.round(np.linspace(1, array.shape[1] - 2, 5)).astype(int)
    down = np.round(np.linspace(0, array.shape[0] - 2, 5)).astype(int)
    tiles = array[np.ix_(down, across)]
    expected = np.tile((np.arange(5) + 0.5) / 5, (5, 1))
    np.testing.assert_allclose(tiles, expected if dimension == 0 else expected.T[::-1], rtol=1e-12)


def test_manifold_names_the_latent_values_at_their_tiles() -> None:
    ax = plots.manifold(flat, (5, 4), side=3)
    names = ["\u22120.97", "0.00", "0.97"]
    assert [label.get_text() for label in ax.get_xticklabels()] == names
    assert [label.get_text() for label in ax.get_yticklabels()] == names
    assert list(ax.get_xticks()) == [1.5, 6.5, 11.5]
    assert list(ax.get_yticks()) == [14, 8, 2]


@pytest.mark.parametrize("draw_plane", [plots.manifold, plots.prior_predictive])
def test_maps_of_columns_have_the_same_orientation(draw_plane: Callable[..., Axes]) -> None:
    ax = draw_plane(lambda z: np.c_[z, z[:, 0] + 10], (3,), side=5, names=["one", "$a$", ""])
    assert [panel.get_title() for panel in ax.child_axes] == ["one", r"\$a\$", "column 3"]
    across, up, third = (pixels(panel) for panel in ax.child_axes)
    assert (np.diff(across, axis=1) > 0).all()
    assert (np.diff(across, axis=0) == 0).all()
    assert (np.diff(up, axis=0) < 0).all()
    np.testing.assert_allclose(third, across + 10)
    names = [label.get_text() for label in ax.child_axes[0].get_yticklabels()]
    assert list(ax.child_axes[0].get_yticks()) == [4, 2, 0]
    assert [float(name.replace("\u2212", "-")) for name in names] == [
        pytest.approx(value, abs=0.005) for value in up[[4, 2, 0], 0]
    ]


def test_maps_are_drawn_of_the_first_nine_columns() -> None:
    ax = plots.manifold(flat, (20,), side=2, names=[f"c{k}" for k in range(20)])
    assert [panel.get_title() for panel in ax.child_axes] == [f"c{k}" for k in range(9)]
    assert ax.get_title() == "Learned manifold, the first 9 of 20 columns"


def test_prior_predictive_steps_equally_through_a_plane() -> None:
    seen = []

    def decode(z: np.ndarray) -> np.ndarray:
        seen.append(z)
        return np.zeros((len(z), 6))

    ax = plots.prior_predictive(decode, (2, 3), side=3, limit=2.0, latent_dim=4, dims=(3, 1))
    line = [-2.0, 0.0, 2.0]
    np.testing.assert_array_equal(seen[0], [[0, up, 0, a] for up in line[::-1] for a in line])
    assert ax.get_title() == "Prior predictive, the other 2 dimensions at 0"
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("$z_{4}$", "$z_{2}$")
    names = ["\u22122.00", "0.00", "2.00"]
    assert [label.get_text() for label in ax.get_xticklabels()] == names
    plots.prior_predictive(decode, (2, 3), side=1)
    np.testing.assert_array_equal(seen[1], [[0.0, 0.0]])


def test_manifold_of_rows_has_the_same_orientation() -> None:
    ax = plots.manifold(lambda z: z, (2,), side=3)
    (lines,) = ax.collections
    assert isinstance(lines, LineCollection)
    top_left, bottom_right = (np.asarray(lines.get_segments()[k]) for k in (0, 8))
    assert top_left[0, 0] < 1 < 2 < bottom_right[0, 0]
    assert top_left[0, 1] > -1 > -2 > bottom_right[0, 1]
    assert top_left[0, 1] < top_left[1, 1]
    assert bottom_right[0, 1] > bottom_right[1, 1]


@pytest.mark.parametrize(
    "draw_bad",
    [
        lambda: plots.manifold(lambda z: np.zeros((len(z), 5)), (2, 3), side=2),
        lambda: plots.manifold(lambda z: np.zeros((len(z), 2, 3)), (2, 3), side=2),
        lambda: plots.manifold(lambda z: np.full((len(z), 6), np.nan), (2, 3), side=2),
        lambda: plots.manifold(flat, (5, 4), side=0),
        lambda: plots.manifold(flat, (), side=2),
        lambda: plots.manifold(flat, (0, 4), side=2),
        lambda: plots.manifold_grid(0),
        lambda: plots.manifold(flat, (20,), side=2, names=["one"]),
        lambda: plots.prior_predictive(flat, (5, 4), latent_dim=1),
        lambda: plots.prior_predictive(flat, (5, 4), dims=(0, 0)),
        lambda: plots.prior_predictive(flat, (5, 4), dims=(0, 2)),
        lambda: plots.prior_predictive(flat, (5, 4), limit=0),
        lambda: plots.prior_predictive(flat, (5, 4), limit=np.inf),
        lambda: plots.prior_predictive(flat, (5, 4), side=0),
        lambda: plots.latent_scatter(np.zeros((0, 2))),
        lambda: plots.latent_scatter(np.zeros(4)),
        lambda: plots.latent_scatter([[np.nan, 0.0]]),
        lambda: plots.latent_scatter(ROWS, [0, 1]),
        lambda: plots.latent_scatter(ROWS[:2], np.array([None, "a"], dtype=object)),
    ],
)
def test_latent_pictures_refuse(draw_bad: Callable[[], Axes]) -> None:
    with pytest.raises(UsageError, match="expected"):
        draw_bad()


def test_latent_scatter_colors_the_classes() -> None:
    labels = np.array([3, 1, 3, 1, 2, 2, 2])
    ax = plots.latent_scatter(ROWS[:, :2], labels)
    (points,) = ax.collections
    np.testing.assert_array_equal(np.asarray(points.get_offsets()), ROWS[:, :2])
    colors = np.asarray(points.get_facecolor())
    same = (colors[:, None] == colors[None]).all(axis=-1)
    np.testing.assert_array_equal(same, labels[:, None] == labels)
    legend = ax.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["1", "2", "3"]
    assert ax.get_aspect() == 1
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("$z_{1}$", "$z_{2}$")


def test_latent_scatter_takes_the_two_dimensions_with_the_largest_variance() -> None:
    codes = RNG.standard_normal((50, 4)) * [0.1, 5.0, 1.0, 9.0]
    ax = plots.latent_scatter(codes)
    np.testing.assert_array_equal(np.asarray(ax.collections[0].get_offsets()), codes[:, [3, 1]])
    assert ax.get_xlabel() == "$z_{4}$ (largest variance of 4)"
    assert ax.get_ylabel() == "$z_{2}$ (second largest variance of 4)"


@pytest.mark.parametrize(("classes", "colors"), [(10, 10), (20, 20), (21, 1)])
def test_latent_scatter_has_a_palette_for_twenty_classes(classes: int, colors: int) -> None:
    ax = plots.latent_scatter(RNG.standard_normal((42, 2)), np.arange(42) % classes)
    assert len(np.unique(np.asarray(ax.collections[0].get_facecolor()), axis=0)) == colors
    assert (ax.get_legend() is None) == (colors == 1)


def test_latent_scatter_of_one_dimension_is_a_histogram() -> None:
    ax = plots.latent_scatter(ROWS[:, :1])
    bars = [bar for bar in ax.patches if hasattr(bar, "get_height")]
    assert sum(bar.get_height() for bar in bars) == len(ROWS)
    assert bars[0].get_facecolor() == to_rgba(style.TRAINING)


# Files --------------------------------------------------------------------------------------------


def test_save_replaces_and_leaves_nothing_beside(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(b"old")
    assert plots.save(plots.samples(GREY), str(path)) == path
    assert path.read_bytes().startswith(b"\x89PNG")
    assert list(tmp_path.iterdir()) == [path]


def test_save_keeps_the_old_picture_when_writing_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(b"old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(UsageError, match="No space left"):
        plots.save(plots.samples(GREY), path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_save_refuses_other_formats_and_places_that_are_no_folders(tmp_path: Path) -> None:
    ax = plots.samples(GREY)
    with pytest.raises(UsageError, match=r"ends in \.png"):
        plots.save(ax, tmp_path / "picture.pdf")
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        plots.save(ax, tmp_path / "file" / "picture.png")


def test_analogies_have_the_datum_first_and_a_column_for_each_class():
    data = np.arange(2)[:, None, None] * np.ones((2, 4, 4)) / 2
    each = np.full((2, 3, 4, 4), 0.25) * np.arange(1, 4)[:, None, None]
    ax = plots.analogies(data, each, ["a", "b", "c"])
    shown = ax.images[0].get_array()
    assert [label.get_text() for label in ax.get_xticklabels()] == ["data", "a", "b", "c"]
    places = [round(x) for x in ax.get_xticks()]
    assert [float(shown[1, x]) for x in places] == [0.0, 0.25, 0.5, 0.75]
    assert [float(shown[-1, x]) for x in places] == [0.5, 0.25, 0.5, 0.75]
    with pytest.raises(UsageError, match="expected pictures of each class for data of shape"):
        plots.analogies(data, each[:1])
    with pytest.raises(UsageError, match="expected 3 names of classes, found 2"):
        plots.analogies(data, each, ["a", "b"])

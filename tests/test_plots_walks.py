"""Walks through the latent space and through training: what stands in which row and column."""

from collections.abc import Callable
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgba
from PIL import Image

from aevb import plots
from aevb.errors import UsageError
from aevb.plots import style

RNG = np.random.default_rng(2)
STRIPS = RNG.random((2, 3, 1, 4, 5))
LINES = RNG.standard_normal((2, 3, 6))


def tile(ax: Axes, row: int, column: int, gap: int = 1) -> np.ndarray:
    (image,) = ax.images
    top, left = row * (4 + gap), column * (5 + gap)
    return np.asarray(image.get_array())[top : top + 4, left : left + 5]


DRAWN: dict[str, Callable[..., Axes]] = {
    "interpolation": lambda rows, shape, **more: plots.interpolation(rows, shape, **more),
    "traversals": lambda rows, shape, **more: plots.traversals(
        rows, [4, 0], [-1.5, 0, 2.25], shape, **more
    ),
    "samples_along_training": lambda rows, shape, **more: plots.samples_along_training(
        rows, [1, 20], shape, **more
    ),
}


@pytest.mark.parametrize("kind", DRAWN)
def test_row_and_column_of_images(kind: str) -> None:
    for given_as in (STRIPS, STRIPS.reshape(2, 3, 20)):
        ax = DRAWN[kind](given_as, (1, 4, 5))
        for row, column in np.ndindex(2, 3):
            np.testing.assert_array_equal(tile(ax, row, column), STRIPS[row, column, 0])


def test_images_are_named_where_they_stand() -> None:
    ax = DRAWN["interpolation"](STRIPS, (1, 4, 5))
    assert [label.get_text() for label in ax.get_xticklabels()] == ["from", "to"]
    assert list(ax.get_xticks()) == [2, 14]
    ax = DRAWN["traversals"](STRIPS, (1, 4, 5))
    assert [label.get_text() for label in ax.get_xticklabels()] == ["\u22121.5", "0", "2.25"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["$z_{5}$", "$z_{1}$"]
    assert list(ax.get_yticks()) == [1.5, 6.5]
    ax = DRAWN["samples_along_training"](STRIPS, (1, 4, 5))
    assert [label.get_text() for label in ax.get_yticklabels()] == ["1", "20"]
    assert (list(ax.get_yticks()), ax.get_ylabel()) == ([1.5, 6.5], "epoch")


@pytest.mark.parametrize("names", [None, list("abcdef")])
@pytest.mark.parametrize("kind", ["interpolation", "traversals"])
def test_signals_and_tables_are_lines_from_one_color_to_another(
    kind: str, names: list[str] | None
) -> None:
    ax = DRAWN[kind](LINES, (6,), names=names)
    panels = ax.child_axes[:2]
    places = [0.0, 0.5, 1.0] if kind == "interpolation" else [0.0, 0.4, 1.0]
    for panel, block in zip(panels, LINES, strict=True):
        np.testing.assert_array_equal([line.get_ydata() for line in panel.lines], block)
        assert [line.get_color() for line in panel.lines] == [style.RAMP(p) for p in places]
    assert panels[0].get_ylim() == panels[1].get_ylim()
    low, high = panels[0].get_ylim()
    assert low < LINES.min() < LINES.max() < high
    if names is not None:
        assert [label.get_text() for label in panels[1].get_xticklabels()] == names


def test_the_ends_of_the_ramp_are_the_colors_of_the_key() -> None:
    assert style.RAMP(0.0) == to_rgba(style.TRAINING)
    assert style.RAMP(1.0) == to_rgba(style.VALIDATION)
    legend = plots.interpolation(LINES, (6,)).get_legend()
    assert legend is not None
    assert [line.get_color() for line in legend.get_lines()] == [style.RAMP(0.0), style.RAMP(1.0)]


def test_traversals_of_lines_have_a_scale_of_their_values() -> None:
    ax = plots.traversals(LINES, [4, 0], [-1.5, 0, 2.25], (6,))
    assert [panel.get_ylabel() for panel in ax.child_axes[:2]] == ["$z_{5}$", "$z_{1}$"]
    assert ax.child_axes[2].get_ylim() == (-1.5, 2.25)


def test_samples_of_signals_along_training_share_a_scale() -> None:
    ax = plots.samples_along_training(LINES, [1, 2], (6,))
    (drawn,) = (c for c in ax.collections if isinstance(c, LineCollection))
    segments = np.asarray(drawn.get_segments())
    up = segments[:, :, 1].reshape(2, 3, 6) + np.array([1, 2])[:, None, None]
    expected = 0.1 + 0.8 * (LINES - LINES.min()) / np.ptp(LINES)
    np.testing.assert_allclose(up, expected)
    assert list(ax.get_yticks()) == [-0.5, -1.5]


@given(
    st.tuples(st.integers(1, 3), st.integers(1, 4)),
    st.lists(st.integers(1, 5), min_size=1, max_size=3),
    st.data(),
)
@settings(max_examples=15)
def test_walks_draw_every_shape(
    grid: tuple[int, int], shape: list[int], data: st.DataObject
) -> None:
    value = data.draw(st.sampled_from([0.0, 0.5, 1.0]))
    rows = np.full((*grid, *shape), value)
    axes = [
        plots.interpolation(rows, shape),
        plots.traversals(rows, range(grid[0]), np.arange(grid[1]), shape),
        plots.samples_along_training(rows, range(grid[0]), shape),
    ]
    for ax in axes:
        ax.figure.canvas.draw()
        assert ax.has_data() or all(panel.has_data() for panel in ax.child_axes)


@pytest.mark.parametrize(
    "draw_bad",
    [
        lambda: plots.interpolation(STRIPS, (4, 4)),
        lambda: plots.interpolation(STRIPS[0, 0, 0, 0], (5,)),
        lambda: plots.interpolation(STRIPS * np.nan, (1, 4, 5)),
        lambda: plots.interpolation(np.zeros((0, 3, 4)), (4,)),
        lambda: plots.interpolation(LINES, (0,)),
        lambda: plots.interpolation(LINES, (6,), names=["a"]),
        lambda: plots.traversals(STRIPS, [0], [0, 1, 2], (1, 4, 5)),
        lambda: plots.traversals(STRIPS, [0, 1], [0, 1], (1, 4, 5)),
        lambda: plots.traversals(STRIPS, [0, 1], [0, 1, np.nan], (1, 4, 5)),
        lambda: plots.samples_along_training(STRIPS, [1], (1, 4, 5)),
        lambda: plots.samples_animation(STRIPS, [1], (1, 4, 5)),
        lambda: plots.samples_animation(STRIPS, [1, 2], (5, 5)),
        lambda: plots.posterior_cloud(LINES, [1]),
        lambda: plots.posterior_cloud(LINES[0], [1, 2, 3]),
        lambda: plots.posterior_cloud(LINES * np.inf, [1, 2]),
        lambda: plots.posterior_cloud(LINES, [1, 2], ["a"]),
    ],
)
def test_walks_and_animations_refuse(draw_bad: Callable[[], object]) -> None:
    with pytest.raises(UsageError, match="expected"):
        draw_bad()


# Animations ---------------------------------------------------------------------------------------

CLOUD = np.linspace(0.1, 1, 4)[:, None, None] * RNG.standard_normal((1, 60, 3)) * [0.1, 2, 1]


def opened(data: bytes) -> list[np.ndarray]:
    """The frames of a GIF as arrays (height, width, 3)."""
    with Image.open(BytesIO(data)) as gif:
        frames = []
        for frame in range(gif.n_frames):
            gif.seek(frame)
            frames.append(np.asarray(gif.convert("RGB")))
        return frames


ANIMATIONS: dict[str, Callable[[], bytes]] = {
    "cloud": lambda: plots.posterior_cloud(CLOUD, [1, 5, 10, 100], np.arange(60) % 3),
    "cloud 1": lambda: plots.posterior_cloud(CLOUD[..., :1], [1, 5, 10, 100]),
    "samples": lambda: plots.samples_animation(RNG_FRAMES, [1, 5, 10, 100], (3, 4, 5)),
    "samples of rows": lambda: plots.samples_animation(CLOUD, [1, 5, 10, 100], (3,)),
}
RNG_FRAMES = RNG.random((4, 6, 60))


@pytest.mark.parametrize("kind", ANIMATIONS)
def test_an_animation_has_a_frame_for_each_epoch_and_the_same_bytes_again(kind: str) -> None:
    data = ANIMATIONS[kind]()
    assert data == ANIMATIONS[kind]()
    frames = opened(data)
    assert len(frames) == 4
    assert len({frame.shape for frame in frames}) == 1
    assert 100 < min(frames[0].shape[:2]) < max(frames[0].shape[:2]) < 900
    assert all((frame[:3, :3] == 255).all() for frame in frames)
    assert (frames[0] != frames[-1]).any()
    with Image.open(BytesIO(data)) as gif:
        assert gif.info["loop"] == 0
        assert "comment" not in gif.info


def test_the_limits_of_a_cloud_stay_and_it_shows_the_widest_dimensions() -> None:
    frames = opened(plots.posterior_cloud(CLOUD, [1, 2, 3, 4]))
    below = np.stack(frames)[:, -40:]
    assert (below == below[0]).all()
    left = np.stack(frames)[:, 40:, :30]
    assert (left == left[0]).all()
    swapped = plots.posterior_cloud(CLOUD[..., [1, 2]], [1, 2, 3, 4])
    inside = [frame[60:-60, 80:-80] for frame in (frames[-1], opened(swapped)[-1])]
    spread = [np.argwhere((picture < 200).any(axis=-1)).std(axis=0) for picture in inside]
    np.testing.assert_allclose(spread[0], spread[1], rtol=0.05)


def test_an_animation_of_twenty_frames_of_a_thousand_points_is_small() -> None:
    cloud = np.random.default_rng(3).standard_normal((1, 1000, 2))
    points = np.linspace(0, 1, 20)[:, None, None] * cloud
    data = plots.posterior_cloud(points, range(20), np.arange(1000) % 10)
    assert len(opened(data)) == 20
    assert len(data) < 1_000_000


def test_a_gif_is_saved_whole_under_its_name(tmp_path) -> None:
    data = ANIMATIONS["samples"]()
    path = plots.save(data, tmp_path / "new" / "samples.gif")
    assert path.read_bytes() == data
    assert list(path.parent.iterdir()) == [path]
    with pytest.raises(UsageError, match=r"ends in \.gif"):
        plots.save(data, tmp_path / "samples.png")
    with pytest.raises(UsageError, match=r"ends in \.png"):
        plots.save(plots.samples(STRIPS[0]), tmp_path / "samples.gif")

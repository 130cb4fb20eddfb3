"""Training as moving pictures: animated GIFs of figures, made without a clock."""

from collections.abc import Callable, Sequence
from io import BytesIO

import numpy as np
from matplotlib.axes import Axes
from matplotlib.transforms import Bbox
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from aevb.errors import UsageError
from aevb.plots.latent import latent_scatter, widest_dimensions
from aevb.plots.pictures import samples
from aevb.plots.style import INK, LABEL, as_epochs, as_floats, as_steps, quiet_title

GIF_DPI, COLORS = 96, 64
FRAME_MS, LAST_MS = 180, 1800


def posterior_cloud(
    frames: ArrayLike, epochs: Sequence[int], labels: ArrayLike | None = None
) -> bytes:
    """The posterior means of the same data after several epochs, as an animated GIF.

    Shapes: `frames` (T, N, D), T `epochs`, `labels` (N,) as in `latent_scatter`. Of D > 2
    dimensions the two with the largest variance in the last frame are drawn; D = 1 gives a
    histogram, whose tallest bars of early frames may leave the picture at its top. The limits are
    those of all frames.
    Units: 96 dots per inch, 180 ms a frame; 20 frames of 1000 points are about 0.3 MB.
    Errors: UsageError for other shapes, empty input, NaN, and epochs or labels that do not fit.
    Example:
        >>> cloud = np.random.default_rng(0).normal(size=(2, 30, 2))
        >>> posterior_cloud(cloud, [1, 2])[:6]
        b'GIF89a'
    """
    points = as_floats(frames, "frames")
    if points.ndim != 3:
        raise UsageError(f"expected frames of shape (T, N, D), found {points.shape}")
    numbers = as_epochs(epochs, len(points))
    chosen, titles = widest_dimensions(points[-1])
    points = points[:, :, chosen]
    low, high = points.min(axis=(0, 1)), points.max(axis=(0, 1))

    def cloud(frame: int) -> Axes:
        ax = latent_scatter(points[frame], labels)
        middle, reach = (low + high) / 2, float((high - low).max()) * 0.53 or 0.5
        wide = reach * ax.bbox.width / ax.bbox.height
        ax.set_xlim(middle[0] - wide, middle[0] + wide)
        ax.set_ylim(middle[1] - reach, middle[1] + reach)
        ax.set_xlabel(titles[0], fontsize=LABEL, color=INK)
        ax.set_ylabel(titles[1], fontsize=LABEL, color=INK)
        quiet_title(ax, f"Latent codes, epoch {numbers[frame]}")
        return ax

    bins = np.linspace(low[0], high[0] + (low[0] == high[0]), 41)
    tallest = 1.5 * np.histogram(points[-1, :, 0], bins)[0].max()

    def heap(frame: int) -> Axes:
        ax = latent_scatter(points[frame], labels, bins=bins)
        ax.set_ylim(0, tallest)
        quiet_title(ax, f"Latent codes, epoch {numbers[frame]}")
        return ax

    return _gif(heap if len(chosen) == 1 else cloud, len(points))


def samples_animation(frames: ArrayLike, epochs: Sequence[int], shape: Sequence[int]) -> bytes:
    """The same latent points decoded after several epochs, as an animated GIF.

    Shapes: `frames` (T, N, *shape), or (T, N, prod(shape)), and T `epochs`; `shape` is (H, W),
    (C, H, W) or, for data that are no pictures, (X,): these are drawn as lines.
    Units: pictures in [0, 1], clipped for showing; lines on one scale for all frames. 20 frames of
    64 pictures 28x28 are about 0.7 MB.
    Errors: UsageError for other shapes, empty input, NaN and epochs that do not fit.
    Example:
        >>> samples_animation(np.zeros((2, 4, 64)), [1, 2], (8, 8))[:6]
        b'GIF89a'
    """
    decoded = as_steps(frames, "frames", shape)
    numbers = as_epochs(epochs, len(decoded))
    low, high = float(decoded.min()), float(decoded.max())
    air = 0.05 * (high - low) or 0.5

    def grid(frame: int) -> Axes:
        ax = samples(decoded[frame])
        if decoded.ndim == 3:
            ax.set_ylim(low - air, high + air)
        quiet_title(ax, f"Samples, epoch {numbers[frame]}")
        return ax

    return _gif(grid, len(decoded))


def _gif(draw: Callable[[int], Axes], count: int) -> bytes:
    """The drawn frames on one palette, cut alike: to what the frames together show."""
    axes = [draw(frame) for frame in range(count)]
    box = Bbox.union([_box(ax) for ax in axes]).padded(0.08)
    pictures = [_pixels(ax, box) for ax in axes]
    palette = _palette(pictures)
    frames = [p.quantize(palette=palette, dither=Image.Dither.NONE) for p in pictures]
    buffer = BytesIO()
    frames[0].save(
        buffer,
        format="GIF",
        save_all=True,
        append_images=frames[1:],
        duration=[FRAME_MS] * (count - 1) + [LAST_MS],
        loop=0,
        disposal=1,
    )
    return buffer.getvalue()


def _box(ax: Axes) -> Bbox:
    """What a figure shows, in inches."""
    figure = ax.figure.canvas.figure
    return figure.get_tightbbox()


def _pixels(ax: Axes, box: Bbox) -> Image.Image:
    buffer = BytesIO()
    ax.figure.canvas.figure.savefig(buffer, format="png", dpi=GIF_DPI, bbox_inches=box)
    return Image.open(buffer).convert("RGB")


def _palette(pictures: list[Image.Image]) -> Image.Image:
    """Colors for all frames, from the first, the middle and the last of them."""
    some = [np.asarray(pictures[k]) for k in sorted({0, len(pictures) // 2, len(pictures) - 1})]
    together: NDArray[np.uint8] = np.concatenate(some)
    palette = Image.fromarray(together).quantize(COLORS, method=Image.Quantize.FASTOCTREE)
    colors = np.array(palette.getpalette()).reshape(-1, 3)
    colors[colors.min(axis=1) > 250] = 255  # paper stays white among pages that are
    palette.putpalette(colors.ravel().tolist())
    return palette

"""Pictures of a run: which there are, which of them fit its data, and how each is drawn."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from aevb import codes, plots
from aevb.data import Rows
from aevb.errors import UsageError, shortly
from aevb.evaluation.case import SAMPLES
from aevb.imputation import impute
from aevb.plots.style import quiet_title
from aevb.randomness import Stream, generator
from aevb.workflow import needs
from aevb.workflow.material import Material, with_holes
from aevb.workflow.scores import scores_of

Array = NDArray[np.float64]
SCORED_ROWS = 500
MOST_MOMENTS = 10
USED = 0.01
"""Nats that a latent dimension must say of a datum to count as used."""
MOST_CELLS = 12
"""Columns of a table whose cells are written out."""


class Kind(NamedTuple):
    """A picture: how it is drawn, how to read it, what it needs, and the suffix of its file.

    `unfit` gives a clause on why a run has no such picture, empty where it has.
    """

    draw: Callable[[Material], Axes | bytes]
    caption: str
    unfit: Callable[[Material], str]
    suffix: str = ".png"


def picture(material: Material, kind: str, target: Path) -> Path:
    """Draw one picture of a run into a file; UsageError where the run has nothing such to show."""
    return plots.save(draw(material, kind), target)


def draw(material: Material, kind: str) -> Axes | bytes:
    """One picture of a run: axes, or the bytes of an animation; UsageError where it has none."""
    if why := _kind(kind).unfit(material):
        there = ", ".join(pictures_of(material))
        raise UsageError(f"{material.folder.path} has no picture {kind}: {why}; it has {there}")
    return KINDS[kind].draw(material)


def pictures_of(material: Material) -> list[str]:
    """The names of the pictures that a run has."""
    return [name for name, kind in KINDS.items() if not kind.unfit(material)]


def file_name(kind: str) -> str:
    """The name of the file of a picture; UsageError for a picture that there is not."""
    return kind + _kind(kind).suffix


def _kind(name: str) -> Kind:
    if name not in KINDS:
        raise UsageError(f"there is no picture {shortly(name)}: choose all, {', '.join(KINDS)}")
    return KINDS[name]


# -- rows that a command made ---------------------------------------------------------------------


def draw_rows(material: Material, array: Array, *, title: str = "") -> Axes:
    """Rows (N, X) as the pictures they are: images, lines, or columns against each other."""
    if material.kind == "table":
        ax = plots.pair_plot(array, names=material.names, labels=("rows", ""))
    else:
        shown = material.shown(array)
        ax = plots.image_grid(shown) if material.kind == "image" else plots.profiles(shown)
    if title:
        quiet_title(ax, title)
    return ax


def draw_beside(material: Material, rows: Rows, array: Array, label: str) -> Axes:
    """Rows and what a command made of them (N, X), side by side."""
    data = material.rows(rows)
    if material.kind == "table":
        return plots.pair_plot(data, array, names=material.names, labels=("data", label))
    filled = np.where(np.isnan(data), array, data)
    return plots.reconstructions(material.shown(filled), material.shown(array))


def draw_filled(material: Material, rows: Rows, filled: Array, known: Array | None = None) -> Axes:
    """Rows with holes and what these were filled with (N, X); `known` are they without holes."""
    holed = material.rows(rows)
    data = holed if known is None else known
    if material.kind == "table":
        at = slice(0, MOST_CELLS)
        names = None if material.names is None else material.names[at]
        observed = ~np.isnan(holed[:, at])
        return plots.impute_grid(observed, data[:, at], filled[:, at], names=names)
    shape = (-1, *material.shape)
    observed = ~np.isnan(holed).reshape(shape)
    return plots.impute_grid(observed, data.reshape(shape), filled.reshape(shape))


def draw_walk(material: Material, array: Array) -> Axes:
    """The steps (N, X) of one walk through the latent space."""
    shown = material.shown(array)[None]
    return _in_units(material, plots.interpolation(shown, _event(material), names=material.names))


def draw_traversals(material: Material, decoded: Array, dimensions: list[int]) -> Axes:
    """What some latent dimensions (from 0) do, from rows decoded along each in turn (D * V, X)."""
    shown = material.shown(decoded)
    shown = shown.reshape(len(dimensions), len(codes.STEPS), *shown.shape[1:])
    event = _event(material)
    ax = plots.traversals(shown, dimensions, codes.STEPS, event, names=material.names)
    return _in_units(material, ax)


# -- how each is drawn ----------------------------------------------------------------------------


def _curve(material: Material) -> Axes:
    return plots.learning_curve(material.folder.history())


def _reconstructions(material: Material) -> Axes:
    count = len(material.test) if material.kind == "table" else 30
    rows = material.data.test.limit(min(count, len(material.data.test)))
    model, posterior = material.folder.load_for(rows)
    return draw_beside(material, rows, codes.reconstruct(model, posterior, rows), "reconstruction")


def _samples(material: Material) -> Axes:
    count = 100 if material.kind == "image" else 12
    drawn = codes.sample(material.model, count, seed=material.seed)
    return plots.samples(material.shown(drawn))


def _pairs(material: Material) -> Axes:
    rows = material.rows(material.data.train.limit(1000))
    drawn = codes.sample(material.model, len(rows), seed=material.seed, draw=True)
    return plots.pair_plot(rows, drawn, names=material.names)


def _manifold(material: Material) -> Axes:
    return plots.manifold(material.decode, _event(material), names=material.names)


def _prior_predictive(material: Material) -> Axes:
    first, second = sorted(material.ranked[:2])
    return plots.prior_predictive(
        material.decode,
        _event(material),
        latent_dim=material.latent_dim,
        dims=(first, second),
        names=material.names,
    )


def _latent(material: Material) -> Axes:
    return plots.latent_scatter(material.codes, material.test.labels)


def _interpolation(material: Material) -> Axes:
    """Walks between test rows that a seed has chosen."""
    count, steps = (5, 10) if material.kind == "image" else (3, 8)
    order = generator(material.seed, Stream.SUBSET).permutation(len(material.codes))
    ends = material.codes[np.resize(order, (2, count))]
    walks = [codes.interpolate(a, b, steps) for a, b in zip(*ends, strict=True)]
    strips = material.shown(material.decode(np.concatenate(walks)))
    strips = strips.reshape(count, steps, *strips.shape[1:])
    return _in_units(material, plots.interpolation(strips, _event(material), names=material.names))


def _all_traversals(material: Material) -> Axes:
    dimensions = material.ranked[: 10 if material.kind == "image" else 5]
    ways = [codes.traverse(material.model, d) for d in dimensions]
    return draw_traversals(material, material.decode(np.concatenate(ways)), dimensions)


def _in_units(material: Material, ax: Axes) -> Axes:
    """Say of lines over the columns of a table that they are in units of these columns."""
    if material.kind == "table":
        quiet_title(ax, f"{ax.get_title()}, deviations from the mean")
    return ax


def _kl(material: Material) -> Axes:
    by_dimension = material.diagnosis.kl_by_dimension
    assert by_dimension is not None
    unused = bool((by_dimension < USED).any())
    return plots.kl_by_dimension(by_dimension, threshold=USED if unused else None)


def _by_row(material: Material) -> Axes:
    return plots.reconstruction_by_row(material.case.evidence.reconstruction)


def _scores(material: Material) -> Axes:
    """Scores of all parts; none of them is an outlier by itself, so no threshold is drawn."""
    case, validation = material.case, material.data.validation
    groups = {"training": case.evidence_on_train.importance.values}
    if len(validation):
        groups["validation"] = scores_of(
            material.folder, validation.limit(SCORED_ROWS), samples=SAMPLES, seed=material.seed
        )
    groups["test"] = case.evidence.importance.values
    return plots.score_histogram(groups)


def _training(material: Material) -> Axes:
    trail = material.trail
    some = np.unique(np.linspace(0, len(trail.epochs) - 1, MOST_MOMENTS).round().astype(int))
    frames = material.shown(trail.samples[some].reshape(-1, trail.samples.shape[-1]))
    frames = frames.reshape(len(some), -1, *frames.shape[1:])
    epochs = [int(epoch) for epoch in trail.epochs[some]]
    return plots.samples_along_training(frames, epochs, _event(material))


def _cloud(material: Material) -> bytes:
    trail = material.trail
    return plots.posterior_cloud(trail.codes, [int(e) for e in trail.epochs], trail.labels)


def _imputation(material: Material) -> Axes:
    """Test rows with half of their cells hidden: a part of images and signals, any of a table."""
    rows = material.data.test.limit(min(10 if material.kind == "image" else 6, len(material.test)))
    data = material.rows(rows)
    seen = _half(material, data.shape)
    holes = Rows(
        np.where(seen, data, np.nan).astype(np.float32), np.arange(len(data)), material.shape
    )
    model, posterior, holes = with_holes(material.folder, holes)
    filled = impute(model, posterior, holes, seed=material.seed)
    return draw_filled(material, holes, filled, data)


def _half(material: Material, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Which cells are left to be seen."""
    if material.kind == "image":
        rows_down = np.arange(material.shape[1])[:, None] < material.shape[1] / 2
        return np.broadcast_to(rows_down, (shape[0], *material.shape)).reshape(shape)
    if material.kind == "signal":
        place = np.arange(shape[1]) / shape[1]
        return np.broadcast_to((place < 0.25) | (place >= 0.75), shape)
    order = generator(material.seed, Stream.SUBSET, 1).random(shape).argsort(1)
    return order >= shape[1] // 2


def _event(material: Material) -> tuple[int, ...]:
    return material.shape if len(material.shape) in (1, 3) else (int(np.prod(material.shape)),)


KINDS: dict[str, Kind] = {
    "curve": Kind(
        _curve,
        "The evidence lower bound by epoch; the model kept is that of the best validation epoch.",
        needs.history,
    ),
    "reconstructions": Kind(
        _reconstructions,
        "Test data and what the model makes of their codes: the mean of p(x given z).",
        needs.data,
    ),
    "samples": Kind(
        _samples,
        "Means of p(x given z) for z drawn from the prior: what the model takes for typical.",
        needs.lines,
    ),
    "pairs": Kind(
        _pairs,
        "Columns of the training rows against each other, and of as many rows drawn from the "
        "model: the closer the colors, the better the model knows the table.",
        needs.table,
    ),
    "manifold": Kind(
        _manifold,
        "What the plane of the two latent dimensions decodes to, on a grid of equal probability.",
        needs.plane,
    ),
    "prior-predictive": Kind(
        _prior_predictive,
        "What a plane of two latent dimensions decodes to in equal steps, out to the tails of the "
        "prior.",
        needs.dimensions,
    ),
    "latent": Kind(
        _latent,
        "The posterior means of test rows, colored by class where there are classes.",
        needs.data,
    ),
    "interpolation": Kind(
        _interpolation,
        "Straight walks between the codes of two test rows, decoded step by step.",
        needs.data,
    ),
    "traversals": Kind(
        _all_traversals,
        "What one latent dimension at a time does, the others held at 0; the dimensions that say "
        "most come first.",
        needs.free,
    ),
    "kl": Kind(
        _kl,
        "How much each latent dimension says of a datum, in nats; one near 0 is not used.",
        needs.divergences,
    ),
    "rows": Kind(
        _by_row,
        "The reconstruction term of each test row; the worst are named by their number.",
        needs.data,
    ),
    "scores": Kind(
        _scores,
        "log p(x) of training, validation and test rows: where training lies above the others, the "
        "model has learned rows by heart.",
        needs.data,
    ),
    "training": Kind(
        _training,
        "The same draws from the prior, decoded after several epochs.",
        needs.frames,
    ),
    "cloud": Kind(
        _cloud, "The codes of the same rows as training went on.", needs.snapshots, ".gif"
    ),
    "imputation": Kind(
        _imputation,
        "Test rows of which half the cells were hidden, and what the model filled in.",
        needs.cells,
    ),
}

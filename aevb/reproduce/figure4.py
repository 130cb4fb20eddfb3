"""Figure 4: what the plane of a two-dimensional latent space decodes to, MNIST and Frey Face.

The mean of p(x given z) on a grid of 20 x 20 equal probabilities, sent through the inverse of the
Gaussian distribution function. Networks and learning are those of figure 2. Expected, as a number:
neighbors on the plane are more alike than tiles at random, and the bound has risen.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from aevb.codes import decode
from aevb.plots.manifolds import manifold, manifold_grid
from aevb.plots.style import panels, quiet_title
from aevb.reproduce.curves import curve_cells
from aevb.reproduce.experiment import FREY, MNIST, TITLES, Array, learn_and_show, of_paper, shown
from aevb.reproduce.jobs import Job, Share
from aevb.reproduce.performing import Budget, Expectation, Results, rises, table

NAME, TITLE = "figure4", "Learned manifolds"
SOURCE = "Kingma & Welling 2013, figure 4"
DATA = (FREY, MNIST)
LATENTS, SIDE = 2, 20
ALIKE = 0.5
"""The squared difference of neighbors, as a share of that of two tiles at random, at most."""
TAKES: Mapping[Budget, str] = {
    "minute": "40,000 samples",
    "hour": "10,000,000 samples, a quarter of an hour",
    "full": "100,000,000 samples",
}


def name_of(data: str) -> str:
    """The name of a data set's job."""
    return f"{data}-manifold"


def jobs(budget: Budget) -> list[Job]:
    """A job for each data set."""
    experiments = [of_paper(data, LATENTS, budget) for data in DATA]
    return [Job(name_of(e.data), asdict(e), work) for e in experiments]


def work(settings: Mapping[str, Any], folder: Path, share: Share) -> dict[str, Any]:
    """Learn one data set, and decode the plane."""
    grid = manifold_grid(SIDE)
    result = learn_and_show(settings, folder, share, lambda model: decode(model, grid))
    return result | roughness(shown(folder))


def roughness(tiles: Array) -> dict[str, float]:
    """The mean squared difference of neighbors on the plane, and of any two tiles.

    Shapes: tiles (SIDE^2, X) in reading order.
    """
    plane = tiles.reshape(SIDE, SIDE, -1)
    steps = [np.square(np.diff(plane, axis=axis)).mean() for axis in (0, 1)]
    apart = 2 * plane.reshape(SIDE * SIDE, -1).var(0).mean() * SIDE**2 / (SIDE**2 - 1)
    return {"neighbors": float(np.mean(steps)), "at random": float(apart)}


def judge(results: Results) -> list[Expectation]:
    """Neighbors are alike, and the bound has risen."""
    found = []
    for data, result in planes(results).items():
        name = TITLES[data]
        numbers = {k: result[k] for k in ("neighbors", "at random")}
        alike = numbers["neighbors"] < ALIKE * numbers["at random"]
        sentence = f"{name}: the plane is smooth, neighbors differ by less than {ALIKE:.0%} of any"
        found.append(Expectation(f"{sentence} two tiles", alike, numbers))
        ends = {word: result["curve"][k]["test"] for word, k in (("first", 0), ("last", -1))}
        found.append(rises(f"{name}: the test bound has risen", ends))
    return found


def planes(results: Results) -> dict[str, Mapping[str, Any]]:
    """The results by data set."""
    return {data: results[name_of(data)] for data in DATA if name_of(data) in results}


def draw(results: Results, places: Mapping[str, Path]) -> Axes:
    """The planes side by side."""
    ax, inside = panels(None, 1, len(results), (5.6, 5.6), (0.9, 0.5))
    for cell, (data, result) in zip(inside, planes(results).items(), strict=True):
        tiles = shown(places[name_of(data)])
        manifold(lambda z, tiles=tiles: tiles, result["shape"], cell, side=SIDE)  # type: ignore[misc]
        quiet_title(cell, TITLES[data])
    return ax


def numbers_table(results: Results) -> str:
    """The last bounds."""
    rows = [
        (TITLES[data], *curve_cells(r, ("train", "test"))) for data, r in planes(results).items()
    ]
    return table(("data", "step size", "samples", "train", "test"), rows)

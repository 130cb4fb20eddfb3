"""Figure 5: samples of models of MNIST with 2, 5, 10 and 20 latent dimensions.

The mean of p(x given z) at 100 draws of the prior. Networks and learning are those of figure 2.
Expected, as a number: from 2 over 5 to 10 dimensions each model has a higher bound on test rows.
"""

from collections.abc import Mapping
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from aevb.codes import sample
from aevb.plots.pictures import image_grid
from aevb.plots.style import INK, SMALL, panels
from aevb.reproduce.curves import curve_cells
from aevb.reproduce.experiment import MNIST, learn_and_show, of_paper, shown
from aevb.reproduce.jobs import Job, Share
from aevb.reproduce.performing import Budget, Expectation, Results, rises, table

NAME, TITLE = "figure5", "Samples for several latent dimensions"
SOURCE = "Kingma & Welling 2013, figure 5"
DATA, LATENTS, DRAWS, COLUMNS = MNIST, (2, 5, 10, 20), 100, 10
RISING = (2, 5, 10)
TAKES: Mapping[Budget, str] = {
    "minute": "40,000 samples",
    "hour": "10,000,000 samples, half an hour",
    "full": "100,000,000 samples",
}


def name_of(latent_dim: int) -> str:
    """The name of a model's job."""
    return f"{DATA}-{latent_dim}-samples"


def jobs(budget: Budget) -> list[Job]:
    """A job for each model."""
    experiments = [of_paper(DATA, size, budget) for size in LATENTS]
    return [Job(name_of(e.latent_dim), asdict(e), work) for e in experiments]


def work(settings: Mapping[str, Any], folder: Path, share: Share) -> dict[str, Any]:
    """Learn one model, and draw from it."""
    seed = int(settings["seed"])
    return learn_and_show(
        settings, folder, share, lambda model: sample(model, DRAWS, seed=seed, draw=False)
    )


def judge(results: Results) -> list[Expectation]:
    """The bound rises with the latent dimensions, up to ten."""
    bound = {size: results[name_of(size)]["curve"][-1]["test"] for size in RISING}
    return [
        rises(
            f"the test bound with {more} latents is above that with {less}",
            {f"{less} latents": bound[less], f"{more} latents": bound[more]},
        )
        for less, more in pairwise(RISING)
    ]


def draw(results: Results, places: Mapping[str, Path]) -> Axes:
    """The samples of each model, side by side."""
    ax, inside = panels(None, 1, len(results), (2.8, 2.8), (0.3, 0.5))
    for cell, size in zip(inside, LATENTS, strict=True):
        name = name_of(size)
        tiles = shown(places[name]).reshape(-1, *results[name]["shape"])
        image_grid(tiles, cell, columns=COLUMNS)
        cell.set_title(f"{size}-D latent space", fontsize=SMALL, color=INK)
    return ax


def numbers_table(results: Results) -> str:
    """The last bounds."""
    rows = [
        (str(size), *curve_cells(r, ("train", "test")))
        for size in LATENTS
        for r in [results[name_of(size)]]
    ]
    return table(("latents", "step size", "samples", "train", "test"), rows)

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
from aevb.reproduce import figure2
from aevb.reproduce.curves import ends
from aevb.reproduce.jobs import Job, Share
from aevb.reproduce.performing import Budget, Expectation, Reproduction, Results, number, table
from aevb.reproduce.pictures import learn_and_show, shown

DATA, LATENTS, DRAWS, COLUMNS = figure2.MNIST, (2, 5, 10, 20), 100, 10
RISING = (2, 5, 10)
TAKES: dict[Budget, str] = {
    "minute": "40,000 samples",
    "hour": "10,000,000 samples, half an hour",
    "full": "100,000,000 samples",
}


def name_of(latent_dim: int) -> str:
    """The name of a model's job."""
    return f"{DATA}-{latent_dim}-samples"


def jobs(budget: Budget) -> list[Job]:
    """A job for each model."""
    experiments = [figure2.experiment(DATA, size, budget) for size in LATENTS]
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
        Expectation(
            f"the test bound with {more} latents is above that with {less}",
            bound[more] > bound[less],
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
        (str(size), number(r["step_size"]), *ends(r, ("train", "test")))
        for size in LATENTS
        for r in [results[name_of(size)]]
    ]
    return table(("latents", "step size", "samples", "train", "test"), rows)


REPRODUCTION = Reproduction(
    "figure5",
    "Samples for several latent dimensions",
    "Kingma & Welling 2013, figure 5",
    TAKES,
    (DATA,),
    jobs,
    judge,
    draw,
    numbers_table,
)

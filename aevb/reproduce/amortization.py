"""Amortization: numbers of an encoder, refined ones, and free numbers for each datum.

The networks of figure 2 with 20 latent dimensions on MNIST and on Fashion-MNIST, pixels drawn as
Bernoullis of their grey levels, learned by AEVB. On test rows stand the bound of the encoder's q,
that of q after 1 to 20 steps for each datum (semi-amortized), that of the best of the family for
each datum (mean-field without an encoder), and log p(x) by importance sampling:

    log p(x) - L[q] = (log p(x) - L[q*]) + (L[q*] - L[q]),   approximation gap + amortization gap

Expected: in that order, each step of refinement closing some of the amortization gap; and on the
harder data amortization costs the larger share.
"""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from aevb.data import Rows
from aevb.evaluation import evidence, gaps
from aevb.plots.style import FAINT, TRAINING, calm_axes, panels, quiet_title
from aevb.refinement import Refined
from aevb.reproduce.experiment import MNIST, Experiment, Learned, judged, learn, of_paper, until
from aevb.reproduce.jobs import Job, Share
from aevb.reproduce.performing import Budget, Expectation, Results, number, rises, table

NAME, TITLE = "amortization", "Amortized, semi-amortized and mean-field inference"
SOURCE = "Cremer et al. 2018; Kim et al. 2018"
DATA, BINARIZE, LATENTS = (MNIST, "fashion-mnist"), "epoch", 20
TITLES = {MNIST: "MNIST", "fashion-mnist": "Fashion-MNIST"}
STEPS = (1, 2, 5, 10, 20)
SAMPLES = {"minute": 20_000, "hour": 5_000_000, "full": 20_000_000}
JUDGED = {"minute": 10, "hour": 200, "full": 1000}
DRAWS = {"minute": 50, "hour": 1000, "full": 5000}
"""Of importance sampling, and of the bound."""
TAKES: Mapping[Budget, str] = {
    "minute": "20,000 samples, 10 rows",
    "hour": "5,000,000 samples, 200 rows",
    "full": "20,000,000 samples, 1000 rows",
}


def jobs(budget: Budget) -> list[Job]:
    """A job for each data set."""
    measured = {"gaps": JUDGED[budget], "draws": DRAWS[budget]}
    whole = until(of_paper(MNIST, LATENTS, budget), SAMPLES[budget])
    experiments = [replace(whole, data=data, binarize=BINARIZE) for data in DATA]
    return [Job(e.data, asdict(e) | measured, work) for e in experiments]


def work(settings: Mapping[str, Any], folder: Path, share: Share) -> dict[str, Any]:
    """Learn one data set, and measure where the bound goes."""
    experiment = Experiment.of(settings)
    learned = learn(experiment, folder, share, part=0.5)
    few, draws = settings["gaps"], settings["draws"]
    train, test = (judged(rows, few) for rows in (learned.data.train, learned.data.test))
    found = gaps(
        learned.model,
        learned.posterior,
        train,
        test,
        samples=draws,
        seed=experiment.seed,
        progress=lambda done, total: share(0.5 + 0.4 * done / total),
    )
    refined = _refined(learned, test, draws, experiment.seed)
    return learned.result | {"gaps": found.as_dict(), "refined": refined}


def _refined(learned: Learned, rows: Rows, draws: int, seed: int) -> dict[str, float]:
    """The bound of test rows after so many steps for each datum, by their number."""
    found = {}
    for steps in STEPS:
        posterior = Refined(learned.posterior, learned.model, steps)
        found[str(steps)] = evidence(learned.model, posterior, rows, draws, seed=seed).elbo.mean
    return found


def ladder(result: Mapping[str, Any]) -> dict[str, float]:
    """What is measured of test rows, from the loosest bound up."""
    test = result["gaps"]["test"]
    refined = {f"refined {steps}": float(result["refined"][str(steps)]) for steps in STEPS}
    ends = {"best of the family": test["best"]["mean"], "log p(x)": test["log_p"]["mean"]}
    return {"encoder": test["encoder"]["mean"], **refined, **ends}


def judge(results: Results) -> list[Expectation]:
    """The order of the bounds, and on which data amortization costs the larger share."""
    said = "encoder, refined by more and more steps, best, log p(x) rise"
    found = [
        rises(f"{TITLES[data]}: {said}", ladder(results[data]), strictly=False) for data in DATA
    ]
    share = {TITLES[data]: amortization_share(results[data]) for data in DATA}
    more = share["Fashion-MNIST"] > share["MNIST"]
    sentence = "amortization is a larger share of the inference gap on Fashion-MNIST than on MNIST"
    return [*found, Expectation(sentence, more, share)]


def amortization_share(result: Mapping[str, Any]) -> float:
    """The amortization gap as a share of the inference gap, on test rows."""
    test = result["gaps"]["test"]
    return float(test["amortization"]["mean"] / test["inference"]["mean"])


def draw(results: Results, places: Mapping[str, Path]) -> Axes:
    """The bound against the steps of refinement, between the encoder's and the best."""
    ax, inside = panels(None, 1, len(DATA), (3.4, 2.6), (0.9, 0.5))
    for cell, data in zip(inside, DATA, strict=True):
        bounds = ladder(results[data])
        steps = np.array([0, *STEPS])
        cell.plot(steps, list(bounds.values())[: len(steps)], "o-", color=TRAINING, markersize=4)
        for name in ("best of the family", "log p(x)"):
            cell.axhline(bounds[name], color=FAINT, linewidth=1)
            cell.annotate(name, (steps[-1], bounds[name]), ha="right", va="bottom", fontsize=8)
        calm_axes(cell, "steps for each datum", "bound, nats")
        cell.set_xticks(steps)
        quiet_title(cell, TITLES[data])
    return ax


def numbers_table(results: Results) -> str:
    """The bounds and the gaps on test rows."""
    gap = ("approximation", "amortization", "inference")
    names = list(ladder(results[DATA[0]]))
    rows = []
    for data in DATA:
        test = results[data]["gaps"]["test"]
        bounds = [number(value) for value in ladder(results[data]).values()]
        widths = [
            f"{test[name]['mean']:.2f} ± {number(test[name]['standard_error'])}" for name in gap
        ]
        rows.append((TITLES[data], *bounds, *widths))
    return table(("data", *names, *(f"{name} gap" for name in gap)), rows)

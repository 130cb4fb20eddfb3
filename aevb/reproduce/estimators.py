"""Estimators of the gradient: their variance, for theta and phi, early in training and late.

The networks of figure 2 on MNIST with 20 latent dimensions, learned by AEVB. On the first training
rows every estimator that applies is drawn again and again: of the bound with L = 1, and with
L = 10, where leave-one-out baselines have others to lean on; of the importance-weighted bound with
K = 10. Expected of phi: estimator B varies less than A, which the paper says of most cases; the
score function, which it calls impractical, far more, and less so with a baseline; late, where q is
near the posterior, the path derivative less than A, and double reparameterization less than plain.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from aevb.evaluation.gradients import compare_gradients
from aevb.plots.gradients import gradient_variances
from aevb.plots.style import panels, quiet_title
from aevb.reproduce.experiment import MNIST, Experiment, learn, of_paper, until
from aevb.reproduce.jobs import Job, Share
from aevb.reproduce.performing import Budget, Expectation, Results, number, table

NAME, TITLE = "estimators", "Variance of gradient estimators"
SOURCE = "Kingma & Welling 2013, sections 2.2 and 2.3; Roeder et al. 2017; Tucker et al. 2018"
DATA, LATENTS = MNIST, 20
WAYS = {"elbo, L = 1": ("elbo", 1), "elbo, L = 10": ("elbo", 10), "iwae, K = 10": ("iwae", 10)}
EARLY = {"minute": 2_000, "hour": 20_000, "full": 20_000}
LATE = {"minute": 20_000, "hour": 3_000_000, "full": 10_000_000}
ROWS = {"minute": 10, "hour": 100, "full": 100}
REPLICATES = {"minute": 20, "hour": 200, "full": 2000}
FAR = 10.0
"""Times that the plain score function's variance is at least of estimator A's."""
STANDARD_ERRORS = 5.0
TAKES: Mapping[Budget, str] = {
    "minute": "20,000 samples, 20 gradients of 10 rows",
    "hour": "3,000,000 samples, 200 gradients of 100 rows",
    "full": "10,000,000 samples, 2000 gradients of 100 rows",
}
A, B, PATH = "reparameterized A", "reparameterized B", "path derivative"
SCORE, LEAVE = "score function", "score function, leave-one-out"
IWAE, DOUBLY = "reparameterized", "doubly reparameterized"
ORDERS = (
    ("elbo, L = 1", "late", B, A, 1.0, "B varies less than A"),
    ("elbo, L = 1", "early", A, SCORE, FAR, "the score function varies far more than A"),
    ("elbo, L = 1", "late", A, SCORE, FAR, "the score function varies far more than A"),
    (
        "elbo, L = 10",
        "late",
        LEAVE,
        SCORE,
        1.0,
        "leave-one-out helps the score function",
    ),
    ("elbo, L = 1", "late", PATH, A, 1.0, "the path derivative varies less than A"),
    ("iwae, K = 10", "late", DOUBLY, IWAE, 1.0, "double reparameterization helps the IWAE"),
)
"""Of phi: way, moment, the estimator of less variance, that of more, by which factor at least."""


def jobs(budget: Budget) -> list[Job]:
    """A job for each moment of training."""
    moments = {"late": LATE[budget], "early": EARLY[budget]}
    measured = {"gradients": ROWS[budget], "replicates": REPLICATES[budget]}
    whole = of_paper(DATA, LATENTS, budget)
    return [
        Job(moment, asdict(until(whole, samples)) | measured, work)
        for moment, samples in moments.items()
    ]


def work(settings: Mapping[str, Any], folder: Path, share: Share) -> dict[str, Any]:
    """Learn up to a moment, and compare the estimators there."""
    experiment = Experiment.of(settings)
    learned = learn(experiment, folder, share, part=0.3)
    rows = learned.data.train.pick(np.arange(settings["gradients"]))
    found = {}
    for i, (way, (bound, samples)) in enumerate(WAYS.items()):
        comparison = compare_gradients(
            learned.model,
            learned.posterior,
            rows,
            bound=bound,
            samples=samples,
            replicates=settings["replicates"],
            seed=experiment.seed,
            progress=lambda done, total, i=i: share(0.3 + 0.7 * (i + done / total) / len(WAYS)),  # type: ignore[misc]
        )
        found[way] = comparison.as_dict()
    return learned.result | {"gradients": found}


def variance(results: Results, moment: str, way: str, name: str) -> float:
    """Of phi, for one datum."""
    estimators = results[moment]["gradients"][way]["estimators"]
    return float(next(e["phi"]["variance"] for e in estimators if e["name"] == name))


def judge(results: Results) -> list[Expectation]:
    """The orders of the variances, and that what should be unbiased is."""
    found = []
    for way, moment, less, more, factor, said in ORDERS:
        numbers = {name: variance(results, moment, way, name) for name in (less, more)}
        holds = numbers[more] > factor * numbers[less]
        found.append(Expectation(f"{said} ({way}, {moment})", holds, numbers))
    return [*found, _unbiased(results)]


def _unbiased(results: Results) -> Expectation:
    """All but those that are biased by construction are so, within errors."""
    off = {
        f"{e['name']}, {part}": e[part]["bias"] / e[part]["bias_error"]
        for result in results.values()
        for comparison in result["gradients"].values()
        for e in comparison["estimators"]
        for part in ("theta", "phi")
        if e["unbiased"] and e[part]["bias_error"]
    }
    name = max(off, key=lambda key: off[key])
    sentence = f"unbiased estimators are off by less than {STANDARD_ERRORS:g} standard errors"
    return Expectation(sentence, off[name] < STANDARD_ERRORS, {name: off[name]})


def draw(results: Results, places: Mapping[str, Path]) -> Axes:
    """The variances of every way, late in training."""
    ax, inside = panels(None, 1, len(WAYS), (3.8, 3.0), (2.7, 0.5))
    for cell, (way, comparison) in zip(inside, results["late"]["gradients"].items(), strict=True):
        some = comparison["estimators"]
        names = [e["name"] for e in some]
        variances = {part: [e[part]["variance"] for e in some] for part in ("theta", "phi")}
        biased = [e["name"] for e in some if not e["unbiased"]]
        gradient_variances(names, variances, cell, biased=biased)
        quiet_title(cell, f"{way}, late" + ("   * biased" if biased else ""))
    return ax


def numbers_table(results: Results) -> str:
    """Every estimator at every moment."""
    rows = [
        (
            moment,
            f"{result['curve'][-1]['samples']:,}",
            way,
            e["name"] + ("" if e["unbiased"] else " (biased)"),
            *(number(e[part]["variance"]) for part in ("theta", "phi")),
            number(e["cost"]),
        )
        for moment, result in results.items()
        for way, comparison in result["gradients"].items()
        for e in comparison["estimators"]
    ]
    head = ("moment", "samples", "bound", "estimator", "variance, theta", "variance, phi", "cost")
    return table(head, rows)

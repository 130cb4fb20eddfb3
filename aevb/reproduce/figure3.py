"""Figure 3: log p(x) against the number of training samples evaluated, with 3 latent dimensions.

MNIST, 100 hidden units, N = 1000 and 50,000 training rows; AEVB, wake-sleep, Monte Carlo EM. log
p(x) is estimated from above by the method of appendix D, with Hamiltonian chains of 4 leapfrog
steps, on the first 1000 training and test rows: 52 draws of each, four chains of 13, where the
paper has 50. Beside it stands the value itself, by quadrature, on the first of the same test rows.
Expected: AEVB first; Monte Carlo EM does not scale to 50,000; the estimator agrees with quadrature.

The pixels of a row are drawn once and stay, so that N rows are N rows, and a chain of Monte Carlo
EM has one row to itself. Its samples are visits of a row: ten leapfrog steps, five updates. A chain
begins its step size at the prior's width; the free parameters that judge it are fitted to the rows.
"""

from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from aevb.data import Dataset
from aevb.evaluation import exact, posterior_for, reciprocal
from aevb.model import Model
from aevb.posterior import Posterior
from aevb.reproduce.curves import Curve, Panel, curve_cells, panels_of_curves
from aevb.reproduce.experiment import Experiment, learn
from aevb.reproduce.jobs import Job, Share
from aevb.reproduce.performing import Budget, Expectation, Results, table

NAME, TITLE = "figure3", "log p(x) against training samples evaluated"
SOURCE = "Kingma & Welling 2013, figure 3"
DATA, LATENTS, HIDDEN, BINARIZE = "mnist", 3, 100, "once"
ROWS = (1000, 50_000)
ALGORITHMS = ("aevb", "wake-sleep", "monte-carlo-em")
ONLINE = ("aevb", "wake-sleep")
DRAWS = 52
TOLERANCE = 0.1
"""Nats of a row's quadrature, a hundredth of what rows differ by."""
SIZES: dict[Budget, dict[str, Any]] = {
    "minute": {"samples": 20_000, "first": 2_000, "points": 2, "judged": 20},
    "hour": {"samples": 10_000_000, "first": 100_000, "points": 6, "judged": 500},
    "full": {"samples": 60_000_000, "first": 100_000, "points": 8, "judged": 1000},
}
VISITS = {
    "minute": {1000: 2_000},
    "hour": {1000: 1_000_000, 50_000: 500_000},
    "full": {1000: 10_000_000, 50_000: 2_000_000},
}
"""The samples of Monte Carlo EM, by the training rows: a visit costs as six samples of the rest."""
EXACT = {"minute": 2, "hour": 25, "full": 50}
AGREED = 1.0
"""Nats between the estimator and quadrature."""
SLOWER = 3.0
"""Times that a visit of Monte Carlo EM costs at least of a sample of AEVB."""
TAKES: Mapping[Budget, str] = {
    "minute": "20,000 samples, N = 1000",
    "hour": "10,000,000 samples",
    "full": "60,000,000 samples, as in the paper; of Monte Carlo EM a sixth, or fewer",
}


def name_of(rows: int | None, algorithm: str) -> str:
    """The name of a curve's job."""
    return f"{DATA}-{rows}-{algorithm}"


def jobs(budget: Budget) -> list[Job]:
    """A job for each curve; the longest first."""
    experiments = [
        _experiment(rows, algorithm, budget) for rows in VISITS[budget] for algorithm in ALGORITHMS
    ]
    measured = {"exact": EXACT[budget]}
    return [Job(name_of(e.rows, e.algorithm), asdict(e) | measured, work) for e in experiments]


def _experiment(rows: int, algorithm: str, budget: Budget) -> Experiment:
    size = SIZES[budget] | ({} if algorithm in ONLINE else {"samples": VISITS[budget][rows]})
    return Experiment(
        DATA, LATENTS, HIDDEN, algorithm=algorithm, rows=rows, binarize=BINARIZE, **size
    )


def work(settings: Mapping[str, Any], folder: Path, share: Share) -> dict[str, Any]:
    """Run one experiment of the figure."""
    look = partial(likelihood, settings["exact"])
    return learn(Experiment.of(settings), folder, share, look).result


def likelihood(
    exactly: int, experiment: Experiment, model: Model, posterior: Posterior, data: Dataset
) -> dict[str, float]:
    """log p(x) of the first training and test rows by appendix D, and of some by quadrature."""
    found: dict[str, float] = {}
    for name, all_rows in (("train", data.train), ("test", data.test)):
        rows = all_rows.pick(np.arange(min(len(all_rows), experiment.judged)))
        q = posterior_for(model, posterior, rows)
        certificate = reciprocal(model, q, rows, DRAWS, seed=experiment.seed)
        found[name] = certificate.mean
        found[f"{name} error"] = certificate.monte_carlo_error
        if name == "test":
            few = rows.pick(np.arange(min(len(rows), exactly)))
            value = exact(model, posterior_for(model, posterior, few), few, tolerance=TOLERANCE)
            found["exact"] = value.mean
            found["estimate of the same"] = float(certificate.values[: len(few)].mean())
    return found


def judge(results: Results) -> list[Expectation]:
    """What the paper says of the figure."""
    found: list[Expectation] = []
    for rows in sizes(results):
        ends_at = {a: results[name_of(rows, a)]["curve"][-1] for a in ALGORITHMS}
        for which in ("train", "test"):
            last = {a: float(ends_at[a][which]) for a in ALGORITHMS}
            first = all(last["aevb"] > last[a] for a in ALGORITHMS[1:])
            sentence = f"N = {rows:,}: AEVB ends above wake-sleep and Monte Carlo EM, {which} rows"
            found.append(Expectation(sentence, first, last))
        found.append(_scaling(results, rows))
    return [*found, _agreement(results)]


def _scaling(results: Results, rows: int) -> Expectation:
    """Monte Carlo EM against AEVB in as much time."""
    em, aevb = (results[name_of(rows, a)] for a in ("monte-carlo-em", "aevb"))
    last = em["curve"][-1]
    seconds = last["samples"] / em["rows_per_second"]
    reached = [p for p in aevb["curve"] if p["samples"] / aevb["rows_per_second"] <= seconds]
    slower = aevb["rows_per_second"] / em["rows_per_second"]
    numbers = {"times slower": slower, "its log p(x)": last["test"]}
    ahead = None
    if reached:
        numbers["AEVB in as much time"] = reached[-1]["test"]
        ahead = reached[-1]["test"] > last["test"] and slower > SLOWER
    sentence = (
        f"N = {rows:,}: a visit of Monte Carlo EM costs more than {SLOWER:g} samples of AEVB, "
        "which is higher in as much time, test rows"
    )
    return Expectation(sentence, ahead, numbers)


def _agreement(results: Results) -> Expectation:
    points = [point for result in results.values() for point in result["curve"]]
    apart = [point["estimate of the same"] - point["exact"] for point in points]
    numbers = {"least": min(apart), "largest": max(apart), "mean": sum(apart) / len(apart)}
    sentence = (
        f"the estimator of appendix D is within {AGREED:g} nat of quadrature at every moment, in "
        "the mean over rows"
    )
    return Expectation(sentence, max(map(abs, apart)) < AGREED, numbers)


def sizes(results: Results) -> list[int]:
    """The numbers of training rows that there are results of."""
    return [rows for rows in ROWS if name_of(rows, "aevb") in results]


def draw(results: Results, places: Mapping[str, Path]) -> Axes:
    """A panel for each N; dotted, the test rows' estimate less what it is off where both are."""
    these = [
        Panel(
            f"$N_{{train}}$ = {rows:,}",
            {a: _corrected(results[name_of(rows, a)]["curve"]) for a in ALGORITHMS},
        )
        for rows in sizes(results)
    ]
    return panels_of_curves(these, ("train", "test", "test, by quadrature"), "log p(x), nats")


def _corrected(curve: Curve) -> Curve:
    """The points with the test estimate corrected by quadrature on some of its rows."""
    off = [point["estimate of the same"] - point["exact"] for point in curve]
    return [
        {**point, "test, by quadrature": point["test"] - wrong}
        for point, wrong in zip(curve, off, strict=True)
    ]


def numbers_table(results: Results) -> str:
    """The last moment of every curve."""
    rows = [
        (
            f"{size:,}",
            algorithm,
            *curve_cells(result, ("train", "test", "exact", "estimate of the same")),
            f"{result['rows_per_second']:,.0f}",
        )
        for size in sizes(results)
        for algorithm in ALGORITHMS
        for result in [results[name_of(size, algorithm)]]
    ]
    head = ("N", "algorithm", "step size", "samples", "train", "test", "exact, first test rows")
    return table((*head, "estimate of the same", "rows/s"), rows)

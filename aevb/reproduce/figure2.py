"""Figure 2: the bound against the number of training samples evaluated.

MNIST with 3, 5, 10, 20 and 200 latent dimensions and 500 hidden units, Frey Face with 2, 5, 10 and
20 dimensions and 200 units; AEVB and wake-sleep; the bound per datum on training and on test rows.
Expected: AEVB learns faster and ends higher in every panel, and superfluous latents cause no
over-fitting.

MNIST: 50,000 training rows, pixels drawn afresh at every presentation, judged on 10,000 test rows
and 10,000 of training in one draw. Frey Face: 1573 frames, judged on all of them and on 196 test
frames; the frames are of a video, so that a test frame has neighbors in training.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from aevb.reproduce.curves import Panel, curve_cells, panels_of_curves, worst_difference
from aevb.reproduce.experiment import FREY, MNIST, TITLES, Experiment, learn, of_paper
from aevb.reproduce.jobs import Job, Share
from aevb.reproduce.performing import Budget, Expectation, Results, table

NAME, TITLE = "figure2", "Bound against training samples evaluated"
SOURCE = "Kingma & Welling 2013, figure 2"
LATENTS = {MNIST: (3, 5, 10, 20, 200), FREY: (2, 5, 10, 20)}
FEWER = {MNIST: (3, 20), FREY: (10,)}
"""Those of the smallest budget."""
ALGORITHMS = ("aevb", "wake-sleep")
TARGET, TARGET_SAMPLES = -105.0, 10_000_000
"""Nats on MNIST's test rows with 20 latent dimensions, at the best up to so many samples."""
OVERFIT = 1.0
"""Nats by which a test bound may lie below its best: a hundredth of it, and little beside noise."""
TAKES: Mapping[Budget, str] = {
    "minute": "40,000 samples, three panels",
    "hour": "10,000,000 samples, all nine panels",
    "full": "100,000,000 samples, as far as the paper's axis",
}


def name_of(data: str, latent_dim: int, algorithm: str) -> str:
    """The name of a panel's job."""
    return f"{data}-{latent_dim}-{algorithm}"


def jobs(budget: Budget) -> list[Job]:
    """A job for each algorithm in each panel."""
    latents = FEWER if budget == "minute" else LATENTS
    experiments = [
        of_paper(data, size, budget, algorithm)
        for data, sizes in latents.items()
        for size in sizes
        for algorithm in ALGORITHMS
    ]
    return [Job(name_of(e.data, e.latent_dim, e.algorithm), asdict(e), work) for e in experiments]


def work(settings: Mapping[str, Any], folder: Path, share: Share) -> dict[str, Any]:
    """Run one experiment of the figure."""
    return learn(Experiment.of(settings), folder, share).result


def judge(results: Results) -> list[Expectation]:
    """What the paper says of the figure, panel by panel."""
    found = []
    for data, size in panels(results):
        aevb, wake = (results[name_of(data, size, a)]["curve"] for a in ALGORITHMS)
        where = f"{TITLES[data]}, {size} latents"
        for rows in ("test", "train"):
            last = {"aevb": aevb[-1][rows], "wake-sleep": wake[-1][rows]}
            higher = last["aevb"] > last["wake-sleep"]
            found.append(Expectation(f"{where}: AEVB ends higher on {rows} rows", higher, last))
        least, samples = worst_difference(aevb, wake, "test")
        numbers = {"least difference": least, "at samples": samples}
        sentence = f"{where}: AEVB is above wake-sleep on test rows at every number of samples"
        found.append(Expectation(sentence, least > 0, numbers))
    return [*found, *_no_overfitting(results), *_target(results)]


def _no_overfitting(results: Results) -> list[Expectation]:
    """Of AEVB: the test bound does not come down from its best, however many latents there are."""
    found = []
    for data, size in panels(results):
        bounds = [point["test"] for point in results[name_of(data, size, "aevb")]["curve"]]
        numbers = {"best": max(bounds), "last": bounds[-1]}
        sentence = (
            f"{TITLES[data]}, {size} latents: no over-fitting, the test bound of AEVB ends within "
            f"{OVERFIT:g} nat of its best"
        )
        found.append(Expectation(sentence, bounds[-1] > max(bounds) - OVERFIT, numbers))
    return found


def _target(results: Results) -> list[Expectation]:
    result = results.get(name_of(MNIST, 20, "aevb"))
    if result is None:
        return []
    last = result["curve"][-1]
    enough = last["samples"] >= TARGET_SAMPLES
    sentence = f"MNIST, 20 latents: the test bound of AEVB is above {TARGET:g} at 10^7 samples"
    reached = max(
        (point["test"] for point in result["curve"] if point["samples"] <= 1.01 * TARGET_SAMPLES),
    )
    return [Expectation(sentence, reached > TARGET if enough else None, {"test": reached})]


def panels(results: Results) -> list[tuple[str, int]]:
    """The panels that there are results of, in the paper's order."""
    return [
        (data, size)
        for data, sizes in LATENTS.items()
        for size in sizes
        if name_of(data, size, "aevb") in results
    ]


def draw(results: Results, places: Mapping[str, Path]) -> Axes:
    """The panels as the paper has them."""
    return panels_of_curves(
        [
            Panel(
                f"{TITLES[data]}, $N_z$ = {size}",
                {a: results[name_of(data, size, a)]["curve"] for a in ALGORITHMS},
            )
            for data, size in panels(results)
        ],
        ("train", "test"),
        "bound, nats",
    )


def numbers_table(results: Results) -> str:
    """The last bound of every curve, the step size that was chosen, and the speed."""
    rows = [
        (
            TITLES[data],
            str(size),
            algorithm,
            *curve_cells(result, ("train", "test")),
            f"{result['rows_per_second']:,.0f}",
        )
        for data, size in panels(results)
        for algorithm in ALGORITHMS
        for result in [results[name_of(data, size, algorithm)]]
    ]
    head = ("data", "latents", "algorithm", "step size", "samples", "train", "test", "rows/s")
    return table(head, rows)

"""Importance weighted autoencoders: tables 1 and 3 of Burda et al., one and two layers of codes.

x-200-200-[50], or x-200-200-[100]-100-100-[50], and its mirror, tanh units, a Bernoulli likelihood
whose last bias begins at the mean of the training rows; Adam with eps 1e-4 on minibatches of 20;
3^i passes at the learning rate 0.001 10^(-i/7), i = 0, 1, ..., of which the paper has eight stages
and a smaller budget the first ones.
Table 1: MNIST, 60,000 training rows, pixels drawn afresh at every presentation. Table 3: MNIST as
binarized by Larochelle, 50,000 training rows. VAE and IWAE with k = 1, 5 and 50, the two being the
same with k = 1. L_K, a lower bound on log p(x), on test rows; a unit is active where the posterior
mean's variance over test rows is above 0.01. The numbers of the paper are beside, at 3280 passes.
Two layers have no KL(q || p) in closed form: there the VAE goes by estimator A.

Expected: with k the IWAE gains, the more codes it keeps active the more so; the VAE does not gain.
"""

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from numpy.typing import NDArray
from torch import nn

from aevb.algorithms import AEVB
from aevb.conditional import Chain, Conditional, bernoulli, standard_normal
from aevb.data import Dataset, open_source, split
from aevb.evaluation import diagnose, evidence
from aevb.evaluation.diagnosis import ACTIVE_VARIANCE
from aevb.families import Normal
from aevb.model import Model
from aevb.networks import MLP, Leading
from aevb.objectives import elbo_a, elbo_b, iwae
from aevb.optimizers import Adam
from aevb.plan import Plan
from aevb.plots.style import TRAINING, VALIDATION, calm_axes, own_legend, panels, quiet_title
from aevb.posterior import Amortized, Posterior, mean_field
from aevb.randomness import Stream, generator, torch_seeded
from aevb.reproduce.experiment import Told, judged, times
from aevb.reproduce.jobs import Job, Share
from aevb.reproduce.performing import Budget, Expectation, Results, number, rises, table
from aevb.storage import RunFolder
from aevb.training import train

NAME, TITLE = "iwae-table", "Importance weighted autoencoders"
SOURCE = "Burda et al. 2015, tables 1 and 3"
TABLES = {"mnist": "table 1", "binarized-mnist": "table 3"}
OBJECTIVES = {("vae", 1): elbo_b, ("vae", 2): elbo_a, ("iwae", 1): iwae, ("iwae", 2): iwae}
KS = (1, 5, 50)
LATENTS, HIDDEN, BATCH = 50, (200, 200), 20
BELOW, BETWEEN = 100, (100, 100)
"""Codes of the layer next to the data where there are two, and the hidden units between them."""
RATE, EPS, STAGES_IN_A_DECADE = 1e-3, 1e-4, 7
ROWS_FOR_BIAS = 10_000
STAGES = {"minute": 1, "hour": 3, "full": 8}
ROWS = {"minute": 2000, "hour": None, "full": None}
JUDGED = {"minute": 100, "hour": 1000, "full": 10_000}
IMPORTANCE = {"minute": 50, "hour": 5000, "full": 5000}
PUBLISHED: dict[tuple[str, int], dict[tuple[str, int], tuple[float, tuple[int, ...]]]] = {
    ("mnist", 1): {
        ("vae", 1): (86.76, (19,)),
        ("vae", 5): (86.47, (20,)),
        ("vae", 50): (86.35, (20,)),
        ("iwae", 5): (85.54, (22,)),
        ("iwae", 50): (84.78, (25,)),
    },
    ("mnist", 2): {
        ("vae", 1): (85.33, (16, 5)),
        ("vae", 5): (85.01, (17, 5)),
        ("vae", 50): (84.78, (17, 5)),
        ("iwae", 5): (83.89, (21, 5)),
        ("iwae", 50): (82.90, (26, 7)),
    },
    ("binarized-mnist", 1): {
        ("vae", 1): (88.71, (19,)),
        ("vae", 5): (88.83, (19,)),
        ("vae", 50): (89.05, (20,)),
        ("iwae", 5): (87.63, (22,)),
        ("iwae", 50): (87.10, (24,)),
    },
    ("binarized-mnist", 2): {
        ("vae", 1): (88.08, (16, 5)),
        ("vae", 5): (87.63, (17, 5)),
        ("vae", 50): (87.86, (17, 6)),
        ("iwae", 5): (86.17, (21, 5)),
        ("iwae", 50): (85.32, (24, 7)),
    },
}
"""By data and layers, objective and k: -log p(x) in nats, and active units of each layer."""
TAKES: Mapping[Budget, str] = {
    "minute": "one pass over 2000 rows, k = 1 and 5, static MNIST",
    "hour": "13 passes, one layer; L_5000 on 1000 test rows",
    "full": "3280 passes as in the paper, which is days; L_5000 on 10,000 test rows",
}


def name_of(data: str, layers: int, objective: str, k: int) -> str:
    """The name of a cell's job."""
    return f"{data}-{layers}-{objective}-{k}"


def jobs(budget: Budget) -> list[Job]:
    """A job for each cell, the longest first."""
    cells = [
        (data, layers, objective, k)
        for (data, layers), cells in PUBLISHED.items()
        for objective, k in sorted(cells, key=lambda cell: -cell[1])
        if _affordable(budget, data, layers, k)
    ]
    return [
        Job(
            name_of(data, layers, objective, k),
            {
                "data": data,
                "layers": layers,
                "objective": objective,
                "k": k,
                "rows": ROWS[budget],
                "stages": STAGES[budget],
                "judged": JUDGED[budget],
                "importance": IMPORTANCE[budget],
                "seed": 0,
            },
            work,
        )
        for data, layers, objective, k in cells
    ]


def _affordable(budget: Budget, data: str, layers: int, k: int) -> bool:
    if budget == "minute":
        return data == "binarized-mnist" and k < 50
    return budget == "full" or layers == 1


def work(settings: Mapping[str, Any], folder: Path, share: Share) -> dict[str, Any]:
    """Train one cell, and judge it on test rows."""
    seed, stages, layers = settings["seed"], settings["stages"], settings["layers"]
    data = open_data(settings["data"], settings["rows"])
    model, posterior = build(data, layers, seed)
    objective = OBJECTIVES[settings["objective"], layers]
    learner = AEVB(model, posterior, objective, optimizer=Adam(RATE, eps=EPS), compiled=stages > 1)
    passes = sum(3**i for i in range(stages))
    plan = Plan(passes, BATCH, settings["k"], schedule(stages), seed=seed)
    history = train(
        learner, data, plan, run=RunFolder(folder), resume=True, callbacks=[Told(share, 0.9)]
    )
    rows = judged(data.test, settings["judged"])
    found = evidence(model, posterior, rows, settings["importance"], seed=seed)
    return {
        "passes": passes,
        "importance": found.importance.as_dict(),
        "elbo": found.elbo.as_dict(),
        "active_units": active(diagnose(model, posterior, rows).posterior_mean_variance, layers),
        "training_rows": len(data.train),
        **times(history),
    }


def open_data(name: str, rows: int | None) -> Dataset:
    """Training and test rows; nothing is held out for validation."""
    data = split(open_source(name), limit=rows)
    rest, train_rows = data.validation, data.train
    if rows is None and name == "mnist":  # it has no validation rows of its own
        whole = np.sort(np.concatenate([train_rows.index, rest.index]))
        train_rows = replace(train_rows, index=whole)
    return replace(data, train=train_rows, validation=rest.pick(np.arange(0)))


def active(variance: NDArray[np.float64], layers: int) -> list[int]:
    """The active units of each layer, from the one next to the data."""
    parts = np.split(variance > ACTIVE_VARIANCE, [] if layers == 1 else [BELOW])
    return [int(part.sum()) for part in parts]


def build(data: Dataset, layers: int, seed: int) -> tuple[Model, Posterior]:
    """Networks begun at Glorot's law, the last bias at the mean of the training rows."""
    width, below = data.train.width, LATENTS if layers == 1 else BELOW
    prior: nn.Module = standard_normal(LATENTS)
    with torch_seeded(generator(seed, Stream.INITIALIZATION), torch.device("cpu")):
        decoder: nn.Module = MLP(below, HIDDEN, width)
        posterior = mean_field(MLP(width, HIDDEN, 2 * below))
        if layers == 2:
            up = Conditional(MLP(below, BETWEEN, 2 * LATENTS), Normal())
            down = Conditional(MLP(LATENTS, BETWEEN, 2 * below), Normal())
            posterior = Amortized(Chain([posterior.conditional, up], [below, LATENTS]))
            prior = Chain([prior, down], [LATENTS, below], reverse=True)
            decoder = Leading(decoder, below)
    likelihood = bernoulli(decoder)
    likelihood.start_at(judged(data.train, ROWS_FOR_BIAS).all())
    return Model(prior, likelihood), posterior


def schedule(stages: int) -> Callable[[float], float]:
    """The factor on the learning rate: 10^(-i/7) for 3^i passes.

    Example:
        >>> factor = schedule(3)
        >>> [round(factor(done / 13), 3) for done in (0, 1, 3, 4, 12)]
        [1.0, 0.72, 0.72, 0.518, 0.518]
    """
    ends = list(accumulate(3**i for i in range(stages)))
    shares = [end / ends[-1] for end in ends]
    return lambda done: float(
        10.0 ** (-min(bisect_right(shares, done), stages - 1) / STAGES_IN_A_DECADE)
    )


def judge(results: Results) -> list[Expectation]:
    """The orders of the tables."""
    found = []
    for data, layers in PUBLISHED:
        cells = cells_of(results, data, layers)
        if not cells:
            continue
        title = title_of(data, layers)
        bound = {cell: result["importance"]["mean"] for cell, result in cells.items()}
        units = {cell: sum(result["active_units"]) for cell, result in cells.items()}
        same = ("vae", 1)  # is the IWAE with k = 1
        chain = [same, *(("iwae", k) for k in KS[1:] if ("iwae", k) in cells)]
        found += [
            rises(f"{title}: with k the IWAE's bound rises", _named(bound, chain)),
            rises(
                f"{title}: with k the IWAE keeps no fewer units active",
                _named(units, chain),
                strictly=False,
            ),
        ]
        for k in KS[1:]:
            if ("iwae", k) in cells:
                pair = [("vae", k), ("iwae", k)]
                found += [
                    rises(f"{title}, k = {k}: IWAE above VAE", _named(bound, pair)),
                    rises(
                        f"{title}, k = {k}: IWAE has no fewer active units",
                        _named(units, pair),
                        strictly=False,
                    ),
                ]
    return found


Cell = tuple[str, int]


def _named(values: Mapping[Cell, float], cells: Sequence[Cell]) -> dict[str, float]:
    return {f"{objective} {k}": float(values[objective, k]) for objective, k in cells}


def title_of(data: str, layers: int) -> str:
    """What a part of a table is called."""
    return f"{TABLES[data]}, {('one layer', 'two layers')[layers - 1]}"


def cells_of(results: Results, data: str, layers: int) -> dict[Cell, Mapping[str, Any]]:
    """The results of a data set and so many layers, by objective and k."""
    return {
        (objective, k): results[name_of(data, layers, objective, k)]
        for objective, k in sorted(PUBLISHED[data, layers], key=lambda cell: (cell[0], cell[1]))
        if name_of(data, layers, objective, k) in results
    }


def draw(results: Results, places: Mapping[str, Path]) -> Axes:
    """L_K against k, a panel for each table and number of layers."""
    shown = [part for part in PUBLISHED if cells_of(results, *part)]
    ax, inside = panels(None, 1, len(shown), (3.2, 2.6), (0.9, 0.6))
    for panel, part in zip(inside, shown, strict=True):
        cells = cells_of(results, *part)
        for objective, color in (("vae", VALIDATION), ("iwae", TRAINING)):
            ks = [k for k in KS if ("vae" if k == 1 else objective, k) in cells]
            values = [cells["vae" if k == 1 else objective, k]["importance"]["mean"] for k in ks]
            panel.plot(ks, values, "o-", color=color, linewidth=1.3, markersize=4, label=objective)
        panel.set_xscale("log")
        panel.set_xticks(KS, [str(k) for k in KS])
        panel.minorticks_off()
        calm_axes(panel, "k", "log p(x), nats, from below")
        quiet_title(panel, title_of(*part))
        own_legend(panel, loc="lower right", bbox_to_anchor=(1.0, 0.0), ncols=1)
    return ax


def numbers_table(results: Results) -> str:
    """Every cell beside the published one."""
    rows = []
    for data, layers in PUBLISHED:
        for (objective, k), result in cells_of(results, data, layers).items():
            nll, units = PUBLISHED[data, layers][objective, k]
            certificate = result["importance"]
            rows.append(
                (
                    data,
                    str(layers),
                    objective if k > 1 else "vae = iwae",
                    str(k),
                    str(result["passes"]),
                    f"{-certificate['mean']:.2f} ± {number(certificate['standard_error'])}",
                    "+".join(map(str, result["active_units"])),
                    f"{nll:.2f}",
                    "+".join(map(str, units)),
                )
            )
    head = (
        "data",
        "layers",
        "objective",
        "k",
        "passes",
        "-L_K, nats",
        "active",
        "paper, 3280 passes",
    )
    return table((*head, "active"), rows)

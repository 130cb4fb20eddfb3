"""Estimators of the gradient on digits, of Gaussian and of Bernoulli codes: bias, variance, cost.

    python benchmarks/gradients.py [--epochs 50] [--rows 20] [--replicates 1000] [--out FILE]

Two models of binarized digits, 64-50-D-50-64 with tanh, of 5 Gaussian and of 8 Bernoulli codes, are
trained; then every estimator that applies is measured on the same test rows: of the evidence lower
bound with 2 samples, and of the importance-weighted one with 5. The tables are printed, the numbers
kept in gradients.json. A few minutes on one core.
"""

import argparse
import json
import platform
from pathlib import Path
from typing import Any

import torch

import aevb
from aevb.data import Binarization, Dataset, open_source, split
from aevb.evaluation import Comparison, compare_gradients
from aevb.families import Bernoulli
from aevb.model import Model
from aevb.objectives import LeaveOneOut, Objective, score_function
from aevb.posterior import Posterior, amortized

RESULTS = Path(__file__).parent / "gradients.json"
WIDTH, HIDDEN, GAUSSIAN, COINS = 64, [50], 5, 8
ASKED = (("elbo", 2), ("iwae", 5))


def gaussian() -> tuple[Model, Posterior, Objective]:
    likelihood = aevb.bernoulli(aevb.MLP(GAUSSIAN, HIDDEN, WIDTH))
    encoder = aevb.mean_field(aevb.MLP(WIDTH, HIDDEN, 2 * GAUSSIAN))
    return Model(aevb.standard_normal(GAUSSIAN), likelihood), encoder, aevb.elbo_b


def coins() -> tuple[Model, Posterior, Objective]:
    prior = aevb.Unconditional(Bernoulli(), COINS, learned=True)
    likelihood = aevb.bernoulli(aevb.MLP(COINS, HIDDEN, WIDTH))
    encoder = amortized(aevb.MLP(WIDTH, HIDDEN, COINS), Bernoulli())
    return Model(prior, likelihood), encoder, score_function(aevb.elbo_b, LeaveOneOut())


MODELS = {f"{GAUSSIAN} Gaussian codes": gaussian, f"{COINS} Bernoulli codes": coins}


def trained(name: str, data: Dataset, epochs: int) -> tuple[Model, Posterior, dict[str, Any]]:
    """The model and posterior of a name after so many epochs, and what they had reached."""
    torch.manual_seed(0)
    model, posterior, objective = MODELS[name]()
    model.likelihood.start_at(data.train.all())
    learner = aevb.AEVB(model, posterior, objective, optimizer=aevb.Adam(3e-3))
    history = aevb.train(learner, data, aevb.Plan(epochs=epochs, samples=2))
    return model, posterior, history[-1]["validation"]


def table(found: Comparison) -> list[str]:
    """The lines of a table in Markdown."""
    norms = ", ".join(f"{norm:.3g} in {part}" for part, norm in found.norms.items())
    lines = [
        f"norm of the gradient {norms}; bias against {found.reference}",
        "| | bias in theta | variance | bias in phi | variance | cost |",
        "|---|---|---|---|---|---|",
    ]
    for e in found.estimators:
        cells = [f"{w.bias:.2g} ± {w.bias_error:.2g} | {w.variance:.3g}" for w in (e.theta, e.phi)]
        name = e.name if e.unbiased else f"{e.name} *"
        lines.append(f"| {name} | {' | '.join(cells)} | {e.cost:.1f} |")
    return [*lines, found.recommendation, ""]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--rows", type=int, default=20)
    parser.add_argument("--replicates", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    data = split(open_source("digits"), Binarization("threshold"))
    about = {"python": platform.python_version(), "torch": torch.__version__}
    settings = {"epochs": asked.epochs, "rows": asked.rows, "replicates": asked.replicates}
    results: dict[str, Any] = {"versions": about, "settings": settings, "models": {}}
    for name in MODELS:
        model, posterior, reached = trained(name, data, asked.epochs)
        results["models"][name] = {"validation": reached}
        rows = data.test.limit(asked.rows)
        for bound, samples in ASKED:
            how = {"bound": bound, "samples": samples, "replicates": asked.replicates}
            found = compare_gradients(model, posterior, rows, **how)
            results["models"][name][bound] = found.as_dict()
            print(f"## {name}, {bound}, {samples} samples, bound {reached['elbo']:.2f} nats")
            print("\n".join(table(found)), flush=True)
    asked.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""One model, one data set, every learner: what each reaches, and what it takes.

    python benchmarks/learners.py [--epochs 200] [--seed 0] [--only NAME ...]

8x8 digits with a threshold, two latent dimensions, 64 hidden units: log p(x) of the test rows is
known by quadrature, so that what a learner's own bound says does not matter. Every learner passes
over the data as often, in batches of 100, uncompiled and with one thread, and the model is the one
after the last pass. Results go to learners.json beside this file.
"""

import argparse
import json
import platform
import time
from pathlib import Path
from typing import Any

import torch

from aevb.evaluation import evidence, exact, refit
from aevb.model import Model
from aevb.plan import plan_of
from aevb.posterior import PerDatum
from aevb.settings import check_settings
from aevb.storage import build, learner, settle_latents
from aevb.training import train
from aevb.workflow.training import resolve

OUT = Path(__file__).with_suffix(".json")
USUAL = {
    "latent_dim": 2,
    "hidden": (64,),
    "activation": "relu",
    "binarize": "threshold",
    "likelihood": "bernoulli",
    "lr": 3e-3,
}
LEARNERS: dict[str, dict[str, Any]] = {
    "aevb": {},
    "aevb, five times the passes": {"epochs": 1000},
    "aevb, MAP": {"weight_prior": "normal"},
    "aevb, iwae of 5": {"objective": "iwae", "samples": 5},
    "aevb, score function of 5": {"gradient": "score-function", "samples": 5},
    "semi-amortized": {"algorithm": "semi-amortized", "refine": 5},
    "mean-field": {"algorithm": "mean-field"},
    "full-bayes": {"algorithm": "full-bayes"},
    "wake-sleep": {"algorithm": "wake-sleep"},
    "reweighted-wake-sleep of 5": {"algorithm": "reweighted-wake-sleep", "samples": 5},
    "monte-carlo-em": {"algorithm": "monte-carlo-em"},
}


def trained(options: dict[str, Any]) -> tuple[Model, Any, Any, float]:
    """Train as the options say: model, posterior, data, seconds."""
    settings, data = resolve(settle_latents(check_settings(options)))
    model, posterior = build(settings, data)
    algorithm = learner(settings, model, posterior, len(data.train))
    nothing = data.train.pick(range(0))  # without validation rows the last model is kept
    started = time.perf_counter()
    train(algorithm, type(data)(data.source, data.train, nothing, nothing), plan_of(settings))
    return model, posterior, data, time.perf_counter() - started


def judged(options: dict[str, Any]) -> dict[str, float]:
    """log p(x) of the test rows, exactly, and the bound of the posterior that was learned."""
    model, posterior, data, seconds = trained(options)
    if isinstance(posterior, PerDatum):
        posterior = refit(model, posterior, data.test)
    truth = exact(model, posterior, data.test)
    bound = evidence(model, posterior, data.test, 100).elbo
    return {
        "test": truth.mean,
        "standard_error": truth.standard_error,
        "bound": bound.mean,
        "seconds": seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", choices=LEARNERS, default=list(LEARNERS))
    given = parser.parse_args()
    torch.set_num_threads(1)
    before = json.loads(OUT.read_text())["learners"] if OUT.exists() else {}
    found = {}
    for name in given.only:
        found[name] = judged(USUAL | {"epochs": given.epochs, "seed": given.seed} | LEARNERS[name])
        print(name, found[name], flush=True)
    result = {
        "epochs": given.epochs,
        "seed": given.seed,
        "machine": f"{platform.machine()}, torch {torch.__version__}, 1 thread",
        "learners": before | found,
    }
    OUT.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()

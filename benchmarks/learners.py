"""One model, one data set, every learner: what each reaches, and what it takes.

    python benchmarks/learners.py [digits] [factors] [--epochs 200] [--seed 0]

digits    binarized 8x8 digits, two latent dimensions, 64 hidden units: log p(x) of the test rows is
          known by quadrature, so that what a learner's own bound says does not matter
factors   grey 8x8 digits, a linear decoder of five dimensions with a noise for each pixel (factor
          analysis): the largest log-likelihood there is is known by EM

Every learner passes over the data as often, in batches of 100 but for EM, with one thread, and the
model is the one after the last pass. Results go to learners.json beside this file.
"""

import argparse
import json
import platform
import time
from pathlib import Path
from typing import Any

import torch

from aevb.evaluation import evidence, exact, refit
from aevb.linear_gaussian import as_linear_gaussian
from aevb.model import Model
from aevb.posterior import PerDatum
from aevb.storage import build, check_settings, learner, settle_latents
from aevb.training import train
from aevb.workflow.training import plan_of, resolve

OUT = Path(__file__).with_suffix(".json")
DIGITS = {
    "aevb": {},
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
FACTORS = ("aevb", "semi-amortized", "mean-field", "wake-sleep", "monte-carlo-em")


def run(options: dict[str, Any]) -> tuple[Model, Any, Any, float]:
    """Train as the options say: model, posterior, data, seconds."""
    asked = check_settings({"hidden": None, "activation": None, **options})
    settings, data = resolve(settle_latents(asked))
    model, posterior = build(settings, data)
    algorithm = learner(settings, model, posterior, len(data.train))
    started = time.perf_counter()
    # Without validation rows: the last model is kept, which every learner has.
    nothing = data.train.pick(range(0))
    train(algorithm, type(data)(data.source, data.train, nothing, nothing), plan_of(settings))
    return model, posterior, data, time.perf_counter() - started


def on_digits(epochs: int, seed: int) -> dict[str, Any]:
    """log p(x) of the test rows, exactly, and the bound of the posterior that was learned."""
    found = {}
    for name, own in DIGITS.items():
        options = {"latent_dim": 2, "hidden": (64,), "binarize": "threshold", "lr": 3e-3}
        model, posterior, data, seconds = run(
            {**options, "epochs": epochs, "seed": seed, "likelihood": "bernoulli", **own}
        )
        if isinstance(posterior, PerDatum):
            posterior = refit(model, posterior, data.test)
        truth = exact(model, posterior, data.test)
        bound = evidence(model, posterior, data.test, 100).elbo
        found[name] = {
            "test": truth.mean,
            "standard_error": truth.standard_error,
            "bound": bound.mean,
            "seconds": seconds,
        }
        print(name, found[name], flush=True)
    return found


def on_factors(epochs: int, seed: int) -> dict[str, Any]:
    """The log-likelihood of the training rows, and how far below the largest one it lies."""
    found = {}
    for name in FACTORS:
        options = {"latent_dim": 5, "hidden": (), "likelihood": "gaussian", "binarize": "none"}
        model, _, data, seconds = run(
            {**options, "epochs": epochs, "seed": seed, "algorithm": name, "lr": 3e-3}
        )
        found[name] = {"seconds": seconds, "train": _evidence(model, data)}
        print(name, found[name], flush=True)
    return found


def _evidence(model: Model, data: Any) -> float:
    same = as_linear_gaussian(model)
    assert same is not None
    return float(same.log_prob(data.train.all().double()).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=["digits"])
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    parts = {"digits": on_digits, "factors": on_factors}
    result = json.loads(OUT.read_text()) if OUT.exists() else {}
    for part in given.parts:
        result[part] = {
            "epochs": given.epochs,
            "seed": given.seed,
            "machine": f"{platform.machine()}, torch {torch.__version__}, 1 thread",
            "learners": parts[part](given.epochs, given.seed),
        }
    OUT.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()

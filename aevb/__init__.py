"""Auto-Encoding Variational Bayes: deep latent-variable models with honest numbers.

Names are imported when they are first used, so that `import aevb` costs nothing.
"""

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

logging.getLogger("aevb").addHandler(logging.NullHandler())  # a library speaks when asked to

if TYPE_CHECKING:
    from aevb import codes, data, exchange, plots
    from aevb.algorithms import (
        AEVB,
        EM,
        FullBayes,
        GeneralizedEM,
        MeanField,
        MonteCarloEM,
        ReweightedWakeSleep,
        SemiSupervised,
        WakeSleep,
    )
    from aevb.conditional import (
        Conditional,
        Unconditional,
        bernoulli,
        categorical,
        continuous_bernoulli,
        full_gaussian,
        gaussian,
        negative_binomial,
        poisson,
        standard_normal,
    )
    from aevb.estimator import VAE, SemiSupervisedVAE, VAEClassifier, VAEDetector
    from aevb.evaluation import calibrate, check, diagnose, estimate, evidence, score_rows
    from aevb.evaluation.gaps import gaps
    from aevb.imputation import denoise, impute
    from aevb.model import Model
    from aevb.networks import MLP, ConvolutionalDecoder, ConvolutionalEncoder
    from aevb.objectives import elbo_a, elbo_b, free_bits, iwae
    from aevb.optimizers import SGD, Adagrad, Adam
    from aevb.plan import Plan
    from aevb.posterior import Batch, amortized, full_covariance, mean_field, per_datum
    from aevb.storage import load, save
    from aevb.training import train

_HOMES = {
    "algorithms": [
        "AEVB",
        "EM",
        "FullBayes",
        "GeneralizedEM",
        "MeanField",
        "MonteCarloEM",
        "ReweightedWakeSleep",
        "SemiSupervised",
        "WakeSleep",
    ],
    "conditional": [
        "Conditional",
        "Unconditional",
        "bernoulli",
        "categorical",
        "continuous_bernoulli",
        "full_gaussian",
        "gaussian",
        "negative_binomial",
        "poisson",
        "standard_normal",
    ],
    "estimator": ["VAE", "SemiSupervisedVAE", "VAEClassifier", "VAEDetector"],
    "evaluation": [
        "calibrate",
        "check",
        "diagnose",
        "estimate",
        "evidence",
        "gaps",
        "score_rows",
    ],
    "imputation": ["denoise", "impute"],
    "model": ["Model"],
    "networks": ["MLP", "ConvolutionalDecoder", "ConvolutionalEncoder"],
    "objectives": ["elbo_a", "elbo_b", "free_bits", "iwae"],
    "optimizers": ["SGD", "Adagrad", "Adam"],
    "posterior": ["Batch", "amortized", "full_covariance", "mean_field", "per_datum"],
    "storage": ["load", "save"],
    "plan": ["Plan"],
    "training": ["train"],
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    *_HOME,
    "codes",
    "data",
    "exchange",
    "plots",
]


def __getattr__(name: str) -> Any:
    if name in ("codes", "data", "exchange", "plots"):
        return import_module(f"aevb.{name}")
    if name in _HOME:
        return getattr(import_module(f"aevb.{_HOME[name]}"), name)
    raise AttributeError(f"module 'aevb' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)

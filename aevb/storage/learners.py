"""Learners by name: an algorithm with its objective and optimizer, from the settings of a run."""

from collections.abc import Callable
from typing import Any

from aevb.algorithms import (
    AEVB,
    FullBayes,
    Learner,
    MonteCarloEM,
    ReweightedWakeSleep,
    WakeSleep,
)
from aevb.algorithms.monte_carlo_em import PASSES
from aevb.errors import UsageError
from aevb.model import Model
from aevb.optimizers import SGD, Adagrad, Adam, Optimizer, Schedule, constant, cosine, linear, steps
from aevb.posterior import Posterior
from aevb.settings import Settings
from aevb.storage.exact_models import exact_learner
from aevb.storage.gradients import estimator_of
from aevb.storage.settings import pick

OPTIMIZERS: dict[str, type[Optimizer]] = {"adam": Adam, "adagrad": Adagrad, "sgd": SGD}
SCHEDULES: dict[str, Schedule] = {
    "constant": constant,
    "steps": steps,
    "cosine": cosine,
    "linear": linear,
}


def learner(settings: Settings, model: Model, posterior: Posterior, rows: int) -> Learner:
    """The algorithm with its objective and optimizer, for so many training rows."""
    make: Make = pick(ALGORITHMS, settings.algorithm, "--algorithm")
    if settings.exact:
        return exact_learner(settings, model, posterior, rows, gradient_options(settings, rows))
    return make(settings, model, posterior, rows)


def pick_schedule(settings: Settings) -> Schedule:
    """The learning-rate schedule that the settings name."""
    schedule: Schedule = pick(SCHEDULES, settings.lr_schedule, "--lr-schedule")
    return schedule


def gradient_options(settings: Settings, rows: int) -> dict[str, Any]:
    """What every learner by gradients takes."""
    optimizer: Callable[..., Optimizer] = pick(OPTIMIZERS, settings.optimizer, "--optimizer")
    rate = {} if settings.lr is None else {"lr": settings.lr}
    return {
        "optimizer": optimizer(clip=settings.clip, **rate),
        "weight_prior_rows": rows if settings.weight_prior == "normal" else None,
        "compiled": settings.step == "compiled",
        "precision": "bfloat16" if settings.precision == "bfloat16" else "float32",
    }


def _aevb(settings: Settings, model: Model, posterior: Posterior, rows: int) -> Learner:
    objective = estimator_of(settings, model)
    return AEVB(model, posterior, objective, **gradient_options(settings, rows))


def _wake_sleep(kind: type[WakeSleep]) -> "Make":
    """A learner that has no objective to choose."""

    def make(settings: Settings, model: Model, posterior: Posterior, rows: int) -> Learner:
        return kind(model, posterior, **gradient_options(settings, rows))

    return make


def _monte_carlo_em(settings: Settings, model: Model, posterior: Posterior, rows: int) -> Learner:
    options = gradient_options(settings, rows)
    return MonteCarloEM(model, posterior, **options, seed=settings.seed)


def _full_bayes(settings: Settings, model: Model, posterior: Posterior, rows: int) -> Learner:
    if settings.weight_prior == "normal":
        raise UsageError("the weights have the prior N(0, I) already: leave weight_prior out")
    options = gradient_options(settings, rows) | {"weight_prior_rows": rows, "seed": settings.seed}
    return FullBayes(model, posterior, estimator_of(settings, model), **options)


Make = Callable[[Settings, Model, Posterior, int], Learner]
"""Settings, model, posterior and the number of training rows to a learner."""
ALGORITHMS: dict[str, Make] = {
    "aevb": _aevb,
    "semi-amortized": _aevb,
    "full-bayes": _full_bayes,
    "wake-sleep": _wake_sleep(WakeSleep),
    "reweighted-wake-sleep": _wake_sleep(ReweightedWakeSleep),
    "mean-field": _aevb,
    "monte-carlo-em": _monte_carlo_em,
    "em": _aevb,
}


def passes_of(settings: Settings) -> int:
    """How often a step goes forward and back through the networks."""
    return PASSES if settings.algorithm == "monte-carlo-em" else 1

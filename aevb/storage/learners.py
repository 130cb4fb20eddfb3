"""Learners by name: an algorithm with its objective and optimizer, from the settings of a run."""

from collections.abc import Callable
from typing import Any

from aevb.algorithms import AEVB, Learner, ReweightedWakeSleep, WakeSleep
from aevb.model import Model
from aevb.optimizers import SGD, Adagrad, Adam, Optimizer, Schedule, constant, cosine, linear, steps
from aevb.posterior import Posterior
from aevb.storage.gradients import estimator_of
from aevb.storage.settings import Settings, pick

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
    return make(settings, model, posterior, rows)


def pick_schedule(settings: Settings) -> Schedule:
    """The learning-rate schedule that the settings name."""
    schedule: Schedule = pick(SCHEDULES, settings.lr_schedule, "--lr-schedule")
    return schedule


def gradient_options(settings: Settings, rows: int) -> dict[str, Any]:
    """What every learner by gradients takes."""
    optimizer: Callable[..., Optimizer] = pick(OPTIMIZERS, settings.optimizer, "--optimizer")
    return {
        "optimizer": optimizer() if settings.lr is None else optimizer(learning_rate=settings.lr),
        "weight_prior_rows": rows if settings.weight_prior == "normal" else None,
        "clip": settings.clip,
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


Make = Callable[[Settings, Model, Posterior, int], Learner]
"""Settings, model, posterior and the number of training rows to a learner."""
ALGORITHMS: dict[str, Make] = {
    "aevb": _aevb,
    "wake-sleep": _wake_sleep(WakeSleep),
    "reweighted-wake-sleep": _wake_sleep(ReweightedWakeSleep),
}

"""Learners by name: an algorithm with its objective and optimizer, from the settings of a run."""

from collections.abc import Callable
from typing import Any

from aevb.algorithms import AEVB, Learner, ReweightedWakeSleep, WakeSleep
from aevb.errors import UsageError
from aevb.model import Model
from aevb.objectives import Objective, elbo_a, elbo_b, free_bits, iwae
from aevb.optimizers import SGD, Adagrad, Adam, Optimizer, Schedule, constant, cosine, linear, steps
from aevb.posterior import Posterior
from aevb.storage.settings import Settings, pick

OBJECTIVES: dict[str, Objective] = {"elbo-a": elbo_a, "elbo-b": elbo_b, "iwae": iwae}
OPTIMIZERS: dict[str, type[Optimizer]] = {"adam": Adam, "adagrad": Adagrad, "sgd": SGD}
WAKE_SLEEP: dict[str, type[WakeSleep]] = {
    "wake-sleep": WakeSleep,
    "reweighted-wake-sleep": ReweightedWakeSleep,
}
"""Algorithms whose step has no objective to choose."""
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


def objective_of(settings: Settings) -> Objective:
    """The objective that the settings name."""
    objective: Objective = pick(OBJECTIVES, settings.objective, "--objective")
    if not settings.free_bits:
        return objective
    if settings.objective != "elbo-b":
        raise UsageError("--free-bits needs --objective elbo-b: it bounds KL(q || p) from below")
    return free_bits(settings.free_bits)


def _aevb(settings: Settings, model: Model, posterior: Posterior, rows: int) -> Learner:
    return AEVB(model, posterior, objective_of(settings), **gradient_options(settings, rows))


def _wake_sleep(kind: type[WakeSleep]) -> "Make":
    """A learner that has no objective to choose."""

    def make(settings: Settings, model: Model, posterior: Posterior, rows: int) -> Learner:
        return kind(model, posterior, **gradient_options(settings, rows))

    return make


Make = Callable[[Settings, Model, Posterior, int], Learner]
"""Settings, model, posterior and the number of training rows to a learner."""
ALGORITHMS: dict[str, Make] = {
    "aevb": _aevb,
    **{name: _wake_sleep(kind) for name, kind in WAKE_SLEEP.items()},
}

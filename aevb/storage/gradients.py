"""Gradients by name: which estimators there are, which bounds they are of, and what suits a run.

--gradient      how the gradient of the objective is estimated
--baseline      what the score function expects of its signal before z is drawn
--temperature   how soft the codes of gumbel-softmax are
"""

from dataclasses import replace

import torch

from aevb.devices import tensor_of
from aevb.distributions import route
from aevb.errors import UsageError
from aevb.evaluation import evaluating
from aevb.model import Model
from aevb.objectives import (
    Baseline,
    LeaveOneOut,
    Objective,
    RunningMean,
    doubly_reparameterized,
    elbo_a,
    elbo_b,
    enumeration,
    free_bits,
    gumbel_softmax,
    iwae,
    learned_baseline,
    path_derivative,
    score_function,
    straight_through,
    vimco,
)
from aevb.randomness import Stream, generator, torch_seeded
from aevb.settings import Settings
from aevb.storage.latents import has_closed_divergence, laws_of
from aevb.storage.settings import pick, refuse, refuse_unless

OBJECTIVES: dict[str, Objective] = {"elbo-b": elbo_b, "elbo-a": elbo_a, "iwae": iwae}
"""The usual one first, then what suits where KL(q || p) has no closed form."""
GRADIENTS = {
    "reparameterized": tuple(OBJECTIVES),
    "score-function": ("elbo-b", "elbo-a", "iwae"),
    "path-derivative": ("elbo-a", "iwae"),
    "doubly-reparameterized": ("iwae",),
    "vimco": ("iwae",),
    "gumbel-softmax": ("elbo-b",),
    "straight-through": ("elbo-b",),
    "enumeration": ("elbo-b", "elbo-a"),
}
"""Estimators of the gradient, and the objectives that each is of, the usual one first."""
OWN = {
    "wake-sleep": "wake-sleep",
    "reweighted-wake-sleep": "reweighted-wake-sleep",
    "monte-carlo-em": "log-joint",
}
"""Algorithms that climb what no option changes, and what it is called."""
BASELINES = ("none", "running-mean", "learned", "leave-one-out")
TEMPERATURE = 0.5
OPTIONS_OF = {
    "baseline": ("score-function",),
    "temperature": ("gumbel-softmax",),
    "free_bits": ("reparameterized",),
}
"""Options, each of one gradient."""


def settle_gradient(settings: Settings) -> Settings:
    """Objective, gradient and baseline where they were left open: those that suit the posterior.

        draws with a gradient   reparameterized
        discrete draws          vimco for iwae; else the score function, with the baseline
                                leave-one-out from 2 samples on, before that running-mean

    Errors: UsageError for names that there are not, or a combination that makes no sense.
    """
    if settings.algorithm in OWN:
        return _with_its_own(settings)
    pick({"auto": None, **GRADIENTS}, settings.gradient, "--gradient")
    pick(dict.fromkeys(("auto", *BASELINES)), settings.baseline, "--baseline")
    q, p = laws_of(settings)
    gradient, baseline = settings.gradient, settings.baseline
    if gradient == "auto":
        gradient = "reparameterized" if route(q).noise.differentiable else _of_hard_draws(settings)
    if gradient == "score-function" and baseline == "auto":
        baseline = "leave-one-out" if settings.samples > 1 else "running-mean"
    objective = _objective(settings, gradient)
    settled = replace(settings, objective=objective, gradient=gradient, baseline=baseline)
    refuse_unless(settled, "gradient", OPTIONS_OF)
    if gradient == "enumeration":
        refuse(settled, ["samples"], "--gradient enumeration, which draws nothing")
    _estimator(settled, 1).check(q, p, settings.samples)
    return settled


def _with_its_own(settings: Settings) -> Settings:
    """The objective of an algorithm that has its own; UsageError for an option that would be of
    another."""
    objective = OWN[settings.algorithm]
    whom = f"--algorithm {settings.algorithm}, which has an objective of its own"
    useless = ("gradient", "baseline", "temperature", "beta", "warmup_steps", "free_bits")
    refuse(settings, ("objective", *useless), whom, but=(objective,))
    if settings.algorithm == "reweighted-wake-sleep" and settings.samples < 2:
        raise UsageError(
            "--algorithm reweighted-wake-sleep weighs several samples of a code against each "
            "other: add --samples 5, say, or take wake-sleep"
        )
    return replace(settings, objective=objective)


def estimator_of(settings: Settings, model: Model) -> Objective:
    """The objective with the gradient that settled settings name, for the data of a model."""
    found = _estimator(settings, _width(model))
    for module in found.modules().values():
        module.to(tensor_of(model))
    return found


def _estimator(settings: Settings, width: int) -> Objective:
    """The estimator of settled settings, for data of so many numbers."""
    bound = OBJECTIVES[settings.objective]
    if settings.free_bits:
        if settings.objective != "elbo-b":
            raise UsageError(
                "--free-bits needs --objective elbo-b: it bounds KL(q || p) from below"
            )
        bound = free_bits(settings.free_bits)
    match settings.gradient:
        case "score-function":
            return score_function(bound, _baseline(settings, width))
        case "path-derivative":
            return path_derivative(bound)
        case "doubly-reparameterized":
            return doubly_reparameterized
        case "vimco":
            return vimco
        case "gumbel-softmax":
            return gumbel_softmax(settings.temperature or TEMPERATURE)
        case "straight-through":
            return straight_through
        case "enumeration":
            return enumeration
    return bound


def _baseline(settings: Settings, width: int) -> Baseline | None:
    if settings.baseline == "learned":
        source = generator(settings.seed, Stream.INITIALIZATION, 1)
        with torch_seeded(source, torch.device("cpu")):
            return learned_baseline(width)
    if settings.baseline == "none":
        return None
    return LeaveOneOut() if settings.baseline == "leave-one-out" else RunningMean()


def _width(model: Model) -> int:
    """The numbers of a datum."""
    with evaluating(model):
        like = tensor_of(model)
        z = torch.zeros((1, *model.prior().event_shape), dtype=like.dtype, device=like.device)
        return int(model.likelihood(z).event_shape.numel())


def _of_hard_draws(settings: Settings) -> str:
    return "vimco" if settings.objective == "iwae" and settings.samples > 1 else "score-function"


def _objective(settings: Settings, gradient: str) -> str:
    """The objective, where it was left open the usual one of the gradient."""
    own, objective = GRADIENTS[gradient], settings.objective
    if objective == "auto":
        closed = own[0] != "elbo-b" or has_closed_divergence(settings)
        return own[0] if closed or len(own) == 1 else own[1]
    pick(OBJECTIVES, objective, "--objective")
    if objective not in own:
        raise UsageError(
            f"--gradient {gradient} is of --objective {' or '.join(own)}, found {objective}: "
            "choose one of them, or another gradient"
        )
    if objective == "elbo-b" and not has_closed_divergence(settings):
        raise UsageError(
            f"--objective elbo-b needs KL(q || p) in closed form, and there is none between "
            f"{settings.posterior} and {settings.prior}: choose elbo-a, which estimates it by "
            "samples"
        )
    return objective

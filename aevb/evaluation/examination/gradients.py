"""Gradients that reach no parameter, draws without gradient, noise and deviations without use."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from aevb.distributions import on_reals
from aevb.distributions.reparameterization import drawn, noise_of
from aevb.evaluation.examination.subject import Subject
from aevb.evaluation.findings import Finding, Skipped

SAMPLES = 8
STEP = 1e-2
DEVIATION = 0.05
"""By which parameters are moved before a gradient of zero is called one: new weights may be 0."""


def examine_gradients(subject: Subject) -> Iterator[Finding]:
    """Whether the bound gives a finite gradient to every parameter that it depends on."""
    found = reached(subject, _bound(subject))
    zero = [name for name, state in found.items() if state in ("none", "zero")]
    yield from told(unreached(subject, zero, _bound), found, "the bound")


def unreached(subject: Subject, names: list[str], value: Callable[[Subject], Tensor]) -> list[str]:
    """Those of the parameters without a gradient that the value depends on all the same.

    A layer that begins at 0 stops the gradients below it: all are looked at a little further on.
    """
    if not names:
        return []
    moved = _moved(subject)
    states = reached(moved, value(moved))
    kept = []
    for name in names:
        if states[name] in ("none", "zero"):
            before = value(moved).detach()
            step = STEP * (1 + moved.parameters[name].detach().abs())
            moved.parameters[name].data.add_(step)
            after = value(moved).detach()
            moved.parameters[name].data.sub_(step)
            if bool(((after - before).abs() > 1e-2 * subject.tolerance * (1 + before.abs())).any()):
                kept.append(name)
    return kept


def reached(subject: Subject, bound: Tensor) -> dict[str, str]:
    """For each parameter whether its gradient is "none", "zero", "wild" (not finite) or "fine"."""
    named = subject.parameters
    if not bound.requires_grad:
        return dict.fromkeys(named, "none")
    ones = torch.ones_like(bound)
    gradients = torch.autograd.grad(bound, list(named.values()), ones, allow_unused=True)
    return {name: _state(g) for name, g in zip(named, gradients, strict=True)}


def _state(gradient: Tensor | None) -> str:
    if gradient is None:
        return "none"
    if not bool(torch.isfinite(gradient).all()):
        return "wild"
    return "fine" if bool((gradient != 0).any()) or not gradient.numel() else "zero"


def told(zero: list[str], found: dict[str, str], what: str) -> Iterator[Finding]:
    """Findings for parameters without a gradient, or with one that is not finite."""
    of = len(found)
    if zero:
        yield Finding(
            "no-gradient",
            f"{len(zero)} of {of} parameters get no gradient from {what}, which depends on them: "
            f"{', '.join(zero[:4])}{', ...' if len(zero) > 4 else ''}.",
            float(len(zero)),
            "Look for detach, no_grad, or sample where rsample is needed.",
        )
    wild = [name for name, state in found.items() if state == "wild"]
    if wild:
        yield Finding(
            "gradient-not-finite",
            f"The gradient of {len(wild)} of {of} parameters from {what} is not finite: "
            f"{', '.join(wild[:4])}{', ...' if len(wild) > 4 else ''}.",
            float(len(wild)),
            "Look for a logarithm, a root or a division that meets zero.",
        )


def _bound(subject: Subject) -> Tensor:
    with torch.enable_grad():
        return subject.log_weights(subject.batch, subject.z(SAMPLES)).mean(0)


def _moved(subject: Subject, deviation: float = DEVIATION, times: int = 0) -> Subject:
    """The subject with all parameters moved a little, in copies of their own."""
    moved = copy.copy(subject)
    moved.model, moved.posterior = copy.deepcopy((subject.model, subject.posterior))
    source = subject.source(9, times)
    with torch.no_grad():
        for p in moved.parameters.values():
            step = torch.from_numpy(source.standard_normal(tuple(p.shape)))
            p.add_(deviation * step.to(p))
    return moved


def examine_paths(subject: Subject) -> Iterator[Finding]:
    """Whether draws move with the noise in every dimension, and carry a gradient to the encoder."""
    with torch.enable_grad():
        z = subject.z(SAMPLES)
    still = (z.detach().std(0) < 1e-12 * (1 + z.detach().abs().amax(0))).all(0).flatten()
    if bool(still.any()):
        count = int(still.sum())
        yield Finding(
            "noise-unused",
            f"{count} of {still.numel()} dimensions of z do not move with the noise for any datum.",
            float(count),
            "Draw z, and do not pass on the mean: the bound is an average over draws.",
        )
    if not noise_of(subject.posterior(subject.batch)).differentiable:
        raise Skipped("its draws are steps: their gradient comes by a score function")
    own = [p for p in subject.posterior.parameters() if p.requires_grad]
    if not own:
        return
    gradients: Any = [None]
    if z.requires_grad:
        weights = torch.from_numpy(subject.source(10).standard_normal(tuple(z.shape))).to(z)
        gradients = torch.autograd.grad(z, own, weights, allow_unused=True)
    if all(g is None or not bool((g != 0).any()) for g in gradients):
        yield Finding(
            "draw-without-gradient",
            "Draws of z carry no gradient to the parameters of the posterior (0 of "
            f"{len(own)} are reached).",
            0.0,
            "Write z as a differentiable map of noise: rsample, not sample, and no detach.",
        )


def examine_deviations(subject: Subject) -> Iterator[Finding]:
    """Whether a deviation of the posterior can fall below 1, that of a standard prior."""
    q = subject.posterior(subject.batch)
    if not on_reals(q):
        raise Skipped("codes are not real numbers")
    least = _least(subject)
    for times in range(8):
        if least < 1 - 1e-6:
            return
        least = min(least, _least(_moved(subject, 0.3 * 1.6**times, times + 1)))
    if least >= 1 - 1e-6:
        yield Finding(
            "deviation-floor",
            f"The posterior's deviations never fall below {least:.3g}, whatever its parameters: no "
            "datum can be told with more than the prior's precision.",
            least,
            "Use exp of the network's output, or softplus, not softplus of a logarithm.",
        )


def _least(subject: Subject) -> float:
    q = subject.posterior(subject.batch)
    try:
        deviation: Tensor = q.stddev
    except (NotImplementedError, AttributeError):
        deviation = drawn(q, (64,), subject.source(11), subject.batch.x).std(0)
    known = deviation[torch.isfinite(deviation)]
    if not known.numel():
        raise Skipped("its deviations are not finite")
    return float(known.min())

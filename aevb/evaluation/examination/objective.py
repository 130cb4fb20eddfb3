"""A user's own bound beside ours, at the same noise: its numbers, its noise and its gradients."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from aevb.distributions import reparameterize, route
from aevb.errors import UsageError
from aevb.evaluation.examination.gradients import reached, told, unreached
from aevb.evaluation.examination.recognition import (
    Reference,
    of_other_shape,
    recognized,
    reference,
    same,
)
from aevb.evaluation.examination.subject import Subject, sigmas
from aevb.evaluation.findings import Finding, Skipped

SAMPLES = 7
REPEATS = 64


def examine_objective(subject: Subject) -> Iterator[Finding]:
    """Whether the user's objective is one of the bounds; if not, which mistake it looks like."""
    if subject.objective is None:
        raise Skipped("no objective was given")
    try:
        route(subject.posterior(subject.batch))
    except UsageError:
        raise Skipped("the posterior has no known map of noise to hand to it") from None
    noise = subject.noise(SAMPLES)
    ours = reference(subject, noise)
    found = called(subject, noise)
    if subject.model.training or subject.posterior.training:
        yield Finding(
            "training-mode",
            "The objective switches the model to training mode (1 call was enough).",
            1.0,
            "Leave train() and eval() to the loop that calls it.",
        )
        subject.model.eval()
        subject.posterior.eval()
    yield from _judged(subject, noise, ours, found)
    yield from _gradients(subject, noise)


def called(subject: Subject, noise: Tensor) -> Tensor:
    """The user's numbers; its posterior gets what it can take: a batch, or x alone."""
    assert subject.objective is not None
    batch = subject.batch.x if subject.takes_x else subject.batch
    found = subject.objective(subject.model, subject.own_posterior, batch, noise)
    return torch.as_tensor(found).to(noise)


def _judged(subject: Subject, noise: Tensor, ours: Reference, found: Tensor) -> Iterator[Finding]:
    n = len(subject.batch.x)
    if found.shape != (n,):
        yield of_other_shape(ours, found, n)
        return
    if not bool(torch.isfinite(found).all()):
        share = 1 - float(torch.isfinite(found).double().mean())
        yield Finding(
            "objective-not-finite",
            f"The objective is not finite for {100 * share:.3g} % of the data.",
            share,
            "Sum weights as logsumexp of their logarithms.",
        )
        return
    if any(same(found, bound) for bound in ours.bounds().values()):
        return
    again, other = called(subject, noise), called(subject, subject.noise(SAMPLES, tag=1))
    known = recognized(ours, found)
    if known is not None:
        yield known
    elif not same(found, again):
        yield from _by_own_noise(subject)
    elif same(found, other):
        figure = float((found - ours.elbo_a).mean())
        yield Finding(
            "objective-noise",
            "The objective does not depend on the noise that it is handed, and differs by "
            f"{figure:+.3g} nats in the mean from the bound.",
            figure,
            "Draw z = g(noise, x), by aevb.distributions.reparameterize(q, noise).",
        )
    else:
        off = found - ours.elbo_a
        yield Finding(
            "objective-differs",
            f"The objective is none of the bounds: it differs from estimator A by "
            f"{float(off.mean()):+.3g} nats in the mean ({float(off.std()):.2g} over data).",
            float(off.mean()),
            "Compare it term by term with log p(x, z) - log q(z given x).",
        )


def _by_own_noise(subject: Subject) -> Iterator[Finding]:
    """An objective that draws for itself: its mean over many calls beside that of ours."""
    theirs, ours = [], []
    for tag in range(REPEATS):
        noise = subject.noise(SAMPLES, tag=tag + 2)
        theirs.append(called(subject, noise))
        ours.append(torch.stack(list(reference(subject, noise).bounds().values())))
    mine, bounds = torch.stack(theirs).double(), torch.stack(ours).double()
    off = mine.mean(0) - bounds.mean(0)  # (3, N)
    error = torch.sqrt((mine.var(0) + bounds.var(0)) / REPEATS)
    agrees = (off.abs() <= sigmas(off.numel()) * error + 1e-3).all(1)
    figure = float(off[0].mean())
    yield Finding(
        "objective-noise",
        "The objective draws noise of its own instead of what it is handed"
        + (
            ", although its mean is that of a bound (two calls differ by "
            f"{float((mine[0] - mine[1]).abs().mean()):.3g} nats)."
            if bool(agrees.any())
            else f", and differs by {figure:+.3g} nats in the mean from the bound."
        ),
        figure,
        "Draw z = g(noise, x), by aevb.distributions.reparameterize(q, noise).",
    )


def _gradients(subject: Subject, noise: Tensor) -> Iterator[Finding]:
    """Parameters that the objective does not reach, though the bound does."""
    found = reached(subject, _with_gradient(subject, noise))
    with torch.enable_grad():
        bound = reached(subject, subject.log_weights(subject.batch, _z(subject, noise)).mean(0))
    zero = [k for k in found if found[k] in ("none", "zero") and bound[k] == "fine"]
    zero = unreached(subject, zero, lambda moved: _with_gradient(moved, noise))
    yield from told(zero, found, "the objective")
    if not zero and "wild" not in found.values():
        yield from _slopes(subject)


def _with_gradient(subject: Subject, noise: Tensor) -> Tensor:
    with torch.enable_grad():
        return called(subject, noise)


def _z(subject: Subject, noise: Tensor) -> Tensor:
    return reparameterize(subject.posterior(subject.batch), noise)


def _slopes(subject: Subject) -> Iterator[Finding]:
    """Whether its gradient is, in the mean over noise, that of the bound with the same numbers."""
    ours: list[Tensor] = []
    theirs: list[Tensor] = []
    names = list(subject.parameters)
    parameters = list(subject.parameters.values())
    directions = [torch.randn(p.shape, dtype=p.dtype) for p in parameters]
    kind = None
    for tag in range(REPEATS):
        noise = subject.noise(SAMPLES, tag=tag + 2)
        with torch.enable_grad():
            r = reference(subject, noise)
            value = called(subject, noise)
            if kind is None:
                matches = [k for k, v in r.bounds().items() if same(value, v)]
                if not matches:
                    return  # it is no bound: that has been said
                kind = matches[0]
            pair = (r.bounds()[kind], value)
        for kept, number in zip((ours, theirs), pair, strict=True):
            ones = torch.ones_like(number)
            gradients = torch.autograd.grad(number, parameters, ones, allow_unused=True)
            kept.append(
                torch.stack(
                    [
                        torch.zeros((), dtype=noise.dtype) if g is None else (g * v).sum()
                        for g, v in zip(gradients, directions, strict=True)
                    ]
                )
            )
    difference = (torch.stack(theirs) - torch.stack(ours)).double()
    size = torch.stack(ours).double().abs().mean(0)
    error = difference.std(0) / math.sqrt(REPEATS)
    # The directions are few for each parameter: a mean beyond 7 errors is no accident of 64 draws.
    off = difference.mean(0).abs() > (2 + sigmas(len(names))) * error + 0.02 * size + 1e-9
    if bool(off.any()):
        i = int(off.double().argmax())
        share = float(difference.mean(0)[i].abs() / size[i].clamp_min(1e-12))
        yield Finding(
            "objective-gradient",
            f"The objective has the numbers of {kind} but another gradient: that of {names[i]} is "
            f"off by {100 * share:.3g} % in the mean (so are {int(off.sum())} of {len(names)}).",
            share,
            "Look for detach, no_grad or sample inside the objective.",
        )

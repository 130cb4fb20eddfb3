"""Whether ways of computing one number agree: parts with their sum, closed forms with samples."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.distributions import Distribution

from aevb.distributions import kl
from aevb.evaluation.examination.elements import bounds, elements
from aevb.evaluation.examination.subject import Law, Subject, sigmas
from aevb.evaluation.findings import Finding, Skipped

SAMPLES = 2000
MOMENTS = 2000


def examine_joint(subject: Subject) -> Iterator[Finding]:
    """Whether log p(x, z) is log p(z) + log p(x given z) of the model's own parts."""
    model, batch = subject.model, subject.batch
    z = subject.z(3)
    prior, likelihood = model.prior().log_prob(z), model.likelihood(z).log_prob(batch.x)
    joint = model.log_joint(batch.x, z), prior + likelihood
    parts = model.log_likelihood(batch.x, z), likelihood
    ways = (
        ("log_joint(x, z)", "log p(z) + log p(x given z)", *joint),
        ("log_likelihood(x, z)", "likelihood(z).log_prob(x)", *parts),
    )
    for what, other, found, expected in ways:
        if found.shape != expected.shape:
            return  # the shapes have a finding of their own
        difference = (found - expected).double()
        limit = 100 * subject.tolerance * (1 + expected.abs())
        if bool((difference.abs() > limit).any()):
            figure = float(difference.mean())
            yield Finding(
                "log-joint",
                f"{what} differs by {figure:+.4g} nats in the mean from {other}.",
                figure,
                "Use the model's own prior and likelihood, each once and unscaled.",
            )


def examine_divergence(subject: Subject) -> Iterator[Finding]:
    """Whether KL(q || p) in closed form, estimator B's, is what samples say, estimator A's."""
    batch = subject.some(range(min(8, len(subject.batch.x))))
    q, prior = subject.posterior(batch), subject.model.prior()
    closed = kl(q, prior)
    if closed is None:
        raise Skipped("KL(q || p) has no closed form for this pair")
    if closed.shape != q.batch_shape:
        yield Finding(
            "closed-kl",
            f"KL(q || p) in closed form has shape {tuple(closed.shape)} where (N,) = "
            f"{tuple(q.batch_shape)} is expected.",
            float(closed.ndim),
            "Sum over the event alone.",
        )
        return
    z = subject.z(SAMPLES, batch, 1)
    ratio = (q.log_prob(z) - prior.log_prob(z)).double()
    judged = torch.isfinite(closed) & torch.isfinite(ratio).all(0)
    kurtosis = ((ratio - ratio.mean(0)) / ratio.std(0).clamp_min(1e-12)).pow(4).mean(0)
    judged &= kurtosis < 100  # else the mean is not normal yet
    judged &= ~_at_an_end(q, z)
    if not bool(judged.any()):
        raise Skipped("the log-ratios are infinite, or too heavy in their tails")
    error = ratio.std(0) / math.sqrt(SAMPLES)
    off = ratio.mean(0) - closed.double()
    limit = sigmas(int(judged.sum())) * error + 0.01 * (1 + closed.abs())
    if bool((judged & (off.abs() > limit)).any()):
        figure = float(off[judged].mean())
        yield Finding(
            "closed-kl",
            f"KL(q || p) by {SAMPLES} samples, of estimator A, differs by {figure:+.3g} nats from "
            "the closed form of estimator B.",
            figure,
            "Hold the registered formula, and log_prob of both laws, to each other.",
        )


def _at_an_end(q: Distribution, z: Tensor) -> Tensor:
    """Data with draws so near an end of the support, other than 0, that their digits run out."""
    inner = elements(q)
    if inner is None:
        return torch.zeros(q.batch_shape, dtype=torch.bool)
    low, high = bounds(inner)
    near = ((z - low).abs() < 1e-9 * low.abs()) | ((high - z).abs() < 1e-9 * high.abs())
    return near.flatten(1 + len(q.batch_shape)).any(-1).any(0)


def examine_moments(subject: Subject, law: Law) -> Iterator[Finding]:
    """Whether the mean that a law states is that of its draws."""
    d = law.distribution
    try:
        mean, variance = d.mean.double(), d.variance.double()
    except (NotImplementedError, AttributeError):
        raise Skipped("it states no mean and variance") from None
    draws = subject.draws(law, MOMENTS, 1).double()
    if mean.shape != draws.shape[1:] or variance.shape != mean.shape:
        raise Skipped("its mean is not shaped like its draws")
    centered = draws - draws.mean(0)
    spread = torch.maximum(draws.std(0), variance.sqrt())
    kurtosis = (centered / spread).pow(4).mean(0)
    judged = torch.isfinite(mean) & torch.isfinite(variance) & (kurtosis < 12)
    judged &= spread > 1e-6 * mean.abs()  # else it is all rounding
    if not bool(judged.any()):
        raise Skipped("its moments are infinite, or its tails heavy")
    off = ((mean - draws.mean(0)) / spread)[judged]
    if float(off.abs().max()) > sigmas(off.numel()) / math.sqrt(MOMENTS) + 0.02:
        figure = float(off[off.abs().argmax()])
        yield Finding(
            f"{law.name}-mean",
            f"The mean that {law.title} states differs from that of its draws by {figure:.3g} of "
            "their deviations.",
            figure,
            "State the mean of the very law that sample draws from.",
        )

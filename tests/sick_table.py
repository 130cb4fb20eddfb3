"""The thirty known mistakes by number: each planted in a small model, or guarded elsewhere."""

from typing import NamedTuple

import sickness as s
import torch
from torch import distributions as td
from torch import nn


class Plant(NamedTuple):
    """A mistake by its number, where it is, the finding, and a twin without it."""

    number: int
    what: str
    make: object
    """A function to (model, posterior), or an objective."""
    found: str
    data: object = s.bits
    twin: object = None
    """The same without the mistake; None for an objective, whose twins are `sickness.WELL`."""


def plant(number, what, make, found, data=s.bits, twin=None):
    return Plant(number, what, make, found, data, twin)


o = s.objective
healthy = s.pair


def real_pair():
    return s.of_reals(s.normals)


def wrong_prior():
    return s.pair(prior=s.Prior(0.7, 0.5))


def dropout(heeds):
    return lambda: s.pair(encoder=[s.FunctionalDropout(heeds)])


def batch_norm(averages):
    return lambda: s.pair(encoder=[nn.BatchNorm1d(8, track_running_stats=averages)])


def large_logits(kind):
    return lambda: s.pair(lambda raw: td.Independent(kind(logits=60 * raw), 1))


def weighted_by_loss(r, p, q, k):
    return (torch.softmax(q - r - p, 0) * (r + p - q)).sum(0)


def weighted_loss(r, p, q, k):
    return -(torch.softmax(r + p - q, 0) * (q - r - p)).sum(0)


def over_data(r, p, q, k):
    return s.log_mean((r + p - q).mean(0)).expand(r.shape[1])


def real_law(kind):
    def law(raw):
        mean, log_scale = raw.chunk(2, -1)
        return td.Independent(kind(mean, log_scale.exp(), validate_args=False), 1)

    return lambda: s.of_reals(law)


def encoder(law):
    return lambda: s.pair(q=law)


def element(kind):
    return encoder(s.elementwise(kind))


def flowing(sign):
    return lambda: s.pair(q=s.gated(sign))


def unit(kind):
    def law(raw):
        return td.Independent(kind(logits=raw, validate_args=False), 1)

    return lambda: s.pair(law)


grey_pair, flow, transform = unit(td.ContinuousBernoulli), flowing(1), encoder(s.transformed(True))
heeding, averaging, coins_far_out = dropout(True), batch_norm(True), large_logits(td.Bernoulli)

PLANTS = [
    plant(
        1,
        "KL clamped to [0, 0]",
        o(lambda r, p, q, k: r.mean(0) - k.clamp(0, 0)),
        "objective-kl-weight",
    ),
    plant(
        2,
        "a weight that is not passed on",
        o(lambda r, p, q, k: r.mean(0) - 0.0 * k),
        "objective-kl-weight",
    ),
    plant(
        3,
        "a mean over pixels",
        o(lambda r, p, q, k: r.mean(0) / s.WIDTH - k),
        "objective-scaled-likelihood",
    ),
    plant(
        3,
        "and over dimensions",
        o(lambda r, p, q, k: r.mean(0) / s.WIDTH - k / s.LATENT),
        "objective-scaled-likelihood",
    ),
    plant(5, "a Bernoulli of grey levels", healthy, "outside-support", s.grey, healthy),
    plant(
        5,
        "cross-entropy of grey levels",
        unit(s.CrossEntropy),
        "likelihood-integral",
        s.grey,
        grey_pair,
    ),
    plant(
        6,
        "no log 2 pi in the density",
        real_law(s.NoConstant),
        "likelihood-integral",
        s.reals,
        real_pair,
    ),
    plant(
        6,
        "log 2 pi in the bound",
        o(lambda r, p, q, k: r.mean(0) - k - s.WIDTH * s.HALF_LOG_2PI),
        "objective-constant",
    ),
    plant(8, "KL added", o(lambda r, p, q, k: r.mean(0) + k), "objective-kl-weight"),
    plant(8, "the loss itself", o(lambda r, p, q, k: k - r.mean(0)), "objective-sign"),
    plant(
        9,
        "the likelihood doubled",
        o(lambda r, p, q, k: 2 * r.mean(0) - k),
        "objective-scaled-likelihood",
    ),
    plant(10, "the likelihood under no_grad", s.without_gradient, "no-gradient"),
    plant(
        11,
        "log variance as log deviation",
        element(s.VarianceAsScale),
        "posterior-draws",
        twin=healthy,
    ),
    plant(
        12, "softplus of the logarithm", encoder(s.softplus_of_log), "deviation-floor", twin=healthy
    ),
    plant(12, "a hundredth of the noise", element(s.SmallNoise), "posterior-draws", twin=healthy),
    plant(13, "operator precedence", element(s.Precedence), "posterior-integral", twin=healthy),
    plant(
        14,
        "noise recovered by log variance",
        element(s.RecoveredNoise),
        "posterior-integral",
        twin=healthy,
    ),
    plant(15, "draws without gradient", element(s.Sampled), "draw-without-gradient", twin=healthy),
    plant(15, "sample for rsample", element(s.TorchSampled), "draw-without-gradient", twin=healthy),
    plant(15, "sample in the objective", s.drawn_inside, "objective-noise"),
    plant(15, "detach in the objective", s.detached_scale, "objective-gradient"),
    plant(15, "no noise at all", element(s.NoNoise), "noise-unused", twin=healthy),
    plant(16, "weights of the loss", o(weighted_by_loss), "objective-weights"),
    plant(16, "weighted loss", o(weighted_loss), "objective-weights"),
    plant(
        16, "closed KL in the weights", o(lambda r, p, q, k: s.log_mean(r - k)), "objective-weights"
    ),
    plant(
        17,
        "log-sum-exp over data",
        o(lambda r, p, q, k: s.log_mean(r + p - q, dim=1)),
        "objective-shape",
    ),
    plant(17, "and over samples in the mean", o(over_data), "objective-axis"),
    plant(18, "another sigmoid in the flow", flowing(-1), "log-determinant", twin=flow),
    plant(
        18,
        "no determinant in a transform",
        encoder(s.transformed(False)),
        "log-determinant",
        twin=transform,
    ),
    plant(19, "the mean in place of draws", s.at_the_mean, "objective-center"),
    plant(
        20,
        "log of the count asked for",
        o(lambda r, p, q, k: s.log_mean(r + p - q, count=6)),
        "objective-constant",
    ),
    plant(
        20,
        "no log of the count",
        o(lambda r, p, q, k: (r + p - q).logsumexp(0)),
        "objective-constant",
    ),
    plant(
        22,
        "scaled in the bound",
        o(lambda r, p, q, k: s.log_mean(r / 3 + p - q)),
        "objective-scaled-likelihood",
    ),
    plant(22, "scaled in log_joint", s.scaled_joint, "log-joint", twin=healthy),
    plant(23, "N(0, I) in the evaluator", s.standard_prior, "objective-prior", twin=wrong_prior),
    plant(24, "dropout left on", dropout(False), "random-at-evaluation", twin=heeding),
    plant(24, "batch statistics", batch_norm(False), "rows-mixed", twin=averaging),
    plant(26, "a wrong total correlation", s.beta_tc, "objective-differs"),
    plant(28, "cross-entropy outside [0, 1]", healthy, "outside-support", s.reals, healthy),
    plant(28, "levels that are none", s.levels, "outside-support", s.grey, s.levels),
    plant(29, "half precision", s.halved, "half-precision", twin=healthy),
    plant(
        30, "log(-expm1(log sigmoid))", large_logits(s.LogExpm1), "not-finite", twin=coins_far_out
    ),
]

ELSEWHERE = {
    4: (
        "training and validation with one objective need a loop",
        "laws.py",
        "reported_bound_is_the_bound_whatever_the_objective",
    ),
    7: (
        "a warm-up is of a run",
        "test_training.py",
        "test_warm_up_must_finish_before_training_does",
    ),
    21: (
        "averages over batches are of the evaluation",
        "laws.py",
        "evaluation_weighs_every_datum_alike",
    ),
    25: (
        "a bound on information that knows its cap is a diagnosis of a run",
        "test_information.py",
        "test_a_lower_bound_at_its_cap_says_so",
    ),
    27: (
        "which rows are trained on is of the data set",
        "laws.py",
        "held_out_rows_never_reach_training",
    ),
}
"""Mistakes that no model, posterior or objective can have: why, and the test that is for them."""
TWINS = {
    "a pair of coins": (healthy, s.bits),
    "another prior": (wrong_prior, s.bits),
    "a Gaussian likelihood": (real_pair, s.reals),
    "a continuous Bernoulli": (grey_pair, s.grey),
    "a flow": (flow, s.bits),
    "a transform": (transform, s.bits),
    "dropout that heeds eval": (heeding, s.bits),
    "batch norm with averages": (averaging, s.bits),
    "large logits": (coins_far_out, s.bits),
    "levels": (s.levels, s.as_levels),
}
"""Every construction of a plant, without the mistake."""

MORE = [
    plant(
        0, "a prior that adds up to 1.3", lambda: s.pair(prior=s.Unnormalized()), "prior-integral"
    ),
    plant(0, "no determinant", encoder(s.covariant(s.WithoutDeterminant)), "posterior-integral"),
    plant(0, "half as wide", encoder(s.covariant(s.HalfAsWide)), "posterior-draws"),
    plant(0, "shifted draws", encoder(s.covariant(s.ShiftedDraws)), "posterior-draws"),
    plant(0, "sharper coins", unit(s.Tempered), "likelihood-draws"),
    plant(0, "a mode as the mean", unit(s.StatesItsMode), "likelihood-mean"),
    plant(
        0,
        "no factorial",
        lambda: s.pair(s.rates(s.WithoutFactorial)),
        "likelihood-integral",
        s.counts,
    ),
    plant(0, "a wrong inverse", encoder(s.wrongly_inverted), "inverse"),
    plant(0, "a stubborn layer", lambda: s.pair(encoder=[s.AlwaysTraining()]), "training-mode"),
    plant(0, "a counter", lambda: s.pair(encoder=[s.Counting()]), "state-changes"),
    plant(0, "a root of nothing", lambda: s.pair(encoder=[s.Root()]), "gradient-not-finite"),
    plant(0, "a mean over the batch", lambda: s.pair(decoder=[s.Center()]), "rows-mixed"),
]
"""Mistakes beyond the thirty, one for every check."""
TWINS |= {
    "a full covariance": (encoder(s.covariant(td.MultivariateNormal)), s.bits),
    "counts": (lambda: s.pair(s.rates(td.Poisson)), s.counts),
}

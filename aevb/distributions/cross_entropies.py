"""E_q[log p] in closed form, by the class of p: `EXPECTED`, functions of (q, p).

NotImplementedError where an expectation that log p is made of has no closed form under q.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch import distributions as td
from torch.distributions import Distribution
from torch.special import digamma, polygamma

from aevb.distributions.bounded import TruncatedNormal
from aevb.distributions.composition import LogitNormal
from aevb.distributions.expectations import (
    LOG_EXPONENTIAL_MOMENT,
    LOG_MOMENTS,
    LOG_POWER_MOMENT,
    MEAN_DISTANCE,
    MEAN_LOG_REST,
    gamma_parameters,
    of,
    weibull_parameters,
)
from aevb.distributions.inverse_cdf import Gompertz, Rayleigh, Reciprocal
from aevb.distributions.special import HALF_LOG_2PI

Formula = Callable[[Any, Any], Tensor]


def _mean(q: Any) -> Tensor:
    """E z, infinite where torch has no number: every p below falls off where it is taken."""
    mean: Tensor = q.mean
    return torch.where(mean.isnan(), math.inf, mean)


def _square(q: Any, at: Tensor | float = 0.0) -> Tensor:
    """E (z - at)^2."""
    square: Tensor = q.variance + (q.mean - at).square()
    return torch.where(square.isnan(), math.inf, square)


def _mean_log(q: Any) -> Tensor:
    """E log z."""
    mean: Tensor = of(LOG_MOMENTS, q)[0]
    return mean


def _parabola(square: Tensor, scale: Tensor) -> Tensor:
    """The mean of a Gaussian's log-density, where E (y - loc)^2 is `square`."""
    return -0.5 * square / scale.square() - (scale.log() + HALF_LOG_2PI)


def _normal(q: Any, p: Any) -> Tensor:
    return _parabola(_square(q, p.loc), p.scale)


def _half_normal(q: Any, p: Any) -> Tensor:
    height = p.scale.log() + 0.5 * math.log(math.pi / 2)
    return -0.5 * _square(q) / p.scale.square() - height


def _truncated_normal(q: Any, p: Any) -> Tensor:
    """log p is a parabola: its mean is that at the mean of z, less the variance in its curve."""
    middle = torch.minimum(torch.maximum(q.mean, p.low), p.high)
    value: Tensor = p.log_prob(middle) - 0.5 * q.variance / p.scale.square()
    return torch.where(value.isnan(), -math.inf, value)


def _exponential(q: Any, p: Any) -> Tensor:
    value: Tensor = p.rate.log() - p.rate * _mean(q)
    return value


def _continuous_bernoulli(q: Any, p: Any) -> Tensor:
    """log p is a line: its mean is its value at the mean of z."""
    value: Tensor = p.log_prob(q.mean.clamp(0, 1))
    return value


def _gamma(q: Any, p: Any) -> Tensor:
    c, rate = gamma_parameters(p)
    return c * rate.log() - torch.lgamma(c) + (c - 1) * _mean_log(q) - rate * _mean(q)


def _pareto(q: Any, p: Any) -> Tensor:
    value: Tensor = p.alpha.log() + p.alpha * p.scale.log() - (p.alpha + 1) * _mean_log(q)
    return value


def _reciprocal(q: Any, p: Any) -> Tensor:
    return -p.width.log() - _mean_log(q)


def _log_normal(q: Any, p: Any) -> Tensor:
    mean, variance = of(LOG_MOMENTS, q)
    return _parabola(variance + (mean - p.loc).square(), p.scale) - mean


def _weibull(q: Any, p: Any) -> Tensor:
    scale, k = weibull_parameters(p)
    grown = torch.exp(of(LOG_POWER_MOMENT, q, k) - k * scale.log())
    return k.log() - k * scale.log() + (k - 1) * _mean_log(q) - grown


def _beta(q: Any, p: Any) -> Tensor:
    a, b = p.concentration1, p.concentration0
    size = torch.lgamma(a) + torch.lgamma(b) - torch.lgamma(a + b)
    return (a - 1) * _mean_log(q) + (b - 1) * of(MEAN_LOG_REST, q) - size


def _gumbel(q: Any, p: Any) -> Tensor:
    grown = torch.exp(of(LOG_EXPONENTIAL_MOMENT, q, -1 / p.scale) + p.loc / p.scale)
    return -p.scale.log() - (_mean(q) - p.loc) / p.scale - grown


def _gompertz(q: Any, p: Any) -> Tensor:
    c, grown = p.concentration, torch.exp(of(LOG_EXPONENTIAL_MOMENT, q, 1 / p.scale))
    return (c / p.scale).log() + c + _mean(q) / p.scale - c * grown


def _laplace(q: Any, p: Any) -> Tensor:
    return -(2 * p.scale).log() - of(MEAN_DISTANCE, q, p.loc) / p.scale


def _uniform(q: Any, p: Any) -> Tensor:
    height: Tensor = -(p.high - p.low).log()
    return height


def _logit_normal(q: Any, p: Any) -> Tensor:
    if not isinstance(q, td.Beta):
        raise NotImplementedError
    a, b = q.concentration1, q.concentration0
    mean, variance = digamma(a) - digamma(b), polygamma(1, a) + polygamma(1, b)
    slope = digamma(a) + digamma(b) - 2 * digamma(a + b)
    return _parabola(variance + (mean - p.loc).square(), p.scale) - slope


EXPECTED: dict[type[Distribution], Formula] = {
    td.Normal: _normal,
    td.HalfNormal: _half_normal,
    td.Exponential: _exponential,
    td.ContinuousBernoulli: _continuous_bernoulli,
    td.Gamma: _gamma,
    td.Pareto: _pareto,
    Reciprocal: _reciprocal,
    td.LogNormal: _log_normal,
    td.Weibull: _weibull,
    Rayleigh: _weibull,
    td.Beta: _beta,
    td.Gumbel: _gumbel,
    Gompertz: _gompertz,
    TruncatedNormal: _truncated_normal,
    LogitNormal: _logit_normal,
    td.Laplace: _laplace,
    td.Uniform: _uniform,
}

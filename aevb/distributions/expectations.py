"""E_q of the statistics that log-densities are made of, in closed form, by the class of q.

    E log z, Var log z     `LOG_MOMENTS`          log E z^k          `LOG_POWER_MOMENT`
    E log(1 - z)           `MEAN_LOG_REST`        log E e^(t z)      `LOG_EXPONENTIAL_MOMENT`
    E |z - m|              `MEAN_DISTANCE`

The keys are classes of torch where it has them.
Source: Johnson, Kotz & Balakrishnan (1994, 1995), "Continuous univariate distributions".
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch import distributions as td
from torch.distributions import Distribution
from torch.distributions.utils import euler_constant
from torch.special import digamma, polygamma

from aevb.distributions.inverse_cdf import Logistic, Rayleigh, Reciprocal
from aevb.distributions.series import log_ratio

Laws = Mapping[type[Distribution], Callable[..., Any]]


def find(laws: Mapping[type[Distribution], Any], d: Distribution) -> Any:
    """What a table has for the class of d, or for the nearest of its bases; None for none."""
    return next((laws[c] for c in type(d).__mro__ if c in laws), None)


def of(laws: Laws, q: Distribution, *at: Tensor) -> Any:
    """What the table's function for q gives; NotImplementedError where it has none."""
    formula = find(laws, q)
    if formula is None:
        raise NotImplementedError
    return formula(q, *at)


def gamma_parameters(d: Any) -> tuple[Tensor, Tensor]:
    """(concentration, rate) of a gamma law under any of its names."""
    if isinstance(d, td.Exponential):
        return torch.ones_like(d.rate), d.rate
    return d.concentration, d.rate


def weibull_parameters(d: Any) -> tuple[Tensor, Tensor]:
    """(scale, concentration) of a Weibull law, the Rayleigh's among them."""
    if isinstance(d, Rayleigh):
        return d.scale * math.sqrt(2), torch.full_like(d.scale, 2)
    return d.scale, d.concentration


def _gamma_log_moments(q: Any) -> tuple[Tensor, Tensor]:
    c, rate = gamma_parameters(q)
    return digamma(c) - rate.log(), polygamma(1, c)


def _weibull_log_moments(q: Any) -> tuple[Tensor, Tensor]:
    scale, k = weibull_parameters(q)
    return scale.log() - euler_constant / k, math.pi**2 / 6 / k.square()


def _beta_log_moments(q: Any) -> tuple[Tensor, Tensor]:
    a, total = q.concentration1, q.concentration1 + q.concentration0
    return digamma(a) - digamma(total), polygamma(1, a) - polygamma(1, total)


def _kumaraswamy_log_moments(q: Any) -> tuple[Tensor, Tensor]:
    a, b = q.concentration1, q.concentration0
    mean = -(euler_constant + digamma(b + 1)) / a
    return mean, (math.pi**2 / 6 - polygamma(1, b + 1)) / a.square()


def _uniform_log_moments(q: Any) -> tuple[Tensor, Tensor]:
    r, drop = _log_drop(q.low, q.high)
    return q.high.log() - 1 - r * drop, 1 - r * drop.square()


def _log_drop(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """r = low / high and log(r) / (1 - r), 0 at r = 0 and -1 at r = 1."""
    r = torch.where(low > 0, low / high, 0.0)
    safe = torch.where(low > 0, low, high)
    return r, log_ratio(safe, high) / ((high - low) / high)


def _fisher_log_moments(q: Any) -> tuple[Tensor, Tensor]:
    a, b = q.df1 / 2, q.df2 / 2
    mean = digamma(a) - a.log() - digamma(b) + b.log()
    return mean, polygamma(1, a) + polygamma(1, b)


LOG_MOMENTS: Laws = {
    td.Exponential: _gamma_log_moments,
    td.Gamma: _gamma_log_moments,
    td.Weibull: _weibull_log_moments,
    Rayleigh: _weibull_log_moments,
    td.LogNormal: lambda q: (q.loc, q.scale.square()),
    td.Pareto: lambda q: (q.scale.log() + 1 / q.alpha, q.alpha.square().reciprocal()),
    Reciprocal: lambda q: ((q.low.log() + q.high.log()) / 2, q.width.square() / 12),
    td.Beta: _beta_log_moments,
    td.Kumaraswamy: _kumaraswamy_log_moments,
    td.Uniform: _uniform_log_moments,
    td.HalfNormal: lambda q: (
        q.scale.log() - (euler_constant + math.log(2)) / 2,
        torch.full_like(q.scale, math.pi**2 / 8),
    ),
    td.FisherSnedecor: _fisher_log_moments,
}
"""q: (E log z, Var log z)."""


def _uniform_log_rest(q: Any) -> Tensor:
    upper = 1 - q.low
    r, drop = _log_drop(1 - q.high, upper)
    return upper.log() - 1 - r * drop


MEAN_LOG_REST: Laws = {
    td.Beta: lambda q: digamma(q.concentration0) - digamma(q.concentration1 + q.concentration0),
    td.Uniform: _uniform_log_rest,
}
"""q: E log(1 - z)."""


def _gamma_power(q: Any, k: Tensor) -> Tensor:
    c, rate = gamma_parameters(q)
    return torch.lgamma(c + k) - torch.lgamma(c) - k * rate.log()


def _weibull_power(q: Any, k: Tensor) -> Tensor:
    scale, concentration = weibull_parameters(q)
    return k * scale.log() + torch.lgamma(1 + k / concentration)


def _beta_power(q: Any, k: Tensor) -> Tensor:
    a, b = q.concentration1, q.concentration0
    own = torch.lgamma(a + b) - torch.lgamma(a)
    return own + torch.lgamma(a + k) - torch.lgamma(a + b + k)


def _kumaraswamy_power(q: Any, k: Tensor) -> Tensor:
    a, b = q.concentration1, q.concentration0
    return torch.lgamma(b + 1) + torch.lgamma(1 + k / a) - torch.lgamma(b + 1 + k / a)


def _pareto_power(q: Any, k: Tensor) -> Tensor:
    finite = q.alpha > k
    rest = torch.where(finite, 1 - k / q.alpha, 1.0).log()
    return torch.where(finite, k * q.scale.log() - rest, math.inf)


def _reciprocal_power(q: Any, k: Tensor) -> Tensor:
    width = k * q.width
    return k * q.high.log() + (-torch.expm1(-width)).log() - width.log()


def _uniform_power(q: Any, k: Tensor) -> Tensor:
    rest = torch.where(q.low > 0, q.low / q.high, 0.0)
    top = k * q.high.log() - (k + 1).log()
    return top + torch.log1p(-torch.pow(rest, k + 1)) - torch.log1p(-rest)


LOG_POWER_MOMENT: Laws = {
    td.Exponential: _gamma_power,
    td.Gamma: _gamma_power,
    td.Weibull: _weibull_power,
    Rayleigh: _weibull_power,
    td.LogNormal: lambda q, k: k * q.loc + 0.5 * (k * q.scale).square(),
    td.Pareto: _pareto_power,
    Reciprocal: _reciprocal_power,
    td.Beta: _beta_power,
    td.Kumaraswamy: _kumaraswamy_power,
    td.Uniform: _uniform_power,
    td.HalfNormal: lambda q, k: (
        k * (q.scale * math.sqrt(2)).log() + torch.lgamma((k + 1) / 2) - 0.5 * math.log(math.pi)
    ),
}
"""q, k > 0: log E z^k."""


def _gamma_exponential(q: Any, t: Tensor) -> Tensor:
    c, rate = gamma_parameters(q)
    finite = t < rate
    return torch.where(finite, -c * torch.log1p(-torch.where(finite, t, 0.0) / rate), math.inf)


def _laplace_exponential(q: Any, t: Tensor) -> Tensor:
    y = (t * q.scale).square()
    finite = y < 1
    return torch.where(finite, q.loc * t - torch.log1p(-torch.where(finite, y, 0.0)), math.inf)


def _logistic_exponential(q: Any, t: Tensor) -> Tensor:
    y = (t * q.scale).abs()
    finite = y < 1
    y = torch.where(finite, y, 0.5)
    return torch.where(finite, q.loc * t - torch.sinc(y).log(), math.inf)


def _gumbel_exponential(q: Any, t: Tensor) -> Tensor:
    y = 1 - t * q.scale
    return torch.where(y > 0, q.loc * t + torch.lgamma(torch.where(y > 0, y, 1.0)), math.inf)


def _uniform_exponential(q: Any, t: Tensor) -> Tensor:
    width = t.abs() * (q.high - q.low)
    largest = torch.maximum(t * q.low, t * q.high)
    return largest + (-torch.expm1(-width)).log() - width.log()


LOG_EXPONENTIAL_MOMENT: Laws = {
    td.Normal: lambda q, t: q.loc * t + 0.5 * (q.scale * t).square(),
    td.Exponential: _gamma_exponential,
    td.Gamma: _gamma_exponential,
    td.Laplace: _laplace_exponential,
    Logistic: _logistic_exponential,
    td.Gumbel: _gumbel_exponential,
    td.Uniform: _uniform_exponential,
}
"""q, t other than 0: log E e^(t z)."""


def _normal_distance(q: Any, m: Tensor) -> Tensor:
    d = (q.loc - m) / q.scale
    near = math.sqrt(2 / math.pi) * torch.exp(-0.5 * d.square())
    return q.scale * (near + d * torch.erf(d * math.sqrt(0.5)))


def _exponential_distance(q: Any, m: Tensor) -> Tensor:
    below = m.clamp(min=0)
    return m.abs() + torch.where(m > 0, (2 * torch.exp(-q.rate * below) - 1) / q.rate, 1 / q.rate)


def _uniform_distance(q: Any, m: Tensor) -> Tensor:
    within = torch.minimum(torch.maximum(m, q.low), q.high)
    split = ((within - q.low).square() + (q.high - within).square()) / 2 / (q.high - q.low)
    return split + (m - within).abs()


def _laplace_distance(q: Any, m: Tensor) -> Tensor:
    away = (q.loc - m).abs()
    return away + q.scale * torch.exp(-away / q.scale)


def _logistic_distance(q: Any, m: Tensor) -> Tensor:
    away = (q.loc - m).abs()
    return away + 2 * q.scale * torch.log1p(torch.exp(-away / q.scale))


MEAN_DISTANCE: Laws = {
    td.Normal: _normal_distance,
    td.Laplace: _laplace_distance,
    Logistic: _logistic_distance,
    td.Uniform: _uniform_distance,
    td.Exponential: _exponential_distance,
}
"""q, m: E |z - m|."""

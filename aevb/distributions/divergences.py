"""Closed-form Kullback-Leibler divergences, KL(q || p) in that order, in nats.

        KL(q || p) = -H[q] - E_q[log p]

    where log p is made of       p                                       and q is any law with
    z, z^2                       Normal, TruncatedNormal, HalfNormal     a mean and a variance
    z                            Exponential, ContinuousBernoulli        a mean
    z, log z                     Gamma, Erlang, Chi2                     both
    log z                        Pareto, Reciprocal                      E log z
    log z, (log z)^2             LogNormal                               both
    log z, z^k                   Weibull, Rayleigh                       both
    log z, log(1 - z)            Beta                                    both
    log(z / (1 - z)), its square LogitNormal                             Beta
    z, e^(t z)                   Gumbel, Gompertz                        both
    |z - m|                      Laplace                                 E |z - m|
    nothing                      Uniform                                 an entropy

`expectations` says which q has which. Two of one family, and those of several dimensions, have a
formula each (`_PAIRS`). The divergence is infinite where the support of q is no part of that of p.
Every other pair has none, and is estimated: two laws of Logistic, StudentT, FisherSnedecor,
Kumaraswamy, Triangular or Gompertz, relaxed ones, mixtures.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch import distributions as td
from torch.distributions import Distribution, Independent, MultivariateNormal, constraints
from torch.distributions.kl import kl_divergence, register_kl
from torch.distributions.utils import euler_constant
from torch.special import xlogy

from aevb.distributions import dirichlet
from aevb.distributions.composition import LogitNormal
from aevb.distributions.cross_entropies import EXPECTED, Formula
from aevb.distributions.discrete import OneHotCategoricals
from aevb.distributions.expectations import find, gamma_parameters, weibull_parameters
from aevb.distributions.inverse_cdf import Logistic, Rayleigh
from aevb.distributions.location_scale import Triangular
from aevb.distributions.reparameterization import ROUTES, base_of
from aevb.distributions.series import log_ratio
from aevb.distributions.special import digamma_minus_log, product, stirling
from aevb.distributions.sphere import HypersphericalUniform, VonMisesFisher


def kl_by_dimension(q: Distribution, p: Distribution) -> Tensor | None:
    """KL(q || p) of each latent dimension where both factorize over dimensions, else None.

        -1/2 (1 + log s^2 - m^2 - s^2) for q = N(m, s^2), p = N(0, 1)

    Shapes: q with batch (N,) and event (D,); the result (N, D) sums over D to the whole KL.
    Units: nats. Source: Kingma & Welling (2013), equation 10 and appendix B.
    Example:
        >>> import torch
        >>> from torch.distributions import Normal
        >>> one = Independent(Normal(torch.zeros(1, 2), 1.0), 1)
        >>> kl_by_dimension(one, one)
        tensor([[0., 0.]])
    """
    if not (isinstance(q, Independent) and isinstance(p, Independent)):
        return None
    if not len(q.event_shape) == len(p.event_shape) == 1:
        return None
    return _of_bases(q.base_dist, p.base_dist)


def kl(q: Distribution, p: Distribution) -> Tensor | None:
    """KL(q || p) in closed form, (N,) nats, or None where there is none.

    Shapes: q and p with one event shape and batches that broadcast; `Independent` is seen through.
    Units: nats. Source: the table at the head of `aevb.distributions.divergences`.
    Example:
        >>> import torch
        >>> from torch.distributions import Normal
        >>> kl(Normal(torch.tensor(1.0), 1.0), Normal(torch.tensor(0.0), 1.0))
        tensor(0.5000)
    """
    by_dimension = kl_by_dimension(q, p)
    if by_dimension is not None:
        return by_dimension.sum(-1)
    bases = base_of(q), base_of(p)
    moved = [len(d.event_shape) - len(b.event_shape) for d, b in zip((q, p), bases, strict=True)]
    found: Tensor | None
    if all(isinstance(b, _GAUSSIANS) for b in bases) and any(b.event_shape for b in bases):
        if len(q.event_shape) != len(p.event_shape):
            return None
        found, axes = _gaussians(*bases), len(q.event_shape) - 1
    elif moved[0] == moved[1]:
        found, axes = _of_bases(*bases), moved[0]
    else:
        return _of_bases(q, p)
    return found.sum(tuple(range(-axes, 0))) if found is not None and axes else found


def _of_bases(q: Distribution, p: Distribution) -> Tensor | None:
    for formula in (_of_the_zoo, _of_torch):
        try:
            return formula(q, p)
        except NotImplementedError:  # torch's word for a formula, a moment or a support it lacks
            continue
    return None


def _of_torch(q: Distribution, p: Distribution) -> Tensor:
    if isinstance(q, td.Bernoulli) and isinstance(p, td.Bernoulli):
        shape = torch.broadcast_shapes(q.batch_shape, p.batch_shape)
        q, p = q.expand(shape), p.expand(shape)  # torch's formula wants one shape
    return kl_divergence(q, p)


# -- several dimensions ----------------------------------------------------------------------------

_GAUSSIANS = (td.Normal, MultivariateNormal, td.LowRankMultivariateNormal)


def _gaussians(q: Any, p: Any) -> Tensor:
    """Two Gaussian vectors, of which one at most is diagonal, an `Independent` or a batch."""
    if isinstance(p, td.Normal):
        return _against_diagonal(q, p)
    if isinstance(q, td.Normal) and isinstance(p, MultivariateNormal):
        return _diagonal_against_full(q, p)
    if isinstance(q, td.Normal):
        thin = torch.zeros_like(q.loc).unsqueeze(-1)
        q = td.LowRankMultivariateNormal(q.loc, thin, q.variance, validate_args=False)
    with torch.autocast(q.loc.device.type, enabled=False):  # of the products of low-rank ones
        return _of_torch(q, p)


def _against_diagonal(q: Any, p: td.Normal) -> Tensor:
    """1/2 (tr(P^-1 Q) + (m - n)^T P^-1 (m - n) - D + log det P - log det Q).

    Torch's own formula wants both sides full, and cannot be traced into a compiled step.
    """
    if isinstance(q, MultivariateNormal):
        squares = q.scale_tril.square().sum(-1)
        half = q.scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    else:
        squares = q.cov_factor.square().sum(-1) + q.cov_diag
        inner = torch.eye(q.cov_factor.shape[-1]).to(q.cov_factor)
        inner = inner + product(q.cov_factor.mT, q.cov_factor / q.cov_diag.unsqueeze(-1))
        factor = torch.linalg.cholesky(inner)
        half = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1) + q.cov_diag.log().sum(-1) / 2
    squares = squares + (q.loc - p.loc).square()
    scales = p.scale.expand(torch.broadcast_shapes(q.loc.shape, p.scale.shape))
    return 0.5 * (squares / p.variance - 1).sum(-1) + scales.log().sum(-1) - half


def _diagonal_against_full(q: td.Normal, p: MultivariateNormal) -> Tensor:
    """The same with Q diagonal: tr(P^-1 Q) is the sum of squares of L^-1 diag(s)."""
    apart, scale = torch.broadcast_tensors(q.loc - p.loc, q.scale)
    columns = torch.cat([torch.diag_embed(scale), apart.unsqueeze(-1)], -1)
    whitened = torch.linalg.solve_triangular(p.scale_tril, columns, upper=False)
    half = p.scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1) - scale.log().sum(-1)
    return 0.5 * (whitened.square().sum((-2, -1)) - scale.shape[-1]) + half


# -- two of one family: where nearly equal laws keep more digits than the statistics leave them ----


def _gamma_gamma(q: Any, p: Any) -> Tensor:
    (c, rate), (d, other) = gamma_parameters(q), gamma_parameters(p)
    own, mean = c / rate, d / other
    apart = d * ((own - mean) / mean - log_ratio(own, mean))
    shapes = (c - d) * digamma_minus_log(c) - 0.5 * log_ratio(d, c)
    return apart + shapes + stirling(d) - stirling(c)


def _beta_beta(q: Any, p: Any) -> Tensor:
    a, b = (torch.stack([d.concentration1, d.concentration0], -1) for d in (q, p))
    return dirichlet.divergence(a, b)


def _dirichlet_dirichlet(q: Any, p: Any) -> Tensor:
    if q.event_shape != p.event_shape:
        raise NotImplementedError
    return dirichlet.divergence(q.concentration, p.concentration)


def _weibull_weibull(q: Any, p: Any) -> Tensor:
    (scale, k), (other, j) = weibull_parameters(q), weibull_parameters(p)
    ratio, powers = (scale / other).log(), j / k
    grown = torch.exp(j * ratio + torch.lgamma(1 + powers))
    return grown - 1 - powers.log() - j * ratio + euler_constant * (powers - 1)


def _poisson_poisson(q: Any, p: Any) -> Tensor:
    return xlogy(q.rate, q.rate) - xlogy(q.rate, p.rate) - (q.rate - p.rate)


def _normal_normal(q: Any, p: Any) -> Tensor:
    """Of the normal laws, and of all that are one fixed map of them."""
    ratio = (q.scale / p.scale).square()
    return 0.5 * (ratio + ((q.loc - p.loc) / p.scale).square() - 1 - ratio.log())


def _half_normal_half_normal(q: Any, p: Any) -> Tensor:
    ratio = (q.scale / p.scale).square()
    return 0.5 * (ratio - 1 - ratio.log())


def _pareto_pareto(q: Any, p: Any) -> Tensor:
    ratio, start = p.alpha / q.alpha, (q.scale / p.scale).log()
    return torch.where(start >= 0, p.alpha * start - ratio.log() + ratio - 1, math.inf)


def _sphere_sphere(q: Any, p: Any) -> Tensor:
    """log p is a line in z: its mean is its value at the mean of z, from that at the pole of q."""
    if q.event_shape != p.event_shape:
        raise NotImplementedError
    way = (p.loc * (q.mean - q.loc)).sum(-1)
    divergence: Tensor = -q.entropy() - p.log_prob(q.loc) - p.concentration * way
    return divergence


def _sphere_uniform(q: Any, p: Any) -> Tensor:
    """H(p) - H(q). Source: Davidson et al. (2018), equation 4."""
    divergence: Tensor = p.entropy() - q.entropy()
    return divergence


def _classes_classes(q: Any, p: Any) -> Tensor:
    if q.logits.shape[-2:] != p.logits.shape[-2:]:
        raise NotImplementedError
    gain = torch.where(q.probs > 0, q.logits - p.logits, 0.0)
    divergence: Tensor = (q.probs * gain).sum((-2, -1))
    return divergence


_GAMMAS = (td.Gamma, td.Exponential)
_WEIBULLS = (td.Weibull, Rayleigh)


_PAIRS: dict[tuple[type[Distribution], type[Distribution]], Formula] = {
    (td.LogNormal, td.LogNormal): _normal_normal,
    (td.HalfNormal, td.HalfNormal): _half_normal_half_normal,
    (td.Pareto, td.Pareto): _pareto_pareto,
    (LogitNormal, LogitNormal): _normal_normal,
    (VonMisesFisher, VonMisesFisher): _sphere_sphere,
    (VonMisesFisher, HypersphericalUniform): _sphere_uniform,
    (td.Beta, td.Beta): _beta_beta,
    (td.Dirichlet, td.Dirichlet): _dirichlet_dirichlet,
    (td.Poisson, td.Poisson): _poisson_poisson,
    (OneHotCategoricals, OneHotCategoricals): _classes_classes,
    **{(q, p): _gamma_gamma for q in _GAMMAS for p in _GAMMAS},
    **{(q, p): _weibull_weibull for q in _WEIBULLS for p in _WEIBULLS},
}
_LEFT_TO_TORCH = (td.Normal, td.Laplace, td.Cauchy)
"""Families whose own divergence torch has right."""

# -- numbers: supports, and the registry of torch --------------------------------------------------


def _ends(d: Distribution) -> tuple[Any, Any] | None:
    """Where the support begins and ends, as numbers or tensors; None where it is no interval."""
    support: Any = d.support
    if isinstance(support, type(constraints.real)):
        return -math.inf, math.inf
    if isinstance(support, type(constraints.boolean)):
        return 0, 1
    low = getattr(support, "lower_bound", None)
    high = getattr(support, "upper_bound", None)
    if low is None and high is None:
        return None
    return (-math.inf if low is None else low), (math.inf if high is None else high)


def _of_the_zoo(q: Any, p: Any) -> Tensor:
    """The divergence of two laws; NotImplementedError where there is none, or torch has it."""
    for pair, formula in _PAIRS.items():
        if isinstance(q, pair[0]) and isinstance(p, pair[1]):
            return formula(q, p)
    left = any(isinstance(q, own) and isinstance(p, own) for own in _LEFT_TO_TORCH)
    if left or q.event_shape or p.event_shape:
        raise NotImplementedError
    return _of_numbers(q, p)


def _of_numbers(q: Any, p: Any) -> Tensor:
    inside, expected = _inside(q, p), find(EXPECTED, p)
    if q.support.is_discrete != p.support.is_discrete:
        raise NotImplementedError
    if inside is False:
        whole = torch.broadcast_shapes(q.batch_shape, p.batch_shape)
        return torch.full_like(q.mean, math.inf).expand(whole)
    if expected is None or q.support.is_discrete:
        raise NotImplementedError
    divergence: Tensor = -expected(q, p) - q.entropy()
    return divergence if inside is True else torch.where(inside, divergence, math.inf)


def _inside(q: Distribution, p: Distribution) -> Tensor | bool:
    """Whether the support of q lies in that of p; True where nothing is known of them."""
    (own, other) = _ends(q), _ends(p)
    if own is None or other is None:
        return True
    return (own[0] >= other[0]) & (own[1] <= other[1])


_OTHERS = (Logistic, Triangular, td.StudentT, td.Kumaraswamy, td.FisherSnedecor, td.Chi2)
_SPHERES = (VonMisesFisher, HypersphericalUniform)
_CLASSES = [ROUTES.get(c, c) for c in (*EXPECTED, *_OTHERS, *_SPHERES, *_LEFT_TO_TORCH)]
for _q in _CLASSES:
    for _p in _CLASSES:
        # Of exactly our classes: what torch says of its own stays as it is.
        if not any(issubclass(_q, own) and issubclass(_p, own) for own in _LEFT_TO_TORCH):
            register_kl(_q, _p)(_of_the_zoo)

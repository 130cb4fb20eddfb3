"""What Dirichlet, Beta and F share: their normalizer, and Beta's distribution function by scipy."""

import warnings
from typing import Any

import torch
from torch import Tensor

from aevb.distributions.by_scipy import ScipyFunction, by_scipy
from aevb.distributions.quadrature import exponential
from aevb.distributions.series import log_ratio
from aevb.distributions.special import HALF_LOG_2PI, digamma_minus_log, stirling

_DEEP = -460.0  # of log F, from which down scipy's own value loses digits, five at 1e-295
_TERMS = 12


def log_beta(a: Tensor) -> Tensor:
    """log B(a) = sum_i log Gamma(a_i) - log Gamma(sum_i a_i), over the last axis.

    Example:
        >>> log_beta(torch.tensor([1.0, 2.0])).exp()
        tensor(0.5000)
    """
    total = a.sum(-1, keepdim=True)
    shares = (a * (a / total).log()).sum(-1)
    return shares + _remainder(a, total)


def _remainder(a: Tensor, total: Tensor) -> Tensor:
    halves = 0.5 * (total.log().squeeze(-1) - a.log().sum(-1))
    corrections = stirling(a).sum(-1) - stirling(total).squeeze(-1)
    return halves + (a.shape[-1] - 1) * HALF_LOG_2PI + corrections


def log_density(a: Tensor, x: Tensor, log_x: Tensor) -> Tensor:
    """sum_i a_i log x_i - log B(a) for x on the simplex, from x > 0 and its logarithm.

    Written as -sum_i a_i (r_i - 1 - log r_i), r_i = x_i sum(a) / a_i: a large a_i does not cancel
    against the normalizer. The density is this over prod_i x_i.
    """
    total = a.sum(-1, keepdim=True)
    excess = x * (total / a) - 1
    near = excess.abs() < 0.5
    close = torch.log1p(torch.where(near, excess, 0.0))
    log_ratio = torch.where(near, close, log_x + (total / a).log())
    # The last term is 0 on the simplex: it keeps the derivative in each x that of the formula.
    return (
        (a * (log_ratio - excess)).sum(-1)
        + total.squeeze(-1) * (x.sum(-1) - 1)
        - _remainder(a, total)
    )


def entropy(a: Tensor) -> Tensor:
    """The entropy of Dirichlet(a): log B(a) - sum_i (a_i - 1) (psi(a_i) - psi(sum a))."""
    total = a.sum(-1, keepdim=True)
    differences = digamma_minus_log(a) - digamma_minus_log(total)
    logs = (a / total).log().sum(-1)
    return logs + _remainder(a, total) - ((a - 1) * differences).sum(-1)


def divergence(a: Tensor, b: Tensor) -> Tensor:
    """KL(Dirichlet(a) || Dirichlet(b)): for large a and b no term is much larger than the sum.

    sum_i b_i (r_i - 1 - log r_i) + ...,   r_i the ratio of the means
    """
    total, other = a.sum(-1, keepdim=True), b.sum(-1, keepdim=True)
    logs = digamma_minus_log(a) - digamma_minus_log(total)
    own, mean = a / total, b / other
    apart = (b * ((own - mean) / mean - log_ratio(own, mean))).sum(-1)
    halves = 0.5 * (log_ratio(other, total).squeeze(-1) - log_ratio(b, a).sum(-1))
    sums = (stirling(total) - stirling(other)).squeeze(-1)
    corrections = sums + (stirling(b) - stirling(a) + (a - b) * logs).sum(-1)
    return apart + halves + corrections


def beta_cdf(a: Tensor, b: Tensor, logit: Tensor) -> Tensor:
    """The distribution function of Beta(a, b) at x = sigmoid(logit), x near 0 or near 1.

    Example:
        >>> one = torch.tensor(1.0, dtype=torch.float64)
        >>> beta_cdf(one, one, -40 * one) > 0
        tensor(True)
    """
    p = _BetaCdf.over(a.double(), b.double(), logit.double())
    return p.to(torch.promote_types(a.dtype, logit.dtype))


def beta_quantile(a: Tensor, b: Tensor, u: Tensor) -> Tensor:
    """The logit of the quantile of Beta(a, b) at u.

    Example:
        >>> one = torch.tensor(1.0, dtype=torch.float64)
        >>> beta_quantile(one, one, 0.5 * one)
        tensor(0., dtype=torch.float64)
    """
    logit = _BetaQuantile.over(a.double(), b.double(), u.double())
    return logit.to(torch.promote_types(a.dtype, u.dtype))


def _cumulative(a: Tensor, b: Tensor, logit: Tensor) -> tuple[Tensor, Tensor]:
    """log F and log(1 - F) of Beta(a, b) at sigmoid(logit)."""
    x, rest, near = torch.sigmoid(logit), torch.sigmoid(-logit), logit < 0
    below = torch.where(near, by_scipy("betainc", a, b, x), by_scipy("betaincc", b, a, rest)).log()
    above = torch.where(near, by_scipy("betaincc", a, b, x), by_scipy("betainc", b, a, rest)).log()
    return _deep(a, b, logit, below), _deep(b, a, -logit, above)


def _deep(a: Tensor, b: Tensor, logit: Tensor, otherwise: Tensor) -> Tensor:
    """log F by its power series where F is tiny because x is, and `otherwise` elsewhere.

    F = x^a (1 - x)^b / (a B(a, b)) (1 + (a + b) / (a + 1) x (1 + (a + b + 1) / (a + 2) x (...)))

    Source: Abramowitz & Stegun (1964), 26.5.4.
    """
    x = torch.sigmoid(logit)
    total = torch.ones_like(x)
    for n in range(_TERMS, 0, -1):
        total = 1 + total * x * (a + b + n - 1) / (a + n)
    log_f = log_logit_density(a, b, logit) - a.log() + total.log()
    few = (x * (a + b) / (a + 1) < 0.03) & (x < 0.03)
    return torch.where(few & (log_f < _DEEP), log_f, otherwise)


def log_logit_density(a: Tensor, b: Tensor, logit: Tensor) -> Tensor:
    """The log-density of the logit of Beta(a, b)."""
    pair = torch.stack([logit, -logit], -1)
    logs = torch.nn.functional.logsigmoid(pair)
    return log_density(torch.stack([a, b], -1), torch.sigmoid(pair), logs)


class _BetaCdf(ScipyFunction):
    @staticmethod
    def forward(a: Tensor, b: Tensor, logit: Tensor) -> Tensor:
        return _cumulative(a, b, logit)[0].exp()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        a, b, logit, _ = ctx.saved_tensors
        by_a, by_b, density = _derivatives(a, b, logit)
        return gradient * by_a * density, gradient * by_b * density, gradient * density


class _BetaQuantile(ScipyFunction):
    @staticmethod
    def forward(a: Tensor, b: Tensor, u: Tensor) -> Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of steps that did not suffice: ours follow
            x, rest = by_scipy("betaincinv", a, b, u), by_scipy("betainccinv", b, a, u)
        both = torch.stack([a, b], -1)
        first = (u.log() + a.log() + log_beta(both)) / a  # from F ~ x^a / (a B(a, b)) at 0
        last = (torch.log1p(-u) + b.log() + log_beta(both)) / b
        logit = x.log() - rest.log()
        logit = torch.where(torch.isfinite(logit), logit, torch.where(u < 0.5, first, -last))
        for _ in range(4):  # log F and log(1 - F) are concave in the logit
            below, above = _cumulative(a, b, logit)
            log_p = log_logit_density(a, b, logit)
            lower = (u.log() - below) * (below - log_p).exp()
            upper = (above - torch.log1p(-u)) * (above - log_p).exp()
            step = torch.where(u < 0.5, lower, upper)
            logit = torch.where(torch.isfinite(step), logit + step, logit)
        return logit

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        a, b, _, logit = ctx.saved_tensors
        by_a, by_b, density = _derivatives(a, b, logit)
        return -gradient * by_a, -gradient * by_b, gradient / density


def _derivatives(a: Tensor, b: Tensor, logit: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """dF/da and dF/db over the density of the logit, and that density, of Beta(a, b).

        dF/da = int_0^x p(t) (log t - E log t) dt,   E log t = psi(a) - psi(a + b)

    or minus that over (x, 1): of the shorter tail, in s = logit t, by the double exponential rule.
    """
    inside = torch.isfinite(logit)
    s = torch.where(inside, logit, 0.0)
    log_x, log_rest = (torch.nn.functional.logsigmoid(v) for v in (s, -s))
    x = torch.sigmoid(s)
    density = torch.where(inside, log_logit_density(a, b, s).exp(), 0.0)
    side = torch.where(s < a.log() - b.log(), -1.0, 1.0)
    lean = side * ((a + b) * x - a)
    scale = 2 / (lean + torch.sqrt(lean.square() + 4 * (a + b) * x * (1 - x)) + 1e-300)
    place, weight = exponential(-4.0, 4.6, 0.05, a)
    node, weight = scale.unsqueeze(-1) * place, scale.unsqueeze(-1) * weight
    moved = s.unsqueeze(-1) + side.unsqueeze(-1) * node
    log_t, log_not = (torch.nn.functional.logsigmoid(v) for v in (moved, -moved))
    gain_a, gain_b = log_t - log_x.unsqueeze(-1), log_not - log_rest.unsqueeze(-1)
    term = torch.exp(a.unsqueeze(-1) * gain_a + b.unsqueeze(-1) * gain_b) * weight
    middle = torch.digamma(a + b).unsqueeze(-1)
    by_a = (term * (log_t - torch.digamma(a).unsqueeze(-1) + middle)).sum(-1)
    by_b = (term * (log_not - torch.digamma(b).unsqueeze(-1) + middle)).sum(-1)
    return -side * by_a, -side * by_b, density

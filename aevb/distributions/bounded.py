"""Laws on an interval, drawn by the inverse of their distribution function."""

import math
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch import distributions as td
from torch.distributions import constraints
from torch.distributions.utils import broadcast_all

from aevb.distributions.inverse_cdf import InverseCDF
from aevb.distributions.quadrature import nodes
from aevb.distributions.reparameterization import ROUTES
from aevb.distributions.special import HALF_LOG_2PI, inside_unit, log1mexp, one_minus_exp

_FAR = 1e15  # standard deviations, in place of an infinite bound


class Kumaraswamy(InverseCDF, td.Kumaraswamy):
    """A law on (0, 1) much like Beta's, with an inverse distribution function in closed form.

        z = (1 - (1 - u)^(1/b))^(1/a), u ~ U(0, 1);   p(z) = a b z^(a-1) (1 - z^a)^(b-1)

    for a = concentration1 and b = concentration0, in logarithms.
    Shapes: the concentrations broadcast to the batch; events are numbers. Units: nats.
    Errors: ValueError, as torch's, for parameters that are not positive.
    Source: Kumaraswamy (1980); Jones (2009), equations 1 to 3.
    Example:
        >>> Kumaraswamy(torch.tensor(1.0), 1.0).transform(torch.tensor(0.25))
        tensor(0.2500)
    """

    def transform(self, noise: Tensor) -> Tensor:
        return inside_unit(self.icdf(noise))

    def _log_rest(self, value: Tensor) -> Tensor:
        """log(1 - z^a)."""
        return log1mexp(self.concentration1 * value.log())

    def _log_prob(self, value: Tensor) -> Tensor:
        a, b = self.concentration1, self.concentration0
        edge = (value <= 0) | (value >= 1)
        x = torch.where(edge, 0.5, value)
        inside = (a - 1) * x.log() + (b - 1) * self._log_rest(x)
        outside = torch.xlogy(a - 1, value) + torch.xlogy(b - 1, 1 - value)
        return a.log() + b.log() + torch.where(edge, outside, inside)

    def _cdf(self, value: Tensor) -> Tensor:
        return one_minus_exp(-self.concentration0 * self._log_rest(value))

    def icdf(self, value: Tensor) -> Tensor:
        rest = torch.log1p(-value) / self.concentration0
        return (log1mexp(rest) / self.concentration1).exp()

    @property
    def variance(self) -> Tensor:
        # A difference of two moments, of which little is left where the law is narrow.
        a, b = self.concentration1.double(), self.concentration0.double()
        wide = td.Kumaraswamy(a, b, validate_args=False).variance
        return wide.to(self.concentration1)

    @property
    def stddev(self) -> Tensor:
        return self.variance.sqrt()

    @property
    def mode(self) -> Tensor:
        a, b = self.concentration1, self.concentration0
        inner = (a >= 1) & (b >= 1) & (a * b > 1)
        a, b = torch.where(inner, a, 2.0), torch.where(inner, b, 2.0)
        return torch.where(inner, ((a - 1) / (a * b - 1)) ** (1 / a), math.nan)


class TruncatedNormal(InverseCDF):
    """The Gaussian given that it lies between low and high, however far out these are.

        z = loc + scale Phi^-1((1 - u) Phi(alpha) + u Phi(beta)), u ~ U(0, 1)
        alpha = (low - loc) / scale, beta = (high - loc) / scale

    in logarithms of Phi, from whichever end is nearer. low and high may be infinite.
    Shapes: all four broadcast to the batch; events are numbers. Units: nats.
    Errors: ValueError for a scale that is not positive or a low that is not below high.
    Source: Robert (1995), section 1; Johnson, Kotz & Balakrishnan (1994), section 13.10.1.
    Example:
        >>> tail = TruncatedNormal(torch.tensor(0.0), 1.0, 30.0, math.inf)
        >>> tail.mean
        tensor(30.0333)
    """

    arg_constraints: ClassVar[Any] = {
        "loc": constraints.real,
        "scale": constraints.positive,
        "low": constraints.dependent(is_discrete=False, event_dim=0),
        "high": constraints.dependent(is_discrete=False, event_dim=0),
    }

    def __init__(
        self,
        loc: Tensor | float,
        scale: Tensor | float,
        low: Tensor | float,
        high: Tensor | float,
        validate_args: bool | None = None,
    ) -> None:
        self.loc, self.scale, self.low, self.high = broadcast_all(loc, scale, low, high)
        super().__init__(self.loc.shape, validate_args=validate_args)
        if self._validate_args and not bool((self.low < self.high).all()):
            raise ValueError("TruncatedNormal expects low < high: give a lower bound below")

    @constraints.dependent_property(is_discrete=False, event_dim=0)
    def support(self) -> constraints.Constraint:
        return constraints.interval(self.low, self.high)

    def _standard(self, value: Tensor) -> Tensor:
        infinite = torch.isinf(value)
        inner = (torch.where(infinite, self.loc, value) - self.loc) / self.scale
        return torch.where(infinite, torch.sign(value) * _FAR, inner).clamp(-_FAR, _FAR)

    def _bounds(self) -> tuple[Tensor, Tensor]:
        return self._standard(self.low), self._standard(self.high)

    def transform(self, noise: Tensor) -> Tensor:
        z = self._quantile(noise.clamp(min=torch.finfo(noise.dtype).tiny))
        return torch.minimum(torch.maximum(z, self.low), self.high)

    def _quantile(self, u: Tensor) -> Tensor:
        """From the bound that is nearer to loc, or from loc itself where it lies between them."""
        alpha, beta = self._bounds()
        flip = alpha + beta > 0  # so that a is the far end, and b the near one
        a, b = torch.where(flip, -beta, alpha), torch.where(flip, -alpha, beta)
        not_u, u = torch.log1p(-u), u.log()
        below, above = torch.where(flip, u, not_u), torch.where(flip, not_u, u)
        outside = b < 0
        edge, bound = torch.where(outside, b, -1.0), torch.where(flip, self.low, self.high)
        share = torch.logaddexp(
            below + _log_fall(edge, edge - torch.where(outside, a, -2.0)), above
        )
        sign = torch.where(flip, 1.0, -1.0).to(u.dtype)
        beyond = torch.where(outside, bound, 0.0) + sign * self.scale * _fallen(edge, share)
        a, b = torch.where(outside, -1.0, a), torch.where(outside, 1.0, b)
        lower, upper = (
            torch.logaddexp(
                below + torch.special.log_ndtr(side * a), above + torch.special.log_ndtr(side * b)
            )
            for side in (1, -1)
        )
        near = lower < upper
        t = _log_ndtri(torch.where(near, lower, upper))
        middle = self.loc - sign * self.scale * torch.where(near, t, -t)
        return torch.where(outside, beyond, middle)

    def _log_prob(self, value: Tensor) -> Tensor:
        alpha, beta = self._bounds()
        start = _nearest(alpha, beta)
        origin = torch.where(alpha > 0, self.low, torch.where(beta < 0, self.high, self.loc))
        s = (value - origin) / self.scale
        density = -start * s - 0.5 * s.square() - self.scale.log() - _log_mass(alpha, beta)
        return torch.where((value >= self.low) & (value <= self.high), density, -math.inf)

    def _cdf(self, value: Tensor) -> Tensor:
        alpha, beta = self._bounds()
        t = self._standard(torch.minimum(torch.maximum(value, self.low), self.high))
        inside = t > alpha
        t = torch.where(inside, t, beta)
        near, end = _nearest(alpha, beta), _nearest(alpha, t)
        lower = 0.5 * (near - end) * (near + end)  # 0 unless the law's mode is beyond t
        part = _log_mass(alpha, t) - _log_mass(alpha, beta) + lower
        return torch.where(inside, part.exp(), 0.0)

    def icdf(self, value: Tensor) -> Tensor:
        inside = (value > 0) & (value < 1)
        ends = torch.where(value == 0, self.low, torch.where(value == 1, self.high, math.nan))
        z = self._quantile(torch.where(inside, value, 0.5))
        return torch.where(inside, torch.minimum(torch.maximum(z, self.low), self.high), ends)

    def _moments(self) -> tuple[Tensor, Tensor, Tensor]:
        """Where the law counts from, in deviations, and its mean and variance from there."""
        alpha, beta = self._bounds()
        start = _nearest(alpha, beta)
        slope = start.abs()
        span = 90 / (slope + torch.sqrt(slope.square() + 90))
        low, high = torch.maximum(alpha - start, -span), torch.minimum(beta - start, span)
        s, weight = nodes(low, high)
        density = weight * torch.exp(-start.unsqueeze(-1) * s - 0.5 * s.square())
        density = density / density.sum(-1, keepdim=True)
        mean = (density * s).sum(-1)
        return start, mean, (density * (s - mean.unsqueeze(-1)).square()).sum(-1)

    @property
    def mean(self) -> Tensor:
        start, mean, _ = self._moments()
        return self.loc + self.scale * (start + mean)

    @property
    def variance(self) -> Tensor:
        return self.scale.square() * self._moments()[2]

    @property
    def mode(self) -> Tensor:
        return torch.minimum(torch.maximum(self.loc, self.low), self.high)

    def entropy(self) -> Tensor:
        start, mean, variance = self._moments()
        squares = 0.5 * (variance + mean.square())
        return self.scale.log() + _log_mass(*self._bounds()) + start * mean + squares


def _nearest(alpha: Tensor, beta: Tensor) -> Tensor:
    """The mode, in standard deviations: 0, or the bound that is nearest to it."""
    return torch.minimum(torch.maximum(alpha, torch.zeros_like(alpha)), beta)


def _log_mass(a: Tensor, b: Tensor) -> Tensor:
    """log of the integral from a to b of exp((m^2 - t^2) / 2), m the mode between them; a < b.

    The height at the mode is left out, as far away it is all there is: by Mills' ratio of the
    near end where 0 is outside, by Phi where it is between them, by quadrature if they all but
    meet.
    """
    flip = a + b > 0
    a, b = torch.where(flip, -b, a), torch.where(flip, -a, b)
    width, m = b - a, b.clamp(max=0.0)
    near = width * (width + a.abs()) < 2
    outside = ~near & (b < 0)
    edge = torch.where(outside, b, -1.0)
    tail = _mills(edge).log() + log1mexp(_log_fall(edge, torch.where(outside, width, 1.0)))
    between = ~near & ~outside
    far_a, far_b = torch.where(between, a, -3.0), torch.where(between, b, 0.0)
    upper = torch.special.log_ndtr(far_b)
    across = upper + log1mexp(torch.special.log_ndtr(far_a) - upper) + HALF_LOG_2PI
    at, long = torch.where(near, m, 0.0), torch.where(near, width, 1.0)
    # The nodes go down from b, which is the mode or lies beyond it.
    end = torch.where(near, b, 0.0)
    s, weight = nodes(torch.zeros_like(at), long)
    height = end.unsqueeze(-1) * s - 0.5 * s.square()
    total = (weight * height.exp()).sum(-1).log() + 0.5 * (at - end) * (at + end)
    return torch.where(near, total, torch.where(outside, tail, across))


def _log_fall(b: Tensor, s: Tensor) -> Tensor:
    """log Phi(b - s) - log Phi(b) for b < 0 < s, of which nothing cancels however far out b is."""
    return b * s - 0.5 * s.square() + _mills(b - s).log() - _mills(b).log()


def _fallen(b: Tensor, log_share: Tensor) -> Tensor:
    """The s >= 0 at which `_log_fall` is log_share: Newton's steps, the last with a derivative."""
    still, level = b.detach(), log_share.detach().clamp(max=-1e-300)
    s = -2 * level / (-still + torch.sqrt(still.square() - 2 * level))
    for _ in range(5):
        s = (s + (_log_fall(still, s) - level) * _mills(still - s)).clamp(min=0.0)
    moved: Tensor = s + (_log_fall(b, s) - log_share) * _mills(still - s)
    return moved.clamp(min=0.0)


def _mills(t: Tensor) -> Tensor:
    """Phi(t) / phi(t) for t <= 0."""
    ratio: Tensor = torch.special.erfcx(-t * 2**-0.5) * (math.pi / 2) ** 0.5
    return ratio


def _log_ndtri(log_p: Tensor) -> Tensor:
    """The t with log Phi(t) = log_p up to log(1/2): Newton's steps, the last with a derivative."""
    start = log_p.detach()
    square = -2 * start - 2 * HALF_LOG_2PI - (-2 * start).clamp(min=1.0).log()
    far = -torch.sqrt(square.clamp(min=1.0))
    t = torch.where(start < -50, far, torch.special.ndtri(start.clamp(min=-50.0).exp()))
    for _ in range(4):
        t = t + (start - torch.special.log_ndtr(t)) * _mills(t)
    moved: Tensor = t + (log_p - torch.special.log_ndtr(t)) * _mills(t)
    return moved


ROUTES |= {td.Kumaraswamy: Kumaraswamy}

"""Laws with a quantile function in closed form, z = F^-1(u) (Kingma & Welling 2013, section 2.4).

Where torch has the class, what is written here keeps the digits that its own formulas lose: of
F near 0, of F^-1 near 0 and 1, and of densities whose terms cancel.
"""

import math
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch import distributions as td
from torch.distributions import Distribution, constraints
from torch.distributions.utils import broadcast_all, euler_constant

from aevb.distributions.by_scipy import scaled_exp1
from aevb.distributions.reparameterization import ROUTES, Reparameterized
from aevb.distributions.series import log1p_square, log_ratio, log_uniform_spread
from aevb.distributions.special import lgamma_bend, one_minus_exp
from aevb.randomness import open_uniform


class InverseCDF(Reparameterized):
    """A distribution whose map from noise is its own quantile function.

        z = F^-1(u), u ~ U(0, 1)

    Source: Kingma & Welling (2013), section 2.4; Devroye (1986), chapter II.2.
    Example:
        >>> q = Exponential(torch.tensor(2.0))
        >>> q.transform(torch.tensor(0.5)) == q.icdf(torch.tensor(0.5))
        tensor(True)
    """

    route = "inverse CDF"
    law = staticmethod(open_uniform)

    def icdf(self, value: Tensor) -> Tensor:
        return self.transform(value)


class Exponential(InverseCDF, td.Exponential):
    """The exponential distribution.

        z = -log(1 - u) / rate;   p(z) = rate exp(-rate z), z >= 0

    Shapes: rate is the batch; events are numbers. Units: nats.
    Errors: ValueError, as torch's, for a rate that is not positive or a value below 0.
    Source: Kingma & Welling (2013), section 2.4.
    Example:
        >>> Exponential(torch.tensor(2.0)).icdf(torch.tensor(0.5))
        tensor(0.3466)
    """

    def transform(self, noise: Tensor) -> Tensor:
        return -torch.log1p(-noise) / self.rate

    def _cdf(self, value: Tensor) -> Tensor:
        return one_minus_exp(self.rate * value)


class Cauchy(InverseCDF, td.Cauchy):
    """The Cauchy distribution, which has no mean and no variance.

        z = loc + scale tan(pi (u - 1/2));   p(z) = 1 / (pi scale (1 + ((z - loc) / scale)^2))

    Shapes: loc and scale broadcast to the batch; events are numbers. Units: nats.
    Errors: ValueError, as torch's, for a scale that is not positive.
    Source: Kingma & Welling (2013), section 2.4.
    Example:
        >>> Cauchy(torch.tensor(0.0), torch.tensor(1.0)).cdf(torch.tensor(-1e20)) > 0
        tensor(True)
    """

    def transform(self, noise: Tensor) -> Tensor:
        # The tangent of an angle near pi/2 is taken as one over that of what is left to it.
        sign, tail = _folded(noise)
        outer = sign / torch.tan(math.pi * tail)
        inner = torch.tan(math.pi * (noise - 0.5))
        return self.loc + self.scale * torch.where(tail < 0.25, outer, inner)

    def _log_prob(self, value: Tensor) -> Tensor:
        y = (value - self.loc) / self.scale
        return -math.log(math.pi) - self.scale.log() - log1p_square(y)

    def _cdf(self, value: Tensor) -> Tensor:
        y = (self.loc - value) / self.scale
        return torch.atan2(torch.ones_like(y), y) / math.pi


class HalfCauchy(InverseCDF, td.HalfCauchy):
    """The absolute value of a Cauchy draw around 0, which has no finite mean.

        z = scale tan(pi u / 2);   p(z) = 2 / (pi scale (1 + (z / scale)^2)), z >= 0

    Shapes: scale is the batch; events are numbers. Units: nats.
    Errors: ValueError, as torch's, for a scale that is not positive or a value below 0.
    Source: Kingma & Welling (2013), section 2.4; Gelman (2006), "Prior distributions for variance
    parameters in hierarchical models".
    Example:
        >>> HalfCauchy(torch.tensor(3.0)).icdf(torch.tensor(0.5))
        tensor(3.)
    """

    def transform(self, noise: Tensor) -> Tensor:
        _, tail = _folded(noise)
        angle = torch.tan(0.5 * math.pi * tail)
        return self.scale * torch.where(noise < 0.5, angle, 1 / angle)

    def _log_prob(self, value: Tensor) -> Tensor:
        height = math.log(2 / math.pi) - self.scale.log()
        return torch.where(value >= 0, height - log1p_square(value / self.scale), -math.inf)

    def _cdf(self, value: Tensor) -> Tensor:
        return torch.atan(value / self.scale) * (2 / math.pi)


class Logistic(InverseCDF, Distribution):
    """The logistic distribution, whose distribution function is the sigmoid.

        z = loc + scale log(u / (1 - u));   F(z) = 1 / (1 + exp(-(z - loc) / scale))

    Shapes: loc and scale broadcast to the batch; events are numbers. Units: nats.
    Errors: ValueError for a scale that is not positive.
    Source: Kingma & Welling (2013), section 2.4; Johnson, Kotz & Balakrishnan (1995), chapter 23.
    Example:
        >>> Logistic(torch.tensor(1.0), torch.tensor(2.0)).cdf(torch.tensor(1.0))
        tensor(0.5000)
    """

    arg_constraints: ClassVar = {"loc": constraints.real, "scale": constraints.positive}
    support = constraints.real

    def __init__(
        self, loc: Tensor | float, scale: Tensor | float, validate_args: bool | None = None
    ) -> None:
        self.loc, self.scale = broadcast_all(loc, scale)
        super().__init__(self.loc.shape, validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        return self.loc

    @property
    def mode(self) -> Tensor:
        return self.loc

    @property
    def variance(self) -> Tensor:
        return (self.scale * math.pi).square() / 3

    def transform(self, noise: Tensor) -> Tensor:
        # |1 - 2 u| is exact around 1/2, where log(u) - log(1 - u) would cancel.
        sign, tail = _folded(noise)
        return self.loc + self.scale * sign * torch.log1p(sign * (2 * noise - 1) / tail)

    def _log_prob(self, value: Tensor) -> Tensor:
        y = (value - self.loc) / self.scale
        return 2 * torch.nn.functional.logsigmoid(y) - y - self.scale.log()

    def _cdf(self, value: Tensor) -> Tensor:
        y = (value - self.loc) / self.scale
        # 1 - sigmoid(-y) has the slope of its tail, which sigmoid(y) (1 - sigmoid(y)) loses.
        return torch.where(y < 0, torch.sigmoid(y), 1 - torch.sigmoid(-y))

    def entropy(self) -> Tensor:
        return self.scale.log() + 2


class Rayleigh(InverseCDF, Distribution):
    """The Rayleigh distribution, of the length of a Gaussian vector in the plane.

        z = scale sqrt(-2 log(1 - u));   p(z) = z / scale^2 exp(-z^2 / (2 scale^2)), z > 0

    Shapes: scale is the batch; events are numbers. Units: nats.
    Errors: ValueError for a scale or a value that is not positive.
    Source: Kingma & Welling (2013), section 2.4; Johnson, Kotz & Balakrishnan (1994), chapter 18.
    Example:
        >>> Rayleigh(torch.tensor(2.0)).mean
        tensor(2.5066)
    """

    arg_constraints: ClassVar = {"scale": constraints.positive}
    support = constraints.positive

    def __init__(self, scale: Tensor | float, validate_args: bool | None = None) -> None:
        (self.scale,) = broadcast_all(scale)
        super().__init__(self.scale.shape, validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        return self.scale * math.sqrt(math.pi / 2)

    @property
    def mode(self) -> Tensor:
        return self.scale

    @property
    def variance(self) -> Tensor:
        return self.scale.square() * (2 - math.pi / 2)

    def transform(self, noise: Tensor) -> Tensor:
        return self.scale * (-2 * torch.log1p(-noise)).sqrt()

    def _log_prob(self, value: Tensor) -> Tensor:
        y = value / self.scale
        return y.log() - 0.5 * y.square() - self.scale.log()

    def _cdf(self, value: Tensor) -> Tensor:
        return one_minus_exp(0.5 * (value / self.scale).square())

    def entropy(self) -> Tensor:
        return 1 + self.scale.log() - 0.5 * math.log(2) + 0.5 * euler_constant


class Pareto(InverseCDF, td.Pareto):
    """The Pareto distribution, a power law from `scale` on.

        z = scale (1 - u)^(-1 / alpha);   p(z) = alpha scale^alpha / z^(alpha + 1), z >= scale

    Shapes: scale and alpha broadcast to the batch; events are numbers. Units: nats.
    Errors: ValueError, as torch's, for parameters that are not positive or a value below scale.
    Source: Kingma & Welling (2013), section 2.4. The mean is infinite for alpha <= 1, the variance
    for alpha <= 2.
    Example:
        >>> Pareto(torch.tensor(1.0), torch.tensor(2.0)).icdf(torch.tensor(0.75))
        tensor(2.)
    """

    def transform(self, noise: Tensor) -> Tensor:
        return self.scale * torch.exp(-torch.log1p(-noise) / self.alpha)

    def _log_prob(self, value: Tensor) -> Tensor:
        height = self.alpha.log() - self.scale.log()
        log_density = height - (self.alpha + 1) * self._log_excess(value)
        return torch.where(value >= self.scale, log_density, -math.inf)

    def _cdf(self, value: Tensor) -> Tensor:
        return one_minus_exp(self.alpha * self._log_excess(value))

    def _log_excess(self, value: Tensor) -> Tensor:
        return log_ratio(torch.maximum(value, self.scale), self.scale)


class Weibull(InverseCDF, td.Weibull):
    """The Weibull distribution, of an exponential's power; k is the concentration.

        z = scale (-log(1 - u))^(1 / k);   F(z) = 1 - exp(-(z / scale)^k), z > 0

    Shapes: scale and concentration broadcast to the batch; events are numbers. Units: nats.
    Errors: ValueError, as torch's, for parameters or a value that are not positive.
    Source: Kingma & Welling (2013), section 2.4. For k below about 0.05 draws overflow.
    Example:
        >>> Weibull(torch.tensor(2.0), torch.tensor(1.0)).mean
        tensor(2.)
    """

    @property
    def mode(self) -> Tensor:
        k = self.concentration
        return self.scale * ((k - 1).clamp(min=0) / k) ** (1 / k)

    @property
    def variance(self) -> Tensor:
        # Gamma(1 + 2 / k) - Gamma(1 + 1 / k)^2, of which little is left for large k.
        mean = torch.lgamma(1 + 1 / self.concentration)
        growth = torch.expm1(lgamma_bend(1 / self.concentration))
        return self.scale.square() * torch.exp(2 * mean) * growth

    @property
    def stddev(self) -> Tensor:
        return self.variance.sqrt()

    def transform(self, noise: Tensor) -> Tensor:
        return self.scale * torch.exp(torch.log(-torch.log1p(-noise)) / self.concentration)

    def _log_prob(self, value: Tensor) -> Tensor:
        y, k = log_ratio(value, self.scale), self.concentration
        return k.log() - self.scale.log() + (k - 1) * y - torch.exp(k * y)

    def _cdf(self, value: Tensor) -> Tensor:
        return one_minus_exp(torch.exp(self.concentration * log_ratio(value, self.scale)))


class Reciprocal(InverseCDF, Distribution):
    """The reciprocal or log-uniform distribution, whose logarithm is uniform.

        z = low (high / low)^u;   p(z) = 1 / (z log(high / low)), low <= z <= high

    Shapes: low and high broadcast to the batch; events are numbers. Units: nats.
    Errors: ValueError unless 0 < low < high, and for a value outside [low, high].
    Source: Kingma & Welling (2013), section 2.4.
    Example:
        >>> Reciprocal(torch.tensor(1.0), torch.tensor(100.0)).icdf(torch.tensor(0.5))
        tensor(10.)
    """

    def __init__(
        self, low: Tensor | float, high: Tensor | float, validate_args: bool | None = None
    ) -> None:
        self.low, self.high = broadcast_all(low, high)
        super().__init__(self.low.shape, validate_args=validate_args)

    @property
    def arg_constraints(self) -> dict[str, Any]:
        return {"low": constraints.positive, "high": constraints.greater_than(self.low)}

    @constraints.dependent_property(is_discrete=False, event_dim=0)
    def support(self) -> constraints.Constraint:
        return constraints.interval(self.low, self.high)

    @property
    def width(self) -> Tensor:
        """log(high / low), the width of the logarithm's range."""
        return log_ratio(self.high, self.low)

    @property
    def mean(self) -> Tensor:
        return (self.high - self.low) / self.width

    @property
    def mode(self) -> Tensor:
        return self.low

    @property
    def variance(self) -> Tensor:
        return self.high.square() * log_uniform_spread(self.width)

    def transform(self, noise: Tensor) -> Tensor:
        z = self.low * torch.exp(noise * self.width)
        return torch.minimum(z, self.high)  # rounding does not take it out of the support

    def _log_prob(self, value: Tensor) -> Tensor:
        within = (value >= self.low) & (value <= self.high)
        log_density = -torch.where(within, value, self.low).log() - self.width.log()
        return torch.where(within, log_density, -math.inf)

    def _cdf(self, value: Tensor) -> Tensor:
        within = torch.minimum(torch.maximum(value, self.low), self.high)
        return log_ratio(within, self.low) / self.width

    def entropy(self) -> Tensor:
        return 0.5 * (self.low.log() + self.high.log()) + self.width.log()


class Gompertz(InverseCDF, Distribution):
    """The Gompertz distribution, of a life whose risk grows exponentially; c the concentration.

        z = scale log(1 - log(1 - u) / c);   p(z) = c / scale exp(y - c (exp(y) - 1)), y = z / scale

    Shapes: concentration and scale broadcast to the batch; events are numbers >= 0. Units: nats.
    Errors: ValueError for parameters that are not positive or a value below 0; NotImplementedError
    for the variance, which takes a hypergeometric series. The mean is scale e^c E_1(c).
    Source: Kingma & Welling (2013), section 2.4; Lenart (2014), "The moments of the Gompertz
    distribution and maximum likelihood estimation of its parameters".
    Example:
        >>> Gompertz(torch.tensor(1.0), torch.tensor(2.0)).mean
        tensor(1.1927)
    """

    arg_constraints: ClassVar = {
        "concentration": constraints.positive,
        "scale": constraints.positive,
    }
    support = constraints.nonnegative

    def __init__(
        self,
        concentration: Tensor | float,
        scale: Tensor | float,
        validate_args: bool | None = None,
    ) -> None:
        self.concentration, self.scale = broadcast_all(concentration, scale)
        super().__init__(self.scale.shape, validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        return self.scale * scaled_exp1(self.concentration)

    @property
    def mode(self) -> Tensor:
        return self.scale * (-self.concentration.log()).clamp(min=0)

    def transform(self, noise: Tensor) -> Tensor:
        return self.scale * torch.log1p(-torch.log1p(-noise) / self.concentration)

    def _log_prob(self, value: Tensor) -> Tensor:
        y, c = value / self.scale, self.concentration
        return c.log() - self.scale.log() + y - c * torch.expm1(y)

    def _cdf(self, value: Tensor) -> Tensor:
        return one_minus_exp(self.concentration * torch.expm1(value / self.scale))

    def entropy(self) -> Tensor:
        c = self.concentration
        return 1 - c.log() + self.scale.log() - scaled_exp1(c)


class Gumbel(InverseCDF, td.Gumbel):
    """The Gumbel distribution, of the largest of many.

        z = loc - scale log(-log(u));   F(z) = exp(-exp(-(z - loc) / scale))

    Shapes: loc and scale broadcast to the batch; events are numbers. Units: nats.
    Errors: ValueError, as torch's, for a scale that is not positive.
    Source: Kingma & Welling (2013), section 2.4.
    Example:
        >>> Gumbel(torch.tensor(1.0), torch.tensor(2.0)).cdf(torch.tensor(1.0))
        tensor(0.3679)
    """

    def transform(self, noise: Tensor) -> Tensor:
        return self.loc - self.scale * torch.log(-torch.log(noise))

    def _cdf(self, value: Tensor) -> Tensor:
        return torch.exp(-torch.exp((self.loc - value) / self.scale))


def _folded(u: Tensor) -> tuple[Tensor, Tensor]:
    """The sign of u - 1/2, +1 at 0, and the smaller of u and 1 - u, exact in the tails."""
    lower = u < 0.5
    one = torch.ones_like(u)
    return torch.where(lower, -one, one), torch.where(lower, u, 1 - u)


ROUTES |= {
    td.Exponential: Exponential,
    td.Cauchy: Cauchy,
    td.HalfCauchy: HalfCauchy,
    td.Pareto: Pareto,
    td.Weibull: Weibull,
    td.Gumbel: Gumbel,
}

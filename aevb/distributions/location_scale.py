"""Location-scale families, z = loc + scale * noise (Kingma & Welling 2013, section 2.4)."""

import math
from typing import Any

import torch
from torch import Tensor
from torch import distributions as td
from torch.distributions import constraints
from torch.distributions.utils import broadcast_all

from aevb.distributions.by_scipy import student_cdf, student_log_density, student_quantile
from aevb.distributions.inverse_cdf import InverseCDF
from aevb.distributions.reparameterization import ROUTES, Noise, Reparameterized
from aevb.distributions.series import digamma_half_step, lgamma_half_step
from aevb.distributions.special import ndtr, product
from aevb.randomness import normal, open_uniform


class Normal(Reparameterized, td.Normal):
    """The Gaussian, whose distribution function keeps its digits far out in the lower tail.

        z = loc + scale e, e ~ N(0, 1);   F(z) = Phi((z - loc) / scale)

    Shapes: loc and scale broadcast to the batch; events are numbers. Units: nats.
    Errors: ValueError, as torch's, for a scale that is not positive.
    Source: Kingma & Welling (2013), section 2.4.
    Example:
        >>> Normal(torch.zeros((), dtype=torch.float64), 1.0).cdf(torch.tensor(-10.0)) > 0
        tensor(True)
    """

    route = "location-scale"

    def transform(self, noise: Tensor) -> Tensor:
        return self.loc + self.scale * noise

    def _cdf(self, value: Tensor) -> Tensor:
        return ndtr((value - self.loc) / self.scale)

    def icdf(self, value: Tensor) -> Tensor:
        quantile: Tensor = self.loc + self.scale * torch.special.ndtri(value)
        return quantile


class MultivariateNormal(Reparameterized, td.MultivariateNormal):
    """The Gaussian with a full covariance, z = loc + L e, e ~ N(0, I), L L^T the covariance.

    Shapes: loc (*batch, D), scale_tril (*batch, D, D), or a covariance or precision matrix in its
    place. Units: nats.
    Errors: ValueError, as torch's, for a matrix that is not positive definite.
    Source: Kingma & Welling (2013), section 2.4.
    Example:
        >>> MultivariateNormal(torch.zeros(2), scale_tril=torch.eye(2)).rsample((3,)).shape
        torch.Size([3, 2])
    """

    route = "location-scale"

    def transform(self, noise: Tensor) -> Tensor:
        return self.loc + product(self.scale_tril, noise.unsqueeze(-1)).squeeze(-1)


class Laplace(InverseCDF, td.Laplace):
    """The Laplace distribution, an exponential to either side.

        z = loc + scale e, e = log(2 u) for u < 1/2, else -log(2 (1 - u))

    Shapes: loc and scale broadcast to the batch; events are numbers. Units: nats.
    Errors: ValueError, as torch's, for a scale that is not positive.
    Source: Kingma & Welling (2013), section 2.4.
    Example:
        >>> Laplace(torch.tensor(0.0), torch.tensor(1.0)).cdf(torch.tensor(-50.0)) > 0
        tensor(True)
    """

    route = "location-scale"

    def transform(self, noise: Tensor) -> Tensor:
        lower = noise < 0.5
        depth = torch.log(2 * torch.where(lower, noise, 1 - noise))
        return self.loc + self.scale * torch.where(lower, depth, -depth)

    def _cdf(self, value: Tensor) -> Tensor:
        y = (value - self.loc) / self.scale
        tail = 0.5 * torch.exp(-y.abs())
        return torch.where(y < 0, tail, 1 - tail)


class HalfNormal(Reparameterized, td.HalfNormal):
    """The absolute value of a Gaussian draw around 0.

        z = scale |e|, e ~ N(0, 1);   F(z) = erf(z / (scale sqrt(2))), z >= 0

    Shapes: scale is the batch; events are numbers. Units: nats.
    Errors: ValueError, as torch's, for a scale that is not positive or a value below 0.
    Source: Kingma & Welling (2013), section 2.4.
    Example:
        >>> HalfNormal(torch.tensor(2.0)).transform(torch.tensor(-1.5))
        tensor(3.)
    """

    route = "location-scale"

    def transform(self, noise: Tensor) -> Tensor:
        return self.scale * noise.abs()

    def _cdf(self, value: Tensor) -> Tensor:
        return torch.erf(value / self.scale * 2**-0.5)

    def icdf(self, prob: Tensor) -> Tensor:
        low, high = prob.clamp(max=0.5), prob.clamp(min=0.5)
        tail = -torch.special.ndtri((1 - high) / 2)
        return self.scale * torch.where(prob < 0.5, torch.erfinv(low) * 2**0.5, tail)


class StudentT(Reparameterized, td.StudentT):
    """Student's t, by the radius and angle of its pair in the plane, whose radius is closed.

        z = loc + scale sqrt(df (u^(-2 / df) - 1)) cos(2 pi v);   u, v ~ U(0, 1)

    Shapes: df, loc and scale broadcast to the batch; events are numbers; noise (2,). Units: nats.
    Errors: ValueError, as torch's, for a df or scale that is not positive. The cdf and its inverse
    are scipy's, with exact derivatives but for those in df, which are by differences to some
    eleven digits; those of draws are exact. Draws overflow for df below about 0.05.
    Source: Bailey (1994), "Polar generation of random variates with the t-distribution".
    Example:
        >>> StudentT(torch.tensor(2.0), 0.0, 1.0).transform(torch.tensor([0.5, 0.5]))
        tensor(-1.4142)
    """

    route = "location-scale"

    @property
    def standard(self) -> Noise:
        return Noise(torch.Size((2,)), open_uniform)

    def transform(self, noise: Tensor) -> Tensor:
        u, v = noise.unbind(-1)
        growth = -u.log() / self.df
        # The square root of df (exp(2 growth) - 1), whose square may be too large a number.
        radius = growth.exp() * (-self.df * torch.expm1(-2 * growth)).sqrt()
        return self.loc + self.scale * radius * torch.cos(2 * math.pi * v)

    def _log_prob(self, value: Tensor) -> Tensor:
        y = (value - self.loc) / self.scale
        return student_log_density(self.df, y) - self.scale.log()

    def _cdf(self, value: Tensor) -> Tensor:
        return student_cdf(self.df, (value - self.loc) / self.scale)

    def icdf(self, value: Tensor) -> Tensor:
        return self.loc + self.scale * student_quantile(self.df, value)

    @property
    def mean(self) -> Tensor:
        return torch.where(self.df > 1, self.loc, math.nan)

    @property
    def variance(self) -> Tensor:
        heavy = torch.where(self.df > 1, math.inf, math.nan)
        excess = torch.where(self.df > 2, self.df - 2, 1.0)
        return torch.where(self.df > 2, self.scale.square() * self.df / excess, heavy)

    def entropy(self) -> Tensor:
        half = self.df / 2
        weight = (half + 0.5) * digamma_half_step(half) - lgamma_half_step(half)
        return weight + self.scale.log() + 0.5 * (self.df.log() + math.log(math.pi))


class Uniform(Reparameterized, td.Uniform):
    """The uniform distribution on [low, high], both ends with it.

        z = low + (high - low) u;   p(z) = 1 / (high - low)

    Shapes: low and high broadcast to the batch; events are numbers. Units: nats.
    Errors: ValueError, as torch's, unless low < high, and for a value outside.
    Source: Kingma & Welling (2013), section 2.4.
    Example:
        >>> Uniform(torch.tensor(1.0), torch.tensor(3.0)).transform(torch.tensor(0.5))
        tensor(2.)
    """

    route = "location-scale"
    law = staticmethod(open_uniform)

    def transform(self, noise: Tensor) -> Tensor:
        z = self.low + (self.high - self.low) * noise
        return torch.minimum(z, self.high)  # rounding does not take it out of the support

    def _log_prob(self, value: Tensor) -> Tensor:
        # A draw may round to `high`, where torch's density is 0.
        within = (value >= self.low) & (value <= self.high)
        return torch.where(within, -(self.high - self.low).log(), -math.inf)


class Triangular(InverseCDF):
    """The triangular distribution: a density that rises from low to the mode and falls to high.

        z = low + sqrt(u (high - low) (mode - low))            for u < (mode - low) / (high - low),
            high - sqrt((1 - u) (high - low) (high - mode))    beyond

    Shapes: low, high and mode broadcast to the batch; events are numbers. Units: nats.
    Errors: ValueError unless low <= mode <= high and low < high, and for a value outside.
    Source: Kingma & Welling (2013), section 2.4; Kotz & van Dorp (2004), "Beyond beta", chapter 1.
    Example:
        >>> Triangular(torch.tensor(0.0), torch.tensor(2.0), torch.tensor(1.0)).variance
        tensor(0.1667)
    """

    route = "location-scale"
    mode: Tensor = torch.empty(0)  # a parameter here, in place of torch's read-only property

    def __init__(
        self,
        low: Tensor | float,
        high: Tensor | float,
        mode: Tensor | float,
        validate_args: bool | None = None,
    ) -> None:
        self.low, self.high, self.mode = broadcast_all(low, high, mode)
        super().__init__(self.low.shape, validate_args=validate_args)

    @property
    def arg_constraints(self) -> dict[str, Any]:
        return {
            "low": constraints.less_than(self.high),
            "high": constraints.greater_than(self.low),
            "mode": constraints.interval(self.low, self.high),
        }

    @constraints.dependent_property(is_discrete=False, event_dim=0)
    def support(self) -> constraints.Constraint:
        return constraints.interval(self.low, self.high)

    @property
    def mean(self) -> Tensor:
        return (self.low + self.high + self.mode) / 3

    @property
    def variance(self) -> Tensor:
        a, b = self.mode - self.low, self.high - self.mode
        return (a.square() + a * b + b.square()) / 18

    def transform(self, noise: Tensor) -> Tensor:
        width = self.high - self.low
        left = noise * width < self.mode - self.low
        # The root of a side without width would have an infinite gradient.
        leg = torch.where(left, self.mode - self.low, self.high - self.mode)
        depth = torch.where(left, noise, 1 - noise) * width * leg
        depth = torch.where(depth > 0, depth, 1.0).sqrt() * (depth > 0)
        return torch.where(left, self.low + depth, self.high - depth)

    def _log_prob(self, value: Tensor) -> Tensor:
        within = (value >= self.low) & (value <= self.high)
        inside = torch.where(within, value, self.mode)
        depth, leg, _ = self._side(inside)
        log_density = math.log(2) + depth.log() - leg.log() - (self.high - self.low).log()
        return torch.where(within, log_density, -math.inf)

    def _cdf(self, value: Tensor) -> Tensor:
        inside = torch.minimum(torch.maximum(value, self.low), self.high)
        depth, leg, left = self._side(inside)
        area = depth / leg * (depth / (self.high - self.low))
        return torch.where(left, area, 1 - area)

    def entropy(self) -> Tensor:
        return 0.5 + ((self.high - self.low) / 2).log()

    def _side(self, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """How far a value is from the end on its side of the mode, how far the mode, which side."""
        left = (value < self.mode) | (self.mode == self.high)
        depth = torch.where(left, value - self.low, self.high - value)
        return depth, torch.where(left, self.mode - self.low, self.high - self.mode), left


class LowRankMultivariateNormal(Reparameterized, td.LowRankMultivariateNormal):
    """The Gaussian whose covariance is W W^T + diag(d): W the factor, (D, R), d the diagonal.

        z = loc + W e_1 + sqrt(d) e_2;   e = (e_1, e_2) ~ N(0, I), of R and D entries

    Shapes: loc (*batch, D), cov_factor (*batch, D, R), cov_diag (*batch, D); noise (R + D,).
    Units: nats.
    Errors: ValueError, as torch's, for shapes that do not fit or a diagonal that is not positive.
    Source: Kingma & Welling (2013), section 2.4; Rezende, Mohamed & Wierstra (2014), section 4.3.
    Example:
        >>> q = LowRankMultivariateNormal(torch.zeros(3), torch.ones(3, 1), torch.ones(3))
        >>> q.standard.shape, q.rsample((5,)).shape
        (torch.Size([4]), torch.Size([5, 3]))
    """

    route = "location-scale"

    def __init__(
        self, loc: Tensor, cov_factor: Tensor, cov_diag: Tensor, validate_args: bool | None = None
    ) -> None:
        try:
            # Torch multiplies W by itself here, which bfloat16 around it would round.
            with torch.autocast(loc.device.type, enabled=False):
                super().__init__(loc, cov_factor, cov_diag, validate_args)
        except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
            # Torch factorizes before it validates.
            raise ValueError("cov_factor and cov_diag must be finite, cov_diag positive") from error

    @property
    def standard(self) -> Noise:
        return Noise(torch.Size((sum(self.cov_factor.shape[-2:]),)), normal)

    def transform(self, noise: Tensor) -> Tensor:
        rank = self.cov_factor.shape[-1]
        common = product(self.cov_factor, noise[..., :rank, None]).squeeze(-1)
        result: Tensor = self.loc + common + self.cov_diag.sqrt() * noise[..., rank:]
        return result

    def _log_prob(self, value: Tensor) -> Tensor:
        # The squares are those of the likeliest e, a sum; torch's difference of two cancels.
        offset, root = (value - self.loc).unsqueeze(-1), self._capacitance_tril
        seen = product(self.cov_factor.mT, offset / self.cov_diag.unsqueeze(-1))
        common = torch.cholesky_solve(seen, root)
        rest = (offset - product(self.cov_factor, common)).squeeze(-1)
        squares = (rest.square() / self.cov_diag).sum(-1) + common.squeeze(-1).square().sum(-1)
        log_determinant = 2 * root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        log_determinant = log_determinant + self.cov_diag.log().sum(-1)
        size = value.shape[-1] * math.log(2 * math.pi)
        result: Tensor = -0.5 * (squares + log_determinant + size)
        return result


ROUTES |= {
    td.Normal: Normal,
    td.MultivariateNormal: MultivariateNormal,
    td.Laplace: Laplace,
    td.HalfNormal: HalfNormal,
    td.StudentT: StudentT,
    td.Uniform: Uniform,
    td.LowRankMultivariateNormal: LowRankMultivariateNormal,
}

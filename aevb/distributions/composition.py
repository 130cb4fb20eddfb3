"""Compositions: draws that are functions of other draws, Gaussian, Gamma or uniform."""

import math
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch import distributions as td
from torch.distributions import constraints
from torch.distributions.utils import broadcast_all

from aevb.distributions import dirichlet
from aevb.distributions.reparameterization import ROUTES, Noise, Reparameterized
from aevb.distributions.special import (
    HALF_LOG_2PI,
    as_real,
    digamma_minus_log,
    gamma_cdf,
    gamma_quantile,
    inside_unit,
    log_gamma_density,
    log_gamma_quantile,
    log_normal_density,
    logit,
    ndtr,
    stirling,
)
from aevb.randomness import open_uniform


def _exp(x: Tensor) -> Tensor:
    """e^x, which neither underflows to 0 nor overflows: a draw stays inside the support."""
    finite = torch.finfo(x.dtype)
    return x.clamp(math.log(finite.tiny), math.log(finite.max) * (1 - finite.eps)).exp()


class LogNormal(Reparameterized, td.LogNormal):
    """The law of the exponential of a Gaussian.

        z = exp(loc + scale e), e ~ N(0, 1);   F(z) = Phi((log z - loc) / scale)

    A draw beyond the largest finite number is given as about that number.
    Shapes: loc and scale broadcast to the batch; events are positive numbers. Units: nats.
    Errors: ValueError, as torch's, for a scale that is not positive.
    Source: Kingma & Welling (2013), section 2.4; Johnson, Kotz & Balakrishnan (1994), chapter 14.
    Example:
        >>> LogNormal(torch.tensor(0.0), 1.0).cdf(torch.tensor(1.0))
        tensor(0.5000)
    """

    route = "composition"

    def transform(self, noise: Tensor) -> Tensor:
        return _exp(self.loc + self.scale * noise)

    def _log_prob(self, value: Tensor) -> Tensor:
        y = value.log()
        return log_normal_density(y, self.loc, self.scale) - y

    def _cdf(self, value: Tensor) -> Tensor:
        return ndtr((value.log() - self.loc) / self.scale)

    def icdf(self, value: Tensor) -> Tensor:
        quantile: Tensor = (self.loc + self.scale * torch.special.ndtri(value)).exp()
        return quantile


class LogitNormal(Reparameterized):
    """The law of the logistic sigmoid of a Gaussian, on (0, 1).

        z = 1 / (1 + exp(-(loc + scale e))), e ~ N(0, 1)
        p(z) = N(logit z; loc, scale^2) / (z (1 - z))

    Its moments and entropy have no closed form: asking for them raises NotImplementedError.
    Shapes: loc and scale broadcast to the batch; events are numbers. Units: nats.
    Errors: ValueError for a scale that is not positive.
    Source: Kingma & Welling (2013), section 2.4; Atchison & Shen (1980), section 2.
    Example:
        >>> LogitNormal(torch.tensor(0.0), 1.0).icdf(torch.tensor(0.5))
        tensor(0.5000)
    """

    route = "composition"
    arg_constraints: ClassVar[Any] = {"loc": constraints.real, "scale": constraints.positive}
    support = constraints.unit_interval

    def __init__(
        self, loc: Tensor | float, scale: Tensor | float, validate_args: bool | None = None
    ) -> None:
        self.loc, self.scale = broadcast_all(loc, scale)
        super().__init__(self.loc.shape, validate_args=validate_args)

    def transform(self, noise: Tensor) -> Tensor:
        return inside_unit(torch.sigmoid(self.loc + self.scale * noise))

    def _log_prob(self, value: Tensor) -> Tensor:
        rest = value.log() + torch.log1p(-value)
        return log_normal_density(logit(value), self.loc, self.scale) - rest

    def _cdf(self, value: Tensor) -> Tensor:
        return ndtr((logit(value) - self.loc) / self.scale)

    def icdf(self, value: Tensor) -> Tensor:
        return torch.sigmoid(self.loc + self.scale * torch.special.ndtri(value))


class Gamma(Reparameterized, td.Gamma):
    """The Gamma law of any positive shape, by implicit gradients.

        z = P^-1(concentration, u) / rate, u ~ U(0, 1);   dz/da = -(dF/da) / p(z)

    A sum of exponentials, -log u_1 - ... - log u_k, composes only whole shapes k (`Erlang`); this
    route serves them all. A draw below the smallest normal number is given as that number.
    Shapes: concentration and rate broadcast to the batch; events are numbers. Units: nats.
    Errors: ValueError, as torch's, for parameters that are not positive.
    Source: Kingma & Welling (2013), section 2.4; Figurnov, Mohamed & Mnih (2018), equation 6.
    Example:
        >>> Gamma(torch.tensor(1.0), 2.0).transform(torch.tensor(0.5))
        tensor(0.3466)
    """

    route = "implicit"
    law = staticmethod(open_uniform)

    def transform(self, noise: Tensor) -> Tensor:
        tiny = torch.finfo(noise.dtype).tiny
        return (gamma_quantile(self.concentration, noise) / self.rate).clamp(min=tiny)

    def _log_prob(self, value: Tensor) -> Tensor:
        zero = value == 0
        y = torch.where(zero, 1.0, value).log()
        inside = log_gamma_density(self.concentration, y + self.rate.log()) - y
        edge = torch.xlogy(self.concentration - 1, value) + self.rate.log()
        return torch.where(zero, edge, inside)

    def _cdf(self, value: Tensor) -> Tensor:
        return gamma_cdf(self.concentration, self.rate * value)

    def icdf(self, value: Tensor) -> Tensor:
        y = log_gamma_quantile(self.concentration.double(), value.double(), tails=True)
        return y.exp().to(self.rate.dtype) / self.rate

    def entropy(self) -> Tensor:
        a = self.concentration
        spread = 0.5 * a.log() + HALF_LOG_2PI + stirling(a)
        return spread - self.rate.log() + (1 - a) * digamma_minus_log(a)


class Chi2(Gamma, td.Chi2):
    """The chi-squared law, Gamma(df / 2, 1 / 2), of the sum of df squared Gaussians.

        z = 2 P^-1(df / 2, u), u ~ U(0, 1)

    Shapes: df gives the batch; events are numbers. Units: nats.
    Errors: ValueError, as torch's, for a df that is not positive.
    Source: Kingma & Welling (2013), section 2.4.
    Example:
        >>> Chi2(torch.tensor(2.0)).cdf(torch.tensor(1.3863))
        tensor(0.5000)
    """


class Erlang(Gamma):
    """The Erlang distribution, of the sum of k exponentials; k, a whole number, is the shape.

        z = -(log u_1 + ... + log u_k) / rate;   p(z) = rate^k z^(k-1) exp(-rate z) / (k - 1)!

    Shapes: shape and rate broadcast to the batch; events are numbers >= 0. Noise (K,) for the
    largest shape K of the batch, of which each element takes its first k. Units: nats.
    Errors: ValueError for a shape that is no positive whole number, a rate that is not positive, or
    a value below 0. The draws have no gradient in the shape.
    Source: Kingma & Welling (2013), section 2.4: inverse CDFs of exponentials, here summed.
    Example:
        >>> Erlang(3, torch.tensor(2.0)).mean
        tensor(1.5000)
    """

    route = "inverse CDF"
    arg_constraints = {  # noqa: RUF012  # as torch has it
        "shape": constraints.positive_integer,
        "rate": constraints.positive,
    }

    def __init__(
        self, shape: Tensor | int, rate: Tensor | float, validate_args: bool | None = None
    ) -> None:
        shape, rate = broadcast_all(as_real(shape, rate), rate)
        super().__init__(shape.to(rate.dtype), rate, validate_args)

    @property
    def shape(self) -> Tensor:
        """k, the concentration of the Gamma law that this is."""
        return self.concentration

    @property
    def standard(self) -> Noise:
        return Noise(torch.Size((int(self.shape.max()),)), open_uniform)

    def transform(self, noise: Tensor) -> Tensor:
        own = torch.arange(noise.shape[-1], device=noise.device) < self.shape.unsqueeze(-1)
        return -torch.where(own, noise.log(), 0.0).sum(-1) / self.rate


class Beta(Reparameterized, td.Beta):
    """The law of one Gamma draw's share in the sum of two.

        z = g1 / (g1 + g0), g_i = P^-1(concentration_i, u_i), u ~ U(0, 1)^2

    in logarithms of the g, so that both may underflow.
    Shapes: the concentrations broadcast to the batch; events are numbers, noise (2,). Units: nats.
    Errors: ValueError, as torch's, for parameters that are not positive.
    Source: Kingma & Welling (2013), section 2.4; Johnson, Kotz & Balakrishnan (1995), chapter 25.
    Example:
        >>> Beta(torch.tensor(2.0), 2.0).transform(torch.tensor([0.3, 0.3]))
        tensor(0.5000)
    """

    route = "composition"

    @property
    def standard(self) -> Noise:
        return Noise(torch.Size([2]), open_uniform)

    def transform(self, noise: Tensor) -> Tensor:
        y = log_gamma_quantile(self._dirichlet.concentration, noise)
        return inside_unit(torch.sigmoid(y[..., 0] - y[..., 1]).to(noise.dtype))

    def _log_prob(self, value: Tensor) -> Tensor:
        a, b = self.concentration1, self.concentration0
        edge = (value <= 0) | (value >= 1)
        x = torch.where(edge, 0.5, value)
        pair, logs = torch.stack([x, 1 - x], -1), torch.stack([x.log(), torch.log1p(-x)], -1)
        both = torch.stack(torch.broadcast_tensors(a, b), -1)
        inside = dirichlet.log_density(both, pair, logs) - logs.sum(-1)
        outside = torch.xlogy(a - 1, value) + torch.special.xlog1py(b - 1, -value)
        return torch.where(edge, outside - dirichlet.log_beta(both), inside)

    def _cdf(self, value: Tensor) -> Tensor:
        return dirichlet.beta_cdf(self.concentration1, self.concentration0, logit(value))

    def icdf(self, value: Tensor) -> Tensor:
        odds = dirichlet.beta_quantile(self.concentration1, self.concentration0, value)
        return torch.sigmoid(odds)

    def entropy(self) -> Tensor:
        return dirichlet.entropy(self._dirichlet.concentration)

    @property
    def mode(self) -> Tensor:
        a, b = self.concentration1 - 1, self.concentration0 - 1
        inner = a.clamp(min=0) / torch.where((a > 0) | (b > 0), a.clamp(min=0) + b.clamp(min=0), 1)
        ends = torch.where(a < b, 0.0, 1.0)
        return torch.where((a == 0) & (b == 0), 0.5, torch.where((a <= 0) & (b <= 0), ends, inner))


class Dirichlet(Reparameterized, td.Dirichlet):
    """The law of Gamma draws over their sum, on the simplex.

        z = softmax(log g), g_k = P^-1(concentration_k, u_k), u ~ U(0, 1)^K

    in logarithms of the g, so that all may underflow. A part below the smallest normal number is
    given as that number.
    Shapes: concentration (*batch, K); events and noise (K,). Units: nats.
    Errors: ValueError, as torch's, for a concentration that is not positive or has no axis.
    Source: Kingma & Welling (2013), section 2.4; Figurnov, Mohamed & Mnih (2018), section 4.
    Example:
        >>> Dirichlet(torch.ones(4)).transform(torch.full((4,), 0.3))
        tensor([0.2500, 0.2500, 0.2500, 0.2500])
    """

    route = "composition"
    law = staticmethod(open_uniform)

    def transform(self, noise: Tensor) -> Tensor:
        y = log_gamma_quantile(self.concentration, noise)
        return torch.softmax(y, -1).to(noise.dtype).clamp(min=torch.finfo(noise.dtype).tiny)

    def _log_prob(self, value: Tensor) -> Tensor:
        a = self.concentration
        edge = value == 0
        x = torch.where(edge, a / a.sum(-1, keepdim=True), value)
        inside = dirichlet.log_density(a, x, x.log()) - x.log().sum(-1)
        outside = torch.xlogy(a - 1, value).sum(-1) - dirichlet.log_beta(a)
        return torch.where(edge.any(-1), outside, inside)

    def entropy(self) -> Tensor:
        return dirichlet.entropy(self.concentration)


class FisherSnedecor(Reparameterized, td.FisherSnedecor):
    """The law of the ratio of two mean squares, of df1 and df2 Gaussians.

        z = (g1 / df1) / (g2 / df2), g_i = P^-1(df_i / 2, u_i), u ~ U(0, 1)^2

    A draw beyond the largest finite number is given as about that number. The mean is infinite up
    to df2 = 2 and the variance up to df2 = 4, as in scipy.
    Shapes: df1 and df2 broadcast to the batch; events are positive numbers, noise (2,).
    Units: nats. Errors: ValueError, as torch's, for parameters that are not positive.
    Source: Kingma & Welling (2013), section 2.4; Johnson, Kotz & Balakrishnan (1995), chapter 27.
    Example:
        >>> FisherSnedecor(torch.tensor(3.0), 3.0).cdf(torch.tensor(1.0))
        tensor(0.5000)
    """

    route = "composition"

    @property
    def standard(self) -> Noise:
        return Noise(torch.Size([2]), open_uniform)

    def transform(self, noise: Tensor) -> Tensor:
        halves = torch.stack([self.df1, self.df2], -1) / 2
        y = log_gamma_quantile(halves, noise) - halves.double().log()
        return _exp((y[..., 0] - y[..., 1]).to(noise.dtype))

    def _log_odds(self, value: Tensor) -> Tensor:
        """The logit of the share x1 = df1 z / (df1 z + df2), which is Beta(df1 / 2, df2 / 2)."""
        return value.log() + self.df1.log() - self.df2.log()

    def _log_prob(self, value: Tensor) -> Tensor:
        odds = self._log_odds(value)
        return dirichlet.log_logit_density(self.df1 / 2, self.df2 / 2, odds) - value.log()

    def _cdf(self, value: Tensor) -> Tensor:
        return dirichlet.beta_cdf(self.df1 / 2, self.df2 / 2, self._log_odds(value))

    def icdf(self, value: Tensor) -> Tensor:
        odds = dirichlet.beta_quantile(self.df1 / 2, self.df2 / 2, value)
        return (odds + self.df2.log() - self.df1.log()).exp()

    def entropy(self) -> Tensor:
        """log(df2 / df1) + E of the logit of the share, whose own law has the Beta density."""
        a = torch.stack([self.df1, self.df2], -1) / 2
        odds = 2 * (torch.digamma(a.sum(-1)) - torch.digamma(a[..., 1]))
        return dirichlet.entropy(a) + odds + self.df2.log() - self.df1.log()

    @property
    def mean(self) -> Tensor:
        known = self.df2 > 2
        df2 = torch.where(known, self.df2, 3.0)
        return torch.where(known, df2 / (df2 - 2), math.inf)

    @property
    def variance(self) -> Tensor:
        known = self.df2 > 4
        df1, df2 = self.df1, torch.where(known, self.df2, 5.0)
        spread = 2 * (df2 / (df2 - 2)).square() * (df1 + df2 - 2) / (df1 * (df2 - 4))
        return torch.where(known, spread, math.inf)

    @property
    def mode(self) -> Tensor:
        top = (self.df1 - 2) / self.df1 * (self.df2 / (self.df2 + 2))
        return torch.where(self.df1 > 2, top, math.nan)


ROUTES |= {
    td.LogNormal: LogNormal,
    td.Gamma: Gamma,
    td.Chi2: Chi2,
    td.Beta: Beta,
    td.Dirichlet: Dirichlet,
    td.FisherSnedecor: FisherSnedecor,
}

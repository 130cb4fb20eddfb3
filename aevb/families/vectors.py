"""Families over a whole vector: on the simplex, on the sphere, low-rank Gaussians, mixtures."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch import distributions as td
from torch.distributions import Distribution, Independent

from aevb import distributions
from aevb.errors import UsageError, at_least
from aevb.families.family import Family, blocks, positive
from aevb.families.gaussian import SHARE, MultivariateNormal


class Latent(Family):
    """A family for latent vectors: no column of data is ever an element of it."""

    def encode_marginals(self, x: Tensor) -> Tensor:
        raise UsageError(f"{type(self).__name__} is a family for codes, not for data")

    inside = encode_marginals


class LowRankMultivariateNormal(Latent):
    """A Gaussian whose covariance is a diagonal and `rank` directions more.

        N(z; mean, W W^T + diag(d)),   z = mean + W e + sqrt(d) e',   W_jk = sqrt(d_j) raw_jk / 10

    Shapes: raw (*batch, (2 + rank) D): means, log d, then the `rank` columns of W, in units as for
    `MultivariateNormal`. Units: nats.
    Errors: UsageError for a rank below 1.
    Source: Rezende et al. (2014), "Stochastic backpropagation", section 4.3.
    Example:
        >>> LowRankMultivariateNormal(1)(torch.zeros(3, 6), 1).event_shape
        torch.Size([2])
    """

    def __init__(self, rank: int) -> None:
        super().__init__()
        at_least(1, rank, "the rank")
        self.rank = rank
        self.each = 2 + rank

    def forward(self, raw: Tensor, batch_ndim: int) -> Distribution:
        loc, log_diagonal, *columns = blocks(raw.flatten(batch_ndim), batch_ndim, self.each)
        scale = torch.exp(0.5 * log_diagonal)
        factor = SHARE * scale.unsqueeze(-1) * torch.stack(columns, dim=-1)
        return distributions.LowRankMultivariateNormal(
            loc, factor, scale.square(), validate_args=False
        )


class Elliptical(Latent):
    """A full covariance with heavier tails than a Gaussian's: the radius is gamma, not chi.

        z = mean + r L s,  s uniform on the unit sphere, r ~ Gamma(D, 1)

    so that p(z) ~ exp(-|L^-1 (z - mean)|).

    Shapes: raw as for `MultivariateNormal`: (*batch, D (D + 3) / 2). Units: nats.
    Errors: UsageError where the number of outputs fits no D.
    Source: Gomez et al. (1998), "A multivariate generalization of the power exponential family",
    with the power 1/2; Kingma & Welling (2013), section 2.4, for the route.
    Example:
        >>> Elliptical()(torch.zeros(3, 5), 1).event_shape
        torch.Size([2])
    """

    def __init__(self) -> None:
        super().__init__()
        self.gaussian = MultivariateNormal()

    def outputs(self, size: int) -> int:
        return self.gaussian.outputs(size)

    def forward(self, raw: Tensor, batch_ndim: int) -> Distribution:
        normal: Any = self.gaussian(raw, batch_ndim)
        radial = distributions.Gamma(
            normal.loc.new_full(normal.batch_shape, float(normal.event_shape[0])),
            normal.loc.new_ones(normal.batch_shape),
            validate_args=False,
        )
        made: Distribution = distributions.Elliptical(
            normal.loc, normal.scale_tril, radial, validate_args=False
        )
        return made


class Dirichlet(Latent):
    """Shares that add up to one, Dirichlet(concentration), concentration = exp(raw).

    Shapes: raw (*batch, D) logs of the concentrations, held to [-15, 15]; z on the simplex of D
    shares. Units: nats, a density over the first D - 1 shares.
    Source: Srivastava & Sutton (2017), "Autoencoding variational inference for topic models".
    Example:
        >>> Dirichlet()(torch.zeros(1, 3), 1).mean
        tensor([[0.3333, 0.3333, 0.3333]])
    """

    def forward(self, raw: Tensor, batch_ndim: int) -> Distribution:
        return distributions.Dirichlet(positive(raw.flatten(batch_ndim)), validate_args=False)


class VonMisesFisher(Latent):
    """Directions around a middle one, on the unit sphere of D dimensions.

        p(z) ~ exp(k m^T z),  m = raw_1..D / |raw_1..D|,  k = softplus(raw_D+1) + 1

    Shapes: raw (*batch, D + 1); z (D,) of length one. Units: nats, a density on the sphere.
    Errors: UsageError for fewer than 2 dimensions.
    Source: Davidson et al. (2018), "Hyperspherical variational auto-encoders", who have the same
    floor of 1 under the concentration.
    Example:
        >>> VonMisesFisher()(torch.ones(1, 4), 1).event_shape
        torch.Size([3])
    """

    def outputs(self, size: int) -> int:
        at_least(2, size, "the number of dimensions of a sphere")
        return size + 1

    def forward(self, raw: Tensor, batch_ndim: int) -> Distribution:
        raw = raw.flatten(batch_ndim)
        direction, concentration = raw[..., :-1], F.softplus(raw[..., -1]) + 1
        # A direction of length 0 is none: the first axis stands in for it.
        first = F.one_hot(torch.zeros((), dtype=torch.int64, device=raw.device), raw.shape[-1] - 1)
        none = (direction == 0).all(-1, keepdim=True)
        direction = F.normalize(torch.where(none, first.to(raw), direction), dim=-1)
        return distributions.VonMisesFisher(direction, concentration, validate_args=False)


class HypersphericalUniform(Latent):
    """The same density for all directions: the prior of codes on a sphere. It takes no numbers.

    Shapes: raw (*batch, 0); events of `size` coordinates, of length 1. Units: nats.
    Example:
        >>> HypersphericalUniform(3)(torch.zeros(0), 0).event_shape
        torch.Size([3])
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def outputs(self, size: int) -> int:
        return 0

    def forward(self, raw: Tensor, batch_ndim: int) -> Distribution:
        shape = raw.shape[:batch_ndim]
        return distributions.HypersphericalUniform(
            self.size, shape, raw.dtype, raw.device, validate_args=False
        )


class Mixture(Latent):
    """A mixture of diagonal Gaussians over `size` dimensions, with K = `components` of them.

        p(z) = sum_k pi_k N(z; m_k, diag(s_k^2)),   (pi, m, s) = base + raw

    The base is learned for all conditions; its middles start at random, for components that start
    alike would stay alike.
    Shapes: raw (*batch, K + 2 K D): logits of pi, means, log-variances. Units: nats.
    Errors: UsageError for fewer than 1 component.
    Source: Bishop (2006), section 9.2; as a prior, Dilokthanakul et al. (2016); gradients through
    the choice of the component: Figurnov et al. (2018), "Implicit reparameterization gradients".
    Example:
        >>> mixture = Mixture(2, 5)
        >>> mixture(torch.zeros(3, mixture.outputs(2)), 1).event_shape
        torch.Size([2])
    """

    def __init__(self, size: int, components: int) -> None:
        super().__init__()
        at_least(1, components, "the number of components")
        self.size = size
        self.components = components
        base = torch.zeros(components * (1 + 2 * size))
        base[components : components * (1 + size)].normal_()
        self.base = nn.Parameter(base)

    def outputs(self, size: int) -> int:
        if size != self.size:
            raise UsageError(f"the mixture is over {self.size} dimensions, not {size}")
        return self.components * (1 + 2 * size)

    def forward(self, raw: Tensor, batch_ndim: int) -> Distribution:
        logits, rest = (raw.flatten(batch_ndim) + self.base).tensor_split([self.components], dim=-1)
        loc, log_variance = rest.unflatten(-1, (2, self.components, self.size)).unbind(-3)
        parts = distributions.Normal(loc, torch.exp(0.5 * log_variance), validate_args=False)
        return distributions.Mixture(
            td.Categorical(logits=logits, validate_args=False),
            Independent(parts, 1, validate_args=False),
            validate_args=False,
        )

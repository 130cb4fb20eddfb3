"""Gaussian families, and location-scale ones in the units of the data."""

from typing import Any

import torch
from torch import Tensor, nn
from torch import distributions as td
from torch.distributions import Distribution

from aevb.errors import UsageError, at_least
from aevb.families.family import Family, Leaf, Wrapped, blocks, independent
from aevb.networks import Standardizer

LIKELIHOOD_MIN_VARIANCE = 1e-4
"""Floor of an observation variance: without one the likelihood of a Gaussian decoder is unbounded
(Mattei & Frellsen 2018, "Leveraging the exact likelihood of deep latent variable models")."""


SHARE = 0.1
"""Of an entry below the diagonal of a Cholesky factor, in units of its row."""
MAX = 60.0
"""Bound on the log of an observation variance: a code far out in a heavy tail must not make it
infinite, and e^60 is far from the largest number of 32 bits, 3e38."""


def _deviation(log_variance: Tensor, least: float) -> Tensor:
    """sqrt(exp(log_variance) + least)"""
    if not least:
        return torch.exp(0.5 * log_variance)  # whose slope is a number where the variance is 0
    return torch.sqrt(torch.exp(log_variance.clamp_max(MAX)) + least)


class Normal(Family):
    """A diagonal Gaussian with a mean head and a log-variance head.

        N(x; mean, diag(variance)),  variance = exp(log-variance) + min_variance

    Shapes: raw (*batch, 2X): means, then log-variances; raw (*batch, X) where `noise_shape` is
    given: the log-variance is then a parameter of that shape, () or (X,), shared by all conditions
    (probabilistic PCA and factor analysis). `sigmoid_mean` sends the mean through a sigmoid, for
    data in (0, 1).
    Units: nats, a density with respect to the data as given.
    Errors: UsageError for a negative floor; DataError from `check` for values that are not finite.
    Source: Kingma & Welling (2013), appendix C.2.
    Example:
        >>> q = Normal()(torch.zeros(3, 4), batch_ndim=1)
        >>> q.batch_shape, q.event_shape
        (torch.Size([3]), torch.Size([2]))
    """

    moves = True

    def __init__(
        self,
        min_variance: float = 0.0,
        sigmoid_mean: bool = False,
        noise_shape: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__()
        at_least(0, min_variance, "min_variance")
        self.min_variance = min_variance
        self.sigmoid_mean = sigmoid_mean
        self.noise_shape = None if noise_shape is None else tuple(noise_shape)
        self.each = 2 if noise_shape is None else 1
        if self.noise_shape is not None:
            self.log_variance = nn.Parameter(torch.zeros(self.noise_shape))

    def forward(self, raw: Tensor, batch_ndim: int) -> Distribution:
        if self.noise_shape is None:
            mean, log_variance = blocks(raw, batch_ndim, 2)
        else:
            mean, log_variance = raw, self.log_variance.expand(raw.shape[batch_ndim:])
        if self.sigmoid_mean:
            mean = torch.sigmoid(mean)
        scale = _deviation(log_variance, self.min_variance).expand(mean.shape)
        return independent(td.Normal(mean, scale, validate_args=False), batch_ndim)

    def moved(self, law: Any, loc: Tensor, scale: Tensor) -> Distribution:
        base = law.base_dist
        made = td.Normal(loc + scale * base.loc, scale * base.scale, validate_args=False)
        return independent(made, len(law.batch_shape))

    def encode_marginals(self, x: Tensor) -> Tensor:
        mean, variance = x.mean(0), x.var(0, unbiased=False)
        if self.noise_shape == ():
            variance = variance.mean()
        log_variance = torch.log((variance - self.min_variance).clamp_min(1e-6))
        if self.sigmoid_mean:
            mean = torch.logit(mean, eps=1e-4)
        if self.noise_shape is None:
            return torch.cat([mean.flatten(), log_variance.flatten()])
        self.log_variance.data.copy_(log_variance.reshape(self.noise_shape))
        return mean.flatten()


class MultivariateNormal(Family):
    """A Gaussian with a full covariance, through its Cholesky factor.

        N(x; mean, L L^T),  L_jj = sqrt(exp(raw_j) + min_variance),  L_jk = L_jj raw_jk / 10

    In units of its own row an entry below the diagonal means the same for dimensions that say much
    and for those that say little; the tenth keeps the hundreds of them from swamping the diagonal
    while a network learns them.

    Shapes: raw (*batch, X + X + X(X-1)/2): means, log of the squared diagonal of L, then the rows
    of L below its diagonal.
    Units: nats. Errors: UsageError where the number of outputs fits no X.
    Source: Kingma & Welling (2013), section 2.4; the noise map is mean + L noise.
    Example:
        >>> q = MultivariateNormal()(torch.zeros(3, 5), batch_ndim=1)
        >>> q.event_shape
        torch.Size([2])
    """

    moves = True

    def __init__(self, min_variance: float = 0.0) -> None:
        super().__init__()
        at_least(0, min_variance, "min_variance")
        self.min_variance = min_variance

    def outputs(self, size: int) -> int:
        return size * (size + 3) // 2

    def forward(self, raw: Tensor, batch_ndim: int) -> Distribution:
        raw = raw.flatten(batch_ndim)
        width = raw.shape[-1]
        size = int((9 / 4 + 2 * width) ** 0.5 - 1.5 + 1e-9)
        if self.outputs(size) != width:
            raise UsageError(
                f"the network gives {width} numbers, expected X (X + 3) / 2 of them "
                f"for a full covariance over X elements, say {self.outputs(size)} for X = {size}"
            )
        mean, log_square, below = raw.split([size, size, width - 2 * size], dim=-1)
        diagonal = _deviation(log_square, self.min_variance)
        rows, columns = torch.tril_indices(size, size, offset=-1, device=raw.device)
        factor = torch.diag_embed(diagonal)
        below = SHARE * below * diagonal[..., rows]
        index = (rows * size + columns).expand(below.shape)
        factor = factor.flatten(-2).scatter(-1, index, below).unflatten(-1, (size, size))
        return td.MultivariateNormal(mean, scale_tril=factor, validate_args=False)

    def encode(self, mean: Tensor, factor: Tensor) -> Tensor:
        """The raw numbers (..., outputs) of means (..., X) and Cholesky factors (..., X, X).

        A variance below the floor is put at the floor.
        """
        size, least = factor.shape[-1], torch.finfo(mean.dtype).tiny
        diagonal = factor.diagonal(dim1=-2, dim2=-1)
        squares = (diagonal.square() - self.min_variance).clamp_min(least)
        rows, columns = torch.tril_indices(size, size, -1)
        below = factor[..., rows, columns] / diagonal[..., rows] / SHARE
        return torch.cat([mean, squares.log(), below], dim=-1)

    def moved(self, law: Any, loc: Tensor, scale: Tensor) -> Distribution:
        factor = scale[:, None] * law.scale_tril
        return td.MultivariateNormal(loc + scale * law.loc, scale_tril=factor, validate_args=False)

    def encode_marginals(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        variance = (x.var(0, unbiased=False) - self.min_variance).clamp_min(1e-6)
        size = x.shape[1]
        return torch.cat([x.mean(0), variance.log(), x.new_zeros(self.outputs(size) - 2 * size)])


class Standardized(Standardizer, Wrapped):
    """A location-scale family over standardized data, as a density of the data themselves.

        p(x) = prod_i (1 / s_i) p((x - m) / s),   of the family again: loc m + s mu, scale s sigma

    A table whose columns are of very different sizes is learned in standardized units; densities,
    means and samples are in those of the data, with the Jacobian in the number. A least variance of
    the family is relative to that of the column.
    Shapes: raw as for `family`; m and s (width,), taken from data by `fit`.
    Units: nats, a density with respect to the data as given.
    Errors: UsageError for a family without location and scale.
    Source: the change of variables; Bishop (2006), equation 1.27.
    Example:
        >>> Standardized(Normal(), 2)(torch.zeros(1, 4), 1).mean
        tensor([[0., 0.]])
    """

    def __init__(self, family: Family, width: int) -> None:
        super().__init__(width)
        if not family.moves:
            raise UsageError(
                "only a family with a location and a scale can be standardized, found "
                f"{type(family).__name__}"
            )
        self.family = family

    def forward(self, raw: Tensor, batch_ndim: int) -> Distribution:
        return self.family.moved(self.family(raw, batch_ndim), self.mean, self.deviation)

    def leaves(self, columns: Tensor, law: Any = None) -> list[Leaf]:
        return [leaf._replace(unit=self) for leaf in super().leaves(columns, law)]

    def encode_marginals(self, x: Tensor) -> Tensor:
        return self.family.encode_marginals(self.standardize(x))

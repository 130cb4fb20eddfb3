"""Laws with ellipsoids of equal density around a center (Kingma & Welling 2013, section 2.4)."""

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from aevb.distributions.reparameterization import Noise, Reparameterized, apart, route, side_by_side
from aevb.distributions.special import product
from aevb.distributions.sphere import log_area
from aevb.randomness import normal


class Elliptical(Reparameterized):
    """An elliptical distribution: a direction that is uniform on a sphere, and a given radius.

        z = loc + r L s;   s = e / |e|, e ~ N(0, I), r ~ radial
        log p(z) = log radial(r) - log(2 pi^(D/2) / Gamma(D/2)) - (D - 1) log r - log |det L|,
        r = |L^-1 (z - loc)|

    Shapes: loc (*batch, D), scale_tril (*batch, D, D), lower triangular, radial with batch (*batch)
    and numbers as events; they broadcast. Noise (D + K,), the last K the radial law's own.
    Units: nats. `covariance_matrix` is L L^T E[r^2] / D; the mean is nan where E[r] is not finite.
    Errors: ValueError for shapes that do not fit, a scale_tril that is no Cholesky factor, or a
    radial law that may be negative; UsageError for one without a route.
    Source: Kingma & Welling (2013), section 2.4; Fang, Kotz & Ng (1990), "Symmetric multivariate
    and related distributions", chapter 2.
    Example:
        >>> from aevb.distributions import Rayleigh
        >>> gaussian = Elliptical(torch.zeros(2), torch.eye(2), Rayleigh(torch.tensor(1.0)))
        >>> gaussian.log_prob(torch.zeros(2)).exp() * 2 * torch.pi
        tensor(1.0000)
    """

    arg_constraints: ClassVar = {
        "loc": constraints.real_vector,
        "scale_tril": constraints.lower_cholesky,
    }
    support = constraints.real_vector
    route = "location-scale"

    def __init__(
        self,
        loc: Tensor,
        scale_tril: Tensor,
        radial: Distribution,
        validate_args: bool | None = None,
    ) -> None:
        d = loc.shape[-1:]
        if len(d) == 0 or scale_tril.shape[-2:] != d + d or radial.event_shape:
            raise ValueError(
                "expected loc (*batch, D), scale_tril (*batch, D, D) and a radial law of numbers, "
                f"found {tuple(loc.shape)}, {tuple(scale_tril.shape)} and events of shape "
                f"{tuple(radial.event_shape)}"
            )
        batch = torch.broadcast_shapes(loc.shape[:-1], scale_tril.shape[:-2], radial.batch_shape)
        self.loc, self.scale_tril = loc.expand(batch + d), scale_tril.expand(batch + d + d)
        # Without need it is not expanded: that cannot be traced into a compiled step.
        self.radial = radial if radial.batch_shape == batch else radial.expand(batch)
        super().__init__(batch, d, validate_args=validate_args)
        support: Any = radial.support
        if self._validate_args and support.check(-torch.ones_like(loc[..., 0])).any():
            raise ValueError(f"expected a radial law of positive numbers, found {radial}")

    @property
    def mean(self) -> Tensor:
        return torch.where(self.radial.mean.isfinite().unsqueeze(-1), self.loc, math.nan)

    @property
    def covariance_matrix(self) -> Tensor:
        """L L^T E[r^2] / D, (*batch, D, D)."""
        whole = product(self.scale_tril, self.scale_tril.mT)
        return whole * self._mean_square()[..., None, None]

    @property
    def variance(self) -> Tensor:
        return self.scale_tril.square().sum(-1) * self._mean_square().unsqueeze(-1)

    def _mean_square(self) -> Tensor:
        """E[r^2] / D, what each axis has of the radius."""
        square: Tensor = self.radial.variance + self.radial.mean.square()
        return square / self.loc.shape[-1]

    @property
    def standard(self) -> Noise:
        return side_by_side(self._noises)

    @property
    def _noises(self) -> list[Noise]:
        return [Noise(self.loc.shape[-1:], normal), route(self.radial).noise]

    def transform(self, noise: Tensor) -> Tensor:
        e, own = apart(noise, self._noises)
        radius = route(self.radial).transform(own)
        along = (radius / torch.linalg.vector_norm(e, dim=-1)).unsqueeze(-1) * e
        return self.loc + product(self.scale_tril, along.unsqueeze(-1)).squeeze(-1)

    def _log_prob(self, value: Tensor) -> Tensor:
        d = self.loc.shape[-1]
        offset = (value - self.loc).unsqueeze(-1)
        y = torch.linalg.solve_triangular(self.scale_tril, offset, upper=False).squeeze(-1)
        # At the center itself the limit is taken, in which logarithms of r cancel.
        r = torch.linalg.vector_norm(y, dim=-1).clamp(min=torch.finfo(y.dtype).tiny)
        log_determinant = self.scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        result: Tensor = self.radial.log_prob(r) - log_area(d) - (d - 1) * r.log() - log_determinant
        return result

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Self:
        new = super().expand(batch_shape, _instance)
        new.radial = self.radial.expand(torch.Size(batch_shape))
        return new

    def __repr__(self) -> str:
        return f"{super().__repr__()[:-1]}, radial: {self.radial})"

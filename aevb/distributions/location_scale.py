"""Location-scale families, z = loc + scale * noise (Kingma & Welling 2013, section 2.4)."""

import torch
from torch import Tensor
from torch import distributions as td

from aevb.distributions.reparameterization import ROUTES, Reparameterized
from aevb.distributions.special import ndtr


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

    def cdf(self, value: Tensor) -> Tensor:
        return ndtr((value - self.loc) / self.scale)

    def icdf(self, value: Tensor) -> Tensor:
        quantile: Tensor = self.loc + self.scale * torch.special.ndtri(value)
        return quantile


class MultivariateNormal(Reparameterized, td.MultivariateNormal):
    """The Gaussian with a full covariance, z = loc + L e, e ~ N(0, I), L L^T the covariance.

    Shapes: loc (*batch, D), scale_tril (*batch, D, D), or a covariance or precision matrix in its
    place. Units: nats.
    Source: Kingma & Welling (2013), section 2.4.
    Example:
        >>> MultivariateNormal(torch.zeros(2), scale_tril=torch.eye(2)).rsample((3,)).shape
        torch.Size([3, 2])
    """

    route = "location-scale"

    def transform(self, noise: Tensor) -> Tensor:
        # Networks may run in bfloat16 around this; z does not.
        with torch.autocast(noise.device.type, enabled=False):
            return self.loc + (self.scale_tril @ noise.unsqueeze(-1)).squeeze(-1)


ROUTES |= {td.Normal: Normal, td.MultivariateNormal: MultivariateNormal}

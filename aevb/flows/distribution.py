"""The law of a draw that went through maps: the change of variables."""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from aevb.distributions import route
from aevb.distributions.reparameterization import Noise, Remembering


class Map(Protocol):
    """An invertible map of R^D, differentiable both ways.

    Shapes: x and y (*sample, *batch, D), log-determinants (*sample, *batch).
    Source: Rezende & Mohamed (2015), equation 5.
    Example:
        >>> class Flip:
        ...     def forward(self, x):
        ...         return -x, torch.zeros_like(x[..., 0])  # |det| = 1
        ...     inverse = forward
        >>> base = torch.distributions.MultivariateNormal(torch.ones(2), torch.eye(2))
        >>> FlowDistribution(base, [Flip()]).log_prob(-torch.ones(2))  # -log 2 pi, the mode
        tensor(-1.8379)
    """

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """y = f(x) and log |det dy/dx|: (*sample, *batch, D) and (*sample, *batch)."""
        ...

    def inverse(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """x with f(x) = y, and log |det dy/dx| of `forward` there."""
        ...


class FlowDistribution(Remembering):
    """The law of z = f_K(... f_1(z_0)), z_0 from a base.

        log q(z) = log q_0(z_0) - sum_k log |det d f_k|

    The last draw and its density are remembered: `log_prob` of that very tensor costs nothing and
    needs no inverse. Any other value goes back through the inverses.
    Shapes: a base with batch (*batch) and event (D,), whose noise is that of the flow; maps in the
    order in which they are gone through.
    Units: nats. Errors: those of `route(base)` for a base without a map of its own;
    NotImplementedError for mean and variance, which have no closed form.
    Source: Rezende & Mohamed (2015), equations 5 to 7; the base's noise makes it a composition in
    the sense of Kingma & Welling (2013), section 2.4.
    Example:
        >>> from torch.distributions import Independent, Normal
        >>> from aevb.flows import HouseholderMap
        >>> base = Independent(Normal(torch.zeros(2), 1.0), 1)
        >>> q = FlowDistribution(base, [HouseholderMap(torch.ones(2))])
        >>> z = q.rsample((5,))
        >>> torch.allclose(q.log_prob(z), q.log_prob(z.clone()))
        True
    """

    route = "composition"
    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012  # as torch has it
    support = constraints.real_vector

    def __init__(
        self, base: Distribution, maps: Sequence[Map], validate_args: bool | None = None
    ) -> None:
        self.base = base
        self.maps = tuple(maps)
        self._way = route(base)
        super().__init__(base.batch_shape, base.event_shape, validate_args=validate_args)

    @property
    def standard(self) -> Noise:
        return self._way.noise

    def transform(self, noise: Tensor) -> Tensor:
        z = self._way.transform(noise)
        log_q = self.base.log_prob(z)
        for f in self.maps:
            z, log_det = f.forward(z)
            log_q = log_q - log_det
        return self.remember(z, log_q)

    def _log_prob(self, value: Tensor) -> Tensor:
        """log q, (*sample, *batch) nats, of values (*sample, *batch, D)."""
        # A datum under the laws of many codes has fewer axes than the numbers of the maps.
        whole = self.batch_shape + self.event_shape
        value = value.expand(torch.broadcast_shapes(value.shape, whole))
        total = torch.zeros_like(value[..., 0])
        for f in reversed(self.maps):
            value, log_det = f.inverse(value)
            total = total + log_det
        log_prob: Tensor = self.base.log_prob(value) - total
        return log_prob

    @property
    def mean(self) -> Tensor:
        raise NotImplementedError("the mean of a flow has no closed form: average draws of it")

    @property
    def variance(self) -> Tensor:
        raise NotImplementedError("the variance of a flow has no closed form: average draws of it")

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "FlowDistribution":
        base = self.base.expand(torch.Size(batch_shape))
        return FlowDistribution(base, self.maps, self._validate_args)

    def __repr__(self) -> str:
        maps = ", ".join(type(f).__name__ for f in self.maps)
        return f"FlowDistribution({self.base}, [{maps}])"

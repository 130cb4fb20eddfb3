"""The Erlang law: as many exponentials as its shape says (Kingma & Welling 2013, section 2.4)."""

import math
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints
from torch.distributions.utils import broadcast_all

from aevb.distributions.reparameterization import Noise, Reparameterized
from aevb.distributions.special import (
    digamma_minus_log,
    gamma_cdf,
    log_gamma_density,
    log_gamma_quantile,
    stirling,
)
from aevb.randomness import open_uniform


class Erlang(Reparameterized, Distribution):
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

    arg_constraints: ClassVar = {
        "shape": constraints.positive_integer,
        "rate": constraints.positive,
    }
    support = constraints.nonnegative
    route = "inverse CDF"

    def __init__(
        self, shape: Tensor | int, rate: Tensor | float, validate_args: bool | None = None
    ) -> None:
        shape, self.rate = broadcast_all(shape, rate)
        self.shape = shape.to(self.rate.dtype)
        super().__init__(self.rate.shape, validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        return self.shape / self.rate

    @property
    def mode(self) -> Tensor:
        return (self.shape - 1) / self.rate

    @property
    def variance(self) -> Tensor:
        return self.shape / self.rate.square()

    @property
    def standard(self) -> Noise:
        return Noise(torch.Size((int(self.shape.max()),)), open_uniform)

    def transform(self, noise: Tensor) -> Tensor:
        own = torch.arange(noise.shape[-1], device=noise.device) < self.shape.unsqueeze(-1)
        return -torch.where(own, noise.log(), 0.0).sum(-1) / self.rate

    def _log_prob(self, value: Tensor) -> Tensor:
        zero = value == 0
        y = torch.where(zero, 1.0, value).log()
        inside = log_gamma_density(self.shape, y + self.rate.log()) - y
        return torch.where(zero, torch.xlogy(self.shape - 1, value) + self.rate.log(), inside)

    def _cdf(self, value: Tensor) -> Tensor:
        return gamma_cdf(self.shape, self.rate * value)

    def icdf(self, value: Tensor) -> Tensor:
        y = log_gamma_quantile(self.shape.double(), value.double(), tails=True)
        return y.exp().to(self.rate.dtype) / self.rate

    def entropy(self) -> Tensor:
        k = self.shape
        spread = 0.5 * k.log() + 0.5 * math.log(2 * math.pi) + stirling(k)
        return spread - self.rate.log() + (1 - k) * digamma_minus_log(k)

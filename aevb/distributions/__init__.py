"""Noise and map for each route of the paper's section 2.4, and closed-form divergences."""

from aevb.distributions.divergences import kl, kl_by_dimension
from aevb.distributions.location_scale import MultivariateNormal, Normal
from aevb.distributions.reparameterization import Reparameterized, reparameterize, route

__all__ = [
    "MultivariateNormal",
    "Normal",
    "Reparameterized",
    "kl",
    "kl_by_dimension",
    "reparameterize",
    "route",
]

"""Noise and map for each route of the paper's section 2.4, observations, divergences."""

from aevb.distributions.combinators import Columns, Masked
from aevb.distributions.divergences import kl, kl_by_dimension
from aevb.distributions.family import Family
from aevb.distributions.location_scale import (
    LIKELIHOOD_MIN_VARIANCE,
    MultivariateNormal,
    Normal,
    Standardized,
)
from aevb.distributions.observations import (
    Bernoulli,
    Categorical,
    ContinuousBernoulli,
    NegativeBinomial,
    Poisson,
)
from aevb.distributions.reparameterization import reparameterize, route

__all__ = [
    "LIKELIHOOD_MIN_VARIANCE",
    "Bernoulli",
    "Categorical",
    "Columns",
    "ContinuousBernoulli",
    "Family",
    "Masked",
    "MultivariateNormal",
    "NegativeBinomial",
    "Normal",
    "Poisson",
    "Standardized",
    "kl",
    "kl_by_dimension",
    "reparameterize",
    "route",
]

"""Families: how unconstrained numbers, as a network gives them, become distributions."""

from aevb.families.combinators import Columns, Masked
from aevb.families.family import Family
from aevb.families.flow import (
    Householder,
    InverseAutoregressive,
    MaskedAutoregressive,
    Planar,
    Radial,
    RealNVP,
    Sylvester,
)
from aevb.families.gaussian import (
    LIKELIHOOD_MIN_VARIANCE,
    MultivariateNormal,
    Normal,
    Standardized,
)
from aevb.families.observations import (
    Bernoulli,
    Categorical,
    ContinuousBernoulli,
    NegativeBinomial,
    Poisson,
)

__all__ = [
    "LIKELIHOOD_MIN_VARIANCE",
    "Bernoulli",
    "Categorical",
    "Columns",
    "ContinuousBernoulli",
    "Family",
    "Householder",
    "InverseAutoregressive",
    "Masked",
    "MaskedAutoregressive",
    "MultivariateNormal",
    "NegativeBinomial",
    "Normal",
    "Planar",
    "Poisson",
    "Radial",
    "RealNVP",
    "Standardized",
    "Sylvester",
]

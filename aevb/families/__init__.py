"""Families: how unconstrained numbers, as a network gives them, become distributions."""

from aevb.families.classes import OneHotCategorical, OneHotCategoricals
from aevb.families.combinators import Columns, Masked
from aevb.families.counts import NegativeBinomial, Poisson, ZeroInflatedNegativeBinomial
from aevb.families.elementwise import Elementwise
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
from aevb.families.levels import DiscretizedLogistic, Ordinal
from aevb.families.observations import Bernoulli, Categorical, ContinuousBernoulli
from aevb.families.vectors import (
    Dirichlet,
    Elliptical,
    HypersphericalUniform,
    LowRankMultivariateNormal,
    Mixture,
    VonMisesFisher,
)

__all__ = [
    "LIKELIHOOD_MIN_VARIANCE",
    "Bernoulli",
    "Categorical",
    "Columns",
    "ContinuousBernoulli",
    "Dirichlet",
    "DiscretizedLogistic",
    "Elementwise",
    "Elliptical",
    "Family",
    "Householder",
    "InverseAutoregressive",
    "Masked",
    "MaskedAutoregressive",
    "HypersphericalUniform",
    "LowRankMultivariateNormal",
    "Mixture",
    "MultivariateNormal",
    "NegativeBinomial",
    "Normal",
    "OneHotCategorical",
    "OneHotCategoricals",
    "Ordinal",
    "Planar",
    "Poisson",
    "Radial",
    "RealNVP",
    "Standardized",
    "Sylvester",
    "VonMisesFisher",
    "ZeroInflatedNegativeBinomial",
]

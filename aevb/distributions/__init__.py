"""Noise and map for each route of the paper's section 2.4, and closed-form divergences."""

from torch.distributions import (
    Bernoulli,
    Categorical,
)

from aevb.distributions.bounded import (
    Kumaraswamy,
    TruncatedNormal,
)
from aevb.distributions.chain import Chain
from aevb.distributions.combinators import (
    Masked,
    Mixture,
    Product,
)
from aevb.distributions.composition import (
    Beta,
    Chi2,
    Dirichlet,
    Erlang,
    FisherSnedecor,
    Gamma,
    LogitNormal,
    LogNormal,
)
from aevb.distributions.continuous_bernoulli import (
    ContinuousBernoulli,
)
from aevb.distributions.discrete import (
    BernoulliStraightThrough,
    OneHotCategoricals,
    OneHotCategoricalStraightThrough,
    RelaxedBernoulli,
    RelaxedOneHotCategorical,
)
from aevb.distributions.divergences import (
    kl,
    kl_by_dimension,
)
from aevb.distributions.elliptical import (
    Elliptical,
)
from aevb.distributions.inverse_cdf import (
    Cauchy,
    Exponential,
    Gompertz,
    Gumbel,
    HalfCauchy,
    Logistic,
    Pareto,
    Rayleigh,
    Reciprocal,
    Weibull,
)
from aevb.distributions.location_scale import (
    HalfNormal,
    Laplace,
    LowRankMultivariateNormal,
    MultivariateNormal,
    Normal,
    StudentT,
    Triangular,
    Uniform,
)
from aevb.distributions.observations import (
    BernoulliVector,
    DiscretizedLogistic,
    NegativeBinomial,
    Ordinal,
    Poisson,
    ZeroInflatedNegativeBinomial,
)
from aevb.distributions.reparameterization import (
    Reparameterized,
    reparameterize,
    route,
)
from aevb.distributions.sphere import (
    HypersphericalUniform,
    VonMisesFisher,
)
from aevb.distributions.summary import center, on_reals, support_of_cells

__all__ = [
    "Bernoulli",
    "BernoulliStraightThrough",
    "BernoulliVector",
    "Beta",
    "Categorical",
    "Chain",
    "Cauchy",
    "Chi2",
    "ContinuousBernoulli",
    "Dirichlet",
    "DiscretizedLogistic",
    "Elliptical",
    "Erlang",
    "Exponential",
    "FisherSnedecor",
    "Gamma",
    "Gompertz",
    "Gumbel",
    "HypersphericalUniform",
    "Kumaraswamy",
    "HalfCauchy",
    "HalfNormal",
    "Laplace",
    "LogNormal",
    "Logistic",
    "LogitNormal",
    "LowRankMultivariateNormal",
    "Masked",
    "Mixture",
    "MultivariateNormal",
    "NegativeBinomial",
    "Normal",
    "OneHotCategoricalStraightThrough",
    "OneHotCategoricals",
    "Ordinal",
    "Pareto",
    "Poisson",
    "Product",
    "Rayleigh",
    "Reciprocal",
    "RelaxedBernoulli",
    "RelaxedOneHotCategorical",
    "Reparameterized",
    "StudentT",
    "Triangular",
    "TruncatedNormal",
    "Uniform",
    "VonMisesFisher",
    "Weibull",
    "ZeroInflatedNegativeBinomial",
    "center",
    "kl",
    "kl_by_dimension",
    "on_reals",
    "support_of_cells",
    "reparameterize",
    "route",
]

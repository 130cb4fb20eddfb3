"""Likelihoods, mixtures and discrete latents.

Where scipy has no law of the kind, its generic classes are given one by formulas of their own: sums
of scipy's densities, and differences of logistic functions in extended precision.
"""

import itertools
import math

import numpy as np
import scipy.special
import scipy.stats
from torch.distributions import Independent

from aevb.distributions import (
    Bernoulli,
    BernoulliStraightThrough,
    Categorical,
    ContinuousBernoulli,
    DiscretizedLogistic,
    Mixture,
    NegativeBinomial,
    Normal,
    Ordinal,
    Poisson,
    RelaxedBernoulli,
    RelaxedOneHotCategorical,
    ZeroInflatedNegativeBinomial,
)
from zoo.entry import Entry

COUNTS = frozenset({"icdf", "entropy"})


class Rising:
    """The continuous Bernoulli of a positive logit: 1 - x is that of the negative one."""

    def __init__(self, logits):
        self.logits, self.law = logits, scipy.stats.truncexpon(logits, scale=1 / logits)
        self.entropy, self.var = self.law.entropy, self.law.var

    def logpdf(self, x):
        return self.law.logpdf(1 - x)

    def cdf(self, x):
        return np.expm1(self.logits * x) / np.expm1(self.logits)

    def mean(self):
        return 1 - self.law.mean()


def continuous_bernoulli(logits):
    return Rising(logits) if logits > 0 else scipy.stats.truncexpon(-logits, scale=-1 / logits)


def continuous_bernoulli_quantile(u, logits):
    """In extended precision, and by 1 - u where that has the digits, as scipy's does not."""
    u, logits = np.longdouble(u), np.longdouble(logits)
    if u > 0.5:
        return float(np.log((1 - u) + u * np.exp(logits)) / logits)
    return float(np.log1p(u * np.expm1(logits)) / logits)


class ZeroInflated(scipy.stats.rv_discrete):
    def _logpmf(self, k, n, p, gate):
        through = np.log1p(-gate) + scipy.stats.nbinom.logpmf(k, n, p)
        return np.where(k == 0, np.logaddexp(np.log(gate), through), through)

    def _pmf(self, k, n, p, gate):
        return np.exp(self._logpmf(k, n, p, gate))

    def _stats(self, n, p, gate):
        mean, square = n * (1 - p) / p, n * (1 - p) / p**2 + (n * (1 - p) / p) ** 2
        return (1 - gate) * mean, (1 - gate) * square - ((1 - gate) * mean) ** 2, None, None


def between(lower, upper):
    """s(upper) - s(lower) in extended precision, from the side where both are small."""
    a, b = np.longdouble(lower), np.longdouble(upper)
    a, b = (-b, -a) if a > 0 else (a, b)
    one = np.longdouble(1)
    return one / (one + np.exp(-b)) - one / (one + np.exp(-a))


class Atoms:
    """A law of finitely many values, as scipy's frozen ones are asked."""

    def __init__(self, values, masses):
        self.values, self.masses = np.asarray(values, float), np.asarray(masses, float)

    def logpmf(self, x):
        return np.log(self.masses)[np.abs(np.asarray(x)[..., None] - self.values).argmin(-1)]

    def cdf(self, x):
        return (self.masses * (self.values <= np.asarray(x)[..., None])).sum(-1)

    def mean(self):
        return self.masses @ self.values

    def var(self):
        return self.masses @ (self.values - self.mean()) ** 2

    def entropy(self):
        return scipy.special.entr(self.masses).sum()


def levels(edges, values):
    """The law whose value i has the logistic mass between edges i and i + 1."""
    masses = [between(a, b) for a, b in itertools.pairwise(edges)]
    return Atoms(values, masses)


def discretized(loc, scale, low, high, bins):
    middles = np.linspace(low, high, bins)
    inner = ((middles[1:] + middles[:-1]) / 2 - loc) / scale
    return levels([-math.inf, *inner, math.inf], middles)


def ordinal(cutpoints, loc):
    inner = np.array(cutpoints) - loc
    return levels([-math.inf, *inner, math.inf], np.arange(len(inner) + 1))


class NormalMixture:
    """A mixture of scipy's normals."""

    def __init__(self, logits, loc, scale):
        self.probs, self.loc = scipy.special.softmax(logits), np.array(loc)
        self.parts = scipy.stats.norm(loc, scale)

    def logpdf(self, x):
        return scipy.special.logsumexp(self.parts.logpdf(x[..., None]), b=self.probs, axis=-1)

    def cdf(self, x):
        return self.parts.cdf(x[..., None]) @ self.probs

    def mean(self):
        return self.probs @ self.loc

    def var(self):
        return self.probs @ (self.parts.var() + (self.loc - self.mean()) ** 2)


class NormalVectors(NormalMixture):
    """The same over vectors whose numbers are independent in each component."""

    def logpdf(self, x):
        parts = self.parts.logpdf(np.asarray(x)[..., None, :]).sum(-1)
        return scipy.special.logsumexp(parts, b=self.probs, axis=-1)

    def rvs(self, size, random_state):
        chosen = random_state.choice(len(self.probs), size, p=self.probs)
        return random_state.normal(self.loc[chosen], self.parts.std()[chosen])


def relaxed_truth(value, temperature, logits):
    """The logit of the coin is logistic: scipy's density there, and the slope of the logit."""
    law = scipy.stats.logistic(logits / temperature, 1 / temperature)
    return law.logpdf(scipy.special.logit(value)) - math.log(value) - math.log1p(-value)


RELAXED = {
    "log_prob": relaxed_truth,
    "cdf": lambda v, temperature, logits: scipy.stats.logistic(
        logits / temperature, 1 / temperature
    ).cdf(scipy.special.logit(v)),
    "icdf": lambda u, temperature, logits: float(
        scipy.special.expit((logits + scipy.special.logit(u)) / temperature)
    ),
}


def simplex_density(value, temperature, logits):
    """Maddison et al. (2017), equation 10, in extended precision."""
    z, a, t = np.longdouble(value), np.exp(np.longdouble(logits)), np.longdouble(temperature)
    terms = a * z**-t
    size = len(z)
    whole = np.log(terms / z).sum() - size * np.log(terms.sum())
    return float(math.lgamma(size) + (size - 1) * np.log(t) + whole)


def entries(name, make, settings, *rest, **more):
    return [
        Entry(name if i == 0 else f"{name}-{i + 1}", make, parameters, *rest, **more)
        for i, parameters in enumerate(settings)
    ]


def vectors(logits, loc, scale):
    return Mixture(Categorical(logits=logits), Independent(Normal(loc, scale), 1))


def numbers(logits, loc, scale):
    return Mixture(Categorical(logits=logits), Normal(loc, scale))


def grey(loc, scale):
    return DiscretizedLogistic(loc, scale, 0.0, 255.0, 256)


def inked(logits, loc, scale):
    return Mixture(Categorical(logits=logits), DiscretizedLogistic(loc, scale, 0.0, 15.0, 16))


def inked_truth(logits, loc, scale):
    parts = [discretized(m, s, 0.0, 15.0, 16) for m, s in zip(loc, scale, strict=True)]
    masses = [p.masses for p in parts]
    return Atoms(np.arange(16), scipy.special.softmax(logits) @ masses)


NO_CLOSED = frozenset({"mean", "variance", "entropy"})
ENTRIES = [
    *entries(
        "bernoulli",
        Bernoulli,
        [{"probs": 0.3}, {"probs": 0.01}],
        lambda probs: scipy.stats.bernoulli(probs),
        kind="discrete",
        reparameterized=False,
        extremes=({"probs": 1e-6}, {"probs": 1 - 1e-6}),
        no=frozenset({"cdf", "icdf"}),
    ),
    *entries(
        "poisson",
        Poisson,
        [{"rate": 3.5}, {"rate": 0.02}],
        lambda rate: scipy.stats.poisson(rate),
        kind="discrete",
        reparameterized=False,
        extremes=({"rate": 1e-6}, {"rate": 1e6}),
        no=COUNTS,
    ),
    *entries(
        "negative-binomial",
        lambda total_count, logits: NegativeBinomial(total_count, logits=logits),
        [{"total_count": r, "logits": v} for r, v in ((3.0, 0.5), (0.4, 2.0), (80.0, -2.0))],
        lambda total_count, logits: scipy.stats.nbinom(total_count, scipy.special.expit(-logits)),
        kind="discrete",
        reparameterized=False,
        extremes=(
            {"total_count": 1e-6, "logits": 0.0},
            {"total_count": 1e6, "logits": 0.0},
            {"total_count": 1e6, "logits": -13.0},
        ),
        no=COUNTS,
    ),
    *entries(
        "zero-inflated-negative-binomial",
        ZeroInflatedNegativeBinomial,
        [
            {"total_count": 3.0, "logits": 0.5, "gate": 0.3},
            {"total_count": 0.7, "logits": 1.5, "gate": 0.9},
        ],
        lambda total_count, logits, gate: ZeroInflated(name="zero-inflated")(
            total_count, scipy.special.expit(-logits), gate
        ),
        kind="discrete",
        reparameterized=False,
        extremes=(
            {"total_count": 1e-6, "logits": 0.0, "gate": 1e-6},
            {"total_count": 1e6, "logits": 0.0, "gate": 1 - 1e-6},
            {"total_count": 1e6, "logits": 0.0, "gate": 0.0},
        ),
        no=COUNTS,
    ),
    *entries(
        "continuous-bernoulli",
        lambda logits: ContinuousBernoulli(logits=logits),
        [{"logits": -2.0}, {"logits": -40.0}, {"logits": 3.0}],
        continuous_bernoulli,
        truth={"icdf": continuous_bernoulli_quantile},
        extremes=tuple({"logits": v} for v in (0.0, 1e-6, -1e-6, 1e6, -1e6)),
    ),
    Entry(
        "continuous-bernoulli-level",
        lambda logits: ContinuousBernoulli(logits=logits),
        {"logits": 0.0},
        lambda logits: scipy.stats.uniform(),
    ),
    *entries(
        "discretized-logistic",
        grey,
        [{"loc": 100.0, "scale": 12.0}, {"loc": 3.0, "scale": 0.4}, {"loc": 260.0, "scale": 40.0}],
        lambda loc, scale: discretized(loc, scale, 0.0, 255.0, 256),
        kind="discrete",
        reparameterized=False,
        extremes=tuple({"loc": m, "scale": s} for m in (-1e6, 1e-6, 1e6) for s in (1e-6, 1e6)),
        no=frozenset({"icdf"}),
    ),
    *entries(
        "ordinal",
        Ordinal,
        [
            {"cutpoints": [-1.0, 0.2, 3.0], "loc": 0.5},
            {"cutpoints": [0.0], "loc": -2.0},
            {"cutpoints": [-3.0, -2.999, 2.0], "loc": 1.0},
        ],
        ordinal,
        kind="discrete",
        reparameterized=False,
        extremes=(
            {"cutpoints": [-1e6, 1e-6, 1e6], "loc": 1e6},
            {"cutpoints": [0.0, 1e-6, 2e-6], "loc": -1e6},
        ),
        no=frozenset({"icdf"}),
    ),
    *entries(
        "mixture",
        numbers,
        [
            {"logits": [0.0, 1.0, -1.0], "loc": [-2.0, 0.5, 3.0], "scale": [0.5, 1.0, 0.3]},
            {"logits": [0.0, 0.0], "loc": [0.0, 0.1], "scale": [1.0, 5.0]},
        ],
        NormalMixture,
        extremes=(
            {"logits": [0.0, 1.0], "loc": [1e6, -1e6], "scale": [1e-6, 1e6]},
            {"logits": [1e6, -1e6], "loc": [0.0, 1e-6], "scale": [1e-6, 1e-6]},
        ),
        no=frozenset({"icdf", "entropy"}),
    ),
    *entries(
        "mixture-vector",
        vectors,
        [
            {
                "logits": [0.3, -0.2],
                "loc": [[-1.0, 0.5, 0.0, 2.0], [0.7, -0.4, 1.0, 2.0]],
                "scale": [[0.6, 1.0, 0.7, 1.0], [0.5, 0.8, 1.0, 0.2]],
            },
            {
                "logits": [0.0, 1.0, 0.5],
                "loc": [[0.0, 0.0, 1.0], [2.0, 1.0, 0.0], [-1.0, 2.0, -1.0]],
                "scale": [[1.0, 1.0, 0.5], [0.7, 1.5, 1.0], [0.5, 0.4, 0.8]],
            },
        ],
        NormalVectors,
        kind="multivariate",
        extremes=(
            {"logits": [0.0, 1.0], "loc": [[1e6, -1e6], [0.0, 1.0]], "scale": [[1e-6, 1e6]] * 2},
        ),
        no=frozenset({"cdf", "icdf", "entropy"}),
    ),
    *entries(
        "mixture-discretized-logistic",
        inked,
        [{"logits": [0.0, 0.5], "loc": [3.0, 11.0], "scale": [0.6, 1.5]}],
        inked_truth,
        kind="discrete",
        reparameterized=False,
        no=frozenset({"icdf", "entropy"}),
    ),
    *entries(
        "relaxed-bernoulli",
        lambda temperature, logits: RelaxedBernoulli(temperature, logits=logits),
        [
            {"temperature": 0.7, "logits": 0.4},
            {"temperature": 2.5, "logits": -1.0},
            {"temperature": 0.5, "logits": 0.0},
        ],
        extremes=tuple(
            {"temperature": t, "logits": v} for t in (0.01, 1e6) for v in (-1e6, 1e-6, 1e6)
        ),
        truth=RELAXED,
        no=NO_CLOSED,
    ),
    *entries(
        "relaxed-one-hot-categorical",
        lambda temperature, logits: RelaxedOneHotCategorical(temperature, logits=logits),
        [
            {"temperature": 0.8, "logits": [0.0, 1.0, -0.5]},
            {"temperature": 3.0, "logits": [0.5, 0.0, 0.2]},
        ],
        kind="multivariate",
        truth={"log_prob": simplex_density},
        extremes=(
            {"temperature": 0.01, "logits": [0.0, 1.0, 1e6]},
            {"temperature": 1e6, "logits": [0.0, 1e-6, 1.0]},
        ),
        no=NO_CLOSED | {"cdf", "icdf"},
    ),
    *entries(
        "bernoulli-straight-through",
        BernoulliStraightThrough,
        [{"probs": 0.3}, {"probs": 0.95}],
        lambda probs: scipy.stats.bernoulli(probs),
        kind="discrete",
        extremes=({"probs": 1e-6}, {"probs": 1 - 1e-6}),
        no=frozenset({"cdf", "icdf"}),
    ),
]

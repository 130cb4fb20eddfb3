"""Families by name, each with the parameters of its law as numpy finds them in the raw numbers.

The formulas are those of the docstrings: files that were saved depend on them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from helpers import seeded
from scipy.special import expit, softmax

from aevb import distributions as zoo
from aevb import families

CHOICES = np.array([0.7, 0.2, 0.1])
"""Of the values 0, 1, 2 in data: far from even, so that a start that counts wrongly shows."""


@dataclass(frozen=True)
class Entry:
    """A family over `size` elements, and the truth beside it.

    `parameters` takes raw (R,) and the family, which may have learned numbers, to the parameters of
    the law of all elements under their names; dots lead to laws and maps inside it.
    """

    make: Callable[[int], Any]
    law: str
    parameters: Callable[..., dict[str, Any]]
    data: Callable[..., Any] | None = None
    """(generator, shape) to data of its domain; None for a family of codes alone."""
    start: dict[str, Callable[..., Any]] | None = None
    """What the law of the marginal start has of the data (N, X), to (X,) or (..., X)."""
    near: float = 5e-4
    outside: tuple[float, str] | None = None
    """A value outside the domain, and how the domain is called."""


def halves(raw, count=2):
    return raw.reshape(count, -1)


def lower(entries, diagonal):
    """L_jk = L_jj entry / 10 below the diagonal L_jj."""
    factor = np.diag(diagonal)
    rows, columns = np.tril_indices(len(diagonal), -1)
    factor[rows, columns] = 0.1 * entries * diagonal[rows]
    return factor


def diagonal_gaussian(least=0.0, mean=lambda m: m):
    def parameters(raw, family):
        m, log_variance = halves(raw)
        return {"loc": mean(m), "scale": np.sqrt(np.exp(log_variance) + least)}

    return parameters


def shared_gaussian(raw, family):
    variance = np.exp(family.log_variance.detach().numpy())
    return {"loc": raw, "scale": np.sqrt(variance) * np.ones_like(raw)}


def full_gaussian(least, name="scale_tril"):
    def parameters(raw, family):
        size = int(np.sqrt(9 / 4 + 2 * len(raw)) - 1.5 + 1e-9)
        m, log_square, below = np.split(raw, [size, 2 * size])
        return {"loc": m, name: lower(below, np.sqrt(np.exp(log_square) + least))}

    return parameters


def elliptical(raw, family):
    found = full_gaussian(0.0)(raw, family)
    return {**found, "radial.concentration": float(len(found["loc"])), "radial.rate": 1.0}


def standardized(raw, family):
    m, log_variance = halves(raw)
    own, deviation = family.mean.numpy(), family.deviation.numpy()
    return {"loc": own + deviation * m, "scale": deviation * np.exp(log_variance / 2)}


def low_rank(raw, family):
    m, log_diagonal, *columns = halves(raw, 4)
    factor = np.stack(columns, -1) * np.exp(log_diagonal / 2)[:, None] / 10
    return {"loc": m, "cov_factor": factor, "cov_diag": np.exp(log_diagonal)}


def counts(raw, family):
    m, r = (
        np.exp(np.clip(v, -b, c)) for v, b, c in zip(halves(raw), (15, 10), (25, 10), strict=True)
    )
    return {"total_count": r, "logits": np.log(m) - np.log(r)}


def gated_counts(raw, family):
    return counts(raw[: len(raw) // 3 * 2], family) | {
        "gate": expit(np.clip(halves(raw, 3)[2], -15, 15))
    }


def levels(raw, family):
    m, log_scale = halves(raw)
    scale = np.exp(np.clip(log_scale, -7, 7)) / 4
    return {"loc": 0.5 + m / 2, "scale": scale, "low": 0.0 * m, "high": 0.0 * m + 1}


def mixed_levels(raw, family):
    """For each of two components a block of logits, of locations, of log-scales."""
    logits, m, log_scale = raw.reshape(3, 2, -1).swapaxes(1, 2)
    return {
        "mixture_distribution.probs": softmax(logits, -1),
        "component_distribution.loc": 0.5 + m / 2,
        "component_distribution.scale": np.exp(np.clip(log_scale, -7, 7)) / 4,
    }


def grades(raw, family):
    first, gaps = (v.detach().numpy() for v in (family.first, family.gaps))
    cuts = first[:, None] + np.cumsum(np.logaddexp(0, gaps) + 1e-3, -1)
    return {"cutpoints": np.concatenate([first[:, None], cuts], -1), "loc": raw}


def directions(raw, family):
    return {
        "loc": raw[:-1] / np.linalg.norm(raw[:-1]),
        "concentration": np.logaddexp(0, raw[-1]) + 1,
    }


def mixture(raw, family):
    """Three components: logits, then all means, then all log-variances."""
    raw = raw + family.base.detach().numpy()
    loc, log_variance = raw[3:].reshape(2, 3, -1)
    return {
        "mixture_distribution.probs": softmax(raw[:3]),
        "component_distribution.base_dist.loc": loc,
        "component_distribution.base_dist.scale": np.exp(log_variance / 2),
    }


# -- flows: the Gaussian, and the numbers of the maps: what is learned for all and a tenth of raw --


def flow(numbers):
    def parameters(raw, family):
        size = family.size
        found = diagonal_gaussian()(raw[: 2 * size], family)
        own = family.start.detach().numpy() + 0.1 * raw[2 * size :].reshape(family.start.shape)
        of_maps = {
            f"maps.{k}.{name}": value
            for k, step in enumerate(own)
            for name, value in numbers(step, size).items()
        }
        return {f"base.base_dist.{name}": v for name, v in found.items()} | of_maps

    return parameters


def planar(step, size):
    return {"u": step[:size], "w": step[size : 2 * size], "b": step[-1]}


def radial(step, size):
    return {"center": step[:size], "log_alpha": step[size], "raw_beta": step[-1]}


def sylvester(step, size):
    v, block, diagonal, b = np.split(step, [2 * size, 2 * size + 4, 2 * size + 6])
    block = block.reshape(2, 2)
    s = np.triu(block.T, 1) + np.diag(diagonal)
    return {"v": v.reshape(2, size), "r": block, "s": np.triu(s), "b": b}


# -- laws of single numbers ------------------------------------------------------------------------

ANY, POSITIVE, SHARE = (lambda raw: raw), (lambda raw: np.exp(np.clip(raw, -15, 15))), expit
LOCATION = {"loc": ANY, "scale": POSITIVE}
SHAPES = {"concentration1": POSITIVE, "concentration0": POSITIVE}
ARGUMENTS: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("Laplace", "Logistic", "Cauchy", "Gumbel"), LOCATION),
    **dict.fromkeys(("LogNormal", "LogitNormal"), LOCATION),
    **dict.fromkeys(("Beta", "Kumaraswamy"), SHAPES),
    **{name: {"rate": POSITIVE} for name in ("Exponential", "Poisson")},
    **{name: {"scale": POSITIVE} for name in ("Rayleigh", "HalfNormal", "HalfCauchy")},
    "Weibull": {"scale": POSITIVE, "concentration": POSITIVE},
    "Pareto": {"scale": POSITIVE, "alpha": POSITIVE},
    "Gompertz": {"concentration": POSITIVE, "scale": POSITIVE},
    "Gamma": {"concentration": POSITIVE, "rate": POSITIVE},
    "StudentT": {"df": POSITIVE, **LOCATION},
    "Bernoulli": {"logits": ANY},
    "ZeroInflatedNegativeBinomial": {"total_count": POSITIVE, "logits": ANY, "gate": SHARE},
}


def arguments(name, least=0.0):
    def parameters(raw, family):
        links = ARGUMENTS[name]
        blocks = zip(links.items(), halves(raw, len(links)), strict=True)
        return {n: f(block) + least * (f is POSITIVE) for (n, f), block in blocks}

    return parameters


def middle_and_half(raw, family):
    m, half = halves(raw)
    return {"low": m - POSITIVE(half), "high": m + POSITIVE(half)}


def triangle(raw, family):
    m, half, share = halves(raw, 3)
    ends = {"low": m - POSITIVE(half), "high": m + POSITIVE(half)}
    return {**ends, "mode": ends["low"] + expit(share) * 2 * POSITIVE(half)}


def decades(raw, family):
    low, more = (POSITIVE(v) for v in halves(raw))
    return {"low": low, "high": low * np.exp(np.minimum(more, 15))}


def fixed(name, links, **given):
    def parameters(raw, family):
        blocks = zip(links.items(), halves(raw, len(links)), strict=True)
        of_raw = {n: f(block) for (n, f), block in blocks}
        return of_raw | {n: v * np.ones(raw.size // len(links)) for n, v in given.items()}

    return Entry(lambda size: families.Elementwise(getattr(zoo, name), given), name, parameters)


# -- the table -------------------------------------------------------------------------------------

MEAN = {"mean": lambda x: x.mean(0)}
MOMENTS = MEAN | {"variance": lambda x: x.var(0)}
PROBABILITIES = {"probs": lambda x: np.stack([(x == k).mean(0) for k in range(3)], -1)}


def coins(rng, shape):
    return (rng.random(shape) < 0.9).astype(float)


def uneven(rng, shape):
    return rng.choice(3, shape, p=CHOICES).astype(float)


def units(rng, shape):
    return rng.beta(3.0, 1.5, shape)


def reals(rng, shape):
    return 3.0 + 2.0 * rng.standard_normal(shape)


def varying(rng, shape):
    return rng.poisson(rng.gamma(2.0, 3.0, shape)).astype(float)


def some_zeros(rng, shape):
    return varying(rng, shape) * (rng.random(shape) < 0.8)


def greys(rng, shape):
    return rng.integers(2, 6, shape) / 7


def one_hot(rng, shape):
    rest = np.full(shape[1] - 1, 0.4 / (shape[1] - 1))
    return np.eye(shape[1])[rng.choice(shape[1], shape[0], p=[0.6, *rest])]


def elementwise(name):
    return Entry(lambda size: families.Elementwise(getattr(zoo, name)), name, arguments(name))


COUNTS = (0.5, "counts (whole numbers from 0)")
FINITE = (np.nan, "finite numbers")
ENTRIES: dict[str, Entry] = {
    "bernoulli": Entry(
        lambda size: families.Bernoulli(),
        "Bernoulli",
        lambda raw, family: {"logits": raw},
        coins,
        MEAN,
        outside=(0.5, "zeros and ones"),
    ),
    "continuous-bernoulli": Entry(
        lambda size: families.ContinuousBernoulli(),
        "ContinuousBernoulli",
        lambda raw, family: {"logits": np.clip(raw, -100, 100)},
        units,
        MEAN,
        outside=(1.5, "values between 0 and 1"),
    ),
    "categorical": Entry(
        lambda size: families.Categorical(3),
        "Categorical",
        lambda raw, family: {"probs": softmax(halves(raw, 3), 0).T},
        uneven,
        PROBABILITIES,
        outside=(3.0, "whole numbers from 0 to 2"),
    ),
    "one-hot": Entry(
        lambda size: families.OneHotCategorical(),
        "OneHotCategorical",
        lambda raw, family: {"probs": softmax(raw)},
        one_hot,
        MEAN,
        outside=(0.5, "zeros and a single one in each row"),
    ),
    "one-hots": Entry(
        lambda size: families.OneHotCategoricals(2),
        "OneHotCategoricals",
        lambda raw, family: {"probs": softmax(raw.reshape(-1, 2), -1)},
    ),
    "poisson": Entry(
        lambda size: families.Poisson(),
        "Poisson",
        lambda raw, family: {"rate": np.exp(np.clip(raw, -15, 25))},
        varying,
        MEAN,
        outside=COUNTS,
    ),
    "negative-binomial": Entry(
        lambda size: families.NegativeBinomial(),
        "NegativeBinomial",
        counts,
        varying,
        MOMENTS,
        outside=COUNTS,
    ),
    "zero-inflated": Entry(
        lambda size: families.ZeroInflatedNegativeBinomial(),
        "ZeroInflatedNegativeBinomial",
        gated_counts,
        some_zeros,
        MEAN | {"gate": lambda x: 0.5 * (x == 0).mean(0)},
        outside=COUNTS,
    ),
    "levels": Entry(
        lambda size: families.DiscretizedLogistic(8),
        "DiscretizedLogistic",
        levels,
        greys,
        {"loc": lambda x: x.mean(0), "scale": lambda x: x.std(0) * np.sqrt(3) / np.pi},
        near=2e-3,
        outside=(0.5, "the 8 levels 0, 1/7, 2/7, ..., 1"),
    ),
    "mixed-levels": Entry(
        lambda size: families.DiscretizedLogistic(8, 2),
        "Mixture",
        mixed_levels,
        greys,
        {
            "component_distribution.loc": lambda x: np.quantile(x, [0.25, 0.75], 0).T,
            "mixture_distribution.probs": lambda x: np.full((x.shape[1], 2), 0.5),
        },
        outside=(0.5, "the 8 levels 0, 1/7, 2/7, ..., 1"),
    ),
    "grades": Entry(
        lambda size: families.Ordinal(3, size),
        "Ordinal",
        grades,
        uneven,
        PROBABILITIES,
        outside=(3.0, "whole numbers from 0 to 2"),
    ),
    "normal": Entry(
        lambda size: families.Normal(),
        "Normal",
        diagonal_gaussian(),
        reals,
        MOMENTS,
        outside=FINITE,
    ),
    "normal-with-a-floor": Entry(
        lambda size: families.Normal(0.01), "Normal", diagonal_gaussian(0.01), reals, MOMENTS
    ),
    "normal-of-a-share": Entry(
        lambda size: families.Normal(0.01, sigmoid_mean=True),
        "Normal",
        diagonal_gaussian(0.01, expit),
        units,
        MOMENTS,
    ),
    "normal-of-one-variance": Entry(
        lambda size: families.Normal(noise_shape=()),
        "Normal",
        shared_gaussian,
        lambda rng, shape: reals(rng, shape) * np.geomspace(1, 0.01, shape[1]),
        MEAN | {"variance": lambda x: x.var(0).mean() * np.ones(x.shape[1])},
    ),
    "normal-of-shared-variances": Entry(
        lambda size: families.Normal(noise_shape=(size,)),
        "Normal",
        shared_gaussian,
        reals,
        MOMENTS,
    ),
    "full": Entry(
        lambda size: families.MultivariateNormal(0.05),
        "MultivariateNormal",
        full_gaussian(0.05),
        reals,
        MOMENTS,
        outside=FINITE,
    ),
    "standardized": Entry(
        lambda size: families.Standardized(families.Normal(), size),
        "Normal",
        standardized,
        reals,
        MOMENTS,
        outside=FINITE,
    ),
    "low-rank": Entry(
        lambda size: families.LowRankMultivariateNormal(2), "LowRankMultivariateNormal", low_rank
    ),
    "elliptical": Entry(lambda size: families.Elliptical(), "Elliptical", elliptical),
    "dirichlet": Entry(
        lambda size: families.Dirichlet(),
        "Dirichlet",
        lambda raw, family: {"concentration": POSITIVE(raw)},
    ),
    "directions": Entry(lambda size: families.VonMisesFisher(), "VonMisesFisher", directions),
    "all-directions": Entry(
        lambda size: families.HypersphericalUniform(size),
        "HypersphericalUniform",
        lambda raw, family: {"dim": family.size},
    ),
    "mixture": Entry(lambda size: families.Mixture(size, 3), "Mixture", mixture),
    "planar": Entry(lambda size: families.Planar(size, 2), "FlowDistribution", flow(planar)),
    "radial": Entry(lambda size: families.Radial(size, 2), "FlowDistribution", flow(radial)),
    "householder": Entry(
        lambda size: families.Householder(size, 3),
        "FlowDistribution",
        flow(lambda step, size: {"v": step}),
    ),
    "sylvester": Entry(
        lambda size: families.Sylvester(size, 2, 2), "FlowDistribution", flow(sylvester)
    ),
    **{f"elementwise-{name}": elementwise(name) for name in ARGUMENTS},
    **{
        f"elementwise-{name}": Entry(
            lambda size, name=name: families.Elementwise(getattr(zoo, name)), name, formula
        )
        for name, formula in (
            ("Uniform", middle_and_half),
            ("Triangular", triangle),
            ("Reciprocal", decades),
        )
    },
    "elementwise-Erlang": fixed("Erlang", {"rate": POSITIVE}, shape=2.0),
    "elementwise-StudentT-of-5": fixed("StudentT", LOCATION, df=5.0),
    "elementwise-with-a-floor": Entry(
        lambda size: families.Elementwise(zoo.Laplace, least=0.3),
        "Laplace",
        arguments("Laplace", 0.3),
    ),
}


def made(name, size=4):
    """The family in double precision, the same at every call."""
    return seeded(lambda: ENTRIES[name].make(size)).double()

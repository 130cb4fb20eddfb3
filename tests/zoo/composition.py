"""Compositions, bounded laws, and laws on the sphere."""

import math

import mpmath
import numpy as np
import scipy.special as sc
import scipy.stats
import torch

from aevb.distributions import (
    Beta,
    Chi2,
    Dirichlet,
    FisherSnedecor,
    Gamma,
    HypersphericalUniform,
    Kumaraswamy,
    LogitNormal,
    LogNormal,
    TruncatedNormal,
    VonMisesFisher,
)
from zoo.entry import Entry


def pairs(first, second, values=((1e-6, 1e-6), (1e6, 1e6), (1e-6, 1e6), (1e6, 1e-6))):
    return tuple({first: a, second: b} for a, b in values)


def entries(make, law, parameters, **options):
    return [Entry(name, make, p, law, **options) for name, p in parameters.items()]


# The truth beyond scipy.stats: formulas in numpy, of the same parameters as floats.


def logit_normal(x, loc, scale):
    logit = math.log(x) - math.log1p(-x)
    return scipy.stats.norm.logpdf(logit, loc, scale) - math.log(x) - math.log1p(-x)


LOGIT_NORMAL = {
    "log_prob": logit_normal,
    "cdf": lambda x, loc, scale: sc.ndtr((math.log(x) - math.log1p(-x) - loc) / scale),
    "icdf": lambda u, loc, scale: sc.expit(loc + scale * sc.ndtri(u)),
}


def kumaraswamy_moment(n, a, b):
    return b * math.exp(sc.betaln(1 + n / a, b))


KUMARASWAMY = {
    "log_prob": lambda x, concentration1, concentration0: (
        math.log(concentration1 * concentration0)
        + (concentration1 - 1) * math.log(x)
        + (concentration0 - 1) * math.log1p(-(x**concentration1))
    ),
    "cdf": lambda x, concentration1, concentration0: (
        -math.expm1(concentration0 * math.log1p(-(x**concentration1)))
    ),
    "icdf": lambda u, concentration1, concentration0: (
        (-math.expm1(math.log1p(-u) / concentration0)) ** (1 / concentration1)
    ),
    "mean": lambda concentration1, concentration0: kumaraswamy_moment(
        1, concentration1, concentration0
    ),
    "variance": lambda concentration1, concentration0: (
        kumaraswamy_moment(2, concentration1, concentration0)
        - kumaraswamy_moment(1, concentration1, concentration0) ** 2
    ),
    "entropy": lambda concentration1, concentration0: (
        (1 - 1 / concentration0)
        + (1 - 1 / concentration1) * (sc.digamma(concentration0 + 1) + np.euler_gamma)
        - math.log(concentration1 * concentration0)
    ),
}


def deep(law):
    """Distribution functions of scipy's Beta or F, whose last digits are lost below 1e-200."""

    def cdf(x, *shapes):
        p = law(*shapes).cdf(x)
        if not 0 < p < 1e-200:
            return p
        a, b = (mpmath.mpf(v) for v in shapes)
        x = mpmath.mpf(x)
        if law is scipy.stats.f:
            a, b, x = a / 2, b / 2, a * x / (a * x + b)
        with mpmath.workdps(40):
            return float(mpmath.betainc(a, b, 0, x, regularized=True))

    return cdf


DEEP_BETA, DEEP_F = deep(scipy.stats.beta), deep(scipy.stats.f)


def truncated(loc, scale, low, high):
    return scipy.stats.truncnorm((low - loc) / scale, (high - loc) / scale, loc, scale)


NODES, WEIGHTS = np.polynomial.legendre.leggauss(80)


def truncated_integral(f, loc, scale, low, high):
    """The integral of f times the Gaussian's density, of a bounded piece: by 80 nodes."""
    high = min(high, loc + 12 * scale)
    x = low + (high - low) / 2 * (1 + NODES)
    return (high - low) / 2 * (WEIGHTS * f(x) * scipy.stats.norm.pdf(x, loc, scale)).sum()


def truncated_cdf(x, loc, scale, low, high):
    one = np.ones_like
    part = truncated_integral(one, loc, scale, low, x) if x > low else 0.0
    return part / truncated_integral(one, loc, scale, low, high)


def truncated_entropy(loc, scale, low, high):
    total = truncated_integral(np.ones_like, loc, scale, low, high)
    surprise = truncated_integral(
        lambda x: -scipy.stats.norm.logpdf(x, loc, scale), loc, scale, low, high
    )
    return surprise / total + math.log(total)


def truncated_quantile(u, loc, scale, low, high):
    """From the upper end, of the Gaussian's complement: scipy's own loses digits there."""
    low, high = sc.ndtr((loc - low) / scale), sc.ndtr((loc - high) / scale)
    return loc - scale * sc.ndtri((1 - u) * low + u * high)


# Scipy's lower tail takes differences of the Gaussian's distribution function, and is 0 early.
TRUNCATED = {"cdf": truncated_cdf, "entropy": truncated_entropy, "icdf": truncated_quantile}


def far_tail(x, loc, scale, low, high):
    """The log-density by Mills' ratio, for a far lower bound and no upper one."""
    mass = sc.log_ndtr((loc - low) / scale)
    return scipy.stats.norm.logpdf(x, loc, scale) - mass


def far_moments(loc, scale, low):
    """Variance and entropy, by Laguerre's nodes in (z - low) a / scale; a is the bound's place."""
    a = (low - loc) / scale
    node, weight = np.polynomial.laguerre.laggauss(60)
    weight = weight * np.exp(-0.5 * (node / a) ** 2)
    share = weight / weight.sum()
    middle = (share * node).sum()
    surprise = (share * (node + 0.5 * (node / a) ** 2)).sum()
    spread = (scale / a) ** 2 * (share * (node - middle) ** 2).sum()
    return spread, surprise + math.log(weight.sum() * scale / a)


FAR_TAIL = {
    "log_prob": far_tail,
    "cdf": lambda x, loc, scale, low, high: (
        -math.expm1(sc.log_ndtr((loc - x) / scale) - sc.log_ndtr((loc - low) / scale))
    ),
    "icdf": lambda u, loc, scale, low, high: (
        loc - scale * sc.ndtri_exp(math.log1p(-u) + sc.log_ndtr((loc - low) / scale))
    ),
    "variance": lambda loc, scale, low, high: far_moments(loc, scale, low)[0],
    "entropy": lambda loc, scale, low, high: far_moments(loc, scale, low)[1],
    "mean": lambda loc, scale, low, high: (
        loc
        + scale
        * math.exp(scipy.stats.norm.logpdf((low - loc) / scale))
        / math.exp(sc.log_ndtr((loc - low) / scale))
    ),
}


def unit(*entries):
    return (np.array(entries) / np.linalg.norm(entries)).tolist()


def directions(loc, concentration):
    return scipy.stats.vonmises_fisher(np.array(loc) / np.linalg.norm(loc), concentration)


def ratio(dim, k):
    """A(k), the mean height: I_{D/2}(k) / I_{D/2 - 1}(k)."""
    return sc.ive(dim / 2, k) / sc.ive(dim / 2 - 1, k)


def directions_variance(loc, concentration):
    loc, a = np.array(loc), ratio(len(loc), concentration)
    across = a / concentration
    along = 1 - (len(loc) - 1) * across - a**2
    return loc**2 * along + (1 - loc**2) * across


DIRECTIONS = {
    "mean": lambda loc, concentration: ratio(len(loc), concentration) * np.array(loc),
    "variance": directions_variance,
}
UNIFORM = {
    "mean": lambda: np.zeros(3),
    "variance": lambda: np.full(3, 1 / 3),
    "entropy": lambda: math.log(4 * math.pi),
    "log_prob": lambda x: -math.log(4 * math.pi),
}

ENTRIES = (
    entries(
        LogNormal,
        lambda loc, scale: scipy.stats.lognorm(scale, scale=math.exp(loc)),
        {
            "log-normal": {"loc": 0.0, "scale": 1.0},
            "log-normal-narrow": {"loc": 1.5, "scale": 0.1},
        },
        # The moments overflow at a scale or loc of 1e6; the draws stop at the largest number.
        extremes=pairs("loc", "scale"),
    )
    + entries(
        LogitNormal,
        None,
        {
            "logit-normal": {"loc": 0.3, "scale": 0.8},
            "logit-normal-two-peaks": {"loc": 0.0, "scale": 3.0},
        },
        truth=LOGIT_NORMAL,
        no=frozenset({"mean", "variance", "entropy"}),
        extremes=pairs("loc", "scale"),
    )
    + entries(
        Gamma,
        lambda concentration, rate: scipy.stats.gamma(concentration, scale=1 / rate),
        {
            "gamma": {"concentration": 2.5, "rate": 1.5},
            "gamma-small": {"concentration": 0.3, "rate": 1.0},
            "gamma-large": {"concentration": 60.0, "rate": 20.0},
        },
        extremes=pairs("concentration", "rate"),
    )
    + entries(
        Chi2,
        lambda df: scipy.stats.chi2(df),
        {"chi2": {"df": 3.0}, "chi2-one": {"df": 1.0}, "chi2-large": {"df": 41.0}},
        extremes=({"df": 1e-6}, {"df": 1e6}),
    )
    + entries(
        Beta,
        lambda concentration1, concentration0: scipy.stats.beta(concentration1, concentration0),
        {
            "beta": {"concentration1": 2.0, "concentration0": 3.0},
            "beta-horns": {"concentration1": 0.4, "concentration0": 0.7},
            "beta-narrow": {"concentration1": 40.0, "concentration0": 25.0},
        },
        truth={
            "cdf": lambda x, concentration1, concentration0: DEEP_BETA(
                x, concentration1, concentration0
            )
        },
        extremes=pairs("concentration1", "concentration0"),
    )
    + entries(
        Dirichlet,
        lambda concentration: scipy.stats.dirichlet(concentration),
        {
            "dirichlet": {"concentration": [2.0, 1.5, 3.0]},
            "dirichlet-corners": {"concentration": [0.6, 0.8, 0.5]},
            "dirichlet-5": {"concentration": [1.0, 2.0, 3.0, 4.0, 5.0]},
        },
        kind="multivariate",
        extremes=(
            {"concentration": [1e-6, 1e-6, 1e-6]},
            {"concentration": [1e6, 1e6, 1e6]},
            {"concentration": [1e-6, 1.0, 1e6]},
        ),
    )
    + entries(
        FisherSnedecor,
        lambda df1, df2: scipy.stats.f(df1, df2),
        {
            "fisher-snedecor": {"df1": 5.0, "df2": 7.0},
            "fisher-snedecor-heavy": {"df1": 1.5, "df2": 4.5},
            "fisher-snedecor-narrow": {"df1": 60.0, "df2": 40.0},
        },
        truth={"cdf": lambda x, df1, df2: DEEP_F(x, df1, df2)},
        # The mean is infinite up to df2 = 2 and the variance up to df2 = 4.
        extremes=pairs("df1", "df2"),
    )
    + entries(
        Kumaraswamy,
        None,
        {
            "kumaraswamy": {"concentration1": 2.0, "concentration0": 3.0},
            "kumaraswamy-horns": {"concentration1": 0.5, "concentration0": 0.6},
        },
        truth=KUMARASWAMY,
        extremes=pairs("concentration1", "concentration0"),
    )
    + entries(
        TruncatedNormal,
        truncated,
        {
            "truncated-normal": {"loc": 0.5, "scale": 1.5, "low": -1.0, "high": 2.0},
            "truncated-normal-open": {"loc": 0.0, "scale": 1.0, "low": -0.5, "high": math.inf},
        },
        truth=TRUNCATED,
        extremes=(
            {"loc": 0.0, "scale": 1e6, "low": -1.0, "high": 1.0},
            {"loc": 0.0, "scale": 1e-6, "low": -1.0, "high": 1.0},
            {"loc": 1e6, "scale": 1.0, "low": -1.0, "high": 1.0},
            {"loc": -1e6, "scale": 1e-6, "low": -1.0, "high": 1.0},
            {"loc": 0.0, "scale": 1.0, "low": -1e6, "high": 1e-6},
        ),
    )
    + entries(
        TruncatedNormal,
        truncated,
        {"truncated-normal-far": {"loc": 0.0, "scale": 1.0, "low": 30.0, "high": math.inf}},
        truth=FAR_TAIL,
    )
    + entries(
        VonMisesFisher,
        directions,
        {
            "von-mises-fisher": {"loc": unit(1.0, -2.0, 0.5), "concentration": 3.0},
            "von-mises-fisher-narrow": {"loc": unit(-1.0, 0.0, 0.0), "concentration": 80.0},
            "von-mises-fisher-6": {"loc": unit(*range(1, 7)), "concentration": 12.0},
        },
        kind="multivariate",
        truth=DIRECTIONS,
        extremes=(
            {"loc": [0.0, 0.0, 1.0], "concentration": 1e-6},
            {"loc": [1.0, 0.0, 0.0], "concentration": 1e6},
            {"loc": [-1.0, 0.0], "concentration": 1e6},
            {"loc": [0.0] * 49 + [1.0], "concentration": 1e-6},
            {"loc": [0.0] * 49 + [1.0], "concentration": 1e6},
        ),
    )
    + [
        Entry(
            "hyperspherical-uniform",
            lambda: HypersphericalUniform(3, dtype=torch.float64),
            {},
            kind="multivariate",
            truth=UNIFORM,
        )
    ]
)

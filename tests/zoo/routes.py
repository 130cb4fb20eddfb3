"""The laws by inverse distribution functions and by location and scale.

Extremes leave out what truly overflows a double: draws of Pareto for a small alpha, of Weibull for
a small concentration, of StudentT for a small df.
"""

import numpy as np
import scipy.special
import scipy.stats

from aevb import distributions as zoo
from zoo.entry import Entry

FACTOR = [[1.2, 0.0, 0.0], [-0.4, 0.7, 0.0], [0.3, 0.5, 0.9]]
LOC = [0.5, -1.0, 2.0]
TINY, HUGE = 1e-6, 1e6


def scales(**others):
    return tuple({**others, "scale": s} for s in (TINY, HUGE))


def loc_scale(name, make, law, no=(), loc=0.3, scale=1.7):
    """A family of loc and scale: at the standard, elsewhere, and far from 0 and narrow."""
    settings = {
        "": {"loc": loc, "scale": scale},
        "-standard": {"loc": 0.0, "scale": 1.0},
        "-narrow": {"loc": -2.5, "scale": 0.04},
    }
    return [
        Entry(
            name + suffix,
            make,
            parameters,
            lambda loc, scale: law(loc=loc, scale=scale),
            extremes=(
                *scales(loc=0.0),
                {"loc": HUGE, "scale": TINY},
                {"loc": TINY, "scale": HUGE},
            ),
            no=frozenset(no),
        )
        for suffix, parameters in settings.items()
    ]


def elliptical_gaussian(loc, scale_tril, radius):
    return zoo.Elliptical(loc, scale_tril, zoo.Rayleigh(radius))


def elliptical_weibull(loc, scale_tril, scale, concentration):
    return zoo.Elliptical(loc, scale_tril, zoo.Weibull(scale, concentration))


def elliptical_exponential(loc, scale_tril, rate):
    return zoo.Elliptical(loc, scale_tril, zoo.Exponential(rate))


def gaussian(loc, scale_tril, radius):
    factor = np.array(scale_tril) * radius
    return scipy.stats.multivariate_normal(loc, factor @ factor.T)


def low_rank(loc, cov_factor, cov_diag):
    factor = np.array(cov_factor)
    return scipy.stats.multivariate_normal(loc, factor @ factor.T + np.diag(cov_diag))


def erlang(shape):
    return Entry(
        f"erlang-{shape}",
        lambda rate: zoo.Erlang(shape, rate),
        {"rate": 0.6},
        lambda rate: scipy.stats.gamma(shape, scale=1 / rate),
        extremes=({"rate": TINY}, {"rate": HUGE}),
    )


GOMPERTZ_TRUTH = {
    "mean": lambda concentration, scale: (
        scale * scipy.special.exp1(concentration) * np.exp(concentration)
    ),
    "entropy": lambda concentration, scale: (
        1
        + np.log(scale / concentration)
        - scipy.special.exp1(concentration) * np.exp(concentration)
    ),
}


# Scipy takes the power from 1, of which nothing is left close to `scale`.
PARETO_TRUTH = {"cdf": lambda x, scale, alpha: -np.expm1(-alpha * np.log1p((x - scale) / scale))}
# Scipy takes the difference of two logarithms, of which nothing is left close to `low`.
RECIPROCAL_TRUTH = {
    "cdf": lambda x, low, high: np.log1p((x - low) / low) / np.log1p((high - low) / low)
}
# Scipy's quantiles of the half laws have few digits near 1, and none near 0.
HALF_CAUCHY_TRUTH = {
    "icdf": lambda u, scale: (
        scale * (np.tan(np.pi / 2 * u) if u < 0.5 else 1 / np.tan(np.pi / 2 * (1 - u)))
    ),
    "log_prob": lambda x, scale: np.log(2 / np.pi / scale) - 2 * np.log(np.hypot(1, x / scale)),
}
HALF_NORMAL_TRUTH = {
    "icdf": lambda u, scale: (
        scale
        * (np.sqrt(2) * scipy.special.erfinv(u) if u < 0.5 else -scipy.special.ndtri((1 - u) / 2))
    )
}


ENTRIES: list[Entry] = [
    *(
        Entry(
            name,
            zoo.Exponential,
            {"rate": rate},
            lambda rate: scipy.stats.expon(scale=1 / rate),
            extremes=({"rate": TINY}, {"rate": HUGE}),
        )
        for name, rate in {"exponential": 0.7, "exponential-fast": 25.0}.items()
    ),
    *loc_scale("cauchy", zoo.Cauchy, scipy.stats.cauchy, no=("mean", "variance")),
    *loc_scale("logistic", zoo.Logistic, scipy.stats.logistic),
    *loc_scale("gumbel", zoo.Gumbel, scipy.stats.gumbel_r),
    *loc_scale("laplace", zoo.Laplace, scipy.stats.laplace),
    *(
        Entry(
            name,
            zoo.HalfCauchy,
            {"scale": scale},
            lambda scale: scipy.stats.halfcauchy(scale=scale),
            extremes=scales(),
            truth=HALF_CAUCHY_TRUTH,
            no=frozenset({"mean", "variance"}),
        )
        for name, scale in {"half-cauchy": 1.4, "half-cauchy-narrow": 0.02}.items()
    ),
    *(
        Entry(
            name,
            zoo.HalfNormal,
            {"scale": scale},
            lambda scale: scipy.stats.halfnorm(scale=scale),
            extremes=scales(),
            truth=HALF_NORMAL_TRUTH,
        )
        for name, scale in {"half-normal": 1.4, "half-normal-narrow": 0.02}.items()
    ),
    *(
        Entry(
            name,
            zoo.Rayleigh,
            {"scale": scale},
            lambda scale: scipy.stats.rayleigh(scale=scale),
            extremes=scales(),
        )
        for name, scale in {"rayleigh": 1.4, "rayleigh-narrow": 0.02}.items()
    ),
    *(
        Entry(
            name,
            zoo.Pareto,
            {"scale": scale, "alpha": alpha},
            lambda scale, alpha: scipy.stats.pareto(alpha, scale=scale),
            truth=PARETO_TRUTH,
            extremes=(
                *scales(alpha=3.0),
                {"scale": 1.0, "alpha": HUGE},
                {"scale": TINY, "alpha": HUGE},
            ),
        )
        for name, scale, alpha in (
            ("pareto", 1.3, 7.5),
            ("pareto-thin", 0.02, 30.0),
            ("pareto-heavy", 2.0, 1.5),
        )
    ),
    *(
        Entry(
            name,
            zoo.Weibull,
            {"scale": scale, "concentration": concentration},
            lambda scale, concentration: scipy.stats.weibull_min(concentration, scale=scale),
            extremes=(
                *scales(concentration=2.0),
                {"scale": 1.0, "concentration": HUGE},
                {"scale": TINY, "concentration": HUGE},
            ),
        )
        for name, scale, concentration in (
            ("weibull", 1.5, 2.3),
            ("weibull-heavy", 0.7, 0.99),
            ("weibull-steep", 3.0, 12.0),
        )
    ),
    *(
        Entry(
            name,
            zoo.Reciprocal,
            {"low": low, "high": high},
            lambda low, high: scipy.stats.loguniform(low, high),
            truth=RECIPROCAL_TRUTH,
            extremes=({"low": TINY, "high": HUGE}, {"low": 1.0, "high": 1.0 + TINY}),
        )
        for name, low, high in (
            ("reciprocal", 0.3, 7.0),
            ("reciprocal-close", 2.0, 2.1),
            ("reciprocal-far", 1e-3, 1e3),
        )
    ),
    *(
        Entry(
            name,
            zoo.Gompertz,
            {"concentration": concentration, "scale": scale},
            lambda concentration, scale: scipy.stats.gompertz(concentration, scale=scale),
            extremes=(
                *scales(concentration=1.0),
                {"concentration": TINY, "scale": 1.0},
                {"concentration": HUGE, "scale": 1.0},
            ),
            truth=GOMPERTZ_TRUTH,
            no=frozenset({"variance"}),
        )
        for name, concentration, scale in (
            ("gompertz", 0.8, 1.5),
            ("gompertz-old", 0.01, 0.3),
            ("gompertz-early", 20.0, 4.0),
        )
    ),
    erlang(1),
    erlang(3),
    erlang(20),
    *(
        Entry(
            name,
            zoo.StudentT,
            {"df": df, "loc": loc, "scale": scale},
            lambda df, loc, scale: scipy.stats.t(df, loc=loc, scale=scale),
            extremes=(
                *scales(df=4.0, loc=0.0),
                {"df": HUGE, "loc": 0.0, "scale": 1.0},
                {"df": 4.0, "loc": HUGE, "scale": TINY},
            ),
        )
        for name, df, loc, scale in (
            ("student-t", 9.5, 0.4, 1.3),
            ("student-t-light", 60.0, -3.0, 0.05),
            ("student-t-heavy", 1.98, 0.0, 1.0),
        )
    ),
    *(
        Entry(
            name,
            zoo.Uniform,
            {"low": low, "high": high},
            lambda low, high: scipy.stats.uniform(low, high - low),
            extremes=({"low": -HUGE, "high": HUGE}, {"low": -TINY, "high": TINY}),
        )
        for name, low, high in (("uniform", -0.7, 2.1), ("uniform-narrow", 3.0, 3.01))
    ),
    *(
        Entry(
            name,
            zoo.Triangular,
            {"low": low, "high": high, "mode": mode},
            lambda low, high, mode: scipy.stats.triang(
                (mode - low) / (high - low), loc=low, scale=high - low
            ),
            extremes=(
                {"low": -HUGE, "high": HUGE, "mode": 0.0},
                {"low": -TINY, "high": TINY, "mode": 0.0},
                {"low": 0.0, "high": HUGE, "mode": TINY},
            ),
        )
        for name, low, high, mode in (
            ("triangular", -1.0, 2.0, 0.3),
            ("triangular-skew", 0.5, 4.0, 3.8),
        )
    ),
    *(
        Entry(
            name,
            zoo.LowRankMultivariateNormal,
            {"loc": LOC, "cov_factor": cov_factor, "cov_diag": cov_diag},
            low_rank,
            kind="multivariate",
            extremes=(
                {"loc": [0.0, 0.0], "cov_factor": [[TINY], [HUGE]], "cov_diag": [1.0, 1.0]},
                {"loc": [0.0, HUGE], "cov_factor": [[1.0], [1.0]], "cov_diag": [TINY, HUGE]},
            ),
            no=frozenset({"cdf", "icdf"}),
        )
        for name, cov_factor, cov_diag in (
            ("low-rank-normal", [[1.0], [0.5], [-0.8]], [0.3, 1.1, 0.7]),
            ("low-rank-normal-two", [[1.0, 0.2], [0.5, -1.0], [0.0, 2.0]], [0.1, 0.4, 0.02]),
        )
    ),
    Entry(
        "elliptical-gaussian",
        elliptical_gaussian,
        {"loc": LOC[:2], "scale_tril": [row[:2] for row in FACTOR[:2]], "radius": 1.3},
        gaussian,
        kind="multivariate",
        extremes=(
            {"loc": [0.0, 0.0], "scale_tril": [[TINY, 0.0], [0.0, TINY]], "radius": 1.0},
            {"loc": [HUGE, TINY], "scale_tril": [[HUGE, 0.0], [1.0, 1.0]], "radius": TINY},
        ),
        no=frozenset({"cdf", "icdf", "entropy"}),
    ),
    Entry(
        "elliptical-weibull",
        elliptical_weibull,
        {"loc": LOC, "scale_tril": FACTOR, "scale": 1.5, "concentration": 4.0},
        kind="multivariate",
        no=frozenset({"cdf", "icdf", "entropy"}),
    ),
    Entry(
        "elliptical-exponential",
        elliptical_exponential,
        {"loc": LOC[:2], "scale_tril": [row[:2] for row in FACTOR[:2]], "rate": 0.8},
        kind="multivariate",
        extremes=(
            {"loc": [0.0, 0.0], "scale_tril": [[TINY, 0.0], [0.0, HUGE]], "rate": 1.0},
            {"loc": [0.0, 0.0], "scale_tril": [[1.0, 0.0], [0.0, 1.0]], "rate": HUGE},
        ),
        no=frozenset({"cdf", "icdf", "entropy"}),
    ),
]

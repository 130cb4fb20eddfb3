"""The table that the laws run through, and what they need of each line: tensors, draws, truth."""

import functools
import math
import re
import warnings

import numpy as np
import pytest
import torch
from helpers import seeded
from scipy.stats._distn_infrastructure import rv_frozen

from zoo import base, composition, observed, routes
from zoo.numeric import grid

LINES = (*base.ENTRIES, *routes.ENTRIES, *composition.ENTRIES, *observed.ENTRIES)
ENTRIES = {entry.name: entry for entry in LINES}
DRAWS = 50_000
DIRECTION = torch.cos(torch.arange(1.0, 40.0, dtype=torch.float64))
"""A direction without symmetry, along which vectors become numbers."""


def names(wanted=lambda entry: True):
    return [name for name, entry in ENTRIES.items() if wanted(entry)]


DEAR = re.compile("dirichlet|von-mises-fisher|beta|fisher-snedecor|chi2|gamma-")
"""Their 50,000 draws, by quantiles that are found numerically, take seconds: one such law stays."""


def each(chosen):
    """Names as parameters of a law that needs draws: the dear ones run with the slow tests."""
    return [
        pytest.param(name, marks=pytest.mark.slow) if DEAR.match(name) else name for name in chosen
    ]


def tensors(entry, parameters=None, dtype=torch.float64, lead=()):
    """The parameters as leaves that want a gradient, under leading batch axes."""
    made = {}
    for name, value in (parameters or entry.parameters).items():
        value = torch.tensor(value, dtype=dtype)
        made[name] = value.expand((*lead, *value.shape)).clone().requires_grad_()
    return made


def build(entry, **options):
    return entry.make(**{k: v.detach() for k, v in tensors(entry, **options).items()})


@functools.cache
def draws(name):
    d = build(ENTRIES[name])
    return seeded(lambda: d.sample((DRAWS,)), 1)


@functools.cache
def summing(name):
    """The grid of an entry and its log-density there."""
    entry = ENTRIES[name]
    d = build(entry)
    found = grid(d, entry.kind, seeded(lambda: d.sample((4000,)), 2).double().numpy())
    return found, None if found is None else d.log_prob(found.points)


@functools.cache
def frozen(name):
    entry = ENTRIES[name]
    return None if entry.scipy is None else entry.scipy(**entry.parameters)


def truth(name, what):
    """A function of points (none for a moment) to the true values; None where nobody knows them."""
    entry, law = ENTRIES[name], frozen(name)
    if entry.truth and what in entry.truth:
        own = entry.truth[what]
        if what in ("mean", "variance", "entropy"):
            return lambda: np.asarray(own(**entry.parameters))
        return lambda x: np.array([own(v, **entry.parameters) for v in x.tolist()])
    discrete = entry.kind == "discrete"
    called = {"log_prob": "logpmf" if discrete else "logpdf", "icdf": "ppf", "variance": "var"}
    found = getattr(law, called.get(what, what), None)
    if found is not None and not callable(found):
        return lambda: np.asarray(found)
    if found is None or what in ("log_prob", "cdf", "icdf"):
        if found is None or entry.kind != "multivariate":
            return found and (lambda x: quietly(found, x.numpy()))
        return lambda x: np.array([found(row) for row in x.numpy()]).reshape(-1)
    return lambda: np.asarray(found())


def quietly(function, *arguments):
    """A function of scipy's where some of its values lie beyond the range of a double."""
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*arguments)


def general_in_scipy(name, what):
    """Whether scipy has no formula of its own for this, but takes a general and worse way."""
    law, entry = frozen(name), ENTRIES[name]
    if not isinstance(law, rv_frozen) or what in (entry.truth or {}) or entry.kind == "discrete":
        return False
    methods = {"entropy": ["_entropy"], "log_prob": ["_logpdf"]}.get(what, ["_stats", "_munp"])
    general = [c for c in type(law.dist).__mro__ if c.__module__.endswith("_infrastructure")]
    return all(
        getattr(type(law.dist), m) in [getattr(c, m, None) for c in general] for m in methods
    )


def tail_points(name):
    """(u, points) from scipy's quantiles, or the law's own, at 200 places: 1e-300 to 1 - 1e-16."""
    lower = np.concatenate([np.geomspace(1e-300, 1e-3, 60), np.linspace(2e-3, 0.998, 80)])
    upper = np.concatenate([np.geomspace(1e-3, 1e-16, 20), np.geomspace(1e-17, 1e-300, 40)])
    law = frozen(name)
    if law is not None and hasattr(law, "isf"):
        x = np.concatenate([quietly(law.ppf, lower), quietly(law.isf, upper)])
    elif (known := truth(name, "icdf")) is not None:
        u = np.concatenate([lower, 1 - upper[:20]])
        x = known(torch.from_numpy(u))
    else:
        x = draws(name)[:200].double().numpy()
    return np.concatenate([lower, 1 - upper[:20]]), x[np.isfinite(x)]


def critical_distance(m, n=DRAWS, alpha=1e-4):
    """The distance of Kolmogorov and Smirnov that one of m tests passes with chance alpha / m."""
    return math.sqrt(math.log(2 * m / alpha) / 2 / n)

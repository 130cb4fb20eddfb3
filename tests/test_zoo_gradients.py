"""Gradients of every distribution of the zoo: through draws, densities, and at the extremes."""

import math

import numpy as np
import pytest
import torch
from helpers import seeded
from torch.autograd import gradcheck
from zoo.numeric import bounds, grid
from zoo.table import DIRECTION, ENTRIES, build, draws, each, names, tensors

from aevb.distributions import Mixture, VonMisesFisher
from aevb.randomness import Stream, generator

SMOOTH = names(lambda e: e.reparameterized and e.kind != "discrete" and e.parameters)
EXTREMES = [
    (name, index) for name, entry in ENTRIES.items() for index in range(len(entry.extremes))
]
DRAWS = 20_000


def bounded(name):
    """A smooth bounded function of draws that is neither even nor odd about their middle."""

    def along(z):
        return z if ENTRIES[name].kind == "continuous" else z @ DIRECTION[: z.shape[-1]]

    some = along(draws(name).double())
    middle = some.median()
    width = (some.quantile(0.75) - some.quantile(0.25)) / 2

    def f(z):
        w = (along(z) - middle) / width
        return torch.tanh(w) + w.square() / (1 + w.square())

    return f


def by_draw(name):
    """For each parameter the gradients (n, *shape) of f along the path, and of f times the score.

    Each draw has its own copy of the parameters, so that one pass gives all gradients.
    """
    entry, f = ENTRIES[name], bounded(name)
    given = tensors(entry, lead=(DRAWS,))
    d = entry.make(**given)
    z = d.transform(d.noise((), generator(4, Stream.NOISE)))
    value = f(z)
    path = torch.autograd.grad(
        value.sum(), list(given.values()), allow_unused=True, retain_graph=True
    )
    log_density = d.log_prob(z.detach())
    # A constant takes away most of the variance, and nothing from the mean: E score = 0.
    weight = (value - value.mean()).detach()
    score = torch.autograd.grad(
        (weight * log_density).sum(), list(given.values()), allow_unused=True
    )
    return {
        key: tuple(torch.zeros_like(p) if g is None else g for g in pair)
        for key, p, *pair in zip(given, given.values(), path, score, strict=True)
    }


def mean_and_error(values):
    return values.mean(0), values.std(0) / math.sqrt(len(values))


def moves_the_support(name, key):
    entry = ENTRIES[name]
    if entry.kind != "continuous":
        return False
    moved = np.array(entry.parameters[key]) * 1.01 + 1e-3
    return bounds(build(entry)) != bounds(build(entry, parameters=entry.parameters | {key: moved}))


def along_the_sphere(name, key, gradient):
    """Without the part that would change the length of loc, which is 1."""
    loc = torch.tensor(ENTRIES[name].parameters["loc"], dtype=torch.float64)
    return gradient - (gradient @ loc) * loc if key == "loc" else gradient


@pytest.mark.parametrize("name", each(SMOOTH))
def test_the_path_and_the_score_give_one_gradient(name, unchecked):
    """d E[f(z)] for every parameter, 20,000 draws: within 5 standard errors of each other.

    A parameter that moves the support is left out: the score does not see the ends move.
    """
    for key, (path, score) in by_draw(name).items():
        assert torch.isfinite(path).all(), key
        if moves_the_support(name, key):
            continue
        (m, e), (n, g) = mean_and_error(path), mean_and_error(score)
        if key == "scale_tril":
            m, n = m.tril(), n.tril()  # what lies above the diagonal is no parameter
        if isinstance(build(ENTRIES[name]), VonMisesFisher):
            m, n = along_the_sphere(name, key, m), along_the_sphere(name, key, n)
        assert ((m - n).abs() <= 5 * (e.square() + g.square()).sqrt() + 1e-12).all(), (key, m, n)


@pytest.mark.parametrize("name", each([n for n in SMOOTH if ENTRIES[n].kind == "continuous"]))
def test_the_path_gives_the_derivative_of_the_integral(name):
    """d E[f(z)] for every parameter, within 5 standard errors of differences of a quadrature."""
    entry, f = ENTRIES[name], bounded(name)
    gradients = by_draw(name)

    def expectation(parameters):
        d = build(entry, parameters=parameters)
        found = grid(d, "continuous", seeded(lambda: d.sample((4000,)), 2).numpy())
        density = d.log_prob(found.points).exp()
        return found.integrate(density * f(found.points)) / found.integrate(density)

    z = draws(name).double()
    width = float(z.quantile(0.75) - z.quantile(0.25))
    for key, value in entry.parameters.items():
        value = np.array(value, float)
        means, errors = mean_and_error(gradients[key][0])
        for at in np.ndindex(value.shape):
            step = 1e-3 * (abs(value[at]) or 1.0)
            step = min(step, 1e-2 * width) if key in ("loc", "low", "high", "mode") else step
            up, down = value.copy(), value.copy()
            up[at], down[at] = value[at] + step, value[at] - step
            up, down = (expectation(entry.parameters | {key: moved}) for moved in (up, down))
            mean, error = float(means[at]), float(errors[at])
            slack = 5 * error + 1e-3 * abs(mean) + 1e-7 / step
            assert abs((up - down) / 2 / step - mean) <= slack, (key, at)


def some_draws(name, n=4):
    z = draws(name)[:n]
    return z.double() if z.is_floating_point() else z


@pytest.mark.parametrize("name", each(ENTRIES))
def test_gradient_of_the_log_density(name, unchecked):
    """In every parameter and in the value, against finite differences."""
    entry, given = ENTRIES[name], tensors(ENTRIES[name])
    z = some_draws(name).requires_grad_(entry.kind != "discrete")

    def log_density(value, *parameters):
        return entry.make(**dict(zip(given, parameters, strict=True))).log_prob(value)

    assert gradcheck(log_density, (z, *given.values()), eps=step_of(name), rtol=1e-3, atol=1e-4)


def step_of(name):
    """Of the size of the law: a step of 1e-6 is no small one in a law as narrow as 1e-3."""
    z = draws(name).double()
    width = float((z.quantile(0.75, 0) - z.quantile(0.25, 0)).max()) if len(z.shape) == 1 else 1.0
    return 1e-6 * min(1.0, max(width, 1e-2))


@pytest.mark.parametrize(
    "name", each([n for n in SMOOTH if not isinstance(build(ENTRIES[n]), Mixture)])
)
def test_gradient_of_the_map(name, unchecked):
    """In every parameter at fixed noise, against finite differences.

    A mixture is left out: its draw jumps from one component to another, and its gradient is that
    of another map of the same law; the two laws above hold for it.
    """
    entry, given = ENTRIES[name], tensors(ENTRIES[name])
    noise = build(entry).noise((4,), generator(6, Stream.NOISE))

    def transform(*parameters):
        return entry.make(**dict(zip(given, parameters, strict=True))).transform(noise)

    assert gradcheck(transform, tuple(given.values()), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", each(names(lambda e: "entropy" not in e.no and e.parameters)))
def test_gradient_of_the_entropy(name, unchecked):
    entry, given = ENTRIES[name], tensors(ENTRIES[name])

    def entropy(*parameters):
        return entry.make(**dict(zip(given, parameters, strict=True))).entropy()

    assert gradcheck(entropy, tuple(given.values()), rtol=1e-3, atol=1e-5)


FUNCTIONS = [
    (name, what)
    for what in ("cdf", "icdf")
    for name in names(lambda e, what=what: e.kind != "multivariate" and what not in e.no)
]


@pytest.mark.parametrize(("name", "what"), FUNCTIONS)
def test_gradient_of_the_distribution_function_and_its_inverse(name, what, unchecked):
    """In every parameter and, where it is no step, in the value, against finite differences."""
    entry, given = ENTRIES[name], tensors(ENTRIES[name])
    at = torch.tensor([0.2, 0.4, 0.7, 0.98], dtype=torch.float64)
    if what == "cdf":
        at = some_draws(name) if "icdf" in entry.no else build(entry).icdf(at)

    def value(at, *parameters):
        return getattr(entry.make(**dict(zip(given, parameters, strict=True))), what)(at)

    at.requires_grad_(entry.kind != "discrete")
    assert gradcheck(value, (at, *given.values()), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", names(lambda e: e.kind == "continuous" and "cdf" not in e.no))
def test_the_distribution_function_has_the_slope_of_the_density_far_out(name):
    """In both tails, up to 4 times as far from the middle as any draw of thousands, to 1e-6."""
    d, z = build(ENTRIES[name]), draws(name).double()
    middle, (low, high) = z.median(), bounds(d)
    far = torch.linspace(0.2, 4.0, 15, dtype=torch.float64)
    x = torch.cat([middle + far * (z.min() - middle), middle + far * (z.max() - middle)])
    x = x[(x > low) & (x < high)].requires_grad_()
    density = d.log_prob(x).exp().detach()
    (slope,) = torch.autograd.grad(d.cdf(x).sum(), x)
    assert ((slope - density).abs() <= 1e-6 * density + 1e-300).all(), (slope / density).tolist()


@pytest.mark.parametrize(("name", "index"), EXTREMES)
def test_nothing_is_nan_or_infinite_at_extreme_parameters(name, index):
    """Draws, their density and both gradients at parameters around 1e-6 and 1e6."""
    entry = ENTRIES[name]
    given = tensors(entry, parameters=entry.extremes[index])
    d = entry.make(**given)
    if entry.reparameterized:
        z = d.transform(d.noise((1000,), generator(7, Stream.NOISE)))
        if z.requires_grad:
            slopes = torch.autograd.grad(
                z.sum(), list(given.values()), allow_unused=True, retain_graph=True
            )
            finite(slopes, given)
    else:
        z = seeded(lambda: d.sample((1000,)), 7)
    log_density = d.log_prob(z.detach())
    finite([z, log_density], ["draws", "log_prob"])
    if log_density.requires_grad:
        slopes = torch.autograd.grad(log_density.sum(), list(given.values()), allow_unused=True)
        finite(slopes, given)


def finite(found, said):
    for values, what in zip(found, said, strict=True):
        assert values is None or torch.isfinite(values).all(), what

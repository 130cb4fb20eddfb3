"""Every distribution of the zoo runs through every law, in float64: see tests/zoo for the table.

The samples are 50,000, and the family-wise chance of a false alarm over all entries is 1e-4: with
m tests the distance of Kolmogorov and Smirnov may reach sqrt(log(2 m / 1e-4) / (2 * 50,000)),
0.0122 for m = 150. A law of draws that is off by more than that somewhere in its distribution
function (0.0122 + 0.0073, for a chance of missing it below 1 in 200) is detected.
"""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from zoo.numeric import bounds
from zoo.table import (
    DEAR,
    DIRECTION,
    DRAWS,
    ENTRIES,
    build,
    critical_distance,
    draws,
    each,
    frozen,
    general_in_scipy,
    names,
    summing,
    tail_points,
    tensors,
    truth,
)

from aevb.randomness import Stream, generator

ALL = names()
WITH = {
    what: names(lambda e, what=what: what not in e.no)
    for what in ("mean", "variance", "entropy", "cdf", "icdf")
}
TESTS = 2 * len(ALL)
EPS = float(np.finfo(float).eps)


def of(wanted, name_list=None):
    return pytest.mark.parametrize("name", wanted if name_list is None else name_list)


def noise_of(d, n, seed=3):
    return d.noise((n,), generator(seed, Stream.NOISE))


def numbers(tensor):
    return tensor.detach().double().numpy()


# -- density --------------------------------------------------------------------------------------


@of(ALL)
def test_integrates_to_one(name):
    """The density sums to 1 within 1e-6; more than two degrees of freedom are left to scipy."""
    grid, log_density = summing(name)
    if grid is None:
        assert truth(name, "log_prob") is not None, "nothing says that this density is normalized"
        return
    assert abs(grid.integrate(log_density.exp()) - 1) < 1e-6


@of(each(ALL))
def test_log_density_equals_scipy(name):
    """Within 1e-10 of scipy at 200 points, from the quantile of 1e-300 to that of 1 - 1e-300.

    Relative, and absolute below 1, where a logarithm goes through 0. What the rounding of x moves
    is allowed besides, and where scipy takes the logarithm of a density, those that underflow.
    """
    known = truth(name, "log_prob")
    if known is None:
        pytest.skip("no truth beside the integral")
    if ENTRIES[name].kind == "continuous":
        x = inner_points(name)
    elif ENTRIES[name].kind == "discrete":
        x = summing(name)[0].points[:200]
    else:
        x = draws(name)[:200]
    d, slack = build(ENTRIES[name]), 0.0
    expected, found = known(x), numbers(d.log_prob(x))
    good = np.isfinite(expected)
    if general_in_scipy(name, "log_prob"):
        good &= expected > -690
    if ENTRIES[name].kind == "continuous":
        slack = 2 * EPS * numbers(x.abs() * slope(d, x).abs())[good]
    assert good.sum() > 0.5 * len(good)
    assert_close(found[good], expected[good], 1e-10, 1e-10 + slack, numbers(x)[good])


def inner_points(name):
    x = torch.from_numpy(tail_points(name)[1])
    low, high = bounds(build(ENTRIES[name]))
    return x[(x > low) & (x < high) & ((x == 0) | (x.abs() > 1e-300))]


MODELESS = (
    *("ContinuousBernoulli", "Elliptical", "HypersphericalUniform", "LogitNormal", "Mixture"),
    *("RelaxedBernoulli", "RelaxedOneHotCategorical", "ZeroInflatedNegativeBinomial"),
)
"""Classes without a `mode`."""
NO_PEAK = {"fisher-snedecor-heavy", "kumaraswamy-horns", "uniform", "uniform-narrow"}
"""Flat, or highest at ends that are open."""


@of(each(names(lambda e: type(build(e)).__name__ not in MODELESS)))
def test_nothing_is_more_probable_than_the_mode(name):
    """No draw, and no point beside the mode; where there is no highest point the mode is NaN."""
    d = build(ENTRIES[name])
    mode = d.mode
    if name in NO_PEAK:
        assert torch.isnan(mode)
        return
    if name == "weibull-heavy":  # of a shape below 1: infinite at an end that is open
        assert mode == 0
        return
    z = draws(name).to(mode.dtype)
    if ENTRIES[name].kind == "continuous":
        beside = mode + 0.01 * z.std() * torch.tensor([-1.0, 1.0])
        z = torch.cat([z, beside[d.support.check(beside)]])
    assert d.log_prob(mode) >= d.log_prob(z).max() - 1e-9


def closed_ends(entry):
    """The finite ends of a support that belong to it."""
    d = build(entry)
    ends = [torch.tensor(float(end), dtype=torch.float64) for end in bounds(d)]
    return [end for end in ends if math.isfinite(end) and bool(d.support.check(end))]


@of(names(lambda e: e.kind == "continuous" and e.scipy is not None and closed_ends(e)))
def test_the_density_at_the_ends_of_the_support_equals_scipy(name):
    """It may be infinite there."""
    for end in closed_ends(ENTRIES[name]):
        expected = pytest.approx(frozen(name).logpdf(float(end)), rel=1e-10, abs=1e-10)
        assert float(build(ENTRIES[name]).log_prob(end)) == expected


def slope(d, x):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(d.log_prob(x).sum() + 0 * x.sum(), x)[0]


def assert_close(found, expected, rtol, atol, where):
    error = np.abs(found - expected) - (rtol * np.abs(expected) + atol)
    worst = int(np.argmax(np.where(np.isnan(error), np.inf, error)))
    assert error[worst] <= 0, f"{found[worst]!r}, not {expected[worst]!r}, at {where[worst]!r}"


@of(names(lambda e: e.kind == "continuous" and "cdf" not in e.no))
def test_distribution_function_equals_scipy_and_the_integral(name):
    """Within 1e-10 of scipy, relative, down to 1e-300; within 1e-7 of the integral of the density.

    Points where scipy's own value is subnormal or 0 are left out.
    """
    d, known = build(ENTRIES[name]), truth(name, "cdf")
    if known is not None:
        x = inner_points(name)
        expected, found = known(x), numbers(d.cdf(x))
        good = np.isfinite(expected) & (expected > 1e-300)
        lost = (
            2 * EPS * numbers(x.abs() * d.log_prob(x).exp())[good]
        )  # by rounding x, in the best case
        assert_close(found[good], expected[good], 1e-10, lost, numbers(x)[good])
    (grid, log_density) = summing(name)
    masses = (log_density.exp().nan_to_num() * grid.weights).reshape(-1, 8).sum(1).cumsum(0)
    assert np.abs(numbers(d.cdf(torch.from_numpy(grid.knots[1:])) - masses)).max() < 1e-7


@of(names(lambda e: e.kind == "discrete" and "cdf" not in e.no))
def test_distribution_function_of_atoms_equals_scipy_and_the_sum(name):
    """Within 1e-10 of scipy, relative, and of the running sum of the masses; so its derivatives.

    Between two atoms it is that of the lower one, and 0 below them all.
    """
    entry = ENTRIES[name]
    own = tensors(entry)
    d, atoms = entry.make(**own), summing(name)[0].points
    atoms = atoms.sort().values[:200]
    total = d.log_prob(atoms).exp().cumsum(0)
    found = d.cdf(atoms)
    assert torch.allclose(found, total, rtol=0, atol=1e-10)
    if (known := truth(name, "cdf")) is not None:
        expected = known(atoms)
        good = expected > 1e-300
        assert_close(numbers(found)[good], expected[good], 1e-10, 0.0, numbers(atoms)[good])
    assert torch.equal(d.cdf(atoms[:-1] + 0.5 * atoms.diff()), found[:-1])
    assert d.cdf(atoms[0] - 1) == 0
    weights = torch.cos(torch.arange(1.0, len(atoms) + 1))
    slopes, expected = (
        torch.autograd.grad((weights * f).sum(), list(own.values()), retain_graph=True)
        for f in (found, total)
    )
    for slope, other in zip(slopes, expected, strict=True):
        assert torch.allclose(slope, other, rtol=1e-9, atol=1e-10)


@of(each(names(lambda e: e.kind == "continuous" and "icdf" not in e.no)))
def test_quantiles_equal_scipy(name):
    """Within 1e-10 of scipy, relative, from u = 1e-300 to 1 - 1e-16.

    On a line that has no end at 0, 1e-10 of the distance between the quartiles is allowed besides.
    Quantiles of scipy's that its own distribution function does not take back to u are left out.
    """
    known = truth(name, "icdf")
    if known is None:
        pytest.skip("no truth beside the distribution function")
    d, u = build(ENTRIES[name]), torch.from_numpy(tail_points(name)[0])
    expected, found = known(u), numbers(d.icdf(u))
    spread = 0 if bounds(d)[0] == 0 else np.subtract(*np.quantile(draws(name), [0.75, 0.25]))
    good = np.isfinite(expected) & ((expected == 0) | (np.abs(expected) > 1e-300))
    if (back := truth(name, "cdf")) is not None and "icdf" not in (ENTRIES[name].truth or {}):
        x = torch.from_numpy(expected)
        slope = np.exp(truth(name, "log_prob")(x))
        lost = 8 * EPS * np.nan_to_num(np.abs(expected)) * np.nan_to_num(slope)
        good &= np.abs(back(x) - numbers(u)) <= 1e-10 * numbers(u) + lost
    assert_close(found[good], expected[good], 1e-10, 1e-10 * spread, numbers(u)[good])


@of(each(names(lambda e: e.kind == "continuous" and not {"cdf", "icdf"} & e.no)))
def test_quantile_and_distribution_function_are_inverse(name):
    """cdf(icdf(u)) = u and icdf(cdf(x)) = x at 200 points, u = 1e-300 and 1 - 1e-16 among them.

    As far as the rounding of the number between the two lets it: 8 eps |x|, and 200 eps u.
    """
    d = build(ENTRIES[name])
    low, high = bounds(d)
    u = torch.from_numpy(np.append(tail_points(name)[0], [1e-300, 1 - EPS / 2]))
    x = d.icdf(u)
    inside = (x > low) & (x < high) & torch.isfinite(x) & (x.abs() > 1e-305)
    density, at = numbers(d.log_prob(x[inside]).exp()), numbers(x[inside])
    lost = 8 * EPS * np.abs(at) * density
    assert inside.sum() > 50
    assert (
        np.abs(numbers(d.cdf(x[inside]) - u[inside])) <= 1e-10 * numbers(u[inside]) + lost
    ).all()
    x = torch.from_numpy(at)
    back = numbers(d.icdf(d.cdf(x)))
    lost = 200 * EPS * numbers(d.cdf(x)) / np.maximum(density, 1e-320) + 1e-10 * np.abs(at)
    reachable = (lost < 0.01 * np.abs(at) + 0.01) & (numbers(d.cdf(x)) < 1)
    spread = np.subtract(*np.quantile(draws(name), [0.75, 0.25]))
    assert (np.abs(back - at)[reachable] <= (lost + 1e-12 * spread)[reachable]).all()


# -- draws ----------------------------------------------------------------------------------------


@of(each(ALL))
@pytest.mark.parametrize("source", ["sample", "transform"])
def test_draws_follow_the_density(name, source):
    """The draws, of torch's generator and of noise that is handed in, follow exp(log_prob).

    On a line by the distance of Kolmogorov and Smirnov to the integral of the density, in more
    dimensions along a fixed direction (against draws of scipy where nothing can be integrated), and
    by chi-square for atoms. What distance is detected stands at the top of this file.
    """
    entry = ENTRIES[name]
    if source == "transform":
        if not entry.reparameterized:
            pytest.skip("no map of noise")
        d = build(entry)
        z = d.transform(noise_of(d, DRAWS))
    else:
        z = draws(name)
    grid, log_density = summing(name)
    if entry.kind == "discrete":
        assert chi_square(z, grid.points, log_density.exp()) > 1e-4 / TESTS
        return
    ahead = (lambda v: v) if entry.kind == "continuous" else lambda v: v @ DIRECTION[: v.shape[-1]]
    if grid is None:
        other = torch.from_numpy(frozen(name).rvs(DRAWS, random_state=np.random.default_rng(5)))
        found = scipy.stats.ks_2samp(numbers(ahead(z)), numbers(ahead(other))).statistic
        assert found < math.sqrt(2) * critical_distance(TESTS)
        return
    at, order = ahead(grid.points).sort()
    mass = (log_density.exp().nan_to_num() * grid.weights)[order]
    law = (mass.cumsum(0) - mass / 2).numpy()
    z = np.sort(numbers(ahead(z)))
    expected = np.interp(z, at.numpy(), law)
    steps = np.arange(DRAWS + 1) / DRAWS
    distance = max(np.abs(expected - steps[1:]).max(), np.abs(expected - steps[:-1]).max())
    assert distance < critical_distance(TESTS)


def chi_square(z, atoms, probability):
    """The chance of so large a distance between counts and masses; atoms below 10 are pooled."""
    atoms, order = atoms.sort()
    probability = probability[order]
    index = torch.searchsorted(atoms, z.double().contiguous()).clamp(max=len(atoms) - 1)
    assert (atoms[index] - z).abs().max() < 1e-9, "a draw is no atom of the law"
    counts = torch.bincount(index, minlength=len(atoms)).double()
    rare = probability * len(z) < 10
    counts = torch.cat([counts[~rare], counts[rare].sum()[None]])
    mass = torch.cat([probability[~rare], probability[rare].sum()[None]]) * len(z)
    if mass[-1] < 10:
        counts = torch.cat([counts[:-2], counts[-2:].sum()[None]])
        mass = torch.cat([mass[:-2], mass[-2:].sum()[None]])
    statistic = float(((counts - mass) ** 2 / mass).sum())
    return scipy.stats.chi2.sf(statistic, len(mass) - 1) if len(mass) > 1 else 1.0


# -- moments --------------------------------------------------------------------------------------


MOMENTS = [(name, what) for what in ("mean", "variance", "entropy") for name in WITH[what]]


def moment_of(name, what):
    d = build(ENTRIES[name])
    return d, numbers(d.entropy() if what == "entropy" else getattr(d, what))


@pytest.mark.parametrize(("name", "what"), MOMENTS)
def test_moments_equal_scipy_and_the_integral(name, what):
    """Mean, variance and entropy within 1e-10 of scipy (1e-6 where scipy integrates numerically),
    within 1e-6 of the integral over the density.
    """
    (d, found), known = moment_of(name, what), truth(name, what)
    if known is not None:
        expected = known()
        if what == "variance" and expected.ndim > found.ndim:
            expected = expected.diagonal()
        tolerance = 1e-6 if general_in_scipy(name, what) else 1e-10
        assert np.allclose(found, expected, rtol=tolerance, atol=tolerance * 1e-2, equal_nan=True)
    grid, log_density = summing(name)
    seen = grid is not None and ENTRIES[name].kind != "multivariate" and np.isfinite(found).all()
    if seen and tail_is_light(name, what):
        value = moment(what, d)
        integral = grid.integrate(log_density.exp() * value(grid.points, log_density))
        assert abs(integral - found) < 1e-6 * max(1, abs(found))


@pytest.mark.parametrize(
    ("name", "what"),
    [pytest.param(n, w, marks=pytest.mark.slow) if DEAR.match(n) else (n, w) for n, w in MOMENTS],
)
def test_moments_are_those_of_the_draws(name, what):
    """Within 5 standard errors of 50,000 draws."""
    d, found = moment_of(name, what)
    if not np.isfinite(found).all() or not tail_is_light(name, what):
        return
    z = draws(name).double()
    value = moment(what, d)
    values = numbers(value(z, d.log_prob(z)))
    error = values.std(0) / math.sqrt(DRAWS)
    assert (np.abs(values.mean(0) - found) <= 5 * error + 1e-12).all()


def moment(what, d):
    if what == "entropy":
        return lambda z, log_p: -log_p
    return (lambda z, log_p: z) if what == "mean" else lambda z, log_p: (z - d.mean) ** 2


def tail_is_light(name, what):
    """Whether the draws' own error can be told: the moment of twice the order exists."""
    law = frozen(name)
    if what == "entropy" or ENTRIES[name].kind == "multivariate" or not hasattr(law, "stats"):
        return True
    return bool(np.isfinite(law.var() if what == "mean" else law.stats("k")))


@of(names(lambda e: "entropy" in e.no and e.kind != "multivariate"))
def test_an_entropy_that_is_not_closed_is_refused(name):
    with pytest.raises(NotImplementedError):
        build(ENTRIES[name]).entropy()

"""Every family over the table of families: its parameters, shapes, starts and refusals."""

from functools import reduce

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn
from torch.distributions import Distribution
from zoo.families import ENTRIES, made, units

from aevb import distributions as zoo
from aevb import families
from aevb.distributions.reparameterization import base_of
from aevb.errors import DataError
from aevb.families import Family
from aevb.storage.likelihoods import LIKELIHOODS

SIZE = 4
DATA = [name for name, entry in ENTRIES.items() if entry.data]
WITHOUT_MEANS = {"elementwise-LogitNormal", "elementwise-Cauchy", "elementwise-StudentT", "planar"}
"""Of whose laws some have no mean, or no formula for it: a decoder shows what comes nearest."""
UNFLOORED = {"normal", "standardized"}
"""Whose variance may underflow: a floor is an argument."""


def raw_numbers(family, lead, spread, seed=0):
    numbers = np.random.default_rng(seed).standard_normal((*lead, family.outputs(SIZE)))
    return torch.from_numpy(spread * numbers)


def inside(law, path):
    """An attribute by name, or that of a law or a map inside it; a number counts the maps."""
    return reduce(
        lambda at, step: at[int(step)] if step.isdigit() else getattr(at, step),
        path.split("."),
        law,
    )


def numpy_of(value):
    return value.detach().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)


@pytest.mark.parametrize("name", ENTRIES)
@pytest.mark.parametrize("spread", [1.0, 30.0])
def test_the_parameters_are_those_of_the_formula(name, spread):
    """Also where they are held: exp(30) is beyond every bound on a logarithm."""
    entry, family = ENTRIES[name], made(name)
    with torch.no_grad():
        for learned in family.parameters():
            learned.add_(0.3)
    raw = raw_numbers(family, (2, 3), spread)
    law = base_of(family(raw, 2))
    assert type(law).__name__ == entry.law
    for at in np.ndindex(2, 3):
        for path, expected in entry.parameters(raw[at].numpy(), family).items():
            found = numpy_of(inside(law, path))
            if found.ndim > np.ndim(expected):
                found = found[at]
            assert np.shape(found) == np.shape(expected), path
            assert np.allclose(found, expected, rtol=1e-9, atol=1e-12), path


@pytest.mark.parametrize("name", ENTRIES)
def test_a_law_has_the_batch_of_its_numbers_and_an_event_of_the_size(name):
    family = made(name)
    law = family(raw_numbers(family, (2, 3), 0.5), 2)
    assert law.batch_shape == (2, 3)
    assert law.event_shape == (SIZE,)
    if name in DATA or name in WITHOUT_MEANS:
        moments = family.moments(law)
        assert moments.shape == (2, 3, family.moment_count(SIZE))
        shown = family.summarize(moments)
        assert shown.shape == (2, 3, SIZE)
        assert torch.isfinite(shown).all()


def laws_in(law):
    """A law and those that it is made of."""
    yield law
    for name, part in vars(law).items():
        if name.startswith("_"):  # torch's own affair
            continue
        for inner in part if isinstance(part, list | tuple) else [part]:
            if isinstance(inner, Distribution):
                yield from laws_in(inner)


@pytest.mark.parametrize("name", ENTRIES)
def test_no_law_looks_at_its_values(name):
    """`Model` does, once; what decides by values cannot be exported, and is no one graph."""
    family = made(name)
    law = family(raw_numbers(family, (2, 3), 0.5), 2)
    assert not [type(part).__name__ for part in laws_in(law) if part._validate_args]


@pytest.mark.parametrize("name", DATA)
def test_the_marginal_start_is_the_law_of_each_column(name):
    entry, family = ENTRIES[name], made(name)
    x = entry.data(np.random.default_rng(3), (4000, SIZE))
    family.fit(torch.from_numpy(x))
    start = family.encode_marginals(torch.from_numpy(x))
    assert start.shape == (family.outputs(SIZE),)
    law = base_of(family(start, 0))
    for path, of_data in entry.start.items():
        expected = of_data(x)
        assert np.allclose(numpy_of(inside(law, path)), expected, rtol=entry.near, atol=entry.near)


@pytest.mark.parametrize(
    "law", ["Gamma", "Weibull", "LogNormal", "Beta", "LogitNormal", "Logistic"]
)
def test_the_marginal_start_of_a_law_of_single_numbers_is_the_most_probable(law):
    """There the density of the data has no slope in any number."""
    family = made(f"elementwise-{law}")
    x = torch.from_numpy(units(np.random.default_rng(3), (400, SIZE)))
    raw = family.encode_marginals(x).requires_grad_()
    (slopes,) = torch.autograd.grad(family(raw, 0).log_prob(x).mean(), raw)
    assert slopes.abs().max() < 0.01


SCIPYS = {
    "gamma": lambda: LIKELIHOODS["gamma"](None, None),
    "weibull_min": lambda: families.Elementwise(zoo.Weibull),
    "expon": lambda: families.Elementwise(zoo.Exponential),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("law", SCIPYS)
def test_the_marginal_start_is_as_probable_as_scipys_in_columns_of_any_size(law, dtype):
    theirs = getattr(stats, law)
    unit = stats.gamma(4.0, scale=0.25).rvs((400, 6), random_state=np.random.default_rng(0))
    x = unit * np.array([1e-4, 1e-2, 1.0, 1e2, 1e4, 1e6])
    family = SCIPYS[law]()
    columns = torch.from_numpy(x).to(dtype)
    found = base_of(family(family.encode_marginals(columns), 0)).log_prob(columns).mean(0)
    best = [theirs(*theirs.fit(c, floc=0.0)).logpdf(c).mean() for c in x.T]
    assert np.allclose(found, best, atol=1e-3)


@pytest.mark.parametrize("name", DATA)
def test_a_column_of_one_value_leaves_a_start_that_is_finite(name):
    family = made(name)
    x = torch.from_numpy(ENTRIES[name].data(np.random.default_rng(3), (1, SIZE))).expand(20, SIZE)
    family.fit(x)
    law = family(family.encode_marginals(x), 0)
    assert torch.isfinite(law.log_prob(x)).all()


@pytest.mark.parametrize("name", [name for name in DATA if name not in UNFLOORED])
@pytest.mark.parametrize("far", [-110.0, 89.0])
def test_numbers_far_out_leave_values_and_slopes_that_are_finite(name, far):
    """In single precision, as a decoder gives them at a code in a heavy tail."""
    family = made(name).float()
    x = torch.from_numpy(ENTRIES[name].data(np.random.default_rng(3), (4, SIZE))).float()
    raw = torch.full((4, family.outputs(SIZE)), far, requires_grad=True)
    value = family(raw, 1).log_prob(x).sum()
    (slopes,) = torch.autograd.grad(value, raw)
    assert torch.isfinite(slopes).all()
    assert torch.isfinite(value)


@pytest.mark.parametrize("family", [families.Normal(), families.MultivariateNormal()])
def test_the_slope_of_a_deviation_is_a_number_where_the_variance_underflows(family):
    raw = torch.full((family.outputs(1),), -110.0, requires_grad=True)
    drawn = zoo.reparameterize(family(raw, 0), torch.ones(1, 1))
    (slopes,) = torch.autograd.grad(drawn.sum(), raw)
    assert float(slopes[1]) == pytest.approx(0.5 * np.exp(-55.0), rel=1e-5, abs=0)


@pytest.mark.parametrize("name", [name for name in DATA if ENTRIES[name].outside])
def test_wrong_domain_names_the_first_cell(name):
    entry, family = ENTRIES[name], made(name)
    x = torch.from_numpy(entry.data(np.random.default_rng(3), (4, SIZE)))
    family.check(x)
    bad, said = entry.outside
    x[1, 2], x[3, 0] = bad, bad
    column = 1 if name == "one-hot" else 3  # of a row without a single one every cell is wrong
    with pytest.raises(DataError) as found:
        family.check(x)
    assert f"{said}, found" in str(found.value)
    assert f"in row 2, column {column}" in str(found.value)


def test_the_levels_of_a_family_are_those_of_its_law():
    family = made("levels")
    x = (torch.arange(8.0)[:, None] + torch.tensor([-0.02, -0.005, 0.0, 0.005])) / 7
    law = base_of(family(torch.zeros(8, family.outputs(SIZE)), 1))
    assert torch.equal(family.inside(x), law.support.check(x))


NETWORKS = {"InverseAutoregressive", "MaskedAutoregressive", "RealNVP"}
OF_OTHERS = {"Columns", "Masked"}


def test_every_family_has_its_line_in_the_table():
    known = {
        name
        for name in families.__all__
        if isinstance(getattr(families, name), type)
        and issubclass(getattr(families, name), nn.Module)
    }
    lines = {type(made(name)).__name__ for name in ENTRIES}
    assert known - lines == {Family.__name__, *NETWORKS, *OF_OTHERS}

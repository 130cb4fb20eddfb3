"""Families of families: a table's columns each by its own law, and cells that were not seen."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import aevb
from aevb import distributions as zoo
from aevb.errors import DataError, UsageError
from aevb.families import (
    Bernoulli,
    Categorical,
    Columns,
    ContinuousBernoulli,
    DiscretizedLogistic,
    Elementwise,
    Masked,
    MultivariateNormal,
    NegativeBinomial,
    Normal,
    Ordinal,
    Poisson,
    Standardized,
    ZeroInflatedNegativeBinomial,
)
from aevb.networks import ObservedInput, Standardizer

FAMILIES = [Normal(), Bernoulli(), Categorical(3), Poisson(), NegativeBinomial()]
GROUPS = [[5, 0], [1], [3], [2, 6], [4]]
"""Seven columns, in no order: two real, one binary, one of classes, three counts."""


def raw_for(family, n=4, size=7, seed=0):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.standard_normal((n, family.outputs(size))))


def rows(n=4, seed=1):
    rng = np.random.default_rng(seed)
    x = np.zeros((n, 7))
    x[:, [5, 0]] = rng.standard_normal((n, 2))
    x[:, 1] = rng.integers(0, 2, n)
    x[:, 3] = rng.integers(0, 3, n)
    x[:, [2, 6, 4]] = rng.poisson(2, (n, 3))
    return torch.from_numpy(x)


def test_a_product_is_the_sum_of_its_parts_as_scipy_has_them():
    family = Columns(FAMILIES, GROUPS)
    raw, x = raw_for(family), rows()
    mean, log_variance = raw[:, 0:2], raw[:, 2:4]
    logit, classes = raw[:, 4:5], raw[:, 5:8]
    rate, (log_mean, log_count) = raw[:, 8:10].exp(), (raw[:, 10], raw[:, 11])
    r = log_count.exp()
    expected = (
        stats.norm.logpdf(x[:, [5, 0]], mean, (0.5 * log_variance).exp()).sum(1)
        + stats.bernoulli.logpmf(x[:, [1]], torch.sigmoid(logit)).sum(1)
        + torch.log_softmax(classes, 1).gather(1, x[:, [3]].long()).numpy()[:, 0]
        + stats.poisson.logpmf(x[:, [2, 6]], rate).sum(1)
        + stats.nbinom.logpmf(x[:, 4], r, r / (r + log_mean.exp()))
    )
    assert np.allclose(family(raw, 1).log_prob(x).numpy(), expected, atol=1e-12)


def test_samples_of_a_product_have_the_columns_means():
    family = Columns(FAMILIES, GROUPS)
    p = family(raw_for(family, n=1), 1)
    torch.manual_seed(0)
    draws = p.sample((20_000,))[:, 0]
    expected = family.moments(p)
    assert draws.shape == (20_000, 7)
    order = [5, 0, 1, 2, 6, 4]
    without_classes = torch.cat([expected[0, :3], expected[0, 6:]])
    spread = draws[:, order].std(0) / 20_000**0.5
    assert ((draws[:, order].mean(0) - without_classes).abs() < 5 * spread).all()
    shares = torch.stack([(draws[:, 3] == k).double().mean() for k in range(3)])
    assert (shares - expected[0, 3:6]).abs().max() < 0.02
    assert family.summarize(family.moments(p))[0, 3] == shares.argmax()


DISCRETE = [(Bernoulli(), [0.0, 1.0]), (Categorical(3), [0.0, 1.0, 2.0])]


@pytest.mark.parametrize(("family", "values"), DISCRETE, ids=["bernoulli", "categorical"])
def test_a_missing_cell_is_summed_out(family, values):
    raw = raw_for(family, n=1, size=3)
    full, masked = family(raw, 1), Masked(family)(raw, 1)
    x = torch.tensor([[1.0, torch.nan, 0.0]], dtype=torch.float64)
    total = sum(full.log_prob(torch.tensor([[1.0, v, 0.0]]).double()).exp() for v in values)
    assert torch.allclose(masked.log_prob(x).exp(), total, atol=1e-12)
    everything = sum(
        full.log_prob(torch.tensor([cells]).double()).exp()
        for cells in itertools.product(values, repeat=3)
    )
    nothing = masked.log_prob(torch.full((1, 3), torch.nan).double())
    assert torch.allclose(nothing.exp(), everything, atol=1e-12)


@pytest.mark.parametrize("family", [Normal(), ContinuousBernoulli(), Standardized(Normal(), 2)])
def test_a_missing_real_cell_is_integrated_out(family):
    raw = raw_for(family, n=1, size=2)
    low, high = (0.0, 1.0) if isinstance(family, ContinuousBernoulli) else (-40.0, 40.0)
    grid = torch.linspace(low, high, 20_001, dtype=torch.float64)
    x = torch.stack([torch.full_like(grid, 0.3), grid], dim=1)
    joint = family(raw, 1).log_prob(x).exp()
    seen = Masked(family)(raw, 1).log_prob(torch.tensor([[0.3, torch.nan]]).double())
    assert torch.allclose(seen.exp(), torch.trapezoid(joint, grid), rtol=1e-6)


def test_missing_cells_give_no_gradient_and_no_nan():
    family = Masked(Columns(FAMILIES, GROUPS))
    raw = raw_for(family).requires_grad_()
    x = rows()
    x[:, 3] = torch.nan
    x[1] = torch.nan
    family(raw, 1).log_prob(x).sum().backward()
    assert torch.isfinite(raw.grad).all()
    assert not raw.grad[1].any()
    assert not raw.grad[:, 5:8].any()
    assert raw.grad[0, :5].all()


LAWS = ("Laplace", "StudentT", "LogNormal", "Weibull", "Rayleigh", "Pareto", "LogitNormal", "Gamma")
LAWS = (*LAWS, "Beta", "Kumaraswamy", "Exponential", "Uniform", "Reciprocal")
OF_WIDTH = {
    **{name: lambda width, name=name: Elementwise(getattr(zoo, name)) for name in LAWS},
    **{type(f).__name__: lambda width, f=f: f for f in [*FAMILIES, ContinuousBernoulli()]},
    "zeros": lambda width: ZeroInflatedNegativeBinomial(),
    "grades": lambda width: Ordinal(3, width),
    "levels": lambda width: DiscretizedLogistic(3),
    "mixture of levels": lambda width: DiscretizedLogistic(3, 2),
}


@pytest.mark.parametrize("name", OF_WIDTH)
def test_a_missing_cell_adds_nothing_to_any_law_nor_to_its_slopes(name):
    """As if there were no such column: also where the log-density has no slope at 0."""
    two, one = (OF_WIDTH[name](width).double() for width in (2, 1))
    raw = raw_for(two, 1, 2, seed=5) / 4
    seen = raw.reshape(1, -1, 2)[..., 0].requires_grad_()
    raw.requires_grad_()
    cell = 0.3 if name in ("Beta", "Kumaraswamy", "LogitNormal", "Uniform") else 1.0
    x = torch.tensor([[cell, torch.nan]]).double()
    truth = one(seen, 1).log_prob(x[:, :1])
    (expected,) = torch.autograd.grad(truth.sum(), seen)
    for family in (Masked(two), Masked(Columns([two], [[0, 1]]))):
        found = family(raw, 1).log_prob(x)
        (slopes,) = torch.autograd.grad(found.sum(), raw)
        assert torch.allclose(found, truth)
        assert torch.allclose(slopes.reshape(1, -1, 2)[..., 0], expected)
        assert not slopes.reshape(1, -1, 2)[..., 1].any()


def test_a_mask_lets_no_infinite_cell_through():
    x = torch.tensor([[torch.inf, torch.nan], [-torch.inf, 1.0]])
    for family in (Normal(), Poisson(), Columns([Normal(), Poisson()], [[0], [1]])):
        assert Masked(family).inside(x).tolist() == [[False, True], [False, True]]


def test_a_column_without_any_cell_leaves_a_start_that_is_finite():
    for law in (zoo.LogNormal, zoo.LogitNormal):
        family = Masked(Elementwise(law))
        x = torch.tensor([[0.2, torch.nan], [0.4, torch.nan]])
        assert torch.isfinite(family.encode_marginals(x)).all()


def test_without_holes_a_mask_changes_nothing():
    family = Columns(FAMILIES, GROUPS)
    raw, x = raw_for(family), rows()
    assert torch.equal(Masked(family)(raw, 1).log_prob(x), family(raw, 1).log_prob(x))


@given(st.integers(0, 2**32), st.floats(0.0, 0.9))
@settings(max_examples=30, deadline=None)
def test_standardization_takes_mean_and_deviation_of_what_is_observed(seed, share):
    rng = np.random.default_rng(seed)
    x = rng.normal(5.0, 3.0, (12, 3))
    x[rng.random(x.shape) < share] = np.nan
    part = Standardizer(3).double()
    part.fit(torch.from_numpy(x))
    for i in range(3):
        seen = x[~np.isnan(x[:, i]), i]
        mean = seen.mean() if len(seen) else 0.0
        deviation = seen.std() if len(seen) else 1.0
        assert np.isclose(part.mean[i], mean)
        assert np.isclose(part.deviation[i], deviation if deviation > 1e-9 else 1.0, atol=1e-6)


def test_the_deviation_of_a_constant_is_one_whatever_its_mean_is_rounded_to():
    part = Standardizer(1).double()
    part.fit(torch.full((3, 1), 0.1, dtype=torch.float64))
    assert part.deviation.item() == 1.0


def test_marginals_are_those_of_the_observed_cells():
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.integers(0, 2, (2000, 2)).astype(float))
    x[:1000, 0] = 1.0
    x[1500:, 0] = torch.nan
    marginal = torch.sigmoid(Masked(Bernoulli()).encode_marginals(x))
    assert abs(float(marginal[0]) - float(np.nanmean(x[:, 0]))) < 0.01


def test_the_network_sees_zeros_and_a_mask():
    x = torch.tensor([[2.0, torch.nan]])
    assert ObservedInput(torch.nn.Identity())(x).tolist() == [[2.0, 0.0, 1.0, 0.0]]


def test_what_one_family_does_not_take_may_be_for_a_mixed_one():
    x = torch.tensor([[1.0, 0.5], [2.0, 1.5], [9.0, 2.5]])
    with pytest.raises(DataError, match="choose the likelihood mixed, since 1 real and 1 count"):
        Poisson().check(x)
    with pytest.raises(DataError, match="mend the row"):
        Columns([Poisson(), Poisson()], [[0], [1]]).check(x)


def test_a_wrong_cell_is_named_with_its_own_family():
    family = Masked(Columns(FAMILIES, GROUPS))
    x = rows()
    x[2, 1] = 0.5
    x[0, 0] = torch.nan
    with pytest.raises(DataError, match=r"Bernoulli expects zeros and ones, found 0.5 in row 3, c"):
        family.check(x)
    family.check(rows())


@pytest.mark.parametrize("groups", [[[0], [0]], [[0], [2]], [[], []], [[0, 1]]])
def test_columns_must_be_shared_out(groups):
    with pytest.raises(UsageError, match="share out the columns"):
        Columns([Normal(), Bernoulli()], groups)


def test_a_full_covariance_takes_no_holes():
    family = Masked(MultivariateNormal())
    with pytest.raises(UsageError, match="does not factorize"):
        family(torch.zeros(1, family.outputs(3)), 1)


def test_the_bound_of_a_table_with_holes_lies_below_its_evidence():
    family = Masked(Columns(FAMILIES, GROUPS))
    torch.manual_seed(0)
    decoder = aevb.MLP(2, [8], family.outputs(7))
    model = aevb.Model(aevb.standard_normal(2), aevb.Conditional(decoder, family)).double()
    posterior = aevb.mean_field(ObservedInput(aevb.MLP(14, [8], 4))).double()
    x = rows(n=6)
    x[::2, ::2] = torch.nan
    data = aevb.data.Rows(x.numpy(), np.arange(6), (7,))
    result = aevb.evidence(model, posterior, data, 2000)
    assert np.isfinite(result.importance.values).all()
    assert (result.importance.values > result.elbo.values).all()


def test_bits_per_dimension_count_what_was_observed():
    family = Masked(Bernoulli())
    decoder = aevb.MLP(1, [], 4)
    torch.nn.init.zeros_(decoder.head.weight)
    model = aevb.Model(aevb.standard_normal(1), aevb.Conditional(decoder, family)).double()
    encoder = ObservedInput(aevb.MLP(8, [], 2)).double()
    torch.nn.init.zeros_(encoder.network.head.weight)
    x = np.array([[0, 1, np.nan, np.nan], [1, 1, 0, np.nan]])
    data = aevb.data.Rows(x, np.arange(2), (4,))
    result = aevb.evidence(model, aevb.mean_field(encoder).double(), data, 3)
    assert np.allclose(result.importance.values, -np.array([2, 3]) * np.log(2))
    assert result.importance.bits_per_dimension == pytest.approx(1.0)  # a fair coin is one bit

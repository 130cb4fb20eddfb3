"""Families at their edges, in units of the data, and as a compiled step takes them."""

import math

import mpmath
import numpy as np
import pytest
import scipy.stats
import torch
from helpers import needs_compiler

from aevb import distributions as zoo
from aevb.compilation import Compiled
from aevb.distributions import kl, reparameterize, route
from aevb.distributions.continuous_bernoulli import log_normalizer
from aevb.errors import DataError, UsageError
from aevb.families import (
    Bernoulli,
    Categorical,
    ContinuousBernoulli,
    Elementwise,
    MultivariateNormal,
    Normal,
    Standardized,
)


def test_continuous_bernoulli_has_a_largest_density():
    p = ContinuousBernoulli()(torch.tensor([[-1e6, 1e6]]), 1)
    value = float(p.log_prob(torch.tensor([[0.0, 1.0]])))
    assert value == pytest.approx(2 * math.log(100), rel=1e-5)


@pytest.mark.parametrize("logit", [0.0, 1e-9, 1e-3, 0.0999, 0.1001, 1.0, -5.0, 30.0, -300.0, 1e4])
@mpmath.workdps(50)
def test_continuous_bernoulli_normalizer_is_exact(logit):
    eta = mpmath.mpf(logit)
    expected = mpmath.log(2) if logit == 0 else mpmath.log(eta / mpmath.tanh(eta / 2))
    value = log_normalizer(torch.tensor(logit, dtype=torch.float64))
    assert abs(float(value) - float(expected)) < 1e-13 * max(1, abs(float(expected)))
    single = log_normalizer(torch.tensor(logit, dtype=torch.float32))
    assert abs(float(single) - float(expected)) < 1e-6 * max(1, abs(float(expected)))


@pytest.mark.parametrize("logit", [0.0, 1e-9, 1e-3, 8e-3, 0.499, 0.501, 1.0, -5.0, 30.0, -90.0])
@mpmath.workdps(50)
def test_continuous_bernoulli_mean_is_exact(logit):
    # Torch's own, near probability 1/2, is the difference of two large numbers.
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-6)):
        raw = torch.tensor([[logit]], dtype=dtype)
        eta = mpmath.mpf(float(raw))
        expected = 0.5 if eta == 0 else 1 / (1 - mpmath.exp(-eta)) - 1 / eta
        found = float(ContinuousBernoulli()(raw, 1).mean)
        assert abs(found - float(expected)) < tolerance


def test_continuous_bernoulli_gradients():
    eta = torch.tensor(
        [-20.0, -0.1, -1e-3, 0.0, 1e-3, 0.0999, 0.1001, 50.0],
        dtype=torch.float64,
        requires_grad=True,
    )
    assert torch.autograd.gradcheck(log_normalizer, (eta,), eps=1e-6, atol=1e-7)
    extreme = torch.tensor([1e30, -1e30], requires_grad=True)
    log_normalizer(extreme).sum().backward()
    assert torch.isfinite(extreme.grad).all()


def test_wrong_sizes_are_usage_errors():
    with pytest.raises(UsageError, match="gives 5 numbers, expected a multiple of 2"):
        Normal()(torch.zeros(1, 5), 1)
    with pytest.raises(UsageError, match="full covariance"):
        MultivariateNormal()(torch.zeros(1, 4), 1)
    with pytest.raises(UsageError, match="at least 2, found"):
        Categorical(1)
    for family in (Normal, MultivariateNormal):
        with pytest.raises(UsageError, match="min_variance must be at least 0"):
            family(-1.0)


# -- reparameterization and divergences -----------------------------------------------------------


def test_noise_of_the_wrong_shape_and_unknown_families():
    q = Normal()(torch.zeros(3, 4), 1)
    for shape in [(2, 3, 3), (2, 4, 2), (2,)]:
        with pytest.raises(UsageError, match=r"noise must have shape \(S, 3, 2\)"):
            reparameterize(q, torch.zeros(shape))
    with pytest.raises(UsageError, match="no reparameterization of VonMises is known"):
        route(torch.distributions.VonMises(torch.ones(2), torch.ones(2)))


def test_no_closed_form_is_none():
    q = torch.distributions.Independent(torch.distributions.Cauchy(torch.zeros(1, 2), 1.0), 1)
    p = torch.distributions.Independent(torch.distributions.Gumbel(torch.zeros(2), 1.0), 1)
    assert kl(q, p) is None


@pytest.mark.parametrize("logit", [-1e4, -200.0, -100.0, 100.0, 200.0, 1e4])
@pytest.mark.parametrize("x", [0.0, 1.0])
def test_saturated_logits_give_finite_values_and_gradients(logit, x):
    """The log-sigmoid must be taken as softplus: the log of a rounded probability is infinite."""
    raw = torch.tensor([[logit]], requires_grad=True)
    value = Bernoulli()(raw, 1).log_prob(torch.tensor([[x]]))
    value.backward()
    assert float(value.detach()) == pytest.approx(-abs(logit) if (logit > 0) != (x > 0) else 0.0)
    assert float(raw.grad) == pytest.approx(x - (logit > 0), abs=1e-6)


@pytest.mark.parametrize(
    "inner", [Normal(0.01), MultivariateNormal(0.01)], ids=["diagonal", "full"]
)
def test_standardized_density_is_that_of_the_data(inner):
    """x in its own units, with the Jacobian: equal to scipy's density of mean + deviation y."""
    rng = np.random.default_rng(5)
    x = torch.from_numpy(rng.standard_normal((50, 3)) * [0.1, 1.0, 100.0] + [5.0, -1.0, 1000.0])
    family = Standardized(inner, 3).double()
    family.fit(x)
    raw = torch.from_numpy(rng.standard_normal((50, family.outputs(3))))
    p = family(raw, 1)
    m, s = x.numpy().mean(0), x.numpy().std(0)
    y = inner(raw, 1)
    for n in range(50):
        cov = (
            y.covariance_matrix[n].numpy()
            if isinstance(inner, MultivariateNormal)
            else np.diag(y.variance[n].numpy())
        )
        law = scipy.stats.multivariate_normal(m + s * y.mean[n].numpy(), cov * np.outer(s, s))
        assert float(p.log_prob(x)[n]) == pytest.approx(law.logpdf(x[n].numpy()), rel=1e-9)
    z = reparameterize(p, torch.zeros(1, 50, 3, dtype=torch.float64))
    assert torch.allclose(z[0], p.mean)
    start = family(family.encode_marginals(x)[None], 1)
    assert torch.allclose(start.mean[0], x.mean(0))
    assert torch.allclose(start.variance[0], x.var(0, unbiased=False), rtol=1e-2)


def test_a_family_whose_location_is_not_that_of_the_data_is_not_standardized():
    for law in (zoo.LogNormal, zoo.LogitNormal):
        with pytest.raises(UsageError, match="only a family with a location and a scale"):
            Standardized(Elementwise(law), 2)


def test_what_is_fixed_stays_so_in_the_units_of_the_data():
    family = Standardized(Elementwise(zoo.StudentT, {"df": 5.0}), 2)
    family.fit(torch.tensor([[1.0, 30.0], [3.0, 50.0]]))
    p = family(torch.zeros(1, 4), 1)
    x = torch.tensor([[1.5, 20.0]])
    truth = scipy.stats.t.logpdf(x.numpy(), 5.0, [2.0, 40.0], [1.0, 10.0]).sum()
    assert float(p.log_prob(x)) == pytest.approx(truth, rel=1e-5)


@pytest.mark.parametrize("family", [Normal(1e-4), MultivariateNormal(1e-4)])
def test_a_log_variance_without_end_leaves_a_density(family):
    raw = torch.tensor([[0.0, 89.0]], requires_grad=True)
    value = family(raw, 1).log_prob(torch.ones(1, 1))
    value.backward()
    assert float(value.detach()) == pytest.approx(scipy.stats.norm.logpdf(1, 0, math.exp(30)))
    assert torch.isfinite(raw.grad).all()


def test_the_numbers_of_a_full_gaussian_are_found_again():
    raw = torch.from_numpy(np.random.default_rng(0).standard_normal((7, 9)))
    for family in (MultivariateNormal(), MultivariateNormal(0.1)):
        p = family(raw, 1)
        assert torch.allclose(family.encode(p.mean, p.scale_tril), raw)


def test_what_no_likelihood_takes_is_to_be_mended():
    for family, cell in ((Normal(), torch.inf), (Normal(), torch.nan), (Bernoulli(), torch.inf)):
        with pytest.raises(DataError, match="mend the cell") as found:
            family.check(torch.tensor([[1.0, cell]]))
        assert "choose the likelihood" not in str(found.value)
    with pytest.raises(DataError, match="Normal expects finite numbers, found inf"):
        Standardized(Normal(), 1).check(torch.tensor([[torch.inf]]))


def test_what_has_a_location_and_a_scale_is_standardized_and_constant_columns_stay():
    with pytest.raises(UsageError, match="only a family with a location and a scale"):
        Standardized(Bernoulli(), 2)
    family = Standardized(Normal(), 2)
    family.fit(torch.tensor([[1.0, 3.0], [1.0, 5.0]]))
    assert family.deviation.tolist() == [1.0, 1.0]
    assert family.mean.tolist() == [1.0, 4.0]


@pytest.mark.parametrize("size", [1, 13, 64, 127, 784])
def test_a_vector_of_coin_flips_is_summed_without_overflow_and_as_exactly(size):
    rng = np.random.default_rng(size)
    logits = rng.standard_normal((3, size)) * 10.0 ** rng.integers(-3, 4, (3, size))
    logits[0] = np.linspace(-1, 1, size) * 1e-8  # every factor of the product is 2
    x = (rng.random((3, size)) < 0.5).astype(float)
    expected = -np.logaddexp(0, np.where(x > 0, -logits, logits)).sum(-1)
    for dtype, tolerance in (torch.float64, 1e-13), (torch.float32, 1e-6):
        q = Bernoulli()(torch.from_numpy(logits).to(dtype), 1)
        with torch.no_grad():
            alone = q.log_prob(torch.from_numpy(x).to(dtype))
        learning = q.log_prob(torch.from_numpy(x).to(dtype))
        assert np.allclose(alone.numpy(), expected, rtol=tolerance, atol=tolerance)
        assert np.allclose(learning.numpy(), expected, rtol=tolerance, atol=tolerance)


def test_the_formula_of_compiled_steps_has_every_derivative(monkeypatch):
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    rng = np.random.default_rng(0)
    some = np.array([0.0, -0.0, 1e-8, -1e-8, 90.0, -90.0, 1e4, -1e4])
    logits = np.concatenate([np.tile(some, 8), rng.standard_normal(3 * 784 - 64) * 5])
    logits = torch.from_numpy(logits).reshape(3, 1, 784)
    x = torch.from_numpy((rng.random((2, 784)) < 0.5).astype(float))
    for dtype, tolerance in (torch.float64, 1e-13), (torch.float32, 1e-6):
        raw, target = logits.to(dtype).requires_grad_(), x.to(dtype)
        value = Bernoulli()(raw.expand(3, 2, 784), 2).log_prob(target)
        truth = torch.nn.functional.binary_cross_entropy_with_logits(
            logits.expand(3, 2, 784), x.expand(3, 2, 784), reduction="none"
        )
        near = {"rtol": tolerance, "atol": tolerance}
        assert torch.allclose(value.double(), -truth.sum(-1), **near)
        (slope,) = torch.autograd.grad(value.sum(), raw, create_graph=True)
        expected = (x - torch.sigmoid(logits)).sum(1, keepdim=True)
        assert torch.allclose(slope.double(), expected, **near)
        (curvature,) = torch.autograd.grad(slope.sum(), raw)
        expected = -2 * torch.sigmoid(logits) * torch.sigmoid(-logits)
        assert torch.allclose(curvature.double(), expected, **near)


@needs_compiler
def test_a_compiled_log_probability_is_that_of_torch_with_its_gradient():
    raw = torch.linspace(-20, 20, 2 * 784, dtype=torch.float64).reshape(2, 784)
    x = (raw.sin() > 0).double()

    def value_and_gradient(raw, x):
        return torch.func.grad_and_value(lambda r: Bernoulli()(r, 1).log_prob(x).sum())(raw)

    made = Compiled(value_and_gradient)
    for found, expected in zip(made("k", raw, x), value_and_gradient(raw, x), strict=True):
        assert torch.allclose(found, expected, rtol=1e-13, atol=1e-13)
    assert made.note is None


@pytest.mark.parametrize("u", [0.3, 1e-3, 1e-20, 1e-100, 1e-200])
def test_students_quantile_is_the_formula_for_one_and_for_two_degrees_of_freedom(u):
    df, at = torch.tensor([1.0, 2.0]).double(), torch.tensor(u, dtype=torch.float64)
    found = zoo.StudentT(df, torch.zeros(2).double(), torch.ones(2).double()).icdf(at)
    truth = [-1 / np.tan(np.pi * u), (2 * u - 1) / np.sqrt(2 * u * (1 - u))]
    assert found.tolist() == pytest.approx(truth, rel=1e-12)


@pytest.mark.parametrize(("df", "u"), [(0.05, 1e-12), (0.3, 1e-50), (3.0, 1e-200), (10.0, 1e-300)])
def test_far_out_students_quantile_is_that_of_the_power_law_of_its_tail(df, u):
    """F(x) = G((v + 1)/2) v^((v - 1)/2) / (sqrt(v pi) G(v/2)) |x|^-v, all else below rounding."""
    constant = math.lgamma((df + 1) / 2) - math.lgamma(df / 2) - math.log(df * math.pi) / 2
    truth = -math.exp((constant + (df - 1) / 2 * math.log(df) - math.log(u)) / df)
    law = zoo.StudentT(torch.tensor(df, dtype=torch.float64))
    assert float(law.icdf(torch.tensor(u, dtype=torch.float64))) == pytest.approx(truth, rel=1e-10)

"""Gammas and what is made of them, bounded laws, and the sphere: limits that the laws miss."""

import math

import mpmath
import numpy as np
import pytest
import scipy.special as sc
import scipy.stats
import torch

from aevb.distributions import (
    Beta,
    Dirichlet,
    Erlang,
    FisherSnedecor,
    Gamma,
    HalfCauchy,
    HypersphericalUniform,
    Kumaraswamy,
    LogitNormal,
    Reciprocal,
    TruncatedNormal,
    Uniform,
    VonMisesFisher,
    ZeroInflatedNegativeBinomial,
)
from aevb.distributions.expectations import LOG_MOMENTS, MEAN_LOG_REST
from aevb.distributions.special import gamma_cdf, gamma_quantile, log_gamma_quantile

DOUBLE = torch.float64
SHAPES = [1e-6, 1e-3, 0.1, 0.5, 0.9, 1.0, 1.5, 3.0, 9.9, 20.0, 63.0, 200.0, 1e4, 1e6]
NOISE = np.concatenate([np.geomspace(1e-8, 0.5, 40), 1 - np.geomspace(1e-7, 0.5, 40)])


def double(value):
    return torch.as_tensor(value, dtype=DOUBLE)


@pytest.mark.parametrize("shape", SHAPES)
def test_gamma_quantiles_equal_scipy(shape):
    """Within 1e-12, in logarithms, which go on by the leading term where scipy's are 0.

    Scipy's own is off by 2e-9 at a shape of a million: quadrature with 40 digits says so.
    """
    with np.errstate(divide="ignore"):
        expected = np.log(scipy.stats.gamma(shape).ppf(NOISE))
    leading = (np.log(NOISE) + sc.gammaln(1 + shape)) / shape
    expected = np.where(expected < -700, leading, expected)
    found = log_gamma_quantile(double(shape), double(NOISE)).numpy()
    # The rounding of u, or of 1 - u, alone moves the quantile of a small shape by this.
    lost = 4e-16 / shape if shape < 1e6 else 3e-9
    assert np.allclose(found, expected, rtol=1e-12, atol=1e-12 + lost)


@pytest.mark.parametrize("shape", SHAPES)
def test_gamma_quantiles_of_single_precision_keep_its_digits(shape):
    """Draw and gradient within 1e-7 of those in double precision, before they are rounded."""
    noise = torch.as_tensor(NOISE, dtype=torch.float32)
    noise = noise.clamp(max=1 - 2**-24)
    wide = double(shape).float().double().expand(len(noise)).clone().requires_grad_()
    narrow = wide.detach().float().requires_grad_()
    expected = log_gamma_quantile(wide, noise.double())
    found = log_gamma_quantile(narrow, noise)
    assert torch.allclose(found, expected, rtol=1e-7, atol=1e-7)
    (slope,) = torch.autograd.grad(expected.sum(), wide)
    (by_single,) = torch.autograd.grad(found.sum(), narrow)
    assert torch.allclose(by_single.double(), slope, rtol=2e-7)


@pytest.mark.parametrize("shape", [1e-3, 0.3, 1.0, 2.5, 30.0, 1e3, 1e6])
def test_the_gradient_in_the_concentration_is_that_of_a_difference(shape):
    u = torch.linspace(0.01, 0.99, 15, dtype=DOUBLE)
    a = torch.full((15,), shape, dtype=DOUBLE, requires_grad=True)
    (found,) = torch.autograd.grad(log_gamma_quantile(a, u).sum(), a)
    h = 1e-4 * shape
    up, down = (log_gamma_quantile(a.detach() + s * h, u, tails=True) for s in (1, -1))
    assert torch.allclose(found, (up - down) / (2 * h), rtol=1e-5, atol=1e-13)


def test_the_ends_of_the_unit_interval_and_beyond():
    z = gamma_quantile(double(2.0), double([0.0, 1.0, -0.1, 1.1]))
    tiny = torch.finfo(DOUBLE).tiny
    assert z[:2].tolist() == [tiny, math.inf]
    assert z[2:].isnan().all()
    assert gamma_cdf(double(2.0), double([0.0, math.inf])).tolist() == [0.0, 1.0]


def test_a_batch_larger_than_a_chunk_is_the_same_as_its_parts():
    u = torch.linspace(0.001, 0.999, 2 * 1500, dtype=DOUBLE).reshape(2, 1500)
    a = torch.linspace(0.1, 30, 1500, dtype=DOUBLE)
    whole = log_gamma_quantile(a, u)
    assert torch.equal(whole[1, 700:900], log_gamma_quantile(a[700:900], u[1, 700:900]))
    assert log_gamma_quantile(a[:0], u[:, :0]).shape == (2, 0)


@pytest.mark.parametrize("family", ["beta", "dirichlet"])
def test_shares_of_gammas_that_all_underflow(family):
    """At a concentration of 1e-4 every gamma is 0 in single precision, its share is not NaN."""
    a = torch.full((500, 2), 1e-4, requires_grad=True)
    e = torch.rand(500, 2, generator=torch.Generator().manual_seed(0)).clamp(min=1e-6)
    z = Beta(*a.unbind(-1)).transform(e) if family == "beta" else Dirichlet(a).transform(e)
    assert ((z > 0) & (z <= 1)).all()
    (slope,) = torch.autograd.grad(z.sum(), a)
    assert slope.isfinite().all()
    assert torch.equal(z.reshape(500, -1)[:, 0] > 0.5, e[:, 0] > e[:, 1])


@pytest.mark.parametrize("u", [1e-307, 1e-295, 1e-250, 1e-201, 1e-199])
def test_the_smallest_quantiles_of_beta_against_forty_digits(u):
    q = float(Beta(double(40.0), double(25.0)).icdf(double(u)))
    with mpmath.workdps(40):
        back = mpmath.betainc(40, 25, 0, mpmath.mpf(q), regularized=True)
    assert abs(float(back / mpmath.mpf(u)) - 1) < 1e-12


@pytest.mark.parametrize(
    ("a", "b", "mode"),
    [(1, 1, 0.5), (1, 3, 0), (3, 1, 1), (0.5, 0.7, 0), (0.7, 0.5, 1), (1, 0.5, 1), (4, 2, 0.75)],
)
def test_beta_at_its_ends_and_its_mode(a, b, mode):
    law, known = Beta(double(float(a)), double(float(b))), scipy.stats.beta(a, b)
    for end in (0.0, 1.0):
        found = float(law.log_prob(double(end)))
        assert found == pytest.approx(known.logpdf(end), rel=1e-12)
    assert float(law.mode) == pytest.approx(mode)


def test_erlang_takes_tensor_shapes_in_a_traced_function():
    shape, noise = torch.tensor([1.0, 3.0]), torch.full((4, 2, 3), 0.3)

    def draw(rate):
        return Erlang(shape, rate, validate_args=False).transform(noise).sum()

    slope = torch.func.grad(draw)(torch.tensor(2.0))
    assert torch.allclose(slope, 4 * 4 * torch.tensor(0.3).log() / 4)
    zero = Erlang(shape, 2.0).log_prob(torch.zeros(2)).tolist()
    assert zero == [pytest.approx(math.log(2)), -math.inf]


def test_a_tensor_of_whole_numbers_leaves_the_others_real():
    erlang = Erlang(torch.tensor(3), 2.5)
    assert float(erlang.mean) == pytest.approx(1.2)
    counts = ZeroInflatedNegativeBinomial(torch.tensor(2), 0.7, 0.3)
    assert float(counts.mean) == pytest.approx(0.7 * 2 * math.exp(0.7), rel=1e-6)
    wide = ZeroInflatedNegativeBinomial(torch.tensor(2), double(0.7), 0.3)
    assert wide.total_count.dtype == torch.float64
    assert float(wide.gate) == 0.3


def single(*values):
    return [torch.tensor(v) for v in values]


@pytest.mark.parametrize("df", [1e2, 1e4, 1e6])
def test_the_entropy_of_a_narrow_ratio_keeps_its_digits_in_single_precision(df):
    found = float(FisherSnedecor(*single(df, df)).entropy())
    assert found == pytest.approx(scipy.stats.f(df, df).entropy(), rel=1e-5)


@pytest.mark.parametrize(("a", "b"), [(2000.0, 3.0), (200.0, 3.0), (2.0, 3.0)])
def test_the_variance_of_a_narrow_kumaraswamy_law_keeps_its_digits_in_single_precision(a, b):
    first, second = (mpmath.mpf(b) * mpmath.beta(1 + k / mpmath.mpf(a), b) for k in (1, 2))
    law = Kumaraswamy(*single(a, b))
    assert float(law.variance) == pytest.approx(float(second - first**2), rel=1e-5)
    assert float(law.stddev) == pytest.approx(float(mpmath.sqrt(second - first**2)), rel=1e-5)


@pytest.mark.parametrize(
    ("low", "high"), [(1e-30, 1e10), (1e-5, 1e5), (1.0, 2.0), (1.0, 2.75), (1.0, 1.001)]
)
def test_the_variance_of_a_wide_reciprocal_law_is_finite_in_single_precision(low, high):
    law = Reciprocal(*single(low, high))
    low, high = mpmath.mpf(float(law.low)), mpmath.mpf(float(law.high))
    width = mpmath.log(high / low)
    truth = (high**2 - low**2) / (2 * width) - ((high - low) / width) ** 2
    assert float(law.variance) == pytest.approx(float(truth), rel=1e-4)


@pytest.mark.parametrize(("low", "high"), [(100.0, 100.01), (1000.0, 1001.0), (0.0, 2.0)])
def test_the_mean_logarithm_under_a_narrow_uniform_law_keeps_its_digits(low, high):
    q = Uniform(*single(low, high))
    low, high = (mpmath.mpf(float(v)) for v in (q.low, q.high))
    ends = (high * mpmath.log(high) - (low * mpmath.log(low) if low else 0)) / (high - low) - 1
    mean, _ = LOG_MOMENTS[torch.distributions.Uniform](q)
    assert float(mean) == pytest.approx(float(ends), rel=1e-6)
    law = Uniform(*single(0.5, 0.5001))
    low, high = (1 - mpmath.mpf(float(v)) for v in (law.high, law.low))
    ends = (high * mpmath.log(high) - low * mpmath.log(low)) / (high - low) - 1
    rest = MEAN_LOG_REST[torch.distributions.Uniform](law)
    assert float(rest) == pytest.approx(float(ends), rel=1e-6)


def test_around_one_half_the_logit_keeps_its_digits_in_single_precision():
    x = torch.from_numpy(np.random.default_rng(0).uniform(0.4993, 0.5007, 999)).float()
    z, scale = x.double().numpy(), float(torch.tensor(1e-3))
    found = Beta(*single(1e6, 1e6)).cdf(x).numpy()
    assert np.abs(found - scipy.stats.beta(1e6, 1e6).cdf(z)).max() < 1e-6
    truth = scipy.stats.norm(0, scale).logpdf(sc.logit(z)) - np.log(z) - np.log1p(-z)
    assert np.abs(LogitNormal(*single(0.0, 1e-3)).log_prob(x).numpy() - truth).max() < 1e-5


def test_a_half_cauchy_law_has_no_density_below_zero():
    law = HalfCauchy(torch.tensor(1.0), validate_args=False)
    assert law.log_prob(torch.tensor([-1.0, 0.0])).exp().tolist() == [0, pytest.approx(2 / math.pi)]


BOUNDS = [(-1.0, 1.0), (30.0, 30.01), (100.0, 101.0), (-40.0, -38.0), (0.1, 0.2), (-40.0, 3.0)]


@pytest.mark.parametrize(("low", "high"), BOUNDS)
def test_the_truncated_gaussian_against_forty_digits(low, high):
    d = TruncatedNormal(double(0.0), double(1.0), double(low), double(high))
    mirror = TruncatedNormal(double(0.0), double(1.0), double(-high), double(-low))
    for u in (1e-9, 0.2, 0.9):
        z = d.icdf(double(u))
        assert torch.allclose(mirror.icdf(double(1 - u)), -z, rtol=1e-12, atol=1e-7 * (high - low))
        with mpmath.workdps(40):
            side = -1 if low > 0 else 1  # that of the smaller tail
            ends = (mpmath.ncdf(side * mpmath.mpf(float(x))) for x in (low, z, high))
            first, at, last = ends
            mass, part = abs(last - first), abs(at - first)
            log_p = -(mpmath.mpf(float(z)) ** 2) / 2 - mpmath.log(2 * mpmath.pi) / 2
            log_p, p = float(log_p - mpmath.log(mass)), float(part / mass)
        assert d.log_prob(z).item() == pytest.approx(log_p, rel=1e-12, abs=1e-12)
        assert d.cdf(z).item() == pytest.approx(p, rel=1e-12)
        assert p == pytest.approx(u, abs=1e-12 + 1e-15 * math.exp(log_p) * abs(float(z)))


def test_a_truncation_a_trillion_deviations_out_is_an_exponential():
    d = TruncatedNormal(double(-1e6), double(1e-6), double(-1.0), double(1.0))
    rate = 999_999.0 / 1e-12
    z = d.icdf(double([1e-9, 0.5, 1 - 1e-9]))
    assert torch.allclose(z, double(-1.0))
    assert torch.allclose(d.log_prob(double(-1.0)), double(rate).log())
    assert torch.allclose(d.entropy(), 1 - double(rate).log())
    assert torch.allclose(d.variance, double(rate) ** -2)


def test_a_bound_that_is_not_below_the_other_is_refused():
    with pytest.raises(ValueError, match="low < high"):
        TruncatedNormal(0.0, 1.0, 2.0, 2.0)


def test_logit_normal_refuses_moments_and_keeps_draws_inside():
    d = LogitNormal(torch.tensor(0.0), 1e6)
    with pytest.raises(NotImplementedError):
        d.mean  # noqa: B018
    z = d.transform(torch.tensor([-3.0, 3.0]))
    assert ((z > 0) & (z < 1)).all()
    assert d.log_prob(z).isfinite().all()


@pytest.mark.parametrize("k", [1e-3, 1.0, 20.0, 500.0])
def test_von_mises_fisher_in_space_has_a_closed_form(k):
    """D = 3: the cosine w has F(w) = (e^(k w) - e^-k) / (e^k - e^-k), C = 4 pi sinh(k) / k."""
    d = VonMisesFisher(double([0.0, 0.0, 1.0]), double(k))
    u = torch.linspace(0.01, 0.99, 9, dtype=DOUBLE)
    noise = torch.cat([torch.ones(9, 2, dtype=DOUBLE), u.unsqueeze(-1)], -1)
    w = d.transform(noise)[:, 2]
    expected = 1 + torch.log(u + (1 - u) * math.exp(-2 * k)) / k
    assert torch.allclose(w, expected, rtol=1e-11, atol=1e-11)
    log_c = math.log(2 * math.pi / k) + k + math.log(-math.expm1(-2 * k))
    at = double([0.6, 0.0, 0.8])
    assert d.log_prob(at).item() == pytest.approx(0.8 * k - log_c, rel=1e-11)
    mean = 1 / math.tanh(k) - 1 / k
    assert d.mean[2].item() == pytest.approx(mean, rel=1e-9)


@pytest.mark.parametrize("k", [0.1, 2.0, 40.0])
def test_the_divergence_from_the_uniform_law_equals_quadrature(k):
    q = VonMisesFisher(double([1.0, 0.0]), double(k))
    p = HypersphericalUniform(2, dtype=DOUBLE)
    angle = torch.arange(4000, dtype=DOUBLE) * (2 * math.pi / 4000)
    z = torch.stack([angle.cos(), angle.sin()], -1)
    log_q = q.log_prob(z)
    expected = (log_q.exp() * (log_q - p.log_prob(z))).mean() * 2 * math.pi
    found = torch.distributions.kl_divergence(q, p)
    assert torch.allclose(found, expected, rtol=1e-9, atol=1e-12)


def test_a_direction_moves_with_its_noise_as_finite_differences_say():
    law = VonMisesFisher(double([0.6, 0.0, 0.8]), double(3.0), validate_args=False)
    noise = law.noise((5,), np.random.default_rng(0)).requires_grad_()
    assert torch.autograd.gradcheck(law.transform, (noise,), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("loc", [[1.0], [1.0, 1.0]])
def test_a_direction_that_is_none_is_refused(loc):
    with pytest.raises(ValueError, match="loc"):
        VonMisesFisher(torch.tensor(loc), 1.0)


def test_gamma_draws_do_not_underflow_to_zero():
    z = Gamma(torch.tensor(1e-6), torch.tensor(1e6)).transform(torch.tensor([1e-6, 0.5]))
    assert (z == torch.finfo(torch.float32).tiny).all()

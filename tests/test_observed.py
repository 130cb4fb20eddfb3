"""What the table of distributions does not reach: special values, errors, implicit gradients."""

import math

import mpmath
import numpy as np
import pytest
import scipy.stats
import torch
from torch import distributions as td
from torch.distributions import Independent

from aevb.distributions import (
    Bernoulli,
    BernoulliStraightThrough,
    BernoulliVector,
    Categorical,
    ContinuousBernoulli,
    DiscretizedLogistic,
    Masked,
    Mixture,
    NegativeBinomial,
    Normal,
    OneHotCategoricalStraightThrough,
    Ordinal,
    Poisson,
    Product,
    RelaxedBernoulli,
    RelaxedOneHotCategorical,
    Uniform,
    ZeroInflatedNegativeBinomial,
    reparameterize,
)
from aevb.distributions.reparameterization import drawn
from aevb.errors import UsageError
from aevb.randomness import Stream, generator


def double(*values):
    return torch.tensor(values if len(values) > 1 else values[0], dtype=torch.float64)


def noise_of(law, n, seed=0):
    return law.noise((n,), generator(seed, Stream.NOISE))


# -- likelihoods ----------------------------------------------------------------------------------

LOGITS = [0.0, 1e-9, -1e-3, 0.0199, -0.0201, 0.499, 0.501, -5.0, 5.0, 79.0, 81.0, -300.0, 1e4]


@pytest.mark.parametrize("width", [1, 13, 64])
@pytest.mark.parametrize("by", ["autograd", "func", "evaluation"])
@mpmath.workdps(50)
def test_a_vector_of_coins_is_exact_at_every_logit_and_so_is_its_gradient(width, by):
    source = generator(0, Stream.SIMULATION)
    logits = torch.from_numpy(source.choice(LOGITS, (3, 2, width)))
    x = torch.from_numpy(source.integers(0, 2, (2, width)).astype(float))

    def total(logits):
        value = BernoulliVector(td.Bernoulli(logits=logits, validate_args=False), 1).log_prob(x)
        return value.sum(), value

    signs = (2 * x - 1).expand_as(logits)
    cells = [
        [-mpmath.log1p(mpmath.exp(-s * eta)), s / (1 + mpmath.exp(s * eta))]
        for s, eta in zip(signs.flatten().tolist(), logits.flatten().tolist(), strict=True)
    ]
    exact, slope = (double(*(float(c[k]) for c in cells)).view_as(logits) for k in (0, 1))
    if by == "evaluation":
        with torch.no_grad():
            value = total(logits)[1]
    elif by == "func":
        gradient, (_, value) = torch.func.grad_and_value(total, has_aux=True)(logits)
    else:
        leaf = logits.clone().requires_grad_()
        summed, value = total(leaf)
        (gradient,) = torch.autograd.grad(summed, [leaf])
    np.testing.assert_allclose(value.detach(), exact.sum(-1), rtol=1e-12, atol=1e-13)
    if by != "evaluation":
        np.testing.assert_allclose(gradient, slope, rtol=1e-12, atol=1e-15)


def test_a_vector_of_coins_takes_coins_alone():
    law = BernoulliVector(td.Bernoulli(logits=torch.zeros(3), validate_args=True), 1)
    for grad in (True, False):
        with torch.set_grad_enabled(grad), pytest.raises(ValueError, match="support"):
            law.log_prob(torch.tensor([0.0, 0.5, 1.0]))


@pytest.mark.parametrize("logit", LOGITS)
@mpmath.workdps(120)
def test_continuous_bernoulli_is_exact_at_every_logit(logit):
    eta = mpmath.mpf(logit) + mpmath.mpf(10) ** -25  # as good as 0, without a case for it
    law = ContinuousBernoulli(logits=double(logit))
    mean = 1 / (1 - mpmath.exp(-eta)) - 1 / eta
    variance = 1 / eta**2 - mpmath.exp(-abs(eta)) / mpmath.expm1(-abs(eta)) ** 2
    entropy = mpmath.log(mpmath.expm1(eta) / eta) - eta * mean
    assert float(law.mean) == pytest.approx(float(mean), rel=1e-13)
    assert float(law.variance) == pytest.approx(float(variance), rel=1e-12)
    assert float(law.entropy()) == pytest.approx(float(entropy), rel=1e-12, abs=1e-40)
    for u in (1e-300, 1e-5, 0.5, 1 - 2**-53):
        x = mpmath.log1p(mpmath.mpf(u) * mpmath.expm1(eta)) / eta
        assert float(law.icdf(double(u))) == pytest.approx(float(x), rel=1e-12)
        x = mpmath.mpf(float(x))
        below = mpmath.expm1(eta * x) / mpmath.expm1(eta)
        assert float(law.cdf(double(float(x)))) == pytest.approx(float(below), rel=1e-11)


@pytest.mark.parametrize("r", [1e-6, 49.9, 50.1, 1e3, 1e8])
@mpmath.workdps(60)
def test_negative_binomial_keeps_its_digits_on_the_way_to_a_poisson(r):
    mean = 3.0
    law = NegativeBinomial(double(r), logits=double(math.log(mean / r)))
    odds = mpmath.exp(mpmath.mpf(float(law.logits)))
    for x in (0, 1, 7, 40):
        rising = mpmath.loggamma(r + x) - mpmath.loggamma(r) - mpmath.loggamma(x + 1)
        expected = rising + x * mpmath.log(odds / (1 + odds)) - r * mpmath.log1p(odds)
        assert float(law.log_prob(double(float(x)))) == pytest.approx(float(expected), rel=1e-10)


def test_a_count_of_no_failures_is_always_zero():
    law = NegativeBinomial(double(0.0), logits=double(1.0))
    assert law.log_prob(double(0.0, 3.0)).exp().tolist() == pytest.approx([1.0, 0.0], abs=1e-300)


def test_without_a_gate_nothing_is_inflated_and_the_gate_has_a_derivative():
    gate = double(0.0).requires_grad_()
    law = ZeroInflatedNegativeBinomial(2.0, double(0.5), gate)
    counts = NegativeBinomial(double(2.0), logits=double(0.5))
    x = torch.arange(5.0, dtype=torch.float64)
    assert torch.equal(law.log_prob(x), counts.log_prob(x))
    (slope,) = torch.autograd.grad(law.log_prob(double(0.0)), gate)
    zero = counts.log_prob(double(0.0)).exp()
    assert torch.allclose(slope, (1 - zero) / zero)


def test_levels_of_an_image_in_single_precision_are_levels():
    pixels = torch.arange(256) / 255
    law = DiscretizedLogistic(torch.tensor(0.3), 0.02, 0.0, 1.0, 256)
    assert torch.equal(law.enumerate_support(), pixels)
    assert float(law.log_prob(pixels).exp().sum()) == pytest.approx(1, abs=1e-5)
    assert torch.allclose(law.cdf(pixels), law.log_prob(pixels).exp().cumsum(0), atol=1e-5)
    assert torch.isin(law.sample((1000,)), pixels).all()
    for wrong in (0.5 / 255, -1 / 255, 256 / 255):
        with pytest.raises(ValueError, match="within the support"):
            law.log_prob(torch.tensor(wrong))


@pytest.mark.parametrize(("loc", "scale"), [(0.5, 1e-3), (-4.0, 0.01), (3.0, 1e3), (0.502, 1e-4)])
@mpmath.workdps(2500)
def test_mass_of_a_level_is_exact_in_the_tails(loc, scale):
    law = DiscretizedLogistic(double(loc), scale, 0.0, 1.0, 101)

    def below(level):
        if not 0 <= level < 100:
            return mpmath.mpf(level >= 0)
        return 1 / (1 + mpmath.exp(-((mpmath.mpf(level) + 0.5) / 100 - loc) / scale))

    for level in (0, 1, 50, 99, 100):
        expected = mpmath.log(below(level) - below(level - 1))
        found = float(law.log_prob(double(level / 100)))
        assert found == pytest.approx(float(expected), rel=1e-10, abs=1e-300)


def test_arguments_outside_their_domain_are_refused():
    with pytest.raises(ValueError, match="at least 2 bins"):
        DiscretizedLogistic(double(0.0), 1.0, 0.0, 1.0, 1)
    with pytest.raises(ValueError, match="high must lie above low"):
        DiscretizedLogistic(double(0.0), 1.0, 1.0, 1.0, 4)
    with pytest.raises(ValueError, match="cutpoints"):
        Ordinal(double(0.0, 2.0, 1.0), double(0.0))
    with pytest.raises(ValueError, match="gate"):
        ZeroInflatedNegativeBinomial(1.0, double(0.0), 1.0)
    for law in (RelaxedBernoulli, RelaxedOneHotCategorical):
        with pytest.raises(ValueError, match="temperature must be positive"):
            law(0.0, logits=torch.zeros(3))


def test_ordered_classes_broadcast_over_a_batch():
    law = Ordinal(double(-1.0, 0.0, 2.0), torch.zeros(5, 2, dtype=torch.float64))
    assert law.batch_shape == (5, 2)
    x = law.sample((7,))
    assert law.log_prob(x).shape == law.cdf(x).shape == (7, 5, 2)
    assert law.enumerate_support().shape == (4, 5, 2)
    assert torch.allclose(law.cdf(double(2.0)), law.probs[..., :3].sum(-1))
    assert law.mode.unique().tolist() == [2.0]


# -- combinators ----------------------------------------------------------------------------------

PARTS = {
    "normals": lambda a: Normal(a, double(0.5, 1.5)),
    "torch's normals": lambda a: td.Normal(a, double(0.5, 1.5)),
    "inverse functions": lambda a: ContinuousBernoulli(logits=a),
}


@pytest.mark.parametrize("name", PARTS)
def test_mean_of_a_mixture_has_the_derivative_of_its_formula(name):
    n = 20_000
    numbers = [double(0.3, -0.4), double(-1.0, 2.0)]
    each = [v.expand(n, 2).clone().requires_grad_() for v in numbers]
    law = Mixture(Categorical(logits=each[0]), PARTS[name](each[1]))
    (noise,) = noise_of(law, 1)
    found = torch.autograd.grad(law.transform(noise).square().sum(), each)
    one = [v.clone().requires_grad_() for v in numbers]
    exact = Mixture(Categorical(logits=one[0]), PARTS[name](one[1]))
    expected = torch.autograd.grad(exact.variance + exact.mean.square(), one)
    for slopes, truth in zip(found, expected, strict=True):
        assert ((slopes.mean(0) - truth).abs() < 5 * slopes.std(0) / math.sqrt(n)).all()


def test_a_mixture_of_vectors_moves_along_its_distributional_transform():
    """At fixed u = F(z), as Newton's method on u finds z for parameters nearby."""
    loc = double([[-1.0, 0.5, 0.0], [0.7, -0.4, 1.0]])
    toward = double([[0.3, -1.0, 0.2], [0.5, 0.1, -0.7]])
    scale, pi = double([[0.6, 1.0, 2.0], [0.5, 0.8, 0.3]]), double(0.3, 0.7)

    def uniform(z, t):
        x = (z[..., None, :] - loc - t * toward) / scale
        parts = Normal(double(0.0), 1.0).log_prob(x) - scale.log()
        before = torch.cat([torch.zeros_like(x[..., :1]), parts.cumsum(-1)[..., :-1]], -1)
        weights = (pi.log()[:, None] + before).softmax(-2)
        return (weights * torch.special.ndtr(x)).sum(-2)

    def draw(t, noise):
        return Mixture(Categorical(pi), Independent(Normal(loc + t * toward, scale), 1)).transform(
            noise
        )

    (noise,) = noise_of(Mixture(Categorical(pi), Independent(Normal(loc, scale), 1)), 1)
    z, step = draw(0.0, noise), torch.func.jacrev(lambda t: draw(t, noise))(double(0.0))
    ahead, h = z + 1e-4 * step, 1e-4
    for _ in range(20):
        slope = torch.func.jacrev(lambda v: uniform(v, h))(ahead)
        ahead = ahead - torch.linalg.solve(slope, uniform(ahead, h) - uniform(z, 0.0))
    assert torch.allclose(uniform(ahead, h), uniform(z, 0.0), atol=1e-14)
    assert torch.allclose((ahead - z) / h, step, rtol=1e-3, atol=1e-3)


def test_a_plane_of_normals_is_a_density():
    law = Mixture(
        Categorical(double(0.3, 0.7)),
        Independent(
            Normal(double([[-1.0, 0.5], [0.7, -0.4]]), double([[0.6, 1.0], [0.5, 0.8]])), 1
        ),
    )
    side = torch.linspace(-8, 8, 401, dtype=torch.float64)
    points = torch.cartesian_prod(side, side)
    mass = law.log_prob(points).exp() * 0.04**2
    assert float(mass.sum()) == pytest.approx(1, abs=1e-9)
    assert torch.allclose((mass[:, None] * points).sum(0), law.mean, atol=1e-9)


def test_torchs_mixture_takes_our_route_and_others_say_that_they_have_none():
    theirs = td.MixtureSameFamily(td.Categorical(torch.ones(2)), td.Normal(torch.zeros(2), 1.0))
    assert reparameterize(theirs, torch.tensor([[0.25, 0.5]])).tolist() == [0.25]
    counts = Mixture(Categorical(torch.ones(2)), Poisson(torch.tensor([1.0, 50.0])))
    assert not counts.has_rsample
    assert counts.sample((3,)).shape == (3,)
    with pytest.raises(UsageError, match="mixture of Poisson is known"):
        counts.rsample()
    draws = drawn(counts, (5000,), generator(0, Stream.SAMPLING), torch.zeros(()))
    assert float(draws.mean()) == pytest.approx(25.5, abs=5 * 25.1 / 5000**0.5)


MOVING = {
    "uniform": (
        lambda at: Uniform(at, at + 1.0),
        lambda at: scipy.stats.uniform(at, 1.0),
        lambda at: math.log(at + 1) * (at + 1) - math.log(at) * at - 1,
    ),
    "torch's pareto": (
        lambda at: td.Pareto(at, double(2.0)),
        lambda at: scipy.stats.pareto(2.0, scale=at),
        lambda at: math.log(at) + 0.5,
    ),
}
"""Laws that begin at a number, the truth of scipy, and E log z."""


@pytest.mark.parametrize("name", MOVING)
def test_a_mixture_of_laws_that_begin_elsewhere(name):
    """A value in one of them alone has a density; draws move with where each begins."""
    make, known, mean_log = MOVING[name]
    start, n = [1.5, 3.0], 20_000
    at = torch.tensor(start, dtype=torch.float64).expand(n, 2).clone().requires_grad_()
    law = Mixture(Categorical(torch.ones(2).expand(n, 2)), make(at))
    (noise,) = noise_of(law, 1)
    z = law.transform(noise)
    (slopes,) = torch.autograd.grad(z.log().sum(), at)
    h = 1e-6
    truth = double([(mean_log(a + h) - mean_log(a - h)) / (4 * h) for a in start])
    assert ((slopes.mean(0) - truth).abs() < 5 * slopes.std(0) / math.sqrt(n) + 1e-6).all()
    one = Mixture(Categorical(double(0.5, 0.5)), make(at[0].detach()))
    both = [known(a) for a in start]
    for x in (1.75, 2.4, 3.2):
        density, below = (sum(getattr(k, f)(x) for k in both) / 2 for f in ("pdf", "cdf"))
        assert float(one.cdf(double(x))) == pytest.approx(below, rel=1e-12)
        if density > 0:
            assert float(one.log_prob(double(x)).exp()) == pytest.approx(density, rel=1e-12)
    with pytest.raises(ValueError, match="within the support"):
        one.log_prob(double(0.5))
    assert one.sample((3,)).shape == (3,)


def test_the_lower_tail_of_a_mixture_of_torchs_normals_has_digits():
    law = Mixture(Categorical(double(0.25, 0.75)), td.Normal(double(0.0, 1.0), double(1.0, 1.0)))
    expected = 0.25 * scipy.stats.norm.cdf(-30) + 0.75 * scipy.stats.norm.cdf(-31)
    assert float(law.cdf(double(-30.0))) == pytest.approx(expected, rel=1e-12)


def test_a_product_under_another_batch_has_the_same_cells():
    law = Product([Normal(torch.zeros(2), 2.0), Bernoulli(torch.tensor([0.25]))], [[0, 2], [1]])
    wide = law.expand((4, 3))
    x = wide.sample((5,)).float()
    assert x.shape == (5, 4, 3)
    assert torch.allclose(wide.log_prob(x), law.log_prob(x))
    assert law.variance.tolist() == [4.0, 0.1875, 4.0]
    hidden = torch.where(torch.tensor([True, False, False]), x, torch.nan)
    assert torch.allclose(Masked(wide, 1).log_prob(hidden), law.log_prob(x)[..., 0])


# -- discrete latents -----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("temperature", [0.01, 0.5, 1e6])
def test_relaxed_draws_lie_inside_with_a_finite_density(temperature, dtype):
    logits = torch.tensor([5.0, -5.0, 0.0], dtype=dtype)
    for kind in (RelaxedBernoulli, RelaxedOneHotCategorical):
        law = kind(temperature, logits=logits)
        z = law.transform(noise_of(law, 1000))
        assert ((z > 0) & (z < 1)).all()
        assert torch.isfinite(law.log_prob(z)).all()
        corners = torch.eye(3, dtype=dtype)
        assert torch.isfinite(law.log_prob(corners)).all()


def test_relaxed_densities_equal_torchs_where_those_are_good():
    rng = np.random.default_rng(0)
    logits, t = torch.from_numpy(rng.standard_normal((4, 3))), double(0.7)
    z = torch.from_numpy(rng.dirichlet(np.ones(3), 4))
    for ours, theirs in (
        (RelaxedBernoulli, td.RelaxedBernoulli),
        (RelaxedOneHotCategorical, td.RelaxedOneHotCategorical),
    ):
        expected = theirs(t, logits=logits).log_prob(z)
        assert torch.allclose(ours(t, logits=logits).log_prob(z), expected, rtol=1e-12)
        assert issubclass(ours, theirs)
    each = RelaxedOneHotCategorical(t.expand(4), logits=logits)
    assert torch.allclose(each.log_prob(z), RelaxedOneHotCategorical(t, logits=logits).log_prob(z))
    temperatures = double(0.5, 2.0)
    assert RelaxedBernoulli(temperatures, logits=0.0).sample((3,)).shape == (3, 2)
    assert RelaxedBernoulli(temperatures, probs=double([[0.5], [0.2]])).batch_shape == (2, 2)
    law = RelaxedOneHotCategorical(temperatures, logits=double(0.0, 1.0, 2.0))
    assert law.log_prob(law.sample((3,))).shape == (3, 2)
    assert law.expand((4, 2)).log_prob(law.sample()).shape == (4, 2)
    assert reparameterize(td.RelaxedBernoulli(t, logits=double(0.0)), double(0.5)) == 0.5


def test_straight_through_draws_are_hard_and_pass_on_the_gradient_of_the_probabilities():
    logits = double(0.5, -1.0, 0.0).requires_grad_()
    weight = double(1.0, 2.0, -3.0)
    law = OneHotCategoricalStraightThrough(logits=logits)
    z = law.transform(noise_of(law, 20_000))
    assert ((z == 0) | (z == 1)).all()
    assert (z.sum(-1) == 1).all()
    assert (z.mean(0) - law.probs).abs().max() < 0.02
    (found,) = torch.autograd.grad((z * weight).sum(-1).mean(), logits)
    (expected,) = torch.autograd.grad((logits.softmax(-1) * weight).sum(), logits)
    assert torch.allclose(found, expected)
    coin = BernoulliStraightThrough(logits=logits)
    z = coin.transform(noise_of(coin, 20_000))
    assert ((z == 0) | (z == 1)).all()
    (found,) = torch.autograd.grad(z.mean(0).sum(), logits)
    (expected,) = torch.autograd.grad(logits.sigmoid().sum(), logits)
    assert torch.allclose(found, expected)

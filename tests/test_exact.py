"""log p(x) itself: closed form, enumeration and quadrature against scipy, numpy and brute force."""

import importlib
import itertools
import math

import numpy as np
import pytest
import torch
from helpers import binary_rows, perceptron, quadrature, small_pair, weights
from scipy.integrate import quad
from scipy.special import expit, logsumexp
from scipy.stats import multivariate_normal, norm
from torch import nn
from torch.distributions import Bernoulli, Distribution, Independent

import aevb
from aevb import distributions as zoo
from aevb import enumeration
from aevb.conditional import Conditional, Unconditional
from aevb.data import Rows
from aevb.enumeration import enumerate_codes
from aevb.errors import DataError, UsageError
from aevb.evaluation import evidence, exact, lattice
from aevb.families import Elementwise, Normal
from aevb.linear_gaussian import linear_gaussian

room = importlib.import_module("aevb.evaluation.exact")  # its function has the same name


def real_rows(values):
    values = np.asarray(values, np.float32)
    return Rows(values, np.arange(len(values)), values.shape[1:])


def nowhere(width, latent):
    """An encoder that says nothing of where to look."""
    posterior = aevb.mean_field(aevb.MLP(width, [], 2 * latent)).double()
    for p in posterior.parameters():
        nn.init.zeros_(p)
    return posterior


class Function(nn.Module):
    """A decoder that is any function of z; a parameter tells its dtype."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.anchor = nn.Parameter(torch.zeros(()))

    def forward(self, z):
        return self.function(z)


def around(function, deviation, latent=1):
    """N(x; function(z), deviation^2) with z from N(0, I)."""
    family = Normal(noise_shape=()).double()
    nn.init.constant_(family.log_variance, 2 * math.log(deviation))
    return aevb.Model(
        aevb.standard_normal(latent), Conditional(Function(function), family)
    ).double()


# --- closed form ---------------------------------------------------------------------------------


def linear(latent, deviation, seed=0, width=4):
    source = np.random.default_rng([seed, latent])
    weight, offset = source.normal(size=(width, latent)), source.normal(size=width)
    model = linear_gaussian(weight, offset, deviation**2)
    z = source.normal(size=(5, latent))
    x = z @ weight.T + offset + deviation * source.normal(size=(5, width))
    law = multivariate_normal(offset, weight @ weight.T + deviation**2 * np.eye(width))
    rows = real_rows(x)
    return model, rows, law.logpdf(rows.all().double().numpy())


def test_a_linear_gaussian_model_is_known_in_closed_form():
    model, rows, truth = linear(3, 0.3)
    plain = aevb.Model(model.prior, model.likelihood)  # it need not say so itself
    found = exact(plain, nowhere(4, 3), rows)
    assert found.details["by"] == "closed form"
    assert np.allclose(found.values, truth, atol=1e-10)
    assert found.method == found.direction == "exact"
    assert not found.errors.any()


# --- quadrature ----------------------------------------------------------------------------------


@pytest.mark.parametrize("deviation", [1.0, 0.1, 0.01])
@pytest.mark.parametrize("latent", [1, 2, 3])
def test_quadrature_is_the_closed_form_where_there_is_one(monkeypatch, latent, deviation):
    model, rows, truth = linear(latent, deviation)
    monkeypatch.setattr(room, "as_linear_gaussian", lambda model: None)
    rows, truth = (rows, truth) if latent < 3 else (rows.pick(np.arange(2)), truth[:2])
    for posterior in [nowhere(4, latent), model.exact_encoder()][: 4 - latent]:
        found = exact(model, posterior, rows)
        assert found.details["by"] == "quadrature"
        assert (found.errors <= 1.01e-3).all()
        assert (np.abs(found.values - truth) <= found.errors).all()


@pytest.mark.parametrize("spread", [1.0, 4.0])
def test_two_dimensions_of_a_bernoulli_model(spread):
    model, posterior = small_pair(spread=spread)
    rows = binary_rows(6)
    truth = quadrature(model, rows.all().double().numpy(), side=1000)
    for tolerance in (1e-2, 1e-3):
        found = exact(model, posterior, rows, tolerance=tolerance)
        assert (found.errors <= 1.01 * tolerance).all()
        assert (np.abs(found.values - truth) <= found.errors + 1e-9).all()


@pytest.mark.parametrize("deviation", [1.0, 0.1, 0.01, 0.001])
def test_two_modes_are_found_without_being_told(deviation):
    model = around(torch.square, deviation)
    x = np.float32([-1.0, 0.0, 0.3, 2.0, 8.0, 30.0])
    found = exact(model, nowhere(1, 1), real_rows(x[:, None]), tolerance=1e-5)
    expected = []
    for value in x.astype(float):
        top = math.sqrt(max(value, 0.0))
        width = deviation / max(2 * top, math.sqrt(deviation))

        def log_joint(z, value=value):
            return -0.5 * ((value - z * z) / deviation) ** 2 - 0.5 * z * z

        best = max(log_joint(z) for z in np.linspace(top - 3 * width, top + 3 * width, 999))
        near = sorted(top + np.arange(-40, 41, 5) * width)
        ends = [z for z in near if z > 0]
        total = sum(
            quad(lambda z, best=best: math.exp(log_joint(z) - best), a, b, epsabs=1e-12)[0]
            for a, b in itertools.pairwise([0.0, *ends])
        )
        expected.append(math.log(2 * total / (2 * math.pi * deviation)) + best)
    assert (np.abs(found.values - expected) <= found.errors + 1e-8).all()
    assert (found.errors < 1.1e-5).all()


def test_kinks_are_paid_for_with_points_and_not_with_a_wrong_error():
    def kinked(z):
        return 3 * torch.relu(z - 0.31) - 5 * torch.relu(-0.77 - z) + (z > 1.234) * (z - 1.234) * 40

    model = around(kinked, 0.2)
    x = np.linspace(-6, 60, 40).astype(np.float32)

    def joint(z, value):
        mean = 3 * max(z - 0.31, 0) - 5 * max(-0.77 - z, 0) + max(z - 1.234, 0) * 40
        return norm.pdf(value, mean, 0.2) * norm.pdf(z)

    ends = np.unique(np.r_[-12:12:100j, 0.31, -0.77, 1.234, 1.2:3:150j])
    truth = [
        math.log(sum(quad(joint, a, b, args=(v,))[0] for a, b in itertools.pairwise(ends)))
        for v in x[::4].astype(float)
    ]
    for tolerance in (1e-2, 1e-3, 1e-4):
        found = exact(model, nowhere(1, 1), real_rows(x[::4, None]), tolerance=tolerance)
        assert (np.abs(found.values - truth) <= found.errors).all()
        assert (found.errors <= 1.01 * tolerance).all()


def test_relu_networks_in_two_dimensions_against_a_finer_grid():
    torch.manual_seed(5)
    model = aevb.Model(
        aevb.standard_normal(2), aevb.bernoulli(aevb.MLP(2, [12], 30, nn.ReLU))
    ).double()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(4).add_(0.3 * torch.randn_like(p))
    rows = binary_rows(4, 30)
    axis = torch.arange(-6, 6, 0.006).double() + 0.0011
    x, sums = rows.all().double(), torch.full((4,), -math.inf).double()
    with torch.no_grad():
        for some in axis.split(100):
            z = torch.cartesian_prod(some, axis)
            logits = model.likelihood.network(z)
            joint = x @ logits.mT - nn.functional.softplus(logits, threshold=40).sum(-1)
            sums = torch.logaddexp(sums, (joint + model.prior().log_prob(z)).logsumexp(1))
    truth = (sums + 2 * math.log(0.006)).numpy()
    found = exact(model, nowhere(30, 2), rows)
    assert (np.abs(found.values - truth) <= found.errors + 3e-5).all()


def test_stated_errors_cover_wherever_a_peak_lies_between_the_points():
    """A Gaussian peak at 400 places: of every other point, the error would vanish at some."""
    places = torch.linspace(-0.5, 0.5, 400).double()
    region = lattice.Region(
        torch.zeros(1).double(), torch.ones(1).double(), torch.arange(-20, 21).unsqueeze(-1)
    )
    for width in (0.2, 0.4, 0.5, 0.7, 1.0, 1.4):

        def peak(owner, which, z, width=width):
            return -0.5 * ((z[which, 0] - places[owner]) / width).square()

        everyone = torch.arange(400)
        table = torch.stack(
            [peak(everyone, torch.full((400,), j), region.points) for j in range(41)]
        )
        found = lattice.integrate(peak, table, places.unsqueeze(-1), region, 1e-3)
        truth = 0.5 * math.log(2 * math.pi) + math.log(width)
        assert ((found.value - truth).abs() <= found.error).all()
        assert (found.error <= 1.01e-3).all()


@pytest.mark.parametrize("spread", [0.8, 3.0])
def test_importance_never_exceeds_it(spread):
    model, posterior = small_pair(spread=spread)
    rows = binary_rows(8)
    truth = exact(model, posterior, rows).values
    for seed in range(2):
        found = evidence(model, posterior, rows, 1000, seed=seed, compiled=False).importance
        assert (found.values < truth + 5 * found.errors + 1e-3).all()
        if spread < 1:  # else the encoder looks elsewhere
            assert found.mean == pytest.approx(truth.mean(), abs=5 * found.monte_carlo_error)


@pytest.mark.parametrize("latent", [1, 2, 3])
def test_no_number_depends_on_the_chunks(monkeypatch, latent):
    model, posterior = small_pair(latent=latent)
    rows = binary_rows(4)
    whole = exact(model, posterior, rows)
    monkeypatch.setattr(room, "AT_ONCE", {1: 2, 2: 2, 3: 2})
    monkeypatch.setattr(room, "CELLS", 20_000)
    parts = exact(model, posterior, rows)
    assert np.allclose(whole.values, parts.values, atol=1e-11, rtol=0)
    assert np.allclose(whole.errors, parts.errors, atol=1e-11, rtol=0)
    assert whole.details["points"] == parts.details["points"]


def test_the_product_and_the_density_agree():
    model, posterior = small_pair(spread=2.0)

    class Own(aevb.Model):
        def log_joint(self, x, z):
            return super().log_joint(x, z)

    rows = binary_rows(9)
    own = Own(model.prior, model.likelihood)
    one, other = exact(model, posterior, rows), exact(own, posterior, rows)
    assert np.allclose(one.values, other.values, atol=1e-11)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_peak_outside_all_that_the_prior_holds_is_climbed_to(monkeypatch, sign):
    weight = np.eye(3, 2)
    model = linear_gaussian(weight, np.zeros(3), 0.5)
    rows = real_rows([[sign * 25.0, sign * 20.0, 0.0]])
    law = multivariate_normal(np.zeros(3), weight @ weight.T + 0.5 * np.eye(3))
    monkeypatch.setattr(room, "as_linear_gaussian", lambda model: None)
    found = exact(model, nowhere(3, 2), rows)
    truth = law.logpdf(rows.all().double().numpy())
    assert (np.abs(found.values - truth) <= found.errors).all()
    assert (found.errors < 1.1e-3).all()


def test_what_stopped_early_owns_up_to_its_last_change(monkeypatch):
    places = torch.linspace(-0.5, 0.5, 50).double()
    region = lattice.Region(
        torch.zeros(1).double(), torch.ones(1).double(), torch.arange(-9, 10).unsqueeze(-1)
    )

    def peak(owner, which, z):
        return -0.5 * ((z[which, 0] - places[owner]) / 0.02).square()

    table = peak(torch.arange(50), torch.arange(19).unsqueeze(-1), region.points)
    truth = 0.5 * math.log(2 * math.pi) + math.log(0.02)
    for points in range(3, 30, 2):
        monkeypatch.setattr(lattice, "POINTS", points)
        found = lattice.integrate(peak, table, places.unsqueeze(-1), region, 1e-3)
        assert ((found.value - truth).abs() <= found.error).all()


def test_a_row_that_needs_more_room_says_so(monkeypatch):
    model, rows, truth = linear(2, 0.003)
    monkeypatch.setattr(room, "as_linear_gaussian", lambda model: None)
    monkeypatch.setattr(lattice, "POINTS", 60)
    found = exact(model, nowhere(4, 2), rows)
    assert (found.errors > 1e-3).any()
    assert ["of 5 rows" in remark for remark in found.remarks] == [True]
    assert (np.abs(found.values - truth) <= found.errors).all()


def test_the_integral_of_a_model_of_single_precision_is_taken_in_double():
    model, posterior = small_pair(dtype=torch.float32)
    found = exact(model, posterior, binary_rows(4))
    assert found.precision == "float64"
    double = exact(model.double(), posterior.double(), binary_rows(4))
    assert np.array_equal(found.values, double.values)


def test_a_prior_of_another_place_and_size():
    prior = Unconditional(Normal(), 1, learned=True)
    with torch.no_grad():
        prior.raw.copy_(torch.tensor([50.0, 2 * math.log(0.01)]))
    model = aevb.Model(prior, Conditional(Function(torch.sin), Normal(noise_shape=()))).double()
    found = exact(model, nowhere(1, 1), real_rows([[0.3]]), tolerance=1e-6)

    def joint(z):
        return norm.pdf(np.float32(0.3), math.sin(z), 1.0) * norm.pdf(z, 50, 0.01)

    expected = math.log(quad(joint, 49.9, 50.1, epsabs=1e-13)[0])
    assert found.values[0] == pytest.approx(expected, abs=1e-6)


def test_a_mixture_of_the_encoders_own_posteriors_is_a_prior_too():
    torch.manual_seed(0)
    posterior = aevb.mean_field(aevb.MLP(6, [5], 4))
    prior = aevb.priors.VampPrior(posterior.conditional, 7, 6, unit=True)
    model = aevb.Model(prior, aevb.bernoulli(aevb.MLP(2, [5], 6)))
    rows = binary_rows(5)
    found = exact(model, posterior, rows)
    sampled = evidence(model, posterior, rows, 20_000).importance
    assert np.allclose(found.values, sampled.values, atol=float(6 * sampled.errors.max() + 1e-3))


# --- enumeration ---------------------------------------------------------------------------------


def coins(size):
    """A prior over {0, 1}^size with chances of its own."""
    prior = Unconditional(Elementwise(zoo.BernoulliStraightThrough), size, learned=True)
    with torch.no_grad():
        prior.raw.copy_(torch.linspace(-1.5, 1.0, size))
    return prior


def discrete(size=4, width=6):
    model, _ = small_pair(latent=size, width=width, spread=2.0)
    torch.manual_seed(1)
    posterior = aevb.posterior.amortized(
        aevb.MLP(width, [], size), Elementwise(zoo.BernoulliStraightThrough)
    )
    return aevb.Model(coins(size), model.likelihood).double(), posterior.double()


def by_hand(model, x, size):
    z = np.array(list(itertools.product([0.0, 1.0], repeat=size)))
    chance = expit(np.linspace(-1.5, 1.0, size).astype(np.float32).astype(float))
    prior = np.log(np.where(z == 1, chance, 1 - chance)).sum(-1)
    logits = perceptron(weights(model), "likelihood.network.", z)
    return z, x @ logits.T - np.logaddexp(0, logits).sum(-1) + prior


def test_coins_are_listed():
    model, posterior = discrete()
    rows = binary_rows(9)
    z, joint = by_hand(model, rows.all().double().numpy(), 4)
    found = exact(model, posterior, rows)
    assert found.details["by"] == "enumeration"
    assert found.details["points"] == 16
    assert np.allclose(found.values, logsumexp(joint, axis=1), atol=1e-10)
    listed = enumerate_codes(model, rows.all())
    assert np.array_equal(listed.codes.detach().numpy(), z)
    expected = np.exp(joint - logsumexp(joint, axis=1, keepdims=True))
    assert np.allclose(listed.posterior.probs.detach().numpy(), expected, atol=1e-12)


def test_estimates_run_on_hard_coins_and_stay_below():
    model, posterior = discrete()
    rows = binary_rows(30)
    truth = exact(model, posterior, rows)
    found = evidence(model, posterior, rows, 5000)
    assert found.kl_by == "closed form"
    assert found.elbo.mean < truth.mean + 5 * found.elbo.monte_carlo_error
    assert (found.importance.values < truth.values + 5 * found.importance.errors).all()
    error = found.importance.monte_carlo_error
    assert found.importance.mean == pytest.approx(truth.mean, abs=5 * error)


class OneHot(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.logits = nn.Parameter(torch.linspace(-1, 1, size).double())

    def forward(self, condition=None):
        return zoo.OneHotCategoricalStraightThrough(logits=self.logits)


def test_a_class_is_listed_as_a_mixture():
    model, _ = small_pair(latent=5, spread=2.0)
    model = aevb.Model(OneHot(5), model.likelihood)
    rows = binary_rows(6)
    found = exact(model, nowhere(6, 5), rows)
    assert found.details["points"] == 5
    logits = perceptron(weights(model), "likelihood.network.", np.eye(5))
    x = rows.all().double().numpy()
    prior = np.linspace(-1, 1, 5) - logsumexp(np.linspace(-1, 1, 5))
    joint = x @ logits.T - np.logaddexp(0, logits).sum(-1) + prior
    assert np.allclose(found.values, logsumexp(joint, axis=1), atol=1e-10)


def test_blocks_of_codes_change_nothing(monkeypatch):
    model, posterior = discrete(10)
    rows = binary_rows(5)
    whole = exact(model, posterior, rows).values
    monkeypatch.setattr(enumeration, "CELLS", 100)
    assert np.allclose(exact(model, posterior, rows).values, whole, atol=1e-12)


def test_hard_coins_without_a_route_are_not_trained_in_silence():
    class Coins(aevb.posterior.Amortized):
        def forward(self, batch) -> Distribution:
            return Independent(Bernoulli(logits=self.conditional(batch.x)), 1)

    model, _ = discrete()
    learner = aevb.AEVB(model, Coins(aevb.MLP(6, [], 4).double()), objective=aevb.elbo_a)
    with pytest.raises(UsageError, match="Bernoulli"):
        learner.step(learner.init(), torch.ones(3, 6).double(), torch.zeros(1, 3, 4).double())


# --- refusals ------------------------------------------------------------------------------------


class Positive(nn.Module):
    def forward(self, condition=None):
        return Independent(zoo.Gamma(torch.ones(2).double(), 1.0), 1)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (lambda: small_pair(latent=4)[0], "4 dimensions"),
        (lambda: aevb.Model(Positive(), small_pair()[0].likelihood), "free real numbers"),
        (lambda: discrete(17)[0], "listed"),
    ],
    ids=["four-dimensions", "positive", "too-many-codes"],
)
def test_what_has_no_exact_value_is_sent_elsewhere(model, said):
    with pytest.raises(UsageError, match=said) as caught:
        exact(model(), small_pair()[1], binary_rows(3))
    others = "importance or ais" if "dimensions" in said else "importance"  # ais needs reals too
    assert str(caught.value).endswith(f": use {others}")
    assert "\n" not in str(caught.value)


def test_rows_outside_the_domain_and_odd_tolerances_are_refused():
    model, posterior = small_pair()
    with pytest.raises(DataError, match="row 1"):
        exact(model, posterior, real_rows(np.full((2, 6), 0.5)))
    with pytest.raises(UsageError, match="tolerance"):
        exact(model, posterior, binary_rows(2), tolerance=0.0)

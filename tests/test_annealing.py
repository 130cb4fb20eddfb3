"""Annealed importance sampling, held to its two identities and to values that are known exactly."""

import math

import numpy as np
import pytest
import torch
from helpers import binary_rows, quadrature, small_pair
from scipy.stats import multivariate_normal, norm
from torch.distributions import Independent, Normal

import aevb
from aevb.data import Rows
from aevb.distributions import Gamma
from aevb.errors import UsageError
from aevb.evaluation import Annealing, annealed, annealing, bidirectional, simulate
from aevb.families import Elementwise
from aevb.linear_gaussian import linear_gaussian
from aevb.posterior import FromPrior, everywhere

WEIGHT = np.array([[1.0, 0.5], [0.0, -2.0], [0.7, 0.0]])


class Linear(torch.nn.Module):
    """z to W z and the log-variance of the noise."""

    def __init__(self, noise):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.from_numpy(WEIGHT))
        self.noise = noise

    def forward(self, z):
        mean = z @ self.weight.T
        return torch.cat([mean, torch.full_like(mean, 2 * math.log(self.noise))], -1)


def linear_pair(deviation=0.5, noise=0.4):
    """A linear-Gaussian model, and an encoder that knows nothing of x: N(0, deviation^2)."""
    encoder = torch.nn.Linear(3, 4).double()
    with torch.no_grad():
        encoder.weight.zero_()
        encoder.bias.copy_(torch.tensor([0.0, 0.0, *[2 * math.log(deviation)] * 2]))
    model = aevb.Model(
        aevb.standard_normal(2).double(), aevb.gaussian(Linear(noise), min_variance=0.0)
    )
    return model, aevb.mean_field(encoder)


def exact(x, noise=0.4):
    covariance = WEIGHT @ WEIGHT.T + noise**2 * np.eye(3)
    return multivariate_normal(np.zeros(3), covariance).logpdf(x)


def copies(x, n):
    return Rows(np.tile(x, (n, 1)), np.arange(n), (len(x),))


def test_the_schedule_goes_from_start_to_end_and_is_dense_at_both():
    betas = np.array(Annealing(temperatures=50).schedule())
    steps = np.diff(betas)
    assert betas[0] == 0.0
    assert betas[-1] == 1.0
    assert len(steps) == 50
    assert (steps > 0).all()
    assert np.allclose(steps, steps[::-1])
    assert steps[0] < steps[25] / 5
    # the logistic function itself
    assert betas[10] == pytest.approx(
        (1 / (1 + math.exp(2.4)) - 1 / (1 + math.exp(4)))
        / (1 / (1 + math.exp(-4)) - 1 / (1 + math.exp(4)))
    )


@pytest.mark.parametrize(
    "start",
    [lambda model, encoder: encoder, lambda model, encoder: FromPrior(model.prior)],
    ids=["encoder", "prior"],
)
@pytest.mark.parametrize("temperatures", [2, 5])
def test_weights_are_unbiased_however_short_the_way(start, temperatures):
    # E[w] = p(x) and, from exact draws, E[1 / w] = 1 / p(x): identities, not limits. With so much
    # noise that the posterior is nearly the prior, both weights have a variance.
    model, encoder = linear_pair(0.9, noise=3.0)
    z, rows = simulate(model, 4000, seed=3)
    truth = exact(rows.all().double().numpy(), noise=3.0)
    way = Annealing(temperatures, 3)
    lower, upper = bidirectional(model, start(model, encoder), rows, z, 1, way)
    for ratio in (np.exp(lower.values - truth), np.exp(truth - upper.values)):
        error = ratio.std() / math.sqrt(len(ratio))
        assert abs(ratio.mean() - 1) < 5 * error
        assert error < 0.03
    assert np.exp(lower.values - truth).std() > 0.05  # there is something to be wrong


def test_both_directions_bracket_the_truth_and_meet():
    model, encoder = linear_pair()
    z, rows = simulate(model, 60)
    truth = exact(rows.all().double().numpy()).mean()
    widths = []
    for temperatures in (5, 100):
        lower, upper = bidirectional(model, encoder, rows, z, 8, Annealing(temperatures))
        assert lower.mean < truth + 5 * lower.monte_carlo_error
        assert upper.mean > truth - 5 * upper.monte_carlo_error
        widths.append(upper.mean - lower.mean)
    assert widths[1] < widths[0] / 2
    assert abs(widths[1]) < 0.2
    assert (lower.direction, upper.direction) == ("lower", "upper")
    assert lower.details["temperatures"] == 100


def test_it_reaches_what_quadrature_says():
    model, posterior = small_pair(spread=0.8)
    rows = binary_rows(12)
    found = annealed(model, posterior, rows, 16, Annealing(100, leapfrogs=5))
    truth = quadrature(model, rows.all().double().numpy())
    assert (np.abs(found.values - truth) < 5 * found.errors).all()
    assert found.monte_carlo_error < 0.02
    assert 0.5 < found.details["acceptance"] < 0.8  # 0.65 was the aim


class Half(torch.nn.Module):
    """N(z, 1) above zero; below, x lies where no density is left."""

    def __init__(self):
        super().__init__()
        self.off = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, z):
        mean = torch.where(z > 0, z, torch.full_like(z, 1e200)) + self.off
        return Independent(Normal(mean, torch.ones_like(mean)), 1)


def test_draws_without_a_density_weigh_nothing():
    model, start = aevb.Model(aevb.standard_normal(1), Half()).double(), everywhere(1).double()
    x = np.array([0.5, 1.0])
    found = annealed(model, start, Rows(x[:, None], np.arange(2), (1,)), 400, Annealing(20))
    # z given x is N(x / 2, 1 / 2) above zero
    truth = norm.logpdf(x, 0, math.sqrt(2)) + norm.logcdf(x / math.sqrt(2))
    assert (np.abs(found.values - truth) < 4 * found.errors).all()
    assert (found.errors < 0.1).all()


def test_errors_cover_the_truth_as_often_as_they_claim():
    x = np.array([0.3, 0.8, -0.4])
    found = annealed(*linear_pair(0.9), copies(x, 1000), 64, Annealing(10, leapfrogs=3))
    covered = np.mean(np.abs(found.values - exact(x)) < 2 * found.errors)
    assert 0.92 < covered < 0.985


def test_chains_that_carry_weights_do_not_tune_their_steps(monkeypatch):
    seen = []
    original = annealing._Chunk._noise
    monkeypatch.setattr(
        annealing._Chunk,
        "_noise",
        lambda chunk, z, t, part: seen.append((t, part)) or original(chunk, z, t, part),
    )
    annealed(*small_pair(), binary_rows(2), 3, Annealing(5))
    pilots = [t for t, part in seen if part == annealing._PILOT]
    assert pilots == [1, 2, 3, 4]
    assert [t for t, part in seen if part == annealing._FORWARD] == [1, 2, 3, 4]


def test_rows_of_the_model_follow_the_model():
    model, _ = linear_pair()
    z, rows = simulate(model, 20_000, seed=1)
    x = rows.all().double().numpy()
    covariance = np.cov(np.concatenate([z, x], 1).T)
    marginal = WEIGHT @ WEIGHT.T + 0.4**2 * np.eye(3)
    truth = np.block([[np.eye(2), WEIGHT.T], [WEIGHT, marginal]])
    error = np.sqrt((np.outer(np.diag(truth), np.diag(truth)) + truth**2) / 20_000)
    assert (np.abs(covariance - truth) < 5 * error).all()
    residual = x - z @ WEIGHT.T
    assert residual.var(0) == pytest.approx(0.16, rel=5 * math.sqrt(2 / 20_000))
    again = simulate(model, 20_000, seed=1)[1]
    assert (again.values == rows.values).all()


def test_the_prior_is_a_posterior_that_ignores_its_data():
    prior = aevb.standard_normal(3)
    law = FromPrior(prior)(torch.zeros(5, 2))
    z = torch.randn(4, 5, 3)
    assert torch.allclose(law.log_prob(z), prior().log_prob(z))
    assert not list(FromPrior(prior).parameters())


def test_what_makes_no_sense_is_refused():
    pair, rows = small_pair(), binary_rows(2)
    with pytest.raises(UsageError, match="temperatures must be at least 2, found 1"):
        Annealing(temperatures=1)
    with pytest.raises(UsageError, match="leapfrog steps must be at least 1, found 0"):
        Annealing(leapfrogs=0)
    with pytest.raises(UsageError, match="at least 1, found 0"):
        simulate(pair[0], 0)
    positive = aevb.Model(
        aevb.Unconditional(Elementwise(Gamma), 2), aevb.bernoulli(aevb.MLP(2, [3], 6))
    )
    with pytest.raises(UsageError, match=r"free real numbers, found .*: use importance"):
        annealed(positive, pair[1], rows)


def test_both_directions_bracket_ten_linear_gaussian_models():
    apart, beyond = [], []
    for seed in range(10):
        source = np.random.default_rng(seed)
        latent, width = int(source.integers(1, 5)), int(source.integers(5, 10))
        weight = source.normal(size=(width, latent))
        variance = source.uniform(0.2, 2.0, width)
        model = linear_gaussian(weight, source.normal(size=width), variance)
        z, rows = simulate(model, 8, seed=seed)
        truth = model.log_prob(rows.all().double()).mean().item()
        encoder = model.best_mean_field()
        lower, upper = bidirectional(model, encoder, rows, z, 8, Annealing(20), seed=seed)
        assert lower.mean < truth + 5 * lower.monte_carlo_error
        assert upper.mean > truth - 5 * upper.monte_carlo_error
        apart.append(upper.mean - lower.mean)
        beyond.append([lower.mean - truth, truth - upper.mean])
    assert 0 < np.mean(apart) < 0.2
    assert (np.mean(beyond, axis=0) < 0).all()

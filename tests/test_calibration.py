"""Simulation-based calibration: uniform for an exact posterior, and what it says of others."""

import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import small_pair
from scipy.stats import chi2, kstest
from torch import nn
from torch.distributions import Independent

import aevb
from aevb.distributions import MultivariateNormal, Normal
from aevb.errors import UsageError
from aevb.evaluation import Calibration, calibrate
from aevb.families import Categorical, Columns, Poisson
from aevb.model import Model
from aevb.posterior import Batch, ExactPosterior

DOUBLE = torch.float64


class Linear(nn.Module):
    """p(x given z) = N(x; W z + b, Psi), Psi diagonal, with no parameter to be learned."""

    def __init__(self):
        super().__init__()
        source = np.random.default_rng(4)
        self.register_buffer("w", torch.from_numpy(source.normal(size=(3, 2))))
        self.register_buffer("b", torch.from_numpy(source.normal(size=3)))
        self.register_buffer("psi", torch.tensor([0.5, 1.0, 2.0], dtype=DOUBLE))

    def forward(self, z):
        return Independent(Normal(z @ self.w.T + self.b, self.psi.sqrt()), 1)


class Exact(nn.Module):
    """N(z; S W' Psi^-1 (x - b), S), S = (I + W' Psi^-1 W)^-1; scaled, or shifted, on purpose."""

    def __init__(self, linear, factor=1.0, shift=0.0, tilt=0.0):
        super().__init__()
        self.linear, self.factor, self.shift, self.tilt = linear, factor, shift, tilt

    def forward(self, batch):
        p = self.linear
        scaled = p.w.T / p.psi
        covariance = torch.linalg.inv(torch.eye(2, dtype=DOUBLE) + scaled @ p.w)
        mean = (batch.x - p.b) @ (covariance @ scaled).T
        deviation = covariance.diagonal().sqrt()
        factor = self.factor * torch.linalg.cholesky(covariance)
        if self.tilt:
            factor = torch.diag(deviation)
        whole = factor.expand(len(batch.x), 2, 2)
        return MultivariateNormal(mean + self.shift * deviation, scale_tril=whole)


class Standard(nn.Module):
    def forward(self):
        return Independent(Normal(torch.zeros(2, dtype=DOUBLE), 1.0), 1)


def linear_gaussian(**wrong):
    linear = Linear()
    return Model(Standard(), linear), Exact(linear, **wrong)


def test_ten_thousand_simulations_are_uniform_for_the_exact_posterior():
    found = calibrate(*linear_gaussian(), 10_000, seed=1)
    assert found.calibrated, str(found)
    assert found.verdicts == ()
    assert found.ranks.shape == (10_000, 3)
    assert found.ranks.min() == 0
    assert found.ranks.max() == 99
    assert np.abs(found.ratio - 1).max() < 0.03
    assert np.abs(found.shift).max() < 0.04
    for test, values in found.p_values.items():
        assert (values > 1e-3).all(), test
    assert "nothing speaks against it" in str(found)


@pytest.mark.parametrize(("factor", "said"), [(0.95, "too narrow"), (1.05, "too wide")])
def test_a_deviation_five_percent_off_is_caught(factor, said):
    found = calibrate(*linear_gaussian(factor=factor), 10_000)
    assert not found.calibrated
    assert np.abs(found.ratio - factor).max() < 0.025
    for d in (1, 2):
        assert f"The posterior of z{d} is {said} by about" in str(found)


def test_a_shift_is_said_by_how_much():
    found = calibrate(*linear_gaussian(shift=0.1), 10_000)
    assert np.abs(found.shift + 0.1).max() < 0.04
    said = re.findall(r"z(\d) is too high by about (\S+) of", str(found))
    assert [(d, float(by)) for d, by in said] == [
        ("1", pytest.approx(0.1, abs=0.04)),
        ("2", pytest.approx(0.1, abs=0.04)),
    ]
    assert all(p < 1e-5 for p in found.p_values["location"][:2])


def test_a_correlation_left_out_shows_in_the_density_alone():
    """Each dimension is right by itself: only log p(x, z) knows that they move together."""
    found = calibrate(*linear_gaussian(tilt=1.0), 10_000)
    assert not found.calibrated
    assert {verdict.split(" is ")[0] for verdict in found.verdicts} == {
        "The posterior of log p(x, z)"
    }


def test_p_values_are_uniform_for_uniform_ranks():
    """The level is what it says: p-values of a thousand sets of uniform ranks, by each test."""
    ranks = np.random.default_rng(0).integers(0, 100, (500, 1000))
    found = Calibration(ranks, 99, ("z1",) * 1000, np.zeros(1000), np.ones(1000))
    for test, values in found.p_values.items():
        assert kstest(values, "uniform").pvalue > 1e-3, test


def test_bins_are_a_chi_square_of_counts():
    ranks = np.random.default_rng(1).integers(0, 100, (400, 1))
    counts = np.bincount(ranks[:, 0] // 5, minlength=20)
    expected = chi2.sf(((counts - 20) ** 2 / 20).sum(), 19)
    found = Calibration(ranks, 99, ("z1",), np.zeros(1), np.ones(1))
    assert math.isclose(found.p_values["bins"][0], expected, rel_tol=1e-9)


@pytest.mark.parametrize("simulations", [20, 50])
def test_few_uniform_ranks_are_refused_as_seldom_as_the_level_says(simulations):
    level, n = 1e-3, 40_000
    ranks = np.random.default_rng(2).integers(0, 100, (simulations, n))
    found = Calibration(ranks, 99, ("z1",) * n, np.zeros(n), np.ones(n))
    for test, values in found.p_values.items():
        assert np.mean(values < level) < 2 * level, test


def test_the_exact_posterior_of_coins_is_calibrated():
    """Bayes' rule over listed codes: nearly every rank has equals, and they are put by lot."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        prior = aevb.Unconditional(aevb.families.Bernoulli(), 2)
        model = aevb.Model(prior, aevb.bernoulli(aevb.MLP(2, [4], 5)))
    found = calibrate(model, ExactPosterior(model), 4000)
    assert found.names == ("z1", "z2", "log p(x, z)")
    assert found.smallest_p > 0.01, str(found)


def test_a_coin_that_is_sure_for_some_data_has_no_figures_and_its_own_verdict():
    """All its draws are equal then: there is no deviation to measure in."""
    prior = aevb.Unconditional(aevb.families.Bernoulli(), 2)
    model = aevb.Model(prior, aevb.bernoulli(torch.nn.Linear(2, 2)))
    with torch.no_grad():
        model.likelihood.network.weight.copy_(torch.tensor([[80.0, 0.0], [0.0, 1.0]]))
        model.likelihood.network.bias.copy_(torch.tensor([-40.0, -0.5]))
    found = calibrate(model, ExactPosterior(model), 2000)
    assert found.calibrated, str(found)
    assert np.isnan([found.shift[0], found.ratio[0]]).all()
    assert abs(found.shift[1]) < 0.1 > abs(found.ratio[1] - 1)
    assert found.as_dict()["shift"][0] is None
    other = replace(found, ranks=np.where(found.ranks < 50, 0, 99))
    assert other.verdicts[0].startswith("The posterior of z1 is not that of the model (p = ")


@pytest.mark.parametrize("draws", [4, 10, 49, 100])
def test_any_number_of_draws_has_its_bins(draws):
    found = calibrate(*linear_gaussian(), 2000, draws)
    assert found.calibrated, str(found)


@pytest.mark.parametrize(
    "family", [Categorical(3), Columns([Categorical(3), Poisson()], [[0], [1]])]
)
def test_draws_of_classes_and_of_mixed_columns_go_into_the_encoder(family):
    likelihood = aevb.Conditional(aevb.MLP(2, [], family.outputs(2)), family)
    model = aevb.Model(aevb.standard_normal(2), likelihood)
    assert calibrate(model, aevb.mean_field(aevb.MLP(2, [], 4)), 20, 4).ranks.shape == (20, 3)


class WithoutRoute(nn.Module):
    """A posterior whose law has no known map of noise is drawn from by its own sample."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, batch):
        q = self.inner(batch)
        return Own(q.loc, scale_tril=q.scale_tril)


class Own(torch.distributions.MultivariateNormal):
    pass


def test_a_law_without_a_route_is_sampled():
    model, posterior = linear_gaussian()
    assert calibrate(model, WithoutRoute(posterior), 1000).calibrated


def test_free_parameters_for_each_datum_have_none_for_simulated_data():
    model, _ = small_pair()
    with pytest.raises(UsageError, match="number of each row"):
        calibrate(model, aevb.per_datum(10, 2).double())


def test_too_few_are_refused():
    with pytest.raises(UsageError, match="at least 20 simulations and 4 draws"):
        calibrate(*linear_gaussian(), 10)


def test_it_is_ready_for_json():
    found = calibrate(*linear_gaussian(), 50)
    told = json.loads(json.dumps(found.as_dict()))
    assert told["quantities"] == ["z1", "z2", "log p(x, z)"]
    assert told["calibrated"] is True
    assert len(told["p_values"]["spread"]) == 3


def test_the_exact_posterior_is_exact():
    """The truth of these tests: p(z) p(x given z) / q(z given x) is the same for every z."""
    model, posterior = linear_gaussian()
    z = torch.randn(7, 4, 2, dtype=DOUBLE)
    x = torch.randn(4, 3, dtype=DOUBLE)
    evidence = model.log_joint(x, z) - posterior(Batch(x)).log_prob(z)
    assert torch.allclose(evidence, evidence[:1].expand_as(evidence), atol=1e-10)


def test_the_ratio_of_an_exact_posterior_is_one_for_few_draws_too():
    found = calibrate(*linear_gaussian(), 3000, 9)
    assert found.ratio == pytest.approx(1, abs=5 / math.sqrt(2 * 3000))

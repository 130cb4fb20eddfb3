"""Information in the codes, and where samples of the prior fall: bounds beside closed forms."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from scipy.special import logsumexp
from torch import nn
from torch.distributions import Independent, Normal

import aevb
from aevb.data import Rows
from aevb.evaluation import information


class Around(nn.Module):
    """q(z given x) = N(x, s^2) in one dimension: with x ~ N(0, 1) all is known."""

    def __init__(self, deviation):
        super().__init__()
        self.log = nn.Parameter(torch.tensor(math.log(deviation)))

    def forward(self, x):
        return Independent(Normal(x, self.log.exp().expand(x.shape)), 1)


def known(deviation, n=1500, seed=0):
    values = np.random.default_rng(seed).normal(size=(n, 1))
    rows = Rows(values, np.arange(n), (1,))
    model = aevb.Model(aevb.standard_normal(1), aevb.gaussian(aevb.MLP(1, [], 2)))
    return model, aevb.posterior.Amortized(Around(deviation)), rows


@pytest.mark.parametrize("deviation", [0.05, 0.5, 2.0])
def test_the_bounds_enclose_the_information_of_a_gaussian_channel(deviation):
    found = information.information(*known(deviation))
    truth = 0.5 * math.log(1 + 1 / deviation**2)
    assert found.lower - 4 * found.lower_error <= truth <= found.upper + 4 * found.upper_error
    assert found.lower <= found.cap
    assert found.upper >= found.lower
    if deviation >= 0.5:  # both are tight
        assert found.lower == pytest.approx(truth, abs=4 * found.lower_error + 0.01)
        assert found.upper == pytest.approx(truth, abs=4 * found.upper_error + 0.01)


def test_the_bounds_and_their_errors_are_those_of_the_rows_by_hand():
    model, posterior, rows = known(0.5, n=6)
    found = information.information(model, posterior, rows, seed=3)
    _, z = information.codes_of(model, posterior, rows, seed=3)
    log_q = scipy.stats.norm(rows.values[:, 0], 0.5).logpdf(z.double().numpy())  # of z_n by x_m
    own, others = log_q.diagonal(), np.exp(log_q) * (1 - np.eye(6))
    lower = own - np.log(np.exp(log_q).mean(1))
    upper = own - np.log(others.sum(1) / 5)
    kl = own - scipy.stats.norm.logpdf(z.double().numpy()[:, 0])
    errors = [v.std(ddof=1) / math.sqrt(6) for v in (lower, upper)]
    means = lower.mean(), errors[0], upper.mean(), errors[1], kl.mean(), math.log(6)
    assert np.allclose(list(vars(found).values()), means, atol=1e-5)


def test_a_lower_bound_at_its_cap_says_so():
    found = information.information(*known(1e-6, n=50))
    assert found.lower == pytest.approx(found.cap)
    assert found.capped
    assert f"at least {math.log(50):.2f} nats" in str(found)


def test_the_aggregate_is_the_mixture_by_hand():
    q = Independent(Normal(torch.tensor([[0.0], [3.0]]), torch.tensor([[1.0], [0.5]])), 1)
    z = torch.linspace(-2, 4, 7)[:, None]
    by_hand = (
        0.5
        * (np.exp(-0.5 * z.numpy() ** 2) + np.exp(-0.5 * ((z.numpy() - 3) / 0.5) ** 2) / 0.5)
        / math.sqrt(2 * math.pi)
    )
    assert np.allclose(information.log_aggregate(q, z).exp().numpy(), by_hand[:, 0], atol=1e-6)


@pytest.mark.parametrize("rows", [200, 1500])
def test_one_in_a_hundred_samples_lies_beyond_where_the_laws_agree(rows):
    # x ~ N(0, 1 - s^2) makes the aggregate posterior N(0, 1), the prior itself.
    model, posterior, train = known(0.6, rows)
    seen, new = (
        Rows(0.8 * known(0.6, rows, seed)[2].values, np.arange(rows), (1,)) for seed in (1, 2)
    )
    found = information.holes(model, (posterior, seen), (posterior, new))
    assert found.share <= 0.01 + 4 * math.sqrt(0.01 / rows) + 2 / rows
    assert found.distance < 3 * found.distance_error
    far = Rows(0.1 * train.values + 4, np.arange(rows), (1,))
    beside = information.holes(model, (posterior, far), (posterior, far))
    assert beside.share > 0.9
    # q(z) = N(4, 0.1^2 + 0.6^2) beside N(0, 1)
    truth = 0.5 * (0.37 + 16 - 1 - math.log(0.37))
    assert 0.9 * truth < beside.distance < truth + 3 * beside.distance_error


def test_codes_are_widened_to_the_density_that_they_are_of():
    rng = np.random.default_rng(0)
    centers, z = (torch.from_numpy(rng.normal(size=(n, 2))) for n in (800, 400))
    truth = Independent(Normal(torch.zeros(2), 1.0), 1).log_prob(z)
    assert abs(float((information.log_widened(centers, z) - truth).mean())) < 0.15
    line = torch.linspace(-8, 8, 4001, dtype=torch.float64)[:, None]
    mass = information.log_widened(centers[:, :1], line).exp().sum() * 16 / 4000
    assert float(mass) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_the_width_is_that_under_which_the_others_say_most_of_each_code(n):
    rng = np.random.default_rng(n)
    centers, z = rng.normal(size=(n, 2)), rng.normal(size=(3, 2))
    apart = ((centers[:, None] - centers) ** 2).sum(-1)
    reach = math.sqrt(apart.sum() / (n * (n - 1))) if n > 1 else 1.0

    def log_densities(at, width, weights):
        far = ((at[:, None] - centers) ** 2).sum(-1) / width**2
        return logsumexp(-0.5 * far, 1, weights) - math.log(2 * math.pi * width**2)

    widths = reach * np.logspace(-2, 0, 21)
    others = (1 - np.eye(n)) / max(n - 1, 1)
    alone = [log_densities(centers, w, others).mean() for w in widths[: 21 if n > 1 else 1]]
    expected = log_densities(z, widths[int(np.argmax(alone))], 1 / n)
    found = information.log_widened(torch.from_numpy(centers), torch.from_numpy(z))
    assert np.allclose(found.numpy(), expected, rtol=1e-9)

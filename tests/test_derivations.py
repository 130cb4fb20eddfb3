"""The three forms of the bound by numerical integration and, where there is one, in closed form."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

import aevb
from aevb.distributions import kl
from aevb.families import Normal
from aevb.objectives import draw
from aevb.posterior import Amortized

LIMIT = {1: 14.0, 2: 14.0}
SIDE = {1: 1401, 2: 561}


class Grid:
    """Points of the latent space, (S, 1, D), and the trapezoid rule over them."""

    def __init__(self, latent):
        line = torch.linspace(-LIMIT[latent], LIMIT[latent], SIDE[latent], dtype=torch.float64)
        self.points = torch.cartesian_prod(*latent * [line]).reshape(-1, 1, latent)
        self.log_cell = latent * math.log(line[1] - line[0])

    def log_integral(self, log_f):
        return torch.logsumexp(log_f, 0) + self.log_cell

    def integral(self, f):
        return f.sum(0) * math.exp(self.log_cell)


def bernoulli(latent):
    return aevb.bernoulli(aevb.MLP(latent, [4], 3)), torch.tensor([[0, 1, 1], [1, 0, 0]])


def gaussian(latent):
    x = torch.tensor([[0.3, -1.0, 0.7], [-0.4, 0.2, 1.1]])
    return aevb.gaussian(aevb.MLP(latent, [4], 6), min_variance=0.2), x


def counts(latent):
    return aevb.poisson(aevb.MLP(latent, [4], 3)), torch.tensor([[0, 2, 1], [1, 0, 0]])


POSTERIORS = {"mean-field": (aevb.mean_field, lambda d: 2 * d)} | {
    "full": (aevb.full_covariance, lambda d: d * (d + 3) // 2)
}


class Case:
    """A model and its posterior with weights that are not small, everything integrated."""

    def __init__(self, make, latent, kind, seed):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            likelihood, x = make(latent)
            wrap, outputs = POSTERIORS[kind]
            self.model = aevb.Model(aevb.standard_normal(latent), likelihood).double()
            self.posterior = wrap(aevb.MLP(3, [4], outputs(latent))).double()
            for p in [*self.model.parameters(), *self.posterior.parameters()]:
                torch.nn.init.normal_(p, std=0.5)
        self.x, self.grid = x.double(), Grid(latent)
        self.z = self.grid.points.expand(-1, len(x), -1)
        with torch.no_grad():
            self.log_likelihood = self.model.log_likelihood(self.x, self.z)
            self.log_joint = self.model.log_joint(self.x, self.z)
            self.log_q = self.posterior(self.x).log_prob(self.z)
        self.q = self.log_q.exp()
        self.evidence = self.grid.log_integral(self.log_joint)
        self.log_true = self.log_joint - self.evidence
        self.first = self.evidence - self.grid.integral(self.q * (self.log_q - self.log_true))
        self.second = self.grid.integral(self.q * (self.log_joint - self.log_q))


PARAMETERS = [
    pytest.param(make, latent, kind, id=f"{make.__name__}-{latent}-{kind}")
    for make, latent, kind in itertools.product((bernoulli, gaussian, counts), (1, 2), POSTERIORS)
]


@pytest.mark.parametrize(("make", "latent", "kind"), PARAMETERS)
@pytest.mark.parametrize("seed", [0, 1])
def test_the_three_forms_are_one_number(make, latent, kind, seed):
    c = Case(make, latent, kind, seed)
    ones = torch.ones(2, dtype=torch.float64)
    torch.testing.assert_close(c.grid.integral(c.q), ones, rtol=0, atol=1e-10)
    with torch.no_grad():
        divergence = kl(c.posterior(c.x), c.model.prior())
    third = c.grid.integral(c.q * c.log_likelihood) - divergence
    torch.testing.assert_close(c.first, c.second, rtol=0, atol=1e-8)
    torch.testing.assert_close(c.second, third, rtol=0, atol=1e-8)
    gap = c.evidence - c.second
    to_true = c.grid.integral(c.q * (c.log_q - c.log_true))
    assert (to_true > 1e-3).all()
    torch.testing.assert_close(gap, to_true, rtol=0, atol=1e-8)


@pytest.mark.parametrize("latent", [1, 2])
def test_the_bound_is_tight_where_q_is_the_posterior_of_the_model(latent):
    """A linear-Gaussian model: scipy has its evidence, Bishop (2006), 12.42, its posterior."""
    rng = np.random.default_rng(latent)
    w, b, noise = rng.standard_normal((3, latent)), rng.standard_normal(3), 0.7
    x = rng.standard_normal((2, 3))
    decoder = aevb.MLP(latent, [], 3)
    family = Normal(noise_shape=())
    precision = np.eye(latent) + w.T @ w / noise**2
    factor = np.linalg.cholesky(np.linalg.inv(precision))

    class Exact(torch.nn.Module):
        def forward(self, x):
            mean = (x - torch.from_numpy(b)) @ torch.from_numpy(
                np.linalg.solve(precision, w.T / noise**2).T
            )
            return torch.distributions.MultivariateNormal(
                mean, scale_tril=torch.from_numpy(factor), validate_args=False
            )

    model = aevb.Model(aevb.standard_normal(latent), aevb.Conditional(decoder, family)).double()
    with torch.no_grad():
        decoder.head.weight.copy_(torch.from_numpy(w))
        decoder.head.bias.copy_(torch.from_numpy(b))
        family.log_variance.fill_(2 * math.log(noise))
    truth = multivariate_normal(b, w @ w.T + noise**2 * np.eye(3)).logpdf(x)
    x = torch.from_numpy(x)
    eps = torch.from_numpy(rng.standard_normal((5, 2, latent)))
    with torch.no_grad():
        log_w = draw(model, Amortized(Exact()), x, eps).log_weights()
    # Not on average alone: with q the posterior, every single weight is the evidence.
    np.testing.assert_allclose(log_w, np.broadcast_to(truth, (5, 2)), rtol=0, atol=1e-10)
    grid = Grid(latent)
    with torch.no_grad():
        by_grid = grid.log_integral(model.log_joint(x, grid.points.expand(-1, 2, -1)))
    np.testing.assert_allclose(by_grid, truth, rtol=0, atol=1e-8)


def test_more_weights_lose_less():
    """L_1 < L_2 < L_3 < log p(x), each expectation an integral over one, two, three axes."""
    c = Case(bernoulli, 1, "mean-field", 0)
    coarse = slice(None, None, 10)
    log_w, mass = (c.log_joint - c.log_q)[coarse], c.q[coarse] * 10 * math.exp(c.grid.log_cell)
    bounds = [(mass * log_w).sum(0)]
    pair = torch.logaddexp(log_w[:, None], log_w[None])
    bounds.append((mass[:, None] * mass[None] * (pair - math.log(2))).sum((0, 1)))
    total = torch.zeros(2, dtype=torch.float64)
    for weight, third in zip(mass, log_w, strict=True):
        triple = torch.logaddexp(pair, third) - math.log(3)
        total += weight * (mass[:, None] * mass[None] * triple).sum((0, 1))
    bounds.append(total)
    torch.testing.assert_close(bounds[0], c.second, rtol=0, atol=1e-8)
    for lower, higher in itertools.pairwise([*bounds, c.evidence]):
        assert (lower + 1e-4 < higher).all()


def test_the_importance_weighted_estimate_has_that_expectation():
    c = Case(bernoulli, 1, "mean-field", 0)
    log_w, mass = (c.log_joint - c.log_q)[::4], c.q[::4] * 4 * math.exp(c.grid.log_cell)
    pair = torch.logaddexp(log_w[:, None], log_w[None]) - math.log(2)
    truth = (mass[:, None] * mass[None] * pair).sum((0, 1))
    noise = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 20_000, 1)))
    for row in range(2):
        x = c.x[row].expand(20_000, -1)
        with torch.no_grad():
            values = aevb.iwae(c.model, c.posterior, x, noise)
        assert abs(values.mean() - truth[row]) < 4 * values.std() / 20_000**0.5


@pytest.mark.parametrize(("make", "latent", "kind"), PARAMETERS[:4])
def test_gradients_pass_through_the_noise(make, latent, kind):
    """The gradient of the integral in phi is the mean over noise of the gradient at g(noise, x)."""
    c = Case(make, latent, kind, 3)
    phi = list(c.posterior.parameters())
    log_q = c.posterior(c.x).log_prob(c.z)
    left = c.grid.integral(log_q.exp() * (c.model.log_joint(c.x, c.z) - log_q)).sum()
    log_density = c.model.prior().log_prob(c.z)  # of the noise, which is standard normal too
    log_w = draw(c.model, c.posterior, c.x, c.z).log_weights()
    right = c.grid.integral(log_density.exp() * log_w).sum()
    torch.testing.assert_close(left, right, rtol=0, atol=1e-8)
    for a, b in zip(torch.autograd.grad(left, phi), torch.autograd.grad(right, phi), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-7)


def test_the_mean_bound_of_a_data_set_is_below_minus_its_entropy():
    """E_D[bound] = -KL(D(x) q(z given x) || p(x, z)) - H(D), the constant with that sign."""
    c = Case(bernoulli, 1, "mean-field", 0)
    entropy = math.log(2)
    joint = c.grid.integral(c.q / 2 * ((c.q / 2).log() - c.log_joint)).sum()
    assert abs(float(c.second.mean() + joint) + entropy) < 1e-8
    assert float(c.second.mean()) < -entropy


def test_probabilities_of_all_data_sum_to_one():
    c = Case(bernoulli, 2, "mean-field", 0)
    x = torch.tensor(list(itertools.product((0.0, 1.0), repeat=3)), dtype=torch.float64)
    with torch.no_grad():
        evidence = c.grid.log_integral(c.model.log_joint(x, c.grid.points.expand(-1, 8, -1)))
    assert abs(float(evidence.exp().sum()) - 1) < 1e-10


@pytest.mark.parametrize(("mean", "deviation"), [(0.0, 1.0), (1.3, 0.4), (-2.0, 1.7)])
def test_the_divergence_from_the_prior_in_closed_form(mean, deviation):
    grid = Grid(1)
    q = torch.distributions.Normal(torch.tensor(mean, dtype=torch.float64), deviation)
    p = torch.distributions.Normal(torch.tensor(0.0, dtype=torch.float64), 1.0)
    z = grid.points.flatten()
    by_grid = grid.integral(q.log_prob(z).exp() * (q.log_prob(z) - p.log_prob(z)))
    formula = -0.5 * (1 + math.log(deviation**2) - mean**2 - deviation**2)
    assert abs(float(by_grid) - formula) < 1e-8
    assert abs(float(kl(q, p)) - formula) < 1e-12

"""Objectives beyond the laws: other families, order of the bounds, training-only terms, errors."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from helpers import binary_rows, noise, small_pair

import aevb
from aevb.errors import DataError, UsageError
from aevb.families import Normal
from aevb.objectives import draw
from aevb.posterior import Amortized, Batch


def full_pair():
    model, _ = small_pair()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        posterior = aevb.full_covariance(aevb.MLP(6, [5], 5)).double()
    return model, posterior


@pytest.mark.parametrize("pair", [small_pair, full_pair])
def test_estimators_a_and_b_agree_and_k_samples_are_tighter(pair):
    model, posterior = pair()
    x = binary_rows(3).all().double()
    with torch.no_grad():
        d = draw(model, posterior, x, noise((20_000, 3, 2), 4))
        log_w = d.log_weights()
        error = log_w.std(0) / 20_000**0.5
        assert ((log_w.mean(0) - aevb.elbo_b.reduce(d, 1.0)).abs() < 5 * error).all()
        blocks = log_w.unflatten(0, (1000, 20))
        bounds = [(blocks[:, :k].logsumexp(1) - np.log(k)).mean(0) for k in (1, 2, 5, 20)]
    assert all((later > earlier).all() for earlier, later in pairwise(bounds))


def test_one_sample_of_the_importance_weighted_bound_is_estimator_a():
    model, posterior = small_pair()
    x, eps = binary_rows(5).all().double(), noise((1, 5, 2))
    a, k = aevb.elbo_a(model, posterior, x, eps), aevb.iwae(model, posterior, x, eps)
    assert torch.allclose(a, k, atol=1e-12)


def test_bound_is_tight_at_the_exact_posterior():
    """x = z + noise, both standard: q(z given x) = N(x/2, 1/2) makes every weight p(x)."""

    class Half(torch.nn.Module):
        def forward(self, x):
            return torch.cat([x / 2, torch.full_like(x, np.log(0.5))], -1)

    class Identity(torch.nn.Module):
        def forward(self, z):
            return torch.cat([z, torch.zeros_like(z)], -1)

    model = aevb.Model(
        aevb.standard_normal(2), aevb.gaussian(Identity(), min_variance=0.0)
    ).double()
    posterior = aevb.mean_field(Half())
    x = noise((4, 2), 9)
    exact = torch.distributions.Normal(0.0, 2**0.5).log_prob(x).sum(1)
    weights = draw(model, posterior, x, noise((6, 4, 2))).log_weights()
    assert torch.allclose(weights, exact.expand(6, 4), atol=1e-12)


def test_free_bits_pay_only_above_the_floor():
    model, posterior = small_pair()
    x, eps = binary_rows(6).all().double(), noise((2, 6, 2))
    d = draw(model, posterior, x, eps)
    by_dimension = torch.distributions.kl_divergence(d.posterior.base_dist, d.prior.base_dist).mean(
        0
    )
    for nats in (0.0, float(by_dimension.detach().mean()), 100.0):
        expected = d.reconstruction() - by_dimension.clamp_min(nats).sum()
        assert torch.allclose(aevb.free_bits(nats)(model, posterior, x, eps), expected)
    value = aevb.free_bits(100.0)(model, posterior, x, eps).sum()
    with_floor = torch.autograd.grad(value, list(posterior.parameters()))
    without = torch.autograd.grad(
        draw(model, posterior, x, eps).reconstruction().sum(), list(posterior.parameters())
    )
    assert all(torch.allclose(a, b) for a, b in zip(with_floor, without, strict=True))


def test_free_bits_need_factors():
    model, posterior = full_pair()
    with pytest.raises(UsageError, match="factorize"):
        aevb.free_bits(0.1)(model, posterior, binary_rows(2).all().double(), noise((1, 2, 2)))
    for wrong in (-1.0, np.nan):
        with pytest.raises(UsageError, match="free bits must be at least 0"):
            aevb.free_bits(wrong)


def test_estimator_b_without_a_closed_form_names_estimator_a():
    class Lumpy(torch.nn.Module):
        def forward(self):
            mixture = torch.distributions.Categorical(logits=torch.zeros(2, 2).double())
            component = torch.distributions.Normal(torch.tensor([-1.0, 1.0]).double(), 0.5)
            same = torch.distributions.MixtureSameFamily(
                mixture, component.expand((2, 2)), validate_args=False
            )
            return torch.distributions.Independent(same, 1)

    model, posterior = small_pair()
    model.prior = Lumpy()
    x, eps = binary_rows(3).all().double(), noise((4, 3, 2))
    assert aevb.elbo_a(model, posterior, x, eps).shape == (3,)
    with pytest.raises(UsageError, match="use estimator A"):
        aevb.elbo_b(model, posterior, x, eps)


def test_any_module_that_returns_a_distribution_will_do():
    class Encoder(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(6, 4)

        def forward(self, x):
            mean, log_scale = self.layer(x).chunk(2, -1)
            return torch.distributions.Independent(
                torch.distributions.Normal(mean, log_scale.exp()), 1
            )

    class Decoder(torch.nn.Module):
        def forward(self, z):
            logits = z.sum(-1, keepdim=True).expand(*z.shape[:-1], 6)
            return torch.distributions.Independent(torch.distributions.Bernoulli(logits=logits), 1)

    model = aevb.Model(aevb.standard_normal(2), Decoder())
    values = aevb.elbo_b(model, Amortized(Encoder()), binary_rows(3).all(), torch.zeros(2, 3, 2))
    assert values.shape == (3,)


def test_images_keep_their_shape_through_a_network_of_the_users():
    class Convolution(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(1, 1, 3, padding=1)

        def forward(self, z):
            return self.conv(z.view(-1, 1, 2, 2).repeat(1, 1, 2, 2))

    encoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 8))
    model = aevb.Model(aevb.standard_normal(4), aevb.bernoulli(Convolution()))
    posterior = aevb.mean_field(encoder, condition_ndim=3)
    x = (torch.rand(3, 1, 4, 4) > 0.5).float()
    assert aevb.elbo_b(model, posterior, x, torch.randn(2, 3, 4)).shape == (3,)


def test_free_parameters_for_each_datum():
    model, _ = small_pair()
    posterior = aevb.per_datum(10, 2).double()
    posterior.conditional.network.table.data = noise((10, 4), 2)
    x, eps = binary_rows(10).all().double(), noise((2, 10, 2))
    every = aevb.elbo_b(model, posterior, Batch(x, torch.arange(10)), eps)
    some = torch.tensor([7, 2])
    assert torch.allclose(
        aevb.elbo_b(model, posterior, Batch(x[some], some), eps[:, some]), every[some]
    )
    with pytest.raises(UsageError, match=r"pass Batch\(x, rows\)"):
        aevb.elbo_b(model, posterior, x, eps)


def test_bad_data_and_bad_noise_get_a_sentence():
    model, posterior = small_pair()
    x, eps = binary_rows(3).all().double(), noise((1, 3, 2))
    with pytest.raises(DataError, match=r"zeros and ones, found 0\.5 in row 1, column 1"):
        aevb.elbo_b(model, posterior, x * 0 + 0.5, eps)
    with pytest.raises(UsageError, match=r"noise must have shape \(S, 3, 2\)"):
        aevb.elbo_b(model, posterior, x, eps[..., :1])
    with pytest.raises(UsageError, match=r"3 axes, \(S, N, \.\.\.\): .* found \(3, 2\)"):
        aevb.elbo_b(model, posterior, x, eps[0])
    narrow = aevb.Model(aevb.standard_normal(1), model.likelihood).double()
    with pytest.raises(UsageError, match=r"over codes of shape \(2,\), the prior over \(1,\)"):
        aevb.elbo_b(narrow, posterior, x, eps)
    wide = aevb.Model(aevb.standard_normal(2), aevb.bernoulli(aevb.MLP(2, [3], 7))).double()
    with pytest.raises(DataError, match=r"over data of shape \(7,\), found rows of shape \(6,\)"):
        aevb.elbo_b(wide, posterior, x, eps)


def test_learned_prior_gets_a_gradient():
    model, posterior = small_pair()
    model.prior = aevb.Unconditional(Normal(), 2, learned=True).double()
    value = aevb.elbo_b(model, posterior, binary_rows(3).all().double(), noise((1, 3, 2))).sum()
    (gradient,) = torch.autograd.grad(value, [model.prior.raw])
    assert gradient.abs().min() > 0

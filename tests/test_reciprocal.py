"""The reciprocal estimate against exact evidence: values, errors, bias, and what it must admit."""

import json
import math
from importlib import import_module

import numpy as np
import pytest
import torch
from helpers import binary_rows, noise, quadrature, small_pair
from scipy.integrate import quad
from scipy.stats import multivariate_normal, norm

import aevb
from aevb.data import Rows
from aevb.errors import UsageError
from aevb.evaluation import reciprocal

home = import_module("aevb.evaluation.reciprocal")  # its function has its name


def rows_of(x):
    return Rows(np.asarray(x), np.arange(len(x)), (x.shape[1],))


def linear_pair(latent, width=3, seed=0):
    """x = W z + b + noise, an encoder that is off on purpose, and log p(x) of such rows."""
    rng = np.random.default_rng(seed)
    w, b, deviation = rng.normal(size=(width, latent)), rng.normal(size=width), 0.5
    decoder = aevb.MLP(latent, [], width)
    encoder = aevb.MLP(width, [], 2 * latent)
    family = aevb.gaussian(decoder, min_variance=0.0, noise_shape=())
    with torch.no_grad():
        decoder.head.weight.copy_(torch.from_numpy(w))
        decoder.head.bias.copy_(torch.from_numpy(b))
        family.family.log_variance.fill_(2 * math.log(deviation))
        encoder.head.weight.mul_(0.3)
        encoder.head.bias.zero_()
    model = aevb.Model(aevb.standard_normal(latent), family)
    with torch.no_grad():  # in single precision before the truth is taken from it
        w, b = decoder.head.weight.double().numpy(), decoder.head.bias.double().numpy()
    law = multivariate_normal(b, w @ w.T + deviation**2 * np.eye(width))
    x = law.rvs(40, random_state=rng).astype(np.float32)
    return model.double(), aevb.mean_field(encoder).double(), x, law.logpdf(x.astype(float))


@pytest.mark.parametrize("latent", [1, 2])
def test_the_evidence_of_a_linear_model_is_found(latent):
    model, posterior, x, truth = linear_pair(latent)
    found = reciprocal(model, posterior, rows_of(x), 1000)
    off = (found.values - truth) / found.errors
    assert np.abs(off).max() < 5
    assert math.sqrt((off**2).mean()) < 1.4
    assert abs(found.mean - truth.mean()) < 4 * found.monte_carlo_error
    assert found.errors.max() < 0.05
    assert (found.method, found.direction, found.samples) == ("hmc", "upper", 1000)
    assert found.details["r_hat_above"] == found.details["modes_missed"] == 0
    assert 0.83 < found.details["acceptance"] < 0.96
    assert not found.remarks
    assert json.loads(json.dumps(found.as_dict()))["pareto_k"]["median"] < 0.5


def test_stated_errors_cover_the_truth_as_often_as_they_claim():
    model, posterior = small_pair(spread=1.6)
    x = binary_rows(4).all().numpy()
    truth = np.tile(quadrature(model, x.astype(float)), 200)
    found = reciprocal(model, posterior, rows_of(np.tile(x, (200, 1))), 1000)
    off = np.abs(found.values - truth)
    assert 0.92 < np.mean(off < 2 * found.errors) < 0.985
    assert 0.62 < np.mean(off < found.errors) < 0.75
    assert off.mean() < 0.05


# -- the average itself, on independent draws of a posterior that is known ------------------------


def walked(n=20_000, steps=10, latent=2):
    """Draws of N(m, S) where log p(x, z) = log N(z; m, S) - 3, so that log p(x) = -3."""
    factor = torch.tensor([[0.2, 0.0], [0.3, 1.0]]).double()
    q = torch.distributions.MultivariateNormal(torch.ones(2).double(), scale_tril=factor)
    z = 1 + noise((steps, 4, n, latent)) @ factor.T
    state = home.State(z[0, :1], q.log_prob(z[0, :1]) - 3, z[0, :1])
    return home._Walked(z, q.log_prob(z) - 3, torch.zeros(n), state)


def test_the_average_is_right_and_its_logarithm_is_above():
    values = home._estimate(walked())[0].numpy()
    ratio = np.exp(-3 - values)
    assert abs(ratio.mean() - 1) < 5 * ratio.std() / math.sqrt(len(ratio))
    assert values.mean() > -3 + 5 * values.std() / math.sqrt(len(values))


def test_draws_that_repeat_each_other_count_once():
    one = walked(n=50, steps=40)
    fivefold = one._replace(
        z=one.z.repeat_interleave(5, 0), log_joint=one.log_joint.repeat_interleave(5, 0)
    )
    value, error, ess, _ = home._estimate(one)
    again, error_again, ess_again, _ = home._estimate(fivefold)
    assert torch.allclose(again, value, atol=0.1)
    assert float((ess_again / ess).mean()) == pytest.approx(1, abs=0.2)
    assert float((error_again / error).mean()) == pytest.approx(1, abs=0.1)


def test_a_density_fitted_to_its_own_draws_would_be_caught(monkeypatch):
    fitted = home._fitted
    monkeypatch.setattr(home, "_fitted", lambda others, own: fitted(own, own))
    ratio = np.exp(-3 - home._estimate(walked(n=2000, steps=40))[0].numpy())
    assert abs(ratio.mean() - 1) > 10 * ratio.std() / math.sqrt(len(ratio))


def test_the_fitted_density_integrates_to_one():
    draws = walked(n=3, steps=50).z
    z = (torch.stack(torch.meshgrid(*2 * [torch.linspace(-7, 9, 801)], indexing="ij"), -1)).double()
    log_f = home._fitted(draws, z.reshape(1, -1, 1, 2).expand(-1, -1, 3, -1))
    assert np.allclose(log_f.exp().sum((0, 1)) * 4e-4, 1, atol=5e-3)
    inside = log_f.isfinite().squeeze(0)
    # bounded inside: exp(-r^2 / 2) from the center to the edge, where r^2 = -2 log 0.2
    for m in range(3):
        heights = log_f[0, inside[:, m], m]
        assert float(heights.max() - heights.min()) == pytest.approx(-math.log(0.2), abs=0.03)


# -- what is promised of every estimate -----------------------------------------------------------


def test_single_precision_says_the_same():
    rows = binary_rows(5)
    single = reciprocal(*small_pair(dtype=torch.float32), rows, 1000)
    double = reciprocal(*small_pair(), rows, 1000)
    assert (single.precision, double.precision) == ("float32", "float64")
    off = (single.values - double.values) / np.hypot(single.errors, double.errors)
    assert np.abs(off).max() < 4


def test_every_draw_is_used(monkeypatch):
    seen = []
    original = home._estimate
    monkeypatch.setattr(home, "_estimate", lambda w: seen.append(w.z.shape) or original(w))
    reciprocal(*small_pair(), binary_rows(3), 44)
    assert seen == [(11, 4, 3, 2)]


def test_many_dimensions_get_a_warning():
    rows = binary_rows(3)
    sentence = "cannot be relied on above 5 latent dimensions"
    for latent in (5, 6):
        remarks = reciprocal(*small_pair(latent=latent), rows, 40).remarks
        assert any(sentence in remark for remark in remarks) == (latent > 5)


class Square(torch.nn.Module):
    """The mean z^2 + shift z, so that x is explained by two values of z."""

    def __init__(self, shift):
        super().__init__()
        self.shift = torch.nn.Parameter(torch.tensor(shift).double())

    def forward(self, z):
        mean = z.square() + self.shift * z
        return torch.cat([mean, torch.full_like(mean, 2 * math.log(0.3))], -1)


class One(torch.nn.Module):
    """An encoder that knows of one of the two, N(sqrt(x), 0.1)."""

    def forward(self, x):
        return torch.cat([x.clamp_min(0.01).sqrt(), torch.full_like(x, 2 * math.log(0.1))], -1)


def two_modes(x, shift):
    model = aevb.Model(
        aevb.standard_normal(1), aevb.gaussian(Square(shift), min_variance=0.0)
    ).double()

    def evidence(x):
        def density(z):
            return norm.pdf(z) * norm.pdf(x, z * z + shift * z, 0.3)

        return math.log(quad(density, -8, 8, points=[-2, -1, 0, 1, 2], limit=500)[0])

    x = np.full((20, 1), x, np.float32)
    truth = evidence(float(x[0, 0]))
    return reciprocal(model, aevb.mean_field(One()), rows_of(x), 1000), truth


def test_two_modes_of_like_mass_are_flagged():
    """Chains in both disagree; chains in one miss what scouts have seen: each datum is named."""
    found, truth = two_modes(4.0, 0.0)
    assert np.abs(found.values - truth).min() > 0.5
    assert found.details["r_hat_above"] + found.details["modes_missed"] >= 20
    assert "disagree (R-hat above 1.05)" in found.remarks[0]
    assert "another mode" in found.remarks[1]


def test_modes_that_join_and_modes_without_mass_are_no_obstacle():
    for x, shift in ((0.2, 0.0), (4.0, 1.5)):
        found, truth = two_modes(x, shift)
        assert (np.abs(found.values - truth) < 5 * found.errors + 0.01).all()
        assert found.details["r_hat_above"] <= 1


def test_what_cannot_be_estimated_is_said_in_a_sentence():
    model, posterior = small_pair()
    rows = binary_rows(2)
    for samples in (0, 36, 42):
        with pytest.raises(UsageError, match=f"multiple of 4.* at least 40, found {samples}"):
            reciprocal(model, posterior, rows, samples)

    class Positive(torch.nn.Module):
        def forward(self):
            gamma = torch.distributions.Gamma(torch.ones(2).double(), torch.ones(2).double())
            return torch.distributions.Independent(gamma, 1)

    with pytest.raises(UsageError, match="they must be free real numbers"):
        reciprocal(aevb.Model(Positive(), model.likelihood), posterior, rows)

"""Filling and denoising against what is known exactly: Gaussian algebra, and sums over a grid."""

import math

import numpy as np
import pytest
import torch
from helpers import perceptron, small_pair, weights

import aevb
from aevb import imputation
from aevb.data import Rows
from aevb.errors import UsageError
from aevb.families import Masked, OneHotCategorical
from aevb.posterior import FromPrior
from aevb.storage.latents import PRIORS

D, X = 2, 4
W = np.array([[1.0, 0.3], [-0.8, 0.5], [0.4, -1.1], [0.9, 0.7]])
B = np.array([0.5, -1.0, 2.0, 0.0])
PSI = np.array([0.3, 0.2, 0.5, 0.4])


def linear_pair(offset=0.0, widen=1.0):
    """x = W z + b + noise with its exact posterior as encoder; or one that is off on purpose."""
    decoder = aevb.MLP(D, [], X).double()
    family = aevb.gaussian(decoder, min_variance=0.0, noise_shape=(X,))
    encoder = aevb.MLP(X, [], D * (D + 3) // 2).double()
    precision = np.eye(D) + W.T @ np.diag(1 / PSI) @ W
    covariance = np.linalg.inv(precision) * widen
    gain = np.linalg.inv(precision) @ W.T @ np.diag(1 / PSI)
    factor = np.linalg.cholesky(covariance)
    rest = np.concatenate([np.log(np.diag(factor) ** 2), factor[np.tril_indices(D, -1)]])
    with torch.no_grad():
        decoder.head.weight.copy_(torch.from_numpy(W))
        decoder.head.bias.copy_(torch.from_numpy(B))
        family.family.log_variance.data = torch.from_numpy(np.log(PSI))
        encoder.head.weight.zero_()
        encoder.head.weight[:D] = torch.from_numpy(gain)
        encoder.head.bias.copy_(torch.from_numpy(np.concatenate([-gain @ B + offset, rest])))
    model = aevb.Model(aevb.standard_normal(D), family).double()
    return model, aevb.full_covariance(encoder).double()


def draws(n, seed=0):
    source = np.random.default_rng(seed)
    z = source.standard_normal((n, D))
    x = z @ W.T + B + source.standard_normal((n, X)) * np.sqrt(PSI)
    return x.astype(np.float32).astype(np.float64)  # what the rows hold


def rows_of(x):
    return Rows(np.asarray(x), np.arange(len(x)), (x.shape[1],))


def with_holes(x, seed=1):
    """A third of the cells missing; the first row wholly, the second not at all."""
    holes = np.random.default_rng(seed).random(x.shape) < 0.35
    holes[0], holes[1] = True, False
    return np.where(holes, np.nan, x)


def code_given(x):
    """Mean and covariance of z given the observed cells of one row."""
    seen = ~np.isnan(x)
    w, precision = W[seen], np.diag(1 / PSI[seen])
    covariance = np.linalg.inv(np.eye(D) + w.T @ precision @ w)
    return covariance @ w.T @ precision @ (x[seen] - B[seen]), covariance


def filled_exactly(x):
    means = np.stack([W @ code_given(row)[0] + B for row in x])
    return np.where(np.isnan(x), means, x)


def spread(x):
    """The deviation of E[x given z] over z given the observed cells, (N, X)."""
    return np.stack([np.sqrt(np.diag(W @ code_given(row)[1] @ W.T)) for row in x])


PAIRS = {"exact": (0.0, 1.0), "wide-and-beside": (0.25, 1.6)}
ERRORS = {"importance": (1000, 2.0), "hmc": (300, 1.5)}
"""Draws, and how far the answers may lie from the truth, in errors of as many independent draws."""


def errors_in_filling(method, encoder):
    """How many errors of independent exact draws each filled cell lies from the truth."""
    model, posterior = linear_pair(*PAIRS[encoder])
    x, samples = with_holes(draws(200)), ERRORS[method][0]
    got = imputation.impute(model, posterior, rows_of(x), method=method, samples=samples)
    assert not np.isnan(got).any()
    assert (got[~np.isnan(x)] == x[~np.isnan(x)]).all()
    error = spread(x) / math.sqrt(samples)
    return ((got - filled_exactly(x)) / error)[np.isnan(x)]


@pytest.mark.parametrize("encoder", PAIRS)
@pytest.mark.parametrize("method", ERRORS)
def test_a_linear_model_is_filled_as_algebra_says(method, encoder):
    found, limit = errors_in_filling(method, encoder), ERRORS[method][1]
    assert math.sqrt((found**2).mean()) < limit
    assert abs(found.mean()) < limit / 4


def test_the_two_methods_agree_and_their_seed_counts():
    model, posterior = linear_pair()
    rows = rows_of(with_holes(draws(8)))
    importance = imputation.impute(model, posterior, rows, samples=300)
    assert (importance == imputation.impute(model, posterior, rows, samples=300)).all()
    assert (importance != imputation.impute(model, posterior, rows, samples=300, seed=1)).any()
    chain = imputation.impute(model, posterior, rows, method="hmc", samples=300)
    assert (chain == imputation.impute(model, posterior, rows, method="hmc", samples=300)).all()
    assert np.abs(importance - chain).max() < 0.6  # of deviations between 0.5 and 1.4


def test_denoising_is_the_mean_of_the_signal_given_the_row():
    for offset, widen in PAIRS.values():
        model, posterior = linear_pair(offset, widen)
        for x in (draws(20), with_holes(draws(20))):
            got = imputation.denoise(model, posterior, rows_of(x), samples=2000)
            truth = np.stack([W @ code_given(row)[0] + B for row in x])
            error = spread(x) / math.sqrt(2000 / 4)
            assert (np.abs(got - truth) < 5 * error).all()


def test_whole_rows_are_denoised_where_cells_depend_on_each_other():
    _, posterior = linear_pair(widen=4.0)
    decoder = aevb.MLP(D, [], X * (X + 3) // 2).double()
    with torch.no_grad():
        decoder.head.weight.zero_()
        decoder.head.weight[:X] = torch.from_numpy(W)
        decoder.head.bias.copy_(torch.linspace(-1.0, 0.5, X * (X + 3) // 2))
    model = aevb.Model(aevb.standard_normal(D), aevb.full_gaussian(decoder)).double()
    law = model.likelihood(torch.zeros(1, D).double())
    b, precision = law.mean[0].detach().numpy(), law.precision_matrix[0].detach().numpy()
    x = draws(20)
    codes = (x - b) @ precision @ W @ np.linalg.inv(np.eye(D) + W.T @ precision @ W)
    got = imputation.denoise(model, posterior, rows_of(x), samples=4000)
    assert np.abs(got - codes @ W.T - b).max() < 0.15
    with pytest.raises(UsageError, match="does not factorize"):
        imputation.denoise(model, posterior, rows_of(with_holes(x)))


def test_weights_without_the_proposal_would_be_caught(monkeypatch):
    proposed = imputation._propose_by_fills

    def forgetful(*arguments):
        z, log_q = proposed(*arguments)
        return z, torch.zeros_like(log_q)

    monkeypatch.setattr(imputation, "_propose_by_fills", forgetful)
    found = errors_in_filling("importance", "wide-and-beside")
    assert math.sqrt((found**2).mean()) > 2 * ERRORS["importance"][1]


def test_few_draws_do():
    model, posterior = linear_pair()
    x = with_holes(draws(5))
    for samples in (1, 2, 5):
        for method in ERRORS:
            got = imputation.impute(model, posterior, rows_of(x), method=method, samples=samples)
            assert np.isfinite(got).all()


# -- a Bernoulli decoder, summed over a grid ------------------------------------------------------


def filled_by_quadrature(model, x, side=161, limit=7.0):
    """E[x_missing given x_observed] for two latent dimensions, by sums over a grid."""
    points = np.linspace(-limit, limit, side)
    z = np.stack(np.meshgrid(points, points, indexing="ij"), -1).reshape(-1, 2)
    logits = perceptron(weights(model), "likelihood.network.", z)
    seen = ~np.isnan(x)
    log_p = np.where(seen, x, 0) @ logits.T - seen @ np.logaddexp(0, logits).T
    log_p = log_p - 0.5 * (z**2).sum(-1)
    weight = np.exp(log_p - log_p.max(1, keepdims=True))
    weight /= weight.sum(1, keepdims=True)
    return np.where(seen, x, weight @ (1 / (1 + np.exp(-logits))))


@pytest.mark.parametrize(("method", "samples"), [("importance", 2000), ("hmc", 400)])
def test_a_bernoulli_model_is_filled_as_quadrature_says(method, samples):
    model, posterior = small_pair(width=5, spread=1.6, seed=3)
    x = with_holes((np.random.default_rng(2).random((60, 5)) < 0.5).astype(np.float64))
    truth = filled_by_quadrature(model, x)
    got = imputation.impute(model, posterior, rows_of(x), method=method, samples=samples)
    assert np.sqrt(np.square((got - truth)[np.isnan(x)]).mean()) < 0.02
    other = filled_by_quadrature(small_pair(width=5, spread=1.6, seed=4)[0], x)
    assert (other - truth)[np.isnan(x)].std() > 0.15  # the limit tells models apart


BOUNDED = {
    "positive": ("exponential", lambda rng: rng.exponential(size=(200_000, 1))),
    "unit": ("beta", lambda rng: rng.beta(1, 1, size=(200_000, 1))),
    "simplex": ("dirichlet", lambda rng: rng.dirichlet(np.ones(3), 200_000)),
}


@pytest.mark.parametrize("where", BOUNDED)
def test_codes_that_are_no_free_numbers_stay_where_they_may_lie(where):
    """Against the draws of numpy's prior, weighted; hmc would walk out, and is refused."""
    name, draw = BOUNDED[where]
    z = draw(np.random.default_rng(0))
    size = z.shape[1]
    weight = np.random.default_rng(1).normal(size=(4, size)) * 4
    model = aevb.Model(PRIORS[name][1](size), aevb.bernoulli(torch.nn.Linear(size, 4)))
    posterior = FromPrior(model.prior).double()
    with torch.no_grad():
        model.likelihood.network.weight.copy_(torch.from_numpy(weight))
        model.likelihood.network.bias.zero_()
    x = np.array([[0, 1, 0, np.nan]])
    chance = 1 / (1 + np.exp(-z @ weight.T))
    share = np.where(x[0, :3] == 1, chance[:, :3], 1 - chance[:, :3]).prod(1)
    truth = (share * chance[:, 3]).sum() / share.sum()
    assert abs(chance[:, 3].mean() - truth) > 0.02  # what was observed counts
    got = imputation.impute(model.double(), posterior, rows_of(x), samples=20_000)
    assert got[0, 3] == pytest.approx(truth, abs=0.02)
    with pytest.raises(UsageError, match=r"free real numbers, .*: use importance"):
        imputation.impute(model, posterior, rows_of(x), method="hmc")


def test_an_encoder_that_was_trained_on_holes_sees_them():
    class ZeroFilled(torch.nn.Module):
        def __init__(self, network):
            super().__init__()
            self.network = network

        def forward(self, x):
            return self.network(torch.nan_to_num(x, nan=0.0))

    model, posterior = small_pair(width=5, spread=1.6, seed=3)
    masked = aevb.Model(
        model.prior, aevb.Conditional(model.likelihood.network, Masked(model.likelihood.family))
    )
    encoder = aevb.mean_field(ZeroFilled(posterior.conditional.network))
    x = with_holes((np.random.default_rng(2).random((12, 5)) < 0.5).astype(np.float64))
    truth = filled_by_quadrature(model, x)
    for method, samples in (("importance", 4000), ("hmc", 500)):
        got = imputation.impute(masked, encoder, rows_of(x), method=method, samples=samples)
        assert np.sqrt(np.square((got - truth)[np.isnan(x)]).mean()) < 0.02


def test_rows_do_not_depend_on_how_many_are_done_at_once(monkeypatch):
    model, posterior = linear_pair()
    x = with_holes(draws(4))
    whole = imputation.impute(model, posterior, rows_of(x), samples=300)
    monkeypatch.setattr(imputation, "CELLS_AT_ONCE", 300 * 10 * D * 2)
    parts = imputation.impute(model, posterior, rows_of(x), samples=300)
    assert (whole != parts).any()
    assert np.abs(whole - parts).max() < 0.3  # other draws, the same answer
    assert (whole[1] == parts[1]).all()


def test_classes_are_filled_by_the_most_probable_one():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = aevb.Model(
            aevb.standard_normal(2), aevb.categorical(aevb.MLP(2, [4], 9), 3)
        ).double()
        posterior = aevb.mean_field(aevb.MLP(3, [4], 4)).double()
    x = np.array([[0, np.nan, 2.0], [np.nan, np.nan, np.nan]])
    got = imputation.impute(model, posterior, rows_of(x), samples=50)
    assert got[0, [0, 2]].tolist() == [0, 2]
    assert set(got.ravel()) <= {0.0, 1.0, 2.0}


def test_what_cannot_be_filled_is_said_in_a_sentence():
    model, posterior = small_pair(width=3)
    rows = rows_of(np.array([[1.0, np.nan, 0.0]]))
    with pytest.raises(UsageError, match="hmc or importance, found 'mice'"):
        imputation.impute(model, posterior, rows, method="mice")
    full = aevb.Model(aevb.standard_normal(2), aevb.full_gaussian(aevb.MLP(2, [], 9))).double()
    with pytest.raises(UsageError, match=r"does not factorize .* or --covariance diagonal"):
        imputation.impute(full, posterior, rows)
    one_of = aevb.Conditional(aevb.MLP(2, [], 3), OneHotCategorical())
    with pytest.raises(UsageError, match="does not factorize"):
        imputation.impute(aevb.Model(aevb.standard_normal(2), one_of).double(), posterior, rows)
    own = aevb.Model(aevb.standard_normal(2), torch.nn.Linear(2, 3)).double()
    with pytest.raises(UsageError, match="families of aevb"):
        imputation.impute(own, posterior, rows)

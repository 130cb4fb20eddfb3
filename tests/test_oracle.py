"""The linear-Gaussian oracle against scipy, scikit-learn and autograd; and all else against it."""

import copy
import itertools
import math

import mpmath
import numpy as np
import pytest
import torch
from helpers import noise
from laws import dataset
from scipy.stats import multivariate_normal
from sklearn.datasets import load_iris, load_wine
from sklearn.decomposition import PCA, FactorAnalysis

import aevb
from aevb.conditional import Conditional, Unconditional
from aevb.data import Rows
from aevb.distributions import kl
from aevb.errors import DataError, UsageError
from aevb.families import MultivariateNormal, Normal
from aevb.linear_gaussian import (
    LinearGaussian,
    as_linear_gaussian,
    em_step,
    linear_gaussian,
    maximum_likelihood,
)

SEEDS = range(50)


def drawn(seed, shared=None, noise_scale=1.0):
    """A random model of up to 4 latent dimensions and 9 elements."""
    source = np.random.default_rng(seed)
    latent, width = int(source.integers(1, 5)), int(source.integers(5, 10))
    variance = noise_scale * source.uniform(0.05, 2.0, () if shared or seed % 2 else width)
    weight, offset = source.normal(size=(width, latent)), source.normal(size=width)
    return linear_gaussian(weight, offset, variance)


def rows_of(model, n=6, seed=0):
    source = np.random.default_rng([seed, model.width])
    with torch.no_grad():
        covariance = model.weight @ model.weight.mT + torch.diag(model.variance)
        x = source.multivariate_normal(model.offset.numpy(), covariance.numpy(), n)
    return Rows(x.astype(np.float32), np.arange(n), (model.width,))


def truth(model, x):
    """log N(x; b, W W^T + Psi) by scipy."""
    w, b, psi = (t.detach().numpy() for t in (model.weight, model.offset, model.variance))
    return multivariate_normal(b, w @ w.T + np.diag(psi)).logpdf(x)


def perturbed(posterior, size=0.2, seed=0):
    other = copy.deepcopy(posterior)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in other.parameters():
            p.add_(size * torch.randn(p.shape, generator=generator).to(p))
    return other


@pytest.mark.parametrize("seed", SEEDS)
def test_the_evidence_is_scipys(seed):
    model = drawn(seed)
    x = rows_of(model).all().double()
    values = model.log_prob(x).detach().numpy()
    assert np.allclose(values, truth(model, x.numpy()), rtol=1e-12, atol=1e-12)


def test_the_evidence_keeps_its_digits_where_noise_is_small():
    model = drawn(1, noise_scale=1e-8)
    x = rows_of(model).all().double() + 1.0  # far off, in deviations of the noise
    w, b, psi = (t.detach() for t in (model.weight, model.offset, model.variance))
    with mpmath.workdps(60):
        covariance = mpmath.matrix(w.tolist()) * mpmath.matrix(w.mT.tolist())
        covariance += mpmath.diag(psi.tolist())
        rest = mpmath.matrix((x[0] - b).tolist())
        square = (rest.T * mpmath.lu_solve(covariance, rest))[0]
        expected = -(square + mpmath.log(mpmath.det(2 * mpmath.pi * covariance))) / 2
    assert float(model.log_prob(x[0]).detach()) == pytest.approx(float(expected), rel=1e-11)


@pytest.mark.parametrize("scale", [1.0, 10.0])
def test_more_codes_than_elements_and_hardly_any_noise_in_single_precision(scale):
    """Squares of W / sigma have no digits left beside the prior's 1."""
    weight = scale * np.random.default_rng(0).normal(size=(2, 5)).astype(np.float32)
    model = linear_gaussian(weight, [0.0, 1.0], 1e-8)
    x = rows_of(model.double()).all()
    expected = truth(model, x.numpy())
    found = model.float().log_prob(x).detach()
    assert np.allclose(found, expected, atol=0.02)
    q = model.posterior_given(x)
    assert torch.allclose(model.likelihood(q.mean).mean, x, atol=1e-4 * scale)
    assert torch.allclose(model.exact_encoder()(x).scale_tril, q.scale_tril, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("seed", SEEDS)
def test_every_draw_of_the_bound_is_the_evidence_at_the_exact_posterior(seed):
    model = drawn(seed)
    posterior, x = model.exact_encoder(), rows_of(model).all().double()
    with torch.no_grad():
        exact = model.log_prob(x)
        for draw in range(5):
            eps = noise((1, len(x), model.latent_dim), seed=draw)
            for objective in (aevb.elbo_a, aevb.iwae):
                assert torch.allclose(
                    objective(model, posterior, x, eps), exact, atol=1e-10, rtol=0
                )
        many = noise((4000, len(x), model.latent_dim))
        bound = aevb.elbo_b(model, posterior, x, many)
        spread = model.log_likelihood(x, reached(posterior, x, many)).std(0) / math.sqrt(len(many))
        assert (bound - exact).abs().lt(5 * spread).all()


def reached(posterior, x, eps):
    return aevb.distributions.reparameterize(posterior(x), eps)


@pytest.mark.parametrize("seed", SEEDS)
def test_importance_rises_to_the_evidence_and_never_exceeds_it(seed):
    model = drawn(seed)
    rows = rows_of(model, 20)
    exact = model.log_prob(rows.all().double()).detach().numpy().mean()
    mean_field = seed % 2 and model.latent_dim > 1  # of one dimension it is the exact one
    posterior = model.best_mean_field() if mean_field else perturbed(model.exact_encoder())
    repeats = range(20)
    means, errors = [], []
    for k in (1, 10, 100, 1000):
        found = [
            aevb.evidence(model, posterior, rows, k, seed=s, compiled=False).importance.mean
            for s in (repeats if k < 1000 else range(2))
        ]
        means.append(np.mean(found))
        errors.append(np.std(found, ddof=1) / math.sqrt(len(found)))
    assert all(m < exact + 5 * e + 1e-9 for m, e in zip(means, errors, strict=True))
    below = [(exact - m, 5 * e) for m, e in zip(means, errors, strict=True)]
    for (more, slack), (less, other) in itertools.pairwise(below):
        assert less < more + slack + other
    assert below[0][0] > below[-1][0]


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_the_exact_posterior_is_the_one_of_the_joint_gaussian(seed):
    model = drawn(seed)
    x = rows_of(model).all().double()
    w, b, psi = (t.detach().numpy() for t in (model.weight, model.offset, model.variance))
    inverse = np.linalg.inv(w @ w.T + np.diag(psi))  # by conditioning, not by precisions
    q = model.exact_encoder()(x)
    assert np.allclose(q.loc.detach(), (x.numpy() - b) @ inverse @ w, atol=1e-11)
    covariance = np.eye(model.latent_dim) - w.T @ inverse @ w
    assert np.allclose(q.covariance_matrix.detach(), covariance, atol=1e-11)
    assert kl(q, model.prior()) is not None


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_the_best_mean_field_loses_its_gap_and_none_loses_less(seed):
    model = drawn(seed)
    x = rows_of(model).all().double()
    exact, best = model.exact_encoder()(x), model.best_mean_field()
    gap = torch.distributions.kl_divergence(
        torch.distributions.MultivariateNormal(best(x).mean, torch.diag_embed(best(x).variance)),
        exact,
    )
    assert torch.allclose(gap, model.mean_field_gap(), atol=1e-10)
    assert float(model.mean_field_gap()) > (0 if model.latent_dim == 1 else 1e-3) - 1e-12
    for other_seed in range(5):
        worse = kl(perturbed(best, 0.05, other_seed)(x), exact)
        assert (worse > gap).all()


def slopes_of(model, x):
    """Parameters, and the slope of the mean log p(x) in each."""
    parameters = [model.weight, model.offset, model.likelihood.family.log_variance]
    return parameters, torch.autograd.grad(model.log_prob(x).mean(), parameters)


@pytest.mark.parametrize("seed", range(6))
def test_the_evidence_has_the_slopes_of_differences(seed):
    model = drawn(seed)
    x = rows_of(model, 9).all().double()
    parameters, slopes = slopes_of(model, x)
    for p, slope in zip(parameters, slopes, strict=True):
        flat, step = p.data.view(-1), 1e-5
        both = []
        for sign in (1, -1):
            flat[0] += sign * step
            both.append(truth(model, x.numpy()).mean())
            flat[0] -= sign * step
        assert (both[0] - both[1]) / (2 * step) == pytest.approx(float(slope.view(-1)[0]), abs=1e-7)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_bounds_have_the_slope_of_the_evidence_at_the_exact_posterior(seed):
    model = drawn(seed)
    x, posterior = rows_of(model, 5).all().double(), model.exact_encoder()
    parameters, exact = slopes_of(model, x)
    found = []
    for draw in range(400):
        bound = aevb.elbo_a(model, posterior, x, noise((2, 5, model.latent_dim), draw)).mean()
        found.append(torch.cat([g.flatten() for g in torch.autograd.grad(bound, parameters)]))
    slopes = torch.stack(found)
    exact = torch.cat([g.flatten() for g in exact])
    error = slopes.std(0) / math.sqrt(len(slopes))
    assert ((slopes.mean(0) - exact).abs() < 5 * error + 1e-9).all()


TABLES = {"iris": load_iris, "wine": load_wine}


def standardized(name):
    x = TABLES[name]().data
    return (x - x.mean(0)) / x.std(0)


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("latent", [1, 2, 3])
def test_probabilistic_pca_is_scikit_learns(name, latent):
    x = standardized(name)
    model, pca = maximum_likelihood(x, latent), PCA(latent).fit(x)
    with torch.no_grad():
        ours = model.weight @ model.weight.mT + torch.diag(model.variance)
        reached = model.log_prob(torch.from_numpy(x)).mean()
    # scikit-learn divides by N - 1: its model is not quite the most probable one
    assert np.allclose(ours, pca.get_covariance() * (len(x) - 1) / len(x), atol=1e-10)
    assert pca.score(x) <= float(reached) < pca.score(x) + 1e-3
    _, slopes = slopes_of(model, torch.from_numpy(x))
    assert max(float(g.abs().max()) for g in slopes) < 1e-10


@pytest.mark.parametrize(("name", "latent"), [("wine", 1), ("wine", 2), ("wine", 3)])
def test_factor_analysis_is_scikit_learns(name, latent):
    x = standardized(name)
    theirs = FactorAnalysis(latent, tol=1e-8, max_iter=3000).fit(x).score(x)
    model = maximum_likelihood(x, latent, (x.shape[1],))
    assert float(model.log_prob(torch.from_numpy(x)).mean().detach()) == pytest.approx(
        theirs, abs=2e-6
    )
    assert model.noise_shape == (x.shape[1],)


def test_em_never_falls_and_says_what_it_reached():
    x = torch.from_numpy(standardized("wine"))
    covariance = x.mT @ x / len(x)
    weight, variance, before = noise((13, 3), 1), torch.full((13,), 0.5).double(), -math.inf
    for _ in range(100):
        start = linear_gaussian(weight, torch.zeros(13).double(), variance)
        weight, variance, at_start = em_step(weight, variance, covariance)
        assert at_start == pytest.approx(float(start.log_prob(x).mean().detach()), abs=1e-11)
        assert at_start > before
        before = at_start


def test_training_stays_at_the_maximum():
    x = standardized("iris")
    model = maximum_likelihood(x, 2)
    posterior = model.exact_encoder()
    rows = Rows(x.astype(np.float32), np.arange(len(x)), (4,))
    start = float(model.log_prob(torch.from_numpy(x)).mean().detach())
    learner = aevb.AEVB(model, posterior, optimizer=aevb.Adam(lr=1e-3))
    aevb.train(learner, dataset(rows), aevb.Plan(epochs=60, batch_size=len(x), samples=8))
    reached = float(model.log_prob(torch.from_numpy(x)).mean().detach())
    assert start - 5e-3 < reached <= start + 1e-9
    assert reached != start


@pytest.mark.parametrize("full", [False, True], ids=["diagonal-prior", "full-prior"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_a_linear_model_with_any_gaussian_prior_is_recognized(full, dtype):
    torch.manual_seed(3)
    prior = Unconditional(MultivariateNormal() if full else Normal(), 2, learned=True)
    decoder = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Linear(4, 5))
    family = Normal(noise_shape=(5,))
    model = aevb.Model(prior, Conditional(decoder, family)).to(dtype)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape))
    found = as_linear_gaussian(model)
    p = model.double().prior()
    base = p if full else p.base_dist
    cov = base.covariance_matrix if full else torch.diag(base.variance)
    w = decoder[1].weight @ decoder[0].weight
    b = decoder[1](decoder[0](base.loc))
    x = noise((6, 5))
    law = multivariate_normal(
        b.detach(), (w @ cov @ w.mT + torch.diag(family.log_variance.exp())).detach()
    )
    assert np.allclose(found.log_prob(x).detach(), law.logpdf(x), atol=1e-9)
    assert all(p.dtype == torch.float64 for p in found.parameters())


class Twisted(LinearGaussian):
    def log_likelihood(self, x, z):
        return 1.001 * super().log_likelihood(x, z)


class FarKink(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(2, 3)

    def forward(self, z):
        return self.linear(z) + torch.relu(z[..., :1].abs() - 20)


def nearly(size):
    class Bent(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(2, 3)

        def forward(self, z):
            return self.linear(z) + size * z[..., :1].square()

    return aevb.Model(aevb.standard_normal(2), Conditional(Bent(), Normal(noise_shape=())))


@pytest.mark.parametrize(
    "model",
    [
        aevb.Model(aevb.standard_normal(2), aevb.gaussian(aevb.MLP(2, [], 6))),
        aevb.Model(aevb.standard_normal(2), aevb.gaussian(aevb.MLP(2, [9], 3), noise_shape=())),
        aevb.Model(
            aevb.standard_normal(2),
            aevb.gaussian(aevb.MLP(2, [9], 3, torch.nn.ReLU), noise_shape=()),
        ),
        aevb.Model(aevb.standard_normal(2), aevb.bernoulli(aevb.MLP(2, [], 3))),
        aevb.Model(
            aevb.standard_normal(2),
            aevb.gaussian(aevb.MLP(2, [], 3), noise_shape=(), sigmoid_mean=True),
        ),
        Twisted(2, 3),
        nearly(1e-6),
        aevb.Model(aevb.standard_normal(2), Conditional(FarKink(), Normal(noise_shape=()))),
    ],
    ids=[
        "noise-of-z",
        "tanh",
        "relu",
        "bernoulli",
        "sigmoid",
        "own-density",
        "bent",
        "kink-far-out",
    ],
)
def test_a_model_that_is_not_linear_gaussian_is_not_taken_for_one(model):
    assert as_linear_gaussian(model) is None
    assert as_linear_gaussian(nearly(0.0)) is not None


ROWS = np.random.default_rng(0).random((9, 3))


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda: linear_gaussian(np.ones((3, 2)), np.ones(2), 1.0), UsageError, "offset"),
        (lambda: linear_gaussian(np.ones((3, 2)), np.ones(3), 0.0), UsageError, "positive"),
        (lambda: LinearGaussian(2, 3, (2,)), UsageError, "noise"),
        (lambda: maximum_likelihood(np.ones((9, 3)), 3), UsageError, "dimensions"),
        (lambda: maximum_likelihood(np.eye(3), 1, (2,)), UsageError, "has shape"),
        (lambda: maximum_likelihood(np.outer(range(5), [1, 2, 3]), 1), DataError, "no noise"),
        (
            lambda: maximum_likelihood(
                np.c_[np.random.default_rng(0).random((9, 3)), np.ones(9)], 1, (4,)
            ),
            DataError,
            "column 4",
        ),
        (lambda: maximum_likelihood([[0.0, np.nan], [1.0, 2.0]], 1), DataError, "not finite"),
        (lambda: LinearGaussian(2, 3).log_prob(torch.ones(4, 5)), DataError, "3 numbers"),
    ],
    ids=["shapes", "variance", "noise", "latent", "name", "rank", "constant", "missing", "width"],
)
def test_what_cannot_be_is_said_in_one_sentence(call, error, said):
    with pytest.raises(error, match=said) as caught:
        call()
    assert "\n" not in str(caught.value)

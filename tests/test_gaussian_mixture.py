"""The mixture of Gaussians as an oracle, against scipy, scikit-learn and autograd; Bayes' rule
over listed codes against sums by hand."""

import itertools
import math

import numpy as np
import pytest
import torch
from helpers import binary_rows, noise, small_pair
from laws import dataset
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from sklearn.mixture import GaussianMixture as Theirs

import aevb
from aevb import codes
from aevb.conditional import Unconditional
from aevb.data import Rows
from aevb.distributions import kl, reparameterize
from aevb.distributions.listed import Listed
from aevb.errors import DataError, UsageError
from aevb.evaluation import evidence, exact
from aevb.families import Bernoulli
from aevb.gaussian_mixture import COVARIANCES, GaussianMixture, gaussian_mixture
from aevb.objectives import enumeration
from aevb.posterior import ExactPosterior

SEEDS = range(20)


def drawn(seed, kind="full"):
    """A random mixture of up to 5 components over up to 4 elements, with its numbers."""
    source = np.random.default_rng(seed)
    k, width = int(source.integers(1, 6)), int(source.integers(1, 5))
    weights, means = source.dirichlet(np.ones(k)), source.normal(size=(k, width))
    if kind == "full":
        factor = source.normal(size=(k, width, width))
        sigma = factor @ factor.transpose(0, 2, 1) + 0.1 * np.eye(width)
        return gaussian_mixture(weights, means, sigma), (weights, means, sigma)
    size = (k, width) if kind == "diagonal" else (k, 1)
    variances = source.uniform(0.1, 2.0, size)
    sigma = np.stack([np.diag(v) for v in np.broadcast_to(variances, (k, width))])
    given = variances if kind == "diagonal" else variances[:, 0]
    return gaussian_mixture(weights, means, given), (weights, means, sigma)


def joint(numbers, x):
    """log pi_k + log N(x; mu_k, Sigma_k) by scipy, (N, K)."""
    columns = [
        np.log(w) + np.atleast_1d(multivariate_normal(m, s).logpdf(x))
        for w, m, s in zip(*numbers, strict=True)
    ]
    return np.stack(columns, -1)


@pytest.mark.parametrize("kind", COVARIANCES)
@pytest.mark.parametrize("seed", SEEDS)
def test_density_and_responsibilities_are_scipys(seed, kind):
    model, numbers = drawn(seed, kind)
    x = np.random.default_rng(seed).normal(size=(7, model.width)) * 3
    table = joint(numbers, x)
    found = model.log_prob(torch.as_tensor(x)).detach().numpy()
    assert np.allclose(found, logsumexp(table, axis=1), rtol=1e-12, atol=1e-12)
    shares = ExactPosterior(model)(torch.as_tensor(x)).mean
    expected = np.exp(table - logsumexp(table, axis=1, keepdims=True))
    assert np.allclose(shares.numpy(), expected, atol=1e-12)
    for ours, theirs in zip((model.weights, model.means, model.covariances), numbers, strict=True):
        assert np.allclose(ours.detach().numpy(), theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", COVARIANCES)
def test_all_that_evaluates_models_agrees(kind):
    model, _ = drawn(3, kind)
    x = np.random.default_rng(0).normal(size=(9, model.width)).astype(np.float32)
    rows = Rows(x, np.arange(9), (model.width,))
    truth = model.log_prob(torch.as_tensor(x).double()).detach().numpy()
    posterior = ExactPosterior(model)
    found = exact(model, posterior, rows)
    assert found.details["by"] == "enumeration"
    assert np.allclose(found.values, truth, atol=1e-10)
    for k in (1, 5):  # at the exact posterior every weight is p(x)
        sampled = evidence(model, posterior, rows, k)
        assert np.allclose(sampled.importance.values, truth, atol=1e-10)
        assert sampled.kl_by == "closed form"


@pytest.mark.parametrize("kind", COVARIANCES)
def test_the_density_integrates_to_one(kind):
    source = np.random.default_rng(5)
    sigma = {"full": [[[0.3]], [[1.5]]], "diagonal": [[0.3], [1.5]], "spherical": [0.3, 1.5]}[kind]
    model = gaussian_mixture([0.3, 0.7], source.normal(size=(2, 1)), sigma)
    grid = torch.linspace(-30, 30, 20_001, dtype=torch.float64)
    with torch.no_grad():
        assert float(torch.trapezoid(model.log_prob(grid[:, None]).exp(), grid)) == pytest.approx(1)


@pytest.mark.parametrize("kind", COVARIANCES)
def test_standardized_numbers_give_densities_of_the_data(kind):
    x = np.random.default_rng(1).normal(size=(50, 3)) * [1.0, 100.0, 1e-3] + [0.0, 5.0, 1.0]
    x = torch.as_tensor(x)
    model = GaussianMixture(2, 3, kind, standardized=True).double()
    model.likelihood.family.fit(x)
    spread = x.std(0, unbiased=False)
    inner = GaussianMixture(2, 3, kind).double()
    inner.load_state_dict({k: v for k, v in model.state_dict().items() if "family" not in k})
    u = (x - x.mean(0)) / spread
    assert torch.allclose(model.standardize(x), u, rtol=1e-6)
    expected = inner.log_prob(u) - spread.log().sum()
    assert torch.allclose(model.log_prob(x), expected, rtol=1e-6)
    assert torch.allclose(model.means, x.mean(0) + spread * inner.means, rtol=1e-6)
    scale = torch.diag(spread)
    assert torch.allclose(model.covariances, scale @ inner.covariances @ scale, rtol=1e-6)


def test_gradients_at_draws_and_over_codes_are_those_of_the_evidence():
    model, _ = drawn(7)
    x = torch.as_tensor(np.random.default_rng(2).normal(size=(6, model.width)))
    truth = torch.autograd.grad(model.log_prob(x).sum(), list(model.parameters()))
    q = ExactPosterior(model)(x)
    table = model.log_joint_by_component(x)
    whole = torch.autograd.grad((q.mean * table).sum(), list(model.parameters()))
    for ours, theirs in zip(whole, truth, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-10)
    objective = enumeration(model, ExactPosterior(model), x, torch.zeros(1, 6, 0)).sum()
    listed = torch.autograd.grad(objective, list(model.parameters()))
    u = torch.as_tensor(np.random.default_rng(3).random((40_000, 6)))
    z = reparameterize(ExactPosterior(model)(x), u)
    sampled = torch.autograd.grad(model.log_joint(x, z).mean(0).sum(), list(model.parameters()))
    for ours, draws, theirs in zip(listed, sampled, truth, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-10)
        assert (draws - theirs).abs().max() < 0.05 * (1 + theirs.abs().max())


def test_gradient_learning_raises_the_evidence():
    source = np.random.default_rng(0)
    x = np.concatenate([source.normal(-3, 1, (100, 2)), source.normal(3, 0.5, (100, 2))])
    rows = Rows(x.astype(np.float32), np.arange(200), (2,))
    model = GaussianMixture(2, 2, "diagonal", min_variance=1e-4)
    model.put(torch.ones(2) / 2, torch.tensor([[-1.0, 0.0], [1.0, 0.0]]), 4 * torch.ones(2, 2))
    before = float(model.log_prob(rows.all()).mean().detach())
    posterior = ExactPosterior(model)
    learner = aevb.AEVB(model, posterior, enumeration, optimizer=aevb.Adam(0.05))
    aevb.train(learner, dataset(rows), aevb.Plan(epochs=60, batch_size=50))
    truth = Theirs(2, covariance_type="diag", random_state=0).fit(x).score(x)
    after = float(model.log_prob(rows.all()).mean().detach())
    assert before + 1 < truth - 0.05 < after < truth + 1e-3


def test_the_floor_holds_every_variance():
    for kind in COVARIANCES:
        model = GaussianMixture(2, 3, kind, min_variance=0.25).double()
        sigma = {"full": torch.eye(3).expand(2, 3, 3), "diagonal": torch.ones(2, 3)}
        small = sigma.get(kind, torch.ones(2, 1)).double() * 0.1
        model.put(torch.tensor([0.5, 0.5]), torch.zeros(2, 3), small)
        values = torch.linalg.eigvalsh(model.covariances.detach())
        assert torch.allclose(values, torch.full_like(values, 0.25))


# --- Bayes' rule over listed codes ---------------------------------------------------------------


def belief(size=4, width=6):
    """A sigmoid belief net of one layer with few coins."""
    model, _ = small_pair(latent=size, width=width, spread=2.0)
    prior = Unconditional(Bernoulli(), size, learned=True)
    with torch.no_grad():
        prior.raw.copy_(torch.linspace(-1.5, 1.0, size))
    return aevb.Model(prior, model.likelihood).double()


def test_the_exact_posterior_of_coins_is_the_table_by_hand():
    model = belief()
    x = binary_rows(5).all().double()
    every = torch.tensor(list(itertools.product([0.0, 1.0], repeat=4))).double()
    table = torch.stack([model.log_joint(x, z.expand(1, 5, 4))[0] for z in every])
    q = ExactPosterior(model)(x)
    assert torch.allclose(q.probs, torch.softmax(table, 0).mT.detach(), atol=1e-12)
    assert torch.allclose(q.mean, (torch.softmax(table, 0).mT @ every).detach(), atol=1e-12)
    divergence = (q.probs * (q.logits - model.prior().log_prob(every))).sum(-1)
    assert torch.allclose(kl(q, model.prior()), divergence, atol=1e-12)
    # log p(x) = E log p(x given z) - KL, to rounding
    terms = torch.stack([model.log_likelihood(x, z.expand(1, 5, 4))[0] for z in every])
    bound = (q.probs * terms.mT).sum(-1) - divergence
    assert torch.allclose(bound, torch.logsumexp(table, 0), atol=1e-10)


def test_draws_come_as_often_as_their_probability_says():
    logits = torch.tensor([[0.2, 0.5, 0.3], [0.9, 0.05, 0.05]]).double().log()
    values = torch.tensor([[0.0, 1.0], [2.0, 2.0], [1.0, 0.0]]).double()
    law = Listed(values, logits)
    u = (torch.arange(10_000).double() + 0.5) / 10_000
    z = reparameterize(law, u[:, None].expand(-1, 2))
    for i, row in enumerate(values):
        share = (z == row).all(-1).double().mean(0)
        assert torch.allclose(share, law.probs[:, i], atol=1e-3)
    assert torch.allclose(law.log_prob(z), law.log_prob(z.clone()), atol=1e-12)
    assert float(law.log_prob(torch.tensor([9.0, 9.0]).double())[0]) == -math.inf
    assert torch.allclose(z.mean(0), law.mean, atol=1e-3)
    assert torch.allclose(z.var(0), law.variance, atol=1e-3)
    entropy = -(law.probs * law.logits).sum(-1)
    assert torch.allclose(law.entropy(), entropy)
    assert torch.equal(law.expand((5, 2)).mean, law.mean.expand(5, 2, 2))


def test_draws_of_each_noise_by_itself_are_those_of_all_without_a_warning():
    logits, u = torch.tensor([[0.2, 0.5, 0.3], [0.9, 0.05, 0.05]]).log(), torch.rand(5, 4, 2)

    def of(logits, u):
        return reparameterize(Listed(torch.eye(3), logits), u)

    torch.set_warn_always(True)
    try:
        assert torch.equal(
            torch.func.vmap(of, (None, 0))(logits, u), torch.stack([of(logits, one) for one in u])
        )
    finally:
        torch.set_warn_always(False)


def test_a_value_that_never_comes_adds_nothing():
    law = Listed(torch.eye(2), torch.tensor([0.0, -math.inf]))
    assert float(law.entropy()) == 0.0
    other = torch.distributions.OneHotCategorical(torch.tensor([0.5, 0.5]))
    assert float(kl(law, other)) == pytest.approx(math.log(2))


# --- files, codes, refusals ----------------------------------------------------------------------


def test_a_saved_mixture_gives_the_same_numbers(tmp_path):
    model = GaussianMixture(3, 4, "full", 1e-4, standardized=True)
    model.likelihood.family.fit(torch.randn(20, 4, generator=torch.Generator().manual_seed(0)))
    aevb.save(tmp_path, model, ExactPosterior(model))
    again, posterior = aevb.load(tmp_path)
    x = torch.ones(5, 4)
    assert torch.equal(again.log_prob(x), model.log_prob(x))
    assert torch.equal(posterior(x).mean, ExactPosterior(model)(x).mean)
    assert posterior.model is again


def test_codes_are_responsibilities():
    model, _ = drawn(3)
    x = np.random.default_rng(0).normal(size=(9, model.width)).astype(np.float32)
    rows = Rows(x, np.arange(9), (model.width,))
    posterior = ExactPosterior(model)
    shares = codes.encode(model, posterior, rows)
    assert np.allclose(shares.sum(1), 1)
    drawn_codes = codes.encode_samples(model, posterior, rows, samples=3)
    assert np.array_equal(np.unique(drawn_codes), [0.0, 1.0])


LEANING = [[[1.0, 0.9], [0.0, 1.0]]]
"""Of which a Cholesky factor sees the lower half."""


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda: GaussianMixture(2, 3, "tied"), UsageError, "full, diagonal, spherical"),
        (lambda: GaussianMixture(0, 3), UsageError, "component"),
        (lambda: GaussianMixture(2, 3).log_prob(torch.ones(4, 5)), DataError, "3 numbers"),
        (lambda: gaussian_mixture([1.0], [[0.0]], [[[0.0]]]), UsageError, "definite"),
        (lambda: gaussian_mixture([1.0], np.zeros((1, 2)), LEANING), UsageError, "symmetric"),
        (lambda: gaussian_mixture([0.5, 0.4], np.zeros((2, 1)), [1, 1]), UsageError, "add up"),
        (lambda: gaussian_mixture([0.5, 0.5], np.zeros((2, 2)), np.ones(3)), UsageError, "found"),
        (lambda: ExactPosterior(small_pair()[0])(torch.ones(2, 6)), UsageError, "listed"),
    ],
    ids=["name", "none", "width", "singular", "leaning", "weights", "shapes", "continuous"],
)
def test_what_cannot_be_is_said_in_one_sentence(call, error, said):
    with pytest.raises(error, match=said) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_the_noise_of_a_listed_law_is_one_number():
    model, _ = drawn(3)
    with pytest.raises(UsageError, match="noise"):
        reparameterize(ExactPosterior(model)(torch.zeros(2, model.width)), noise((1, 3)))

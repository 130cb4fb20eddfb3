"""Expectation maximization against scikit-learn, closed forms and the law that it never falls."""

import warnings

import numpy as np
import pytest
import torch
from helpers import outcome
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from laws import dataset
from sklearn.datasets import load_iris, load_wine
from sklearn.decomposition import PCA, FactorAnalysis
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture as Theirs
from zoo.known import clusters

import aevb
from aevb.algorithms import EM, GeneralizedEM
from aevb.algorithms.em import moments, start_at_clusters
from aevb.conditional import Conditional, Unconditional
from aevb.data import Rows, Source, split
from aevb.enumeration import enumerate_codes
from aevb.errors import TrainingError, UsageError
from aevb.families import Bernoulli, Normal, OneHotCategorical, Standardized
from aevb.gaussian_mixture import COVARIANCES, GaussianMixture, gaussian_mixture
from aevb.linear_gaussian import LinearGaussian, linear_gaussian, maximum_likelihood
from aevb.posterior import Batch, ExactPosterior
from aevb.storage import RunFolder

NAMES = {"full": "full", "diagonal": "diag", "spherical": "spherical"}
"""What scikit-learn calls them."""


def steps(learner, x, count):
    """So many steps; the log p(x) that each began at, and at the end the present one."""
    state, reached = learner.init(), []
    for _ in range(count):
        state.totals.zero_()
        learner.step(state, x)
        reached.append(state.averages()["elbo"])
    return np.array(reached)


def start(kind, x, k, seed):
    """A mixture of numbers drawn at random, and the same as scikit-learn takes them."""
    source = np.random.default_rng(seed)
    weights, means = source.dirichlet(5 * np.ones(k)), x.numpy()[source.choice(len(x), k, False)]
    width = x.shape[1]
    if kind == "full":
        factor = 0.3 * source.normal(size=(k, width, width))
        given = factor @ factor.transpose(0, 2, 1) + np.eye(width)
        precisions = np.linalg.inv(given)
    else:
        given = source.uniform(0.5, 2.0, (k, width) if kind == "diagonal" else k)
        precisions = 1 / given
    model = gaussian_mixture(weights, means, given)
    begun = {"weights_init": weights, "means_init": means, "precisions_init": precisions}
    return model, begun


def fitted(k, x, kind, count, **more):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # as many steps as we ask for
        theirs = Theirs(k, covariance_type=NAMES[kind], tol=0, max_iter=count, **more)
        return theirs.fit(x.numpy())


def covariances_of(theirs, width):
    match theirs.covariance_type:
        case "full":
            return theirs.covariances_
        case "diag":
            return np.stack([np.diag(v) for v in theirs.covariances_])
        case _:
            return theirs.covariances_[:, None, None] * np.eye(width)


# --- mixtures of Gaussians -----------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 3, 40])
@pytest.mark.parametrize("kind", COVARIANCES)
def test_a_mixture_is_scikit_learns_from_the_same_numbers(kind, count):
    x = clusters(1)
    model, begun = start(kind, x, 4, seed=2)
    reached = steps(EM(model, len(x)), x, count)
    theirs = fitted(4, x, kind, count, **begun)
    assert np.allclose(model.weights.detach(), theirs.weights_, atol=1e-9)
    assert np.allclose(model.means.detach(), theirs.means_, atol=1e-9)
    assert np.allclose(model.covariances.detach(), covariances_of(theirs, 3), atol=1e-9)
    assert float(model.log_prob(x).mean().detach()) == pytest.approx(theirs.score(x), abs=1e-10)
    assert reached[-1] == pytest.approx(theirs.lower_bound_, abs=1e-10)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", COVARIANCES)
def test_a_start_by_k_means_is_scikit_learns_of_the_same_seed(kind, seed):
    x = clusters(seed)
    model = GaussianMixture(3, 3, kind).double()
    start_at_clusters(model, x, seed)
    steps(EM(model, len(x)), x, 25)
    theirs = fitted(3, x, kind, 25, random_state=seed)
    assert np.allclose(model.means.detach(), theirs.means_, atol=1e-9)
    assert np.allclose(model.covariances.detach(), covariances_of(theirs, 3), atol=1e-9)


def test_a_larger_reg_is_scikit_learns_reg_covar():
    x = clusters(4)
    model, begun = start("full", x, 3, seed=0)
    steps(EM(model, len(x), reg=0.5), x, 20)
    theirs = fitted(3, x, "full", 20, reg_covar=0.5, **begun)
    assert np.allclose(model.covariances.detach(), theirs.covariances_, atol=1e-9)


@pytest.mark.parametrize("kind", COVARIANCES)
def test_where_em_rests_the_gradient_of_the_evidence_is_zero(kind):
    x = clusters(2, n=200)
    model, _ = start(kind, x, 2, seed=1)
    steps(EM(model, len(x), reg=0.0), x, 500)
    slopes = torch.autograd.grad(model.log_prob(x).mean(), list(model.parameters()))
    assert max(float(slope.abs().max()) for slope in slopes) < 1e-7
    before, _ = start(kind, x, 2, seed=1)
    begun = torch.autograd.grad(before.log_prob(x).mean(), list(before.parameters()))
    assert max(float(slope.abs().max()) for slope in begun) > 1e-3


@pytest.mark.parametrize("kind", COVARIANCES)
def test_the_likelihood_never_falls_over_random_problems(kind):
    for seed in range(67):  # 201 with all three
        source = np.random.default_rng(seed)
        n, width = int(source.integers(60, 120)), int(source.integers(1, 4))
        x = clusters(seed, n, width) * torch.as_tensor(10.0 ** source.uniform(-2, 2, width))
        k = int(source.integers(1, 6))
        model = GaussianMixture(k, width, kind, standardized=bool(seed % 2)).double()
        if seed % 2:
            model.likelihood.family.fit(x)
        start_at_clusters(model, x, seed, reg=1e-3)
        reached = steps(EM(model, n, reg=1e-9), x, 15)
        assert (np.diff(reached) > -1e-12 * (1 + np.abs(reached[1:]))).all(), seed


def collapsed(kind):
    """Rows of which many are the same, in a table with a column that never varies."""
    x = clusters(3, n=60, width=2)
    x[:30] = x[0]
    constant = torch.cat([x, torch.full((60, 1), 7.0)], 1)
    few = x[:4].repeat(5, 1)  # 3 distinct rows at most
    return {"repeated": x, "constant column": constant, "few distinct": few}[kind]


@pytest.mark.parametrize("what", ["repeated", "constant column", "few distinct"])
@pytest.mark.parametrize("kind", COVARIANCES)
def test_singular_components_stay_finite_and_rise(kind, what):
    x = collapsed(what)
    model = GaussianMixture(5, x.shape[1], kind).double()
    start_at_clusters(model, x, seed=0)
    reached = steps(EM(model, len(x)), x, 60)
    assert np.isfinite(reached).all()
    assert (np.diff(reached) > -1e-6).all()
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())
    least = torch.linalg.eigvalsh(model.covariances.detach()).min()
    assert float(least) > 0.99e-6
    assert float(model.weights.sum().detach()) == pytest.approx(1)


@pytest.mark.parametrize("kind", COVARIANCES)
def test_without_reg_a_component_on_one_point_is_named(kind):
    x = collapsed("few distinct")
    model = GaussianMixture(3, 2, kind).double()
    with pytest.raises(TrainingError, match=r"component \d of the mixture has no spread"):
        start_at_clusters(model, x, seed=0, reg=0.0)


def test_a_component_that_lost_its_data_keeps_its_place_at_weight_zero():
    x = clusters(0, n=50, width=1)
    far = gaussian_mixture([0.5, 0.5], np.array([[0.0], [1e4]]), [1.0, 2.0])
    before = float(far.log_prob(x).mean().detach())
    reached = steps(EM(far, 50), x, 5)
    assert float(far.weights[1].detach()) < 1e-300
    assert float(far.means[1].detach()) == 1e4
    assert float(far.covariances[1].detach()) == pytest.approx(2.0)
    alone = gaussian_mixture([1.0], np.zeros((1, 1)), [1.0])
    assert reached[0] == pytest.approx(before)
    assert reached[-1] == pytest.approx(steps(EM(alone, 50), x, 5)[-1], abs=1e-12)


@given(
    x=arrays(
        np.float64, st.tuples(st.integers(4, 12), st.integers(1, 3)),
        elements=st.floats(-100, 100, width=16),
    ),
    k=st.integers(1, 4),
    kind=st.sampled_from(COVARIANCES),
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_any_finite_rows_give_a_finite_mixture(x, k, kind):
    x = torch.as_tensor(x)
    model = GaussianMixture(k, x.shape[1], kind).double()
    start_at_clusters(model, x, seed=0)
    reached = steps(EM(model, len(x)), x, 10)  # which raises, should it fall
    assert np.isfinite(reached).all()


def test_moments_are_those_of_a_weighted_sample():
    x = clusters(0, n=30, width=2)
    shares = torch.softmax(torch.randn(30, 2, generator=torch.Generator().manual_seed(0)), -1)
    found = moments(GaussianMixture(2, 2).double(), x, shares.double())
    for k in range(2):
        w = shares[:, k].double().numpy()
        assert np.allclose(found.means[k], np.average(x.numpy(), axis=0, weights=w))
        expected = np.cov(x.numpy().T, aweights=w, ddof=0)
        assert np.allclose(found.scatter[k], expected, rtol=1e-6)


def test_a_planted_fall_is_caught():
    x = clusters(0)
    model, _ = start("full", x, 2, seed=0)
    learner = EM(model, len(x))
    state = learner.init()
    for _ in range(20):
        learner.step(state, x)
    with torch.no_grad():
        model.likelihood.network.means.add_(3.0)
    with pytest.raises(TrainingError, match="fell from") as caught:
        learner.step(state, x)
    assert "\n" not in str(caught.value)


# --- the linear-Gaussian model -------------------------------------------------------------------


def standardized(load):
    x = load().data
    return torch.as_tensor((x - x.mean(0)) / x.std(0))


@pytest.mark.parametrize("load", [load_iris, load_wine], ids=["iris", "wine"])
def test_isotropic_noise_reaches_probabilistic_pca(load):
    x = standardized(load)
    torch.manual_seed(0)
    model = LinearGaussian(2, x.shape[1]).double()
    reached = steps(EM(model, len(x)), x, 400)
    truth = PCA(2).fit(x.numpy())
    ours = float(model.log_prob(x).mean().detach())
    # scikit-learn divides by N - 1: the closed form by N is the largest there is
    best = maximum_likelihood(x.numpy(), 2)
    assert ours == pytest.approx(float(best.log_prob(x).mean().detach()), abs=1e-9)
    assert truth.score(x.numpy()) - 1e-9 < ours < truth.score(x.numpy()) + 1e-3
    for side in (lambda m: m.weight @ m.weight.mT, lambda m: m.variance, lambda m: m.offset):
        assert torch.allclose(side(model), side(best), atol=1e-6)
    assert (np.diff(reached) > -1e-12).all()


@pytest.mark.parametrize("latent", [1, 2])
def test_noise_by_column_reaches_factor_analysis(latent):
    x = standardized(load_wine)
    torch.manual_seed(0)
    model = LinearGaussian(latent, x.shape[1], (x.shape[1],)).double()
    reached = steps(EM(model, len(x)), x, 1200)
    theirs = FactorAnalysis(latent, tol=1e-13, max_iter=100_000, svd_method="lapack").fit(x.numpy())
    assert float(model.log_prob(x).mean().detach()) == pytest.approx(
        theirs.score(x.numpy()), abs=1e-8
    )
    assert np.allclose(model.variance.detach(), theirs.noise_variance_, atol=1e-5)
    ours = (model.weight @ model.weight.mT).detach().numpy()
    assert np.allclose(ours, theirs.components_.T @ theirs.components_, atol=1e-5)
    assert (np.diff(reached) > -1e-12).all()


@pytest.mark.parametrize("shape", [(), (4,)], ids=["isotropic", "by-column"])
def test_the_linear_posterior_follows_the_model(shape):
    x = clusters(1, width=4)
    torch.manual_seed(0)
    model = LinearGaussian(2, 4, shape).double()
    learner = EM(model, len(x))
    reached = steps(learner, x, 8)
    eps = torch.zeros(1, len(x), 2).double()
    exact = model.log_prob(x)
    assert torch.allclose(aevb.elbo_a(model, learner.posterior, x, eps), exact, atol=1e-9)
    assert reached[-1] < float(exact.mean().detach())


def test_the_parts_of_the_bound_are_the_posteriors():
    x = clusters(1)
    for model in (start("full", x, 3, seed=0)[0], linear_gaussian(np.ones((3, 1)), np.zeros(3), 1)):
        model = model.double()
        q = ExactPosterior(model)(x)
        divergence = aevb.distributions.kl(q, model.prior()).mean()
        evidence = model.log_prob(x).mean()
        learner = EM(model, len(x))
        state = learner.init()
        learner.step(state, x)
        found = state.averages()
        assert found["elbo"] == pytest.approx(float(evidence.detach()), abs=1e-10)
        assert found["kl"] == pytest.approx(float(divergence.detach()), abs=1e-10)
        assert found["reconstruction"] == pytest.approx(found["elbo"] + found["kl"], abs=1e-10)


# --- generalized EM ------------------------------------------------------------------------------


def mixture_of_coins(k=3, width=6):
    torch.manual_seed(1)
    prior = Unconditional(OneHotCategorical(), k, learned=True)
    return aevb.Model(prior, aevb.bernoulli(aevb.MLP(k, [], width))).double()


def belief_net(size=3, width=6):
    torch.manual_seed(1)
    prior = Unconditional(Bernoulli(), size, learned=True)
    return aevb.Model(prior, aevb.bernoulli(aevb.MLP(size, [], width))).double()


def coins(seed=0, n=80, width=6):
    source = np.random.default_rng(seed)
    chances = source.random((3, width))[source.integers(0, 3, n)]
    return torch.as_tensor((source.random((n, width)) < chances).astype(float))


def evidence(model, x):
    return enumerate_codes(model, x).log_evidence.mean()


def closed_em(x, weights, chances, count):
    """EM for a mixture of coins, in numpy (Bishop 2006, section 9.3.3)."""
    for _ in range(count):
        table = np.log(weights) + x @ np.log(chances).T + (1 - x) @ np.log(1 - chances).T
        shares = np.exp(table - np.logaddexp.reduce(table, 1)[:, None])
        weights = shares.mean(0)
        chances = shares.T @ x / shares.sum(0)[:, None]
    return np.logaddexp.reduce(table, 1).mean(), weights, chances


def test_an_m_step_to_its_end_is_that_of_closed_em():
    x, model = coins(), mixture_of_coins()
    with torch.no_grad():
        laws = model.likelihood(torch.eye(3).double())
        begun = model.prior().probs.numpy(), laws.base_dist.probs.numpy()
        before, weights, chances = closed_em(x.numpy(), *begun, 1)
    reached = steps(GeneralizedEM(model, len(x), steps=1000), x, 1)
    assert reached[-1] == pytest.approx(before, abs=1e-12)
    with torch.no_grad():
        found = model.likelihood(torch.eye(3).double()).base_dist.probs
        assert np.allclose(model.prior().probs, weights, atol=1e-5)
        assert np.allclose(found, chances, atol=1e-5)


@pytest.mark.parametrize("make", [mixture_of_coins, belief_net], ids=["mixture", "belief-net"])
@pytest.mark.parametrize("prior", [False, True], ids=["likelihood", "map"])
def test_where_generalized_em_rests_the_gradient_is_zero(make, prior):
    x, model = coins(n=40), make()
    learner = GeneralizedEM(model, len(x), steps=20, weight_prior=prior)
    state = learner.init()

    def slope():
        objective = evidence(model, x)
        if prior:
            objective = objective - sum(p.square().sum() for p in model.parameters()) / 2 / len(x)
        slopes = torch.autograd.grad(objective, list(model.parameters()))
        return max(float(g.abs().max()) for g in slopes)

    before = slope()
    floors = []
    for _ in range(80 if prior else 25):
        learner.step(state, x)
        floors.append(float(state.extra["floor"]))
    assert (np.diff(floors) >= 0).all()
    assert slope() < before / (1000 if prior else 5)  # likelihood has flat ways to infinity


@pytest.mark.parametrize("prior", [False, True], ids=["likelihood", "map"])
def test_the_objective_is_the_mean_evidence_and_a_share_of_the_prior(prior):
    x, model = coins(n=40), mixture_of_coins()
    theta = torch.cat([p.detach().flatten() for p in model.parameters()])
    log_prior = torch.distributions.Normal(0.0, 1.0).log_prob(theta).sum()
    expected = evidence(model, x).detach() + (log_prior / 40 if prior else 0)
    learner = GeneralizedEM(model, 40, steps=1, weight_prior=prior)
    state = learner.init()
    learner.step(state, x)
    assert float(state.extra["floor"]) == pytest.approx(float(expected), abs=1e-12)


def test_no_generalized_step_lowers_the_evidence_over_random_problems():
    for seed in range(10):
        x = coins(seed, n=30)
        torch.manual_seed(seed)
        prior = Unconditional(OneHotCategorical(), 2, learned=True)
        decoder = aevb.MLP(2, [5], 6)
        model = aevb.Model(prior, aevb.bernoulli(decoder)).double()
        reached = steps(GeneralizedEM(model, 30, steps=3), x, 8)
        assert (np.diff(reached) > 0).all()


@pytest.mark.parametrize("scaled", [False, True], ids=["plain", "standardized"])
def test_generalized_em_reaches_the_linear_closed_form(scaled):
    x = torch.as_tensor(clusters(1, width=4).numpy() * ([1, 5, 1, 0.1] if scaled else 1))
    torch.manual_seed(0)
    family = Normal(noise_shape=(4,))
    family = Standardized(family, 4) if scaled else family
    model = aevb.Model(
        aevb.standard_normal(1), Conditional(aevb.MLP(1, [], 4), family)
    ).double()  # fmt: skip
    family.fit(x)
    learner = GeneralizedEM(model, len(x), steps=10)
    reached = steps(learner, x, 80)
    truth = FactorAnalysis(1, tol=1e-5, max_iter=20_000).fit(x.numpy()).score(x.numpy())
    assert truth - 0.01 < reached[-1] < truth + 1e-6
    eps = torch.zeros(1, len(x), 1).double()
    bound = aevb.elbo_a(model, learner.posterior, x, eps).mean()
    same = aevb.linear_gaussian.as_linear_gaussian(model)
    assert float(bound.detach()) == pytest.approx(float(same.log_prob(x).mean().detach()), abs=1e-8)


# --- the loop, batches, refusals -----------------------------------------------------------------


def test_the_loop_trains_it_to_the_same_numbers():
    x = clusters(0, n=60).float()
    rows = Rows(x.numpy(), np.arange(60), (3,))
    model, again = (start("diagonal", x.double(), 2, seed=0)[0] for _ in range(2))
    history = aevb.train(EM(model, 60), dataset(rows), aevb.Plan(epochs=12, batch_size=60))
    assert len(history) == 12
    reached = steps(EM(again, 60), x, 12)
    assert [h["train"]["elbo"] for h in history] == pytest.approx(list(reached), abs=1e-10)
    assert torch.allclose(model.means, again.means, atol=1e-10)


def test_the_loop_ends_where_the_objective_rests():
    x = torch.tensor(load_iris().data).float().double()
    rows = Rows(x.float().numpy(), np.arange(len(x)), (4,))
    model = GaussianMixture(3, 4, "full").double()
    start_at_clusters(model, x, seed=0)
    history = aevb.train(EM(model, len(x)), dataset(rows), aevb.Plan(400, len(x)))
    assert 20 < len(history) < 100
    reached = history[-1]["train"]["elbo"]
    assert list(steps(EM(model, len(x)), x, 20)) == pytest.approx([reached] * 20, abs=1e-12)


def test_a_run_that_rested_resumes_to_itself(tmp_path):
    x = load_iris().data.astype(np.float32)
    data = split(Source("iris", x, (4,), "gaussian", "grey", "none"))
    rows = len(data.train)

    def go(resume):
        model = GaussianMixture(3, 4, "full").double()
        start_at_clusters(model, data.train.all().double(), seed=0)
        run = RunFolder(tmp_path)
        aevb.train(EM(model, rows), data, aevb.Plan(400, rows), run=run, resume=resume)
        return outcome(tmp_path)

    ended = go(resume=False)
    bounds = [record["validation"]["elbo"] for record in ended[0]]
    assert np.argmax(bounds) < len(bounds) - 1 < 300
    assert go(resume=True) == ended


def test_the_loop_refuses_minibatches():
    x = clusters(0, n=60).float()
    rows = Rows(x.numpy(), np.arange(60), (3,))
    model, _ = start("full", x.double(), 2, seed=0)
    with pytest.raises(UsageError, match="all rows"):
        aevb.train(EM(model, 60), dataset(rows), aevb.Plan(epochs=1, batch_size=20))


X = clusters(0, n=10)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda m: EM(m, 10).step(EM(m, 10).init(), X[:5]), "all 10 rows"),
        (lambda m: EM(m, 10).step(EM(m, 10).init(), Batch(X, torch.zeros(10).long())), "all 10"),
        (lambda m: EM(m, 10).step(EM(m, 10).init(), X, temper=0.5), "no divergence"),
        (lambda m: EM(m, 10, reg=-1.0), "negative"),
        (lambda m: EM(m, 0), "at least 1 row"),
        (lambda m: EM(belief_net(), 10), "mixture of Gaussians or a linear-Gaussian"),
        (lambda m: GeneralizedEM(m, 10, steps=0), "an M step must be at least 1"),
        (lambda m: GeneralizedEM(deep(), 10), "listed"),
        (lambda m: start_at_clusters(m, X[:1], 0), "as many rows"),
    ],
    ids=["few", "repeated", "beta", "reg", "rows", "model", "steps", "deep", "clusters"],
)
def test_what_cannot_be_is_said_in_one_sentence(call, said):
    with pytest.raises(UsageError, match=said) as caught:
        call(start("full", X, 2, seed=0)[0])
    assert "\n" not in str(caught.value)


def deep():
    return aevb.Model(aevb.standard_normal(2), aevb.bernoulli(aevb.MLP(2, [4], 6)))

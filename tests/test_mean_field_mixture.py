"""Coordinate-ascent variational Bayes against scikit-learn, scipy, quadrature and Monte Carlo."""

import math
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from laws import dataset
from scipy.special import logsumexp
from scipy.stats import gamma, multivariate_t, norm, wishart
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import BayesianGaussianMixture
from zoo import known

import aevb
from aevb.algorithms import MeanField, NormalWishart
from aevb.algorithms.em import start_at_clusters
from aevb.algorithms.mean_field import divergence
from aevb.data import Rows
from aevb.errors import DataError, TrainingError, UsageError
from aevb.gaussian_mixture import GaussianMixture

clusters = partial(known.clusters, n=90, width=2)


def begun(x, k, seed=0, prior=None):
    """A learner and its state, begun as scikit-learn begins with `random_state=seed`."""
    model = GaussianMixture(k, x.shape[1]).double()
    learner = MeanField(model, len(x), prior or NormalWishart.prior_for(x, k))
    state = learner.init()
    labels = KMeans(k, n_init=1, random_state=seed).fit(x.numpy()).labels_
    one_hot = torch.nn.functional.one_hot(torch.as_tensor(labels).long(), k).double()
    learner.begin(state, x, one_hot)
    return learner, state


def bounds(learner, state, x, count):
    """So many steps, and the bound on log p of all data at the start of each."""
    found = []
    for _ in range(count):
        state.totals.zero_()
        learner.step(state, x)
        found.append(len(x) * state.averages()["elbo"])
    return np.array(found)


def fitted(x, k, seed, count, **more):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # as many steps as we ask for
        theirs = BayesianGaussianMixture(
            n_components=k,
            weight_concentration_prior_type="dirichlet_distribution",
            reg_covar=0,
            random_state=seed,
            max_iter=count,
            tol=0,
            **more,
        )
        return theirs.fit(x.numpy())


@pytest.mark.parametrize("count", [1, 30])
@pytest.mark.parametrize("seed", range(3))
def test_numbers_are_scikit_learns_from_the_same_start(seed, count):
    x = clusters(seed)
    learner, state = begun(x, 4, seed)
    bounds(learner, state, x, count)
    q, theirs = learner.numbers(state), fitted(x, 4, seed, count)
    assert np.allclose(q.means, theirs.means_, atol=1e-9)
    assert np.allclose(q.covariances, theirs.covariances_, atol=1e-9)
    assert np.allclose(q.concentration, theirs.weight_concentration_, atol=1e-9)
    assert np.allclose(q.freedom, theirs.degrees_of_freedom_, atol=1e-9)
    assert np.allclose(q.precision, theirs.mean_precision_, atol=1e-9)
    assert np.allclose(learner.model.weights.detach(), theirs.weights_, atol=1e-9)
    assert np.allclose(learner.model.covariances.detach(), theirs.covariances_, atol=1e-9)


def test_the_bound_is_scikit_learns_and_the_constants_that_it_leaves_out():
    width, k = 2, 4
    gaps = []
    for seed in range(2):
        x = clusters(5)
        learner, state = begun(x, k, seed)
        ours = bounds(learner, state, x, 500)[-1]
        gaps.append(ours - fitted(x, k, seed, 500).lower_bound_)
    p = learner.prior
    v, n = float(p.freedom), len(x)
    # log of the priors' norms, and those of the rows' and the means' densities
    norm_of_w = v / 2 * float(p.log_det_inverse_scale) - v * width / 2 * math.log(2)
    norm_of_w -= float(torch.mvlgamma(p.freedom / 2, width))
    a = float(p.concentration)
    constants = k * norm_of_w + math.lgamma(k * a) - k * math.lgamma(a)
    constants += 0.5 * k * width * math.log(float(p.precision)) - n * width / 2 * math.log(
        2 * math.pi
    )
    # that of q's Wishart laws, which scikit-learn keeps without pi^(D (D - 1) / 4)
    constants += k * width * (width - 1) / 4 * math.log(math.pi)
    assert gaps == pytest.approx([constants] * 2, abs=1e-6)


def one_dimensional(k=1):
    x = torch.tensor([[-1.3], [0.2], [0.4], [2.1], [1.7]]).double()
    number = torch.tensor(1.0).double()
    prior = NormalWishart(
        number * 2, number * 0.5, torch.tensor([0.3]).double(), number * 3,
        torch.tensor([[0.7]]).double(),
    )  # fmt: skip
    return begun(x, k, prior=prior)[0], x, prior


def test_of_one_component_the_bound_is_the_evidence_by_quadrature():
    learner, x, _ = one_dimensional()
    state = learner.init()
    learner.begin(state, x, torch.ones(5, 1).double())
    found = bounds(learner, state, x, 3)
    m, b, v, c = 0.3, 0.5, 3.0, 0.7

    # Wishart of one dimension: gamma with shape v / 2 and rate v c / 2
    mu, t = np.linspace(-15, 15, 3001)[:, None], np.linspace(-9, 4, 1301)
    precision = np.exp(t)
    log = gamma(v / 2, scale=2 / (v * c)).logpdf(precision) + t
    log = log + norm(m, (b * precision) ** -0.5).logpdf(mu)
    log = log + sum(norm(mu, precision**-0.5).logpdf(row) for row in x.numpy()[:, 0])
    evidence = np.exp(log).sum() * 0.01 * 0.01  # both ends are zero: the trapezoid rule
    assert found == pytest.approx([math.log(evidence)] * 3, abs=1e-6)


def test_of_two_components_the_bound_stays_below_the_evidence_by_enumeration():
    learner, x, _ = one_dimensional(2)
    state = learner.init()
    source = torch.Generator().manual_seed(0)
    learner.begin(state, x, torch.softmax(torch.randn(5, 2, generator=source), -1).double())
    found = bounds(learner, state, x, 200)

    def alone(rows):  # of the rows of one component, by the normalizers before and after
        n = len(rows)
        b, v, c = 0.5, 3.0, 0.7
        mean = rows.mean() if n else 0.0
        spread = ((rows - mean) ** 2).sum() + b * n / (b + n) * (mean - 0.3) ** 2
        after = v * c + spread
        log = math.lgamma((v + n) / 2) - math.lgamma(v / 2) + v / 2 * math.log(v * c)
        log -= (v + n) / 2 * math.log(after)
        return log + 0.5 * math.log(b / (b + n)) - n / 2 * math.log(math.pi)

    values, terms = x.numpy()[:, 0], []
    for code in range(32):
        of = np.array([(code >> i) & 1 for i in range(5)], bool)
        counts = [int((~of).sum()), int(of.sum())]
        log = math.lgamma(4) - math.lgamma(9) + sum(math.lgamma(2 + n) for n in counts)
        terms.append(log + alone(values[~of]) + alone(values[of]))
    evidence = logsumexp(terms)
    assert found[-1] < evidence
    assert found[-1] > evidence - 3.0
    assert (np.diff(found) > -1e-10).all()


def test_the_divergence_is_the_mean_of_draws():
    x = clusters(1)
    learner, state = begun(x, 3)
    q, p = learner.numbers(state), learner.prior
    source = np.random.default_rng(0)
    for k in range(3):
        v, c = float(q.freedom[k]), q.covariances[k].numpy()
        drawn = wishart(v, np.linalg.inv(c) / v).rvs(5_000, random_state=source)
        log_det = np.linalg.slogdet(drawn)[1]
        chol = np.linalg.cholesky(np.linalg.inv(drawn))
        b, m = float(q.precision[k]), q.means[k].numpy()
        mu = m + np.einsum("sij,sj->si", chol, source.normal(size=(5_000, 2))) / math.sqrt(b)

        def normal(at, precision, drawn=drawn, log_det=log_det, mu=mu):
            rest = mu - at
            squares = np.einsum("si,sij,sj->s", rest, drawn, rest)
            return 0.5 * (2 * math.log(precision / (2 * math.pi)) + log_det - precision * squares)

        v0, c0 = float(p.freedom), p.covariances.numpy()
        moved = np.moveaxis(drawn, 0, -1)
        log_q = wishart(v, np.linalg.inv(c) / v).logpdf(moved) + normal(m, b)
        log_p = wishart(v0, np.linalg.inv(c0) / v0).logpdf(moved)
        log_p += normal(p.means.numpy(), float(p.precision))
        gap = log_q - log_p
        error = gap.std() / math.sqrt(len(gap))
        assert float(divergence(q, p)[k]) == pytest.approx(gap.mean(), abs=5 * error)


def test_what_it_predicts_is_scipys_mixture_of_t():
    x = clusters(2)
    learner, state = begun(x, 3)
    bounds(learner, state, x, 10)
    q = learner.numbers(state)
    new = np.random.default_rng(3).normal(size=(6, 2)) * 4
    parts = []
    for k in range(3):
        v, b = float(q.freedom[k]), float(q.precision[k])
        freedom = v - 1
        shape = (1 + b) / (b * freedom) * v * q.covariances[k].numpy()
        law = multivariate_t(q.means[k].numpy(), shape, df=freedom)
        parts.append(law.logpdf(new) + math.log(q.concentration[k] / q.concentration.sum()))
    found = learner.log_prob(state, torch.as_tensor(new))
    assert np.allclose(found, logsumexp(parts, axis=0), rtol=1e-10)


def test_the_bound_never_falls_over_random_problems():
    for seed in range(200):
        source = np.random.default_rng(seed)
        n, width = int(source.integers(5, 40)), int(source.integers(1, 4))
        x = clusters(seed, n=n, width=width) * torch.as_tensor(10.0 ** source.uniform(-2, 2, width))
        learner, state = begun(x, int(source.integers(1, 6)), seed)
        found = bounds(learner, state, x, 8)
        assert (np.diff(found) > -1e-9 * (1 + np.abs(found[1:]))).all(), seed


def test_standardized_numbers_bound_the_density_of_the_data():
    x = clusters(1) * torch.tensor([100.0, 1e-3]).double()
    model = GaussianMixture(3, 2, standardized=True).double()
    model.likelihood.family.fit(x)
    u = model.standardize(x)
    start_at_clusters(model, x, seed=0)
    learner = MeanField(model, len(x), NormalWishart.prior_for(u, 3))
    found = bounds(learner, learner.init(), x, 12)
    inner = GaussianMixture(3, 2).double()
    start_at_clusters(inner, u, seed=0)
    within = MeanField(inner, len(x), NormalWishart.prior_for(u, 3))
    jacobian = len(x) * x.std(0, unbiased=False).log().sum()
    expected = bounds(within, within.init(), u, 12) - float(jacobian)
    assert np.allclose(found, expected, rtol=1e-6)


def test_components_that_are_not_needed_are_left_empty():
    source = np.random.default_rng(0)
    x = torch.as_tensor(
        np.concatenate([source.normal(-5, 1, (100, 1)), source.normal(5, 1, (100, 1))])
    )
    learner, state = begun(x, 8)
    bounds(learner, state, x, 300)
    counts = learner.numbers(state).concentration - learner.prior.concentration
    assert int((counts > 1).sum()) == 2


def test_a_planted_fall_is_caught():
    x = clusters(0)
    learner, state = begun(x, 2)
    bounds(learner, state, x, 10)
    state.extra["means"].add_(2.0)
    with pytest.raises(TrainingError, match="fell from"):
        learner.step(state, x)


def test_the_loop_trains_it():
    x = clusters(0).float()
    rows = Rows(x.numpy(), np.arange(len(x)), (2,))
    model = GaussianMixture(3, 2).double()
    start_at_clusters(model, x, seed=0)
    learner = MeanField(model, len(x), NormalWishart.prior_for(x, 3))
    history = aevb.train(learner, dataset(rows), aevb.Plan(epochs=10, batch_size=len(x)))
    reached = [record["train"]["elbo"] for record in history]
    assert (np.diff(reached) >= -1e-9).all()


@pytest.mark.parametrize("kind", ["diagonal", "spherical"])
def test_other_covariances_are_refused_in_one_sentence(kind):
    x = clusters(0)
    with pytest.raises(UsageError, match="full covariances") as caught:
        MeanField(GaussianMixture(2, 2, kind), len(x), NormalWishart.prior_for(x, 2))
    assert "\n" not in str(caught.value)


def test_a_column_that_does_not_vary_has_no_prior_of_its_size():
    x = torch.cat([torch.randn(20, 1).double(), torch.ones(20, 1).double()], 1)
    with pytest.raises(DataError, match="leave out columns that do not vary"):
        NormalWishart.prior_for(x, 2)

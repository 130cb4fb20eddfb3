"""M2: its bounds against quadrature and numpy; what it may know of labels; the classifier."""

import numpy as np
import pytest
import torch
from helpers import perceptron, weights
from scipy.special import expit, logsumexp, ndtri
from scipy.stats import norm
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.utils.estimator_checks import parametrize_with_checks
from torch import nn
from zoo.labels import LABELS, X_ALL, K, X, learner_of, small

import aevb
from aevb import MLP, VAE, Model, SemiSupervisedVAE, bernoulli, elbo_b, standard_normal
from aevb.algorithms import semi_supervised
from aevb.algorithms.semi_supervised import Labeled, SemiSupervised, by_class
from aevb.data import Rows
from aevb.errors import DataError, ModelFileError, UsageError
from aevb.evaluation import evidence
from aevb.posterior import Amortized, Batch


def draws(n, rows=16, latent=1):
    """Noise that is spread evenly over N(0, 1): averages of it are as good as a quadrature."""
    even = torch.from_numpy(ndtri((np.arange(n) + 0.5) / n))
    return even[:, None, None].expand(n, rows, latent)


def exact_log_joint(model):
    """log p(x, y) by the trapezoid rule over z, (K, 16), in numpy."""
    z = np.linspace(-9, 9, 4001)
    prior = np.log(np.exp([0.5, -0.3, 0.1]) / np.exp([0.5, -0.3, 0.1]).sum())
    found = []
    for k in range(K):
        code = np.concatenate([np.tile(np.eye(K)[k], (len(z), 1)), z[:, None]], axis=1)
        logits = perceptron(weights(model), "likelihood.network.", code)
        log_p = X_ALL.numpy() @ logits.T - np.logaddexp(0, logits).sum(1) + norm.logpdf(z)
        found.append(prior[k] + logsumexp(log_p, axis=1) + np.log(z[1] - z[0]))
    return np.stack(found)


def weighted(log_w):
    """Weights of classes, and their entropy, from their logarithms."""
    return log_w.exp(), -(log_w.exp() * log_w).sum(0)


def numpy_parts(model, posterior, eps):
    """log q(y given x) and L(x, y), (K, 16) each, written out without torch; eps (S,)."""
    theta, phi = weights(model), weights(posterior)
    x = X_ALL.numpy()
    logits = perceptron(phi, "conditional.links.0.network.", x)
    log_q = (logits - logsumexp(logits, axis=1, keepdims=True)).T
    told = perceptron(phi, "conditional.told.", x)
    log_prior = np.array([0.5, -0.3, 0.1]) - logsumexp([0.5, -0.3, 0.1])
    bounds = []
    for k in range(K):
        y = np.tile(np.eye(K)[k], (16, 1))
        heads = perceptron(phi, "conditional.links.1.network.", np.concatenate([told, y], 1))
        mean, log_variance = heads[:, 0], heads[:, 1]
        kl = 0.5 * (np.exp(log_variance) + mean**2 - 1 - log_variance)
        reconstruction = np.zeros(16)
        for e in eps:
            z = mean + np.exp(0.5 * log_variance) * e
            p = expit(perceptron(theta, "likelihood.network.", np.concatenate([y, z[:, None]], 1)))
            reconstruction += (x * np.log(p) + (1 - x) * np.log(1 - p)).sum(1) / len(eps)
        bounds.append(reconstruction - kl + log_prior[k])
    return log_q, np.stack(bounds)


def test_the_bounds_are_those_written_out_by_hand():
    model, posterior = small()
    eps = np.random.default_rng(0).standard_normal(4)
    log_q, bound = numpy_parts(model, posterior, eps)
    noise = torch.from_numpy(eps)[:, None, None].expand(4, 16, 1)
    parts = by_class(model, posterior, Batch(X_ALL), noise)
    assert parts.log_q.detach().numpy() == pytest.approx(log_q, abs=1e-12)
    assert parts.bound.detach().numpy() == pytest.approx(bound, abs=1e-12)
    reconstruction, kl = parts.summed(*weighted(parts.log_q))
    q = np.exp(log_q)
    unlabeled = (q * bound).sum(0) - (q * log_q).sum(0)
    assert (reconstruction - kl).detach().numpy() == pytest.approx(unlabeled, abs=1e-12)


def test_the_bounds_lie_below_what_they_bound_and_touch_it_at_bayes_rule():
    model, posterior = small()
    with torch.no_grad():
        parts = by_class(model, posterior, Batch(X_ALL), draws(2001))
    log_joint = exact_log_joint(model)
    log_x = logsumexp(log_joint, axis=0)
    assert np.exp(log_x).sum() == pytest.approx(1, abs=1e-9)  # all data there are
    bound = parts.bound.numpy()
    assert (bound < log_joint).all()
    for log_w in (parts.log_q, torch.log_softmax(torch.from_numpy(log_joint), 0)):
        reconstruction, kl = parts.summed(*weighted(log_w))
        assert (reconstruction.numpy() - kl.numpy() < log_x).all()
    # Of all weights those by Bayes' rule from L itself are the best: U is then log sum_y exp L.
    reconstruction, kl = parts.summed(*weighted(torch.log_softmax(parts.bound, 0)))
    best = (reconstruction - kl).numpy()
    assert best == pytest.approx(logsumexp(bound, axis=0), abs=1e-12)
    reconstruction, kl = parts.summed(*weighted(parts.log_q))
    assert (best >= (reconstruction - kl).numpy()).all()


def test_importance_sampling_over_class_and_code_finds_log_p_of_x():
    model, posterior = small()
    rows = Rows(X_ALL.numpy(), np.arange(16), (X,))
    found = evidence(model, posterior, rows, 20_000).importance
    truth = logsumexp(exact_log_joint(model), axis=0)
    assert (np.abs(found.values - truth) < 5 * found.errors + 1e-3).all()


def gradients(learner, positions, noise):
    """Of the mean objective of a batch, in all parameters."""
    batch = Batch(X_ALL[positions], positions)
    objective = learner.terms(batch, noise, torch.tensor(1.0)).objective.mean()
    named = [*learner.model.named_parameters(), *learner.posterior.named_parameters()]
    found = torch.autograd.grad(objective, [p for _, p in named], allow_unused=True)
    return [g for g in found if g is not None]


def by_hand(positions, noise):
    """The gradient of U of these rows, from its definition."""
    model, posterior = small()
    parts = by_class(model, posterior, Batch(X_ALL[positions]), noise)
    q = parts.log_q.exp()
    objective = ((q * parts.bound).sum(0) - (q * parts.log_q).sum(0)).mean()
    named = [*model.parameters(), *posterior.parameters()]
    return torch.autograd.grad(objective, named)


def leaks():
    """Whether unlabeled rows have another gradient than that of U, which knows no labels."""
    learner = learner_of([LABELS[0], *[-1] * 15], classification=0.0)
    positions = torch.arange(1, 16)
    noise = torch.from_numpy(np.random.default_rng(1).standard_normal((2, 15, 2)))
    found = gradients(learner, positions, noise)
    expected = by_hand(positions, noise[..., :1])
    return any((a - b).abs().max() > 1e-10 for a, b in zip(found, expected, strict=True))


def test_unlabeled_rows_teach_nothing_of_hidden_labels(monkeypatch):
    assert not leaks()

    def leaky(log_q, labels):
        rows = LABELS[-len(labels) :]  # the hidden ones
        q = 0.9 * log_q.exp() + 0.1 * torch.eye(K, dtype=log_q.dtype)[rows].mT
        return q, -(q * q.log()).sum(0)

    monkeypatch.setattr(semi_supervised, "_weights", leaky)
    assert leaks()


class GivenClass(nn.Module):
    """A decoder, or an encoder, of one class."""

    def __init__(self, part, y):
        super().__init__()
        self.part, self.y = part, y

    def forward(self, c):
        return self.part(torch.cat([self.y.expand(*c.shape[:-1], K), c], -1))


class Encoder(nn.Module):
    def __init__(self, informed, y):
        super().__init__()
        self.informed, self.y = informed, y

    def forward(self, x):
        return self.informed(x).links[0](self.y.expand(len(x), K))


def test_labeled_rows_alone_give_the_bound_of_a_conditional_vae():
    model, posterior = small()
    learner = SemiSupervised(model, posterior, Labeled(LABELS, X_ALL), classification=0.0)
    noise = torch.from_numpy(np.random.default_rng(2).standard_normal((3, 16, 2)))
    terms = learner.terms(Batch(X_ALL, torch.arange(16)), noise, torch.tensor(1.0))
    for k in range(K):
        y = torch.eye(K, dtype=torch.float64)[k]
        conditional = Model(standard_normal(1).double(), GivenClass(model.likelihood, y))
        encoder = Amortized(Encoder(posterior.conditional, y))
        its = k == LABELS
        bound = elbo_b(conditional, encoder, X_ALL[its], noise[:, its, :1])
        log_prior = model.prior().first.log_prob(y)
        found = terms.reconstruction[its] - terms.kl[its]
        assert found.detach().numpy() == pytest.approx((bound + log_prior).detach().numpy())
        assert (terms.objective[its] == found).all()


def test_the_classification_term_is_the_mean_over_labeled_rows():
    labels = torch.where(torch.arange(16) % 3 == 0, LABELS, -1)
    plain, weighted = (learner_of(labels, classification=a) for a in (0.0, 2.0))
    known = labels >= 0
    n = 6 * 50  # each of the six labeled rows comes up fifty times
    which = ((torch.arange(n) + 0.5) / n).double()
    noise = torch.cat([torch.zeros(n, 16, 1), which[:, None, None].expand(n, 16, 1)], -1)
    batch = Batch(X_ALL, torch.arange(16))
    one = torch.tensor(1.0)
    both = [k.terms(batch, noise, one).objective for k in (weighted, plain)]
    q = plain.posterior(X_ALL[known]).first.logits
    expected = 2.0 * q.gather(1, labels[known][:, None]).mean()
    assert (both[0] - both[1]).detach().numpy() == pytest.approx(expected.item())


def test_a_classifier_that_is_quite_sure_has_a_gradient():
    learner = learner_of([0, *[-1] * 15])
    with torch.no_grad():
        learner.posterior.conditional.links[0].network.head.bias.copy_(torch.tensor([0, -2e3, 900]))
    noise = torch.zeros(1, 16, 2, dtype=torch.float64)
    found = gradients(learner, torch.arange(16), noise)
    assert all(torch.isfinite(g).all() for g in found)


def test_what_cannot_be_learned_is_refused():
    model, posterior = small()
    one = torch.tensor([0] + [-1] * 15)
    with pytest.raises(UsageError, match="found 0 rows for 0 classes"):
        SemiSupervised(model, posterior, Labeled(torch.full((16,), -1), X_ALL[:0]))
    with pytest.raises(UsageError, match="found 2 rows for 1 classes"):
        SemiSupervised(model, posterior, Labeled(one, X_ALL[:2]))
    for odd in (5, -2):
        with pytest.raises(UsageError, match=f"classes are 0 to 2, or -1 where .*, found {odd}"):
            SemiSupervised(model, posterior, Labeled(torch.where(one == 0, odd, one), X_ALL[:1]))
    with pytest.raises(UsageError, match="must not be negative"):
        SemiSupervised(model, posterior, Labeled(one, X_ALL[:1]), classification=-1.0)
    with pytest.raises(UsageError, match="the posterior of a semi-supervised model is"):
        SemiSupervised(model, aevb.mean_field(MLP(X, [3], 2)), Labeled(one, X_ALL[:1]))
    with pytest.raises(UsageError, match="the number of each row"):
        SemiSupervised(model, posterior, Labeled(one, X_ALL[:1])).step(
            SemiSupervised(model, posterior, Labeled(one, X_ALL[:1])).init(),
            X_ALL,
            torch.zeros(1, 16, 2),
        )
    plain = Model(standard_normal(4), bernoulli(MLP(4, [3], X)))
    with pytest.raises(UsageError, match="the prior of a semi-supervised model is a chain"):
        by_class(plain.double(), posterior, Batch(X_ALL), torch.zeros(1, 16, 1).double())


def test_noise_that_is_a_single_number_has_its_place_in_a_chain():
    _, posterior = small(latent=2)
    q = posterior(X_ALL)
    noise = torch.from_numpy(np.random.default_rng(0).random((7, 16, 3)))
    z = q.transform(noise)
    assert z.shape == (7, 16, K + 2)
    assert (z[..., :K].sum(-1) == 1).all()
    first, code = q.first, q.links[0](z[..., :K])
    expected = first.log_prob(z[..., :K]) + code.log_prob(z[..., K:])
    assert q.log_prob(z.clone()).detach().numpy() == pytest.approx(expected.detach().numpy())


# -- the estimator ------------------------------------------------------------------------------

DIGITS, CLASS = load_digits(return_X_y=True)
DIGITS = DIGITS / 16
TRAIN, TEST = np.arange(1797) % 5 != 0, np.arange(1797) % 5 == 0
TINY = VAE(3, hidden=(10,), likelihood="gaussian", epochs=2)


def few_labels(per_class=10):
    """The classes of the training rows, all but some of each hidden."""
    y = CLASS[TRAIN]
    seen = np.full(len(y), -1)
    for k in range(10):
        seen[np.flatnonzero(y == k)[:per_class]] = k
    return seen


QUICK = VAE(2, hidden=(10,), epochs=20, lr=0.02)


@parametrize_with_checks(
    [SemiSupervisedVAE(QUICK, model="m2", classification=10.0)],
    expected_failed_checks=lambda _: {
        "check_classifiers_classes": "it has a class -1, which marks a row without one here"
    },
)
def test_scikit_learn_agrees(estimator, check):
    check(estimator)


@pytest.mark.slow
def test_rows_without_a_class_help():
    y = few_labels()
    known = y >= 0
    line = LogisticRegression(max_iter=2000).fit(DIGITS[TRAIN][known], y[known])
    settings = VAE(10, hidden=(200,), likelihood="gaussian", lr=0.003, epochs=100)
    classifier = SemiSupervisedVAE(settings, model="m2", classification=10.0)
    found = classifier.fit(DIGITS[TRAIN], y).score(DIGITS[TEST], CLASS[TEST])
    assert found > line.score(DIGITS[TEST], CLASS[TEST]) + 0.01


@pytest.mark.parametrize("model", ["m1", "m2", "m1+m2"])
def test_every_model_gives_probabilities_of_classes(model):
    sure = KNeighborsClassifier(3)  # of some classes, whose log-probability is minus infinity
    classifier = SemiSupervisedVAE(TINY, model=model, features=TINY, classifier=sure)
    classifier.fit(DIGITS[TRAIN], few_labels())
    p = classifier.predict_proba(DIGITS[TEST])
    assert p.shape == (TEST.sum(), 10)
    assert p.sum(1) == pytest.approx(np.ones(len(p)), abs=1e-9)
    assert (classifier.predict(DIGITS[TEST]) == p.argmax(1)).all()
    assert hasattr(classifier, "features_") == (model != "m2")


@pytest.mark.parametrize("model", ["m2", "m1+m2"])
def test_classes_have_pictures_and_files(model, tmp_path):
    names = np.array([f"digit {k}" for k in range(10)], dtype=object)
    y = few_labels()
    texts = np.where(y >= 0, names[y], -1)
    classifier = SemiSupervisedVAE(TINY, model=model, features=TINY).fit(DIGITS[TRAIN], texts)
    assert list(classifier.classes_) == list(names)
    each = classifier.analogies(DIGITS[:7])
    assert each.shape == (7, 10, 64)
    assert classifier.sample(4, y="digit 3").shape == (4, 64)
    same = classifier.sample(4, y="digit 3") == classifier.sample(4, y="digit 4")
    assert not same.all()
    classifier.save(tmp_path)
    again = SemiSupervisedVAE.load(tmp_path)
    assert again.predict_proba(DIGITS).tobytes() == classifier.predict_proba(DIGITS).tobytes()
    assert again.analogies(DIGITS[:7]).tobytes() == each.tobytes()
    with pytest.raises(ModelFileError, match="is of a 'SemiSupervisedVAE', expected a VAECl"):
        aevb.VAEClassifier.load(tmp_path)


def test_what_is_no_semi_supervised_problem_is_refused(tmp_path):
    x, y = DIGITS[TRAIN], few_labels()
    with pytest.raises(UsageError, match=r"model must be m1, m2, m1\+m2, found 'm3'"):
        SemiSupervisedVAE(TINY, model="m3").fit(x, y)
    with pytest.raises(DataError, match="every row is -1, unlabeled"):
        SemiSupervisedVAE(TINY, model="m2").fit(x, np.full(len(x), -1))
    with pytest.raises(DataError, match="at least two classes, found 1 class"):
        SemiSupervisedVAE(TINY, model="m2").fit(x, np.where(y == 3, 3, -1))
    with pytest.raises(UsageError, match="posterior mean-field"):
        SemiSupervisedVAE(VAE(3, posterior="iaf", epochs=1), model="m2").fit(x, y)
    m1 = SemiSupervisedVAE(model="m1", features=TINY).fit(x, y)
    with pytest.raises(UsageError, match="scikit-learn is code"):
        m1.save(tmp_path)
    with pytest.raises(UsageError, match="M1 has no class in its model"):
        m1.analogies(x)
    with pytest.raises(UsageError, match="y must be one of the classes 0, 1, 2"):
        SemiSupervisedVAE(TINY, model="m2").fit(x, y).sample(1, y=11)


def test_a_row_among_texts_is_unlabeled_by_a_number():
    x, y = DIGITS[TRAIN], few_labels()
    texts = [-1 if label == -1 else str(label) for label in y]  # numpy would make them all texts
    tiny = SemiSupervisedVAE(TINY, model="m2")
    named, numbered = (tiny.fit(x, labels).predict(x) for labels in (texts, y))
    assert (named == numbered.astype(str)).all()
    with pytest.raises(DataError, match=r"y, row \d+: found the text '-1'"):
        tiny.fit(x, np.array(texts))
    with pytest.raises(DataError, match=r"y, row 1: .* found NaN .* give them -1"):
        tiny.fit(x, [None, *y[1:]])


def test_the_levels_of_the_data_are_not_the_classes_of_the_labels():
    grey = aevb.data.load("digits").train.all().numpy()[:60].reshape(60, -1)
    vae = aevb.VAE(likelihood="discretized-logistic", classes=17, epochs=1, hidden=(4,))
    fitted = SemiSupervisedVAE(vae, model="m2").fit(grey, np.arange(60) % 3)
    assert fitted.joint_.settings_.classes == 17
    assert fitted.joint_.model_.family.bins == 17

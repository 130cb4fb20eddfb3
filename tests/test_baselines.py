"""Baselines of the score function, what they leave of the variance, and what is refused."""

import numpy as np
import pytest
import torch
from helpers import binary_rows, noise, seeded, small_pair
from zoo.gradients import X, classes, coins, double_pair, line, linear_pair, settled

import aevb
from aevb import families
from aevb.algorithms import AEVB
from aevb.conditional import Unconditional
from aevb.errors import UsageError
from aevb.evaluation.gradient_draws import GradientDraws
from aevb.objectives import (
    RunningMean,
    Signal,
    doubly_reparameterized,
    enumeration,
    gumbel_softmax,
    learned_baseline,
    path_derivative,
    score_function,
    straight_through,
    vimco,
)
from aevb.objectives.baselines import log_mean_without, mean_of_others
from aevb.posterior import Batch, amortized


def test_a_running_mean_is_of_the_steps_before_and_moves_in_training_alone():
    baseline = RunningMean(decay=0.5).double()
    values = [torch.tensor([[v, v]], dtype=torch.float64) for v in (4.0, 8.0, 0.0)]
    found = [float(baseline(Signal(v, list), X)[0]) for v in values]
    assert found == [0.0, 4.0, (0.5 * 4 + 8) / 1.5]
    kept = baseline.mean.clone()
    baseline.eval()(Signal(values[1], list), X)
    assert torch.equal(baseline.mean, kept)


def test_the_signals_so_far_have_a_weighted_mean_and_deviation():
    baseline, seen = RunningMean(decay=0.7).double(), np.random.default_rng(0).normal(3, 2, (5, 4))
    for values in torch.from_numpy(seen):
        baseline.remember(values.reshape(2, 2))
    weights = 0.7 ** np.arange(5)[::-1]
    mean = np.average(seen.mean(1), weights=weights)
    variance = np.average(((seen - mean) ** 2).mean(1), weights=weights)
    found = [float(number) for number in baseline.seen()]
    assert found == pytest.approx([mean, variance**0.5], rel=1e-12)
    baseline.remember(torch.full((9, 2), 1e4, dtype=torch.float64))
    for _ in range(400):
        baseline.remember(torch.full((9, 2), 7.0, dtype=torch.float64))
    assert [float(number) for number in baseline.seen()] == pytest.approx([7.0, 1.0])


def test_what_the_other_samples_say_is_written_out():
    """Their mean, and VIMCO's log-mean with their geometric mean in the place of each one."""
    log_w = np.random.default_rng(0).normal(size=(4, 3))
    means, without = np.empty((4, 3)), np.empty((4, 3))
    for s, n in np.ndindex(4, 3):
        others = np.delete(log_w[:, n], s)
        means[s, n] = others.sum() / 3
        replaced = np.exp([*others, others.sum() / 3])
        without[s, n] = np.log(replaced.sum() / 4)
    found = torch.from_numpy(log_w)
    assert np.allclose(mean_of_others(found), means, rtol=1e-12)
    assert np.allclose(log_mean_without(found), without, rtol=1e-12)


def test_a_learned_baseline_learns_what_the_signal_is_for_each_datum():
    model, posterior = double_pair(coins)
    objective = seeded(lambda: score_function(aevb.elbo_b, learned_baseline(3).double()))
    module = objective.modules()["baseline"]
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)
    for t in range(600):
        u = torch.from_numpy(np.random.default_rng(t).random((8, 2, 2)))
        optimizer.zero_grad()
        (-objective(model, posterior, X, u).mean()).backward()
        optimizer.step()
    expected = enumeration.terms(model, posterior, X, torch.zeros(1, 2, 0)).reconstruction
    found, _ = module.eval()(Signal(torch.zeros(1, 2).double(), list), X)
    assert (expected[0] - expected[1]).abs() > 0.3
    torch.testing.assert_close(found, expected, rtol=0, atol=0.15)


def test_the_gradient_of_a_baseline_is_its_own():
    """Neither theta nor phi hears of the squared error, nor the baseline of anything else."""
    model, posterior = double_pair(coins)
    baseline = settled(learned_baseline(3))
    objective = score_function(aevb.elbo_b, baseline)
    u = torch.from_numpy(np.random.default_rng(0).random((3, 2, 2)))
    own = list(baseline.parameters())
    got = torch.autograd.grad(objective(model, posterior, X, u).mean(), own)
    with torch.no_grad():
        log_p = model.log_likelihood(X, (u < posterior(X).base_dist.probs).double()).mean(0)
    middle, spread = baseline.seen()
    c = baseline.network(torch.asinh(X)).squeeze(-1)
    wanted = torch.autograd.grad(-(((log_p - middle) / spread - c) ** 2).mean(), own)
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other)


def test_a_learner_keeps_its_baseline_with_the_state():
    objective = seeded(lambda: score_function(aevb.elbo_b, learned_baseline(6).double()))
    learner = AEVB(*small_pair(), objective)
    state = learner.init()
    for t in range(3):
        learner.step(state, binary_rows(4).all(), noise((2, 4, 2), t))
    tensors = state.tensors()
    assert float(tensors["buffers/baseline.weight"]) > 0.1
    assert tensors["parameters/baseline.network.head.weight"].abs().max() > 0
    assert not [name for name in learner.model.state_dict() if "baseline" in name]


# -- variance --------------------------------------------------------------------------------------


def variances(objectives, pair, n=4000, samples=1):
    model, posterior = pair
    draws = GradientDraws(model, posterior, Batch(X))
    eps = noise((n, samples, 2, posterior(X).event_shape[0]), 2)
    return [float(draws(o, eps)["phi"].var(0).sum()) for o in objectives]


def test_the_order_of_variances_near_the_optimum():
    """At the best diagonal Gaussian: the score function, then A, then the path; B between."""
    model = linear_pair()[0]
    pair = model, model.best_mean_field()
    of = [score_function(aevb.elbo_a), aevb.elbo_a, aevb.elbo_b, path_derivative()]
    score, a, b, path = variances(of, pair)
    assert score > 3 * a > 3 * b > 3 * path


# -- what does not apply ---------------------------------------------------------------------------

REFUSED = [
    (aevb.elbo_b, coins, "draws of Bernoulli have no gradient"),
    (path_derivative(), coins, "choose the score function"),
    (doubly_reparameterized, classes, "draws of OneHotCategorical have no gradient"),
    (gumbel_softmax(), line, "for codes of Bernoulli or OneHotCategorical, found Normal"),
    (straight_through, line, "for codes of Bernoulli"),
    (enumeration, line, "decodes every code"),
]


@pytest.mark.parametrize(("objective", "make", "sentence"), REFUSED)
def test_what_does_not_apply_is_refused_in_a_sentence(objective, make, sentence):
    model, posterior = double_pair(make)
    size = posterior(X).event_shape[0]
    with pytest.raises(UsageError, match=sentence):
        objective(model, posterior, X, torch.rand(2, 2, size, dtype=torch.float64))


def test_one_sample_has_no_others():
    model, posterior = double_pair(coins)
    with pytest.raises(UsageError, match="at least 2, found 1"):
        vimco(model, posterior, X, torch.rand(1, 2, 2, dtype=torch.float64))


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: score_function(aevb.free_bits(0.1)), "found free_bits"),
        (lambda: path_derivative(aevb.elbo_b), "elbo_a or iwae, found elbo_b"),
        (lambda: gumbel_softmax(0.0), "temperature must be positive"),
    ],
)
def test_what_there_is_no_formula_for_is_refused_at_once(make, sentence):
    with pytest.raises(UsageError, match=sentence):
        make()


def test_too_many_codes_are_not_enumerated():
    def bound(coins):
        prior = Unconditional(families.Bernoulli(), coins)
        model = aevb.Model(prior, aevb.bernoulli(aevb.MLP(coins, [], 3))).double()
        posterior = amortized(aevb.MLP(3, [], coins), families.Bernoulli()).double()
        return enumeration(model, posterior, X, torch.zeros(1, 2, 0))

    assert bound(12).isfinite().all()
    with pytest.raises(UsageError, match="up to 4,096 of them, found 8,192"):
        bound(13)

"""Wake-sleep: both gradients against sums over all codes and dreams, and answers that are known."""

from itertools import product

import numpy as np
import pytest
import torch
from helpers import binary_rows, small_pair
from torch import nn
from zoo.known import COINS, DOUBLE, every, logit, quarters, sigmoid_belief_network
from zoo.learners import learn

import aevb
from aevb import distributions as zoo
from aevb import families
from aevb.algorithms import ReweightedWakeSleep, WakeSleep
from aevb.conditional import Chain, Conditional, Unconditional
from aevb.data import Rows
from aevb.distributions import kl
from aevb.enumeration import enumerate_codes
from aevb.errors import UsageError
from aevb.evaluation import evidence, exact
from aevb.posterior import Amortized, Batch, ExactPosterior, Ladder, amortized, everywhere
from aevb.priors import VampPrior
from aevb.randomness import Stream, generator

ALGORITHMS = [WakeSleep, ReweightedWakeSleep]


def tiny(latent=2, width=3):
    """Coins all the way, from networks with weights that are not small."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        decoder = aevb.bernoulli(aevb.MLP(latent, [4], width))
        model = aevb.Model(Unconditional(COINS, latent, learned=True), decoder)
        posterior = amortized(aevb.MLP(width, [4], latent), COINS)
        for p in (*model.parameters(), *posterior.parameters()):
            nn.init.normal_(p)
    return model.to(DOUBLE), posterior.to(DOUBLE)


def parameters(learner):
    return [*learner.model.parameters(), *learner.posterior.parameters()]


def gradient(scalar, learner):
    """With respect to all parameters, those of the model first, as one vector."""
    found = torch.autograd.grad(
        scalar, parameters(learner), allow_unused=True, materialize_grads=True
    )
    return torch.cat([part.flatten() for part in found])


def followed(learner, x, noise):
    """The gradient that a step follows, from noise that is handed in."""
    one = torch.ones((), dtype=DOUBLE)
    return gradient(learner.terms(Batch(x), noise, one).objective.mean(), learner)


def wake_gradient(learner, x, samples=1):
    """E[sum_k w~_k grad (log p(x, z_k) + log q(z_k given x))] by a sum over all z_1, ..., z_K.

    With one sample, of theta alone.
    """
    model, q = learner.model, learner.posterior(x)
    size = model.prior().event_shape[0]
    total = torch.zeros(())
    for combination in product(every(size), repeat=samples):
        z = torch.stack(combination).unsqueeze(1)
        log_q, log_p = q.log_prob(z), model.log_joint(x, z)
        chance = log_q.sum(0).exp().detach()
        if samples == 1:
            total = total + chance * log_p[0]
        else:
            share = torch.softmax((log_p - log_q).detach(), 0)
            total = total + chance * (share * (log_p + log_q)).sum(0)
    return gradient(total.mean(), learner)


def sleep_gradient(learner):
    """E[grad log q(z given x)] under p(x, z) by a sum over all z and x."""
    model, size = learner.model, learner.model.prior().event_shape[0]
    width = model.likelihood(every(size)).event_shape[0]
    pairs = list(product(every(size), every(width)))
    z, x = (torch.stack(part) for part in zip(*pairs, strict=True))
    chance = model.log_joint(x, z.unsqueeze(0))[0].exp().detach()
    assert abs(float(chance.sum()) - 1) < 1e-12
    return gradient((chance * learner.posterior(x).log_prob(z)).sum(), learner)


@pytest.mark.parametrize(("algorithm", "samples"), [(WakeSleep, 1), (ReweightedWakeSleep, 2)])
def test_both_gradients_are_sums_over_codes_and_dreams(algorithm, samples):
    """To rounding: uniform numbers in the middles of quarters, all combinations, leave no error.

    One vector is z, the code of a dream, and its two pixels; a second sample is a z of its own.
    """
    learner = algorithm(*quarters())
    middles = torch.tensor([0.125, 0.375, 0.625, 0.875], dtype=DOUBLE)
    grid = torch.cartesian_prod(*[middles] * (samples + 3))
    noise = torch.zeros(samples, len(grid), 4, dtype=DOUBLE)
    noise[:, :, 0] = grid[:, :samples].T
    noise[0, :, 1:] = grid[:, samples:]
    asleep = sleep_gradient(learner)
    for x in every(2):
        found = followed(learner, x.expand(len(grid), 2), noise)
        expected = wake_gradient(learner, x.expand(1, 2), samples) + asleep
        assert torch.allclose(found, expected, atol=1e-12), x
    assert asleep.abs().max() > 0.01


def mean_and_error(learner, x, samples, blocks=40, data=500):
    """The mean gradient of many steps and its standard error, for data drawn from rows x."""
    source, found = generator(0, Stream.NOISE), []
    for t in range(blocks):
        some = x[np.random.default_rng(t).integers(len(x), size=data)]
        noise = learner.noise(Batch(some)).draw(source, (samples, data), DOUBLE)
        found.append(followed(learner, some, noise))
    stacked = torch.stack(found)
    return stacked.mean(0), stacked.std(0) / blocks**0.5


@pytest.mark.parametrize(("algorithm", "samples"), [(WakeSleep, 3), (ReweightedWakeSleep, 3)])
def test_drawn_gradients_have_the_mean_of_the_sums(algorithm, samples):
    learner = algorithm(*tiny())
    x = every(3)
    woken = wake_gradient(learner, x, 1 if algorithm is WakeSleep else samples)
    mean, error = mean_and_error(learner, x, samples)
    expected = woken + sleep_gradient(learner)
    assert (error > 0).all()
    assert ((mean - expected).abs() < 5 * error).all()


def test_many_weighted_samples_follow_the_evidence_itself():
    """theta's gradient tends to that of log p(x), a sum over all codes; two samples are far off."""
    learner = ReweightedWakeSleep(*tiny())
    x = every(3)
    truth = gradient(
        torch.logsumexp(learner.model.log_joint(x, every(2).unsqueeze(1)), 0).mean(), learner
    )
    theta = slice(0, sum(p.numel() for p in learner.model.parameters()))
    distances = []
    for samples in (2, 500):
        mean, error = mean_and_error(learner, x, samples, blocks=20, data=200)
        distances.append(((mean - truth)[theta].abs() / error[theta]).max())
    assert distances[1] < 5 < distances[0]


def naive_bayes():
    """Three coins given one, and their exact posterior, which is linear in them."""
    model = aevb.Model(Unconditional(COINS, 1, learned=True), aevb.bernoulli(aevb.MLP(1, [], 3)))
    model = model.to(DOUBLE)
    posterior = amortized(aevb.MLP(3, [], 1), COINS).to(DOUBLE)
    off, on = logit([0.2, 0.6, 0.5]), logit([0.7, 0.1, 0.9])
    with torch.no_grad():
        model.prior.raw.copy_(logit([0.3]))
        decoder, encoder = model.likelihood.network.head, posterior.conditional.network.head
        decoder.bias.copy_(off)
        decoder.weight.copy_((on - off).unsqueeze(1))
        encoder.weight.copy_((on - off).unsqueeze(0))
        without = nn.functional.softplus(off).sum() - nn.functional.softplus(on).sum()
        encoder.bias.copy_(logit([0.3]) + without)
    return model, posterior


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_true_model_with_its_own_posterior_is_where_both_phases_rest(algorithm):
    model, posterior = naive_bayes()
    table = enumerate_codes(model, every(3))
    assert torch.allclose(posterior(every(3)).mean[:, 0], table.posterior.probs[:, 1], atol=1e-12)
    chances = table.log_evidence.exp().detach().numpy()
    x = every(3)[np.random.default_rng(5).choice(8, size=20_000, p=chances / chances.sum())]
    learner = algorithm(model, posterior)
    mean, error = mean_and_error(learner, x, 3)
    assert (mean.abs() < 5 * error).all()
    with torch.no_grad():
        model.prior.raw += 0.3
    mean, error = mean_and_error(learner, x, 3)
    assert (mean.abs() > 5 * error).any()


# -- answers that are known ------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_sigmoid_belief_network_learns_and_its_evidence_is_that_of_all_codes(algorithm):
    source = np.random.default_rng(0)
    kinds = np.array([[1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1], [1, 0, 1, 0, 1, 0]])
    values = kinds[source.integers(3, size=200)] ^ (source.random((200, 6)) < 0.05)
    rows = Rows(values.astype(np.uint8), np.arange(200), (6,))
    model, posterior = sigmoid_belief_network()
    before = exact(model, posterior, rows)
    assert (before.details["by"], before.samples) == ("enumeration", 32)
    learner = algorithm(model, posterior, optimizer=aevb.Adam(0.05))
    learn(learner, rows.all().double(), 400, 5)
    after = exact(model, posterior, rows)
    assert after.mean > before.mean + 1
    table = torch.logsumexp(model.log_joint(rows.all().double(), every(5).unsqueeze(1)).detach(), 0)
    assert np.allclose(after.values, table, atol=1e-9)
    found = evidence(model, posterior, rows, 2000).importance
    assert (np.abs(found.values - after.values) < 5 * found.errors + 1e-9).mean() > 0.98


# -- the step ------------------------------------------------------------------------------------


def test_a_dream_is_drawn_once_however_many_samples_there_are():
    learner = WakeSleep(*small_pair())
    law = learner.noise(Batch(torch.ones(4, 6, dtype=DOUBLE)))
    noise = law.draw(generator(0, Stream.NOISE), (3, 4), DOUBLE)
    assert noise.shape == (3, 4, 2 + 2 + 6)
    assert (noise[..., :2] != 0).all()
    assert (noise[0] != 0).all()
    assert (noise[1:, :, 2:] == 0).all()


def by_side(algorithm, asleep_too):
    """Gradients of theta and of phi, where the noise of one phase changes and that of the other
    stays: codes, prior and data have draws that could be differentiated."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        prior = Unconditional(families.Normal(), 2, learned=True)
        model = aevb.Model(prior, aevb.gaussian(aevb.MLP(2, [5], 12))).to(DOUBLE)
        learner = algorithm(model, aevb.mean_field(aevb.MLP(6, [5], 4)).to(DOUBLE))
    x = torch.linspace(-1, 1, 24, dtype=DOUBLE).reshape(4, 6)
    law, found = learner.noise(Batch(x)), []
    theta = sum(p.numel() for p in model.parameters())
    for t in range(2):
        noise = law.draw(generator(0, Stream.NOISE), (3, 4), DOUBLE)
        changed = slice(2, None) if asleep_too else slice(0, 2)
        noise[..., changed] = law.draw(generator(t, Stream.NOISE), (3, 4), DOUBLE)[..., changed]
        whole = followed(learner, x, noise)
        found.append((whole[:theta], whole[theta:]))
    return found


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_each_side_learns_in_its_own_phase(algorithm):
    """theta follows no dreams, and phi of plain wake-sleep no wake codes."""
    one, other = by_side(algorithm, asleep_too=True)
    assert torch.equal(one[0], other[0])
    assert not torch.allclose(one[1], other[1])
    one, other = by_side(algorithm, asleep_too=False)
    assert torch.equal(one[1], other[1]) is (algorithm is WakeSleep)
    assert not torch.allclose(one[0], other[0])


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_what_is_reported_is_the_bound(algorithm):
    model, posterior = small_pair()
    learner = algorithm(model, posterior)
    x = torch.ones(4, 6, dtype=DOUBLE)
    noise = learner.noise(Batch(x)).draw(generator(0, Stream.NOISE), (3, 4), DOUBLE)
    found = learner.terms(Batch(x), noise, torch.ones((), dtype=DOUBLE))
    bound = aevb.elbo_a if algorithm is WakeSleep else aevb.iwae
    assert torch.allclose(found.objective, bound(model, posterior, x, noise[..., :2]), atol=1e-12)
    same = aevb.elbo_b.terms(model, posterior, x, noise[..., :2])
    assert torch.allclose(found.reconstruction, same.reconstruction)
    assert torch.allclose(found.kl, same.kl)


def moved(learner, dtype, samples=2, steps=5):
    z = torch.zeros(1, *learner.model.prior().event_shape, dtype=dtype)
    rows = binary_rows(30, learner.model.likelihood(z).event_shape[0]).all().to(dtype)
    state, law = learner.init(), learner.noise(Batch(rows))
    with torch.random.fork_rng(devices=[]):
        for t in range(steps):
            torch.manual_seed(t)
            noise = law.draw(generator(0, Stream.NOISE, t), (samples, 30), dtype)
            learner.step(state, rows, noise)
    return torch.cat([p.flatten() for p in state.parameters.values()]), state.totals


def test_products_in_bfloat16_leave_densities_in_float32():
    pairs = [tuple(part.float() for part in small_pair()) for _ in range(2)]
    (fine, _), (coarse, _) = (
        moved(WakeSleep(*pair, precision=precision), torch.float32)
        for pair, precision in zip(pairs, ("float32", "bfloat16"), strict=True)
    )
    assert fine.dtype == coarse.dtype == torch.float32
    assert 0 < (fine - coarse).abs().max() < 0.02


def refused(algorithm=WakeSleep, model=None, posterior=None):
    pair = small_pair(dtype=torch.float32)
    with pytest.raises(UsageError) as caught:
        algorithm(model or pair[0], posterior or pair[1])
    return str(caught.value)


def test_what_cannot_be_learned_so_is_refused():
    model, posterior = small_pair(dtype=torch.float32)
    assert "choose an amortized posterior" in refused(posterior=aevb.per_datum(9, 2))
    model.prior = VampPrior(posterior.conditional, 4, 6)
    assert "share parameters" in refused(model=model, posterior=posterior)
    links = [Unconditional(families.Normal(), 1), Conditional(nn.Linear(1, 2), families.Normal())]
    prior = Chain(links, [1, 1], reverse=True)
    rungs, heads = [nn.Linear(6, 4), nn.Linear(4, 4)], [nn.Linear(4, 2), nn.Linear(4, 2)]
    ladder = Amortized(Ladder(rungs, heads, prior))
    layered = aevb.Model(prior, small_pair()[0].likelihood)
    assert "ladder" in refused(model=layered, posterior=ladder)
    listed = aevb.Model(Unconditional(families.Bernoulli(), 2), small_pair()[0].likelihood)
    WakeSleep(listed, ExactPosterior(listed))  # its share of the model is the model itself
    uniform = amortized(nn.Linear(6, 4), families.Elementwise(zoo.Uniform))
    assert "an interval that moves" in refused(posterior=uniform)


def test_weights_of_the_divergence_and_single_samples_are_refused():
    x = torch.ones(4, 6, dtype=DOUBLE)
    for algorithm, options, said in [
        (WakeSleep, {"temper": 0.5}, "weighed by 0.5"),
        (ReweightedWakeSleep, {}, "found 1"),
    ]:
        learner = algorithm(*small_pair())
        noise = torch.zeros(1, 4, 10, dtype=DOUBLE)
        with pytest.raises(UsageError, match=said):
            learner.step(learner.init(), x, noise, **options)


def test_one_posterior_for_all_data_learns_the_prior_asleep():
    model, _ = small_pair()
    posterior = everywhere(2).to(DOUBLE)
    learner = WakeSleep(model, posterior, optimizer=aevb.Adam(0.005))
    learn(learner, binary_rows(50).all().double(), 300, 1)
    assert kl(posterior(torch.zeros(1, 6)), model.prior()) < 0.01


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_dreams_may_be_of_a_mixture_that_only_sample_draws(algorithm):
    levels = families.DiscretizedLogistic(2, components=2)
    model = aevb.Model(aevb.standard_normal(2), Conditional(aevb.MLP(2, [5], 36), levels))
    learner = algorithm(model.to(DOUBLE), aevb.mean_field(aevb.MLP(6, [5], 4)).to(DOUBLE))
    before = torch.cat([p.detach().flatten().clone() for p in parameters(learner)])
    after, _ = moved(learner, DOUBLE)
    assert after.isfinite().all()
    assert (after != before).all()

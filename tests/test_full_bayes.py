"""A posterior over the weights against conjugate models, whose posterior and evidence are known."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from helpers import binary_rows, good, noise, refused, small_pair
from laws import dataset
from torch import nn
from torch.distributions import Independent, Normal

import aevb
from aevb import codes
from aevb.algorithms import FullBayes, uncertain
from aevb.conditional import Averaged, Unconditional
from aevb.distributions.combinators import Average
from aevb.errors import UsageError
from aevb.imputation import impute
from aevb.optimizers import cosine
from aevb.posterior import Amortized
from aevb.priors import VampPrior
from aevb.randomness import normal_in_step
from aevb.storage import RunFolder

N, DEVIATION = 12, 2.0


class Mean(nn.Module):
    """x ~ N(theta + gain z, DEVIATION^2) of one number, one unknown mean theta."""

    def __init__(self, gain):
        super().__init__()
        self.theta = nn.Parameter(torch.zeros(1, dtype=torch.float64))
        self.gain = gain

    def forward(self, z):
        return Independent(Normal(self.theta + self.gain * z, DEVIATION), 1)


def data():
    return torch.from_numpy(np.random.default_rng(2).normal(3.0, DEVIATION, (N, 1)))


def toy(gain=0.0, draws=1, rows=N, **options):
    """A learner of the mean, whose q(z) is one for all data and starts at the prior."""
    model = uncertain(aevb.Model(aevb.standard_normal(1), Mean(gain)), draws)
    posterior = aevb.mean_field(aevb.MLP(1, [], 2))
    for p in posterior.parameters():
        nn.init.zeros_(p)
    return FullBayes(model.double(), posterior.double(), weight_prior_rows=rows, **options)


def conjugate(x):
    """Mean and variance of p(theta | X), prior N(0, 1), and log p(X)."""
    variance = 1 / (1 + len(x) / DEVIATION**2)
    covariance = DEVIATION**2 * np.eye(len(x)) + 1
    evidence = scipy.stats.multivariate_normal(np.zeros(len(x)), covariance).logpdf(x.ravel())
    return variance * x.sum() / DEVIATION**2, variance, evidence


def put(learner, mean, variance):
    average = learner.model.likelihood
    with torch.no_grad():
        average.conditional.theta.fill_(mean)
        average.log_deviation.fill_(0.5 * math.log(variance))


def objectives(learner, x, count):
    """What a step climbs, so many times: only theta's noise differs."""
    zeros, one = torch.zeros(1, len(x), 1, dtype=torch.float64), torch.tensor(1.0)
    with torch.no_grad():
        found = [learner.terms(aevb.Batch(x), zeros, one).objective.mean() for _ in range(count)]
    return torch.stack(found).numpy()


def slopes(learner, x, count=600):
    """The mean gradient in theta's mean, its log deviation and the encoder, and its errors."""
    model, posterior, found = learner.model.likelihood, learner.posterior, []
    parameters = [model.conditional.theta, model.log_deviation, *posterior.parameters()]
    for t in range(count):
        e = noise((1, len(x), 1), seed=t)
        value = learner.terms(aevb.Batch(x), e, torch.tensor(1.0)).objective.mean()
        found.append(torch.cat([g.flatten() for g in torch.autograd.grad(value, parameters)]))
    table = torch.stack(found).numpy()
    return table.mean(0), table.std(0) / math.sqrt(count)


def test_at_the_exact_posterior_the_objective_is_the_evidence():
    x = data()
    learner = toy()
    mean, variance, evidence = conjugate(x.numpy())
    put(learner, mean, variance)
    found = N * objectives(learner, x, 1500)
    error = found.std() / math.sqrt(len(found))
    assert abs(found.mean() - evidence) < 5 * error < 0.3
    put(learner, mean + 1, variance)
    assert N * objectives(learner, x, 300).mean() < evidence - 1


def test_the_posterior_over_a_mean_is_where_no_gradient_is_left():
    x, learner = data(), toy()
    mean, variance, _ = conjugate(x.numpy())
    put(learner, mean, variance)
    slope, error = slopes(learner, x)
    assert (np.abs(slope) <= 5 * error + 1e-12).all()
    put(learner, mean + math.sqrt(variance), 2 * variance)
    slope, error = slopes(learner, x, 200)
    assert (slope[:2] < -5 * error[:2]).all()


def test_with_codes_beside_it_the_best_product_is_where_no_gradient_is_left():
    # x = theta + z + e: of all q(theta) prod q(z_n) the best has the exact mean, and the variances
    # of each given the others.
    x, learner, noisy = data(), toy(gain=1.0), DEVIATION**2
    mean = x.sum().item() / (1 + noisy) / (1 + N / (1 + noisy))
    put(learner, mean, 1 / (1 + N / noisy))
    head = learner.posterior.conditional.network.head
    with torch.no_grad():
        head.weight[0] = 1 / (1 + noisy)
        head.bias.copy_(torch.tensor([-mean / (1 + noisy), -math.log(1 + 1 / noisy)]))
    slope, error = slopes(learner, x)
    assert (np.abs(slope) <= 5 * error).all()
    assert (5 * error < 0.15).all()


def test_the_posterior_over_a_mean_is_reached():
    x, learner, steps = data(), toy(optimizer=aevb.Adam(0.1)), 800
    mean, variance, _ = conjugate(x.numpy())
    put(learner, mean - 2, variance / 16)
    state = learner.init()
    for t in range(steps):
        learner.step(state, x, noise((1, N, 1), seed=t), rate_factor=cosine(t / steps))
    average = learner.model.likelihood
    assert average.conditional.theta.item() == pytest.approx(mean, abs=0.2 * math.sqrt(variance))
    assert (2 * average.log_deviation).exp().item() == pytest.approx(variance, rel=0.25)


def test_the_divergence_of_the_weights_is_shared_by_the_data():
    x = data()
    of = {rows: objectives(toy(rows=rows), x, 3) for rows in (N // 2, N, 2 * N)}
    divergence = toy().model.likelihood.divergence().item()
    assert of[N] - of[N // 2] == pytest.approx(divergence / N)
    assert of[2 * N] - of[N] == pytest.approx(divergence / (2 * N))


def test_the_divergence_is_that_of_torch():
    model, _ = small_pair()
    average = uncertain(model).likelihood
    nn.init.normal_(average.log_deviation)
    means = torch.cat([p.flatten() for p in average.conditional.parameters()])
    q, p = Normal(means, average.log_deviation.exp()), Normal(torch.zeros(()).double(), 1.0)
    truth = torch.distributions.kl_divergence(q, p).sum()
    assert torch.allclose(average.divergence(), truth)


def test_the_average_over_draws_is_the_predictive_law():
    # x | X ~ N(mean, DEVIATION^2 + variance): the draws are Monte Carlo for it.
    model = toy(draws=1000)
    put(model, 1.0, 4.0)
    model.model.likelihood.redraw(seed=0)
    law = model.model.likelihood(torch.zeros(1, 1, dtype=torch.float64))
    truth = scipy.stats.norm(1.0, math.sqrt(DEVIATION**2 + 4.0))
    x = torch.linspace(-6, 8, 15, dtype=torch.float64)[:, None]
    found = law.log_prob(x).exp().detach().numpy()
    each = torch.stack([part.log_prob(x).exp() for part in law.parts]).detach().numpy()
    error = each.std(0) / math.sqrt(len(each))
    assert (np.abs(found - truth.pdf(x[:, 0])) < 5 * error).all()
    assert (5 * error < 0.02).all()
    assert law.mean.item() == pytest.approx(1.0, abs=5 * 2 / math.sqrt(1000))
    assert law.variance.item() == pytest.approx(truth.var(), rel=0.1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        drawn = law.sample((5_000,)).flatten().numpy()
    assert scipy.stats.kstest(drawn, truth.cdf).statistic < 0.06


def test_without_spread_it_is_a_weight_prior():
    model, posterior = small_pair()
    x, e, tempered = torch.from_numpy(binary_rows(7).values).double(), noise((2, 7, 2)), 0.7

    def moves(learner):
        state = learner.init()
        before = {k: p.clone() for k, p in state.parameters.items()}
        learner.step(state, x, e, temper=tempered)
        moved = {k: before[k] - p for k, p in state.parameters.items()}
        for k, p in state.parameters.items():
            p.copy_(before[k])
        return moved

    options = {"optimizer": aevb.SGD(1.0)}
    expected = moves(aevb.AEVB(model, posterior, weight_prior_rows=7, **options))
    model = uncertain(model)
    nn.init.constant_(model.likelihood.log_deviation, -40.0)
    found = moves(FullBayes(model, posterior, weight_prior_rows=7, **options))
    for name, slope in expected.items():
        own = name.replace("likelihood.", "likelihood.conditional.")
        assert torch.allclose(found[own], slope, rtol=1e-9, atol=1e-12)


def test_a_learned_prior_is_averaged_too():
    torch.manual_seed(0)
    family = aevb.families.Normal()
    model = aevb.Model(Unconditional(family, 2, learned=True), aevb.bernoulli(aevb.MLP(2, [4], 6)))
    model = uncertain(model, draws=3)
    _, posterior = small_pair(dtype=torch.float32)
    learner = FullBayes(model, posterior, weight_prior_rows=30)
    nn.init.constant_(model.prior.log_deviation, 0.0)
    assert isinstance(model.prior(), Average)
    z = codes.sample_latent(model, 4000)
    law = model.prior()
    assert z.mean(0) == pytest.approx(law.mean.detach().numpy(), abs=0.2)
    assert z.var(0) == pytest.approx(law.variance.detach().numpy(), rel=0.2)
    history = aevb.train(learner, dataset(binary_rows(30)), aevb.Plan(epochs=3))
    assert history[-1]["validation"]["elbo"] > history[0]["validation"]["elbo"]


def test_pseudo_inputs_of_a_prior_are_learned_as_points():
    encoder = aevb.Conditional(aevb.MLP(6, [4], 4), aevb.families.Normal())
    prior = VampPrior(encoder, 3, 6, unit=True)
    model = uncertain(aevb.Model(prior, aevb.bernoulli(aevb.MLP(2, [4], 6))), draws=2)
    assert model.prior is prior
    start = prior.pseudo_inputs.detach().clone()
    learner = FullBayes(model, Amortized(encoder), aevb.elbo_a, weight_prior_rows=30)
    aevb.train(learner, dataset(binary_rows(30)), aevb.Plan(epochs=2))
    assert not torch.equal(start, prior.pseudo_inputs)


def test_every_step_draws_other_weights_and_a_seed_draws_them_again():
    x = data()
    first, again, other = (objectives(toy(seed=seed), x, 4) for seed in (0, 0, 1))
    assert len({*first, *other}) == 8
    assert (first == again).all()


def test_normals_in_a_step_are_normal_and_differ_by_their_key():
    first, other = (normal_in_step(torch.tensor(k), (50_000,)).numpy() for k in (5, 6))
    assert scipy.stats.kstest(first, scipy.stats.norm.cdf).statistic < 0.01
    assert abs(np.corrcoef(first, other)[0, 1]) < 0.02
    assert abs(np.corrcoef(first[1:], other[:-1])[0, 1]) < 0.02


def test_what_is_reported_is_the_bound_of_the_model_that_is_saved(tmp_path):
    model, posterior = small_pair(dtype=torch.float32)
    rows = dataset(binary_rows(30))
    learner = FullBayes(uncertain(model, draws=4), posterior, weight_prior_rows=30)
    history = aevb.train(learner, rows, aevb.Plan(epochs=2, seed=3))
    aevb.save(tmp_path, learner.model, posterior)
    other, q = aevb.load(tmp_path)
    assert torch.equal(other.likelihood.noise, learner.model.likelihood.noise)
    parts = aevb.evaluation.bound_parts(other, q, rows.validation, seed=3)
    best = max(record["validation"]["elbo"] for record in history)
    assert parts["elbo"] == pytest.approx(best, abs=1e-6)
    other.likelihood.redraw(seed=9)  # the posterior over weights is in the file
    assert aevb.evaluation.bound_parts(other, q, rows.validation, seed=3)["elbo"] != parts["elbo"]


def test_missing_cells_are_filled_by_the_average():
    model, posterior = small_pair(dtype=torch.float32)
    model = uncertain(model, draws=3)
    values = np.where(np.eye(5, 6) > 0, np.nan, binary_rows(5).values)
    rows = aevb.data.Rows(values, np.arange(5), (6,))
    filled = impute(model, posterior, rows, samples=50)
    assert np.isfinite(filled).all()
    assert (filled >= 0).all()
    assert (filled <= 1).all()


@pytest.mark.parametrize("wrong", ["plain", "objective", "rows", "no weights", "draws"])
def test_what_makes_no_sense_is_refused(wrong):
    model, posterior = small_pair()
    makes = {
        "plain": (lambda: FullBayes(model, posterior, weight_prior_rows=5), "averages over them"),
        "objective": (
            lambda: FullBayes(uncertain(model), posterior, "iwae", weight_prior_rows=5),
            "the objective is one of aevb.objectives",
        ),
        "rows": (lambda: toy(rows=0), "weight_prior_rows must be positive"),
        "no weights": (lambda: Averaged(nn.Identity()), "no weights to average over"),
        "draws": (lambda: Averaged(nn.Linear(1, 1), 0), "draws of the weights must be at least 1"),
    }
    make, said = makes[wrong]
    with pytest.raises(UsageError, match=said):
        make()


def test_a_run_of_it_serves_every_command(tmp_path):
    small = ["--hidden", "8", "--latent-dim", "2", "--epochs", "2", "--data-limit", "80"]
    how = [*small, "--algorithm", "full-bayes", "--weight-draws", "3"]
    run = tmp_path / "run"
    trained = good("train", "digits", *how, "--out", run)
    model, _ = RunFolder(run).load()
    assert model.likelihood.draws == 3
    assert trained["train"]["objective"] < trained["train"]["elbo"]
    assert good("evaluate", run, "--samples", "20")["mean"] >= trained["validation"]["elbo"] - 20
    for command in ("sample", "reconstruct", "encode", "check"):
        good(command, run)
    good("sample", run, "--draw")
    said = refused(
        2, "train", "digits", *how, "--weight-prior", "normal", "--out", tmp_path / "other"
    )
    assert "already" in said

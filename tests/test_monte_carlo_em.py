"""Monte Carlo EM held to models whose likelihood and posteriors are known in closed form."""

import json
import math

import laws
import numpy as np
import pytest
import torch
from helpers import binary_rows, good, noise, printed, refused, small_pair
from laws import Fixed, visits
from scipy import stats
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

import aevb
from aevb.algorithms import MonteCarloEM
from aevb.conditional import Conditional, Unconditional
from aevb.errors import UsageError
from aevb.families import Bernoulli, VonMisesFisher
from aevb.families import Normal as NormalFamily
from aevb.linear_gaussian import LinearGaussian, maximum_likelihood
from aevb.optimizers import SGD, Adagrad, Adam, cosine
from aevb.posterior import Batch, per_datum


def of_widths(latent=2, width=6, n=30, **options):
    model, _ = small_pair(latent, width)
    return MonteCarloEM(model, per_datum(n, latent), **options)


# --- what it learns ------------------------------------------------------------------------------


@pytest.mark.parametrize("weight_prior", [None, 80])
def test_normal_normal_reaches_its_maximum(weight_prior):
    # z ~ N(m, e^r), x ~ N(z, 1/4): twelve times the same numbers, each with chains of their own,
    # so that the spread of what was learned is the error of it.
    n, copies, deviation = 80, 12, 0.5
    x = np.random.default_rng(0).normal(0.4, 1.1, n)
    prior = Unconditional(NormalFamily(), copies, learned=True)
    model = aevb.Model(prior, Fixed(lambda z: Independent(Normal(z, deviation), 1))).double()
    posterior = per_datum(n, copies)
    learner = MonteCarloEM(model, posterior, optimizer=SGD(0.5), weight_prior_rows=weight_prior)
    rows = torch.from_numpy(x)[:, None].expand(n, copies).contiguous()
    visits(learner, rows, 120, schedule=cosine)
    mean, log_variance = prior.raw.detach().numpy().reshape(2, copies)
    if weight_prior is None:
        best = x.mean(), math.log(x.var() - deviation**2)
    else:
        best = maximum_a_posteriori(x, deviation, weight_prior)
    for found, truth in zip((mean, log_variance), best, strict=True):
        error = found.std(ddof=1) / math.sqrt(copies)
        assert abs(found.mean() - truth) < 5 * error + 1e-4
        assert error < 0.02


def maximum_a_posteriori(x, deviation, n):
    from scipy.optimize import minimize

    def loss(theta):
        law = stats.norm(theta[0], math.sqrt(math.exp(theta[1]) + deviation**2))
        return -law.logpdf(x).mean() + 0.5 * np.square(theta).sum() / n

    return minimize(loss, [0.0, 0.0], tol=1e-10).x


def mean_log_prob(model, rows):
    with torch.no_grad():
        return float(model.log_prob(rows).mean())


def test_linear_gaussian_reaches_the_likelihood_of_probabilistic_pca():
    rng = np.random.default_rng(1)
    x = rng.standard_normal((150, 2)) @ rng.standard_normal((2, 5)) + 0.4 * rng.standard_normal(
        (150, 5)
    )
    rows = torch.from_numpy(x)
    best = mean_log_prob(maximum_likelihood(x, 2), rows)
    torch.manual_seed(0)
    model = LinearGaussian(2, 5).double()
    learner = MonteCarloEM(model, per_datum(150, 2), optimizer=Adam(0.02))
    start = mean_log_prob(model, rows)
    visits(learner, rows, 150, schedule=cosine)
    found = mean_log_prob(model, rows)
    assert start < best - 1
    assert best - 0.02 < found <= best + 1e-9


def test_the_draws_of_chains_have_the_posterior():
    laws.chains_have_the_posterior()


def test_minibatches_leave_other_chains_alone_and_only_theta_is_learned():
    laws.chains_are_persistent()


# --- the size of the steps -----------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1e-3, 30.0])
def test_the_acceptance_settles_at_nine_tenths(scale):
    law = Fixed(lambda z: Independent(Normal(z, scale), 1))
    model = aevb.Model(Unconditional(NormalFamily(), 2), law).double()
    learner = MonteCarloEM(model, per_datum(40, 2), optimizer=SGD(1e-12))
    state, _ = visits(learner, torch.zeros(40, 2).double(), 100)
    facts = learner.facts(state)
    assert abs(facts["acceptance"] - 0.9) < 0.03
    width = 1 / math.sqrt(1 + scale**-2)
    assert 0.5 < facts["step_size"] / width < 3


# --- chains --------------------------------------------------------------------------------------


def test_a_datum_does_not_feel_its_company():
    x = binary_rows(30).all().double()
    places = []
    for m in (4, 20):
        learner = of_widths()
        state = learner.init()
        batch = Batch(x[:m], torch.arange(m))
        drawn = learner.noise(batch).draw(np.random.default_rng(0), (30, 2), torch.float64)
        learner.step(state, batch, drawn[:m].transpose(0, 1).contiguous())
        places.append(state.extra["chains"][:4].clone())
    assert torch.allclose(*places, rtol=0, atol=1e-12)


def test_chains_begin_at_draws_of_the_prior():
    model = aevb.Model(Unconditional(NormalFamily(), 2), Fixed(lambda z: Normal(z, 1.0)))
    chains = MonteCarloEM(model, per_datum(4000, 2), seed=3).init().extra["chains"]
    assert stats.kstest(chains.flatten().numpy(), "norm").pvalue > 1e-3
    other = MonteCarloEM(model, per_datum(4000, 2), seed=4).init().extra["chains"]
    assert not torch.equal(chains, other)


def test_as_many_draws_as_transitions_are_learned_from():
    learner = of_widths(optimizer=SGD(1e-12))
    x = binary_rows(30).all().double()
    state, seen = visits(learner, x, 1, samples=3)
    places = torch.stack(seen[0])
    expected = learner.model.log_joint(x, places).mean()
    assert places.shape == (3, 30, 2)
    assert state.averages()["objective"] == pytest.approx(float(expected.detach()), abs=1e-9)
    assert state.averages()["kl"] is None
    assert state.averages()["elbo"] is None


@pytest.mark.parametrize("optimizer", [Adam(0.1), Adagrad(0.1)])
def test_a_visit_makes_five_updates_as_the_optimizer_would(optimizer):
    learner = of_widths(optimizer=optimizer)
    twin, _ = small_pair(2, 6)
    kind = {Adam: torch.optim.Adam, Adagrad: torch.optim.Adagrad}[type(optimizer)]
    theirs = kind(twin.parameters(), lr=0.1)
    x = binary_rows(30).all().double()
    _, seen = visits(learner, x, 2)
    for places in seen:
        for _ in range(5):
            theirs.zero_grad()
            (-twin.log_joint(x, torch.stack(places)).mean()).backward()
            theirs.step()
    for ours, other in zip(learner.model.parameters(), twin.parameters(), strict=True):
        assert torch.allclose(ours, other, atol=1e-8)


# --- refusals ------------------------------------------------------------------------------------


def test_what_it_cannot_do_is_refused_in_a_sentence():
    model, posterior = small_pair()
    x = torch.ones(3, 6).double()
    with pytest.raises(UsageError, match="no recognition model"):
        MonteCarloEM(model, posterior)
    with pytest.raises(UsageError, match=r"aevb\.optimizers"):
        MonteCarloEM(model, per_datum(3, 2), optimizer=torch.optim.SGD(model.parameters(), 0.1))
    for layer in (torch.nn.Dropout(0.1), torch.nn.BatchNorm1d(8)):
        network = torch.nn.Sequential(torch.nn.Linear(2, 8), layer, torch.nn.Linear(8, 6))
        unsteady = aevb.Model(aevb.standard_normal(2), aevb.bernoulli(network))
        with pytest.raises(UsageError, match=f"a layer of {type(layer).__name__} changes"):
            MonteCarloEM(unsteady, per_datum(3, 2))
    learner = MonteCarloEM(model, per_datum(3, 2))
    zeros = torch.zeros(1, 3, 4).double()
    with pytest.raises(UsageError, match=r"Batch\(x, rows\)"):
        learner.step(learner.init(), x, zeros)
    with pytest.raises(UsageError, match="no divergence in its objective"):
        learner.step(learner.init(), Batch(x, torch.arange(3)), zeros, temper=0.5)
    for family in (Bernoulli(), VonMisesFisher()):
        prior = Unconditional(family, 2)
        discrete = aevb.Model(prior, Conditional(aevb.MLP(2, [], 6), Bernoulli()))
        with pytest.raises(UsageError, match="no smooth map"):
            MonteCarloEM(discrete, per_datum(3, 2))


@pytest.mark.parametrize(
    "options",
    [
        ["--posterior", "mean-field"],
        ["--posterior", "global"],
        ["--beta", "2"],
        ["--free-bits", "0.1"],
        ["--objective", "iwae"],
    ],
)
def test_the_command_refuses_what_has_no_meaning(tmp_path, options):
    command = ["train", "digits", "--algorithm", "monte-carlo-em", *options]
    assert "monte-carlo-em" in refused(2, *command, "--out", tmp_path / "run")


# --- the command line ----------------------------------------------------------------------------


def test_a_run_is_trained_judged_and_examined(tmp_path, quick_refits):
    folder = tmp_path / "run"
    command = [
        "train",
        "digits",
        "--algorithm",
        "monte-carlo-em",
        "--latent-dim",
        2,
        "--hidden",
        10,
    ]
    command += ["--data-limit", 60, "--epochs", 2, "--out", folder]
    report = good(*command)
    assert report["train"]["elbo"] is report["train"]["kl"] is report["validation"] is None
    assert report["objective"] == "log-joint"
    record = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    assert 0 < record["acceptance"] <= 1
    assert record["step_size"] > 0
    found = good("evaluate", folder, "--data-limit", 10, "--samples", 9)
    assert found["n"] == 10
    assert good("check", folder)["measured"]["latent_dim"] == 2
    assert "no bound" in refused(2, "plot", folder, "curve")
    assert "mean log p(x, z)" in printed(*command, "--resume")
    assert "| train |  | " in (folder / "README.md").read_text()


def test_the_estimator_has_it_too():
    x = np.random.default_rng(0).standard_normal((60, 3))
    vae = aevb.VAE(latent_dim=1, hidden=(5,), epochs=3, algorithm="monte-carlo-em").fit(x)
    assert vae.transform(x[:5]).shape == (5, 1)
    assert vae.settings_.posterior == "per-datum"
    assert "last bound" not in vae._repr_html_()


# --- mean field, the other algorithm without a recognition model ---------------------------------


def test_mean_field_reaches_the_best_of_all_diagonal_gaussians():
    rng = np.random.default_rng(0)
    weight = torch.from_numpy(rng.standard_normal((5, 3)))
    model = aevb.linear_gaussian.linear_gaussian(weight, torch.zeros(5).double(), 0.5)
    x = torch.from_numpy(rng.standard_normal((8, 5)))
    for p in model.parameters():
        p.requires_grad_(False)
    posterior = per_datum(8, 3).double()
    learner = aevb.AEVB(model, posterior, optimizer=Adam(0.01))
    batch = Batch(x, torch.arange(8))
    state = learner.init()
    for t in range(500):
        learner.step(state, batch, noise((64, 8, 3), t), cosine(t / 500))
    with torch.no_grad():
        q, exact = posterior(batch), model.exact_encoder()(x)
        q = MultivariateNormal(q.mean, scale_tril=q.stddev.diag_embed())
        lost = kl_divergence(q, exact) - model.mean_field_gap()
    assert (lost > -1e-12).all()
    assert lost.max() < 5e-3 < 0.1 * model.mean_field_gap()


def test_mean_field_learns_a_model_as_good_as_an_encoder_does():
    # An encoder that is one small network cannot be best for each datum; free parameters can.
    rng = np.random.default_rng(0)
    x = torch.from_numpy((rng.random((40, 8)) < rng.random((40, 1))).astype(float))
    batch, found = Batch(x, torch.arange(40)), {}
    for name in ("mean-field", "aevb"):
        model, encoder = small_pair(2, 8)
        posterior = encoder if name == "aevb" else per_datum(40, 2).double()
        learner = aevb.AEVB(model, posterior, optimizer=Adam(0.01))
        state = learner.init()
        for t in range(400):
            learner.step(state, batch, noise((4, 40, 2), t), cosine(t / 400))
        with torch.no_grad():
            found[name] = float(aevb.iwae(model, posterior, batch, noise((1000, 40, 2))).mean())
    assert found["mean-field"] > found["aevb"]


def test_mean_field_is_a_posterior_that_factorizes(tmp_path):
    for posterior in ("mean-field", "per-datum:full-covariance"):
        command = ["train", "digits", "--algorithm", "mean-field", "--posterior", posterior]
        assert "--algorithm mean-field" in refused(2, *command, "--out", tmp_path / "run")

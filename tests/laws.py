"""Laws as functions that raise AssertionError: for the tests, and for the bugs planted on purpose.

Each takes nothing and compares the library with truth from elsewhere: a derivation in numpy, a
quadrature, scipy, torch.optim, finite differences.
"""

import math
from unittest import mock

import numpy as np
import scipy.stats
import torch
from helpers import binary_rows, noise, numpy_bounds, quadrature, small_pair
from torch.distributions import Independent, Poisson

import aevb
from aevb import distributions
from aevb.algorithms import AEVB, MonteCarloEM
from aevb.conditional import Unconditional
from aevb.data import Dataset, Rows, Source, split
from aevb.distributions import kl_by_dimension
from aevb.evaluation import bound_parts, estimates, evidence
from aevb.families import Categorical, Elementwise, Normal
from aevb.mcmc import effective_sample_size
from aevb.objectives import draw
from aevb.plan import Plan
from aevb.posterior import Batch, per_datum
from aevb.randomness import Stream, generator
from aevb.training import train


def close(a, b, tolerance):
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    assert a.shape == b.shape, (a.shape, b.shape)
    assert np.allclose(a, b, rtol=tolerance, atol=tolerance), np.abs(a - b).max()


def bounds_equal_the_numpy_derivation():
    model, posterior = small_pair(latent=3)
    rows = binary_rows(8)
    eps = noise((4, 8, 3))
    x = rows.all().double()
    expected = numpy_bounds(model, posterior, x.numpy(), eps.numpy())
    for objective, value in zip((aevb.elbo_a, aevb.elbo_b, aevb.iwae), expected, strict=True):
        close(objective(model, posterior, x, eps).detach(), value, 1e-10)


def divergence_equals_quadrature():
    q = Normal()(torch.tensor([[0.7, math.log(0.3)]], dtype=torch.float64), 1)
    p = Normal()(torch.tensor([-0.4, math.log(2.5)], dtype=torch.float64), 0)
    grid = np.linspace(-12, 12, 200_001)
    density = scipy.stats.norm.pdf(grid, 0.7, math.sqrt(0.3))
    ratio = scipy.stats.norm.logpdf(grid, 0.7, math.sqrt(0.3)) - scipy.stats.norm.logpdf(
        grid, -0.4, math.sqrt(2.5)
    )
    close(kl_by_dimension(q, p), [[np.trapezoid(density * ratio, grid)]], 1e-9)


def estimators_agree_in_the_mean():
    model, posterior = small_pair()
    x = binary_rows(3).all().double()
    eps = noise((40_000, 3, 2))
    a = draw(model, posterior, x, eps).log_weights().detach().numpy()
    b = aevb.elbo_b(model, posterior, x, eps).detach().numpy()
    error = a.std(0) / math.sqrt(len(a))
    assert (np.abs(a.mean(0) - b) < 5 * error).all()


def gradients_equal_finite_differences():
    model, posterior = small_pair()
    x, eps = binary_rows(4).all().double(), noise((3, 4, 2))
    for objective in (aevb.elbo_a, aevb.elbo_b, aevb.iwae):
        for module in (model, posterior):
            for p in module.parameters():
                total = objective(model, posterior, x, eps).sum()
                (gradient,) = torch.autograd.grad(
                    total, [p], allow_unused=True, materialize_grads=True
                )
                with torch.no_grad():
                    flat, step = p.view(-1), 1e-5
                    i = int(gradient.abs().argmax())
                    flat[i] += step
                    above = objective(model, posterior, x, eps).sum()
                    flat[i] -= 2 * step
                    below = objective(model, posterior, x, eps).sum()
                    flat[i] += step
                close(gradient.view(-1)[i], (above - below) / (2 * step), 1e-6)
                assert float(gradient.abs().max()) > 1e-6


def importance_agrees_with_quadrature():
    model, posterior = small_pair(latent=2, spread=0.8)
    rows = binary_rows(20)
    truth = quadrature(model, rows.all().double().numpy())
    result = evidence(model, posterior, rows, 20_000, seed=3)
    error = np.maximum(result.importance.errors, 1e-6)
    assert result.importance.errors.max() < 0.2
    assert (np.abs(result.importance.values - truth) < 5 * error).all()
    assert abs(result.importance.mean - truth.mean()) < 5 * result.importance.monte_carlo_error
    assert (result.elbo.values < truth + 5 * result.elbo.errors).all()


def evaluation_takes_exactly_the_samples_asked_for():
    model, posterior = small_pair()
    rows = binary_rows(3)
    for samples in (1, 499, 500, 501, 1201):
        result = evidence(model, posterior, rows, samples, seed=1)
        eps = torch.stack(
            [
                torch.cat(
                    [
                        torch.from_numpy(
                            generator(1, Stream.EVALUATION, n, b).standard_normal(
                                (min(500, samples - 500 * b), 2)
                            )
                        )
                        for b in range(math.ceil(samples / 500))
                    ]
                )
                for n in range(3)
            ],
            dim=1,
        )
        assert len(eps) == samples
        _, b, k = numpy_bounds(model, posterior, rows.all().double().numpy(), eps.numpy())
        close(result.importance.values, k, 1e-10)
        close(result.elbo.values, b, 1e-10)
        assert result.importance.samples == samples


def evaluation_weighs_every_datum_alike():
    model, posterior = small_pair()
    rows = binary_rows(11)
    whole = evidence(model, posterior, rows, 5).importance
    apart = [evidence(model, posterior, rows.pick(np.arange(i, i + 1)), 5) for i in range(11)]
    # row 0 shares its noise with row 0 of the whole; the mean is the plain mean of the values
    close(whole.values[0], apart[0].importance.values[0], 1e-12)
    close(whole.mean, whole.values.sum() / 11, 1e-12)
    parts = []
    for chunk in (3, 4, 11):
        with mock.patch.object(estimates, "CHUNK", chunk):
            parts.append(bound_parts(model, posterior, rows)["kl"])
    close(parts, [parts[0]] * 3, 1e-12)


def training_metrics_weigh_every_datum_alike():
    model, posterior = small_pair()
    learner = AEVB(model, posterior, optimizer=aevb.SGD(lr=1e-12))
    state = learner.init()
    x = binary_rows(10).all().double()
    eps = noise((1, 10, 2))
    for part in (slice(0, 7), slice(7, 10)):
        learner.step(state, x[part], eps[:, part])
    expected = aevb.elbo_b(model, posterior, x, eps).mean()
    close(state.averages()["elbo"], expected.detach(), 1e-9)


def noise_is_fresh_and_used():
    rows = binary_rows(24)
    seen = []
    model, posterior = small_pair(dtype=torch.float32)
    learner = AEVB(model, posterior)
    original = AEVB.step

    def spy(self, state, batch, eps, *rest):
        seen.append((batch.rows.clone(), eps.clone()))
        return original(self, state, batch, eps, *rest)

    AEVB.step = spy
    try:
        train(learner, dataset(rows), Plan(epochs=2, batch_size=8, samples=3))
    finally:
        AEVB.step = original
    assert all(eps.shape[0] == 3 for _, eps in seen)
    numbers = torch.cat([eps.flatten() for _, eps in seen])
    assert len(numbers.unique()) == len(numbers)
    orders = [torch.cat([r for r, _ in seen[:3]]), torch.cat([r for r, _ in seen[3:]])]
    assert all(sorted(order.tolist()) == list(range(24)) for order in orders)
    assert not torch.equal(*orders)
    z = draw(model, posterior, rows.all(), seen[0][1].new_zeros(1, 24, 2)).z
    moved = draw(model, posterior, rows.all(), torch.ones(1, 24, 2)).z
    deviation = posterior(rows.all()).stddev
    close((moved - z)[0].detach(), deviation.detach(), 1e-5)


def the_prior_of_the_model_is_used():
    model, posterior = small_pair()
    x, eps = binary_rows(3).all().double(), noise((2, 3, 2))
    before = {o.name: o(model, posterior, x, eps) for o in (aevb.elbo_a, aevb.elbo_b, aevb.iwae)}
    importance = evidence(model, posterior, binary_rows(3), 50).importance.values
    model.prior.raw[:2] = 1.5
    for objective in (aevb.elbo_a, aevb.elbo_b, aevb.iwae):
        after = objective(model, posterior, x, eps)
        assert not torch.allclose(before[objective.name], after, atol=1e-3)
    assert (
        np.abs(evidence(model, posterior, binary_rows(3), 50).importance.values - importance).min()
        > 1e-6
    )


def layers_are_in_evaluation_mode_when_evaluating():
    _, posterior = small_pair(dtype=torch.float32)
    network = torch.nn.Sequential(torch.nn.Linear(2, 6), torch.nn.Dropout(0.5))
    model = aevb.Model(aevb.standard_normal(2), aevb.bernoulli(network))
    model.train()
    values = [evidence(model, posterior, binary_rows(5), 20).importance.values for _ in range(2)]
    close(values[0], values[1], 0)
    close(*(bound_parts(model, posterior, binary_rows(5))["elbo"] for _ in range(2)), 0)
    assert model.training
    assert network[1].training


def categorical_normalizes_over_classes():
    rng = np.random.default_rng(0)
    raw = rng.standard_normal((5, 3 * 4))
    x = rng.integers(0, 3, (5, 4))
    logits = raw.reshape(5, 3, 4)
    expected = (logits - np.log(np.exp(logits).sum(1, keepdims=True)))[
        np.arange(5)[:, None], x, np.arange(4)[None]
    ].sum(1)
    p = Categorical(3)(torch.from_numpy(raw), 1)
    close(p.log_prob(torch.from_numpy(x)), expected, 1e-12)


def gaussian_density_equals_scipy():
    rng = np.random.default_rng(1)
    raw, x = rng.standard_normal((5, 6)), rng.standard_normal((5, 3))
    p = Normal(min_variance=0.01)(torch.from_numpy(raw), 1)
    deviation = np.sqrt(np.exp(raw[:, 3:]) + 0.01)
    close(
        p.log_prob(torch.from_numpy(x)),
        scipy.stats.norm.logpdf(x, raw[:, :3], deviation).sum(1),
        1e-12,
    )


def weight_prior_is_scaled_by_the_number_of_data():
    for n in (10, 1000):
        model, posterior = small_pair()
        theta = {f"model.{k}": v.detach().clone() for k, v in model.named_parameters()}
        gradients = []
        for rows in (None, n):
            learner = AEVB(model, posterior, optimizer=aevb.SGD(lr=1.0), weight_prior_rows=rows)
            state = learner.init()
            before = {k: v.clone() for k, v in state.parameters.items()}
            learner.step(state, binary_rows(4).all().double(), noise((1, 4, 2)))
            gradients.append({k: state.parameters[k] - before[k] for k in before})
            for k, v in before.items():
                state.parameters[k].copy_(v)
        for k in gradients[0]:
            expected = -theta[k] / n if k in theta else torch.zeros_like(gradients[0][k])
            close(gradients[1][k] - gradients[0][k], expected, 1e-12)


def reported_bound_is_the_bound_whatever_the_objective():
    for temper, objective in ((0.1, aevb.elbo_b), (4.0, aevb.elbo_a), (1.0, aevb.free_bits(5.0))):
        model, posterior = small_pair()
        x, eps = binary_rows(6).all().double(), noise((2, 6, 2))
        expected = aevb.elbo_b(model, posterior, x, eps).mean().item()
        learner = AEVB(model, posterior, objective, optimizer=aevb.SGD(lr=1e-3))
        state = learner.init()
        learner.step(state, x, eps, 1.0, temper)
        close(state.averages()["elbo"], expected, 1e-10)


def beta_scales_the_divergence_in_the_objective():
    model, posterior = small_pair()
    x, eps = binary_rows(6).all().double(), noise((2, 6, 2))
    d = draw(model, posterior, x, eps)
    kl = d.kl()
    close(
        (aevb.elbo_b.reduce(d, 0.25) - aevb.elbo_b.reduce(d, 1.0)).detach(),
        (0.75 * kl).detach(),
        1e-12,
    )
    ratio = model.prior().log_prob(d.z) - posterior(x).log_prob(d.z)
    close(
        (aevb.elbo_a.reduce(d, 0.25) - aevb.elbo_a.reduce(d, 1.0)).detach(),
        (-0.75 * ratio.mean(0)).detach(),
        1e-12,
    )
    assert float(kl.detach().min()) > 0


def training_raises_the_bound():
    # Rows that are all ones or all zeros: one bit, -log 2 nats, against -6 log 2 without latents.
    model, posterior = small_pair(dtype=torch.float32, spread=0.2)
    values = np.repeat(np.arange(60) % 2, 6).reshape(60, 6).astype(np.uint8)
    data = dataset(Rows(values, np.arange(60), (6,)))
    learner = AEVB(model, posterior, optimizer=aevb.Adam(lr=0.02))
    history = train(learner, data, Plan(epochs=100, batch_size=20))
    assert -6 * math.log(2) - 0.5 < history[0]["train"]["elbo"] < -6 * math.log(2) + 0.5
    assert -math.log(2) - 0.7 < history[-1]["train"]["elbo"] < -math.log(2)


def held_out_rows_never_reach_training():
    values = np.repeat(np.arange(200, dtype=np.float32)[:, None], 3, axis=1) / 200
    source = Source("ramp", values, (3,), "continuous-bernoulli", "a ramp", "none")
    data = split(source)
    parts = [set(r.all()[:, 0].tolist()) for r in (data.train, data.validation, data.test)]
    assert [len(p) for p in parts] == [160, 20, 20]
    assert len(set.union(*parts)) == 200
    seen: set[float] = set()
    original = Rows.stored

    def spy(self, positions):
        x = original(self, positions)
        seen.update(x[:, 0].tolist())
        return x

    with torch.random.fork_rng(devices=[]):
        model = aevb.Model(aevb.standard_normal(2), aevb.continuous_bernoulli(aevb.MLP(2, [4], 3)))
        posterior = aevb.mean_field(aevb.MLP(3, [4], 4))
    Rows.stored = spy
    try:
        train(AEVB(model, posterior), data, Plan(epochs=2, batch_size=50))
    finally:
        Rows.stored = original
    assert seen == parts[0]


def dynamic_binarization_is_fresh_each_epoch_and_unbiased():
    grey = np.full((40, 50), 0.3, dtype=np.float32)
    source = Source("grey", grey, (50,), "bernoulli", "", "none", binarize="epoch")
    rows = split(source).train
    positions = np.arange(len(rows))
    draws = torch.stack(
        [rows.treatment(rows.stored(positions), rows.key(step)) for step in range(50)]
    )
    assert set(draws.unique().tolist()) == {0.0, 1.0}
    assert not torch.equal(draws[0], draws[1])
    n = draws.numel()
    assert abs(float(draws.mean()) - 0.3) < 5 * math.sqrt(0.21 / n)
    assert torch.equal(rows.take(positions), rows.take(positions))


def dataset(rows: Rows) -> Dataset:
    """The same rows for all three uses: enough for tests of the loop."""
    source = Source("rows", rows.values, rows.shape, "bernoulli", "", "none")
    return Dataset(source, rows, rows, rows)


LAWS = [
    bounds_equal_the_numpy_derivation,
    divergence_equals_quadrature,
    estimators_agree_in_the_mean,
    gradients_equal_finite_differences,
    importance_agrees_with_quadrature,
    evaluation_takes_exactly_the_samples_asked_for,
    evaluation_weighs_every_datum_alike,
    training_metrics_weigh_every_datum_alike,
    noise_is_fresh_and_used,
    the_prior_of_the_model_is_used,
    layers_are_in_evaluation_mode_when_evaluating,
    categorical_normalizes_over_classes,
    gaussian_density_equals_scipy,
    weight_prior_is_scaled_by_the_number_of_data,
    reported_bound_is_the_bound_whatever_the_objective,
    beta_scales_the_divergence_in_the_objective,
    training_raises_the_bound,
    held_out_rows_never_reach_training,
    dynamic_binarization_is_fresh_each_epoch_and_unbiased,
]


class Fixed(torch.nn.Module):
    """A likelihood that is a function of z, with a weight of no effect: learners need one."""

    def __init__(self, law):
        super().__init__()
        self.law = law
        self.weight = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def forward(self, z):
        return self.law(z + 0 * self.weight)


def visits(learner, x, n, batch_size=None, samples=1, schedule=lambda done: 1.0):
    """So many visits of Monte Carlo EM to x; its state, and the places of all chains after each
    transition of each visit."""
    state, seen = learner.init(), []
    original = learner._walk

    def spy(*arguments):
        draws, acceptance = original(*arguments)
        seen.append(list(draws))
        return draws, acceptance

    learner._walk = spy if not learner.compiled else original
    for t in range(n):
        rows = np.random.default_rng(t).permutation(len(x))[:batch_size] if batch_size else None
        rows = torch.arange(len(x)) if rows is None else torch.from_numpy(rows)
        batch = Batch(x[rows], rows)
        source = generator(9, Stream.NOISE, t)
        noise = learner.noise(batch).draw(source, (samples, len(rows)), torch.float64)
        learner.step(state, batch, noise, schedule(t / n))
    return state, seen


def chains_have_the_posterior():
    """z ~ Gamma(2, 1), x ~ Poisson(3 z): z given x is Gamma(2 + x, 4)."""
    counts, copies = torch.tensor([0.0, 3.0, 20.0]).double(), 80
    prior = Unconditional(Elementwise(distributions.Gamma), 1)
    prior.raw[0] = math.log(2.0)
    law = Fixed(lambda z: Independent(Poisson(3 * z), 1))
    model = aevb.Model(prior, law).double()
    learner = MonteCarloEM(model, per_datum(3 * copies, 1), optimizer=aevb.SGD(1e-12))
    x = counts.repeat(copies)[:, None]
    _, seen = visits(learner, x, 45)
    u = torch.stack([places[-1] for places in seen[15:]])
    z = learner._map(u).reshape(len(u), copies, 3)
    for k, count in enumerate(counts):
        truth = scipy.stats.gamma(2 + float(count), scale=1 / (1 + 3))
        draws = z[:, :, k]
        for values, expected in (
            (draws, truth.mean()),
            ((draws - truth.mean()).square(), truth.var()),
        ):
            worth = float(effective_sample_size(values, ranked=False))
            assert worth > 200
            assert abs(float(values.mean()) - expected) < 5 * float(values.std()) / worth**0.5


def chains_are_persistent():
    """A chain goes on from where it was left; those of other rows stay; only theta is learned."""
    model, _ = small_pair()
    posterior = per_datum(30, 2)
    before = [p.clone() for p in posterior.parameters()]
    learner = MonteCarloEM(model, posterior)
    x = binary_rows(30).all().double()
    state, _ = visits(learner, x, 3)
    assert all(name.startswith("model.") for name in state.parameters)
    assert all(torch.equal(a, b) for a, b in zip(before, posterior.parameters(), strict=True))
    left = state.extra["chains"].clone()
    state.extra["tuning"][0] = -30.0  # steps so small that a chain stays where it begins
    rows = torch.arange(5)
    noise = learner.noise(Batch(x[:5], rows)).draw(np.random.default_rng(0), (1, 5), torch.float64)
    learner.step(state, Batch(x[:5], rows), noise)
    close(state.extra["chains"], left, 1e-9)
    moved = state.extra["tuning"][0] + 30.0
    assert abs(float(moved) - 0.1) < 1e-6  # all was taken: the steps grow
    state.extra["tuning"][0] = -1.0
    learner.step(state, Batch(x[:5], rows), noise)
    assert not torch.equal(state.extra["chains"][:5], left[:5])
    assert torch.equal(state.extra["chains"][5:], left[5:])

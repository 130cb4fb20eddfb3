"""Estimators of the gradient against sums over codes, closed forms and quadrature of our own.

The truth is the gradient of an expectation that is written out here: over all codes, in closed form
for a linear-Gaussian model, or by the trapezoid rule over one or two draws of one dimension.
"""

import math
from operator import attrgetter

import numpy as np
import pytest
import torch
from helpers import binary_rows, noise, seeded, small_pair
from torch.distributions import Independent, Uniform
from zoo.gradients import (
    CODES,
    X,
    classes,
    coins,
    double_pair,
    line,
    linear,
    linear_pair,
    pair_of,
    settled,
    several,
    truth,
)

import aevb
from aevb import families
from aevb.conditional import Unconditional
from aevb.distributions import kl
from aevb.evaluation.gradient_draws import GradientDraws
from aevb.objectives import (
    LeaveOneOut,
    RunningMean,
    doubly_reparameterized,
    enumeration,
    gumbel_softmax,
    learned_baseline,
    path_derivative,
    score_function,
    straight_through,
    vimco,
)
from aevb.posterior import Amortized, Batch, ExactPosterior, amortized
from aevb.randomness import Stream, generator

DRAWS = 100_000
by_name = attrgetter("name")


def drawn(objective, make, n=DRAWS, samples=2, seed=0):
    """n gradients of theta and phi, (n, P) each."""
    model, posterior = pair_of(make)
    batch = Batch(X)
    law = objective.noise(model, posterior, batch)
    eps = law.draw(generator(seed, Stream.GRADIENTS, 9), (n, samples, len(X)), torch.float64)
    return GradientDraws(model, posterior, batch)(objective, eps)


def off_by(gradients, exact):
    """How many standard errors the mean lies from the truth, at the worst coordinate."""
    off = (gradients.mean(0) - exact).abs()
    error = gradients.std(0) / len(gradients) ** 0.5
    return float((off / (error + 1e-9)).max())


def mean_is_the_gradient(objective, make, samples=0, n=DRAWS):
    exact, _ = truth(make, samples)
    for part, gradients in drawn(objective, make, n).items():
        assert off_by(gradients, exact[part]) < 5, part


SCORES = {
    "none": lambda: None,
    "running-mean": lambda: settled(RunningMean()),
    "learned": lambda: settled(learned_baseline(3)),
    "leave-one-out": LeaveOneOut,
}
UNBIASED = [
    *((make, bound, name) for make in (coins, line) for bound in ("a", "b") for name in SCORES),
    *((linear, "a", name) for name in ("none", "leave-one-out")),
    *((classes, "b", name) for name in ("none", "leave-one-out")),
]


@pytest.mark.parametrize(("make", "bound", "baseline"), UNBIASED)
def test_the_score_function_has_the_gradient_of_the_bound_as_its_mean(make, bound, baseline):
    of = aevb.elbo_a if bound == "a" else aevb.elbo_b
    mean_is_the_gradient(score_function(of, SCORES[baseline]()), make)


@pytest.mark.parametrize("make", [line, linear])
@pytest.mark.parametrize("objective", [aevb.elbo_a, aevb.elbo_b, path_derivative()], ids=by_name)
def test_gradients_through_the_draw_have_the_gradient_of_the_bound_as_their_mean(make, objective):
    mean_is_the_gradient(objective, make)


@pytest.mark.parametrize("make", [coins, classes, line])
@pytest.mark.parametrize("baseline", SCORES)
def test_the_score_function_of_two_weights(make, baseline):
    mean_is_the_gradient(score_function(aevb.iwae, SCORES[baseline]()), make, samples=2)


@pytest.mark.parametrize("objective", [aevb.iwae, doubly_reparameterized], ids=by_name)
def test_two_weights_through_the_draw(objective):
    mean_is_the_gradient(objective, line, samples=2)


def test_vimco_is_the_score_function_that_leaves_one_out():
    own = score_function(aevb.iwae, LeaveOneOut())
    for part, gradients in drawn(vimco, coins, 50, samples=3).items():
        assert torch.equal(gradients, drawn(own, coins, 50, samples=3)[part])


def test_the_path_derivative_of_several_weights_is_biased_in_phi_alone():
    exact, _ = truth(line, 2)
    gradients = drawn(path_derivative(aevb.iwae), line)
    assert off_by(gradients["theta"], exact["theta"]) < 5
    assert off_by(gradients["phi"], exact["phi"]) > 20
    assert not path_derivative(aevb.iwae).unbiased


@pytest.mark.parametrize("make", [coins, classes, several])
def test_enumeration_is_exact(make):
    exact, value = truth(make)
    model, posterior = double_pair(make)
    bound = enumeration.terms(model, posterior, X, torch.zeros(1, 2, 0))
    assert math.isclose(float(bound.objective.detach().mean()), value, rel_tol=1e-12)
    torch.testing.assert_close(bound.reconstruction - bound.kl, bound.objective)
    torch.testing.assert_close(bound.kl, kl(posterior(X), model.prior()))
    weighed = enumeration.terms(model, posterior, X, torch.zeros(1, 2, 0), 0.3)
    torch.testing.assert_close(weighed.objective, bound.objective + 0.7 * bound.kl)
    for part, gradients in drawn(enumeration, make, 1).items():
        torch.testing.assert_close(gradients[0], exact[part], rtol=1e-10, atol=1e-12)


class FarApart(torch.nn.Module):
    """Uniform on [0, 2] by the first of two classes, on [5, 7] by the second."""

    def forward(self, z):
        low = 5 * z[..., 1:]
        return Independent(Uniform(low, low + 2, validate_args=False), 1, validate_args=False)


def test_a_code_that_cannot_have_made_the_datum_adds_nothing_to_the_bound():
    prior = aevb.Unconditional(families.OneHotCategorical(), 2)
    model = aevb.Model(prior, FarApart())
    x = torch.tensor([[0.3], [6.0]])
    bound = enumeration(model, ExactPosterior(model), x, torch.zeros(1, 2, 0))
    torch.testing.assert_close(bound, torch.full((2,), math.log(0.5 * 0.5)))


@pytest.mark.parametrize("make", [coins, classes, several])
def test_relaxed_codes_are_biased_and_less_so_when_they_are_harder(make):
    exact, _ = truth(make)
    off = []
    for temperature in (1.0, 0.3, 0.1):
        gradients = drawn(gumbel_softmax(temperature), make)
        whole, target = (torch.cat([g[p] for p in exact], -1) for g in (gradients, exact))
        off.append(float((whole.mean(0) - target).norm()))
        if temperature == 1.0:
            assert off_by(whole, target) > 20
    assert off[0] > 2 * off[1] > 2 * off[2]


@pytest.mark.parametrize("make", [coins, classes, several])
def test_the_straight_through_gradient_is_biased_in_phi_alone(make):
    exact, _ = truth(make)
    gradients = drawn(straight_through, make)
    assert off_by(gradients["theta"], exact["theta"]) < 5
    assert off_by(gradients["phi"], exact["phi"]) > 20


def test_the_straight_through_gradient_is_exact_where_the_bound_is_linear_in_the_code():
    """One coin, and a decoder of which log p(x given z) is l_0 + z (l_1 - l_0)."""

    class Straight(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.rate = torch.nn.Parameter(torch.tensor([0.3, -1.2]).double())

        def forward(self, z):
            log_p = self.rate[0] + z.squeeze(-1) * (self.rate[1] - self.rate[0])
            return Weighed(log_p)

    class Weighed(torch.distributions.Distribution):
        def __init__(self, log_p):
            super().__init__(log_p.shape, torch.Size([3]), validate_args=False)
            self.log_p = log_p

        def log_prob(self, value):
            return self.log_p

    posterior = seeded(lambda: amortized(aevb.MLP(3, [2], 1), families.Bernoulli())).double()
    model = aevb.Model(Unconditional(families.Bernoulli(), 1), Straight()).double()
    exact = enumeration(model, posterior, X, torch.zeros(1, 2, 0)).mean()
    phi = list(posterior.parameters())
    target = torch.cat([g.flatten() for g in torch.autograd.grad(exact, phi)])
    u = torch.rand(5, 1, 2, 1, dtype=torch.float64)
    found = GradientDraws(model, posterior, Batch(X))(straight_through, u)["phi"]
    torch.testing.assert_close(found, target.expand_as(found))


# -- the landing -----------------------------------------------------------------------------------


def at_the_exact_posterior():
    model = linear_pair()[0]
    return model, model.exact_encoder()


def no_noise_at_the_exact_posterior(objective):
    """The gradient of phi is zero for every draw, where that of elbo_a is not."""
    model, posterior = at_the_exact_posterior()
    draws = GradientDraws(model, posterior, Batch(X))
    eps = noise((50, 4, 2, 2))
    usual = draws(aevb.elbo_a, eps)["phi"].abs().max()
    assert usual > 0.1
    assert draws(objective, eps)["phi"].abs().max() < 1e-13 * usual


@pytest.mark.parametrize(
    "objective",
    [
        path_derivative(),
        path_derivative(aevb.iwae),
        doubly_reparameterized,
        score_function(aevb.elbo_a, LeaveOneOut()),
    ],
    ids=by_name,
)
def test_nothing_is_left_of_the_noise_at_the_exact_posterior(objective):
    no_noise_at_the_exact_posterior(objective)


@pytest.mark.parametrize("make", [line, linear])
def test_one_sample_reparameterized_twice_is_the_path_derivative(make):
    twice, once = (drawn(o, make, 20, 1) for o in (doubly_reparameterized, path_derivative()))
    for part in twice:
        torch.testing.assert_close(twice[part], once[part])


def flow_pair():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        family = families.InverseAutoregressive(2, 2, (4,), 3)
        posterior = amortized(aevb.MLP(6, [5], family.outputs(2)), family).double()
    return small_pair()[0], posterior


def ladder_pair():
    from aevb.conditional import Chain, Conditional
    from aevb.networks import Leading
    from aevb.posterior import Ladder

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        normal = families.Normal()
        links = [Unconditional(normal, 1), Conditional(aevb.MLP(1, [3], 4), normal)]
        prior = Chain(links, [1, 2], reverse=True)
        rungs = [aevb.MLP(6, [], 4), aevb.MLP(4, [], 4)]
        heads = [aevb.MLP(4, [], 4), aevb.MLP(4, [], 2)]
        model = aevb.Model(prior, aevb.bernoulli(Leading(aevb.MLP(2, [5], 6), 2)))
        return model.double(), Amortized(Ladder(rungs, heads, prior)).double()


@pytest.mark.parametrize(("make", "latent"), [(flow_pair, 2), (ladder_pair, 3)])
def test_flows_and_ladders_have_path_derivatives_too(make, latent):
    model, posterior = make()
    draws = GradientDraws(model, posterior, Batch(binary_rows(2).all().double()))
    eps = noise((20_000, 1, 2, latent))
    usual, path = (draws(o, eps) for o in (aevb.elbo_a, path_derivative()))
    for part in usual:
        assert off_by(usual[part] - path[part], torch.zeros(())) < 5
    assert (usual["phi"] - path["phi"]).abs().max() > 0.1
    model_value = aevb.elbo_a(model, posterior, draws.batch, eps[0])
    torch.testing.assert_close(
        path_derivative()(model, posterior, draws.batch, eps[0]), model_value
    )


# -- what all have in common -----------------------------------------------------------------------

OF_DRAWS = {
    "path": (path_derivative(), aevb.elbo_a),
    "path-iwae": (path_derivative(aevb.iwae), aevb.iwae),
    "twice": (doubly_reparameterized, aevb.iwae),
    "score-a": (score_function(aevb.elbo_a), aevb.elbo_a),
    "score-b": (score_function(aevb.elbo_b, LeaveOneOut()), aevb.elbo_b),
    "learned": (score_function(aevb.elbo_b, settled(learned_baseline(3))), aevb.elbo_b),
    "vimco": (vimco, aevb.iwae),
}


def value_is_the_bound(objective, bound, make, temper):
    model, posterior = pair_of(make)
    eps = noise((4, 2, posterior(X).event_shape[0]), 5).sigmoid() if make is coins else noise(
        (4, 2, posterior(X).event_shape[0]), 5)  # fmt: skip
    found = objective.terms(model, posterior, X, eps, temper)
    with torch.no_grad():
        expected = bound.terms(model, posterior, X, eps, temper)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.detach(), other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", OF_DRAWS)
@pytest.mark.parametrize("temper", [1.0, 0.3])
def test_the_value_is_that_of_the_bound(name, temper):
    objective, bound = OF_DRAWS[name]
    value_is_the_bound(objective, bound, linear, temper)
    if name in ("score-a", "score-b", "learned", "vimco"):
        value_is_the_bound(objective, bound, coins, temper)


@pytest.mark.parametrize("objective", [gumbel_softmax(0.5), straight_through], ids=by_name)
@pytest.mark.parametrize("make", [coins, classes, several])
def test_what_is_reported_of_soft_codes_is_the_bound_at_hard_ones(objective, make):
    model, posterior = double_pair(make)
    law = objective.noise(model, posterior, Batch(X))
    u = law.draw(np.random.default_rng(0), (4000, 2), torch.float64)
    found = objective.terms(model, posterior, X, u)
    exact = enumeration.terms(model, posterior, X, u[..., :0])
    torch.testing.assert_close(found.kl, exact.kl)
    torch.testing.assert_close(found.objective, found.reconstruction - found.kl)
    each = [objective.terms(model, posterior, X, one).reconstruction for one in u.split(1)[:1000]]
    values = torch.stack(each).detach()
    with torch.no_grad():
        possible = model.log_likelihood(X, CODES[make].unsqueeze(1))
    assert ((values.unsqueeze(1) - possible).abs().amin(1) < 1e-12).all()
    error = values.std(0) / 1000**0.5
    assert ((values.mean(0) - exact.reconstruction).abs() < 5 * error).all()


def test_a_loop_of_ones_own_learns_by_any_of_them():
    for objective in (score_function(aevb.elbo_b, RunningMean()), vimco, gumbel_softmax(0.5)):
        model, posterior = double_pair(coins)
        parameters = [*model.parameters(), *posterior.parameters()]
        optimizer = torch.optim.Adam(parameters, lr=0.02)
        law = objective.noise(model, posterior, Batch(X))
        before = enumeration(model, posterior, X, torch.zeros(1, 2, 0)).mean()
        for t in range(100):
            eps = law.draw(np.random.default_rng(t), (2, 2), torch.float64)
            optimizer.zero_grad()
            (-objective(model, posterior, X, eps).mean()).backward()
            optimizer.step()
        after = enumeration(model, posterior, X, torch.zeros(1, 2, 0)).mean()
        assert after > before + 0.5

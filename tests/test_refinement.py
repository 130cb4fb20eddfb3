"""Semi-amortized inference against closed forms, quadrature and finite differences."""

import numpy as np
import pytest
import torch
from helpers import binary_rows, good, noise, quadrature, refused, small_pair
from scipy.optimize import minimize

import aevb
from aevb import codes
from aevb.conditional import Chain, Conditional, Unconditional
from aevb.distributions import kl
from aevb.errors import DataError, UsageError
from aevb.evaluation import refit
from aevb.families import Elementwise, Normal
from aevb.imputation import impute
from aevb.linear_gaussian import linear_gaussian
from aevb.posterior import (
    Amortized,
    ExactPosterior,
    FromPrior,
    Ladder,
    amortized,
    everywhere,
    per_datum,
)
from aevb.refinement import Refined, refined
from aevb.storage import RunFolder
from aevb.storage.latents import FAMILIES, PRIORS, prior_for

D, X, N = 2, 6, 7


@pytest.fixture(scope="module")
def linear():
    """A linear-Gaussian model, an encoder that knows nothing, and rows of the model."""
    rng = np.random.default_rng(1)
    model = linear_gaussian(rng.normal(size=(5, 3)), rng.normal(size=5), np.array(0.5))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = aevb.mean_field(aevb.MLP(5, [], 6)).double()
    x = torch.from_numpy(rng.normal(size=(20, 5))) * 2
    return model, encoder, x


def rows():
    return torch.from_numpy(np.asarray(binary_rows(N).values, dtype=np.float64))


def exact_bound(model, x, q):
    """log p(x) - KL(q(z) || p(z given x)), (N,): both terms in closed form."""
    return (model.log_prob(x) - kl(q, model.exact_encoder()(x))).detach()


def of(posterior, x):
    """The bound at the fixed noise, (N,)."""
    with torch.no_grad():
        return posterior.bound(x, posterior.numbers(x))


def test_the_bound_that_is_climbed_is_exact_where_the_model_is_linear_and_gaussian(linear):
    model, encoder, x = linear
    posterior = Refined(encoder, model)
    with torch.no_grad():
        q, found = encoder(x), posterior.bound(x, encoder.numbers(x))
    assert torch.allclose(found, exact_bound(model, x, q), rtol=1e-10)


def test_more_steps_rise_to_the_best_of_the_family(linear):
    model, encoder, x = linear
    bounds = [exact_bound(model, x, refined(encoder, model, n)(x)) for n in (0, 1, 2, 5, 20, 300)]
    best = exact_bound(model, x, model.best_mean_field()(x))
    for lower, higher in zip(bounds, [*bounds[1:], best], strict=True):
        assert bool((higher >= lower - 1e-9).all())
    gaps = torch.stack([(best - bound).mean() for bound in bounds])
    assert bool((gaps[1:] < gaps[:-1]).all())
    assert gaps[0] > 1
    assert gaps[-1] < 1e-4


def test_no_datum_is_worse_than_its_encoder_said_on_the_noise_that_is_climbed():
    model, encoder = small_pair(spread=6.0)
    x = rows()
    bounds = torch.stack([of(Refined(encoder, model, n), x) for n in range(6)])
    assert bool((bounds.diff(dim=0) >= 0).all())
    assert bool((bounds[-1] > bounds[0]).all())


def test_the_refined_bound_is_near_the_best_of_the_family_by_quadrature():
    model, encoder = small_pair(spread=3.0)
    x = rows()[:3]
    points, weights = np.polynomial.hermite_e.hermegauss(40)
    e = torch.from_numpy(np.stack(np.meshgrid(points, points, indexing="ij"), -1).reshape(-1, 2))
    w = torch.from_numpy(np.outer(weights, weights).ravel() / weights.sum() ** 2)

    def bound(numbers, row):
        q = encoder.given(torch.as_tensor(numbers)[None])
        z = q.mean + q.stddev * e[:, None, :]
        with torch.no_grad():
            return float(w @ model.log_likelihood(row[None], z)[:, 0] - kl(q, model.prior()))

    posterior = Refined(encoder, model, 60)
    start, few = encoder.numbers(x).detach(), posterior.numbers(x).detach()
    half = noise((2000, D))
    posterior.noise = torch.cat([half, -half])
    many = posterior.numbers(x).detach()
    log_p = quadrature(model, x.numpy())
    for row, *numbers, truth in zip(x, start, few, many, log_p, strict=True):
        ends = [minimize(lambda v, row=row: -bound(v, row), v.numpy()) for v in numbers]
        best = -min(end.fun for end in ends)
        lost = [best - bound(v, row) for v in numbers]
        assert best <= truth
        # 32 draws are an estimate of the bound; with 4,000 nothing is left to find.
        assert lost[1] < 0.1 < lost[0]
        assert -1e-6 < lost[2] < 1e-3


def test_the_gradient_goes_through_the_steps_as_finite_differences_say():
    model, encoder = small_pair()
    posterior, x, e = Refined(encoder, model, 4), rows(), noise((3, N, D))
    parameters = [*model.parameters(), *encoder.parameters()]
    direction = [noise(p.shape, seed=i) for i, p in enumerate(parameters)]

    def at(t):
        with torch.no_grad():
            for p, d in zip(parameters, direction, strict=True):
                p.add_(t * d)
            value = aevb.elbo_a(model, posterior, x, e).sum()
            for p, d in zip(parameters, direction, strict=True):
                p.sub_(t * d)
        return value

    slopes = torch.autograd.grad(aevb.elbo_a(model, posterior, x, e).sum(), parameters)
    own = sum((s * d).sum() for s, d in zip(slopes, direction, strict=True))
    h = 1e-5
    assert float(own) == pytest.approx(float(at(h) - at(-h)) / (2 * h), rel=1e-7)


def test_what_is_found_for_a_row_depends_on_no_other():
    model, encoder = small_pair(spread=2.0)
    posterior, x = Refined(encoder, model, 8), rows()
    together = posterior.numbers(x)
    alone = torch.cat([posterior.numbers(row[None]) for row in x])
    assert torch.allclose(together, alone, rtol=1e-9, atol=1e-9)


def test_without_steps_it_is_the_encoder():
    model, encoder = small_pair()
    assert refined(Refined(encoder, model, 3), model, 0) is encoder
    x = rows()
    assert torch.equal(Refined(encoder, model, 0)(x).mean, encoder(x).mean)


def test_one_law_for_all_data_is_refined_to_one_for_each():
    model, _ = small_pair(spread=3.0)
    q = Refined(everywhere(D).double(), model, 20)
    assert bool((of(q, rows()) > of(Refined(q.posterior, model, 0), rows())).all())


def test_noise_of_other_laws_is_drawn_and_climbed_too():
    torch.manual_seed(0)
    model = aevb.Model(
        Unconditional(Elementwise(aevb.distributions.Gamma), D),
        aevb.bernoulli(aevb.MLP(D, [5], X)),
    )
    family = Elementwise(aevb.distributions.Weibull)
    encoder = amortized(aevb.MLP(X, [5], family.outputs(D)), family)
    for module in (model, encoder):
        module.double()
    bounds = [of(Refined(encoder, model, n), rows()) for n in (0, 5, 10)]
    assert bool((bounds[1] > bounds[0]).all() & (bounds[2] >= bounds[1]).all())


def test_the_model_is_shared_and_both_are_restored(tmp_path):
    model, encoder = small_pair(dtype=torch.float32)
    posterior = Refined(encoder, model, 3)
    assert not any("likelihood" in name for name in posterior.state_dict())
    aevb.save(tmp_path, model, posterior)
    other, found = aevb.load(tmp_path)
    assert found.model is other
    assert found.steps == 3
    x = rows().float()
    assert torch.equal(found(x).mean, posterior(x).mean)


def test_all_that_works_with_a_posterior_works_with_it():
    model, encoder = small_pair(spread=2.0)
    data = binary_rows(N)
    posterior = Refined(encoder, model, 10)
    assert codes.encode(model, posterior, data).shape == (N, D)
    plain, better = (aevb.evidence(model, q, data, 2000).elbo.mean for q in (encoder, posterior))
    assert better > plain
    holed = aevb.data.Rows(np.where(np.eye(N, X) > 0, np.nan, data.values), data.index, (X,))
    assert np.isfinite(impute(model, posterior, holed, samples=10)).all()


def ladder():
    """A posterior of two layers that are not one network and a family."""
    below = Conditional(torch.nn.Linear(1, 2), Normal())
    prior = Chain([Unconditional(Normal(), 1), below], [1, 1], reverse=True)
    rungs = [torch.nn.Linear(X, 3), torch.nn.Linear(3, 3)]
    return Amortized(Ladder(rungs, [torch.nn.Linear(3, 2) for _ in range(2)], prior))


@pytest.mark.parametrize("wrong", ["per datum", "refined", "ladder", "exact", "prior", "steps"])
def test_what_cannot_be_refined_is_refused(wrong):
    model, encoder = small_pair()
    sick = {
        "per datum": (per_datum(N, D), 3, "found PerDatum: leave the steps out"),
        "refined": (Refined(encoder, model), 3, "found Refined"),
        "ladder": (ladder(), 3, "one network and a family"),
        "exact": (
            ExactPosterior(model),
            3,
            "one network and a .* ExactPosterior: leave it as it is",
        ),
        "prior": (FromPrior(model.prior), 3, "one network and a family.*found FromPrior"),
        "steps": (encoder, -1, "at least 0, found -1"),
    }
    posterior, steps, said = sick[wrong]
    with pytest.raises(UsageError, match=said):
        Refined(posterior, model, steps)
    if wrong in ("exact", "prior"):
        with pytest.raises(UsageError, match=said):
            refit(model, posterior, binary_rows(N))


def test_data_outside_the_likelihood_are_refused_within_the_gradient():
    model, encoder = small_pair()
    with pytest.raises(DataError, match=r"found 0\.5 in row 2, column 1 .* gaussian"):
        Refined(encoder, model)(torch.tensor([[0.0] * X, [0.5] + [1.0] * (X - 1)]).double())


SMALL = ["--hidden", "8", "--latent-dim", "2", "--epochs", "2", "--data-limit", "80"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run of the encoder alone, and one that was trained through two steps for each datum."""
    place = tmp_path_factory.mktemp("runs")
    ways = {"plain": [], "semi": ["--algorithm", "semi-amortized", "--refine", "2"]}
    for name, options in ways.items():
        good("train", "digits", *SMALL, *options, "--out", place / name)
    return place


def test_no_refinement_is_the_plain_evaluation_to_the_digit(runs):
    usual, none, some = (
        good("evaluate", runs / "plain", "--samples", "20", *options)
        for options in ([], ["--refine", "0"], ["--refine", "5"])
    )
    assert (usual.pop("refine"), none.pop("refine"), some["refine"]) == (None, 0, 5)
    assert usual == none
    assert some["elbo"]["mean"] > usual["elbo"]["mean"]
    # What the folder says of the run is of the posterior that is saved.
    assert RunFolder(runs / "plain").evaluation()["elbo"] == usual["elbo"]


def test_a_run_that_was_trained_through_the_steps_keeps_them(runs):
    _, posterior = RunFolder(runs / "semi").load()
    assert posterior.steps == 2
    same, other = (
        good("evaluate", runs / "semi", "--samples", "20", "--refine", n)["elbo"]["mean"]
        for n in (2, 0)
    )
    assert good("evaluate", runs / "semi", "--samples", "20")["elbo"]["mean"] == same > other
    good("encode", runs / "semi", "--refine", "4")
    good("reconstruct", runs / "plain", "--refine", "4")


def test_steps_that_nothing_would_take_are_refused(runs, tmp_path):
    start = ["train", "digits", *SMALL, "--out", tmp_path / "run"]
    assert "but to semi-amortized, and to aevb evaluate" in refused(2, *start, "--refine", "3")
    semi = [*start, "--algorithm", "semi-amortized", "--posterior"]
    assert "first ones only" in refused(2, *semi, "mixture")
    assert "discrete codes have not: leave the steps out" in refused(2, *semi, "bernoulli")
    assert "found PerDatum" in refused(2, *semi, "per-datum")


@pytest.mark.parametrize("name", ["full-covariance", "gamma", "planar", "von-mises-fisher"])
def test_second_derivatives_go_through_the_draws_of_a_family(name):
    torch.manual_seed(1)
    family = FAMILIES[name][1](3)
    model = aevb.Model(PRIORS[prior_for(name, "auto")][1](3), aevb.bernoulli(aevb.MLP(3, [5], X)))
    encoder = amortized(aevb.MLP(X, [5], family.outputs(3)), family)
    posterior, x = Refined(encoder.double(), model.double(), 3), rows()
    bias, h = encoder.conditional.network.head.bias, 1e-5

    def at(step):
        with torch.no_grad():
            bias[0] += step
            value = of(posterior, x).sum()
            bias[0] -= step
        return value.item()

    bound = posterior.bound(x, posterior.numbers(x)).sum()
    own = torch.autograd.grad(bound, bias)[0][0].item()
    assert own == pytest.approx((at(h) - at(-h)) / (2 * h), rel=1e-5, abs=1e-7)

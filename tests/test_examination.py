"""`aevb.check` finds the mistakes of the field, planted in small models; healthy ones pass.

The table goes through the thirty known mistakes by number. What cannot be planted in a model, a
posterior or an objective says why, and which test guards against it.
"""

import json
import math
from pathlib import Path

import pytest
import sickness as s
import torch
from helpers import binary_rows, small_pair
from sick_table import ELSEWHERE, MORE, PLANTS, TWINS, healthy, o, wrong_prior
from torch import distributions as td
from torch import nn

import aevb
from aevb.conditional import Chain, Conditional, Unconditional
from aevb.evaluation import check
from aevb.evaluation.examination import vectors
from aevb.evaluation.examination.subject import Law, subject_of
from aevb.evaluation.findings import Skipped
from aevb.families import Bernoulli, Categorical, Columns, NegativeBinomial, Normal, Poisson
from aevb.model import Model
from aevb.networks import Leading
from aevb.posterior import Amortized, Batch
from aevb.storage.latents import FAMILIES, PRIORS, prior_for


def names(examination):
    return [finding.name for finding in examination.findings]


def said_as_it_is(result, name):
    """The finding; of a mean or of draws the figure stands in its sentence, sign and all."""
    finding = result.findings[names(result).index(name)]
    if name.endswith(("-mean", "-draws")):
        assert f" {finding.figure:.3g} " in finding.sentence
    return finding


@pytest.mark.parametrize("made", MORE, ids=lambda p: p.what.replace(" ", "-"))
def test_mistakes_beyond_the_thirty_are_found(made):
    result = check(*made.make(), made.data())
    assert made.found in names(result), str(result)
    said_as_it_is(result, made.found)


@pytest.mark.parametrize(
    ("objective", "found"),
    [(s.into_training, "training-mode"), (s.without_logarithms, "objective-not-finite")],
)
def test_an_objective_that_disturbs_or_overflows_is_found(objective, found):
    assert found in names(check(*healthy(), s.bits(), objective=objective))


def pair_and_objective(made):
    """What a plant is of: a pair alone, or the healthy pair with the plant as its objective."""
    is_objective = made.twin is None or made.make is s.standard_prior
    if is_objective:
        return (*(made.twin or healthy)(), made.make)
    return (*made.make(), None)


@pytest.mark.parametrize("made", PLANTS, ids=lambda p: f"{p.number}-{p.what}".replace(" ", "-"))
def test_a_planted_mistake_is_found(made):
    model, posterior, objective = pair_and_objective(made)
    result = check(model, posterior, made.data(), objective=objective)
    assert made.found in names(result), str(result)
    finding = said_as_it_is(result, made.found)
    assert any(c.isdigit() for c in finding.sentence), finding.sentence
    assert finding.advice
    assert not result.healthy


@pytest.mark.parametrize("name", TWINS)
def test_the_healthy_twin_is_silent(name):
    make, data = TWINS[name]
    result = check(*make(), data())
    assert result.healthy, str(result)
    assert "likelihood density" in result.passed


def test_every_plant_has_a_twin_that_is_looked_at():
    looked_at = {make for make, _ in TWINS.values()}
    for made in PLANTS:
        assert made.twin is None or made.twin in looked_at, made


@pytest.mark.parametrize("name", s.WELL)
@pytest.mark.parametrize("make", [healthy, wrong_prior], ids=["standard", "other-prior"])
def test_a_bound_written_out_is_recognized(name, make):
    result = check(*make(), s.bits(), objective=s.WELL[name])
    assert result.healthy, str(result)
    assert "objective" in result.passed


def test_the_table_goes_through_all_thirty():
    assert {p.number for p in PLANTS} | set(ELSEWHERE) == set(range(1, 31))
    for why, file, test in ELSEWHERE.values():
        assert why
        assert f"def {test}(" in (Path(__file__).parent / file).read_text()


def test_sentences_say_by_what_an_objective_differs():
    def said(formula):
        return str(check(*healthy(), s.bits(), objective=o(formula)).findings[0])

    assert "leaves out KL(q || p)" in said(lambda r, p, q, k: r.mean(0))
    assert "mean over the values of a datum" in said(lambda r, p, q, k: r.mean(0) / 6 - k)
    assert "multiplied by 2:" in said(lambda r, p, q, k: 2 * r.mean(0) - k)
    assert "log K" in said(lambda r, p, q, k: (r + p - q).logsumexp(0))
    assert "the mean over data of elbo_b" in said(lambda r, p, q, k: (r.mean(0) - k).mean())
    assert "minus the sum over data of elbo_b" in said(lambda r, p, q, k: (k - r.mean(0)).sum())
    assert "not reduced over samples" in said(lambda r, p, q, k: r + p - q)
    assert "log-sum-exp over data" in said(lambda r, p, q, k: s.log_mean(r + p - q, dim=1))
    assert "weighs KL(q || p) by 4" in said(lambda r, p, q, k: r.mean(0) - 4 * k)
    halved = said(lambda r, p, q, k: k - 0.7 * r.mean(0))
    assert "is minus the bound with log p(x given z) multiplied by 0.7: +" in halved
    minus = said(lambda r, p, q, k: 4 * k - r.mean(0))
    assert "is minus the bound, but weighs KL(q || p) by 4" in minus
    assert "is 0.7 times log p(x given z) less 3 times KL" in said(
        lambda r, p, q, k: 0.7 * r.mean(0) - 3 * k
    )
    assert "X/2 log 2 pi" in said(lambda r, p, q, k: r.mean(0) - k - 3 * math.log(2 * math.pi))


def without_independent():
    return s.pair(q=lambda mean, raw: td.Normal(mean, raw.exp()))


def prior_without_independent():
    return s.pair(prior=s.Prior(event=False))


def likelihood_without_independent():
    return s.pair(lambda raw: td.Bernoulli(logits=raw))


@pytest.mark.parametrize(
    "make", [without_independent, prior_without_independent, likelihood_without_independent]
)
def test_a_forgotten_event_is_a_finding_of_shape(make):
    assert "shape" in names(check(*make(), s.bits()))


def test_rows_of_another_length_are_a_finding():
    assert "shape" in names(check(*s.pair(outputs=1), s.bits()))  # it would broadcast


class Raises(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, *arguments):
        raise RuntimeError("the network is not finished")


@pytest.mark.parametrize("which", ["prior", "likelihood", "posterior"])
def test_it_never_raises_what_a_model_raises(which):
    model, posterior = healthy()
    if which == "posterior":
        posterior = Raises()
    else:
        setattr(model, which, Raises())
    result = check(model, posterior, s.bits())
    assert "check-failed" in names(result)
    assert "the network is not finished" in str(result)


def test_an_objective_that_raises_is_a_finding():
    def broken(model, posterior, batch, noise):
        raise KeyError("beta")

    assert "beta" in str(check(*healthy(), s.bits(), objective=broken))


CONSTANTS = {
    "log K, K the samples: a sum where a mean belongs": lambda k: math.log(k),
    "-log K, K the samples, subtracted twice": lambda k: -math.log(k),
    "X/2 log 2 pi, a constant of the Gaussian density of x": lambda k: -s.WIDTH * s.HALF_LOG_2PI,
}


@pytest.mark.parametrize("reason", CONSTANTS)
def test_a_constant_is_told_by_its_sign(reason):
    def off(model, posterior, batch, noise):
        return aevb.elbo_b(model, posterior, batch, noise) + CONSTANTS[reason](len(noise))

    (finding,) = check(*healthy(), s.bits(), objective=off).findings
    assert f"for every datum ({reason})" in finding.sentence


class Hoarder(s.Encoder):
    """It keeps what it computed, as people do for a look at it later."""

    def forward(self, batch):
        self.q = super().forward(batch)
        self.mean = self.q.base_dist.loc
        return self.q


class OfTensors(s.Encoder):
    """It takes x, and no batch."""

    def forward(self, x):
        return super().forward(Batch(x))


class InSingle(s.Encoder):
    """A constant in single precision, which goes with no other."""

    def forward(self, batch):
        turn = torch.eye(s.WIDTH, dtype=torch.float32)
        return super().forward(Batch(batch.x @ turn))


@pytest.mark.parametrize("kind", [Hoarder, OfTensors, InSingle])
def test_what_people_write_is_examined(kind):
    model = healthy()[0]
    posterior = s.seeded(kind)
    data = s.bits()
    posterior(data if kind is OfTensors else Batch(data))
    result = check(model, posterior, data, objective=None)
    assert result.healthy, str(result)
    assert len(result.passed) >= 17


def test_an_examination_draws_the_same_each_time():
    pair, rows = small_pair(), binary_rows(9)
    first = check(*pair, rows, objective=aevb.iwae)
    torch.rand(3)
    assert str(check(*pair, rows, objective=aevb.iwae)) == str(first)


def test_an_examination_can_be_read_by_people_and_by_programs():
    result = check(*healthy(), s.grey().numpy())
    text = str(result)
    assert text.startswith("1 finding:\n  1. [outside-support] ")
    assert "Passed: " in text
    assert "Skipped: " in text
    assert "Calibration, 200 simulations" in text
    told = json.loads(json.dumps(result.as_dict()))
    assert told["findings"][0]["name"] == "outside-support"
    assert told["healthy"] is False
    assert told["calibration"]["simulations"] == 200
    assert set(told["passed"]).isdisjoint(told["skipped"])


def test_data_that_are_no_rows_are_refused():
    with pytest.raises(aevb.errors.UsageError, match="must be rows"):
        check(*healthy(), torch.ones(6))
    for wrong in ("rows.csv", None, [["a", "b"]]):
        with pytest.raises(aevb.errors.UsageError, match="must be rows of numbers"):
            check(*healthy(), wrong)


def test_a_model_of_two_laws_without_methods_is_enough():
    model, posterior = healthy()
    bare = nn.ModuleDict({"prior": model.prior, "likelihood": model.likelihood})

    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.prior, self.likelihood = bare["prior"], bare["likelihood"]

    assert check(Bare(), posterior, s.bits()).healthy


def of_the_library(family, prior, spread=0.3, size=3):
    """A Bernoulli model with a named family and prior, its weights moved from where they begin."""

    def make():
        q = FAMILIES[family][1](size)
        network = aevb.MLP(s.WIDTH, [8], q.outputs(size))
        posterior = aevb.posterior.amortized(network, q)
        p = PRIORS[prior_for(family, prior)][1](size)
        model = Model(p, aevb.bernoulli(aevb.MLP(size, [8], s.WIDTH)))
        with torch.no_grad():
            for parameter in [*model.parameters(), *posterior.parameters()]:
                parameter.add_(spread * torch.randn_like(parameter))
        return model, posterior

    return s.seeded(make)


def marked(name):
    slow = ("planar", "radial", "sylvester", "iaf", "beta", "dirichlet", "von-mises-fisher")
    return pytest.param(name, marks=pytest.mark.slow) if name in slow else name


@pytest.mark.parametrize("family", [marked(name) for name in FAMILIES])
def test_it_is_silent_on_every_family_of_the_library(family):
    result = check(*of_the_library(family, "auto"), s.bits())
    assert result.healthy, str(result)


@pytest.mark.parametrize("prior", PRIORS)
def test_it_is_silent_on_every_prior_of_the_library(prior):
    space = PRIORS[prior][0]
    family = next(
        f for f in ("mean-field", "gamma", "kumaraswamy", *FAMILIES) if FAMILIES[f][0] == space
    )
    result = check(*of_the_library(family, prior), s.bits())
    assert result.healthy, str(result)


def test_a_statistical_check_is_silent_on_many_seeds():
    model, posterior = healthy()
    found = [check(model, posterior, s.bits(), seed=seed).findings for seed in range(30)]
    assert not any(found)


def of_a_table(families, *columns):
    """A model of a table whose first family has all columns but the last ones, and its rows."""
    x = torch.cat(columns, 1)
    first = x.shape[1] - len(families) + 1
    groups = [list(range(first)), *([first + k] for k in range(len(families) - 1))]
    family = Columns(families, groups)
    network = aevb.MLP(2, [8], family.outputs(x.shape[1]))
    model = Model(aevb.standard_normal(2), Conditional(network, family))
    model.likelihood.start_at(x)
    return model, aevb.mean_field(aevb.MLP(x.shape[1], [8], 4)), x


class OffBernoulli(td.Bernoulli):
    """Its log-density is 0.7 nats too high."""

    def log_prob(self, value):
        return super().log_prob(value) + 0.7


class OffCoins(Bernoulli):
    def forward(self, raw, batch_ndim):
        right = super().forward(raw, batch_ndim)
        wrong = OffBernoulli(logits=right.base_dist.logits, validate_args=False)
        return td.Independent(wrong, right.reinterpreted_batch_ndims, validate_args=False)


COLUMNS = {
    "poisson": (Poisson(), lambda: torch.poisson(torch.full((40, 1), 20.0))),
    "negative-binomial": (NegativeBinomial(), lambda: torch.poisson(torch.full((40, 1), 20.0))),
    "category": (Categorical(4), lambda: torch.randint(0, 4, (40, 1)).float()),
    "coin": (Bernoulli(), lambda: torch.randint(0, 2, (40, 1)).float()),
}


@pytest.mark.parametrize("kind", COLUMNS)
def test_it_is_silent_on_mixed_tables(kind):
    """Each column is held to the laws as what it is: a count is summed, and never integrated."""
    family, cells = COLUMNS[kind]
    made = s.seeded(lambda: of_a_table([Normal(), family], torch.randn(40, 2), cells()))
    result = check(*made)
    assert result.healthy, str(result)
    assert "likelihood density" in result.passed


@pytest.mark.parametrize("first", [Normal(), Poisson()], ids=["density", "too-many-values"])
def test_a_wrong_column_of_a_mixed_table_is_found(first, monkeypatch):
    """Beside columns that are right, and beside some that have too many values to be summed."""
    monkeypatch.setattr("aevb.evaluation.examination.elements.MOST_VALUES", 100)
    rest, bit = torch.poisson(torch.full((40, 2), 50.0)), torch.randint(0, 2, (40, 1)).float()
    assert "likelihood-integral" in names(check(*of_a_table([first, OffCoins()], rest, bit)))


def test_a_ladder_is_examined_to_its_noise():
    """Its noise is that of its layers, side by side: a density that is known."""

    def make():
        up, down = (Conditional(aevb.MLP(n, [8], 2 * m), Normal()) for n, m in ((3, 2), (2, 3)))
        layers = aevb.mean_field(aevb.MLP(s.WIDTH, [8], 6)).conditional
        posterior = Amortized(Chain([layers, up], [3, 2]))
        prior = Chain([aevb.standard_normal(2), down], [2, 3], reverse=True)
        decoder = aevb.bernoulli(Leading(aevb.MLP(3, [8], s.WIDTH), 3))
        return Model(prior, decoder), posterior

    result = check(*s.seeded(make), s.bits())
    assert result.healthy, str(result)
    assert "noise map" in result.passed


def test_coins_are_not_asked_for_a_gradient():
    """Their draws are steps: a score function learns them, and no path through the draw."""

    def make():
        posterior = aevb.posterior.amortized(aevb.MLP(s.WIDTH, [8], 3), Bernoulli())
        prior = Unconditional(Bernoulli(), 3)
        return Model(prior, aevb.bernoulli(aevb.MLP(3, [8], s.WIDTH))), posterior

    result = check(*s.seeded(make), s.bits())
    assert result.healthy, str(result)
    assert "score function" in result.skipped["draws"]


def test_events_that_are_matrices_are_no_vectors():
    subject = subject_of(*healthy(), s.bits(), None, 0)
    matrices = Law("prior", "the prior p(z)", td.Wishart(3.0, torch.eye(2)))
    with pytest.raises(Skipped, match=r"\(2, 2\) are no vectors"):
        list(vectors.examine_vectors(subject, matrices))


def test_a_part_that_is_called_posterior_keeps_its_parameters():
    def make():
        whole = s.Encoder()
        whole.posterior = s.Encoder()
        return whole

    posterior = s.seeded(make)
    for data in (s.bits(), s.bits().double()):
        found = subject_of(healthy()[0], posterior, data, None, 0).parameters
        expected = [*healthy()[0].parameters(), *posterior.parameters()]
        assert len(found) == len(expected)

"""The doctor: every sickness is made on purpose and found, and a healthy model has none."""

import copy
import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import small_pair
from torch import nn
from torch.distributions import Independent, Normal

import aevb
from aevb import families
from aevb.conditional import Conditional, Unconditional
from aevb.data import Rows
from aevb.evaluation import doctor, information
from aevb.evaluation.case import Case
from aevb.evaluation.findings import Finding
from aevb.evaluation.signs import latents, learning, likelihoods, networks, treatment

LATENT, WIDTH = 6, 64
PLAN = aevb.Plan(epochs=50)
NAMES = {
    "posterior-collapse",
    "dead-dimensions",
    "decoder-ignores-codes",
    "posterior-too-wide",
    "holes-under-the-prior",
    "few-effective-samples",
    "noise-at-its-floor",
    "certain-and-wrong",
    "outside-the-domain",
    "density-on-discrete-values",
    "vanishing-gradients",
    "dead-units",
    "parameters-not-finite",
    "over-fitting",
    "under-training",
    "warm-up-unfinished",
    "other-treatment",
    "evaluated-on-training-rows",
    "unlike-training",
    "held-out-rows-in-training",
}
OF_DATA = {"outside-the-domain", "other-treatment", "unlike-training", "held-out-rows-in-training"}
"""Findings whose advice may be to name other data, and no option."""


def pair(likelihood, latent=LATENT, hidden=(64,), activation=nn.Tanh, width=WIDTH, outputs=None):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        decoder = aevb.MLP(latent, hidden, outputs or width, activation)
        encoder = aevb.MLP(width, hidden, 2 * latent, activation)
        return aevb.Model(aevb.standard_normal(latent), likelihood(decoder)), aevb.mean_field(
            encoder
        )


def case_of(model, posterior, data, history=(), **more):
    scored = [record for record in history if record["validation"]]
    kept = max(scored, key=lambda r: r["validation"]["elbo"]) if scored else None
    counts = {"train": len(data.train), "validation": len(data.validation)}
    about = {"history": history, "kept": kept, "counts": counts, **more}
    learned = posterior, data.train.limit(400)
    return Case(model, posterior, data.test, learned, data.train, **about)


def trained(data, likelihood, plan=PLAN, rate=3e-3, **sizes):
    model, posterior = pair(likelihood, **sizes)
    model.likelihood.start_at(data.train.all())
    learner = aevb.AEVB(model, posterior, optimizer=aevb.Adam(rate))
    return case_of(model, posterior, data, aevb.train(learner, data, plan))


@pytest.fixture(scope="module")
def digits():
    return aevb.data.load("digits", "threshold")


@pytest.fixture(scope="module")
def grey():
    return aevb.data.load("digits", "none")


@pytest.fixture(scope="module")
def healthy(digits):
    """A model of black and white digits, trained as one should."""
    return trained(digits, aevb.bernoulli)


@pytest.fixture
def case(healthy):
    """The same, to be made sick: figures are not taken yet."""
    model, posterior = copy.deepcopy((healthy.model, healthy.posterior))
    learned = posterior, healthy.learned[1]
    return replace(healthy, model=model, posterior=posterior, learned=learned)


def names(case):
    return [finding.name for finding in doctor.examine(case).findings]


def only(finding, name):
    """The finding has its name, a figure in the sentence, and one option in the advice."""
    assert finding is not None
    assert finding.name == name
    assert name in NAMES
    assert re.search(r"\d", finding.sentence)
    assert finding.sentence.endswith(".")
    options = re.findall(r"--[a-z-]+", finding.advice)
    assert len(options) == 1 or (name in OF_DATA and not options)
    assert json.dumps(finding.as_dict(), allow_nan=False)
    return finding


# -- healthy --------------------------------------------------------------------------------------


def test_a_healthy_model_has_no_findings_and_every_sign_was_looked_for(healthy):
    found = doctor.examine(healthy)
    assert found.healthy
    assert list(found.skipped) == ["other_treatment"]  # nothing was evaluated before


def test_what_was_measured_is_ready_for_json(healthy):
    found = doctor.measured(healthy)
    assert json.dumps(found, allow_nan=False)
    assert found["held_out"] == len(healthy.rows)
    assert 0 < found["active_units"] <= found["latent_dim"] == LATENT
    assert found["mutual_information"]["lower"] <= math.log(len(healthy.rows))


def test_every_finding_that_can_be_made_is_tested_here_and_has_one_name():
    modules = (latents, learning, likelihoods, networks, treatment)
    source = "".join(Path(module.__file__).read_text() for module in modules)
    assert set(re.findall(r'^ +"([a-z]+(?:-[a-z]+)+)",$', source, re.MULTILINE)) == NAMES


GREY = {
    "continuous": (aevb.continuous_bernoulli, 1e-2, {}),
    "gaussian": (
        lambda network: aevb.gaussian(network, sigmoid_mean=True),
        3e-3,
        {"hidden": (30,), "outputs": 2 * WIDTH},
    ),
}


@pytest.mark.parametrize("kind", GREY)
def test_healthy_models_of_grey_levels_are_not_found_sick(grey, kind):
    likelihood, rate, sizes = GREY[kind]
    case = trained(grey, likelihood, aevb.Plan(epochs=40), rate, latent=2, **sizes)
    assert names(case) == []


def test_a_healthy_model_of_a_table_with_a_few_directions_is_not_found_sick(tmp_path):
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(400, 2))
    np.save(tmp_path / "t.npy", hidden @ rng.normal(size=(2, 5)) + 0.3 * rng.normal(size=(400, 5)))
    data = aevb.data.load(tmp_path / "t.npy")

    def likelihood(network):
        family = families.Standardized(families.Normal(1e-4, noise_shape=(5,)), 5)
        family.fit(data.train.all())
        return Conditional(network, family)

    # Twenty dimensions for five columns: most of them are unused, and cost nothing.
    case = trained(data, likelihood, aevb.Plan(epochs=120), 1e-2, width=5, latent=20, hidden=(16,))
    assert latents.unused(case) > 10
    assert names(case) == []


# -- codes ----------------------------------------------------------------------------------------


def test_a_posterior_that_is_the_prior_is_found(digits):
    case = trained(digits, aevb.bernoulli, aevb.Plan(epochs=15, beta=50.0))
    finding = only(latents.collapsed(case), "posterior-collapse")
    assert f"{LATENT} of {LATENT} latent dimensions" in finding.sentence
    assert "--beta 1" in latents.collapsed(replace(case, settings={"beta": 50.0})).advice
    assert latents.dead_dimensions(case) is None  # said once
    assert latents.deaf_decoder(case) is None


def test_a_posterior_that_is_one_for_all_rows_is_found_however_far_it_lies(case):
    head = case.posterior.conditional.network.head
    with torch.no_grad():
        head.weight.zero_()
        head.bias.fill_(1.0)
    assert float(case.evidence.kl.mean()) > 3
    only(latents.collapsed(case), "posterior-collapse")


def test_one_posterior_for_all_rows_that_was_asked_for_is_no_sickness(case):
    case = replace(case, posterior=aevb.posterior.everywhere(LATENT))
    assert latents.collapsed(case) is None
    assert latents.deaf_decoder(case) is None


def silence(posterior, dimensions):
    """Make the posterior the prior in these dimensions."""
    head = posterior.conditional.network.head
    with torch.no_grad():
        for d in dimensions:
            for row in (d, d + LATENT):
                head.weight[row] = 0
                head.bias[row] = 0


def test_dead_dimensions_are_found_where_there_was_more_to_say(case):
    silence(case.posterior, range(1, LATENT))
    finding = only(latents.dead_dimensions(case), "dead-dimensions")
    assert f"{LATENT - 1} of {LATENT}" in finding.sentence
    assert finding.figure == LATENT - 1


def test_half_of_the_dimensions_may_be_unused(case):
    silence(case.posterior, range(LATENT // 2))
    assert latents.unused(case) == LATENT // 2
    assert latents.dead_dimensions(case) is None


def test_independent_columns_have_no_direction_and_a_common_cause_has_one(healthy):
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(300, 20))
    rows = Rows(noise, np.arange(300), (20,))
    assert latents.directions(replace(healthy, rows=rows)) == 0
    shared = Rows(noise + 2 * rng.normal(size=(300, 1)), np.arange(300), (20,))
    assert latents.directions(replace(healthy, rows=shared)) == 1


def test_a_decoder_that_ignores_the_codes_is_found(case):
    with torch.no_grad():
        case.model.likelihood.network.body[0].weight.zero_()
    finding = only(latents.deaf_decoder(case), "decoder-ignores-codes")
    assert abs(finding.figure) < 1e-4


def test_a_code_of_another_row_costs_more_than_the_information_in_it(healthy):
    gain, error = healthy.swapped
    assert gain - 3 * error > healthy.information.lower > 1


def test_samples_that_fall_into_holes_are_found(digits):
    # Without validation rows the last model is kept; else it would be one of the first.
    unseen = replace(digits, validation=digits.validation.pick(np.arange(0)))
    case = trained(unseen, aevb.bernoulli, aevb.Plan(epochs=30, beta=0.01), latent=2)
    finding = only(latents.fallen_into_holes(case), "holes-under-the-prior")
    assert finding.figure > 2
    assert "--beta 1" in latents.fallen_into_holes(replace(case, settings={"beta": 0.01})).advice


def test_samples_beside_all_codes_are_found(case):
    with torch.no_grad():
        case.posterior.conditional.network.head.bias[:LATENT] += 1.5
    finding = only(latents.fallen_into_holes(case), "holes-under-the-prior")
    assert 0.3 < finding.figure <= 1
    assert "samples from the prior fall" in finding.sentence


class Softplus(nn.Module):
    """A diagonal Gaussian whose deviation is softplus(e^l), never below 1 (a known mistake)."""

    def __init__(self, conditional):
        super().__init__()
        self.conditional = conditional

    def forward(self, x):
        q = self.conditional(x).base_dist
        scale = torch.nn.functional.softplus(q.scale) + 1 - math.log(2)
        return Independent(Normal(q.loc, scale.clamp_min(1.0)), 1)


def test_a_deviation_that_cannot_fall_is_found(case):
    case.posterior.conditional = Softplus(case.posterior.conditional)
    finding = only(latents.floored_deviation(case), "posterior-too-wide")
    assert finding.figure >= 1 - 1e-4


def test_weights_of_which_one_is_all_are_found(case):
    head = case.posterior.conditional.network.head
    with torch.no_grad():
        head.weight[LATENT:] = 0.0
        head.bias[LATENT:] = 3.0  # far too wide
    finding = only(latents.poor_weights(case), "few-effective-samples")
    assert finding.figure < 2.5


@pytest.mark.parametrize(
    ("effective", "samples", "sick"),
    [
        (3.0, 1000, True),
        (300.0, 1000, False),
        (4.0, 5, False),
        (12.0, 1000, False),
        (1.2, 5, True),
        (2.3, 4, False),
    ],
)
def test_effective_samples_of_the_evaluation_that_was_kept(healthy, effective, samples, sick):
    kept = {"importance": {"effective_sample_size": effective, "samples": samples}}
    finding = latents.poor_weights(replace(healthy, evaluated=kept))
    assert (finding is not None) == sick
    if sick:
        assert f"{effective} effective samples of {samples}" in finding.sentence


# -- information ----------------------------------------------------------------------------------


class Around(nn.Module):
    """q(z given x) = N(x, s^2) in one dimension: with x ~ N(0, 1) all is known."""

    def __init__(self, deviation):
        super().__init__()
        self.log = nn.Parameter(torch.tensor(math.log(deviation)))

    def forward(self, x):
        return Independent(Normal(x, self.log.exp().expand(x.shape)), 1)


def known(deviation, n=1500, seed=0):
    values = np.random.default_rng(seed).normal(size=(n, 1))
    rows = Rows(values, np.arange(n), (1,))
    model = aevb.Model(aevb.standard_normal(1), aevb.gaussian(aevb.MLP(1, [], 2)))
    return model, aevb.posterior.Amortized(Around(deviation)), rows


@pytest.mark.parametrize("deviation", [0.05, 0.5, 2.0])
def test_the_bounds_enclose_the_information_of_a_gaussian_channel(deviation):
    found = information.information(*known(deviation))
    truth = 0.5 * math.log(1 + 1 / deviation**2)
    assert found.lower - 4 * found.lower_error <= truth <= found.upper + 4 * found.upper_error
    assert found.lower <= found.cap
    assert found.upper >= found.lower
    if deviation >= 0.5:  # both are tight
        assert found.lower == pytest.approx(truth, abs=4 * found.lower_error + 0.01)
        assert found.upper == pytest.approx(truth, abs=4 * found.upper_error + 0.01)


def test_a_lower_bound_at_its_cap_says_so():
    found = information.information(*known(1e-6, n=50))
    assert found.lower == pytest.approx(found.cap)
    assert found.capped
    assert f"at least {math.log(50):.2f} nats" in str(found)


def test_the_aggregate_is_the_mixture_by_hand():
    q = Independent(Normal(torch.tensor([[0.0], [3.0]]), torch.tensor([[1.0], [0.5]])), 1)
    z = torch.linspace(-2, 4, 7)[:, None]
    by_hand = (
        0.5
        * (np.exp(-0.5 * z.numpy() ** 2) + np.exp(-0.5 * ((z.numpy() - 3) / 0.5) ** 2) / 0.5)
        / math.sqrt(2 * math.pi)
    )
    assert np.allclose(information.log_aggregate(q, z).exp().numpy(), by_hand[:, 0], atol=1e-6)


@pytest.mark.parametrize("rows", [200, 1500])
def test_one_in_a_hundred_samples_lies_beyond_where_the_laws_agree(rows):
    # x ~ N(0, 1 - s^2) makes the aggregate posterior N(0, 1), the prior itself.
    model, posterior, train = known(0.6, rows)
    seen, new = (
        Rows(0.8 * known(0.6, rows, seed)[2].values, np.arange(rows), (1,)) for seed in (1, 2)
    )
    found = information.holes(model, (posterior, seen), (posterior, new))
    assert found.share <= 0.01 + 4 * math.sqrt(0.01 / rows) + 2 / rows
    assert found.distance < 3 * found.distance_error
    far = Rows(0.1 * train.values + 4, np.arange(rows), (1,))
    beside = information.holes(model, (posterior, far), (posterior, far))
    assert beside.share > 0.9
    # q(z) = N(4, 0.1^2 + 0.6^2) beside N(0, 1)
    truth = 0.5 * (0.37 + 16 - 1 - math.log(0.37))
    assert 0.9 * truth < beside.distance < truth + 3 * beside.distance_error


def test_codes_are_widened_to_the_density_that_they_are_of():
    rng = np.random.default_rng(0)
    centers, z = (torch.from_numpy(rng.normal(size=(n, 2))) for n in (800, 400))
    truth = Independent(Normal(torch.zeros(2), 1.0), 1).log_prob(z)
    assert abs(float((information.log_widened(centers, z) - truth).mean())) < 0.15
    line = torch.linspace(-8, 8, 4001, dtype=torch.float64)[:, None]
    mass = information.log_widened(centers[:, :1], line).exp().sum() * 16 / 4000
    assert float(mass) == pytest.approx(1, abs=1e-3)


# -- training -------------------------------------------------------------------------------------


def history(train, validation=None, steps=10):
    def parts(bounds, k):
        return {"elbo": bounds[k], "reconstruction": bounds[k], "kl": 0.0}

    return [
        {
            "epoch": k + 1,
            "t": steps * (k + 1),
            "train": parts(train, k),
            "validation": None if validation is None else parts(validation, k),
        }
        for k in range(len(train))
    ]


def bare(records, **more):
    """A case that has a history and nothing else."""
    model, posterior = pair(aevb.bernoulli)
    return Case(model, posterior, history=records, **more)


def test_a_bound_that_still_rises_is_found():
    straight = list(np.linspace(-90.0, -10.0, 40))
    flat = [-90.0, -20.0, *[-10.0] * 38]
    finding = only(learning.unfinished(bare(history(straight))), "under-training")
    assert "the last 4 of 40 epochs" in finding.sentence
    assert "--epochs 80" in finding.advice
    assert learning.unfinished(bare(history(flat))) is None
    assert learning.unfinished(bare(history(straight, flat))) is None
    assert "validation bound" in learning.unfinished(bare(history(flat, straight))).sentence
    assert "under-training" not in names(bare(history([-3.0])))


def test_a_bound_that_jumps_is_not_taken_for_one_that_rises():
    rng = np.random.default_rng(0)
    found = [
        learning.unfinished(bare(history(list(-10.0 + rng.normal(size=40))))) for _ in range(50)
    ]
    assert sum(f is not None for f in found) <= 2


def test_a_falling_rate_does_not_hide_that_training_was_short():
    # A bound that rises with what is stepped, while the rate goes along a cosine to 0.
    rates = 0.5 + 0.5 * np.cos(np.pi * np.arange(40) / 40)
    records = history(list(-90 + 80 * np.cumsum(rates) / rates.sum()))
    for record, rate in zip(records, rates, strict=True):
        record["learning_rate_factor"] = float(rate)
    assert records[-1]["train"]["elbo"] - records[-5]["train"]["elbo"] < 0.6
    finding = only(learning.unfinished(bare(records)), "under-training")
    assert finding.figure == pytest.approx(8, abs=0.1)


def test_a_model_that_was_kept_within_its_warm_up_is_found():
    records = history([-9.0, -5.0, -6.0, -7.0], [-9.0, -5.0, -6.0, -7.0])
    settings = {"warmup_steps": 35}
    case = bare(records, kept=records[1], settings=settings)
    finding = only(learning.warming(case), "warm-up-unfinished")
    assert "step 20" in finding.sentence
    assert "57 %" in finding.sentence
    assert learning.warming(replace(case, kept=records[3])) is None
    assert learning.warming(replace(case, settings={})) is None


def test_a_model_that_learned_few_rows_by_heart_is_found(digits):
    few = replace(digits, train=digits.train.limit(40))
    model, posterior = pair(aevb.bernoulli, hidden=(200,))
    aevb.train(
        aevb.AEVB(model, posterior, optimizer=aevb.Adam(3e-3)),
        replace(few, validation=few.train),  # nobody stops it
        aevb.Plan(epochs=400, batch_size=40),
    )
    case = case_of(model, posterior, few)
    finding = only(learning.overfitted(case), "over-fitting")
    assert finding.figure > 5
    assert (
        "--hidden 50"
        in learning.overfitted(
            replace(case, settings={"weight_prior": "normal", "hidden": (100,)})
        ).advice
    )


def test_a_gap_at_the_epoch_that_was_kept_is_found_by_many_rows(healthy):
    apart = history([-20.0], [-30.0])
    wide = replace(healthy, kept=apart[0], counts={"train": 50000, "validation": 10000})
    assert "10.00" in only(learning.overfitted(wide), "over-fitting").sentence
    few = replace(wide, counts={"train": 3, "validation": 2})
    assert learning.overfitted(few) is None


@pytest.mark.parametrize(("error", "sick"), [(3.0, True), (4.0, False)])
def test_a_gap_within_three_errors_is_none(healthy, monkeypatch, error, sick):
    monkeypatch.setattr(learning, "_gaps", lambda case: [(-20.0, -30.0, error, "others")])
    assert (learning.overfitted(healthy) is not None) == sick


# -- likelihood -----------------------------------------------------------------------------------


def table(values, family, outputs, **more):
    """A case of an untrained model over the rows of a table."""
    values = np.asarray(values, np.float32)
    width = values.shape[1]
    rows = Rows(values, np.arange(len(values)), (width,))
    model, posterior = pair(
        lambda net: Conditional(net, family), 2, (4,), width=width, outputs=outputs
    )
    return Case(model, posterior, rows, (posterior, rows), **more)


RNG = np.random.default_rng(0)
STEPS = (RNG.random((60, 4)) < 0.5).astype(float)
REAL = RNG.normal(size=(60, 4))
SMALL = RNG.poisson(2.0, (60, 4)).astype(float)
MIXED = np.column_stack([REAL[:, :3], STEPS[:, 0]])


@pytest.mark.parametrize(
    ("values", "family", "outputs", "advice"),
    [
        (STEPS, families.Normal(), 8, "--likelihood bernoulli"),
        (STEPS, families.ContinuousBernoulli(), 4, "--likelihood bernoulli"),
        (STEPS, families.Masked(families.Normal()), 8, "--likelihood bernoulli"),
        (SMALL, families.Normal(), 8, "--likelihood negative-binomial"),
        (SMALL, families.Standardized(families.Normal(), 4), 8, "--likelihood negative-binomial"),
        (MIXED, families.Normal(), 8, "--likelihood mixed"),
    ],
)
def test_a_density_on_zeros_and_ones_or_small_counts_is_found(values, family, outputs, advice):
    found = likelihoods.density_on_steps(table(values, family, outputs))
    assert advice in only(found, "density-on-discrete-values").advice


@pytest.mark.parametrize(
    ("values", "family", "outputs"),
    [
        (STEPS, families.Bernoulli(), 4),
        (REAL, families.Normal(), 8),
        (SMALL, families.Poisson(), 4),
        (SMALL + 1000, families.Normal(), 8),
        (np.zeros((60, 4)), families.Normal(), 8),
        (STEPS, families.DiscretizedLogistic(2), 8),
        (MIXED, families.Columns([families.Normal(), families.Bernoulli()], [[0, 1, 2], [3]]), 7),
        (RNG.integers(0, 17, (60, 4)) / 16, families.Normal(), 8),
    ],
)
def test_values_that_suit_their_family_are_left_alone(values, family, outputs):
    assert likelihoods.density_on_steps(table(values, family, outputs)) is None


def test_values_outside_the_domain_are_found_and_nothing_else_is_asked(case, digits, grey):
    plain = replace(case, rows=grey.test)
    finding = only(likelihoods.outside_domain(plain), "outside-the-domain")
    assert "zeros and ones" in finding.sentence
    assert names(plain)[0] == "outside-the-domain"
    assert "unlike-training" in names(plain)
    assert "--binarize threshold" in likelihoods.outside_domain(replace(plain, learned=None)).advice
    large = table(3 * STEPS + 2, families.Bernoulli(), 4)
    assert "--likelihood auto" in likelihoods.outside_domain(replace(large, learned=None)).advice
    assert doctor.measured(plain)["held_out"] == len(grey.test)


FLOORED = {
    "plain": (families.Normal(1e-4), 8),
    "standardized": (families.Standardized(families.Normal(1e-4), 4), 8),
    "masked": (families.Masked(families.Normal(1e-4)), 8),
    "columns": (
        families.Columns([families.Normal(1e-4), families.Normal(1e-4)], [[0, 2], [1, 3]]),
        8,
    ),
    "laplace": (
        families.Standardized(families.Elementwise(aevb.distributions.Laplace, least=1e-2), 4),
        8,
    ),
    "shared": (families.Normal(1e-4, noise_shape=(4,)), 4),
}


@pytest.mark.parametrize("kind", FLOORED)
def test_noise_at_its_floor_is_found_in_every_wrapping(kind):
    family, outputs = copy.deepcopy(FLOORED[kind])
    values = 1000 * REAL if kind in ("standardized", "laplace") else REAL
    family.fit(torch.from_numpy(values))
    case = table(values, family, outputs)
    assert likelihoods.noise_at_floor(case) is None
    with torch.no_grad():
        for p in case.model.likelihood.parameters():
            p.fill_(0 if p.ndim > 1 else -30)
    finding = only(likelihoods.noise_at_floor(table_again(case)), "noise-at-its-floor")
    assert finding.figure == 1


def table_again(case):
    """The same case without the figures that were taken."""
    return replace(case)


def test_columns_that_never_vary_may_be_at_the_floor():
    values = np.column_stack([REAL[:, :2], np.zeros((60, 2))])
    case = table(values, families.Normal(1e-4), 8)
    with torch.no_grad():
        case.model.likelihood.network.head.bias[6:] = -30.0
        case.model.likelihood.network.head.weight[6:] = 0.0
    assert likelihoods.noise_at_floor(case) is None


def test_logits_that_are_certain_and_wrong_are_found(case):
    with torch.no_grad():
        case.model.likelihood.network.head.weight.mul_(20)
        case.model.likelihood.network.head.bias.mul_(20)
    only(likelihoods.certain_and_wrong(case), "certain-and-wrong")


def test_pixels_that_are_always_black_may_be_held_for_black_with_certainty(case):
    always = case.train_x.amax(0) == 0
    assert always.any()
    with torch.no_grad():
        case.model.likelihood.network.head.bias[always] -= 60
    assert likelihoods.certain_and_wrong(case) is None


# -- networks -------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_parameters_that_are_no_numbers_are_found_and_no_figure_is_taken(case, value):
    with torch.no_grad():
        case.posterior.conditional.network.head.weight[0, 0] = value
    finding = only(networks.not_finite(case), "parameters-not-finite")
    assert finding.figure == 1
    assert names(case)[0] == "parameters-not-finite"


def test_gradients_that_vanish_in_a_deep_network_are_found(digits):
    deep = pair(aevb.bernoulli, hidden=(32,) * 12, activation=nn.Sigmoid)
    case = case_of(*deep, digits)
    finding = only(networks.vanished_gradients(case), "vanishing-gradients")
    assert "--activation relu" in finding.advice
    assert finding.figure < 1e-6
    assert networks.vanished_gradients(case_of(*pair(aevb.bernoulli), digits)) is None


@pytest.mark.parametrize(
    ("activation", "bias", "advice"),
    [(nn.ReLU, -100.0, "--activation leaky-relu"), (nn.Tanh, 100.0, "--lr")],
)
@pytest.mark.parametrize("part", ["decoder", "encoder"])
def test_units_that_are_off_or_saturated_for_every_row_are_found(
    digits, activation, bias, advice, part
):
    model, posterior = pair(aevb.bernoulli, activation=activation)
    case = case_of(model, posterior, digits)
    assert networks.dead_units(case) is None
    network = model.likelihood.network if part == "decoder" else posterior.conditional.network
    with torch.no_grad():
        network.body[0].bias[: 64 * 3 // 4] = bias
    finding = only(networks.dead_units(case), "dead-units")
    assert advice in finding.advice
    assert finding.figure >= 0.75


def test_leaky_units_are_never_dead(digits):
    model, posterior = pair(aevb.bernoulli, activation=nn.LeakyReLU)
    with torch.no_grad():
        model.likelihood.network.body[0].bias.fill_(-100.0)
    assert networks.dead_units(case_of(model, posterior, digits)) is None


def test_channels_of_images_are_units():
    images = torch.randn(5, 4, 3, 3)
    images[:, 1] = -images[:, 1].abs()
    assert networks._flat(nn.ReLU(), images) == 0.25


# -- data -----------------------------------------------------------------------------------------


def test_an_evaluation_of_data_treated_otherwise_is_found(healthy):
    settings = {"binarize": "threshold"}
    kept = {"binarize": "once (one draw, seed 0)", "data": "digits test", "mean": -20.0}
    case = replace(healthy, settings=settings, evaluated=kept)
    only(treatment.other_treatment(case), "other-treatment")
    same = kept | {"binarize": "threshold"}
    assert treatment.other_treatment(replace(case, evaluated=same)) is None
    drawn = replace(case, settings={"binarize": "once"})
    assert treatment.other_treatment(drawn) is None
    seen = same | {"data": "digits train"}
    found = treatment.other_treatment(replace(case, evaluated=seen))
    only(found, "evaluated-on-training-rows")


def unlike(case, values):
    width = values.shape[1]
    return treatment.unlike_training(
        replace(case, rows=Rows(values, np.arange(len(values)), (width,)))
    )


def test_values_unlike_those_of_training_are_found(grey):
    case = case_of(*pair(aevb.continuous_bernoulli), grey)
    x = grey.test.all().numpy()
    assert "0 and 1 alone" in only(unlike(case, (x > 0.5) * 1.0), "unlike-training").sentence
    assert "times that of" in only(unlike(case, 255 * x * (1 + 1e-7)), "unlike-training").sentence
    shifted = np.roll(x, 3, axis=1)
    assert "columns" in only(unlike(case, shifted), "unlike-training").sentence
    moved = x.copy()
    moved[:, 20] += 2
    assert "column 21" in only(unlike(case, moved), "unlike-training").sentence
    assert unlike(case, x) is None


def test_a_pixel_that_is_lit_once_is_not_unlike_training(grey):
    case = case_of(*pair(aevb.continuous_bernoulli), grey)
    x = grey.test.all().numpy()
    x[3, 0] = 1.0
    assert float(case.train_x[:, 0].max()) == 0
    assert unlike(case, x) is None


def test_held_out_rows_that_are_training_rows_are_found(healthy):
    again = replace(healthy, rows=healthy.all_train.pick(np.arange(100)))
    finding = only(treatment.copies(again), "held-out-rows-in-training")
    assert finding.figure == 1


def test_copies_are_found_behind_a_treatment_that_draws(digits):
    drawn = aevb.data.load("digits", "once")
    everything = replace(drawn.train, index=np.arange(len(drawn.source.values)))
    values = np.concatenate([drawn.source.values, drawn.source.values])
    twice = replace(everything, values=values)
    n = len(drawn.source.values)
    case = Case(
        *pair(aevb.bernoulli),
        rows=replace(twice, index=np.arange(n, 2 * n)),
        all_train=replace(twice, index=np.arange(n)),
    )
    assert treatment.copies(case).figure == 1


def test_rows_that_repeat_anyway_are_no_copies():
    values = RNG.integers(0, 2, (400, 2)).astype(float)
    everything = Rows(values, np.arange(400), (2,))
    rows, train = everything.pick(np.arange(100)), everything.pick(np.arange(100, 400))
    case = Case(*pair(aevb.bernoulli, 2, width=2), rows=rows, all_train=train)
    assert treatment.copies(case) is None


# -- cases that lack something, or are of another kind ------------------------------------------


def test_what_cannot_be_looked_for_is_named():
    found = doctor.examine(bare(()))
    assert found.healthy
    assert "collapsed" in found.skipped
    assert "not_finite" not in found.skipped
    assert doctor.measured(bare(())) == {}


@pytest.mark.parametrize("kind", ["planar", "full", "per-datum", "flow prior", "user"])
def test_every_kind_of_model_can_be_looked_at(digits, kind):
    rows, train = digits.test.limit(30), digits.train.limit(30)
    model, posterior = pair(aevb.bernoulli, 2, (8,))
    if kind == "planar":
        family = families.Planar(2, 2)
        posterior = aevb.posterior.amortized(aevb.MLP(WIDTH, [8], family.outputs(2)), family)
    elif kind == "full":
        posterior = aevb.full_covariance(aevb.MLP(WIDTH, [8], 5))
    elif kind == "per-datum":
        posterior = aevb.per_datum(30, 2)
    elif kind == "flow prior":
        family = families.RealNVP(2, 2, [4], 0)
        model = aevb.Model(Unconditional(family, 2, learned=True), model.likelihood)
    else:
        decoder = aevb.MLP(2, [8], WIDTH)

        class Users(nn.Module):
            def __init__(self):
                super().__init__()
                self.network = decoder

            def forward(self, z):
                return Independent(torch.distributions.Bernoulli(logits=self.network(z)), 1)

        model = aevb.Model(aevb.standard_normal(2), Users())
    found = doctor.examine(Case(model, posterior, rows, (posterior, train), digits.train))
    assert "fallen_into_holes" not in found.skipped


def test_a_sign_that_raises_is_a_finding_and_the_others_are_looked_for(monkeypatch):
    def torn(case):
        raise RuntimeError("a network is torn\nin two")

    def known(case):
        return Finding("known", "It is 1.", 1.0, "Leave it.")

    monkeypatch.setattr(doctor, "ALWAYS", (torn, known))
    found = doctor.examine(Case(*small_pair(dtype=torch.float32)))
    assert [finding.name for finding in found.findings] == ["check-failed", "known"]
    assert "torn could not be finished (1 failure): RuntimeError: a network is torn." in str(found)
    assert found.skipped["collapsed"] == "fewer than 2 held-out rows are known"

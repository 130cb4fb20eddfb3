"""The doctor: every sickness is made on purpose and found, and a healthy model has none.

Here those of codes and of networks; of training, likelihoods and data: test_signs.py.
"""

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from doctor_cases import LATENT, NAMES, WIDTH, bare, case_of, digits, names, only, pair, trained
from helpers import small_pair
from torch import nn
from torch.distributions import Independent, Normal

import aevb
from aevb import families
from aevb.conditional import Conditional, Unconditional
from aevb.data import Rows
from aevb.evaluation import doctor, layers
from aevb.evaluation.case import Case
from aevb.evaluation.findings import Finding, Skipped
from aevb.evaluation.signs import latents, learning, likelihoods, networks, treatment
from aevb.linear_gaussian import linear_gaussian

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


def test_a_row_without_a_density_is_not_taken_for_a_sickness():
    """Of an exact posterior whose codes say 4.6 nats, log(1e4) / 2."""
    model = linear_gaussian([[1.0]], [0.0], 1e-4)
    x = np.random.default_rng(0).normal(size=(60, 1))
    case = Case(model, model.exact_encoder(), Rows(x, np.arange(60), (1,)))
    assert names(case) == []
    x[7] = 1e25
    assert names(replace(case)) == []
    assert json.dumps(doctor.measured(replace(case)), allow_nan=False)


def test_every_finding_that_can_be_made_has_one_name():
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
def test_healthy_models_of_grey_levels_are_not_found_sick(kind):
    likelihood, rate, sizes = GREY[kind]
    case = trained(digits("none"), likelihood, aevb.Plan(epochs=40), rate, latent=2, **sizes)
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


def test_a_posterior_that_is_the_prior_is_found():
    case = trained(digits(), aevb.bernoulli, aevb.Plan(epochs=15, beta=50.0))
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
    about_rows = (latents.collapsed, latents.dead_dimensions, latents.deaf_decoder)
    for sign in (*about_rows, latents.fallen_into_holes):
        with pytest.raises(Skipped, match="all rows share one posterior"):
            sign(case)


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


def test_samples_that_fall_into_holes_are_found():
    # Without validation rows the last model is kept; else it would be one of the first.
    unseen = replace(digits(), validation=digits().validation.pick(np.arange(0)))
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


# -- networks -------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_parameters_that_are_no_numbers_are_found_and_no_figure_is_taken(case, value):
    with torch.no_grad():
        case.posterior.conditional.network.head.weight[0, 0] = value
    finding = only(networks.not_finite(case), "parameters-not-finite")
    assert finding.figure == 1
    assert names(case)[0] == "parameters-not-finite"


def test_gradients_that_vanish_in_a_deep_network_are_found():
    deep = pair(aevb.bernoulli, hidden=(32,) * 12, activation=nn.Sigmoid)
    case = case_of(*deep, digits())
    finding = only(networks.vanished_gradients(case), "vanishing-gradients")
    assert "--activation relu" in finding.advice
    assert finding.figure < 1e-6
    assert networks.vanished_gradients(case_of(*pair(aevb.bernoulli), digits())) is None


@pytest.mark.parametrize(
    ("activation", "bias", "advice"),
    [(nn.ReLU, -100.0, "--activation leaky-relu"), (nn.Tanh, 100.0, "--lr")],
)
@pytest.mark.parametrize("part", ["decoder", "encoder"])
def test_units_that_are_off_or_saturated_for_every_row_are_found(activation, bias, advice, part):
    model, posterior = pair(aevb.bernoulli, activation=activation)
    case = case_of(model, posterior, digits())
    assert networks.dead_units(case) is None
    network = model.likelihood.network if part == "decoder" else posterior.conditional.network
    with torch.no_grad():
        network.body[0].bias[: 64 * 3 // 4] = bias
    finding = only(networks.dead_units(replace(case)), "dead-units")
    assert advice in finding.advice
    assert finding.figure >= 0.75


def test_leaky_units_are_never_dead():
    model, posterior = pair(aevb.bernoulli, activation=nn.LeakyReLU)
    with torch.no_grad():
        model.likelihood.network.body[0].bias.fill_(-100.0)
    assert networks.dead_units(case_of(model, posterior, digits())) is None


def test_channels_of_images_are_units():
    images = torch.randn(5, 4, 3, 3)
    images[:, 1] = -images[:, 1].abs()
    assert layers._flat(nn.ReLU(), images) == 0.25


def test_gradients_are_taken_once_and_averaged_over_as_many_batches_as_there_are(monkeypatch):
    taken = []

    def of_two_batches(*arguments):
        taken.append(arguments)
        return [("weight", torch.full((3, 3), size)) for size in (6.0, 8.0)]

    monkeypatch.setattr(layers, "_gradients", of_two_batches)
    case = replace(case_of(*pair(aevb.bernoulli), digits()), rows=digits().test.limit(2))
    doctor.examine(case)
    assert doctor.measured(case)["gradients"]["weight"] == pytest.approx(math.sqrt(50))
    assert len(taken) == 1


# -- cases that lack something, or are of another kind ------------------------------------------


def test_what_cannot_be_looked_for_is_named():
    found = doctor.examine(bare(()))
    assert found.healthy
    assert "collapsed" in found.skipped
    assert "not_finite" not in found.skipped
    assert doctor.measured(bare(())) == {}


@pytest.mark.parametrize("kind", ["planar", "full", "per-datum", "flow prior", "user"])
def test_every_kind_of_model_can_be_looked_at(kind):
    rows, train = digits().test.limit(30), digits().train.limit(30)
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
    found = doctor.examine(Case(model, posterior, rows, (posterior, train), digits().train))
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

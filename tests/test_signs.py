"""Signs of training, of likelihoods and of data: each sickness is made on purpose and found.

The doctor as a whole, and the signs of codes and of networks: test_doctor.py.
"""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from doctor_cases import bare, case_of, digits, history, names, only, pair, table

import aevb
from aevb import families
from aevb.data import Rows
from aevb.evaluation import doctor
from aevb.evaluation.case import Case
from aevb.evaluation.signs import learning, likelihoods, treatment

# -- training -------------------------------------------------------------------------------------


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


def test_a_model_that_learned_few_rows_by_heart_is_found():
    few = replace(digits(), train=digits().train.limit(40))
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


def test_values_outside_the_domain_are_found_and_nothing_else_is_asked(case):
    plain = replace(case, rows=digits("none").test)
    finding = only(likelihoods.outside_domain(plain), "outside-the-domain")
    assert "zeros and ones" in finding.sentence
    assert names(plain)[0] == "outside-the-domain"
    assert "unlike-training" in names(plain)
    assert "--binarize threshold" in likelihoods.outside_domain(replace(plain, learned=None)).advice
    large = table(3 * STEPS + 2, families.Bernoulli(), 4)
    assert "--likelihood auto" in likelihoods.outside_domain(replace(large, learned=None)).advice
    assert doctor.measured(plain)["held_out"] == len(digits("none").test)


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
    # The same case, without the figures that were taken.
    finding = only(likelihoods.noise_at_floor(replace(case)), "noise-at-its-floor")
    assert finding.figure == 1


@pytest.mark.parametrize(
    "family",
    [families.Normal(1e-4), families.Elementwise(aevb.distributions.Laplace, least=1e-2)],
    ids=["normal", "laplace"],
)
@pytest.mark.parametrize("size", [0.0, 1e-3])
def test_columns_that_hardly_vary_may_be_at_the_floor(family, size):
    values = np.column_stack([REAL[:, :2], size * REAL[:, 2:]])
    case = table(values, family, 8)
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


def test_values_unlike_those_of_training_are_found():
    case = case_of(*pair(aevb.continuous_bernoulli), digits("none"))
    x = digits("none").test.all().numpy()
    assert "0 and 1 alone" in only(unlike(case, (x > 0.5) * 1.0), "unlike-training").sentence
    assert "times that of" in only(unlike(case, 255 * x * (1 + 1e-7)), "unlike-training").sentence
    shifted = np.roll(x, 3, axis=1)
    assert "columns" in only(unlike(case, shifted), "unlike-training").sentence
    moved = x.copy()
    moved[:, 20] += 2
    assert "column 21" in only(unlike(case, moved), "unlike-training").sentence
    assert unlike(case, x) is None


def test_a_pixel_that_is_lit_once_is_not_unlike_training():
    case = case_of(*pair(aevb.continuous_bernoulli), digits("none"))
    x = digits("none").test.all().numpy()
    x[3, 0] = 1.0
    assert float(case.train_x[:, 0].max()) == 0
    assert unlike(case, x) is None


def test_held_out_rows_that_are_training_rows_are_found(healthy):
    again = replace(healthy, rows=healthy.all_train.pick(np.arange(100)))
    finding = only(treatment.copies(again), "held-out-rows-in-training")
    assert finding.figure == 1


def test_copies_are_found_behind_a_treatment_that_draws():
    drawn = digits("once")
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
    values = np.random.default_rng(1).integers(0, 2, (400, 2)).astype(float)
    everything = Rows(values, np.arange(400), (2,))
    rows, train = everything.pick(np.arange(100)), everything.pick(np.arange(100, 400))
    case = Case(*pair(aevb.bernoulli, 2, width=2), rows=rows, all_train=train)
    assert treatment.copies(case) is None

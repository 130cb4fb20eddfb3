"""Bugs of one line in what `aevb.check` and the doctor find, each with its law."""

import numpy as np
import pytest
import test_doctor
import test_examination
import test_signs
import torch
from plants import bug, caught, named

from aevb import families
from aevb.evaluation import layers
from aevb.evaluation.examination import domain, elements, objective, recognition, shapes, vectors
from aevb.evaluation.examination import estimators as estimators_of
from aevb.evaluation.examination import gradients as reaching
from aevb.evaluation.signs import latents, learning, likelihoods, networks, treatment


def sick(found):
    """The first model of the table of mistakes in which this is to be found."""
    return next(made for made in test_examination.PLANTS if made.found == found)


BUGS = [
    bug(
        domain.outside,
        "return 1 - float(within",
        "return 0 * float(within",
        test_examination.test_a_planted_mistake_is_found,
        sick("outside-support"),
    ),
    bug(
        domain.examine_precision,
        "(torch.float16, torch.bfloat16)",
        "(torch.float16,)",
        test_examination.test_a_planted_mistake_is_found,
        sick("half-precision"),
    ),
    bug(
        domain._not_finite,
        "share > 0",
        "share > 1",
        test_examination.test_a_planted_mistake_is_found,
        sick("not-finite"),
    ),
    bug(
        elements.misfit,
        "p < LEVEL / 2",
        "p > 1 - LEVEL / 2",
        test_examination.test_a_planted_mistake_is_found,
        sick("posterior-draws"),
    ),
    bug(
        elements._continuous,
        "wrong = known & ((total - 1)",
        "wrong = known & ((total - total)",
        test_examination.test_a_planted_mistake_is_found,
        sick("posterior-integral"),
    ),
    bug(
        estimators_of.examine_joint,
        "difference.abs() > limit",
        "-difference > limit",
        test_examination.test_a_planted_mistake_is_found,
        sick("log-joint"),
    ),
    bug(
        reaching.unreached,
        "data.add_(step)",
        "data.add_(0)",
        test_examination.test_a_planted_mistake_is_found,
        sick("no-gradient"),
    ),
    bug(
        reaching.examine_paths,
        "z.detach().std(0)",
        "z.detach().std(1)",
        test_examination.test_a_planted_mistake_is_found,
        sick("noise-unused"),
    ),
    bug(
        objective._judged,
        "not same(found, again)",
        "same(found, again)",
        test_examination.test_a_planted_mistake_is_found,
        sick("objective-noise"),
    ),
    bug(
        objective._slopes,
        "+ 0.02 * size",
        "+ 20 * size",
        test_examination.test_a_planted_mistake_is_found,
        sick("objective-gradient"),
    ),
    bug(
        recognition.recognized,
        ', (-1, "minus ")',
        ",",
        test_examination.test_a_planted_mistake_is_found,
        sick("objective-sign"),
    ),
    bug(
        recognition.reference,
        "standard = normal + drawn",
        "standard = drawn",
        test_examination.test_a_planted_mistake_is_found,
        sick("objective-prior"),
    ),
    bug(
        recognition._weighted,
        "sign * ours.log_w",
        "ours.log_w",
        test_examination.test_a_planted_mistake_is_found,
        sick("objective-weights"),
    ),
    bug(
        shapes.examine_repeats,
        "(one - other)",
        "(one - one)",
        test_examination.test_a_planted_mistake_is_found,
        sick("random-at-evaluation"),
    ),
    bug(
        vectors.jacobian,
        ".logabsdet",
        ".sign",
        test_examination.test_the_healthy_twin_is_silent,
        "a flow",
    ),
    bug(
        learning.warming,
        "t >= steps",
        "t <= steps",
        test_signs.test_a_model_that_was_kept_within_its_warm_up_is_found,
    ),
    bug(
        learning.unfinished,
        'float(record.get("learning_rate_factor", 1.0))',
        "1.0",
        test_signs.test_a_falling_rate_does_not_hide_that_training_was_short,
    ),
    bug(
        learning._jumps,
        ".mean() / 3",
        ".mean() / 300",
        test_signs.test_a_bound_that_jumps_is_not_taken_for_one_that_rises,
    ),
    bug(
        learning._gaps,
        '1 / counts["train"] + 1 / counts["validation"]',
        "0",
        test_signs.test_a_gap_at_the_epoch_that_was_kept_is_found_by_many_rows,
    ),
    bug(
        latents.collapsed,
        "not said < NOTHING",
        "not said < 0",
        test_doctor.test_a_posterior_that_is_one_for_all_rows_is_found_however_far_it_lies,
    ),
    bug(
        latents.dead_dimensions,
        "dead <= total / 2",
        "dead >= total / 2",
        test_doctor.test_dead_dimensions_are_found_where_there_was_more_to_say,
    ),
    bug(
        latents.directions,
        "(1 + math.sqrt(width / n)) ** 2",
        "0",
        test_doctor.test_independent_columns_have_no_direction_and_a_common_cause_has_one,
    ),
    bug(
        latents.deaf_decoder,
        "not gain + ERRORS * error < NOTHING",
        "gain + ERRORS * error < NOTHING",
        test_doctor.test_a_decoder_that_ignores_the_codes_is_found,
    ),
    bug(
        latents.fallen_into_holes,
        "> MOST_IN_HOLES",
        "> 1",
        test_doctor.test_samples_beside_all_codes_are_found,
    ),
    bug(
        latents.poor_weights,
        "samples / 2)",
        "samples)",
        test_doctor.test_effective_samples_of_the_evaluation_that_was_kept,
        2.3,
        4,
        False,
    ),
    bug(
        networks.vanished_gradients,
        "VANISHED * largest",
        "0 * largest",
        test_doctor.test_gradients_that_vanish_in_a_deep_network_are_found,
    ),
    bug(
        layers._flat,
        "amax(0)",
        "amin(0)",
        test_doctor.test_units_that_are_off_or_saturated_for_every_row_are_found,
        torch.nn.ReLU,
        -100.0,
        "--activation leaky-relu",
        "decoder",
    ),
    bug(
        likelihoods.noise_at_floor,
        " & _varies(part, least)",
        "",
        test_signs.test_columns_that_hardly_vary_may_be_at_the_floor,
        families.Normal(1e-4),
        0.0,
    ),
    bug(
        likelihoods.certain_and_wrong,
        "each < -CERTAIN",
        "each < CERTAIN",
        test_signs.test_pixels_that_are_always_black_may_be_held_for_black_with_certainty,
    ),
    bug(
        likelihoods._all_zero_or_one,
        "zero.any() and one.any()",
        "zero.any()",
        test_signs.test_values_that_suit_their_family_are_left_alone,
        np.zeros((60, 4)),
        families.Normal(),
        8,
    ),
    bug(
        treatment.other_treatment,
        'was.split(" ")[0]',
        "was",
        test_signs.test_an_evaluation_of_data_treated_otherwise_is_found,
    ),
    bug(
        treatment.unlike_training,
        "shift > SHIFT_ERRORS * error",
        "shift > 0 * error",
        test_signs.test_a_pixel_that_is_lit_once_is_not_unlike_training,
    ),
    bug(
        treatment.copies,
        "max(MOST_COPIES, 2 * usual)",
        "MOST_COPIES",
        test_signs.test_rows_that_repeat_anyway_are_no_copies,
    ),
    bug(
        treatment._keys,
        "replace(rows, binarize=Binarization.NONE)",
        "rows",
        test_signs.test_copies_are_found_behind_a_treatment_that_draws,
        by=AttributeError,
    ),
]


@pytest.mark.parametrize("one", BUGS, ids=named)
def test_a_planted_line_is_caught(one, tmp_path_factory):
    caught(one, tmp_path_factory)

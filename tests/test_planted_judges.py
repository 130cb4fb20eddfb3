"""Bugs of one line in what judges a model, and in storage, each with its law."""

import pytest
import test_annealing
import test_calibration
import test_checkpoints
import test_classifier
import test_combinators
import test_data_survey
import test_detector
import test_discrete_latents
import test_estimation
import test_evaluation
import test_exact
import test_exact_models
import test_following
import test_gaps
import test_gradient_estimators as estimators
import test_gradients_command
import test_imputation
import test_information
import test_learners
import test_pareto
import test_reciprocal
import test_storage
import torch
from plants import bug, caught, named

from aevb import Model, VAEClassifier, codes, imputation
from aevb.errors import UsageError
from aevb.estimator import detector
from aevb.evaluation import (
    annealing,
    calibration,
    certificate,
    chunks,
    diagnosis,
    estimates,
    estimation,
    gradient_draws,
    gradients,
    information,
    lattice,
    pareto,
    weights,
    work,
)
from aevb.storage import (
    checkpoints,
    description,
    exact_models,
    files,
    latents,
    learners,
    likelihoods,
    metrics,
    sealed,
    snapshots,
    unfinished,
)
from aevb.storage import gradients as settings_gradients
from aevb.storage import weights as saving

BUGS = [
    bug(
        imputation.impute,
        "on_reals(model.prior())",
        "True",
        test_imputation.test_codes_that_are_no_free_numbers_stay_where_they_may_lie,
        "simplex",
        by=UsageError,
    ),
    bug(
        pareto.tail_shape,
        "quartile < 1e-300",
        "quartile < 0",
        test_pareto.test_the_worst_weights_are_never_called_reliable,
        1000.0,
    ),
    bug(
        calibration._ranked,
        "torch.where(deviation > 0, deviation, math.nan)",
        "deviation.clamp_min(1e-100)",
        test_calibration.test_a_coin_that_is_sure_for_some_data_has_no_figures_and_its_own_verdict,
        by=RuntimeWarning,
    ),
    bug(
        estimates._bound,
        "closed is None or exact",
        "closed is None",
        test_evaluation.test_the_bound_of_an_exact_posterior_has_no_sampling_error,
    ),
    bug(
        certificate.monte_carlo_error,
        "np.sqrt(np.square(errors).sum()) / len(errors)",
        "np.sqrt(np.square(errors).mean())",
        test_evaluation.test_certificate_is_plain_statistics,
    ),
    bug(
        certificate.standard_error,
        "values.std(ddof=1)",
        "values.std()",
        test_evaluation.test_certificate_is_plain_statistics,
    ),
    bug(
        chunks.by_chunks,
        "observed / len(rows)",
        "rows.width",
        test_combinators.test_bits_per_dimension_count_what_was_observed,
    ),
    bug(
        diagnosis.diagnose,
        "code = center(q)",
        "code = q.sample()",
        test_evaluation.test_active_units_and_divergence_by_dimension,
    ),
    bug(
        estimation.Estimates.sandwiches,
        "best = max(lower,",
        "best = min(lower,",
        test_estimation.test_a_sandwich_takes_the_best_of_each_side,
    ),
    bug(
        information.log_aggregate,
        "logsumexp(1) - math.log(q.batch_shape[0])",
        "logsumexp(1)",
        test_information.test_the_aggregate_is_the_mixture_by_hand,
    ),
    bug(
        annealing.Annealing.schedule,
        "s = 1 / (1 + np.exp(-STEEPNESS * t))",
        "s = t",
        test_annealing.test_the_schedule_goes_from_start_to_end_and_is_dense_at_both,
    ),
    bug(
        calibration._ranked,
        "(equal.sum(0) + 1)",
        "1",
        test_calibration.test_the_exact_posterior_of_coins_is_calibrated,
    ),
    bug(
        test_exact.room._told,
        "found.error > tolerance",
        "found.error < tolerance",
        test_exact.test_a_row_that_needs_more_room_says_so,
    ),
    bug(
        test_gaps.GAPS.Mean.less,
        "self.mean - other.mean",
        "self.mean + other.mean",
        test_gaps.test_errors_are_those_of_paired_differences_and_of_means_apart,
    ),
    bug(
        test_gaps.GAPS.Parts.mean,
        "np.hypot(self.errors[one], self.errors[other])",
        "self.errors[one]",
        test_gaps.test_errors_are_those_of_paired_differences_and_of_means_apart,
    ),
    bug(
        gradient_draws._Pair.forward,
        "noise).mean()",
        "noise).sum()",
        estimators.test_enumeration_is_exact,
        estimators.coins,
    ),
    bug(
        gradients.Estimator.price,
        " * self.cost",
        "",
        test_gradients_command.test_the_least_variance_times_cost_is_recommended_and_the_next_named,
    ),
    bug(
        gradients.Comparison.recommendation,
        "min(others",
        "max(others",
        test_gradients_command.test_the_least_variance_times_cost_is_recommended_and_the_next_named,
    ),
    bug(
        lattice.Region.points,
        "self.center + self.spacing",
        "self.center + 1.01 * self.spacing",
        test_exact.test_quadrature_is_the_closed_form_where_there_is_one,
        1,
        1.0,
    ),
    bug(
        pareto.tail_shape,
        "10 * 0.5",
        "-10 * 0.5",
        test_pareto.test_the_shape_is_the_fit_of_zhang_and_stephens_with_a_prior,
        "exponential",
        203,
    ),
    bug(
        test_reciprocal.home._estimate,
        "torch.cat([*folds[:i], *folds[i + 1 :]])",
        "torch.cat(folds)",
        test_reciprocal.test_the_average_is_right_and_its_logarithm_is_above,
    ),
    bug(
        weights.log_mean,
        "count - 1 if",
        "count if",
        test_evaluation.test_the_error_of_a_mean_of_weights_is_the_delta_methods,
    ),
    bug(
        work.worth_compiling,
        "len(rows) * (encode + samples * decode)",
        "len(rows) * samples * (encode + decode)",
        test_evaluation.test_whether_to_compile_an_estimate_depends_on_sizes_alone,
    ),
    bug(
        checkpoints._forget_old,
        " if p.name != newest_name",
        "",
        test_checkpoints.test_checkpoints_come_back_and_two_are_kept,
    ),
    bug(
        metrics.keep,
        'record["epoch"] <= epochs',
        'record["epoch"] < epochs',
        test_checkpoints.test_metrics_skip_a_torn_line_and_name_a_damaged_one,
    ),
    bug(
        unfinished.Unfinished.load,
        "allow_pickle=False",
        "allow_pickle=True",
        test_estimation.test_damaged_unfinished_work_begins_anew,
        b"",
    ),
    bug(
        snapshots._load,
        "not np.array_equal(expected, _digest(arrays))",
        "False",
        test_following.test_a_changed_number_in_a_snapshot_is_seen,
    ),
    bug(
        learners.gradient_options,
        "rows if settings.weight_prior",
        "1 if settings.weight_prior",
        test_learners.test_a_run_is_trained_by_what_its_settings_say,
        "aevb",
        "asked",
    ),
    bug(
        exact_models.settle_exact,
        '"diagonal" if components is None else "full"',
        '"full"',
        test_exact_models.test_what_is_left_open_is_settled,
        {"algorithm": "em"},
        {"covariance": "diagonal"},
    ),
    bug(
        settings_gradients.settle_gradient,
        "settings.samples > 1",
        "settings.samples > 2",
        test_gradients_command.test_what_is_left_open_is_chosen,
        *test_gradients_command.CHOSEN[6],
    ),
    bug(
        latents.prior_for,
        "SPACES[space][1]",
        '"standard-normal"',
        test_discrete_latents.test_rules_of_discrete_names,
    ),
    bug(
        likelihoods._classes,
        "int(largest) + 1",
        "int(largest)",
        test_data_survey.test_classes_are_as_many_as_the_largest_says,
    ),
    bug(
        imputation._importance,
        "model.log_joint(holes.x, z) - q.log_prob(z), model",
        "model.log_joint(holes.x, z), model",
        test_imputation.test_denoising_is_the_mean_of_the_signal_given_the_row,
    ),
    bug(
        imputation.impute,
        "np.where(np.isnan(data), inferred, data)",
        "inferred",
        test_imputation.test_a_linear_model_is_filled_as_algebra_says,
        "importance",
        "exact",
    ),
    *(
        bug(Model.log_joint, "prior.log_prob(z)", "1.5 * prior.log_prob(z)", *law)
        for law in (
            (test_imputation.test_a_linear_model_is_filled_as_algebra_says, "hmc", "exact"),
            (test_imputation.test_a_bernoulli_model_is_filled_as_quadrature_says, "hmc", 400),
        )
    ),
    bug(
        VAEClassifier.log_likelihoods,
        "np.stack(each, axis=1)",
        "np.stack(each, axis=1) + 7",
        test_classifier.test_gaussian_classes_give_quadratic_discriminant_analysis,
        None,
    ),
    bug(
        codes.interpolate,
        "np.sin(t * angle) * stop",
        "np.sin(t * angle) * start",
        test_evaluation.test_the_spherical_way_turns_evenly_at_the_distances_of_its_ends,
    ),
    bug(
        detector.VAEDetector._draw_the_line,
        "self.contamination)",
        "1 - self.contamination)",
        test_detector.test_the_threshold_is_the_quantile_of_the_scores,
        0.1,
    ),
    bug(
        files._without_repeats,
        "len(found) < len(pairs)",
        "len(found) > len(pairs)",
        test_storage.test_json_that_others_would_read_otherwise_is_refused,
        b'{"a": 1, "a": 2}',
    ),
    bug(
        files._finite,
        "math.isfinite(value)",
        "value",
        test_storage.test_json_that_others_would_read_otherwise_is_refused,
        b'{"a": 1e999}',
    ),
    bug(
        files.parse_json,
        "parse_constant=_refuse,",
        "",
        test_storage.test_json_that_others_would_read_otherwise_is_refused,
        b'{"a": NaN}',
    ),
    bug(
        files.sha256,
        "for part in parts:",
        "for part in parts[1:]:",
        test_storage.test_the_checksum_is_that_of_the_file_with_zeros_in_its_place,
    ),
    bug(
        sealed.seal,
        'b" " * (-len(text) % 8)',
        'b" " * (1 - len(text) % 8)',
        test_storage.test_the_data_begin_where_words_do,
    ),
    bug(
        saving.load,
        "model.eval(), posterior.eval()",
        "model, posterior",
        test_storage.test_a_saved_model_gives_the_same_bound_to_the_bit,
        "bernoulli",
        torch.float32,
    ),
    bug(
        saving.config_of,
        "**(facts or {})",
        "",
        test_storage.test_facts_join_the_config_and_do_not_disturb_loading,
        by=KeyError,
    ),
    bug(
        saving._contiguous,
        "tensor.clone() if memory in seen else tensor",
        "tensor",
        test_storage.test_a_module_in_both_places_is_saved,
        by=RuntimeError,
    ),
    bug(
        description.describe,
        "if id(value) in known",
        "if False",
        test_storage.test_a_saved_model_gives_the_same_bound_to_the_bit,
        "vamp",
        torch.float32,
        by=RuntimeError,
    ),
]


@pytest.mark.parametrize("one", BUGS, ids=named)
def test_a_planted_line_is_caught(one, tmp_path_factory):
    caught(one, tmp_path_factory)

"""Bugs of one line in objectives, algorithms and chains, each with its law."""

import pytest
import test_aevb
import test_baselines
import test_em
import test_full_bayes
import test_gradient_estimators as estimators
import test_mcmc
import test_mean_field_mixture
import test_semi_supervised
from plants import bug, caught, named

from aevb import mcmc
from aevb.algorithms import (
    em,
    em_gradient,
    full_bayes,
    learner,
    mean_field,
    monotone,
    semi_supervised,
)
from aevb.objectives import baselines, exact, relaxed

BUGS = [
    bug(
        em.responsibilities,
        "(shares * log_ratio).sum(-1)",
        "-(shares * log_ratio).sum(-1)",
        test_em.test_the_parts_of_the_bound_are_the_posteriors,
    ),
    bug(
        mean_field.divergence,
        "(ratio - 1 - ratio.log())",
        "(ratio - 1 + ratio.log())",
        test_mean_field_mixture.test_the_divergence_is_the_mean_of_draws,
    ),
    bug(
        semi_supervised.SemiSupervised.terms,
        "self.classification * self._log_q",
        "-self.classification * self._log_q",
        test_semi_supervised.test_the_classification_term_is_the_mean_over_labeled_rows,
    ),
    bug(
        mcmc.DualAveraging.step,
        "math.sqrt(t) / 0.1 * shortfall",
        "-math.sqrt(t) / 0.1 * shortfall",
        test_mcmc.test_the_step_size_finds_its_target,
        0.6,
        0.01,
    ),
    bug(
        baselines.mean_of_others,
        "(len(f) - 1)",
        "len(f)",
        test_baselines.test_what_the_other_samples_say_is_written_out,
    ),
    bug(
        baselines.RunningMean.seen,
        "mean = self.mean / share",
        "mean = self.mean",
        test_baselines.test_a_running_mean_is_of_the_steps_before_and_moves_in_training_alone,
    ),
    bug(
        exact.Enumerated.estimate,
        "temper * divergence",
        "divergence",
        estimators.test_enumeration_is_exact,
        estimators.coins,
    ),
    bug(
        relaxed.Relaxed.estimate,
        "with_gradient_of(value, objective)",
        "objective",
        estimators.test_what_is_reported_of_soft_codes_is_the_bound_at_hard_ones,
        relaxed.gumbel_softmax(0.5),
        estimators.coins,
    ),
    bug(
        relaxed._hardened,
        "z > 0.5",
        "z > 0.9",
        estimators.test_what_is_reported_of_soft_codes_is_the_bound_at_hard_ones,
        relaxed.gumbel_softmax(0.5),
        estimators.coins,
    ),
    bug(
        em_gradient.GeneralizedEM._log_prior,
        "log_weight_prior(named) / self.rows",
        "log_weight_prior(named)",
        test_em.test_the_objective_is_the_mean_evidence_and_a_share_of_the_prior,
        True,
    ),
    bug(
        full_bayes.FullBayes.terms,
        "divergence / self.weight_prior_rows",
        "divergence",
        test_full_bayes.test_the_divergence_of_the_weights_is_shared_by_the_data,
    ),
    bug(
        learner.State.add,
        "first_bad = self.totals[-1]",
        "first_bad = 0 * self.totals[-1]",
        test_aevb.test_the_first_step_that_is_not_finite_is_remembered,
    ),
    bug(
        monotone.Monotone._objective,
        ".mean()",
        ".sum()",
        test_em.test_the_objective_is_the_mean_evidence_and_a_share_of_the_prior,
        False,
    ),
    bug(
        mcmc.HMC.step,
        "energy = 0.5 * momentum",
        "energy = momentum",
        test_mcmc.test_accepting_everything_would_be_caught,
    ),
    bug(
        mcmc.HMC.step,
        "chance < probability",
        "chance < 1",
        test_mcmc.test_accepting_everything_would_be_caught,
    ),
    bug(
        mcmc.effective_sample_size,
        "covariance[0] * t / (t - 1)",
        "covariance[0]",
        test_mcmc.test_r_hat_and_worth_are_what_vehtari_and_others_define,
        "mixed",
        40,
    ),
    bug(
        mcmc._reduction,
        "(t - 1) / t",
        "1",
        test_mcmc.test_r_hat_and_worth_are_what_vehtari_and_others_define,
        "mixed",
        40,
    ),
]


@pytest.mark.parametrize("one", BUGS, ids=named)
def test_a_planted_line_is_caught(one, tmp_path_factory):
    caught(one, tmp_path_factory)

"""Bugs of one line in objectives, algorithms and chains, each with its law."""

import laws
import pytest
import test_aevb
import test_baselines
import test_em
import test_exact
import test_flows
import test_full_bayes
import test_gaussian_mixture
import test_gradient_estimators as estimators
import test_latents
import test_mcmc
import test_mean_field_mixture
import test_oracle
import test_planted_bugs
import test_randomness
import test_refinement
import test_semi_supervised
import test_training
from plants import bug, caught, named

from aevb import (
    conditional,
    enumeration,
    gaussian_mixture,
    linear_gaussian,
    mcmc,
    networks,
    optimizers,
    plan,
    priors,
    randomness,
    refinement,
)
from aevb.algorithms import (
    em,
    em_gradient,
    full_bayes,
    learner,
    mean_field,
    monotone,
    monte_carlo_em,
    semi_supervised,
)
from aevb.evaluation import estimates
from aevb.families import gaussian
from aevb.objectives import baselines, bounds, exact, relaxed, score

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
    bug(
        optimizers.Adam.update,
        "value=1 - self.beta2",
        "value=1 - self.beta1",
        test_aevb.test_optimizers_and_clipping_equal_torch,
        test_aevb.OPTIMIZERS[0],
        None,
    ),
    bug(optimizers.cosine, "0.5 * (1 +", "(1 +", test_aevb.test_schedules),
    bug(
        plan.Plan.temper,
        "t / self.warmup_steps",
        "(t - 1) / self.warmup_steps",
        test_training.test_warm_up_must_finish_before_training_does,
    ),
    bug(
        plan.work_of,
        "3.0 * by_row",
        "2.0 * by_row",
        test_training.test_how_a_run_is_computed_depends_on_sizes_alone,
    ),
    bug(
        score.ScoreFunction.estimate,
        "(score / len(noise) if form.mean else score)",
        "score",
        estimators.mean_is_the_gradient,
        score.score_function(baseline=baselines.LeaveOneOut()),
        estimators.coins,
        0,
        20_000,
    ),
    bug(
        linear_gaussian.LinearGaussian.log_prob,
        ".sum() * 2 +",
        ".sum() +",
        test_oracle.test_the_evidence_is_scipys,
        0,
    ),
    bug(
        linear_gaussian.LinearGaussian.best_mean_field,
        "-precision.log()",
        "precision.log()",
        test_oracle.test_the_best_mean_field_loses_its_gap_and_none_loses_less,
        0,
    ),
    bug(
        linear_gaussian.em_step,
        "torch.cholesky_inverse(factor) + gain",
        "gain",
        test_oracle.test_em_never_falls_and_says_what_it_reached,
    ),
    bug(
        linear_gaussian.maximum_likelihood,
        "(rows - mean) / len(rows)",
        "(rows - mean) / (len(rows) - 1)",
        test_oracle.test_probabilistic_pca_is_scikit_learns,
        "wine",
        1,
    ),
    bug(
        gaussian_mixture.GaussianMixture.log_joint_by_component,
        "torch.log_softmax(self._logits, -1)",
        "self._logits",
        test_gaussian_mixture.test_gradients_at_draws_and_over_codes_are_those_of_the_evidence,
    ),
    bug(
        gaussian_mixture.GaussianMixture.put,
        "(covariances - self.min_variance)",
        "covariances",
        test_gaussian_mixture.test_the_floor_holds_every_variance,
    ),
    bug(
        enumeration.Enumeration.log_evidence,
        "torch.logsumexp(self.log_joint, 0)",
        "self.log_joint.amax(0)",
        test_exact.test_coins_are_listed,
    ),
    bug(
        priors.VampPrior.forward,
        "logits=torch.zeros_like(loc[:, 0])",
        "logits=loc[:, 0]",
        test_latents.test_a_vamp_prior_is_the_average_of_what_the_encoder_says,
    ),
    bug(
        refinement._climb,
        "new_value >= value",
        "new_value <= value",
        test_refinement.test_no_datum_is_worse_than_its_encoder_said_on_the_noise_that_is_climbed,
    ),
    bug(
        refinement.Refined.bound,
        "d.reconstruction() - d.kl_estimate()",
        "d.reconstruction()",
        test_refinement.test_the_refined_bound_is_near_the_best_of_the_family_by_quadrature,
    ),
    bug(
        randomness.generator,
        "int(stream)",
        "0",
        test_randomness.test_same_arguments_same_numbers_others_differ.hypothesis.inner_test,
        0,
        randomness.Stream.NOISE,
        1,
        2,
    ),
    bug(
        randomness.uniform_in_step,
        "_shifted(z, 30)",
        "_shifted(z, 31)",
        test_randomness.test_uniform_numbers_in_a_step_are_those_of_splitmix64,
        1,
    ),
    bug(
        randomness.normal_in_step,
        "-2 * torch.log1p",
        "-torch.log1p",
        test_full_bayes.test_normals_in_a_step_are_normal_and_differ_by_their_key,
    ),
    bug(
        networks.MADE.forward,
        "degrees[:, None] > seen",
        "degrees[:, None] >= seen",
        test_flows.test_made_sees_only_what_comes_before_and_the_context,
        2,
        [5],
        0,
    ),
    bug(
        conditional.Averaged.divergence,
        "variances - 1",
        "variances",
        test_full_bayes.test_the_divergence_is_that_of_torch,
    ),
    bug(
        conditional.Averaged.weights,
        "self.log_deviation.exp() * noise",
        "noise",
        test_full_bayes.test_at_the_exact_posterior_the_objective_is_the_evidence,
    ),
    bug(
        bounds.Draw.log_weights,
        "+ temper * log_ratio",
        "- temper * log_ratio",
        laws.estimators_agree_in_the_mean,
    ),
    bug(
        estimates._propose,
        "prior.log_prob(z) - laws[0].log_prob(z)",
        "-laws[0].log_prob(z)",
        laws.importance_agrees_with_quadrature,
    ),
    bug(
        monte_carlo_em._tune,
        "log_size + (acceptance",
        "log_size - (acceptance",
        laws.chains_are_persistent,
    ),
    bug(
        gaussian._deviation,
        "clamp_max(MAX)) + least)",
        "clamp_max(MAX))) + least",
        laws.gaussian_density_equals_scipy,
    ),
]


@pytest.mark.parametrize("one", BUGS, ids=named)
def test_a_planted_line_is_caught(one, tmp_path_factory):
    caught(one, tmp_path_factory)


def test_each_law_has_a_bug_that_it_catches():
    planted = [*BUGS, *test_planted_bugs.BUGS.values()]
    assert set(laws.LAWS) <= {one.law for one in planted}

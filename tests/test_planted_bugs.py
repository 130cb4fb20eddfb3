"""Bugs seen in public code, planted one at a time: each must be caught by the law beside it.

missing half of the divergence          divergence averaged over dimensions
divergence dropped                      divergence with the wrong sign
divergence the wrong way round          log-variance taken for the deviation
likelihood averaged over pixels         log-sum-exp over data, not samples
log K forgotten                         importance weights of minus the bound
prior hard-coded in the weights         prior hard-coded in the divergence
noise not used                          noise of the first step reused
draws without gradient                  encoder without gradient
softmax over the wrong axis             batch averages averaged
chunk averages averaged                 one sample too few
one sample too many in the mean         train-mode layers at evaluation
weight prior not divided by N           weight prior on the encoder too
beta ignored                            beta in the reported bound
objective minimized                     test rows in training
binarization drawn once, called fresh   the same row noise for all data
sign in a density                       factor in a draw
scale without gradient                  closed form the wrong way round
log q not held on the path              weights of the path not squared
own sample in its baseline              value of the surrogate
importance weights with a gradient      wake codes from the prior
dreams with a gradient
chains begun anew at each visit         volume of a constrained scale left out
"""

import re

import laws
import pytest
import test_divergences
import test_gradient_estimators as estimators
import test_wake_sleep
import test_zoo
import test_zoo_gradients as gradients
from plants import bug, caught

from aevb import data, families, model, objectives, portions
from aevb.algorithms import GradientLearner, MonteCarloEM, learner, wake_sleep
from aevb.algorithms import gradient as by_gradients
from aevb.data import dataset
from aevb.distributions import Logistic, Rayleigh, divergences
from aevb.evaluation import batches, estimates
from aevb.families import gaussian
from aevb.objectives import Draw, Objective, baselines, bounds, pathwise
from aevb.objectives.bounds import Encoded

KL, OF_BASES = divergences.kl_by_dimension, "_of_bases(q.base_dist, p.base_dist)"
STANDARD = "td.Normal(torch.zeros_like(q.mean), 1.0)"
CLOSED = "kl(self.posterior, self.prior)"
LOG_MEAN = "torch.logsumexp(d.log_weights(temper), dim=0) - math.log(len(d.z))"
OVER_DATA = (
    "d.log_weights(temper).logsumexp(1).mean().expand(d.z.shape[1]) - math.log(d.z.shape[1])"
)
OF_MINUS = "(torch.softmax(-d.log_weights(temper), 0) * d.log_weights(temper)).sum(0)"
COUNT = "count = torch.full_like(sums[0], len(terms.objective))"
BUGS = {
    "missing half of the divergence": bug(
        KL, OF_BASES, f"2 * {OF_BASES}", laws.bounds_equal_the_numpy_derivation
    ),
    "divergence averaged over dimensions": bug(
        Draw.closed_kl,
        CLOSED,
        f"{CLOSED} / self.z.shape[-1]",
        laws.bounds_equal_the_numpy_derivation,
    ),
    "divergence dropped": bug(
        Draw.closed_kl, CLOSED, f"0 * {CLOSED}", laws.bounds_equal_the_numpy_derivation
    ),
    "divergence with the wrong sign": bug(
        KL, OF_BASES, f"-{OF_BASES}", laws.divergence_equals_quadrature
    ),
    "divergence the wrong way round": bug(
        KL, OF_BASES, "_of_bases(p.base_dist, q.base_dist)", laws.divergence_equals_quadrature
    ),
    "log-variance taken for the deviation": bug(
        gaussian._deviation,
        "0.5 * log_variance",
        "log_variance",
        laws.bounds_equal_the_numpy_derivation,
    ),
    "likelihood averaged over pixels": bug(
        model.Model.log_likelihood,
        "p.log_prob(x)",
        "p.log_prob(x) / x.shape[1]",
        laws.bounds_equal_the_numpy_derivation,
    ),
    "log-sum-exp over data, not samples": bug(
        bounds._iwae, LOG_MEAN, OVER_DATA, laws.bounds_equal_the_numpy_derivation
    ),
    "log K forgotten": bug(
        bounds._iwae, " - math.log(len(d.z))", "", laws.bounds_equal_the_numpy_derivation
    ),
    "importance weights of minus the bound": bug(
        bounds._iwae, LOG_MEAN, OF_MINUS, laws.bounds_equal_the_numpy_derivation
    ),
    "prior hard-coded in the weights": bug(
        Draw.log_weights,
        "self.prior.log_prob(self.z)",
        "-0.5 * (self.z.square() + math.log(2 * math.pi)).sum(-1)",
        laws.the_prior_of_the_model_is_used,
    ),
    "prior hard-coded in the divergence": bug(
        KL, OF_BASES, f"_of_bases(q.base_dist, {STANDARD})", laws.the_prior_of_the_model_is_used
    ),
    "noise not used": bug(
        Encoded.draw, "(self.q, noise)", "(self.q, 0 * noise)", laws.noise_is_fresh_and_used
    ),
    "noise of the first step reused": bug(
        portions.Portions._noise, "source, t)", "source, 0)", laws.noise_is_fresh_and_used
    ),
    "draws without gradient": bug(
        Encoded.draw,
        "(self.q, noise)",
        "(self.q, noise).detach()",
        laws.gradients_equal_finite_differences,
    ),
    "encoder without gradient": bug(
        bounds.encode,
        "posterior(batch)",
        "torch.no_grad()(posterior)(batch)",
        laws.gradients_equal_finite_differences,
    ),
    "softmax over the wrong axis": bug(
        families.Categorical.forward,
        "logits=logits",
        "logits=logits.log_softmax(-2)",
        laws.categorical_normalizes_over_classes,
    ),
    "batch averages averaged": bug(
        learner.State.add,
        COUNT,
        "sums, count = [s / len(terms.objective) for s in sums], torch.ones_like(sums[0])",
        laws.training_metrics_weigh_every_datum_alike,
    ),
    "chunk averages averaged": bug(
        estimates.bound_parts,
        "sent(noise, like.device))",
        "sent(noise, like.device)) / len(positions) * len(rows) / math.ceil(len(rows) / CHUNK)",
        laws.evaluation_weighs_every_datum_alike,
    ),
    "one sample too few": bug(
        estimates.Pass.__call__,
        "enumerate(self.counts)",
        "enumerate([max(count - 1, 1) for count in self.counts])",
        laws.evaluation_takes_exactly_the_samples_asked_for,
    ),
    "one sample too many in the mean": bug(
        estimates.Pass.__call__,
        "enumerate(self.counts)",
        "enumerate([count + 1 for count in self.counts])",
        laws.evaluation_takes_exactly_the_samples_asked_for,
    ),
    "train-mode layers at evaluation": bug(
        batches.in_evaluation_mode,
        "module.eval()",
        "pass",
        laws.layers_are_in_evaluation_mode_when_evaluating,
    ),
    "weight prior not divided by N": bug(
        GradientLearner._log_prior,
        "log_weight_prior(parameters) / rows",
        "log_weight_prior(parameters)",
        laws.weight_prior_is_scaled_by_the_number_of_data,
    ),
    "weight prior on the encoder too": bug(
        by_gradients.log_weight_prior,
        ' if name.startswith("model.")',
        "",
        laws.weight_prior_is_scaled_by_the_number_of_data,
    ),
    "beta ignored": bug(
        bounds._elbo_b,
        "temper * d.kl()",
        "d.kl()",
        laws.beta_scales_the_divergence_in_the_objective,
    ),
    "beta in the reported bound": bug(
        Objective.estimate,
        "d.terms(self.reduce(d, temper))",
        "d.terms(self.reduce(d, temper))._replace(kl=temper * d.kl())",
        laws.reported_bound_is_the_bound_whatever_the_objective,
    ),
    "objective minimized": bug(
        GradientLearner._loss,
        "return -objective",
        "return objective",
        laws.training_raises_the_bound,
    ),
    "test rows in training": bug(
        dataset._parts,
        '"train": np.sort(pool[start:])',
        '"train": np.sort(pool)',
        laws.held_out_rows_never_reach_training,
    ),
    "binarization drawn once, called fresh": bug(
        data.Rows.key,
        "0, step)",
        "0, 0)",
        laws.dynamic_binarization_is_fresh_each_epoch_and_unbiased,
    ),
    "the same row noise for all data": bug(
        estimates.Pass._noise,
        "Stream.EVALUATION, keys",
        "Stream.EVALUATION, [0] * len(keys)",
        laws.evaluation_takes_exactly_the_samples_asked_for,
    ),
    "sign in a density": bug(
        Logistic._log_prob,
        "logsigmoid(y) - y",
        "logsigmoid(y) + y",
        test_zoo.test_integrates_to_one,
        "logistic",
    ),
    "factor in a draw": bug(
        Rayleigh.transform,
        "return self.scale",
        "return 1.03 * self.scale",
        test_zoo.test_draws_follow_the_density,
        "rayleigh",
        "sample",
    ),
    "scale without gradient": bug(
        Logistic.transform,
        "self.scale * sign",
        "self.scale.detach() * sign",
        gradients.test_the_path_gives_the_derivative_of_the_integral,
        "logistic",
    ),
    "closed form the wrong way round": bug(
        divergences._of_the_zoo,
        "return _of_numbers(q, p)",
        "return _of_numbers(p, q)",
        test_divergences.test_divergences_of_numbers_equal_quadrature,
        "gamma",
    ),
    "log q not held on the path": bug(
        pathwise.held,
        "p.detach()",
        "p",
        estimators.no_noise_at_the_exact_posterior,
        objectives.path_derivative(),
    ),
    "weights of the path not squared": bug(
        pathwise._scaled,
        "factor * (z - z.detach())",
        "(z - z.detach())",
        estimators.mean_is_the_gradient,
        objectives.doubly_reparameterized,
        estimators.line,
        2,
        20_000,
    ),
    "own sample in its baseline": bug(
        baselines.mean_of_others,
        "(f.sum(0) - f) / (len(f) - 1)",
        "f.mean(0).expand_as(f)",
        estimators.mean_is_the_gradient,
        objectives.score_function(baseline=objectives.LeaveOneOut()),
        estimators.coins,
        0,
        20_000,
    ),
    "value of the surrogate": bug(
        bounds.with_gradient_of,
        "value.detach() + (surrogate - surrogate.detach())",
        "surrogate",
        estimators.value_is_the_bound,
        objectives.score_function(),
        objectives.elbo_b,
        estimators.coins,
        1.0,
    ),
    "importance weights with a gradient": bug(
        wake_sleep.ReweightedWakeSleep._woken,
        "(log_p - log_q).detach()",
        "log_p - log_q",
        test_wake_sleep.test_both_gradients_are_sums_over_codes_and_dreams,
        wake_sleep.ReweightedWakeSleep,
        2,
    ),
    "wake codes from the prior": bug(
        wake_sleep.WakeSleep.terms,
        "draw_from(q, awake)",
        "draw_from(prior, awake)",
        test_wake_sleep.test_both_gradients_are_sums_over_codes_and_dreams,
        wake_sleep.WakeSleep,
        1,
    ),
    "dreams with a gradient": bug(
        wake_sleep.WakeSleep._slept,
        "Batch(x)",
        "Batch(self.model.likelihood(z).mean)",
        test_wake_sleep.test_each_side_learns_in_its_own_phase,
        wake_sleep.WakeSleep,
    ),
    "chains begun anew at each visit": bug(
        MonteCarloEM._walk,
        "chains.index_copy_(0, batch.rows, chain.z)",
        "pass",
        laws.chains_have_the_posterior,
    ),
    "volume of a constrained scale left out": bug(
        MonteCarloEM._log_density,
        "terms.objective + volume",
        "terms.objective",
        laws.chains_have_the_posterior,
    ),
}


@pytest.mark.parametrize("name", BUGS)
def test_a_planted_bug_is_caught(name, tmp_path_factory):
    caught(BUGS[name], tmp_path_factory)


def test_the_list_above_is_complete():
    lines = __doc__.splitlines()[2:]
    listed = [name for line in lines for name in re.split(r"\s{2,}", line.strip())]
    assert sorted(filter(None, listed)) == sorted(BUGS)

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

import math
import re
from contextlib import contextmanager

import laws
import numpy as np
import pytest
import test_divergences
import test_gradient_estimators as estimators
import test_wake_sleep
import test_zoo
import test_zoo_gradients as gradients
import torch
from torch.distributions import Categorical as TorchCategorical
from torch.distributions import Independent, Normal
from zoo.table import draws, summing

from aevb import data, distributions, families, model, objectives, portions
from aevb.algorithms import AEVB, MonteCarloEM, wake_sleep
from aevb.algorithms import gradient as learner_module
from aevb.data import dataset
from aevb.distributions import divergences, route
from aevb.evaluation import estimates
from aevb.families import observations
from aevb.objectives import Draw, Objective, Terms, bounds, pathwise, score
from aevb.posterior import Batch


def kl_as(change):
    """Replace KL by dimension wherever it enters a bound."""
    original = divergences.kl_by_dimension

    def plant(patch):
        for module in (divergences, bounds, laws):
            patch.setattr(module, "kl_by_dimension", lambda q, p: change(original, q, p))

    return plant


def attribute(owner, name, value):
    return lambda patch: patch.setattr(owner, name, value)


def standard(q):
    zero = torch.zeros(q.event_shape, dtype=q.mean.dtype)
    return Independent(Normal(zero, zero + 1), 1)


def averaged_kl(patch):
    original = Draw.closed_kl
    patch.setattr(Draw, "closed_kl", lambda d: original(d) / d.z.shape[-1])


def mean_over_pixels(patch):
    original = model.Model.log_likelihood
    patch.setattr(model.Model, "log_likelihood", lambda m, x, z: original(m, x, z) / x.shape[1])


def other_iwae(reduce):
    return attribute(objectives, "iwae", Objective("iwae", reduce))


def hard_coded_prior_in_weights(patch):
    def log_weights(d, temper=1.0):
        return d.log_likelihood + temper * (
            standard(d.posterior).log_prob(d.z) - d.posterior.log_prob(d.z)
        )

    patch.setattr(Draw, "log_weights", log_weights)


def first_noise_reused(patch):
    original = portions.Portions._noise
    patch.setattr(portions.Portions, "_noise", lambda own, m, t: original(own, m, 0))


def detached_encoder(patch):
    original = distributions.reparameterize

    def reparameterize(q, noise):
        base = q.base_dist
        return original(Independent(Normal(base.loc.detach(), base.scale.detach()), 1), noise)

    patch.setattr(bounds, "reparameterize", reparameterize)


def softmax_over_elements(patch):
    def forward(self, raw, batch_ndim):
        logits = torch.stack(observations.blocks(raw, batch_ndim, self.classes), dim=-1)
        logits = logits - logits.logsumexp(-2, keepdim=True)

        class Wrong(TorchCategorical):
            def log_prob(self, value):
                return logits.gather(-1, value[..., None].long())[..., 0]

        return observations.independent(Wrong(logits=logits, validate_args=False), batch_ndim)

    patch.setattr(observations.Categorical, "forward", forward)


def batch_averages_averaged(patch):
    original = learner_module.GradientLearner._loss

    def loss(self, parameters, buffers, batch, noise, temper):
        value, (terms, rest) = original(self, parameters, buffers, batch, noise, temper)
        return value, (Terms(*(t / len(batch.x) for t in terms)), rest)

    patch.setattr(learner_module.GradientLearner, "_loss", loss)


def chunk_averages_averaged(patch):
    original = estimates.bound_parts

    def bound_parts(m, q, rows, *, seed=0):
        chunk = estimates.CHUNK
        starts = range(0, len(rows), chunk)
        parts = [
            original(m, q, rows.pick(np.arange(s, min(s + chunk, len(rows)))), seed=seed)
            for s in starts
        ]
        return {k: float(np.mean([p[k] for p in parts])) for k in parts[0]}

    patch.setattr(laws, "bound_parts", bound_parts)


def samples_changed(by):
    def plant(patch):
        original = estimates.Pass.__call__

        def call(self, batch, keys):
            counts = self.counts
            self.counts = [k + by for k in counts]
            try:
                return original(self, batch, keys)
            finally:
                self.counts = counts

        patch.setattr(estimates.Pass, "__call__", call)

    return plant


@contextmanager
def without_evaluation_mode(*modules):
    with torch.no_grad():
        yield


def weight_prior_everywhere(patch):
    original = learner_module.log_weight_prior
    patch.setattr(
        learner_module,
        "log_weight_prior",
        lambda parameters: original({f"model.{k}": v for k, v in parameters.items()}),
    )


def unscaled_weight_prior(patch):
    original = learner_module.log_weight_prior
    patch.setattr(learner_module, "log_weight_prior", lambda parameters: 50 * original(parameters))


def beta_in_the_report(patch):
    original = AEVB.terms

    def terms(self, batch, noise, temper):
        found = original(self, batch, noise, temper)
        return found._replace(kl=temper * found.kl)

    patch.setattr(AEVB, "terms", terms)


def minimized(patch):
    original = learner_module.GradientLearner._loss

    def loss(self, *arguments):
        value, rest = original(self, *arguments)
        return -value, rest

    patch.setattr(learner_module.GradientLearner, "_loss", loss)


def all_rows_train(patch):
    original = dataset._parts

    def parts(source, seed):
        return original(source, seed) | {"train": np.arange(len(source.values))}

    patch.setattr(dataset, "_parts", parts)


def one_noise_for_all_rows(patch):
    original = estimates.by_row

    def by_row(seed, stream, keys, *rest, **options):
        return original(seed, stream, [0] * len(keys), *rest, **options)

    patch.setattr(estimates, "by_row", by_row)


def bits_drawn_once(patch):
    original = data.Rows.key
    patch.setattr(data.Rows, "key", lambda rows, step: original(rows, 0))


def of_the_zoo(law, *arguments):
    """A law of the table at one entry; what it keeps is forgotten before and after the bug."""

    def run():
        for kept in (draws, summing):
            kept.cache_clear()
        try:
            law(*arguments)
        finally:
            for kept in (draws, summing):
                kept.cache_clear()

    return run


def kl_of_numbers_reversed(patch):
    original = divergences._of_numbers
    patch.setattr(divergences, "_of_numbers", lambda q, p: original(p, q))


def own_sample_in_its_baseline(patch):
    form = score._FORMS["elbo_b"]
    own = form._replace(from_others=lambda f: f.mean(0).expand_as(f))
    patch.setitem(score._FORMS, "elbo_b", own)


def chains_begun_anew(patch):
    original = MonteCarloEM._walk

    def walk(self, state, batch, eps):
        before = state.extra["chains"].clone()
        found = original(self, state, batch, eps)
        state.extra["chains"].copy_(before)
        return found

    patch.setattr(MonteCarloEM, "_walk", walk)


def volume_left_out(patch):
    def log_density(self, state, batch):
        return lambda u: self.terms(batch, u[None], None).objective

    patch.setattr(MonteCarloEM, "_log_density", log_density)


def wrong_gumbel(own, value):
    y = (value - own.loc) / own.scale
    return y - torch.exp(-y) - own.scale.log()


def wake_codes_from_the_prior(patch):
    original = wake_sleep.draw_from

    def draw_from(p, noise):
        codes = p.batch_shape and p.event_shape == (1,)
        return (noise < 0.75).double() if codes else original(p, noise)

    patch.setattr(wake_sleep, "draw_from", draw_from)


def weights_with_a_gradient(patch):
    def woken(self, log_p, log_q):
        share = torch.softmax(log_p - log_q, 0)
        return (share * (log_p + log_q)).sum(0)

    patch.setattr(wake_sleep.ReweightedWakeSleep, "_woken", woken)


def dreams_with_a_gradient(patch):
    def slept(self, noise, prior):
        size = route(prior).noise.shape.numel()
        z = route(prior).transform(noise[..., :size])
        x = route(self.model.likelihood(z)).transform(noise[..., size:])
        return self.posterior(Batch(x)).log_prob(z)

    patch.setattr(wake_sleep.WakeSleep, "_slept", slept)


BUGS = {
    "chains begun anew at each visit": (chains_begun_anew, laws.chains_have_the_posterior),
    "volume of a constrained scale left out": (volume_left_out, laws.chains_have_the_posterior),
    "missing half of the divergence": (
        kl_as(lambda kl, q, p: 2 * kl(q, p)),
        laws.bounds_equal_the_numpy_derivation,
    ),
    "divergence averaged over dimensions": (averaged_kl, laws.bounds_equal_the_numpy_derivation),
    "divergence dropped": (
        attribute(Draw, "closed_kl", lambda d: d.z.new_zeros(d.z.shape[1])),
        laws.bounds_equal_the_numpy_derivation,
    ),
    "divergence with the wrong sign": (
        kl_as(lambda kl, q, p: -kl(q, p)),
        laws.divergence_equals_quadrature,
    ),
    "divergence the wrong way round": (
        kl_as(lambda kl, q, p: kl(p, q)),
        laws.divergence_equals_quadrature,
    ),
    "log-variance taken for the deviation": (
        attribute(families.Normal, "_scale", lambda self, v: torch.exp(v)),
        laws.bounds_equal_the_numpy_derivation,
    ),
    "likelihood averaged over pixels": (mean_over_pixels, laws.bounds_equal_the_numpy_derivation),
    "log-sum-exp over data, not samples": (
        other_iwae(
            lambda d, t: (
                d.log_weights(t).logsumexp(1).mean().expand(d.z.shape[1]) - math.log(d.z.shape[1])
            )
        ),
        laws.bounds_equal_the_numpy_derivation,
    ),
    "log K forgotten": (
        other_iwae(lambda d, t: d.log_weights(t).logsumexp(0)),
        laws.bounds_equal_the_numpy_derivation,
    ),
    "importance weights of minus the bound": (
        other_iwae(lambda d, t: ((-d.log_weights(t)).softmax(0) * d.log_weights(t)).sum(0)),
        laws.bounds_equal_the_numpy_derivation,
    ),
    "prior hard-coded in the weights": (
        hard_coded_prior_in_weights,
        laws.the_prior_of_the_model_is_used,
    ),
    "prior hard-coded in the divergence": (
        kl_as(lambda kl, q, p: kl(q, standard(q))),
        laws.the_prior_of_the_model_is_used,
    ),
    "noise not used": (
        attribute(bounds, "reparameterize", lambda q, eps: q.mean + 0 * eps),
        laws.noise_is_fresh_and_used,
    ),
    "noise of the first step reused": (first_noise_reused, laws.noise_is_fresh_and_used),
    "draws without gradient": (
        attribute(
            bounds,
            "reparameterize",
            lambda q, eps: distributions.reparameterize(q, eps).detach(),
        ),
        laws.gradients_equal_finite_differences,
    ),
    "encoder without gradient": (detached_encoder, laws.gradients_equal_finite_differences),
    "softmax over the wrong axis": (
        softmax_over_elements,
        laws.categorical_normalizes_over_classes,
    ),
    "batch averages averaged": (
        batch_averages_averaged,
        laws.training_metrics_weigh_every_datum_alike,
    ),
    "chunk averages averaged": (chunk_averages_averaged, laws.evaluation_weighs_every_datum_alike),
    "one sample too few": (
        samples_changed(-1),
        laws.evaluation_takes_exactly_the_samples_asked_for,
    ),
    "one sample too many in the mean": (
        samples_changed(1),
        laws.evaluation_takes_exactly_the_samples_asked_for,
    ),
    "train-mode layers at evaluation": (
        attribute(estimates, "evaluating", without_evaluation_mode),
        laws.layers_are_in_evaluation_mode_when_evaluating,
    ),
    "weight prior not divided by N": (
        unscaled_weight_prior,
        laws.weight_prior_is_scaled_by_the_number_of_data,
    ),
    "weight prior on the encoder too": (
        weight_prior_everywhere,
        laws.weight_prior_is_scaled_by_the_number_of_data,
    ),
    "beta ignored": (
        attribute(
            objectives, "elbo_b", Objective("elbo_b", lambda d, t: d.reconstruction() - d.kl())
        ),
        laws.beta_scales_the_divergence_in_the_objective,
    ),
    "beta in the reported bound": (
        beta_in_the_report,
        laws.reported_bound_is_the_bound_whatever_the_objective,
    ),
    "objective minimized": (minimized, laws.training_raises_the_bound),
    "test rows in training": (all_rows_train, laws.test_rows_never_reach_training),
    "binarization drawn once, called fresh": (
        bits_drawn_once,
        laws.dynamic_binarization_is_fresh_each_epoch_and_unbiased,
    ),
    "the same row noise for all data": (
        one_noise_for_all_rows,
        laws.evaluation_takes_exactly_the_samples_asked_for,
    ),
    "sign in a density": (
        attribute(distributions.Gumbel, "log_prob", wrong_gumbel),
        of_the_zoo(test_zoo.test_integrates_to_one, "gumbel"),
    ),
    "factor in a draw": (
        attribute(
            distributions.Rayleigh, "transform", lambda q, u: 1.03 * q.scale * (-2 * u.log()).sqrt()
        ),
        of_the_zoo(test_zoo.test_draws_follow_the_density, "rayleigh", "sample"),
    ),
    "scale without gradient": (
        attribute(
            distributions.Logistic,
            "transform",
            lambda q, u: q.loc + q.scale.detach() * torch.logit(u),
        ),
        of_the_zoo(gradients.test_the_path_gives_the_derivative_of_the_integral, "logistic"),
    ),
    "closed form the wrong way round": (
        kl_of_numbers_reversed,
        of_the_zoo(test_divergences.test_divergences_of_numbers_equal_quadrature, "gamma"),
    ),
    "log q not held on the path": (
        attribute(pathwise, "held", lambda at: at.q),
        lambda: estimators.no_noise_at_the_exact_posterior(objectives.path_derivative()),
    ),
    "weights of the path not squared": (
        attribute(pathwise, "_scaled", lambda z, factor: z),
        lambda: estimators.mean_is_the_gradient(
            objectives.doubly_reparameterized, estimators.line, samples=2, n=20_000
        ),
    ),
    "own sample in its baseline": (
        own_sample_in_its_baseline,
        lambda: estimators.mean_is_the_gradient(
            objectives.score_function(baseline=objectives.LeaveOneOut()),
            estimators.coins,
            n=20_000,
        ),
    ),
    "value of the surrogate": (
        attribute(score, "with_gradient_of", lambda value, surrogate: surrogate),
        lambda: estimators.value_is_the_bound(
            objectives.score_function(), objectives.elbo_b, estimators.coins, 1.0
        ),
    ),
    "importance weights with a gradient": (
        weights_with_a_gradient,
        lambda: test_wake_sleep.test_both_gradients_are_sums_over_codes_and_dreams(
            wake_sleep.ReweightedWakeSleep, 2
        ),
    ),
    "wake codes from the prior": (
        wake_codes_from_the_prior,
        lambda: test_wake_sleep.test_both_gradients_are_sums_over_codes_and_dreams(
            wake_sleep.WakeSleep, 1
        ),
    ),
    "dreams with a gradient": (
        dreams_with_a_gradient,
        lambda: test_wake_sleep.test_each_side_learns_in_its_own_phase(wake_sleep.WakeSleep),
    ),
}


@pytest.mark.parametrize("name", BUGS)
def test_planted_bug_is_caught(name, monkeypatch):
    plant, law = BUGS[name]
    plant(monkeypatch)
    with pytest.raises(AssertionError):
        law()


def test_the_list_above_is_complete():
    lines = __doc__.splitlines()[2:]
    listed = [name for line in lines for name in re.split(r"\s{2,}", line.strip())]
    assert sorted(filter(None, listed)) == sorted(BUGS)
    assert len(BUGS) >= 20

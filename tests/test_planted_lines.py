"""Bugs of one line, planted one at a time where the function is defined, each with its law."""

import __future__

import inspect
import textwrap
from contextlib import contextmanager

import pytest
import test_annealing
import test_combinators
import test_distributions
import test_divergences
import test_em
import test_estimation
import test_evaluation
import test_families
import test_flows
import test_information
import test_latents
import test_mcmc
import test_mean_field_mixture
import test_observed
import test_semi_supervised
import test_zoo
import test_zoo_gradients
from torch.autograd.gradcheck import GradcheckError
from zoo.table import draws, summing

from aevb import mcmc
from aevb.algorithms import em, mean_field, semi_supervised
from aevb.distributions import (
    bounded,
    by_scipy,
    chain,
    combinators,
    composition,
    continuous_bernoulli,
    dirichlet,
    discrete,
    elliptical,
    expectations,
    observations,
    series,
    sphere,
)
from aevb.evaluation import annealing, certificate, chunks, diagnosis, estimation, information
from aevb.families import observations as family_observations
from aevb.flows import affine, distribution, orthogonal


@contextmanager
def plant(function, old, new):
    """One function in which `old`, which must stand there exactly once, is `new`."""
    path = inspect.getsourcefile(function)
    assert path is not None
    text = textwrap.dedent(inspect.getsource(function))
    assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times"
    flags = __future__.annotations.compiler_flag
    space: dict = {}
    code = compile(text.replace(old, new), path, "exec", flags)
    exec(code, function.__globals__, space)
    before, made = function.__code__, inspect.unwrap(space[function.__name__])
    assert made.__code__.co_freevars == before.co_freevars
    function.__code__ = made.__code__
    try:
        yield
    finally:
        function.__code__ = before


def obey(law, arguments):
    for kept in (draws, summing):
        kept.cache_clear()
    law(*arguments)


BUGS = [
    (
        by_scipy._StudentQuantile.backward,
        "-by_u * _student_slope",
        "by_u * _student_slope",
        test_zoo_gradients.test_gradient_of_the_distribution_function_and_its_inverse,
        ("student-t", "icdf", None),
    ),
    (
        expectations.of,
        "formula is None",
        "formula is None or len(at) == 1",
        test_divergences.test_divergences_of_numbers_equal_quadrature,
        ("log-normal",),
    ),
    (
        bounded.Kumaraswamy._log_prob,
        "(b - 1) * self._log_rest(x)",
        "b * self._log_rest(x)",
        test_zoo.test_integrates_to_one,
        ("kumaraswamy",),
    ),
    (
        composition.LogNormal._log_prob,
        "self.scale) - y",
        "self.scale)",
        test_zoo.test_integrates_to_one,
        ("log-normal",),
    ),
    (
        discrete.RelaxedBernoulli._log_prob,
        "d = self.logits - self.temperature * _logit(z)",
        "d = self.logits - _logit(z)",
        test_zoo.test_integrates_to_one,
        ("relaxed-bernoulli",),
    ),
    (
        dirichlet.entropy,
        "((a - 1) * differences)",
        "(a * differences)",
        test_zoo.test_moments_equal_scipy,
        ("dirichlet", "entropy"),
    ),
    (
        elliptical.Elliptical._mean_square,
        "return square / self.loc.shape[-1]",
        "return square",
        test_zoo.test_moments_equal_scipy,
        ("elliptical-gaussian", "variance"),
    ),
    (
        expectations._gamma_log_moments,
        "digamma(c) - rate.log()",
        "digamma(c) + rate.log()",
        test_divergences.test_divergences_of_numbers_equal_quadrature,
        ("gamma",),
    ),
    (
        observations.NegativeBinomial.cdf,
        "self._positive_count, n + 1,",
        "self._positive_count, n,",
        test_zoo.test_distribution_function_of_atoms_equals_scipy_and_the_sum,
        ("negative-binomial",),
    ),
    (
        series.lgamma_half_step,
        "torch.lgamma(a + 0.5) - torch.lgamma(a)",
        "torch.lgamma(a) - torch.lgamma(a + 0.5)",
        test_zoo.test_integrates_to_one,
        ("student-t",),
    ),
    (
        sphere.VonMisesFisher._log_prob,
        "(height - 1)",
        "(height + 1)",
        test_zoo.test_integrates_to_one,
        ("von-mises-fisher",),
    ),
    (
        combinators.Mixture.transform,
        "moved: Tensor = z - (u",
        "moved: Tensor = z + (u",
        test_observed.test_mean_of_a_mixture_has_the_derivative_of_its_formula,
        ("inverse functions",),
    ),
    (
        chain.Chain.transform,
        "total = total + q.log_prob(parts[-1])",
        "total = q.log_prob(parts[-1])",
        test_latents.test_a_chain_draws_its_parts_one_after_the_other_and_remembers_the_density,
        (),
    ),
    (
        continuous_bernoulli.log_normalizer,
        "horner(NORMALIZER, square)",
        "horner(NORMALIZER, -square)",
        test_distributions.test_continuous_bernoulli_normalizer_is_exact,
        (0.001,),
    ),
    (
        family_observations.Bernoulli.encode_marginals,
        "(len(x) + 1))",
        "(2 * len(x) + 1))",
        test_families.test_the_marginal_start_is_the_law_of_each_column,
        ("bernoulli",),
    ),
    (
        affine.CouplingMap.inverse,
        "(other - m) * (-a).exp()",
        "(other - m) * a.exp()",
        test_flows.test_inverse_and_jacobian,
        ("coupling", 2),
    ),
    (
        affine.CouplingMap.forward,
        "other * a.exp() + m), a.sum(-1)",
        "other * a.exp() + m), -a.sum(-1)",
        test_flows.test_inverse_and_jacobian,
        ("coupling", 2),
    ),
    (
        distribution.FlowDistribution.transform,
        "log_q = log_q - log_det",
        "log_q = log_q + log_det",
        test_flows.test_what_is_remembered_equals_what_the_inverse_gives,
        ("planar",),
    ),
    (
        orthogonal._reflect,
        "x - 2 * v *",
        "x - v *",
        test_flows.test_inverse_and_jacobian,
        ("householder", 1),
    ),
    (
        em.responsibilities,
        "(shares * log_ratio).sum(-1)",
        "-(shares * log_ratio).sum(-1)",
        test_em.test_the_parts_of_the_bound_are_the_posteriors,
        (),
    ),
    (
        mean_field.divergence,
        "(ratio - 1 - ratio.log())",
        "(ratio - 1 + ratio.log())",
        test_mean_field_mixture.test_the_divergence_is_the_mean_of_draws,
        (),
    ),
    (
        semi_supervised.SemiSupervised.terms,
        "self.classification * self._log_q",
        "-self.classification * self._log_q",
        test_semi_supervised.test_the_classification_term_is_the_mean_over_labeled_rows,
        (),
    ),
    (
        mcmc.DualAveraging.step,
        "math.sqrt(t) / 0.1 * shortfall",
        "-math.sqrt(t) / 0.1 * shortfall",
        test_mcmc.test_the_step_size_finds_its_target,
        (0.6, 0.01),
    ),
    (
        certificate.monte_carlo_error,
        "np.sqrt(np.square(errors).sum()) / len(errors)",
        "np.sqrt(np.square(errors).mean())",
        test_evaluation.test_certificate_is_plain_statistics,
        (),
    ),
    (
        certificate.standard_error,
        "values.std(ddof=1)",
        "values.std()",
        test_evaluation.test_certificate_is_plain_statistics,
        (),
    ),
    (
        chunks.by_chunks,
        "observed / len(rows)",
        "rows.width",
        test_combinators.test_bits_per_dimension_count_what_was_observed,
        (),
    ),
    (
        diagnosis.diagnose,
        "code = center(q)",
        "code = q.sample()",
        test_evaluation.test_active_units_and_divergence_by_dimension,
        (),
    ),
    (
        estimation.Estimates.sandwiches,
        "best = max(lower,",
        "best = min(lower,",
        test_estimation.test_a_sandwich_takes_the_best_of_each_side,
        (),
    ),
    (
        information.log_aggregate,
        "logsumexp(1) - math.log(q.batch_shape[0])",
        "logsumexp(1)",
        test_information.test_the_aggregate_is_the_mixture_by_hand,
        (),
    ),
    (
        annealing.Annealing.schedule,
        "s = 1 / (1 + np.exp(-STEEPNESS * t))",
        "s = t",
        test_annealing.test_the_schedule_goes_from_start_to_end_and_is_dense_at_both,
        (),
    ),
]


@pytest.mark.parametrize(("function", "old", "new", "law", "arguments"), BUGS)
def test_a_planted_line_is_caught(function, old, new, law, arguments):
    obey(law, arguments)
    try:
        with plant(function, old, new), pytest.raises((AssertionError, ValueError, GradcheckError)):
            obey(law, arguments)
    finally:
        for kept in (draws, summing):
            kept.cache_clear()

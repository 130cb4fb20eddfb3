"""Bugs of one line in distributions, families and flows, each with its law."""

import pytest
import test_combinators
import test_distributions
import test_divergences
import test_families
import test_flows
import test_latents
import test_observed
import test_zoo
import test_zoo_gradients
from plants import bug, caught, named
from torch.autograd.gradcheck import GradcheckError

from aevb.distributions import (
    bounded,
    by_scipy,
    chain,
    combinators,
    composition,
    continuous_bernoulli,
    cross_entropies,
    dirichlet,
    discrete,
    elliptical,
    expectations,
    location_scale,
    observations,
    quadrature,
    series,
    special,
    sphere,
)
from aevb.families import combinators as family_combinators
from aevb.families import counts, family, levels, vectors
from aevb.families import observations as family_observations
from aevb.flows import affine, distribution, orthogonal, planar, scalar

BUGS = [
    bug(
        by_scipy._StudentQuantile.backward,
        "-by_u * _student_slope",
        "by_u * _student_slope",
        test_zoo_gradients.test_gradient_of_the_distribution_function_and_its_inverse,
        "student-t",
        "icdf",
        None,
        by=GradcheckError,
    ),
    bug(
        expectations.of,
        "formula is None",
        "formula is None or len(at) == 1",
        test_divergences.test_divergences_of_numbers_equal_quadrature,
        "log-normal",
    ),
    bug(
        bounded.Kumaraswamy._log_prob,
        "(b - 1) * self._log_rest(x)",
        "b * self._log_rest(x)",
        test_zoo.test_integrates_to_one,
        "kumaraswamy",
    ),
    bug(
        composition.LogNormal._log_prob,
        "self.scale) - y",
        "self.scale)",
        test_zoo.test_integrates_to_one,
        "log-normal",
    ),
    bug(
        discrete.RelaxedBernoulli._log_prob,
        "d = self.logits - self.temperature * logit(z)",
        "d = self.logits - logit(z)",
        test_zoo.test_integrates_to_one,
        "relaxed-bernoulli",
    ),
    bug(
        dirichlet.entropy,
        "((a - 1) * differences)",
        "(a * differences)",
        test_zoo.test_moments_equal_scipy_and_the_integral,
        "dirichlet",
        "entropy",
    ),
    bug(
        elliptical.Elliptical._mean_square,
        "return square / self.loc.shape[-1]",
        "return square",
        test_zoo.test_moments_are_those_of_the_draws,
        "elliptical-gaussian",
        "variance",
    ),
    bug(
        expectations._gamma_log_moments,
        "digamma(c) - rate.log()",
        "digamma(c) + rate.log()",
        test_divergences.test_divergences_of_numbers_equal_quadrature,
        "gamma",
    ),
    bug(
        observations.NegativeBinomial.cdf,
        "self._positive_count, n + 1,",
        "self._positive_count, n,",
        test_zoo.test_distribution_function_of_atoms_equals_scipy_and_the_sum,
        "negative-binomial",
    ),
    bug(
        series.lgamma_half_step,
        "torch.lgamma(a + 0.5) - torch.lgamma(a)",
        "torch.lgamma(a) - torch.lgamma(a + 0.5)",
        test_zoo.test_integrates_to_one,
        "student-t",
    ),
    bug(
        sphere.VonMisesFisher._log_prob,
        "(height - 1)",
        "(height + 1)",
        test_zoo.test_integrates_to_one,
        "von-mises-fisher",
    ),
    bug(
        combinators.Mixture.transform,
        "moved: Tensor = z - (u",
        "moved: Tensor = z + (u",
        test_observed.test_mean_of_a_mixture_has_the_derivative_of_its_formula,
        "inverse functions",
    ),
    bug(
        chain.Chain.transform,
        "total = total + q.log_prob(parts[-1])",
        "total = q.log_prob(parts[-1])",
        test_latents.test_a_chain_draws_its_parts_one_after_the_other_and_remembers_the_density,
    ),
    bug(
        continuous_bernoulli.log_normalizer,
        "horner(NORMALIZER, square)",
        "horner(NORMALIZER, -square)",
        test_distributions.test_continuous_bernoulli_normalizer_is_exact,
        0.001,
    ),
    bug(
        family_observations.Bernoulli.encode_marginals,
        "(len(x) + 1))",
        "(2 * len(x) + 1))",
        test_families.test_the_marginal_start_is_the_law_of_each_column,
        "bernoulli",
    ),
    bug(
        affine.CouplingMap.inverse,
        "(other - m) * (-a).exp()",
        "(other - m) * a.exp()",
        test_flows.test_inverse_and_jacobian,
        "coupling",
        2,
    ),
    bug(
        affine.CouplingMap.forward,
        "other * a.exp() + m), a.sum(-1)",
        "other * a.exp() + m), -a.sum(-1)",
        test_flows.test_inverse_and_jacobian,
        "coupling",
        2,
    ),
    bug(
        distribution.FlowDistribution.transform,
        "log_q = log_q - log_det",
        "log_q = log_q + log_det",
        test_flows.test_what_is_remembered_equals_what_the_inverse_gives,
        "planar",
    ),
    bug(
        planar.PlanarMap.inverse,
        "log_slope(gain, at)",
        "0 * log_slope(gain, at)",
        test_flows.test_the_density_integrates_to_one_and_draws_follow_it,
        "planar",
    ),
    bug(
        orthogonal._reflect,
        "x - 2 * v *",
        "x - v *",
        test_flows.test_inverse_and_jacobian,
        "householder",
        1,
    ),
    bug(
        cross_entropies._exponential,
        "- p.rate * _mean(q)",
        "+ p.rate * _mean(q)",
        test_divergences.test_divergences_of_numbers_equal_quadrature,
        "half-normal",
    ),
    bug(
        quadrature.reach,
        "* (end - start)",
        "* end",
        test_zoo.test_moments_equal_scipy_and_the_integral,
        "von-mises-fisher",
        "mean",
    ),
    bug(
        special.stirling,
        "horner(_STIRLING, large**-2)",
        "horner(_STIRLING, -(large**-2))",
        test_zoo.test_log_density_equals_scipy,
        "erlang-20",
    ),
    bug(
        levels.DiscretizedLogistic._levels,
        "torch.exp(log_scale.clamp(-7, 7)) / 4",
        "torch.exp(log_scale.clamp(-7, 7))",
        test_families.test_the_parameters_are_those_of_the_formula,
        "levels",
        1.0,
    ),
    bug(
        vectors.LowRankMultivariateNormal.forward,
        "scale.unsqueeze(-1) * torch.stack",
        "torch.stack",
        test_families.test_the_parameters_are_those_of_the_formula,
        "low-rank",
        1.0,
    ),
    bug(
        counts._count_and_logits,
        "log_mean - log_count",
        "log_mean + log_count",
        test_families.test_the_parameters_are_those_of_the_formula,
        "negative-binomial",
        1.0,
    ),
    bug(
        family_combinators.Columns.inside,
        "[..., self._position]",
        "",
        test_combinators.test_a_wrong_cell_is_named_with_its_own_family,
    ),
    bug(
        family.Family.check,
        "row = int((~flat).any(1).int().argmax())",
        "row = int((~flat).any(1).int().argmin())",
        test_families.test_wrong_domain_names_the_first_cell,
        "poisson",
    ),
    bug(
        planar.RadialMap.forward,
        "stretch.unsqueeze(-1), log_det",
        "stretch.unsqueeze(-1), 0 * log_det",
        test_flows.test_inverse_and_jacobian,
        "radial",
        2,
    ),
    bug(
        scalar.bisect,
        "torch.where(over, low, middle), torch.where(over, middle, high)",
        "torch.where(over, middle, low), torch.where(over, high, middle)",
        test_flows.test_the_root_of_a_rising_function.hypothesis.inner_test,
        2.0,
        3.0,
        0.5,
        1.0,
    ),
    bug(
        location_scale.Triangular.variance,
        "a * b",
        "2 * a * b",
        test_zoo.test_moments_equal_scipy_and_the_integral,
        "triangular",
        "variance",
    ),
    bug(
        location_scale.StudentT._log_prob,
        "- self.scale.log()",
        "+ self.scale.log()",
        test_zoo.test_integrates_to_one,
        "student-t",
    ),
]


@pytest.mark.parametrize("one", BUGS, ids=named)
def test_a_planted_line_is_caught(one, tmp_path_factory):
    caught(one, tmp_path_factory)

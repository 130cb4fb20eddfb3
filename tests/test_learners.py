"""Every way to climb the bound reaches the posterior of a conjugate model, which is known."""

import pytest
import torch
from test_wake_sleep import beta_bernoulli, gamma_poisson, learn

import aevb
from aevb.distributions import kl
from aevb.objectives import LeaveOneOut, doubly_reparameterized, path_derivative, score_function
from aevb.refinement import Refined

DOUBLE = torch.float64
OBJECTIVES = {
    "estimator A": aevb.elbo_a,
    "estimator B": aevb.elbo_b,
    "importance weighted": aevb.iwae,
    "score function": score_function(aevb.elbo_b, LeaveOneOut()),
    "path derivative": path_derivative(aevb.elbo_a),
    "doubly reparameterized": doubly_reparameterized,
}


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("conjugate", [beta_bernoulli, gamma_poisson])
def test_encoders_reach_the_posterior_of_conjugate_models(conjugate, name):
    prior, likelihood, posterior, x, truth = conjugate()
    model, posterior = aevb.Model(prior, likelihood).to(DOUBLE), posterior.to(DOUBLE)
    before = kl(posterior(x).base_dist, truth).mean()
    learner = aevb.AEVB(model, posterior, OBJECTIVES[name], optimizer=aevb.Adam(0.1))
    learn(learner, x, 200, 2, batch=60)
    after = kl(posterior(x).base_dist, truth)
    assert before > 0.1
    assert after.mean() < 0.01


@pytest.mark.parametrize("conjugate", [beta_bernoulli, gamma_poisson])
def test_an_encoder_that_was_never_taught_is_refined_to_it(conjugate):
    prior, likelihood, posterior, x, truth = conjugate()
    model, posterior = aevb.Model(prior, likelihood).to(DOUBLE), posterior.to(DOUBLE)
    refined = Refined(posterior, model, steps=60).to(DOUBLE)
    with torch.no_grad():
        before, after = (kl(q(x).base_dist, truth).mean() for q in (posterior, refined))
    assert after < 0.1 * before

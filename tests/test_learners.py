"""Laws of the tables: objectives reach a posterior that is known, algorithms resume."""

import pytest
import torch
from test_wake_sleep import beta_bernoulli, gamma_poisson, learn

import aevb
from aevb.distributions import kl
from aevb.following import Callback
from aevb.objectives import LeaveOneOut, doubly_reparameterized, path_derivative, score_function
from aevb.refinement import Refined
from aevb.settings import check_settings
from aevb.storage import RunFolder, gradients
from aevb.storage.learners import ALGORITHMS
from aevb.storage.weights import WEIGHTS
from aevb.workflow.training import fit, settle

DOUBLE = torch.float64
OBJECTIVES = {
    **gradients.OBJECTIVES,
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


class Stopped(Callback):
    """Ends a run after its first epoch, as a full disk would."""

    def epoch(self, record):
        raise RuntimeError("stopped")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_an_algorithm_resumes_to_the_same_bytes(tmp_path, algorithm):
    own = {"em": {"covariance": "spherical"}, "reweighted-wake-sleep": {"samples": 2}}
    asked = check_settings(
        {"algorithm": algorithm, "latent_dim": 2, "hidden": (4,), "epochs": 2, "data_limit": 60}
        | {"threads": 1, "step": "eager", **own.get(algorithm, {"batch_size": 20})}
    )
    whole, parts = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "parts")
    with whole.locked():
        fit(whole, settle(whole, asked, (), resume=False, force=False)[0], resume=False)
    settings, _ = settle(parts, asked, (), resume=False, force=False)
    with parts.locked(), pytest.raises(RuntimeError, match="stopped"):
        fit(parts, settings, resume=False, callbacks=[Stopped()])
    with parts.locked():
        settings, resuming = settle(parts, asked, (), resume=True, force=False)
        fit(parts, settings, resume=resuming)
    assert (whole.path / WEIGHTS).read_bytes() == (parts.path / WEIGHTS).read_bytes()
    assert whole.load()[0].prior().event_shape == (2,)

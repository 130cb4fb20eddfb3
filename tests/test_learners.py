"""Laws of the tables: learners reach answers that are known, algorithms resume."""

from functools import partial

import numpy as np
import pytest
import torch
from helpers import binary_rows, needs_compiler
from zoo.known import beta_bernoulli, gamma_poisson
from zoo.learners import LEARNERS, learn

import aevb
from aevb import families
from aevb.algorithms import EM, GeneralizedEM, MeanField
from aevb.compilation import Compiled
from aevb.conditional import Conditional
from aevb.distributions import kl
from aevb.following import Callback
from aevb.linear_gaussian import as_linear_gaussian, maximum_likelihood
from aevb.objectives import LeaveOneOut, doubly_reparameterized, path_derivative, score_function
from aevb.posterior import Batch
from aevb.randomness import Stream, generator
from aevb.refinement import Refined
from aevb.settings import check_settings
from aevb.storage import RunFolder, gradients
from aevb.storage.learners import ALGORITHMS
from aevb.storage.weights import WEIGHTS
from aevb.workflow import training
from aevb.workflow.training import fit, settle

DOUBLE = torch.float64
OBJECTIVES = {
    **gradients.OBJECTIVES,
    "score function": score_function(aevb.elbo_b, LeaveOneOut()),
    "path derivative": path_derivative(aevb.elbo_a),
    "doubly reparameterized": doubly_reparameterized,
}


TAUGHT = {
    **{name: partial(aevb.AEVB, objective=objective) for name, objective in OBJECTIVES.items()},
    "wake-sleep": aevb.WakeSleep,
    "reweighted wake-sleep": aevb.ReweightedWakeSleep,
}


def but_slow(table, *dear):
    """The names of a table, those that are dear among the slow tests."""
    return [pytest.param(k, marks=pytest.mark.slow) if k in dear else k for k in table]


@pytest.mark.parametrize("name", but_slow(TAUGHT, "reweighted wake-sleep"))
@pytest.mark.parametrize("conjugate", [beta_bernoulli, gamma_poisson])
def test_encoders_reach_the_posterior_of_conjugate_models(conjugate, name):
    prior, likelihood, posterior, x, truth = conjugate()
    model, posterior = aevb.Model(prior, likelihood).to(DOUBLE), posterior.to(DOUBLE)
    before = kl(posterior(x).base_dist, truth).mean()
    learn(TAUGHT[name](model, posterior, optimizer=aevb.Adam(0.1)), x, 140, 2, batch=100)
    after = kl(posterior(x).base_dist, truth)
    assert before > 0.1
    assert after.mean() < 0.01


LINEAR = {  # the learner; the latent dimensions, the shape of the noise, the steps
    "elbo_b": (1, (), 500),
    "elbo_b, full covariance": (2, (), 500),
    "elbo_b, noise by column": (1, (3,), 1500),
    "wake-sleep": (1, (), 1500),
    "reweighted wake-sleep": (1, (), 800),
    "reweighted wake-sleep, noise by column": (1, (3,), 800),
}


@pytest.mark.parametrize("name", LINEAR)
def test_linear_gaussian_models_reach_the_maximum_of_the_likelihood(name):
    """And their encoders the exact posterior: within 0.01 and 0.02 nats."""
    latent, noise_shape, steps = LINEAR[name]
    source = np.random.default_rng(2)
    rows = source.normal(size=(400, 1)) @ [[1.5, -1.0, 0.5]] + 0.5 * source.normal(size=(400, 3))
    x = torch.from_numpy(rows)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        decoder, family = aevb.MLP(latent, [], 3), families.Normal(noise_shape=noise_shape)
        model = aevb.Model(aevb.standard_normal(latent), Conditional(decoder, family))
        family = aevb.full_covariance if "full" in name else aevb.mean_field
        encoder = aevb.MLP(3, [], latent * (latent + 3) // 2)
        # Else some rows begin at precisions whose first slopes Adam remembers for a thousand steps.
        torch.nn.init.zeros_(encoder.head.weight[latent:])
        posterior = family(encoder)
    algorithm = TAUGHT.get(name.split(",")[0], aevb.AEVB)
    learner = algorithm(model.to(DOUBLE), posterior.to(DOUBLE), optimizer=aevb.Adam(0.03))
    learn(learner, x, steps, 5)
    best = maximum_likelihood(rows, latent, noise_shape).log_prob(x).mean()
    reached = as_linear_gaussian(model).log_prob(x).mean()
    assert best - 0.01 < reached <= best + 1e-9
    noise = torch.from_numpy(source.normal(size=(200, 400, latent)))
    with torch.no_grad():
        bound = aevb.elbo_a(model, posterior, x, noise).mean()
    assert -0.005 < reached - bound < 0.02


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
        {"algorithm": algorithm, "latent_dim": 2, "epochs": 2, "data_limit": 60}
        | {"threads": 1, "step": "eager", **own.get(algorithm, {"batch_size": 20, "hidden": (4,)})}
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


SMALL = {"latent_dim": 2, "hidden": (4,)}
ASKED = {"weight_prior": "normal", "precision": "bfloat16", "step": "compiled", "samples": 3}
TAKEN = {"weight_prior_rows": 48, "precision": "bfloat16", "compiled": True}
PLAIN = {"weight_prior_rows": None, "precision": "float32", "compiled": False}
ASKED |= {"clip": 2.0, "optimizer": "sgd", "lr": 0.05, "objective": "iwae"}
TAKEN |= {"optimizer": aevb.SGD(0.05, clip=2.0), "objective": aevb.iwae}
PLAIN |= {"optimizer": aevb.Adam()}
SAID = {  # the settings, and what a learner by gradients has of them
    "plain": ({"precision": "float32", "step": "eager"}, PLAIN),
    "asked": (ASKED, TAKEN),
}
ONE, MAP = {"algorithm": "em", "latent_dim": 2}, {"weight_prior": "normal"}
EXACT = {
    "em": (ONE, EM, {}),
    "em, a prior": (ONE | MAP, GeneralizedEM, {"weight_prior": True}),
    "mean-field": ({"algorithm": "mean-field", "components": 2}, MeanField, {}),
}


class Begun(Exception):
    """Holds the learner that a run was to be trained by."""


def begun(path, monkeypatch, asked):
    def train(algorithm, *_, **__):
        raise Begun(algorithm)

    monkeypatch.setattr(training, "train", train)
    table, run = path / "rows.csv", RunFolder(path / "run")
    np.savetxt(table, np.random.default_rng(0).normal(size=(60, 5)), delimiter=",")
    asked = {"data": str(table), "threads": 1} | asked
    with run.locked(), pytest.raises(Begun) as caught:
        fit(run, check_settings(asked), resume=False)
    return caught.value.args[0]


@pytest.mark.parametrize("said", SAID)
@pytest.mark.parametrize("algorithm", [name for name in ALGORITHMS if name != "em"])
def test_a_run_is_trained_by_what_its_settings_say(tmp_path, monkeypatch, algorithm, said):
    """By the number of rows that train, 48 of 60, too."""
    asked, taken = SAID[said]
    of_its_own = {"full-bayes": {"weight_prior", "weight_prior_rows"}}
    useless = of_its_own.get(algorithm, {"objective"} if algorithm in gradients.OWN else set())
    asked, taken = ({k: v for k, v in d.items() if k not in useless} for d in (asked, taken))
    weighing = {"samples": 3} if algorithm == "reweighted-wake-sleep" else {}
    asked = {"algorithm": algorithm, **SMALL, **asked, **weighing}
    learner = begun(tmp_path, monkeypatch, asked)
    taken = taken | ({"weight_prior_rows": 48} if algorithm == "full-bayes" else {})
    assert {name: getattr(learner, name) for name in taken} == taken


@pytest.mark.parametrize("name", EXACT)
def test_a_run_of_an_exact_posterior_is_trained_by_all_its_rows(tmp_path, monkeypatch, name):
    asked, kind, taken = EXACT[name]
    learner = begun(tmp_path, monkeypatch, asked)
    assert type(learner) is kind
    assert {name: getattr(learner, name) for name in ("rows", *taken)} == {"rows": 48, **taken}


def moved(learner, entry, steps):
    """The learner's state after some steps, with draws of torch's that are the same each time."""
    x = binary_rows(entry.rows, entry.width).all().to(entry.dtype)
    state = learner.init()
    with torch.random.fork_rng(devices=[]):
        for t in range(steps):
            torch.manual_seed(t)
            positions = torch.from_numpy(np.random.default_rng(t).permutation(len(x))[:10])
            batch = Batch(x[positions], positions)
            noise = learner.noise(batch).draw(generator(0, Stream.NOISE, t), (2, 10), entry.dtype)
            # only a bound weighs its divergence
            weight = {"temper": min(1.0, t / 5)} if type(learner) is aevb.AEVB else {}
            learner.step(state, batch, noise, rate_factor=1 - t / steps, **weight)
    return state


@pytest.mark.parametrize("name", LEARNERS)
def test_the_modules_themselves_are_moved_and_frozen_ones_are_not(name):
    learner = LEARNERS[name].make()
    modules = torch.nn.ModuleList([learner.model, learner.posterior])
    frozen = {key for key, _ in learner.model.named_parameters(prefix="0") if "bias" in key}
    for key, p in modules.named_parameters():
        p.requires_grad_(p.requires_grad and key not in frozen)
    before = {key: p.detach().clone() for key, p in modules.named_parameters()}
    moved(learner, LEARNERS[name], 3)
    after = dict(modules.named_parameters())
    assert all(torch.equal(before[key], after[key]) for key in frozen)
    if name == "Monte Carlo EM":  # its posterior is in its chains
        after = {key: p for key, p in after.items() if key.startswith("0")}
    stayed = [k for k, p in after.items() if p.requires_grad and torch.equal(p, before[k])]
    assert frozen
    assert not stayed


@pytest.mark.parametrize("name", gradients.GRADIENTS)
def test_a_gradient_has_an_estimator_of_its_own(name):
    objective = gradients.GRADIENTS[name][0]
    found = gradients._estimator(check_settings({"gradient": name, "objective": objective}), 6)
    assert (found is OBJECTIVES[objective]) == (name == "reparameterized")


QUICK = {"bernoulli, float32", "gaussian, per datum"}
"""Compiled in the fast suite: one in single precision, one of free parameters in double."""
ALIKE = {
    *("bernoulli", "shared", "categorical", "convolutional, float32", "mixed, float32"),
    *("planar under real-nvp", "radial under maf", "householder under real-nvp"),
    *("real-nvp under maf", "maf under maf", "wake-sleep", "reweighted wake-sleep"),
}
"""Graphs of parts that others are traced with: each flow alone in `test_flows`."""


@needs_compiler
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", but_slow(LEARNERS, "Monte Carlo EM", *QUICK, *ALIKE))
def test_the_step_is_one_graph(name, monkeypatch):
    """As far as tracing goes, which is where a step falls out of the compiler."""

    def traced(function, options, compiled=torch.compile, **rest):
        return compiled(function, backend="eager", **rest)

    learner = LEARNERS[name].make(compiled=True)
    monkeypatch.setattr(Compiled, "_library", lambda self, arguments: None)
    monkeypatch.setattr(torch, "compile", traced)
    moved(learner, LEARNERS[name], 1)
    assert learner.note is None


@needs_compiler
@pytest.mark.parametrize("name", but_slow(LEARNERS, *(LEARNERS.keys() - QUICK)))
def test_the_compiled_step_equals_its_eager_twin(name):
    entry, states = LEARNERS[name], []
    for compiled in (False, True):
        learner = entry.make(compiled=compiled)
        states.append(moved(learner, entry, 10).tensors())
        assert learner.note is None
        assert learner.compiled is compiled
    start = entry.make().init().tensors()
    # Full Bayes draws its weights inside the step, in single precision.
    double = 1e-8 if name == "full Bayes" else 1e-10
    tolerance = 1e-5 if entry.dtype == torch.float32 else double
    for key, eager in states[0].items():
        twin = states[1][key]
        assert torch.allclose(eager, twin, tolerance, tolerance, equal_nan=True), key
    assert max(float((states[0][k] - p).abs().max()) for k, p in start.items()) > 1e-3

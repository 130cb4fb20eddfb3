"""The learner: optimizers against torch's, buffers, clipping, an eager twin where none compiles."""

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import binary_rows, noise, small_pair
from torch import nn

import aevb
from aevb.algorithms import AEVB
from aevb.compilation import Compiled
from aevb.errors import DataError, UsageError
from aevb.objectives import draw
from aevb.optimizers import constant, cosine, linear, steps
from aevb.posterior import Batch

STEPS = 50


def run(learner, n=STEPS, dtype=torch.float64, samples=2, rows=None, latent=2):
    rows = binary_rows(30) if rows is None else rows
    state = learner.init()
    for t in range(n):
        positions = np.random.default_rng(t).permutation(len(rows))[:10]
        batch = Batch(rows.take(positions), torch.from_numpy(positions))
        eps = noise((samples, 10, latent), t, dtype)
        learner.step(state, batch, eps, rate_factor=1 - t / n, temper=min(1.0, t / 20))
    return torch.cat([p.flatten() for p in state.parameters.values()]).double(), state


def test_where_compiling_fails_the_eager_twin_runs_and_says_so(monkeypatch):
    def failing(*arguments, **options):
        raise RuntimeError("there is no compiler")

    monkeypatch.setattr(Compiled, "_library", lambda self, arguments: None)
    monkeypatch.setattr(torch, "compile", failing)
    learner = AEVB(*small_pair(), compiled=True)
    assert torch.equal(run(learner, 3)[0], run(AEVB(*small_pair()), 3)[0])
    assert not learner.compiled
    assert learner.note.endswith("because compiling it failed: there is no compiler")


WITHOUT_A_COMPILER = """
import torch
from aevb.compilation import Compiled
from aevb.objectives.baselines import log_mean_without

compiled, values = Compiled(log_mean_without), torch.arange(6.0).reshape(3, 2)
for _ in range(2):
    assert torch.equal(compiled("values", values), log_mean_without(values))
print(compiled.note)
"""


def test_without_a_compiler_a_function_runs_and_says_so(tmp_path):
    environment = {
        **os.environ,
        "CXX": str(tmp_path / "no-compiler"),
        "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache"),
    }
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_A_COMPILER], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "runs uncompiled" in done.stdout
    assert "compiler" in done.stdout.lower().split("because")[1]
    assert len(done.stdout.splitlines()) == 1


OPTIMIZERS = [
    (
        aevb.Adam(lr=0.01, beta1=0.8, beta2=0.95, eps=1e-6),
        lambda p: torch.optim.Adam(p, lr=0.01, betas=(0.8, 0.95), eps=1e-6),
    ),
    (aevb.Adagrad(lr=0.05), lambda p: torch.optim.Adagrad(p, lr=0.05, eps=1e-10)),
    (aevb.SGD(lr=0.1), lambda p: torch.optim.SGD(p, lr=0.1)),
]


@pytest.mark.parametrize("ours_and_theirs", OPTIMIZERS, ids=["adam", "adagrad", "sgd"])
@pytest.mark.parametrize("clip", [None, 0.5])
def test_optimizers_and_clipping_equal_torch(ours_and_theirs, clip):
    ours, theirs = ours_and_theirs
    result, _ = run(AEVB(*small_pair(), aevb.elbo_b, optimizer=replace(ours, clip=clip)))
    model, posterior = small_pair()
    parameters = [*model.parameters(), *posterior.parameters()]
    optimizer = theirs(parameters)
    rate = optimizer.param_groups[0]["lr"]
    rows = binary_rows(30)
    for t in range(STEPS):
        x = rows.take(np.random.default_rng(t).permutation(30)[:10]).double()
        d = draw(model, posterior, x, noise((2, 10, 2), t))
        optimizer.zero_grad()
        (-aevb.elbo_b.reduce(d, min(1.0, t / 20)).mean()).backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(parameters, clip)
        optimizer.param_groups[0]["lr"] = rate * (1 - t / STEPS)
        optimizer.step()
    expected = torch.cat([p.detach().flatten() for p in parameters])
    assert torch.allclose(result, expected, rtol=1e-12, atol=1e-12)


def test_any_torch_optimizer_works_outside_the_step_with_its_hooks():
    model, posterior = small_pair()
    parameters = [*model.parameters(), *posterior.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=2e-3)

    def clip(*_):
        nn.utils.clip_grad_norm_(parameters, 0.5)

    optimizer.register_step_pre_hook(clip)
    outside, _ = run(AEVB(model, posterior, optimizer=optimizer))  # each step of a rate of its own
    assert optimizer.param_groups[0]["lr"] == 2e-3  # the next learner, or loop, finds it as it was
    inside, _ = run(AEVB(*small_pair(), optimizer=aevb.Adam(clip=0.5)))
    assert torch.allclose(outside, inside, rtol=1e-12, atol=1e-12)


def test_batch_normalization_keeps_its_running_statistics():
    class Net(nn.Sequential):
        pass

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = Net(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 4)).double()
    model, _ = small_pair()
    posterior = aevb.mean_field(encoder).train()
    learner = AEVB(model, posterior, optimizer=aevb.SGD(lr=0.0))
    run(learner, 4, samples=1)
    reference = nn.BatchNorm1d(5).double()
    with torch.no_grad():
        for t in range(4):
            x = binary_rows(30).take(np.random.default_rng(t).permutation(30)[:10]).double()
            reference(encoder[0](x))
    assert torch.allclose(encoder[1].running_mean, reference.running_mean)
    assert torch.allclose(encoder[1].running_var, reference.running_var)
    assert int(encoder[1].num_batches_tracked) == 4


def test_the_first_step_that_is_not_finite_is_remembered():
    learner = AEVB(*small_pair(), optimizer=aevb.SGD(lr=0.0))
    state = learner.init()
    x, eps = binary_rows(4).all().double(), noise((1, 4, 2))
    for t in range(5):
        learner.step(state, x, eps * float("nan") if t in (2, 3) else eps)
    assert int(state.totals[-1]) == 3


def test_bad_data_are_refused_before_the_first_step():
    learner = AEVB(*small_pair(), compiled=True)
    with pytest.raises(DataError, match="zeros and ones"):
        learner.step(learner.init(), torch.full((2, 6), 0.5).double(), noise((1, 2, 2)))


@pytest.mark.parametrize(
    ("make", "option"),
    [(aevb.SGD, "clip"), (lambda **o: AEVB(*small_pair(), **o), "weight_prior_rows")],
)
def test_options_must_be_positive(make, option):
    with pytest.raises(UsageError, match=f"{option} must be positive"):
        make(**{option: 0})


@pytest.mark.parametrize("rate", [-1.0, np.nan])
def test_a_rate_that_would_climb_the_loss_is_refused(rate):
    with pytest.raises(UsageError, match="the learning rate must be at least 0"):
        aevb.Adam(rate)


def test_what_is_no_optimizer_is_refused():
    with pytest.raises(UsageError, match=r"one of aevb\.optimizers, .* found 'adam'"):
        AEVB(*small_pair(), optimizer="adam")


def test_schedules():
    assert [constant(f) for f in (0.0, 0.99)] == [1.0, 1.0]
    assert [steps(f) for f in (0.0, 0.69, 0.7, 0.9)] == [1.0, 1.0, 1 / 3, 1 / 9]
    assert cosine(0.0) == 1.0
    assert abs(cosine(0.5) - 0.5) < 1e-12
    assert [linear(f) for f in (0.0, 0.25)] == [1.0, 0.75]


def test_a_prior_on_weights_says_nothing_where_all_of_them_are_frozen():
    model, posterior = small_pair()
    model.requires_grad_(False)
    plain, _ = run(AEVB(model, posterior), 3)
    model, posterior = small_pair()
    model.requires_grad_(False)
    assert torch.equal(run(AEVB(model, posterior, weight_prior_rows=10), 3)[0], plain)


def test_nothing_to_learn_is_said():
    model, posterior = small_pair()
    learner = AEVB(model.requires_grad_(False), posterior.requires_grad_(False))
    with pytest.raises(UsageError, match="every parameter is frozen"):
        learner.init()

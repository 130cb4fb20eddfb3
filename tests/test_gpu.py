"""A GPU gives the numbers of the processor, waits for nothing, and resumes in the same bytes."""

import itertools
import json
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import binary_rows, small_pair
from laws import dataset
from torch import nn

import aevb
from aevb import codes
from aevb.algorithms import AEVB
from aevb.data import Binarization, Rows
from aevb.devices import full_float32, tensor_of
from aevb.distributions import route
from aevb.evaluation import bound_parts, diagnose, evidence, refit
from aevb.following import Snapshots
from aevb.imputation import impute
from aevb.optimizers import constant
from aevb.plan import Plan
from aevb.portions import Portions
from aevb.posterior import Batch
from aevb.storage import RunFolder
from aevb.training import train

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")


def pair(device, dtype=torch.float64):
    model, posterior = small_pair(width=12, hidden=16, dtype=dtype)
    return model.to(device), posterior.to(device)


def grey_rows(n=150):
    values = np.random.default_rng(3).integers(0, 256, (n, 12), dtype=np.uint8)
    return Rows(values, np.arange(n), (12,), 1 / 255, Binarization.EPOCH)


ROWS = {
    "bytes": binary_rows(150, 12),
    "bits": binary_rows(150, 12).keep_bits(),
    "drawn in the step": grey_rows(),
    "drawn once": replace(grey_rows(), binarize=Binarization.ONCE),
}


@pytest.mark.parametrize("much", [0, 1 << 13], ids=["in threads", "in one"])
@pytest.mark.parametrize("room", [True, False], ids=["resident", "sent"])
@pytest.mark.parametrize("kind", ROWS)
def test_groups_of_steps_are_the_steps_one_by_one(kind, room, much, monkeypatch):
    """What a GPU is sent in one go; here the GPU is a processor, to which nothing is pinned."""
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)
    monkeypatch.setattr("aevb.portions.has_room", lambda device, size: room)
    model, posterior = pair("cpu")
    q = posterior(Batch(torch.zeros(1, 12, dtype=torch.float64), torch.zeros(1).long()))
    portions = Portions(ROWS[kind], route(q).noise, tensor_of(model), 40, 2, seed=5)
    order = np.random.default_rng(0).permutation(150)
    steps = list(range(1, 4))
    pool = ThreadPoolExecutor(2)
    monkeypatch.setattr("aevb.portions.MUCH_NOISE", much)
    load = portions._loader(order, 3, pool)
    groups = list(portions._groups(range(1, 4)))
    assert [list(group) for group in groups] == [[1, 2], [3]]  # the last step is a smaller one
    found = list(itertools.chain.from_iterable(portions._on_gpu(*load(g)) for g in groups))
    for i, (batch, noise) in zip(steps, found, strict=True):
        one, its_noise = portions._one(order, 3, i)
        assert torch.equal(noise, its_noise)
        for a, b in zip(batch, one, strict=True):
            assert (a is None and b is None) or torch.equal(a, b)


def test_a_gpu_that_is_not_there_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr("aevb.devices.has_gpu", lambda: False)
    with pytest.raises(aevb.errors.UsageError, match="device cuda needs a GPU"):
        aevb.VAE(device="cuda", epochs=1).fit(np.random.default_rng(0).random((20, 3)))


@GPU
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("kind", ROWS)
def test_training_gives_the_numbers_of_the_processor(kind, compiled):
    ends = []
    for device in ("cpu", "cuda"):
        model, posterior = pair(device)
        data = dataset(ROWS[kind])
        data = type(data)(data.source, data.train, binary_rows(40, 12, 1), binary_rows(40, 12, 1))
        learner = AEVB(
            model, posterior, optimizer=aevb.Adam(clip=5.0), compiled=compiled and device == "cuda"
        )
        history = train(learner, data, Plan(epochs=4, batch_size=40, samples=2))
        assert learner.note is None
        ends.append([r[part]["elbo"] for r in history for part in ("train", "validation")])
        assert 0 <= history[-1]["overhead"] < 1
    np.testing.assert_allclose(*ends, rtol=1e-9)


@GPU
def test_no_step_waits_for_the_gpu():
    """A compiled one; the eager twin looks whether the data are of the likelihood's domain."""
    model, posterior = pair("cuda", torch.float32)
    learner = AEVB(model, posterior, compiled=True)
    state = learner.init()
    q = posterior(Batch(torch.zeros(1, 12, device="cuda"), torch.zeros(1, device="cuda").long()))
    portions = Portions(ROWS["bits"], route(q).noise, tensor_of(model), 30, 1, seed=0)
    learner.treatment = ROWS["bits"].treatment
    with portions.of_epoch(0, 0) as first:
        for batch, noise in first:
            learner.step(state, batch, noise)
    try:
        with portions.of_epoch(1, 0) as second:
            for batch, noise in second:
                torch.cuda.set_sync_debug_mode("error")
                learner.step(state, batch, noise)
                torch.cuda.set_sync_debug_mode("default")
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert state.averages()["elbo"] < 0


@GPU
def test_estimates_and_codes_are_those_of_the_processor(tmp_path):
    results = []
    for device in ("cpu", "cuda"):
        model, posterior = pair(device)
        rows = binary_rows(50, 12)
        holes = np.where(np.random.default_rng(1).random((9, 12)) < 0.3, np.nan, 1.0)
        holed = Rows(holes, np.arange(9), (12,))
        found = evidence(model, posterior, rows, 700, compiled=False)
        snapshots = Snapshots(model, posterior, rows, tmp_path)
        results.append(
            [
                found.importance.values,
                found.elbo.values,
                codes.encode(model, posterior, rows),
                codes.encode_samples(model, posterior, rows, samples=3),
                codes.sample(model, 5),
                diagnose(model, posterior, rows).kl_by_dimension,
                bound_parts(model, posterior, rows)["elbo"],
                impute(model, posterior, holed, samples=20, method="hmc"),
                *snapshots.look(),
                codes.encode(model, refit(model, aevb.per_datum(1, 2), rows, steps=20), rows),
            ]
        )
        assert set(np.unique(codes.sample(model, 5, draw=True))) <= {0.0, 1.0}
        assert np.isfinite(impute(model, posterior, holed, method="importance")).all()
    for cpu, gpu in zip(*results, strict=True):
        np.testing.assert_allclose(cpu, gpu, rtol=1e-7, atol=1e-9)


@GPU
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_compiled_estimate_is_the_plain_one(precision):
    model, posterior = pair("cuda", torch.float32)
    rows = binary_rows(50, 12)
    plain = evidence(model, posterior, rows, 2000, compiled=False).importance.values
    fast = evidence(model, posterior, rows, 2000, compiled=True, precision=precision)
    tolerance = 1e-5 if precision == "float32" else 0.05
    np.testing.assert_allclose(fast.importance.values, plain, atol=tolerance, rtol=tolerance)


@GPU
def test_a_run_that_is_resumed_ends_in_the_same_bytes(tmp_path):
    class Stop(aevb.training.Callback):
        def step(self, t):
            if t == 5:
                raise KeyboardInterrupt

    plan = Plan(epochs=4, batch_size=40, schedule=constant)
    ends = []
    for stops in (False, True):
        model, posterior = pair("cuda", torch.float32)
        run = RunFolder(tmp_path / str(stops))
        run.checkpoint_seconds = 0
        if stops:
            with pytest.raises(KeyboardInterrupt):
                train(
                    AEVB(model, posterior), dataset(grey_rows()), plan, run=run, callbacks=[Stop()]
                )
            model, posterior = pair("cuda", torch.float32)
        train(AEVB(model, posterior), dataset(grey_rows()), plan, run=run, resume=stops)
        ends.append((run.path / "model.safetensors").read_bytes())
    assert ends[0] == ends[1]


@GPU
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_layers_that_draw_follow_the_seed(compiled):
    def bound(seed):
        _, posterior = pair("cuda", torch.float32)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = nn.Sequential(nn.Linear(2, 20), nn.Dropout(0.5), nn.Linear(20, 12))
        model = aevb.Model(aevb.standard_normal(2), aevb.bernoulli(network)).to("cuda")
        learner = AEVB(model, posterior, compiled=compiled)
        before = torch.cuda.get_rng_state()
        history = train(learner, dataset(binary_rows(80, 12)), Plan(epochs=3, seed=seed))
        assert torch.equal(before, torch.cuda.get_rng_state())
        return history[-1]["train"]["elbo"]

    assert bound(1) == bound(1)
    assert bound(1) != bound(2)


@GPU
def test_float32_is_float32():
    x, kernel = torch.randn(8, 16, 20, 20), torch.randn(32, 16, 4, 4)
    exact = nn.functional.conv2d(x.double(), kernel.double())
    with full_float32():
        found = nn.functional.conv2d(x.cuda(), kernel.cuda()).cpu()
    assert (found - exact).abs().max() / exact.abs().max() < 1e-5


@GPU
@pytest.mark.parametrize("step", ["eager", "compiled"])
def test_the_command_line_trains_and_judges_there(step, tmp_path, capsys):
    from aevb.cli import main

    run = tmp_path / "run"
    how = ["--device", "cuda", "--step", step, "--epochs", "2", "--out", str(run), "--json"]
    with pytest.raises(SystemExit) as ended:
        main(["train", "digits", "--network", "convolutional", "--hidden", "8", *how])
    assert ended.value.code == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["device"], result["step"]) == ("cuda", step)
    values = {}
    for device in ("cpu", "cuda"):
        with pytest.raises(SystemExit):
            main(["evaluate", str(run), "--samples", "50", "--device", device, "--json"])
        values[device] = json.loads(capsys.readouterr().out)["mean"]
    assert math.isclose(values["cpu"], values["cuda"], rel_tol=1e-5)


@GPU
def test_the_estimator_fits_there():
    X = np.random.default_rng(0).random((200, 5))
    vae = aevb.VAE(device="cuda", epochs=3).fit(X)
    assert vae.transform(X).shape == (200, 2)
    assert vae._facts["used"]["device"] == "cuda"


@GPU
def test_a_check_finds_on_a_gpu_what_it_finds_on_the_processor():
    """Copies are examined on the processor, in double precision."""
    rows = binary_rows(60, 12)
    there, here = (aevb.check(*pair(device, torch.float32), rows) for device in ("cuda", "cpu"))
    assert here.healthy, str(here)
    assert str(there) == str(here)

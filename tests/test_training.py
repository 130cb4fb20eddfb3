"""The loop: plans, selection, early stopping, failure, layers that draw, memory maps."""

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import binary_rows, small_pair
from laws import dataset
from torch import nn

import aevb
from aevb.algorithms import AEVB
from aevb.data import Binarization, Rows, Source, split
from aevb.errors import DataError, TrainingError, UsageError
from aevb.evaluation import bound_parts
from aevb.optimizers import constant
from aevb.plan import Plan, plan_of, work_of
from aevb.settings import check_settings
from aevb.storage import RunFolder
from aevb.training import train


def pair(**kwargs):
    return small_pair(dtype=torch.float32, **kwargs)


def test_warm_up_must_finish_before_training_does():
    data = dataset(binary_rows(20))
    with pytest.raises(UsageError, match=r"6 steps would not finish: the run has 6 steps"):
        train(AEVB(*pair()), data, Plan(epochs=3, batch_size=10, warmup_steps=6))
    history = train(AEVB(*pair()), data, Plan(epochs=3, batch_size=10, warmup_steps=5, beta=2.0))
    assert [record["beta"] for record in history] == pytest.approx([0.8, 1.6, 2.0])
    plan = Plan(warmup_steps=4, beta=0.5)
    assert [plan.temper(t) for t in (1, 2, 4, 9)] == [0.125, 0.25, 0.5, 0.5]


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0},
        {"batch_size": 0},
        {"samples": 0},
        {"patience": 0},
        {"beta": -1.0},
        {"warmup_steps": -1},
    ],
)
def test_plans_are_checked(wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        Plan(**wrong)


@pytest.mark.parametrize("name", ["constant", "cosine", "linear", "steps"])
def test_a_schedule_is_the_one_of_its_name(name):
    plan = plan_of(check_settings({"lr_schedule": name, "epochs": 3}))
    assert plan.schedule is getattr(aevb.optimizers, name)


def test_the_model_kept_is_the_best_on_validation_data():
    train_rows, validation = binary_rows(30), binary_rows(15, seed=5)
    data = dataset(train_rows)
    data = type(data)(data.source, data.train, validation, validation)
    model, posterior = pair()
    learner = AEVB(model, posterior, optimizer=aevb.Adam(lr=0.3))
    history = train(learner, data, Plan(epochs=25, batch_size=5, schedule=constant))
    bounds = [record["validation"]["elbo"] for record in history]
    assert max(bounds) > bounds[-1]
    assert bound_parts(model, posterior, validation)["elbo"] == pytest.approx(max(bounds), abs=1e-6)


def test_patience_stops_the_run():
    data = dataset(binary_rows(30))
    model, posterior = pair()
    learner = AEVB(model, posterior, optimizer=aevb.SGD(lr=1e-12))
    assert len(train(learner, data, Plan(epochs=50, patience=3))) == 4


def test_non_finite_objective_stops_with_a_sentence_and_keeps_the_checkpoint(tmp_path):
    class Fragile(nn.Module):
        """Gives NaN once its weight has moved far enough."""

        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 6)

        def forward(self, z):
            y = self.layer(z)
            far = self.layer.bias.detach().abs().sum() > 1.0
            return y + torch.where(far, math.nan, 0.0)

    _, posterior = pair()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        fragile = Fragile()
    nn.init.zeros_(fragile.layer.bias)
    model = aevb.Model(aevb.standard_normal(2), aevb.bernoulli(fragile))
    learner = AEVB(model, posterior, optimizer=aevb.Adam(lr=0.02))
    run = RunFolder(tmp_path / "run")
    run.checkpoint_seconds = 0
    plan = Plan(epochs=50, batch_size=10, schedule=constant)
    with pytest.raises(
        TrainingError, match=r"not finite (at|after) .*step \d+.*--lr.*checkpoint is kept"
    ):
        train(learner, dataset(binary_rows(30)), plan, run=run)
    with run.locked():
        found = run.newest_checkpoint(pytest.fail)
    assert found is not None
    assert all(bool(torch.isfinite(t).all()) for t in found.tensors.values())


def test_training_leaves_the_generators_of_others_alone():
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    train(AEVB(*pair()), dataset(binary_rows(20)), Plan(epochs=2))
    assert torch.equal(before, torch.get_rng_state())
    assert (numpy_before == np.random.get_state()[1]).all()  # noqa: NPY002


def test_layers_that_draw_follow_the_seed():
    def bounds(seed):
        _, posterior = pair()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = nn.Sequential(nn.Linear(2, 20), nn.Dropout(0.5), nn.Linear(20, 6))
        model = aevb.Model(aevb.standard_normal(2), aevb.bernoulli(network))
        torch.manual_seed(np.random.randint(1000))  # noqa: NPY002
        history = train(AEVB(model, posterior), dataset(binary_rows(20)), Plan(epochs=3, seed=seed))
        return [record["train"]["elbo"] for record in history]

    assert bounds(1) == bounds(1)
    assert bounds(1) != bounds(2)


def test_patience_needs_a_validation_bound():
    model, _ = pair()
    with pytest.raises(UsageError, match="patience needs a validation bound"):
        train(AEVB(model, aevb.per_datum(30, 2)), dataset(binary_rows(30)), Plan(patience=2))


def test_free_parameters_train_without_validation():
    model, _ = pair()
    posterior = aevb.per_datum(30, 2)
    learner = AEVB(model, posterior, optimizer=aevb.Adam(lr=0.05))
    history = train(learner, dataset(binary_rows(30)), Plan(epochs=40, batch_size=10))
    assert history[0]["validation"] is None
    assert history[-1]["train"]["elbo"] > history[0]["train"]["elbo"]


def test_importance_weighted_objective_trains_its_bound():
    model, posterior = pair()
    learner = AEVB(model, posterior, aevb.iwae, optimizer=aevb.Adam(lr=0.01))
    history = train(learner, dataset(binary_rows(50)), Plan(epochs=20, samples=5, batch_size=10))
    last = history[-1]["train"]
    assert last["objective"] > history[0]["train"]["objective"]
    assert last["objective"] > last["elbo"]


@pytest.mark.parametrize("planted", [[], ["whole"]], ids=["rows", "whole"])
def test_a_memory_map_is_read_row_by_row(tmp_path, planted):
    """256 MB of rows train under a limit on memory that they alone would break."""
    path = tmp_path / "large.npy"
    values = np.lib.format.open_memmap(path, "w+", np.float32, (65_536, 1024))
    values[::7] = 1.0
    values.flush()
    command = [sys.executable, Path(__file__).with_name("map_probe.py"), path, *planted]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if planted:
        assert "MemoryError" in done.stderr
    else:
        assert done.returncode == 0, done.stderr
        assert np.isfinite(float(done.stdout))


def paper_learner():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = aevb.Model(aevb.standard_normal(20), aevb.bernoulli(aevb.MLP(20, [500], 784)))
        return AEVB(model, aevb.mean_field(aevb.MLP(784, [500], 40)))


def test_how_a_run_is_computed_depends_on_sizes_alone(monkeypatch):
    small = work_of(*pair(), binary_rows(1000), Plan())
    assert (small.worth_compiling, small.worth_threads, small.precision) == (
        False,
        False,
        "float32",
    )
    rows = binary_rows(50_000, 784)
    learner = paper_learner()
    paper = learner.model, learner.posterior
    large = work_of(*paper, rows, Plan())
    # 784-500-40 and 20-500-784: two operations for each weight, thrice, for each of 100 rows
    assert large.operations == 6 * 100 * (784 * 500 + 500 * 40 + 20 * 500 + 500 * 784)
    assert large.steps == 500 * 100
    assert large.worth_compiling
    assert large.worth_threads
    for known, precision in ({}, "float32"), ({"amx_bf16": True}, "bfloat16"):
        monkeypatch.setattr("aevb.products.processor", lambda known=known: known)
        assert large.precision == precision
    assert not work_of(*paper, rows.limit(1000), Plan(epochs=2)).worth_compiling


def test_rows_are_given_out_in_order_and_without_loss():
    values = np.arange(24, dtype=np.uint8).reshape(12, 2)
    rows = Rows(values, np.arange(12)[::2], (2,), scale=0.5, all_labels=np.arange(12))
    assert torch.equal(rows.all(), torch.from_numpy(values[::2] * 0.5).float())
    assert rows.labels.tolist() == [0, 2, 4, 6, 8, 10]
    chunks = list(rows.chunks(4))
    assert [len(x) for _, x in chunks] == [4, 2]
    assert np.concatenate([p for p, _ in chunks]).tolist() == list(range(6))
    assert rows.limit(None) is rows
    assert rows.limit(3).index.tolist() == rows.limit(3).index.tolist()
    assert set(rows.limit(3).index) < set(rows.index)
    with pytest.raises(UsageError, match="at least 1"):
        rows.limit(0)
    assert values[3, 1] == 7


@pytest.mark.parametrize("treatment", [Binarization.ONCE, Binarization.EPOCH])
def test_a_kept_draw_is_the_draw(treatment):
    grey = np.random.default_rng(0).random((40, 6)).astype(np.float32)
    source = Source("grey", grey, (6,), "bernoulli", "", "none")
    data = split(source, treatment)
    everything = Rows(grey, np.arange(40), (6,), binarize=Binarization.ONCE).all()
    for rows in (data.train, data.validation, data.test):
        assert torch.equal(rows.all(), everything[rows.index])
        assert torch.equal(rows.limit(3).all(), everything[rows.limit(3).index])
    assert (data.train.kept is None) == (treatment is Binarization.EPOCH)
    assert data.test.kept is not None


def test_grey_levels_are_looked_at_in_every_row():
    grey = np.full((30, 2), 0.5)
    grey[17, 1] = 1.5
    source = Source("grey", grey, (2,), "bernoulli", "", "none")
    with pytest.raises(DataError, match=r"between 0 and 1, found values from 0\.5 to 1\.5"):
        split(source, Binarization.THRESHOLD)


class OwnPosterior(torch.nn.Module):
    """A posterior of the user's own, which is none of the project's classes."""

    def __init__(self):
        super().__init__()
        self.network = torch.nn.Linear(6, 4)

    def forward(self, batch):
        middle, log_scale = self.network(batch.x.to(self.network.weight)).chunk(2, -1)
        law = torch.distributions.Normal(middle, log_scale.exp(), validate_args=False)
        return torch.distributions.Independent(law, 1)


def test_a_posterior_of_ones_own_trains():
    model, _ = pair()
    own = OwnPosterior().to(next(model.parameters()))
    history = train(aevb.AEVB(model, own), dataset(binary_rows(30)), Plan(epochs=2, batch_size=10))
    assert len(history) == 2


def test_rows_are_no_data_set():
    model, posterior = small_pair()
    with pytest.raises(UsageError, match=r"which aevb.data.load makes .*, found ndarray"):
        aevb.train(aevb.AEVB(model, posterior), np.zeros((20, 6)))

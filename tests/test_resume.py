"""Resume is exact: a run that is stopped anywhere ends in the same bytes as one that never was."""

import math
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import Dropout, binary_rows, outcome, small_pair
from laws import dataset

import aevb
from aevb import families
from aevb.algorithms import FullBayes, MonteCarloEM, uncertain
from aevb.data import Binarization, Source, split
from aevb.errors import Interrupted, ModelFileError, UsageError
from aevb.evaluation import bound_parts
from aevb.objectives import learned_baseline, score_function
from aevb.posterior import amortized
from aevb.refinement import Refined
from aevb.storage import RunFolder, weights
from aevb.training import Callback

X, D, ROWS = 6, 2, 40
PLAN = aevb.Plan(epochs=5, batch_size=10)
PER_EPOCH, TOTAL = 4, 20  # 32 training rows in batches of 10


def data(treatment=Binarization.EPOCH):
    values = np.random.default_rng(3).random((ROWS, X))
    return split(Source("grey", values, (X,), "bernoulli", "grey", "none"), treatment)


def pair(encoder=None, posterior=None):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model = aevb.Model(aevb.standard_normal(D), aevb.bernoulli(aevb.MLP(D, [5], X)))
        if posterior is not None:
            return model, posterior()
        return model, aevb.mean_field(encoder() if encoder else aevb.MLP(X, [5], 2 * D))


def learner(optimizer=None, outside=None, encoder=None, posterior=None, **options):
    """A fresh learner, the same at every call, as a new process would build it."""
    model, q = pair(encoder, posterior)
    if outside is not None:
        optimizer = outside([*model.parameters(), *q.parameters()])
    return aevb.AEVB(model, q, optimizer=optimizer or aevb.Adam(0.02), **options)


def scored():
    """An objective that learns a baseline, with a memory of its own, along with the rest."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return score_function(aevb.elbo_b, learned_baseline(X))


def full_bayes():
    model, q = pair()
    model = uncertain(model, draws=3)
    return FullBayes(model, q, weight_prior_rows=32, optimizer=aevb.Adam(0.02))


def semi_amortized():
    model, q = pair()
    return aevb.AEVB(model, Refined(q, model, 2), optimizer=aevb.Adam(0.02))


def asleep(algorithm=aevb.WakeSleep):
    """Wake-sleep of coins."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        coins = families.Bernoulli()
        prior = aevb.Unconditional(coins, D, learned=True)
        model = aevb.Model(prior, aevb.bernoulli(aevb.MLP(D, [5], X)))
        return algorithm(model, amortized(aevb.MLP(X, [5], D), coins), optimizer=aevb.Adam(0.02))


CASES = {
    "adam": (learner, PLAN),
    "several samples": (lambda: learner(objective=aevb.iwae), replace(PLAN, samples=3)),
    "a learned baseline": (lambda: learner(objective=scored()), PLAN),
    "adagrad": (lambda: learner(aevb.Adagrad(0.1)), PLAN),
    "clipped, with a weight prior": (
        lambda: learner(aevb.Adam(0.02, clip=0.5), weight_prior_rows=32),
        PLAN,
    ),
    "warm-up": (learner, replace(PLAN, warmup_steps=13, beta=0.7)),
    "early stopping": (lambda: learner(aevb.Adam(1.0)), replace(PLAN, epochs=50, patience=2)),
    "a best epoch that is not the last": (lambda: learner(aevb.Adam(0.3)), PLAN),
    "dropout": (lambda: learner(encoder=lambda: Dropout(X, 2 * D)), PLAN),
    "torch's Adam": (lambda: learner(outside=lambda p: torch.optim.Adam(p, 0.02)), PLAN),
    "torch's SGD with momentum": (
        lambda: learner(outside=lambda p: torch.optim.SGD(p, 0.05, momentum=0.9)),
        PLAN,
    ),
    "a posterior over weights": (full_bayes, PLAN),
    "semi-amortized": (semi_amortized, PLAN),
    "wake-sleep of discrete codes": (asleep, PLAN),
    "reweighted wake-sleep": (
        lambda: asleep(aevb.ReweightedWakeSleep),
        replace(PLAN, samples=3),
    ),
    "Monte Carlo EM": (
        lambda: MonteCarloEM(pair()[0], aevb.per_datum(32, D), optimizer=aevb.Adagrad(0.1)),
        replace(PLAN, samples=2),
    ),
    "free parameters": (
        lambda: learner(aevb.Adam(0.1), posterior=lambda: aevb.per_datum(32, D)),
        PLAN,
    ),
}


class At(Callback):
    """Calls a function at one step."""

    def __init__(self, step, action):
        self.at, self.action = step, action

    def step(self, t):
        if t == self.at:
            self.action()


def asked(number):
    return lambda: os.kill(os.getpid(), number)


class Crash(Exception):
    """As a kill is: nothing is saved."""


def crash():
    raise Crash


def go(folder, case, *callbacks, resume=False, checkpoint_seconds=math.inf):
    make, plan = CASES[case]
    run = RunFolder(folder)
    run.checkpoint_seconds = checkpoint_seconds
    return aevb.train(make(), data(), plan, run=run, resume=resume, callbacks=callbacks)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The outcome of each case without a stop, made when first asked for."""
    outcomes = {}

    def outcome_of(case):
        if case not in outcomes:
            folder = tmp_path_factory.mktemp("whole")
            go(folder, case)
            outcomes[case] = outcome(folder)
        return outcomes[case]

    return outcome_of


def last_step(whole, case):
    return int(whole(case)[1].removeprefix("step-"))


@pytest.mark.slow
def test_the_compiled_step_resumes_exactly(tmp_path, monkeypatch):
    monkeypatch.setitem(CASES, "compiled", (lambda: learner(compiled=True), PLAN))
    go(tmp_path / "whole", "compiled")
    with pytest.raises(Interrupted):
        go(tmp_path / "parts", "compiled", At(PER_EPOCH + 2, asked(signal.SIGINT)))
    go(tmp_path / "parts", "compiled", resume=True)
    assert outcome(tmp_path / "parts") == outcome(tmp_path / "whole")


# --- signals -------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("where", ["the middle of an epoch", "an epoch's end", "the last step"])
def test_a_run_that_was_asked_to_stop_resumes_exactly(tmp_path, whole, case, where, caplog):
    last = last_step(whole, case)
    k = {"the middle of an epoch": PER_EPOCH + 2, "an epoch's end": 2 * PER_EPOCH}.get(where, last)
    handlers = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted) as caught:
        go(tmp_path, case, At(k, asked(signal.SIGTERM)))
    assert caught.value.exit_code == 143
    assert f"SIGTERM at step {k} of" in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert handlers == (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT))
    assert not (tmp_path / "model.safetensors").exists()
    caplog.clear()
    history = go(tmp_path, case, resume=True)
    assert caplog.messages == []
    assert outcome(tmp_path) == whole(case)
    assert [record["epoch"] for record in history] == list(range(1, len(whole(case)[0]) + 1))


def test_the_cases_end_as_they_should(whole):
    # A patience that never runs out, or a best epoch that is the last, would prove nothing.
    assert last_step(whole, "adam") == TOTAL
    assert PER_EPOCH * 3 <= last_step(whole, "early stopping") < 50 * PER_EPOCH
    for case in ("early stopping", "a best epoch that is not the last"):
        bounds = [record["validation"]["elbo"] for record in whole(case)[0]]
        assert np.argmax(bounds) < len(bounds) - 1
    assert [record["beta"] for record in whole("warm-up")[0]][:2] != [0.7, 0.7]
    assert whole("free parameters")[0][0]["validation"] is None


@pytest.mark.parametrize("stop", [None, PER_EPOCH * 2 + 1, TOTAL])
def test_the_model_of_the_best_epoch_is_saved(tmp_path, stop):
    case = "a best epoch that is not the last"
    if stop is not None:
        with pytest.raises(Interrupted):
            go(tmp_path, case, At(stop, asked(signal.SIGTERM)))
    history = go(tmp_path, case, resume=stop is not None)
    model, posterior = pair()
    weights.load_weights(tmp_path, model, posterior)
    found = bound_parts(model, posterior, data().validation, seed=PLAN.seed)["elbo"]
    bounds = [record["validation"]["elbo"] for record in history]
    assert found == max(bounds) > bounds[-1]


def test_every_case_is_a_run_of_its_own(whole):
    files = [whole(case)[2][Path("model.safetensors")] for case in CASES]
    assert len(set(files)) == len(files)


def test_ctrl_c_has_its_own_exit_code(tmp_path, whole):
    with pytest.raises(Interrupted) as caught:
        go(tmp_path, "adam", At(7, asked(signal.SIGINT)))
    assert caught.value.exit_code == 130
    assert "SIGINT" in str(caught.value)
    go(tmp_path, "adam", resume=True)
    assert outcome(tmp_path) == whole("adam")


def test_a_run_can_be_stopped_at_every_step(tmp_path, whole):
    for k in range(1, TOTAL + 1):
        with pytest.raises(Interrupted):
            go(tmp_path, "adam", At(k, asked(signal.SIGTERM)), resume=True)
    go(tmp_path, "adam", resume=True)
    assert outcome(tmp_path) == whole("adam")


def test_without_a_folder_ctrl_c_is_what_it_always_is():
    make, plan = CASES["adam"]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            aevb.train(make(), data(), plan, callbacks=[At(3, asked(signal.SIGINT))])
    finally:
        signal.signal(signal.SIGINT, before)


# --- crashes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("seconds", [0, math.inf], ids=["always saved", "never saved"])
def test_a_run_that_crashed_again_and_again_resumes_exactly(tmp_path, whole, case, seconds):
    last = last_step(whole, case)
    for k in sorted({2, PER_EPOCH, PER_EPOCH + 1, last // 2, last}):
        with pytest.raises(Crash):
            go(tmp_path, case, At(k, crash), resume=True, checkpoint_seconds=seconds)
    go(tmp_path, case, resume=True, checkpoint_seconds=seconds)
    assert outcome(tmp_path) == whole(case)


@pytest.mark.parametrize("damaged", [1, 2])
def test_a_damaged_checkpoint_costs_time_and_no_exactness(tmp_path, whole, damaged, caplog):
    with pytest.raises(Crash):
        go(tmp_path, "adam", At(11, crash), checkpoint_seconds=0)
    found = sorted((tmp_path / "checkpoints").glob("step-*"))
    assert [path.name[-2:] for path in found] == ["09", "10"]
    for path in found[-damaged:]:
        content = bytearray((path / "state.safetensors").read_bytes())
        content[-3] ^= 4
        (path / "state.safetensors").write_bytes(content)
    caplog.clear()
    go(tmp_path, "adam", resume=True)
    assert [record.levelname for record in caplog.records] == ["WARNING"] * damaged
    assert str(found[-1]) in caplog.messages[0]
    assert outcome(tmp_path) == whole("adam")


def test_a_torn_line_of_metrics_is_written_again(tmp_path, whole):
    with pytest.raises(Crash):
        go(tmp_path, "adam", At(9, crash), checkpoint_seconds=0)
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(b'{"beta": 1.0, "epo')
    go(tmp_path, "adam", resume=True)
    assert outcome(tmp_path) == whole("adam")


def test_a_finished_run_resumes_to_itself(tmp_path, whole):
    go(tmp_path, "early stopping")
    go(tmp_path, "early stopping", resume=True)
    assert outcome(tmp_path) == whole("early stopping")


def test_resuming_where_nothing_was_begun_starts_the_run(tmp_path, whole):
    go(tmp_path, "adam", resume=True)
    assert outcome(tmp_path) == whole("adam")


def test_resuming_needs_a_folder():
    make, plan = CASES["adam"]
    with pytest.raises(UsageError, match="without a run folder"):
        aevb.train(make(), data(), plan, resume=True)


def test_a_run_does_not_disturb_the_callers_generator(tmp_path, whole):
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    go(tmp_path, "dropout")
    assert torch.equal(torch.rand(3), expected)
    torch.manual_seed(12)  # nor is it disturbed by it
    assert outcome(tmp_path) == whole("dropout")


def test_a_used_folder_is_not_trained_into_without_resuming(tmp_path):
    def learner():
        return aevb.AEVB(*small_pair(dtype=torch.float32))

    run, rows = RunFolder(tmp_path / "run"), dataset(binary_rows(20))
    aevb.train(learner(), rows, aevb.Plan(epochs=1), run=run)
    with pytest.raises(UsageError, match="of another run"):
        aevb.train(learner(), rows, aevb.Plan(epochs=2), run=run)
    other = aevb.AEVB(*small_pair(hidden=4, dtype=torch.float32))
    with pytest.raises(ModelFileError, match="not of this model and optimizer"):
        aevb.train(other, rows, aevb.Plan(epochs=2), run=run, resume=True)

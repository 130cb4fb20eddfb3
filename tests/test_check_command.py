"""`aevb check RUN`: what it prints, its exit codes, what it does where there are no data."""

import json
import shutil

import numpy as np
import pytest
from helpers import call, good, people, refused, write

import aevb
from aevb.storage import RunFolder
from aevb.workflow.checkup import check_up

DEMO = [
    *("--likelihood", "continuous-bernoulli", "--latent-dim", "2", "--hidden", "64"),
    *("--activation", "tanh", "--lr", "1e-2", "--epochs", "40"),
]


@pytest.fixture(scope="module")
def healthy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("healthy") / "run"
    good("train", "digits", *DEMO, "--out", folder)
    return folder


@pytest.fixture(scope="module")
def sick(tmp_path_factory):
    """A run with --beta 50, whose codes say nothing."""
    folder = tmp_path_factory.mktemp("sick") / "run"
    options = ["--hidden", 8, "--latent-dim", 2, "--epochs", 20, "--beta", 50]
    good("train", "digits", *options, "--out", folder)
    return folder


def test_a_healthy_run_has_no_findings_and_leaves_with_0(healthy):
    told = good("check", healthy, "--strict")
    assert list(told) == ["run", "healthy", "findings", "measured", "remark", "left_out"]
    assert told["run"] == str(healthy)
    assert told["healthy"] is True
    assert told["findings"] == []
    assert told["remark"] is None
    assert told["measured"]["held_out"] == 180
    assert told["left_out"] == ["other_treatment"]
    code, out, err = call("check", healthy)
    assert (code, err) == (0, "")
    assert out.startswith(f"{healthy}: nothing is wrong\n")
    assert "bound on held-out rows" in out


def test_a_sick_run_leaves_with_1_under_strict_alone(sick):
    told = good("check", sick)
    assert told["healthy"] is False
    [collapse] = [f for f in told["findings"] if f["name"] == "posterior-collapse"]
    assert set(collapse) == {"name", "sentence", "figure", "advice"}
    assert "--beta 1" in collapse["advice"]
    code, out, _ = call("check", sick, "--strict", "--json")
    assert code == 1
    assert json.loads(out) == told
    code, out, err = call("check", sick, "--strict", "--quiet")
    assert (code, err) == (1, "")
    assert f"posterior-collapse: {collapse['sentence']} {collapse['advice']}" in out.splitlines()


def test_the_same_seed_says_the_same(healthy):
    told = good("check", healthy, "--data-limit", 100)
    assert good("check", healthy, "--data-limit", 100) == told
    other = good("check", healthy, "--data-limit", 100, "--seed", 1)
    assert other["measured"]["held_out"] == 100
    assert other != told


def test_the_figures_are_those_of_evaluate(healthy, tmp_path):
    told = good("check", healthy)["measured"]
    shutil.copytree(healthy, tmp_path / "run")  # which is written to
    evaluated = good("evaluate", tmp_path / "run", "--samples", 200)
    assert told["elbo"]["mean"] == pytest.approx(evaluated["elbo"]["mean"], abs=1e-3)
    assert told["importance"]["mean"] == pytest.approx(evaluated["importance"]["mean"], abs=1e-3)
    assert told["active_units"] == evaluated["active_units"]


def test_the_evaluation_that_was_kept_is_looked_at(healthy, tmp_path):
    shutil.copytree(healthy, tmp_path / "run")
    good("evaluate", tmp_path / "run", "--split", "train", "--samples", 20)
    found = good("check", tmp_path / "run")["findings"]
    assert [f["name"] for f in found] == ["evaluated-on-training-rows"]


def test_other_data_are_held_against_those_of_training(healthy, tmp_path):
    x = RunFolder(healthy).dataset().test.all().numpy().reshape(-1, 64)
    np.save(tmp_path / "large.npy", 255 * x)
    found = good("check", healthy, tmp_path / "large.npy")["findings"]
    assert [f["name"] for f in found] == ["outside-the-domain", "unlike-training"]
    seen = RunFolder(healthy).dataset().train.all().numpy()[:50].reshape(-1, 64)
    np.save(tmp_path / "seen.npy", seen)
    found = good("check", healthy, tmp_path / "seen.npy")["findings"]
    assert "held-out-rows-in-training" in [f["name"] for f in found]
    np.save(tmp_path / "narrow.npy", x[:, :9])
    assert "the model is of rows of 64" in refused(3, "check", healthy, tmp_path / "narrow.npy")


def test_tables_with_holes_can_be_checked(tmp_path):
    path = write(tmp_path / "people.csv", people(200))
    good("train", path, "--hidden", 8, "--latent-dim", 2, "--epochs", 60, "--out", tmp_path / "run")
    told = good("check", tmp_path / "run")
    assert told["measured"]["held_out"] == 20
    assert not {"outside-the-domain", "density-on-discrete-values", "unlike-training"} & {
        f["name"] for f in told["findings"]
    }


def test_a_run_that_was_fitted_in_python_is_checked_as_far_as_it_goes(tmp_path):
    rows = np.random.default_rng(0).normal(size=(40, 3))
    aevb.VAE(hidden=(4,), epochs=3).fit(rows).save(tmp_path / "run")
    told = good("check", tmp_path / "run")
    assert "fitted in Python" in told["remark"]
    assert "unfinished" not in told["left_out"]
    assert told["measured"] == {}
    code, out, _ = call("check", tmp_path / "run")
    assert code == 0
    assert out.splitlines()[-1] == told["remark"]
    np.save(tmp_path / "rows.npy", rows.astype(np.float32))
    named = good("check", tmp_path / "run", tmp_path / "rows.npy")
    assert named["measured"]["held_out"] == 40
    assert "training rows was left out" in named["remark"]
    assert "overfitted" in named["left_out"]


def test_errors_are_sentences_with_their_codes(healthy, tmp_path):
    assert "holds no run" in refused(4, "check", tmp_path)
    assert refused(2, "check", healthy, "--data-limit", 1)
    assert refused(2, "check", healthy, "--colour")


def test_progress_counts_both_halves(healthy):
    seen = []
    check_up(RunFolder(healthy), limit=100, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (200, 200)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)

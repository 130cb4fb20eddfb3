"""Estimates by name, several proposals, sandwiches, and work that is taken up again."""

import dataclasses
import math
import os
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import binary_rows, good, quadrature, small_pair

import aevb
from aevb.data import Rows
from aevb.errors import UsageError
from aevb.evaluation import (
    SAMPLES,
    Annealing,
    Asked,
    Certificate,
    Estimates,
    Sandwich,
    check_methods,
    estimate,
    estimates,
    evidence,
    multiple_importance,
    split_samples,
)
from aevb.posterior import FromPrior
from aevb.randomness import by_row
from aevb.storage import RunFolder, Unfinished


def certificate(direction, values, data="d", error=0.0, method="m"):
    values = np.asarray(values, np.float64)
    errors = np.full(len(values), error)
    return Certificate(*(method, "log p(x)", direction, 5, values, errors, 2.0, 8, data, "none"))


class Skewed(torch.nn.Module):
    """An encoder that is sure, and wrong: N(3, 0.3^2) in every dimension."""

    def forward(self, x):
        mean = torch.full((len(x), 2), 3.0).to(x)
        return torch.cat([mean, torch.full_like(mean, 2 * math.log(0.3))], -1)


def test_all_methods_agree_within_their_errors():
    model, posterior = small_pair(spread=0.8)
    rows = dataclasses.replace(binary_rows(10), name="mine")
    truth = quadrature(model, rows.all().double().numpy())
    asked = Asked(annealing=Annealing(60, leapfrogs=5))
    found = estimate(model, posterior, rows, list(SAMPLES), asked)
    assert [c.method for c in found.certificates] == [
        *("importance", "elbo", "ais", "bidirectional", "bidirectional", "hmc", "exact")
    ]
    assert [c.direction for c in found.certificates] == [
        *("lower", "lower", "lower", "lower", "upper", "upper", "exact")
    ]
    for c in found.certificates:
        assert c.estimand in ("log p(x)", "evidence lower bound")
        assert c.data == ("simulated" if c.method == "bidirectional" else "mine")
        assert c.as_dict()["remarks"] == list(c.remarks)
    by_name = {c.method: c for c in found.certificates}
    for method in ("importance", "ais", "hmc", "exact"):
        c = by_name[method]
        assert (np.abs(c.values - truth) < 5 * c.errors + 1e-9).all(), method
    assert by_name["elbo"].mean < by_name["importance"].mean
    assert by_name["exact"].errors.max() < 2e-3
    assert found.evidence is not None
    ours, simulated = found.sandwiches()
    assert (ours.upper.method, ours.data if hasattr(ours, "data") else ours.upper.data) == (
        "exact",
        "mine",
    )
    assert simulated.lower.data == simulated.upper.data == "simulated"
    assert not ours.crossed
    assert not simulated.crossed


def test_one_pass_serves_importance_and_elbo(monkeypatch):
    model, posterior = small_pair()
    calls = []
    original = estimates._evidence
    monkeypatch.setattr(estimates, "_evidence", lambda *a: calls.append(1) or original(*a))
    estimate(model, posterior, binary_rows(3), ["elbo", "importance"], Asked(samples=20))
    assert calls == [1]


def test_the_noise_of_a_single_proposal_is_that_of_evidence():
    model, posterior = small_pair()
    rows = binary_rows(4)
    one = multiple_importance(model, {"encoder": (posterior, 1.0)}, rows, 700, seed=2)
    assert (one.values == evidence(model, posterior, rows, 700, seed=2).importance.values).all()


def test_a_defensive_mixture_finds_what_the_encoder_misses():
    model, _ = small_pair(spread=0.8)
    wrong = aevb.mean_field(Skewed()).double()
    rows = binary_rows(8)
    truth = quadrature(model, rows.all().double().numpy())
    alone = evidence(model, wrong, rows, 2000).importance
    assert alone.mean < truth.mean() - 0.5  # far too low, and its error does not say so
    assert alone.monte_carlo_error < 0.3
    assert alone.as_dict()["pareto_k"]["verdict"] == "unreliable"
    both = {"encoder": (wrong, 0.9), "prior": (FromPrior(model.prior), 0.1)}
    safe = multiple_importance(model, both, rows, 2000)
    assert (np.abs(safe.values - truth) < 5 * safe.errors).all()
    assert safe.details["proposals"] == {"encoder": 1800, "prior": 200}
    assert safe.as_dict()["pareto_k"]["verdict"] == "reliable"


def test_errors_of_a_mixture_cover_the_truth_as_often_as_they_claim():
    model, posterior = small_pair(spread=0.8)
    x = binary_rows(1).values
    rows = Rows(np.repeat(x, 400, 0), np.arange(400), (6,))
    truth = quadrature(model, x.astype(np.float64))[0]
    both = {"encoder": (posterior, 0.5), "prior": (FromPrior(model.prior), 0.5)}
    found = multiple_importance(model, both, rows, 400)
    assert 0.92 < np.mean(np.abs(found.values - truth) < 2 * found.errors) < 0.985


def test_samples_are_shared_out_to_the_last():
    assert split_samples(1000, [0.45, 0.45, 0.1]) == [450, 450, 100]
    assert split_samples(3, [0.9, 0.05, 0.05]) == [1, 1, 1]
    for few in ([1, 1, 1e-9, 1e-9], [1, 1, *[1e-9] * 8]):
        assert split_samples(len(few), few) == [1] * len(few)
    for samples in range(2, 40):
        counts = split_samples(samples, [0.9, 0.1])
        assert sum(counts) == samples
        assert min(counts) >= 1
    for wrong in ([], [1.0, 0.0], [0.5, -0.5]):
        with pytest.raises(UsageError, match="positive share"):
            split_samples(5, wrong)
    with pytest.raises(UsageError, match="one sample at least"):
        split_samples(1, [0.9, 0.1])


def test_fitted_proposals_are_better_than_a_wrong_encoder():
    model, _ = small_pair(spread=0.8)
    wrong, rows = aevb.mean_field(torch.nn.Linear(6, 4)).double(), binary_rows(8)
    truth = quadrature(model, rows.all().double().numpy())
    asked = Asked(samples=500, proposals=("fitted", "prior"))
    found = estimate(model, wrong, rows, ["importance"], asked).certificates[0]
    assert found.details["proposals"] == {"fitted": 450, "prior": 50}
    assert found.monte_carlo_error < evidence(model, wrong, rows, 500).importance.monte_carlo_error
    assert (np.abs(found.values - truth) < 5 * found.errors).all()


def test_no_noise_of_a_fit_is_noise_of_its_proposal(monkeypatch):
    seen = {}

    def noting(name):
        def noted(seed, stream, keys, draw, *counter, **how):
            names = seen.setdefault(name, set())
            names |= {(seed, stream, int(key), *counter) for key in keys}
            return by_row(seed, stream, keys, draw, *counter, **how)

        return noted

    for name in ("estimates", "refit"):
        monkeypatch.setattr(import_module(f"aevb.evaluation.{name}"), "by_row", noting(name))
    asked = Asked(samples=1100, proposals=("encoder", "fitted"))
    estimate(*small_pair(), binary_rows(2), ["importance"], asked)
    assert len(seen["estimates"]) == 2 * 2 * 2
    assert not seen["estimates"] & seen["refit"]


def test_a_sandwich_takes_the_best_of_each_side():
    low, better = certificate("lower", [-4, -2]), certificate("lower", [-3, -2])
    high, best = certificate("upper", [0, 0]), certificate("upper", [-1, -2])
    found = Estimates((low, high, better, best)).sandwiches()
    assert found == [Sandwich(better, best)]
    assert found[0].width == 1.0
    # the differences are 2 and 0, datum by datum
    assert found[0].standard_error == pytest.approx(math.sqrt(2) / math.sqrt(2))
    assert found[0].as_dict()["bounds"] == [-2.5, -1.5]


def test_an_exact_value_closes_a_sandwich_from_either_side():
    low, high = certificate("lower", [-4, -2]), certificate("upper", [0, 0])
    exact = certificate("exact", [-2, -2])
    assert Estimates((low, exact)).sandwiches() == [Sandwich(low, exact)]
    assert Estimates((high, exact)).sandwiches() == []
    assert Estimates((low, high, exact)).sandwiches() == [Sandwich(low, exact)]
    elsewhere = dataclasses.replace(high, data="other")
    assert Estimates((low, elsewhere)).sandwiches() == []


def test_bounds_that_cross_are_said_to():
    low, high = certificate("lower", [1, 2], error=0.01), certificate("upper", [0, 1], error=0.01)
    assert Sandwich(low, high).crossed
    vague = certificate("upper", [0, 1], error=1.0)
    assert not Sandwich(low, vague).crossed


def test_unknown_names_are_refused_with_those_there_are():
    with pytest.raises(UsageError, match="'mcmc' is not known: choose of importance, elbo, ais"):
        check_methods(["ais", "mcmc"])
    with pytest.raises(UsageError, match="no method was named"):
        check_methods([])
    with pytest.raises(UsageError, match="at least 1, found 0"):
        Asked(samples=0)
    with pytest.raises(UsageError, match="found decoder"):
        Asked(start="decoder")
    for wrong in ((), ("decoder",), ("prior", "prior")):
        with pytest.raises(UsageError, match="encoder, fitted, prior, each once"):
            Asked(proposals=wrong)


# -- work that was stopped ------------------------------------------------------------------------


def test_unfinished_work_is_found_by_all_that_it_depends_on(tmp_path):
    place, table = Unfinished(tmp_path / "u", {"seed": 0}), np.arange(6.0).reshape(2, 3)
    assert place.load() is None
    place.save(table)
    assert (place.load() == table).all()
    assert Unfinished(tmp_path / "u", {"seed": 1}).load() is None
    place.remove()
    assert not (tmp_path / "u").exists()
    place.remove()


class Opened:
    """Where it is unpickled, a file is left at a path."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"\0" * 200])
def test_damaged_unfinished_work_begins_anew(tmp_path, content):
    place = Unfinished(tmp_path, {"seed": 0})
    place.save(np.ones((2, 2)))
    place.path.write_bytes(content)
    assert place.load() is None
    opened = np.array([Opened(tmp_path / "opened")], dtype=object)
    np.save(place.path, opened, allow_pickle=True)
    assert place.load() is None
    assert not (tmp_path / "opened").exists()
    np.save(place.path, np.ones(3, np.int8))
    assert place.load() is None


def test_a_folder_that_cannot_be_written_keeps_nothing(tmp_path):
    (tmp_path / "file").touch()
    place = Unfinished(tmp_path / "file", {})
    place.save(np.ones(3))
    assert place.load() is None


# -- trained models -------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif("AEVB_DATA" not in os.environ, reason="AEVB_DATA names no folder of data sets")
@pytest.mark.parametrize("latent_dim", [2, 3])
def test_all_methods_agree_on_models_of_mnist(latent_dim, tmp_path):
    options = ["--latent-dim", latent_dim, "--hidden", 200, "--activation", "tanh", "--epochs", 20]
    good("train", "binarized-mnist", *options, "--out", tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    model, encoder = folder.load()
    rows = folder.dataset().test.limit(40)
    truth = estimate(model, encoder, rows, ["exact"]).certificates[0]
    assert (truth.errors < 2e-3).all()
    both = Asked(samples=100_000, proposals=("encoder", "prior"))
    slowly = Asked(samples=32, annealing=Annealing(200), start="prior")
    for method, asked in (
        ("importance", both),
        ("ais", slowly),
        ("hmc", Asked(samples=2000)),
    ):
        found = estimate(model, encoder, rows, [method], asked).certificates[0]
        # Of rows whose weights say so the estimate is none to be relied on.
        sure = np.ones(len(rows), bool) if found.pareto_k is None else found.pareto_k < 0.7
        apart = (found.values - truth.values)[sure]
        errors = np.hypot(found.errors, truth.errors)[sure]
        assert (np.abs(apart) < 5 * errors).mean() > 0.95
        assert abs(apart.mean()) < 5 * np.sqrt(np.square(errors).sum()) / len(errors)
        assert found.monte_carlo_error < 0.1
        assert sure.sum() > 10

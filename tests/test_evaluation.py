"""Evaluation: independence of chunking, certificates, errors that cover, diagnosis, refitting."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from helpers import binary_rows, needs_compiler, quadrature, seeded, small_pair

import aevb
from aevb import codes, evaluation
from aevb.data import Binarization, Rows
from aevb.errors import UsageError
from aevb.evaluation import (
    Certificate,
    bound_parts,
    diagnose,
    evidence,
    operations,
    refit,
    worth_compiling,
)
from aevb.evaluation.case import Case
from aevb.evaluation.signs import learning
from aevb.evaluation.weights import Weights
from aevb.posterior import ExactPosterior


def test_errors_cover_the_truth_as_often_as_they_claim():
    model, posterior = small_pair(spread=0.8)
    rows = binary_rows(4)
    truth = quadrature(model, rows.all().double().numpy())
    inside = []
    for seed in range(200):
        result = evidence(model, posterior, rows, 400, seed=seed).importance
        inside.append(np.abs(result.values - truth) < 2 * result.errors)
    covered = np.mean(inside)
    assert 0.92 < covered < 0.985


def test_more_samples_are_tighter_and_never_above():
    model, posterior = small_pair(spread=0.8)
    rows = binary_rows(40)
    truth = quadrature(model, rows.all().double().numpy()).mean()
    results = [evidence(model, posterior, rows, k).importance for k in (1, 10, 100, 2000)]
    assert all(r.mean < truth + 5 * r.monte_carlo_error for r in results[1:])
    assert results[0].mean < results[2].mean
    assert math.isnan(results[0].monte_carlo_error)
    assert results[0].as_dict()["monte_carlo_error"] is None


def test_certificate_is_plain_statistics():
    values, errors = np.array([-1.0, -2.0, -6.0]), np.array([0.3, 0.0, 0.4])
    c = Certificate("m", "log p(x)", "lower", 5, values, errors, 2.5, 8, "d", "none")
    assert c.mean == -3.0
    assert c.standard_error == pytest.approx(values.std(ddof=1) / math.sqrt(3))
    assert c.monte_carlo_error == pytest.approx(0.5 / 3)
    assert c.bits_per_dimension == pytest.approx(3 / (8 * math.log(2)))
    expected = {
        "method",
        "estimand",
        "direction",
        "unit",
        "samples",
        "n",
        "mean",
        "standard_error",
        "monte_carlo_error",
        "effective_sample_size",
        "bits_per_dimension",
        "data",
        "binarize",
        "precision",
        "pareto_k",
        "remarks",
    }
    assert set(json.loads(json.dumps(c.as_dict()))) == expected
    assert "(a lower bound on log p(x), m, 5 samples" in str(c)
    assert "(the value itself, m" in str(dataclasses.replace(c, direction="exact"))


def test_the_error_of_a_mean_of_weights_is_the_delta_methods():
    """That of log f(mean) for independent weights: sd / (sqrt(K) mean), with K - 1 in the sd."""
    w = np.random.default_rng(0).gamma(2.0, size=(7, 3))
    found = Weights.of(torch.from_numpy(np.log(w))).summary()
    assert np.allclose(found.value, np.log(w.mean(0)), rtol=1e-12)
    assert np.allclose(found.error, w.std(0, ddof=1) / np.sqrt(7) / w.mean(0), rtol=1e-10)
    assert np.allclose(found.ess, w.sum(0) ** 2 / (w**2).sum(0), rtol=1e-12)
    assert Weights.of(torch.zeros(1, 2)).summary().error.isnan().all()


def test_effective_sample_size_is_k_at_the_exact_posterior():
    class Half(torch.nn.Module):
        def forward(self, x):
            return torch.cat([x / 2, torch.full_like(x, math.log(0.5))], -1)

    class Identity(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.p = torch.nn.Parameter(torch.zeros(1))

        def forward(self, z):
            return torch.cat([z, torch.zeros_like(z)], -1)

    model = aevb.Model(
        aevb.standard_normal(1), aevb.gaussian(Identity(), min_variance=0.0)
    ).double()
    values = np.linspace(-2, 2, 9)[:, None]
    rows = Rows(values, np.arange(9), (1,))
    result = evidence(model, aevb.mean_field(Half()), rows, 64)
    assert result.importance.effective_sample_size == pytest.approx(64, rel=1e-6)
    assert result.importance.monte_carlo_error < 1e-6
    exact = torch.distributions.Normal(0.0, math.sqrt(2.0)).log_prob(
        torch.from_numpy(values.astype(np.float32)).double()
    )
    assert np.allclose(result.importance.values, exact[:, 0].numpy(), atol=1e-9)
    assert np.allclose(result.reconstruction - result.kl, result.elbo.values)


def test_active_units_and_divergence_by_dimension():
    model, posterior = small_pair(latent=3, width=6)
    head = posterior.conditional.network.head
    with torch.no_grad():
        head.weight[1] = 0.0  # the mean of dimension 2 does not move: a dead unit
        head.weight[4] = 0.0
        head.bias[[1, 4]] = 0.0
    rows = binary_rows(200)
    d = diagnose(model, posterior, rows)
    q = posterior(rows.all().double())
    kl = torch.distributions.kl_divergence(q.base_dist, model.prior().base_dist).mean(0).detach()
    assert np.allclose(d.kl_by_dimension, kl.numpy())
    assert d.kl_by_dimension[1] == pytest.approx(0, abs=1e-12)
    assert d.active_units == 2
    x_hat = torch.sigmoid(model.likelihood.network(q.mean)).detach()
    error = (rows.all().double() - x_hat).square().sum(1).mean()
    assert d.reconstruction_error == pytest.approx(float(error))
    assert json.dumps(d.as_dict())


def test_refitted_parameters_beat_the_encoder():
    model, posterior = small_pair(spread=0.8)
    rows = binary_rows(12)
    fitted = refit(model, aevb.per_datum(1, 2), rows)
    ours = evidence(model, fitted, rows, 2000).elbo
    encoder = evidence(model, posterior, rows, 2000).elbo
    truth = quadrature(model, rows.all().double().numpy())
    assert (ours.values < truth + 5 * ours.errors).all()
    assert ours.mean > encoder.mean
    assert ours.mean > truth.mean() - 0.1
    assert all(p.grad is None for p in model.parameters())


def test_the_bound_of_an_exact_posterior_has_no_sampling_error():
    """Of three coins, by numpy's sum over their eight values."""
    prior = aevb.Unconditional(aevb.families.Bernoulli(), 3)
    decoder = seeded(lambda: torch.nn.Linear(3, 6))
    torch.nn.init.normal_(decoder.weight, std=2.0, generator=torch.Generator().manual_seed(0))
    model, rows = aevb.Model(prior, aevb.bernoulli(decoder)), binary_rows(5)
    z = np.stack(np.meshgrid(*[[0, 1]] * 3), -1).reshape(8, 3)
    logits = z @ decoder.weight.detach().numpy().T + decoder.bias.detach().numpy()
    x = rows.all().double().numpy()
    truth = np.logaddexp.reduce(x @ logits.T - np.logaddexp(0, logits).sum(1), axis=1) - np.log(8)
    found = evidence(model, ExactPosterior(model), rows, 10)
    assert np.allclose(found.elbo.values, truth, atol=1e-5)
    assert found.elbo.monte_carlo_error < 1e-5
    assert found.kl_by == "closed form"


def test_treatment_stands_beside_the_number():
    rows = binary_rows(3)
    assert rows.stated == "none"
    drawn = Rows(rows.values, rows.index, rows.shape, binarize=Binarization.EPOCH, seed=4)
    assert drawn.stated == "epoch (one draw, seed 4)"


def test_a_row_that_overflows_is_told_and_json_knows_no_infinity():
    model = aevb.Model(aevb.standard_normal(2), aevb.gaussian(aevb.MLP(2, [8], 12)))
    posterior = aevb.mean_field(aevb.MLP(6, [8], 4))
    x = np.zeros((3, 6), np.float32)
    x[1] = 3e19
    found = evidence(model, posterior, Rows(x, np.arange(3), (6,)), 10)
    assert np.isfinite(found.importance.values).tolist() == [True, False, True]
    for certificate in (found.importance, found.elbo):
        told = json.loads(json.dumps(certificate.as_dict(), allow_nan=False))
        assert told["mean"] is None
        assert any(remark.startswith("1 of 3 rows lie so far") for remark in told["remarks"])


def test_certificates_are_compared_and_hashed_by_identity():
    one, other = (evidence(*small_pair(), binary_rows(2), 5).importance for _ in range(2))
    assert one != other
    assert len({one, other}) == 2


def test_samples_must_be_positive():
    with pytest.raises(UsageError, match="at least 1"):
        evidence(*small_pair(), binary_rows(2), 0)


# -- codes ----------------------------------------------------------------------------------------


def test_codes_there_and_back():
    model, posterior = small_pair()
    rows = binary_rows(2500)
    z = codes.encode(model, posterior, rows)
    assert np.allclose(z, posterior(rows.all().double()).mean.detach().numpy())
    assert (codes.encode(model, posterior, rows) == z).all()
    x = codes.reconstruct(model, posterior, rows)
    assert np.allclose(x, codes.decode(model, z))
    expected = torch.sigmoid(model.likelihood.network(torch.from_numpy(z))).detach().numpy()
    assert np.allclose(x, expected)
    with pytest.raises(UsageError, match=r"codes must have shape \(N, 2\), found \(3, 4\)"):
        codes.decode(model, np.zeros((3, 4)))


def test_samples_follow_the_model():
    model, _ = small_pair(spread=1.5)
    means, draws = codes.sample(model, 40_000), codes.sample(model, 40_000, draw=True)
    assert (codes.sample(model, 5) == codes.sample(model, 5)).all()
    assert (codes.sample(model, 5) != codes.sample(model, 5, seed=1)).any()
    assert set(np.unique(draws)) == {0.0, 1.0}
    assert np.abs(means.mean(0) - draws.mean(0)).max() < 5 * 0.5 / math.sqrt(40_000)
    every = np.array([[(i >> k) & 1 for k in range(6)] for i in range(64)], dtype=float)
    probability = np.exp(quadrature(model, every))
    counts = np.bincount((draws @ (2 ** np.arange(6))).astype(int), minlength=64) / 40_000
    error = np.sqrt(probability * (1 - probability) / 40_000)
    assert probability.sum() == pytest.approx(1, abs=1e-6)
    assert (np.abs(counts - probability) < 5 * error + 1e-9).all()


def test_the_spherical_way_turns_evenly_at_the_distances_of_its_ends():
    way = codes.interpolate(np.array([2.0, 0.0]), np.array([-1.0, 3**0.5]), 5, spherical=True)
    assert np.allclose(np.hypot(*way.T), 2)
    assert np.allclose(np.arctan2(way[:, 1], way[:, 0]), np.linspace(0, 2 / 3 * np.pi, 5))


def test_interpolation_is_a_straight_line_with_both_ends():
    line = codes.interpolate(np.array([0.0, 2.0]), np.array([4.0, 0.0]), 5)
    assert line.tolist() == [[0, 2], [1, 1.5], [2, 1], [3, 0.5], [4, 0]]
    with pytest.raises(UsageError, match="at least 2"):
        codes.interpolate(line[0], line[1], 1)
    with pytest.raises(UsageError, match="at least 1"):
        codes.sample(small_pair()[0], 0)


@needs_compiler
@pytest.mark.parametrize(
    "dtype", [torch.float64, pytest.param(torch.float32, marks=pytest.mark.slow)], ids=str
)
def test_the_compiled_estimate_equals_the_plain_one(dtype):
    pair, rows = small_pair(dtype=dtype), binary_rows(7)
    plain = evidence(*pair, rows, 1100, seed=3, compiled=False)
    compiled = evidence(*pair, rows, 1100, seed=3, compiled=True)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    for a, b in zip(
        (plain.importance.values, plain.elbo.values, plain.importance.errors),
        (compiled.importance.values, compiled.elbo.values, compiled.importance.errors),
        strict=True,
    ):
        assert np.allclose(a, b, rtol=tolerance, atol=tolerance)


def test_the_encoder_runs_once_for_all_samples_of_a_row(monkeypatch):
    model, posterior = small_pair()
    calls = []
    original = type(posterior).forward
    monkeypatch.setattr(
        type(posterior), "forward", lambda q, batch: calls.append(1) or original(q, batch)
    )
    evidence(model, posterior, binary_rows(3), 4000, compiled=False)
    assert len(calls) == 2  # once for the shape of its noise, once for the rows


def test_an_estimate_in_bfloat16_is_near_and_says_so():
    pair, rows = small_pair(dtype=torch.float32), binary_rows(7)
    exact = evidence(*pair, rows, 100, seed=3)
    quick = evidence(*pair, rows, 100, seed=3, precision="bfloat16")
    assert 0 < np.abs(exact.importance.values - quick.importance.values).max() < 0.05
    assert quick.importance.as_dict()["precision"] == "bfloat16"
    assert exact.elbo.as_dict()["precision"] == "float32"
    assert "products in bfloat16" in str(quick.importance)
    with pytest.raises(UsageError, match="need a model in float32"):
        evidence(*small_pair(), rows, 10, precision="bfloat16")


def test_whether_to_compile_an_estimate_depends_on_sizes_alone(monkeypatch):
    model, posterior = small_pair(latent=2, hidden=5, width=6)
    encode, decode = operations(model, posterior, binary_rows(3))
    assert (encode, decode) == (2 * (6 * 5 + 5 * 4), 2 * (2 * 5 + 5 * 6))
    assert not worth_compiling(model, posterior, binary_rows(100), 1000)
    assert worth_compiling(model, posterior, binary_rows(100), 10**9)
    # 7 rows are encoded once, and decoded for each of 3 samples
    for limit, worth in ((7 * (100 + 3 * 80) - 1, True), (7 * (100 + 3 * 80), False)):
        monkeypatch.setattr(evaluation.work, "OPERATIONS_WORTH_COMPILING", limit)
        assert worth_compiling(model, posterior, binary_rows(7), 3) is worth


def test_the_error_of_an_epochs_bound_is_that_of_one_draw_for_each_row():
    model, posterior = small_pair()
    rows, parts = binary_rows(20), {"elbo": -4.0}
    bounds = [bound_parts(model, posterior, rows, seed=seed)["elbo"] for seed in range(1000)]
    kept = {"train": parts, "validation": parts}
    counts = {"train": 10**9, "validation": len(rows)}
    case = Case(model, posterior, rows, (posterior, rows), kept=kept, counts=counts)
    noise = learning._gaps(case)[-1][2] ** 2 - np.var(case.evidence.elbo.values) / len(rows)
    assert case.evidence.kl_by == "closed form"
    error = (np.var(bounds) / len(bounds) + case.evidence.elbo.monte_carlo_error**2) ** 0.5
    assert np.mean(bounds) == pytest.approx(case.evidence.elbo.mean, abs=5 * error)
    k = case.evidence.elbo.samples
    assert noise == pytest.approx(np.var(bounds) * (k - 1) / k, rel=0.25)


def test_a_bound_by_samples_lies_below_the_evidence_and_its_divergence_above_zero():
    family = aevb.families.Mixture(2, 3)
    encoder = seeded(lambda: aevb.MLP(6, [5], family.outputs(2)))
    posterior = aevb.amortized(encoder, family).double()
    found = evidence(small_pair()[0], posterior, binary_rows(), 500)
    assert found.kl_by == "samples"
    assert (found.elbo.values < found.importance.values).all()
    assert (found.kl > 0).all()

"""Gaps: the split of what the bound loses, held against linear-Gaussian models by hand."""

import json
import math
from importlib import import_module

import numpy as np
import pytest
import torch
from helpers import Memory, binary_rows, call, good, needs_compiler, refused, small_pair
from scipy.stats import multivariate_normal
from torch import nn

import aevb
from aevb import families
from aevb.conditional import Chain, Conditional
from aevb.data import Rows
from aevb.errors import UsageError
from aevb.evaluation import Certificate, batches, evidence, gaps, posterior_for, refit
from aevb.model import observing
from aevb.posterior import Amortized, Ladder
from aevb.storage import RunFolder
from aevb.workflow.gaps import measure_gaps

DOUBLE = torch.float64
REFIT, GAPS = (import_module(f"aevb.evaluation.{name}") for name in ("refit", "gaps"))


class Linear:
    """p(x, z) = N(z; 0, I) N(x; W z + b, diag(noise)), with all its answers in closed form."""

    def __init__(self, seed, latent=3, width=6):
        draw = np.random.default_rng(seed)
        self.latent, self.width = latent, width
        self.w = draw.standard_normal((width, latent))
        self.b = draw.standard_normal(width)
        self.noise = np.exp(draw.uniform(-1.5, 0.5, width))
        self.precision = np.eye(latent) + self.w.T @ (self.w / self.noise[:, None])
        self.gain = np.linalg.solve(self.precision, self.w.T / self.noise)
        self.draw = draw

    def model(self):
        zeros = np.zeros_like(self.w)
        bias = np.concatenate([self.b, np.log(self.noise)])
        network = linear(np.concatenate([self.w, zeros]), bias)
        return aevb.Model(aevb.standard_normal(self.latent), aevb.gaussian(network, 0.0)).double()

    def rows(self, n, spread=1.0):
        covariance = self.w @ self.w.T + np.diag(self.noise)
        x = self.draw.multivariate_normal(self.b, spread**2 * covariance, n)
        return Rows(x, np.arange(n), (self.width,))

    def log_p(self, rows):
        covariance = self.w @ self.w.T + np.diag(self.noise)
        return multivariate_normal(self.b, covariance).logpdf(rows.all().double().numpy())

    def kl(self, rows, mean, covariance):
        """KL(N(mean, covariance) || p(z given x)) of each row."""
        off = mean - (rows.all().double().numpy() - self.b) @ self.gain.T
        squares = np.einsum("ni,ij,nj->n", off, self.precision, off)
        determinants = np.linalg.slogdet(self.precision)[1] + np.linalg.slogdet(covariance)[1]
        trace = np.trace(self.precision @ covariance)
        return 0.5 * (trace + squares - self.latent - determinants)

    @property
    def best_diagonal(self):
        """KL of the best diagonal Gaussian: the exact mean, variances 1 / precision_dd."""
        diagonal = np.log(np.diag(self.precision)).sum()
        return 0.5 * (diagonal - np.linalg.slogdet(self.precision)[1])

    def wrong_diagonal(self, off=0.3):
        """An encoder with shifted means and wrong variances, and its KL on rows."""
        slope = self.gain + off * 0.2 * self.draw.standard_normal(self.gain.shape)
        shift = off * self.draw.standard_normal(self.latent) - slope @ self.b
        variance = np.exp(off * self.draw.standard_normal(self.latent)) / np.diag(self.precision)
        weight = np.concatenate([slope, np.zeros_like(slope)])
        network = linear(weight, np.concatenate([shift, np.log(variance)]))

        def kl(rows):
            return self.kl(rows, rows.all().double().numpy() @ slope.T + shift, np.diag(variance))

        return aevb.mean_field(network).double(), kl

    def wrong_full(self):
        """An encoder with a full covariance, not that of the posterior, and its KL on rows."""
        slope = self.gain + 0.05 * self.draw.standard_normal(self.gain.shape)
        shift = 0.3 * self.draw.standard_normal(self.latent) - slope @ self.b
        numbers = families.MultivariateNormal().outputs(self.latent) - self.latent
        bias = np.concatenate([shift, self.draw.standard_normal(numbers) * 0.5])
        weight = np.concatenate([slope, np.zeros((numbers, self.width))])
        posterior = aevb.full_covariance(linear(weight, bias)).double()

        def kl(rows):
            q = posterior(rows.all().double())
            covariance = q.covariance_matrix[0].detach().numpy()
            return self.kl(rows, q.mean.detach().numpy(), covariance)

        return posterior, kl

    def exact(self, rows):
        """The certificate of the exact log p(x)."""
        values = self.log_p(rows)
        zeros = np.zeros(len(values))
        about = ("exact", "log p(x)", "exact", 1, values, zeros)
        return Certificate(*about, 1.0, self.width, "data", "none")


def linear(weight, bias):
    network = nn.Linear(weight.shape[1], weight.shape[0], dtype=DOUBLE)
    with torch.no_grad():
        network.weight.copy_(torch.from_numpy(weight))
        network.bias.copy_(torch.from_numpy(bias))
    return network


def check(parts, truth):
    """The gaps of some rows are the true means, within their errors and what was left to do."""
    left = 2 * (parts.left.mean + 2 * parts.left.standard_error)
    assert 0 <= left < 0.05
    for column, low, high in (
        ("approximation", 0, left),
        ("amortization", -left, 0),
        ("inference", 0, 0),
    ):
        mean = parts.mean(column)
        apart = mean.mean - truth[column]
        noise = 5 * mean.monte_carlo_error + 1e-9
        assert low - noise <= apart <= high + noise, (column, apart, left, noise)


@pytest.mark.parametrize("seed", range(6))
def test_the_gaps_of_a_diagonal_encoder_are_the_analytic_ones(seed):
    truth = Linear(seed, latent=2 + seed % 4)
    posterior, kl = truth.wrong_diagonal()
    train, test = truth.rows(30), truth.rows(40)
    found = gaps(truth.model(), posterior, train, test, samples=500, seed=seed)
    for rows, parts in ((train, found.train), (test, found.test)):
        inference = kl(rows).mean()
        expected = {
            "approximation": truth.best_diagonal,
            "amortization": inference - truth.best_diagonal,
            "inference": inference,
        }
        assert expected["amortization"] > 0.05
        check(parts, expected)


@pytest.mark.parametrize("seed", range(3))
def test_a_full_covariance_leaves_nothing_to_approximation(seed):
    truth = Linear(seed, latent=3)
    posterior, kl = truth.wrong_full()
    train, test = truth.rows(20), truth.rows(30)
    found = gaps(
        truth.model(), posterior, train, test, samples=500, seed=seed, evidence=truth.exact
    )
    for rows, parts in ((train, found.train), (test, found.test)):
        inference = kl(rows).mean()
        assert inference > 0.1
        check(
            parts,
            {"approximation": 0.0, "amortization": inference, "inference": inference},
        )
        assert (parts.method, parts.direction) == ("exact", "exact")


def test_the_generalization_gap_is_the_difference_of_the_means():
    truth = Linear(3)
    posterior, kl = truth.wrong_diagonal()
    train, test = truth.rows(60, spread=0.7), truth.rows(50, spread=1.5)
    found = gaps(truth.model(), posterior, train, test, samples=300, evidence=truth.exact)
    of_log_p = found.generalization("log_p")
    log_p = [truth.log_p(rows) for rows in (train, test)]
    assert of_log_p.mean == pytest.approx(log_p[0].mean() - log_p[1].mean(), abs=1e-9)
    spread = math.sqrt(sum(v.var(ddof=1) / len(v) for v in log_p))
    assert of_log_p.standard_error == pytest.approx(spread)
    of_bound = found.generalization("encoder")
    bound = [v.mean() - kl(rows).mean() for v, rows in zip(log_p, (train, test), strict=True)]
    assert bound[0] - bound[1] > 1
    assert abs(of_bound.mean - (bound[0] - bound[1])) < 5 * of_bound.monte_carlo_error
    whole = found.generalization("inference").mean
    assert whole == pytest.approx(of_log_p.mean - of_bound.mean)


def test_errors_are_those_of_paired_differences_and_of_means_apart():
    rng = np.random.default_rng(1)
    best = rng.normal(-50, 5, 30)  # of each datum, and what the encoder loses
    values = {"log_p": best + 1, "best": best, "encoder": best - rng.gamma(2.0, size=30)}
    errors = {column: rng.gamma(2.0, size=30) for column in values}
    parts = GAPS.Parts(values, errors, np.zeros(30), "given", "lower")
    mean, apart = parts.mean("amortization"), values["best"] - values["encoder"]
    noise = np.sqrt(errors["best"] ** 2 + errors["encoder"] ** 2)
    spread = apart.std(ddof=1) / math.sqrt(30)
    assert mean == pytest.approx((apart.mean(), spread, math.sqrt((noise**2).sum()) / 30))
    assert mean.standard_error < parts.mean("best").standard_error / 3
    one, other = GAPS.Mean(-1.0, 0.3, 0.03), GAPS.Mean(-3.0, 0.4, 0.04)
    assert one.less(other) == pytest.approx((2.0, 0.5, 0.05))


def test_monte_carlo_errors_cover_the_truth():
    truth = Linear(2)
    posterior, kl = truth.wrong_diagonal()
    rows = truth.rows(300)
    parts = gaps(truth.model(), posterior, rows.pick(np.arange(1)), rows, samples=100).test
    z = (parts.values["encoder"] - truth.log_p(rows) + kl(rows)) / parts.errors["encoder"]
    assert 0.85 < z.std() < 1.2
    assert abs(z.mean()) < 0.25


def test_free_numbers_lose_nothing_to_amortization():
    truth = Linear(4)
    rows = truth.rows(25)
    free = aevb.per_datum(1, truth.latent).double()
    parts = gaps(truth.model(), free, rows, rows, samples=300, evidence=truth.exact).test
    assert parts.mean("amortization")[:2] == (0.0, 0.0)
    check(
        parts,
        {
            "approximation": truth.best_diagonal,
            "amortization": 0.0,
            "inference": parts.mean("approximation").mean,
        },
    )


# -- log p(x) by another way ----------------------------------------------------------------------


def certificate(rows, value, direction):
    values = np.full(len(rows), value)
    about = ("given", "log p(x)", direction, 1, values, np.zeros_like(values))
    return Certificate(*about, 1.0, 6, "data", "none")


def test_the_highest_lower_bound_is_taken_and_others_as_they_are(quick_refits):
    model, posterior = small_pair()
    rows = binary_rows(6)
    own = gaps(model, posterior, rows, rows, samples=20)
    assert own.test.method.startswith("importance from")
    assert "lower bound" in str(own)
    for direction, value, method in (
        ("lower", -1.0, "given"),
        ("lower", -99.0, own.test.method),
        ("upper", -99.0, "given"),
        ("exact", -99.0, "given"),
    ):
        found = gaps(
            *(model, posterior, rows, rows),
            samples=20,
            evidence=lambda rows, v=value, d=direction: certificate(rows, v, d),
        )
        assert found.test.method == method
        assert ("upper bounds" in str(found)) == (direction == "upper")
        assert ("is a lower bound" in str(found)) == (direction == "lower")


def test_the_table_and_the_dictionary_say_the_same(quick_refits):
    model, posterior = small_pair()
    found = gaps(model, posterior, binary_rows(9), binary_rows(7, seed=1), samples=20)
    table = json.loads(json.dumps(found.as_dict()))
    assert table["test"]["n"] == 7
    text = str(found)
    for side in ("train", "test", "generalization"):
        for column in ("log_p", "best", "encoder", "approximation", "amortization", "inference"):
            cell = table[side][column]
            assert f"{cell['mean']:.2f} ± {cell['standard_error']:.2f}" in text
    assert all(len(line) < 80 for line in text.splitlines()[:7])
    one = gaps(model, posterior, binary_rows(1), binary_rows(1), samples=20).as_dict()
    assert one["test"]["best"]["standard_error"] is None


# -- the same numbers in any company --------------------------------------------------------------


def test_work_that_was_stopped_is_taken_up_again(monkeypatch, quick_refits):
    monkeypatch.setattr(batches, "CELLS_AT_ONCE", {"cpu": 8 * 6 * 3})
    model, posterior = small_pair()
    train, test = binary_rows(9), binary_rows(7, seed=1)
    whole = gaps(model, posterior, train, test, samples=20)
    places = {"train": Memory(), "test": Memory()}
    seen = []

    def stop(done, of):
        seen.append((done, of))
        if done > 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gaps(model, posterior, train, test, samples=20, kept=places.get, progress=stop)
    assert seen == [(3, 16), (6, 16), (9, 16), (12, 16)]
    assert places["test"].table[-1].tolist() == [1, 1, 1, 0, 0, 0, 0]
    places["test"].table[0, 0] = -77.0  # what is kept is not made again
    again = gaps(model, posterior, train, test, samples=20, kept=places.get)
    assert again.test.values["encoder"][0] == -77.0
    assert (again.test.values["encoder"][1:] == whole.test.values["encoder"][1:]).all()
    assert (again.test.values["log_p"] == whole.test.values["log_p"]).all()


# -- posteriors of every make ---------------------------------------------------------------------


def encoder(family, size=2, width=6):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        made = family()
        return Conditional(aevb.MLP(width, [5], made.outputs(size)), made)


def chain():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        above = Conditional(aevb.MLP(1, [4], 2), families.Normal())
    return Chain([encoder(families.Normal, 1), above], [1, 1])


MAKES = {
    "low-rank": lambda: encoder(lambda: families.LowRankMultivariateNormal(1)),
    "mixture": lambda: encoder(lambda: families.Mixture(2, 3)),
    "planar": lambda: encoder(lambda: families.Planar(2, 2)),
    "iaf": lambda: encoder(lambda: families.InverseAutoregressive(2, 2, (4,), 3)),
    "student": lambda: encoder(lambda: families.Elementwise(aevb.distributions.Logistic)),
    "chain": chain,
}


@pytest.mark.parametrize("make", MAKES)
def test_every_family_is_refined_and_nothing_shared_moves(make):
    model, _ = small_pair(spread=0.8)
    posterior = Amortized(MAKES[make]()).double()
    rows = binary_rows(8)
    before = {k: v.clone() for k, v in posterior.named_parameters()}
    fitted = refit(model, posterior, rows)
    bounds = [evidence(model, q, rows, 1000).elbo for q in (posterior, fitted)]
    noise = math.hypot(*(bound.monte_carlo_error for bound in bounds))
    assert bounds[1].mean > bounds[0].mean + 2 * noise
    assert all(torch.equal(v, before[k]) for k, v in posterior.named_parameters())
    assert all(p.grad is None for p in (*model.parameters(), *posterior.parameters()))


def test_rows_get_free_numbers_of_their_own_and_an_encoder_is_left():
    model, encoder = small_pair()
    rows = binary_rows(3)
    assert posterior_for(model, encoder, rows) is encoder
    free = aevb.per_datum(50, 2).double()
    fitted = posterior_for(model, free, rows)
    assert torch.equal(
        fitted.conditional.network.table, refit(model, free, rows).conditional.network.table
    )
    with pytest.raises(UsageError, match="at least 0, found -4"):
        refit(model, encoder, rows, steps=-4)


def test_free_numbers_are_fitted_to_the_cells_that_are_there():
    model, _ = small_pair()
    x = binary_rows(3).all().double().numpy()
    x[1, 2] = np.nan
    rows, free = Rows(x, np.arange(3), (6,)), aevb.per_datum(50, 2).double()
    fitted, expected = (
        f.conditional.network.table
        for f in (posterior_for(model, free, rows), refit(observing(model), free, rows))
    )
    assert torch.isfinite(fitted).all()
    assert torch.equal(fitted, expected)


def test_the_rate_falls_by_a_cosine_in_three_rounds():
    rounds = [(1, 4.0), (1, 1.0), (2, 0.2)]  # quarters of the steps, and factors
    expected = [
        [factor * (0.5 + 0.5 * math.cos(math.pi * t / (5 * n))) for t in range(5 * n)]
        for n, factor in rounds
    ]
    found = import_module("aevb.evaluation.refit")._rounds(20)
    assert np.allclose(np.concatenate(found), np.concatenate(expected))


def test_it_starts_at_what_the_encoder_says():
    model, posterior = small_pair()
    rows = binary_rows(5)
    fitted = refit(model, posterior, rows, steps=3, rate=0.0)
    batch = aevb.Batch(rows.all().double(), torch.arange(5))
    assert torch.allclose(fitted(batch).mean, posterior(batch).mean, atol=1e-14)
    assert torch.allclose(fitted(batch).stddev, posterior(batch).stddev, atol=1e-14)


def test_a_ladder_has_no_numbers_of_its_own():
    links = [
        aevb.conditional.Unconditional(families.Normal(), 2),
        Conditional(nn.Linear(2, 6), families.Normal()),
    ]
    prior = Chain(links, [2, 3], reverse=True)
    rungs, heads = [nn.Linear(6, 4), nn.Linear(4, 4)], [nn.Linear(4, 6), nn.Linear(4, 4)]
    model = aevb.Model(prior, aevb.bernoulli(nn.Linear(5, 6)))
    ladder = Amortized(Ladder(rungs, heads, prior))
    with pytest.raises(UsageError, match=r"one network and a family, .* found Ladder"):
        gaps(model, ladder, binary_rows(3), binary_rows(3))


def test_a_datum_that_overflows_leaves_the_others_alone():
    model, posterior = small_pair()
    rows = binary_rows(6)
    x = rows.all().numpy()
    x[:, 0] = np.arange(6) == 5
    head = posterior.conditional.network = linear(np.eye(4, 6), np.zeros(4))
    with torch.no_grad():
        head.weight[3, 0] = 2000.0  # the log-variance of row 6
    both = refit(model, posterior, Rows(x, np.arange(6), (6,)), steps=30)
    alone = refit(model, posterior, Rows(x, np.arange(5), (6,)), steps=30)
    table = both.conditional.network.table
    assert torch.isfinite(table).all()
    assert torch.allclose(table[:5], alone.conditional.network.table, atol=1e-12)


@needs_compiler
def test_the_compiled_step_gives_the_same_numbers(monkeypatch):
    model, posterior = small_pair(dtype=torch.float32)
    rows = binary_rows(9)
    monkeypatch.setattr(batches, "CELLS_AT_ONCE", {"cpu": 8 * 6 * 4})
    plain = refit(model, posterior, rows, steps=20).conditional.network.table
    monkeypatch.setattr(REFIT, "OPERATIONS_WORTH_COMPILING", 0)
    compiled = refit(model, posterior, rows, steps=20).conditional.network.table
    assert torch.allclose(plain, compiled, atol=1e-5)


# -- a run ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gaps") / "run"
    options = ["--hidden", 8, "--latent-dim", 2, "--epochs", 3]
    good("train", "digits", *options, "--out", folder)
    return folder


def test_the_command_tells_the_gaps_behind_the_findings(trained):
    told = good("check", trained, "--gaps", "--data-limit", 20)
    found = told["gaps"]
    assert found["train"]["n"] == found["test"]["n"] == 20
    for part in ("train", "test"):
        means = {column: found[part][column]["mean"] for column in GAPS.COLUMNS}
        assert means["inference"] == pytest.approx(means["approximation"] + means["amortization"])
        assert means["log_p"] - means["encoder"] == pytest.approx(means["inference"])
        assert means["amortization"] > -0.2
    code, out, _ = call("check", trained, "--gaps", "--data-limit", 20, "--quiet")
    assert code == 0
    line = next(line for line in out.splitlines() if line.startswith("amortization"))
    assert f"{found['test']['amortization']['mean']:.2f}" in line
    assert "leave DATA out" in refused(2, "check", trained, "digits", "--gaps")


def test_gaps_that_were_stopped_go_on(trained, monkeypatch, quick_refits):
    folder = RunFolder(trained)
    whole = measure_gaps(folder, 6)

    def stop(done, total):
        if done > 6:  # the training rows are done, and some of the others
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure_gaps(folder, 6, progress=stop)
    assert len(list((trained / "unfinished").iterdir())) == 2
    calls = []
    original = GAPS._Measure.__call__
    monkeypatch.setattr(GAPS._Measure, "__call__", lambda *a: calls.append(1) or original(*a))
    again = measure_gaps(folder, 6)
    assert calls == []
    assert str(again) == str(whole)
    assert not (trained / "unfinished").exists()

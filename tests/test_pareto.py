"""The shape of the tail of importance weights, held to the fit of the papers in numpy."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import genpareto

from aevb.evaluation.pareto import largest, tail_shape, tail_size, verdict

LAWS = {
    "no tail": lambda rng, n: rng.random(n) + 0.5,
    "exponential": lambda rng, n: rng.exponential(size=n) + 1e-9,
    "log-normal": lambda rng, n: rng.lognormal(sigma=2, size=n),
    "a variance": lambda rng, n: genpareto.rvs(0.3, size=n, random_state=rng),
    "no mean": lambda rng, n: genpareto.rvs(1.2, size=n, random_state=rng),
}


def zhang_and_stephens(y):
    """k of a generalized Pareto law by its sample y > 0, (M,): their xi is -k, their theta is b.

    The estimate of theta is its mean over their data-driven grid by the profile likelihood, 30 +
    sqrt(M) points as Vehtari et al. have it; k is then drawn to 1/2 as by 10 further observations.
    """
    y, n = np.sort(y), len(y)
    m = 30 + math.floor(math.sqrt(n))
    quartile = y[math.floor(n / 4 + 0.5) - 1]
    j = np.arange(1, m + 1)
    theta = 1 / y.max() + (1 - np.sqrt(m / (j - 0.5))) / (3 * quartile)
    k = np.array([-np.log(1 - t * y).mean() for t in theta])
    profile = n * (np.log(theta / k) + k - 1)
    weight = np.array([1 / np.exp(profile - own).sum() for own in profile])
    xi = np.log(1 - (theta * weight).sum() * y).mean()
    return (n * xi + 10 * 0.5) / (n + 10)


@pytest.mark.parametrize("samples", [25, 203, 4000])
@pytest.mark.parametrize("name", LAWS)
def test_the_shape_is_the_fit_of_zhang_and_stephens_with_a_prior(name, samples):
    """To the largest min(S / 5, 3 sqrt(S)) weights, rounded up, less the next."""
    rng = np.random.default_rng(samples)
    weights = np.stack([LAWS[name](rng, samples) for _ in range(4)], axis=1)
    found = tail_shape(largest(torch.from_numpy(np.log(weights)), samples))
    m = {25: 5, 203: 41, 4000: 190}[samples]
    rising = np.sort(weights, axis=0)[-m - 1 :]
    expected = [zhang_and_stephens(y) for y in (rising[1:] - rising[0]).T]
    assert np.allclose(found.numpy(), expected, rtol=1e-10, atol=1e-10)


def test_the_shape_of_a_pareto_tail_is_found():
    weights = genpareto.rvs(0.7, size=(5000, 200), random_state=np.random.default_rng(0))
    found = tail_shape(largest(torch.from_numpy(np.log(weights)), 5000))
    # Towards the prior's 1/2, by 10 parts in M + 10.
    m = tail_size(5000)
    expected = (m * 0.7 + 5) / (m + 10)
    error = float(found.std()) / math.sqrt(200)
    assert float(found.mean()) == pytest.approx(expected, abs=4 * error + 0.02)
    assert float(found.std()) < 0.2


def test_the_scale_of_the_weights_does_not_matter():
    log_weights = torch.from_numpy(np.random.default_rng(1).gumbel(size=(1000, 3)))
    plain = tail_shape(largest(log_weights, 1000))
    assert torch.allclose(tail_shape(largest(log_weights - 5000.0, 1000)), plain, atol=1e-9)


def test_the_largest_are_the_same_in_pieces():
    log_weights = torch.from_numpy(np.random.default_rng(2).normal(size=(900, 4)))
    kept = None
    for piece in log_weights.split(130):
        kept = largest(piece, 900, kept)
    assert torch.equal(kept, largest(log_weights, 900))
    assert len(kept) == tail_size(900) + 1 == 91


@pytest.mark.parametrize("spread", [30.0, 100.0, 300.0, 400.0, 500.0, 1000.0, 1e6])
def test_the_worst_weights_are_never_called_reliable(spread):
    """Of log-weights that are normal with this deviation k is about a third of it."""
    log_weights = spread * torch.from_numpy(np.random.default_rng(3).normal(size=(1000, 20)))
    found = tail_shape(largest(log_weights, 1000))
    assert (found > spread / 6).all()
    assert verdict(found.numpy(), 1000)["verdict"] == "unreliable"


def test_one_weight_alone_is_not_reliable_and_none_at_all_is_not_known():
    alone = torch.full((1000, 2), -math.inf, dtype=torch.float64)
    assert tail_shape(largest(alone, 1000)).isnan().all()
    alone[0] = -7.0
    assert (tail_shape(largest(alone, 1000)) == math.inf).all()


def test_even_weights_and_few_weights():
    assert (tail_shape(largest(torch.zeros(1000, 2), 1000)) == -math.inf).all()
    few = tail_shape(largest(torch.randn(10, 2), 10))
    assert few.isnan().tolist() == [True, True]
    assert few.dtype == torch.float64


def test_verdict():
    k = np.full(1000, 0.2)
    assert verdict(k, 1000)["verdict"] == "reliable"
    assert verdict(k, 1000)["limit"] == pytest.approx(2 / 3)
    assert verdict(k, 10_000)["limit"] == 0.7
    assert verdict(k, 11)["limit"] == pytest.approx(1 - 1 / math.log10(11))
    k[:20] = 0.9
    assert verdict(k, 1000)["share_above"] == 0.02
    assert verdict(k, 1000)["verdict"] == "doubtful"
    k[:600] = 0.9
    assert verdict(k, 1000)["verdict"] == "unreliable"
    assert verdict(np.array([math.nan]), 1000)["share_above"] is None
    for samples in (5, 10):
        assert verdict(k, samples)["verdict"].startswith("unknown")
    told = verdict(np.array([-math.inf, 0.1, 0.5, 0.6, math.inf, math.nan]), 1000)
    assert (told["median"], told["largest"], told["share_above"]) == (0.5, 0.6, 0.2)
    told = verdict(np.array([-math.inf, -math.inf]), 1000)
    assert (told["median"], told["largest"], told["verdict"]) == (None, None, "reliable")

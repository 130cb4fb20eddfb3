"""The shape of the tail of importance weights, held to laws whose tails are known."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import genpareto

from aevb.evaluation.pareto import largest, tail_shape, tail_size, verdict


@pytest.mark.parametrize("shape", [0.0, 0.3, 0.7, 1.2])
def test_the_shape_of_a_pareto_tail_is_found(shape):
    rng = np.random.default_rng(0)
    weights = rng.exponential(size=(5000, 200)) + 1e-9
    if shape:
        weights = genpareto.rvs(shape, size=(5000, 200), random_state=rng)
    found = tail_shape(largest(torch.from_numpy(np.log(weights)), 5000))
    # Towards the prior's 1/2, by 10 parts in M + 10.
    m = tail_size(5000)
    expected = (m * shape + 5) / (m + 10)
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


def test_even_weights_and_few_weights():
    assert (tail_shape(largest(torch.zeros(1000, 2), 1000)) == -math.inf).all()
    assert tail_shape(largest(torch.randn(10, 2), 10)).isnan().all()


def test_verdict():
    k = np.full(1000, 0.2)
    assert verdict(k, 1000)["verdict"] == "reliable"
    assert verdict(k, 1000)["limit"] == pytest.approx(2 / 3)
    k[:20] = 0.9
    assert verdict(k, 1000)["share_above"] == 0.02
    assert verdict(k, 1000)["verdict"] == "doubtful"
    k[:600] = 0.9
    assert verdict(k, 1000)["verdict"] == "unreliable"
    assert verdict(np.array([math.nan]), 1000)["share_above"] is None
    assert verdict(k, 5)["verdict"].startswith("unknown")

"""Draws are pure functions of (seed, stream, counter), and streams do not meet."""

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st

from aevb.errors import UsageError
from aevb.randomness import Stream, generator, standard_normal, uniform

SEEDS = st.integers(0, 2**64 - 1)
COUNTERS = st.integers(0, 2**63)


@given(SEEDS, st.sampled_from(list(Stream)), COUNTERS, COUNTERS)
def test_same_arguments_same_numbers_others_differ(seed, stream, a, b):
    first = generator(seed, stream, a, b).random(4)
    assert (first == generator(seed, stream, a, b).random(4)).all()
    other = Stream((stream + 1) % len(Stream))
    for changed in (
        generator(seed ^ 1, stream, a, b),
        generator(seed, other, a, b),
        generator(seed, stream, a + 1, b),
        generator(seed, stream, a, b + 1),
    ):
        assert (first != changed.random(4)).all()


def test_streams_of_neighboring_steps_do_not_overlap():
    draws = np.concatenate([generator(0, Stream.NOISE, t).random(1000) for t in range(200)])
    assert len(np.unique(draws)) == len(draws)


def test_normal_and_uniform_follow_their_laws():
    z = torch.cat([standard_normal(generator(1, Stream.NOISE, t), (50,)) for t in range(1000)])
    u = torch.cat([uniform(generator(1, Stream.NOISE, t), (50,)) for t in range(1000)])
    assert scipy.stats.kstest(z.numpy(), "norm").pvalue > 1e-5
    assert scipy.stats.kstest(u.numpy(), "uniform").pvalue > 1e-5
    assert z.dtype == u.dtype == torch.float32
    assert standard_normal(generator(0, Stream.NOISE), (2,), torch.float64).dtype == torch.float64


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_seed_out_of_range(seed):
    with pytest.raises(UsageError, match="seed must lie between"):
        generator(seed, Stream.NOISE)

"""Draws are pure functions of (seed, stream, counter), and streams do not meet."""

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st

from aevb.errors import UsageError
from aevb.randomness import (
    Stream,
    generator,
    normal,
    rewind,
    uniform,
    uniform_in_step,
)

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
    z = torch.cat([normal(generator(1, Stream.NOISE, t), (50,)) for t in range(1000)])
    u = torch.cat([uniform(generator(1, Stream.NOISE, t), (50,)) for t in range(1000)])
    assert scipy.stats.kstest(z.numpy(), "norm").pvalue > 1e-5
    assert scipy.stats.kstest(u.numpy(), "uniform").pvalue > 1e-5
    assert z.dtype == u.dtype == torch.float32
    assert normal(generator(0, Stream.NOISE), (2,), torch.float64).dtype == torch.float64


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_seed_out_of_range(seed):
    with pytest.raises(UsageError, match="seed must lie between"):
        generator(seed, Stream.NOISE)


@pytest.mark.parametrize("counter", [(1, 2, 3, 4), (-1,), (2**64,)])
def test_counter_out_of_range(counter):
    with pytest.raises(UsageError, match="up to three counters"):
        generator(0, Stream.NOISE, *counter)


def splitmix64(seed, n):
    """The generator as published (Steele, Lea & Flood 2014), in whole numbers of Python."""
    words = []
    for i in range(1, n + 1):
        z = (seed + i * 0x9E3779B97F4A7C15) % 2**64
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        words.append(z ^ (z >> 31))
    return words


def test_the_reference_gives_the_published_outputs():
    assert splitmix64(1234567, 3) == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
    ]


@pytest.mark.parametrize("key", [0, 1, 2**63 - 1, 6457827717110365317 % 2**63])
def test_uniform_numbers_in_a_step_are_those_of_splitmix64(key):
    ours = uniform_in_step(torch.tensor(key), (7, 5))
    theirs = [(word >> 40) * 2.0**-24 for word in splitmix64(key, 35)]
    assert ours.dtype == torch.float32
    assert ours.flatten().tolist() == theirs
    assert float(ours.max()) < 1


def test_uniform_numbers_in_a_step_are_uniform_and_differ_between_keys():
    keys = [int(generator(0, Stream.BINARIZATION, 0, t).integers(2**63)) for t in range(20)]
    draws = torch.stack([uniform_in_step(torch.tensor(key), (20_000,)) for key in keys]).numpy()
    assert min(scipy.stats.kstest(draw, "uniform").pvalue for draw in draws) > 1e-4
    assert np.abs(np.corrcoef(draws) - np.eye(20)).max() < 5 / 20_000**0.5
    assert np.abs(np.corrcoef(draws[:, 1:].ravel(), draws[:, :-1].ravel())[0, 1]) < 5 / 4e5**0.5


@given(SEEDS, st.sampled_from(list(Stream)), COUNTERS, COUNTERS, st.integers(0, 9))
def test_a_generator_that_is_rewound_is_as_new(seed, stream, a, b, used):
    source = generator(seed, stream, 3)
    source.random(used, dtype=np.float32)  # leaves half a word, and part of a block
    source.standard_normal(used)
    expected = generator(seed, stream, a, b)
    again = rewind(source, a, b)
    assert (again.random(5, dtype=np.float32) == expected.random(5, dtype=np.float32)).all()
    assert (again.standard_normal(9) == expected.standard_normal(9)).all()

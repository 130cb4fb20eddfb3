"""Counter-based randomness: every draw is a pure function of (seed, stream, counter).

    generator(seed, stream, t, ...) = Philox4x64(key = (seed, stream), counter = (0, t, ...))

There is no global generator and no state to save: the noise of step t is the same whether the run
came there in one go or was resumed, and two streams never share a number. Philox is a bijection of
its counter under a key (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
"""

from collections.abc import Sequence
from enum import IntEnum

import numpy as np
import torch
from torch import Tensor

from aevb.errors import UsageError


class Stream(IntEnum):
    """What a draw is for; the numbers are part of every seed's meaning and never change."""

    INITIALIZATION = 0
    SPLIT = 1
    SUBSET = 2
    ORDER = 3
    BINARIZATION = 4
    NOISE = 5
    LAYERS = 6
    VALIDATION = 7
    EVALUATION = 8
    SAMPLING = 9
    IMPUTATION = 10


def generator(seed: int, stream: Stream, *counter: int) -> np.random.Generator:
    """The generator of one stream at one counter.

    Shapes: up to three counters (step, row, block), each in [0, 2^64).
    Errors: UsageError for a seed outside [0, 2^64).
    Example:
        >>> a = generator(0, Stream.NOISE, 7).standard_normal(3)
        >>> b = generator(0, Stream.NOISE, 7).standard_normal(3)
        >>> bool((a == b).all())
        True
    """
    if not 0 <= seed < 2**64:
        raise UsageError(f"the seed must lie between 0 and 2**64 - 1, found {seed}")
    words = np.array([0, *counter] + [0] * (3 - len(counter)), dtype=np.uint64)
    key = np.array([seed, int(stream)], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(counter=words, key=key))


def standard_normal(
    source: np.random.Generator, shape: Sequence[int], dtype: torch.dtype = torch.float32
) -> Tensor:
    """Draws of N(0, 1) as a tensor of the given shape and dtype (float32 or float64)."""
    numpy_dtype = np.float64 if dtype == torch.float64 else np.float32
    return torch.from_numpy(source.standard_normal(tuple(shape), dtype=numpy_dtype))


def uniform(
    source: np.random.Generator, shape: Sequence[int], dtype: torch.dtype = torch.float32
) -> Tensor:
    """Draws of U[0, 1) as a tensor of the given shape and dtype (float32 or float64)."""
    numpy_dtype = np.float64 if dtype == torch.float64 else np.float32
    return torch.from_numpy(source.random(tuple(shape), dtype=numpy_dtype))

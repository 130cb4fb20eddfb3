"""Counter-based randomness: every draw is a pure function of (seed, stream, counter).

    generator(seed, stream, t, ...) = Philox4x64(key = (seed, stream), counter = (0, t, ...))

There is no global generator and no state to save: the noise of step t is the same whether the run
came there in one go or was resumed, and two streams never share a number. Philox is a bijection of
its counter under a key (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from enum import IntEnum
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aevb.errors import UsageError


class Stream(IntEnum):
    """What a draw is for; the numbers are part of every seed's meaning and never change.

    Example:
        >>> noise, order = (generator(0, stream) for stream in (Stream.NOISE, Stream.ORDER))
        >>> bool((noise.random(3) == order.random(3)).any())
        False
    """

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
    ANNEALING = 11
    CHAINS = 12
    SIMULATION = 13
    CALIBRATION = 14
    CHECK = 15
    GRADIENTS = 16
    REFITTING = 17


def generator(seed: int, stream: Stream, *counter: int) -> np.random.Generator:
    """The generator of one stream at one counter.

    Shapes: up to three counters (step, row, block), each in [0, 2^64).
    Errors: UsageError for a seed or a counter outside [0, 2^64), and for more than three.
    Source: Salmon et al. (2011), "Parallel random numbers: as easy as 1, 2, 3".
    Example:
        >>> a = generator(0, Stream.NOISE, 7).standard_normal(3)
        >>> b = generator(0, Stream.NOISE, 7).standard_normal(3)
        >>> bool((a == b).all())
        True
    """
    if not 0 <= seed < 2**64:
        raise UsageError(f"the seed must lie between 0 and 2**64 - 1, found {seed}")
    key = np.array([seed, int(stream)], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(counter=_words(counter), key=key))


def rewind(source: np.random.Generator, *counter: int) -> np.random.Generator:
    """A generator of `generator`, set to another counter of its stream: as new, and cheaper.

    Errors: UsageError for a counter, as of `generator`.
    Example:
        >>> one, other = generator(0, Stream.NOISE, 7), generator(0, Stream.NOISE, 3)
        >>> bool((rewind(other, 7).random(3) == one.random(3)).all())
        True
    """
    bits: Any = source.bit_generator
    state = bits.state
    bits.state = state | {
        "state": {"counter": _words(counter), "key": state["state"]["key"]},
        "buffer_pos": 4,  # nothing is left of the block before
        "has_uint32": 0,
    }
    return source


def _words(counter: Sequence[int]) -> NDArray[np.uint64]:
    if len(counter) > 3 or not all(0 <= c < 2**64 for c in counter):
        raise UsageError(f"expected up to three counters from 0 to 2**64 - 1, found {counter}")
    return np.array([0, *counter] + [0] * (3 - len(counter)), dtype=np.uint64)


def by_row(
    seed: int,
    stream: Stream,
    keys: Iterable[int],
    draw: Callable[[np.random.Generator], Tensor],
    *counter: int,
    axis: int = 1,
    each: Callable[..., Iterable[Tensor]] = map,
) -> Tensor:
    """What `draw` makes for each row, side by side along an axis: a row's key names its numbers.

    `each` is `map`, or that of an executor.
    Shapes: `draw` gives (*A, *B) for a row, where `axis` is the number of axes in A; the result
    (*A, N, *B). At most two counters beside the key.
    Errors: those of `generator`.
    Example:
        >>> made = by_row(0, Stream.NOISE, [4, 2], lambda source: normal(source, (3,)), 1)
        >>> bool((made[:, 1] == normal(generator(0, Stream.NOISE, 2, 1), (3,))).all())
        True
    """
    # One generator may not serve two threads, and to rewind it is cheaper than to make another.
    shared = each is map
    named = partial(rewind, generator(seed, stream)) if shared else partial(generator, seed, stream)
    return torch.stack(list(each(lambda key: draw(named(int(key), *counter)), keys)), axis)


def normal(
    source: np.random.Generator, shape: Sequence[int], dtype: torch.dtype = torch.float32
) -> Tensor:
    """Draws of N(0, 1) as a tensor of the given dtype (float32 or float64).

    Shapes: the result has `shape`.
    Example:
        >>> normal(generator(0, Stream.NOISE, 7), (2, 3)).shape
        torch.Size([2, 3])
    """
    return torch.from_numpy(source.standard_normal(tuple(shape), dtype=_numpy(dtype)))


def uniform(
    source: np.random.Generator, shape: Sequence[int], dtype: torch.dtype = torch.float32
) -> Tensor:
    """Draws of U[0, 1) as a tensor of the given dtype (float32 or float64).

    Shapes: the result has `shape`.
    Example:
        >>> u = uniform(generator(0, Stream.NOISE, 7), (1000,), torch.float64)
        >>> bool((u >= 0).all() and (u < 1).all()), bool((u.mean() - 0.5).abs() < 0.05)
        (True, True)
    """
    return torch.from_numpy(source.random(tuple(shape), dtype=_numpy(dtype)))


def _numpy(dtype: torch.dtype) -> type[np.float32] | type[np.float64]:
    return np.float64 if dtype == torch.float64 else np.float32


def open_uniform(
    source: np.random.Generator, shape: Sequence[int], dtype: torch.dtype = torch.float32
) -> Tensor:
    """Draws of U(0, 1) that are never 0 nor 1, as symmetric as their law.

        u = (k + 1/2) / 2^b,  k uniform below 2^b,  b = 23 in float32 and 52 in float64

    Shapes: the result has `shape`.
    Example:
        >>> u = open_uniform(generator(0, Stream.NOISE, 7), (1000,))
        >>> bool(torch.logit(u).isfinite().all())
        True
    """
    double = dtype == torch.float64
    bits = 52 if double else 23
    k = source.integers(2**bits, size=tuple(shape)).astype(np.float64)
    u: Tensor = torch.from_numpy(np.asarray((k + 0.5) * 2.0**-bits))
    return u if double else u.float()


@contextmanager
def torch_kept(device: torch.device) -> Iterator[None]:
    """Leave torch's own generators, of the processor and of a GPU, as they were found.

    Example:
        >>> with torch_kept(torch.device("cpu")):
        ...     inside = torch.rand(())
        >>> bool(inside == torch.rand(()))
        True
    """
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


def seed_torch(word: int, device: torch.device) -> None:
    """Seed torch's own generators, for samplers and layers that draw for themselves.

    Example:
        >>> draws = []
        >>> for _ in range(2):
        ...     seed_torch(7, torch.device("cpu"))
        ...     draws.append(torch.rand(()).item())
        >>> draws[0] == draws[1]
        True
    """
    torch.default_generator.manual_seed(word)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index].manual_seed(word)


@contextmanager
def torch_seeded(source: np.random.Generator, device: torch.device) -> Iterator[None]:
    """Draw under torch's own generators as a generator of ours says, and leave them as found.

    Example:
        >>> def draw():
        ...     with torch_seeded(generator(0, Stream.SAMPLING), torch.device("cpu")):
        ...         return torch.poisson(torch.ones(3))
        >>> bool((draw() == draw()).all())
        True
    """
    with torch_kept(device):
        seed_torch(int(source.integers(2**63)), device)
        yield


def uniform_in_step(key: Tensor, shape: Sequence[int]) -> Tensor:
    """U[0, 1) as tensor arithmetic, so that large draws can be made inside a compiled step.

        u_i = (SplitMix64's output i + 1 from the seed `key`) / 2^64, its first 24 bits

    Shapes: key () int64, from `generator(...).integers(2**63)`; the result `shape`, float32.
    Source: Steele, Lea & Flood (2014), "Fast splittable pseudorandom number generators".
    Example:
        >>> uniform_in_step(torch.tensor(1234567), (2,))
        tensor([0.3501, 0.1736])
    """
    # A number that depends on data: a compiler would take a known one for an index of 32 bits.
    i = torch.arange(1, math.prod(shape) + 1, device=key.device) + (key - key)
    z = key + i * _signed(0x9E3779B97F4A7C15)
    z = (z ^ _shifted(z, 30)) * _signed(0xBF58476D1CE4E5B9)
    z = (z ^ _shifted(z, 27)) * _signed(0x94D049BB133111EB)
    u = _shifted(z ^ _shifted(z, 31), 40).to(torch.float32) * 2.0**-24
    return u.reshape(tuple(shape))


def normal_in_step(key: Tensor, shape: Sequence[int]) -> Tensor:
    """N(0, 1) as tensor arithmetic, of two uniform numbers each, inside a compiled step.

        e = sqrt(-2 log(1 - u)) cos(2 pi v)

    Shapes: as `uniform_in_step`. The largest there is, is 5.8: a uniform number has 24 bits.
    Source: Box & Muller (1958), "A note on the generation of random normal deviates".
    Example:
        >>> normal_in_step(torch.tensor(1234567), (2,))
        tensor([-0.9094,  0.0039])
    """
    u, v = uniform_in_step(key, (2, *shape)).unbind()
    return torch.sqrt(-2 * torch.log1p(-u)) * torch.cos(2 * math.pi * v)


def _signed(word: int) -> int:
    """The 64-bit word as torch has it: its integers are signed, and wrap around."""
    return word - 2**64 if word >= 2**63 else word


def _shifted(z: Tensor, bits: int) -> Tensor:
    """z moved right by so many bits, with zeros coming in: torch's shift repeats the sign."""
    shifted: Tensor = (z >> bits) & (2 ** (64 - bits) - 1)
    return shifted

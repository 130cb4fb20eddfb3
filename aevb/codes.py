"""From data to codes and back: encode, decode, reconstruct, sample, interpolate.

code = E_q[z given x];   decoded = E[x given z];   a sample: z from p(z), x from p(x given z)
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aevb.data import Rows
from aevb.errors import UsageError
from aevb.evaluation import evaluating
from aevb.model import Model
from aevb.posterior import Batch, Posterior
from aevb.randomness import Stream, generator

Array = NDArray[np.float64]
CHUNK = 1000


def encode(model: Model, posterior: Posterior, rows: Rows) -> Array:
    """The posterior mean of each row, (N, D): an embedding, the same at every call."""
    parts = []
    with evaluating(model, posterior):
        for positions, x in rows.chunks(CHUNK):
            batch = Batch(x.to(_dtype(model)), torch.from_numpy(positions))
            parts.append(posterior(batch).mean)
    return _array(torch.cat(parts))


def decode(model: Model, codes: Array) -> Array:
    """E[x given z] for codes (N, D), as rows (N, X); UsageError for another number of columns."""
    size = model.prior().event_shape[0]
    if codes.ndim != 2 or codes.shape[1] != size:
        raise UsageError(f"codes must have shape (N, {size}), found {codes.shape}")
    return _by_chunks(model, codes, model.expectation)


def reconstruct(model: Model, posterior: Posterior, rows: Rows) -> Array:
    """E[x given z] at the posterior mean of each row, (N, X)."""
    return decode(model, encode(model, posterior, rows))


def sample(model: Model, n: int, *, seed: int = 0, draw: bool = False) -> Array:
    """n samples of z from the prior, decoded, (n, X): the mean of p(x given z), or draws of it.

    Errors: UsageError for n < 1.
    Example:
        >>> import aevb
        >>> decoder = aevb.MLP(2, [8], 64)
        >>> model = aevb.Model(aevb.standard_normal(2), aevb.continuous_bernoulli(decoder))
        >>> sample(model, 3).shape
        (3, 64)
    """
    if n < 1:
        raise UsageError(f"the number of samples must be at least 1, found {n}")
    with evaluating(model):
        z = model.sample_prior(n, generator(seed, Stream.SAMPLING))
    if not draw:
        return decode(model, _array(z))
    with torch.random.fork_rng(devices=[]):
        # Likelihoods need no differentiable draws: torch's own samplers do, under a seed of ours.
        torch.manual_seed(int(generator(seed, Stream.SAMPLING, 1).integers(2**63)))
        return _by_chunks(model, _array(z), lambda z: model.likelihood(z).sample())


def interpolate(start: Array, stop: Array, steps: int) -> Array:
    """Codes on the straight line between two codes (D,), both ends included, (steps, D)."""
    if steps < 2:
        raise UsageError(f"an interpolation needs at least 2 steps, found {steps}")
    return np.linspace(start, stop, steps)


def _by_chunks(model: Model, codes: Array, function: Callable[[Tensor], Tensor]) -> Array:
    with evaluating(model):
        chunks = torch.from_numpy(codes).to(_dtype(model)).split(CHUNK)
        return _array(torch.cat([function(z).flatten(1) for z in chunks]))


def _dtype(model: Model) -> torch.dtype:
    return next(model.parameters()).dtype


def _array(tensor: Tensor) -> Array:
    return tensor.double().numpy()

"""From data to codes and back: encode, decode, reconstruct, sample, interpolate, traverse.

code = E_q[z given x];   decoded = E[x given z];   a sample: z from p(z), x from p(x given z)
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aevb.data import Rows
from aevb.devices import tensor_of
from aevb.distributions import center
from aevb.distributions.reparameterization import drawn
from aevb.errors import UsageError, at_least
from aevb.evaluation import batch_for, evaluating
from aevb.model import Model
from aevb.posterior import Posterior
from aevb.randomness import Stream, generator, torch_seeded

Array = NDArray[np.float64]
CHUNK = 1000


def encode(model: Model, posterior: Posterior, rows: Rows) -> Array:
    """The posterior mean of each row, (N, D): an embedding, the same at every call."""
    parts = []
    with evaluating(model, posterior):
        for positions, x in rows.chunks(CHUNK):
            parts.append(center(posterior(batch_for(model, x, positions))))
    return _array(torch.cat(parts))


def encode_samples(
    model: Model, posterior: Posterior, rows: Rows, *, samples: int, seed: int = 0
) -> Array:
    """Draws of z from q(z given x) for each row, (samples, N, D); UsageError for samples < 1."""
    at_least(1, samples, "the number of samples")
    parts, like = [], tensor_of(model)
    with evaluating(model, posterior):
        for positions, x in rows.chunks(CHUNK):
            q = posterior(batch_for(model, x, positions))
            source = generator(seed, Stream.SAMPLING, int(positions[0]), 3)
            parts.append(drawn(q, (samples,), source, like))
    return _array(torch.cat(parts, dim=1))


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
    z = sample_latent(model, n, seed=seed)
    return draw_data(model, z, seed=seed) if draw else decode(model, z)


def sample_latent(model: Model, n: int, *, seed: int = 0) -> Array:
    """n draws of z from the prior, (n, D)."""
    at_least(1, n, "the number of samples")
    with evaluating(model):
        return _array(model.sample_prior(n, generator(seed, Stream.SAMPLING)))


def draw_data(model: Model, codes: Array, *, seed: int = 0) -> Array:
    """A draw of x from p(x given z) for each code, (N, X)."""
    # Likelihoods need no differentiable draws: torch's own samplers do, under a seed of ours.
    with torch_seeded(generator(seed, Stream.SAMPLING, 1), tensor_of(model).device):
        return _by_chunks(model, codes, lambda z: model.likelihood(z).sample())


def interpolate(start: Array, stop: Array, steps: int, *, spherical: bool = False) -> Array:
    """Codes on the way between two codes (D,), both ends included, (steps, D).

        straight   (1 - t) a + t b
        spherical  sin((1 - t) w) / sin(w) a + sin(t w) / sin(w) b,   w the angle between a and b

    In many dimensions the prior lies near a sphere, through whose empty middle a straight line
    goes; the spherical way stays at the distances of its ends.
    Errors: UsageError for fewer than 2 steps.
    Source: Shoemake (1985), "Animating rotation with quaternion curves"; White (2016), "Sampling
    generative networks".
    Example:
        >>> interpolate(np.array([1.0, 0.0]), np.array([0.0, 1.0]), 3, spherical=True)[1].round(3)
        array([0.707, 0.707])
    """
    at_least(2, steps, "the number of steps")
    norms = np.linalg.norm(start) * np.linalg.norm(stop)
    cosine = float(start @ stop / norms) if norms else 1.0
    angle = np.arccos(np.clip(cosine, -1.0, 1.0))
    if not spherical or np.sin(angle) < 1e-6:
        return np.linspace(start, stop, steps)
    t = np.linspace(0.0, 1.0, steps)[:, None]
    way: Array = (np.sin((1 - t) * angle) * start + np.sin(t * angle) * stop) / np.sin(angle)
    return way


def traverse(
    size: int, dimension: int, values: Array | None = None, *, start: Array | None = None
) -> Array:
    """Codes along one latent dimension (0-based) of `size`, the others held, (V, D).

    `values` (V,) are -3 to 3 in 13 steps when left out; the others stay at `start` (D,), or at 0.
    Errors: UsageError for a dimension that there is not.
    Example:
        >>> traverse(3, 1, np.array([-1.0, 1.0])).tolist()
        [[0.0, -1.0, 0.0], [0.0, 1.0, 0.0]]
    """
    if not 0 <= dimension < size:
        raise UsageError(
            f"dimension {dimension} was asked for, the latent space has dimensions 0 to {size - 1}"
        )
    values = np.linspace(-3.0, 3.0, 13) if values is None else np.asarray(values, np.float64)
    codes = np.tile(np.zeros(size) if start is None else start, (len(values), 1))
    codes[:, dimension] = values
    return codes


def _by_chunks(model: Model, codes: Array, function: Callable[[Tensor], Tensor]) -> Array:
    with evaluating(model):
        chunks = torch.from_numpy(codes).to(tensor_of(model)).split(CHUNK)
        return _array(torch.cat([function(z).flatten(1) for z in chunks]))


def _array(tensor: Tensor) -> Array:
    return tensor.double().cpu().numpy()

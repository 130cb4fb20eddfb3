"""From data to codes and back: encode, decode, reconstruct, sample, interpolate, traverse.

code = E_q[z given x];   decoded = E[x given z];   a sample: z from p(z), x from p(x given z)
"""

from collections.abc import Callable
from operator import index
from typing import SupportsIndex

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aevb.data import Rows
from aevb.devices import tensor_of
from aevb.distributions import center, on_reals
from aevb.distributions.reparameterization import drawn
from aevb.errors import UsageError, at_least
from aevb.evaluation import evaluating, in_batches
from aevb.model import Model
from aevb.posterior import Posterior
from aevb.randomness import Stream, generator, torch_seeded

Array = NDArray[np.float64]
CHUNK = 1000
STEPS = np.linspace(-3.0, 3.0, 13)
"""Of a traversal, where nearly all of a standard normal prior lies."""


def encode(model: Model, posterior: Posterior, rows: Rows) -> Array:
    """The posterior mean of each row: an embedding, the same at every call.

        z_n = E_q[z given x_n];   for a q without a mean what `aevb.distributions.center` takes

    Shapes: N rows of X cells; (N, D) in float64.
    Source: Kingma & Welling (2013), section 2.1, for q as an encoder.
    Example:
        >>> from aevb.linear_gaussian import linear_gaussian
        >>> truth = linear_gaussian([[3.0], [4.0]], [0.0, 0.0], 1.0)  # z = W^T x / 26
        >>> rows = Rows(np.array([[3.0, 4.0], [6.0, 8.0]]), np.arange(2), (2,))
        >>> encode(truth, truth.exact_encoder(), rows).ravel().round(3)
        array([0.962, 1.923])
    """
    parts = []
    with evaluating(model, posterior):
        for _, batch in in_batches(model, rows, CHUNK):
            parts.append(center(posterior(batch)))
    return _array(torch.cat(parts))


def encode_samples(
    model: Model, posterior: Posterior, rows: Rows, *, samples: int, seed: int = 0
) -> Array:
    """Draws of z from q(z given x) for each row.

    Shapes: N rows of X cells; (samples, N, D) in float64.
    Errors: UsageError for fewer than 1 sample.
    Example:
        >>> from aevb.linear_gaussian import linear_gaussian
        >>> truth = linear_gaussian([[3.0], [4.0]], [0.0, 0.0], 1.0)  # q has variance 1 / 26
        >>> rows = Rows(np.array([[3.0, 4.0]]), np.arange(1), (2,))
        >>> draws = encode_samples(truth, truth.exact_encoder(), rows, samples=10_000)
        >>> draws.shape, bool(abs(26 * draws.var() - 1) < 0.05)
        ((10000, 1, 1), True)
    """
    at_least(1, samples, "the number of samples", whole=True)
    parts, like = [], tensor_of(model)
    with evaluating(model, posterior):
        for positions, batch in in_batches(model, rows, CHUNK):
            source = generator(seed, Stream.SAMPLING, int(positions[0]), 3)
            parts.append(drawn(posterior(batch), (samples,), source, like))
    return _array(torch.cat(parts, dim=1))


def decode(model: Model, codes: Array) -> Array:
    """The mean of the data given codes, E[x given z]; of classes the most probable one.

    For a likelihood without a mean, or without a formula for it, what `aevb.distributions.center`
    takes: the median of a Student's t with heavy tails.
    Shapes: codes (N, D); (N, X) in float64, pictures as flat rows. Units: of the data, as the model
    sees them.
    Errors: UsageError for codes with another number of columns.
    Example:
        >>> from aevb.linear_gaussian import linear_gaussian
        >>> truth = linear_gaussian([[3.0], [4.0]], [0.0, 0.0], 1.0)
        >>> decode(truth, np.array([[2.0]]))
        array([[6., 8.]])
    """
    size = model.prior().event_shape[0]
    if codes.ndim != 2 or codes.shape[1] != size:
        raise UsageError(f"codes must have shape (N, {size}), found {codes.shape}")
    return _by_chunks(model, codes, model.expectation)


def reconstruct(model: Model, posterior: Posterior, rows: Rows) -> Array:
    """What is left of each row once it went through its code: `decode` of `encode`.

    Shapes: N rows of X cells; (N, X) in float64. Units: of the data, as the model sees them.
    Example:
        >>> from aevb.linear_gaussian import linear_gaussian
        >>> truth = linear_gaussian([[3.0], [4.0]], [0.0, 0.0], 1.0)
        >>> rows = Rows(np.array([[4.0, -3.0]]), np.arange(1), (2,))  # across W: no code says so
        >>> np.abs(reconstruct(truth, truth.exact_encoder(), rows)).round(3)
        array([[0., 0.]])
    """
    return decode(model, encode(model, posterior, rows))


def sample(model: Model, n: int, *, seed: int = 0, draw: bool = False) -> Array:
    """Samples of z from the prior, decoded: the mean of p(x given z), or with `draw` draws of it.

    Shapes: (n, X) in float64. Units: of the data, as the model sees them.
    Errors: UsageError for n < 1.
    Source: Kingma & Welling (2013), section 2.1, for the two steps that make a datum.
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
    """Draws of z from the prior p(z).

    Shapes: (n, D) in float64.
    Errors: UsageError for n < 1.
    Example:
        >>> from aevb.linear_gaussian import linear_gaussian
        >>> z = sample_latent(linear_gaussian([[3.0], [4.0]], [0.0, 0.0], 1.0), 10_000)
        >>> z.shape, bool(abs(z.mean()) < 0.05), bool(abs(z.std() - 1) < 0.05)
        ((10000, 1), True, True)
    """
    at_least(1, n, "the number of samples", whole=True)
    with evaluating(model):
        return _array(model.sample_prior(n, generator(seed, Stream.SAMPLING)))


def draw_data(model: Model, codes: Array, *, seed: int = 0) -> Array:
    """A draw of x from p(x given z) for each code: `decode` with the noise of the data.

    Shapes: codes (N, D); (N, X) in float64. Units: of the data, as the model sees them.
    Example:
        >>> from aevb.linear_gaussian import linear_gaussian
        >>> truth = linear_gaussian([[3.0], [4.0]], [0.0, 0.0], 1.0)
        >>> noise = draw_data(truth, np.full((10_000, 1), 2.0)) - [6.0, 8.0]
        >>> bool(abs(noise.mean()) < 0.05), bool(abs(noise.std() - 1) < 0.05)
        (True, True)
    """
    # Likelihoods need no differentiable draws: torch's own samplers do, under a seed of ours.
    with torch_seeded(generator(seed, Stream.SAMPLING, 1), tensor_of(model).device):
        return _by_chunks(model, codes, lambda z: model.likelihood(z).sample())


def interpolate(start: Array, stop: Array, steps: int, *, spherical: bool = False) -> Array:
    """Codes on the way between two codes, both ends included.

        straight   (1 - t) a + t b
        spherical  sin((1 - t) w) / sin(w) a + sin(t w) / sin(w) b,   w the angle between a and b

    In many dimensions the prior lies near a sphere, through whose empty middle a straight line
    goes; the spherical way stays at the distances of its ends.
    Shapes: start and stop (D,); (steps, D).
    Errors: UsageError for fewer than 2 steps.
    Source: Shoemake (1985), "Animating rotation with quaternion curves"; White (2016), "Sampling
    generative networks".
    Example:
        >>> interpolate(np.array([1.0, 0.0]), np.array([0.0, 1.0]), 3, spherical=True)[1].round(3)
        array([0.707, 0.707])
    """
    at_least(2, steps, "the number of steps", whole=True)
    norms = np.linalg.norm(start) * np.linalg.norm(stop)
    cosine = float(start @ stop / norms) if norms else 1.0
    angle = np.arccos(np.clip(cosine, -1.0, 1.0))
    if not spherical or np.sin(angle) < 1e-6:
        return np.linspace(start, stop, steps)
    t = np.linspace(0.0, 1.0, steps)[:, None]
    way: Array = (np.sin((1 - t) * angle) * start + np.sin(t * angle) * stop) / np.sin(angle)
    return way


def traverse(
    model: Model, dimension: int, values: Array | None = None, *, start: Array | None = None
) -> Array:
    """Codes along one latent dimension (0-based) of a model, the others held.

    Shapes: `values` (V,), -3 to 3 in 13 steps when left out; `start` (D,), where the others stay,
    or 0; (V, D).
    Errors: UsageError for a dimension that there is not, and without `values` for codes that are
    not any real numbers: coins, shares, directions.
    Example:
        >>> from aevb.linear_gaussian import linear_gaussian
        >>> truth = linear_gaussian([[3.0, 0.0], [4.0, 1.0]], [0.0, 0.0], 1.0)
        >>> traverse(truth, 1, np.array([-1.0, 1.0])).tolist()
        [[0.0, -1.0], [0.0, 1.0]]
    """
    prior = model.prior()
    size = int(prior.event_shape[0])
    if not isinstance(dimension, SupportsIndex) or not 0 <= index(dimension) < size:
        raise UsageError(
            f"dimension {dimension} was asked for, the latent space has dimensions 0 to {size - 1}"
        )
    if values is None and not on_reals(prior):
        raise UsageError(
            "a traversal goes from -3 to 3, and codes of this model are no free real numbers: "
            "decode codes of your own, or interpolate between rows"
        )
    values = STEPS if values is None else np.atleast_1d(np.asarray(values, np.float64))
    codes = np.tile(np.zeros(size) if start is None else start, (len(values), 1))
    codes[:, index(dimension)] = values
    return codes


def _by_chunks(model: Model, codes: Array, function: Callable[[Tensor], Tensor]) -> Array:
    with evaluating(model):
        chunks = torch.tensor(codes).to(tensor_of(model)).split(CHUNK)  # a view warns of frames
        return _array(torch.cat([function(z).flatten(1) for z in chunks]))


def _array(tensor: Tensor) -> Array:
    return tensor.double().cpu().numpy()

"""z = g(noise): the differentiable map from standard noise to a draw, one entry for each family.

A class of this project states its own route by two methods, `noise(generator, shape, dtype)` and
`transform(noise)`; for classes that torch owns the table below says the same.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal

from aevb.errors import UsageError
from aevb.randomness import standard_normal


class Route(NamedTuple):
    """The law of the noise and the map g from noise to z."""

    noise: Callable[[np.random.Generator, Sequence[int], torch.dtype], Tensor]
    transform: Callable[[Distribution, Tensor], Tensor]


def _normal(q: Distribution, noise: Tensor) -> Tensor:
    assert isinstance(q, Normal)
    return q.loc + q.scale * noise


def _multivariate_normal(q: Distribution, noise: Tensor) -> Tensor:
    assert isinstance(q, MultivariateNormal)
    # Networks may run in bfloat16 around this; z does not.
    with torch.autocast(noise.device.type, enabled=False):
        return q.loc + (q.scale_tril @ noise.unsqueeze(-1)).squeeze(-1)


ROUTES: dict[type[Distribution], Route] = {
    Normal: Route(standard_normal, _normal),
    MultivariateNormal: Route(standard_normal, _multivariate_normal),
}


def route(q: Distribution) -> Route:
    """The route of a distribution; UsageError, naming those there are, where none is known."""
    base = q.base_dist if isinstance(q, Independent) else q
    found = ROUTES.get(type(base))
    if found is None:
        known = ", ".join(kind.__name__ for kind in ROUTES)
        raise UsageError(
            f"no reparameterization of {type(base).__name__} is known (known: {known}): "
            "choose one of these as the posterior"
        )
    return found


def reparameterize(q: Distribution, noise: Tensor) -> Tensor:
    """z = g(noise), differentiable in the parameters of q.

        Normal: z = loc + scale * noise;   MultivariateNormal: z = loc + L noise

    Shapes: q with batch (N,) and event (D,); noise (S, N, D); z (S, N, D).
    Errors: UsageError for a family without a route or noise of another shape.
    Source: Kingma & Welling (2013), section 2.4.
    Example:
        >>> reparameterize(Normal(torch.ones(2), 3.0), torch.ones(1, 2))
        tensor([[4., 4.]])
    """
    expected = (*q.batch_shape, *q.event_shape)
    if tuple(noise.shape[noise.ndim - len(expected) :]) != expected or noise.ndim < len(expected):
        raise UsageError(
            f"noise must have shape (S, {', '.join(map(str, expected))}), "
            f"found {tuple(noise.shape)}"
        )
    return route(q).transform(q.base_dist if isinstance(q, Independent) else q, noise)

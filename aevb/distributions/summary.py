"""One value to stand for a distribution: its mean, or what comes nearest to one."""

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from aevb.distributions.reparameterization import base_of, ours, parameter, route
from aevb.randomness import Stream, generator

DRAWS = 100


def center(q: Distribution) -> Tensor:
    """E_q[z], the same at every call: a code, where q is a posterior.

    Where a class has no formula for its mean, as a flow has none, it is the mean of 100 draws, of
    the same noise for every element of the batch; where there is no mean, as for a Cauchy, it is
    the median, or that of the draws.
    Shapes: (*batch, *event).
    Example:
        >>> from aevb.distributions import Cauchy
        >>> center(Cauchy(torch.tensor([3.0]), torch.ones(1)))
        tensor([3.])
    """
    try:
        mean = q.mean
    except NotImplementedError:
        return _draws(q).mean(0)
    # A graph that is traced for an export has no values to look at, and takes the mean.
    if torch.compiler.is_compiling() or bool(torch.isfinite(mean).all()):
        return mean
    try:
        median: Tensor = ours(base_of(q)).icdf(torch.full_like(mean, 0.5))
    except NotImplementedError:
        median = _draws(q).median(0).values
    return torch.where(torch.isfinite(mean), mean, median)


def on_reals(q: Distribution) -> bool:
    """Whether draws may be any real numbers.

    Example:
        >>> from aevb.distributions import Gamma, Normal
        >>> on_reals(Normal(torch.zeros(2), 1.0)), on_reals(Gamma(torch.ones(2), 1.0))
        (True, False)
    """
    return isinstance(support_of_cells(q.support), type(constraints.real))


def support_of_cells(support: Any) -> Any:
    """The constraint on each number of an event, out of those that only gather axes or parts.

    Example:
        >>> support_of_cells(constraints.real_vector)
        Real()
    """
    while (base := getattr(support, "base_constraint", None)) is not None:
        support = base
    return support


def _draws(q: Distribution) -> Tensor:
    way, like = route(q), parameter(base_of(q))
    shape = way.noise.shape
    alone = way.noise.draw(generator(0, Stream.SAMPLING, 7), (DRAWS,), like.dtype)
    alone = alone.reshape(DRAWS, *[1] * len(q.batch_shape), *shape)
    return way.transform(alone.expand(DRAWS, *q.batch_shape, *shape).to(like.device))

"""Models whose codes can be listed: log p(x) and p(z given x) as sums over all of them."""

from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent

from aevb.evaluation.batches import batch_for
from aevb.model import Model

MOST_POINTS = 1 << 16
"""Of the codes that are listed."""
CELLS = 4_000_000
"""Of (codes x data x elements) at once: 32 MB."""


class Enumeration(NamedTuple):
    """All codes z (P, *event), and log p(x, z) of each with each datum, (P, N) nats."""

    codes: Tensor
    log_joint: Tensor

    @property
    def log_evidence(self) -> Tensor:
        """log p(x) = log sum_z p(x, z), (N,) nats."""
        return torch.logsumexp(self.log_joint, 0)

    @property
    def posterior(self) -> Tensor:
        """p(z given x) of each code, (P, N): each column adds up to 1."""
        return torch.softmax(self.log_joint, 0)


def listed(prior: Distribution) -> Tensor | None:
    """All codes of a prior over few of them, (P, *event), else None.

    Shapes: a vector of independent coins or classes gives V^D codes for V values of each, up to
    65,536; a one-hot vector of K classes gives K.
    Example:
        >>> coins = Independent(torch.distributions.Bernoulli(torch.full((3,), 0.5)), 1)
        >>> listed(coins).shape
        torch.Size([8, 3])
    """
    base = prior.base_dist if isinstance(prior, Independent) else prior
    if prior.batch_shape or not base.has_enumerate_support:
        return None
    values = base.enumerate_support(expand=False)
    if not isinstance(prior, Independent):
        return values if len(values) <= MOST_POINTS else None
    size = len(values) ** base.batch_shape.numel()
    if len(base.batch_shape) != 1 or base.event_shape or size > MOST_POINTS:
        return None
    each = range(len(values))
    index = torch.tensor(list(product(each, repeat=base.batch_shape[0])), device=values.device)
    return values.reshape(-1)[index]


def enumerate_codes(model: Model, x: Tensor) -> Enumeration | None:
    """log p(x, z) of every code z for x (N, *X), where the prior's codes can be listed, else None.

    Source: the sum rule; memory is that of the table (P, N).
    Example:
        >>> from aevb import bernoulli, families, MLP
        >>> from aevb.conditional import Unconditional
        >>> model = Model(Unconditional(families.Bernoulli(), 3), bernoulli(MLP(3, [], 5)))
        >>> enumerate_codes(model, torch.ones(2, 5)).posterior.shape
        torch.Size([8, 2])
    """
    codes = listed(model.prior())
    if codes is None:
        return None
    x = batch_for(model, x, torch.arange(len(x)).numpy()).x
    codes = codes.to(x.dtype) if codes.is_floating_point() else codes
    size = max(1, CELLS // max(1, x.numel()))
    parts = [model.log_joint(x, some.unsqueeze(1)) for some in codes.split(size)]
    return Enumeration(codes, torch.cat([p.expand(-1, len(x)) for p in parts]))

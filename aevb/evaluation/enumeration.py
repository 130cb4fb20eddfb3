"""Models whose codes can be listed: log p(x) and p(z given x) as sums over all of them."""

import math
from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent

from aevb.distributions import Chain, OneHotCategoricals
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
    65,536; a one-hot vector of K classes gives K, D of them side by side K^D; a chain of such parts
    every combination of theirs.
    Example:
        >>> coins = Independent(torch.distributions.Bernoulli(torch.full((3,), 0.5)), 1)
        >>> listed(coins).shape
        torch.Size([8, 3])
    """
    return None if prior.batch_shape else _events(prior)


def _events(law: Distribution) -> Tensor | None:
    """All events of a law, the same for every element of its batch, where there are few."""
    if isinstance(law, Chain):
        return _of_chain(law)
    if isinstance(law, OneHotCategoricals):
        size, classes = law.logits.shape[-2:]
        return _combined([torch.eye(classes).to(law.logits)] * size)
    base = law.base_dist if isinstance(law, Independent) else law
    if not base.has_enumerate_support:
        return None
    values = base.enumerate_support(expand=False)
    values = values.reshape(len(values), *base.event_shape)
    if not isinstance(law, Independent):
        return values if len(values) <= MOST_POINTS else None
    if len(law.event_shape) != 1 or base.event_shape:
        return None
    return _combined([values.unsqueeze(-1)] * law.event_shape[0])


def _of_chain(chain: Chain) -> Tensor | None:
    part, parts = _events(chain.first), []
    for link in chain.links:
        if part is None:
            return None
        parts.append(part)
        part = _events(link(part[:1]))
    if part is None:
        return None
    parts.append(part)
    return _combined(parts[::-1] if chain.reverse else parts)


def _combined(parts: Sequence[Tensor]) -> Tensor | None:
    """Every choice of a row (E_i) of each part (P_i, E_i), side by side; None for too many."""
    if math.prod(len(part) for part in parts) > MOST_POINTS:
        return None
    each = product(*(range(len(part)) for part in parts))
    index = torch.tensor(list(each), device=parts[0].device).unbind(1)
    return torch.cat([part[rows] for part, rows in zip(parts, index, strict=True)], dim=-1)


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

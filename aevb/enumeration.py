"""Models whose codes can be listed: log p(x) and p(z given x) as sums over all of them."""

from typing import NamedTuple

import torch
from torch import Tensor

from aevb.devices import tensor_of
from aevb.distributions.listed import Listed, listed
from aevb.model import Model

CELLS = 4_000_000
"""Of (codes x data x elements) at once: 32 MB."""


class Enumeration(NamedTuple):
    """All codes z, and log p(x, z) of each with each datum.

        p(x) = sum_z p(x, z),   p(z given x) = p(x, z) / p(x)

    Shapes: `codes` (P, *event), `log_joint` (P, N). Units: nats. Source: Bayes' rule.
    Example:
        >>> joint = torch.tensor([[0.1], [0.3]])  # of the codes 0 and 1 with one datum
        >>> found = Enumeration(torch.tensor([[0.0], [1.0]]), joint.log())
        >>> found.log_evidence.exp(), found.posterior.probs
        (tensor([0.4000]), tensor([[0.2500, 0.7500]]))
    """

    codes: Tensor
    log_joint: Tensor

    @property
    def log_evidence(self) -> Tensor:
        """log p(x) = log sum_z p(x, z), (N,) nats."""
        return torch.logsumexp(self.log_joint, 0)

    @property
    def posterior(self) -> Listed:
        """p(z given x), of each datum over the codes: batch (N,), `probs` (N, P)."""
        return Listed(self.codes, self.log_joint.mT, validate_args=False)


def enumerate_codes(model: Model, x: Tensor) -> Enumeration | None:
    """log p(x, z) of every code z, where the prior's codes can be listed, else None.

    Shapes: x (N, *X) to P codes and a table (P, N), which is what memory it takes. Units: nats.
    Source: the sum rule.
    Example:
        >>> from aevb import bernoulli, families, MLP
        >>> from aevb.conditional import Unconditional
        >>> model = Model(Unconditional(families.Bernoulli(), 3), bernoulli(MLP(3, [], 5)))
        >>> enumerate_codes(model, torch.ones(2, 5)).posterior.probs.shape
        torch.Size([2, 8])
    """
    codes = listed(model.prior())
    if codes is None:
        return None
    x = x.to(tensor_of(model))
    codes = codes.to(x.dtype) if codes.is_floating_point() else codes
    size = max(1, CELLS // max(1, x.numel()))
    parts = [model.log_joint(x, some.unsqueeze(1)) for some in codes.split(size)]
    return Enumeration(codes, torch.cat([p.expand(-1, len(x)) for p in parts]))

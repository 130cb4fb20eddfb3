"""One class of several as a one-hot vector: the codes of a mixture, and labels beside the data."""

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.distributions import OneHotCategorical as TorchOneHotCategorical

from aevb.families.family import Family


class OneHotCategorical(Family):
    """One of K classes, as a vector of zeros with a one at its place.

        log p(z) = sum_k z_k log pi_k,   pi = softmax(raw)

    Shapes: raw (*batch, K) logits; z (*batch, K). Units: nats.
    Errors: DataError from `check` for a row that is not zeros and a single one.
    Source: Bishop (2006), "Pattern recognition and machine learning", equation 9.10.
    Example:
        >>> OneHotCategorical()(torch.zeros(4), 0).log_prob(torch.eye(4)[1]).exp()
        tensor(0.2500)
    """

    support = TorchOneHotCategorical.support
    domain = "zeros and a single one in each row"

    def outputs(self, size: int) -> int:
        return size

    def forward(self, raw: Tensor, batch_ndim: int) -> Distribution:
        return TorchOneHotCategorical(logits=raw.flatten(batch_ndim), validate_args=False)

    def encode_marginals(self, x: Tensor) -> Tensor:
        return torch.log((x.sum(0) + 0.5) / (len(x) + 0.5 * x.shape[1])).flatten()

    def inside(self, x: Tensor) -> Tensor:
        whole: Tensor = self.support.check(x.flatten(1))
        return whole.reshape(-1, *[1] * (x.ndim - 1)).expand(x.shape)

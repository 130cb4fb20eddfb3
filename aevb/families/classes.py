"""One class of several as a one-hot vector: the codes of a mixture, and labels beside the data;
and several such vectors side by side, as codes."""

import torch
from torch import Tensor
from torch import distributions as td
from torch.distributions import Distribution

from aevb import distributions
from aevb.errors import UsageError, at_least
from aevb.families.family import Family
from aevb.families.vectors import Latent


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

    support = td.OneHotCategorical.support
    domain = "zeros and a single one in each row"

    def forward(self, raw: Tensor, batch_ndim: int) -> Distribution:
        return td.OneHotCategorical(logits=raw.flatten(batch_ndim), validate_args=False)

    def encode_marginals(self, x: Tensor) -> Tensor:
        return torch.log((x.sum(0) + 0.5) / (len(x) + 0.5 * x.shape[1])).flatten()

    def inside(self, x: Tensor) -> Tensor:
        whole: Tensor = self.support.check(x.flatten(1))
        return whole.reshape(-1, *[1] * (x.ndim - 1)).expand(x.shape)


class OneHotCategoricals(Latent):
    """Several classes of `classes` each, K, as one-hot vectors side by side: codes, not data.

        log p(z) = sum_d sum_k z_dk log pi_dk,   pi_d = softmax(raw_d)

    Shapes: raw (*batch, D K) logits, the K of each class together; z (*batch, D K). Units: nats.
    Errors: UsageError for fewer than 2 classes, or numbers that are no multiple of K.
    Source: Jang et al. (2017), "Categorical reparameterization with Gumbel-softmax", section 3.
    Example:
        >>> OneHotCategoricals(3)(torch.zeros(4, 6), 1).mean[0]
        tensor([0.3333, 0.3333, 0.3333, 0.3333, 0.3333, 0.3333])
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        at_least(2, classes, "the number of classes")
        self.classes = classes

    def outputs(self, size: int) -> int:
        if size % self.classes:
            raise UsageError(
                f"codes of {self.classes} classes each have a multiple of {self.classes} numbers, "
                f"not {size}"
            )
        return size

    def forward(self, raw: Tensor, batch_ndim: int) -> Distribution:
        logits = raw.flatten(batch_ndim).unflatten(-1, (-1, self.classes))
        return distributions.OneHotCategoricals(logits, validate_args=False)

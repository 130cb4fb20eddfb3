"""The posterior q: z = g(noise, x) and log q(z given x), amortized or free for each datum."""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from aevb.conditional import Conditional
from aevb.errors import UsageError
from aevb.families import Family, MultivariateNormal, Normal


class Batch(NamedTuple):
    """Data x (N, *X) with the number of each row in its data set, rows (N,).

    `key` (2,) names the random numbers of a treatment that is done inside the step.
    """

    x: Tensor
    rows: Tensor | None = None
    key: Tensor | None = None


def as_batch(batch: Batch | Tensor) -> Batch:
    """A plain tensor is a batch whose rows have no number."""
    return batch if isinstance(batch, Batch) else Batch(batch)


class Posterior(nn.Module, ABC):
    """q(z given x), with the condition that a subclass picks from the batch.

    Shapes: a batch of N data to a distribution with batch (N,) and event (D,).
    """

    def __init__(self, conditional: nn.Module) -> None:
        super().__init__()
        self.conditional = conditional

    @abstractmethod
    def condition(self, batch: Batch) -> Tensor:
        """What q is conditioned on, (N, ...)."""

    def forward(self, batch: Batch | Tensor) -> Distribution:
        distribution: Distribution = self.conditional(self.condition(as_batch(batch)))
        return distribution


class Amortized(Posterior):
    """One network for all data: the condition is x itself.

    Source: Kingma & Welling (2013), section 2.2, the recognition model.
    Example:
        >>> mean_field(nn.Linear(5, 4))(torch.zeros(3, 5)).event_shape
        torch.Size([2])
    """

    def condition(self, batch: Batch) -> Tensor:
        return batch.x


class PerDatum(Posterior):
    """Free parameters for each datum: the condition is the row's number.

    Errors: UsageError for a batch without row numbers.
    Source: stochastic variational inference without amortization (Hoffman et al. 2013).
    Example:
        >>> q = per_datum(10, 2)
        >>> q(Batch(torch.zeros(3, 5), torch.tensor([0, 4, 9]))).event_shape
        torch.Size([2])
    """

    def condition(self, batch: Batch) -> Tensor:
        if batch.rows is None:
            raise UsageError(
                "a posterior with free parameters for each datum needs the number of each row: "
                "pass Batch(x, rows) instead of x alone"
            )
        return batch.rows


class FreeParameters(nn.Module):
    """A table of `out_features` numbers for each of n data, zeros at first.

        output = 20 table[row]

    A row is visited once in an epoch, where a network's weights are in every step: the factor makes
    an optimizer that moves by its learning rate, as Adam does, move the output 20 times as far.
    Shapes: row numbers (N,) to (N, out_features).
    """

    GAIN = 20.0

    def __init__(self, n: int, out_features: int) -> None:
        super().__init__()
        self.n = n
        self.out_features = out_features
        self.table = nn.Parameter(torch.zeros(n, out_features))

    def forward(self, index: Tensor) -> Tensor:
        return self.GAIN * self.table[index]


def mean_field(network: nn.Module, condition_ndim: int = 1) -> Amortized:
    """The encoder of the paper, N(z; mean(x), diag(variance(x))); the network gives 2D numbers."""
    return Amortized(Conditional(network, Normal(), condition_ndim))


def full_covariance(network: nn.Module, condition_ndim: int = 1) -> Amortized:
    """An encoder with a full covariance; the network gives D (D + 3) / 2 numbers."""
    return Amortized(Conditional(network, MultivariateNormal(), condition_ndim))


def per_datum(n: int, size: int, family: Family | None = None) -> PerDatum:
    """Free parameters for each of n data over `size` latent dimensions (a diagonal Gaussian)."""
    family = Normal() if family is None else family
    table = FreeParameters(n, family.outputs(size))
    return PerDatum(Conditional(table, family, condition_ndim=0))

"""Means of positive weights that are known by their logarithms."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from aevb.evaluation.pareto import largest, tail_shape


class Weighted(NamedTuple):
    """What the weights of each datum say: tensors (M,) of some data, arrays (N,) of all.

    The log of their mean, its error, the effective sample size, and the shape of their tail.
    Shapes: (M,) or (N,) each. Units: nats for `value` and `error`, draws for `ess`.
    Example:
        >>> one_of_four = torch.tensor([[0.0], [-50.0], [-50.0], [-50.0]])
        >>> found = Weights.of(one_of_four).summary()
        >>> round(found.ess.item(), 3), round(found.value.exp().item(), 3)
        (1.0, 0.25)
    """

    value: Any
    error: Any
    ess: Any
    pareto_k: Any


class Weights(NamedTuple):
    """K weights of each datum, of which their sums and largest are kept: more may be joined.

    Shapes: log-weights (S, M), S of the K at a time; `log_sum` and `log_square_sum` (M,), `tail`
    what `largest` gives of them; float64.
    Units: nats.
    Example:
        >>> log_w = torch.tensor([[0.0], [1.0], [2.0]])
        >>> parts = Weights.of(log_w[:2], 3).joined(log_w[2:]).summary()
        >>> torch.allclose(parts.value, Weights.of(log_w).summary().value)
        True
    """

    samples: int
    log_sum: Tensor
    log_square_sum: Tensor
    tail: Tensor

    @classmethod
    def of(cls, log_weights: Tensor, samples: int | None = None) -> "Weights":
        """The first of so many weights, or all there are."""
        samples, log_w = samples or len(log_weights), log_weights.double()
        tail = largest(log_w, samples)
        return cls(samples, log_w.logsumexp(0), (2 * log_w).logsumexp(0), tail)

    def joined(self, log_weights: Tensor) -> "Weights":
        """With some more of them."""
        more = Weights.of(log_weights, self.samples)
        return Weights(
            self.samples,
            torch.logaddexp(self.log_sum, more.log_sum),
            torch.logaddexp(self.log_square_sum, more.log_square_sum),
            largest(more.tail, self.samples, self.tail),
        )

    def summary(self) -> Weighted:
        """Their mean, its error, and how far both are to be trusted."""
        mean = log_mean(self.log_sum, self.log_square_sum, self.samples)
        return Weighted(*mean, tail_shape(self.tail))


def shares(log_weights: Tensor) -> Tensor:
    """Weights (K, M) that sum to 1, in float64: NaN is none, and where there is none all are equal.

    Example:
        >>> shares(torch.tensor([[0.0, -torch.inf], [torch.nan, -torch.inf]]))
        tensor([[1.0000, 0.5000],
                [0.0000, 0.5000]], dtype=torch.float64)
    """
    known = log_weights.double().nan_to_num(nan=-torch.inf)
    return torch.softmax(torch.where(torch.isinf(known).all(0), 0.0, known), dim=0)


def resampled(z: Tensor, log_weights: Tensor, lots: Tensor) -> Tensor:
    """The places z that lots in [0, 1) fall on, each as often as is its share of the weights.

    Shapes: z (K, M, D), log_weights (K, M), lots (C, M); the result (C, M, D). Units: nats.
    Example:
        >>> z, log_w = torch.tensor([[[7.0]], [[8.0]]]), torch.tensor([[1.0], [3.0]]).log()
        >>> resampled(z, log_w, torch.tensor([[0.2], [0.3], [0.9]])).flatten()
        tensor([7., 8., 8.])
    """
    edges = shares(log_weights).cumsum(0)
    places = torch.searchsorted(edges.T.contiguous(), lots.to(edges).T.contiguous()).T
    places = places.clamp_max(len(z) - 1).unsqueeze(-1)
    return z.gather(0, places.expand(-1, -1, z.shape[-1]))


def log_mean(log_sum: Tensor, log_square_sum: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """log of the mean of K weights, its standard error, and what K is worth, from two sums.

        value = log sum_k w_k - log K,   ESS = (sum_k w_k)^2 / sum_k w_k^2,
        error^2 = (K / ESS - 1) / (K - 1),   the delta method's

    Shapes: log sum_k w_k and log sum_k w_k^2, any shape, in float64. Units: nats. The error is NaN
    for a single weight.
    Source: Owen (2013), "Monte Carlo theory, methods and examples", sections 2.7 and 9.3.
    Example:
        >>> w = torch.tensor([1.0, 3.0]).double()
        >>> value, error, ess = log_mean(w.sum().log(), w.square().sum().log(), 2)
        >>> round(value.exp().item(), 6), round(error.item(), 6), round(ess.item(), 6)
        (2.0, 0.5, 1.6)
    """
    ess = torch.exp(2 * log_sum - log_square_sum)
    spread = (count / ess - 1).clamp_min(0) / (count - 1 if count > 1 else math.nan)
    return log_sum - math.log(count), torch.sqrt(spread), ess

"""Means of positive weights that are known by their logarithms."""

import math

import torch
from torch import Tensor


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


def log_mean_of(log_weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The same from the log-weights (K, N) themselves."""
    log_weights = log_weights.double()
    return log_mean(log_weights.logsumexp(0), (2 * log_weights).logsumexp(0), len(log_weights))

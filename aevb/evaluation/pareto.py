"""Whether importance weights can be trusted: the shape k of the tail of their law.

The largest M of S weights, beyond a threshold u, are close to a generalized Pareto law

    P(w > u + y) = (1 + k y / s)^(-1/k),

which has moments below 1 / k only. With k < 1/2 the weights have a variance and the usual errors
hold; up to k = 0.7 the mean still converges at a practical rate; beyond, neither an estimate nor
its error can be relied on.
"""

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

RELIABLE = 0.7
_WORDS = ("reliable", "doubtful", "unreliable")
FEWEST = 5
"""Weights in the tail below which nothing can be said."""


def tail_size(samples: int) -> int:
    """M, how many of the largest of S weights make the tail.

        M = min(S / 5, 3 sqrt(S)), rounded up

    Source: Vehtari et al. (2024), "Pareto smoothed importance sampling".
    Example:
        >>> tail_size(100), tail_size(10_000)
        (20, 300)
    """
    return math.ceil(min(0.2 * samples, 3 * math.sqrt(samples)))


def largest(log_weights: Tensor, samples: int, kept: Tensor | None = None) -> Tensor:
    """The M + 1 largest log-weights of each datum in falling order, joined with those kept before.

    `samples` S is how many there will be in all, so that they may come in parts.
    Shapes: log_weights (<= S, N), kept (<= M + 1, N); the result (<= M + 1, N) in float64.
    Units: nats.
    Example:
        >>> log_w = torch.arange(10.0).unsqueeze(1)
        >>> largest(log_w[5:], 10, kept=largest(log_w[:5], 10)).flatten()
        tensor([9., 8., 7.], dtype=torch.float64)
    """
    both = log_weights.double()
    both = both if kept is None else torch.cat([kept, both])
    return both.topk(min(len(both), tail_size(samples) + 1), dim=0).values


def tail_shape(largest: Tensor) -> Tensor:
    """k-hat of each datum from its M + 1 largest log-weights in falling order, (N,).

        y_i = w_i - u;   k = mean_i log(1 + b y_i), with b averaged over its profile posterior

    With the prior of strength 10 at k = 1/2 that small tails need.
    Shapes: largest (M + 1, N); NaN for M below 5 or weights that are all zero; minus infinity for
    weights that are all one, infinity where nearly all of the tail is nothing beside its largest.
    Units: log-weights in nats; k is a pure number.
    Source: Zhang & Stephens (2009), "A new and efficient estimation method for the generalized
    Pareto distribution"; Vehtari et al. (2024), "Pareto smoothed importance sampling", section 3.
    Example:
        >>> u = (torch.arange(4000.0).double() + 0.5) / 4000
        >>> w = ((1 - u) ** -0.4 - 1) / 0.4  # the quantiles of the law with k = 0.4
        >>> top = largest(w.log().unsqueeze(1), 4000)
        >>> bool((tail_shape(top) - 0.4).abs() < 0.05)
        True
    """
    m = len(largest) - 1
    if m < FEWEST:
        return largest.new_full(largest.shape[1:], math.nan)
    scaled = (largest - largest[:1]).exp()  # the largest weight is 1
    y = (scaled[:-1] - scaled[-1:]).flip(0)  # rising
    top = y[-1]
    quartile = y[int(m / 4 + 0.5) - 1]
    steps = torch.arange(1, 31 + math.isqrt(m), dtype=y.dtype, device=y.device) - 0.5
    steps = 1 - torch.sqrt((30 + math.isqrt(m)) / steps)
    b = 1 / top + steps.unsqueeze(1) / (3 * quartile)  # (G, N)
    k = torch.log1p(-b.unsqueeze(1) * y).mean(1)
    profile = m * (torch.log(-b / k) - k - 1)
    share = torch.softmax(profile.nan_to_num(nan=-math.inf), dim=0)
    b = (share * b).nan_to_num().sum(0)
    k = torch.log1p(-b * y).mean(0)
    k = (m * k + 10 * 0.5) / (m + 10)
    # Nearly all of the tail is nothing beside its largest, even in double precision.
    k = torch.where((quartile < 1e-300) & (scaled[-1] < 1e-300), math.inf, k)
    # A tail without any spread has no shape: its weights are all alike.
    return torch.where(top <= 1e-10, -math.inf, k)


def verdict(k: NDArray[np.float64], samples: int) -> dict[str, Any]:
    """What the shapes of all data's tails say together, ready for JSON.

    A mean of S weights is reliable up to k = min(1 - 1 / log10(S), 0.7). With up to 1 % of the data
    above it all is "reliable", with up to half "doubtful", else "unreliable".
    Shapes: k (N,), NaN where nothing is known of a datum; `samples` S.
    Source: Vehtari et al. (2024), "Pareto smoothed importance sampling", for the limit.
    Example:
        >>> found = verdict(np.array([0.1, 0.2, 0.9]), 1000)
        >>> found["verdict"], round(found["limit"], 2)
        ('doubtful', 0.67)
    """
    limit = min(1 - 1 / math.log10(samples), RELIABLE) if samples > 10 else math.nan
    known = k[~np.isnan(k)]
    if not len(known) or math.isnan(limit):
        return {"verdict": "unknown: too few samples", "limit": None, "share_above": None}
    above = float((known > limit).mean())
    finite = known[np.isfinite(known)]
    return {
        "verdict": _WORDS[(above > 0.01) + (above > 0.5)],
        "limit": limit,
        "share_above": above,
        "median": float(np.median(finite)) if len(finite) else None,
        "largest": float(finite.max()) if len(finite) else None,
    }

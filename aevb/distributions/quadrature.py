"""Sums along a new last axis, for integrals that have no closed form."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

_NODES, _WEIGHTS = (v.tolist() for v in np.polynomial.legendre.leggauss(100))


def nodes(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Points (..., 100) between low and high (...), and their weights.

    Source: Davis & Rabinowitz (1984), section 2.7.
    Example:
        >>> points, weights = nodes(torch.tensor(0.0), torch.tensor(3.0))
        >>> (points.square() * weights).sum(-1)
        tensor(9.)
    """
    at = torch.tensor(_NODES, dtype=low.dtype, device=low.device)
    weights = torch.tensor(_WEIGHTS, dtype=low.dtype, device=low.device)
    half = ((high - low) / 2).unsqueeze(-1)
    return low.unsqueeze(-1) + half * (1 + at), half * weights


def exponential(first: float, last: float, step: float, like: Tensor) -> tuple[Tensor, Tensor]:
    """Places (n,) on [0, inf) and their weights: the double exponential rule, by its three numbers.

    For integrands that fall off as e^-v; the places crowd to 0 and thin out to infinity.
    Source: Takahasi & Mori (1974), section 3.
    Example:
        >>> places, weights = exponential(-3.4, 4.4, 0.1, torch.zeros(()))
        >>> ((-places).exp() * weights).sum()
        tensor(1.0000)
    """
    t = torch.arange(first, last, step, dtype=like.dtype, device=like.device)
    place = torch.exp(t - torch.exp(-t))
    return place, step * place * (1 + torch.exp(-t))


def reach(drop: Callable[[Tensor], Tensor], start: Tensor, end: Tensor, depth: float) -> Tensor:
    """How far from start to end a `drop`, which grows in the end, goes before it passes `depth`.

    The nearest of 28 geometric steps that passes; end where none does.
    Shapes: start and end (...), `drop` of points (..., 28).
    Example:
        >>> reach(torch.square, torch.tensor(0.0), torch.tensor(8.0), 4.0)
        tensor(2.8284)
    """
    parts = 2.0 ** (-0.5 * torch.arange(28, dtype=start.dtype, device=start.device))
    way = (end - start).unsqueeze(-1) * parts
    passed = drop(start.unsqueeze(-1) + way) > depth
    return start + torch.where(passed, parts, 1.0).amin(-1) * (end - start)

"""Gauss-Legendre sums along a new last axis, for integrals that have no closed form."""

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

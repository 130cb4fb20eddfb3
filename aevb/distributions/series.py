"""Differences of functions, each by a form in which nothing cancels."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def log_ratio(x: Tensor, scale: Tensor) -> Tensor:
    """log(x / scale) for positive numbers, to full digits also where they are all but equal."""
    near = (x - scale).abs() < 0.5 * scale
    relative = torch.where(near, (x - scale) / scale, 0.0)
    return torch.where(near, torch.log1p(relative), x.log() - scale.log())


def log1p_square(x: Tensor) -> Tensor:
    """log(1 + x^2), finite also where x^2 is not."""
    far = x.abs() > 1e8
    return torch.where(
        far,
        2 * torch.where(far, x, 1.0).abs().log(),
        torch.log1p(torch.where(far, 0.0, x).square()),
    )


_HALF_STEP = (
    -1 / 8,
    1 / 192,
    -1 / 640,
    17 / 14336,
    -31 / 18432,
    691 / 180224,
    -5461 / 851968,
)
"""log Gamma(a + 1/2) - log Gamma(a) - log(a) / 2 in the powers -1, -3, -5, ... of a."""
_SERIES_FROM = 10.0
"""From here on, seven terms of either series are exact to rounding."""


def horner(coefficients: Sequence[Any], x: Tensor) -> Tensor:
    """c_0 + c_1 x + c_2 x^2 + ..., the last term first, of numbers or tensors."""
    *rest, total = coefficients
    for coefficient in reversed(rest):
        total = total * x + coefficient
    return total  # type: ignore[no-any-return]


def _odd_series(coefficients: Sequence[float], a: Tensor) -> Tensor:
    """c_0 / a + c_1 / a^3 + c_2 / a^5 + ..."""
    return horner(coefficients, a.pow(-2)) / a


def lgamma_half_step(a: Tensor) -> Tensor:
    """log Gamma(a + 1/2) - log Gamma(a), whose two terms cancel for large a."""
    large = a.clamp(min=_SERIES_FROM)
    series = 0.5 * large.log() + _odd_series(_HALF_STEP, large)
    direct = torch.lgamma(a + 0.5) - torch.lgamma(a)
    return torch.where(a < _SERIES_FROM, direct, series)


def digamma_half_step(a: Tensor) -> Tensor:
    """psi(a + 1/2) - psi(a), whose two terms cancel for large a."""
    large = a.clamp(min=_SERIES_FROM)
    slopes = tuple(-(2 * k + 1) * c for k, c in enumerate(_HALF_STEP))
    series = (0.5 + _odd_series(slopes, large)) / large
    return torch.where(
        a < _SERIES_FROM, torch.special.digamma(a + 0.5) - torch.special.digamma(a), series
    )


def log_uniform_spread(width: Tensor) -> Tensor:
    """e^-w (sinh(w) / w - (sinh(w / 2) / (w / 2))^2), about w^2 / 12 for small w."""
    small = width.clamp(max=1.0)
    series = horner([n / (n + 1) / math.factorial(2 * n + 1) for n in range(1, 10)], small.square())
    large = width.clamp(min=1.0)
    direct = -torch.expm1(-2 * large) / (2 * large) - (torch.expm1(-large) / large).square()
    return torch.where(width < 1, series * small.square() * torch.exp(-small), direct)

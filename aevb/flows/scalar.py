"""The rising functions of one number that planar, radial and Sylvester maps are made of."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

ROUNDS = 64
"""Halvings: of an interval as wide as 10^6 they leave less than 10^-12."""
_START = math.log(math.e - 1)


def shifted_softplus(s: Tensor) -> Tensor:
    """log(1 + (e - 1) e^s): positive, rising, and 1 at 0, so that zeros are the identity."""
    return F.softplus(s + _START, threshold=40)


def log_slope(gain: Tensor, at: Tensor) -> Tensor:
    """log d/da (a + r tanh(s a + c)) where s a + c = `at` and 1 + r s = `gain` > 0.

    1 + r s sech^2 = tanh^2 + (1 + r s) sech^2, a sum of terms that are not negative
    """
    return torch.log(_slope(gain, at))


def _slope(gain: Tensor, at: Tensor) -> Tensor:
    sech2 = 4 * torch.sigmoid(2 * at) * torch.sigmoid(-2 * at)
    slope: Tensor = torch.tanh(at).square() + gain * sech2
    return slope.clamp_min(torch.finfo(slope.dtype).tiny)


def solve(r: Tensor, s: Tensor, c: Tensor, t: Tensor) -> Tensor:
    """The a with a + r tanh(s a + c) = t, where r s > -1: the left side rises.

    Shapes: tensors that broadcast. The root lies between t - |r| and t + |r|, where halving finds
    it; one step of Newton's method from it, of length 0, gives its first derivatives (the implicit
    function theorem), and none after them.
    """
    with torch.no_grad():
        low, high, *_ = torch.broadcast_tensors(t - r.abs(), t + r.abs(), s, c)
        root = bisect(lambda a: a + r * torch.tanh(s * a + c) > t, low, high)
    left = r * torch.tanh(s * root + c) - t
    slope = _slope(1 + r * s, s * root + c)
    exact: Tensor = root - (left - left.detach()) / slope.detach()
    return exact


def bisect(
    above: Callable[[Tensor], Tensor], low: Tensor, high: Tensor, rounds: int = ROUNDS
) -> Tensor:
    """Where `above` begins to hold, between low and high: so many halvings of each interval."""
    for _ in range(rounds):
        middle = 0.5 * (low + high)
        over = above(middle)
        low, high = torch.where(over, low, middle), torch.where(over, middle, high)
    return 0.5 * (low + high)

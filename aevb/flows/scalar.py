"""The rising functions of one number that planar, radial and Sylvester maps are made of."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

ROUNDS = 64
"""Halvings: of an interval as wide as 10^6 they leave less than 10^-12."""
_START = math.log(math.e - 1)


def positive(s: Tensor) -> Tensor:
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
    """The a with a + r tanh(s a + c) = t, where r s > -1: the left side rises, from t - |r| to t.

    Shapes: tensors that broadcast. Halving gives the number; one step of Newton's method from it,
    of length 0, gives its derivatives (the implicit function theorem).
    """
    with torch.no_grad():
        low, high = torch.broadcast_tensors(t - r.abs(), t + r.abs() + 0 * (s + c))
        for _ in range(ROUNDS):
            middle = 0.5 * (low + high)
            above = middle + r * torch.tanh(s * middle + c) > t
            low, high = torch.where(above, low, middle), torch.where(above, middle, high)
        root = 0.5 * (low + high)
    left = r * torch.tanh(s * root + c) - t
    slope = _slope(1 + r * s, s * root + c)
    exact: Tensor = root - (left - left.detach()) / slope.detach()
    return exact

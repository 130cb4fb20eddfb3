"""Planar and radial maps: space is pressed together or drawn apart at a plane or around a point."""

from dataclasses import dataclass

import torch
from torch import Tensor

from aevb.flows.scalar import log_slope, shifted_softplus, solve


@dataclass(frozen=True, eq=False)
class PlanarMap:
    """A step along u that depends on the side of a plane.

        y = x + u' tanh(w.x + b),  u' = u + (m(w.u) - w.u) w / w.w,  m(s) = log(1 + (e-1) e^s) - 1
        |det dy/dx| = 1 + w.u' sech^2(w.x + b)

    u' is u with w.u' = m(w.u) > -1, without which there is no inverse. Here m(0) = 0, where the
    paper's is log 2 - 1: so u = 0 is the identity, and |u'| never exceeds |u|.
    Shapes: u and w (*batch, D), b (*batch); x and y (*sample, *batch, D).
    Source: Rezende & Mohamed (2015), equations 10 to 12 and appendix A.1.
    Example:
        >>> step = PlanarMap(torch.ones(2), torch.ones(2), torch.zeros(()))
        >>> y, log_det = step.forward(torch.tensor([0.5, -0.5]))
        >>> y, torch.allclose(step.inverse(y)[0], torch.tensor([0.5, -0.5]))
        (tensor([ 0.5000, -0.5000]), True)
    """

    u: Tensor
    w: Tensor
    b: Tensor

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """y (*sample, *batch, D) and the log-determinant (*sample, *batch)."""
        u, gain = self._direction()
        at = (self.w * x).sum(-1) + self.b
        return x + u * torch.tanh(at).unsqueeze(-1), log_slope(gain, at)

    def inverse(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """x (*sample, *batch, D) and the log-determinant of `forward` at it (*sample, *batch).

        The equation for a = w.x is a + w.u' tanh(a + b) = w.y.
        """
        u, gain = self._direction()
        along = (self.w * y).sum(-1)
        at = solve(gain - 1, torch.ones_like(gain), self.b, along) + self.b
        return y - u * torch.tanh(at).unsqueeze(-1), log_slope(gain, at)

    def _direction(self) -> tuple[Tensor, Tensor]:
        """u' and 1 + w.u'."""
        product = (self.w * self.u).sum(-1)
        gain = shifted_softplus(product)
        square = self.w.square().sum(-1)
        factor = (gain - 1 - product) / square.clamp_min(torch.finfo(square.dtype).tiny)
        return self.u + factor.unsqueeze(-1) * self.w, gain


@dataclass(frozen=True, eq=False)
class RadialMap:
    """A step away from a center or towards it, larger near to it.

        y = x + beta (x - center) / (alpha + r),  r = |x - center|,  alpha = exp(log_alpha)
        beta = alpha (log(1 + (e-1) e^raw_beta) - 1) > -alpha,  0 where raw_beta is
        log |det dy/dx| = (D - 1) log(1 + beta / (alpha + r)) + log(1 + alpha beta / (alpha + r)^2)

    Shapes: center (*batch, D), log_alpha and raw_beta (*batch); x and y (*sample, *batch, D).
    Source: Rezende & Mohamed (2015), equation 14 and appendix A.2. The inverse is the positive root
    of r^2 + (alpha + beta - R) r = alpha R, R = |y - center|.
    Example:
        >>> step = RadialMap(torch.zeros(2), torch.tensor(0.0), torch.tensor(1.0))
        >>> y, log_det = step.forward(torch.tensor([3.0, 4.0]))
        >>> step.inverse(y)[0], bool(y.norm() > 5)
        (tensor([3., 4.]), True)
    """

    center: Tensor
    log_alpha: Tensor
    raw_beta: Tensor

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """y (*sample, *batch, D) and the log-determinant (*sample, *batch)."""
        apart = x - self.center
        r = torch.linalg.vector_norm(apart, dim=-1)
        stretch, log_det = self._at(r, x.shape[-1])
        return self.center + apart * stretch.unsqueeze(-1), log_det

    def inverse(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """x (*sample, *batch, D) and the log-determinant of `forward` at it (*sample, *batch)."""
        apart = y - self.center
        distance = torch.linalg.vector_norm(apart, dim=-1)
        alpha = self.log_alpha.exp()
        half = 0.5 * (distance - alpha * shifted_softplus(self.raw_beta))
        product = alpha * distance
        root = torch.sqrt(half.square() + product)
        # Of the two ways to write the root the one that adds: the other one takes away.
        rising = half > 0
        below = torch.where(rising, torch.ones_like(root), root - half)
        r = torch.where(rising, half + root, product / below)
        stretch, log_det = self._at(r, y.shape[-1])
        return self.center + apart / stretch.unsqueeze(-1), log_det

    def _at(self, r: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """R / r and the log-determinant at distance r, as quotients of sums of positive terms."""
        alpha, gain = self.log_alpha.exp(), shifted_softplus(self.raw_beta)
        stretch = (r + alpha * gain) / (r + alpha)
        slope = (r * (r + 2 * alpha) + alpha.square() * gain) / (r + alpha).square()
        return stretch, (size - 1) * stretch.log() + slope.log()

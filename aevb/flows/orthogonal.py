"""Maps made of reflections: Householder's, and Sylvester's between orthonormal directions."""

from dataclasses import dataclass

import torch
from torch import Tensor

from aevb.flows.scalar import log_slope, solve


@dataclass(frozen=True, eq=False)
class HouseholderMap:
    """A reflection at the plane across v: it turns the axes of a Gaussian and keeps volumes.

        y = x - 2 v (v.x) / v.v,   log |det dy/dx| = 0,   its own inverse

    Shapes: v (*batch, D), not zero; x and y (*sample, *batch, D).
    Source: Tomczak & Welling (2016), "Improving variational auto-encoders using Householder flow",
    equation 9.
    Example:
        >>> HouseholderMap(torch.tensor([2.0, 0.0])).forward(torch.ones(2))
        (tensor([-1.,  1.]), tensor(0.))
    """

    v: Tensor

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """y (*sample, *batch, D) and the log-determinant (*sample, *batch), zeros."""
        y = _reflect(self.v, x, -1)
        return y, torch.zeros_like(y[..., 0])

    def inverse(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """x (*sample, *batch, D) and the log-determinant (*sample, *batch), zeros."""
        return self.forward(y)


def _reflect(v: Tensor, x: Tensor, axis: int) -> Tensor:
    square = v.square().sum(axis, keepdim=True).clamp_min(torch.finfo(v.dtype).tiny)
    return x - 2 * v * ((v * x).sum(axis, keepdim=True) / square)


@dataclass(frozen=True, eq=False)
class SylvesterMap:
    """A planar step with M directions at once, between orthonormal axes.

        y = x + Q R tanh(S Q^T x + b),   R and S upper triangular
        |det dy/dx| = prod_i (1 + R_ii S_ii sech^2((S Q^T x + b)_i))

    Q is the first M columns of the product of the Householder reflections at the rows of v. The
    diagonals of R and S go through tanh, so that R_ii S_ii > -1, as an inverse needs.
    Shapes: v (*batch, M, D), r and s (*batch, M, M), of which what lies below the diagonal is not
    read, b (*batch, M); x and y (*sample, *batch, D).
    Source: van den Berg et al. (2018), "Sylvester normalizing flows for variational inference",
    equations 8 to 15.
    Example:
        >>> step = SylvesterMap(torch.eye(3)[:2], torch.eye(2), torch.eye(2), torch.zeros(2))
        >>> y, log_det = step.forward(torch.ones(5, 3))
        >>> y.shape, log_det.shape
        (torch.Size([5, 3]), torch.Size([5]))
    """

    v: Tensor
    r: Tensor
    s: Tensor
    b: Tensor

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """y (*sample, *batch, D) and the log-determinant (*sample, *batch)."""
        axes, r, s = self._axes(), _triangular(self.r), _triangular(self.s)
        at = _times(s, _times(axes.mT, x)) + self.b
        return x + _times(axes, _times(r, torch.tanh(at))), self._log_det(r, s, at)

    def inverse(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """x (*sample, *batch, D) and the log-determinant of `forward` at it (*sample, *batch).

        For a = Q^T x the equation is a + R tanh(S a + b) = Q^T y: from the last row to the first,
        each one is for one number.
        """
        axes, r, s = self._axes(), _triangular(self.r), _triangular(self.s)
        target, count = _times(axes.mT, y), self.b.shape[-1]
        a: list[Tensor] = []  # of the rows below, and so tanh
        h: list[Tensor] = []
        at: list[Tensor] = []
        for i in reversed(range(count)):
            c, t = self.b[..., i], target[..., i]
            for j, (a_j, h_j) in zip(range(i + 1, count), zip(a, h, strict=True), strict=True):
                c, t = c + s[..., i, j] * a_j, t - r[..., i, j] * h_j
            a.insert(0, solve(r[..., i, i], s[..., i, i], c, t))
            at.insert(0, s[..., i, i] * a[0] + c)
            h.insert(0, torch.tanh(at[0]))
        x = y - _times(axes, _times(r, torch.stack(h, -1)))
        return x, self._log_det(r, s, torch.stack(at, -1))

    def _axes(self) -> Tensor:
        """Q, (*batch, D, M)."""
        count, size = self.v.shape[-2:]
        axes = torch.eye(size, count, dtype=self.v.dtype, device=self.v.device)
        for i in reversed(range(count)):
            axes = _reflect(self.v[..., i, :].unsqueeze(-1), axes, -2)
        return axes

    def _log_det(self, r: Tensor, s: Tensor, at: Tensor) -> Tensor:
        gain = 1 + r.diagonal(dim1=-2, dim2=-1) * s.diagonal(dim1=-2, dim2=-1)
        return log_slope(gain, at).sum(-1)


def _triangular(raw: Tensor) -> Tensor:
    diagonal = torch.tanh(raw.diagonal(dim1=-2, dim2=-1))
    return torch.triu(raw, 1) + torch.diag_embed(diagonal)


def _times(matrix: Tensor, x: Tensor) -> Tensor:
    """matrix x for (*batch, A, B) and (*sample, *batch, B), in the precision of x."""
    # Networks may run in bfloat16 around this; z does not.
    with torch.autocast(x.device.type, enabled=False):
        product: Tensor = torch.einsum("...ab,...b->...a", matrix, x)
        return product

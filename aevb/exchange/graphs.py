"""What is exported, as plain maps from tensors to tensors: encoder, decoder, bound.

    encoder   x (N, X)                     to  mean (N, D), scale (N, D) or scale_tril (N, D, D)
    decoder   z (N, D)                     to  E[x given z] (N, X)
    bound     x (N, X), noise (S, N, D)    to  elbo (N,)

A graph knows no distributions, so each is written in terms of its parameters; and functions that
the format lacks are decomposed into those that it has.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, MultivariateNormal, Normal

from aevb.distributions.reparameterization import base_of
from aevb.errors import UsageError
from aevb.model import Model
from aevb.objectives import draw
from aevb.posterior import Posterior


def parameters_of(q: Distribution) -> tuple[Tensor, Tensor]:
    """Mean (N, D) and scale (N, D), or mean and Cholesky factor (N, D, D), of a Gaussian."""
    base = base_of(q)
    if isinstance(base, Normal):
        return base.loc, base.scale
    if isinstance(base, MultivariateNormal):
        return base.loc, base.scale_tril
    raise UsageError(
        f"only a Gaussian posterior has a mean and a scale to export, found {type(base).__name__}: "
        "train with one (--posterior mean-field)"
    )


class Encoder(nn.Module):
    """The parameters of q(z given x)."""

    def __init__(self, posterior: Posterior) -> None:
        super().__init__()
        self.posterior = posterior

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return parameters_of(self.posterior(x))


class Decoder(nn.Module):
    """The expectation of p(x given z)."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, z: Tensor) -> Tensor:
        return self.model.expectation(z).to(z.dtype)


class Bound(nn.Module):
    """The evidence lower bound of each datum: estimator B where KL is closed, else A."""

    def __init__(self, model: Model, posterior: Posterior) -> None:
        super().__init__()
        self.model = model
        self.posterior = posterior

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        drawn = draw(self.model, self.posterior, x, noise)
        return drawn.reconstruction() - drawn.kl_estimate()


SHIFT = 8
STIRLING = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360)


def log_gamma(x: Tensor) -> Tensor:
    """log Gamma(x) for x > 0, by a shift and Stirling's series, in double precision inside.

        log Gamma(x) = log Gamma(x + 8) - log (x (x + 1) ... (x + 7))   below 8
        log Gamma(y) = (y - 1/2) log y - y + log(2 pi) / 2 + 1/(12 y) - 1/(360 y^3) + ...

    Source: Abramowitz & Stegun (1964), equations 6.1.16 and 6.1.41.
    Example:
        >>> log_gamma(torch.tensor([5.0])).exp()
        tensor([24.])
    """
    wide = x.double()
    small = wide < SHIFT
    low = torch.where(small, wide, torch.ones_like(wide))
    product = low
    for k in range(1, SHIFT):
        product = product * (low + k)
    y = torch.where(small, wide + SHIFT, wide)
    inverse = 1 / y
    square, series = inverse * inverse, torch.zeros_like(y)
    for coefficient in reversed(STIRLING):
        series = series * square + coefficient
    value = (y - 0.5) * y.log() - y + 0.5 * math.log(2 * math.pi) + series * inverse
    return torch.where(small, value - product.log(), value).to(x.dtype)


MAX_ROWS = 64
"""Beyond it a substitution row by row would make a graph of thousands of nodes."""


def solve_triangular(
    factor: Tensor,
    right: Tensor,
    *,
    upper: bool,
    left: bool = True,
    unitriangular: bool = False,
) -> Tensor:
    """Y with L Y = B for a lower triangle L (..., D, D) and B (..., D, K), by substitution.

        y_i = (b_i - sum_{j < i} L_ij y_j) / L_ii

    Errors: UsageError for another kind of triangle, or more than 64 rows.
    Source: Golub & Van Loan (2013), algorithm 3.1.1.
    Example:
        >>> solve_triangular(2 * torch.eye(2), torch.ones(2, 1), upper=False).flatten()
        tensor([0.5000, 0.5000])
    """
    size = factor.shape[-1]
    if upper or not left or unitriangular or size > MAX_ROWS:
        raise UsageError(
            f"a density with a full covariance over {size} elements has no ONNX form: at most "
            f"{MAX_ROWS} are written out"
        )
    rows: list[Tensor] = []
    for i in range(size):
        row = right[..., i, :]
        if rows:
            done = factor[..., i, None, :i] @ torch.stack(rows, -2)
            row = row - done.squeeze(-2)
        rows.append(row / factor[..., i, i, None])
    return torch.stack(rows, -2)


DECOMPOSITIONS: dict[torch._ops.OperatorBase, Callable[..., Tensor]] = {
    torch.ops.aten.lgamma.default: log_gamma,
    torch.ops.aten.linalg_solve_triangular.default: solve_triangular,
}

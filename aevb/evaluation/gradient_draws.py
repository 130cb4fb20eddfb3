"""Gradients of an objective for many draws of the noise, and what their mean is known to."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from aevb.model import Model
from aevb.objectives import Objective
from aevb.posterior import Batch, Posterior

NUMBERS_AT_ONCE = 4_000_000
"""Of gradients that are held at once."""
PREFIXES = {"theta": "model.", "phi": "posterior."}


class _Pair(nn.Module):
    """Model and posterior as one, so that one call runs an objective under given parameters."""

    def __init__(self, model: Model, posterior: Posterior) -> None:
        super().__init__()
        self.model = model
        self.posterior = posterior

    def forward(self, objective: Objective, batch: Batch, noise: Tensor) -> Tensor:
        return objective(self.model, self.posterior, batch, noise).mean()


class Moments(NamedTuple):
    """Of R gradients of theta or phi: means of blocks (B, P), the whole mean, tr Cov."""

    blocks: Tensor
    mean: Tensor
    variance: float


class GradientDraws:
    """The gradients of an objective's mean over a batch, for many draws of the noise.

        g_r = grad (1/N) sum_n objective(x_n, noise_r),   by theta and by phi

    Shapes: noise (R, S, N, *shape) to {"theta": (R, P), "phi": (R, Q)}; a set without parameters
    that can be learned gives (1, 0).
    Units: nats to the unit of the parameters.
    Errors: those of the objective, which says itself where it does not apply.
    Example:
        >>> import aevb
        >>> model = aevb.Model(aevb.standard_normal(2), aevb.bernoulli(aevb.MLP(2, [4], 6)))
        >>> posterior = aevb.mean_field(aevb.MLP(6, [4], 4))
        >>> draws = GradientDraws(model, posterior, Batch(torch.ones(3, 6)))
        >>> draws(aevb.elbo_b, torch.randn(7, 1, 3, 2))["phi"].shape
        torch.Size([7, 48])
    """

    def __init__(self, model: Model, posterior: Posterior, batch: Batch) -> None:
        self.pair, self.batch = _Pair(model, posterior), batch
        self.live = {k: p for k, p in self.pair.named_parameters() if p.requires_grad}
        self.parameters = {k: p.detach() for k, p in self.live.items()}
        self.size = sum(p.numel() for p in self.parameters.values())
        self.at_once = max(1, NUMBERS_AT_ONCE // max(1, self.size))

    def __call__(self, objective: Objective, noise: Tensor) -> dict[str, Tensor]:
        if min(self.at_once, len(noise)) > 1:
            found = self._together(objective, noise)
        else:  # of a large model there is nothing to be gained, and memory to be lost
            each = [self.one(objective, one) for one in noise]
            found = {k: torch.stack([g[k] for g in each]) for k in self.parameters}
        return {part: self._flat(found, prefix) for part, prefix in PREFIXES.items()}

    def one(self, objective: Objective, noise: Tensor) -> dict[str, Tensor]:
        """The gradient by the noise (S, N, *shape) of one replicate."""
        value = self.pair(objective, self.batch, noise)
        found = torch.autograd.grad(value, list(self.live.values()), allow_unused=True)
        pairs = zip(self.live.items(), found, strict=True)
        return {k: torch.zeros_like(p) if g is None else g for (k, p), g in pairs}

    def _together(self, objective: Objective, noise: Tensor) -> dict[str, Tensor]:
        def value(parameters: dict[str, Tensor], one: Tensor) -> Tensor:
            found: Tensor = functional_call(self.pair, parameters, (objective, self.batch, one))
            return found

        each = vmap(grad(value), in_dims=(None, 0), chunk_size=self.at_once)
        found: dict[str, Tensor] = each(self.parameters, noise)
        return found

    def _flat(self, gradients: dict[str, Tensor], prefix: str) -> Tensor:
        own = [g.reshape(len(g), -1) for k, g in gradients.items() if k.startswith(prefix)]
        return torch.cat(own, 1) if own else torch.zeros(1, 0)


def moments_of(sums: list[Tensor], sizes: list[int], squares: float) -> Moments:
    """From the sums of blocks (P,) and the sum of all squares."""
    count = sum(sizes)
    mean = torch.stack(sums).sum(0) / count
    variance = max(0.0, squares - count * float(mean.square().sum())) / (count - 1)
    blocks = torch.stack([total / size for total, size in zip(sums, sizes, strict=True)])
    return Moments(blocks, mean, variance)


def distance(means: Tensor, truth: Tensor) -> tuple[float, float]:
    """How far the mean of blocks lies from that of others, and how far that is known.

        |d|^2 = mean_{a not b} <d_a, d_b>,   d_a the difference of block a

    Products of a block with itself are left out: they hold the noise. The error is to the distance
    as that of |d|^2, by leaving out a block at a time, is to |d|^2: a distance below twice its
    error is no evidence of any.
    Shapes: (B, P) and (B, P), or (1, P) for what is exact.
    Units: those of the means, for the distance and its error.
    Source: the U-statistic of a squared mean; Efron & Stein (1981), "The jackknife estimate of
    variance".
    Example:
        >>> distance(torch.tensor([[3.0, 4.0], [3.0, 4.0]]), torch.zeros(1, 2))
        (5.0, 0.0)
    """
    if len(means) == 1:
        return float((means - truth).norm()), 0.0
    d = means - truth
    products = (d @ d.mT).double()
    count, whole = len(d), float(products.sum() - products.trace())
    square = whole / (count * (count - 1))
    if count < 3:
        return math.sqrt(max(0.0, square)), 0.0
    own = products.sum(1) - products.diagonal()
    without = (whole - 2 * own) / ((count - 1) * (count - 2))
    error = math.sqrt((count - 1) / count * float((without - without.mean()).square().sum()))
    bias = math.sqrt(max(0.0, square))
    return bias, error / bias if square > error else math.sqrt(error)

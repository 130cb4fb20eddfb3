"""Families of data that take a few values in order: levels of grey, grades."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from aevb import distributions
from aevb.errors import UsageError, at_least
from aevb.families.family import Family, blocks, independent


class DiscretizedLogistic(Family):
    """Levels of grey, evenly from 0 to 1: a logistic density cut into bins, or a mixture of such.

        P(x) = sum_k pi_k (F_k(x + d/2) - F_k(x - d/2)),  F_k a logistic,  d = 1 / (bins - 1)

    The lowest level has all that is below it, the highest all above.
    Shapes: raw (*batch, 2 X) locations and log-scales; with K = `components` above 1,
    (*batch, 3 K X): for each component a block of X logits, of locations, of log-scales.
    Locations are 1/2 + raw / 2, scales exp(raw) / 4, of raw held to [-7, 7].
    Units: nats, probabilities. Errors: UsageError for fewer than 2 bins or 1 component; DataError
    from `check` for values between the levels.
    Source: Salimans et al. (2017), "PixelCNN++", section 2.1; Kingma et al. (2016) for one.
    Example:
        >>> DiscretizedLogistic(256)(torch.zeros(1, 2), 1).log_prob(torch.ones(1, 1)).exp() < 1
        tensor([True])
    """

    def __init__(self, bins: int = 256, components: int = 1) -> None:
        super().__init__()
        at_least(2, bins, "the number of bins")
        at_least(1, components, "the number of components")
        self.bins = bins
        self.components = components
        self.each = 2 if components == 1 else 3 * components
        self.domain = f"the {bins} levels 0, 1/{bins - 1}, 2/{bins - 1}, ..., 1"

    @property
    def support(self) -> Any:  # type: ignore[override]
        """The levels, as the law has them."""
        return self._levels(torch.zeros(()), torch.zeros(())).support

    def forward(self, raw: Tensor, batch_ndim: int) -> Distribution:
        numbers = blocks(raw, batch_ndim, self.each)
        if self.components == 1:
            return independent(self._levels(*numbers), batch_ndim)
        parts = torch.stack(numbers, dim=-1)
        logits, loc, log_scale = parts.split(self.components, dim=-1)
        choice = torch.distributions.Categorical(logits=logits, validate_args=False)
        mixed = distributions.Mixture(choice, self._levels(loc, log_scale), validate_args=False)
        return independent(mixed, batch_ndim)

    def _levels(self, loc: Tensor, log_scale: Tensor) -> Distribution:
        scale = torch.exp(log_scale.clamp(-7, 7)) / 4
        made: Distribution = distributions.DiscretizedLogistic(
            0.5 + loc / 2, scale, 0.0, 1.0, self.bins, validate_args=False
        )
        return made

    def encode_marginals(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        deviation = x.std(0, correction=0).clamp_min(0.5 / self.bins)
        log_scale = torch.log(deviation * 4 * 0.55)  # a logistic's deviation is 1.81 scales
        if self.components == 1:
            return torch.cat([2 * x.mean(0) - 1, log_scale])
        levels = (torch.arange(self.components).to(x) + 0.5) / self.components
        middles = 2 * torch.quantile(x, levels, dim=0) - 1
        even = torch.zeros_like(middles)
        return torch.cat([even, middles, log_scale.expand_as(middles)]).flatten()


class Ordinal(Family):
    """Grades 0, ..., levels - 1 in an order, by cuts through a logistic variable.

        P(x <= k) = sigmoid(cut_k - l),   cut_0 < cut_1 < ...

    The cuts are learned, for each of `width` columns.
    Shapes: raw (*batch, X) with X = width: the middle l of the variable behind each column.
    Units: nats, probabilities. Errors: UsageError for fewer than 2 levels or a width below 1;
    DataError from `check` for other numbers.
    Source: McCullagh (1980), "Regression models for ordinal data", section 2.
    Example:
        >>> Ordinal(3, 2)(torch.zeros(4, 2), 1).event_shape
        torch.Size([2])
    """

    def __init__(self, levels: int, width: int) -> None:
        super().__init__()
        at_least(2, levels, "the number of levels")
        at_least(1, width, "the number of columns")
        self.levels = levels
        self.width = width
        self.support = constraints.integer_interval(0, levels - 1)
        self.domain = f"whole numbers from 0 to {levels - 1}"
        self.first = nn.Parameter(torch.zeros(width))
        self.gaps = nn.Parameter(torch.zeros(width, levels - 2))

    def outputs(self, size: int) -> int:
        if size != self.width:
            raise UsageError(f"the cuts are of {self.width} columns, the data have {size}")
        return size

    def forward(self, raw: Tensor, batch_ndim: int) -> Distribution:
        steps = torch.cat([self.first[:, None], F.softplus(self.gaps) + 1e-3], dim=-1)
        made = distributions.Ordinal(steps.cumsum(-1), raw.flatten(batch_ndim), validate_args=False)
        return independent(made, batch_ndim)

    def encode_marginals(self, x: Tensor) -> Tensor:
        """Zeros, with the cuts where the shares of the levels have them."""
        x = x.flatten(1)
        below = torch.stack([(x <= k).sum(0) for k in range(self.levels - 1)], dim=-1)
        share = (below + torch.arange(1, self.levels).to(x) * 0.5) / (len(x) + self.levels * 0.5)
        cuts = torch.logit(share.to(x))
        gaps = (cuts.diff(dim=-1) - 1e-3).clamp_min(1e-3)
        self.first.data.copy_(cuts[:, 0])
        self.gaps.data.copy_(torch.log(torch.expm1(gaps)))
        return torch.zeros(self.width).to(x)

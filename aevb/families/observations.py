"""Families of observations: binary, grey, classes. All are normalized over their domain."""

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from aevb import distributions
from aevb.errors import at_least
from aevb.families.family import Family, blocks, cells, independent
from aevb.flows.scalar import bisect

MAX_LOGIT = 100.0
"""Bound on the logits of a continuous Bernoulli, whose deviation is 1 / |logit| near 0 and 1."""


class Bernoulli(Family):
    """Independent coin flips for data in {0, 1}.

        log p(x) = sum_i x_i l_i - log(1 + exp(l_i)),  l the logits

    Shapes: raw (*batch, X) logits. Units: nats. Errors: DataError from `check` for anything else
    than 0 and 1: the formula is no likelihood of grey pixels.
    Source: Kingma & Welling (2013), appendix C.1.
    Example:
        >>> Bernoulli()(torch.zeros(1, 2), 1).log_prob(torch.ones(1, 2)).exp()
        tensor([0.2500])
    """

    support = constraints.boolean
    domain = "zeros and ones"
    remedy = "; or binarize them, where they are grey levels"

    def forward(self, raw: Tensor, batch_ndim: int) -> Distribution:
        coins = distributions.Bernoulli(logits=raw, validate_args=False)
        return distributions.BernoulliVector(coins, raw.ndim - batch_ndim, validate_args=False)

    def encode_marginals(self, x: Tensor) -> Tensor:
        return torch.logit((x.sum(0) + 0.5) / (len(x) + 1)).flatten()


class ContinuousBernoulli(Family):
    """The continuous Bernoulli density on [0, 1], for grey pixels.

        p(x) = C(l) exp(x l) / (1 + exp(l)),  log C(l) = log(l / tanh(l / 2))

    Logits are held to [-100, 100]: a pixel that is always 0 would otherwise have a density without
    bound, as under a Gaussian without a least variance (there the deviation is at least 0.01 too).
    Shapes: raw (*batch, X) logits. Units: nats, a density on [0, 1].
    Errors: DataError from `check` for values outside [0, 1].
    Source: Loaiza-Ganem & Cunningham (2019), "The continuous Bernoulli".
    Example:
        >>> ContinuousBernoulli()(torch.zeros(1, 1), 1).log_prob(torch.tensor([[0.3]])).exp()
        tensor([1.])
    """

    support = constraints.unit_interval
    domain = "values between 0 and 1"

    def forward(self, raw: Tensor, batch_ndim: int) -> Distribution:
        return independent(
            distributions.ContinuousBernoulli(
                logits=raw.clamp(-MAX_LOGIT, MAX_LOGIT), validate_args=False
            ),
            batch_ndim,
        )

    def encode_marginals(self, x: Tensor) -> Tensor:
        # The mean is a steep but monotone function of the logit: a few bisections invert it.
        target = x.mean(0).flatten().clamp(0.02, 0.98)
        low, high = torch.full_like(target, -1000.0), torch.full_like(target, 1000.0)

        def above(logits: Tensor) -> Tensor:
            law = distributions.ContinuousBernoulli(logits=logits, validate_args=False)
            return law.mean > target

        return bisect(above, low, high, rounds=50)


class Categorical(Family):
    """One of `classes` unordered classes for each element, numbered from 0.

        log p(x) = sum_i l_{i, x_i} - logsumexp_k l_{i, k}

    Shapes: raw (*batch, classes X): for each class a block of X logits. Units: nats.
    Errors: UsageError for fewer than 2 classes; DataError from `check` for other numbers.
    Source: the softmax likelihood; Bishop (2006), section 2.2.
    Example:
        >>> Categorical(4)(torch.zeros(1, 8), 1).event_shape
        torch.Size([2])
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        at_least(2, classes, "the number of classes")
        self.classes = self.each = classes
        self.support = constraints.integer_interval(0, classes - 1)
        self.domain = f"whole numbers from 0 to {classes - 1}"

    def forward(self, raw: Tensor, batch_ndim: int) -> Distribution:
        logits = torch.stack(blocks(raw, batch_ndim, self.classes), dim=-1)
        return independent(
            distributions.Categorical(logits=logits, validate_args=False), batch_ndim
        )

    def encode_marginals(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        counts = torch.stack([(flat == k).sum(0) for k in range(self.classes)]).to(x.dtype)
        return torch.log((counts + 0.5) / (len(x) + 0.5 * self.classes)).flatten()

    def moments(self, distribution: Distribution) -> Tensor:
        """The probabilities of the classes, (*batch, classes X), a block for each class."""
        probabilities: Tensor = cells(distribution).probs
        return probabilities.movedim(-1, -2).flatten(-2)

    def summarize(self, moments: Tensor) -> Tensor:
        """The most probable class of each element: classes have no mean."""
        by_class: Tensor = moments.unflatten(-1, (self.classes, -1))
        return by_class.argmax(-2).to(moments.dtype)

    moment_count = Family.outputs

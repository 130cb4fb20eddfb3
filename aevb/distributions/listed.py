"""A law over values that can be listed: what Bayes' rule gives for codes that are few."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch import distributions as td
from torch.distributions import Distribution, Independent, constraints
from torch.distributions.kl import register_kl
from torch.special import xlogy

from aevb.distributions.chain import Chain
from aevb.distributions.discrete import OneHotCategoricals
from aevb.distributions.reparameterization import Noise, Remembering, base_of
from aevb.distributions.special import product
from aevb.randomness import open_uniform

MOST_POINTS = 1 << 16
"""Of the codes that are listed."""


def listed(prior: Distribution) -> Tensor | None:
    """All codes of a prior over few of them, (P, *event), else None.

    Shapes: a vector of independent coins or classes gives V^D codes for V values of each, up to
    65,536; a one-hot vector of K classes gives K, D of them side by side K^D; a chain of such parts
    every combination of theirs.
    Example:
        >>> coins = Independent(torch.distributions.Bernoulli(torch.full((3,), 0.5)), 1)
        >>> listed(coins).shape
        torch.Size([8, 3])
    """
    return None if prior.batch_shape else _events(prior)


def _events(law: Distribution) -> Tensor | None:
    """All events of a law, the same for every element of its batch, where there are few."""
    if isinstance(law, Chain):
        return _of_chain(law)
    if isinstance(law, OneHotCategoricals):
        size, classes = law.logits.shape[-2:]
        return _combined([torch.eye(classes).to(law.logits)] * size)
    base = base_of(law)
    if not base.has_enumerate_support:
        return None
    values = base.enumerate_support(expand=False)
    values = values.reshape(len(values), *base.event_shape)
    if not isinstance(law, Independent):
        return values if len(values) <= MOST_POINTS else None
    if len(law.event_shape) != 1 or base.event_shape:
        return None
    return _combined([values.unsqueeze(-1)] * law.event_shape[0])


def _of_chain(chain: Chain) -> Tensor | None:
    part, parts = _events(chain.first), []
    for link in chain.links:
        if part is None:
            return None
        parts.append(part)
        part = _events(link(part[:1]))
    if part is None:
        return None
    parts.append(part)
    return _combined(parts[::-1] if chain.reverse else parts)


def _combined(parts: Sequence[Tensor]) -> Tensor | None:
    """Every choice of a row (E_i) of each part (P_i, E_i), side by side; None for too many."""
    if math.prod([len(part) for part in parts]) > MOST_POINTS:
        return None
    each = itertools.product(*(range(len(part)) for part in parts))
    index = torch.tensor(list(each), device=parts[0].device).unbind(1)
    return torch.cat([part[rows] for part, rows in zip(parts, index, strict=True)], dim=-1)


class Listed(Remembering):
    """One of P values that are listed, each with a probability of its own.

        p(z = c_j) = softmax(logits)_j;   a draw is the first c_j with u < p(c_1) + ... + p(c_j)

    Draws are hard: nothing is differentiable through them, and their density is known without a
    search while the draw is at hand.
    Shapes: codes (P, *event), all different, the same for the whole batch; logits (*batch, P).
    Units: nats; log 0 for a value that is not listed.
    Source: the inverse of a step function; Devroye (1986), "Non-uniform random variate
    generation", section III.2.
    Example:
        >>> law = Listed(torch.eye(2), torch.tensor([0.75, 0.25]).log())
        >>> law.transform(torch.tensor([0.7, 0.8]))
        tensor([[1., 0.],
                [0., 1.]])
    """

    arg_constraints = {"logits": constraints.real_vector}  # noqa: RUF012  # as torch has it
    route = "hard"
    has_rsample = False
    has_enumerate_support = True

    def __init__(self, codes: Tensor, logits: Tensor, validate_args: bool | None = None) -> None:
        self.codes = codes
        self.logits = torch.log_softmax(logits, -1)
        super().__init__(logits.shape[:-1], codes.shape[1:], validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True)
    def support(self) -> constraints.Constraint:
        return constraints.independent(constraints.real, len(self.event_shape))

    @property
    def probs(self) -> Tensor:
        """The probability of each value, (*batch, P)."""
        return self.logits.exp()

    @property
    def mean(self) -> Tensor:
        return self._average(self.codes)

    @property
    def variance(self) -> Tensor:
        return self._average(self.codes.square()) - self.mean.square()

    def _average(self, values: Tensor) -> Tensor:
        flat = product(self.probs, values.flatten(1).to(self.logits))
        average: Tensor = flat.reshape([*self.batch_shape, *self.event_shape])
        return average

    def entropy(self) -> Tensor:
        each: Tensor = xlogy(self.probs, self.probs)
        return -each.sum(-1)

    @property
    def standard(self) -> Noise:
        return Noise(torch.Size(), open_uniform, False)

    def transform(self, noise: Tensor) -> Tensor:
        steps = self.probs.cumsum(-1)
        # The last step may round to less than 1.
        steps = steps / steps[..., -1:]
        chosen = (steps <= noise.unsqueeze(-1)).sum(-1, keepdim=True)
        logits = self.logits.expand(*chosen.shape[:-1], -1)
        return self.remember(self.codes[chosen.squeeze(-1)], logits.gather(-1, chosen).squeeze(-1))

    def _log_prob(self, value: Tensor) -> Tensor:
        axis = value.ndim - len(self.event_shape)
        same = (value.unsqueeze(axis) == self.codes).flatten(axis + 1).all(-1)
        found: Tensor = torch.logsumexp(torch.where(same, self.logits, -torch.inf), -1)
        return found

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """The values, (P, *batch, *event)."""
        lead = [1] * len(self.batch_shape)
        values = self.codes.reshape(len(self.codes), *lead, *self.event_shape)
        whole = (-1, *self.batch_shape, *self.event_shape)
        return values.expand(whole) if expand else values


def _against_any(q: Listed, p: Any) -> Tensor:
    """sum_j q_j (log q_j - log p(c_j)), where a value that q never takes adds nothing."""
    log_p = p.log_prob(q.codes.reshape(len(q.codes), *[1] * len(p.batch_shape), *q.event_shape))
    log_p = log_p.movedim(0, -1)
    return torch.where(q.probs > 0, q.probs * (q.logits - log_p), 0.0).sum(-1)


register_kl(Listed, td.Distribution)(_against_any)

"""Semi-supervised learning with a class y beside the code z (Kingma et al. 2014, model M2).

    p(x, y, z) = p(y) p(z) p(x given y, z)          q(y, z given x) = q(y given x) q(z given x, y)
    L(x, y)    = E_q(z given x, y)[log p(x given y, z)] - KL(q(z given x, y) || p(z)) + log p(y)
    U(x)       = sum_y q(y given x) L(x, y) + H(q(y given x))

L bounds log p(x, y), U bounds log p(x). Both are one sum over classes, whose weights are q(y given
x) where the class is not known, and one for the class where it is: its entropy is 0 there.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from numbers import Real
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution, OneHotCategorical

from aevb.algorithms.gradient import GradientLearner
from aevb.conditional import Informed
from aevb.data.source import UNLABELED
from aevb.distributions import kl, reparameterize
from aevb.distributions.reparameterization import Noise, apart, side_by_side
from aevb.errors import UsageError
from aevb.model import Model
from aevb.objectives import Terms
from aevb.posterior import Batch, Posterior
from aevb.randomness import uniform


class ByClass(NamedTuple):
    """The parts of L(x, y) for each of K classes and M data, and log q(y given x).

        L(x, y) = reconstruction - kl + log p(y)

    `reconstruction` is the mean over samples of log p(x given y, z); `kl` is that of z alone.
    Shapes: (K, M) each. Units: nats. Source: as `by_class`.
    Example:
        >>> half, likelihood = torch.full((2, 1), 0.5), torch.tensor([[-3.0], [-5.0]])
        >>> parts = ByClass(half.log(), half.log(), likelihood, kl=torch.ones(2, 1))
        >>> fit, cost = parts.summed(half, entropy=-2 * (half * half.log())[0])
        >>> fit - cost
        tensor([-5.])
    """

    log_q: Tensor
    log_prior: Tensor
    reconstruction: Tensor
    kl: Tensor

    @property
    def bound(self) -> Tensor:
        """L(x, y), a bound on log p(x, y), for each class, (K, M) nats."""
        return self.reconstruction - self.kl + self.log_prior

    def summed(self, weights: Tensor, entropy: Tensor) -> tuple[Tensor, Tensor]:
        """Reconstruction and divergence, (M,) each, whose difference is sum_y w_y L(x, y) + H(w).

        Shapes: `weights` (K, M), columns that add up to 1, and their `entropy` (M,) in nats.
        """
        divergence = (weights * (self.kl - self.log_prior)).sum(0) - entropy
        return (weights * self.reconstruction).sum(0), divergence


class Labeled(NamedTuple):
    """Which rows have a class, and these rows.

    Shapes: `labels` (N,) the classes from 0 of all rows, by their place in the data set, with -1
    where it is not known; `x` (N_l, X) those rows that have one, in their order, as the model sees
    them.
    Example:
        >>> labels = torch.tensor([1, -1, 0])
        >>> Labeled(labels, torch.eye(3)[labels >= 0]).x.shape
        torch.Size([2, 3])
    """

    labels: Tensor
    x: Tensor


def by_class(model: Model, posterior: Posterior, batch: Batch, noise: Tensor) -> ByClass:
    """One pass for every class: z = g(noise, x, y), decoded, at the same noise for each y.

    Shapes: batch x (M, X), noise (L, M, *shape) of z; the result (K, M).
    Units: nats. Errors: UsageError for a posterior or a prior that is not a class and then a code.
    Source: Kingma et al. (2014), equations 6 and 7.
    Example:
        >>> import aevb
        >>> from torch.nn import Linear
        >>> prior = aevb.conditional.class_and_code(3, 2)
        >>> model = Model(prior, aevb.bernoulli(Linear(3 + 2, 4)))
        >>> networks = Linear(4, 3), Linear(4, 6), Linear(6 + 3, 2 * 2)
        >>> posterior = aevb.posterior.with_class(*networks, [3, 2])
        >>> parts = by_class(model, posterior, Batch(torch.ones(5, 4)), torch.zeros(1, 5, 2))
        >>> parts.bound.shape
        torch.Size([3, 5])
    """
    q, p = _chain(posterior(batch), "posterior"), _chain(model.prior(), "prior")
    count, rows = q.first.event_shape[0], len(batch.x)
    y = torch.eye(count, dtype=noise.dtype, device=noise.device).unsqueeze(1)
    each = y.expand(count, rows, count)
    q_z, p_z = q.links[0](each), p.links[0](y)
    z = reparameterize(q_z, noise.unsqueeze(1).expand(-1, count, *noise.shape[1:]))
    code = torch.cat([each.expand(*z.shape[:-1], count), z], dim=-1)
    divergence = kl(q_z, p_z)
    if divergence is None:
        divergence = (q_z.log_prob(z) - p_z.log_prob(z)).mean(0)
    return ByClass(
        q.first.log_prob(each),
        p.first.log_prob(y).expand(count, rows),
        model.log_likelihood(batch.x, code).mean(0),
        divergence,
    )


def _chain(law: Distribution, what: str) -> Any:
    """A law of a class and then a code, or a UsageError."""
    first = getattr(law, "first", None)
    if not isinstance(first, OneHotCategorical) or len(getattr(law, "links", ())) != 1:
        raise UsageError(
            f"the {what} of a semi-supervised model is a chain of a class and a code, of which the "
            f"first link is a OneHotCategorical, found {type(law).__name__}"
        )
    return law


@dataclass
class SemiSupervised(GradientLearner):
    """The learner of M2: classes that are known for some rows, and summed over for the others.

        objective_n = U(x_n), or L(x_n, y_n) where y_n is known,  + a mean_l log q(y_l given x_l)

    The last mean is over the rows with a class; `classification` a is its weight, and makes of the
    classifier q(y given x) more than a guess at what the generative model does without. A step
    takes it, without bias, at one labeled row for each sample of each datum: the noise says which.
    So the classifier sees as many labeled rows as others, however few there are.
    Shapes: a batch of M data with their row numbers, noise (L, M, E + 1), that of z and a uniform
    number.
    Units: nats per datum; a bound on log p(x), or on log p(x, y) for rows with a class.
    Errors: UsageError for no labeled rows, another number of them, a class that is none, a weight
    below 0, or a batch without row numbers; those of `GradientLearner`.
    Source: Kingma et al. (2014), "Semi-supervised learning with deep generative models", equations
    6 to 9, where a is called alpha / N, and is 0.1.
    Example:
        >>> from aevb import MLP, bernoulli
        >>> from aevb.conditional import class_and_code
        >>> from aevb.posterior import with_class
        >>> model = Model(class_and_code(3, 2), bernoulli(MLP(3 + 2, [8], 4)))
        >>> networks = MLP(4, [8], 3), MLP(4, [8], 6), MLP(6 + 3, [8], 2 * 2)
        >>> posterior = with_class(*networks, [3, 2])
        >>> labeled = Labeled(torch.tensor([2, -1, -1, 0]), torch.ones(2, 4))
        >>> learner = SemiSupervised(model, posterior, labeled)
        >>> state = learner.init()
        >>> learner.step(state, Batch(torch.ones(4, 4), torch.arange(4)), torch.zeros(1, 4, 3))
        >>> state.t
        1
    """

    labeled: Labeled
    classification: float = 0.1

    def __post_init__(self) -> None:
        labels, x = self.labeled
        known = labels[labels != UNLABELED]
        if not len(known) or len(known) != len(x):
            raise UsageError(
                f"every row with a class is needed beside the classes, and at least one: found "
                f"{len(x)} rows for {len(known)} classes"
            )
        number = isinstance(self.classification, Real)
        if not number or not 0 <= self.classification < math.inf:
            raise UsageError(
                "the weight of classification is a finite number that must not be negative, found "
                f"{self.classification!r}"
            )
        if not isinstance(getattr(self.posterior, "conditional", None), Informed):
            raise UsageError(
                "the posterior of a semi-supervised model is aevb.conditional.Informed: a "
                f"classifier, and an encoder that is told of x and y; found {self.posterior}"
            )
        classes = self._conditional.sizes[0]
        if len(odd := known[(known < 0) | (known >= classes)]):
            raise UsageError(
                f"classes are 0 to {classes - 1}, or {UNLABELED} where none is known, found "
                f"{int(odd[0])}"
            )
        self._classes = known
        super().__post_init__()

    def terms(self, batch: Batch, noise: Tensor, temper: Tensor) -> Terms:
        if batch.rows is None:
            raise UsageError("classes are found by the number of each row: pass Batch(x, rows)")
        z_noise, which = apart(noise, self._noises)
        parts = by_class(self.model, self.posterior, batch, z_noise)
        labels = self.labeled.labels[batch.rows]
        reconstruction, divergence = parts.summed(*_weights(parts.log_q, labels))
        told = self.classification * self._log_q_of_labeled(which)
        return Terms(reconstruction - temper * divergence + told, reconstruction, divergence)

    def noise(self, batch: Batch) -> Noise:
        """The noise of z, and beside it a uniform number for the labeled row that comes along."""
        return side_by_side(self._noises)

    @cached_property
    def _noises(self) -> list[Noise]:
        _, code = self._conditional.noises
        return [code, Noise(torch.Size(()), uniform)]

    @property
    def _conditional(self) -> Any:
        return self.posterior.conditional

    def _log_q_of_labeled(self, which: Tensor) -> Tensor:
        """The mean of log q(y given x) of labeled rows that numbers (L, M) choose, (M,) nats."""
        x = self.labeled.x
        chosen = (which * len(x)).long().clamp(0, len(x) - 1).flatten()
        q: Any = self._conditional.links[0](x[chosen].to(which.dtype))
        found: Tensor = q.logits.gather(-1, self._classes[chosen].unsqueeze(-1))
        return found.reshape(which.shape).mean(0)


def _weights(log_q: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """q(y given x), or 1 for the class that is known, (K, M), and the entropy of it, (M,) nats."""
    classes = torch.arange(len(log_q), device=labels.device).unsqueeze(-1)
    known, q = (classes == labels).to(log_q.dtype), log_q.exp()
    hidden = labels == UNLABELED
    # By log q itself: the logarithm of a q that has become 0 would have no gradient.
    entropy = torch.where(hidden, -(q * log_q).sum(0), 0.0)
    return torch.where(hidden, q, known), entropy

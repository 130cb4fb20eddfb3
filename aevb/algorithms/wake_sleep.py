"""Wake-sleep: each side learns from what the other one makes up.

    wake    z from q(z given x):                          theta climbs log p(x, z)
    sleep   z from p(z), x from p(x given z), a dream:    phi climbs log q(z given x)

No draw is differentiated, so that codes may be discrete. The sleep phase descends KL(p || q) where
the bound has KL(q || p): the two together have no one objective. Reweighted wake-sleep takes K
codes, and weights both sides by what each is worth:

    w_k = p(x, z_k) / q(z_k given x),   w~_k = w_k / sum_j w_j
    wake    theta climbs sum_k w~_k log p(x, z_k),   phi climbs sum_k w~_k log q(z_k given x)
    sleep   as above
"""

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from aevb.algorithms.gradient import GradientLearner
from aevb.distributions.reparameterization import Noise, draw_from, noise_of, side_by_side
from aevb.errors import UsageError
from aevb.families.elementwise import MOVING
from aevb.objectives.bounds import Draw, Terms, with_gradient_of
from aevb.posterior import Batch, has_rows


@dataclass
class WakeSleep(GradientLearner):
    """The wake-sleep algorithm: two gradients, each of one side, in one step.

        theta:  mean over x and s of grad log p(x, z_s),        z_s from q(z given x)
        phi:    mean over dreams of grad log q(z given x'),     z from p(z), x' from p(x given z)

    A prior that is learned belongs to theta. There are as many dreams in a step as data. What is
    reported is estimator A of the bound at the wake phase's draws, which no phase follows.
    Shapes: a batch of M data; noise (L, M, E) as `noise` says: side by side that of the wake codes,
    of the dreamt codes and of the dreams. Units: nats per datum.
    Errors: UsageError for free parameters of each datum, for a posterior and a prior that share
    parameters, for a posterior on an interval that moves, which cannot reach all that the prior
    draws, for a weight of the divergence other than 1; those of `GradientLearner`.
    Source: Hinton, Dayan, Frey & Neal (1995), "The wake-sleep algorithm for unsupervised neural
    networks"; Kingma & Welling (2013), section 5.
    Example:
        >>> import aevb
        >>> from aevb import families
        >>> from aevb.posterior import amortized
        >>> from aevb.randomness import Stream, generator
        >>> prior = aevb.Unconditional(families.Bernoulli(), 3, learned=True)
        >>> model = aevb.Model(prior, aevb.bernoulli(aevb.MLP(3, [8], 5)))
        >>> learner = WakeSleep(model, amortized(aevb.MLP(5, [8], 3), families.Bernoulli()))
        >>> state, batch = learner.init(), Batch(torch.ones(4, 5))
        >>> noise = learner.noise(batch).draw(generator(0, Stream.NOISE), (1, 4), torch.float32)
        >>> noise.shape
        torch.Size([1, 4, 11])
        >>> learner.step(state, batch, noise)
        >>> state.t
        1
    """

    weighs_divergence: ClassVar[bool] = False
    both_wake: ClassVar[bool] = False
    """Whether the wake phase teaches the posterior too."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if has_rows(self.posterior):
            raise UsageError(
                f"{self._name} teaches the posterior by dreams, which are no rows of the data, and "
                "free parameters of each datum learn nothing from them: choose an amortized "
                "posterior"
            )
        if _shares(self.model, self.posterior):
            raise UsageError(
                f"{self._name} follows one gradient in the model and another in the posterior, and "
                "here the two share parameters (as a ladder and a VampPrior do): choose a "
                "posterior and a prior with parameters of their own"
            )
        family = getattr(getattr(self.posterior, "conditional", None), "family", None)
        distribution = getattr(family, "distribution", None)
        if distribution in MOVING:
            raise UsageError(
                f"{self._name} needs log q of all that the prior draws, and {family.title} has "  # type: ignore[union-attr]
                "none outside of an interval that moves: choose another posterior"
            )

    def terms(self, batch: Batch, noise: Tensor, temper: Tensor) -> Terms:
        prior = self.model.prior()
        with nullcontext() if self.both_wake else torch.no_grad():
            q = self.posterior(batch)
            awake, rest = _taken(noise, q)
            z = draw_from(q, awake)
            log_q = q.log_prob(z)
        drawn = Draw(z, self.model.log_likelihood(batch.x, z), q, prior)
        woken = self._woken(drawn.log_likelihood + prior.log_prob(z), log_q)
        slept = self._slept(rest[0], prior)
        return drawn.terms(woken + with_gradient_of(torch.zeros_like(slept), slept))

    def noise(self, batch: Batch) -> Noise:
        q, p = self.posterior(batch), self.model.prior()
        z = torch.zeros(len(batch.x), *p.event_shape).to(batch.x)
        dream = [_once(noise_of(law)) for law in (p, self.model.likelihood(z))]
        return side_by_side([noise_of(q), *dream])

    def _woken(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """What is climbed awake, (M,) nats, of log p(x, z) and log q(z given x), (S, M)."""
        return (log_p - log_q).mean(0)

    def _slept(self, noise: Tensor, prior: Distribution) -> Tensor:
        """log q of the code behind each dream, (M,) nats: what phi learns from the model."""
        with torch.no_grad():
            asleep, rest = _taken(noise, prior)
            z = draw_from(prior, asleep)
            law = self.model.likelihood(z)
            x = draw_from(law, _taken(rest, law)[0]).to(noise.dtype)
        log_q: Tensor = self.posterior(Batch(x)).log_prob(z)
        return log_q

    @property
    def _name(self) -> str:
        return type(self).__name__


@dataclass
class ReweightedWakeSleep(WakeSleep):
    """Wake-sleep with K codes for each datum, weighted: as K grows theta climbs log p(x) itself.

        w_k = p(x, z_k) / q(z_k given x),   w~_k = w_k / sum_j w_j,   z_k from q(z given x)
        theta:  sum_k w~_k grad log p(x, z_k)
        phi:    sum_k w~_k grad log q(z_k given x), and the sleep phase of `WakeSleep`

    Both updates of phi are added up. What is reported is log mean_k w_k, the importance-weighted
    bound. With K = 1 every weight is 1, and the wake update of phi is noise around zero: that is
    wake-sleep with more variance, and is refused.
    Shapes: a batch of M data; noise (K, M, E), K at least 2, as for `WakeSleep`. Units: nats.
    Errors: UsageError for one sample; those of `WakeSleep`.
    Source: Bornschein & Bengio (2015), "Reweighted wake-sleep", equations 5, 9 and 10.
    Example:
        >>> import aevb
        >>> model = aevb.Model(aevb.standard_normal(2), aevb.bernoulli(aevb.MLP(2, [8], 5)))
        >>> learner = ReweightedWakeSleep(model, aevb.mean_field(aevb.MLP(5, [8], 4)))
        >>> learner.noise(Batch(torch.ones(3, 5))).shape
        torch.Size([9])
    """

    both_wake = True

    def _woken(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        if len(log_p) < 2:
            raise UsageError(
                f"{self._name} weighs samples of a code against each other, and found 1: take "
                "several, say 5, or plain wake-sleep"
            )
        log_w = (log_p - log_q).detach()
        bound = torch.logsumexp(log_w, 0) - math.log(len(log_w))
        followed = (torch.softmax(log_w, 0) * (log_p + log_q)).sum(0)
        return with_gradient_of(bound, followed)


def _shares(model: nn.Module, posterior: nn.Module) -> bool:
    """Whether one of the two uses parameters of the other, as its own or as those it is shown."""
    if {id(p) for p in model.parameters()} & {id(p) for p in posterior.parameters()}:
        return True
    parts = (*model.modules(), *posterior.modules())
    lent = [p for p in parts if any(isinstance(v, nn.Module) for v in vars(p).values())]
    return not all(getattr(p, "exact", False) for p in lent)


def _taken(noise: Tensor, law: Distribution) -> tuple[Tensor, Tensor]:
    """The noise of a draw, (*lead, *shape), from the front of (*lead, E), and what is left."""
    own = noise_of(law).shape
    size = own.numel()
    return noise[..., :size].reshape(*noise.shape[:-1], *own), noise[..., size:]


def _once(noise: Noise) -> Noise:
    """The noise of what is drawn for the first of several samples only: zeros for the others."""

    def law(generator: np.random.Generator, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        drawn = torch.zeros(*shape, dtype=dtype)
        drawn[:1] = noise.law(generator, (1, *shape[1:]), dtype)
        return drawn

    return noise._replace(law=law)

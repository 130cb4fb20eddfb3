"""Discrete codes made soft where the gradient passes: little variance, some bias.

    gumbel_softmax     the decoder is given relaxed codes, between 0 and 1
    straight_through   the decoder is given hard codes, the gradient passes as if they were q's mean

KL(q || p) is that of the discrete laws, in closed form. What is reported is the bound at hard codes
of the same noise.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch import distributions as td
from torch.distributions import Distribution

from aevb import distributions as zoo
from aevb.distributions import kl
from aevb.distributions.discrete import (
    one_hot,
    relaxed_class,
    relaxed_coin,
    straight_class,
    straight_coin,
)
from aevb.distributions.reparameterization import Noise, base_of
from aevb.errors import UsageError
from aevb.model import Model
from aevb.objectives.bounds import (
    Encoded,
    Objective,
    Terms,
    elbo_b,
    encode,
    kind_of,
    with_gradient_of,
)
from aevb.posterior import Batch, Posterior
from aevb.randomness import open_uniform


@dataclass(frozen=True)
class Relaxed(Objective):
    """Estimator B through soft codes of a `temperature`, or hard ones where it is None.

    Shapes: noise (S, N, D) for coins, (S, N, ..., K) for classes; the value (N,). Units: nats.
    Errors: UsageError for codes that are no coins or classes, a divergence without closed form,
    noise of another shape.
    Source: as `gumbel_softmax` and `straight_through`.
    Example:
        >>> from aevb import families
        >>> q, noise = families.Bernoulli()(torch.zeros(1, 2), 1), torch.tensor([[[0.25, 0.75]]])
        >>> gumbel_softmax(0.5).soft(q, noise), gumbel_softmax(0.1).soft(q, noise).round()
        (tensor([[[0.1000, 0.9000]]]), tensor([[[0., 1.]]]))
    """

    temperature: float | None = None
    unbiased = False

    def estimate(self, at: Encoded, noise: Tensor, temper: Tensor | float) -> Terms:
        drawn = self.soft(at.q, noise)
        d = at.decode(_as_codes(drawn, at.q))
        objective = self.reduce(d, temper)
        if self.temperature is None:
            return d.terms(objective)
        with torch.no_grad():
            hard = at.decode(_as_codes(_hardened(at.q, drawn), at.q))
            value = self.reduce(hard, temper)
        return hard.terms(with_gradient_of(value, objective))

    def noise(self, model: Model, posterior: Posterior, batch: Batch) -> Noise:
        at = encode(model, posterior, batch)
        self.check(at.q, at.p, 1)
        return Noise(base_of(at.q).logits.shape[len(at.q.batch_shape) :], open_uniform)

    def check(self, q: Distribution, p: Distribution, samples: int) -> None:
        if not isinstance(base_of(q), (_COINS, *_CLASSES)):
            raise UsageError(
                f"{self.name} is for codes of Bernoulli or OneHotCategorical, found "
                f"{kind_of(q)}: choose elbo_b where draws have a gradient, else "
                "the score function"
            )
        if kl(q, p) is None:
            raise UsageError(
                f"{self.name} needs KL(q || p) of the discrete laws in closed form and there is "
                "none for this pair: choose the score function of elbo_a"
            )

    def soft(self, q: Distribution, noise: Tensor) -> Tensor:
        """Draws with a gradient in the place of those of q: D coins, or (..., K) for classes."""
        logits, coins = base_of(q).logits, isinstance(base_of(q), _COINS)
        if tuple(noise.shape[1:]) != tuple(logits.shape):
            raise UsageError(
                f"noise must have shape (S, {', '.join(map(str, logits.shape))}), "
                f"found {tuple(noise.shape)}"
            )
        if self.temperature is None:
            return straight_coin(logits, noise) if coins else straight_class(logits, noise)
        relaxed = relaxed_coin if coins else relaxed_class
        return relaxed(logits, self.temperature, noise)


_COINS = td.Bernoulli
_CLASSES = (td.OneHotCategorical, zoo.OneHotCategoricals)


def _as_codes(drawn: Tensor, q: Distribution) -> Tensor:
    """Draws of a soft law in the shape of the codes of q, of which it may be a flat one."""
    lead = drawn.shape[: 1 + len(q.batch_shape)]
    return drawn.reshape(*lead, *q.event_shape)


def _hardened(q: Distribution, z: Tensor) -> Tensor:
    """The corner of the cube, or of the simplex, that is nearest to z."""
    if isinstance(base_of(q), _COINS):
        return (z > 0.5).to(z.dtype)
    return one_hot(z.argmax(-1), z.shape[-1], z.dtype)


def gumbel_softmax(temperature: float = 0.5) -> Relaxed:
    """Estimator B for Bernoulli or one-hot codes, its gradient through relaxed ones.

        z = softmax((l + g) / t), g of Gumbel's law;   for coins z = sigmoid((l + log u/(1-u)) / t)
        gradient of mean_s log p(x given z_s) - KL(q || p)

    It is the gradient of another model, whose codes are soft: biased, less so at a lower
    temperature t, at which its variance grows.
    Shapes: noise as `noise` says: D coins (S, N, D), or K classes (S, N, ..., K).
    Units: the value is the bound at the hard codes of the same noise, (N,) nats; it decodes twice.
    Errors: UsageError for a temperature that is not positive, for other codes, without a closed KL.
    Source: Jang, Gu & Poole (2017), "Categorical reparameterization with Gumbel-softmax"; Maddison,
    Mnih & Teh (2017), "The concrete distribution".
    Example:
        >>> from aevb import MLP, Model, bernoulli, families
        >>> from aevb.conditional import Unconditional
        >>> from aevb.posterior import amortized
        >>> model = Model(Unconditional(families.Bernoulli(), 3), bernoulli(MLP(3, [8], 5)))
        >>> posterior = amortized(MLP(5, [8], 3), families.Bernoulli())
        >>> gumbel_softmax(0.5)(model, posterior, torch.ones(4, 5), torch.rand(2, 4, 3)).shape
        torch.Size([4])
    """
    if not temperature > 0:
        raise UsageError(f"a temperature must be positive, found {temperature}")
    return Relaxed(f"gumbel_softmax({temperature:g})", elbo_b.reduce, temperature)


straight_through = Relaxed("straight_through", elbo_b.reduce)
"""Estimator B for Bernoulli or one-hot codes, hard ones, as if dz were the gradient of q's mean.

Biased wherever the decoder is not linear in z. Errors: as of `gumbel_softmax`.
Source: Bengio, Leonard & Courville (2013), "Estimating or propagating gradients through stochastic
neurons for conditional computation".
"""

"""Discrete latents: their relaxations, with exact gradients, and hard draws with biased ones.

relaxed            z = softmax((l + g) / t), g of Gumbel's law; as t to 0 it is one-hot
straight-through   forward the hard draw, backward the gradient of the probabilities
hard               a step of the noise, whose gradient is zero: for estimators that need none
"""

import math
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch import distributions as td
from torch.distributions import constraints

from aevb.distributions.reparameterization import ROUTES, Noise, Reparameterized
from aevb.distributions.series import log_ratio
from aevb.distributions.special import logit
from aevb.randomness import open_uniform


class _Relaxed(Reparameterized):
    """Checks of the temperature, which torch leaves out, and what follows from them."""

    law = staticmethod(open_uniform)
    logits: Tensor
    temperature: Tensor
    axes: ClassVar[int]
    """How many axes of the parameter belong to the event."""

    def __init__(
        self,
        temperature: Tensor | float,
        probs: Tensor | float | None = None,
        logits: Tensor | float | None = None,
        validate_args: bool | None = None,
    ) -> None:
        if (probs is None) == (logits is None):
            raise ValueError("give either probs or logits, and not both")
        given = probs if logits is None else logits
        like = given if isinstance(given, Tensor) else torch.get_default_dtype()
        temperature = torch.as_tensor(temperature).to(like)
        if temperature.numel() == 1:
            temperature = temperature.reshape(())
        elif isinstance(given, Tensor):
            lead = given.ndim - self.axes
            shape = torch.broadcast_shapes(temperature.shape, given.shape[:lead])
            given = given.expand(*shape, *given.shape[lead:])
        elif given is not None:
            given = torch.ones_like(temperature) * given
        pair = (given, None) if logits is None else (None, given)
        super().__init__(temperature, *pair, validate_args)  # type: ignore[arg-type,call-arg]
        if self._validate_args and not bool((temperature > 0).all()):
            raise ValueError(f"a temperature must be positive, found {temperature}")


class RelaxedBernoulli(_Relaxed, td.RelaxedBernoulli):
    """A coin between 0 and 1: the binary concrete law.

        z = s((l + log(u / (1 - u))) / t), u ~ U(0, 1)
        p(z) = t s(d) s(-d) / (z (1 - z)),  d = l - t log(z / (1 - z))

    Draws that round to 0 or 1 are the closest numbers between them.
    Shapes: the temperature t broadcasts with the batch, that of probs or logits l; events are
    numbers in (0, 1). Units: nats.
    Errors: ValueError for a temperature that is not positive.
    Source: Maddison et al. (2017), "The concrete distribution", appendix B.
    Example:
        >>> RelaxedBernoulli(1.0, logits=torch.tensor(0.0)).cdf(torch.tensor(0.25))
        tensor(0.2500)
    """

    route = "inverse CDF"
    axes = 0

    def transform(self, noise: Tensor) -> Tensor:
        return relaxed_coin(self.logits, self.temperature, noise)

    def icdf(self, value: Tensor) -> Tensor:
        return torch.sigmoid((self.logits + logit(value)) / self.temperature)

    def _cdf(self, value: Tensor) -> Tensor:
        return torch.sigmoid(self.temperature * logit(value) - self.logits)

    def _log_prob(self, value: Tensor) -> Tensor:
        z = _inside(value)
        d = self.logits - self.temperature * logit(z)
        slope = torch.log(self.temperature) - torch.log(z) - torch.log1p(-z)
        return slope + F.logsigmoid(d) + F.logsigmoid(-d)


class RelaxedOneHotCategorical(_Relaxed, td.RelaxedOneHotCategorical):
    """A point of the simplex near its corners: the concrete law, or Gumbel-softmax.

        z = softmax((l + g) / t), g = -log(-log u), u ~ U(0, 1)
        p(z) = Gamma(K) t^(K-1) prod_k (exp(l_k) z_k^(-t-1)) / (sum_k exp(l_k) z_k^-t)^K

    The density is by the first K - 1 coordinates. Draws that round to 0 or 1 are the closest
    numbers between them.
    Shapes: probs or logits l (*batch, K); the temperature t is one number, or (*batch).
    Units: nats. Errors: ValueError for a temperature that is not positive.
    Source: Maddison et al. (2017), "The concrete distribution", equation 10; Jang et al. (2017),
    "Categorical reparameterization with Gumbel-softmax".
    Example:
        >>> law = RelaxedOneHotCategorical(1.0, logits=torch.zeros(3))
        >>> law.log_prob(torch.full((3,), 1 / 3)).exp()
        tensor(2.)
    """

    route = "composition"
    axes = 1

    def transform(self, noise: Tensor) -> Tensor:
        return relaxed_class(self.logits, _each(self.temperature), noise)

    def _log_prob(self, value: Tensor) -> Tensor:
        z = _inside(value)
        size, t = self.event_shape[0], _each(self.temperature)
        # By the logs of ratios, which keep their digits where a high temperature multiplies them.
        ratio = log_ratio(z, z.amax(-1, keepdim=True))
        score = torch.log_softmax(self.logits - t * ratio, -1) - z.log()
        scale = torch.lgamma(z.new_tensor(float(size))) + (size - 1) * torch.log(t)
        return score.sum(-1) + (scale if scale.ndim == 0 else scale.squeeze(-1))


class OneHotCategoricalStraightThrough(Reparameterized, td.OneHotCategoricalStraightThrough):
    """A class as a one-hot vector; its draws pass on the gradient of the probabilities.

        z = one-hot(argmax_k (l_k + g_k)), g = -log(-log u), u ~ U(0, 1);   dz := d probs

    The gradient is biased: it is that of a function that is linear in z.
    Shapes: probs or logits l (*batch, K); events (K,). Units: nats.
    Errors: ValueError, as torch's, for probabilities that are not on the simplex.
    Source: Bengio, Leonard & Courville (2013), "Estimating or propagating gradients through
    stochastic neurons for conditional computation", section 3.
    Example:
        >>> law = OneHotCategoricalStraightThrough(logits=torch.tensor([0.0, 1.0]))
        >>> law.transform(torch.tensor([0.5, 0.5]))
        tensor([0., 1.])
    """

    route = "composition"
    law = staticmethod(open_uniform)

    def transform(self, noise: Tensor) -> Tensor:
        return straight_class(self.logits, noise)


class BernoulliStraightThrough(Reparameterized, td.Bernoulli):
    """A coin, 0 or 1; its draws pass on the gradient of the probability.

        z = 1 where u < probs, else 0, u ~ U(0, 1);   dz := d probs

    The gradient is biased: it is that of a function that is linear in z.
    Shapes: probs or logits is the batch; events are 0 or 1. Units: nats.
    Errors: ValueError, as torch's, for probabilities outside [0, 1].
    Source: Bengio, Leonard & Courville (2013), "Estimating or propagating gradients through
    stochastic neurons for conditional computation", section 3.
    Example:
        >>> BernoulliStraightThrough(torch.tensor([0.25, 0.75])).transform(torch.tensor([0.5, 0.5]))
        tensor([0., 1.])
    """

    route = "inverse CDF"
    law = staticmethod(open_uniform)

    def transform(self, noise: Tensor) -> Tensor:
        return straight_coin(self.logits, noise)


def relaxed_coin(logits: Tensor, temperature: Tensor | float, noise: Tensor) -> Tensor:
    """Draws of `RelaxedBernoulli` as a function of its numbers, which a compiler can trace."""
    return _inside(torch.sigmoid((logits + logit(noise)) / temperature))


def relaxed_class(logits: Tensor, temperature: Tensor | float, noise: Tensor) -> Tensor:
    """Draws of `RelaxedOneHotCategorical`, likewise."""
    gumbels = -torch.log(-torch.log(noise))
    return _inside(torch.softmax((logits + gumbels) / temperature, -1))


def straight_coin(logits: Tensor, noise: Tensor) -> Tensor:
    """Draws of `BernoulliStraightThrough`, likewise."""
    probs = torch.sigmoid(logits)
    return (noise < probs).to(noise.dtype) + (probs - probs.detach())


def straight_class(logits: Tensor, noise: Tensor) -> Tensor:
    """Draws of `OneHotCategoricalStraightThrough`, likewise."""
    chosen = (logits - torch.log(-torch.log(noise))).argmax(-1)
    probs = torch.softmax(logits, -1)
    return one_hot(chosen, logits.shape[-1], noise.dtype) + (probs - probs.detach())


def one_hot(index: Tensor, classes: int, dtype: torch.dtype) -> Tensor:
    """Vectors (..., classes) of zeros with a one at index (...)."""
    return (torch.arange(classes, device=index.device) == index.unsqueeze(-1)).to(dtype)


class _HardCoin(Reparameterized, td.Bernoulli):
    """How a coin is drawn: z = 1 where u < probs, a step of u."""

    route = "hard"
    has_rsample = False
    law = staticmethod(open_uniform)

    def transform(self, noise: Tensor) -> Tensor:
        return (noise < self.probs).to(self.probs.dtype)


class _HardClass(Reparameterized, td.Categorical):
    """How a class is drawn: z = k where F(k - 1) <= u < F(k), F the sums of the probabilities."""

    route = "hard"
    has_rsample = False
    law = staticmethod(open_uniform)

    def transform(self, noise: Tensor) -> Tensor:
        return _class_of(noise, self.probs).to(self.probs.dtype)


class _HardOneHot(Reparameterized, td.OneHotCategorical):
    """How a one-hot vector is drawn: by the class of one uniform number."""

    route = "hard"
    has_rsample = False

    @property
    def standard(self) -> Noise:
        return Noise(torch.Size(()), open_uniform, False)

    def transform(self, noise: Tensor) -> Tensor:
        return one_hot(_class_of(noise, self.probs), self.event_shape[0], self.probs.dtype)


class _OneHots(constraints.Constraint):
    """Vectors of blocks, each zeros and a single one."""

    is_discrete = True
    event_dim = 1

    def __init__(self, classes: int) -> None:
        self.classes = classes
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        found: Tensor = constraints.one_hot.check(value.unflatten(-1, (-1, self.classes))).all(-1)
        return found


class OneHotCategoricals(Reparameterized):
    """Independent classes, each as a one-hot vector, side by side in one vector.

        log p(z) = sum_d sum_k z_dk log pi_dk,   pi_d = softmax(l_d)

    Shapes: logits l (*batch, D, K); events (D K,), the K numbers of each class together.
    Units: nats.
    Source: Bishop (2006), "Pattern recognition and machine learning", equation 2.26.
    Example:
        >>> law = OneHotCategoricals(torch.zeros(2, 3))
        >>> law.transform(torch.tensor([0.1, 0.9]))
        tensor([1., 0., 0., 0., 0., 1.])
    """

    route = "hard"
    has_rsample = False
    law = staticmethod(open_uniform)
    arg_constraints = {"logits": constraints.real_vector}  # noqa: RUF012  # as torch has it

    def __init__(self, logits: Tensor, validate_args: bool | None = None) -> None:
        self.logits = torch.log_softmax(logits, -1)
        event = torch.Size([logits.shape[-2:].numel()])
        super().__init__(logits.shape[:-2], event, validate_args)

    @property
    def support(self) -> Any:
        return _OneHots(self.logits.shape[-1])

    @property
    def probs(self) -> Tensor:
        """The probabilities of the classes, (*batch, D, K)."""
        return self.logits.exp()

    @property
    def mean(self) -> Tensor:
        return self.probs.flatten(-2)

    @property
    def variance(self) -> Tensor:
        return self.mean * (1 - self.mean)

    @property
    def standard(self) -> Noise:
        return Noise(self.logits.shape[-2:-1], open_uniform, False)

    def transform(self, noise: Tensor) -> Tensor:
        chosen = _class_of(noise, self.probs)
        return one_hot(chosen, self.logits.shape[-1], self.logits.dtype).flatten(-2)

    def _log_prob(self, value: Tensor) -> Tensor:
        value = value.unflatten(-1, self.logits.shape[-2:])
        possible = self.logits > -math.inf
        each = value * torch.where(possible, self.logits, 0.0)
        # An impossible class that is not taken says nothing, where 0 times log 0 is no number.
        return torch.where(possible | (value == 0), each, -math.inf).sum((-2, -1))


def _class_of(u: Tensor, probs: Tensor) -> Tensor:
    """How many of the sums of the probabilities, but for the last, lie at or below u."""
    below: Tensor = (probs.cumsum(-1)[..., :-1] <= u.unsqueeze(-1)).sum(-1)
    return below


def _inside(z: Tensor) -> Tensor:
    """Numbers of [0, 1], with 0 and 1 moved to the closest normal ones of (0, 1)."""
    limits = torch.finfo(z.dtype)
    return z.masked_fill(z <= 0, limits.tiny).clamp_max(1 - limits.eps / 2)


def _each(temperature: Tensor) -> Tensor:
    """A temperature beside the classes: one number for all, or one for each of the batch."""
    return temperature.reshape(()) if temperature.numel() == 1 else temperature.unsqueeze(-1)


ROUTES |= {
    td.RelaxedBernoulli: RelaxedBernoulli,
    td.RelaxedOneHotCategorical: RelaxedOneHotCategorical,
    td.OneHotCategoricalStraightThrough: OneHotCategoricalStraightThrough,
    td.Bernoulli: _HardCoin,
    td.Categorical: _HardClass,
    td.OneHotCategorical: _HardOneHot,
}

"""Semi-amortized inference: what the encoder says of a datum, improved by steps on its own bound.

    lambda_0 = encoder(x),   lambda_{t+1} = lambda_t + r_t dL(x; lambda_t) / d lambda
    q(z given x) = q(z; lambda_T)

L is the datum's bound at noise that is the same for all data and steps: a function of lambda, whose
value falls at no step, since one that would lower it is not taken and the next is shorter. T = 0 is
the encoder. All of it is differentiable: a learner's gradient goes through the steps.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.func import grad_and_value

from aevb.conditional import borrow
from aevb.devices import tensor_of
from aevb.distributions import reparameterize, route
from aevb.distributions.reparameterization import Noise
from aevb.errors import UsageError, at_least
from aevb.model import Model
from aevb.objectives import Draw
from aevb.posterior import Batch, PerDatum, Posterior, as_batch, has_rows
from aevb.randomness import Stream, generator, normal

STEPS = 10
"""Of a posterior that is to be refined, where nothing is said."""
LEAST_PAIRS = 16
"""Of noise and its reflection, or one for each number of a draw if those are more: with fewer than
these the steps fit the noise, and the bound at other noise falls."""
RATE, GROWTH, CUT = 0.1, 1.5, 0.25
"""Of the steps: that of the first, and its factors where the bound rose, and where it would not."""
LONGEST = 3.0
"""Of a step, in units of the numbers: a gradient may be as large as it likes."""


class Refined(Posterior):
    """A posterior whose numbers start at another's and climb the bound of the datum itself.

        L(lambda) = mean_s log p(x given g(e_s, lambda)) - KL(q(z; lambda) || p(z)),
        e_s fixed: drawn once, with the reflection of each, and made to have covariance I if it can

    The divergence is in closed form where there is one. A step goes along the gradient; it is taken
    where the bound does not fall, each datum by itself, whatever data stand beside it, and the next
    one is longer then, else shorter.
    Shapes: as `posterior`, an encoder, or one law for all data; `model` is shared, its parameters
    are not counted twice; `steps` T. `noise` (S, *shape) as the law's noise.
    Units: nats. Errors: UsageError for a posterior that is not one network and a family, that has
    free numbers for each datum already, or draws without a gradient; for fewer than 0 steps.
    Source: Kim et al. (2018), "Semi-amortized variational autoencoders", algorithm 1.
    Example:
        >>> from aevb import MLP, bernoulli, mean_field, standard_normal
        >>> model = Model(standard_normal(2), bernoulli(MLP(2, [8], 5)))
        >>> Refined(mean_field(MLP(5, [8], 4)), model, steps=3)(torch.ones(4, 5)).event_shape
        torch.Size([2])
    """

    model: Model
    noise: Tensor

    def __init__(self, posterior: Posterior, model: Model, steps: int = STEPS) -> None:
        super().__init__()
        if has_rows(posterior) or isinstance(posterior, Refined):
            raise UsageError(
                "what is refined for each datum is an encoder, or one law for all data, found "
                f"{type(posterior).__name__}: leave the steps out"
            )
        at_least(0, steps, "the number of steps")
        self.posterior = posterior
        borrow(self, model=model)
        self.steps = steps
        self.decodings = 1 + steps
        like = tensor_of(model)
        outputs = self.outputs(model.prior().event_shape[0])
        q = self.given(torch.zeros(1, outputs).to(like))
        if not route(q).noise.differentiable:
            raise UsageError(
                "steps up the bound need draws with a gradient, which discrete codes have not: "
                "leave the steps out"
            )
        self.register_buffer("noise", _fixed(route(q).noise).to(like))

    @property
    def conditional(self) -> nn.Module:
        """That of the posterior that is refined."""
        return self.posterior.conditional  # type: ignore[return-value]

    def forward(self, batch: Batch | Tensor) -> Distribution:
        return self.given(self.numbers(batch))

    def outputs(self, size: int) -> int:
        return self.posterior.outputs(size)

    def given(self, numbers: Tensor) -> Distribution:
        return self.posterior.given(numbers)

    def renewed(self, n: int, outputs: int) -> PerDatum:
        return self.posterior.renewed(n, outputs)

    def numbers(self, batch: Batch | Tensor) -> Tensor:
        """lambda_T, (N, outputs)."""
        batch = as_batch(batch)
        start = self.posterior.numbers(batch)
        return _climb(lambda numbers: self.bound(batch.x, numbers), start, self.steps)

    def bound(self, x: Tensor, numbers: Tensor) -> Tensor:
        """L of each datum at numbers (N, outputs): what the steps climb, (N,) nats."""
        q = self.given(numbers)
        noise = self.noise.to(numbers).unsqueeze(1)
        z = reparameterize(q, noise.expand(len(noise), len(x), *noise.shape[2:]))
        d = Draw(z, self.model.log_likelihood(x, z), q, self.model.prior())
        return d.reconstruction() - d.kl_estimate()


def refined(posterior: Posterior, model: Model, steps: int | None) -> Posterior:
    """The posterior with so many steps of refinement, `STEPS` for None; by 0 the encoder itself.

    Errors: those of `Refined`.
    Example:
        >>> from aevb import MLP, bernoulli, mean_field, standard_normal
        >>> model = Model(standard_normal(2), bernoulli(MLP(2, [8], 5)))
        >>> encoder = mean_field(MLP(5, [8], 4))
        >>> refined(refined(encoder, model, 5), model, 0) is encoder
        True
    """
    encoder = posterior.posterior if isinstance(posterior, Refined) else posterior
    steps = STEPS if steps is None else steps
    return Refined(encoder, model, steps) if steps else encoder


Bound = Callable[[Tensor], Tensor]


def _climb(bound: Bound, numbers: Tensor, steps: int) -> Tensor:
    """So many steps up the bound of each datum, (M, outputs); none of them goes down."""

    def summed(numbers: Tensor) -> tuple[Tensor, Tensor]:
        value = bound(numbers)
        return value.sum(), value

    def at(numbers: Tensor) -> tuple[Tensor, Tensor]:
        slope, (_, value) = grad_and_value(summed, has_aux=True)(numbers)
        return value.unsqueeze(-1), slope

    if not steps:
        return numbers
    value, slope = at(numbers)
    rate = torch.full_like(value, RATE)
    for _ in range(steps - 1):
        candidate = numbers + _step(slope, rate)
        new_value, new_slope = at(candidate)
        better = new_value >= value  # what is not a number is never better
        numbers = torch.where(better, candidate, numbers)
        value = torch.where(better, new_value, value)
        slope = torch.where(better, new_slope, slope)
        rate = rate * torch.where(better, GROWTH, CUT)
    candidate = numbers + _step(slope, rate)
    climbed: Tensor = torch.where(bound(candidate).unsqueeze(-1) >= value, candidate, numbers)
    return climbed


def _step(slope: Tensor, rate: Tensor) -> Tensor:
    """A step along the slope, (M, outputs), of a length that no gradient makes too long."""
    step = rate * slope
    length: Tensor = step.norm(dim=-1, keepdim=True)
    shorter: Tensor = step * (LONGEST / (length + 1e-6)).clamp_max(1.0)
    return shorter


def _fixed(noise: Noise) -> Tensor:
    """Draws of a noise, (S, *shape); normal ones with mean 0 and covariance I, as S allows it.

    E = sqrt(S / 2) U V^T  for S / 2 draws U diag(s) V^T,  and -E
    """
    size = noise.shape.numel()
    pairs, source = max(LEAST_PAIRS, size), generator(0, Stream.SIMULATION)
    if noise.law is not normal:
        return noise.draw(source, (2 * pairs,), torch.float32)
    u, _, v = np.linalg.svd(source.standard_normal((pairs, size)), full_matrices=False)
    half = torch.from_numpy(math.sqrt(pairs) * u @ v)
    both: Tensor = torch.cat([half, -half]).unflatten(-1, noise.shape)
    return both

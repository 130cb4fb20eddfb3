"""Bounds on log p(x): reductions of one draw of (model, posterior, batch, noise), to be maximized.

    log w = log p(x, z) - log q(z given x),  z = g(noise, x)                              (S, N)
    elbo_a = mean_s log w                                                   estimator A
    elbo_b = mean_s log p(x given z) - KL(q(z given x) || p(z))             estimator B
    iwae   = log mean_s w                                                   importance weighted

An objective is one function of a `Draw`, and its gradient goes through the draw; the files beside
this one have other gradients of the same bounds. With `temper` (the beta of the beta-VAE, or KL
warm-up) other than 1 the result is a training objective and no bound; the bound is what it gives
at 1.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from aevb.distributions import kl, kl_by_dimension, reparameterize, route
from aevb.distributions.reparameterization import Noise, base_of
from aevb.errors import UsageError, at_least
from aevb.model import Model
from aevb.posterior import Batch, Posterior, as_batch


@dataclass(frozen=True)
class Draw:
    """One pass through encoder and decoder, which an objective reduces to a number for each datum.

    Shapes: `z` (S, N, D), `log_likelihood` log p(x given z) (S, N); `posterior` q with batch (N,),
    `prior` p with batch (), both over codes (D,).
    Units: nats. Errors: UsageError from `kl` where there is no closed form.
    Source: Kingma & Welling (2013), section 2.3.
    Example:
        >>> from aevb import standard_normal
        >>> from aevb.posterior import everywhere
        >>> q, p = everywhere(2)(torch.zeros(1, 5)), standard_normal(2)()
        >>> d = Draw(torch.zeros(4, 1, 2), torch.full((4, 1), -3.0), q, p)
        >>> d.log_weights().mean(0).tolist(), d.kl().tolist()
        ([-3.0], [0.0])
    """

    z: Tensor
    log_likelihood: Tensor
    posterior: Distribution
    prior: Distribution

    def log_weights(self, temper: Tensor | float = 1.0) -> Tensor:
        """log w, (S, N) nats; `temper` scales the divergence part."""
        log_ratio = self.prior.log_prob(self.z) - self.posterior.log_prob(self.z)
        return self.log_likelihood + temper * log_ratio

    def closed_kl(self) -> Tensor | None:
        """KL(q || p), (N,) nats, where there is a closed form."""
        return kl(self.posterior, self.prior)

    def kl(self) -> Tensor:
        """KL(q || p), (N,) nats, in closed form; UsageError where there is none."""
        divergence = self.closed_kl()
        if divergence is None:
            raise UsageError(
                "estimator B needs KL(q || p) in closed form and there is none for this pair: "
                "use estimator A"
            )
        return divergence

    def kl_estimate(self) -> Tensor:
        """KL(q || p), (N,) nats: in closed form where there is one, else the mean over samples."""
        divergence = self.closed_kl()
        if divergence is not None:
            return divergence
        return (self.posterior.log_prob(self.z) - self.prior.log_prob(self.z)).mean(0)

    def reconstruction(self) -> Tensor:
        """The mean over samples of log p(x given z), (N,) nats."""
        return self.log_likelihood.mean(0)

    def terms(self, objective: Tensor) -> "Terms":
        """An objective (N,), beside the parts of the bound that this draw says."""
        return Terms(objective, self.reconstruction(), self.kl_estimate())


@dataclass(frozen=True)
class Encoded:
    """A batch after the encoder and before any draw: q(z given x), and the prior p(z).

    Shapes: batch x (N, *X); `q` with batch (N,), `p` with batch (), both over codes (D,).
    Units: log-densities in nats.
    Errors: UsageError from `draw` for noise of another shape; DataError from `decode` for data
    outside the likelihood's domain.
    Example:
        >>> from aevb import MLP, bernoulli, mean_field, standard_normal
        >>> model = Model(standard_normal(2), bernoulli(MLP(2, [8], 5)))
        >>> at = encode(model, mean_field(MLP(5, [8], 4)), torch.ones(3, 5))
        >>> at.decode(at.draw(torch.zeros(7, 3, 2))).log_likelihood.shape
        torch.Size([7, 3])
    """

    model: Model
    posterior: Posterior
    batch: Batch
    q: Distribution
    p: Distribution

    def draw(self, noise: Tensor) -> Tensor:
        """z = g(noise, x), (S, N, D); UsageError for noise without the axis of samples."""
        axes = 1 + len(self.q.batch_shape) + len(route(self.q).noise.shape)
        if noise.ndim != axes:
            raise UsageError(
                f"noise must have {axes} axes, (S, N, ...): S draws for each of N data, found "
                f"{tuple(noise.shape)}"
            )
        return reparameterize(self.q, noise)

    def decode(self, z: Tensor, q: Distribution | None = None) -> Draw:
        """The draw of z (S, N, D), whose log q is that of another `q` where one is given."""
        log_likelihood = self.model.log_likelihood(self.batch.x, z)
        return Draw(z, log_likelihood, self.q if q is None else q, self.p)


def encode(model: Model, posterior: Posterior, batch: Batch | Tensor) -> Encoded:
    """Run the encoder on a batch, once for all that is drawn.

    Shapes: batch x (N, *X); q has batch (N,). Errors: those of the posterior.
    Example:
        >>> from aevb import bernoulli, per_datum, standard_normal
        >>> model = Model(standard_normal(2), bernoulli(nn.Linear(2, 5)))
        >>> batch = Batch(torch.ones(3, 5), torch.tensor([0, 4, 9]))
        >>> encode(model, per_datum(10, 2), batch).q.batch_shape
        torch.Size([3])
    """
    batch = as_batch(batch)
    return Encoded(model, posterior, batch, posterior(batch), model.prior())


def draw(model: Model, posterior: Posterior, batch: Batch | Tensor, noise: Tensor) -> Draw:
    """Encode, map the noise to z, decode.

    Shapes: batch x (N, *X), noise (S, N, D). Units: log-densities in nats.
    Errors: DataError for data outside the domain, UsageError for noise of another shape.
    Source: Kingma & Welling (2013), section 2.4.
    Example:
        >>> from aevb import MLP, bernoulli, mean_field, standard_normal
        >>> model = Model(standard_normal(2), bernoulli(MLP(2, [8], 5)))
        >>> d = draw(model, mean_field(MLP(5, [8], 4)), torch.ones(3, 5), torch.zeros(7, 3, 2))
        >>> d.log_weights().shape, d.kl().shape
        (torch.Size([7, 3]), torch.Size([3]))
    """
    at = encode(model, posterior, batch)
    return at.decode(at.draw(noise))


class Terms(NamedTuple):
    """What a step knows of its data: the objective, whose gradient it follows, and the parts of the
    bound that it reports; NaN where a part is not known.

    Shapes: (N,) each. Units: nats.
    Example:
        >>> from aevb import bernoulli, standard_normal
        >>> from aevb.posterior import everywhere
        >>> model = Model(standard_normal(2), bernoulli(nn.Linear(2, 5)))
        >>> found = elbo_b.terms(model, everywhere(2), torch.ones(3, 5), torch.ones(1, 3, 2))
        >>> bool((found.objective == found.reconstruction - found.kl).all())
        True
    """

    objective: Tensor
    reconstruction: Tensor
    kl: Tensor


@dataclass(frozen=True)
class Objective:
    """A reduction of a `Draw`, called like a function of (model, posterior, batch, noise).

    Its value is the bound's, its gradient goes through z = g(noise, x): the reparameterized one. A
    subclass has the same value and another gradient, which `estimate` and `check` are there for.
    Shapes: batch x (N, *X), noise (S, N, *shape) as `noise` says; the value (N,). `reduce` takes a
    draw and the weight of the divergence, `temper`.
    Units: nats per datum.
    Errors: UsageError for a posterior and a prior over codes of other shapes, for noise of another
    shape, and from `check`; DataError for data outside the likelihood's domain.
    Source: Kingma & Welling (2013), section 2.3.
    Example:
        >>> from aevb import bernoulli, mean_field, standard_normal
        >>> model = Model(standard_normal(2), bernoulli(nn.Linear(2, 5)))
        >>> best = Objective("best", lambda d, temper: d.log_weights(temper).amax(0))
        >>> best(model, mean_field(nn.Linear(5, 4)), torch.ones(3, 5), torch.ones(7, 3, 2)).shape
        torch.Size([3])
    """

    name: str
    reduce: Callable[[Draw, Tensor | float], Tensor]
    unbiased: ClassVar[bool] = True
    """Whether the mean of its gradient is the gradient of its mean."""

    def __call__(
        self, model: Model, posterior: Posterior, batch: Batch | Tensor, noise: Tensor
    ) -> Tensor:
        """The bound of each datum, (N,) nats, from noise (S, N, D)."""
        return self.terms(model, posterior, batch, noise).objective

    def terms(
        self,
        model: Model,
        posterior: Posterior,
        batch: Batch | Tensor,
        noise: Tensor,
        temper: Tensor | float = 1.0,
    ) -> Terms:
        """The objective and the parts of the bound, from one draw."""
        at = encode(model, posterior, batch)
        if at.q.event_shape != at.p.event_shape:
            raise UsageError(
                f"the posterior is over codes of shape {tuple(at.q.event_shape)}, the prior over "
                f"{tuple(at.p.event_shape)}: give both the same number of latent dimensions"
            )
        # Under the exact posterior every draw weighs p(x): no gradient need go through it.
        alike = getattr(posterior, "exact", False) and self.name in ("elbo_a", "iwae")
        if not alike:
            self.check(at.q, at.p, len(noise))
        return self.estimate(at, noise, temper)

    def estimate(self, at: Encoded, noise: Tensor, temper: Tensor | float) -> Terms:
        """`terms` of a batch that is encoded."""
        d = at.decode(at.draw(noise))
        return d.terms(self.reduce(d, temper))

    def noise(self, model: Model, posterior: Posterior, batch: Batch) -> Noise:
        """The noise that it takes for each sample of each datum."""
        return route(posterior(batch)).noise

    def modules(self) -> dict[str, nn.Module]:
        """What it learns along with model and posterior, by name: nothing, for most."""
        return {}

    def check(self, q: Distribution, p: Distribution, samples: int) -> None:
        """UsageError, with what to choose instead, where its gradient does not apply."""
        if torch.is_grad_enabled() and not route(q).noise.differentiable:
            raise UsageError(
                f"draws of {kind_of(q)} have no gradient, so {self.name} would teach the encoder "
                "nothing of what they decide: choose the score function, vimco or another "
                "estimator for discrete codes"
            )


def require_bound(bound: Objective, known: Sequence[str], name: str) -> None:
    """UsageError for a bound that an estimator has no formula for."""
    if bound.name not in known:
        raise UsageError(f"{name} is of {' or '.join(known)}, found {bound.name}")


def kind_of(q: Distribution) -> str:
    """What a law is called in a sentence."""
    return type(base_of(q)).__name__


def with_gradient_of(value: Tensor, surrogate: Tensor) -> Tensor:
    """The value of one tensor, the gradient of another.

    Example:
        >>> x = torch.tensor(3.0, requires_grad=True)
        >>> y = with_gradient_of(x**2, 5 * x)
        >>> y.item(), torch.autograd.grad(y, x)[0].item()
        (9.0, 5.0)
    """
    return value.detach() + (surrogate - surrogate.detach())


def _elbo_a(d: Draw, temper: Tensor | float) -> Tensor:
    return d.log_weights(temper).mean(0)


def _elbo_b(d: Draw, temper: Tensor | float) -> Tensor:
    return d.reconstruction() - temper * d.kl()


def _iwae(d: Draw, temper: Tensor | float) -> Tensor:
    return torch.logsumexp(d.log_weights(temper), dim=0) - math.log(len(d.z))


elbo_a = Objective("elbo_a", _elbo_a)
"""Estimator A of the evidence lower bound (Kingma & Welling 2013, equation 6)."""

elbo_b = Objective("elbo_b", _elbo_b)
"""Estimator B: the divergence in closed form, of usually lower variance (equation 7)."""

iwae = Objective("iwae", _iwae)
"""The importance-weighted bound with K = S samples (Burda et al. 2015, equation 8)."""


def free_bits(nats: float) -> Objective:
    """Estimator B in which each latent dimension may cost `nats` without reward for costing less.

        mean_s log p(x given z) - temper sum_d max(nats, mean_n KL_d)

    A training objective, not a bound.
    Shapes: as any objective, (N,); the divergence is one number, that of the batch.
    Units: nats per datum, `nats` of each dimension.
    Errors: UsageError for a negative number, or where q or p does not factorize over dimensions.
    Source: Kingma et al. (2016), "Improving variational inference with inverse autoregressive
    flow", equation 15.
    Example:
        >>> from aevb import bernoulli, standard_normal
        >>> from aevb.posterior import everywhere
        >>> given = Model(standard_normal(2), bernoulli(nn.Linear(2, 5))), everywhere(2)
        >>> given = *given, torch.ones(3, 5), torch.ones(1, 3, 2)
        >>> (elbo_b(*given) - free_bits(0.5)(*given)).mean().round(decimals=2).item()
        1.0
    """
    at_least(0, nats, "free bits")

    def reduce(d: Draw, temper: Tensor | float) -> Tensor:
        by_dimension = kl_by_dimension(d.posterior, d.prior)
        if by_dimension is None:
            raise UsageError(
                "free bits need a posterior and a prior that factorize over dimensions"
            )
        return d.reconstruction() - temper * by_dimension.mean(0).clamp_min(nats).sum()

    return Objective("free_bits", reduce)

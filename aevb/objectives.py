"""Bounds on log p(x): reductions of one draw of (model, posterior, batch, noise), to be maximized.

    log w = log p(x, z) - log q(z given x),  z = g(noise, x)                              (S, N)
    elbo_a = mean_s log w                                                   estimator A
    elbo_b = mean_s log p(x given z) - KL(q(z given x) || p(z))             estimator B
    iwae   = log mean_s w                                                   importance weighted

An objective is one function of a `Draw`, and its gradient goes through the draw. With `temper` (the
beta of the beta-VAE, or KL warm-up) other than 1 the result is a training objective and no bound;
the bound is what it gives at 1.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent

from aevb.distributions import kl, kl_by_dimension, reparameterize, route
from aevb.distributions.reparameterization import Noise
from aevb.errors import UsageError
from aevb.model import Model
from aevb.posterior import Batch, Posterior, as_batch


@dataclass(frozen=True)
class Draw:
    """One pass through encoder and decoder: z (S, N, D), log p(x given z) (S, N), q and p."""

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


def draw(model: Model, posterior: Posterior, batch: Batch | Tensor, noise: Tensor) -> Draw:
    """Encode, map the noise to z, decode.

    Shapes: batch x (N, *X), noise (S, N, D). Errors: DataError for data outside the domain,
    UsageError for noise of another shape.
    """
    batch = as_batch(batch)
    q = posterior(batch)
    z = reparameterize(q, noise)
    return Draw(z, model.log_likelihood(batch.x, z), q, model.prior())


class Terms(NamedTuple):
    """What a step knows of its data, (N,) each: the objective, whose gradient it follows, and the
    parts of the bound that it reports; NaN where a part is not known."""

    objective: Tensor
    reconstruction: Tensor
    kl: Tensor


@dataclass(frozen=True)
class Objective:
    """A reduction of a `Draw`, called like a function of (model, posterior, batch, noise).

    Its gradient goes through z = g(noise, x): the reparameterized one.
    """

    name: str
    reduce: Callable[[Draw, Tensor | float], Tensor]

    def __call__(
        self, model: Model, posterior: Posterior, batch: Batch | Tensor, noise: Tensor
    ) -> Tensor:
        """The bound of each datum, (N,) nats, from noise (S, N, D)."""
        return self.reduce(self._draw(model, posterior, batch, noise), 1.0)

    def terms(
        self,
        model: Model,
        posterior: Posterior,
        batch: Batch | Tensor,
        noise: Tensor,
        temper: Tensor | float = 1.0,
    ) -> Terms:
        """The objective and the parts of the bound, from one draw."""
        d = self._draw(model, posterior, batch, noise)
        return Terms(self.reduce(d, temper), d.reconstruction(), d.kl_estimate())

    def noise(self, model: Model, posterior: Posterior, batch: Batch) -> Noise:
        """The noise that it takes for each sample of each datum."""
        return route(posterior(batch)).standard

    def _draw(
        self, model: Model, posterior: Posterior, batch: Batch | Tensor, noise: Tensor
    ) -> Draw:
        d = draw(model, posterior, batch, noise)
        learns = torch.is_grad_enabled() and next(posterior.parameters(), None) is not None
        if learns and not route(d.posterior).differentiable:
            law = d.posterior
            name = type(law.base_dist if isinstance(law, Independent) else law).__name__
            raise UsageError(
                f"draws of {name} have no gradient, so {self.name} would teach the encoder "
                "nothing of what they decide: choose an estimator of the gradient for discrete "
                "codes"
            )
        return d


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

    A training objective, not a bound. Shapes: (N,) nats; the divergence is that of the batch.
    Errors: UsageError for a negative number, or where q or p does not factorize over dimensions.
    Source: Kingma et al. (2016), "Improving variational inference with inverse autoregressive
    flow", equation 15.
    """
    if nats < 0:
        raise UsageError(f"free bits must not be negative, found {nats}")

    def reduce(d: Draw, temper: Tensor | float) -> Tensor:
        by_dimension = kl_by_dimension(d.posterior, d.prior)
        if by_dimension is None:
            raise UsageError(
                "free bits need a posterior and a prior that factorize over dimensions"
            )
        return d.reconstruction() - temper * by_dimension.mean(0).clamp_min(nats).sum()

    return Objective("free_bits", reduce)

"""Gradients through the draw alone: log q has its parameters held, z = g(noise, x) has not.

    d/dphi log w(z_phi, phi) = dlog w/dz dz/dphi  -  grad_phi log q(z)
                               the path              the score, of mean zero

At the exact posterior log w is the same for every z, so the path has no variance there, and the
score is all that is left of the noise: leaving it out is "sticking the landing".
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.func import functional_call

from aevb.objectives.bounds import Encoded, Objective, Terms, elbo_a, iwae, require_bound
from aevb.posterior import Batch


class _Held(nn.Module):
    """A posterior beside its model, of which a ladder has parameters too."""

    def __init__(self, posterior: nn.Module, model: nn.Module) -> None:
        super().__init__()
        self.posterior = posterior
        self.model = model

    def forward(self, batch: Batch) -> Distribution:
        q: Distribution = self.posterior(batch)
        return q


def held(at: Encoded) -> Distribution:
    """q(z given x) at the present parameters, without a gradient in them.

    It is run once more, so that every family, flow and chain has it; normalization by batches is
    repeated, of which running averages hear twice.
    """
    parts = {"posterior": at.posterior, "model": at.model}
    # Tracing knows the parameters of these, and not of a module that is made inside the step.
    frozen = {
        f"{part}.{name}": p.detach()
        for part, module in parts.items()
        for name, p in module.named_parameters(remove_duplicate=False)
    }
    q: Distribution = functional_call(_Held(**parts), frozen, (at.batch,), tie_weights=False)
    return q


@dataclass(frozen=True)
class PathDerivative(Objective):
    """A bound without the score of log q in its gradient; made by `path_derivative`.

    Shapes: noise (S, N, D); the value (N,). Units: nats. Errors: those of any `Objective`.
    Source: as `path_derivative`.
    Example:
        >>> path_derivative(elbo_a).unbiased, path_derivative(iwae).unbiased
        (True, False)
    """

    @property
    def unbiased(self) -> bool:  # type: ignore[override]
        """So it is for the evidence lower bound; for iwae with several samples it is not."""
        return self.reduce is elbo_a.reduce

    def estimate(self, at: Encoded, noise: Tensor, temper: Tensor | float) -> Terms:
        d = at.decode(at.draw(noise), held(at))
        return d.terms(self.reduce(d, temper))


def path_derivative(bound: Objective = elbo_a) -> PathDerivative:
    """The gradient of elbo_a or iwae through the draw alone: "sticking the landing".

        elbo_a   mean_s dlog w_s/dz dz_s/dphi
        iwae     sum_s w_s / (sum_r w_r) dlog w_s/dz dz_s/dphi,   biased for S > 1

    It is zero for every single draw where q is the exact posterior. For iwae the score that is left
    out has no mean of zero: `doubly_reparameterized` is the unbiased one.
    Shapes: noise (S, N, D); a posterior whose draws have a gradient, of any kind: a flow goes back
    through its inverses. Units: the value is the bound, (N,) nats.
    Errors: UsageError for another bound, or draws without a gradient.
    Source: Roeder, Wu & Duvenaud (2017), "Sticking the landing: simple, lower-variance gradient
    estimators for variational inference", equation 8; the bias for iwae: Tucker et al. (2018).
    Example:
        >>> from aevb import MLP, Model, bernoulli, mean_field, standard_normal
        >>> model = Model(standard_normal(2), bernoulli(MLP(2, [8], 5)))
        >>> posterior, x, noise = mean_field(MLP(5, [8], 4)), torch.ones(3, 5), torch.randn(2, 3, 2)
        >>> value = path_derivative()(model, posterior, x, noise)
        >>> bool((value == elbo_a(model, posterior, x, noise)).all())
        True
    """
    require_bound(bound, ("elbo_a", "iwae"), "path_derivative")
    return PathDerivative(f"path_derivative({bound.name})", bound.reduce)


@dataclass(frozen=True)
class DoublyReparameterized(PathDerivative):
    """The importance-weighted bound with squared weights on the path.

        phi     sum_s v_s^2 dlog w_s/dz dz_s/dphi,   v_s = w_s / (sum_r w_r)
        theta   sum_s v_s grad_theta log w_s

    The gradient in phi is zero for every draw where q is the exact posterior.
    Shapes: noise (S, N, D); the value (N,). Units: nats. Errors: those of any `Objective`.
    Source: Tucker et al. (2018), "Doubly reparameterized gradient estimators for Monte Carlo
    objectives", equation 8.
    Example:
        >>> from aevb.linear_gaussian import LinearGaussian
        >>> model = LinearGaussian(2, 5)
        >>> encoder, x, noise = model.exact_encoder(), torch.ones(4, 5), torch.randn(3, 4, 2)
        >>> doubly_reparameterized(model, encoder, x, noise).sum().backward()
        >>> all(bool(p.grad.abs().max() < 1e-3) for p in encoder.parameters())
        True
    """

    unbiased = True

    def estimate(self, at: Encoded, noise: Tensor, temper: Tensor | float) -> Terms:
        z, q = at.draw(noise), held(at)
        with torch.no_grad():
            shares = at.decode(z, q).log_weights(temper).softmax(0)
        d = at.decode(_scaled(z, shares), q)
        return d.terms(self.reduce(d, temper))


def _scaled(z: Tensor, factor: Tensor) -> Tensor:
    """z (S, N, ...), whose gradient is multiplied by a factor (S, N)."""
    factor = factor.reshape(*factor.shape, *[1] * (z.ndim - factor.ndim))
    return z.detach() + factor * (z - z.detach())


doubly_reparameterized = DoublyReparameterized("doubly_reparameterized", iwae.reduce)
"""The importance-weighted bound, reparameterized twice: also the score goes through the draw.

Its signal for phi does not fade against the noise as S grows, and at the exact posterior it is zero
for every draw. With one sample it is `path_derivative(elbo_a)`. It decodes twice.
"""

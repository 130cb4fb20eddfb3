"""The evidence lower bound as a sum over all codes: nothing is drawn, and nothing is estimated."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Distribution

from aevb.distributions.listed import listed
from aevb.distributions.reparameterization import NONE, Noise
from aevb.errors import UsageError
from aevb.model import Model
from aevb.objectives.bounds import Encoded, Objective, Terms, elbo_a, kind_of
from aevb.posterior import Batch, Posterior

MOST_CODES = 1 << 12
"""That are decoded in a step."""


@dataclass(frozen=True)
class Enumerated(Objective):
    """The evidence lower bound as a sum over all codes, exact in value and gradient.

        sum_z q(z given x) (log p(x, z) - log q(z given x))

    Shapes: it takes no noise, (S, N, 0), whatever S is; the value (N,). Up to 4096 codes of the
    prior: 12 coins, say.
    Units: nats. Errors: UsageError for more codes, or codes that cannot be listed.
    Source: the expectation itself; as a baseline for estimators, Mnih & Rezende (2016), section 4.
    Example:
        >>> import aevb
        >>> import torch
        >>> prior = aevb.Unconditional(aevb.families.Bernoulli(), 3)
        >>> model, x = Model(prior, aevb.bernoulli(aevb.MLP(3, [], 5))), torch.ones(2, 5)
        >>> exact = aevb.posterior.ExactPosterior(model)
        >>> bound = enumeration(model, exact, x, torch.zeros(1, 2, 0))
        >>> bool(torch.allclose(bound, aevb.enumeration.enumerate_codes(model, x).log_evidence))
        True
    """

    def estimate(self, at: Encoded, noise: Tensor, temper: Tensor | float) -> Terms:
        codes = listed(at.p)
        assert codes is not None
        z = codes.to(at.batch.x.dtype).unsqueeze(1)  # (P, 1, *event): decoded once for all data
        log_q, log_p = at.q.log_prob(z), at.p.log_prob(z)
        mass = log_q.exp()

        def under_q(f: Tensor) -> Tensor:
            return (mass * torch.where(mass > 0, f, 0.0)).sum(0)  # where f may be infinite

        reconstruction = under_q(at.model.log_likelihood(at.batch.x, z))
        divergence = under_q(log_q - log_p)
        return Terms(reconstruction - temper * divergence, reconstruction, divergence)

    def noise(self, model: Model, posterior: Posterior, batch: Batch) -> Noise:
        return NONE

    def check(self, q: Distribution, p: Distribution, samples: int) -> None:
        codes = listed(p)
        if codes is None or len(codes) > MOST_CODES:
            found = f"those of {kind_of(p)}" if codes is None else f"{len(codes):,}"
            raise UsageError(
                f"enumeration decodes every code, up to {MOST_CODES:,} of them, found {found}: "
                "choose discrete codes of fewer dimensions, or the score function"
            )


enumeration = Enumerated("enumeration", elbo_a.reduce)
"""As `Enumerated` says."""

"""The model p: log p(x, z) = log p(z) + log p(x given z)."""

from operator import attrgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from aevb.conditional import Conditional, Unconditional
from aevb.devices import tensor_of
from aevb.distributions.combinators import Average
from aevb.distributions.reparameterization import drawn, sampled
from aevb.errors import DataError, UsageError, shortly
from aevb.families import Family, Masked


class Model(nn.Module):
    """A latent-variable model, x from p(x given z) and z from p(z).

        log p(x, z) = log p(z) + log p(x given z)

    Shapes: x (N, *X), z (S, N, D); log-densities (S, N).
    Units: nats. Errors: UsageError for parts that are no modules, or in the other order; DataError
    for data outside the likelihood's domain or of another shape.
    Source: Kingma & Welling (2013), section 2.1.
    Example:
        >>> from aevb.conditional import bernoulli, standard_normal
        >>> model = Model(standard_normal(2), bernoulli(nn.Linear(2, 5)))
        >>> model.log_joint(torch.ones(3, 5), torch.zeros(7, 3, 2)).shape
        torch.Size([7, 3])
    """

    def __init__(self, prior: nn.Module, likelihood: nn.Module) -> None:
        super().__init__()
        for name, part in (("prior", prior), ("likelihood", likelihood)):
            if not isinstance(part, nn.Module):
                raise UsageError(
                    f"the {name} of a model is a module, like aevb.standard_normal(2) or "
                    f"aevb.bernoulli(network), found {shortly(part)}"
                )
        if isinstance(prior, Conditional) or isinstance(likelihood, Unconditional):
            raise UsageError(
                "a model is Model(prior, likelihood), the prior of no condition and the likelihood "
                f"of z, found {type(prior).__name__} and {type(likelihood).__name__}"
            )
        self.prior = prior
        self.likelihood = likelihood

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """log p(x given z), (S, N) nats."""
        p: Distribution = self.likelihood(z)
        if not torch.compiler.is_compiling():
            self._check(x, p)
        return p.log_prob(x)

    def log_joint(self, x: Tensor, z: Tensor) -> Tensor:
        """log p(x, z), (S, N) nats."""
        prior: Distribution = self.prior()
        return prior.log_prob(z) + self.log_likelihood(x, z)

    def posterior_given(self, x: Tensor) -> Distribution | None:
        """p(z given x) in closed form, batch (N,), where the model has one."""
        return None

    def _check(self, x: Tensor, p: Distribution) -> None:
        # Without this a row of the wrong length would broadcast, and a grey pixel would get a
        # number from a Bernoulli. It costs one pass over (N, X) and is left out of compiled steps.
        if x.shape[1:] != p.event_shape:
            raise DataError(
                f"the likelihood is over data of shape {tuple(p.event_shape)}, "
                f"found rows of shape {tuple(x.shape[1:])}: size the decoder's output for the data"
            )
        if self.family is not None:
            self.family.check(x)

    @property
    def family(self) -> Family | None:
        """The family of the likelihood, where it is one of this project's."""
        family = getattr(self.likelihood, "family", None)
        return family if isinstance(family, Family) else None

    def expectation(self, z: Tensor) -> Tensor:
        """E[x given z], (..., *X), as pictures show it; for classes the most probable one."""
        return self.summarize(self.moments(z))

    def moments(self, z: Tensor) -> Tensor:
        """Numbers of p(x given z) that may be averaged over z, (..., M): its mean, for most."""
        p: Distribution = self.likelihood(z)
        of = attrgetter("mean") if self.family is None else self.family.moments
        found: Tensor = p.mean_of(of) if isinstance(p, Average) else of(p)
        return found

    def summarize(self, moments: Tensor) -> Tensor:
        """What to show for moments, averaged over draws of z or not, (..., *X)."""
        return moments if self.family is None else self.family.summarize(moments)

    def sample_prior(self, n: int, generator: np.random.Generator) -> Tensor:
        """n draws of z from p(z), (n, D)."""
        return drawn(self.prior(), (n,), generator, tensor_of(self))

    def sample_data(self, z: Tensor, generator: np.random.Generator) -> Tensor:
        """A draw of x from p(x given z) for each z (..., D), (..., *X), by torch's own samplers."""
        return sampled(self.likelihood(z), (), generator, z)


def observing(model: Model) -> Model:
    """The model for rows with missing cells: the same modules, NaN cells integrated out.

        p(x_observed given z): the likelihood without the factors of the cells that are missing

    Shapes: as of `Model`, x (N, *X) with NaN where nothing was observed. Units: nats.
    Errors: UsageError for a likelihood that is none of this project's.
    Example:
        >>> import aevb
        >>> model = aevb.Model(aevb.standard_normal(2), aevb.bernoulli(aevb.MLP(2, [8], 3)))
        >>> x = torch.tensor([[1.0, torch.nan, 0.0]])
        >>> observing(model).log_likelihood(x, torch.zeros(5, 1, 2)).shape
        torch.Size([5, 1])
    """
    if isinstance(model.family, Masked):
        return model
    likelihood: Any = model.likelihood
    if model.family is None or not hasattr(likelihood, "with_family"):
        raise UsageError(
            "missing cells need a likelihood made of one of the families of aevb.families"
        )
    return Model(model.prior, likelihood.with_family(Masked(model.family)))

"""Priors p(z) that are more than one family with numbers of its own: the mixture of posteriors.

    VampPrior   p(z) = 1/K sum_k q(z given u_k),  u_k learned pseudo-inputs, q the encoder's

All others are a family without a condition (`Unconditional`), or a `Chain` of conditionals.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Independent

from aevb import distributions
from aevb.conditional import borrow
from aevb.distributions import Normal
from aevb.distributions.reparameterization import base_of
from aevb.errors import UsageError, at_least


class VampPrior(nn.Module):
    """The mixture of what the encoder says of K learned pseudo-inputs.

        p(z) = 1/K sum_k q(z given u_k)

    Learned by the bound, it tends to the mixture of K posteriors that is nearest to the average
    one. The encoder, which the posterior uses too, is run on the pseudo-inputs once in a step of
    training, and once in all within `held`, while nothing is learned.
    Shapes: `encoder` takes (K, width) to a diagonal Gaussian with batch (K,); `unit` holds the
    pseudo-inputs to [0, 1], for data that lie there. Batch (), event (D,).
    Units: nats.
    Errors: UsageError for fewer than 1 component, or an encoder that gives no diagonal Gaussian.
    Source: Tomczak & Welling (2018), "VAE with a VampPrior", equation 9.
    Example:
        >>> from aevb.conditional import Conditional
        >>> from aevb import families
        >>> encoder = Conditional(nn.Linear(5, 4), families.Normal())
        >>> VampPrior(encoder, 10, 5)().event_shape
        torch.Size([2])
    """

    encoder: nn.Module
    held_loc: Tensor
    held_scale: Tensor

    def __init__(self, encoder: nn.Module, components: int, width: int, unit: bool = False) -> None:
        super().__init__()
        at_least(1, components, "the number of components")
        borrow(self, encoder=encoder)
        self.components = components
        self.width = width
        self.unit = unit
        self.pseudo_inputs = nn.Parameter(torch.rand(components, width))
        for name in ("held_loc", "held_scale"):
            self.register_buffer(name, torch.empty(0, device="cpu"), persistent=False)

    def forward(self, condition: Tensor | None = None) -> Distribution:
        held = self.held_loc.numel() > 0
        loc, scale = (self.held_loc, self.held_scale) if held else self._encoded()
        even = Categorical(logits=torch.zeros_like(loc[:, 0]), validate_args=False)
        parts = Independent(Normal(loc, scale, validate_args=False), 1, validate_args=False)
        return distributions.Mixture(even, parts, validate_args=False)

    def start_at(self, x: Tensor) -> None:
        """Begin at rows of x (N, ...), spread evenly over them, with missing cells at 0."""
        rows = torch.linspace(0, len(x) - 1, self.components, device=x.device).long()
        with torch.no_grad():
            self.pseudo_inputs.copy_(x.flatten(1)[rows].nan_to_num(nan=0.0))

    @contextmanager
    def held(self) -> Iterator[None]:
        """Encode the pseudo-inputs once for all that follows: nothing is learned inside."""
        free = self.held_loc, self.held_scale
        with torch.no_grad():
            self.held_loc, self.held_scale = self._encoded()
        try:
            yield
        finally:
            self.held_loc, self.held_scale = free

    def _encoded(self) -> tuple[Tensor, Tensor]:
        u = self.pseudo_inputs.clamp(0, 1) if self.unit else self.pseudo_inputs
        q = self.encoder(u)
        base = base_of(q)
        if not isinstance(base, torch.distributions.Normal):
            raise UsageError(
                f"a VampPrior needs an encoder that gives a diagonal Gaussian, found "
                f"{type(base).__name__}: choose the posterior mean-field"
            )
        return base.loc, base.scale

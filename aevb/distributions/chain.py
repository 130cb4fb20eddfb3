"""A chain of conditionals over one concatenated z: again a distribution, drawn ancestrally."""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from aevb.distributions.reparameterization import (
    Noise,
    Remembering,
    apart,
    route,
    side_by_side,
)

Link = Callable[[Tensor], Distribution]
"""The law of a part of z given the part that was drawn before it."""


class Chain(Remembering):
    """Parts of one z, each drawn given the part before it.

        p(z) = p(a) p(b given a) p(c given b) ...,   z = (a, b, c, ...), or reversed

    Shapes: `first` with batch (N,) and event (sizes[0],); each of `links` takes the part before,
    (*sample, N, sizes[k - 1]), to a distribution over sizes[k] numbers; z is (*sample, N, D), the
    parts side by side in the order of drawing, or, with `reverse`, in the other one, so that a
    generative chain and an inference chain that go opposite ways share their z. `noises` are the
    noise of each part, found by asking once where they are left out. Parts lie in sets of one kind:
    a chain of Gaussians, or of coins.
    Units: nats, the sum over the parts. Errors: UsageError, of draws, for a part without a route.
    Source: Rezende et al. (2014), "Stochastic backpropagation", section 2; Burda et al. (2015),
    equation 1.
    Example:
        >>> from aevb.distributions import MultivariateNormal, Normal
        >>> top = torch.distributions.Independent(Normal(torch.zeros(2), 1.0), 1)
        >>> below = lambda z: torch.distributions.Independent(Normal(z, 0.1), 1)
        >>> Chain(top, [below], [2, 2]).rsample((5,)).shape
        torch.Size([5, 4])
    """

    route = "composition"
    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012  # as torch has it

    def __init__(
        self,
        first: Distribution,
        links: Sequence[Link],
        sizes: Sequence[int],
        reverse: bool = False,
        noises: Sequence[Noise] | None = None,
    ) -> None:
        self.first = first
        self.links = tuple(links)
        self.sizes = tuple(sizes)
        self.reverse = reverse
        if noises is not None:
            self._noises = list(noises)
        super().__init__(first.batch_shape, torch.Size([sum(sizes)]), validate_args=False)

    def _log_prob(self, value: Tensor) -> Tensor:
        """The sum of the parts' log-densities, (*sample, N) nats."""
        parts = self._parts(value)
        total: Tensor = self.first.log_prob(parts[0])
        for link, given, part in zip(self.links, parts, parts[1:], strict=False):
            total = total + link(given).log_prob(part)
        return total

    def transform(self, noise: Tensor) -> Tensor:
        parts: list[Tensor] = []
        total = torch.zeros_like(noise[..., 0])
        for k, piece in enumerate(apart(noise, self._noises)):
            q = self.links[k - 1](parts[-1]) if k else self.first
            parts.append(route(q).transform(piece))
            total = total + q.log_prob(parts[-1])
        z = torch.cat(parts[::-1] if self.reverse else parts, dim=-1)
        return self.remember(z, total)

    @property
    def support(self) -> Any:
        """That of the first part, which is of the kind of all."""
        return self.first.support

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        """Whether the draws of all parts have a gradient."""
        return self.standard.differentiable

    @property
    def standard(self) -> Noise:
        return side_by_side(self._noises)

    def expand(self, batch_shape: Sequence[int], _instance: object = None) -> "Chain":
        """The same chain with its first part expanded to another batch shape."""
        first = self.first.expand(torch.Size(batch_shape))
        return Chain(first, self.links, self.sizes, self.reverse, self._noises)

    def _parts(self, z: Tensor) -> list[Tensor]:
        """The parts of z in the order of drawing."""
        sizes = self.sizes[::-1] if self.reverse else self.sizes
        parts = list(z.split(sizes, dim=-1))
        return parts[::-1] if self.reverse else parts

    @cached_property
    def _noises(self) -> list[Noise]:
        laws = [self.first]
        laws += [link(torch.zeros(1, n)) for link, n in zip(self.links, self.sizes, strict=False)]
        return [route(law).noise for law in laws]

"""Maps y = x e^a + m whose a and m a network gives from coordinates that it leaves as they are.

    a = BOUND tanh(raw / BOUND)

A network that gives zeros is the identity, to which a deep stack of maps begins close, and a single
step scales by at most e^BOUND, which keeps draws finite where a network is steep.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

BOUND = 2.0


@dataclass(frozen=True, eq=False)
class CouplingMap:
    """One half of the coordinates is scaled and shifted by what the other half says.

        y_kept = x_kept,   y_other = x_other e^a + m,   (raw a, m) = network([x_kept, context])
        log |det dy/dx| = sum a

    Shapes: x and y (*sample, *batch, D), context (*batch, C) or None; kept are the first D // 2
    coordinates, or with `reverse` all the others. The network takes (..., kept + C) numbers to two
    blocks of D - kept.
    Source: Dinh et al. (2017), "Density estimation using Real NVP", equations 7 and 8.
    Example:
        >>> step = CouplingMap(torch.nn.Linear(1, 4), None)
        >>> step.forward(torch.ones(5, 3))[1].shape
        torch.Size([5])
    """

    network: Callable[[Tensor], Tensor]
    context: Tensor | None
    reverse: bool = False

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """y (*sample, *batch, D) and the log-determinant (*sample, *batch)."""
        kept, other = self._halves(x)
        a, m = self._numbers(kept)
        return self._join(kept, other * a.exp() + m), a.sum(-1)

    def inverse(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """x (*sample, *batch, D) and the log-determinant of `forward` at it (*sample, *batch)."""
        kept, other = self._halves(y)
        a, m = self._numbers(kept)
        return self._join(kept, (other - m) * (-a).exp()), a.sum(-1)

    def _halves(self, x: Tensor) -> tuple[Tensor, Tensor]:
        half = x.shape[-1] // 2
        first, second = x[..., :half], x[..., half:]
        return (second, first) if self.reverse else (first, second)

    def _join(self, kept: Tensor, other: Tensor) -> Tensor:
        return torch.cat([other, kept] if self.reverse else [kept, other], -1)

    def _numbers(self, kept: Tensor) -> tuple[Tensor, Tensor]:
        seen = kept
        if self.context is not None:
            context = self.context.expand(*kept.shape[:-1], self.context.shape[-1])
            seen = torch.cat([kept, context], -1)
        raw, m = self.network(seen).to(kept.dtype).chunk(2, -1)
        return _bounded(raw), m


@dataclass(frozen=True, eq=False)
class _AutoregressiveMap:
    """What the two share: a and m of coordinate i from those before it, in order or reversed."""

    network: Callable[[Tensor, Tensor | None], Tensor]
    context: Tensor | None
    reverse: bool = False

    def _numbers(self, seen: Tensor) -> tuple[Tensor, Tensor]:
        seen = seen.flip(-1) if self.reverse else seen
        both = self.network(seen, self.context).to(seen.dtype)
        raw, m = (both.flip(-1) if self.reverse else both).unbind(-2)
        return _bounded(raw), m

    def _one_by_one(self, given: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        """What the coordinates that are found say about the next one, and the log-determinant."""
        size = given.shape[-1]
        place = torch.arange(size, device=given.device)
        found = a = torch.zeros_like(given)
        for i in reversed(range(size)) if self.reverse else range(size):
            a, m = self._numbers(found)
            # Coordinates that are not yet due stay zero: garbage could grow from one to the next.
            each = (given - m) * (-a).exp() if inverse else given * a.exp() + m
            found = torch.where(place == i, each, found)
        return found, a.sum(-1)


class InverseAutoregressiveMap(_AutoregressiveMap):
    """Every coordinate is scaled and shifted by what those before it say: all at once.

        y_i = x_i e^(a_i) + m_i,   (raw a, m)_i = network(x_1, ..., x_(i-1), context)
        log |det dy/dx| = sum a

    The paper's numerically stable form, s x + (1 - s) m with s a sigmoid, can only press together;
    here s = e^a may be either side of 1 and is 1 where the network gives 0.
    Shapes: x and y (*sample, *batch, D), context (*batch, C) or None. The network, an
    `aevb.networks.MADE`, takes (..., D) and the context to (..., 2, D); `reverse` makes it
    see the coordinates from the last to the first.
    Source: Kingma et al. (2016), "Improving variational inference with inverse autoregressive
    flow", algorithm 1. Drawing takes one pass, the inverse D.
    Example:
        >>> from aevb.networks import MADE
        >>> step = InverseAutoregressiveMap(MADE(3, [8]), None)
        >>> step.forward(torch.ones(5, 3))[1].shape
        torch.Size([5])
    """

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """y (*sample, *batch, D) and the log-determinant (*sample, *batch), in one pass."""
        a, m = self._numbers(x)
        return x * a.exp() + m, a.sum(-1)

    def inverse(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """x (*sample, *batch, D) and the log-determinant of `forward` at it, in D passes."""
        return self._one_by_one(y, inverse=True)


class MaskedAutoregressiveMap(_AutoregressiveMap):
    """Every coordinate is scaled and shifted by what those before it became: one by one.

        y_i = x_i e^(a_i) + m_i,   (raw a, m)_i = network(y_1, ..., y_(i-1), context)
        log |det dy/dx| = sum a

    Shapes: as `InverseAutoregressiveMap`.
    Source: Papamakarios et al. (2017), "Masked autoregressive flow for density estimation",
    equations 3 and 4. A density takes one pass, drawing D.
    Example:
        >>> from aevb.networks import MADE
        >>> step = MaskedAutoregressiveMap(MADE(3, [8]), None)
        >>> y, _ = step.forward(torch.ones(5, 3))
        >>> torch.allclose(step.inverse(y)[0], torch.ones(5, 3), atol=1e-5)
        True
    """

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """y (*sample, *batch, D) and the log-determinant (*sample, *batch), in D passes."""
        return self._one_by_one(x, inverse=False)

    def inverse(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """x (*sample, *batch, D) and the log-determinant of `forward` at it, in one pass."""
        a, m = self._numbers(y)
        return (y - m) * (-a).exp(), a.sum(-1)


def _bounded(raw: Tensor) -> Tensor:
    return BOUND * torch.tanh(raw / BOUND)

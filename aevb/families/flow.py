"""Flows: a diagonal Gaussian whose draws go through invertible maps (Rezende & Mohamed 2015).

    z_0 ~ N(mean, diag(exp(log-variance))),   z = f_K(... f_1(z_0))

Numbers that are zero give maps that are the identity, or turn the Gaussian: each family begins as
the diagonal Gaussian that it refines. Where a map has few parameters, each condition has maps of
its own: a number is what is learned for all of them plus a tenth of what the condition says. Where
a network is the map, the condition gives it a context.
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from aevb.errors import UsageError, at_least
from aevb.families.family import Family
from aevb.families.gaussian import Normal
from aevb.flows import (
    CouplingMap,
    FlowDistribution,
    HouseholderMap,
    InverseAutoregressiveMap,
    Map,
    MaskedAutoregressiveMap,
    PlanarMap,
    RadialMap,
    SylvesterMap,
)
from aevb.networks import MADE, MLP

INFLUENCE = 0.1
"""Of a raw number, what is added to a map's: networks begin with numbers about 1, far from the
Gaussian, and with all of it posteriors of planar and Sylvester maps learn slower."""
MAX_LAYERS = 100
"""Maps one after the other: a file that is read cannot ask for more work than this."""


class _Flow(Family):
    """What all flows share: the Gaussian at the start, and the count of numbers."""

    size: int
    layers: int

    def outputs(self, size: int) -> int:
        if size != self.size:
            raise UsageError(f"the flow is over {self.size} dimensions, it is asked for {size}")
        return 2 * size + self._more()

    def forward(self, raw: Tensor, batch_ndim: int) -> Distribution:
        raw = raw.flatten(batch_ndim)
        expected = self.outputs(self.size)
        if raw.shape[-1] != expected:
            raise UsageError(
                f"the network gives {raw.shape[-1]} numbers, expected {expected}: "
                f"{2 * self.size} for the Gaussian and {expected - 2 * self.size} for the flow"
            )
        gaussian, rest = raw.split([2 * self.size, expected - 2 * self.size], dim=-1)
        return FlowDistribution(
            Normal()(gaussian, batch_ndim), self._maps(rest), validate_args=False
        )

    def encode_marginals(self, x: Tensor) -> Tensor:
        return torch.cat([Normal().encode_marginals(x), x.new_zeros(self._more())])

    @abstractmethod
    def _more(self) -> int:
        """How many numbers the maps take."""

    @abstractmethod
    def _maps(self, raw: Tensor) -> list[Map]:
        """The maps with the parameters that raw (*batch, more) encodes."""


class _Stepwise(_Flow):
    """Maps with a few numbers each, (layers, width).

    numbers = start + INFLUENCE raw,   start a parameter, learned for all conditions
    """

    def __init__(self, size: int, layers: int, start: Tensor) -> None:
        super().__init__()
        self.size = size
        self.layers = layers
        self.start = nn.Parameter(start)

    def _more(self) -> int:
        return self.start.numel()

    def _maps(self, raw: Tensor) -> list[Map]:
        numbers = self.start + INFLUENCE * raw.unflatten(-1, self.start.shape)
        return [self._map(step) for step in numbers.unbind(-2)]

    @abstractmethod
    def _map(self, numbers: Tensor) -> Map:
        """The map with numbers (*batch, width)."""


class Planar(_Stepwise):
    """A Gaussian through planar maps, x + u tanh(w.x + b).

    Shapes: raw (*batch, 2 D + layers (2 D + 1)): means, log-variances, then u, w and b of each map.
    Learned for all conditions are random w, and u and b that start at 0: at raw = 0 each map is the
    identity, and moves with u.
    Units: nats. Errors: UsageError for a size or layers below 1, for another number of outputs.
    Source: Rezende & Mohamed (2015), "Variational inference with normalizing flows", section 4.1.
    Example:
        >>> q = Planar(2, 4)(torch.zeros(3, 24), batch_ndim=1)
        >>> q.batch_shape, q.event_shape
        (torch.Size([3]), torch.Size([2]))
    """

    def __init__(self, size: int, layers: int) -> None:
        _require(size, layers)
        u, w, b = torch.zeros(layers, size), _directions(layers, size), torch.zeros(layers, 1)
        super().__init__(size, layers, torch.cat([u, w, b], -1))

    def _map(self, numbers: Tensor) -> Map:
        u, w, b = numbers.split([self.size, self.size, 1], dim=-1)
        return PlanarMap(u, w, b.squeeze(-1))


class Radial(_Stepwise):
    """A Gaussian through radial maps, x + beta (x - center) / (alpha + |x - center|).

    Shapes: raw (*batch, 2 D + layers (D + 2)): means, log-variances, then the center, log alpha and
    the raw beta of each map. Learned for all conditions are random centers, and numbers that start
    at 0: at raw = 0 each map is the identity, and moves with beta.
    Units: nats. Errors: as `Planar`.
    Source: Rezende & Mohamed (2015), section 4.1.
    Example:
        >>> Radial(2, 4).outputs(2)
        20
    """

    def __init__(self, size: int, layers: int) -> None:
        _require(size, layers)
        super().__init__(
            size, layers, torch.cat([torch.randn(layers, size), torch.zeros(layers, 2)], -1)
        )

    def _map(self, numbers: Tensor) -> Map:
        center, log_alpha, raw_beta = numbers.split([self.size, 1, 1], dim=-1)
        return RadialMap(center, log_alpha.squeeze(-1), raw_beta.squeeze(-1))


class Householder(_Stepwise):
    """A Gaussian through reflections: a full covariance, of which D reflections reach every one.

    Shapes: raw (*batch, 2 D + layers D): means, log-variances, then v of each reflection. Learned
    for all conditions are random v, in pairs of equal ones, which cancel at raw = 0; an odd last
    one reflects.
    Units: nats. Errors: as `Planar`.
    Source: Tomczak & Welling (2016), "Improving variational auto-encoders using Householder flow".
    Example:
        >>> q = Householder(2, 2)(torch.zeros(1, 8), 1)
        >>> torch.allclose(q.transform(torch.ones(1, 2)), torch.ones(1, 2))
        True
    """

    def __init__(self, size: int, layers: int) -> None:
        _require(size, layers)
        pairs = _directions((layers + 1) // 2, size)
        super().__init__(size, layers, pairs.repeat_interleave(2, 0)[:layers])

    def _map(self, numbers: Tensor) -> Map:
        return HouseholderMap(numbers)


class Sylvester(_Stepwise):
    """A Gaussian through Sylvester maps, x + Q R tanh(S Q^T x + b), of `bottleneck` directions M.

    Shapes: raw (*batch, 2 D + layers (M D + M (M + 1) + M)): means, log-variances, then for each
    map v of Q's M reflections, an M x M block with R in its upper triangle and S, transposed,
    below its diagonal, the diagonal of S, and b. Learned for all conditions are random v, R and b
    that start at 0 and S at the unit matrix: at raw = 0 each map is the identity, and moves with R.
    Units: nats. Errors: as `Planar`, and UsageError for a bottleneck above D.
    Source: van den Berg et al. (2018), "Sylvester normalizing flows for variational inference", the
    orthogonal variant, with Q made by reflections so that it is orthonormal without iterating.
    Example:
        >>> Sylvester(4, 2, 3).outputs(4)
        62
    """

    def __init__(self, size: int, layers: int, bottleneck: int) -> None:
        _require(size, layers)
        if not 1 <= bottleneck <= size:
            raise UsageError(f"the bottleneck must lie between 1 and {size}, found {bottleneck}")
        v = _directions(layers * bottleneck, size).reshape(layers, -1)
        zeros = torch.zeros(layers, bottleneck)
        blocks = zeros.repeat(1, bottleneck)
        super().__init__(size, layers, torch.cat([v, blocks, zeros + 1, zeros], -1))
        self.bottleneck = bottleneck

    def _map(self, numbers: Tensor) -> Map:
        m = self.bottleneck
        v, block, diagonal, b = numbers.split([m * self.size, m * m, m, m], dim=-1)
        r = block.unflatten(-1, (m, m))
        s = torch.triu(r.mT, 1) + torch.diag_embed(diagonal)
        return SylvesterMap(v.unflatten(-1, (m, self.size)), r, s, b)


class _Networked(_Flow):
    """Maps that are networks, to which the raw numbers give a context; every other is reversed."""

    map: Callable[[Any, Tensor | None, bool], Map]

    def __init__(self, size: int, layers: int, hidden: Sequence[int], context: int) -> None:
        super().__init__()
        _require(size, layers)
        at_least(0, context, "the context")
        self.size = size
        self.layers = layers
        self.hidden = tuple(hidden)
        self.context = context
        self.networks = nn.ModuleList(_silent(self._network(i)) for i in range(layers))

    def _more(self) -> int:
        return self.context

    def _maps(self, raw: Tensor) -> list[Map]:
        context = raw if self.context else None
        return [self.map(f, context, bool(i % 2)) for i, f in enumerate(self.networks)]

    def _network(self, i: int) -> MLP | MADE:
        """The network of map i."""
        return MADE(self.size, self.hidden, 2, self.context)


class RealNVP(_Networked):
    """A Gaussian through affine couplings, which scale and shift one half by the other, in turn.

    Shapes: raw (*batch, 2 D + context): means, log-variances, context; a prior needs no context.
    The networks' last layers start at 0, and so each map at the identity.
    Units: nats. Errors: as `Planar`, and UsageError for a single dimension, which has no halves.
    Source: Dinh et al. (2017), "Density estimation using Real NVP".
    Example:
        >>> RealNVP(4, 6, [32], 0)(torch.zeros(8), 0).rsample().shape
        torch.Size([4])
    """

    map = CouplingMap

    def __init__(self, size: int, layers: int, hidden: Sequence[int], context: int) -> None:
        if size == 1:
            raise UsageError("real-nvp couples two halves of the dimensions, found one dimension")
        super().__init__(size, layers, hidden, context)

    def _network(self, i: int) -> MLP | MADE:
        first, second = self.size // 2, self.size - self.size // 2
        kept, other = (second, first) if i % 2 else (first, second)
        return MLP(kept + self.context, self.hidden, 2 * other)


class InverseAutoregressive(_Networked):
    """A Gaussian through inverse autoregressive maps: draws in one pass, for a posterior.

    Shapes: raw (*batch, 2 D + context): means, log-variances, context. Every other map sees the
    dimensions from the last to the first. The networks' last layers start at 0, and so each map at
    the identity.
    Units: nats; the density of a draw of its own is known, that of any other value takes D passes.
    Errors: as `Planar`.
    Source: Kingma et al. (2016), "Improving variational inference with inverse autoregressive
    flow".
    Example:
        >>> InverseAutoregressive(4, 2, [32], 8).outputs(4)
        16
    """

    map = InverseAutoregressiveMap


class MaskedAutoregressive(_Networked):
    """A Gaussian through masked autoregressive maps: densities in one pass, for a prior.

    Shapes: as `InverseAutoregressive`. Units: nats; a draw takes D passes for each map.
    Errors: as `Planar`.
    Source: Papamakarios et al. (2017), "Masked autoregressive flow for density estimation".
    Example:
        >>> MaskedAutoregressive(4, 2, [32], 0)(torch.zeros(8), 0).log_prob(torch.zeros(4))
        tensor(-3.6758, grad_fn=<SubBackward0>)
    """

    map = MaskedAutoregressiveMap


def _silent(network: MLP | MADE) -> nn.Module:
    """A network whose last layer gives zeros, until it learns."""
    nn.init.zeros_(network.head.weight)
    return network


def _directions(count: int, size: int) -> Tensor:
    """Random vectors of length about 1, (count, size)."""
    directions: Tensor = torch.randn(count, size) / size**0.5
    return directions


def _require(size: int, layers: int) -> None:
    at_least(1, size, "the number of dimensions of a flow")
    if not 1 <= layers <= MAX_LAYERS:
        raise UsageError(f"a flow has 1 to {MAX_LAYERS} maps, found {layers}")

"""z = g(noise): standard noise, whose law has no parameters, and a differentiable map to a draw.

    route             noise                    map
    inverse CDF       u ~ U(0, 1)              z = F^-1(u)
    location-scale    e, of a standard law     z = loc + scale e
    composition       e, of standard laws      z = a function of other draws
    implicit          u ~ U(0, 1)              z = F^-1(u) found numerically, dz = -dF / p(z)
    hard              u ~ U(0, 1)              z = F^-1(u) of a coin or a class: steps, no gradient

Every class of `aevb.distributions` with a differentiable draw states its route by `law` or
`standard` and `transform`; `ROUTES` says which of them speaks for a class that torch owns.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Self, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution, Independent

from aevb.errors import UsageError
from aevb.randomness import normal, open_uniform, torch_seeded, uniform

Law = Callable[[np.random.Generator, Sequence[int], torch.dtype], Tensor]
"""Draws of the noise: (generator, shape, dtype) to a tensor of that shape."""


class Noise(NamedTuple):
    """The noise of one draw: its shape, its law, and whether the map from it has a gradient.

    Shapes: `shape` of the noise for one element of a batch. Units: nats, of `log_prob`.
    Source: Kingma & Welling (2013), section 2.4: e ~ p(e).
    Example:
        >>> from aevb.randomness import Stream, generator
        >>> noise = Noise(torch.Size((2,)), normal)
        >>> e = noise.draw(generator(0, Stream.NOISE), (5, 3), torch.float32)
        >>> e.shape, noise.log_prob(e).shape
        (torch.Size([5, 3, 2]), torch.Size([5, 3]))
    """

    shape: torch.Size
    law: Law
    differentiable: bool = True

    def draw(
        self, generator: np.random.Generator, lead: Sequence[int], dtype: torch.dtype
    ) -> Tensor:
        """Noise for draws (*lead), say of S samples for N data, (*lead, *shape)."""
        return self.law(generator, (*lead, *self.shape), dtype)

    def log_prob(self, noise: Tensor) -> Tensor | None:
        """log r(e) in nats, (*lead,) for noise (*lead, *shape); None where it is not known."""
        if isinstance(self.law, SideBySide):
            pairs = zip(self.law.noises, apart(noise, self.law.noises), strict=True)
            found = [log_r for own, e in pairs if (log_r := own.log_prob(e)) is not None]
            return sum(found) if len(found) == len(self.law.noises) else None  # type: ignore
        e = noise.double().reshape(*noise.shape[: noise.ndim - len(self.shape)], -1)
        if self.law is normal:
            return (-0.5 * e.square() - 0.5 * math.log(2 * math.pi)).sum(-1)
        return torch.zeros_like(e[..., 0]) if self.law in (open_uniform, uniform) else None


class Reparameterized(Distribution):
    """A distribution whose draws are a map of standard noise, differentiable in its parameters.

        z = g(e), e ~ law;   `rsample` is `transform(noise(sample_shape))`

    Shapes: noise of shape (*shape, *batch, *standard.shape) goes to draws (*shape, *batch, *event).
    To be put first among the bases of a subclass, which sets `route` and `law` and defines
    `transform`, and `standard` where the noise is not shaped like the event; `_log_prob` and
    `_cdf`, torch's own unless it says them, are asked for values that have been validated.
    Source: Kingma & Welling (2013), section 2.4.
    Example:
        >>> from aevb.distributions import Normal
        >>> from aevb.randomness import Stream, generator
        >>> q = Normal(torch.ones(2), 3.0)
        >>> q.transform(q.noise((5,), generator(0, Stream.NOISE))).shape
        torch.Size([5, 2])
    """

    has_rsample = True
    route: ClassVar[str]
    """Which route of the paper's section 2.4 it takes: see the table above."""
    law: Law = staticmethod(normal)  # by (generator, shape, dtype)

    @property
    def standard(self) -> Noise:
        """The noise of one draw, for one element of the batch."""
        return Noise(self.event_shape, self.law, self.has_rsample)

    def noise(self, shape: Sequence[int], generator: np.random.Generator) -> Tensor:
        """Standard noise for draws of shape `shape`, (*shape, *batch, *standard.shape)."""
        like = parameter(self)
        drawn = self.standard.draw(generator, (*shape, *self.batch_shape), like.dtype)
        return drawn.to(like.device)

    def transform(self, noise: Tensor) -> Tensor:
        """g(noise): draws (*shape, *batch, *event) from noise (*shape, *batch, *standard.shape)."""
        raise NotImplementedError

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Differentiable draws, (*sample_shape, *batch, *event), by torch's own generator."""
        word = int(torch.randint(2**63 - 1, ()))
        return self.transform(self.noise(sample_shape, np.random.Generator(np.random.Philox(word))))

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws, (*sample_shape, *batch, *event), by torch's own generator."""
        with torch.no_grad():
            return self.rsample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(value), (*sample, *batch) nats."""
        if self._validate_args:
            self._validate_sample(value)
        return self._log_prob(value)

    def _log_prob(self, value: Tensor) -> Tensor:
        theirs: Tensor = super().log_prob(value)
        return theirs

    def cdf(self, value: Tensor) -> Tensor:
        """P(z <= value), (*sample, *batch)."""
        if self._validate_args:
            self._validate_sample(value)
        return self._cdf(value)

    def _cdf(self, value: Tensor) -> Tensor:
        theirs: Tensor = super().cdf(value)
        return theirs

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Self:
        """The same distribution with its parameters expanded to another batch shape."""
        theirs: Any = super().expand
        if theirs.__func__ is not Distribution.expand:
            new = self.__new__(type(self)) if _instance is None else _instance
            return theirs(batch_shape, new)  # type: ignore[no-any-return]
        return expand_parameters(self, batch_shape, _instance)

    def __repr__(self) -> str:
        """The class and its parameters: torch's leaves out those that another class keeps."""
        own = vars(self) | vars(type(self))
        names = [k for k in self.arg_constraints if k in own] or list(self.arg_constraints)
        shown = ((k, getattr(self, k)) for k in names)
        text = (f"{k}: {v if v.numel() == 1 else v.size()}" for k, v in shown)
        return f"{type(self).__name__}({', '.join(text)})"


Expanded = TypeVar("Expanded", bound=Distribution)


def expand_parameters(
    self: Expanded, batch_shape: Sequence[int], _instance: Any = None
) -> Expanded:
    """The `expand` of a class that torch lacks: every parameter, and nothing else, is expanded."""
    new: Any = self._get_checked_instance(type(self), _instance)  # type: ignore[no-untyped-call]
    batch_shape = torch.Size(batch_shape)
    for name, value in vars(self).items():
        if isinstance(value, Tensor) and name in self.arg_constraints:
            own = value.shape[len(self.batch_shape) :]
            value = value.expand((*batch_shape, *own))
        if not name.startswith("_"):
            setattr(new, name, value)
    Distribution.__init__(new, batch_shape, self.event_shape, validate_args=False)
    new._validate_args = self._validate_args
    return new  # type: ignore[no-any-return]


class Remembering(Reparameterized):
    """A distribution that finds the density of a draw on the way to it, and keeps the last one.

    `transform` ends in `remember(z, log_q)`; `log_prob` asks `remembered` first, which knows that
    very tensor, not written to since, and no other: an inverse, or a second run of networks, is
    spared.
    """

    _last: tuple[Tensor, int, Tensor, bool] | None = None

    def remember(self, z: Tensor, log_q: Tensor) -> Tensor:
        self._last = z, _writes(z), log_q, torch.is_grad_enabled()
        return z

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(value), (*sample, *batch) nats."""
        known = self.remembered(value)
        return super().log_prob(value) if known is None else known

    def remembered(self, value: Tensor) -> Tensor | None:
        """log q of the last draw, where `value` is it."""
        if self._last is None or value is not self._last[0]:
            return None
        _, writes, log_q, differentiable = self._last
        if writes < 0 or _writes(value) != writes:
            return None
        # A draw without gradient does not say how its density depends on the parameters.
        return log_q if differentiable or not torch.is_grad_enabled() else None


def _writes(z: Tensor) -> int:
    """How often a draw was written to in place; 0 within a step that is traced, which does not.

    Below 0 where nothing counts them: under `torch.inference_mode`.
    """
    if torch.compiler.is_compiling():
        return 0
    return -1 if z.is_inference() else z._version


def parameter(q: Distribution) -> Tensor:
    """A parameter of a distribution, or of one inside it: draws have its dtype and device."""
    for name in q.arg_constraints:
        value = getattr(q, name)
        if isinstance(value, Tensor):
            return value
    kept = (v if isinstance(v, tuple) else (v,) for v in vars(q).values())
    return parameter(next(d for group in kept for d in group if isinstance(d, Distribution)))


ROUTES: dict[type[Distribution], type[Reparameterized]] = {}
"""For classes that torch owns, the class whose route they take."""


NONE = Noise(torch.Size((0,)), normal)
"""Of what draws by torch's own generator."""


@dataclass(frozen=True)
class SideBySide:
    """The law of several noises, one after the other along the last axis."""

    noises: Sequence[Noise]

    def __call__(
        self, generator: np.random.Generator, shape: Sequence[int], dtype: torch.dtype
    ) -> Tensor:
        lead = tuple(shape[:-1])
        drawn = [
            n.draw(generator, lead, dtype).reshape(*lead, n.shape.numel()) for n in self.noises
        ]
        return torch.cat(drawn, dim=-1)


def side_by_side(noises: Sequence[Noise]) -> Noise:
    """The noise of several draws as one vector; `apart` takes it to pieces.

    Example:
        >>> side_by_side([Noise(torch.Size((2, 3)), normal), NONE]).shape
        torch.Size([6])
    """

    size = torch.Size((sum(noise.shape.numel() for noise in noises),))
    return Noise(size, SideBySide(noises), all(noise.differentiable for noise in noises))


def apart(vector: Tensor, noises: Sequence[Noise]) -> list[Tensor]:
    """The noise of each draw, (*lead, *shape), from one vector (*lead, E) of all of them."""
    pieces = vector.split([noise.shape.numel() for noise in noises], dim=-1)
    lead = vector.shape[:-1]
    return [p.reshape((*lead, *n.shape)) for p, n in zip(pieces, noises, strict=True)]


class Route(NamedTuple):
    """The noise of one draw, and the map g from it to z.

    Shapes: `transform` takes noise (*lead, *batch, *noise.shape) to draws (*lead, *batch, *event).
    Source: Kingma & Welling (2013), section 2.4.
    Example:
        >>> from aevb.distributions import Normal
        >>> route(Normal(torch.ones(2), 3.0)).transform(torch.tensor([0.0, 2.0]))
        tensor([1., 7.])
    """

    noise: Noise
    transform: Callable[[Tensor], Tensor]


def base_of(q: Distribution) -> Any:
    """The law of each cell: `Independent` only moves axes from the batch to the event."""
    while isinstance(q, Independent):
        q = q.base_dist
    return q


def ours(q: Distribution) -> Any:
    """A law of torch's as one of the class that speaks for it, which shares its numbers."""
    kind: Any = ROUTES.get(type(q))
    if kind is None:
        return q
    new = kind.__new__(kind)
    new.__dict__.update(vars(q))
    return new


def unchecked(q: Distribution) -> Any:
    """A law as one of ours that takes any value: of several laws, some may not hold it."""
    law = ours(q)
    new = law.__new__(type(law))
    new.__dict__.update(vars(law), _validate_args=False)
    return new


def route(q: Distribution) -> Route:
    """The route of a distribution: its noise, and the map from it to a draw.

    Shapes: `Independent` only moves axes from the batch to the event, those of the noise too.
    Errors: UsageError, naming those there are, where no route is known.
    Source: Kingma & Welling (2013), section 2.4.
    Example:
        >>> from aevb.distributions import Normal
        >>> q = Normal(torch.zeros(3, 2), 1.0)
        >>> route(q).noise.shape, route(Independent(q, 1)).noise.shape
        (torch.Size([]), torch.Size([2]))
    """
    base = ours(base_of(q))
    if not isinstance(base, Reparameterized):
        known = ", ".join(sorted({found.__name__ for found in ROUTES}))
        raise UsageError(
            f"no reparameterization of {type(base).__name__} is known (of torch's classes: "
            f"{known}): choose one of aevb.distributions as the posterior"
        )
    moved, noise = base.batch_shape[len(q.batch_shape) :], base.standard
    return Route(noise._replace(shape=torch.Size((*moved, *noise.shape))), base.transform)


def noise_of(p: Distribution) -> Noise:
    """The noise that `draw_from` takes: none for a law that only torch can draw from."""
    try:
        return route(p).noise
    except UsageError:
        return NONE


def draw_from(p: Distribution, noise: Tensor) -> Tensor:
    """A draw of p by its route, or, where it has none, by torch's own generator.

    Shapes: noise (S, *batch, *shape) as `noise_of(p)` says; the draw (S, *batch, *event), without
    gradient.
    Example:
        >>> draw_from(torch.distributions.Poisson(torch.ones(3)), torch.zeros(5, 3, 0)).shape
        torch.Size([5, 3])
    """
    with torch.no_grad():
        if noise_of(p) is NONE:
            return p.sample(noise.shape[: noise.ndim - 1 - len(p.batch_shape)])
        return route(p).transform(noise)


def reparameterize(q: Distribution, noise: Tensor) -> Tensor:
    """z = g(noise), differentiable in the parameters of q, unless it is a hard coin or class.

        Normal: z = loc + scale * noise;   MultivariateNormal: z = loc + L noise

    Shapes: q with batch (N,) and event (D,); noise (S, N, D), or what else
    `route(q).noise.shape` says in place of D; z (S, N, D).
    Errors: UsageError for a family without a route or noise of another shape.
    Source: Kingma & Welling (2013), section 2.4.
    Example:
        >>> from aevb.distributions import Normal
        >>> reparameterize(Normal(torch.ones(2), 3.0), torch.ones(1, 2))
        tensor([[4., 4.]])
    """
    way = route(q)
    expected = (*q.batch_shape, *way.noise.shape)
    if tuple(noise.shape[noise.ndim - len(expected) :]) != expected or noise.ndim < len(expected):
        raise UsageError(
            f"noise must have shape (S, {', '.join(map(str, expected))}), "
            f"found {tuple(noise.shape)}"
        )
    return way.transform(noise)


def drawn(
    q: Distribution, lead: Sequence[int], source: np.random.Generator, like: Tensor
) -> Tensor:
    """Draws of q, (*lead, *batch, *event), by its route where it has one; differentiable ones.

    Others come from torch's generator, seeded from `source`. `like` has the dtype and device.
    """
    try:
        way = route(q)
    except UsageError:
        return sampled(q, lead, source, like, q.has_rsample)
    noise = way.noise.draw(source, (*lead, *q.batch_shape), like.dtype)
    return way.transform(noise.to(like.device))


def sampled(
    d: Distribution,
    lead: Sequence[int],
    source: np.random.Generator,
    like: Tensor,
    differentiable: bool = False,
) -> Tensor:
    """Draws by the law's own `sample` or `rsample`, torch's generator seeded from `source`."""
    shape = torch.Size(lead)
    with torch_seeded(source, like.device):
        return d.rsample(shape) if differentiable else d.sample(shape)

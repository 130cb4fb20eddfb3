"""Integrals over one to three real dimensions, for many data at once, on lattices that refine.

    log integral exp f_n(z) dz  ~  log (h_1 ... h_D sum_k exp f_n(c + h k)),   k in Z^D

The trapezoid rule is as exact as f is smooth once the spacings h are near the smallest width of
exp f: its error is the characteristic function at 2 pi / h (Trefethen & Weideman 2014, "The
exponentially convergent trapezoidal rule"). What is sharp is found from the coarse to the fine:

    1. all of a coarse lattice over a region that is the same for all data
    2. keep, for each datum, the points within T nats of its largest; halve the axes that need it
    3. flood: every neighbor of a kept point is looked at, until none is left to keep

A peak may lie between the points: near one it is higher by up to a quarter of what the function
loses to the next point on its far side. Half of that is granted to every point, for each axis, so
that of several sharp peaks none is lost for being farther from the lattice than another. With p_k
the shares of the sum, its spectrum shows how well it is resolved, along m in {-1, 0, 1}^D,

    phi(w) = |sum_k p_k exp(i w m.k)|,   error = sum_m max(phi(pi), phi(3 pi / 4) / 2)

phi(pi) is what every other point alone would miss. It vanishes where a peak lies halfway between
two points, however coarse they are; phi(3 pi / 4) does not. An axis is halved for every m that has
part in it and more than its share of the error.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

DEPTH = 30.0
"""Nats below its largest value at which a function of fine spacing is cut off."""
MARGIN = 30.0
"""Nats more at the coarse spacing; a quarter of it at half the spacing."""
POINTS = 1 << 19
"""Of one datum, at most."""
LEVELS = 24
ROUNDING = 1e-13
"""Relative to the logarithm: what sums in double precision leave."""

Pairs = Callable[[Tensor, Tensor, Tensor], Tensor]
"""f at (owner (Q,), which (Q,), z (U, D)): of datum `owner` at z[which], (Q,) nats."""


@dataclass(frozen=True)
class Region:
    """A coarse lattice c + h k, by the steps k from its center at which to begin.

    Shapes: `center` (D,), `spacing` (D,), `steps` (C, D) of whole numbers. Units: those of z.
    Example:
        >>> Region(torch.zeros(1), torch.tensor([0.5]), torch.tensor([[-1], [0], [1]])).points.T
        tensor([[-0.5000,  0.0000,  0.5000]])
    """

    center: Tensor
    spacing: Tensor
    steps: Tensor

    @property
    def points(self) -> Tensor:
        """The points of the coarse lattice, (C, D)."""
        return self.center + self.spacing * self.steps


@dataclass
class Integrals:
    """Of each of M data: log integral, its error, how many points were laid, how densely.

    Shapes: (M,), but (M, D) for `spacing`, which may differ between axes. Units: nats for `value`
    and `error`, that of z for `spacing`.
    Example:
        >>> one = torch.ones(1)
        >>> found = Integrals(0.5 * one, 1e-4 * one, 40 * one, torch.tensor([[0.5, 0.25]]))
        >>> found.points * found.spacing.prod(-1)  # the volume that the points fill
        tensor([5.])
    """

    value: Tensor
    error: Tensor
    points: Tensor
    spacing: Tensor


class _Keys:
    """(owner, k) as one number of 63 bits, so that sets of points are sorted vectors."""

    def __init__(self, dimensions: int, bits: int) -> None:
        self.dimensions = dimensions
        self.bits = bits
        self.half = 1 << (bits - 1)

    def pack(self, owner: Tensor, k: Tensor) -> Tensor:
        key = owner
        for d in range(self.dimensions):
            key = (key << self.bits) + (k[:, d] + self.half)
        return key

    def unpack(self, key: Tensor) -> tuple[Tensor, Tensor]:
        mask, k = (1 << self.bits) - 1, []
        for _ in range(self.dimensions):
            k.append((key & mask) - self.half)
            key = key >> self.bits
        return key, torch.stack(k[::-1], -1)

    def step(self, axis: int) -> int:
        """What one step along an axis adds to a key."""
        return 1 << (self.bits * (self.dimensions - 1 - axis))

    def inside(self, k: Tensor) -> Tensor:
        """Which k, and their neighbors, have a key."""
        return (k.abs() < self.half - 2).all(-1)


class _Flood:
    """The points of all data that are open, with their values, at the spacings of the moment."""

    def __init__(self, pairs: Pairs, region: Region, data: int) -> None:
        self.pairs, self.region = pairs, region
        self.codes = _Keys(len(region.center), min(48 // len(region.center), 24))
        self.places = _Keys(len(region.center), 62 // len(region.center))
        self.level = torch.zeros(data, len(region.center), dtype=torch.int64).to(region.steps)
        self.best = torch.full((data,), -math.inf).to(region.center)
        self.full = torch.zeros(data, dtype=torch.bool, device=region.center.device)
        self.keys = region.steps.new_empty(0)
        self.values = region.center.new_empty(0)

    @property
    def depth(self) -> Tensor:
        """T of each datum, (M,): more of it where the spacing is coarse."""
        return DEPTH + MARGIN * torch.exp2(-2.0 * self.level.to(self.best)).mean(-1)

    def add(self, keys: Tensor, values: Tensor) -> None:
        owner, _ = self.codes.unpack(keys)
        self.best = self.best.scatter_reduce(0, owner, values, "amax")
        merged, order = torch.cat([self.keys, keys]).sort()
        self.keys, self.values = merged, torch.cat([self.values, values])[order]

    def kept(self, keys: Tensor, values: Tensor) -> Tensor:
        """Which points are within T of the largest, with what may lie between them granted."""
        owner, _ = self.codes.unpack(keys)
        hidden = torch.zeros_like(values)
        for axis in range(self.codes.dimensions):
            step = self.codes.step(axis)
            lower = torch.minimum(self._known(keys + step), self._known(keys - step))
            fall = torch.where(lower.isfinite(), values - lower, 0.0)
            hidden = hidden + 0.5 * fall.clamp_min(0)
        return values + hidden > (self.best - self.depth)[owner]

    def _known(self, keys: Tensor) -> Tensor:
        """The values at points that were looked at, else infinity."""
        place = torch.searchsorted(self.keys, keys).clamp_max(len(self.keys) - 1)
        unknown = torch.full_like(self.values[:1], math.inf)
        return torch.where(self.keys[place] == keys, self.values[place], unknown)

    def flood(self, keys: Tensor) -> None:
        """Look at these points, and at every neighbor of one that is kept."""
        keys = self._new(keys)
        while len(keys):
            values = self._evaluate(keys)
            self.add(keys, values)
            keys = self._new(self._neighbors(keys[self.kept(keys, values)]))

    def _new(self, keys: Tensor) -> Tensor:
        """Those that were not looked at, of data that still have room for them."""
        keys = torch.unique(keys)
        if len(self.keys):
            place = torch.searchsorted(self.keys, keys).clamp_max(len(self.keys) - 1)
            keys = keys[self.keys[place] != keys]
        owner, k = self.codes.unpack(keys)
        held, _ = self.codes.unpack(self.keys)
        data = len(self.full)
        count = torch.bincount(owner, minlength=data) + torch.bincount(held, minlength=data)
        self.full = self.full | (count > POINTS)
        self.full[owner[~self.codes.inside(k)]] = True
        return keys[~self.full[owner]]

    def _evaluate(self, keys: Tensor) -> Tensor:
        # The same point of several data is decoded once: by its place at the finest spacing.
        owner, k = self.codes.unpack(keys)
        finest = self.level[owner].amax(0)
        place = self.places.pack(torch.zeros_like(owner), k << (finest - self.level[owner]))
        places, which = torch.unique(place, return_inverse=True)
        at = self.places.unpack(places)[1] * torch.exp2(-finest.to(self.best))
        z = self.region.center + self.region.spacing * at
        return self.pairs(owner, which, z).nan_to_num(nan=-math.inf)

    def _neighbors(self, keys: Tensor) -> Tensor:
        steps = [self.codes.step(axis) for axis in range(self.codes.dimensions)]
        return torch.cat([keys + sign * step for step in steps for sign in (1, -1)])

    def halve(self, axes: Tensor) -> None:
        """Halve the spacing of these axes (M, D); data without one are closed."""
        owner, k = self.codes.unpack(self.keys)
        stays = self.kept(self.keys, self.values) & axes.any(-1)[owner]
        owner, k, values = owner[stays], k[stays], self.values[stays]
        k = torch.where(axes[owner], 2 * k, k)
        inside = self.codes.inside(k)
        self.full[owner[~inside]] = True
        keys = self.codes.pack(owner[inside], k[inside])
        self.level = self.level + axes
        self.best = torch.full_like(self.best, -math.inf)
        self.keys, self.values = self.keys[:0], self.values[:0]
        self.add(keys, values[inside])
        for d in range(self.codes.dimensions):
            between = keys[axes[self.codes.unpack(keys)[0], d]]
            step = self.codes.step(d)
            keys = torch.cat([keys, between + step, between - step])
        self.flood(keys)

    def sums(self) -> tuple[Tensor, Tensor, Tensor]:
        """The logarithm (M,), its error for each direction (directions, M), the points (M,)."""
        owner, k = self.codes.unpack(self.keys)
        spacing = self.region.spacing * torch.exp2(-self.level.to(self.best))
        share = torch.exp(self.values - self.best[owner])
        total = torch.zeros_like(self.best).index_add(0, owner, share)
        share = share / total[owner]
        none = torch.zeros_like(total)

        def spectrum(turns: Tensor) -> Tensor:
            parts = (share * turns.cos(), share * turns.sin())
            return torch.hypot(*(none.index_add(0, owner, part) for part in parts))

        errors = []
        for direction in self.directions:
            along = (k * direction).sum(-1).to(share)
            seen = torch.maximum(spectrum(math.pi * along), spectrum(0.75 * math.pi * along) / 2)
            errors.append(-torch.log1p(-seen.clamp_max(1)))
        value = self.best + total.log() + spacing.log().sum(-1)
        return value, torch.stack(errors), torch.bincount(owner, minlength=len(total))

    @property
    def directions(self) -> Tensor:
        """All of {-1, 0, 1}^D but for 0, one of each opposite pair, (directions, D)."""
        size = self.codes.dimensions
        cube = list(product((-1, 0, 1), repeat=size))
        return torch.tensor(cube[3**size // 2 + 1 :], device=self.keys.device)


def integrate(
    pairs: Pairs, table: Tensor, seeds: Tensor, region: Region, tolerance: float
) -> Integrals:
    """The integrals of M functions, each refined until its error is below the tolerance.

        log integral exp f_n(z) dz  ~  log (h_1 ... h_D sum_k exp f_n(c + h k))

    A datum whose points grow beyond `POINTS` keeps what it had before, with the error of that.
    Shapes: `table` (C, M) the values at the points of the region; `seeds` (M, D) a point of each
    datum near which to look in any case.
    Units: nats. Source: Trefethen & Weideman (2014), section 2, for the rule and its error.
    Example:
        >>> region = Region(torch.zeros(1), torch.ones(1), torch.arange(-9, 10).unsqueeze(-1))
        >>> table = -0.5 * region.points.square()  # of one datum: the standard normal law
        >>> found = integrate(
        ...     lambda owner, which, z: -0.5 * z[which, 0].square(),
        ...     *(table, torch.zeros(1, 1), region, 1e-4))
        >>> round(float(found.value), 4)  # log sqrt(2 pi)
        0.9189
    """
    flood = _Flood(pairs, region, table.shape[1])
    everyone = torch.arange(table.shape[1], device=table.device)
    which, owner = torch.nonzero(table > -math.inf, as_tuple=True)
    flood.add(flood.codes.pack(owner, region.steps[which]), table[which, owner])
    keys = flood.keys[flood.kept(flood.keys, flood.values)]
    limit = flood.codes.half / 4  # an encoder may point anywhere
    nearest = ((seeds - region.center) / region.spacing).nan_to_num(nan=0.0).clamp(-limit, limit)
    flood.flood(
        torch.cat([flood._neighbors(keys), flood.codes.pack(everyone, nearest.round().long())])
    )
    value, errors, points = flood.sums()
    result = Integrals(value, errors.sum(0), points, region.spacing.expand_as(flood.level))
    change = torch.full_like(value, math.inf)
    open_ = torch.ones_like(flood.full)
    for _ in range(LEVELS):
        open_ = open_ & ~flood.full & ~(result.error <= tolerance)
        if not bool(open_.any()):
            break
        large = (errors > tolerance / len(errors)).to(flood.level)
        flood.halve((large.mT @ flood.directions.abs() > 0) & open_.unsqueeze(-1))
        value, errors, points = flood.sums()
        better = open_ & ~flood.full
        change = torch.where(better, (value - result.value).abs(), change)
        spacing = region.spacing * torch.exp2(-flood.level.to(value))
        result.value = torch.where(better, value, result.value)
        result.error = torch.where(better, errors.sum(0), result.error)
        result.points = torch.where(better, points, result.points)
        result.spacing = torch.where(better.unsqueeze(-1), spacing, result.spacing)
    stuck = result.error > tolerance  # where so much is missed, its spectrum says too little
    result.error = torch.where(stuck, result.error + change, result.error)
    result.value = result.value.nan_to_num(nan=-math.inf)  # nowhere more than nothing
    result.error = result.error + ROUNDING * result.value.abs()
    return result

"""Markov chain Monte Carlo on any log-density: an algorithm is init and step, many chains at once.

    HMC            dz/dt = p, dp/dt = grad log pi(z), by L leapfrog steps, p from N(0, I);
                   taken with probability min(1, exp(H(z, p) - H(z', p'))),
                   H = -log pi(z) + |p|^2 / 2
    Metropolis     z' = z + scale noise; taken with probability min(1, pi(z') / pi(z))
    Gibbs          each block of z in turn from its law given the rest
    DualAveraging  the size of the steps for a wanted acceptance, while burning in
    r_hat, effective_sample_size
                   whether chains agree, and how many independent draws theirs are worth

The noise is always an argument. *chains stands for any axes in front: chains, data, both.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.func import grad_and_value

from aevb.errors import UsageError, at_least
from aevb.randomness import normal, uniform

LogDensity = Callable[[Tensor], Tensor]
Conditional = Callable[[Tensor, Tensor], Tensor]
"""z (*chains, D) and noise to the same z with one block drawn anew given the others."""
SHORTENED = 0.8
"""The share by which a step of `hamiltonian` is shortened at most. Without it, on Gaussians of 1 to
10 dimensions, squares of z were worth one draw in a hundred, or fewer; with it one in 3 to 5."""


ACCEPTANCE = 0.9
"""Of the steps of `hamiltonian`. At 0.8 some chains did not get into the tails of curved posteriors
of images, and their draws were worth less."""


class Point(NamedTuple):
    """Where each chain of `Metropolis` stands, and how probable its place is.

    Shapes: z (*chains, D), log_density (*chains). Units: nats.
    Example:
        >>> walk = Metropolis(lambda z: -0.5 * z.square().sum(-1))
        >>> walk.init(torch.tensor([[3.0, 4.0]])).log_density
        tensor([-12.5000])
    """

    z: Tensor
    log_density: Tensor


class State(NamedTuple):
    """Where each chain of `HMC` stands, how probable its place is, and what pulls it.

    Shapes: z (*chains, D), log_density (*chains), gradient, of log pi(z), (*chains, D).
    Units: nats.
    Example:
        >>> hmc = HMC(lambda z: -0.5 * z.square().sum(-1))
        >>> hmc.init(torch.tensor([[3.0, 4.0]])).gradient
        tensor([[-3., -4.]])
    """

    z: Tensor
    log_density: Tensor
    gradient: Tensor


@dataclass(frozen=True)
class HMC:
    """Hamiltonian Monte Carlo: leaves pi invariant, whatever the step size.

    Shapes: `log_density` takes z (*chains, D) to (*chains), each chain by itself; it need not be
    normalized. Units: nats.
    Errors: UsageError for a log-density that does not give one number for each chain.
    Source: Duane et al. (1987); Neal (2011), "MCMC using Hamiltonian dynamics", section 3.
    Example:
        >>> hmc = HMC(lambda z: -0.5 * z.square().sum(-1))
        >>> state = hmc.init(torch.zeros(3, 2))
        >>> state, chance = hmc.step(state, torch.ones(3, 2), torch.zeros(3), torch.full((3,), 0.1))
        >>> bool((chance > 0.99).all()), state.z.shape
        (True, torch.Size([3, 2]))
    """

    log_density: LogDensity
    leapfrogs: int = 5

    def init(self, z: Tensor) -> State:
        """The state of chains that begin at z."""

        def total(z: Tensor) -> tuple[Tensor, Tensor]:
            value = _of_each(self.log_density, z)
            return value.sum(), value

        # Of torch.func, which a compiled step can be traced through.
        gradient, (_, value) = grad_and_value(total, has_aux=True)(z.detach())
        return State(z.detach(), value.detach(), gradient)

    def step(
        self, state: State, momentum: Tensor, chance: Tensor, step_size: Tensor
    ) -> tuple[State, Tensor]:
        """One proposal for each chain, taken or not, and the probability of taking it.

        Shapes: momentum (*chains, D), draws of N(0, I); chance (*chains), draws of U(0, 1);
        step_size (*chains), or (*chains, D) with one for each coordinate: e s_d moves z as e moves
        u where z_d = s_d u_d, a diagonal metric. Its axes may have length 1.
        """
        end, last = self.leapfrog(state, momentum, step_size)
        energy = 0.5 * momentum.square().sum(-1) - state.log_density
        change = energy - 0.5 * last.square().sum(-1) + end.log_density
        probability = _probability(change)
        moved = _choose(chance < probability, end, state)
        return State(*moved), probability

    def leapfrog(self, state: State, momentum: Tensor, step_size: Tensor) -> tuple[State, Tensor]:
        """The end of the trajectory and its momentum: reversible, and it preserves volume."""
        e = _by_coordinate(step_size, state.z)
        for _ in range(self.leapfrogs):
            momentum = momentum + 0.5 * e * state.gradient
            z = state.z + e * momentum
            # No density is asked of what is no number; the momentum tells that it will be refused.
            known = z.isfinite()
            momentum = torch.where(known, momentum, math.nan)
            state = self.init(torch.where(known, z, state.z))
            momentum = momentum + 0.5 * e * state.gradient
        return state, momentum


@dataclass(frozen=True)
class Metropolis:
    """Random-walk Metropolis: leaves pi invariant, and asks for no gradient.

    Shapes: `log_density` as in `HMC`. Units: nats. Errors: as of `HMC`.
    Source: Metropolis et al. (1953), "Equation of state calculations by fast computing machines".
    Example:
        >>> walk = Metropolis(lambda z: -0.5 * z.square().sum(-1))
        >>> point = walk.init(torch.zeros(3, 2))
        >>> point, chance = walk.step(point, torch.ones(3, 2), torch.zeros(3), torch.ones(3))
        >>> point.z[0], chance[0]
        (tensor([1., 1.]), tensor(0.3679))
    """

    log_density: LogDensity

    def init(self, z: Tensor) -> Point:
        """The point of chains that begin at z."""
        return Point(z, _of_each(self.log_density, z))

    def step(
        self, point: Point, noise: Tensor, chance: Tensor, scale: Tensor
    ) -> tuple[Point, Tensor]:
        """One proposal for each chain, taken or not, and the probability of taking it.

        Shapes: noise (*chains, D), draws of any law that is symmetric about 0; chance (*chains),
        draws of U(0, 1); scale (*chains), or (*chains, D) with one for each coordinate.
        """
        end = self.init(point.z + _by_coordinate(scale, point.z) * noise)
        probability = _probability(end.log_density - point.log_density)
        return Point(*_choose(chance < probability, end, point)), probability


@dataclass(frozen=True)
class Gibbs:
    """Gibbs sampling: every block of z in turn from its law given the rest; always taken.

    Shapes: each of `conditionals` takes z (*chains, D) and its noise to z with one block, which is
    its own choice, replaced by g(noise, rest): for a law of this project, by its `transform`.
    Errors: ValueError for another number of tensors of noise than there are blocks.
    Source: Geman & Geman (1984), "Stochastic relaxation, Gibbs distributions, and the Bayesian
    restoration of images".
    Example:
        >>> first = lambda z, e: torch.stack([0.5 * z[..., 1] + e, z[..., 1]], -1)
        >>> second = lambda z, e: torch.stack([z[..., 0], 0.5 * z[..., 0] + e], -1)
        >>> gibbs = Gibbs([first, second])
        >>> gibbs.step(gibbs.init(torch.zeros(3, 2)), [torch.ones(3), torch.zeros(3)])[0]
        tensor([1.0000, 0.5000])
    """

    conditionals: Sequence[Conditional]

    def init(self, z: Tensor) -> Tensor:
        """The state of chains that begin at z: z itself."""
        return z

    def step(self, z: Tensor, noise: Sequence[Tensor]) -> Tensor:
        """Each block drawn once, in their order; as many tensors of noise as there are blocks."""
        for draw, e in zip(self.conditionals, noise, strict=True):
            z = draw(z, e)
        return z


class StepSize(NamedTuple):
    """A step size on its way, in the letters of `DualAveraging`.

        center = log(10 e_1), shortfall = h_t, log_size = log e_(t+1), log_averaged = log e'_(t+1)

    Shapes: all tensors (*shape); t counts the steps.
    Example:
        >>> size = DualAveraging().init(torch.tensor(0.1))
        >>> for _ in range(20):  # every proposal is refused
        ...     size = DualAveraging().step(size, torch.tensor(0.0))
        >>> bool(size.now < 0.1)
        True
    """

    center: Tensor
    shortfall: Tensor
    log_size: Tensor
    log_averaged: Tensor
    t: int

    @property
    def now(self) -> Tensor:
        """The size to try next."""
        return self.log_size.exp()

    @property
    def averaged(self) -> Tensor:
        """The size to keep once burning in is over."""
        return self.log_averaged.exp()


@dataclass(frozen=True)
class DualAveraging:
    """The step size with a wanted mean acceptance: a hundred times too large or small is no harm.

        h_t = (1 - 1 / (t + 10)) h_{t-1} + (target - a_t) / (t + 10),   a_t the acceptance
        log e_{t+1} = log(10 e_1) - sqrt(t) h_t / 0.1
        log e'_{t+1} = t^(-3/4) log e_{t+1} + (1 - t^(-3/4)) log e'_t

    Shapes: sizes and acceptance (*shape), each element by itself: one for each chain, or one for
    many, where the caller averages their acceptance. Some 50 to 100 steps are enough.
    Source: Hoffman & Gelman (2014), "The No-U-Turn Sampler", section 3.2.1; their 0.05 for 0.1
    makes steps swing more, and their mean too small: an acceptance of 0.9 where 0.8 was asked.
    Example:
        >>> search = DualAveraging()
        >>> size = search.init(torch.ones(()))
        >>> for _ in range(100):
        ...     size = search.step(size, 1 / (1 + size.now))  # acceptance 0.8 at 1/4
        >>> abs(float(size.averaged) - 0.25) < 0.03
        True
    """

    target: float = 0.8

    def init(self, step_size: Tensor) -> StepSize:
        """The beginning: the size given is tried first."""
        log_size = step_size.log()
        return StepSize(log_size + math.log(10), 0 * log_size, log_size, log_size, 0)

    def step(self, size: StepSize, acceptance: Tensor) -> StepSize:
        """The sizes after the acceptance found with `size.now`."""
        t = size.t + 1
        share, weight = 1 / (t + 10), t**-0.75
        shortfall = (1 - share) * size.shortfall + share * (self.target - acceptance)
        log_size = size.center - math.sqrt(t) / 0.1 * shortfall
        averaged = weight * log_size + (1 - weight) * size.log_averaged
        return StepSize(size.center, shortfall, log_size, averaged, t)


class StepNoise(NamedTuple):
    """What one step of `hamiltonian` takes of the randomness of C chains for each datum.

    Momentum from N(0, I); chance, whether to accept, and shorten, the step, from U(0, 1).
    Shapes: momentum (C, *data, D), the others (C, *data).
    Example:
        >>> from aevb.randomness import Stream, generator
        >>> noise = StepNoise.draw(generator(0, Stream.CHAINS, 0), torch.zeros(4, 3, 2))
        >>> noise.momentum.shape, noise.chance.shape
        (torch.Size([4, 3, 2]), torch.Size([4, 3]))
    """

    momentum: Tensor
    chance: Tensor
    shorten: Tensor

    @classmethod
    def draw(cls, source: np.random.Generator, like: Tensor) -> "StepNoise":
        """That of chains at places (C, *data, D)."""
        shape, dtype = like.shape, like.dtype
        uniforms = (uniform(source, shape[:-1], dtype) for _ in range(2))
        return cls(normal(source, shape, dtype), *uniforms)


def _of_each(log_density: LogDensity, z: Tensor) -> Tensor:
    """The density of each chain; UsageError for one that mixes them, which would move as one."""
    value = log_density(z)
    if value.shape != z.shape[:-1]:
        raise UsageError(
            f"a log-density must give one number for each chain, of shape {tuple(z.shape[:-1])} "
            f"for places of shape {tuple(z.shape)}, found {tuple(value.shape)}: sum over the last "
            "axis alone"
        )
    return value


def hamiltonian(
    hmc: HMC,
    start: Tensor,
    noise: Callable[[int], StepNoise],
    *,
    burn_in: int,
    steps: int,
    scale: Tensor,
) -> Iterator[tuple[State, Tensor]]:
    """Hamiltonian chains, C for each datum: every state after burning in, and its acceptance.

    The step size of a datum, in units of `scale`, is found while burning in, from all its chains
    together, and stays. Each step is shortened by up to 80 % at random: a trajectory of fixed
    length may come back, again and again, to where it began, or opposite.
    Shapes: start (C, *data, D); `noise` of step t = 0, 1, ...; scale, which broadcasts to start,
    deviations to be expected; yields `steps` times a state and the probabilities (C, *data).
    Units: nats, of densities; scale in those of z.
    Errors: as of `HMC`.
    Source: Neal (2011), "MCMC using Hamiltonian dynamics", section 3.2, for steps at random.
    Example:
        >>> from aevb.randomness import Stream, generator
        >>> hmc, start = HMC(lambda z: -0.5 * (z - 3).square().sum(-1)), torch.zeros(4, 2)
        >>> def noise(t):
        ...     return StepNoise.draw(generator(0, Stream.CHAINS, t), start)
        >>> walk = hamiltonian(hmc, start, noise, burn_in=30, steps=60, scale=torch.ones(2))
        >>> draws = torch.stack([state.z for state, _ in walk])  # (60, 4, 2)
        >>> bool(((draws.mean((0, 1)) - 3).abs() < 0.3).all())
        True
    """
    search = DualAveraging(ACCEPTANCE)
    size = search.init(start.new_full(start.shape[1:-1], 0.5))
    state = hmc.init(start)
    for t in range(burn_in + steps):
        momentum, chance, shorten = noise(t)
        step_size = _rounded(size.log_size if t < burn_in else size.log_averaged)
        step_size = step_size * (1 - SHORTENED * shorten)
        state, probability = hmc.step(state, momentum, chance, step_size.unsqueeze(-1) * scale)
        if t < burn_in:
            size = search.step(size, probability.mean(0))
        else:
            yield state, probability


def _rounded(log_size: Tensor) -> Tensor:
    """The size to the next eighth of an octave.

    The search multiplies what it is told: two chains that differ by rounding errors would soon have
    different steps, and part.
    """
    return 2.0 ** ((log_size * (8 / math.log(2))).round() / 8)


def r_hat(draws: Tensor) -> Tensor:
    """Whether chains agree: about 1 where they do; above 1.01, or 1.05, they have not mixed.

        sqrt((W (T - 1) / T + B) / W),  W the mean variance within chains, B that of their means,
        over halves of chains, draws replaced by the normal quantiles of their ranks;
        the larger of two: of the draws, and of their distances to the median

    Shapes: draws (T, C, ...), T steps of C chains; the result (...) in float64. Infinity where no
    half of a chain moves at all.
    Errors: UsageError for fewer than 4 steps.
    Source: Vehtari et al. (2021), "Rank-normalization, folding, and localization".
    Example:
        >>> from aevb.randomness import Stream, generator, normal
        >>> draws = normal(generator(0, Stream.CHAINS), (500, 4))
        >>> shift = torch.tensor([0, 0, 0, 2.0])
        >>> bool(r_hat(draws) < 1.01), bool(r_hat(draws + shift) > 1.1)
        (True, True)
    """
    halves = _halves(draws)
    folded = (halves - halves.flatten(0, 1).median(0).values).abs()
    return torch.maximum(_reduction(_ranked(halves)), _reduction(_ranked(folded)))


def effective_sample_size(draws: Tensor, *, ranked: bool = True) -> Tensor:
    """How many independent draws the draws of chains are worth.

        T C / (1 + 2 sum_t rho_t),   rho_t from all chains, cut where pairs of them cease to be
        positive, and made to fall: Geyer's initial monotone sequence

    Of the ranks of the draws, which have a variance in every case ("bulk"); with `ranked` false of
    the draws themselves: the error of their mean is sd / sqrt(this).
    Shapes: draws (T, C, ...); the result (...) in float64, at most T C log10(T C). 1 where nothing
    moves.
    Errors: UsageError for fewer than 4 steps.
    Source: Geyer (1992), "Practical Markov chain Monte Carlo"; Vehtari et al. (2021), section 3.2.
    Example:
        >>> from aevb.randomness import Stream, generator, normal
        >>> draws = normal(generator(0, Stream.CHAINS), (500, 4))
        >>> 1500 < float(effective_sample_size(draws)) < 2500
        True
    """
    halves = _ranked(_halves(draws)) if ranked else _halves(draws)
    t, chains = halves.shape[:2]
    covariance = _autocovariance(halves).mean(1)
    within = covariance[0] * t / (t - 1)
    total = covariance[0] + halves.mean(0).var(0)
    rho = 1 - (within - covariance) / total
    rho[0] = 1.0
    pairs = rho[: t - t % 2].unflatten(0, (-1, 2)).sum(1)
    positive = (pairs > 0).cumprod(0)
    time = 2 * (pairs.cummin(0).values * positive).sum(0) - 1
    size = t * chains / time.clamp_min(1 / math.log10(t * chains))
    return torch.where((halves == halves[0, 0]).flatten(0, 1).all(0), 1.0, size)


def _halves(draws: Tensor) -> Tensor:
    """Each chain as two, (T / 2, 2 C, ...) in float64, without the middle step where T is odd."""
    at_least(4, len(draws), "the number of steps")
    half = len(draws) // 2
    return torch.cat([draws[:half], draws[-half:]], dim=1).double()


def _ranked(draws: Tensor) -> Tensor:
    """The normal quantiles of the ranks among all T C draws; equal draws share their mean rank."""
    flat = draws.flatten(0, 1).movedim(0, -1).contiguous()
    ordered = flat.sort(-1).values
    rank = torch.searchsorted(ordered, flat) + torch.searchsorted(ordered, flat, right=True)
    share = ((rank.double() + 1) / 2 - 3 / 8) / (flat.shape[-1] + 1 / 4)
    normal: Tensor = torch.special.ndtri(share)
    normal = torch.where(flat.isnan(), math.nan, normal)
    return normal.movedim(-1, 0).reshape(draws.shape)


def _reduction(draws: Tensor) -> Tensor:
    """By how much the spread of all draws exceeds that within chains, (...)."""
    t = len(draws)
    within = draws.var(0).mean(0)
    ratio = (t - 1) / t + draws.mean(0).var(0) / within
    return torch.where(within == 0, math.inf, ratio).sqrt()


def _autocovariance(draws: Tensor) -> Tensor:
    """sum_s (y_s - mean)(y_{s+t} - mean) / T of each chain for t = 0, ..., T - 1: (T, C, ...)."""
    t = len(draws)
    spectrum = torch.fft.rfft(draws - draws.mean(0), n=2 * t, dim=0)
    power = spectrum.real.square() + spectrum.imag.square()
    covariance: Tensor = torch.fft.irfft(power, n=2 * t, dim=0)[:t] / t
    return covariance


def _by_coordinate(size: Tensor, z: Tensor) -> Tensor:
    """Sizes as they multiply z (*chains, D): those of whole chains get an axis more."""
    return size if size.ndim == z.ndim else size.unsqueeze(-1)


def _probability(change: Tensor) -> Tensor:
    """min(1, exp(change)); a proposal that fell off the map has no density, and is refused."""
    return change.nan_to_num(nan=-torch.inf).clamp_max(0).exp()


def _choose(taken: Tensor, new: Sequence[Tensor], old: Sequence[Tensor]) -> list[Tensor]:
    """The new tensors where a chain takes its proposal, the old ones elsewhere."""

    def like(tensor: Tensor) -> Tensor:
        return taken.reshape(taken.shape + (1,) * (tensor.ndim - taken.ndim))

    return [torch.where(like(a), a, b) for a, b in zip(new, old, strict=True)]

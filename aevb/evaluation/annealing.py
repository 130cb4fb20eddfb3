"""Annealed importance sampling of log p(x), from both sides.

    f_t(z) = r(z)^(1 - b_t) p(x, z)^(b_t),   0 = b_0 < b_1 < ... < b_T = 1

forward   z_0 ~ r, then z_t from a transition that leaves f_t invariant;
          w = prod_t f_t(z_{t-1}) / f_{t-1}(z_{t-1}),             E[w] = p(x): log w from below
reverse   z_{T-1} ~ p(z given x), the same transitions from t = T - 1 down to 1;
          1 / w = prod_t f_{t-1}(z_{t-1}) / f_t(z_{t-1}),         E[1 / w] = 1 / p(x): from above

The start r is the prior or the encoder. The transitions are Hamiltonian, in units of the deviations
of r; their step sizes are found by chains of their own, so that the weights stay unbiased.
Exact draws of z given x are at hand where x was drawn from the model itself: there both directions
bracket log p(x), and their distance bounds the error of the method on this model.
"""

import math
from collections import namedtuple
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.distributions import Distribution

from aevb.data import Rows
from aevb.devices import sent
from aevb.distributions.reparameterization import route
from aevb.errors import at_least
from aevb.evaluation.batches import batch_for, evaluating, judging, rows_at_once
from aevb.evaluation.certificate import Certificate, precision_of, require_reals
from aevb.evaluation.chunks import Array, Kept, Progress, by_chunks
from aevb.evaluation.weights import Weighted, Weights
from aevb.mcmc import HMC, State
from aevb.model import Model
from aevb.posterior import Posterior
from aevb.randomness import Stream, by_row, generator, normal, torch_seeded, uniform

TARGET = 0.65
"""The acceptance that a step size is tuned to (Beskos et al. 2013: best for many dimensions)."""
PILOTS = 4
"""Chains that tune the step sizes of a datum."""
GAIN = 0.5
FIRST_STEP = 0.2
"""In deviations of r; the next ones follow from it."""
STEEPNESS = 4.0


@dataclass(frozen=True)
class Annealing:
    """The way from r to p(x, z): T temperatures, and the leapfrog steps of each transition.

    Errors: UsageError for less than 2 temperatures, or no leapfrog steps.
    Source: Neal (2001), "Annealed importance sampling"; Neal (2011), "MCMC using Hamiltonian
    dynamics", for the steps.
    Example:
        >>> [round(b, 3) for b in Annealing(temperatures=4).schedule()]
        [0.0, 0.105, 0.5, 0.895, 1.0]
    """

    temperatures: int = 100
    leapfrogs: int = 5

    def __post_init__(self) -> None:
        at_least(2, self.temperatures, "the number of temperatures")
        at_least(1, self.leapfrogs, "the number of leapfrog steps")

    def schedule(self) -> list[float]:
        """b_0 = 0 to b_T = 1, close together at both ends, (T + 1,).

            b_t = (s_t - s_0) / (s_T - s_0),   s_t = 1 / (1 + exp(-4 (2 t / T - 1)))

        Source: Wu et al. (2017), "On the quantitative analysis of decoder-based generative
        models".
        """
        t = np.linspace(-1.0, 1.0, self.temperatures + 1)
        s = 1 / (1 + np.exp(-STEEPNESS * t))
        return [float(b) for b in (s - s[0]) / (s[-1] - s[0])]


def annealed(
    model: Model,
    start: Posterior,
    rows: Rows,
    samples: int = 16,
    annealing: Annealing = Annealing(),
    *,
    seed: int = 0,
    kept: Kept | None = None,
    progress: Progress | None = None,
) -> Certificate:
    """Estimate log p(x) of every row from below by annealed importance sampling.

        log p^(x) = logsumexp_k log w_k - log K

    `start` says where chains begin: r, an encoder or the prior, `FromPrior(model.prior)`.
    Shapes: N rows, K = `samples` chains each, T - 1 transitions a chain. Units: nats per datum.
    Errors: UsageError for K < 1 or codes that are not free real numbers; DataError for rows outside
    the likelihood's domain.
    Source: Neal (2001), "Annealed importance sampling"; Wu et al. (2017).
    Example:
        >>> import aevb
        >>> digits = aevb.data.load("digits").test.limit(2)
        >>> decoder = aevb.MLP(2, [8], 64)
        >>> model = aevb.Model(aevb.standard_normal(2), aevb.continuous_bernoulli(decoder))
        >>> encoder = aevb.mean_field(aevb.MLP(64, [8], 4))
        >>> annealed(model, encoder, digits, 4, Annealing(temperatures=5)).direction
        'lower'
    """
    how = samples, annealing, seed, kept, progress
    return _certified("ais", model, start, rows, None, *how)[0]


def bidirectional(
    model: Model,
    start: Posterior,
    rows: Rows,
    codes: NDArray[np.float64],
    samples: int = 16,
    annealing: Annealing = Annealing(),
    *,
    seed: int = 0,
    kept: Kept | None = None,
    progress: Progress | None = None,
) -> tuple[Certificate, Certificate]:
    """Bracket log p(x) of rows drawn from the model with the codes (N, D) they were drawn from.

    Lower and upper bound: in the mean log p(x) lies between them, so that on rows that the model
    made their distance is at least the error of annealed importance sampling. The chains of the
    upper bound of a datum all begin at its code: its `errors` are those of the chains alone, its
    `standard_error` is of all.
    Shapes: N rows, a code (D,) for each, K = `samples` chains each in either direction.
    Units: nats per datum. Errors: as `annealed`.
    Source: Grosse et al. (2015), "Sandwiching the marginal likelihood using bidirectional Monte
    Carlo"; Wu et al. (2017).
    Example:
        >>> import aevb
        >>> decoder = aevb.MLP(2, [8], 64)
        >>> model = aevb.Model(aevb.standard_normal(2), aevb.bernoulli(decoder))
        >>> z, x = simulate(model, 3)
        >>> encoder = aevb.mean_field(aevb.MLP(64, [8], 4))
        >>> lower, upper = bidirectional(model, encoder, x, z, 4, Annealing(temperatures=5))
        >>> lower.mean < upper.mean + 1
        True
    """
    how = samples, annealing, seed, kept, progress
    lower, upper = _certified("bidirectional", model, start, rows, codes, *how)
    return lower, upper


def simulate(model: Model, n: int, *, seed: int = 0) -> tuple[Array, Rows]:
    """n draws of z and of x given z: codes, and rows with their number.

        z_n ~ p(z),  x_n ~ p(x given z_n)

    Each x is a draw of the model, and its z an exact draw of the posterior of z given this x.
    Shapes: codes (n, D), float64; n rows of shape X.
    Errors: UsageError for n < 1.
    Source: Grosse et al. (2015), for data whose exact codes are at hand.
    Example:
        >>> import aevb
        >>> decoder = aevb.MLP(2, [8], 64)
        >>> model = aevb.Model(aevb.standard_normal(2), aevb.bernoulli(decoder))
        >>> len(simulate(model, 3)[1])
        3
    """
    at_least(1, n, "the number of simulated rows")
    with evaluating(model):
        z = model.sample_prior(n, generator(seed, Stream.SIMULATION))
        with torch_seeded(generator(seed, Stream.SIMULATION, 1), z.device):
            parts = [model.likelihood(part).sample() for part in z.split(1000)]
    x = torch.cat(parts).cpu().numpy()
    return z.double().cpu().numpy(), Rows(x, np.arange(n), x.shape[1:], name="simulated")


_Walked = namedtuple("_Walked", "value error ess pareto_k acceptance")
"""What the chains of each datum say in one direction."""


def _certified(
    method: str,
    model: Model,
    start: Posterior,
    rows: Rows,
    codes: Array | None,
    samples: int,
    annealing: Annealing,
    seed: int,
    kept: Kept | None,
    progress: Progress | None,
) -> list[Certificate]:
    """From below and, where exact codes are given, from above."""
    at_least(1, samples, "the number of samples")
    require_reals(model, method)

    def work(positions: NDArray[np.int64], x: Tensor) -> list[Tensor]:
        batch = batch_for(model, x, positions)
        named = partial(by_row, seed, Stream.ANNEALING, positions)
        chunk = _Chunk(model, batch.x, start(batch), annealing, named)
        walked = [chunk.forward(samples)]
        if codes is not None:
            walked.append(chunk.reverse(torch.from_numpy(codes[positions]).to(batch.x), samples))
        return [column for columns in walked for column in columns]

    size, width = rows_at_once(model, rows, max(samples, PILOTS)), len(_Walked._fields)
    sides = ("lower",) if codes is None else ("lower", "upper")
    with judging(model, start):
        table, observed = by_chunks(
            model, rows, size, len(sides) * width, work, kept=kept, progress=progress
        )
    found = []
    for i, side in enumerate(sides):
        columns = _Walked(*table[i * width : (i + 1) * width])
        details = {**asdict(annealing), "acceptance": float(columns.acceptance.mean())}
        facts = {"precision": precision_of(model), "details": details}
        about = {"method": method, "direction": side, "samples": samples}
        found.append(Certificate.of(Weighted(*columns[:4]), rows, observed, **about, **facts))
    return found


class _Chunk:
    """The chains of some data x (M, X), between r and log p(x, z).

    z is (K, M, D), weights (K, M); an acceptance is the mean of each datum, (M,). `named(draw, t,
    part)` is what `draw` makes for each datum, side by side along the second axis.
    """

    def __init__(
        self,
        model: Model,
        x: Tensor,
        r: Distribution,
        annealing: Annealing,
        named: Callable[..., Tensor],
    ) -> None:
        self.model, self.x, self.r, self.named = model, x, r, named
        self.betas = annealing.schedule()
        self.scale = _deviations(r).to(x)
        self.beta = 0.0
        self.hmc = HMC(self._log_density, annealing.leapfrogs)
        self.step_sizes = self._tuned()

    def forward(self, chains: int) -> _Walked:
        """By log w of chains that begin at draws of r."""
        log_w, acceptance = self._walk(self._start(chains, _FORWARD), self.betas, _FORWARD)
        return _Walked(*Weights.of(log_w).summary(), acceptance)

    def reverse(self, z: Tensor, chains: int) -> _Walked:
        """By log(1 / w) of chains that begin at an exact draw (M, D) of z given x."""
        z = z.expand(chains, *z.shape)
        log_w, acceptance = self._walk(z, self.betas[::-1], _REVERSE)
        found = Weights.of(log_w).summary()  # of log 1 / p(x)
        return _Walked(-found.value, found.error, found.ess, found.pareto_k, acceptance)

    def _log_density(self, z: Tensor) -> Tensor:
        """log f_t(z), (K, M)."""
        log_r = self.r.log_prob(z)
        if not self.beta:  # where p(x, z) is zero too
            return log_r
        return log_r + self.beta * (self.model.log_joint(self.x, z) - log_r)

    def _at(self, z: Tensor, beta: float) -> State:
        self.beta = beta
        return self.hmc.init(z)

    def _walk(self, z: Tensor, betas: list[float], part: int) -> tuple[Tensor, Tensor]:
        """The sum of log f_{t+1}(z_t) - log f_t(z_t) along the way, transitions between them."""
        last = len(betas) - 1
        sizes = self.step_sizes if part == _FORWARD else self.step_sizes.flip(0)
        state = self._at(z, betas[0])
        log_w = torch.zeros(z.shape[:-1], dtype=torch.float64, device=z.device)
        accepted = torch.zeros(len(self.x), dtype=torch.float64, device=z.device)
        for t in range(1, last + 1):
            before = state.log_density
            state = self._at(state.z, betas[t])
            change = state.log_density.double() - before.double()
            log_w += change.masked_fill(before.isneginf(), -math.inf)
            if t < last:
                state, chance = self._move(state, sizes[t - 1], t, part)
                accepted += chance.mean(0)
        return log_w, accepted / (last - 1)

    def _move(self, state: State, size: Tensor, t: int, part: int) -> tuple[State, Tensor]:
        momentum, chance = self._noise(state.z, t, part)
        sizes = (size.unsqueeze(-1) * self.scale).expand_as(state.z)
        return self.hmc.step(state, momentum, chance, sizes)

    def _tuned(self) -> Tensor:
        """A step size for each temperature between the ends and each datum, (T - 1, M).

        They follow the acceptance of a few chains, which then are thrown away: chosen by the
        chains that carry the weights, they would bias these.
        """
        state = self._at(self._start(PILOTS, _PILOT), 0.0)
        size = self.x.new_full((len(self.x),), FIRST_STEP)
        sizes = []
        for t, beta in enumerate(self.betas[1:-1], start=1):
            sizes.append(size)
            state, chance = self._move(self._at(state.z, beta), size, t, _PILOT)
            size = size * torch.exp(GAIN * (chance.mean(0) - TARGET))
        return torch.stack(sizes)

    def _start(self, chains: int, part: int) -> Tensor:
        """Draws of r, (chains, M, D)."""
        way = route(self.r)
        noise = self.named(lambda source: way.noise.draw(source, (chains,), self.x.dtype), 0, part)
        return way.transform(sent(noise, self.x.device))

    def _noise(self, z: Tensor, t: int, part: int) -> tuple[Tensor, Tensor]:
        """Momenta (K, M, D) and the uniform numbers (K, M) that decide, of temperature t."""
        chains, _, size = z.shape

        def draw(source: np.random.Generator) -> Tensor:
            momentum = normal(source, (chains, size), z.dtype)
            return torch.cat([momentum, uniform(source, (chains, 1), z.dtype)], dim=1)

        both = sent(self.named(draw, t, part), self.x.device)
        return both[..., :-1], both[..., -1]


_FORWARD, _REVERSE, _PILOT = range(3)


def _deviations(r: Distribution) -> Tensor:
    """The deviations of r, which are the units of the transitions; 1 where it has no formula."""
    try:
        deviation = r.stddev
    except NotImplementedError:
        return torch.ones(r.batch_shape + r.event_shape)
    return torch.where(torch.isfinite(deviation) & (deviation > 0), deviation, 1.0)

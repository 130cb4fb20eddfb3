"""Annealed importance sampling of log p(x), from both sides.

    f_t(z) = r(z)^(1 - b_t) p(x, z)^(b_t),   0 = b_0 < b_1 < ... < b_T = 1

forward   z_0 ~ r, then z_t from a transition that leaves f_t invariant;
          w = prod_t f_t(z_{t-1}) / f_{t-1}(z_{t-1}),             E[w] = p(x): log w from below
reverse   z_T ~ p(z given x), then the same transitions from t = T - 1 down to 1;
          1 / w = prod_t f_{t-1}(z_{t-1}) / f_t(z_{t-1}),         E[1 / w] = 1 / p(x): from above

The start r is the prior or the encoder. The transitions are Hamiltonian, in units of the deviations
of r; their step sizes are found by chains of their own, so that the weights stay unbiased.
Exact draws of z given x are at hand where x was drawn from the model itself: there both directions
bracket log p(x), and their distance is the error of the method on this model.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.distributions import Distribution

from aevb.data import Rows
from aevb.devices import full_float32, sent, tensor_of
from aevb.distributions import route
from aevb.distributions.summary import on_reals
from aevb.errors import UsageError
from aevb.evaluation.batches import CELLS_AT_ONCE, batch_for, evaluating
from aevb.evaluation.certificate import Certificate, precision_of, treatment
from aevb.evaluation.chunks import Kept, Progress, by_chunks
from aevb.evaluation.pareto import largest, tail_shape
from aevb.evaluation.weights import log_mean_of
from aevb.machine import kept_memory
from aevb.mcmc import HMC, State
from aevb.model import Model
from aevb.posterior import Batch, FromPrior, Posterior
from aevb.randomness import (
    Stream,
    generator,
    normal,
    rewind,
    seed_torch,
    torch_kept,
    uniform,
)

Array = NDArray[np.float64]

TARGET = 0.65
"""The acceptance that a step size is tuned to (Beskos et al. 2013: best for many dimensions)."""
PILOTS = 4
"""Chains that tune the step sizes of a datum."""
GAIN = 0.5
FIRST_STEP = 0.2
"""In deviations of r; the next ones follow from it."""
STEEPNESS = 4.0
COLUMNS = 5
"""Of `_Chunk.summary`."""


@dataclass(frozen=True)
class Annealing:
    """The way from r to p(x, z): T temperatures, from the encoder or the prior.

    Errors: UsageError for less than 2 temperatures, or no leapfrog steps.
    Example:
        >>> [round(b, 3) for b in Annealing(temperatures=4).schedule()]
        [0.0, 0.105, 0.5, 0.895, 1.0]
    """

    temperatures: int = 100
    start: Literal["encoder", "prior"] = "encoder"
    leapfrogs: int = 5

    def __post_init__(self) -> None:
        if self.temperatures < 2:
            raise UsageError(f"annealing takes at least 2 temperatures, found {self.temperatures}")
        if self.leapfrogs < 1:
            raise UsageError(f"annealing takes at least 1 leapfrog step, found {self.leapfrogs}")

    def schedule(self) -> list[float]:
        """b_0 = 0 to b_T = 1, close together at both ends, (T + 1,).

            b_t = (s_t - s_0) / (s_T - s_0),   s_t = 1 / (1 + exp(-4 (2 t / T - 1)))

        Source: Wu et al. (2017), "On the quantitative analysis of decoder-based generative
        models".
        """
        t = np.linspace(-1.0, 1.0, self.temperatures + 1)
        s = 1 / (1 + np.exp(-STEEPNESS * t))
        return [float(b) for b in (s - s[0]) / (s[-1] - s[0])]

    def law(self, model: Model, posterior: Posterior, batch: Batch) -> Distribution:
        """r for each datum of a batch."""
        start = posterior if self.start == "encoder" else FromPrior(model.prior)
        r: Distribution = start(batch)
        return r


def annealed(
    model: Model,
    posterior: Posterior,
    rows: Rows,
    samples: int = 16,
    annealing: Annealing = Annealing(),
    *,
    seed: int = 0,
    data: str = "data",
    kept: Kept | None = None,
    progress: Progress | None = None,
) -> Certificate:
    """Estimate log p(x) of every row from below by annealed importance sampling.

        log p^(x) = logsumexp_k log w_k - log K

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
    walks = _Walks(model, posterior, annealing, samples, seed)

    def work(chunk: _Chunk, positions: NDArray[np.int64]) -> list[Tensor]:
        return chunk.summary(*chunk.forward())

    columns, width = walks.over(rows, COLUMNS, work, kept, progress)
    return walks.certificate("ais", "lower", columns, rows, (width, data))


def bidirectional(
    model: Model,
    posterior: Posterior,
    rows: Rows,
    codes: NDArray[np.float64],
    samples: int = 16,
    annealing: Annealing = Annealing(),
    *,
    seed: int = 0,
    data: str = "simulated",
    kept: Kept | None = None,
    progress: Progress | None = None,
) -> tuple[Certificate, Certificate]:
    """Bracket log p(x) of rows drawn from the model with the codes (N, D) they were drawn from.

    Lower and upper bound: on rows that the model made, their distance is at most the error of
    annealed importance sampling, and so bounds it in the mean.
    Shapes, units, errors as `annealed`. The chains of the upper bound of a datum all begin at its
    code: its `errors` are those of the chains alone, its `standard_error` is of all.
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
    walks = _Walks(model, posterior, annealing, samples, seed)

    def work(chunk: _Chunk, positions: NDArray[np.int64]) -> list[Tensor]:
        z = torch.from_numpy(codes[positions]).to(chunk.x)
        value, *others = chunk.summary(*chunk.reverse(z))  # of log 1 / p(x)
        return [*chunk.summary(*chunk.forward()), -value, *others]

    columns, width = walks.over(rows, 2 * COLUMNS, work, kept, progress)
    about = width, data
    lower = walks.certificate("bidirectional", "lower", columns[:COLUMNS], rows, about)
    return lower, walks.certificate("bidirectional", "upper", columns[COLUMNS:], rows, about)


def simulate(model: Model, n: int, *, seed: int = 0) -> tuple[Array, Rows]:
    """n draws of z and of x given z: codes (n, D), and rows with their number.

    Each x is a draw of the model, and its z an exact draw of the posterior of z given this x.
    Errors: UsageError for n < 1.
    Example:
        >>> import aevb
        >>> decoder = aevb.MLP(2, [8], 64)
        >>> model = aevb.Model(aevb.standard_normal(2), aevb.bernoulli(decoder))
        >>> len(simulate(model, 3)[1])
        3
    """
    if n < 1:
        raise UsageError(f"the number of simulated rows must be at least 1, found {n}")
    device = tensor_of(model).device
    with evaluating(model), torch_kept(device):
        z = model.sample_prior(n, generator(seed, Stream.SIMULATION))
        seed_torch(int(generator(seed, Stream.SIMULATION, 1).integers(2**63)), device)
        parts = [model.likelihood(part).sample() for part in z.split(1000)]
    x = torch.cat(parts).cpu().numpy()
    return z.double().cpu().numpy(), Rows(x, np.arange(n), x.shape[1:])


@dataclass(frozen=True)
class _Walks:
    """The chains of all data, K for each; a datum's noise is a function of (seed, row, t)."""

    model: Model
    posterior: Posterior
    annealing: Annealing
    samples: int
    seed: int

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise UsageError(f"the number of samples must be at least 1, found {self.samples}")
        if not on_reals(self.model.prior()):
            raise UsageError(
                "annealing moves codes along a gradient, for which they must be free real "
                "numbers: use the importance method with this prior"
            )

    def over(
        self,
        rows: Rows,
        columns: int,
        work: "Callable[[_Chunk, NDArray[np.int64]], list[Tensor]]",
        kept: Kept | None,
        progress: Progress | None,
    ) -> tuple[list[Array], float]:
        """`by_chunks` for work on the chains of a chunk."""

        def chains(positions: NDArray[np.int64], x: Tensor) -> list[Tensor]:
            batch = batch_for(self.model, x, positions)
            r = self.annealing.law(self.model, self.posterior, batch)
            return work(_Chunk(self, batch.x, positions, r), positions)

        cells = CELLS_AT_ONCE[tensor_of(self.model).device.type]
        size = max(1, cells // (max(self.samples, PILOTS) * max(rows.width, 1)))
        with evaluating(self.model, self.posterior), kept_memory(), full_float32():
            return by_chunks(self.model, rows, size, columns, chains, kept=kept, progress=progress)

    def certificate(
        self,
        method: str,
        direction: str,
        columns: list[Array],
        rows: Rows,
        about: tuple[float, str],
    ) -> Certificate:
        """Of the columns of `_Chunk.summary`, each (N,)."""
        value, error, ess, k, acceptance = columns
        given = (method, "log p(x)", direction, self.samples, value, error, float(ess.mean()))
        return Certificate(
            *given,
            *about,
            binarize=treatment(rows),
            precision=precision_of(self.model),
            pareto_k=k,
            details={**asdict(self.annealing), "acceptance": float(acceptance.mean())},
        )


class _Chunk:
    """The chains of some data x (M, X) at numbers `keys` (M,), between r and log p(x, z).

    z is (K, M, D), weights (K, M); an acceptance is the mean of each datum, (M,).
    """

    def __init__(self, walks: _Walks, x: Tensor, keys: NDArray[np.int64], r: Distribution) -> None:
        self.walks, self.x, self.keys, self.r = walks, x, keys, r
        self.betas = walks.annealing.schedule()
        self.scale = _deviations(r).to(x)
        self.beta = 0.0
        self.hmc = HMC(self._log_density, walks.annealing.leapfrogs)
        self.step_sizes = self._tuned()

    def forward(self) -> tuple[Tensor, Tensor]:
        """log w of chains that begin at draws of r, and the acceptance."""
        return self._walk(self._start(self.walks.samples, _FORWARD), self.betas, _FORWARD)

    def reverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """log(1 / w) of chains that begin at an exact draw (M, D) of z given x."""
        z = z.expand(self.walks.samples, *z.shape)
        return self._walk(z, self.betas[::-1], _REVERSE)

    def summary(self, log_w: Tensor, acceptance: Tensor) -> list[Tensor]:
        """(estimate, error, ess, k, acceptance) of the weights (K, M), each (M,)."""
        tail = tail_shape(largest(log_w, len(log_w)))
        return [*log_mean_of(log_w), tail, acceptance]

    def _log_density(self, z: Tensor) -> Tensor:
        """log f_t(z), (K, M)."""
        log_r = self.r.log_prob(z)
        return log_r + self.beta * (self.walks.model.log_joint(self.x, z) - log_r)

    def _at(self, z: Tensor, beta: float) -> State:
        self.beta = beta
        return self.hmc.init(z)

    def _walk(self, z: Tensor, betas: list[float], part: int) -> tuple[Tensor, Tensor]:
        """The sum of log f_{t+1}(z_t) - log f_t(z_t) along the way, transitions between them."""
        last = len(betas) - 1
        sizes = self.step_sizes if part == _FORWARD else self.step_sizes.flip(0)
        state = self._at(z, betas[0])
        log_w = torch.zeros(z.shape[:-1], dtype=torch.float64, device=z.device)
        accepted = torch.zeros(len(self.keys), dtype=torch.float64, device=z.device)
        for t in range(1, last + 1):
            before = state.log_density
            state = self._at(state.z, betas[t])
            log_w += state.log_density.double() - before.double()
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
        noise = self._drawn(lambda source: way.noise.draw(source, (chains,), self.x.dtype), 0, part)
        return way.transform(noise)

    def _noise(self, z: Tensor, t: int, part: int) -> tuple[Tensor, Tensor]:
        """Momenta (K, M, D) and the uniform numbers (K, M) that decide, of temperature t."""
        chains, _, size = z.shape

        def draw(source: np.random.Generator) -> Tensor:
            momentum = normal(source, (chains, size), z.dtype)
            return torch.cat([momentum, uniform(source, (chains, 1), z.dtype)], dim=1)

        both = self._drawn(draw, t, part)
        return both[..., :-1], both[..., -1]

    def _drawn(self, draw: Callable[[np.random.Generator], Tensor], t: int, part: int) -> Tensor:
        """What `draw` gives for each datum, side by side along the second axis."""
        source = generator(self.walks.seed, Stream.ANNEALING)
        each = [draw(rewind(source, int(key), t, part)) for key in self.keys]
        return sent(torch.stack(each, dim=1), self.x.device)


_FORWARD, _REVERSE, _PILOT = range(3)


def _deviations(r: Distribution) -> Tensor:
    """The deviations of r, which are the units of the transitions; 1 where it has no formula."""
    try:
        deviation = r.stddev
    except NotImplementedError:
        return torch.ones(r.batch_shape + r.event_shape)
    return torch.where(torch.isfinite(deviation) & (deviation > 0), deviation, 1.0)

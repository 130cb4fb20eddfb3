"""Numbers of its own for each datum: those of an encoder refined, or found for held-out rows.

    phi_n = argmax over phi of  E_q[log p(x_n given z)] - KL(q(z; phi) || p(z)),   theta held fixed

Adam in rounds, each with a smaller step that falls to zero along half a cosine: the first goes the
way, the last takes off what the noise of the gradients left, which is in proportion to the step.
The noise of a datum in step t is a function of (seed, its number, t) alone, so that no result
depends on the company of a row.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import grad

from aevb.compilation import Compiled, layouts
from aevb.data import Rows
from aevb.devices import sent, tensor_of
from aevb.distributions import kl, reparameterize, route
from aevb.errors import at_least
from aevb.evaluation.batches import batch_for, evaluating, first_batch, judging, rows_at_once
from aevb.evaluation.chunks import by_chunks
from aevb.evaluation.work import operations
from aevb.model import Model, observing
from aevb.objectives import Draw
from aevb.optimizers import Adam, cosine
from aevb.posterior import PerDatum, Posterior, has_rows
from aevb.randomness import Stream, by_row

SAMPLES = 8
STEPS, RATE = 400, 0.05
NOISE_BLOCK = 20
"""Steps whose noise is drawn at once."""
OPERATIONS_WORTH_COMPILING = 1e12
"""Of products: half as many as in an estimate, since the compiler gains more on gradients."""
ROUNDS = ((1 / 4, 4.0), (1 / 4, 1.0), (1 / 2, 0.2))
"""Shares of the steps, and factors on the rate: a number may move by 10 in the first."""


def refit(
    model: Model,
    posterior: Posterior,
    rows: Rows,
    *,
    steps: int = STEPS,
    rate: float = RATE,
    seed: int = 0,
) -> PerDatum:
    """Give each row numbers of its own in the family of a posterior, all else held fixed.

        phi_n = argmax over phi of E_q[log p(x_n, z) - log q(z; phi)]

    They start at what an encoder says of the row, and of a posterior with free parameters for each
    datum at zeros, since the row is none of those that it knows. What is found is the best near the
    start: there may be better elsewhere. Adam takes `steps` steps in three rounds, whose rates of
    4, 1 and 0.2 times `rate` fall to zero. A gradient that is not finite counts as zero.
    Shapes: N rows; the posterior's index is the row's position. Units: `rate` those of phi.
    Errors: UsageError for a posterior that is not one network and a family, such as a ladder, or
    fewer than 0 steps; DataError for rows outside the likelihood's domain.
    Source: stochastic variational inference (Hoffman et al. 2013); from the encoder's numbers, as
    here, Kim et al. (2018), "Semi-amortized variational autoencoders".
    Example:
        >>> import aevb
        >>> digits = aevb.data.load("digits")
        >>> decoder = aevb.MLP(2, [8], 64)
        >>> model = aevb.Model(aevb.standard_normal(2), aevb.continuous_bernoulli(decoder))
        >>> encoder = aevb.mean_field(aevb.MLP(64, [8], 4))
        >>> refit(model, encoder, digits.test.limit(3), steps=9).conditional.network.n
        3
    """
    refine = Refiner(model, posterior, rows, steps, rate, seed)

    def work(positions: NDArray[np.int64], x: Tensor) -> list[Tensor]:
        return list(refine(positions, x)[1].T)

    columns, _ = by_chunks(model, rows, refine.chunk, refine.outputs, work)
    return refine.posterior_with(torch.from_numpy(np.stack(columns, 1)))


def posterior_for(model: Model, posterior: Posterior, rows: Rows, *, seed: int = 0) -> Posterior:
    """A posterior of these rows: itself, or where it has numbers of each datum, `refit` ones.

    Its free numbers are those of other data. Cells that are missing, NaN, are integrated out.
    Shapes: N rows; the index of what is refitted is the row's position.
    Errors: those of `refit`; UsageError for missing cells and a likelihood of anyone else's make.
    Example:
        >>> import aevb
        >>> model = aevb.Model(aevb.standard_normal(1), aevb.bernoulli(torch.nn.Linear(1, 3)))
        >>> rows = Rows(np.eye(3), np.arange(3), (3,))
        >>> posterior_for(model, aevb.per_datum(100, 1), rows).n
        3
    """
    if not has_rows(posterior):
        return posterior
    holes = any(bool(x.isnan().any()) for _, x in rows.chunks(10_000))
    return refit(observing(model) if holes else model, posterior, rows, seed=seed)


@dataclass
class _State:
    """What a step changes in place, (M, outputs) each: the numbers and Adam's memory."""

    numbers: Tensor
    mean: Tensor
    square: Tensor


class Refiner:
    """Finds the numbers of some rows: after the last round but one, and after the last.

    Shapes: called with positions (M,) and x (M, *X), it gives two tensors (M, outputs); `chunk` is
    how many rows at once suit the memory. The step is compiled where that is earned back.
    Units: `rate` those of the numbers.
    Errors: those of `refit`.
    Example:
        >>> from aevb.linear_gaussian import linear_gaussian
        >>> from aevb.posterior import per_datum
        >>> model = linear_gaussian([[0.6], [0.8]], [0.0, 0.0], 1.0)
        >>> rows = Rows(np.ones((3, 2)), np.arange(3), (2,))
        >>> refine = Refiner(model, per_datum(3, 1), rows, 60, 0.05, 0)
        >>> best = refine(np.arange(3), rows.all())[1]
        >>> bool((best[:, 0] - 0.7).abs().max() < 0.1)  # the mean of z given x is w x / (1 + w w)
        True
    """

    def __init__(
        self, model: Model, posterior: Posterior, rows: Rows, steps: int, rate: float, seed: int
    ) -> None:
        at_least(0, steps, "the number of steps")
        self.model, self.posterior, self.seed = model, posterior, seed
        self.optimizer = Adam(rate)
        self.far = has_rows(posterior)
        self.rounds = _rounds(steps)
        first = first_batch(model, rows)
        with evaluating(model, posterior):
            start = posterior.numbers(first)
            q = posterior.given(start)
            kl(q, model.prior())  # torch finds its formula here, which it cannot while traced
        self.outputs, self.way = start.shape[1], route(q)
        self.chunk = rows_at_once(model, rows, SAMPLES)
        _, decode = operations(model, posterior, rows)
        ahead = 2 * decode * SAMPLES * steps * len(rows)
        compiled = ahead > OPERATIONS_WORTH_COMPILING
        device = tensor_of(model).device.type
        self._graph = Compiled(_step, device=device) if compiled else None
        self._state: _State | None = None

    def __call__(self, positions: NDArray[np.int64], x: Tensor) -> tuple[Tensor, Tensor]:
        with judging(self.model, self.posterior):
            batch = batch_for(self.model, x, positions)
            start = batch.x.new_zeros(len(x), self.outputs)
            if not self.far:
                start = self.posterior.numbers(batch)
            state = self._state_for(start)
            before = start
            noise = self._noise(positions, sum(map(len, self.rounds)))
            for factors in self.rounds:
                before = state.numbers.clone()
                state.mean.zero_()
                state.square.zero_()
                for t, factor in enumerate(factors, 1):
                    rate = self.optimizer.lr * factor
                    scalars = self.optimizer.coefficients(rate, t)
                    self._run(
                        state, batch.x, next(noise), torch.tensor(scalars, dtype=torch.float64)
                    )
            return before, state.numbers.clone()

    def posterior_with(self, numbers: Tensor) -> PerDatum:
        """The family of the posterior at numbers (N, outputs), the datum's index its row."""
        posterior = self.posterior.renewed(len(numbers), self.outputs)
        posterior.to(tensor_of(self.model))
        posterior.put(numbers)
        return posterior

    def _state_for(self, start: Tensor) -> "_State":
        """The one that a graph works on, for chunks of the first's size: it was made for it."""
        fresh = _State(*(torch.zeros_like(start) for _ in range(3)))
        self._state = self._state or fresh
        state = self._state if self._state.numbers.shape == start.shape else fresh
        state.numbers.copy_(start)
        return state

    def _run(self, state: "_State", *tensors: Tensor) -> None:
        """One step; compiled, if so, for chunks of the first's size, which is that of most."""
        if self._graph is None or state is not self._state:
            _step(self.model, self.posterior, self.optimizer, state, *tensors)
        else:
            key = layouts(tensors)
            self._graph(key, self.model, self.posterior, self.optimizer, state, *tensors)

    def _noise(self, positions: NDArray[np.int64], steps: int) -> Iterator[Tensor]:
        """The noise of each step, (SAMPLES, M, D), drawn for some steps at once."""
        like = tensor_of(self.model)
        for start in range(0, steps, NOISE_BLOCK):
            lead = min(NOISE_BLOCK, steps - start), SAMPLES
            draw = partial(self.way.noise.draw, lead=lead, dtype=like.dtype)
            drawn = by_row(self.seed, Stream.REFITTING, positions, draw, start, axis=2)
            yield from sent(drawn, like.device)


def _rounds(steps: int) -> list[list[float]]:
    """The factor on the rate in each step of each round."""
    ends = [round(steps * done) for done in accumulate(share for share, _ in ROUNDS)]
    counts = [end - start for start, end in pairwise([0, *ends])]
    pairs = zip(ROUNDS, counts, strict=True)
    return [[factor * cosine(t / n) for t in range(n)] for (_, factor), n in pairs]


def _step(
    model: Model,
    posterior: Posterior,
    optimizer: Adam,
    state: _State,
    x: Tensor,
    noise: Tensor,
    scalars: Tensor,
) -> tuple[()]:
    """One step of Adam in place, on the sum of the bounds: no datum's gradient feels another."""

    def loss(numbers: Tensor) -> Tensor:
        q = posterior.given(numbers)
        z = reparameterize(q, noise)
        d = Draw(z, model.log_likelihood(x, z), q, model.prior())
        return (d.kl_estimate() - d.reconstruction()).sum()

    gradient = grad(loss)(state.numbers)
    gradient = torch.where(torch.isfinite(gradient), gradient, 0.0)
    coefficients = scalars.to(noise.dtype).unbind()
    optimizer.update(state.numbers, gradient, (state.mean, state.square), coefficients)
    return ()

"""Missing cells filled, and noise taken off, by the posterior given what was observed.

    E[x_missing given x_observed] = integral E[x_missing given z] p(z given x_observed) dz

The cells are independent given z, so that p(x_observed given z) is the likelihood without the
missing ones. The answer is that of the model, however its encoder takes rows with holes: to
importance sampling the encoder is a proposal that weights set right; Markov chains do without it.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.distributions import Distribution

from aevb.data import Rows, require_rows
from aevb.devices import tensor_of
from aevb.distributions import on_reals
from aevb.distributions.reparameterization import drawn
from aevb.errors import UsageError, at_least
from aevb.evaluation import evaluating
from aevb.evaluation.certificate import require_reals
from aevb.evaluation.weights import resampled, shares
from aevb.mcmc import HMC, StepNoise, hamiltonian
from aevb.model import Model, observing
from aevb.posterior import Batch, Posterior
from aevb.randomness import Stream, generator, uniform

Array = NDArray[np.float64]
CELLS_AT_ONCE = 16_000_000
ROUNDS = 3
FILLS = 10
PRIOR_DRAWS = 500
CHAINS, BURN_IN = 4, 60


def impute(
    model: Model,
    posterior: Posterior,
    rows: Rows,
    *,
    method: Literal["hmc", "importance"] | None = None,
    samples: int = 100,
    seed: int = 0,
) -> Array:
    """Fill the NaN cells of rows by their posterior mean; observed cells stay as they are.

        importance:  sum_k w_k E[x given z_k] / sum_k w_k,
                     w_k = p(x_observed given z_k) p(z_k) / q(z_k),  z_k from q, which is the
                     encoder's or, if it never saw holes, its mixture over fills of them
        hmc:         the mean of E[x given z_t] over Markov chains on p(z given x_observed)

    The chains of Hamiltonian Monte Carlo move z alone: x_missing is integrated out, which is exact
    here. They are several times slower than importance sampling of as many draws, and nearer to the
    answer, but would walk out of a simplex or an interval and never move between discrete codes:
    without a `method` codes that are not free real numbers go by importance, all others by hmc.
    Shapes: N rows of X cells; (N, X). Units: of the data; a column of classes gets the most
    probable one. `samples` are the draws of z for each row, behind those for burning in.
    Errors: UsageError for an unknown method, hmc for codes that are not free real numbers, samples
    below 1, or a likelihood whose cells are not independent; DataError for observed cells outside
    the likelihood's domain.
    Source: Mattei & Frellsen (2019), "MIWAE", equation 12, for importance; Liu (1994), "The
    collapsed Gibbs sampler in Bayesian computations with applications to a gene regulation
    problem", for what is integrated out; Neal (2011), "MCMC using Hamiltonian dynamics".
    Example:
        >>> import aevb
        >>> model = aevb.Model(aevb.standard_normal(1), aevb.bernoulli(torch.nn.Linear(1, 3)))
        >>> holes = Rows(np.array([[1.0, np.nan, 0.0]]), np.arange(1), (3,))
        >>> filled = impute(model, aevb.mean_field(torch.nn.Linear(3, 2)), holes, samples=5)
        >>> bool(filled[0, 0] == 1), bool(0 < filled[0, 1] < 1)
        (True, True)
    """
    method = method or ("hmc" if on_reals(model.prior()) else "importance")
    infer = {"importance": _importance, "hmc": _hmc}.get(method)
    if infer is None:
        raise UsageError(f"the method must be hmc or importance, found {method!r}")
    if infer is _hmc:
        require_reals(model, "hmc")
    data = require_rows(rows).all().double().flatten(1).numpy()
    inferred = data.copy()
    for holes in _parts(model, posterior, rows, samples, seed):
        if not holes.whole:
            inferred[holes.positions] = holes.shown(infer(holes, samples))
    return np.where(np.isnan(data), inferred, data)


def denoise(
    model: Model, posterior: Posterior, rows: Rows, *, samples: int = 100, seed: int = 0
) -> Array:
    """What the model takes for the truth behind noisy rows: E[x given z], averaged over z given x.

        sum_k w_k E[x given z_k] / sum_k w_k,   w_k = p(x given z_k) p(z_k) / q(z_k given x)

    Every cell is inferred, missing ones too; where there are some, z is drawn as `impute` draws it
    by importance.
    Shapes: N rows of X cells; (N, X). Units: of the data; a column of classes gets the most
    probable one. `samples` are the draws of z for each row.
    Errors: UsageError for samples below 1, or missing cells where those of the likelihood are not
    independent; DataError for observed cells outside the likelihood's domain.
    Source: Kingma & Welling (2013), section 2.1, for denoising as inference on x.
    Example:
        >>> import aevb
        >>> digits = aevb.data.load("digits")
        >>> model = aevb.Model(
        ...     aevb.standard_normal(2), aevb.continuous_bernoulli(aevb.MLP(2, [8], 64)))
        >>> denoise(model, aevb.mean_field(aevb.MLP(64, [8], 4)), digits.test.limit(3)).shape
        (3, 64)
    """
    inferred = np.empty((len(require_rows(rows)), rows.width))
    for holes in _parts(model, posterior, rows, samples, seed):
        inferred[holes.positions] = holes.shown(_importance(holes, samples))
    return inferred


def _parts(
    model: Model, posterior: Posterior, rows: Rows, samples: int, seed: int
) -> "Iterator[_Holes]":
    """The rows, some at a time: those with holes, then whole ones, which any encoder has seen."""
    at_least(1, samples, "the number of samples", whole=True)
    like, masked = tensor_of(model), observing(model)
    family: Any = masked.family
    codes = model.prior().event_shape
    widest = max(rows.width, FILLS * codes[0])
    chunk = max(1, CELLS_AT_ONCE // (max(samples, PRIOR_DRAWS) * widest))
    with evaluating(masked, posterior):
        for positions, x in rows.chunks(chunk):
            holed = torch.isnan(x).flatten(1).any(1)
            if bool(holed.any()):
                masked.likelihood(torch.zeros(1, *codes).to(like))  # refused before its cells are
            family.check(x, int(positions[0]) + 1)
            for some, own in ((holed, masked), (~holed, model)):
                if bool(some.any()):
                    part = x[some].to(like), positions[some.numpy()]
                    yield _Holes(own, posterior, *part, masked is model, seed)


@dataclass(frozen=True)
class _Holes:
    """Some rows x (N, X) with their holes, and the randomness that belongs to them."""

    model: Model
    posterior: Posterior
    x: Tensor
    positions: NDArray[np.int64]
    trained_on_holes: bool
    seed: int

    @property
    def whole(self) -> bool:
        return not bool(torch.isnan(self.x).any())

    @property
    def seen(self) -> bool:
        """Whether the encoder takes the rows as they are: it was trained on holes, or has none."""
        return self.trained_on_holes or self.whole

    def shown(self, moments: Tensor) -> Array:
        """What to show for moments (N, M), (N, X)."""
        return self.model.summarize(moments).double().flatten(1).cpu().numpy()

    def source(self, turn: int, part: int = 0) -> np.random.Generator:
        return generator(self.seed, Stream.IMPUTATION, int(self.positions[0]), turn, part)

    def propose(
        self, x: Tensor, samples: int, turn: int, repeats: int = 1
    ) -> tuple[Tensor, Distribution]:
        """z (S, M, D) from q(z given x) for whole rows x (M, X), and this q; M = N repeats."""
        rows = torch.from_numpy(self.positions).repeat(repeats)
        q = self.posterior(Batch(x, rows.to(x.device)))
        return drawn(q, (samples,), self.source(turn), x), q

    def draw_fills(self, z: Tensor, log_weights: Tensor, count: int, turn: int) -> Tensor:
        """The rows filled by draws from p(x_missing given x_observed), (count, N, X).

        z (S, N, D) with log-weights (S, N) are resampled, one place in each of `count` equal parts.
        """
        z = self.resample(z, log_weights, count, turn)
        filled = self.model.sample_data(z, self.source(turn, 3))
        filled = filled.reshape(-1, *self.x.shape).to(self.x.dtype)
        return torch.where(torch.isnan(self.x), filled, self.x)

    def resample(self, z: Tensor, log_weights: Tensor, count: int, turn: int) -> Tensor:
        """Draws of z (count, N, D) from those given (S, N, D), by their log-weights (S, N)."""
        lots = uniform(self.source(turn, 1), (1, len(self.x)), torch.float64)
        lots = (torch.arange(count).unsqueeze(1) + lots) / count
        return resampled(z, log_weights, lots)


def _average(weights: Tensor, moments: Tensor) -> Tensor:
    """sum_k w_k m_k over log-weights (K, N), normalized here, and moments (K, N or 1, M)."""
    share = shares(weights).to(moments.dtype)
    moments = moments.flatten(2).nan_to_num()  # a draw off the map has no weight, and no moments
    return torch.einsum("kn,knm->nm", share, moments.expand(-1, len(share[0]), -1))


def _importance(holes: _Holes, samples: int) -> Tensor:
    """The moments (N, M) by importance sampling from the encoder, or from a mixture over fills."""
    model = holes.model
    if holes.seen:
        z, q = holes.propose(holes.x, samples, 1)
        return _average(model.log_joint(holes.x, z) - q.log_prob(z), model.moments(z))
    z, log_weights = _from_prior(holes)
    for turn in range(1, ROUNDS + 1):
        fills = holes.draw_fills(z, log_weights, min(FILLS, samples), turn)
        z, log_q = _propose_by_fills(holes, fills, samples, turn)
        log_weights = model.log_joint(holes.x, z) - log_q
    return _average(log_weights, model.moments(z))


def _from_prior(holes: _Holes) -> tuple[Tensor, Tensor]:
    """Draws z (S, N, D) from the prior and their log-weights: a beginning that needs no encoder."""
    z = holes.model.sample_prior(PRIOR_DRAWS, holes.source(0)).unsqueeze(1)
    return z.expand(-1, len(holes.x), -1), holes.model.log_likelihood(holes.x, z)


def _propose_by_fills(
    holes: _Holes, fills: Tensor, samples: int, turn: int
) -> tuple[Tensor, Tensor]:
    """Draws z (S, N, D), at least as many as asked for, from a mixture, and its log-density (S, N).

        q(z) = 1 / (K + 1) [p(z) + sum_k q(z given x filled as k)],   fills (K, N, X)

    An encoder of whole rows is too sure of z where cells are missing, and its draws would miss
    most of p(z given x_observed). Were encoder and fills exact, their mixture would be that very
    law; the share of the prior bounds the weights.
    """
    k, n = fills.shape[:2]
    each = -(-samples // (k + 1))
    z, q = holes.propose(fills.flatten(0, 1), each, turn, k)
    from_prior = holes.model.sample_prior(each * n, holes.source(turn, 2)).reshape(each, n, -1)
    z = torch.cat([z.unflatten(1, (k, n)).flatten(0, 1), from_prior])
    spread = z.unsqueeze(1).expand(-1, k, -1, -1).flatten(1, 2)
    parts = q.log_prob(spread).unflatten(1, (k, n))
    parts = torch.cat([parts, holes.model.prior().log_prob(z).unsqueeze(1)], dim=1)
    return z, parts.logsumexp(1) - math.log(k + 1)


def _hmc(holes: _Holes, samples: int) -> Tensor:
    """The mean of the moments over chains of z whose law tends to p(z given x_observed)."""
    model, size = holes.model, len(holes.x)
    z, log_weights = _from_prior(holes)
    start = holes.resample(z, log_weights, min(CHAINS, samples), 0)

    def noise(t: int) -> StepNoise:
        return StepNoise(*(e.to(start) for e in StepNoise.draw(holes.source(t, 4), start)))

    hmc = HMC(lambda z: model.log_joint(holes.x, z))
    kept = -(-samples // len(start))
    scale = start.new_ones(start.shape[-1:])
    walk = hamiltonian(hmc, start, noise, burn_in=BURN_IN, steps=kept, scale=scale)
    sums = torch.zeros(())
    for state, _ in walk:
        sums = sums + model.moments(state.z).flatten(2).mean(0)
    return (sums / kept).reshape(size, -1)

"""Missing cells filled, and noise taken off, by the posterior given what was observed.

    E[x_missing given x_observed] = integral E[x_missing given z] p(z given x_observed) dz

The cells are independent given z, so that p(x_observed given z) is the likelihood without the
missing ones. The answer is that of the model, however its encoder takes rows with holes: to
importance sampling the encoder is a proposal that weights set right, and Gibbs does without it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.distributions import Distribution

from aevb.conditional import Averaged, Conditional
from aevb.data import Rows
from aevb.devices import tensor_of
from aevb.distributions import route
from aevb.errors import UsageError
from aevb.evaluation import evaluating
from aevb.families import Masked
from aevb.mcmc import HMC, StepNoise, hamiltonian
from aevb.model import Model
from aevb.posterior import Batch, Posterior
from aevb.randomness import Stream, generator, normal, seed_torch, torch_kept, uniform

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
    method: Literal["gibbs", "importance"] | None = None,
    samples: int = 100,
    seed: int = 0,
) -> Array:
    """Fill the NaN cells of rows by their posterior mean; observed cells stay as they are.

        importance:  sum_k w_k E[x given z_k] / sum_k w_k,
                     w_k = p(x_observed given z_k) p(z_k) / q(z_k),  z_k from q, which is the
                     encoder's or, if it never saw holes, its mixture over fills of them
        Gibbs:       the mean of E[x given z_t] over Markov chains on p(z given x_observed)

    The sampler of Gibbs alternates z and x_missing; with x_missing integrated out, which is exact
    here and mixes better, what is left are moves of z, by Hamiltonian Monte Carlo. It is several
    times slower than importance sampling of as many draws, and nearer to the answer. Discrete codes
    have no gradient to move along: without a `method` they go by importance, all others by Gibbs.
    Shapes: N rows of X cells; (N, X). Units: of the data; a column of classes gets the most
    probable one. `samples` are the draws of z for each row, behind those for burning in.
    Errors: UsageError for an unknown method, Gibbs for discrete codes, samples below 1, or a
    likelihood whose cells are not independent; DataError for observed cells outside the
    likelihood's domain.
    Source: Mattei & Frellsen (2019), "MIWAE", equation 12, for importance; Liu (1994), "The
    collapsed Gibbs sampler in Bayesian computations with applications to a gene regulation
    problem", for Gibbs.
    Example:
        >>> import aevb
        >>> digits = aevb.data.load("digits")
        >>> model = aevb.Model(
        ...     aevb.standard_normal(2), aevb.continuous_bernoulli(aevb.MLP(2, [8], 64)))
        >>> holes = Rows(np.full((1, 64), np.nan), np.arange(1), (64,))
        >>> impute(model, aevb.mean_field(aevb.MLP(64, [8], 4)), holes, samples=9).shape
        (1, 64)
    """
    if method not in ("importance", "gibbs", None):
        raise UsageError(f"the method must be gibbs or importance, found {method!r}")
    discrete = not route(model.prior()).noise.differentiable
    if method == "gibbs" and discrete:
        raise UsageError(
            "gibbs moves codes along a gradient, and those of this model are discrete: choose the "
            "method importance"
        )
    method = method or ("importance" if discrete else "gibbs")
    infer = _importance if method == "importance" else _gibbs
    inferred = _posterior_mean(model, posterior, rows, infer, samples, seed, holed_only=True)
    data = rows.all().double().flatten(1).numpy()
    return np.where(np.isnan(data), inferred, data)


def denoise(
    model: Model, posterior: Posterior, rows: Rows, *, samples: int = 100, seed: int = 0
) -> Array:
    """What the model takes for the truth behind noisy rows: E[x given z], averaged over z given x.

        sum_k w_k E[x given z_k] / sum_k w_k,   w_k = p(x given z_k) p(z_k) / q(z_k given x)

    Shapes, units and errors as `impute`; every cell is inferred, missing ones too.
    Example:
        >>> import aevb
        >>> digits = aevb.data.load("digits")
        >>> model = aevb.Model(
        ...     aevb.standard_normal(2), aevb.continuous_bernoulli(aevb.MLP(2, [8], 64)))
        >>> denoise(model, aevb.mean_field(aevb.MLP(64, [8], 4)), digits.test.limit(3)).shape
        (3, 64)
    """
    return _posterior_mean(model, posterior, rows, _importance, samples, seed, holed_only=False)


def observing(model: Model) -> Model:
    """The model for rows with missing cells: the same modules, NaN cells integrated out."""
    if isinstance(model.family, Masked):
        return model
    averaged = model.likelihood if isinstance(model.likelihood, Averaged) else None
    likelihood = model.likelihood if averaged is None else averaged.conditional
    if model.family is None or not isinstance(likelihood, Conditional):
        raise UsageError(
            "missing cells need a likelihood made of one of the families of aevb.families"
        )
    masked = Conditional(likelihood.network, Masked(model.family), likelihood.condition_ndim)
    return Model(model.prior, masked if averaged is None else averaged.over(masked))


def _posterior_mean(
    model: Model,
    posterior: Posterior,
    rows: Rows,
    infer: "Callable[[_Holes, int], Tensor]",
    samples: int,
    seed: int,
    *,
    holed_only: bool,
) -> Array:
    """What `infer` makes of each row, (N, X); zeros for whole rows where they are left out."""
    if samples < 1:
        raise UsageError(f"the number of samples must be at least 1, found {samples}")
    like = tensor_of(model)
    widest = max(rows.width, FILLS * model.prior().event_shape[0])
    chunk = max(1, CELLS_AT_ONCE // (max(samples, PRIOR_DRAWS) * widest))
    masked = observing(model)
    parts = []
    with evaluating(masked, posterior), torch_kept(like.device):
        for positions, x in rows.chunks(chunk):
            if masked.family is not None:
                masked.family.check(x, int(positions[0]) + 1)
            inferred = torch.zeros(len(x), rows.width, dtype=torch.float64)
            holed = torch.isnan(x).flatten(1).any(1)
            # Whole rows go by themselves: the encoder takes them as they are.
            for some in (holed,) if holed_only else (holed, ~holed):
                if bool(some.any()):
                    own = (x[some].to(like), positions[some.numpy()], masked is model, seed)
                    moments = infer(_Holes(masked, posterior, *own), samples)
                    inferred[some] = masked.summarize(moments).double().flatten(1).cpu()
            parts.append(inferred.numpy())
    return np.concatenate(parts)


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
    def seen(self) -> bool:
        """Whether the encoder takes the rows as they are: it was trained on holes, or has none."""
        return self.trained_on_holes or not bool(torch.isnan(self.x).any())

    def source(self, turn: int, part: int = 0) -> np.random.Generator:
        return generator(self.seed, Stream.IMPUTATION, int(self.positions[0]), turn, part)

    def propose(
        self, x: Tensor, samples: int, turn: int, repeats: int = 1
    ) -> tuple[Tensor, Distribution]:
        """z (S, M, D) from q(z given x) for whole rows x (M, X), and this q; M = N repeats."""
        rows = torch.from_numpy(self.positions).repeat(repeats)
        q = self.posterior(Batch(x, rows.to(x.device)))
        way = route(q)
        noise = way.noise.draw(self.source(turn), (samples, *q.batch_shape), x.dtype)
        return way.transform(noise.to(x.device)), q

    def prior_draws(self, samples: int, turn: int) -> Tensor:
        """z (S, N, D) from the prior."""
        n = len(self.x)
        flat = self.model.sample_prior(samples * n, self.source(turn, 2))
        return flat.reshape(samples, n, -1)

    def draw(self, z: Tensor, turn: int) -> Tensor:
        """The rows with their holes filled from p(x given z), (S, N, X) for z (S, N, D)."""
        seed_torch(int(self.source(turn, 3).integers(2**63)), z.device)
        drawn = self.model.likelihood(z).sample().reshape(-1, *self.x.shape).to(self.x.dtype)
        return torch.where(torch.isnan(self.x), drawn, self.x)

    def draw_fills(self, z: Tensor, log_weights: Tensor, count: int, turn: int) -> Tensor:
        """The rows filled by draws from p(x_missing given x_observed), (count, N, X).

        z (S, N, D) with log-weights (S, N) are resampled, one place in each of `count` equal parts.
        """
        return self.draw(self.resample(z, log_weights, count, turn), turn)

    def resample(self, z: Tensor, log_weights: Tensor, count: int, turn: int) -> Tensor:
        """Draws of z (count, N, D) from those given (S, N, D), by their log-weights (S, N)."""
        edges = _shares(log_weights).cumsum(0)
        lots = uniform(self.source(turn, 1), (1, len(self.x)), torch.float64)
        lots = ((torch.arange(count).unsqueeze(1) + lots) / count).to(z.device)
        places = torch.searchsorted(edges.T.contiguous(), lots.T.contiguous()).T
        places = places.clamp_max(len(z) - 1).unsqueeze(-1).expand(-1, -1, z.shape[-1])
        return z.gather(0, places)


def _average(weights: Tensor, moments: Tensor) -> Tensor:
    """sum_k w_k m_k over log-weights (K, N), normalized here, and moments (K, N or 1, M)."""
    share = _shares(weights).to(moments.dtype)
    moments = moments.flatten(2).nan_to_num()  # a draw off the map has no weight, and no moments
    return torch.einsum("kn,knm->nm", share, moments.expand(-1, len(share[0]), -1))


def _shares(log_weights: Tensor) -> Tensor:
    """Weights (S, N) that sum to 1: equal ones for a row to which no draw comes near."""
    finite = log_weights.double().nan_to_num(nan=-torch.inf)
    lost = torch.isinf(finite).all(0)
    return torch.softmax(torch.where(lost, 0.0, finite), dim=0)


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
    z = torch.cat([z.unflatten(1, (k, n)).flatten(0, 1), holes.prior_draws(each, turn)])
    spread = z.unsqueeze(1).expand(-1, k, -1, -1).flatten(1, 2)
    parts = q.log_prob(spread).unflatten(1, (k, n))
    parts = torch.cat([parts, holes.model.prior().log_prob(z).unsqueeze(1)], dim=1)
    return z, parts.logsumexp(1) - math.log(k + 1)


def _gibbs(holes: _Holes, samples: int) -> Tensor:
    """The mean of the moments over chains of z whose law tends to p(z given x_observed)."""
    model, size = holes.model, len(holes.x)
    z, log_weights = _from_prior(holes)
    start = holes.resample(z, log_weights, min(CHAINS, samples), 0)

    def noise(t: int) -> StepNoise:
        momentum = normal(holes.source(t, 4), start.shape, start.dtype)
        lots = [uniform(holes.source(t, part), start.shape[:2], start.dtype) for part in (5, 6)]
        return StepNoise(*(drawn.to(start) for drawn in (momentum, *lots)))

    hmc = HMC(lambda z: model.log_joint(holes.x, z))
    kept = -(-samples // len(start))
    scale = start.new_ones(start.shape[-1:])
    walk = hamiltonian(hmc, start, noise, burn_in=BURN_IN, steps=kept, scale=scale)
    sums = torch.zeros(())
    for state, _ in walk:
        sums = sums + model.moments(state.z).flatten(2).mean(0)
    return (sums / kept).reshape(size, -1)

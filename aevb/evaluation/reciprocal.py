"""log p(x) from draws of the posterior itself, by the reciprocal of their densities; from above.

    1 / p(x) = E[f(z) / p(x, z)] over z from p(z given x),   for any density f over z

1. Scouts, from the encoder and from the best of many draws of the prior, look for modes.
2. Hamiltonian chains begin where they found most, and walk on p(z given x).
3. f is fitted to some of the draws: the normal law with their mean and covariance, cut off beyond
   the ellipsoid that holds 80 % of it, where it is 0. Inside, f / p(x, z) is bounded; in the
   tails, where p(x, z) may fall sooner than any f that is fitted, nothing is asked.
4. f / p(x, z) is averaged over the others.

The paper's estimator (appendix D) with Geweke's choice of f. The paper fits f to a half of the
draws; here each fifth of the steps meets the f of the other four. With halves that change places
the two averages err together, as each is the product of both halves' deviations, and errors that
take them for independent were 14 % too small (5 % so, on 2-D posteriors with 1000 draws; 3 % with
80 % for 90 % inside).

The average is right in the mean, so that minus its logarithm is too large in the mean. A mode where
no chain has been is not seen: its mass is missing then. That a scout found one is said.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.distributions import MultivariateNormal

from aevb.data import Rows
from aevb.devices import full_float32, sent, tensor_of
from aevb.distributions import on_reals
from aevb.distributions.reparameterization import Route, route
from aevb.errors import UsageError
from aevb.evaluation.batches import CELLS_AT_ONCE, batch_for, evaluating
from aevb.evaluation.certificate import Certificate, precision_of, treatment
from aevb.evaluation.chunks import Array, Kept, Progress, by_chunks
from aevb.evaluation.pareto import largest, tail_shape
from aevb.machine import kept_memory
from aevb.mcmc import (
    HMC,
    LogDensity,
    State,
    StepNoise,
    effective_sample_size,
    hamiltonian,
    r_hat,
)
from aevb.model import Model
from aevb.posterior import Posterior
from aevb.randomness import Stream, generator, normal, rewind, uniform

CHAINS, BURN_IN, LEAPFROGS = 4, 50, 4
SCOUTS = 12
FEWEST = 40
"""Draws of a datum: ten of each chain, which are little enough to judge it by."""
CANDIDATES = 200
"""Draws of the encoder, whose spread is the metric, and of the prior, the best of which scout."""
STEPS_AT_ONCE = 50
FOLDS = 5
INSIDE = 0.8
"""The mass of the normal law that f keeps."""
AGREED = 1.05
LIKE_HEIGHT = 5.0
"""Nats below the chains' mean log p(x, z) where another mode holds about a hundredth of theirs."""
RELIABLE_DIMENSIONS = 5
NUMBERS_AT_ONCE = 4_000_000
"""Of the draws that are kept while a chunk of data is worked on."""


def reciprocal(
    model: Model,
    posterior: Posterior,
    rows: Rows,
    samples: int = 1000,
    *,
    seed: int = 0,
    data: str = "data",
    kept: Kept | None = None,
    progress: Progress | None = None,
) -> Certificate:
    """Estimate log p(x) of every row, from above, by Hamiltonian chains on its posterior.

        log p^(x) = -log (1/K) sum_k f(z_k) / p(x, z_k),   z_k from chains on p(z given x)

    Four chains for each datum, after 50 steps each for burning in, in which the size of the steps
    is found; f is a truncated normal law fitted to draws that z_k is not among. Each error is the
    delta method's, with the draws' dependence in it. Data whose chains disagree (R-hat above 1.05,
    for any coordinate of z or log p(x, z)) are counted in `details`, as are those with another mode
    where a scout, but no chain, has been.
    Shapes: N rows, K samples each, exactly. Units: nats per datum.
    Errors: UsageError for K below 40 or no multiple of 4, or codes other than vectors of any real
    numbers; DataError for rows outside the likelihood's domain.
    Source: Kingma & Welling (2013), appendix D; Gelfand & Dey (1994), "Bayesian model choice";
    Geweke (1999), "Using simulation methods for Bayesian econometric models", for f.
    Example:
        >>> import aevb
        >>> digits = aevb.data.load("digits")
        >>> model = aevb.Model(
        ...     aevb.standard_normal(2), aevb.continuous_bernoulli(aevb.MLP(2, [8], 64)))
        >>> posterior = aevb.mean_field(aevb.MLP(64, [8], 4))
        >>> reciprocal(model, posterior, digits.test.limit(3), 80).direction
        'upper'
    """
    if samples < FEWEST or samples % CHAINS:
        raise UsageError(
            f"the number of samples must be a multiple of {CHAINS}, as there are {CHAINS} chains, "
            f"and at least {FEWEST}, found {samples}"
        )
    like = tensor_of(model)
    with evaluating(model, posterior), kept_memory(), full_float32():
        prior = model.prior()
        if len(prior.event_shape) != 1 or not on_reals(prior):
            raise UsageError(
                f"Hamiltonian chains need codes that may be any real numbers, found the prior "
                f"{type(prior).__name__} over {prior.support}: choose another method"
            )
        dimensions = int(prior.event_shape[0])

        def work(positions: NDArray[np.int64], x: Tensor) -> list[Tensor]:
            walked = _walk(model, posterior, x, positions, samples, seed)
            return [*_estimate(walked), *_judge(walked), walked.acceptance]

        by_width = CELLS_AT_ONCE[like.device.type] // (SCOUTS * max(rows.width, 1))
        by_draws = NUMBERS_AT_ONCE // (samples * (dimensions + 1))
        size = max(1, min(by_width, by_draws))
        columns, width = by_chunks(model, rows, size, 8, work, kept=kept, progress=progress)
    values, errors, effective, tails, disagreement, worth, missed, acceptance = columns
    details = {
        "chains": CHAINS,
        "burn_in": BURN_IN,
        "leapfrogs": LEAPFROGS,
        "acceptance": float(acceptance.mean()),
        "independent_draws": float(np.median(worth)),
        **_disagreement(disagreement),
        "modes_missed": int(missed.sum()),
    }
    return Certificate(
        method="hmc",
        estimand="log p(x)",
        direction="upper",
        samples=samples,
        values=values,
        errors=errors,
        effective_sample_size=float(effective.mean()),
        width=width,
        data=data,
        binarize=treatment(rows),
        precision=precision_of(model),
        pareto_k=tails,
        remarks=_remarks(dimensions, details, len(rows)),
        details=details,
    )


def _disagreement(found: Array) -> dict[str, Any]:
    """How many data have chains that disagree, and by how much at most."""
    worst = float(found.max())
    return {
        "r_hat_above": int((~(found <= AGREED)).sum()),
        "r_hat_largest": worst if math.isfinite(worst) else None,
    }


def _remarks(dimensions: int, details: dict[str, Any], n: int) -> tuple[str, ...]:
    remarks = []
    if details["r_hat_above"]:
        remarks.append(
            f"the chains of {details['r_hat_above']} of {n} data disagree (R-hat above {AGREED}): "
            "their estimates, and the mean with them, are not to be relied on"
        )
    if details["modes_missed"]:
        remarks.append(
            f"the posteriors of {details['modes_missed']} of {n} data have another mode, of like "
            "height, where their chains have not been: its mass is missing from their estimates"
        )
    if dimensions > RELIABLE_DIMENSIONS:
        remarks.append(
            f"the reciprocal estimate cannot be relied on above {RELIABLE_DIMENSIONS} latent "
            f"dimensions (Kingma & Welling 2013, appendix D), and here are {dimensions}"
        )
    return tuple(remarks)


class _Walked(NamedTuple):
    """Draws z (T, C, M, D) of p(z given x), their log p(x, z) (T, C, M), acceptance (M,), and where
    the scouts ended."""

    z: Tensor
    log_joint: Tensor
    acceptance: Tensor
    scouts: State


def _walk(
    model: Model,
    posterior: Posterior,
    x: Tensor,
    positions: NDArray[np.int64],
    samples: int,
    seed: int,
) -> _Walked:
    """Scouts are sent out, chains begin where they found most, and walk on p(z given x)."""
    batch = batch_for(model, x, positions)
    q = posterior(batch)
    noise = _Noise(seed, positions, batch.x)
    drawn = route(q).transform(noise.for_draws(route(q), 0))
    # Half the distance between quantiles: a deviation that heavy tails do not upset.
    ordered, share = drawn.sort(0).values, round(0.159 * (CANDIDATES - 1))
    scale = ((ordered[-1 - share] - ordered[share]) / 2).clamp_min(1e-6)
    prior = route(model.prior())
    anywhere = prior.transform(noise.for_draws(prior, 1))
    hmc = HMC(lambda z: model.log_joint(batch.x, z), LEAPFROGS)

    def chains(start: Tensor, steps: int, part: int) -> list[tuple[State, Tensor]]:
        named = partial(noise.of_step, start.shape, part)
        return list(hamiltonian(hmc, start, named, burn_in=BURN_IN, steps=steps, scale=scale))

    places = [drawn[:CHAINS], _best(hmc.log_density, anywhere, SCOUTS - CHAINS)]
    ((found, _),) = chains(torch.cat(places), 1, 2)
    start = _chosen(found, noise.of_choice())
    states, acceptance = zip(*chains(start, samples // CHAINS, 4), strict=True)
    z = torch.stack([state.z for state in states])
    log_joint = torch.stack([state.log_density for state in states])
    return _Walked(z, log_joint, torch.stack(acceptance).double().mean((0, 1)), found)


def _best(log_density: LogDensity, candidates: Tensor, count: int) -> Tensor:
    """The candidates (K, M, D) where log p(x, z) is largest, (count, M, D)."""
    found = torch.cat([log_density(z) for z in candidates.split(SCOUTS)])
    best = found.nan_to_num(nan=-torch.inf).topk(count, dim=0).indices.unsqueeze(-1)
    return candidates.gather(0, best.expand(-1, -1, candidates.shape[-1]))


def _chosen(found: State, lots: Tensor) -> Tensor:
    """Places of scouts (CHAINS, M, D), each by its share of p(x, z), for lots (CHAINS, M)."""
    edges = torch.softmax(found.log_density, 0).cumsum(0)
    chosen = torch.searchsorted(edges.T.contiguous(), lots.T.contiguous()).T
    chosen = chosen.clamp_max(len(edges) - 1).unsqueeze(-1)
    return found.z.gather(0, chosen.expand(-1, -1, found.z.shape[-1]))


class _Noise:
    """The noise of chains on M data: that of a datum is a function of (seed, position, step)."""

    def __init__(self, seed: int, positions: NDArray[np.int64], like: Tensor) -> None:
        self.source = generator(seed, Stream.CHAINS)
        self.positions, self.like = positions, like
        self.block: StepNoise

    def for_draws(self, way: Route, part: int) -> Tensor:
        """For draws of a distribution, (CANDIDATES, M, *way.noise.shape)."""
        return self._each(lambda s: (way.noise.draw(s, (CANDIDATES,), self.like.dtype),), part, 0)[
            0
        ]

    def of_choice(self) -> Tensor:
        """For the choice of the chains' starts among the scouts, (CHAINS, M)."""
        return self._each(lambda s: (uniform(s, (CHAINS,), self.like.dtype),), 3, 0)[0]

    def of_step(self, shape: torch.Size, part: int, t: int) -> StepNoise:
        """For step t of chains (C, M, D); so many steps of a datum are drawn in one go."""
        if t % STEPS_AT_ONCE == 0:
            lead, dtype = (STEPS_AT_ONCE, shape[0]), self.like.dtype

            def draw(source: np.random.Generator) -> tuple[Tensor, ...]:
                momentum = normal(source, (*lead, shape[-1]), dtype)
                return momentum, uniform(source, lead, dtype), uniform(source, lead, dtype)

            self.block = StepNoise(*self._each(draw, part, t // STEPS_AT_ONCE, axis=2))
        return StepNoise(*(drawn[t % STEPS_AT_ONCE] for drawn in self.block))

    def _each(
        self,
        draw: Callable[[np.random.Generator], tuple[Tensor, ...]],
        part: int,
        block: int,
        *,
        axis: int = 1,
    ) -> list[Tensor]:
        """What `draw` makes for each datum, with an axis for the data behind the leading ones."""
        drawn = [draw(rewind(self.source, int(n), block, part)) for n in self.positions]
        return [sent(torch.stack(d, axis), self.like.device) for d in zip(*drawn, strict=True)]


def _estimate(walked: _Walked) -> list[Tensor]:
    """Estimate, its error, effective sample size and tail of the weights, each (M,)."""
    z, log_joint = walked.z, walked.log_joint
    folds = z.double().tensor_split(FOLDS)
    rest = (torch.cat([*folds[:i], *folds[i + 1 :]]) for i in range(FOLDS))
    log_f = torch.cat([_fitted(others, own) for others, own in zip(rest, folds, strict=True)])
    log_w = log_f - log_joint.double()
    samples = log_w.shape[0] * log_w.shape[1]
    flat = log_w.flatten(0, 1)
    w = (log_w - flat.max(0).values).exp()
    mean, variance = w.mean((0, 1)), w.flatten(0, 1).var(0)
    worth = effective_sample_size(w, ranked=False)
    error = (variance / worth).sqrt() / mean
    even = mean.square() / w.square().mean((0, 1))
    estimate = math.log(samples) - flat.logsumexp(0)
    return [
        estimate,
        error,
        even * worth.clamp_max(samples),
        tail_shape(largest(flat, samples)),
    ]


def _fitted(draws: Tensor, z: Tensor) -> Tensor:
    """log f(z) of the truncated normal law fitted to draws (T, C, M, D), at z (T', C, M, D).

    f(z) = N(z; m, S) / 0.8  where  (z - m)^T S^-1 (z - m) is below the 0.8 quantile of its
    law under N(m, S), chi squared of D degrees;  else 0
    """
    from scipy.special import chdtri  # late: it takes a tenth of a second

    q = _normal(draws)
    d = z.shape[-1]
    log_f = q.log_prob(z)
    edge = q.log_prob(q.loc) - chdtri(d, 1 - INSIDE) / 2
    return torch.where(log_f >= edge, log_f - math.log(INSIDE), -math.inf)


def _normal(draws: Tensor) -> MultivariateNormal:
    """The normal law of each datum with mean and covariance of draws (T, C, M, D)."""
    flat = draws.flatten(0, 1)
    mean = flat.mean(0)
    off = flat - mean
    covariance = torch.einsum("kmi,kmj->mij", off, off) / (len(flat) - 1)
    # Chains that never moved, or fewer draws than dimensions, have no inverse.
    spread = covariance.diagonal(dim1=-2, dim2=-1).mean(-1).clamp_min(1e-12)
    ridge = 1e-9 * spread[:, None, None] * torch.eye(off.shape[-1]).to(off)
    factor = torch.linalg.cholesky(covariance + ridge)
    return MultivariateNormal(mean, scale_tril=factor, validate_args=False)


def _judge(walked: _Walked) -> list[Tensor]:
    """R-hat and the worth of the draws, of the coordinate of z, or log p(x, z), that is worst;
    whether a scout ended as high as the chains, and far from all their draws: each (M,)."""
    z, log_joint = walked.z.double(), walked.log_joint.double()
    both = torch.cat([z, log_joint.unsqueeze(-1)], dim=-1)
    q = _normal(z)
    farthest = q.log_prob(z.flatten(0, 1)).amin(0)
    distance = q.log_prob(q.loc) - q.log_prob(walked.scouts.z.double())
    far = distance > 2 * (q.log_prob(q.loc) - farthest)
    high = walked.scouts.log_density > log_joint.mean((0, 1)) - LIKE_HEIGHT
    return [r_hat(both).amax(-1), effective_sample_size(both).amin(-1), (far & high).any(0)]

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
from collections import namedtuple
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.distributions import Distribution, MultivariateNormal

from aevb.data import Rows
from aevb.devices import sent
from aevb.distributions.reparameterization import route
from aevb.errors import UsageError
from aevb.evaluation.batches import batch_for, judging, rows_at_once
from aevb.evaluation.certificate import Certificate, precision_of, require_reals
from aevb.evaluation.chunks import Kept, Progress, by_chunks
from aevb.evaluation.weights import Weighted, Weights, resampled
from aevb.mcmc import HMC, LogDensity, State, StepNoise, effective_sample_size, hamiltonian, r_hat
from aevb.model import Model
from aevb.posterior import Posterior
from aevb.randomness import Stream, by_row, normal, uniform

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


Draw = Callable[[np.random.Generator], Tensor]


def reciprocal(
    model: Model,
    posterior: Posterior,
    rows: Rows,
    samples: int = 1000,
    *,
    seed: int = 0,
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
        >>> model = aevb.Model(aevb.standard_normal(1), aevb.bernoulli(torch.nn.Linear(1, 3)))
        >>> rows = Rows(np.eye(3), np.arange(3), (3,))
        >>> reciprocal(model, aevb.mean_field(torch.nn.Linear(3, 2)), rows, 40).direction
        'upper'
    """
    if samples < FEWEST or samples % CHAINS:
        raise UsageError(
            f"the number of samples must be a multiple of {CHAINS}, as there are {CHAINS} chains, "
            f"and at least {FEWEST}, found {samples}"
        )
    require_reals(model, "hmc")
    dimensions = int(model.prior().event_shape[0])

    def work(positions: NDArray[np.int64], x: Tensor) -> list[Tensor]:
        walked = _walk(model, posterior, x, positions, samples, seed)
        return [*_estimate(walked), *_judge(walked), walked.acceptance]

    by_draws = NUMBERS_AT_ONCE // (samples * (dimensions + 1))
    size, count = max(1, min(rows_at_once(model, rows, SCOUTS), by_draws)), len(_Found._fields)
    with judging(model, posterior):
        table, width = by_chunks(model, rows, size, count, work, kept=kept, progress=progress)
    details = _details(_Found(*table))
    return Certificate.of(
        *(Weighted(*table[:4]), rows, width),
        method="hmc",
        direction="upper",
        samples=samples,
        precision=precision_of(model),
        remarks=_remarks(dimensions, details, len(rows)),
        details=details,
    )


_Found = namedtuple("_Found", "value error ess pareto_k disagreement worth missed acceptance")
"""What is found of each datum, the estimate first."""


def _details(found: _Found) -> dict[str, Any]:
    """What there is to say of the chains, and how many data have some that disagree."""
    return {
        "chains": CHAINS,
        "burn_in": BURN_IN,
        "leapfrogs": LEAPFROGS,
        "acceptance": float(found.acceptance.mean()),
        "independent_draws": float(np.median(found.worth)),
        "r_hat_above": int((~(found.disagreement <= AGREED)).sum()),
        "r_hat_largest": float(found.disagreement.max()),
        "modes_missed": int(found.missed.sum()),
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
    dtype = batch.x.dtype

    def named(draw: Draw, part: int, block: int = 0, axis: int = 1) -> Tensor:
        drawn = by_row(seed, Stream.CHAINS, positions, draw, block, part, axis=axis)
        return sent(drawn, batch.x.device)

    def candidates(law: Distribution, part: int) -> Tensor:
        way = route(law)
        return way.transform(named(partial(way.noise.draw, lead=(CANDIDATES,), dtype=dtype), part))

    drawn, anywhere = candidates(posterior(batch), 0), candidates(model.prior(), 1)
    # Half the distance between quantiles: a deviation that heavy tails do not upset.
    ordered, share = drawn.sort(0).values, round(0.159 * (CANDIDATES - 1))
    scale = ((ordered[-1 - share] - ordered[share]) / 2).clamp_min(1e-6)
    hmc = HMC(lambda z: model.log_joint(batch.x, z), LEAPFROGS)

    def chains(start: Tensor, steps: int, part: int) -> list[tuple[State, Tensor]]:
        noise = _steps(partial(named, part=part, axis=2), start)
        return list(hamiltonian(hmc, start, noise, burn_in=BURN_IN, steps=steps, scale=scale))

    places = [drawn[:CHAINS], _best(hmc.log_density, anywhere, SCOUTS - CHAINS)]
    ((found, _),) = chains(torch.cat(places), 1, 2)
    lots = named(lambda s: uniform(s, (CHAINS,), dtype), 3)
    start = resampled(found.z, found.log_density, lots)  # each scout by its share of p(x, z)
    states, acceptance = zip(*chains(start, samples // CHAINS, 4), strict=True)
    z = torch.stack([state.z for state in states])
    log_joint = torch.stack([state.log_density for state in states])
    return _Walked(z, log_joint, torch.stack(acceptance).double().mean((0, 1)), found)


def _best(log_density: LogDensity, candidates: Tensor, count: int) -> Tensor:
    """The candidates (K, M, D) where log p(x, z) is largest, (count, M, D)."""
    found = torch.cat([log_density(z) for z in candidates.split(SCOUTS)])
    best = found.nan_to_num(nan=-torch.inf).topk(count, dim=0).indices.unsqueeze(-1)
    return candidates.gather(0, best.expand(-1, -1, candidates.shape[-1]))


def _steps(named: Callable[..., Tensor], start: Tensor) -> Callable[[int], StepNoise]:
    """The noise of step t of chains (C, M, D); so many steps of a datum are drawn in one go."""
    lead, dtype = (STEPS_AT_ONCE, len(start)), start.dtype

    def draw(source: np.random.Generator) -> Tensor:
        momentum = normal(source, (*lead, start.shape[-1]), dtype)
        others = (uniform(source, (*lead, 1), dtype) for _ in range(2))
        return torch.cat([momentum, *others], -1)

    @lru_cache(maxsize=1)
    def block(number: int) -> Tensor:
        return named(draw, block=number)

    def noise(t: int) -> StepNoise:
        one = block(t // STEPS_AT_ONCE)[t % STEPS_AT_ONCE]
        return StepNoise(one[..., :-2], one[..., -2], one[..., -1])

    return noise


def _estimate(walked: _Walked) -> list[Tensor]:
    """Estimate, its error, effective sample size and tail of the weights, each (M,)."""
    z, log_joint = walked.z, walked.log_joint
    folds = z.double().tensor_split(FOLDS)
    rest = (torch.cat([*folds[:i], *folds[i + 1 :]]) for i in range(FOLDS))
    log_f = torch.cat([_fitted(others, own) for others, own in zip(rest, folds, strict=True)])
    log_w = log_f - log_joint.double()
    samples = log_w.shape[0] * log_w.shape[1]
    value, error, ess, k = Weights.of(log_w.flatten(0, 1)).summary()
    worth = effective_sample_size((log_w - log_w.amax((0, 1))).exp(), ranked=False)
    spread = (samples / worth).sqrt()
    return [-value, error * spread, ess * (worth / samples).clamp_max(1), k]


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

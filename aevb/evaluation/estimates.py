"""Estimates of log p(x) from samples of the posterior, streamed so that memory stays flat.

    elbo        E_q[log w]                                       a lower bound, any K
    importance  log (1/K) sum_k w_k,   w = p(x, z) / q(z given x)    a lower bound, tight as K grows

Both come out of one pass. The noise of datum n, samples [500 b, 500 (b + 1)) is a function of
(seed, n, b) alone, so every datum gets exactly K samples and no number depends on the chunking.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from aevb.data import Rows
from aevb.data.fingerprints import keys_of_rows
from aevb.distributions import route
from aevb.errors import UsageError
from aevb.evaluation.certificate import Certificate, treatment
from aevb.model import Model
from aevb.objectives import draw
from aevb.posterior import Batch, Posterior
from aevb.randomness import Stream, generator

NOISE_BLOCK = 500
CELLS_AT_ONCE = 4_000_000

Array = NDArray[np.float64]
Progress = Callable[[int, int], None]
"""Called with (data done, data in all)."""


@dataclass
class _Sums:
    """Running sums over samples for one chunk of data, each (M,) in float64."""

    log_w: Tensor
    log_w2: Tensor
    first: Tensor
    second: Tensor
    log_likelihood: Tensor
    second_likelihood: Tensor
    closed_kl: Tensor | None = None

    @classmethod
    def empty(cls, m: int) -> "_Sums":
        # `add` makes new tensors, so that the sums may begin as the same two.
        nothing = torch.full((m,), -math.inf, dtype=torch.float64)
        zero = torch.zeros(m, dtype=torch.float64)
        return cls(nothing, nothing, zero, zero, zero, zero)

    def add(self, log_w: Tensor, log_likelihood: Tensor) -> None:
        log_w, log_likelihood = log_w.double(), log_likelihood.double()
        self.log_w = torch.logaddexp(self.log_w, log_w.logsumexp(0))
        self.log_w2 = torch.logaddexp(self.log_w2, (2 * log_w).logsumexp(0))
        self.first = self.first + log_w.sum(0)
        self.second = self.second + log_w.square().sum(0)
        self.log_likelihood = self.log_likelihood + log_likelihood.sum(0)
        self.second_likelihood = self.second_likelihood + log_likelihood.square().sum(0)


@dataclass(frozen=True)
class Evidence:
    """The two estimates of one pass, over the same draws, and the parts of the first."""

    importance: Certificate
    elbo: Certificate
    reconstruction: NDArray[np.float64]
    kl: NDArray[np.float64]


def evidence(
    model: Model,
    posterior: Posterior,
    rows: Rows,
    samples: int = 1000,
    *,
    seed: int = 0,
    data: str = "data",
    keys: NDArray[np.uint64] | None = None,
    progress: Progress | None = None,
) -> Evidence:
    """Estimate log p(x) of every row by importance sampling, and its evidence lower bound.

        log p^(x) = logsumexp_k log w_k - log K;   its Monte-Carlo variance is 1/ESS - 1/K

    Shapes: N rows, K samples each, exactly. `keys` (N,) name the noise of each row, in place of its
    position: with keys made of their content, the same rows get the same numbers in any company.
    Units: nats per datum.
    Errors: UsageError for K < 1; DataError for rows outside the likelihood's domain.
    Source: Burda et al. (2015), section 3; the variance is the delta method's, with
    ESS = (sum w)^2 / sum w^2. The bound uses KL(q || p) in closed form where there is one.
    Example:
        >>> import aevb
        >>> digits = aevb.data.load("digits")
        >>> decoder = aevb.MLP(2, [8], 64)
        >>> model = aevb.Model(aevb.standard_normal(2), aevb.continuous_bernoulli(decoder))
        >>> result = evidence(model, aevb.mean_field(aevb.MLP(64, [8], 4)), digits.test, 10)
        >>> result.importance.mean >= result.elbo.mean
        True
    """
    if samples < 1:
        raise UsageError(f"the number of samples must be at least 1, found {samples}")
    per_block = min(samples, NOISE_BLOCK)
    chunk = max(1, CELLS_AT_ONCE // (per_block * max(rows.width, 1)))
    parts: list[tuple[Tensor, ...]] = []
    observed = 0
    with evaluating(model, posterior):
        for positions, x in rows.chunks(chunk):
            observed += int((~torch.isnan(x)).sum())
            if model.family is not None:  # by the rows' own numbers
                model.family.check(x, int(positions[0]) + 1)
            named = positions if keys is None else keys[positions]
            batch = Batch(x, torch.from_numpy(positions))
            sums = _stream(model, posterior, batch, named, samples, seed)
            parts.append(_reduce(sums, samples))
            if progress is not None:
                progress(int(positions[-1]) + 1, len(rows))
    columns = [torch.cat(column).numpy() for column in zip(*parts, strict=True)]
    return _certified(columns, rows, observed / len(rows), samples, data)


def score_rows(
    model: Model, posterior: Posterior, rows: Rows, samples: int = 100, *, seed: int = 0
) -> Array:
    """log p(x) of each row by importance sampling, (N,) nats: the same in any company.

    The noise of a row is named by its content. In double precision nothing else of the other rows
    is felt; in single precision they are, by 1e-7, and free parameters for each datum were fitted
    to all rows at once. The score is minus infinity for a row so far
    from those of training that its numbers overflow.
    Errors: as `evidence`.
    Example:
        >>> import aevb
        >>> digits = aevb.data.load("digits")
        >>> decoder = aevb.MLP(2, [8], 64)
        >>> model = aevb.Model(aevb.standard_normal(2), aevb.continuous_bernoulli(decoder))
        >>> score_rows(model, aevb.mean_field(aevb.MLP(64, [8], 4)), digits.test, 10).shape
        (180,)
    """
    keys = keys_of_rows(rows.all().numpy())
    values = evidence(model, posterior, rows, samples, seed=seed, keys=keys).importance.values
    return np.where(np.isnan(values), -np.inf, values)


def _certified(columns: list[Array], rows: Rows, width: float, samples: int, data: str) -> Evidence:
    """The columns of `_reduce` over all rows, with what one must know to use them."""
    value, error, ess, bound, bound_error, reconstruction, kl = columns

    def certify(
        method: str, estimand: str, values: Array, errors: Array, effective: float
    ) -> Certificate:
        about = (width, data, treatment(rows))
        return Certificate(method, estimand, "lower", samples, values, errors, effective, *about)

    return Evidence(
        certify("importance", "log p(x)", value, error, float(ess.mean())),
        certify("elbo", "evidence lower bound", bound, bound_error, float(samples)),
        reconstruction,
        kl,
    )


def bound_parts(
    model: Model, posterior: Posterior, rows: Rows, *, seed: int = 0, chunk: int = 1000
) -> dict[str, float]:
    """The bound and its two parts as means over rows, one sample each: quick, for every epoch.

    The same noise at every call, so that two calls differ by the parameters alone.
    Shapes: N rows. Units: nats per datum.
    """
    dtype = next(model.parameters()).dtype
    sums = torch.zeros(2, dtype=torch.float64)
    with evaluating(model, posterior):
        for positions, x in rows.chunks(chunk):
            batch = Batch(x.to(dtype), torch.from_numpy(positions))
            q = posterior(batch)
            source = generator(seed, Stream.VALIDATION, int(positions[0]))
            noise = route(q).noise(source, (1, len(x), *q.event_shape), dtype)
            d = draw(model, posterior, batch, noise)
            sums += torch.stack([d.reconstruction().double().sum(), d.kl_estimate().double().sum()])
    reconstruction, kl = (sums / len(rows)).tolist()
    return {"elbo": reconstruction - kl, "reconstruction": reconstruction, "kl": kl}


def _stream(
    model: Model,
    posterior: Posterior,
    batch: Batch,
    keys: NDArray[np.int64] | NDArray[np.uint64],
    samples: int,
    seed: int,
) -> _Sums:
    """Draw the samples of one chunk block by block and add up their log-weights."""
    dtype = next(model.parameters()).dtype
    batch = Batch(batch.x.to(dtype), batch.rows)
    q = posterior(batch)
    sums = _Sums.empty(len(batch.x))
    for block, start in enumerate(range(0, samples, NOISE_BLOCK)):
        shape = (min(NOISE_BLOCK, samples - start), *q.event_shape)
        noise = torch.stack(
            [
                route(q).noise(generator(seed, Stream.EVALUATION, int(n), block), shape, dtype)
                for n in keys
            ],
            dim=1,
        )
        d = draw(model, posterior, batch, noise)
        sums.add(d.log_weights(), d.log_likelihood)
        sums.closed_kl = d.closed_kl()
    return sums


def _reduce(sums: _Sums, samples: int) -> tuple[Tensor, ...]:
    """(estimate, error, ess, bound, error, reconstruction, kl), each (M,) in float64."""
    log_k = math.log(samples)
    ess = torch.exp(2 * sums.log_w - sums.log_w2)
    relative_variance = (1 / ess - 1 / samples).clamp_min(0)
    reconstruction = sums.log_likelihood / samples
    mean_log_w = sums.first / samples
    if sums.closed_kl is None:
        kl, spread = reconstruction - mean_log_w, sums.second / samples - mean_log_w.square()
    else:
        kl = sums.closed_kl.double()
        spread = sums.second_likelihood / samples - reconstruction.square()
    unbiased = samples - 1 if samples > 1 else math.nan
    bound_error = torch.sqrt(spread.clamp_min(0) / unbiased)
    error = torch.sqrt(relative_variance) if samples > 1 else torch.full_like(ess, math.nan)
    return sums.log_w - log_k, error, ess, reconstruction - kl, bound_error, reconstruction, kl


@contextmanager
def evaluating(*modules: nn.Module) -> Iterator[None]:
    """No gradients, and layers such as dropout in evaluation mode; left as they were found."""
    were_training = [[(m, m.training) for m in module.modules()] for module in modules]
    for module in modules:
        module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for states in were_training:
            for m, training in states:
                m.training = training
